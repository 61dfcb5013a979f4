"""AVE, the audio-visual events of Tian et al. (ECCV 2018): 4,143 clips of 10 s, 28 classes, 15 of them in the paper.

    python dataset_scripts/ave.py --source AVE_Dataset --out ave-features     # the official release
    python dataset_scripts/ave.py --source AVE_feature_updated_squence.h5 --out ave-features
    python dataset_scripts/ave.py --source AVE_Dataset --films --out ave15.csv     # the official videos

Then `load_dataset("ave-features")`. A source is one of

    a folder           Annotations.txt, train_order.h5, val_order.h5, test_order.h5, audio_feature.h5 (n, 10, 128) and
                       visual_feature.h5 (n, 10, 7, 7, 512), anywhere below it; averaged over time and space
    the six-key h5     of the authors of the dual-subspace paper, 15 classes, rows (n, d) or (n, 10, d)

Configurations of the official release: ave15, the paper's counts, with Goat (the default); ave15-as-printed, with the
class list the paper prints, Clock in Goat's place; ave28, everything. --deduplicate takes clips out of train, and out
of validation, whose video is in a later split too.

--films makes a list for `dualspace extract`, no video in two splits, of the official videos: <video id>.mp4 anywhere
below the source, the clips 10 s long. In place of the orders the source may have trainSet.txt, valSet.txt, testSet.txt.
"""

import argparse
import csv
import functools
import io
import math
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Value

from modeling_dualspace.clip_folder import VIDEO_EXTENSIONS
from modeling_dualspace.clips import NOT_UTF8, is_inside, note
from modeling_dualspace.console import exit_code
from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_builder import (
    GUESS,
    ORDER_GIVEN,
    ORDER_GUESSED,
    FeatureBuilder,
    FeatureConfig,
    build,
    read_class_order,
)
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.feature_sources import (
    CHUNK,
    SIX_KEYS,
    blocks,
    column,
    files_below,
    lines_of,
    open_h5,
    read,
    six_key_rows,
    vectors,
)
from modeling_dualspace.files import check_file, write_file
from modeling_dualspace.published import AVE_CLASSES as CLASSES
from modeling_dualspace.published import PRINTED

OFFICIAL = (
    "Church bell; Male speech, man speaking; Bark; Fixed-wing aircraft, airplane; Race car, auto racing; "
    "Female speech, woman speaking; Helicopter; Violin, fiddle; Flute; Ukulele; Frying (food); Truck; Shofar; "
    "Motorcycle; Acoustic guitar; Train horn; Clock; Banjo; Goat; Baby cry, infant cry; Bus; Chainsaw; Cat; Horse; "
    "Toilet flush; Rodents, rats, mice; Accordion; Mandolin"
).split("; ")
"""In the order in which the annotations name them first."""
CONFIGS = [*CLASSES, "ave28"]
ORDERS = {"train": "train_order.h5", "validation": "val_order.h5", "test": "test_order.h5"}
LISTS = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
SPLITS = tuple(ORDERS)


@dataclass
class AveConfig(FeatureConfig):
    """How to build one configuration of AVE."""

    deduplicate: bool = False
    """No video in two splits."""


class Ave(FeatureBuilder):
    """AVE features, official or the authors'."""

    BUILDER_CONFIG_CLASS = AveConfig
    CARD = DataCard(
        "AVE features",
        "ave-features",
        Path(__file__).parent / "cards" / "ave.md",
        columns={
            "video": "the YouTube id; some videos gave more than one clip",
            "event_start": "where the event begins in the clip, in seconds",
            "event_end": "where the event ends in the clip, in seconds",
        },
    )
    WHERE_FROM = (
        "The official release, with annotations, orders and features, is linked from the repository of Tian et al., "
        "'Audio-Visual Event Localization in Unconstrained Videos' (ECCV 2018); the six-key file of 15 classes from "
        "those of Donghuo Zeng, whom to ask for it."
    )

    @classmethod
    def configs(cls, settings: FeatureConfig) -> list[str]:
        """The authors' file has 15 classes only."""
        return CONFIGS if Path(settings.source).is_dir() else CONFIGS[:1]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """`--deduplicate`, and `--films`, which `main` takes to another command."""
        parser.add_argument("--deduplicate", action="store_true", help="no video in two splits: the later one keeps it")
        parser.add_argument("--films", action="store_true", help="a list of the videos instead; see --films --help")

    @classmethod
    def open(cls, settings: FeatureConfig) -> FeatureSource:
        """Finds out which layout the source has."""
        assert isinstance(settings, AveConfig)
        return _official(settings) if Path(settings.source).is_dir() else _six_key(settings)


def _six_key(settings: AveConfig) -> FeatureSource:
    if settings.deduplicate:
        raise ValueError("The six-key file does not say which video a clip is from: leave --deduplicate out.")
    source = Path(settings.source)
    with open_h5(source) as file:
        came = sorted(file)
    if not set(came) & set(SIX_KEYS):
        raise ValueError(f"{source}: expected the keys {', '.join(SIX_KEYS)}, got {', '.join(came) or 'none'}.")
    order = settings.class_order
    names = read_class_order(order, len(PRINTED)) if order else CLASSES["ave15"]
    parts = six_key_rows(source, len(names), (128, 1024), "ave15")
    return FeatureSource(
        name="ave15",
        features=feature_columns(128, 1024, names),
        splits={split: [f"ave15/{split}"] for split in SPLITS},
        rows=parts.__getitem__,
        audio="vggish@ave-authors",
        visual="inception@ave-authors",
        lengths={part: len(rows) for part, rows in parts.items()},
        notes=[] if order else [GUESS],
        facts={"official": False, "class_order": ORDER_GIVEN if order else ORDER_GUESSED},
    )


@dataclass(frozen=True)
class Annotation:
    """A row of the annotations."""

    row: int
    category: str
    video: str
    start: float
    end: float

    @property
    def clip_id(self) -> str:
        """Unique, because the row is."""
        return f"{self.video}/{self.row:06d}"


_Splits = dict[str, list[Annotation]]


def read_annotations(path: Path) -> list[Annotation]:
    """`category&video&quality&start&end` a line, with or without a header; the number of a row is its line's."""
    lines = [line for line in lines_of(path) if line.strip()]
    if lines and lines[0].lower().replace(" ", "").startswith("category&videoid"):
        lines = lines[1:]
    clips = []
    for row, line in enumerate(lines):
        try:
            category, video, _, start, end = line.strip().split("&")
            clips.append(Annotation(row, category, video, float(start), float(end)))
            if not (math.isfinite(clips[-1].start) and math.isfinite(clips[-1].end)):
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}, row {row}: expected `category&video&quality&start&end`, got {line!r}.") from None
    if not clips:
        raise ValueError(f"{path} has no rows.")
    if unknown := sorted({clip.category for clip in clips} - set(OFFICIAL)):
        raise ValueError(f"{path}: expected the 28 categories of AVE, got {', '.join(map(repr, unknown[:5]))} as well.")
    return clips


def official_splits(source: Path, config: str, deduplicate: bool = False) -> tuple[_Splits, _Splits]:
    """The clips of each official split, in the official order, and those that `deduplicate` took out of it."""
    there = set(_least_deep(source))
    splits = _by_lists(source) if there & {*LISTS.values()} and not there & {*ORDERS.values()} else _by_orders(source)
    wanted = CLASSES.get(config, OFFICIAL)
    splits = {split: [clip for clip in clips if clip.category in wanted] for split, clips in splits.items()}
    taken: _Splits = {}
    for number, split in enumerate(SPLITS):
        later = {clip.video for name in SPLITS[number + 1 :] for clip in splits[name]} if deduplicate else set()
        taken[split] = [clip for clip in splits[split] if clip.video in later]
        splits[split] = [clip for clip in splits[split] if clip.video not in later]
    return splits, taken


def _by_orders(source: Path) -> _Splits:
    clips = read_annotations(_find(source, "Annotations.txt"))
    orders = {split: _read_order(_find(source, name), len(clips)) for split, name in ORDERS.items()}
    ((row, times),) = Counter(chain(*orders.values())).most_common(1)
    if times > 1:
        raise ValueError(f"{source}: row {row} of the annotations stands in the orders more than once.")
    return {split: [clips[row] for row in order] for split, order in orders.items()}


def _by_lists(source: Path) -> _Splits:
    """Lines are those of the annotations, by what they say; without annotations they are numbered through."""
    splits = {split: read_annotations(_find(source, name)) for split, name in LISTS.items()}
    clips = [replace(clip, row=row) for row, clip in enumerate(chain(*splits.values()))]
    if "Annotations.txt" in _least_deep(source):
        clips = read_annotations(_find(source, "Annotations.txt"))
    alike: dict[tuple[Any, ...], list[Annotation]] = {}
    for clip in reversed(clips):  # the first is taken first
        alike.setdefault(astuple(clip)[1:], []).append(clip)
    for split, lines in splits.items():
        for number, line in enumerate(lines):
            if not (rows := alike.get(astuple(line)[1:])):
                what = f"row {number} of {LISTS[split]}, {line.category} in {line.video},"
                raise ValueError(f"{source}: {what} is not in Annotations.txt, or not as often: take one release.")
            lines[number] = rows.pop()
    return splits


def leaks(splits: _Splits) -> dict[tuple[str, str], list[str]]:
    """The videos that two splits share."""
    videos = {split: {clip.video for clip in clips} for split, clips in splits.items()}
    return {pair: sorted(videos[pair[0]] & videos[pair[1]]) for pair in combinations(SPLITS, 2)}


def _read_order(path: Path, rows: int) -> list[int]:
    with open_h5(path) as file:
        order = read(_only(file, "order"), str(path)).reshape(-1)
    if order.dtype.kind not in "iu" or len(order) == 0 or order.min() < 0 or order.max() >= rows:
        raise ValueError(f"{path}: expected rows of the annotations, 0 to {rows - 1}, got {order.dtype} {order[:5]}.")
    return order.tolist()


def _only(file: Any, key: str) -> Any:
    """An array by its official name, or the only one there is."""
    return column(file, key if key in file or len(file) != 1 else next(iter(file)))


def _least_deep(source: Path) -> dict[str, Path]:
    """Files by their names: of several the one that lies least deep."""
    deepest_first = sorted(files_below(source), key=lambda path: (len(path.parts), path), reverse=True)
    return {path.name: path for path in deepest_first}


def _find(source: Path, name: str) -> Path:
    found = _least_deep(source).get(name)
    if found is None:
        raise ValueError(f"{source}: expected {name} somewhere below it, and found none.")
    return found


@functools.lru_cache(maxsize=2)
def _averaged(path: Path, width: int, rows: int, stamp: str) -> np.ndarray:
    """All rows of a feature file, averaged over time and space: read once for all configurations."""
    with open_h5(path) as file:
        array = _only(file, "avadataset")
        if array.shape[:1] != (rows,):
            here = array.shape[0] if array.shape else "one number"
            raise ValueError(f"{path}: rows must pair up: {here} here, {rows} annotations.")
        return np.concatenate([vectors(array, start, stop, width, str(path)) for start, stop in blocks(array, rows)])


def _official(settings: AveConfig) -> FeatureSource:
    if settings.class_order:
        raise ValueError("The official release names the class of every clip: leave --class-order out.")
    source = Path(settings.source)
    splits, taken = official_splits(source, settings.name, settings.deduplicate)
    counts = {split: len(clips) for split, clips in taken.items()}
    clips = read_annotations(_find(source, "Annotations.txt"))
    there = {clip.category for clip in clips}
    names = CLASSES.get(settings.name) or [name for name in OFFICIAL if name in there]
    files = _find(source, "audio_feature.h5"), _find(source, "visual_feature.h5")
    extra = {"video": Value("string"), "event_start": Value("float64"), "event_end": Value("float64")}
    notes = [
        f"Videos with clips in both {first} and {second}: {len(videos)} ({', '.join(videos)})."
        for (first, second), videos in leaks(splits).items()
        if videos
    ]
    return FeatureSource(
        name=settings.name,
        features=feature_columns(128, 512, names, extra=extra),
        splits={split: [f"{settings.name}/{split}"] for split in SPLITS},
        rows=functools.partial(_official_rows, splits, names, files, len(clips), settings.stamp),
        audio="vggish@ave-official",
        visual="vgg19@ave-official",
        lengths={f"{settings.name}/{split}": len(chosen) for split, chosen in splits.items()},
        notes=notes,
        facts={"official": True, "taken": counts, "deduplicate": settings.deduplicate},
    )


def _official_rows(
    splits: _Splits, names: Sequence[str], files: tuple[Path, Path], count: int, stamp: str, part: str
) -> Iterator[dict[str, Any]]:
    """Reads a part; of the module, not of a call, so that it can be sent to another process."""
    chosen = splits[part.split("/")[1]]
    audio, visual = (_averaged(path, width, count, stamp) for path, width in zip(files, (128, 512), strict=True))
    for start in range(0, len(chosen), CHUNK):
        piece = chosen[start : start + CHUNK]
        index = [clip.row for clip in piece]
        yield {
            "clip_id": [clip.clip_id for clip in piece],
            "audio_features": audio[index],
            "visual_features": visual[index],
            "label": np.array([names.index(clip.category) for clip in piece]),
            "video": [clip.video for clip in piece],
            "event_start": [clip.start for clip in piece],
            "event_end": [clip.end for clip in piece],
        }


def list_of_films(splits: _Splits, films: Mapping[str, Path], out: Path) -> str:
    """What a list says, in CSV; `dualspace extract` reads nothing that lies outside the folder of its list."""
    folder, text = os.path.realpath(out.parent), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["clip_id", "path", "label", "split"])
    for split, clips in splits.items():
        for clip in clips:
            film = films[clip.video].resolve()
            if not is_inside(str(film), folder):
                raise ValueError(f"{out} must lie in a folder above {film}: choose {film.with_name(out.name)}, say.")
            if NOT_UTF8.search(path := film.relative_to(folder).as_posix()):
                raise ValueError(f"{os.fsencode(path)!r} is not UTF-8 and cannot stand in a list: rename it.")
            writer.writerow([clip.clip_id, path, clip.category, split])
    return text.getvalue()


def _list_films(arguments: argparse.Namespace) -> int:
    config, *more = arguments.config or CONFIGS[:1]
    if more or config not in CONFIGS:
        raise ValueError(f"Expected one of {', '.join(CONFIGS)} as --config, got {', '.join([config, *more])}.")
    source, out = arguments.source, arguments.out or Path(f"{config}.csv")
    if check_file(out).suffix.lower() != ".csv":
        raise ValueError(f"A list of films ends in .csv, unlike {out}: choose another name.")
    if out.exists() and not arguments.overwrite:
        raise ValueError(f"{out} exists already: choose another name, or pass --overwrite.")
    if not source.is_dir():
        raise ValueError(f"Expected the folder of the official videos, and {source} is none. {Ave.WHERE_FROM}")
    splits, lost = official_splits(source, config, deduplicate=True)
    films = {path.stem: path for path in _least_deep(source).values() if path.suffix.lower() in VIDEO_EXTENSIONS}
    found = {split: [clip for clip in clips if clip.video in films] for split, clips in splits.items()}
    absent = [clip.clip_id for clip in chain(*splits.values()) if clip.video not in films]
    if not any(found.values()):
        raise ValueError(f"{source}: expected films called <video id>.mp4 below it, and found none of {len(absent)}.")
    write_file(out, list_of_films(found, films, out).encode())
    _say_counts(found, CLASSES.get(config, OFFICIAL))
    for split in filter(lost.get, SPLITS):
        videos = ", ".join(sorted({clip.video for clip in lost[split]}))
        print(f"Clips of {split} left out, as a later split has their videos too: {len(lost[split])} ({videos}).")
    report = note("Clips left out, as their films are not there", absent)
    words = ["dualspace", "extract", str(out), "--recipe", "extract_ave", "--out", f"{out.stem}-features"]
    print(*report, f"Wrote {out}. Next: {shlex.join(words)}", sep="\n")
    return 0


def _say_counts(splits: _Splits, names: Sequence[str]) -> None:
    counts = {split: Counter(clip.category for clip in clips) for split, clips in splits.items()}
    table: list[list[Any]] = [[name, *(counts[split][name] for split in SPLITS)] for name in names]
    for name, *cells in [["clips", *SPLITS], *table, ["all", *map(len, splits.values())]]:
        print(f"{name:30}" + "".join(f"{cell:>12}" for cell in cells))


def main(argv: list[str] | None = None) -> int:
    """Builds the folder, or lists the films; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--films" not in argv:
        return build(Ave, argv, __doc__)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", action="store_true", help="write a list of the videos")
    parser.add_argument("--source", type=Path, help="the folder of the official videos")
    parser.add_argument("--out", type=Path, help="the list to write, in a folder above the films [<config>.csv]")
    parser.add_argument("--config", action="append", help=f"one of {', '.join(CONFIGS)} [{CONFIGS[0]}]")
    parser.add_argument("--overwrite", action="store_true", help="replace a list that is there already")
    arguments = parser.parse_args(argv)
    if not arguments.source:
        print(f"{parser.prog}: --source is missing. {Ave.WHERE_FROM}", file=sys.stderr)
        return 2
    return exit_code(parser.prog, lambda: _list_films(arguments))


if __name__ == "__main__":
    sys.exit(main())
