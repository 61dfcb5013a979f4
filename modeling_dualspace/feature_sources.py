"""Reading what others published: HDF5 arrays, labels in whatever form, the six-key layout of audio-visual papers."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .optional import require
from .splits import carve_validation

CHUNK = 4096
"""Rows that are read, and kept in memory, at a time."""

CHUNK_BYTES = 2**26
"""Fewer rows where they are large."""

SIX_KEYS = ("audio_train", "visual_train", "lab_train", "audio_test", "visual_test", "lab_test")


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """An HDF5 file to read from, or one sentence about what is wrong with it."""
    h5py = require("h5py", extra="data")
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reasons = {"truncated": "is truncated: copy it again", "signature": "is no HDF5 file, whatever its name says"}
        what = next((reason for word, reason in reasons.items() if word in str(error)), f"cannot be opened: {error}")
        raise ValueError(f"{path} {what} ({path.stat().st_size:,} bytes).") from None
    try:
        with file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises for tables, links and values out of order
        raise ValueError(f"{path} is damaged, some of it cannot be read: {error}.") from None


def column(file: Any, key: str) -> Any:
    """One array of an open file."""
    if key not in file:
        raise ValueError(
            f"{file.filename}: expected the key `{key}`, got {', '.join(sorted(file)) or 'no keys at all'}."
        )
    found = file.get(key)  # None where it is a link to nothing
    if getattr(found, "shape", None) is None:
        what = "a group" if hasattr(found, "keys") else "empty"
        raise ValueError(f"{file.filename}: `{key}` is {what}, not an array.")
    return found


def read(array: Any, name: str, rows: Any = ()) -> np.ndarray:
    """Rows of an array of an open file, all of them unless said otherwise."""
    try:
        return array[rows]
    except (OSError, MemoryError) as error:
        raise ValueError(f"{name} cannot be read: damaged, or larger than memory ({error}).") from None


def vectors(array: Any, start: int, stop: int, width: int, name: str) -> np.ndarray:
    """Rows `start` to `stop` as float32 `(n, width)`: what has more axes, `(n, 10, d)` say, is averaged over them.

    Args:
        array: of any float or integer type and byte order; an HDF5 array is read for these rows only.
        start: the first row.
        stop: the row after the last.
        width: what the last axis must be.
        name: for messages.
    """
    if array.ndim < 2 or array.shape[-1] != width:
        raise ValueError(f"{name}: expected rows of width {width}, got an array of shape {tuple(array.shape)}.")
    block = read(array, name, slice(start, stop))
    if block.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected numbers, got {block.dtype}.")
    if 0 in block.shape[1:]:  # not a frame to average over; what is not finite is reported by the writer
        return np.full((len(block), width), np.nan, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if block.ndim > 2:
            block = block.mean(axis=tuple(range(1, block.ndim - 1)), dtype=np.float64)
        return np.ascontiguousarray(block, dtype=np.float32)


def blocks(array: Any, rows: int) -> Iterator[tuple[int, int]]:
    """Where to cut `rows` rows so that no piece is large."""
    row_bytes = int(np.prod(array.shape[1:])) * 8
    step = max(1, min(CHUNK, CHUNK_BYTES // max(1, row_bytes)))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def class_numbers(labels: Any, num_classes: int, name: str) -> np.ndarray:
    """Labels as int64 `(n,)` in 0 ... C-1, from `(n,)` or `(n, 1)` of any number type, or one-hot `(n, C)`.

    Example:
        ```python
        >>> class_numbers(np.array([[0.0, 1.0], [1.0, 0.0]]), 2, "labels")
        array([1, 0])

        ```
    """
    labels = np.asarray(labels)
    labels = labels.reshape(labels.shape[:1] + tuple(size for size in labels.shape[1:] if size != 1))
    if labels.dtype.kind not in "fiub" or labels.ndim not in (1, 2):
        raise ValueError(f"{name}: expected class numbers or one-hot rows, got {labels.dtype} of shape {labels.shape}.")
    if labels.ndim == 2:
        return _hot_numbers(labels, num_classes, name)
    wrong = np.flatnonzero(~np.isfinite(labels) | (labels != np.trunc(labels)))
    if len(wrong):
        raise ValueError(f"{name}: expected whole numbers, but row {wrong[0]} is {labels[wrong[0]]}.")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{name}: label {labels[wrong[0]]:.17g} of row {wrong[0]} is out of range, and so are "
            f"{len(wrong) - 1} more: expected 0 to {num_classes - 1}."
        )
    return labels.astype(np.int64)


def _hot_numbers(labels: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    if labels.shape[1] != num_classes:
        raise ValueError(
            f"{name}: expected one-hot rows of {num_classes} classes, but rows are {labels.shape[1]} wide."
        )
    wrong = np.flatnonzero(((labels != 0) & (labels != 1)).any(axis=1) | ((labels == 1).sum(axis=1) != 1))
    if len(wrong):
        raise ValueError(
            f"{name}: expected one-hot rows of {num_classes} classes, but row {wrong[0]} is not one 1 among zeros."
        )
    return labels.argmax(axis=1).astype(np.int64)


@dataclass(frozen=True)
class RowsOfArrays:
    """Some rows of a pair of HDF5 arrays, with their ids and classes: what a part is read from."""

    path: Path
    audio_key: str
    visual_key: str
    widths: tuple[int, int]
    chosen: np.ndarray  # bool over all rows of the arrays
    ids: Sequence[str]  # of all rows
    labels: np.ndarray  # of all rows

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        with open_h5(self.path) as file:
            arrays = [column(file, key) for key in (self.audio_key, self.visual_key)]
            larger = max(arrays, key=lambda array: int(np.prod(array.shape[1:])))
            for start, stop in blocks(larger, len(self.chosen)):
                mask = self.chosen[start:stop]
                if not mask.any():
                    continue
                audio, visual = (
                    vectors(array, start, stop, width, f"{self.path}, {key}")[mask]
                    for array, width, key in zip(arrays, self.widths, (self.audio_key, self.visual_key), strict=True)
                )
                rows = (np.flatnonzero(mask) + start).tolist()
                yield {
                    "clip_id": [self.ids[row] for row in rows],
                    "audio_features": audio,
                    "visual_features": visual,
                    "label": self.labels[rows],
                }


def check_rows_pair(path: Path, shapes: Mapping[str, tuple[int, ...]], widths: Mapping[str, int]) -> None:
    """Raises unless arrays have as many rows as each other and are as wide as they should be."""
    for key, width in widths.items():
        if len(shapes[key]) < 2 or shapes[key][-1] != width:
            raise ValueError(f"{path}: expected `{key}` to be {width} wide, got shape {shapes[key]}.")
    rows = {key: shape[0] if shape else 0 for key, shape in shapes.items()}
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{key} {count}" for key, count in rows.items())
        raise ValueError(f"{path}: rows must pair up, got {found}.")


def six_key_rows(path: Path, num_classes: int, widths: tuple[int, int], where: str = "default") -> dict[str, Any]:
    """The parts of a six-key file, by name: train, the validation carved from it, and test.

    Args:
        path: the file.
        num_classes: labels must lie in 0 ... C-1.
        widths: of audio and visual features.
        where: the configuration, first half of the name of a part.
    """
    parts = {}
    with open_h5(path) as file:
        for split in ("train", "test"):
            keys = tuple(f"{kind}_{split}" for kind in ("audio", "visual", "lab"))
            check_rows_pair(
                path, {key: column(file, key).shape for key in keys}, dict(zip(keys[:2], widths, strict=True))
            )
            labels = class_numbers(read(column(file, keys[2]), f"{path}, {keys[2]}"), num_classes, f"{path}, {keys[2]}")
            ids = [f"{split}/{row:06d}" for row in range(len(labels))]
            chosen = {split: np.ones(len(ids), dtype=bool)}
            if split == "train":
                held = np.array(carve_validation(ids, labels.tolist()), dtype=bool)
                chosen = {"train": ~held, "validation": held}
            for name, rows in chosen.items():
                parts[f"{where}/{name}"] = RowsOfArrays(path, keys[0], keys[1], widths, rows, ids, labels)
    return parts


def lines_of(path: Path) -> list[str]:
    """The lines of a text that is UTF-8, with or without the mark with which Windows begins one."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}).") from None


def digest_of_sources(*sources: str | Path) -> str:
    """Names, sizes and times of what sources are made of, also behind links: changes when they do."""
    digest = hashlib.sha256()
    for source in map(Path, sources):
        for path in [source] if source.is_file() else files_below(source):
            stat = path.stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def files_below(folder: Path) -> list[Path]:
    """All files, also behind links to folders."""
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(where) in seen:  # a link that leads upwards
            folders.clear()
            continue
        seen.add(os.path.realpath(where))
        found += [path for path in (Path(where) / name for name in names) if path.exists()]
    return sorted(found)
