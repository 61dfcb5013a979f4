"""An index in a folder: Parquet that is only ever added to, read into columns that are searched exactly.

`data/<8 digits>.parquet` are batches, each there whole or not at all; the last row of a clip wins. Who reads needs no
lock, and sees each batch that came since at the next search. `.cache/` is derived, and may be removed at any time.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .files import CARD, atomic_folder, locked
from .index_cache import CACHE, Kept, keep, load_kept, sizes
from .index_card import read_index_card, write_index_card
from .index_filter import Filter
from .index_rows import MODALITIES, OTHER, Hit, Identity, packed, schema
from .index_state import State, empty_state, hits_of, of_kept, with_shards
from .inverted_lists import LEAST, TRIED, Lists, cached_lists
from .nearest import as_words, nearest

ROW_GROUP = 65_536
AT_ONCE = 1 << 28
"""Bytes of batches that are read together."""
WORTH_KEEPING = 1 << 20
"""Numbers of embeddings from which on `.cache` is written."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a folder that something is added to has another time: file systems' clocks tick slowly."""


class FolderStore:
    """The rows of an index in a folder.

    Args:
        folder: of the index.
        identity: whose embeddings it holds.
        approximate: search lists, by faiss, where there are very many clips; `describe` says how much that misses.
    """

    def __init__(self, folder: Path, identity: Identity, *, approximate: bool = False):
        self.folder, self.identity, self.approximate = folder, identity, approximate
        self._lists: dict[str, Lists] = {}
        self._listing = threading.Lock()
        self._reading = threading.Lock()
        kept = load_kept(folder, identity)
        self._state = of_kept(kept, identity) if kept else empty_state(identity)
        self._seen = 0
        self._refresh()
        rows, known = len(self._state.gone), len(kept.facts) if kept else 0
        if (rows - known) * identity.width >= max(WORTH_KEEPING, rows * identity.width // 4):
            keep(folder, identity, self._kept())

    @classmethod
    def create(cls, folder: Path, identity: Identity) -> "FolderStore":
        """An empty index, in a new folder or an empty one."""
        return cls.save(folder, identity, [])

    @classmethod
    def save(cls, out: Path, identity: Identity, batches: Iterable[pa.Table]) -> "FolderStore":
        """A new index with some rows, whole or not at all."""
        with atomic_folder(out) as folder:
            (folder / "data").mkdir()
            clips, number = 0, 0
            for rows in batches:
                _write_shard(folder / "data", rows, number)
                clips, number = clips + rows.num_rows, number + 1
            write_index_card(folder, identity, clips, number, name=out.resolve().name)
        return cls(out, identity)

    @classmethod
    def open(cls, folder: Path, *, approximate: bool = False) -> "FolderStore":
        """One that is there."""
        return cls(folder, read_index_card(folder), approximate=approximate)

    @property
    def engine(self) -> str:
        """How it is searched."""
        return f"in process, {'by inverted lists' if self._is_listed(self.state()) else 'exact'}"

    def _is_listed(self, state: State) -> bool:
        # Bits are compared so fast that there is nothing to gain.
        return self.approximate and not self.identity.codes and len(state) >= LEAST

    def __len__(self) -> int:
        return len(self.state())

    def state(self) -> State:
        """What the index holds by now."""
        self._refresh()
        return self._state

    def _refresh(self) -> None:
        """Reads what came since, whoever added it."""
        data = self.folder / "data"
        try:
            seen = data.stat().st_mtime_ns
            if seen == self._seen and time.time_ns() - seen > SETTLED:
                return
            with self._reading:
                shards = _shards(data)
                if self._state.shards != tuple(shards[: len(self._state.shards)]):
                    raise ValueError(f"{data} lacks batches that were there: open the index anew.")
                for group in self._groups(shards[len(self._state.shards) :]):
                    tables = [_read(data / shard, self.identity) for shard in group]
                    self._state = with_shards(self._state, group, pa.concat_tables(tables), self.identity)
                self._seen = seen
        except FileNotFoundError:
            raise ValueError(f"{self.folder} was removed or moved: open the index where it is now.") from None

    def _groups(self, shards: Sequence[str]) -> Iterator[list[str]]:
        """Batches that are read together."""
        group: list[str] = []
        size = 0
        for shard in shards:
            group.append(shard)
            size += (self.folder / "data" / shard).stat().st_size
            if size > AT_ONCE:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _kept(self) -> Kept:
        state = self._state
        blocks = {name: np.concatenate(state.columns[name].pieces, axis=1)[:, state.rows] for name in MODALITIES}
        absent = {name: state.absent[name][state.rows] for name in MODALITIES}
        facts = state.facts.take(pa.array(state.rows)).combine_chunks()
        return Kept(sizes(self.folder / "data", state.shards), facts, blocks, absent)

    def add(self, rows: pa.Table) -> int:
        """Adds a batch, whole or not at all; clips that are there already are replaced."""
        self._append(rows)
        return rows.num_rows

    def delete(self, clip_ids: Sequence[str]) -> int:
        """Takes clips away, and returns how many there were. Their rows stay in former batches until `save`."""
        with self._writing():
            rows = self.state().rows_of(clip_ids)
            known = [name for name, row in zip(clip_ids, rows, strict=True) if row >= 0]
            if known:
                columns = {"clip_id": pa.array(known), "deleted": pa.array([True] * len(known))}
                wide = schema(self.identity)
                table = [columns.get(name, pa.nulls(len(known), wide.field(name).type)) for name in wide.names]
                self._append_locked(pa.table(table, schema=wide))
        return len(known)

    def _writing(self) -> Any:
        return locked(self.folder, f"{self.folder} is being written by somebody else: try again once that has ended.")

    def _append(self, rows: pa.Table) -> None:
        with self._writing():
            self._append_locked(rows)

    def _append_locked(self, rows: pa.Table) -> None:
        shards = self.state().shards
        number = int(shards[-1].removesuffix(".parquet")) + 1 if shards else 0
        for leftover in (self.folder / "data").glob(".tmp-*"):  # of a process that was killed: nobody else writes
            with suppress(OSError):
                leftover.unlink()
        _write_shard(self.folder / "data", rows, number)
        state = self.state()
        write_index_card(self.folder, self.identity, len(state), len(state.shards))

    def search(self, queries: np.ndarray, among: str, k: int, wanted: Filter) -> list[list[Hit]]:
        """The nearest of each query, the best first; ties in the order they were added."""
        state = self.state()
        stored = as_words(packed(queries)) if self.identity.codes else queries
        lists = self._lists_of(state, among)
        search = lists.nearest if lists else nearest
        found = search(state.columns[among], stored, k, state.banned(among, wanted))
        return hits_of(state, found)

    def _lists_of(self, state: State, among: str) -> Lists | None:
        if not self._is_listed(state):
            return None
        with self._listing:
            lists = self._lists.get(among)
            if lists is None or lists.is_old(len(state.gone)):
                other = OTHER[among]
                rows = np.flatnonzero(~state.gone & ~state.absent[other])
                asked = rows[np.unique(np.linspace(0, len(rows) - 1, 2 * TRIED).astype(int))] if len(rows) else rows
                queries = state.columns[other].take(asked)
                lists = cached_lists(self.folder / CACHE, state.columns[among], queries)
                self._lists[among] = lists
            return lists

    def get(self, clip_ids: Sequence[str]) -> list[Hit | None]:
        """Clips by name."""
        state = self.state()
        rows = state.rows_of(clip_ids)
        known = rows[rows >= 0]
        hits = iter(hits_of(state, [(known, np.full(len(known), np.nan))])[0])
        return [next(hits) if row >= 0 else None for row in rows]

    def from_source(self, source: str) -> set[str]:
        """Names of the clips that came from a data set, by its fingerprint."""
        state = self.state()
        facts = state.facts.filter(pa.array(~state.gone))
        return set(facts.filter(pc.equal(facts["source"], source))["clip_id"].to_pylist())

    def facts(self, names: Sequence[str]) -> pa.Table:
        """Columns of all clips, without embeddings."""
        state = self.state()
        return state.facts.select(list(names)).filter(pa.array(~state.gone))

    def batches(self, rows: int = ROW_GROUP) -> Iterator[pa.Table]:
        """All clips with their embeddings, as they would be added."""
        state = self.state()
        for start in range(0, len(state.rows), rows):
            yield self.table(state, state.rows[start : start + rows])

    def table(self, state: State, rows: np.ndarray) -> pa.Table:
        """Some rows of a state, with their embeddings."""
        table = state.facts.take(pa.array(rows))
        for name in MODALITIES:
            values = state.columns[name].take(rows)
            flat = values.view(np.uint8)[:, : self.identity.width] if self.identity.codes else values
            array = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(flat).reshape(-1)),
                self.identity.width,
                mask=pa.array(state.absent[name][rows]),
            )
            table = table.append_column(f"{name}_embeds", array)
        table = table.append_column("deleted", pa.array(np.zeros(len(rows), dtype=bool)))
        return table.select(schema(self.identity).names).cast(schema(self.identity))

    def sample(self, count: int) -> pa.Table:
        """Clips, evenly out of all."""
        state = self.state()
        places = np.unique(np.linspace(0, max(0, len(state.rows) - 1), min(count, len(state.rows))).astype(int))
        return self.table(state, state.rows[places])

    def describe(self) -> dict[str, Any]:
        """What this store adds to the description of the index."""
        files = [self.folder / CARD, *(self.folder / "data" / shard for shard in self.state().shards)]
        found: dict[str, Any] = {"batches": len(files) - 1, "bytes": sum(file.stat().st_size for file in files)}
        state = self.state()
        lists = {name: self._lists_of(state, name) for name in MODALITIES}
        return found | {"approximate": {name: one.describe() for name, one in lists.items() if one}}

    def counts(self) -> dict[str, int]:
        """How many clips have a track."""
        state = self.state()
        return {name: int((~state.gone & ~state.absent[name]).sum()) for name in MODALITIES}

    def close(self) -> None:
        """Lets go of what was read."""
        self._state, self._seen = empty_state(self.identity), 0


def _shards(data: Path) -> list[str]:
    return sorted(file.name for file in data.glob("[0-9]" * 8 + ".parquet"))


def _read(file: Path, identity: Identity) -> pa.Table:
    try:
        table = pq.read_table(file, schema=schema(identity), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{file} is no batch of this index, or is damaged ({text[:120]}): copy it again, or remove it and add its "
            "clips anew."
        ) from None
    return table


def _write_shard(data: Path, rows: pa.Table, number: int) -> None:
    """A batch, which is there whole once it is there; it is on the disk before it has its name."""
    temporary, target = data / f".tmp-{uuid.uuid4().hex}", data / f"{number:08d}.parquet"
    embeds = [name for name in rows.column_names if pa.types.is_fixed_size_list(rows.schema.field(name).type)]
    floats = [f"{name}.list.element" for name in embeds if rows.schema.field(name).type.value_type == pa.float32()]
    try:
        with temporary.open("wb") as file:
            pq.write_table(
                rows, file, compression="zstd", row_group_size=ROW_GROUP,
                use_dictionary=["path", "source", "metadata", "labels.list.element"], use_byte_stream_split=floats,
            )  # fmt: skip
            file.flush()
            os.fsync(file.fileno())
        if target.exists():  # where there are no locks
            raise FileExistsError(None, "Somebody else added a batch at the same time; try again", str(target))
        temporary.rename(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync(data)


def _sync(folder: Path) -> None:
    with suppress(OSError, AttributeError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
