"""Reading what others published: arrays of any byte order and shape, labels in any form, files in any condition."""

import os
import subprocess
import sys
from fractions import Fraction

import h5py
import numpy as np
import pytest

from modeling_dualspace import feature_sources
from modeling_dualspace.feature_sources import (
    RowsOfArrays,
    blocks,
    class_numbers,
    column,
    digest_of_sources,
    open_h5,
    six_key_rows,
    vectors,
)

LABELS = np.array([3, 0, 1, 2, 2, 0])
ROWS = {"train": 60, "test": 20}


def write_h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.fixture(scope="module")
def arrays():
    """The six arrays of four classes: audio 3 wide, visual 5 wide."""
    generator = np.random.default_rng(0)
    found = {}
    for split, rows in ROWS.items():
        found[f"audio_{split}"] = generator.standard_normal((rows, 3))
        found[f"visual_{split}"] = generator.standard_normal((rows, 5)).astype(np.float32)
        found[f"lab_{split}"] = np.arange(rows) % 4
    return found


@pytest.fixture
def six_keys(tmp_path, arrays):
    return write_h5(tmp_path / "six.h5", **arrays)


# Vectors.


@pytest.mark.parametrize("stored", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2", "|u1", "<i2", ">i4", "<u8"])
def test_rows_of_any_number_type_and_byte_order_become_the_same_numbers_as_float32(stored, tmp_path):
    values = (100 * np.random.default_rng(0).random((9, 4))).astype(stored)
    expected = np.array([[np.float32(item) for item in row] for row in values.tolist()], dtype=np.float32)
    with open_h5(write_h5(tmp_path / "a.h5", rows=values)) as file:
        assert file["rows"].dtype == np.dtype(stored)
        for array in (values, file["rows"]):
            found = vectors(array, 2, 7, 4, "rows")
            assert found.dtype.isnative and found.dtype == np.float32 and found.flags.c_contiguous
            assert found.tobytes() == expected[2:7].tobytes()


def test_a_double_is_rounded_to_the_nearest_single():
    doubles = np.random.default_rng(0).standard_normal((50, 8))
    for double, single in zip(doubles.ravel().tolist(), vectors(doubles, 0, 50, 8, "").ravel(), strict=True):
        neighbours = [np.nextafter(single, np.float32(towards)) for towards in (-np.inf, np.inf)]
        error = abs(Fraction(float(single)) - Fraction(double))
        assert all(error <= abs(Fraction(float(other)) - Fraction(double)) for other in neighbours)


@pytest.mark.parametrize("axes", [(10,), (3, 7, 7)])
@pytest.mark.parametrize("stored", [np.float16, np.float32, ">f8", np.uint8])
def test_sequences_are_averaged_as_exactly_as_doubles_can(axes, stored):
    values = (100 + 50 * np.random.default_rng(0).standard_normal((6, *axes, 4))).clip(0, 255).astype(stored)
    flat = values.reshape(6, -1, 4).tolist()
    expected = [[sum(map(Fraction, column)) / len(frames) for column in zip(*frames, strict=True)] for frames in flat]
    found = vectors(values, 0, 6, 4, "sequences")
    assert found.tolist() == np.array(expected, dtype=np.float64).astype(np.float32).tolist()


def test_large_numbers_do_not_overflow_while_they_are_averaged():
    halves = np.full((2, 10, 3), 60_000, dtype=np.float16)
    assert vectors(halves, 0, 2, 3, "halves").tolist() == [[float(np.float16(60_000))] * 3] * 2


def test_what_float32_cannot_hold_comes_out_infinite_and_without_a_warning():
    found = vectors(np.array([[1e300, 1.0], [np.nan, -1e300]]), 0, 2, 2, "large")
    np.testing.assert_array_equal(found, [[np.inf, 1], [np.nan, -np.inf]])


def test_rows_without_a_single_frame_come_out_as_bad_rows_and_without_a_warning():
    assert np.isnan(vectors(np.ones((4, 0, 3)), 0, 4, 3, "no frames")).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 127)), r"file, key: expected rows of width 128, got an array of shape \(4, 127\)"),
        (np.ones((128, 4)), "expected rows of width 128"),
        (np.ones(128), r"expected rows of width 128, got an array of shape \(128,\)"),
        (np.ones((4, 128), dtype=complex), "expected numbers, got complex128"),
        (np.ones((4, 128), dtype=bool), "expected numbers, got bool"),
        (np.full((4, 128), b"x"), r"expected numbers, got \|S1"),
        (np.full((4, 128), None), "expected numbers, got object"),
    ],
)
def test_what_is_no_row_of_numbers_is_refused_with_its_name_and_shape(array, message):
    with pytest.raises(ValueError, match=message):
        vectors(array, 0, 4, 128, "file, key")


@pytest.mark.parametrize("shape", [(1, 3), (4095, 3), (4096, 3), (4097, 3), (60, 10, 7, 7, 512), (5, 2**28), (7, 0)])
def test_blocks_follow_on_each_other_and_none_is_large(shape):
    array = np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape))
    pieces = list(blocks(array, shape[0]))
    assert [row for start, stop in pieces for row in range(start, stop)] == list(range(shape[0]))
    size = 8 * int(np.prod(shape[1:]))
    for start, stop in pieces:
        assert stop - start <= feature_sources.CHUNK
        assert stop - start == 1 or (stop - start) * size <= feature_sources.CHUNK_BYTES


def test_no_rows_make_no_blocks():
    assert list(blocks(np.ones((0, 3)), 0)) == []


# Labels.

FORMS = {
    "(n,)": LABELS,
    "(n, 1)": LABELS[:, None],
    "(n, 1, 1)": LABELS[:, None, None],
    "a list": LABELS.tolist(),
    "one-hot": np.eye(4)[LABELS],
    "one-hot (n, 1, C)": np.eye(4)[LABELS][:, None],
    "one-hot uint8": np.eye(4, dtype=np.uint8)[LABELS],
    "one-hot big-endian": np.eye(4, dtype=">i4")[LABELS],
    "one-hot bool": np.eye(4, dtype=bool)[LABELS],
} | {stored: LABELS.astype(stored) for stored in ("u1", "i1", ">i2", ">i8", "u8", "f2", ">f4", "f8", ">f8")}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form_become_the_same_class_numbers(form):
    found = class_numbers(FORMS[form], 4, "labels")
    assert found.dtype == np.int64 and found.tolist() == LABELS.tolist()


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


ONE_HOT = np.eye(4)[LABELS]
WRONG = {
    "too high": (changed(LABELS, 2, 4), "label 4 of row 2 is out of range.*expected 0 to 3"),
    "counted from one": (LABELS + 1, "label 4 of row 0 is out of range"),
    "negative": (LABELS - 1, "label -1 of row 1 is out of range, and so are 1 more"),
    "halves": (LABELS + 0.5, "expected whole numbers, but row 0 is 3.5"),
    "NaN": (changed(LABELS.astype(float), 4, np.nan), "expected whole numbers, but row 4 is nan"),
    "infinite": (changed(LABELS.astype(float), 4, np.inf), "expected whole numbers, but row 4 is inf"),
    "strings": (LABELS.astype("S1"), r"expected class numbers or one-hot rows, got \|S1"),
    "objects": (LABELS.astype(object), "expected class numbers or one-hot rows, got object"),
    "complex": (LABELS.astype(complex), "expected class numbers or one-hot rows, got complex128"),
    "two ones": (changed(ONE_HOT, (3, 0), 1), "one-hot rows of 4 classes, but row 3 is not one 1 among zeros"),
    "no one": (changed(ONE_HOT, 5, 0), "row 5 is not one 1 among zeros"),
    "a half": (changed(ONE_HOT, (1, 0), 0.5), "row 1 is not one 1 among zeros"),
    "two halves": (changed(ONE_HOT, 1, [0.5, 0.5, 0, 0]), "row 1 is not one 1 among zeros"),
    "one and minus one": (changed(ONE_HOT, 1, [1, 1, -1, 0]), "row 1 is not one 1 among zeros"),
    "one-hot NaN": (changed(ONE_HOT, (2, 2), np.nan), "row 2 is not one 1 among zeros"),
    "too few classes": (np.eye(3)[LABELS % 3], "one-hot rows of 4 classes, but rows are 3 wide"),
    "too many classes": (np.eye(5)[LABELS], "one-hot rows of 4 classes, but rows are 5 wide"),
    "more than int64 holds": (changed(LABELS.astype(float), 2, 1e300), "label (?!-).* of row 2"),
    "more than int64 holds, unsigned": (
        changed(LABELS.astype("u8"), 2, 2**63 + 5),
        "label (?!-).* of row 2",
    ),
    "tables": (ONE_HOT.reshape(6, 2, 2), "expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_labels_that_are_no_classes_are_refused_with_the_row(case):
    labels, message = WRONG[case]
    with pytest.raises(ValueError, match=f"the labels: .*{message}"):
        class_numbers(labels, 4, "the labels")


@pytest.mark.parametrize("shape", [(0,), (0, 1), (0, 4)])
def test_no_labels_are_no_class_numbers(shape):
    assert class_numbers(np.zeros(shape), 4, "labels").shape == (0,)


# Files.


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"There is no file .*absent\.h5"), open_h5(tmp_path / "absent.h5"):
        pass


@pytest.mark.parametrize("content", [b"", b"\x89", b"keys and values\n", b"\x89HDF\r\n\x1a"])
def test_a_file_that_is_no_hdf5_is_named_with_its_size(content, tmp_path):
    path = tmp_path / "text.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"text\.h5 is no HDF5 file.*\({len(content)} bytes\)"), open_h5(path):
        pass


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_called_truncated(kept, six_keys):
    content = six_keys.read_bytes()
    six_keys.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"six\.h5 is truncated: copy it again"), open_h5(six_keys):
        pass


def test_a_file_that_somebody_writes_to_is_not_called_something_else_than_hdf5(six_keys):
    code = f"import h5py; file = h5py.File({str(six_keys)!r}, 'a'); print('open', flush=True); input()"
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"open\n"
        with open_h5(six_keys):
            pytest.skip("this file system has no locks, so a file that is written to can be read")
    except (ValueError, OSError) as error:
        assert "six.h5" in str(error) and "no HDF5 file" not in str(error)
    finally:
        writer.communicate(b"\n")


def test_a_column_that_is_not_there_is_named_with_those_that_are(six_keys):
    with open_h5(six_keys) as file, pytest.raises(ValueError, match=r"six\.h5: expected the key `labels`, got audio_"):
        column(file, "labels")


def test_an_empty_file_has_no_columns(tmp_path):
    path = write_h5(tmp_path / "empty.h5")
    with open_h5(path) as file, pytest.raises(ValueError, match=r"empty\.h5: expected the key `x`, got no keys at all"):
        column(file, "x")


NO_ARRAYS = {
    "a group": lambda file: file.create_group("x/y"),
    "a link to nothing": lambda file: file.update({"x": h5py.SoftLink("/nowhere")}),
    "a link to a file that is not there": lambda file: file.update({"x": h5py.ExternalLink("absent.h5", "/x")}),
    "nothing": lambda file: file.update({"x": h5py.Empty("f4")}),
}


@pytest.mark.parametrize("case", NO_ARRAYS)
def test_what_is_no_array_is_refused_by_the_name_of_file_and_key(case, tmp_path):
    path = write_h5(tmp_path / "odd.h5")
    with h5py.File(path, "a") as file:
        NO_ARRAYS[case](file)
    with open_h5(path) as file, pytest.raises(ValueError, match=r"odd\.h5.*`?x`?"):
        column(file, "x")


def test_a_file_damaged_in_its_tables_is_refused_in_a_sentence_that_names_it(six_keys):
    # What a download leaves that was given its size before its content: zeros, and no error when it is opened.
    whole, refused = six_keys.read_bytes(), 0
    for start in range(8, 2048, 64):
        six_keys.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        try:
            for part in six_key_rows(six_keys, 4, (3, 5)).values():
                list(part)
        except ValueError as error:
            assert "six.h5" in str(error)
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("key", ["audio_train", "lab_test"])
def test_a_file_damaged_in_its_values_is_refused_by_name(key, tmp_path, arrays):
    path = tmp_path / "packed.h5"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")
        chunk = file[key].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"packed\.h5.*{key}"):
        for part in six_key_rows(path, 4, (3, 5)).values():
            list(part)


# Six keys.


def test_the_parts_of_six_keys_hold_every_row_once_and_a_tenth_of_each_class_validates(six_keys, arrays):
    parts = six_key_rows(six_keys, 4, (3, 5), "here")
    assert list(parts) == ["here/train", "here/validation", "here/test"]
    rows = {name: [row for chunk in part for row in chunk["clip_id"]] for name, part in parts.items()}
    assert [len(part) for part in parts.values()] == [len(names) for names in rows.values()]
    assert sorted(rows["here/train"] + rows["here/validation"]) == [f"train/{row:06d}" for row in range(60)]
    assert rows["here/test"] == [f"test/{row:06d}" for row in range(20)]
    held = [int(name.split("/")[1]) % 4 for name in rows["here/validation"]]
    assert [held.count(number) for number in range(4)] == [2, 2, 2, 2]  # of 15, one and a half
    assert rows["here/train"] == sorted(rows["here/train"])


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_rows_do_not_depend_on_how_many_are_read_at_a_time(chunk, six_keys, arrays, monkeypatch):
    monkeypatch.setattr(feature_sources, "CHUNK", chunk)
    for name, part in six_key_rows(six_keys, 4, (3, 5)).items():
        split = "test" if name.endswith("test") else "train"
        for columns in part:
            rows = [int(clip.split("/")[1]) for clip in columns["clip_id"]]
            assert len(rows) <= chunk
            for column_name, kind in (("audio_features", "audio"), ("visual_features", "visual"), ("label", "lab")):
                expected = arrays[f"{kind}_{split}"][rows]
                assert columns[column_name].tolist() == expected.astype(columns[column_name].dtype).tolist()


def test_no_row_chosen_is_no_chunk(six_keys):
    rows = RowsOfArrays(
        six_keys, "audio_train", "visual_train", (3, 5), np.zeros(60, dtype=bool), [""] * 60, np.zeros(60)
    )
    assert len(rows) == 0 and list(rows) == []


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("audio_train", np.ones((59, 3)), "rows must pair up, got audio_train 59, visual_train 60, lab_train 60"),
        ("visual_test", np.ones((21, 5)), "rows must pair up, got audio_test 20, visual_test 21, lab_test 20"),
        ("lab_test", np.zeros(19), "rows must pair up, got audio_test 20, visual_test 20, lab_test 19"),
        ("audio_test", np.ones((20, 4)), r"expected `audio_test` to be 3 wide, got shape \(20, 4\)"),
        ("audio_test", 1.0, r"expected `audio_test` to be 3 wide, got shape \(\)"),
        ("lab_train", 1, "rows must pair up.* lab_train 0"),
        ("lab_train", np.full(60, 7), "lab_train: label 7 of row 0 is out of range, and so are 59 more"),
    ],
)
def test_six_keys_that_do_not_fit_together_are_refused_before_a_row_is_read(key, array, message, tmp_path, arrays):
    path = write_h5(tmp_path / "six.h5", **(arrays | {key: array}))
    with pytest.raises(ValueError, match=rf"six\.h5.*{message}"):
        six_key_rows(path, 4, (3, 5))


# The digest of a source.

CHANGES = {
    "grew": lambda folder: (folder / "a").write_text("abcd"),
    "was touched": lambda folder: os.utime(folder / "a", ns=(0, 1)),
    "was renamed": lambda folder: (folder / "a").rename(folder / "c"),
    "went": lambda folder: (folder / "deep" / "b").unlink(),
    "came": lambda folder: (folder / "deep" / "c").write_text(""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_of_a_folder_changes_when_a_file_does(change, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_text("abc")
    (tmp_path / "deep" / "b").write_text("abc")
    before = digest_of_sources(tmp_path)
    assert digest_of_sources(tmp_path) == before
    CHANGES[change](tmp_path)
    assert digest_of_sources(tmp_path) != before


def test_the_digest_of_a_file_changes_when_its_time_does(tmp_path):
    path = tmp_path / "a"
    path.write_text("abc")
    os.utime(path, ns=(0, 1))
    before = digest_of_sources(path)
    os.utime(path, ns=(0, 2))
    assert digest_of_sources(path) != before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a file name be any bytes")
def test_the_digest_of_a_folder_takes_any_file_name(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9")).write_text("")
    assert len(digest_of_sources(tmp_path)) == 16


def test_the_digest_of_a_folder_sees_through_its_links(tmp_path):
    # Large features live on another disk: the folder that was published holds a link to theirs.
    (tmp_path / "disk").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "vgg").symlink_to(tmp_path / "disk", target_is_directory=True)
    before = digest_of_sources(tmp_path / "source")
    (tmp_path / "disk" / "a").write_text("")
    assert digest_of_sources(tmp_path / "source") != before
