"""Columns, checks and fingerprints."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from datasets import Features, Value

from modeling_dualspace.feature_schema import (
    ContentHash,
    Description,
    bad_rows,
    class_names_of,
    feature_columns,
    in_order,
    to_table,
)

FEATURES = feature_columns(2, 3, ["dog", "drum"], extra={"path": Value("string"), "start": Value("float64")})


def columns(rows=4, **changes):
    generator = np.random.default_rng(0)
    return {
        "clip_id": [f"clip/{row}" for row in range(rows)],
        "audio_features": generator.standard_normal((rows, 2)).astype(np.float32),
        "visual_features": generator.standard_normal((rows, 3)).astype(np.float32),
        "label": np.arange(rows) % 2,
        "path": [None, *(f"{row}.mp4" for row in range(1, rows))],
        "start": np.arange(rows) / 2,
    } | changes


def fingerprint(table, features=FEATURES, names=("dog", "drum"), split="train"):
    content = ContentHash(features)
    content.add(split, [table])
    return content.result(names)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "f2", "<i2"])
def test_any_type_and_byte_order_becomes_float32(dtype):
    audio = np.array([[1, 2], [3, 4], [-5, 6], [7, 8]]).astype(dtype)
    table = to_table(columns(audio_features=audio), FEATURES, "here")
    assert table["audio_features"].to_pylist() == audio.astype(np.float32).tolist()


def test_columns_may_come_in_any_order():
    backwards = dict(reversed(columns().items()))
    assert to_table(backwards, FEATURES, "here").equals(to_table(columns(), FEATURES, "here"))


def test_a_modality_may_be_missing_and_a_class_unknown():
    table = to_table(
        columns(audio_features=[np.ones(2), None, np.ones(2), None], label=np.array([0, -100, -1, 1])), FEATURES, "here"
    )
    assert table["audio_features"].to_pylist() == [[1, 1], None, [1, 1], None]
    assert table["label"].to_pylist() == [0, None, None, 1]
    assert bad_rows(table, FEATURES).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_features": np.ones((4, 5))}, r"train: expected `audio_features` rows of width 2, got .*\(4, 5\)"),
        ({"audio_features": np.ones((3, 2))}, "as many rows in every column"),
        ({"label": np.array([0, 1, 2, 0])}, r"label 2 of row 2 is out of range.*dog, drum"),
        ({"label": np.array([0.0, 1.0, 0.0, 1.0])}, "must be whole numbers"),
        ({"path": ["a", "b", "\udcff", "d"]}, "values that can be stored"),
        ({"path": ["a", "b\0", "c", "d"]}, "one of them holds a NUL"),
        ({"label": np.array([0, 1, 2**63 + 1, 0], dtype="u8")}, "of row 2 is out of range"),
        ({"clip_id": [1, 2, 3, 4]}, "`clip_id` must hold string"),
        ({"extra": [1, 2, 3, 4]}, "expected the columns"),
    ],
)
def test_columns_that_do_not_fit_are_refused_in_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        to_table(columns(**changes), FEATURES, "train")


def test_rows_that_are_not_finite_are_found():
    audio = np.ones((4, 2))
    audio[1, 0], audio[2, 1] = np.nan, 1e60  # what float32 cannot hold is infinite
    visual = np.ones((4, 3))
    visual[3] = [np.inf, -np.inf, 0]
    table = to_table(columns(audio_features=audio, visual_features=visual), FEATURES, "here")
    assert bad_rows(table, FEATURES).tolist() == [False, True, True, True]


def test_the_fingerprint_is_the_hash_the_contract_describes():
    found = fingerprint(to_table(columns(), FEATURES, "here"))
    raw = columns()
    content = {
        "clip_id": b"".join(name.encode() + b"\0" for name in raw["clip_id"]),
        "audio_features": raw["audio_features"].astype("<f4").tobytes(),
        "visual_features": raw["visual_features"].astype("<f4").tobytes(),
        "label": raw["label"].astype("<i8").tobytes(),
        "path": b"\xff\0" + b"".join(name.encode() + b"\0" for name in raw["path"][1:]),
        "start": raw["start"].astype("<f8").tobytes(),
    }
    parts = [b"train", b"4", *(hashlib.sha256(column).digest() for column in content.values()), b"dog", b"drum"]
    expected = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
    assert found == expected.hexdigest()[:16]
    assert found == "2f88d3f2844889b0"  # runs and indexes record it: it may not change


def test_the_fingerprint_does_not_depend_on_chunks_and_offsets():
    table = to_table(columns(9), FEATURES, "here")
    pieces = [table.slice(0, 4), table.slice(4, 0), table.slice(4, 5)]
    content = ContentHash(FEATURES)
    assert content.add("train", [pa.concat_tables(pieces[:2]), *pieces[2].to_batches(max_chunksize=2)]) == 9
    assert content.result(["dog", "drum"]) == fingerprint(table)


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_id": ["clip/0", "clip/1", "clip/2", "clip/4"]},
        {"clip_id": ["clip/0clip", "/1", "clip/2", "clip/3"]},
        {"label": np.array([0, 1, 0, 0])},
        {"label": np.array([0, 1, 0, -100])},
        {"audio_features": np.zeros((4, 2))},
        {"audio_features": [None, *columns()["audio_features"][1:]]},
        {"path": [None, None, "2.mp4", "3.mp4"]},
        {"start": np.array([0, 0.5, 1, 1.6])},
    ],
)
def test_the_fingerprint_changes_with_any_value(changes):
    before = fingerprint(to_table(columns(), FEATURES, "here"))
    assert fingerprint(to_table(columns(**changes), FEATURES, "here")) != before


def test_the_fingerprint_does_not_depend_on_the_order_of_columns():
    order = ["label", "start", "visual_features", "path", "clip_id", "audio_features"]
    table = to_table(columns(), FEATURES, "here").select(order)
    assert fingerprint(table, Features({name: FEATURES[name] for name in order})) == fingerprint(
        to_table(columns(), FEATURES, "here")
    )


def test_the_fingerprint_changes_with_names_and_splits():
    table = to_table(columns(), FEATURES, "here")
    found = {fingerprint(table), fingerprint(table, names=("drum", "dog")), fingerprint(table, split="test")}
    assert len(found) == 3


def test_a_description_survives_being_written_and_read():
    description = Description("0" * 16, "vggish@1a2b3c4d", "unknown", True, ("Train horn", 'a "b"'))
    assert Description.parse(str(description)) == description
    assert Description.parse("some other data set") is None


def test_class_names_are_found_wherever_they_are_kept():
    assert class_names_of(FEATURES) == ["dog", "drum"]
    several = feature_columns(2, 3, ["dog", "drum"], multi_label=True)
    assert class_names_of(several, str(Description("0", "a", "v", False, ("dog", "drum")))) == ["dog", "drum"]
    assert class_names_of(feature_columns(2, 3)) is None


def test_splits_come_in_their_usual_order():
    assert in_order(["test", "extra", "train"]) == ["train", "test", "extra"]
