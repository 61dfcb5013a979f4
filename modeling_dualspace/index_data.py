"""Rows of an index out of a feature data set: embeddings by a model, and what the data set knows of its clips."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset
from torch import Tensor

from .arrow_tensors import tensors_of, widths_of
from .feature_dataset import dataset_fingerprint
from .feature_schema import MODALITIES as COLUMNS
from .feature_schema import Description, class_names_of
from .moments import check_finite

BATCH = 16_384
"""Clips embedded, and added, at a time."""
_OWN = {*COLUMNS, "clip_id", "label", "labels", "path", "start", "end"}


class Clips:
    """The clips of a split as an index takes them, batch by batch.

    Args:
        split: of a data set, loaded.
        name: of the split, which becomes metadata; as do all columns of texts and numbers that have no other use.
        model: that embeds them.
    """

    def __init__(self, split: Dataset, name: str, model: Any):
        missing = [column for column in ("clip_id", *COLUMNS) if column not in split.column_names]
        if missing:
            raise ValueError(
                f"The split {name} has no column {missing[0]}: an index is built from a data set as "
                f"`dualspace extract` writes it, with clip_id, {' and '.join(COLUMNS)}."
            )
        self.split, self.name, self.model = split, name, model
        self.names = class_names_of(split.features, split.info.description)
        self.device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
        # Columns of vectors that are not ours are no facts about a clip.
        plain = [column for column in split.column_names if column not in _OWN and _is_plain(split.features[column])]
        self._facts = [column for column in ("label", "labels", "path", "start", "end") if column in split.column_names]
        self._metadata = plain

    def without(self, clip_ids: set[str]) -> "Clips":
        """Those that are not there yet."""
        if clip_ids:
            rows = [row for row, name in enumerate(self.split["clip_id"]) if name not in clip_ids]
            self.split = self.split.select(rows)
        return self

    def __len__(self) -> int:
        return len(self.split)

    def batches(self) -> Iterator[tuple[list[str], dict[str, np.ndarray], dict[str, list[Any]]]]:
        """Names, embeddings by modality and facts, as `make_rows` takes them."""
        view = self.split.with_format("arrow")
        for start in range(0, len(view), BATCH):
            table = view[start : start + BATCH]
            names = table["clip_id"].to_pylist()
            yield (
                names,
                {column.removesuffix("_features"): self._embeds(table, column) for column in COLUMNS},
                {
                    "labels": self._labels(table),
                    "metadata": self._metadata_of(table),
                    **{
                        name: table[name].to_pylist() for name in ("path", "start", "end") if name in table.column_names
                    },
                },
            )

    @torch.no_grad()
    def _embeds(self, table: pa.Table, column: str) -> np.ndarray:
        """Embeddings of the clips that have this track, NaN for the others."""
        present = table[column].is_valid().to_numpy()
        whole = table.select([column]).filter(pa.array(present))
        short = column.removesuffix("_features")
        found = np.full((len(present), self.model.config.output_dim), np.nan, dtype=np.float32)
        if present.any():
            features: Tensor = tensors_of(whole, {column: widths_of(whole)[column]})[column]
            check_finite(features, column.replace("_", " "), torch.from_numpy(np.flatnonzero(present)))
            embeds = getattr(self.model, f"get_{short}_embeds")(features.to(self.device))
            found[present] = embeds.float().cpu().numpy()
        return found

    def _labels(self, table: pa.Table) -> list[list[str]]:
        if "label" in table.column_names:
            numbers, feature = table["label"].to_pylist(), self.split.features["label"]
            if isinstance(feature, ClassLabel):
                return [[] if number is None or number < 0 else [feature.names[number]] for number in numbers]
            return [[] if number is None else [str(number)] for number in numbers]
        if "labels" in table.column_names:
            names = self.names
            rows = table["labels"].to_pylist()
            return [
                [names[place] if names else str(place) for place, one in enumerate(row or ()) if one == 1]
                for row in rows
            ]
        return [[] for _ in range(table.num_rows)]

    def _class(self, number: int) -> str:
        return self.names[number] if self.names else str(number)

    def _metadata_of(self, table: pa.Table) -> list[Mapping[str, Any]]:
        rows = table.select(self._metadata).to_pylist() if self._metadata else [{}] * table.num_rows
        return [{"split": self.name} | {key: value for key, value in row.items() if _says(value)} for row in rows]


def source_of(splits: Mapping[str, Dataset]) -> str:
    """The fingerprint of a whole data set: what its card says, or found anew."""
    description = Description.parse(next(iter(splits.values())).info.description)
    return description.fingerprint if description else dataset_fingerprint(splits)


def _says(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _is_plain(feature: Any) -> bool:
    kind = str(getattr(feature, "dtype", ""))
    return kind in ("string", "bool") or kind.startswith(("int", "uint", "float"))
