"""Extraction: its vectors against a slow twin, and one outcome whatever happens on the way and whoever is at work."""

import errno
import gc
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import librosa
import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate import PartialState
from forked import in_a_child

from modeling_dualspace import extraction, extraction_plan, extraction_shards, feature_dataset, film_reader
from modeling_dualspace.audio_backbones import LogMel
from modeling_dualspace.cli import main
from modeling_dualspace.console import StoppedError
from modeling_dualspace.extraction import extract
from modeling_dualspace.known_backbones import BUILT_IN
from modeling_dualspace.optional import require
from modeling_dualspace.processing_dualspace import DualSubspaceProcessor
from modeling_dualspace.sample_clips import write_clip
from modeling_dualspace.sample_scenes import render_clip

av = require("av", extra="media")
RATE, FPS = 16_000, 10
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes of this test are forked")


@dataclass(frozen=True)
class Known:
    """A film that is coded without loss: whoever reads it must find exactly this."""

    frames: np.ndarray
    samples: np.ndarray

    def cut(self, start, end):
        return Known(self.frames[round(start * FPS) : round(end * FPS)], self.samples[seconds(start) : seconds(end)])

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
            video = container.add_stream("ffv1", rate=FPS)
            video.height, video.width, video.pix_fmt = *self.frames.shape[1:3], "bgr0"
            audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
            for frame in self.frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            sound = av.AudioFrame.from_ndarray(self.samples[None], format="s16", layout="mono")
            sound.sample_rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), 0
            container.mux(audio.encode(sound))
            for stream in (video, audio):
                container.mux(stream.encode(None))
        return path


def seconds(time):
    return round(time * RATE)


def drawn(seed, length, size=(48, 100)):
    """Noise that grows and fades, and pictures of random blocks: no two seconds and no two frames are alike."""
    chance = np.random.default_rng(seed)
    blocks = chance.integers(0, 256, (round(length * FPS), 6, 10, 3), dtype=np.uint8)
    frames = blocks.repeat(size[0] // 6, axis=1).repeat(size[1] // 10, axis=2)
    noise = chance.standard_normal(seconds(length)) * np.cos(np.arange(seconds(length)) / chance.uniform(2e3, 2e4))
    return Known(frames, (6_000 * noise).clip(-32_768, 32_767).astype(np.int16))


def twin_of_sound(samples):
    """The formula of `logmel`, in float64."""
    vectors = []
    for start in range(0, len(samples), RATE):
        piece = samples[start : start + RATE]
        if start and len(piece) < RATE / 2:
            continue
        piece = np.pad(piece, (0, max(0, 512 - len(piece))))
        spectrum = librosa.stft(
            piece.astype(np.float64), n_fft=512, win_length=400, hop_length=160, pad_mode="constant"
        )
        mel = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=32, fmin=50, fmax=8_000, dtype=np.float64)
        level = 10 * np.log10(mel @ np.abs(spectrum) ** 2 + 1e-10)
        time = np.linspace(-1, 1, level.shape[1])
        change = np.abs(level[:, 1:] - level[:, :-1]).mean(axis=1)
        vectors.append(np.concatenate([level.mean(axis=1), level.std(axis=1), (level * time).mean(axis=1), change]))
    return np.mean(vectors, axis=0)


def twin_of_picture(frame):
    """The words of `thumbnail`, cell by cell, in float64."""
    height, width, _ = frame.shape
    small = np.zeros((64, 64, 3))
    for row in range(64):
        top, below = row * height // 64, max((row + 1) * height // 64, row * height // 64 + 1)
        for column in range(64):
            left, right = column * width // 64, max((column + 1) * width // 64, column * width // 64 + 1)
            small[row, column] = frame[top:below, left:right].reshape(-1, 3).mean(axis=0) / 255
    luma = small @ [0.299, 0.587, 0.114]
    edges = np.zeros((64, 64))
    for row in range(64):
        for column in range(64):
            down = luma[min(row + 1, 63), column] - luma[max(row - 1, 0), column]
            right = luma[row, min(column + 1, 63)] - luma[row, max(column - 1, 0)]
            edges[row, column] = np.hypot(down, right) / 2
    parts = [*np.moveaxis(small, 2, 0), edges]
    return np.concatenate([part.reshape(16, 4, 16, 4).mean(axis=(1, 3)).reshape(-1) for part in parts])


def twin(known, start=0.0, end=None, fps=1.0):
    """What the seconds from `start` to `end` come to."""
    end = len(known.samples) / RATE if end is None else end
    moments = [start + number / fps for number in range(10_000) if start + number / fps < end - 1e-9]
    shown = [known.frames[min(int(moment * FPS + 1e-6), len(known.frames) - 1)] for moment in moments]
    sound = twin_of_sound(known.samples[seconds(start) : seconds(end)] / 32_768)
    return sound, np.mean([twin_of_picture(frame) for frame in shown], axis=0)


def rows(out):
    """Every row of a data set by its id, whatever its split."""
    tables = [pq.read_table(file) for file in sorted(Path(out).rglob("*.parquet"))]
    return {row["clip_id"]: row for table in tables for row in table.to_pylist()}


def vectors(row):
    return [np.array(row[f"{name}_features"], dtype=np.float32) for name in ("audio", "visual")]


def content(folder):
    """Every byte of it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def shards(out):
    """Those that are kept, each with when and as what it was written."""
    found = {}
    for file in out.with_name(f".{out.name}.extracting").glob("0*.parquet"):
        state = file.stat()
        found[file.name] = state.st_mtime_ns, state.st_ino
    return found


def make(source, out, **settings):
    return extract(source, out, progress=False, **settings)


# The vectors.


@pytest.fixture(scope="module")
def known():
    """Lengths on either side of where the sound makes one vector more."""
    lengths = {"a": 0.4, "b": 1.4, "c": 1.6, "d": 2.5}
    return {f"{name}.mkv": drawn(number, length) for number, (name, length) in enumerate(lengths.items())}


@pytest.fixture(scope="module")
def known_films(known, tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    for name, film in known.items():
        film.write(folder / name)
    return folder


def assert_as_twin(row, known, **span):
    """Whether a row holds what the twin finds.

    Single precision loses about 1e-7 of the loudest band; noise has none more than 60 dB below it, where that is 1e-4
    of the power, .0005 dB. Sums of bytes are exact in float32 up to 2^24, quotients and means good to 1e-6.
    """
    for found, expected, tolerance in zip(vectors(row), twin(known, **span), (2e-3, 5e-6), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_vectors_are_those_of_a_slow_twin_that_never_opened_the_file(known_films, known, tmp_path):
    make(known_films, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert found.keys() == known.keys()
    for name, film in known.items():
        assert_as_twin(found[name], film)
        assert (found[name]["start"], found[name]["end"]) == (0, len(film.samples) / RATE)


WINDOWS = {
    # A tenth left: no window more. A hop beyond the film's end: none either.
    (1.0, 0.5, None): {"a": [(0, 0.4)], "b": [(0, 1), (0.4, 1.4)], "c": [(0, 1), (0.5, 1.5)]},
    (0.5, 0.2, 3): {"a": [(0, 0.4)], "b": [(0, 0.5), (0.2, 0.7), (0.4, 0.9), (0.6, 1.1), (0.8, 1.3), (0.9, 1.4)]},
    (0.6, 0.9, 7): {"b": [(0, 0.6), (0.8, 1.4)], "d": [(0, 0.6), (0.9, 1.5), (1.8, 2.4)]},
    (10.0, 2.0, 2.5): {"a": [(0, 0.4)], "d": [(0, 2.5)]},
}


@pytest.mark.parametrize(("window", "hop", "fps"), WINDOWS)
def test_windows_are_what_the_twin_makes_of_the_same_seconds(known_films, known, tmp_path, window, hop, fps):
    make(known_films, tmp_path / "out", window=window, hop=hop, fps=fps)
    found = rows(tmp_path / "out").values()
    for name, spans in WINDOWS[window, hop, fps].items():
        of_film = [row for row in found if row["path"] == f"{name}.mkv"]
        assert sorted((row["start"], row["end"]) for row in of_film) == spans
        for row in of_film:
            assert_as_twin(row, known[f"{name}.mkv"], start=row["start"], end=row["end"], fps=fps or 1)


def test_a_window_has_the_bits_of_the_same_seconds_cut_out_into_a_film_of_their_own(known_films, known, tmp_path):
    make(known_films, tmp_path / "whole", window=0.5, hop=0.3)
    windows = rows(tmp_path / "whole")
    for clip_id, row in windows.items():
        known[row["path"]].cut(row["start"], row["end"]).write(tmp_path / "cut" / f"{clip_id}.mkv")
    make(tmp_path / "cut", tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) == len(windows) > 15
    for clip_id, row in windows.items():
        for one, other in zip(vectors(row), vectors(found[f"{clip_id}.mkv"]), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_processor_that_is_written_makes_the_same_bits_of_the_same_film(known_films, tmp_path):
    make(known_films, tmp_path / "out", fps=3)
    processor = DualSubspaceProcessor.from_pretrained(tmp_path / "out")
    found = rows(tmp_path / "out")
    inputs = processor(videos=[known_films / name for name in found])
    for number, row in enumerate(found.values()):
        for name, vector in zip(("audio", "visual"), vectors(row), strict=True):
            np.testing.assert_array_equal(inputs[f"{name}_features"][number].numpy(), vector)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A dozen films of three classes as a camera would code them, at 64 x 48, half a second each; with their list."""
    folder = tmp_path_factory.mktemp("media") / "films"
    folder.mkdir()
    for number in range(12):
        clip = render_clip(("bell", "bird", "drum")[number % 3], number, 0.5, size=(64, 48))
        write_clip(folder / f"{number:02d}.mp4", clip)
    listed(folder)
    return folder


def listed(folder, labels=("bell", "bird", "drum"), splits=("train", "train", "validation", "test")):
    names = sorted(path.name for path in folder.glob("*.mp4"))
    lines = [
        f"{name},{labels[number % len(labels)]},{splits[number % len(splits)]}\n" for number, name in enumerate(names)
    ]
    (folder / "metadata.csv").write_text("path,label,split\n" + "".join(lines))


def test_a_film_that_lost_something_in_coding_agrees_with_what_ffmpeg_decodes(films, tmp_path, needs_tool):
    def decoded(path, *format):
        command = [needs_tool("ffmpeg"), "-v", "error", "-nostdin", "-i", path, *format, "-"]
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout

    make(films, tmp_path / "out")
    table = rows(tmp_path / "out")
    found = {name: vectors(row) for name, row in table.items()}
    for name in list(found)[:3]:
        sound = np.frombuffer(decoded(films / name, "-ac", "1", "-ar", str(RATE), "-f", "f32le"), np.float32)
        frame = np.frombuffer(decoded(films / name, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24"), np.uint8)
        # AAC is padded to whole blocks; where the film ends, its header says.
        sound = sound[: seconds(table[name]["end"])]
        expected = twin_of_sound(sound), twin_of_picture(frame.reshape(48, 64, 3))
        # Another release of the AAC decoder may differ by 1e-6 of full scale, which moves bands 60 dB below it by less
        # than .1 dB; another conversion to RGB by two steps of 255. Other films are 10 times as far away.
        for place, tolerance in ((0, 0.1), (1, 2.5 / 255)):
            np.testing.assert_allclose(found[name][place], expected[place], rtol=0, atol=tolerance)
            others = [np.abs(found[other][place] - expected[place]).max() for other in found if other != name]
            assert min(others) > 10 * tolerance


# Going on.


@pytest.fixture
def opened(monkeypatch):
    """The names of the films that were opened, each as often as it was."""
    names = Counter()
    open_film = film_reader.Film

    def film(path, *settings, **more):
        names[path.name] += 1
        return open_film(path, *settings, **more)

    monkeypatch.setattr(film_reader, "Film", film)
    return names


@pytest.fixture
def asked_to_stop(monkeypatch):
    """`asked_to_stop(n)`: the next job gets a SIGTERM while it embeds the n-th batch of sounds; 0 leaves it alone."""

    def at(count):
        class Asked(LogMel):
            def embed(self, units):
                nonlocal count
                count -= 1
                if count == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().embed(units)

        monkeypatch.setitem(BUILT_IN["audio"], "logmel", Asked)

    return at


def ended(child, limit=30):
    """The status of a process, which must end by itself."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if (found := os.waitpid(child, os.WNOHANG))[0]:
            return found[1]
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"it still ran after {limit} s")


@pytest.mark.slow
@needs_fork
def test_a_job_killed_again_and_again_writes_what_one_that_was_not_writes(films, tmp_path):
    make(films, tmp_path / "first" / "out")
    start = time.perf_counter()
    make(films, tmp_path / "whole" / "out")
    whole = time.perf_counter() - start
    expected = content(tmp_path / "whole" / "out")
    chance, kills, outs, kept = random.Random(0), 0, [], {}
    while kills < 8:
        if not outs or outs[-1].exists():  # it was too late to kill the last
            assert len(outs) < 20
            outs, kept = [*outs, tmp_path / f"killed-{len(outs)}" / "out"], {}
        child = in_a_child(lambda out=outs[-1]: make(films, out))
        time.sleep(chance.uniform(0.1, 0.7) * whole)
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if not outs[-1].exists():
            assert kept.items() <= shards(outs[-1]).items()  # none is written twice
            kept = shards(outs[-1])
    for out in outs:
        make(films, out)
        assert content(out) == expected
        assert not list(out.parent.glob(".tmp-*"))


@needs_fork
@pytest.mark.parametrize("written", [0, 0.5, 1])
def test_a_shard_that_was_being_written_when_the_job_was_killed_counts_for_nothing(films, tmp_path, opened, written):
    out, names = tmp_path / "out", []

    def killed(table, path, **settings):
        write(table, path, **settings)
        names.append(path)
        if len(names) == 5:
            os.truncate(path, int(written * path.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    write = extraction_shards.pq.write_table
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(extraction_shards.pq, "write_table", killed)
        assert ended(in_a_child(lambda: make(films, out))) == signal.SIGKILL
    assert len(shards(out)) == 4
    make(films, out)
    assert sum(opened.values()) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_being_asked_to_stop_keeps_the_shards_and_says_so_and_the_same_command_goes_on(
    films, tmp_path, asked_to_stop, opened, capfd, monkeypatch
):
    make(films, tmp_path / "whole" / "out")
    opened.clear()
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    asked_to_stop(5)
    assert main(["extract", str(films), "--out", "out", "--workers", "1"]) == 128 + signal.SIGTERM
    printed = capfd.readouterr()
    assert printed.err == (
        f"dualspace: stopped; 5 of 12 shards are kept in {tmp_path}/.out.extracting: the same command goes on\n"
    )
    assert not printed.out and not out.exists()
    first = shards(out)
    asked_to_stop(3)
    with pytest.raises(StoppedError, match="8 of 12") as stopped:
        make(films, out)
    assert stopped.value.signal == signal.SIGTERM
    second = shards(out)
    assert len(first) == 5 and len(second) == 8 and first.items() <= second.items()
    asked_to_stop(0)
    opened.clear()
    make(films, out)
    assert sum(opened.values()) == 4
    assert content(out) == content(tmp_path / "whole" / "out")
    assert not out.with_name(".out.extracting").exists()


def test_being_asked_to_stop_while_the_data_set_is_written_lets_it_be_written(films, tmp_path, monkeypatch):
    def late(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return write(*arguments, **settings)

    write = extraction.write_set
    monkeypatch.setattr(extraction, "write_set", late)
    assert make(films, tmp_path / "out")["clips"] == 12


@pytest.fixture
def begun(films, tmp_path, monkeypatch):
    """Films of this test's own, all read already into three shards; but of the data set nothing is there."""
    own = tmp_path / "films"
    shutil.copytree(films, own)
    monkeypatch.setattr(extraction_plan, "SHARDS", 1)
    monkeypatch.setattr(extraction_plan, "SHARD_FILMS", 4)
    with monkeypatch.context() as patched:
        patched.setattr(extraction, "write_set", full)
        with pytest.raises(OSError):
            make(own, tmp_path / "out")
    assert len(shards(tmp_path / "out")) == 3
    return own


def full(*arguments, **settings):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


ALL = {f"{number:02d}.mp4" for number in range(12)}
SECOND = {"04.mp4", "05.mp4", "06.mp4", "07.mp4"}
CHANGES = {
    "nothing": (lambda own: None, {}, set()),
    "labels": (lambda own: listed(own, labels=("dog", "cat")), {}, set()),
    "splits": (lambda own: listed(own, splits=("test", "train")), {}, set()),
    "what-is-kept": (lambda own: None, {"keep_unpaired": True, "license": "cc0-1.0"}, set()),
    "window": (lambda own: None, {"window": 0.2}, ALL),
    "frames": (lambda own: None, {"fps": 2}, ALL),
    "limits": (lambda own: None, {"limits": extraction.Limits(seconds=9)}, ALL),
    "one-film": (lambda own: shutil.copyfile(own / "00.mp4", own / "05.mp4"), {}, SECOND),
    "time-of-one-film": (lambda own: os.utime(own / "05.mp4", (1, 1)), {}, SECOND),
    "a-film-more": (lambda own: [shutil.copyfile(own / "00.mp4", own / "99.mp4"), listed(own)], {}, {"99.mp4"}),
    "a-film-less": (lambda own: [(own / "11.mp4").unlink(), listed(own)], {}, {"08.mp4", "09.mp4", "10.mp4"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_change_does_not_touch_is_not_read_again_and_the_rest_is(begun, tmp_path, opened, name):
    change, settings, touched = CHANGES[name]
    change(begun)
    make(begun, tmp_path / "out", **settings)
    assert opened == dict.fromkeys(touched, 1)
    make(begun, tmp_path / "anew" / "out", **settings)
    assert content(tmp_path / "out") == content(tmp_path / "anew" / "out")


def damage(how):
    def of(file):
        data = file.read_bytes()
        file.write_bytes(how(bytearray(data)))

    return of


def zeroed(data):
    data[100 : len(data) // 2] = bytes(len(data) // 2 - 100)
    return data


def flipped(data):
    data[len(data) // 3] ^= 255
    return data


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(lambda data: data[:-1], id="cut-by-a-byte"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"no parquet", id="another-file"),
        pytest.param(zeroed, id="zeros"),
        pytest.param(flipped, id="one-byte"),
    ],
)
def test_a_damaged_shard_is_computed_again(begun, films, tmp_path, opened, how):
    out = tmp_path / "out"
    name = sorted(shards(out))[1]
    damage(how)(out.with_name(".out.extracting") / name)
    make(begun, out)
    assert opened == dict.fromkeys(SECOND, 1)
    opened.clear()
    make(films, tmp_path / "whole" / "out")
    assert content(out) == content(tmp_path / "whole" / "out")


@pytest.mark.parametrize(
    ("module", "name"), [(extraction_shards.pq, "write_table"), (feature_dataset, "write_part"), (Path, "write_bytes")]
)
def test_a_full_disk_is_one_sentence_and_with_room_again_it_goes_on(films, tmp_path, monkeypatch, capfd, module, name):
    make(films, tmp_path / "whole" / "out")
    monkeypatch.chdir(tmp_path)
    command, calls = ["extract", str(films), "--out", "out"], []

    def nearly_full(*arguments, **settings):
        calls.append(name)
        return full() if name != "write_table" or len(calls) > 5 else write(*arguments, **settings)

    write = getattr(module, name)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, nearly_full)
        assert main(command) == 1
    printed = capfd.readouterr()
    assert printed.err == "dualspace: No space left on device\n" and not printed.out
    kept = shards(tmp_path / "out")
    assert len(kept) == (5 if name == "write_table" else 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.extracting", "whole"]
    make(films, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole" / "out")


def test_a_finished_job_reads_nothing_and_touches_nothing(films, tmp_path, opened):
    first = make(films, tmp_path / "out")
    opened.clear()
    before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*")}
    again = make(films, tmp_path / "out")
    assert not opened and again["notes"] == [
        "Nothing to do: it was extracted before, from the same films and by the same settings."
    ]
    assert {key: again[key] for key in first if key != "notes"} == {k: v for k, v in first.items() if k != "notes"}
    assert {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*")} == before


@needs_fork
def test_a_job_killed_when_all_but_the_tidying_was_done_is_tidied_by_the_next(films, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(extraction.shutil, "rmtree", lambda *arguments, **settings: os._exit(9))
        ended(in_a_child(lambda: make(films, tmp_path / "out")))
    make(films, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Several processes, threads and batches.


@pytest.fixture
def several(together):
    """`several(n, work)`: what `work(index)` returns in each of n processes; none may outlast a minute."""

    def run(count, work):
        def of_one():
            signal.alarm(60)
            return work(PartialState(cpu=True).process_index)

        gc.collect()  # as above
        return together(count, of_one)

    return run


@needs_fork
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_write_the_bytes_that_one_writes(films, tmp_path, several, count):
    out = tmp_path / "several" / "out"
    expected = make(films, tmp_path / "one" / "out")
    found = several(count, lambda index: make(films, out))
    assert found == [expected | {"out": str(out)}, *[{}] * (count - 1)]
    assert content(out) == content(tmp_path / "one" / "out")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    again = several(count, lambda index: make(films, out)["notes"])
    assert again == [["Nothing to do: it was extracted before, from the same films and by the same settings."]] * count


@needs_fork
def test_what_several_processes_began_one_ends(films, tmp_path, several, asked_to_stop):
    make(films, tmp_path / "one" / "out")
    out = tmp_path / "out"

    def work(index):
        asked_to_stop((2, 3)[index])
        with pytest.raises(StoppedError):
            make(films, out)

    several(2, work)
    assert len(shards(out)) == 5
    asked_to_stop(0)
    make(films, out)
    assert content(out) == content(tmp_path / "one" / "out")


@needs_fork
def test_a_process_that_comes_late_has_nothing_to_do(begun, tmp_path, several, monkeypatch):
    def work(index):
        if index:
            whole = extraction.is_whole
            monkeypatch.setattr(extraction, "is_whole", lambda path: time.sleep(0.5) or whole(path))
        make(begun, tmp_path / "out")

    several(2, work)
    assert not (tmp_path / ".out.extracting").exists()


@pytest.mark.parametrize("workers", [2, 4])
def test_however_many_films_and_threads_read_at_once_no_byte_differs(films, tmp_path, workers):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("00.mp4", "01.mp4"):  # two films and four workers: two threads each
        shutil.copyfile(films / name, few / name)
    for number, source in enumerate((films, few)):
        for count in (1, workers):
            make(source, tmp_path / f"{number}-{count}" / "out", workers=count)
        assert content(tmp_path / f"{number}-1" / "out") == content(tmp_path / f"{number}-{workers}" / "out")


class Network(LogMel):
    """One layer after `logmel`."""

    name = source = "network"

    def embed(self, units):
        weights = np.random.default_rng(0).standard_normal((self.width, self.width)).astype(np.float32)
        return super().embed(units) @ weights / np.float32(self.width)


def test_the_size_of_a_batch_changes_no_bit_without_a_network_and_the_last_bits_with_one(films, tmp_path, monkeypatch):
    monkeypatch.setitem(BUILT_IN["audio"], "network", Network)
    found = {}
    for audio in ("logmel", "network"):
        for size in (1, 3, 64):
            make(films, tmp_path / f"{audio}-{size}", audio=audio, batch_size=size, window=0.2)
            table = rows(tmp_path / f"{audio}-{size}")
            found[audio, size] = np.stack([np.concatenate(vectors(table[name])) for name in sorted(table)])
    for size in (1, 3):
        np.testing.assert_array_equal(found["logmel", size], found["logmel", 64])
        # A product of matrices adds in an order that depends on their size. Each of 128 summands of up to 3 (levels of
        # up to 100 dB by weights of about 1, by the width) is off by 6e-8 of itself, and errors add like a random walk:
        # 11 * 3 * 6e-8 is 2e-6, of sums of about 10: 1e-6 of the largest has room for five times that.
        scale = np.abs(found["network", 64]).max()
        np.testing.assert_allclose(found["network", size], found["network", 64], rtol=0, atol=1e-6 * scale)


def test_pictures_that_were_looked_at_are_let_go_without_the_garbage_collector(tmp_path):
    drawn(0, 2.5).write(tmp_path / "films" / "a.mkv")
    gc.collect()
    gc.disable()
    try:
        before = sum(type(one) is av.VideoFrame for one in gc.get_objects())
        make(tmp_path / "films", tmp_path / "out", fps=FPS)
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) <= before + 2  # of 25
    finally:
        gc.enable()


# Backbones that fail.


def fails(monkeypatch, **methods):
    """`--audio failing`: a backbone that does something else."""
    kind = type("Failing", (LogMel,), {"name": "failing", "source": "failing", **methods})
    monkeypatch.setitem(BUILT_IN["audio"], "failing", kind)


def raising(error, when=lambda pieces: True):
    def method(self, pieces):
        if when(pieces):
            raise error
        return LogMel.prepare(self, pieces)

    return method


def loudest(films, name):
    """Tells the sound of a film from those of all others."""
    with av.open(str(films / name)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    peak = np.abs(samples).max()
    return lambda piece: abs(np.abs(piece).max() - peak) < 1e-6  # what decoding to whole numbers may round


@needs_fork
def test_a_backbone_that_cannot_embed_ends_the_job_in_one_sentence_and_no_thread_goes_on(
    films, tmp_path, monkeypatch, capfd
):
    fails(monkeypatch, embed=raising(RuntimeError("CUDA out of memory.\nTried to allocate")))
    monkeypatch.setattr(film_reader, "AHEAD_BYTES", 1)  # all readers wait for whom nobody waits for them any more
    monkeypatch.setattr(extraction_plan, "SHARD_FILMS", 2)

    def work():
        assert main(["extract", str(films), "--out", str(tmp_path / "out"), "--audio", "failing"]) == 1
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("film")]

    assert ended(in_a_child(work)) == 0
    what = "failing failed on a batch of 1 units (RuntimeError CUDA out of memory. Tried to allocate)"
    assert capfd.readouterr() == ("", f"dualspace: The audio backbone {what}: a smaller one takes less memory.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two\nlines"), "cannot be read: two lines"),
        (KeyError("what"), "cannot be read: 'what'"),
        (MemoryError("1 EB"), "cannot be read: 1 EB"),
        (AssertionError(), "cannot be read: AssertionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_film_that_a_backbone_cannot_prepare_is_marked_and_the_others_are_not(
    films, tmp_path, monkeypatch, error, reason
):
    fails(monkeypatch, prepare=raising(error, loudest(films, "03.mp4")))
    found = make(films, tmp_path / "out", audio="failing")
    ((name, told),) = found["first_skipped"]
    assert (found["clips"], name) == (11, "03.mp4") and re.fullmatch(reason, told)


@needs_fork
def test_whatever_ends_a_reader_the_job_does_not_wait_for_it(films, tmp_path, monkeypatch):
    class PanicError(BaseException):
        """As extensions in Rust raise it."""

    fails(monkeypatch, prepare=raising(PanicError("called unwrap on None"), loudest(films, "03.mp4")))
    ended(in_a_child(lambda: make(films, tmp_path / "out", audio="failing")), limit=3)


def test_a_package_that_is_missing_is_no_fault_of_the_films(films, tmp_path, monkeypatch):
    fails(monkeypatch, prepare=raising(ModuleNotFoundError("This needs the package `librosa`.")))
    with pytest.raises(ModuleNotFoundError, match="needs the package"):
        make(films, tmp_path / "out", audio="failing")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_a_fault_of_their_clip_alone(films, tmp_path, monkeypatch, value):
    told = loudest(films, "03.mp4")
    prepare = lambda self, piece: LogMel.prepare(self, piece) * (value if told(piece) else 1)  # noqa: E731
    fails(monkeypatch, prepare=prepare)
    found = make(films, tmp_path / "out", audio="failing")
    assert (found["clips"], found["first_skipped"]) == (11, [["03.mp4", "has audio features that are not finite"]])
