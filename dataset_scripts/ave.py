"""AVE, the audio-visual events of Tian et al. (ECCV 2018): 4,143 clips of 10 s, 28 classes, 15 of them in the paper.

    python dataset_scripts/ave.py --source AVE_Dataset --out ave-features     # the official release
    python dataset_scripts/ave.py --source AVE_feature_updated_squence.h5 --out ave-features

Then `load_dataset("ave-features")`. A source is one of

    a folder           Annotations.txt, train_order.h5, val_order.h5, test_order.h5, audio_feature.h5 (n, 10, 128) and
                       visual_feature.h5 (n, 10, 7, 7, 512), anywhere below it; averaged over time and space
    the six-key h5     of the authors of the dual-subspace paper, 15 classes, rows (n, d) or (n, 10, d)

Configurations of the official release: ave15, the paper's counts, with Goat (the default); ave15-as-printed, with the
class list the paper prints, Clock in Goat's place; ave28, everything. --deduplicate takes clips out of train, and out
of validation, whose video is in a later split too.
"""

import argparse
import functools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Value

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

PRINTED = [
    "Clock",
    "Motorcycle",
    "Train horn",
    "Bark",
    "Cat",
    "Bus",
    "Rodents, rats, mice",
    "Toilet flush",
    "Acoustic guitar",
    "Frying (food)",
    "Chainsaw",
    "Horse",
    "Helicopter",
    "Baby cry, infant cry",
    "Truck",
]
OFFICIAL = [
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
]
"""In the order in which the annotations name them first."""
CLASSES = {"ave15": ["Goat", *PRINTED[1:]], "ave15-as-printed": PRINTED}
ORDERS = {"train": "train_order.h5", "validation": "val_order.h5", "test": "test_order.h5"}
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
        return ["ave15", "ave15-as-printed", "ave28"] if Path(settings.source).is_dir() else ["ave15"]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """`--deduplicate`."""
        parser.add_argument("--deduplicate", action="store_true", help="no video in two splits: the later one keeps it")

    @classmethod
    def open(cls, settings: FeatureConfig) -> FeatureSource:
        """Finds out which layout the source has."""
        assert isinstance(settings, AveConfig)
        return _official(settings) if Path(settings.source).is_dir() else _six_key(settings)


def _six_key(settings: AveConfig) -> FeatureSource:
    if settings.deduplicate:
        raise ValueError(
            "The six-key file does not say which video a clip is from: --deduplicate needs the official one."
        )
    source = Path(settings.source)
    with open_h5(source) as file:
        if not set(file) & set(SIX_KEYS):
            raise ValueError(
                f"{source}: expected the keys {', '.join(SIX_KEYS)}, got {', '.join(sorted(file)) or 'none'}."
            )
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


def read_annotations(path: Path) -> list[Annotation]:
    """`category&video&quality&start&end` a line, with or without a header; the number of a row is its line's."""
    lines = [line for line in lines_of(path) if line.strip()]
    if lines and lines[0].lower().replace(" ", "").startswith("category&videoid"):
        lines = lines[1:]
    clips = []
    for row, line in enumerate(lines):
        fields = line.strip().split("&")
        try:
            category, video, _, start, end = fields
            clips.append(Annotation(row, category, video, float(start), float(end)))
            if not (math.isfinite(clips[-1].start) and math.isfinite(clips[-1].end)):
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}, row {row}: expected `category&video&quality&start&end`, got {line!r}.") from None
    if not clips:
        raise ValueError(f"{path} has no rows.")
    unknown = sorted({clip.category for clip in clips} - set(OFFICIAL))
    if unknown:
        raise ValueError(f"{path}: expected the 28 categories of AVE, got {', '.join(map(repr, unknown[:5]))} as well.")
    return clips


def class_names(clips: Sequence[Annotation], config: str) -> list[str]:
    """The classes of a configuration, by number."""
    there = {clip.category for clip in clips}
    return [name for name in CLASSES.get(config, OFFICIAL) if name in there or config in CLASSES]


def official_splits(
    source: Path, config: str, deduplicate: bool = False
) -> tuple[dict[str, list[Annotation]], dict[str, int]]:
    """The clips of each official split, in the official order, and how many `deduplicate` took out of each."""
    clips = read_annotations(_find(source, "Annotations.txt"))
    wanted = class_names(clips, config)
    splits, seen = {}, set()
    for split, name in ORDERS.items():
        order = _read_order(_find(source, name), len(clips))
        for row in order:
            if row in seen:
                raise ValueError(f"{source}: row {row} of the annotations stands in the orders more than once.")
            seen.add(row)
        splits[split] = [clips[row] for row in order if clips[row].category in wanted]
    taken = dict.fromkeys(SPLITS, 0)
    if deduplicate:
        for number, split in enumerate(SPLITS[:-1]):
            later = {clip.video for name in SPLITS[number + 1 :] for clip in splits[name]}
            kept = [clip for clip in splits[split] if clip.video not in later]
            taken[split], splits[split] = len(splits[split]) - len(kept), kept
    return splits, taken


def leaks(splits: Mapping[str, Sequence[Annotation]]) -> dict[tuple[str, str], list[str]]:
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


def _find(source: Path, name: str) -> Path:
    found = [path for path in files_below(source) if path.name == name]
    if not found:
        raise ValueError(f"{source}: expected {name} somewhere below it, and found none.")
    return min(found, key=lambda path: (len(path.parts), path))


@functools.lru_cache(maxsize=2)
def _averaged(path: Path, width: int, rows: int, stamp: str) -> np.ndarray:
    """All rows of a feature file, averaged over time and space: read once for all configurations."""
    with open_h5(path) as file:
        array = _only(file, "avadataset")
        if array.shape[:1] != (rows,):
            if not array.shape:
                raise ValueError(f"{path}: expected an array of {rows} rows, got one number.")
            raise ValueError(f"{path}: rows must pair up: {array.shape[0]} here, {rows} annotations.")
        return np.concatenate([vectors(array, start, stop, width, str(path)) for start, stop in blocks(array, rows)])


def _official(settings: AveConfig) -> FeatureSource:
    if settings.class_order:
        raise ValueError("The official release names the class of every clip: leave --class-order out.")
    source = Path(settings.source)
    splits, taken = official_splits(source, settings.name, settings.deduplicate)
    clips = read_annotations(_find(source, "Annotations.txt"))
    names = class_names(clips, settings.name)
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
        facts={"official": True, "taken": taken, "deduplicate": settings.deduplicate},
    )


def _official_rows(
    splits: Mapping[str, Sequence[Annotation]],
    names: Sequence[str],
    files: tuple[Path, Path],
    count: int,
    stamp: str,
    part: str,
) -> Iterator[dict[str, Any]]:
    """Reads a part; of the module, not of a call, so that it can be sent to another process."""
    chosen = splits[part.split("/")[1]]
    audio, visual = (_averaged(path, width, count, stamp) for path, width in zip(files, (128, 512), strict=True))
    for start in range(0, len(chosen), CHUNK):
        piece = chosen[start : start + CHUNK]
        index = [clip.row for clip in piece]
        yield {
            "clip_id": [f"{clip.video}/{clip.row:06d}" for clip in piece],
            "audio_features": audio[index],
            "visual_features": visual[index],
            "label": np.array([names.index(clip.category) for clip in piece]),
            "video": [clip.video for clip in piece],
            "event_start": [clip.start for clip in piece],
            "event_end": [clip.end for clip in piece],
        }


def main(argv: list[str] | None = None) -> int:
    """Builds the folder; returns the exit code."""
    return build(Ave, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
