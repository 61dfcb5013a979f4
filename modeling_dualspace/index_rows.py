"""What an index holds, whichever store it lies in: its rows, its identity, what is found, and what filters it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from . import codes
from .feature_schema import MODALITIES as COLUMNS
from .files import printable

MODALITIES = tuple(name.removesuffix("_features") for name in COLUMNS)
OTHER = dict(zip(MODALITIES, reversed(MODALITIES), strict=True))
FORMAT = 1
FACTS = ("clip_id", "path", "start", "end", "labels", "metadata", "source")
"""The columns of a row beside its embeddings."""


@dataclass(frozen=True)
class Identity:
    """Whose embeddings an index holds: no other model's can be searched or added.

    Args:
        model_id: by what the model is loaded.
        model_type: as its config has it.
        fingerprint: of its weights.
        feature_spec: what makes the features it takes, as far as it says.
        dim: of an embedding; of codes, bits.
        codes: whether embeddings are kept and compared as bits.
    """

    model_id: str
    model_type: str
    fingerprint: str
    feature_spec: str | None
    dim: int
    codes: bool = False

    @property
    def width(self) -> int:
        """Numbers of a stored embedding: floats, or bytes of eight bits."""
        return -(-self.dim // 8) if self.codes else self.dim

    def named(self, model_id: str) -> "Identity":
        """The same model, under the name it has elsewhere."""
        return replace(self, model_id=model_id)

    def unstored(self, column: pa.ChunkedArray) -> np.ndarray:
        """Embeddings `(n, dim)` of a stored column, NaN where there is none."""
        array = column.combine_chunks()
        there = array.is_valid().to_numpy(zero_copy_only=False)
        # `flatten` leaves out the rows that are null, and minds the slice, which `values` does not.
        stored = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.width)
        found = np.full((len(array), self.dim), np.nan, dtype=np.float32)
        found[there] = codes.unpack(torch.from_numpy(stored.copy()), self.dim).numpy() if self.codes else stored
        return found

    def check(self, fingerprint: str, what: str) -> None:
        """Raises unless something was made by this very model."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"This index holds embeddings of {self.model_id} (fingerprint {self.fingerprint}), and {what} has "
                f"fingerprint {fingerprint}: their spaces have nothing to do with each other. Search with that "
                "model, or build an index of its own for this one."
            )

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Identity":
        """As it is written in a card; raises where something is missing."""
        try:
            model = found["model"]
            spec = model.get("feature_spec")
            dim = int(found["dim"])
            if dim < 1 or int(found["format"]) != FORMAT:
                raise ValueError
            name, kind, fingerprint = (str(model[key]) for key in ("id", "model_type", "fingerprint"))
            return cls(name, kind, fingerprint, None if spec is None else str(spec), dim, bool(found["codes"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(
                f"expected `format: {FORMAT}`, `dim`, `codes` and `model` with id, model_type and fingerprint"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """For a card."""
        model = {"id": self.model_id, "model_type": self.model_type, "fingerprint": self.fingerprint}
        return {"format": FORMAT, "dim": self.dim, "codes": self.codes} | {
            "model": model | ({"feature_spec": self.feature_spec} if self.feature_spec else {})
        }


@dataclass(frozen=True)
class Hit:
    """A clip that was found.

    Args:
        clip_id: its name.
        score: cosine with the query; of codes $1 - 2 h / bits$ at a Hamming distance of h.
        path: of the film, as the data set has it.
        start: where the clip begins in the film, in seconds.
        end: where it ends.
        labels: names of its classes.
        metadata: whatever else is known of it.
    """

    clip_id: str
    score: float
    path: str | None
    start: float | None
    end: float | None
    labels: tuple[str, ...]
    metadata: dict[str, Any]

    @classmethod
    def from_row(cls, row: Mapping[str, Any], score: float) -> "Hit":
        """Of a row of the index."""
        metadata = json.loads(row["metadata"]) if row["metadata"] else {}
        labels = tuple(row["labels"] or ())
        return cls(row["clip_id"], float(score), row["path"], row["start"], row["end"], labels, metadata)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return found | {"score": None if math.isnan(self.score) else self.score, "labels": list(self.labels)}


def schema(identity: Identity) -> pa.Schema:
    """The columns of a shard; `deleted` rows take a clip away, and the last row of an id wins."""
    embeds = pa.list_(pa.uint8() if identity.codes else pa.float32(), identity.width)
    kinds = {"start": pa.float64(), "end": pa.float64(), "labels": pa.list_(pa.string())}
    return pa.schema(
        [
            *(pa.field(name, kinds.get(name, pa.string())) for name in FACTS),
            *(pa.field(f"{name}_embeds", embeds) for name in MODALITIES),
            pa.field("deleted", pa.bool_()),
        ]
    )


def make_rows(
    identity: Identity,
    clip_ids: Sequence[str],
    embeds: Mapping[str, Any],
    facts: Mapping[str, Sequence[Any] | None],
    source: str | None = None,
) -> pa.Table:
    """Rows as a store takes them; raises where they could not be found again.

    Args:
        identity: of the index.
        clip_ids: names of the clips, each once.
        embeds: `audio` and `visual` `(n, dim)`, unit rows; rows of NaN, or None for all, where a clip has none.
        facts: `path, start, end, labels, metadata`, one a clip each; None where nobody knows.
        source: the fingerprint of the data set they come from.
    """
    names = [_clip_id(name) for name in clip_ids]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Each clip is added once at a time, and {twice!r} came twice: name them apart.")
    unknown = facts.keys() - set(FACTS)
    if unknown:
        raise ValueError(f"A clip has {', '.join(FACTS[1:-1])}, and no {sorted(unknown)[0]}: put that into `metadata`.")
    wide = schema(identity)
    columns: dict[str, Any] = {"clip_id": names, "source": [source] * len(names), "deleted": [False] * len(names)}
    for name in FACTS[1:-1]:
        given = facts.get(name)
        if isinstance(given, str):
            raise ValueError(f"Expected a list with one {name} a clip, {len(names)}, got the text {given!r}.")
        columns[name] = [None] * len(names) if given is None else [_fact(name, value) for value in given]
    for name in MODALITIES:
        columns[f"{name}_embeds"] = _embeds(identity, embeds.get(name), names, name)
    lengths = {name: len(column) for name, column in columns.items()}
    wrong = next((name for name, length in lengths.items() if length != len(names)), None)
    if wrong:
        raise ValueError(f"Expected one {wrong} a clip, {len(names)}, got {lengths[wrong]}.")
    return pa.table({name: _array(columns[name], wide.field(name).type) for name in wide.names}, schema=wide)


def _clip_id(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 512 or printable(name) != name:
        raise ValueError(f"A clip's name is a text of 1 to 512 characters, got {name!r}.")
    return name


def _fact(name: str, value: Any) -> Any:
    if name == "labels":
        return [str(label) for label in ([value] if isinstance(value, str) else value or ())]
    if name == "metadata":
        try:
            return json.dumps(dict(value), ensure_ascii=False, allow_nan=False) if value else None
        except (TypeError, ValueError) as error:
            raise ValueError(f"Metadata is a dictionary of what JSON can hold, got {value!r} ({error}).") from None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value) if name == "path" else float(value)


def _embeds(identity: Identity, given: Any, names: Sequence[str], modality: str) -> Any:
    """Stored embeddings `(n, width)` and which rows have one."""
    if given is None:
        return pa.nulls(len(names), schema(identity).field(f"{modality}_embeds").type)
    rows = as_queries(identity, given, f"{modality} embeddings", missing=True)
    if len(rows) != len(names):
        raise ValueError(f"Expected {len(names)} {modality} embeddings, one a clip, got {len(rows)}.")
    missing = np.isnan(rows).any(axis=1)
    rows[missing] = 1.0
    stored = packed(rows) if identity.codes else rows
    values = pa.array(stored.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, identity.width, mask=pa.array(missing))


def _array(column: Any, kind: pa.DataType) -> pa.Array:
    return column.cast(kind) if isinstance(column, pa.Array) else pa.array(column, kind)


def packed(rows: np.ndarray) -> np.ndarray:
    """Bytes `(n, bits / 8)` of codes."""
    return codes.pack(torch.from_numpy(rows)).numpy()


def as_queries(identity: Identity, given: Any, what: str = "queries", *, missing: bool = False) -> np.ndarray:
    """Embeddings `(n, dim)` as float32, a copy; raises where they cannot be ones of this index.

    Args:
        identity: of the index.
        given: an array or a tensor.
        what: they are called.
        missing: rows of NaN are clips without.
    """
    rows = given.detach().cpu().float().numpy() if isinstance(given, torch.Tensor) else given
    rows = np.array(rows, dtype=np.float32, order="C")
    if rows.ndim != 2 or rows.shape[1] != identity.dim:
        raise ValueError(f"Expected {what} of shape (n, {identity.dim}), got {tuple(rows.shape)}.")
    numbers = np.flatnonzero(~np.isnan(rows).all(axis=1)) if missing else np.arange(len(rows))
    known = rows[numbers]
    # Unit rows that went through float16 are still within this.
    off = ~(np.abs(np.linalg.norm(known.astype(np.float64), axis=1) - 1) < 2e-3)
    if off.any():
        raise ValueError(
            f"Expected {what} of unit length, as `get_audio_embeds` and `get_visual_embeds` give them; row "
            f"{numbers[off.argmax()]} has length {float(np.linalg.norm(known[off.argmax()])):.4g}."
        )
    if identity.codes and not (np.abs(np.abs(known) * math.sqrt(identity.dim) - 1) < 1e-2).all():
        raise ValueError(f"This index holds codes, so {what} are +-1/sqrt({identity.dim}): use its model's embeddings.")
    return rows
