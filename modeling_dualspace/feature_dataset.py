"""Feature data sets: written once, whole or not at all, as a folder `load_dataset` takes, and read into tensors.

Writing: a `FeatureSource` says what the splits of a configuration are made of and reads them chunk by chunk;
`write_dataset` makes Parquet and a card of one or several. Reading: `to_tensors`, `FeatureBatches`,
`feature_statistics` and `keep_paired` take a split of any data set with these columns, loaded or streaming.
"""

import copy
import gc
import glob
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from tqdm import tqdm

from .arrow_tensors import arrow_view, declared_widths, tensors_of, widths_of
from .data_card import DataCard, write_card
from .distributed import process_index, world_size
from .feature_checks import facts_of, settle_bad_rows
from .feature_parts import ROW_GROUP, SHARD_BYTES, FeatureSource, write_part
from .feature_schema import MODALITIES, ContentHash, Description, class_names_of, in_order
from .files import atomic_folder
from .moments import EMPTY_SPLIT, ColumnMoments

logger = logging.getLogger(__name__)


def write_dataset(
    out: str | Path,
    sources: Sequence[FeatureSource],
    card: DataCard,
    *,
    drop_bad_rows: bool = False,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
    extras: Mapping[str, bytes] | None = None,
) -> dict[str, Description]:
    """Writes a Hub-layout folder: Parquet shards, and a card that declares and describes them.

    Nothing stands under `out` before everything is written and checked: rows that pair up, of the width the schema
    says, finite, each with an id of its own, every split and every class with at least one.

    Args:
        out: the folder, made anew.
        sources: the configurations; the first is what `load_dataset(folder)` loads.
        card: what a person should read about the data.
        drop_bad_rows: leave out rows with NaN or infinity, and say so in the card, instead of refusing them.
        overwrite: replace a former data set.
        shard_bytes: features of one file, before compression.
        progress: show a bar on stderr.
        extras: further files of the folder, by name.

    Returns:
        What each configuration's `ds.info.description` will say.
    """
    if len({source.name for source in sources}) < len(sources) or not sources:
        raise ValueError(f"Configurations need different names, got {[source.name for source in sources]}.")
    check_name(out)
    with atomic_folder(out, overwrite=overwrite) as folder:
        parts = _parts_of(sources)
        lengths = [source.lengths.get(part) for part, source in parts.items()]
        total = None if None in lengths else sum(filter(None, lengths))
        with tqdm(total=total, unit=" rows", desc=Path(out).name, disable=None if progress else True) as bar:
            written = {part: write_part(folder, part, source, shard_bytes, bar) for part, source in parts.items()}
        settle_bad_rows({str(name) for part in written.values() for name in part.dropped}, drop_bad_rows)
        facts = [facts_of(folder, source, written) for source in sources]
        for name, content in (extras or {}).items():
            (folder / name).write_bytes(content)
        write_card(folder, Path(out).resolve().name, card, facts)
    return {fact.name: fact.description for fact in facts}


def check_name(out: str | Path) -> None:
    """Raises where a folder of that name could not be loaded."""
    if glob.has_magic(Path(out).resolve().name):
        raise ValueError(f"`load_dataset` takes a name with any of * ? [ ] for a pattern: call {out} otherwise.")


def _parts_of(sources: Sequence[FeatureSource]) -> dict[str, FeatureSource]:
    """Every part once, with whoever reads it."""
    parts: dict[str, FeatureSource] = {}
    for source in sources:
        for part in (part for split in source.splits.values() for part in split):
            other = parts.setdefault(part, source)
            if other is not source and not (other.shared and source.shared and other.features == source.features):
                raise ValueError(
                    f"The configurations {other.name} and {source.name} both name the part {part}: name one otherwise, "
                    "or say that they share their parts (`shared`), and columns."
                )
    return parts


def dataset_fingerprint(splits: Mapping[str, Dataset | IterableDataset]) -> str:
    """The fingerprint of what was loaded, found anew: for a data set of ours, what its description says.

    Args:
        splits: what `load_dataset` gives without a split.
    """
    first = next(iter(splits.values()))
    content = ContentHash(first.features)
    for name in in_order(splits):
        view = splits[name].with_format("arrow")
        if isinstance(view, IterableDataset):
            content.add(name, view.iter(ROW_GROUP))
        else:
            content.add(name, (view[start : start + ROW_GROUP] for start in range(0, len(view), ROW_GROUP)))
    return content.result(class_names_of(first.features, first.info.description))


def to_tensors(split: Dataset, *, copy: bool = True) -> dict[str, Tensor]:
    """A split as one batch of tensors: `index`, `audio_features`, `visual_features`, and `labels` where there are any.

    Args:
        split: a loaded split, or any selection of its rows.
        copy: into memory of its own, once. With False, columns that lie in one piece in Arrow are seen where they lie,
            memory-mapped: never write into those, the process would end there and then.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> split = Dataset.from_dict({"audio_features": [[1.0, 2.0]], "visual_features": [[3.0]], "label": [4]})
        >>> columns = to_tensors(split)
        >>> columns["audio_features"], columns["labels"]
        (tensor([[1., 2.]]), tensor([4]))

        ```
    """
    if isinstance(split, IterableDataset):
        raise ValueError("A streaming split is not all at hand: walk through it with FeatureBatches, or load it whole.")
    table = arrow_view(split)[:]
    return {"index": torch.arange(table.num_rows), **tensors_of(table, widths_of(table), copy)}


class FeatureBatches:
    """A data pass: every row once, in order, in batches of tensors, as often as it is walked through.

    Nothing but the batch at hand is in memory, unless a loaded split is shuffled: then all of it is, and a batch is a
    selection of its rows. Under several processes each gets its slice of every batch, so that together they see the
    batches that one process sees; a slice may be empty. A stream is read by every process, for the same reason.

    Args:
        split: a loaded split or a streaming one.
        batch_size: rows of a batch over all processes; the last has what is left.
        seed: shuffle by `(seed, epoch)`; None keeps the order. A stream is shuffled block by block.
        even: share the rows of an epoch (of a stream, of a block) out evenly instead, over as many batches: none is
            then much smaller than the others.
        device: keep the whole of a loaded split there, as tensors.
        process_index: which process this is; None asks when the batches are walked through.
        num_processes: among how many; None likewise.
        block: rows of a block.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> split = Dataset.from_dict({"audio_features": [[0.0]] * 5, "visual_features": [[1.0]] * 5})
        >>> [batch["index"].tolist() for batch in FeatureBatches(split, 2)]
        [[0, 1], [2, 3], [4]]

        ```
    """

    def __init__(
        self,
        split: Dataset | IterableDataset,
        batch_size: int = 1024,
        *,
        seed: int | None = None,
        even: bool = False,
        device: torch.device | str | None = None,
        process_index: int | None = 0,
        num_processes: int | None = 1,
        block: int = 65_536,
    ):
        if batch_size < 1:
            raise ValueError(f"A batch must have at least one row, got batch_size={batch_size}.")
        if None not in (process_index, num_processes) and not 0 <= process_index < num_processes:  # type: ignore[operator]
            raise ValueError(f"Processes count from 0: {process_index=} is none of {num_processes}.")
        self.split, self.batch_size, self.seed, self.even, self.device = split, batch_size, seed, even, device
        self.process_index, self.num_processes, self.block = process_index, num_processes, block
        self.epoch, self.skip = 0, 0
        self._resident: dict[str, Tensor] | None = None

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """The next walk is that of this epoch, another order when shuffled; its first `skip` batches are left out."""
        self.epoch, self.skip = epoch, skip

    def shuffled(self, batch_size: int, seed: int) -> "FeatureBatches":
        """The same rows, and where they are resident the same memory, shuffled into even batches."""
        if self.device is not None:
            self._whole(self.split)
        other = copy.copy(self)
        other.batch_size, other.seed, other.even = batch_size, seed, True
        return other

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        skip, self.skip = self.skip, 0
        return islice(self._walk(skip), skip, None) if isinstance(self.split, IterableDataset) else self._walk(skip)

    def _walk(self, skip: int) -> Iterator[dict[str, Tensor]]:
        if isinstance(self.split, IterableDataset):  # what is left out has to be read all the same
            if self.seed is None:
                return self._streamed(self.split, self.batch_size)
            block = self.block if self.even else max(1, self.block // self.batch_size) * self.batch_size
            return self._shuffled(self._streamed(self.split, block), self.seed, 0)
        if self.seed is not None:
            return self._shuffled([self._whole(self.split)], self.seed, skip)
        return self._in_order(self.split, skip)

    def __len__(self) -> int:
        if isinstance(self.split, IterableDataset):
            raise TypeError("a stream does not know its length")
        return -(-len(self.split) // self.batch_size)

    def _slices(self, rows: int, skip: int = 0) -> Iterator[slice]:
        count = -(-rows // self.batch_size)
        if not count:
            return
        edges = [
            rows * batch // count if self.even else min(batch * self.batch_size, rows) for batch in range(count + 1)
        ]
        for start, stop in pairwise(edges[skip:]):
            share = self._share(stop - start)
            yield slice(start + share.start, start + share.stop)

    def _share(self, size: int) -> slice:
        """Which rows of a batch are this process's."""
        index = process_index() if self.process_index is None else self.process_index
        count = world_size() if self.num_processes is None else self.num_processes
        return slice(size * index // count, size * (index + 1) // count)

    def _in_order(self, split: Dataset, skip: int) -> Iterator[dict[str, Tensor]]:
        if self.device is not None:
            whole = self._whole(split)
            yield from (
                {name: column[part] for name, column in whole.items()} for part in self._slices(len(split), skip)
            )
            return
        view = arrow_view(split)
        widths = declared_widths(view) or widths_of(view[:])
        for part in self._slices(len(split), skip):
            yield {"index": torch.arange(part.start, part.stop), **tensors_of(view[part], widths)}

    def _shuffled(self, blocks: Iterable[dict[str, Tensor]], seed: int, skip: int) -> Iterator[dict[str, Tensor]]:
        generator = np.random.default_rng([seed, self.epoch])
        for block in blocks:
            order = torch.from_numpy(generator.permutation(len(block["index"]))).to(block["index"].device)
            for part in self._slices(len(order), skip):
                yield {name: column.index_select(0, order[part]) for name, column in block.items()}

    def _whole(self, split: Dataset) -> dict[str, Tensor]:
        if self._resident is None:
            tensors = to_tensors(split)
            self._resident = {name: column.to(self.device or "cpu") for name, column in tensors.items()}
        return self._resident

    def _streamed(self, stream: IterableDataset, rows: int) -> Iterator[dict[str, Tensor]]:
        """Blocks of `rows` rows, of which this process takes its share unless they are to be shuffled first."""
        first, widths = 0, dict[str, int]()
        for table in _left_cleanly(arrow_view(stream).iter(rows)):
            widths = widths | {name: width for name, width in widths_of(table).items() if width or name not in widths}
            share = self._share(table.num_rows) if self.seed is None else slice(0, table.num_rows)
            index = torch.arange(first + share.start, first + share.stop)
            yield {"index": index, **tensors_of(table.slice(share.start, share.stop - share.start), widths)}
            first += table.num_rows


def _left_cleanly(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same; whoever stops early leaves no thread of Arrow's reading on, which would hang the end of the process."""
    whole = False
    try:
        yield from tables
        whole = True
    finally:
        del tables
        if not whole:  # https://github.com/apache/arrow/issues/45214
            gc.collect()


def feature_statistics(batches: Iterable[Mapping[str, Tensor]]) -> dict[str, Any]:
    """One pass over batches: rows, and mean, std, min, max and share of zeros of each modality's columns.

    Example:
        ```python
        >>> batch = {"audio_features": torch.tensor([[0.0], [2.0]]), "visual_features": torch.ones(2, 3)}
        >>> statistics = feature_statistics([batch])
        >>> statistics["rows"], statistics["audio_features"]["mean"], statistics["audio_features"]["zeros"]
        (2, tensor([1.], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))

        ```
    """
    rows, moments, extremes = 0, {}, {}
    labels: Counter[int] = Counter()
    for batch in batches:
        rows += len(batch[MODALITIES[0]])
        for name in MODALITIES:
            column = batch[name]
            if not len(column):
                continue
            low, high, zeros = column.amin(dim=0), column.amax(dim=0), (column == 0).sum(dim=0)
            if name not in moments:
                moments[name] = ColumnMoments(column.shape[1], name.removesuffix("_features"))
                extremes[name] = [low, high, zeros]
            else:
                before = extremes[name]
                extremes[name] = [torch.minimum(before[0], low), torch.maximum(before[1], high), before[2] + zeros]
            moments[name].update(column)
        if "labels" in batch and batch["labels"].ndim == 1:
            labels.update(batch["labels"].tolist())
    if not rows:
        raise ValueError(EMPTY_SPLIT)
    statistics: dict[str, Any] = {"rows": rows}
    for name, moment in moments.items():
        low, high, zeros = extremes[name]
        std = moment.variance().sqrt()
        statistics[name] = {"mean": moment.mean, "std": std, "min": low, "max": high, "zeros": zeros.double() / rows}
    return statistics | ({"labels": dict(sorted(labels.items()))} if labels else {})


def keep_paired(split: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The clips that have both a sound and a picture: what training needs, and what search does not.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> split = Dataset.from_dict({"audio_features": [[1.0], None], "visual_features": [[2.0], [3.0]]})
        >>> len(keep_paired(split))
        1

        ```
    """
    if isinstance(split, IterableDataset):
        return split.filter(
            lambda audio, visual: audio is not None and visual is not None, input_columns=list(MODALITIES)
        )
    rows = paired_rows(split)
    if len(rows) < len(split):
        logger.warning("%d of %d clips lack a sound or a picture and are left out", len(split) - len(rows), len(split))
    return split.select(rows)


def paired_rows(split: Dataset) -> np.ndarray:
    """The numbers of the clips that have both a sound and a picture."""
    table = arrow_view(split)[:]
    return np.flatnonzero(np.logical_and(*(table[name].is_valid().to_numpy() for name in MODALITIES)))
