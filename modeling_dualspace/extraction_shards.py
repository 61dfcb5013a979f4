"""Shards of an extraction on disk: written whole or not at all, read row by row."""

import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .backbones import Array
from .files import make_folders

POLL_SECONDS, PATIENCE_SECONDS = 0.5, 60.0

_VECTOR = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("film", pa.int32()),
        ("of", pa.int32()),
        ("clip_id", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("problem", pa.string()),
        ("heard", pa.bool_()),
        ("seen", pa.bool_()),
        ("audio", _VECTOR),
        ("visual", _VECTOR),
    ]
)


@dataclass(frozen=True)
class Row:
    """What became of a clip: its vectors, or what is wrong with it.

    `film` is its film's number in the shard, `of` the listed clip's among those of the film; `heard` and `seen` say
    whether there are vectors, where those are not read.
    """

    film: int
    of: int
    clip_id: str
    start: float | None
    end: float | None
    problem: str | None
    heard: bool
    seen: bool
    audio: Array | None = None
    visual: Array | None = None


def write_shard(path: Path, rows: Sequence[Row]) -> None:
    """Writes a file in place of a former one; what is killed meanwhile leaves none."""
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    make_folders(path.parent)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd", write_page_checksum=True)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_shard(path: Path, *, vectors: bool = True) -> Iterator[Row]:
    """The rows, in order; without their vectors where only the rest is asked for."""
    names = SCHEMA.names if vectors else [name for name in SCHEMA.names if name not in ("audio", "visual")]
    table = pq.read_table(path, columns=names, memory_map=False, page_checksum_verification=True)
    columns = {name: table[name].to_pylist() for name in names if name not in ("audio", "visual")}
    if vectors:
        columns |= {name: [_vector(one) for one in table[name]] for name in ("audio", "visual")}
    for values in zip(*columns.values(), strict=True):
        yield Row(**dict(zip(columns, values, strict=True)))


def await_shards(places: Sequence[Path], check_stop: Callable[[], None]) -> None:
    """Until other processes have written theirs: they may take hours longer, and need not be heard from."""
    began, said = time.monotonic(), False
    missing = list(places)
    while missing := [place for place in missing if not is_whole(place)]:
        check_stop()
        if not said and time.monotonic() - began > PATIENCE_SECONDS:
            said = True
            tqdm.write(
                f"This process is done; {len(missing)} shards of the others are awaited in {missing[0].parent}, which "
                "all must share.",
                file=sys.stderr,
            )
        time.sleep(POLL_SECONDS)


def is_whole(path: Path) -> bool:
    """Whether a shard is there and can be read, all of it."""
    try:
        return bool(pq.read_table(path, memory_map=False, page_checksum_verification=True).schema.equals(SCHEMA))
    except (OSError, pa.ArrowException):
        return False


def _vector(value: Any) -> Array | None:
    return np.asarray(value.values, dtype=np.float32) if value.is_valid else None
