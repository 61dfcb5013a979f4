"""Every folder a builder makes, as somebody sees it who has nothing but `datasets`."""

import hashlib
import json
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.io
from datasets import get_dataset_config_names, load_dataset
from scipy.io import wavfile

from modeling_dualspace.feature_dataset import dataset_fingerprint
from modeling_dualspace.feature_schema import Description

READER = """
import hashlib, json, sys, datasets
found = {}
for name, configs in json.loads(sys.argv[1]).items():
    for config in configs:
        for streaming in (False, True):
            for split, clips in datasets.load_dataset(name, config, streaming=streaming).items():
                digest = hashlib.sha256()
                for row in clips.with_format("torch"):
                    digest.update(row["clip_id"].encode() + row["audio_features"].numpy().tobytes())
                    digest.update(row["visual_features"].numpy().tobytes() + bytes([int(row["label"])]))
                found[f"{name}/{config}/{split}/{streaming}"] = digest.hexdigest()
    default = datasets.load_dataset(name, split="test[:3]")
    found[name] = default["clip_id"][:]
assert not [name for name in sys.modules if "dualspace" in name]
print(json.dumps(found))
"""


def six_keys(path, classes, rows=(60, 30)):
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in zip(("train", "test"), rows, strict=True):
            file[f"audio_{split}"] = generator.standard_normal((count, 128), dtype=np.float32)
            file[f"visual_{split}"] = generator.standard_normal((count, 1024), dtype=np.float32)
            file[f"lab_{split}"] = np.arange(count) % classes
    return path


def vegas_folders(root):
    for folder in ("vgg", "inception", "VEGAS_classes", "folds"):
        (root / folder).mkdir(parents=True)
    ids = [f"clip_{number:03d}" for number in range(100)]
    for number, name in enumerate(ids):
        np.save(root / "vgg" / name, np.random.default_rng(number).integers(0, 256, (3, 128), dtype=np.uint8))
        np.save(root / "inception" / name, np.random.default_rng(number).random((3, 1024), dtype=np.float32))
        np.save(root / "VEGAS_classes" / name, np.int64(number % 10))
    for fold in range(5):
        (root / "folds" / f"{fold:02d}.txt").write_text("\n".join(ids[20 * fold : 20 * fold + 20]))
    return root


def wikipedia(root):
    root.mkdir()
    generator, arrays = np.random.default_rng(0), {}
    for split, ending, rows in (("train", "tr", 60), ("test", "te", 30)):
        arrays |= {f"I_{ending}": generator.random((rows, 128)), f"T_{ending}": generator.random((rows, 10))}
        lines = [f"{split}{row}-1 image{row} {row % 10 + 1}" for row in range(rows)]
        (root / f"{split}set_txt_img_cat.list").write_text("\n".join(lines))
    scipy.io.savemat(root / "raw_features.mat", arrays)
    (root / "categories.list").write_text("\n".join("abcdefghij"))
    return root


def recordings(root):
    root.mkdir()
    generator = np.random.default_rng(0)
    for digit in range(10):
        for speaker in ("anna", "bob", "cleo"):
            for number in range(8):
                sound = generator.integers(-9000, 9000, 1200).astype(np.int16)
                wavfile.write(root / f"{digit}_{speaker}_{number}.wav", 8000, sound)
    return root


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {
        "vegas-features": ("vegas", six_keys(root / "vegas.h5", 10)),
        "vegas-folds": ("vegas", vegas_folders(root / "Data")),
        "ave-features": ("ave", six_keys(root / "ave.h5", 15)),
        "wikipedia-features": ("wikipedia", wikipedia(root / "wikipedia")),
        "spoken-digits-features": ("spoken_digits", recordings(root / "recordings")),
    }


@pytest.fixture(scope="module")
def parent(tmp_path_factory, sources, script):
    """Where all the folders lie."""
    parent = tmp_path_factory.mktemp("parent")
    for name, (builder, source) in sources.items():
        assert script(builder).main(["--source", str(source), "--out", str(parent / name)]) == 0
    assert script("synthetic_features").main(["--out", str(parent / "synthetic"), "--rows", "300"]) == 0
    return parent


def test_a_process_that_knows_only_datasets_loads_them_all_by_their_bare_names(parent):
    configs = {folder.name: get_dataset_config_names(str(folder)) for folder in sorted(parent.iterdir())}
    assert configs["vegas-folds"] == [f"fold{fold}" for fold in range(5)] and len(configs) == 6
    command = [sys.executable, "-c", READER, json.dumps(configs)]
    done = subprocess.run(command, cwd=parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, names in configs.items():
        for config in names:
            for split, clips in load_dataset(str(parent / name), config).items():
                digest = hashlib.sha256()
                for row in clips.with_format("numpy"):
                    digest.update(row["clip_id"].encode() + row["audio_features"].tobytes())
                    digest.update(row["visual_features"].tobytes() + bytes([int(row["label"])]))
                assert found.pop(f"{name}/{config}/{split}/False") == digest.hexdigest()
                assert found.pop(f"{name}/{config}/{split}/True") == digest.hexdigest()
        assert found.pop(name) == load_dataset(str(parent / name), split="test")["clip_id"][:3]
    assert found == {}


def test_their_fingerprints_are_those_of_what_is_loaded(parent):
    for folder in parent.iterdir():
        for config in get_dataset_config_names(str(folder)):
            clips = load_dataset(str(folder), config)
            assert Description.parse(clips["test"].info.description).fingerprint == dataset_fingerprint(clips)


def test_without_the_folder_datasets_says_that_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ConnectionError)):
        load_dataset("vegas-features", cache_dir=str(tmp_path))  # what was loaded before, it serves from its cache


@pytest.mark.parametrize("name", ["vegas-features", "vegas-folds", "wikipedia-features", "spoken-digits-features"])
def test_a_builder_s_stream_can_be_sent_to_another_process(name, sources, script, tmp_path):
    module, source = sources[name]
    builders = {"vegas": "Vegas", "wikipedia": "Wikipedia", "spoken_digits": "SpokenDigits"}
    builder = getattr(script(module), builders[module])(source=source, cache_dir=str(tmp_path))
    stream = builder.as_streaming_dataset("test")
    assert next(iter(pickle.loads(pickle.dumps(stream))))["clip_id"] == next(iter(stream))["clip_id"]
    assert "audio=" in builder.info.description
