"""An index in a folder: Parquet that is only ever added to, read into columns that are searched exactly.

`data/<8 digits>.parquet` are batches, each there whole or not at all; the last row of a clip wins. Who reads needs no
lock, and sees each batch that came since at the next search. `.cache/` is derived, and may be removed at any time.
"""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .feature_parts import ROW_GROUP
from .files import CARD, MANIFEST, atomic_folder, locked
from .index_cache import CACHE, Kept, keep, load_kept, stamps
from .index_card import read_index_card, settle_index_card, write_index_card
from .index_filter import Filter
from .index_rows import MODALITIES, OTHER, Hit, Identity, packed, schema
from .index_shards import read_shard, shards_in, sweep, write_shard
from .index_state import State, empty_state, hits_of, of_kept, rows_of, table_of, with_shards
from .inverted_lists import LEAST, TRIED, Lists, cached_lists
from .nearest import as_words, nearest

AT_ONCE = 1 << 28
"""Bytes of batches that are read together."""
WORTH_KEEPING = 1 << 20
"""Numbers of embeddings from which on `.cache` is written."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a folder that something is added to has another time: file systems' clocks tick slowly."""
PATIENCE = 30.0
"""Seconds that one waits for somebody else who is adding a batch."""


class FolderStore:
    """The rows of an index in a folder.

    Args:
        folder: of the index.
        identity: whose embeddings it holds.
        approximate: search lists, by faiss, where there are very many clips; `describe` says how much that misses.
        keeps: whether `.cache` may be written.
        copied: by whom it was copied, if it is a copy that only who copied it may change.
    """

    def __init__(
        self, folder: Path, identity: Identity, *, approximate: bool = False, keeps: bool = True, copied: str = ""
    ):
        self.folder, self.identity, self.approximate, self.copied = folder, identity, approximate, copied
        self._lists: dict[str, Lists] = {}
        self._places: dict[str, int] | None = None
        """The last row of each name, once anybody asked for clips by name."""
        self._closed = False
        self._listing, self._reading = threading.Lock(), threading.Lock()
        kept = load_kept(folder, identity)
        self._state = of_kept(kept, identity) if kept else empty_state(identity)
        self._seen = 0
        self._refresh()
        rows, known = len(self._state.gone), len(kept.facts) if kept else 0
        if keeps and (rows - known) * identity.width >= max(WORTH_KEEPING, rows * identity.width // 4):
            keep(folder, identity, self._kept())

    @classmethod
    def create(cls, folder: Path, identity: Identity) -> "FolderStore":
        """An empty index, in a new folder or an empty one."""
        return cls.save(folder, identity, [])

    @classmethod
    def save(cls, out: Path, identity: Identity, batches: Iterable[pa.Table], **said: Any) -> "FolderStore":
        """A new index with some rows, whole or not at all; `said` is what `write_index_card` takes besides."""
        with atomic_folder(out) as folder:
            (folder / "data").mkdir()
            clips, number = 0, 0
            for number, rows in enumerate(batches, start=1):
                write_shard(folder / "data", rows, number - 1)
                clips += rows.num_rows
            write_index_card(folder, identity, clips, number, **{"name": out.resolve().name, **said})
        (out / MANIFEST).unlink()  # it will grow
        return cls(out, identity, keeps=False)

    @classmethod
    def open(cls, folder: Path, **settings: Any) -> "FolderStore":
        """One that is there."""
        return cls(folder, read_index_card(folder), **settings)

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
        if self._closed:
            raise ValueError(f"{self.folder} was closed: open the index anew.")
        try:
            seen = data.stat().st_mtime_ns
            if seen == self._seen and time.time_ns() - seen > SETTLED:
                return
            with self._reading:
                shards = shards_in(data)
                if self._state.shards != tuple(shards[: len(self._state.shards)]):
                    raise ValueError(f"{data} lacks batches that were there: open the index anew.")
                for group in self._groups(shards[len(self._state.shards) :]):
                    self._read(group)
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

    def _read(self, shards: Sequence[str]) -> None:
        table = pa.concat_tables([read_shard(self.folder / "data" / shard, self.identity) for shard in shards])
        names, before = table["clip_id"].to_pylist(), len(self._state.gone)
        former = self._former(names)
        self._state = with_shards(self._state, shards, table, self.identity, former)
        if self._places is not None:
            added = self._state.facts["clip_id"].slice(before).to_pylist()
            self._places |= {name: before + row for row, name in enumerate(added)}

    def _former(self, names: Sequence[str]) -> np.ndarray:
        """The rows of clips before now, -1 where there is none."""
        if self._places is None:
            return rows_of(self._state, names)
        rows = np.array([self._places.get(name, -1) for name in names], dtype=int)
        return np.where((rows >= 0) & ~self._state.gone[rows], rows, -1) if len(self._state.gone) else rows

    def _named(self, names: Sequence[str]) -> tuple[State, np.ndarray]:
        """What the index holds, and the rows of some clips in it, -1 where there is none."""
        self._refresh()
        with self._reading:
            if self._places is None:
                known = self._state.facts["clip_id"].to_pylist()
                self._places = {name: row for row, name in enumerate(known)}
            return self._state, self._former(names)

    def _kept(self) -> Kept:
        state = self._state
        blocks = {name: np.concatenate(state.columns[name].pieces, axis=1)[:, state.rows] for name in MODALITIES}
        absent = {name: state.absent[name][state.rows] for name in MODALITIES}
        facts = state.facts.take(pa.array(state.rows)).combine_chunks()
        return Kept(stamps(self.folder / "data", state.shards), facts, blocks, absent)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Nobody else writes meanwhile; waits for whoever does."""
        if self.copied:
            raise ValueError(
                f"{self.copied} is a copy of what is on the Hub: `save` it into a folder, and write there."
            )
        until = time.monotonic() + PATIENCE
        taken = f"{self.folder} is being written by somebody else: try again once that has ended."
        while True:
            lock = locked(self.folder, taken)
            try:
                lock.__enter__()
                break
            except ValueError as error:
                if taken not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def add(self, rows: pa.Table) -> int:
        """Adds a batch, whole or not at all; clips that are there already are replaced."""
        with self._writing():
            self._append(rows)
        return rows.num_rows

    def delete(self, clip_ids: Sequence[str]) -> int:
        """Takes clips away, and returns how many there were. Their rows stay in former batches until `save`."""
        with self._writing():
            _, rows = self._named(clip_ids)
            known = [name for name, row in zip(clip_ids, rows, strict=True) if row >= 0]
            if known:
                wide = schema(self.identity)
                columns = {"clip_id": pa.array(known), "deleted": pa.array([True] * len(known))}
                table = [columns.get(name, pa.nulls(len(known), wide.field(name).type)) for name in wide.names]
                self._append(pa.table(table, schema=wide))
        return len(known)

    def _append(self, rows: pa.Table) -> None:
        shards = self.state().shards
        sweep(self.folder / "data")
        number = int(Path(shards[-1]).stem) + 1 if shards else 0
        write_shard(self.folder / "data", rows, number)
        self._settle()

    def _settle(self) -> None:
        state = self.state()
        settle_index_card(self.folder, self.identity, len(state), len(state.shards))

    def settle(self) -> None:
        """Writes the card that a process would have written, had it not been killed."""
        with self._writing():
            self._settle()

    def search(self, queries: np.ndarray, among: str, k: int, wanted: Filter) -> list[list[Hit]]:
        """The nearest of each query, the best first; ties in the order they were added."""
        state = self.state()
        stored = as_words(packed(queries)) if self.identity.codes else queries
        lists = self._lists_of(state, among)
        search = lists.nearest if lists else nearest
        return hits_of(state, search(state.columns[among], stored, k, state.banned(among, wanted)))

    def _lists_of(self, state: State, among: str) -> Lists | None:
        if not self._is_listed(state):
            return None
        with self._listing:
            lists = self._lists.get(among)
            if lists is None or lists.is_old(len(state.gone)):
                other = OTHER[among]
                rows = np.flatnonzero(~state.gone & ~state.absent[other])
                asked = rows[np.unique(np.linspace(0, len(rows) - 1, 2 * TRIED).astype(int))] if len(rows) else rows
                queries, gallery = state.columns[other].take(asked), state.columns[among]
                lists = cached_lists(self.folder / CACHE, among, gallery, queries, state.banned(among, Filter()))
                self._lists[among] = lists
            return lists

    def get(self, clip_ids: Sequence[str]) -> list[Hit | None]:
        """Clips by name."""
        state, rows = self._named(clip_ids)
        known = rows[rows >= 0]
        hits = iter(hits_of(state, [(known, np.full(len(known), np.nan))])[0])
        return [next(hits) if row >= 0 else None for row in rows]

    def fetch(self, clip_ids: Sequence[str]) -> pa.Table:
        """Clips by name, with their embeddings, those that are there."""
        state, rows = self._named(clip_ids)
        return table_of(state, rows[rows >= 0], self.identity)

    def from_source(self, source: str) -> set[str]:
        """Names of the clips that came from a data set, by its fingerprint."""
        facts = self.facts(["clip_id", "source"])
        return set(facts.filter(pc.equal(facts["source"], source))["clip_id"].to_pylist())

    def facts(self, names: Sequence[str]) -> pa.Table:
        """Columns of all clips, without embeddings."""
        state = self.state()
        return state.facts.select(list(names)).filter(pa.array(~state.gone))

    def batches(self, rows: int = ROW_GROUP) -> Iterator[pa.Table]:
        """All clips with their embeddings, as they would be added."""
        state = self.state()
        for start in range(0, len(state.rows), rows):
            yield table_of(state, state.rows[start : start + rows], self.identity)

    def sample(self, count: int) -> pa.Table:
        """Clips, evenly out of all."""
        state = self.state()
        places = np.unique(np.linspace(0, max(0, len(state.rows) - 1), min(count, len(state.rows))).astype(int))
        return table_of(state, state.rows[places], self.identity)

    def counts(self) -> dict[str, int]:
        """How many clips have a track."""
        state = self.state()
        return {name: int((~state.gone & ~state.absent[name]).sum()) for name in MODALITIES}

    def describe(self) -> dict[str, Any]:
        """What this store adds to the description of the index."""
        state = self.state()
        files = [self.folder / CARD, *(self.folder / "data" / shard for shard in state.shards)]
        found: dict[str, Any] = {"batches": len(state.shards), "bytes": sum(file.stat().st_size for file in files)}
        lists = {name: self._lists_of(state, name) for name in MODALITIES}
        return found | {"approximate": {name: one.describe() for name, one in lists.items() if one}}

    def close(self) -> None:
        """Lets go of what was read."""
        self._closed = True
        self._state, self._places = empty_state(self.identity), None
        self._lists.clear()

    def remove(self) -> None:
        """Removes the index."""
        self.close()
        shutil.rmtree(self.folder)
