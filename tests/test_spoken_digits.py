"""Spoken and written digits: the published recordings, small ones of our own, and broken ones."""

import os
import shutil
import struct
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
from datasets import get_dataset_config_names, load_dataset
from scipy.io import wavfile
from sklearn.datasets import load_digits

from modeling_dualspace.feature_schema import Description

CONFIGS = ("default", "speakers")
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FIRST = "3_bob_5.wav"


def noise(rows=1200, seed=0):
    return (3000 * np.random.default_rng(seed).standard_normal(rows)).astype(np.int16)


def write(root, speakers=("anna", "bob", "cleo", "dora"), numbers=(0, 4, 5, 6)):
    root.mkdir(parents=True)
    for digit in range(10):
        for place, speaker in enumerate(speakers):
            for number in numbers:
                wavfile.write(
                    root / f"{digit}_{speaker}_{number}.wav", 8000, noise(700, seed=(digit, place, number)) // 2
                )
    return root


def naive_summary(samples, rate):
    """The logarithm of the energy in 32 triangles over the mel scale, frame by frame; then the mean of each quarter."""
    window = max(64, int(0.032 * rate))
    frames = [samples[start : start + window] for start in range(0, len(samples) - window + 1, window // 4)]
    taper = [0.5 - 0.5 * np.cos(2 * np.pi * place / (window - 1)) for place in range(window)]
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([50, rate / 2]) / 700)), 34) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, window // 2 + 1)
    rows = []
    for frame in frames:
        power = np.abs(np.fft.fft(frame * taper))[: window // 2 + 1] ** 2
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
            row.append(np.log(power @ np.maximum(0, np.minimum(rising, falling)) + 1e-6))
        rows.append(row)
    return np.concatenate([np.mean(quarter, axis=0) for quarter in np.array_split(rows, 4)])


def load(folder, cache, config=None):
    return load_dataset(str(folder), config, cache_dir=str(cache)).with_format("numpy")


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def digits(script):
    return script("spoken_digits")


@pytest.fixture
def built(digits, builds):
    """`built(source, flags...)`: the folder that the command made."""
    return builds(digits.main)


@pytest.fixture
def refused(digits, refuses):
    """`refused(source, flags...)`: the one line in which the command ends, having made no folder."""
    return refuses(digits.main)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Recordings of four speakers, to read, to copy and to spoil."""
    return write(tmp_path_factory.mktemp("small") / "recordings")


# What both the published recordings and ours must be.


@pytest.fixture(scope="module", params=["published", "small"])
def made(request, digits, small, tmp_path_factory):
    """Recordings, the folder that the command made of them, and its two configurations."""
    source = small
    if request.param == "published":
        source = request.getfixturevalue("data_root") / "fsdd" / "recordings"
        if not source.is_dir():
            pytest.skip("the Free Spoken Digit Dataset is not in the folder of real data")
    root = tmp_path_factory.mktemp("made")
    assert digits.main(["--source", str(source), "--out", str(root / "out")]) == 0
    return source, root / "out", {config: load(root / "out", root / "cache", config) for config in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_recording_is_in_one_split_and_no_image_in_two(config, made):
    source, _, clips = made
    ids = [str(clip) for split in clips[config].values() for clip in split["clip_id"]]
    assert sorted(ids) == sorted(path.stem for path in source.glob("*.wav"))
    images = [set(split["image"][:].tolist()) for split in clips[config].values()]
    assert sum(map(len, images)) == len(set.union(*images)) <= 1797


@pytest.mark.parametrize("config", CONFIGS)
def test_a_pair_shares_its_class_and_the_image_is_scikit_learns(config, made):
    bunch = load_digits()
    for split in made[2][config].values():
        said = [int(clip.split("_")[0]) for clip in split["clip_id"]]
        assert split["label"][:].tolist() == said == bunch.target[split["image"][:]].tolist()
        assert split["visual_features"][:].tobytes() == bunch.data[split["image"][:]].astype(np.float32).tobytes()
        assert list(split["speaker"]) == [clip.split("_")[1] for clip in split["clip_id"]]
        assert split.features["label"].names == NAMES


@pytest.mark.parametrize("config", CONFIGS)
def test_every_image_of_a_class_is_used_before_one_is_used_again(config, made):
    target = load_digits().target
    for name, split in made[2][config].items():
        counts = Counter(split["image"][:].tolist())
        for digit in range(10):
            others = int((target == digit).sum()) - 30
            held = int(others / 10 + 0.5)
            pool = {"train": others - held, "validation": held, "test": 30}[name]
            used = [times for image, times in counts.items() if target[image] == digit]
            assert len(used) == min(pool, sum(used)) and max(used) - min(used) <= 1


def test_recordings_0_to_4_are_test_and_a_tenth_of_each_other_digit_is_validation(made):
    clips = made[2]["default"]
    numbers = {name: [int(clip.split("_")[2]) for clip in split["clip_id"]] for name, split in clips.items()}
    assert max(numbers["test"]) < 5 <= min(numbers["train"] + numbers["validation"])
    train, held = (Counter(clips[name]["label"][:].tolist()) for name in ("train", "validation"))
    assert all(held[digit] == int((train[digit] + held[digit]) / 10 + 0.5) for digit in range(10))


def test_validation_and_test_of_the_speakers_hear_one_nobody_else_hears(made):
    heard = {name: set(split["speaker"]) for name, split in made[2]["speakers"].items()}
    speakers = sorted(set.union(*heard.values()))
    assert heard == {"train": set(speakers[:-2]), "validation": {speakers[-2]}, "test": {speakers[-1]}}
    card = card_of(made[1])
    assert f"validation only ({speakers[-2]})" in " ".join(card.split())
    assert f"test only ({speakers[-1]})" in " ".join(card.split())


def test_sounds_are_summarised_as_the_naive_twin_does(made):
    source, _, clips = made
    for clip in clips["default"]["test"].select(range(0, len(clips["default"]["test"]), 15)):
        rate, samples = wavfile.read(source / f"{clip['clip_id']}.wav")
        samples = np.pad(samples / 32768, (0, max(0, 4 * int(0.032 * rate) - len(samples))))
        np.testing.assert_allclose(clip["audio_features"], naive_summary(samples, rate), atol=1e-4)


def test_both_configurations_load_and_say_what_their_features_are(made):
    assert get_dataset_config_names(str(made[1])) == list(CONFIGS)
    for config in CONFIGS:
        found = Description.parse(made[2][config]["test"].info.description)
        assert (found.audio, found.visual) == ("log-mel-quarters@fsdd", "pixels@sklearn-digits")
        assert f"`{found.fingerprint}`" in card_of(made[1])


def test_recordings_are_counted_over_splits_as_they_should_be(made):
    expected = {
        3000: [{"train": 2430, "validation": 270, "test": 300}, {"train": 2000, "validation": 500, "test": 500}],
        160: [{"train": 70, "validation": 10, "test": 80}, {"train": 80, "validation": 40, "test": 40}],
    }
    rows = [made[2][config].num_rows for config in CONFIGS]
    assert rows == expected[sum(rows[0].values())]


def test_a_build_repeated_is_the_same(digits, small, tmp_path):
    for name in ("one", "two"):
        assert digits.main(["--source", str(small), "--out", str(tmp_path / name / "out")]) == 0
    files = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()}
        for name in ("one", "two")
    ]
    assert files[0] == files[1]


# Recordings of other forms.

FORMS = {
    "stereo": np.stack([noise(), noise()], axis=1),
    "singles": (noise() / 32768).astype(np.float32),
    "doubles": noise() / 32768,
    "32 bits": noise().astype(np.int32) * 65536,
    "stereo of singles": np.stack([noise(), noise()], axis=1).astype(np.float32) / 32768,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sound_sounds_the_same_in_every_form(form, digits, tmp_path):
    wavfile.write(tmp_path / "plain.wav", 8000, noise())
    wavfile.write(tmp_path / "other.wav", 8000, FORMS[form])
    plain, other = (digits.log_mel_summary(str(tmp_path / name)) for name in ("plain.wav", "other.wav"))
    np.testing.assert_allclose(other, plain, atol=2e-3)


def test_a_sound_of_8_bits_sounds_the_same_but_for_its_steps(digits, tmp_path):
    steps = np.round(noise() / 256)
    wavfile.write(tmp_path / "plain.wav", 8000, (256 * steps).astype(np.int16))
    wavfile.write(tmp_path / "other.wav", 8000, (steps + 128).astype(np.uint8))  # 8-bit samples have no sign
    plain, other = (digits.log_mel_summary(str(tmp_path / name)) for name in ("plain.wav", "other.wav"))
    np.testing.assert_allclose(other, plain, atol=0.05)


@pytest.mark.parametrize("rows", [1, 63, 255, 256, 1023, 1024, 1025])
def test_short_sounds_have_a_summary_too(rows, digits, tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, noise(rows))
    found = digits.log_mel_summary(str(tmp_path / "a.wav"))
    assert found.shape == (128,) and found.dtype == np.float32 and np.isfinite(found).all()


@pytest.mark.parametrize("rate", [2000, 16_000, 44_100])
def test_other_rates_are_summarised_as_the_naive_twin_does(rate, digits, tmp_path):
    wavfile.write(tmp_path / "a.wav", rate, noise(8000))
    found = digits.log_mel_summary(str(tmp_path / "a.wav"))
    np.testing.assert_allclose(found, naive_summary(noise(8000) / 32768, rate), atol=1e-4)


# Recordings that are not what they should be.


def header(channels=1, rate=8000, size=2, width=16, rows=100):
    """A .wav file of zeros with a header of our own."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * size, size, width)
    data = bytes(rows * 2)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_a_recording_with_chunks_of_another_program_is_read(digits, tmp_path):
    # What editors write beside the sound, such as a date: scipy skips it, and warns.
    wavfile.write(tmp_path / "plain.wav", 8000, noise())
    content = (tmp_path / "plain.wav").read_bytes()
    chunk = b"bext" + struct.pack("<I", 8) + b"20180101"
    length = struct.pack("<I", len(content) + len(chunk) - 8)
    (tmp_path / "other.wav").write_bytes(content[:4] + length + content[8:36] + chunk + content[36:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, other = (digits.log_mel_summary(str(tmp_path / name)) for name in ("plain.wav", "other.wav"))
    np.testing.assert_array_equal(other, plain)


def cut(kept):
    return lambda path: os.truncate(path, kept)


FILES = {
    "text": lambda path: path.write_text("zero"),
    "nothing": cut(0),
    "four bytes": cut(4),
    "a form": cut(12),
    "half a header": cut(20),
    "a header without a length": cut(40),
    "a header": cut(44),
    "half a sound": cut(700),
    "nearly a sound": lambda path: os.truncate(path, path.stat().st_size - 2),
    "no sound after the header": lambda path: path.write_bytes(header()[:36]),
    "samples of no bytes": lambda path: path.write_bytes(header(size=0)),
    "samples of seventy bits": lambda path: path.write_bytes(header(width=70)),
    "no channel": lambda path: path.write_bytes(header(channels=0)),
    "a rate of nothing": lambda path: path.write_bytes(header(rate=0)),
    "a rate below all voices": lambda path: wavfile.write(path, 90, noise()),
    "no samples": lambda path: wavfile.write(path, 8000, noise(0)),
    "not numbers": lambda path: wavfile.write(path, 8000, np.full(1000, np.nan, np.float32)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("case", FILES)
def test_a_recording_that_cannot_be_read_is_refused_by_name(case, small, refused, tmp_path):
    shutil.copytree(small, tmp_path / "recordings")
    FILES[case](tmp_path / "recordings" / FIRST)
    assert FIRST.removesuffix(".wav") in refused(tmp_path / "recordings", "--config", "default")


def test_a_bad_recording_is_left_out_when_asked_for(small, built, tmp_path):
    shutil.copytree(small, tmp_path / "recordings")
    FILES["not numbers"](tmp_path / "recordings" / FIRST)
    folder = built(tmp_path / "recordings", "--drop-bad-rows", "--config", "default")
    assert "- 1 rows of the source held NaN or infinity and were left out." in card_of(folder)
    assert sum(load(folder, tmp_path / "cache").num_rows.values()) == 159


@pytest.mark.parametrize("name", ["x.wav", "10_bob_1.wav", "3_bob.wav", "3_bob_1_2.wav", "3__1.wav", "٣_bob_1.wav"])
def test_a_recording_of_another_name_is_refused(name, small, refused, tmp_path):
    shutil.copytree(small, tmp_path / "recordings")
    shutil.copy(small / FIRST, tmp_path / "recordings" / name)
    line = refused(tmp_path / "recordings")
    assert "expected recordings named <digit>_<speaker>_<number>.wav, got" in line and name in line


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a file name be any bytes")
def test_a_recording_whose_name_is_no_utf8_is_refused(small, refused, tmp_path):
    shutil.copytree(small, tmp_path / "recordings")
    shutil.copy(small / FIRST, tmp_path / "recordings" / os.fsdecode(b"caf\xe9.wav"))
    assert r"got 'caf\udce9.wav'" in refused(tmp_path / "recordings")


SETS = {
    "no recording": ({"numbers": ()}, "expected .wav files, and found none"),
    "two speakers": ({"speakers": ("anna", "bob")}, "at least three speakers, to hold out two, got anna, bob"),
    "nothing to test": ({"numbers": (5, 6)}, "Split test of configuration default is empty"),
    "nothing to train": ({"numbers": (0, 1)}, "Split train of configuration default is empty"),
}


@pytest.mark.parametrize("case", SETS)
def test_recordings_that_make_no_splits_are_refused(case, refused, tmp_path):
    settings, message = SETS[case]
    assert message in refused(write(tmp_path / "recordings", **settings))


def test_two_speakers_suffice_where_none_is_held_out(built, tmp_path):
    folder = built(write(tmp_path / "recordings", speakers=("anna", "bob")), "--config", "default")
    assert sum(load(folder, tmp_path / "cache").num_rows.values()) == 80


def test_a_digit_that_nobody_says_is_refused(small, refused, tmp_path):
    shutil.copytree(small, tmp_path / "recordings", ignore=shutil.ignore_patterns("3_*", "7_*"))
    assert "no recording of the digits 3, 7" in refused(tmp_path / "recordings")


def test_a_file_for_a_folder_and_a_source_that_is_not_there_are_refused_by_name(small, refused, tmp_path):
    assert FIRST in refused(small / FIRST)
    assert f"There is nothing at {tmp_path / 'x'}. The Free Spoken Digit Dataset" in refused(tmp_path / "x")
    assert "the configurations default, speakers, not speaker" in refused(small, "--config", "speaker")


def test_an_order_of_classes_is_refused_where_names_say_the_digit(small, refused, tmp_path):
    (tmp_path / "order.txt").write_text("\n".join(reversed(NAMES)))
    assert "class-order" in refused(small, "--class-order", tmp_path / "order.txt").replace(
        "class_order", "class-order"
    )


def test_without_a_source_the_command_says_where_to_get_it(digits, capfd, tmp_path):
    assert digits.main(["--out", str(tmp_path / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--source is missing. The Free Spoken Digit Dataset" in line and not list(tmp_path.iterdir())


# The builder, used directly.


@pytest.mark.parametrize("config", CONFIGS)
def test_the_builder_streams_and_prepares_what_the_folder_holds(config, digits, small, built, tmp_path):
    folder = built(small)
    builder = digits.SpokenDigits(source=small, config_name=config, cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    prepared = builder.as_dataset()
    for name, split in load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache")).items():
        assert prepared[name].to_list() == split.to_list() == list(builder.as_streaming_dataset(name))


def test_a_recording_rewritten_in_its_place_is_read_anew(digits, small, tmp_path):
    shutil.copytree(small, tmp_path / "recordings")
    found = []
    for seed in (1, 2):
        wavfile.write(tmp_path / "recordings" / "0_anna_0.wav", 8000, noise(seed=seed))
        builder = digits.SpokenDigits(source=tmp_path / "recordings", cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        clip = builder.as_dataset("test")[0]
        assert clip["clip_id"] == "0_anna_0"
        np.testing.assert_allclose(clip["audio_features"], naive_summary(noise(seed=seed) / 32768, 8000), atol=1e-4)
        found.append(clip["audio_features"])
    assert found[0] != found[1]


def test_the_builder_refuses_a_configuration_that_is_not_there(digits, small, tmp_path):
    with pytest.raises(ValueError, match="default, speakers"):
        digits.SpokenDigits(source=small, config_name="speaker", cache_dir=str(tmp_path))
