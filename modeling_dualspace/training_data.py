"""The splits of a data set as a trainer walks them: resident where they fit, read from disk where they do not."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset, concatenate_datasets

from .distributed import anywhere
from .feature_dataset import FeatureBatches, dataset_fingerprint, keep_paired
from .feature_schema import MODALITIES, Description, class_names_of
from .modeling_crossmodal import Batch

PASS = 1024
"""Rows of a batch of a data pass over all processes, where nothing learns."""
BLOCK = 65_536
"""Rows that are shuffled together where a split is read from disk."""


class TrainingData:
    """What there is to learn from, and where it is kept.

    Args:
        splits: `train`, and `validation` where there is one; what else there is, is not looked at.
        device: where models learn.
        features: see `TrainSettings`.
    """

    def __init__(
        self,
        splits: Mapping[str, Dataset],
        device: torch.device | str = "cpu",
        features: str = "auto",
    ):
        if "train" not in splits:
            raise ValueError(
                f"A model learns from a split `train`, and this data set has {', '.join(splits) or 'none'}."
            )
        for name, split in splits.items():
            if isinstance(split, IterableDataset):
                raise ValueError(f"The split {name} is a stream: load it whole, it is read from disk if need be.")
        self.splits = {name: keep_paired(splits[name]) for name in ("train", "validation") if name in splits}
        empty = next((name for name, split in self.splits.items() if not len(split)), None)
        if empty == "train":
            raise ValueError("The split train has no clip with both a sound and a picture: there is nothing to learn.")
        if empty:
            del self.splits[empty]
        self.device = torch.device(device)
        self.features = _place(self, features)
        train = self.splits["train"]
        self.config = train.info.config_name
        self.description = Description.parse(train.info.description)
        self.class_names = class_names_of(train.features, train.info.description)
        self.fingerprint = _fingerprint(splits)
        self._passes: dict[str, FeatureBatches] = {}

    @property
    def labelled(self) -> bool:
        """Whether anybody annotated any of the clips that are learnt from."""
        split = self.splits["train"]
        columns = {"label", "labels"} & split.features.keys()
        return any(map(_is_known, split.with_format(None)[columns.pop()])) if columns else False

    @property
    def widths(self) -> dict[str, int]:
        """Of `audio_dim` and `visual_dim`, as the first batch has them."""
        first = next(iter(FeatureBatches(self.splits["train"], 1)))
        return {name.replace("features", "dim"): first[name].shape[1] for name in MODALITIES}

    @property
    def num_labels(self) -> int | None:
        """How many classes there are; None where nobody annotated."""
        if self.class_names is not None:
            return len(self.class_names)
        if not self.labelled:
            return None
        # Of whole splits: a process that looked at its share alone might count fewer than another.
        if "labels" in self.splits["train"].column_names:
            return len(next(row for row in self.splits["train"]["labels"] if row is not None))
        known = [split for split in self.splits.values() if "label" in split.column_names]
        found = [pc.max(split.with_format("arrow")[:]["label"]).as_py() for split in known]
        return max((number + 1 for number in found if number is not None), default=0) or None

    def record(self, *names: str) -> dict[str, Any]:
        """What a model keeps of what it learnt from."""
        rows = {name: len(self.splits[name]) for name in names}
        known = {} if self.description is None else {"synthetic": self.description.synthetic}
        return {"fingerprint": self.fingerprint, "config": self.config, "rows": rows, **known}

    def passes(self, name: str) -> FeatureBatches | None:
        """A data pass over a split: this process's share, in order. None where there is no such split."""
        if name not in self.splits:
            return None
        if name not in self._passes:
            self._passes[name] = self._batches(self.splits[name], PASS)
        return self._passes[name]

    def steps(self, batch_size: int, seed: int) -> "Epochs":
        """Shuffled batches of the training split."""
        return Epochs(self, batch_size, seed)

    @property
    def blocks(self) -> int:
        """In how many an epoch is shuffled: one, unless it is read from disk."""
        return -(-len(self.splits["train"]) // BLOCK) if self.features == "stream" else 1

    def block_sizes(self) -> list[int]:
        """Rows of each."""
        rows = len(self.splits["train"])
        size = -(-rows // self.blocks)
        return [min(size, rows - start) for start in range(0, rows, size)]

    def smallest_batch(self, batch_size: int) -> int:
        """Rows of the smallest global batch, where none has more than `batch_size`."""
        return min(rows // -(-rows // batch_size) for rows in self.block_sizes())

    def joined(self) -> "TrainingData":
        """Train and validation as one split to learn from, for a refit."""
        other = object.__new__(TrainingData)
        other.__dict__ |= self.__dict__
        other.splits = {"train": concatenate_datasets(list(self.splits.values()))}
        other._passes = {}
        return other

    def release(self) -> None:
        """Lets go of what is resident."""
        self._passes = {}

    def _batches(self, split: Dataset | IterableDataset, batch_size: int, **settings: Any) -> FeatureBatches:
        places: dict[str, Any] = {"device": self.device, "memory": "cpu"}
        place = places.get(self.features)
        return FeatureBatches(split, batch_size, device=place, process_index=None, num_processes=None, **settings)


def _is_known(label: Any) -> bool:
    """Of a class, or of memberships; neither None nor a negative number nor a NaN says any."""
    numbers = label if isinstance(label, list) else [label]
    return all(number is not None and number >= 0 for number in numbers)


class Epochs:
    """Epochs of shuffled batches, each this process's share of a global one, on the device.

    Rows of an epoch are shared out evenly over its batches, so that none is much smaller than the others.
    """

    def __init__(self, data: TrainingData, batch_size: int, seed: int):
        split = data.splits["train"]
        self.rows, self.device = len(split), data.device
        blocks = data.block_sizes()
        if data.features == "stream":
            stream = split.to_iterable_dataset()
            self._batches = data._batches(stream, batch_size, seed=seed, even=True, block=blocks[0])
        else:
            whole = data.passes("train")
            assert whole is not None
            self._batches = whole.shuffled(batch_size, seed)
        self._count = sum(-(-rows // batch_size) for rows in blocks)

    def __len__(self) -> int:
        return self._count

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one, without the first `skip`."""
        self._batches.set_epoch(number, skip)
        for batch in self._batches:
            yield {name: column.to(self.device, non_blocking=True) for name, column in batch.items()}


def _place(data: TrainingData, asked: str) -> str:
    """Where features go: half of what is free may be taken, since a refit holds the rows of both splits once more."""
    if asked != "auto":
        return asked
    values = sum(len(split) for split in data.splits.values()) * sum(data.widths.values())
    needed = 8 * values
    # All processes keep them in the same kind of place, or they would not walk in step.
    free = torch.cuda.mem_get_info(data.device)[0] if data.device.type == "cuda" else 0
    share = psutil.virtual_memory().available / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    too_much, far_too_much = anywhere(needed > free, needed > share, device=data.device)
    if data.device.type == "cuda" and not too_much:
        return "device"
    if far_too_much:
        return "stream"
    return "device" if data.device.type == "cpu" else "memory"


def _fingerprint(splits: Mapping[str, Dataset]) -> str:
    description = Description.parse(splits["train"].info.description)
    sizes = {name: facts.num_examples for name, facts in (splits["train"].info.splits or {}).items()}
    # What the card says is not true of a selection of its rows.
    if description and all(sizes.get(name, len(split)) == len(split) for name, split in splits.items()):
        return description.fingerprint
    common = set.intersection(*(set(split.column_names) for split in splits.values()))
    wanted = [name for name in splits["train"].column_names if name in common]
    return dataset_fingerprint({name: split.select_columns(wanted) for name, split in splits.items()})
