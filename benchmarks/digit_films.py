"""Real sounds and images all the way from films: spoken digits with handwritten ones, extracted, trained, searched.

    python benchmarks/digit_films.py --data DIR [--quick] [--final] [--check]

DIR holds the recordings of the Free Spoken Digit Dataset; scikit-learn has the handwritten digits. The pairs of the
data set `spoken_digits` become films, H.264 of the image at 64 x 64 and AAC of the recording; `extract` reads them with
the default backbones, `logmel` and `thumbnail`. On its features and, beside them, on those of the data set itself
(log-mel quarters and raw pixels) the same systems are fitted: random, ridge CCA, linear weighted cluster CCA and the
recipe `spoken_digits`, over five seeds. Mean and deviation of MAP on validation, and on test with --final.

Then it is searched as a person would: model and processor loaded from a run's folder, films found by a recording's own
.wav file, which was never in a film. Goals: every film can be used, and the dual model is ahead of linear weighted
cluster CCA on the extracted features too. --quick: 30 recordings of each digit, one seed.
"""

import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from harness import parse, report
from scipy.io import wavfile
from sklearn.datasets import load_digits
from systems import Linear, Table, Trained, add_closed_forms, built, changed, quiet, weighted_cluster_cca
from transformers import AutoModel, AutoProcessor

from modeling_dualspace.extraction import extract
from modeling_dualspace.loading import load_splits
from modeling_dualspace.recipe import load_recipe
from modeling_dualspace.sample_clips import write_clip
from modeling_dualspace.sample_scenes import Rendered
from modeling_dualspace.training_run import train

CLASSES, DIM, SIDE, FPS = 10, 10, 64, 12
RIVAL, DUAL = "linear weighted cluster CCA", "dual, default fusion"
NAMES = {"audio_to_visual": "a→v", "visual_to_audio": "v→a", "map": "mean"}
SPEAKERS = "speakers"


def write_films(folder: Path, recordings: Path, splits: Mapping[str, Dataset]) -> None:
    """One film a pair, and the list of them."""
    images = load_digits().images
    lines = ["path,label,split"]
    for split, rows in splits.items():
        names = rows.features["label"].names
        for row in rows.select_columns(["clip_id", "label", "image"]):
            rate, samples = wavfile.read(recordings / f"{row['clip_id']}.wav")
            sound = (samples / 2**15).astype(np.float32)
            picture = np.kron(images[row["image"]] * 15.9375, np.ones((SIDE // 8, SIDE // 8))).astype(np.uint8)
            frames = np.repeat(np.stack([picture] * 3, axis=-1)[None], math.ceil(len(sound) / rate * FPS), axis=0)
            path = f"{names[row['label']]}/{row['clip_id']}.mp4"
            (folder / path).parent.mkdir(exist_ok=True)
            write_clip(folder / path, Rendered(frames, sound, rate, FPS))
            lines.append(f"{path},{names[row['label']]},{split}")
    (folder / "metadata.csv").write_text("\n".join([*lines, ""]))


def fewer(splits: Mapping[str, Dataset], count: int) -> dict[str, Dataset]:
    """So many clips of each digit, of each split its share."""
    whole = sum(map(len, splits.values()))
    found = {}
    for split, rows in splits.items():
        labels = np.array(rows["label"])
        each = max(2, round(count * CLASSES * len(rows) / whole / CLASSES))
        found[split] = rows.select(np.concatenate([np.flatnonzero(labels == one)[:each] for one in range(CLASSES)]))
    return found


def table_of(splits: Mapping[str, Dataset], final: bool, seeds: range) -> Table:
    """The systems on one kind of features."""
    table = Table(["validation", "test"] if final else ["validation"])
    systems = {
        "ridge CCA": lambda clips: Linear(clips, CLASSES, DIM),
        RIVAL: lambda clips: weighted_cluster_cca(clips, CLASSES, DIM),
    }
    add_closed_forms(table, splits, CLASSES, seeds, systems)
    for seed in seeds:
        parts = {split: splits[split] for split in ("train", "validation")}
        found = Trained(changed(load_recipe("spoken_digits"), seed, {}), parts)
        table.add(DUAL, **{split: found.scores(splits[split], refit=split == "test") for split in table.splits})
    return table


@torch.no_grad()
def search(run: Path, films: Path, recordings: Path, split: Dataset) -> float:
    """How often the film found first shows the digit that a recording says."""
    with quiet():
        model, processor = AutoModel.from_pretrained(run / "model"), AutoProcessor.from_pretrained(run / "model")
    rows = split.shuffle(seed=0).select(range(min(200, len(split))))
    labels = torch.tensor(rows["label"])
    sounds = processor(audio=[recordings / f"{Path(path).stem}.wav" for path in rows["path"]])
    pictures = processor(videos=[films / path for path in rows["path"]], modalities=("visual",))
    cosines = model(**sounds).audio_embeds @ model(**pictures).visual_embeds.T
    cosines.fill_diagonal_(-2)  # not by the film it was taken from
    return (labels[cosines.argmax(dim=1)] == labels).double().mean().item()


def whole_way(
    config: str, splits: Mapping[str, Dataset], recordings: Path, final: bool, seeds: range
) -> tuple[dict[str, Table], dict[str, Any]]:
    """Films, features, tables, a search."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "films").mkdir()
        write_films(folder / "films", recordings, splits)
        with quiet():
            found = extract(folder / "films", folder / "features", progress=False)
            loaded = load_splits(str(folder / "features"), None)
            films = {split: Dataset.from_dict(rows.to_dict(), rows.features) for split, rows in loaded.items()}
            overrides = [f"data.path={folder}/features", f"output={folder}/run"]
            train(load_recipe("spoken_digits", overrides), progress=False)
        kinds = {"extracted from films": films, "log-mel quarters and pixels": splits}
        tables = {kind: table_of(rows, final, seeds) for kind, rows in kinds.items()}
        looked_in = "test" if final else "validation"
        first = search(folder / "run", folder / "films", recordings, films[looked_in])
    return tables, {"films": found["films"], "skipped": found["skipped"], "first_hit": first, "searched": looked_in}


def main(argv: list[str] | None = None) -> int:
    """Makes films, extracts, fits, trains, searches, and prints the tables."""
    arguments = parse(__doc__, argv, data=True)
    seeds = range(1 if arguments.quick else 5)
    split = "test" if arguments.final else "validation"
    goals, figures = {}, {}
    configs = built("spoken_digits", arguments.data, ["default"] if arguments.quick else ["default", SPEAKERS])
    for config, splits in configs.items():
        chosen = fewer(splits, 30) if arguments.quick else splits
        tables, facts = whole_way(config, chosen, Path(arguments.data), arguments.final, seeds)
        for kind, table in tables.items():
            print(f"\n{config}, {kind}")
            table.show(NAMES)
        lead, deviation = tables["extracted from films"].lead(DUAL, RIVAL, split)
        print(f"dual ahead of the rival on {split}, extracted features: {lead:+.4f} ± {deviation:.4f}")
        print(f"{facts['films']} films, {facts['skipped']} skipped; first hit by a .wav: {facts['first_hit']:.3f}")
        goals[f"{config}: every film can be used"] = facts["skipped"] == 0
        goals[f"{config}: dual ahead of the rival on {split}, on extracted features"] = lead > 0
        figures[config] = {kind: table.figures() for kind, table in tables.items()} | facts
    return report("digit_films", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
