"""What was read of an index at one moment, and how a batch more follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .index_cache import Kept
from .index_filter import Filter, Metadata, banned_by
from .index_rows import FACTS, MODALITIES, Hit, Identity, schema
from .nearest import Codes, Columns, Vectors, as_words

FILTERS = 16
"""Masks that are kept."""


@dataclass(frozen=True)
class State:
    """What was read of an index at one moment; never changed, but followed by another.

    Args:
        shards: files that were read, in order.
        facts: the rows of all clips, those that are gone too, without embeddings.
        gone: which rows are no clips any more.
        columns: embeddings by modality; those of rows without are zeros.
        absent: which rows have none, by modality.
    """

    shards: tuple[str, ...]
    facts: pa.Table
    gone: np.ndarray
    columns: dict[str, Columns]
    absent: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.gone) - int(self.gone.sum())

    @cached_property
    def rows(self) -> np.ndarray:
        """Those that are clips."""
        return np.flatnonzero(~self.gone)

    @cached_property
    def _barred(self) -> dict[str, np.ndarray | None]:
        """Which rows have nothing to be found by, by modality; None where all have."""
        barred = {name: self.gone | absent for name, absent in self.absent.items()}
        return {name: rows if rows.any() else None for name, rows in barred.items()}

    def banned(self, modality: str, wanted: Filter) -> np.ndarray | None:
        """Which rows may not be found; None where all may."""
        barred = self._barred[modality]
        if not wanted:
            return barred
        banned = self._filters.get(wanted)
        if banned is None:
            banned = banned_by(wanted, self.facts, self._metadata if wanted.conditions else None)
            if len(self._filters) >= FILTERS:
                self._filters.clear()
            self._filters[wanted] = banned
        return banned if barred is None else banned | barred

    @cached_property
    def _filters(self) -> dict[Filter, np.ndarray]:
        """What was asked for of late: people page and search on with the same filter."""
        return {}

    @cached_property
    def _metadata(self) -> Metadata:
        return Metadata.of(self.facts["metadata"])


def rows_of(state: State, clip_ids: Sequence[str]) -> np.ndarray:
    """The row of each clip, -1 where there is none."""
    if not len(state.rows) or not len(clip_ids):
        return np.full(len(clip_ids), -1)
    known = state.facts["clip_id"].take(pa.array(state.rows)).combine_chunks()
    places = pc.index_in(pa.array(clip_ids, pa.string()), value_set=known)
    found = places.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(found >= 0, state.rows[found], -1)


def table_of(state: State, rows: np.ndarray, identity: Identity) -> pa.Table:
    """Some rows, with their embeddings, as they would be added."""
    wide = schema(identity)
    columns = {name: state.facts[name].take(pa.array(rows)) for name in FACTS}
    columns["deleted"] = pa.array(np.zeros(len(rows), dtype=bool))
    for name in MODALITIES:
        values = state.columns[name].take(rows)
        stored = values.view(np.uint8)[:, : identity.width] if identity.codes else values
        flat, missing = pa.array(np.ascontiguousarray(stored).reshape(-1)), pa.array(state.absent[name][rows])
        columns[f"{name}_embeds"] = pa.FixedSizeListArray.from_arrays(flat, identity.width, mask=missing)
    return pa.table([columns[name] for name in wide.names], names=wide.names).cast(wide)


def hits_of(state: State, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[list[Hit]]:
    """Rows and their scores, query by query, as they are handed out."""
    rows = np.concatenate([rows for rows, _ in found]) if found else np.zeros(0, dtype=int)
    facts = iter(state.facts.take(pa.array(rows)).to_pylist())
    return [[Hit.from_row(next(facts), score) for score in scores] for _, scores in found]


def empty_state(identity: Identity) -> State:
    """Before anything was read."""
    wide = schema(identity)
    facts = pa.table([pa.array([], wide.field(name).type) for name in FACTS], names=list(FACTS))
    nothing = np.zeros(0, dtype=bool)
    columns = {name: _columns(identity, np.zeros((0, identity.width), _kind(identity))) for name in MODALITIES}
    return State((), facts, nothing, columns, dict.fromkeys(MODALITIES, nothing))


def _kind(identity: Identity) -> Any:
    return np.uint8 if identity.codes else np.float32


def _block(identity: Identity, stored: np.ndarray) -> np.ndarray:
    """Stored embeddings `(n, width)` by column."""
    return np.ascontiguousarray((as_words(stored) if identity.codes else stored).T)


def _columns(identity: Identity, stored: np.ndarray) -> Columns:
    return _as_columns(identity, _block(identity, stored))


def _as_columns(identity: Identity, block: np.ndarray) -> Columns:
    """A first piece of columns."""
    return Codes([block], identity.dim) if identity.codes else Vectors([block])


def of_kept(kept: Kept, identity: Identity) -> State:
    """Where reading goes on from."""
    columns = {name: _as_columns(identity, block) for name, block in kept.blocks.items()}
    return State(tuple(kept.shards), kept.facts, np.zeros(len(kept.facts), dtype=bool), columns, dict(kept.absent))


def with_shards(state: State, shards: Sequence[str], table: pa.Table, identity: Identity, former: np.ndarray) -> State:
    """What the index holds with some batches more.

    Args:
        state: what it held.
        shards: the batches.
        table: their rows.
        identity: of the index.
        former: the row that each clip of `table` had, -1 where it had none.
    """
    gone = state.gone.copy()
    gone[former[former >= 0]] = True
    kept = np.flatnonzero(_last_of(table["clip_id"].combine_chunks()) & ~table["deleted"].to_numpy())
    rows = table.take(pa.array(kept))
    columns, absent = {}, {}
    for name in MODALITIES:
        stored, missing = _stored(rows[f"{name}_embeds"], identity)
        columns[name] = state.columns[name].with_rows(_block(identity, stored))
        absent[name] = np.concatenate([state.absent[name], missing])
    return replace(
        state,
        shards=(*state.shards, *shards),
        facts=pa.concat_tables([state.facts, rows.select(list(FACTS))]),
        gone=np.concatenate([gone, np.zeros(len(kept), dtype=bool)]),
        columns=columns,
        absent=absent,
    )


def _last_of(names: pa.Array) -> np.ndarray:
    """Which rows are the last of their name."""
    numbers = names.dictionary_encode().indices.to_numpy()
    last = np.zeros(len(numbers), dtype=bool)
    last[len(numbers) - 1 - np.unique(numbers[::-1], return_index=True)[1]] = True
    return last


def _stored(column: pa.ChunkedArray, identity: Identity) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings `(n, width)`, zeros where there is none, and which rows those are."""
    array = column.combine_chunks()
    missing = array.is_null().to_numpy(zero_copy_only=False)
    stored = np.zeros((len(array), identity.width), dtype=_kind(identity))
    # `flatten` leaves out the rows that are null, and minds the slice, which `values` does not.
    stored[~missing] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, identity.width)
    if identity.codes and identity.dim % 8:  # what fills the last byte is no part of a code, whatever is written there
        stored[:, -1] &= 0xFF << (-identity.dim % 8) & 0xFF
    return stored, missing
