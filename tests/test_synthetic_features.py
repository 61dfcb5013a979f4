"""The stand-in for VEGAS's features, as a folder."""

import numpy as np
import pytest
from datasets import load_dataset

from modeling_dualspace.feature_dataset import to_tensors
from modeling_dualspace.feature_schema import Description
from modeling_dualspace.synthetic import CLASSES, synthetic_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory, script):
    folder = tmp_path_factory.mktemp("synthetic") / "vegas-features-synthetic"
    assert script("synthetic_features").main(["--out", str(folder), "--rows", "2500"]) == 0
    return folder


def test_a_fifth_is_test_and_a_tenth_of_every_class_of_train_is_validation(folder):
    clips = load_dataset(str(folder))
    assert len(clips["test"]) == 500 and len(clips["train"]) + len(clips["validation"]) == 2000
    train, validation = (np.bincount(clips[split]["label"][:], minlength=10) for split in ("train", "validation"))
    assert np.array_equal(validation, np.floor((train + validation) * 0.1 + 0.5))
    assert clips["train"].features["label"].names == CLASSES
    assert clips["train"].features["visual_features"].length == 1024


def test_the_rows_are_those_of_the_generator(folder):
    clips = load_dataset(str(folder))
    drawn, found = synthetic_clips(2000, seed=0), {split: to_tensors(clips[split]) for split in clips}
    for split in ("train", "validation"):
        rows = [int(name.split("/")[1]) for name in clips[split]["clip_id"][:]]
        for name in ("audio_features", "visual_features", "labels"):
            assert found[split][name].equal(drawn[name][rows])
    assert found["test"]["audio_features"].equal(synthetic_clips(500, seed=1)["audio_features"])


def test_synthetic_is_said_wherever_a_person_or_a_program_looks(folder):
    split = load_dataset(str(folder), split="test")
    assert Description.parse(split.info.description).synthetic
    card = (folder / "README.md").read_text()
    assert "\n---\n\n**SYNTHETIC: " in card and "\n- synthetic\n" in card


def test_too_few_rows_are_refused(tmp_path, capsys, script):
    assert script("synthetic_features").main(["--out", str(tmp_path / "out"), "--rows", "1"]) == 1
    assert "rows for train and for test" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
