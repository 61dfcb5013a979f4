"""What is asked for: clips by their media or their features, one or several, in one form."""

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .media_inputs import as_list, is_path, named

AXES = {"audio": 1, "video": 4, "image": 3}
"""Kinds of media, and how many axes an array of one has."""
HOLDS = {"audio": ("audio",), "video": ("visual", "audio"), "image": ("visual",)}
"""What a kind may be embedded by; the first unless said otherwise."""
FEATURES = {"audio_features": "audio", "visual_features": "visual"}


@dataclass(frozen=True)
class Query:
    """One clip that is asked for; `kind` is None of a file until somebody has looked into it."""

    kind: str | None
    source: Any
    sampling_rate: int | None = None


def modality_of(kind: str, asked: str | None, source: Any) -> str:
    """By what a query of a kind is embedded."""
    holds = (FEATURES[kind],) if kind in FEATURES else HOLDS[kind]
    if asked is not None and asked not in holds:
        called = {"audio": "sound", "image": "a picture"}.get(kind, kind.replace("_", " "))
        raise ValueError(
            f"{named(source)} is taken for {called}, and its {asked} embedding was asked for: pass what has "
            "one, like a film."
        )
    return asked or holds[0]


def queries_of(kind: str, value: Any) -> tuple[list[Query], bool]:
    """What was passed, one by one, and whether it was a single one and no list."""
    if kind in FEATURES:
        rows = value if hasattr(value, "ndim") else list(value)
        single = rows.ndim == 1 if hasattr(rows, "ndim") else bool(rows) and np.ndim(rows[0]) == 0
        return [Query(kind, row) for row in ([rows] if single else rows)], single
    if kind:
        whole = is_path(value) or hasattr(value, "convert") or hasattr(value, "ndim")
        value = value if whole or not isinstance(value, Iterable) else list(value)
        found = as_list(value, AXES[kind])
        several = value.ndim > AXES[kind] if hasattr(value, "ndim") else not whole and found[0] is value[0]
        return [Query(kind, one) for one in found], not several
    several = isinstance(value, (list, tuple))
    return list(map(query_of, value if several else [value])), not several


def query_of(value: Any) -> Query:
    """One of what is passed without a name."""
    if is_path(value):
        return Query(None, value)
    if hasattr(value, "convert"):
        return Query("image", value)
    if isinstance(value, Mapping) and "array" in value:
        return Query("audio", value["array"], value.get("sampling_rate"))
    names = set(value) - {"sampling_rate"} if isinstance(value, Mapping) else set()
    if len(names) == 1 and (kind := names.pop()) in {*AXES, *FEATURES}:
        queries, single = queries_of(kind, value[kind])
        if single:
            return Query(kind, queries[0].source, value.get("sampling_rate"))
    raise ValueError(
        f"Expected a file, a picture of PIL, or a dictionary of one of {', '.join([*AXES, *FEATURES])} of one clip, "
        f"got {sorted(value) if isinstance(value, Mapping) else type(value).__name__}: pass arrays by name, like "
        "`audio=`."
    )


def stacked(rows: Sequence[Any], name: str) -> torch.Tensor:
    """Vectors as rows `(n, d)`, float32."""
    what = "embeddings" if name == "gallery" else name.replace("_", " ")
    try:
        tensors = [torch.as_tensor(row).detach().cpu() for row in rows]
        whole = torch.stack(tensors)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"Expected {what} as vectors of one width, (n, d): these are not.") from None
    if whole.ndim != 2 or whole.is_complex() or whole.dtype == torch.bool:
        shape = tuple(whole.shape)
        raise ValueError(f"Expected {what} of shape (n, d) as numbers, got {whole.dtype} of shape {shape}.")
    return whole.float()


def checked_count(name: str, value: Any) -> int:
    """A whole number of at least 1; raises, naming it, where it is none."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(value, bool):
        raise ValueError(f"`{name}` is a whole number of at least 1, got {value!r}.")
    return whole


def batched(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` values each, the last of what is left."""
    rest = iter(values)
    while batch := list(itertools.islice(rest, size)):
        yield batch
