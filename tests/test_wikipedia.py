"""Wikipedia's images and texts: the published files, small ones of our own, and broken ones."""

import os
import shutil
from collections import Counter

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from datasets import load_dataset

from modeling_dualspace.feature_schema import Description

NAMES = [f"category {letter}" for letter in "abcdefghij"]
LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}
ROWS = {"train": 60, "test": 30}
KEYS = {("train", "audio_features"): "T_tr", ("train", "visual_features"): "I_tr"} | {
    ("test", "audio_features"): "T_te",
    ("test", "visual_features"): "I_te",
}


def matrices(stored="<f8"):
    generator = np.random.default_rng(0)
    shapes = {key: (ROWS[split], 10 if key[0] == "T" else 128) for (split, _), key in KEYS.items()}
    return {key: (100 * generator.random(shape)).astype(stored) for key, shape in shapes.items()}


def write(root, arrays=None, **options):
    """The published layout; a key without a matrix is left out."""
    root.mkdir(parents=True, exist_ok=True)
    arrays = matrices() if arrays is None else arrays
    kept = {key: array for key, array in arrays.items() if array is not None}
    scipy.io.savemat(root / "raw_features.mat", kept, **options)
    for split, name in LISTS.items():
        lines = [f"{split}-text-{row}\timage-{split}-{row}\t{row % 10 + 1}" for row in range(ROWS[split])]
        (root / name).write_text("\n".join(lines) + "\n")
    (root / "categories.list").write_text("\n".join(NAMES) + "\n")
    return arrays


def load(folder, cache):
    return load_dataset(str(folder), cache_dir=str(cache)).with_format("numpy")


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wikipedia(script):
    return script("wikipedia")


@pytest.fixture
def built(wikipedia, builds):
    """`built(source, flags...)`: the folder that the command made."""
    return builds(wikipedia.main)


@pytest.fixture
def refused(wikipedia, refuses):
    """`refused(source, flags...)`: the one line in which the command ends, having made no folder."""
    return refuses(wikipedia.main)


# The published files.


@pytest.fixture(scope="module")
def real(data_root):
    if not (data_root / "wikipedia").is_dir():
        pytest.skip("the Wikipedia features are not in the folder of real data")
    return data_root / "wikipedia"


@pytest.fixture(scope="module")
def published(real, wikipedia, tmp_path_factory):
    """The folder that the command makes of the published files, and its splits."""
    root = tmp_path_factory.mktemp("published")
    assert wikipedia.main(["--source", str(real), "--out", str(root / "out")]) == 0
    return root / "out", load(root / "out", root / "cache")


def test_the_published_rows_are_all_there_and_in_order(published):
    clips = published[1]
    assert len(clips["train"]) + len(clips["validation"]) == 2173 and len(clips["test"]) == 693
    assert len({clip for split in clips.values() for clip in split["clip_id"]}) == 2866


def test_the_published_values_come_out_bit_for_bit(published, real):
    arrays = scipy.io.loadmat(real / "raw_features.mat")
    listed = {
        split: {line.split()[0]: (row, int(line.split()[2]) - 1) for row, line in enumerate(lines.splitlines())}
        for split, lines in ((split, (real / name).read_text()) for split, name in LISTS.items())
    }
    for name, split in published[1].items():
        source = "test" if name == "test" else "train"
        rows, labels = zip(*(listed[source][str(clip)] for clip in split["clip_id"]), strict=True)
        assert list(rows) == sorted(rows) and split["label"][:].tolist() == list(labels)
        for column in ("audio_features", "visual_features"):
            expected = np.array(arrays[KEYS[source, column]][list(rows)], dtype=np.float32)
            assert split[column][:].tobytes() == expected.tobytes()


def test_a_tenth_of_every_published_category_is_validation(published):
    clips = published[1]
    train, held = (Counter(clips[name]["label"][:].tolist()) for name in ("train", "validation"))
    for label in range(10):
        assert held[label] == int((train[label] + held[label]) / 10 + 0.5)
    assert clips["test"].features["label"].names[:3] == ["art", "biology", "geography"]


def test_the_card_says_that_there_is_no_sound(published):
    card = " ".join(card_of(published[0]).split())
    assert "There is no sound here" in card and "| **clips** | **1,956** | **217** | **693** |" in card


def test_the_card_says_how_many_articles_splits_share(published):
    # A text is a section: what stands before its last dash is its article, and sections were split, not articles.
    articles = [{str(clip).rpartition("-")[0] for clip in published[1][name]["clip_id"]} for name in ("train", "test")]
    shared = len(set.intersection(*articles))
    wrong = card_of(published[0]).split("known to be wrong")[1]
    assert shared > 300 and "article" in wrong and str(shared) in wrong


# Files of our own.


@pytest.mark.parametrize("stored", ["<f8", "<f4", "u1", "<i2"])
@pytest.mark.parametrize("options", [{}, {"do_compression": True}, {"format": "4"}])
def test_matrices_of_any_type_come_out_bit_for_bit(stored, options, built, tmp_path):
    arrays = write(tmp_path / "source", matrices(stored), **options)
    clips = load(built(tmp_path / "source"), tmp_path / "cache")
    assert clips.num_rows == {"train": 50, "validation": 10, "test": 30}
    for name, split in clips.items():
        source = "test" if name == "test" else "train"
        rows = [int(clip.split("-")[2]) for clip in split["clip_id"]]
        assert list(split["clip_id"]) == [f"{source}-text-{row}" for row in rows] and rows == sorted(rows)
        assert split["label"][:].tolist() == [row % 10 for row in rows]
        assert split.features["label"].names == NAMES
        for column in ("audio_features", "visual_features"):
            expected = arrays[KEYS[source, column]][rows].astype(np.float32)
            assert split[column][:].tobytes() == expected.tobytes()


def test_the_description_names_what_the_features_are(built, tmp_path):
    write(tmp_path / "source")
    folder = built(tmp_path / "source")
    found = Description.parse(load(folder, tmp_path / "cache")["test"].info.description)
    assert (found.audio, found.visual) == ("lda-topics@wikipedia", "sift-histogram@wikipedia")
    assert f"`{found.fingerprint}`" in card_of(folder)


def test_another_order_of_categories_names_them_and_the_card_says_so(built, tmp_path):
    write(tmp_path / "source")
    (tmp_path / "order.txt").write_text("\n".join(reversed(NAMES)))
    folder = built(tmp_path / "source", "--class-order", tmp_path / "order.txt")
    assert load(folder, tmp_path / "cache")["test"].features["label"].names == NAMES[::-1]
    assert "--class-order" in card_of(folder)


def test_bad_rows_are_left_out_when_asked_for(built, tmp_path):
    arrays = matrices()
    arrays["I_te"][4, 7], arrays["T_tr"][9, 0] = np.nan, np.inf
    write(tmp_path / "source", arrays)
    folder = built(tmp_path / "source", "--drop-bad-rows")
    assert "- 2 rows of the source held NaN or infinity and were left out." in card_of(folder)
    clips = load(folder, tmp_path / "cache")
    ids = {str(clip) for split in clips.values() for clip in split["clip_id"]}
    assert len(ids) == 88 and not ids & {"test-text-4", "train-text-9"}


def matrix(key, value):
    return lambda root: write(root, matrices() | {key: value})


def line(old, new, name="trainset_txt_img_cat.list"):
    def change(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def cut(bytes_left):
    return lambda root: os.truncate(root / "raw_features.mat", bytes_left)


def compressed(root):
    """Zeros in the middle of what was packed."""
    write(root, do_compression=True)
    content = bytearray((root / "raw_features.mat").read_bytes())
    content[400:500] = bytes(100)
    (root / "raw_features.mat").write_bytes(content)


BAD = np.ones((60, 128))
BAD[3] = np.nan
HOSTILE = {
    "text": (lambda root: (root / "raw_features.mat").write_text("1 2 3\n" * 99), "raw_features.mat is no .mat file"),
    "an empty file": (cut(0), "raw_features.mat"),
    "three bytes": (cut(3), "raw_features.mat"),
    "half a header": (cut(100), "raw_features.mat"),
    "a header": (cut(128), "raw_features.mat"),
    "a header and a little": (cut(150), "raw_features.mat"),
    "half a file": (cut(50_000), "raw_features.mat"),
    "damaged": (compressed, "raw_features.mat"),
    "no file": (lambda root: (root / "raw_features.mat").unlink(), "raw_features.mat"),
    "a folder": (
        lambda root: ((root / "raw_features.mat").unlink(), (root / "raw_features.mat").mkdir()),
        "raw_features.mat",
    ),
    "a missing key": (matrix("T_te", None), "raw_features.mat: expected T_te of shape (30, 10)"),
    "fewer rows": (
        matrix("I_tr", np.ones((59, 128))),
        "expected I_tr of shape (60, 128), as trainset_txt_img_cat.list",
    ),
    "narrow": (matrix("I_tr", np.ones((60, 64))), "raw_features.mat: expected I_tr of shape (60, 128)"),
    "columns for rows": (matrix("T_te", np.ones((10, 30))), "expected T_te of shape (30, 10)"),
    "cells": (matrix("I_tr", np.full((60, 128), 1.5, dtype=object)), "raw_features.mat"),
    "sparse": (matrix("I_tr", scipy.sparse.csc_matrix(np.eye(60, 128))), "raw_features.mat"),
    "complex": (matrix("I_tr", np.ones((60, 128)) * 1j), "raw_features.mat"),
    "records": (matrix("I_tr", np.zeros((60, 128), [("a", "f8")])), "raw_features.mat"),
    "words": (matrix("I_tr", np.full(60, "x" * 128)), "raw_features.mat: expected I_tr"),
    "not numbers": (matrix("I_tr", BAD), "1 rows hold NaN or infinity (train-text-3)"),
    "too large": (matrix("T_te", np.full((30, 10), 1e300)), "30 rows hold NaN or infinity (test-text-0"),
    "no list": (lambda root: (root / LISTS["test"]).unlink(), "testset_txt_img_cat.list"),
    "an empty list": (lambda root: (root / LISTS["test"]).write_text("\n"), "testset_txt_img_cat.list"),
    "a line of two": (line("image-train-3\t", ""), "trainset_txt_img_cat.list: expected `text image category`"),
    "a category in words": (line("-3\t4\n", "-3\tfour\n"), "trainset_txt_img_cat.list"),
    "category nought": (line("-0\t1\n", "-0\t0\n"), "trainset_txt_img_cat.list"),
    "an eleventh category": (line("-0\t1\n", "-0\t11\n"), "trainset_txt_img_cat.list"),
    "a category beyond int64": (line("-0\t1\n", f"-0\t{10**30}\n"), "trainset_txt_img_cat.list"),
    "a category of five thousand digits": (line("-0\t1\n", f"-0\t{'9' * 5000}\n"), "trainset_txt_img_cat.list"),
    "a text twice": (line("train-text-1\t", "train-text-2\t"), "occur more than once (train-text-2)"),
    "a text of train in test": (
        line("test-text-1\t", "train-text-2\t", LISTS["test"]),
        "more than once (train-text-2)",
    ),
    "no UTF-8": (lambda root: (root / LISTS["train"]).write_bytes(b"caf\xe9\n"), "list is not UTF-8 (byte 3)"),
    "no categories": (lambda root: (root / "categories.list").unlink(), "categories.list"),
    "nine categories": (
        line("category a\n", "", "categories.list"),
        "categories.list: expected 10 different class names",
    ),
    "a category twice": (line("category a\n", "category b\n", "categories.list"), "expected 10 different class names"),
    "categories that are no UTF-8": (
        lambda root: (root / "categories.list").write_bytes(b"caf\xe9\n"),
        "categories.list is not UTF-8 (byte 3)",
    ),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Files to copy and to spoil."""
    root = tmp_path_factory.mktemp("small") / "wikipedia"
    write(root)
    return root


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_do_not_fit_are_refused_in_one_sentence(case, small, refused, tmp_path):
    spoil, message = HOSTILE[case]
    shutil.copytree(small, tmp_path / "source")
    spoil(tmp_path / "source")
    assert message in refused(tmp_path / "source")


def test_an_empty_category_is_refused(small, refused, tmp_path):
    shutil.copytree(small, tmp_path / "source")
    for name in LISTS.values():
        path = tmp_path / "source" / name
        path.write_text(path.read_text().replace("\t10\n", "\t9\n"))
    assert "Configuration default has no clip of 'category j'" in refused(tmp_path / "source")


def test_a_file_for_a_folder_and_a_source_that_is_not_there_are_refused_by_name(small, refused, tmp_path):
    assert "raw_features.mat" in refused(small / "raw_features.mat")
    assert f"There is nothing at {tmp_path / 'x'}. The set is distributed by" in refused(tmp_path / "x")
    assert "the configurations default, not fold0" in refused(small, "--config", "fold0")


def test_without_a_source_the_command_says_where_to_get_it(wikipedia, capfd, tmp_path):
    assert wikipedia.main(["--out", str(tmp_path / "out")]) == 2
    (printed,) = capfd.readouterr().err.splitlines()
    assert "--source is missing. The set is distributed by" in printed and not list(tmp_path.iterdir())


# The builder, used directly.


def test_the_builder_streams_and_prepares_what_the_folder_holds(wikipedia, small, built, tmp_path):
    folder = built(small)
    builder = wikipedia.Wikipedia(source=small, cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    prepared = builder.as_dataset()
    for name, split in load_dataset(str(folder), cache_dir=str(tmp_path / "cache")).items():
        assert prepared[name].to_list() == split.to_list() == list(builder.as_streaming_dataset(name))


def test_files_rewritten_in_their_place_are_read_anew(wikipedia, tmp_path):
    for value in (1.0, 2.0):
        write(tmp_path / "source", matrices() | {"T_te": np.full((30, 10), value)})
        builder = wikipedia.Wikipedia(source=tmp_path / "source", cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        assert builder.as_dataset("test")[0]["audio_features"] == [value] * 10
