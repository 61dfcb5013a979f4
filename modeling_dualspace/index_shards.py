"""Batches of an index: files that are there whole once they are there, and never change."""

import os
import uuid
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .feature_parts import ROW_GROUP
from .index_rows import MODALITIES, Identity, schema


def shard_name(number: int) -> str:
    """Of a batch's file."""
    return f"{number:08d}.parquet"


def shards_in(data: Path) -> list[str]:
    """The files of a folder that are batches, in order."""
    return sorted(file.name for file in data.glob(f"{'[0-9]' * 8}.parquet"))


def read_shard(file: Path, identity: Identity) -> pa.Table:
    """A batch; raises where it is none, or holds what could not be compared: it may come from anywhere."""
    try:
        table = pq.read_table(file, schema=schema(identity), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{file} is no batch of this index, or is damaged ({text[:120]}): copy it again, or remove it and add its "
            "clips anew."
        ) from None
    for name in MODALITIES if not identity.codes else ():
        column = table[f"{name}_embeds"].combine_chunks()
        rows = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, identity.width)
        off = ~(np.abs(np.einsum("ij,ij->i", rows, rows) - 1) < 5e-3)
        if off.any():
            clip = table["clip_id"].filter(column.is_valid())[int(off.argmax())]
            raise ValueError(f"{file}: the {name} embedding of {clip} is not of unit length: add that clip anew.")
    return table


def write_shard(data: Path, rows: pa.Table, number: int) -> None:
    """Writes a batch; it is on the disk before it has its name, and takes nobody else's."""
    temporary, target = data / f".tmp-{uuid.uuid4().hex}", data / shard_name(number)
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
        _name(temporary, target)
    except FileExistsError:
        raise ValueError(f"{target} came at the same time from somebody else: run the same command again.") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync(data)


def _name(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # which fails where there is one, locks or not
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise FileExistsError from None
        temporary.rename(target)


def sweep(data: Path) -> None:
    """Removes what a process left that was killed; only who holds the lock may."""
    for leftover in data.glob(".tmp-*"):
        with suppress(OSError):
            leftover.unlink()


def _sync(folder: Path) -> None:
    with suppress(OSError, AttributeError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
