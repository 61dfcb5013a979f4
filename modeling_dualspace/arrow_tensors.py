"""Tensors out of the Arrow columns of a feature data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from .feature_schema import MODALITIES, vector_values
from .targets import UNKNOWN


def arrow_view(split: Any) -> Any:
    """The columns a model needs of a split, loaded or streaming, as Arrow tables."""
    if isinstance(split, Mapping):
        raise ValueError(f"Expected one split, got {', '.join(map(str, split))}: choose one, like `data['train']`.")
    names = split.column_names
    if names is None:  # a stream that does not say, before it is read
        return split.with_format("arrow")
    missing = [name for name in MODALITIES if name not in names]
    if missing:
        raise ValueError(
            f"Expected the columns {' and '.join(MODALITIES)}, got {', '.join(names)}: `rename_column` renames yours."
        )
    wanted = [name for name in (*MODALITIES, "label", "labels") if name in names]
    return split.select_columns(wanted).with_format("arrow")


def declared_widths(view: Dataset) -> dict[str, int] | None:
    """How wide each list column is, where the schema says: no row is read then. None where it does not."""
    widths = {name: getattr(view.features[name], "length", -1) for name in view.column_names if name != "label"}
    return widths if min(widths.values()) > 0 else None


def widths_of(table: pa.Table) -> dict[str, int]:
    """How wide each list column is; found in the rows where the type does not say, so ask a table that has some."""
    wanted = [name for name in (*MODALITIES, "labels") if name in table.column_names]
    return {name: _width(table[name], name) for name in wanted}


def tensors_of(table: pa.Table, widths: Mapping[str, int], copy: bool = True) -> dict[str, Tensor]:
    """A table's features and labels as tensors; an unknown class is -100, unknown memberships are NaN.

    Args:
        table: with the columns of `arrow_view`.
        widths: of the list columns, so that every slice of a batch has the same keys and widths, an empty one too.
        copy: as for `to_tensors`.
    """
    batch = {name: _matrix(table[name], widths[name], name, copy) for name in widths}
    if "label" in table.column_names and "labels" not in widths:
        column = table["label"]
        if not pa.types.is_integer(column.type):
            raise ValueError(
                f"`label` must be a class number, got {column.type}: `split.class_encode_column('label')` makes one."
            )
        batch["labels"] = torch.from_numpy(column.fill_null(UNKNOWN).to_numpy().astype(np.int64))
    return batch


def _matrix(column: pa.ChunkedArray, width: int, name: str, copy: bool) -> Tensor:
    """A list column as `(n, d)` float32: the pieces Arrow keeps it in are copied side by side, one is seen in place."""
    if column.null_count and name in MODALITIES:
        raise ValueError(
            f"{column.null_count} of {len(column)} clips have no {name}: drop them with `keep_paired(split)` first."
        )
    pieces = [vector_values(chunk, width).astype(np.float32, copy=False) for chunk in column.chunks if len(chunk)]
    if len(pieces) == 1 and not copy:
        return torch.from_dlpack(pieces[0])
    # By NumPy: it asks for huge pages, and copies in this thread. benchmarks/reading.py has torch's own beside it.
    matrix = np.empty((len(column), width), dtype=np.float32)
    if pieces:
        np.concatenate(pieces, out=matrix)
    return torch.from_numpy(matrix)


def _width(column: pa.ChunkedArray, name: str) -> int:
    if pa.types.is_fixed_size_list(column.type):
        return column.type.list_size
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise ValueError(f"`{name}` must hold one list of numbers a clip, got {column.type}.")
    widths = pc.unique(pc.list_value_length(column)).drop_null().to_pylist()
    if len(widths) > 1:
        raise ValueError(f"`{name}` rows must be of one width, got {sorted(widths)[:5]}.")
    return widths[0] if widths else 0
