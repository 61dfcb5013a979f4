"""Tensors out of the Arrow columns of a feature data set."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from .feature_schema import MODALITIES, vector_values
from .targets import UNKNOWN


def arrow_view(split: Dataset) -> Dataset:
    """The columns a model needs, as Arrow tables."""
    missing = [name for name in MODALITIES if name not in split.column_names]
    if missing:
        raise ValueError(
            f"Expected the columns {' and '.join(MODALITIES)}, got {split.column_names}: rename yours with "
            "`rename_column`."
        )
    wanted = [name for name in (*MODALITIES, "label", "labels") if name in split.column_names]
    return split.select_columns(wanted).with_format("arrow")


def tensors_of(table: pa.Table, copy: bool = True) -> dict[str, Tensor]:
    """A table's features and labels as tensors; an unknown class is -100, unknown memberships are NaN."""
    batch = {name: _matrix(table[name], name, copy) for name in MODALITIES}
    if "labels" in table.column_names:
        if table["labels"].null_count < table.num_rows:
            batch["labels"] = _matrix(table["labels"], "labels", copy)
    elif "label" in table.column_names:
        column = table["label"]
        if not pa.types.is_integer(column.type):
            raise ValueError(
                f"`label` must be a class number, got {column.type}: `split.class_encode_column('label')` makes one."
            )
        batch["labels"] = torch.from_numpy(column.fill_null(UNKNOWN).to_numpy().astype(np.int64))
    return batch


def _matrix(column: pa.ChunkedArray, name: str, copy: bool) -> Tensor:
    """A list column as `(n, d)` float32: the pieces Arrow keeps it in are copied side by side, one is seen in place."""
    if column.null_count and name in MODALITIES:
        raise ValueError(
            f"{column.null_count} of {len(column)} clips have no {name}: drop them with `keep_paired(split)` first."
        )
    width = _width(column, name)
    pieces = [vector_values(chunk, width).astype(np.float32, copy=False) for chunk in column.chunks if len(chunk)]
    if len(pieces) == 1 and not copy:
        return torch.from_dlpack(pieces[0])
    # NumPy asks for huge pages, and copies in this thread: touching fresh memory page by page, or waiting for a pool of
    # threads, costs many times the copy.
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
