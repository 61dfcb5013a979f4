"""An index in Milvus, a vector store that many machines share: on a server, or in a file of Milvus Lite."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .feature_parts import ROW_GROUP
from .index_filter import Filter
from .index_rows import FACTS, MODALITIES, Hit, Identity, packed, schema
from .index_store import MOST
from .milvus_place import SECONDS, Place, connect, disconnect, no_collection, speaking
from .milvus_rows import Rows, expression, facts_column, fields_of, hit_of, literal, one_of, stored_field
from .optional import require

IDS = 1000
"""Clips asked for by name at a time."""
PART = 1 << 24
"""Bytes sent or asked for at a time: a server takes 64 MiB."""
SLACK = 16
"""Clips asked for beyond k, so that what float32 swaps at the end is put right."""
PROPERTY = "dualspace.index"


class MilvusStore:
    """The rows of an index in a collection of Milvus.

    Searches are exact: the index is FLAT, and see what was added before. Milvus compares in float32; the best are
    ranked by their exact scores, and equal ones by their names. Where clips that are equally near could be the k-th,
    Milvus decides which.

    Args:
        place: where it is.
        client: of pymilvus, connected.
        identity: whose embeddings it holds.
        bits: codes are kept as bits.
    """

    def __init__(self, place: Place, client: Any, identity: Identity, bits: bool):
        self.place, self.identity = place, identity
        self.engine = "Milvus Lite, exact" if place.is_local else "Milvus, exact"
        self.rows = Rows(identity, bits)
        self._client: Any = client

    @classmethod
    def exists(cls, uri: str) -> bool:
        """Whether there is a collection, which may be no index."""
        place = Place.parse(uri)
        if place.is_local and not place.folder.exists():  # connecting would make it
            return False
        client = connect(place)
        try:
            with speaking(place):
                return bool(client.has_collection(place.collection, timeout=SECONDS))
        finally:
            disconnect(place, client)

    @classmethod
    def create(cls, uri: str, identity: Identity) -> "MilvusStore":
        """An empty index, in a new collection."""
        place = Place.parse(uri)
        client = connect(place, new=True)
        try:
            with speaking(place):
                if client.has_collection(place.collection, timeout=SECONDS):
                    raise ValueError(f"{place} is there already: open it, or name another collection.")
                bits = _create(client, place, identity)
            return cls(place, client, identity, bits)
        except BaseException:
            disconnect(place, client)
            raise

    @classmethod
    def open(cls, uri: str) -> "MilvusStore":
        """One that is there."""
        place = Place.parse(uri)
        client = connect(place)
        try:
            with speaking(place):
                if not client.has_collection(place.collection, timeout=SECONDS):
                    raise ValueError(no_collection(place))
                about = client.describe_collection(place.collection, timeout=SECONDS)
                identity = _identity(place, about)
                client.load_collection(place.collection, timeout=SECONDS)
            types = require("pymilvus", extra="search").DataType
            return cls(place, client, identity, any(one["type"] == types.BINARY_VECTOR for one in about["fields"]))
        except BaseException:
            disconnect(place, client)
            raise

    def _call(self, name: str, **settings: Any) -> Any:
        client = self._client
        try:
            if client is not None:
                with speaking(self.place):
                    return getattr(client, name)(self.place.collection, timeout=SECONDS, **settings)
        except (ValueError, ConnectionError):
            if self._client is not None:  # no other thread closed it meanwhile
                raise
        raise ValueError(f"{self.place} was closed: open the index anew.")

    def _query(self, filter: str, fields: Sequence[str], **settings: Any) -> list[Mapping[str, Any]]:
        settings |= {"filter": filter, "output_fields": list(fields), "consistency_level": "Strong"}
        return list(self._call("query", **settings))

    def _pages(self, fields: Sequence[str], filter: str = "", size: int = 8192) -> Iterator[list[Mapping[str, Any]]]:
        """All rows, in the order of their names; `query_iterator` would stumble over names with quotes."""
        last: str | None = None
        while True:
            parts = [filter, f"clip_id > {literal(last)}" if last is not None else ""]
            wanted = " and ".join(part for part in parts if part)
            # As an iterator's pages, these come in the order of the primary key.
            settings = {"limit": size, "iterator": "True", "reduce_stop_for_best": "True"}
            page = self._query(wanted, ["clip_id", *fields], **settings)
            if page:
                yield page
                last = max(row["clip_id"] for row in page)
            if len(page) < size:
                return

    def _count(self, filter: str = "") -> int:
        return int(self._query(filter, ["count(*)"])[0]["count(*)"])

    def __len__(self) -> int:
        return self._count()

    def add(self, rows: pa.Table) -> int:
        """Adds a batch; clips that are there already are replaced.

        Milvus takes 16 MiB at a time here, whole or not at all; adding a larger batch again completes it.
        """
        given = self.rows.to_milvus(rows)
        sizes = [self.rows.size(row) for row in given]
        start = size = 0
        for place, more in enumerate(sizes):
            if size + more > PART and place > start:
                self._call("upsert", data=given[start:place])
                start, size = place, 0
            size += more
        if given[start:]:
            self._call("upsert", data=given[start:])
        return rows.num_rows

    def delete(self, clip_ids: Sequence[str]) -> int:
        """Takes clips away, and returns how many there were."""
        gone = 0
        for names in _parts(clip_ids, IDS):
            known = [row["clip_id"] for row in self._query(one_of("clip_id", names), ["clip_id"])]
            if known:
                self._call("delete", filter=one_of("clip_id", known))
            gone += len(known)
        return gone

    def search(self, queries: np.ndarray, among: str, k: int, wanted: Filter) -> list[list[Hit]]:
        """The nearest of each query, the best first; ties in the order of their names."""
        filter = " and ".join(part for part in (f"has_{among} == true", expression(wanted)) if part)
        limit = min(MOST, k + SLACK)
        # The rows of embeddings are worth their transport only where there are few.
        exactly = not self.identity.codes and limit * self.identity.dim * 4 <= PART
        fields = [stored_field(name) for name in FACTS if name != "source"]
        field = f"{among}_embeds"
        settings = {
            "anns_field": field, "limit": limit, "filter": filter, "consistency_level": "Strong",
            "output_fields": [*fields, field] if exactly else fields,
            "search_params": {"metric_type": "HAMMING" if self.rows.bits else "IP"},
        }  # fmt: skip
        found: list[list[Hit]] = []
        for part in _parts(queries, max(1, PART // (limit * (self.rows.bytes if exactly else 512)))):
            data = [row.tobytes() for row in packed(part)] if self.rows.bits else list(part)
            for query, hits in zip(part, self._call("search", data=data, **settings), strict=True):
                rows = [hit["entity"] for hit in hits]
                scores = [self.rows.score(hit["distance"]) for hit in hits]
                if exactly and rows:
                    stored = self.rows.stored([row[field] for row in rows]).astype(np.float64)
                    scores = (stored * query.astype(np.float64)).sum(axis=1).tolist()
                pairs = sorted(zip(rows, scores, strict=True), key=lambda pair: (-pair[1], pair[0]["clip_id"]))
                found.append([hit_of(row, score) for row, score in pairs[:k]])
        return found

    def _named(self, clip_ids: Sequence[str], fields: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        rows: dict[str, Mapping[str, Any]] = {}
        names = list(dict.fromkeys(clip_ids))
        for part in _parts(names, min(IDS, max(1, PART // self.rows.bytes))):
            rows |= {row["clip_id"]: row for row in self._query(one_of("clip_id", part), ["clip_id", *fields])}
        return rows

    def get(self, clip_ids: Sequence[str]) -> list[Hit | None]:
        """Clips by name."""
        rows = self._named(clip_ids, [stored_field(name) for name in FACTS[1:-1]])
        return [hit_of(rows[name], np.nan) if name in rows else None for name in clip_ids]

    def fetch(self, clip_ids: Sequence[str]) -> pa.Table:
        """Clips by name, with their embeddings, those that are there."""
        rows = self._named(clip_ids, self._all_fields())
        return self.rows.to_table([rows[name] for name in clip_ids if name in rows])

    def from_source(self, source: str) -> set[str]:
        """Names of the clips that came from a data set, by its fingerprint."""
        return {row["clip_id"] for page in self._pages([], f"source == {literal(source)}") for row in page}

    def facts(self, names: Sequence[str]) -> pa.Table:
        """Columns of all clips, without embeddings."""
        wide = schema(self.identity)
        kinds = pa.schema([wide.field(name) for name in names])
        fields = [stored_field(name) for name in names if name != "clip_id"]
        tables = [
            pa.table({name: facts_column(page, name, wide.field(name).type) for name in names}, schema=kinds)
            for page in self._pages(fields)
        ]
        return pa.concat_tables(tables) if tables else kinds.empty_table()

    def _all_fields(self) -> list[str]:
        flags = [f"has_{name}" for name in MODALITIES]
        return [*map(stored_field, FACTS[1:]), *flags, *(f"{name}_embeds" for name in MODALITIES)]

    def batches(self, rows: int = ROW_GROUP) -> Iterator[pa.Table]:
        """All clips with their embeddings, as they would be added."""
        waiting: list[pa.Table] = []
        for page in self._pages(self._all_fields(), size=max(1, min(rows, 8192, PART // self.rows.bytes))):
            waiting.append(self.rows.to_table(page))
            if sum(map(len, waiting)) >= rows:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    def sample(self, count: int) -> pa.Table:
        """Clips, evenly out of all."""
        names = sorted(row["clip_id"] for page in self._pages([]) for row in page)
        places = np.unique(np.linspace(0, max(0, len(names) - 1), min(count, len(names))).astype(int))
        picked = [names[place] for place in places]
        rows = self._named(picked, self._all_fields())
        return self.rows.to_table([rows[name] for name in picked if name in rows])

    def describe(self) -> dict[str, Any]:
        """What this store adds to the description of the index: nobody but a server knows how much it keeps."""
        if not self.place.is_local:
            return {}
        return {"bytes": sum(file.stat().st_size for file in self.place.folder.rglob("*") if file.is_file())}

    def counts(self) -> dict[str, int]:
        """How many clips have a track."""
        return {name: self._count(f"has_{name} == true") for name in MODALITIES}

    def settle(self) -> None:
        """There is nothing that a killed process leaves undone but parts of a batch, which adding completes."""

    def remove(self) -> None:
        """Removes the collection, and lets go of the connection."""
        self._call("drop_collection")
        self.close()

    def close(self) -> None:
        """Lets go of the connection, and of the file of Milvus Lite once nobody here has it open."""
        client, self._client = self._client, None
        if client is not None:
            disconnect(self.place, client)


def _create(client: Any, place: Place, identity: Identity) -> bool:
    """Makes the collection, and returns whether it keeps codes as bits, which Milvus Lite does not."""
    pymilvus = require("pymilvus", extra="search")
    about = json.dumps(identity.to_dict())
    # Milvus Lite forgets descriptions, and keeps properties; a server might refuse those it does not know.
    is_lite = "lite" in client.get_server_version(timeout=SECONDS).lower()
    more = {"properties": {PROPERTY: about}} if is_lite else {}
    for bits in (True, False) if identity.codes else (False,):
        wide = client.create_schema(auto_id=False, enable_dynamic_field=False, description=about)
        for field in fields_of(identity, pymilvus.DataType, bits):
            wide.add_field(**field)
        index = client.prepare_index_params()
        for name in MODALITIES:
            kind = {"index_type": "BIN_FLAT", "metric_type": "HAMMING"} if bits else {"index_type": "FLAT"}
            index.add_index(f"{name}_embeds", **{"metric_type": "IP", **kind})
        try:
            client.create_collection(place.collection, schema=wide, consistency_level="Strong", timeout=SECONDS, **more)
        except pymilvus.MilvusException:
            if bits:
                continue
            raise
        try:
            client.create_index(place.collection, index, timeout=SECONDS, sync=False)  # of nothing as yet
            client.load_collection(place.collection, timeout=SECONDS)
        except BaseException:  # what cannot be searched is not left there
            client.drop_collection(place.collection, timeout=SECONDS)
            raise
        return bits
    raise AssertionError("unreachable")


def _identity(place: Place, about: Mapping[str, Any]) -> Identity:
    text = about.get("description") or (about.get("properties") or {}).get(PROPERTY) or ""
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError(
            f"{place} is no index: expected a collection that `dualspace index` made, got one of another kind."
        ) from None
    try:
        return Identity.from_dict(found)
    except ValueError as error:
        raise ValueError(f"{place} is no index that this version reads: {error}.") from None


def _parts(rows: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
