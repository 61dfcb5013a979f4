"""What was written is read again: counted, checked, and given its fingerprint."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .data_card import UNLABELLED, UNPAIRED, ConfigFacts, SplitFacts
from .feature_parts import FeatureSource, Part
from .feature_schema import MODALITIES, ContentHash, Description, in_order, vector_values

logger = logging.getLogger(__name__)


def settle_bad_rows(names: set[str], drop: bool) -> None:
    """Refuses rows that are not finite, or says that they are left out."""
    if not names:
        return
    some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    if not drop:
        raise ValueError(
            f"{len(names)} rows hold NaN or infinity ({some}): mend the source, or leave them out with --drop-bad-rows."
        )
    logger.warning("%d rows hold NaN or infinity and are left out: %s", len(names), some)


def facts_of(folder: Path, source: FeatureSource, written: Mapping[str, Part]) -> ConfigFacts:
    """What a configuration holds, found by reading what was written: the fingerprint is that of the files."""
    content, splits = ContentHash(source.features), []
    ids: list[pa.Array] = []
    vectors: dict[str, dict[str, list[np.ndarray]]] = {}
    for split in in_order(source.splits):
        parts = [written[part] for part in source.splits[split]]
        files = [name for part in parts for name in part.files]
        counts: Counter[str] = Counter()
        rows_of = vectors.setdefault(split, {name: [] for name in MODALITIES})
        if not content.add(split, _tallied(_row_groups(folder, files), source, ids, counts, rows_of)):
            raise ValueError(f"Split {split} of configuration {source.name} is empty: there is nothing to write.")
        rows, size, dropped = (sum(getattr(part, name) for part in parts) for name in ("rows", "size", "left_out"))
        splits.append(SplitFacts(split, rows, size, files, dict(counts), dropped))
    _check_ids(pa.chunked_array(ids), source.name)
    _check_classes(splits, source)
    description = Description(
        content.result(source.names),
        source.audio,
        source.visual,
        source.synthetic,
        tuple(source.class_names) if source.class_names is not None else None,
    )
    return ConfigFacts(source, description, splits, _shared_vectors(vectors))


def _row_groups(folder: Path, files: Iterable[str]) -> Iterator[pa.Table]:
    for name in files:
        # Group by group: `iter_batches` decodes ahead, the further the longer the file.
        with pq.ParquetFile(folder / name) as file:
            yield from map(file.read_row_group, range(file.num_row_groups))


def _tallied(
    tables: Iterable[pa.Table],
    source: FeatureSource,
    ids: list[pa.Array],
    counts: Counter[str],
    vectors: Mapping[str, list[np.ndarray]],
) -> Iterator[pa.Table]:
    """The same tables; their ids, counts and hashes of vectors are taken down as they pass."""
    for table in tables:
        ids += table["clip_id"].chunks
        counts.update(_count_classes(table, source))
        for name, hashes in vectors.items():
            column = table[name].combine_chunks()
            hashes.append(_row_hashes(vector_values(column.drop_null(), source.features[name].length)))
        audio, visual = (table[name].is_null() for name in MODALITIES)
        counts[UNPAIRED] += pc.sum(pc.or_(audio, visual).cast(pa.int64())).as_py() or 0
        yield table


def _row_hashes(rows: np.ndarray) -> np.ndarray:
    """A number a row, uint64: a sum of its bits with random odd weights, modulo 2^64."""
    weights = 2 * np.random.default_rng(0).integers(2**62, size=rows.shape[1]).astype(np.uint64) + np.uint64(1)
    bits = np.ascontiguousarray(rows).view(np.uint32)
    sums = [bits[start : start + 256] @ weights for start in range(0, len(bits), 256)]
    return np.concatenate(sums) if sums else np.zeros(0, dtype=np.uint64)


def _shared_vectors(vectors: Mapping[str, Mapping[str, list[np.ndarray]]]) -> list[str]:
    """Which splits hold the very same vector: a clip that was taken twice, or silence."""
    notes = []
    for first, second in combinations(vectors, 2):
        for name in MODALITIES:
            left, right = (np.concatenate(vectors[split][name]) for split in (first, second))
            both = np.intersect1d(left, right)
            if len(both):
                kind = name.removesuffix("_features")
                notes.append(
                    f"Vectors of {kind} features that occur, bit for bit, in {first} and {second}: {len(both)}."
                )
    return notes


def _count_classes(table: pa.Table, source: FeatureSource) -> dict[str, int]:
    names = source.names or []
    if "labels" in source.features:
        members = np.nan_to_num(vector_values(table["labels"].combine_chunks(), len(names))).sum(axis=0)
        return {name: int(count) for name, count in zip(names, members, strict=True)}
    if "label" not in source.features:
        return {}
    labels = table["label"].fill_null(-1).to_numpy() + 1
    counts = np.bincount(labels, minlength=len(names) + 1)
    return {name: int(count) for name, count in zip([UNLABELLED, *names], counts, strict=True) if count}


def _check_ids(ids: pa.ChunkedArray, config: str) -> None:
    if ids.null_count:
        raise ValueError(f"{ids.null_count} rows of configuration {config} have no clip_id: each needs one of its own.")
    counts = pc.value_counts(ids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ValueError(
            f"{len(twice)} clip ids of configuration {config} occur more than once "
            f"({', '.join(twice[:5].to_pylist())}): an id is one clip's own, over all splits."
        )


def _check_classes(splits: Sequence[SplitFacts], source: FeatureSource) -> None:
    names = source.names or []
    absent = [name for name in names if not any(split.counts.get(name) for split in splits)]
    if absent:
        raise ValueError(
            f"Configuration {source.name} has no clip of {', '.join(repr(name) for name in absent)}: "
            "leave the class out of the list of classes, or look where its clips went."
        )
