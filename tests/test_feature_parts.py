"""Parts cut into row groups and shards."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features
from tqdm import tqdm

from modeling_dualspace.feature_parts import FeatureSource, _pieces, write_part
from modeling_dualspace.feature_schema import feature_columns

FEATURES = feature_columns(2, 3, ["dog", "drum"])


@pytest.mark.parametrize("sizes", [[5, 5, 5], [1] * 15, [15], [0, 9, 0, 6], [4, 4, 7]])
def test_pieces_hold_the_same_rows_whatever_the_chunks_were(sizes):
    edges = np.cumsum([0, *sizes])
    tables = [pa.table({"row": np.arange(start, stop)}) for start, stop in zip(edges, edges[1:], strict=False)]
    pieces = list(_pieces(iter(tables), 4))
    assert [piece.num_rows for piece in pieces] == [4, 4, 4, 3]
    assert pa.concat_tables(pieces)["row"].to_pylist() == list(range(15))


def test_nothing_gives_no_piece():
    assert list(_pieces(iter([pa.table({"row": pa.array([], pa.int64())})]), 4)) == []


def written(folder, rows, shard_bytes):
    def read(part):
        for start in range(0, rows, 3):
            size = min(3, rows - start)
            yield {
                "clip_id": [f"clip/{row}" for row in range(start, start + size)],
                "audio_features": np.full((size, 2), start, dtype=np.float32),
                "visual_features": np.zeros((size, 3)),
                "label": np.arange(start, start + size) % 2,
            }

    source = FeatureSource("default", FEATURES, {"train": ["default/train"]}, read)
    return write_part(folder, "default/train", source, shard_bytes, tqdm(disable=True))


def test_shards_are_full_but_the_last_and_in_order(tmp_path):
    part = written(tmp_path, 20, shard_bytes=7 * 84)  # 84 bytes a row: five floats, and 64 for the rest
    assert part.files == [f"data/default/train-{number:05d}-of-00003.parquet" for number in range(3)]
    tables = [pq.read_table(tmp_path / name) for name in part.files]
    assert [table.num_rows for table in tables] == [7, 7, 6] and part.rows == 20
    assert pa.concat_tables(tables)["clip_id"].to_pylist() == [f"clip/{row}" for row in range(20)]
    assert {path.name for path in (tmp_path / "data" / "default").iterdir()} == {name[13:] for name in part.files}


def test_a_row_larger_than_a_shard_has_one_of_its_own(tmp_path):
    assert len(written(tmp_path, 3, shard_bytes=1).files) == 3


def test_files_carry_the_schema_for_whoever_opens_them_without_the_card(tmp_path):
    part = written(tmp_path, 4, shard_bytes=10_000)
    schema = pq.read_schema(tmp_path / part.files[0])
    assert Features.from_arrow_schema(schema) == FEATURES
