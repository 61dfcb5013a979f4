"""VEGAS from each of its published layouts, with their quirks, and from sources that are broken in every way."""

import os
import pickle
import re
import shutil
import signal
import sys
from collections import Counter

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import get_dataset_config_names, load_dataset

from modeling_dualspace.feature_builder import GUESS
from modeling_dualspace.feature_schema import Description

PAPER = [
    "chainsaw",
    "rail transport",
    "helicopter",
    "baby cry or infant cry",
    "drum",
    "snoring",
    "printer",
    "fireworks",
    "water flowing",
    "dog",
]
# As the authors' ids begin; their numbers are in another order than the paper's.
STEMS = {
    "dog": "dog",
    "drum": "drum",
    "baby cry or infant cry": "baby_cry",
    "printer": "printer",
    "snoring": "snoring",
    "rail transport": "rail_transport",
    "water flowing": "water_flowing",
    "fireworks": "fireworks",
    "helicopter": "helicopter",
    "chainsaw": "chainsaw",
}
TRAIN, TEST = 60, 20
ROWS = {"train": TRAIN, "test": TEST}


def write_h5(path, arrays):
    """A key without an array is left out."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path


def six_arrays(seed=0):
    generator = np.random.default_rng(seed)
    arrays = {}
    for split, rows in ROWS.items():
        arrays[f"audio_{split}"] = generator.standard_normal((rows, 128))
        arrays[f"visual_{split}"] = generator.standard_normal((rows, 1024)).astype(np.float32)
        arrays[f"lab_{split}"] = generator.permutation(rows) % 10
    return arrays


def newer_arrays(**changes):
    generator = np.random.default_rng(1)
    arrays = {
        "audio_feat": generator.standard_normal((TRAIN, 128)).astype(np.float32),
        "visual_feat": generator.standard_normal((TRAIN, 1024)),
        "Label_ID": np.arange(TRAIN) % 10,
        "Train_test": IS_TEST.astype(np.int64),
    }
    return arrays | changes


IS_TEST = 7 * np.arange(TRAIN) % TRAIN < 15  # of every class one or two


def frames_of(number, generator):
    """Sound in 8 bits for most clips, as floats of some kind for others, one vector for a few."""
    if number % 7 == 3:
        return generator.standard_normal((3, 128)).astype([">f4", "<f8", "<f2"][number % 3])
    if number % 7 == 5:
        return generator.standard_normal(128)
    return generator.integers(0, 256, (1 + number % 10, 128), dtype=np.uint8)


def write_folders(root, rounds=3, name=lambda stem, number: f"{stem}_video_{number:05d}"):
    """The authors' folders: each class in each of the five folds `rounds` times; what was written, by id."""
    generator = np.random.default_rng(0)
    for folder in ("vgg", "inception", "VEGAS_classes", "folds"):
        (root / folder).mkdir(parents=True)
    clips, folds = {}, [[] for _ in range(5)]
    for number in range(50 * rounds):
        label = number % 10
        clip = name(list(STEMS.values())[label], number)
        audio, visual = frames_of(number, generator), generator.standard_normal((2, 1024)).astype(np.float32)
        one_hot = np.eye(10, dtype=["<f8", ">f4", "u1"][number % 3])[label]
        np.save(root / "vgg" / f"{clip}.npy", audio)
        np.save(root / "inception" / f"{clip}.npy", visual)
        np.save(root / "VEGAS_classes" / f"{clip}.npy", [one_hot, one_hot[None], np.int64(label)][number // 10 % 3])
        folds[number // 10 % 5].append(clip)
        clips[clip] = audio, visual, label
    for number, ids in enumerate(folds):
        (root / "folds" / f"{number:02d}.txt").write_text("\n".join(ids) + "\n" * (number % 2))
    return clips, folds


def load(folder, cache, config=None):
    return load_dataset(str(folder), config, cache_dir=str(cache)).with_format("numpy")


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def vegas(script):
    return script("vegas")


@pytest.fixture
def built(vegas, builds):
    """`built(source, flags...)`: the folder that the command made."""
    return builds(vegas.main)


@pytest.fixture
def refused(vegas, refuses):
    """`refused(source, flags...)`: the one line in which the command ends, having made no folder."""
    return refuses(vegas.main)


# Six keys.


def averaged(array):
    """What a row should be: sums of eighths are exact, whatever the order they are added in."""
    rows = array.astype(np.float64)
    return (rows.sum(axis=1) / rows.shape[1] if rows.ndim == 3 else rows).astype(np.float32)


def eighths(rows, width, stored):
    return (np.random.default_rng(3).integers(-400, 400, (rows, 10, width)) / 8).astype(stored)


QUIRKS = {
    "as it is": lambda key, array: array,
    "labels (n, 1) of 8 bits": lambda key, array: array[:, None].astype("u1") if key[:3] == "lab" else array,
    "labels of floats": lambda key, array: array.astype("f4") if key[:3] == "lab" else array,
    "labels of big-endian words": lambda key, array: array.astype(">i4") if key[:3] == "lab" else array,
    "one-hot labels": lambda key, array: np.eye(10)[array] if key[:3] == "lab" else array,
    "big-endian singles": lambda key, array: array.astype(">f4") if key[:3] != "lab" else array,
    "big-endian doubles": lambda key, array: array.astype(">f8"),
    "halves": lambda key, array: array.astype("f2"),
    "sequences": lambda key, array: array if key[:3] == "lab" else eighths(len(array), array.shape[1], ">f4"),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_six_keys_come_out_bit_for_bit_as_single_floats(quirk, built, tmp_path):
    plain = six_arrays()
    stored = {key: QUIRKS[quirk](key, array) for key, array in plain.items()}
    clips = load(built(write_h5(tmp_path / "vegas_feature.h5", stored)), tmp_path / "cache")
    rows = {name: [int(clip.split("/")[1]) for clip in split["clip_id"]] for name, split in clips.items()}
    assert sorted(rows["train"] + rows["validation"]) == list(range(TRAIN)) and rows["test"] == list(range(TEST))
    for name, split in clips.items():
        source = "test" if name == "test" else "train"
        assert {clip.split("/")[0] for clip in split["clip_id"]} == {source}
        for column, kind in (("audio_features", "audio"), ("visual_features", "visual")):
            assert split[column][:].dtype == np.float32
            assert split[column][:].tobytes() == averaged(stored[f"{kind}_{source}"])[rows[name]].tobytes()
        assert split["label"][:].tolist() == plain[f"lab_{source}"][rows[name]].tolist()
        assert split.features["label"].names == PAPER


def test_a_tenth_of_every_class_of_train_is_validation_and_the_same_at_every_build(built, vegas, tmp_path):
    source = write_h5(tmp_path / "vegas_feature.h5", six_arrays())
    clips = load(built(source), tmp_path / "cache")
    assert clips.num_rows == {"train": 50, "validation": 10, "test": 20}
    assert sorted(clips["validation"]["label"][:]) == list(range(10))
    other = write_h5(tmp_path / "renamed.h5", six_arrays())
    assert vegas.main(["--source", str(other), "--out", str(tmp_path / "again")]) == 0
    again = load(tmp_path / "again", tmp_path / "cache")
    assert list(again["validation"]["clip_id"]) == list(clips["validation"]["clip_id"])
    assert again["test"].info.description == clips["test"].info.description


def test_what_was_read_and_whose_order_the_classes_have_stands_in_the_card(built, tmp_path):
    folder = built(write_h5(tmp_path / "vegas_feature.h5", six_arrays()))
    card = card_of(folder)
    assert "built from vegas_feature.h5" in card
    assert "The names of the classes are in the order in which the paper lists them." in card and GUESS in card
    found = Description.parse(load(folder, tmp_path / "cache")["test"].info.description)
    assert (found.audio, found.visual) == ("vggish@vegas-authors", "inception@vegas-authors") and not found.synthetic
    assert f"`{found.fingerprint}`" in card


def test_a_class_that_train_or_test_lacks_stands_in_the_card(built, tmp_path):
    arrays = six_arrays()
    arrays["lab_test"] = arrays["lab_test"] % 9
    card = card_of(built(write_h5(tmp_path / "vegas_feature.h5", arrays)))
    assert "- The test split has no clip of dog." in card


# The newer layout.

WORDS = np.where(IS_TEST, b"test", b"train")
MARKS = {
    "1 is test": IS_TEST.astype(np.int64),
    "0 is test": (~IS_TEST).astype(np.uint8),
    "(n, 1)": IS_TEST.astype(">i2")[:, None],
    "floats": IS_TEST.astype(np.float64),
    "bools": IS_TEST,
    "1 and 2": 1 + IS_TEST,
    "words": WORDS,
    "words (n, 1)": WORDS[:, None],
    "words of any length": WORDS.astype("U").astype(object),
}


@pytest.mark.parametrize("marks", MARKS)
def test_the_newer_layout_is_split_as_its_marks_say(marks, built, tmp_path):
    arrays = newer_arrays(Train_test=MARKS[marks])
    clips = load(built(write_h5(tmp_path / "newer.h5", arrays)), tmp_path / "cache")
    rows = {name: [int(clip.split("/")[1]) for clip in split["clip_id"]] for name, split in clips.items()}
    assert rows["test"] == np.flatnonzero(IS_TEST).tolist()
    assert sorted(rows["train"] + rows["validation"]) == np.flatnonzero(~IS_TEST).tolist()
    held = Counter(row % 10 for row in rows["validation"])
    assert set(held) == set(range(10)) and set(held.values()) == {1}
    for name, split in clips.items():
        assert {clip.split("/")[0] for clip in split["clip_id"]} == {"test" if name == "test" else "train"}
        assert split["audio_features"][:].tobytes() == arrays["audio_feat"][rows[name]].tobytes()
        expected = np.array(arrays["visual_feat"][rows[name]], dtype=np.float32)
        assert split["visual_features"][:].tobytes() == expected.tobytes()
        assert split["label"][:].tolist() == [row % 10 for row in rows[name]]


@pytest.mark.parametrize("labels", [np.eye(10)[np.arange(TRAIN) % 10], (np.arange(TRAIN) % 10.0)[:, None]])
def test_the_newer_layout_takes_labels_and_sequences_as_the_older_does(labels, built, tmp_path):
    arrays = newer_arrays(Label_ID=labels, audio_feat=eighths(TRAIN, 128, "f8"))
    clips = load(built(write_h5(tmp_path / "newer.h5", arrays)), tmp_path / "cache")
    for split in clips.values():
        rows = [int(clip.split("/")[1]) for clip in split["clip_id"]]
        assert split["audio_features"][:].tobytes() == averaged(arrays["audio_feat"])[rows].tobytes()
        assert split["label"][:].tolist() == [row % 10 for row in rows]


# The authors' folders.


@pytest.fixture(scope="module")
def authors(vegas, tmp_path_factory):
    """The source, its clips by id, its folds, and the folder that the command made of it."""
    root = tmp_path_factory.mktemp("authors")
    clips, folds = write_folders(root / "Data")
    assert vegas.main(["--source", str(root / "Data"), "--out", str(root / "out")]) == 0
    return root / "Data", clips, folds, root / "out"


@pytest.fixture(scope="module")
def five(authors, tmp_path_factory):
    """The five configurations, loaded."""
    cache = tmp_path_factory.mktemp("cache")
    return [load(authors[3], cache, f"fold{fold}") for fold in range(5)]


def test_every_clip_is_test_in_exactly_one_fold(authors, five):
    _, clips, folds, out = authors
    assert get_dataset_config_names(str(out)) == [f"fold{fold}" for fold in range(5)]
    for fold, ids in zip(five, folds, strict=True):
        assert sorted(fold["test"]["clip_id"]) == sorted(ids)
    assert sorted(clip for fold in five for clip in fold["test"]["clip_id"]) == sorted(clips)


def test_the_splits_of_a_fold_share_no_clip_and_hold_all(authors, five):
    for fold in five:
        ids = {name: set(split["clip_id"]) for name, split in fold.items()}
        assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == len(authors[1])
        assert Counter(fold["validation"]["label"][:].tolist()) == dict.fromkeys(range(10), 4)  # one a class and fold


def test_folds_share_the_shards_on_disk(authors):
    files = sorted((authors[3] / "data").rglob("*.parquet"))
    ids = [clip for path in files for clip in pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist()]
    assert sorted(ids) == sorted(authors[1])


def test_the_first_fold_is_the_default(authors, five, tmp_path):
    clips = load(authors[3], tmp_path)
    assert list(clips["test"]["clip_id"]) == list(five[0]["test"]["clip_id"])


def test_frames_are_averaged_and_8_bit_ones_are_the_floats_they_had_been(authors, five):
    for split in five[2].values():
        for clip in split:
            audio, visual, label = authors[1][str(clip["clip_id"])]
            frames = np.atleast_2d(audio).astype(np.float64)
            if audio.dtype == np.uint8:
                frames = (frames - 128) / 256  # of every frame, where the builder does so of their mean
            assert clip["audio_features"].tobytes() == (frames.sum(axis=0) / len(frames)).astype(np.float32).tobytes()
            expected = visual.astype(np.float64).sum(axis=0) / 2
            assert clip["visual_features"].tobytes() == expected.astype(np.float32).tobytes()
            assert clip["label"] == label


def test_names_of_classes_are_read_from_the_ids(authors, five):
    assert all(fold["test"].features["label"].names == list(STEMS) for fold in five)
    assert "The names of the classes are read from the clips' ids" in card_of(authors[3])


def test_a_clip_that_bears_the_name_of_another_class_stands_in_the_card(built, tmp_path):
    _, folds = write_folders(tmp_path / "Data")
    np.save(tmp_path / "Data" / "VEGAS_classes" / f"{folds[1][0]}.npy", np.eye(10)[4])
    folder = built(tmp_path / "Data", "--config", "fold2")
    assert "- 1 clips bear the name of another class in their id than the one they are labelled with." in card_of(
        folder
    )
    assert load(folder, tmp_path / "cache")["test"].features["label"].names == list(STEMS)


IDS = {
    "YouTube's": lambda stem, number: f"-{number:03d}_xY{stem[0]}Q",
    "numbers": lambda stem, number: f"{number:05d}",
    "one name for all": lambda stem, number: f"dog_video_{number:05d}",
}


@pytest.mark.parametrize("ids", IDS)
def test_ids_that_do_not_say_their_class_leave_the_order_of_the_paper(ids, built, tmp_path):
    write_folders(tmp_path / "Data", rounds=2, name=IDS[ids])
    folder = built(tmp_path / "Data", "--config", "fold0")
    assert "The names of the classes are in the order in which the paper lists them" in card_of(folder)
    assert load(folder, tmp_path / "cache")["test"].features["label"].names == PAPER


def test_one_fold_alone_can_be_built(built, tmp_path, authors):
    folder = built(authors[0], "--config", "fold3")
    assert get_dataset_config_names(str(folder)) == ["fold3"]
    assert sorted(load(folder, tmp_path / "cache")["test"]["clip_id"]) == sorted(authors[2][3])


def test_files_in_no_fold_stand_in_the_card_and_nowhere_else(built, tmp_path):
    write_folders(tmp_path / "Data", rounds=2)
    for folder in ("vgg", "inception", "VEGAS_classes"):
        shutil.copy(tmp_path / "Data" / folder / "dog_video_00000.npy", tmp_path / "Data" / folder / "stray.npy")
    folder = built(tmp_path / "Data")
    assert "1 files of vgg/ are in no fold" in card_of(folder)
    clips = load(folder, tmp_path / "cache", "fold1")
    assert sum(clips.num_rows.values()) == 100 and not any("stray" in split["clip_id"] for split in clips.values())


def test_clips_without_a_file_are_left_out_when_asked_for_and_the_card_says_so_once(built, tmp_path):
    clips, folds = write_folders(tmp_path / "Data")
    lost = [folds[0][0], folds[2][7]]
    (tmp_path / "Data" / "inception" / f"{lost[0]}.npy").unlink()
    (tmp_path / "Data" / "vgg" / f"{lost[1]}.npy").unlink()
    folder = built(tmp_path / "Data", "--drop-bad-rows")
    found = load(folder, tmp_path / "cache")
    ids = [clip for split in found.values() for clip in split["clip_id"]]
    assert sorted(ids) == sorted(set(clips) - set(lost))
    notes = [line for line in card_of(folder).splitlines() if "no file in inception/" in line]
    assert len(notes) == 1 and "1 clips of the folds have no file in inception/ and were left out" in notes[0]


# The order of classes.


@pytest.mark.parametrize("layout", ["h5", "folders"])
def test_the_order_of_a_file_names_the_classes_and_the_card_says_so(layout, built, tmp_path, authors):
    source = authors[0] if layout == "folders" else write_h5(tmp_path / "vegas_feature.h5", six_arrays())
    (tmp_path / "order.txt").write_text("\n".join(reversed(PAPER)))
    folder = built(source, "--class-order", tmp_path / "order.txt")
    assert load(folder, tmp_path / "cache")["test"].features["label"].names == PAPER[::-1]
    card = card_of(folder)
    assert "classes are in the order of the file given with `--class-order`" in card and GUESS not in card


@pytest.mark.parametrize("layout", ["h5", "folders"])
@pytest.mark.parametrize("content", ["\n".join(PAPER[1:]), "\n".join([*PAPER[1:], PAPER[1]]), "\n".join([*PAPER, "x"])])
def test_an_order_of_too_few_too_many_or_repeated_names_is_refused(layout, content, refused, tmp_path, authors):
    source = authors[0] if layout == "folders" else write_h5(tmp_path / "vegas_feature.h5", six_arrays())
    (tmp_path / "order.txt").write_text(content)
    assert "order.txt: expected 10 different class names" in refused(source, "--class-order", tmp_path / "order.txt")


# Arrays that are not what they should be.

BAD = np.zeros((TRAIN, 128))
BAD[[7, 30, 31]] = [[np.nan], [np.inf], [-np.inf]]
HOSTILE = {
    "a missing key": ({"lab_test": None}, "vegas.h5: expected the key `lab_test`, got audio_test, audio_train"),
    "fewer rows": ({"audio_train": np.ones((59, 128))}, "vegas.h5: rows must pair up, got audio_train 59"),
    "fewer labels": ({"lab_test": np.zeros(19)}, "vegas.h5: rows must pair up.* lab_test 19"),
    "narrow sound": ({"audio_train": np.ones((TRAIN, 127))}, "vegas.h5: expected `audio_train` to be 128 wide"),
    "wide picture": ({"visual_test": np.ones((TEST, 2048))}, "vegas.h5: expected `visual_test` to be 1024 wide"),
    "columns for rows": ({"audio_test": np.ones((128, TEST))}, "expected `audio_test` to be 128 wide"),
    "sound and picture exchanged": ({"audio_test": np.ones((TEST, 1024))}, "expected `audio_test` to be 128 wide"),
    "one long vector": ({"audio_test": np.ones(TEST * 128)}, r"to be 128 wide, got shape \(2560,\)"),
    "a scalar": ({"audio_test": 1.0}, r"to be 128 wide, got shape \(\)"),
    "a scalar label": ({"lab_train": 3}, "rows must pair up"),
    "an array of nothing": ({"audio_test": h5py.Empty("f4")}, "vegas.h5.*audio_test"),
    "labels of nothing": ({"lab_test": h5py.Empty("f4")}, "vegas.h5.*lab_test"),
    "not numbers": ({"audio_train": BAD}, r"3 rows hold NaN or infinity \(train/0000(07|30|31), .*--drop-bad-rows"),
    "too large": ({"visual_test": np.full((TEST, 1024), 1e39)}, r"20 rows hold NaN or infinity \(test/000000, "),
    "no frames": ({"audio_train": np.ones((TRAIN, 0, 128))}, "60 rows hold NaN or infinity"),
    "an empty class": (
        {"lab_train": np.arange(TRAIN) % 9, "lab_test": np.arange(TEST) % 9},
        "Configuration default has no clip of 'dog'",
    ),
    "labels from one": ({"lab_train": 1 + np.arange(TRAIN) % 10}, "lab_train: label 10 of row 9 is out of range"),
    "negative labels": ({"lab_test": np.arange(TEST) % 10 - 1}, "lab_test: label -1 of row 0 is out of range"),
    "labels with halves": ({"lab_test": np.arange(TEST) % 10 + 0.5}, "lab_test: expected whole numbers, but row 0"),
    "labels not numbers": ({"lab_test": np.full(TEST, np.nan)}, "lab_test: expected whole numbers, but row 0 is nan"),
    "labels beyond numbers": ({"lab_test": np.full(TEST, 1e300)}, "lab_test: .*row 0"),
    "two of ten": ({"lab_test": np.ones((TEST, 10))}, "lab_test: expected one-hot.* row 0 is not one 1 among zeros"),
    "one of nine": ({"lab_test": np.eye(9)[np.zeros(TEST, int)]}, "expected one-hot rows of 10.* rows are 9 wide"),
    "strings for sound": ({"audio_test": np.full((TEST, 128), b"1.5")}, r"audio_test: expected numbers, got \|S3"),
    "strings for labels": ({"lab_test": np.full(TEST, b"dog")}, "lab_test: expected class numbers or one-hot rows"),
    "complex numbers": ({"audio_test": np.ones((TEST, 128), complex)}, "audio_test: expected numbers, got complex"),
    "records": ({"audio_test": np.zeros((TEST, 128), [("a", "f4")])}, "audio_test: expected numbers"),
    "no rows of train": (
        {"audio_train": np.ones((0, 128)), "visual_train": np.ones((0, 1024)), "lab_train": np.ones(0)},
        "Split train of configuration default is empty",
    ),
    "no rows of test, one-hot": (
        {"audio_test": np.ones((0, 128)), "visual_test": np.ones((0, 1024)), "lab_test": np.ones((0, 10))},
        "Split test of configuration default is empty",
    ),
    "a link to nothing": ({"audio_test": h5py.SoftLink("/nowhere")}, "vegas.h5.*audio_test"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_arrays_that_do_not_fit_are_refused_in_one_sentence(case, refused, tmp_path):
    changes, message = HOSTILE[case]
    source = write_h5(tmp_path / "vegas.h5", six_arrays() | changes)
    assert_matches(message, refused(source))


def assert_matches(message, line):
    """With the line in the failure's text, whole."""
    assert re.search(message, line), f"{message!r} is not in: {line}"


def test_a_group_in_the_place_of_an_array_is_refused(refused, tmp_path):
    source = write_h5(tmp_path / "vegas.h5", six_arrays() | {"lab_train": None})
    with h5py.File(source, "a") as file:
        file.create_group("lab_train")
    assert "vegas.h5: `lab_train` is a group, not an array" in refused(source)


def test_arrays_that_claim_more_rows_than_memory_holds_are_refused(refused, tmp_path):
    with h5py.File(tmp_path / "vegas.h5", "w") as file:
        for split in ROWS:
            for kind, width in (("audio", (128,)), ("visual", (1024,)), ("lab", ())):
                file.create_dataset(f"{kind}_{split}", (10**13, *width), "f4", chunks=(10, *width))
    assert "vegas.h5" in refused(tmp_path / "vegas.h5")


NEWER = {
    "no marks": ({"Train_test": None}, "newer.h5: expected the key `Train_test`"),
    "no picture": ({"visual_feat": None}, "newer.h5: expected the key `visual_feat`"),
    "three marks": ({"Train_test": np.arange(TRAIN) % 3}, "newer.h5, Train_test: expected two marks, .* {0: 20, 1: 20"),
    "one mark": ({"Train_test": np.zeros(TRAIN)}, "Train_test: expected two marks, the rarer one for test, got {0.0: "),
    "as many test as train": ({"Train_test": np.arange(TRAIN) % 2}, "Train_test: expected two marks, the rarer one"),
    "other words": ({"Train_test": np.where(IS_TEST, b"val", b"train")}, r"expected `train` or `test`, got \['val'\]"),
    "no UTF-8": ({"Train_test": np.where(IS_TEST, b"t\xe9st", b"train")}, "newer.h5, Train_test"),
    "fewer marks": ({"Train_test": np.zeros(3)}, "rows must pair up.* Train_test 3"),
    "a label too high": ({"Label_ID": np.arange(TRAIN)}, "newer.h5, Label_ID: label 10 of row 10 is out of range"),
    "not a number": ({"audio_feat": BAD}, "3 rows hold NaN or infinity"),
    "no rows": (
        {
            "audio_feat": np.ones((0, 128)),
            "visual_feat": np.ones((0, 1024)),
            "Label_ID": np.ones(0),
            "Train_test": np.ones(0),
        },
        "newer.h5.*Train_test|is empty",
    ),
}


@pytest.mark.parametrize("case", NEWER)
def test_newer_arrays_that_do_not_fit_are_refused_in_one_sentence(case, refused, tmp_path):
    changes, message = NEWER[case]
    assert_matches(message, refused(write_h5(tmp_path / "newer.h5", newer_arrays(**changes))))


@pytest.mark.parametrize("layout", ["six", "newer"])
def test_bad_rows_are_left_out_when_asked_for_and_the_card_says_so(layout, built, tmp_path):
    arrays = six_arrays() | {"audio_train": BAD} if layout == "six" else newer_arrays(audio_feat=BAD)
    folder = built(write_h5(tmp_path / "vegas.h5", arrays), "--drop-bad-rows")
    assert "- 3 rows of the source held NaN or infinity and were left out." in card_of(folder)
    clips = load(folder, tmp_path / "cache")
    rows = {int(clip.split("/")[1]) for name, split in clips.items() if name != "test" for clip in split["clip_id"]}
    if layout == "six":
        assert rows == set(range(TRAIN)) - {7, 30, 31}
    else:
        assert sum(clips.num_rows.values()) == TRAIN - 3 and not rows & {7, 30, 31}


# Files that are not what they should be.


@pytest.mark.parametrize("kept", [0.003, 0.5, 0.999])
def test_a_truncated_file_is_refused(kept, refused, tmp_path):
    source = write_h5(tmp_path / "vegas.h5", six_arrays())
    os.truncate(source, int(kept * source.stat().st_size))
    assert "vegas.h5 is truncated: copy it again" in refused(source)


@pytest.mark.parametrize("content", [b"", b"audio,visual\n1,2\n", np.ones(3).tobytes(), pickle.dumps([1])])
def test_a_file_that_is_no_hdf5_is_refused(content, refused, tmp_path):
    (tmp_path / "vegas.h5").write_bytes(content)
    assert "vegas.h5 is no HDF5 file, whatever its name says" in refused(tmp_path / "vegas.h5")


@pytest.mark.parametrize("keys", [[], ["features", "labels"]])
def test_a_file_with_other_keys_is_refused_with_those_it_has(keys, refused, tmp_path):
    line = refused(write_h5(tmp_path / "vegas.h5", {key: np.ones(3) for key in keys}))
    assert "vegas.h5: expected the keys audio_train, visual_train" in line and "Train_test" in line
    assert (", ".join(keys) or "none") in line


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a file name be any bytes")
def test_a_file_whose_name_is_no_utf8_is_read_or_refused_by_name(vegas, tmp_path, capfd):
    source = write_h5(tmp_path / "vegas.h5", six_arrays()).rename(tmp_path / os.fsdecode(b"caf\xe9.h5"))
    code = vegas.main(["--source", str(source), "--out", str(tmp_path / "out")])
    lines = capfd.readouterr().err.splitlines()
    assert (code, lines) == (0, []) or (code == 1 and len(lines) == 1 and r"caf\udce9.h5" in lines[0]), lines


def test_without_a_source_the_command_says_whom_to_ask(vegas, capfd, tmp_path):
    assert vegas.main(["--out", str(tmp_path / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--source is missing" in line and "Donghuo Zeng" in line and not list(tmp_path.iterdir())


def test_a_source_that_is_not_there_and_a_fold_that_is_not_there_are_named(refused, tmp_path, authors):
    assert f"There is nothing at {tmp_path / 'x.h5'}. The features are not ours to pass on" in refused(
        tmp_path / "x.h5"
    )
    line = refused(authors[0], "--config", "fold5")
    assert "the configurations fold0, fold1, fold2, fold3, fold4, not fold5" in line


# Folders that are not what they should be.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Authors' folders of two clips a class and fold, to copy and to spoil."""
    root = tmp_path_factory.mktemp("small") / "Data"
    write_folders(root, rounds=2)
    return root


def header(shape="(3, 128)", text=None):
    """A .npy file of 3 x 128 doubles with a header of our own."""
    text = text or f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n" + bytes(3 * 128 * 8)


FIRST = "dog_video_00000"
FILES = {
    "pickled objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    "a pickle": lambda path: path.write_bytes(pickle.dumps([1.0])),
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("0.5 0.25"),
    "half its bytes": lambda path: os.truncate(path, path.stat().st_size // 2),
    "half a header": lambda path: os.truncate(path, 60),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "an archive": lambda path: (np.savez(path.with_suffix(".npz"), a=1), path.with_suffix(".npz").rename(path)),
    "the beginning of an archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(40)),
    "a header that is no Python": lambda path: path.write_bytes(header(text="(" * 50)),
    "a header with a call": lambda path: path.write_bytes(header(text="__import__('os')")),
    "a header of petabytes": lambda path: path.write_bytes(header(shape="(10000000000000, 128)")),
    "a header of fewer than no rows": lambda path: path.write_bytes(header(shape="(-1, 128)")),
    "another width": lambda path: np.save(path, np.ones((3, 127))),
    "three axes": lambda path: np.save(path, np.ones((3, 1, 128))),
    "a number": lambda path: np.save(path, np.float32(1)),
    "strings": lambda path: np.save(path, np.full((3, 128), "x")),
    "complex numbers": lambda path: np.save(path, np.ones((3, 128), complex)),
    "bools": lambda path: np.save(path, np.ones((3, 128), bool)),
    "no frames": lambda path: np.save(path, np.ones((0, 128), np.uint8)),
    "not a number": lambda path: np.save(path, np.full((3, 128), np.nan)),
    "more than float32 holds": lambda path: np.save(path, np.full((3, 128), 1e300)),
    "more than float64 holds": lambda path: np.save(path, np.full((3, 128), 1e308)),
    "both infinities": lambda path: np.save(path, np.full((2, 128), np.inf) * [[1], [-1]]),
}


@pytest.fixture(scope="module")
def copy(small, tmp_path_factory):
    """Folders of which one file may be spoiled, by `spoiled`."""
    return shutil.copytree(small, tmp_path_factory.mktemp("copy") / "Data")


@pytest.fixture
def spoiled(copy, small):
    """`spoiled("vgg", change)`: folders of which one file was changed; it is mended afterwards."""
    paths = []

    def spoil(folder, change):
        paths.append(copy / folder / f"{FIRST}.npy")
        change(paths[0])
        return copy

    yield spoil
    for path in paths:
        path.rmdir() if path.is_dir() else path.unlink()
        shutil.copy(small / path.relative_to(copy), path)


@pytest.mark.parametrize("case", FILES)
def test_a_file_of_features_that_holds_something_else_is_refused_by_name(case, spoiled, refused):
    assert FIRST in refused(spoiled("vgg", FILES[case]), "--config", "fold0")


LABELS = {
    "pickled objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    "half its bytes": lambda path: os.truncate(path, path.stat().st_size // 2),
    "no one": lambda path: np.save(path, np.zeros(10)),
    "two ones": lambda path: np.save(path, np.eye(10)[0] + np.eye(10)[1]),
    "one of eleven": lambda path: np.save(path, np.eye(11)[0]),
    "one of nine": lambda path: np.save(path, np.eye(9)[0]),
    "a class too high": lambda path: np.save(path, 10),
    "a negative class": lambda path: np.save(path, -1),
    "a half": lambda path: np.save(path, 0.5),
    "a word": lambda path: np.save(path, "dog"),
    "nothing": lambda path: np.save(path, np.zeros(0)),
    "an archive": lambda path: (np.savez(path.with_suffix(".npz"), a=1), path.with_suffix(".npz").rename(path)),
}


@pytest.mark.parametrize("case", LABELS)
def test_a_file_of_a_label_that_holds_something_else_is_refused_by_name(case, spoiled, refused):
    assert FIRST in refused(spoiled("VEGAS_classes", LABELS[case]), "--config", "fold0")


def add_to(root, fold, content):
    path = root / "folds" / f"{fold:02d}.txt"
    path.write_bytes(path.read_bytes() + b"\n" + content)


def copy_to(root, name):
    shutil.copy(root / "vgg" / f"{FIRST}.npy", root / "vgg" / os.fsdecode(name))


FOLDERS = {
    "an id in two folds": (lambda root: add_to(root, 3, FIRST.encode()), f"1 ids stand .* more than once .{FIRST}"),
    "an id twice": (lambda root: add_to(root, 0, f"{FIRST}.npy".encode()), f"more than once .{FIRST}"),
    "an id without files": (
        lambda root: add_to(root, 2, b"cat_video_1"),
        r"1 clips .*vgg \(cat_video_1\): .*--drop",
    ),
    "an id that leaves the folder": (lambda root: add_to(root, 2, b"../vgg/x"), r"no file in .*\(\.\./vgg/x\)"),
    "a class without a file": (
        lambda root: (root / "VEGAS_classes" / f"{FIRST}.npy").unlink(),
        f"1 clips of the folds have no file in .*VEGAS_classes .{FIRST}",
    ),
    "a fold that is no UTF-8": (lambda root: add_to(root, 1, b"caf\xe9"), r"01\.txt is not UTF-8 \(byte \d+\)"),
    "four folds": (lambda root: (root / "folds" / "04.txt").unlink(), "folds: expected five lists.*'03.txt'"),
    "six folds": (lambda root: (root / "folds" / "05.txt").write_text(""), "folds: expected five lists.*'05.txt'"),
    "an empty fold": (
        lambda root: (root / "folds" / "04.txt").write_text("\n\n"),
        "Split test of configuration fold4 is empty",
    ),
    "no folds": (lambda root: shutil.rmtree(root / "folds"), "Data: expected the folders vgg.*; folds is not there"),
    "no picture": (lambda root: shutil.rmtree(root / "inception"), "inception is not there"),
    "a file for a folder": (
        lambda root: (shutil.rmtree(root / "inception"), (root / "inception").write_text("")),
        "inception is not there",
    ),
    "a class too few": (
        lambda root: [np.save(path, 1) for path in (root / "VEGAS_classes").glob("dog_*")],
        "has no clip of 'chainsaw'",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_do_not_fit_are_refused_in_one_sentence(case, small, refused, tmp_path):
    spoil, message = FOLDERS[case]
    shutil.copytree(small, tmp_path / "Data")
    spoil(tmp_path / "Data")
    assert_matches(message, refused(tmp_path / "Data"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a file name be any bytes")
def test_a_file_name_that_is_no_utf8_is_refused_by_its_bytes(small, refused, tmp_path):
    shutil.copytree(small, tmp_path / "Data")
    copy_to(tmp_path / "Data", b"caf\xe9.npy")
    assert r"vgg: the file name b'caf\xe9.npy' is not UTF-8; rename it." in refused(tmp_path / "Data")


def test_the_mark_with_which_windows_begins_a_text_is_no_part_of_an_id(small, built, tmp_path):
    shutil.copytree(small, tmp_path / "Data")
    path = tmp_path / "Data" / "folds" / "00.txt"
    path.write_text(path.read_text().replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    assert load(built(tmp_path / "Data"), tmp_path / "cache")["test"].num_rows == 20


def test_clips_without_a_frame_are_left_out_when_asked_for(small, built, tmp_path):
    shutil.copytree(small, tmp_path / "Data")
    np.save(tmp_path / "Data" / "vgg" / f"{FIRST}.npy", np.ones((0, 128), np.uint8))
    folder = built(tmp_path / "Data", "--drop-bad-rows", "--config", "fold1")
    assert "1 rows of the source held NaN or infinity and were left out" in card_of(folder)


# The builder, used directly.


def test_the_builder_streams_what_the_folder_holds(vegas, authors, five, tmp_path):
    builder = vegas.Vegas(source=authors[0], config_name="fold2", cache_dir=str(tmp_path))
    for name, split in five[2].items():
        stream = builder.as_streaming_dataset(name)
        assert stream.features == split.features
        for found, expected in zip(stream.with_format("numpy"), split, strict=True):
            assert all(np.array_equal(found[column], expected[column]) for column in split.features)


@pytest.fixture
def default_signals():
    """What a process begins with: a worker that inherits another handler may hang when its pool ends it."""
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, previous)


def test_the_builder_prepares_what_the_folder_holds_on_two_processes(vegas, authors, five, tmp_path, default_signals):
    builder = vegas.Vegas(source=authors[0], cache_dir=str(tmp_path))
    builder.download_and_prepare(num_proc=2)
    for name, split in builder.as_dataset().with_format("numpy").items():
        assert list(split["clip_id"]) == list(five[0][name]["clip_id"])
        for column in ("audio_features", "visual_features", "label"):
            assert split[column][:].tobytes() == five[0][name][column][:].tobytes()


def test_a_source_rewritten_in_its_place_is_read_anew(vegas, tmp_path):
    for seed in (1, 2):
        arrays = six_arrays(seed)
        source = write_h5(tmp_path / "vegas_feature.h5", arrays)
        builder = vegas.Vegas(source=source, cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        found = builder.as_dataset("test").with_format("numpy")["audio_features"][:]
        assert found.tobytes() == arrays["audio_test"].astype(np.float32).tobytes()
        (streamed,) = builder.as_streaming_dataset("test").take(1)
        assert streamed["label"] == arrays["lab_test"][0]


def test_folders_rewritten_in_their_place_are_read_anew(vegas, small, tmp_path):
    shutil.copytree(small, tmp_path / "Data")
    for value in (1.0, 2.0):
        np.save(tmp_path / "Data" / "vgg" / f"{FIRST}.npy", np.full((1, 128), value))
        builder = vegas.Vegas(source=tmp_path / "Data", cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        found = {row["clip_id"]: row["audio_features"] for row in builder.as_dataset("test")}
        assert found[FIRST] == [value] * 128


@pytest.mark.parametrize("config", ["fold5", "fold", "default"])
def test_the_builder_refuses_a_fold_that_is_not_there(config, vegas, authors, tmp_path):
    with pytest.raises(ValueError, match="fold0, fold1, fold2, fold3, fold4"):
        vegas.Vegas(source=authors[0], config_name=config, cache_dir=str(tmp_path))


def test_the_builder_says_that_an_h5_file_has_no_folds(vegas, tmp_path):
    source = write_h5(tmp_path / "vegas_feature.h5", six_arrays())
    with pytest.raises(ValueError, match="default"):
        vegas.Vegas(source=source, config_name="fold0", cache_dir=str(tmp_path))
