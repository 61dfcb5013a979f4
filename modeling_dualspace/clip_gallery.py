"""What is searched where there is no index: files, or embeddings, ranked exactly."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .clip_queries import stacked
from .cosines import unit_rows
from .media_inputs import is_path
from .nearest import Vectors, nearest

Array = np.ndarray
FIELDS = ("clip_id", "path", "start", "end", "labels", "metadata")
"""Of what an index finds."""


@dataclass(frozen=True)
class Gallery:
    """What is searched where there is no index: files, or unit rows; `modality` is None where nobody says."""

    files: list[Any] | None = None
    rows: Array | None = None
    modality: str | None = None


def gallery_of(given: Any) -> Any:
    """An index as it is, everything else as a `Gallery`."""
    if isinstance(given, Gallery) or hasattr(given, "search_embeds"):
        return given
    what = "A gallery is a list of media files, embeddings (n, d), or an index"
    if is_path(given):
        raise ValueError(f"{what}, got the path {str(given)!r}: list its files, or open it by `open_index`.")
    values = list(given) if isinstance(given, (list, tuple)) else given
    if not isinstance(values, (list, np.ndarray, torch.Tensor)):
        raise ValueError(f"{what}, got {type(given).__name__}.")
    if not len(values):
        raise ValueError(f"{what}, and this one is empty.")
    if isinstance(values, list) and any(map(is_path, values)):
        if not all(map(is_path, values)):
            raise ValueError(f"{what}, got a list that is only partly of files.")
        return Gallery(files=values)
    modality = None
    if isinstance(values, list) and any(isinstance(one, Mapping) for one in values):
        keys = {tuple(one) if isinstance(one, Mapping) else () for one in values}
        name = next(iter(keys))[0] if len(keys) == 1 and len(next(iter(keys))) == 1 else ""
        if name not in ("audio_embeds", "visual_embeds"):
            raise ValueError(f"{what}; of dictionaries each has `audio_embeds`, or each has `visual_embeds`.")
        values, modality = [one[name] for one in values], name.removesuffix("_embeds")
    rows = stacked(values if isinstance(values, list) else list(values), "gallery").numpy()
    if not np.isfinite(rows).all():
        number = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"The gallery's embedding {number} is not finite: leave that clip out.")
    return Gallery(rows=unit_rows(rows), modality=modality)


def ranked(embeds: Array, rows: Array, files: list[Any] | None, top_k: int) -> Iterator[list[dict[str, Any]]]:
    """The best rows for each query, best first; of equal ones the earlier first."""
    gallery = Vectors([np.ascontiguousarray(rows.T, dtype=np.float32)])
    queries = np.ascontiguousarray(unit_rows(embeds), dtype=np.float32)
    for found, scores in nearest(gallery, queries, top_k):
        pairs = zip(found.tolist(), scores.tolist(), strict=True)
        yield [{"score": score, "clip": files[row] if files else row} for row, score in pairs]


def found_by_index(hit: Any) -> dict[str, Any]:
    """What an index found, in the form of what is found without one."""
    return {"score": float(hit.score), "clip": {name: getattr(hit, name, None) for name in FIELDS}}


def stamp(file: Any) -> tuple[int, ...]:
    """By which it is seen that a file has changed; none where there is no file, as its reader will say."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return ()
    return found.st_size, found.st_mtime_ns
