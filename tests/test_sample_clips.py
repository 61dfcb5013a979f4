"""The rendered sample clips: reproducible, playable, varied, and neither trivial nor impossible to tell apart."""

import csv
import importlib.util
import io
import math
import os
import re
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from modeling_dualspace import sample_clips
from modeling_dualspace.sample_clips import SPLITS, write_clip, write_clips
from modeling_dualspace.sample_scenes import CLASSES, render_clip
from modeling_dualspace.scene import Scene

ROOT = Path(__file__).parent.parent


def load_script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("sample_clips_script", ROOT / "dataset_scripts" / "sample_clips.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


main = load_script().main
TINY = {"size": (64, 48), "seconds": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips a class, made by the command."""
    out = tmp_path_factory.mktemp("made") / "clips-synthetic"
    assert main(["--out", str(out), "--clips-per-class", "3", "--seconds", "0.5"]) == 0
    return out


@pytest.fixture(scope="module")
def many():
    """Twelve tiny clips of each class, by class."""
    return {name: [render_clip(name, (7, number), **TINY) for number in range(12)] for name in CLASSES}


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder):
    return list(csv.DictReader(io.StringIO((folder / "metadata.csv").read_text())))


def decode(path):
    """Frames, samples, frames a second and samples a second of a file."""
    with av.open(str(path)) as container:
        (video,), (audio,) = container.streams.video, container.streams.audio
        assert len(container.streams) == 2
        rates = video.average_rate, audio.rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        container.seek(0)
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio)])
    return np.stack(frames), samples, *rates


# The folder.


def test_a_folder_holds_the_clips_of_ten_classes_and_their_list(folder):
    names = {f"{name}/{name}-{number:04d}.mp4" for name in CLASSES for number in range(3)}
    assert len(CLASSES) == 10 and list(CLASSES) == sorted(CLASSES)
    assert files_of(folder).keys() == names | {"metadata.csv", "README.md", ".made-by-dualspace"}
    rows = rows_of(folder)
    assert list(rows[0]) == ["file_name", "label", "split"]
    assert {row["file_name"] for row in rows} == names
    assert all(row["file_name"].startswith(f"{row['label']}/") for row in rows)


def test_with_three_clips_a_class_every_split_has_every_class(folder):
    counts = Counter((row["label"], row["split"]) for row in rows_of(folder))
    assert counts == {(name, split): 1 for name in CLASSES for split in ("train", "validation", "test")}


def test_of_ten_clips_a_class_eight_are_trained_on():
    assert Counter(SPLITS) == {"train": 8, "validation": 1, "test": 1}


def test_the_command_in_the_readme_makes_the_same_bytes(folder, tmp_path, monkeypatch):
    command = re.search(r"^ {4}(python .+)$", (folder / "README.md").read_text(), re.MULTILINE)[1]
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[2:]) == 0
    assert files_of(tmp_path / folder.name) == files_of(folder)


def test_clips_made_at_once_are_those_made_one_after_another(folder, tmp_path):
    for row in rows_of(folder):
        number = int(row["file_name"][-8:-4])
        write_clip(tmp_path / "clip.mp4", render_clip(row["label"], (0, number), 0.5))
        assert (tmp_path / "clip.mp4").read_bytes() == (folder / row["file_name"]).read_bytes(), row


def test_the_number_of_processors_changes_no_byte(folder, tmp_path, monkeypatch):
    for count in (1, 4):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        write_clips(tmp_path / folder.name, 3, 0.5, 0, overwrite=True, progress=False)
        assert files_of(tmp_path / folder.name) == files_of(folder)


def test_more_clips_leave_the_first_ones_as_they_are(folder, tmp_path):
    assert main(["--out", str(tmp_path / "one"), "--clips-per-class", "1", "--seconds", "0.5"]) == 0
    fewer, more = files_of(tmp_path / "one"), files_of(folder)
    assert all(more[name] == content for name, content in fewer.items() if name.endswith(".mp4"))
    assert all(row in rows_of(folder) for row in rows_of(tmp_path / "one"))


def test_the_readme_says_that_they_are_synthetic_and_its_code_lists_them(folder, monkeypatch):
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert (
        card["license"] == "apache-2.0"
        and card["tags"] == ["audio-visual", "dualspace", "synthetic"]
        and card["pretty_name"]
    )
    assert "SYNTHETIC" in text and all(f"- `{name}`: " in text for name in CLASSES)
    monkeypatch.chdir(folder.parent)
    names = {}
    exec(re.search(r"```python\n(.+?)```", text, re.DOTALL)[1], names)
    assert Counter((clip.label, clip.split) for clip in names["clips"]) == Counter(
        (row["label"], row["split"]) for row in rows_of(folder)
    )


# The files.


def test_both_tracks_of_every_file_last_equally_long_and_hold_something(folder):
    for row in rows_of(folder):
        frames, samples, frame_rate, sample_rate = decode(folder / row["file_name"])
        assert frames.shape == (6, 120, 160, 3)
        assert abs(len(frames) / frame_rate - len(samples) / sample_rate) <= 1 / frame_rate, row
        assert 0.01 < np.abs(samples).max() < 1, row
        assert (np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3)) > 0.1).all(), row


def test_what_is_decoded_is_what_was_rendered_at_the_same_time(tmp_path):
    clip = render_clip("bouncing_ball", 3, **TINY)
    write_clip(tmp_path / "clip.mp4", clip)
    frames, samples, *_ = decode(tmp_path / "clip.mp4")
    assert np.corrcoef(samples[: len(clip.samples)], clip.samples)[0, 1] > 0.98
    for number, frame in enumerate(frames):
        nearest = np.abs(clip.frames.astype(int) - frame.astype(int)).mean(axis=(1, 2, 3)).argmin()
        assert nearest == number


def test_the_same_clip_is_written_as_the_same_bytes(tmp_path):
    # Long enough for the encoder to look ahead, which is where it may not repeat itself.
    clip = render_clip("bell", (0, 0))
    for number in range(4):
        write_clip(tmp_path / f"{number}.mp4", clip)
    assert len(set(files_of(tmp_path).values())) == 1


def test_a_file_does_not_say_when_it_was_made(folder):
    with av.open(str(folder / "bell" / "bell-0000.mp4")) as container:
        of_all = [container.metadata, *(stream.metadata for stream in container.streams)]
    assert not any("creation_time" in metadata for metadata in of_all)


def test_libraries_without_h264_write_the_other_codec(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4", "aac"})
    write_clip(tmp_path / "clip.mp4", render_clip("siren", 0, **TINY))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 12


# The clips.


def test_a_clip_has_the_length_and_size_that_were_asked_for():
    clip = render_clip("rain", 1, seconds=2.5, size=(40, 60), fps=8)
    assert clip.frames.shape == (20, 60, 40, 3) and clip.frames.dtype == np.uint8
    assert clip.samples.shape == (40_000,) and clip.samples.dtype == np.float32 and clip.sample_rate == 16_000


@pytest.mark.parametrize("name", CLASSES)
def test_the_same_seed_gives_the_same_clip(name, many):
    again = render_clip(name, (7, 5), **TINY)
    assert (again.frames == many[name][5].frames).all() and (again.samples == many[name][5].samples).all()


def test_another_seed_gives_another_clip(many):
    other = render_clip("drum", (8, 5), **TINY)
    assert (other.frames != many["drum"][5].frames).mean() > 0.9


@pytest.mark.parametrize("name", CLASSES)
def test_no_two_clips_of_a_class_are_alike(name, many):
    pictures = np.stack([clip.frames.mean(axis=0).ravel() for clip in many[name]])
    spectra = np.stack([log_spectrum(clip).ravel() for clip in many[name]])
    for rows, apart in ((pictures, 10), (spectra, 0.3)):
        distances = np.abs(rows[:, None] - rows).mean(axis=2)
        assert distances[~np.eye(len(rows), dtype=bool)].min() > apart


@pytest.mark.parametrize("name", CLASSES)
def test_the_sound_of_no_clip_is_silent_or_clipped(name, many):
    for clip in many[name]:
        assert 0.1 < np.abs(clip.samples).max() < 0.9
        assert np.sqrt((clip.samples**2).mean()) > 1e-3


@pytest.mark.parametrize(
    ("end", "radii", "flat"),
    [
        ((0.6, 0.5), (0.2, 0.2), False),
        ((0.9, 0.5), (0.1, 0.1), True),
        ((0.9, 0.5), (0.05, 0.2), False),
        ((0.8, 0.8), (0.1, 0.1), False),
        ((0.3, 0.6), (0.05, 0.15), True),
    ],
    ids=["disc", "level", "level and wider", "slanting", "slanting and wider"],
)
def test_a_shape_covers_what_is_nearer_to_its_line_than_its_radius(end, radii, flat):
    scene = Scene(np.random.default_rng(0), 0.5, (64, 48), 4)
    scene.picture[:] = 0
    scene.stroke((0.6, 0.5), end, radii, np.ones(3), flat=flat)
    run, fall = end[0] - 0.6, end[1] - 0.5
    length = math.hypot(run, fall) + 1e-6
    for row, column in np.ndindex(48, 64):
        x, y = (column + 0.5) / 48 - 0.6, (row + 0.5) / 48 - 0.5
        along, aside = (x * run + y * fall) / length, abs(x * fall - y * run) / length
        if run == fall == 0:
            along, aside = x, abs(y)
        beyond = max(-along, along - length)
        radius = radii[0] + min(max(along / length, 0), 1) * (radii[1] - radii[0])
        distance = max(aside - radius, beyond) if flat else math.hypot(aside, max(beyond, 0)) - radius
        expected = min(max(0.5 - distance * 48, 0), 1)
        assert scene.picture[:, :, row, column] == pytest.approx(expected, abs=1e-3)


# How hard they are.


def log_spectrum(clip):
    """Of windows of 32 ms in 32 bands `(t, 32)`."""
    windows = np.lib.stride_tricks.sliding_window_view(clip.samples, 512)[::256] * np.hanning(512)
    power = np.abs(np.fft.rfft(windows, axis=1))[:, :256] ** 2
    return np.log(power.reshape(len(power), 32, 8).mean(axis=2) + 1e-4)


def mean_picture(clip):
    """Grey in 8 x 8 fields, and the mean colour."""
    picture = clip.frames.mean(axis=0)
    grey = picture.mean(axis=2).reshape(8, 6, 8, 8).mean(axis=(1, 3))
    return np.concatenate([grey.ravel(), picture.mean(axis=(0, 1))])


def motion(clip):
    """How much each field of 16 x 16 changes, in order of size, by rows, and from frame to frame."""
    grey = clip.frames.mean(axis=3).reshape(len(clip.frames), 16, 3, 16, 4).mean(axis=(2, 4))
    change = np.abs(grey - np.median(grey, axis=0)).mean(axis=0)
    steps = np.abs(np.diff(grey, axis=0))
    fields, frames = np.quantile(steps, np.linspace(0.5, 1, 12)), np.quantile(steps.mean(axis=(1, 2)), [0, 0.5, 1])
    return np.log(np.concatenate([np.sort(change.ravel())[::16], change.mean(axis=1), fields, frames]) + 0.3)


def nearest_neighbour_accuracy(rows):
    """Of vectors in the order of `many`, each classified by the nearest other one."""
    rows = np.stack(rows)
    rows = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-9)
    distances = ((rows[:, None] - rows) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = np.repeat(np.arange(10), len(rows) // 10)
    return (labels[distances.argmin(axis=1)] == labels).mean()


def test_trivial_features_tell_the_classes_apart_in_part_and_those_of_change_better(many):
    clips = [clip for name in CLASSES for clip in many[name]]
    picture, moving = (nearest_neighbour_accuracy([of(clip) for clip in clips]) for of in (mean_picture, motion))
    spectra = [log_spectrum(clip) for clip in clips]
    spectrum = nearest_neighbour_accuracy([rows.mean(axis=0) for rows in spectra])
    changing = nearest_neighbour_accuracy([np.r_[rows.mean(axis=0), rows.std(axis=0)] for rows in spectra])
    assert 0.15 < picture < 0.7 and picture < moving
    assert 0.3 < spectrum < 0.8 and spectrum < changing


def test_the_mean_colour_does_not_give_the_class_away(many):
    colours = [clip.frames.mean(axis=(0, 1, 2)) for name in CLASSES for clip in many[name]]
    assert nearest_neighbour_accuracy(colours) < 0.25


@pytest.mark.parametrize("name", ["bell", "bouncing_ball", "rain"])
def test_a_picture_and_its_own_sound_keep_the_same_time(name):
    moves, sounds = [], []
    for number in range(12):
        clip = render_clip(name, (7, number), seconds=3, size=(64, 48))
        grey = clip.frames.mean(axis=3)
        moves.append(np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2)))
        levels = [np.log(np.square(part).mean() + 1e-6) for part in np.array_split(clip.samples, len(grey))]
        sounds.append(np.diff(levels) if name != "rain" else levels[1:])
    scores = np.abs(np.corrcoef(moves, sounds)[:12, 12:])
    ranks = (scores >= np.diag(scores)[:, None]).sum(axis=1)
    assert ranks.mean() < 4.5  # 6.5 by chance


def test_what_looks_big_sounds_low():
    sizes, pitches = [], []
    for number in range(24):
        clip = render_clip("bell", (7, number), size=(64, 48))
        grey = clip.frames.mean(axis=3)
        sizes.append((np.abs(grey - np.median(grey, axis=0)).max(axis=0) > 40).mean())
        spectrum = np.abs(np.fft.rfft(clip.samples))
        pitches.append(np.log(np.argmax(spectrum[600:12_000]) + 600))  # 200 to 4000 Hz
    assert np.corrcoef(sizes, pitches)[0, 1] < -0.4


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clips-per-class", "0"], "--clips-per-class must be at least 1, got 0"),
        (["--seconds", "0"], "between 0.5 and 60 seconds, got 0"),
        (["--seconds", "nan"], "between 0.5 and 60 seconds, got nan"),
        (["--seed", "-1"], "seed must be a whole number of at least 0"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_leave_nothing(arguments, sentence, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_unless_it_may_be_overwritten(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "out"), "--clips-per-class", "1", "--seconds", "0.5"]
    assert main(arguments) == 0
    (tmp_path / "out" / "stray.txt").touch()
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "exists already" in line and "--overwrite" in line
    assert main([*arguments, "--overwrite"]) == 1
    assert "stray.txt was put there" in capsys.readouterr().err
    (tmp_path / "out" / "stray.txt").unlink()
    assert main([*arguments, "--overwrite", "--seed", "1"]) == 0
    assert "--seed 1" in (tmp_path / "out" / "README.md").read_text()


def test_after_a_clip_that_fails_no_more_are_begun(tmp_path, monkeypatch):
    begun = []

    def render(name, seed, seconds):
        begun.append((name, seed))
        if len(begun) == 1:
            raise ValueError("no more paint")
        time.sleep(0.05)
        return render_clip(name, seed, seconds, size=(16, 16))

    monkeypatch.setattr(sample_clips, "render_clip", render)
    with pytest.raises(ValueError, match="no more paint"):
        write_clips(tmp_path / "out", 10, 0.5, 0, progress=False)
    assert len(begun) < 50
    assert list(tmp_path.iterdir()) == []


def test_without_av_one_sentence_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'dualspace[media]'" in line


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"class_name": "cow"}, "no class 'cow': choose one of bell, bird"),
        ({"size": (63, 48)}, "even numbers of at least 16, got 63x48"),
        ({"size": (8, 8)}, "even numbers of at least 16, got 8x8"),
        ({"fps": 1}, "between 4 and 60 frames a second, got 1"),
    ],
)
def test_a_clip_that_cannot_be_rendered_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        render_clip(**{"class_name": "bell", "seed": 0} | settings)
