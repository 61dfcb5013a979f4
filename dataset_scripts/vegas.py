"""VEGAS, as the authors of the dual-subspace paper use it: 28,103 clips, VGGish and Inception features, ten classes.

    python dataset_scripts/vegas.py --source vegas_feature.h5 --out vegas-features
    python dataset_scripts/vegas.py --source Data --out vegas-features            # the authors' folders of .npy files

Then `load_dataset("vegas-features")`. A source is one of

    vegas_feature.h5   keys audio_train, visual_train, lab_train, audio_test, visual_test, lab_test
    the newer h5       keys audio_feat, visual_feat, Label_ID, Train_test
    a folder           vgg/, inception/ and VEGAS_classes/ with one .npy a clip, folds/00.txt to 04.txt with the ids;
                       it gives the configurations fold0 (the default) to fold4, each fold test once

Class numbers get names. The h5 files do not say which number is which class: the order in which the paper lists the
classes is taken, unless --class-order names another; the ids in the folders do say it. The card tells which was used.
"""

import functools
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    RowsOfArrays,
    check_rows_pair,
    class_numbers,
    column,
    lines_of,
    open_h5,
    read,
    six_key_rows,
)
from modeling_dualspace.files import printable
from modeling_dualspace.splits import carve_validation
from modeling_dualspace.synthetic import CLASSES

WIDTHS, CLIPS = (128, 1024), 28_103
NEWER_KEYS = ("audio_feat", "visual_feat", "Label_ID", "Train_test")
FOLDERS = ("vgg", "inception", "VEGAS_classes", "folds")


class Vegas(FeatureBuilder):
    """VEGAS features, from any of their published layouts."""

    CARD = DataCard("VEGAS features", "vegas-features", Path(__file__).parent / "cards" / "vegas.md")
    WHERE_FROM = (
        "The features are not ours to pass on: `vegas_feature.h5`, or the folders vgg, inception, VEGAS_classes and "
        "folds, are linked from the README of the authors' repository of TNN-C-CCA (Zeng, Yu, Oyama, ACM TOMM 2020); "
        "ask Donghuo Zeng, whose address stands there. Without them, dataset_scripts/synthetic_features.py makes a "
        "stand-in of the same shape."
    )

    @classmethod
    def configs(cls, settings: FeatureConfig) -> list[str]:
        """One, or five folds."""
        return [f"fold{fold}" for fold in range(5)] if Path(settings.source).is_dir() else ["default"]

    @classmethod
    def open(cls, settings: FeatureConfig) -> FeatureSource:
        """Finds out which layout the source has."""
        source = Path(settings.source)
        if source.is_dir():
            return _folders(settings)
        names = read_class_order(settings.class_order, len(CLASSES)) if settings.class_order else CLASSES
        facts = {"class_order": ORDER_GIVEN if settings.class_order else ORDER_GUESSED}
        with open_h5(source) as file:
            keys = set(file)
        if "Train_test" in keys or "audio_feat" in keys:
            parts = _newer(source)
        elif keys & set(SIX_KEYS):
            parts = six_key_rows(source, len(CLASSES), WIDTHS)
        else:
            raise ValueError(
                f"{source}: expected the keys {', '.join(SIX_KEYS)} or {', '.join(NEWER_KEYS)}, "
                f"got {', '.join(sorted(keys)) or 'none'}."
            )
        splits = {split: [f"default/{split}"] for split in ("train", "validation", "test")}
        return _source("default", names, splits, parts, facts | {"layout": printable(source.name)})


def _source(
    name: str,
    names: list[str],
    splits: Mapping,
    parts: Mapping[str, Any],
    facts: Mapping,
    notes: Sequence[str] = (),
    **more: Any,
):
    notes, count = list(notes), sum(len(rows) for rows in parts.values())
    if count != CLIPS:
        notes.append(f"VEGAS has {CLIPS:,} clips, this source {count:,}.")
    if facts["class_order"] == ORDER_GUESSED:
        notes.append(GUESS)
    return FeatureSource(
        name=name,
        features=feature_columns(*WIDTHS, names),
        splits=splits,
        rows=parts.__getitem__,
        audio="vggish@vegas-authors",
        visual="inception@vegas-authors",
        lengths={part: len(rows) for part, rows in parts.items()},
        facts=facts,
        notes=notes,
        **more,
    )


def _newer(path: Path) -> dict[str, RowsOfArrays]:
    """The newer layout: all rows in one array, and a column that says which are test."""
    with open_h5(path) as file:
        shapes = {key: column(file, key).shape for key in NEWER_KEYS}
        check_rows_pair(path, shapes, dict(zip(NEWER_KEYS[:2], WIDTHS, strict=True)))
        labels, marks = (read(column(file, key), f"{path}, {key}") for key in NEWER_KEYS[2:])
        labels = class_numbers(labels, len(CLASSES), f"{path}, Label_ID")
        test = _test_rows(marks, path)
    ids = [f"{'test' if is_test else 'train'}/{row:06d}" for row, is_test in enumerate(test)]
    classes = [None if is_test else label for label, is_test in zip(labels.tolist(), test, strict=True)]
    held = np.array(carve_validation(ids, classes), dtype=bool) & ~test
    chosen = {"train": ~test & ~held, "validation": held, "test": test}
    return {
        f"default/{name}": RowsOfArrays(path, *NEWER_KEYS[:2], WIDTHS, rows, ids, labels)
        for name, rows in chosen.items()
    }


def _test_rows(marks: np.ndarray, path: Path) -> np.ndarray:
    """Which rows are test: as the marks say in words, or else those of the rarer of two numbers."""
    if marks.size != len(marks):
        raise ValueError(f"{path}, Train_test: expected one mark a row, got shape {marks.shape}.")
    marks = marks.reshape(-1)
    if marks.dtype.kind in "OSU":
        words = [mark.decode(errors="backslashreplace") if isinstance(mark, bytes) else str(mark) for mark in marks]
        unknown = sorted(set(words) - {"train", "test"})
        if unknown:
            raise ValueError(f"{path}, Train_test: expected `train` or `test`, got {unknown[:5]}.")
        return np.array([word == "test" for word in words])
    values, counts = np.unique(marks, return_counts=True)
    if len(values) != 2 or counts[0] == counts[1]:
        found = dict(zip(values.tolist()[:5], counts.tolist()[:5], strict=True))
        raise ValueError(f"{path}, Train_test: expected two marks, the rarer one for test, got {found}.")
    return marks == values[counts.argmin()]


def _folders(settings: FeatureConfig) -> FeatureSource:
    """The authors' folders. Folds share their parts: each has its validation, which is train's when it is not test."""
    order = read_class_order(settings.class_order, len(CLASSES)) if settings.class_order else None
    clips = _list_clips(settings.source, settings.stamp, settings.drop_bad_rows)
    names, facts, notes = _name_classes(clips.labels, order)
    parts: dict[str, Any] = {}
    for fold, ids in enumerate(clips.folds):
        held = carve_validation(ids, [clips.labels[name] for name in ids])
        for kind, wanted in (("a", False), ("validation", True)):
            chosen = [name for name, is_held in zip(ids, held, strict=True) if is_held is wanted]
            parts[f"folds/fold{fold}-{kind}"] = _Files(Path(settings.source), chosen, clips.labels)
    test = int(settings.name.removeprefix("fold"))
    others = [fold for fold in range(len(clips.folds)) if fold != test]
    splits = {
        "train": [f"folds/fold{fold}-a" for fold in others],
        "validation": [f"folds/fold{fold}-validation" for fold in others],
        "test": [f"folds/fold{test}-{kind}" for kind in ("a", "validation")],
    }
    facts = facts | {"layout": "folders of .npy files, five folds"}
    return _source(settings.name, names, splits, parts, facts, notes=[*clips.notes, *notes], shared=True)


class _Files:
    """Some clips of the folders, read file by file."""

    def __init__(self, root: Path, ids: list[str], labels: Mapping[str, int]):
        self.root, self.ids, self.labels = root, ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self.ids), CHUNK):
            ids = self.ids[start : start + CHUNK]
            folders = zip(("audio_features", "visual_features"), FOLDERS, WIDTHS, strict=False)
            columns = {
                name: np.stack([_clip_vector(self.root / folder / f"{clip}.npy", width) for clip in ids])
                for name, folder, width in folders
            }
            yield {"clip_id": ids, **columns, "label": np.array([self.labels[clip] for clip in ids])}


def _clip_vector(path: Path, width: int) -> np.ndarray:
    """One file as one vector: the mean over its frames; what was stored in 8 bits as the floats it had been."""
    frames = _load(path)
    if (
        frames.ndim not in (1, 2)
        or frames.shape[-1] != width
        or not (frames.dtype.kind == "f" or frames.dtype == np.uint8)
    ):
        raise ValueError(
            f"{path}: expected frames of width {width}, floats or 8-bit, got {frames.dtype} of shape {frames.shape}."
        )
    if not frames.size:
        return np.full(width, np.nan, dtype=np.float32)  # a clip without a frame: reported with the bad rows
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported as such
        vector = frames.reshape(-1, width).mean(axis=0, dtype=np.float64)
        return ((vector - 128) / 256 if frames.dtype == np.uint8 else vector).astype(np.float32)


def _load(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except Exception as error:  # of many kinds: its parsers of headers and archives raise what they like
        raise ValueError(f"{path} is no readable .npy array, and nothing is unpickled ({error}).") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive, not one .npy array.")
    return array


class _Clips:
    """The ids of each fold, the class of each id, and what was found amiss."""

    def __init__(self, folds: list[list[str]], labels: dict[str, int], notes: list[str]):
        self.folds, self.labels, self.notes = folds, labels, notes


@functools.lru_cache(maxsize=1)
def _list_clips(source: str, stamp: str, drop: bool) -> _Clips:
    """Walks through the folders once for all five configurations."""
    root = Path(source)
    missing = [name for name in FOLDERS if not (root / name).is_dir()]
    if missing == list(FOLDERS) and any(root.glob("*.h5")):
        raise ValueError(f"{root} holds none of the folders, but {min(root.glob('*.h5'))}: is that the --source?")
    if missing:
        raise ValueError(f"{root}: expected the folders {', '.join(FOLDERS)}; {', '.join(missing)} is not there.")
    folds = _read_folds(root / "folds")
    wanted = {name for ids in folds for name in ids}
    there = {folder: _stems(root / folder) for folder in FOLDERS[:3]}
    notes = []
    for folder, stems in there.items():
        lacking = sorted(wanted - stems)
        if lacking and not drop:
            raise ValueError(
                f"{len(lacking)} clips of the folds have no file in {root / folder} ({', '.join(lacking[:5])}): "
                "leave them out with --drop-bad-rows."
            )
        if lacking:
            notes.append(f"{len(lacking)} clips of the folds have no file in {folder}/ and were left out.")
            wanted -= set(lacking)
    beyond = len(there[FOLDERS[0]] - wanted)
    if beyond:
        notes.append(f"{beyond} files of {FOLDERS[0]}/ are in no fold, or lack their pair, and were left out.")
    folds = [[name for name in ids if name in wanted] for ids in folds]
    labels = {name: _label(root / FOLDERS[2] / f"{name}.npy") for name in sorted(wanted)}
    return _Clips(folds, labels, notes)


def _label(path: Path) -> int:
    return int(class_numbers(np.atleast_1d(_load(path)).reshape(1, -1), len(CLASSES), str(path))[0])


def _stems(folder: Path) -> set[str]:
    names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".npy")]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{folder}: the file name {os.fsencode(name)!r} is not UTF-8; rename it.") from None
    return {name.removesuffix(".npy") for name in names}


def _read_folds(folder: Path) -> list[list[str]]:
    files = sorted(folder.glob("*.txt"))
    if len(files) != 5:
        raise ValueError(
            f"{folder}: expected five lists of ids, 00.txt to 04.txt, got {[path.name for path in files]}."
        )
    folds = []
    for path in files:
        folds.append([line.strip().removesuffix(".npy") for line in lines_of(path) if line.strip()])
    twice = [name for name, count in Counter(name for ids in folds for name in ids).items() if count > 1]
    if twice:
        raise ValueError(f"{folder}: {len(twice)} ids stand in the folds more than once ({', '.join(twice[:5])}).")
    return folds


def _name_classes(labels: Mapping[str, int], order: list[str] | None) -> tuple[list[str], dict[str, str], list[str]]:
    """Names by class number: an explicit order, else what the ids say, `baby_cry_video_00850`, else the paper's."""
    if order:
        return order, {"class_order": ORDER_GIVEN}, []
    named = {clip: _class_in(clip) for clip in labels}
    votes: list[Counter] = [Counter() for _ in CLASSES]
    for clip, number in labels.items():
        votes[number][named[clip]] += 1
    names = [counts.most_common(1)[0][0] if counts else None for counts in votes]
    if None in names or len(set(names)) < len(CLASSES):
        return CLASSES, {"class_order": ORDER_GUESSED}, []
    wrong = sum(named[clip] not in (None, names[labels[clip]]) for clip in labels)
    notes = (
        [f"{wrong} clips bear the name of another class in their id than the one they are labelled with."]
        if wrong
        else []
    )
    return names, {"class_order": "read from the clips' ids, which begin with the name of their class"}, notes


def _class_in(clip: str) -> str | None:
    """The one class whose name begins as the id does."""
    words = re.sub(r"[_\W]*(video|clip)?[_\W]*\d*$", "", clip.lower()).replace("_", " ").replace("-", " ")
    found = [name for name in CLASSES if words and name.startswith(words)]
    return found[0] if len(found) == 1 else None


def main(argv: list[str] | None = None) -> int:
    """Builds the folder; returns the exit code."""
    return build(Vegas, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
