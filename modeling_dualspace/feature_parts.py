"""What a data set is made of, part by part, and how a part becomes Parquet shards."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, List
from tqdm import tqdm

from .feature_schema import bad_rows, class_names_of, to_table

ROW_GROUP = 4096
"""Rows of one row group: what a streaming reader fetches at once, and what the writer holds in memory."""

SHARD_BYTES = 500_000_000
"""Features of one file, before compression, as `push_to_hub` cuts them."""


_NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*")


@dataclass(frozen=True)
class FeatureSource:
    """One configuration of a data set: what its splits are made of, and how to read that.

    Args:
        name: of the configuration.
        features: the schema, see `feature_columns`.
        splits: the parts that make up each split, in order; a part is a path below `data/`, without its ending.
        rows: reads a part: chunks of columns, see `to_table`. It may be asked for the same part again.
        audio: what the audio features come from, `<backbone>@<8 hex of its constants and weights>` or a name.
        visual: likewise.
        synthetic: made up rather than recorded.
        class_names: of a `labels` column, which has no place for them.
        lengths: rows of each part where known, for the progress bar.
        shared: its parts may be named by other configurations too, and are then written once: folds of one set of rows.
        notes: what is known to be wrong with this configuration, one sentence each, for the card.
        facts: values that the card's template names, as `config.facts.…`.
    """

    name: str
    features: Features
    splits: Mapping[str, Sequence[str]]
    rows: Callable[[str], Iterable[Mapping[str, Any]]]
    audio: str = "unknown"
    visual: str = "unknown"
    synthetic: bool = False
    class_names: Sequence[str] | None = None
    lengths: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        parts = [part for split in self.splits.values() for part in split]
        for name in (self.name, *self.splits, *parts):
            if not _NAME.fullmatch(name) or ("/" in name and name not in parts):
                raise ValueError(
                    f"Configurations and parts are named by letters, digits and _ . - / alone, not {name!r}."
                )
        for spec in (self.audio, self.visual):
            if not re.fullmatch(r"[^\s=]+", spec):
                raise ValueError(f"What made the features is named by one word without `=`, not {spec!r}.")
        if "labels" in self.features and self.features["labels"].length != len(self.class_names or ()):
            width = self.features["labels"].length
            raise ValueError(f"A `labels` column of width {width} needs as many class_names, got {self.class_names}.")

    @property
    def names(self) -> list[str] | None:
        """Of the classes, wherever they are kept."""
        return list(self.class_names) if self.class_names is not None else class_names_of(self.features)


@dataclass
class Part:
    """What became of a part."""

    files: list[str] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    dropped: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """How many rows were bad."""
        return len(self.dropped)


def write_part(folder: Path, part: str, source: FeatureSource, shard_bytes: int, bar: tqdm) -> Part:
    """Streams a part into shards, whose number, and so whose names, are known only at the end."""
    done = Part()
    vectors = [name for name, column in source.features.items() if isinstance(column, List)]
    row_bytes = sum(4 * source.features[name].length for name in vectors) + 64
    group = max(1, min(ROW_GROUP, shard_bytes // row_bytes))
    groups_a_shard = max(1, shard_bytes // (row_bytes * group))
    stem = folder / "data" / part
    stem.parent.mkdir(parents=True, exist_ok=True)
    options = {
        # Floats compress best byte by byte; cut by content, a data set that changed a little uploads a little.
        "compression": "zstd",
        "use_dictionary": False,
        "use_byte_stream_split": [f"{name}.list.element" for name in vectors],
        "use_content_defined_chunking": True,
        "write_page_index": True,
    }
    pieces = _pieces(_good_tables(part, source, done, bar), group)
    for first in pieces:
        done.files.append(f"{stem}-{len(done.files)}")
        with pq.ParquetWriter(done.files[-1], source.features.arrow_schema, **options) as writer:
            for table in itertools.chain([first], itertools.islice(pieces, groups_a_shard - 1)):
                writer.write_table(table)
                done.rows, done.size = done.rows + table.num_rows, done.size + table.nbytes
    for number, name in enumerate(done.files):
        final = f"{stem}-{number:05d}-of-{len(done.files):05d}.parquet"
        done.files[number] = str(Path(name).rename(final).relative_to(folder).as_posix())
    return done


def _good_tables(part: str, source: FeatureSource, done: Part, bar: tqdm) -> Iterator[pa.Table]:
    """The part's rows as tables, without those that hold NaN or infinity: they are noted."""
    for columns in source.rows(part):
        table = to_table(columns, source.features, part)
        bar.update(table.num_rows)
        bad = bad_rows(table, source.features)
        if bad.any():
            done.dropped += table["clip_id"].filter(pa.array(bad)).to_pylist()
            table = table.filter(pa.array(~bad))
        yield table


def _pieces(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows, the last excepted, whatever the reader's chunks were."""
    pending: list[pa.Table] = []
    waiting = 0
    for table in tables:
        pending.append(table)
        waiting += table.num_rows
        if waiting >= rows:
            joined = pa.concat_tables(pending)
            for start in range(0, waiting - rows + 1, rows):
                yield joined.slice(start, rows).combine_chunks()
            pending, waiting = [joined.slice(waiting - waiting % rows)], waiting % rows
    if waiting:
        yield pa.concat_tables(pending).combine_chunks()
