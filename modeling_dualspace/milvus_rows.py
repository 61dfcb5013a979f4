"""Rows of an index as Milvus holds them, and filters as it reads them.

Nothing is null that is searched: where a clip has no sound, the vector is zeros and `has_audio` false, as not every
server knows vectors that are null. `metadata_text` is what a clip came with; `metadata` is what filters read of it:
finite numbers, however they were written, as floating point, other texts as they are, true and false as texts, and
nothing else, so that Milvus, which never takes a text for a number, finds what `Condition.met_by` says.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from .index_filter import Condition, Filter, as_number
from .index_rows import FACTS, MODALITIES, Hit, Identity, schema

BYTES = {"clip_id": 2048, "path": 65_535, "source": 1024, "labels": 65_535, "metadata_text": 65_535}
"""A text takes in Milvus at most."""
LABELS = 4096
"""A clip may have: what Milvus allows."""
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"})


def fields_of(identity: Identity, types: Any, bits: bool) -> list[dict[str, Any]]:
    """The fields of a collection, as `add_field` takes them.

    Args:
        identity: of the index.
        types: pymilvus' `DataType`.
        bits: keep codes as bits, which not every Milvus can; as numbers otherwise.
    """
    texts = [
        {"field_name": name, "datatype": types.VARCHAR, "max_length": BYTES[name], "nullable": name != "metadata_text"}
        for name in ("path", "source", "metadata_text")
    ]
    labels = {"element_type": types.VARCHAR, "max_capacity": LABELS, "max_length": BYTES["labels"]}
    kind = {"datatype": types.BINARY_VECTOR, "dim": 8 * identity.width}
    if not bits:
        kind = {"datatype": types.FLOAT_VECTOR, "dim": identity.dim}
    return [
        {"field_name": "clip_id", "datatype": types.VARCHAR, "max_length": BYTES["clip_id"], "is_primary": True},
        *texts,
        *({"field_name": name, "datatype": types.DOUBLE, "nullable": True} for name in ("start", "end")),
        {"field_name": "labels", "datatype": types.ARRAY, **labels},
        {"field_name": "metadata", "datatype": types.JSON},
        *({"field_name": f"has_{name}", "datatype": types.BOOL} for name in MODALITIES),
        *({"field_name": f"{name}_embeds", **kind} for name in MODALITIES),
    ]


def stored_field(name: str) -> str:
    """The field of Milvus that a column is read from."""
    return "metadata_text" if name == "metadata" else name


class Rows:
    """Turns rows of an index into rows of Milvus, and back.

    Args:
        identity: of the index.
        bits: codes are kept as bits.
    """

    def __init__(self, identity: Identity, bits: bool):
        self.identity, self.bits = identity, bits
        self.bytes = 2 * (identity.width if bits else 4 * identity.dim) + 512
        """A row takes, about, if it is not talkative."""

    def vectors(self, column: pa.ChunkedArray) -> list[Any]:
        """Embeddings as Milvus takes them, of a column as they are stored; zeros where there is none."""
        if self.bits:
            nothing = bytes(self.identity.width)
            return [nothing if stored is None else bytes(stored) for stored in column.to_pylist()]
        return list(np.nan_to_num(self.identity.unstored(column)))

    def stored(self, vectors: Sequence[Any]) -> np.ndarray:
        """Embeddings `(n, width)` as they are stored, of vectors as Milvus gives them."""
        if self.bits:
            return np.frombuffer(b"".join(map(_as_bytes, vectors)), np.uint8).reshape(-1, self.identity.width)
        rows = np.array(vectors, np.float32).reshape(-1, self.identity.dim)
        return np.packbits(rows > 0, axis=1) if self.identity.codes else rows

    def to_milvus(self, table: pa.Table) -> list[dict[str, Any]]:
        """Rows as `upsert` takes them; raises where one is larger than Milvus allows."""
        vectors = {name: self.vectors(table[f"{name}_embeds"]) for name in MODALITIES}
        has = {name: table[f"{name}_embeds"].is_valid().to_pylist() for name in MODALITIES}
        rows = table.select(list(FACTS)).to_pylist()
        for place, row in enumerate(rows):
            text = row["metadata"] or "{}"
            row |= {"labels": row["labels"] or [], "metadata_text": text, "metadata": as_filtered(json.loads(text))}
            row |= {f"has_{name}": has[name][place] for name in MODALITIES}
            row |= {f"{name}_embeds": vectors[name][place] for name in MODALITIES}
            _check_sizes(row)
        return rows

    def size(self, row: Mapping[str, Any]) -> int:
        """Bytes of a row, about."""
        texts = [row["path"] or "", *row["labels"], *[row["metadata_text"]] * 2]
        return self.bytes + sum(len(text.encode()) for text in texts)

    def to_table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows of an index, of rows of Milvus with all their fields."""
        wide = schema(self.identity)
        columns = {name: facts_column(rows, name, wide.field(name).type) for name in FACTS}
        for name in MODALITIES:
            stored = self.stored([row[f"{name}_embeds"] for row in rows])
            missing = np.array([not row[f"has_{name}"] for row in rows], dtype=bool)
            columns[f"{name}_embeds"] = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(stored).reshape(-1)), self.identity.width, mask=pa.array(missing)
            )
        columns["deleted"] = pa.array([False] * len(rows))
        return pa.table({name: columns[name] for name in wide.names}, schema=wide)

    def score(self, distance: float) -> float:
        """The cosine, of what Milvus calls a distance: that of codes is exact."""
        if self.bits:
            return 1 - 2 * distance / self.identity.dim
        if self.identity.codes:
            return 1 - 2 * round((1 - distance) / 2 * self.identity.dim) / self.identity.dim
        return distance


def _as_bytes(vector: Any) -> bytes:
    """Of a vector of bits, which a search gives as bytes, and a query in a list."""
    return vector if isinstance(vector, bytes) else b"".join(vector)


def facts_column(rows: Sequence[Mapping[str, Any]], name: str, kind: pa.DataType) -> pa.Array:
    """A column of rows of Milvus, without embeddings."""
    values: Iterable[Any] = (row[stored_field(name)] for row in rows)
    return pa.array([list(value or ()) for value in values] if name == "labels" else list(values), kind)


def hit_of(row: Mapping[str, Any], score: float) -> Hit:
    """Of a row of Milvus."""
    return Hit.from_row({name: row[stored_field(name)] for name in FACTS if name != "source"}, score)


def as_filtered(metadata: Mapping[str, Any]) -> dict[str, float | str]:
    """What filters read of metadata.

    Example:
        ```python
        >>> as_filtered({"year": "2010", "city": "Oslo", "live": True, "of": None, "tags": ["a"]})
        {'year': 2010.0, 'city': 'Oslo', 'live': 'true'}

        ```
    """
    found: dict[str, float | str] = {}
    for key, value in metadata.items():
        number = as_number(value)
        if number is not None:
            found[plain_key(key)] = number
        elif isinstance(value, bool):
            found[plain_key(key)] = str(value).lower()
        elif isinstance(value, str | int | float):
            found[plain_key(key)] = str(value)
    return found


def plain_key(key: str) -> str:
    """A key that no version of Milvus can misread: brackets, quotes, slashes and letters beyond ASCII by their bytes.

    Example:
        ```python
        >>> plain_key("year"), plain_key('a"]["b/~')
        ('year', 'a%22%5D%5B%22b%2F%7E')

        ```
    """
    return quote(key, safe="").replace("~", "%7E")


def literal(value: str | float) -> str:
    r"""A text or a number as it is written in a filter of Milvus.

    Example:
        ```python
        >>> print(literal('say "hi"'), literal(1e20))
        "say \"hi\"" 100000000000000000000.0

        ```
    """
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    digits = format(Decimal(repr(float(value))), "f")
    return digits if "." in digits else f"{digits}.0"


def one_of(name: str, values: Iterable[str]) -> str:
    """That a field is one of some texts."""
    return f"{name} in [{', '.join(map(literal, values))}]"


def expression(wanted: Filter) -> str:
    """A filter as Milvus reads it.

    Example:
        ```python
        >>> print(expression(Filter.of(["dog"], ["year>=2010", "city!=Oslo"])))
        ARRAY_CONTAINS_ANY(labels, ["dog"]) and metadata["year"] >= 2010.0 and (exists metadata["city"] and \
not (metadata["city"] == "Oslo"))

        ```
    """
    parts = []
    if wanted.labels:
        parts.append(f"ARRAY_CONTAINS_ANY(labels, [{', '.join(map(literal, wanted.labels))}])")
    return " and ".join([*parts, *map(_condition, wanted.conditions)])


def _condition(condition: Condition) -> str:
    field, value = f'metadata["{plain_key(condition.key)}"]', literal(condition.value)
    if condition.operator == "=":
        return f"{field} == {value}"
    if condition.operator == "!=":
        # Not `!=`, which some versions take for met where nothing is said, or something of another type.
        return f"(exists {field} and not ({field} == {value}))"
    return f"{field} {condition.operator} {value}"


def _check_sizes(row: Mapping[str, Any]) -> None:
    sizes = {name: len((row[name] or "").encode()) for name in ("clip_id", "path", "source", "metadata_text")}
    sizes["labels"] = max((len(label.encode()) for label in row["labels"]), default=0)
    # A key written by its bytes takes more than before.
    sizes["metadata_text"] = max(sizes["metadata_text"], len(json.dumps(row["metadata"], ensure_ascii=False).encode()))
    for name, size in sizes.items():
        if size > BYTES[name]:
            raise ValueError(
                f"Milvus holds texts of {BYTES[name]:,} bytes, and {name.removesuffix('_text')} of the clip "
                f"{row['clip_id']!r} has {size:,}: shorten it, or keep this index in a folder."
            )
    if len(row["labels"]) > LABELS:
        raise ValueError(
            f"Milvus holds {LABELS:,} labels a clip, and {row['clip_id']!r} has {len(row['labels']):,}: leave some "
            "out, or keep this index in a folder."
        )
