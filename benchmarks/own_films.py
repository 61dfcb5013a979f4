"""A folder of films becomes searchable by three commands, in well under five minutes, and finds films it has not seen.

    python benchmarks/own_films.py [--quick] [--check]

Renders 80 films of four seconds and ten classes (synthetic), and runs README's commands on them as anybody would,
each in a process of its own: extract, train, index, and a search. Then 30 films of another seed ask, of which no
model knows: how many of the first five clips are of their class, by sound and by pictures, beside a random ranking.
Goals: searchable within 300 s; both directions at least twice as good as chance. (--quick: 50 films of one second,
100 steps.)
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import parse, report

from modeling_dualspace.index import open_index
from modeling_dualspace.sample_clips import write_clips

K = 5


def main(argv: list[str] | None = None) -> int:
    """The commands, and what they find."""
    arguments = parse(__doc__, argv)
    clips, seconds = (5, 1.0) if arguments.quick else (8, 4.0)
    steps = ["train.min_steps=100"] if arguments.quick else []
    commands = {
        "extract": ["extract", "my_videos", "--out", "my-features"],
        "train": ["train", "films", "data.path=my-features", "output=runs/films", *steps],
        "index": ["index", "runs/films", "my-features", "--out", "my-index", "--films", "my_videos"],
        "search": ["search", "my-index", "--audio", "asked/drum/drum-0000.mp4"],
    }
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_clips(place / "my_videos", clips, seconds, seed=1, progress=False)
        write_clips(place / "asked", 1 if arguments.quick else 3, seconds, seed=2, progress=False)
        for name in ("my_videos", "asked"):
            (place / name / "metadata.csv").unlink()  # a plain folder, as people have it
        for name, words in commands.items():
            begun = time.perf_counter()
            command = [sys.executable, "-m", "modeling_dualspace", *words]
            subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            figures[f"{name}_s"] = time.perf_counter() - begun
            print(f"{name}: {figures[f'{name}_s']:.1f} s", flush=True)
        figures |= precision(place)
    searchable = sum(figures[f"{name}_s"] for name in ("extract", "train", "index"))
    goals = {f"searchable within 300 s: {searchable:.0f}": searchable < 300}
    for modality, asked in {"audio": "a sound", "visual": "pictures"}.items():
        share, chance = figures[modality], figures["chance"]
        goals[f"{asked}: {share:.2f} of the first {K} are of its class, by chance {chance:.2f}"] = share >= 2 * chance
    return report("own_films", figures, goals, arguments)


def precision(place: Path) -> dict[str, float]:
    """Of films that nobody has learnt from: the share of the first clips that are of their class."""
    with open_index(place / "my-index") as index:
        found: dict[str, list[float]] = {"audio": [], "visual": []}
        films = sorted((place / "asked").glob("*/*.mp4"))
        for film in films:
            for modality, query in (("audio", {"audio": film}), ("visual", {"video": film})):
                hits = index.search(**query, k=K)
                found[modality].append(sum(film.parent.name in hit.labels for hit in hits) / K)
        counts = index.describe()["labels"]
        chance = sum(counts.get(film.parent.name, 0) for film in films) / len(films) / len(index)
    return {modality: sum(shares) / len(shares) for modality, shares in found.items()} | {"chance": chance}


if __name__ == "__main__":
    sys.exit(main())
