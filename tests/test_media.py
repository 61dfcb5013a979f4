"""Films, checked against what ffmpeg and ffprobe say of the same file, against naive twins, and with hostile files."""

import ctypes
import itertools
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Lock

import numpy as np
import pytest

from modeling_dualspace import media, media_tracks
from modeling_dualspace.media import Film, Limits, MediaError, Picture, Sound
from modeling_dualspace.optional import require

av = require("av", extra="media")

# Decoders are exact by their standards and the conversion to RGB is the same library's: ffmpeg's pictures and ours are
# equal here, and another release may round another way. Two frames of testsrc2 differ by 200 steps somewhere.
STEPS = 3
# Where chroma has another layout than planar 4:2:0 or 4:4:4 of 8 bits, releases of swscale take it half a pixel aside:
# 1.4 steps in the mean of a soft picture here. The wrong matrix of colours would make it 3.6.
CHROMA_STEPS = 2
EARLY = 0.5
"""Seconds before its first frame in which a track shows it already."""


# What the films are made of.


def picture(size="96x64", rate=25, seconds=2.0, source="testsrc2"):
    return ["-f", "lavfi", "-i", f"{source}=s={size}:r={rate}:d={seconds}"]


def sound(seconds=2.0, rate=44_100, layout="mono"):
    """A tone that rises, so that no two moments sound alike."""
    starts = {"mono": [100], "stereo": [100, 170], "5.1": [100, 170, 240, 310, 380, 450]}[layout]
    tones = "|".join(f"0.4*sin(2*PI*({start}*t+20*t*t))" for start in starts)
    return ["-f", "lavfi", "-i", f"aevalsrc={tones}:s={rate}:d={seconds}:c={layout}"]


X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
X444 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv444p"]
MPEG4 = ["-c:v", "mpeg4", "-bf", "2"]
VP8 = ["-c:v", "libvpx", "-deadline", "good", "-cpu-used", "5", "-g", "25"]
AAC, MP3, VORBIS = ["-c:a", "aac"], ["-c:a", "libmp3lame"], ["-c:a", "libvorbis"]
OPUS = ["-c:a", "libopus", "-ar", "48000"]
FFV1, RAW = ["-c:v", "ffv1", "-pix_fmt"], ["-c:v", "rawvideo", "-pix_fmt"]

SMALL = {"small.mp4": [*picture(), *sound(), *X264, "-bf", "2", *AAC]}

GAP = ["-vf", "setpts='(N/25+if(gte(N,20),3,0))/TB'", "-fps_mode", "vfr"]
TIMED = {
    "constant.mp4": [*picture(), *sound(), *X264, "-bf", "3", *AAC],
    "constant.mkv": [*picture(), *sound(), *X264, "-bf", "3", *AAC],
    "constant.ts": [*picture(), *sound(), *X264, "-bf", "3", *AAC],
    "constant.avi": [*picture(), *sound(), "-c:v", "mpeg4", *MP3],
    "constant.flv": [*picture(), *sound(), *X264, *AAC],
    "ntsc.mov": [*picture(rate="30000/1001"), *MPEG4],
    "single.mp4": [*picture(seconds=0.04), *X264],
    "gap.mp4": [*picture(), *sound(6), *GAP, *X264, "-bf", "0", *AAC],
    "gap-b.mp4": [*picture(), *sound(6), *GAP, *X264, "-bf", "2", *AAC],
    "gap.mkv": [*picture(), *sound(6), *GAP, *X264, "-bf", "2", *AAC],
    "slow.mp4": [*picture(rate="1/4", seconds=12), *sound(12, 8000), *X264, *AAC],
    "slow.webm": [*picture(rate="1/4", seconds=12), *VP8],
    "slow.gif": [*picture("64x48", "1/4", 12)],
    "late-picture.mkv": ["-itsoffset", "1.2", *picture(), *sound(3), *X264, *AAC],
    "late-picture.ts": ["-itsoffset", "1.2", *picture(), *sound(3), *X264, *AAC],
    "late-sound.mp4": [*picture(), "-itsoffset", "0.7", *sound(1), *X264, *AAC],
    "late-sound.mkv": [*picture(), "-itsoffset", "0.7", *sound(1), *X264, *AAC],
    "late-sound.ts": [*picture(), "-itsoffset", "0.7", *sound(1), *X264, *AAC],
    "offset.mkv": [*picture(), *sound(), *X264, *AAC, "-output_ts_offset", "100"],
    "offset.mp4": [*picture(), *sound(), *X264, *AAC, "-output_ts_offset", "100"],
    "offset.ts": [*picture(), *sound(), *X264, *AAC, "-output_ts_offset", "100"],
}

DROP = ["-bsf:a", r"noise=drop='between(n\,26\,56)'"]
HOLES = {f"hole.{kind}": [*picture(), *sound(), *X264, *AAC, *DROP] for kind in ("mkv", "mp4", "ts")}

SHORT = picture("64x48", 10, 0.3)
PIXELS = {
    "yuv444p10.mp4": [*SHORT, "-c:v", "libx264", "-pix_fmt", "yuv444p10"],
    "full-range.mp4": [*SHORT, "-c:v", "libx264", "-pix_fmt", "yuvj420p"],
    "bt709.mp4": [*SHORT, *X264, "-colorspace", "bt709"],
    "gray.mkv": [*SHORT, *FFV1, "gray"],
    "rgb.mkv": [*SHORT, *FFV1, "bgr0"],
    "rgb48.mkv": [*SHORT, *FFV1, "gbrp16le"],
    "rgb24.avi": [*SHORT, *RAW, "bgr24"],
    "pal8.avi": [*SHORT, *RAW, "pal8"],
    "one-bit.nut": [*SHORT, *RAW, "monow"],
    "jpeg.avi": [*SHORT, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
    "png-palette.mov": [*SHORT, "-c:v", "png", "-pix_fmt", "pal8"],
    "palette.gif": SHORT,
}
SMOOTH = [*SHORT, "-vf", "gblur=sigma=5"]
CHROMA = {
    "nv12.nut": [*SMOOTH, *RAW, "nv12"],
    "uyvy.mov": [*SMOOTH, *RAW, "uyvy422"],
    "yuv420p10.mp4": [*SMOOTH, "-c:v", "libx264", "-pix_fmt", "yuv420p10"],
}

SOUNDS = {
    "8k.wav": sound(0.5, 8000),
    "96k.wav": sound(0.5, 96_000),
    "u8.wav": [*sound(0.5), "-c:a", "pcm_u8"],
    "s24.wav": [*sound(0.5, 16_000), "-c:a", "pcm_s24le"],
    "float.wav": [*sound(0.5), "-c:a", "pcm_f32le"],
    "alaw.wav": [*sound(0.5, 8000), "-c:a", "pcm_alaw"],
    "stereo.wav": sound(0.5, layout="stereo"),
    "surround.wav": sound(0.5, layout="5.1"),
    "surround.m4a": [*sound(0.5, 48_000, "5.1"), *AAC],
    "surround.ac3": [*sound(0.5, 48_000, "5.1"), "-c:a", "ac3"],
    "stereo.mp3": [*sound(0.5, layout="stereo"), *MP3],
    "stereo.ogg": [*sound(0.5, layout="stereo"), *VORBIS],
    "mono.mp2": [*sound(0.5), "-c:a", "mp2"],
    "mono.aac": [*sound(0.5), *AAC],
}

CONTAINERS = {
    "film.mp4": [*picture(), *sound(), *X264, *AAC],
    "film.mov": [*picture(), *sound(), "-c:v", "mpeg4", "-c:a", "pcm_s16le"],
    "film.mkv": [*picture(), *sound(), *X264, *AAC],
    "film.webm": [*picture(), *sound(), *VP8, *OPUS],
    "film.avi": [*picture(), *sound(), "-c:v", "mpeg4", *MP3],
    "film.mpg": [*picture(), *sound(), "-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"],
    "film.ts": [*picture(), *sound(), *X264, *AAC],
    "film.flv": [*picture(), *sound(), *X264, *AAC],
    "film.ogv": [*picture(), *sound(), "-c:v", "libtheora", *VORBIS],
    "film.wmv": [*picture(), *sound(), "-c:v", "wmv2", "-c:a", "wmav2"],
    "film.mxf": [*picture(), *sound(), "-c:v", "mpeg2video", "-c:a", "pcm_s16le", "-ar", "48000"],
    "mute.mp4": [*picture(), *X264],
    "mute.gif": picture(),
    "mute.ivf": [*picture(), *VP8],
    "mute.h264": [*picture(), *X264, "-bf", "2"],
    "record.wav": sound(),
    "record.mp3": [*sound(), *MP3],
    "record.flac": sound(),
    "record.m4a": [*sound(), *AAC],
    "record.opus": [*sound(), *OPUS],
}

LONG = [*picture("64x48", 5, 20), *sound(20, 8000)]
GROUPS = ["-g", "25", "-bf", "2"]
OPEN = ["-x264opts", "open_gop=1:keyint=20:bframes=2"]
FAR_GAP = ["-vf", "setpts='(N/5+if(gte(N,75),4,0))/TB'", "-fps_mode", "vfr", "-t", "20"]
PARTS = {
    "part.mp4": [*LONG, *X264, *GROUPS, *AAC],
    "part.mov": [*LONG, "-c:v", "mpeg4", "-c:a", "pcm_s16le"],
    "part.mkv": [*LONG, *X264, *GROUPS, *AAC],
    "part.webm": [*LONG, *VP8, *OPUS],
    "part.avi": [*LONG, *MPEG4, *MP3],
    "part.flv": [*LONG, *X264, *GROUPS, *AAC, "-ar", "22050"],
    "part.wmv": [*LONG, "-c:v", "wmv2", "-c:a", "wmav2"],
    "part.ts": [*LONG, *X264, *GROUPS, *AAC],
    "part.mpg": [*picture("64x48", 25, 20), *sound(20), "-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"],
    "open.mp4": [*LONG, *X264, *OPEN, *AAC],
    "one-group.mkv": [*LONG, *X264, "-g", "999", *AAC],
    "one-group.ts": [*LONG, *X264, "-g", "999", *AAC],
    "far-gap.mp4": [*LONG, *FAR_GAP, *X264, *GROUPS, *AAC],
    "far-gap.ts": [*LONG, *FAR_GAP, *X264, *GROUPS, *AAC],
    "part.h264": [*LONG, "-an", *X264, *GROUPS],
    "part.gif": picture("64x48", 5, 20),
    "part.mp3": [*sound(20, 16_000), *MP3, "-q:a", "4"],
    "part.flac": sound(20, 8000),
    "part.wav": sound(20, 8000),
    "part.aac": [*sound(20, 8000), *AAC],
    "part.ac3": [*sound(20), "-c:a", "ac3"],
    "part.ogg": [*sound(20, 8000), *VORBIS],
}

TINY, SAME = picture("64x48", 10, 1), ["-fflags", "+bitexact", "-flags", "+bitexact"]
HURT = {
    "hurt.mp4": [*TINY, *sound(1), *X264, *AAC, *SAME],
    "hurt.mkv": [*TINY, *sound(1), *X264, *AAC, *SAME],
    "hurt.avi": [*TINY, *sound(1), *MPEG4, *MP3, *SAME],
    "hurt.mp3": [*sound(1), *MP3, *SAME],
    "hurt.ts": [*TINY, *sound(1), *X264, *AAC, *SAME],
    "hurt.flv": [*TINY, *sound(1), *X264, *AAC, *SAME],
    "hurt.webm": [*TINY, *sound(1), *VP8, *OPUS, *SAME],
    "hurt.ogv": [*TINY, *sound(1), "-c:v", "libtheora", *VORBIS, *SAME],
    "hurt.gif": [*TINY, *SAME],
    "hurt.wav": [*sound(1), *SAME],
    "hurt.flac": [*sound(1), *SAME],
    "hurt.ac3": [*sound(1), "-c:a", "ac3", *SAME],
}
FILMS = SMALL | TIMED | HOLES | PIXELS | CHROMA | SOUNDS | CONTAINERS | PARTS | HURT


# Tools.


@pytest.fixture(autouse=True)
def _tools(needs_tool):
    needs_tool("ffmpeg")


def run(*command, data=None, timeout=60):
    """What a command writes; its own words where it fails."""
    command = [str(part) for part in command]
    done = subprocess.run(command, input=data, capture_output=True, timeout=timeout)
    assert done.returncode == 0, (command, done.stderr.decode(errors="replace")[-2000:])
    return done.stdout


def ffmpeg(*arguments, data=None):
    return run("ffmpeg", "-v", "error", *(["-nostdin"] if data is None else []), "-y", *arguments, data=data)


def ffprobe(path, entries, stream=None):
    chosen = ["-select_streams", stream] if stream else []
    return json.loads(run("ffprobe", "-v", "error", *chosen, "-show_entries", entries, "-of", "json", path))


def fresh(code, *arguments, timeout=60):
    """What `code` prints, as JSON, in a process that has nothing but the room; it sees `media`, `arguments`, `peak`."""
    preamble = f"""
import importlib, json, os, random, sys, types
package = types.ModuleType("apart")
package.__path__ = [{str(Path(media.__file__).parent)!r}]
sys.modules["apart"] = package
media = importlib.import_module("apart.media")
import av
arguments = sys.argv[1:]
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
"""
    return json.loads(run(sys.executable, "-c", preamble + code, *arguments, timeout=timeout))


class Once:
    """Work that is done by whoever comes first; the others wait for it."""

    def __init__(self, work, *arguments):
        self.work, self.arguments, self.lock, self.results = work, arguments, Lock(), []

    def __call__(self):
        with self.lock:
            if not self.results:
                self.results.append(self.work(*self.arguments))
            return self.results[0]


class Workshop:
    """Makes each film once, and what else takes a process; to start ffmpeg takes long."""

    def __init__(self, folder, names=()):
        self.folder, self.begun, self.batches = folder, {}, {}
        for first in range(0, len(names), 12):
            batch = names[first : first + 12]
            self.batches |= dict.fromkeys(batch, Once(self._batch, batch))

    def __call__(self, name, *arguments, data=None):
        """`make("dog.mp4", arguments...)`: the file that ffmpeg made of them; without arguments, of `FILMS`."""
        return self.begun.setdefault(name, Once(self._film, name, arguments or FILMS[name], data))()

    def _film(self, name, arguments, data):
        path = self.folder / name
        if name not in self.batches or not self.batches[name]():
            ffmpeg(*arguments, path, data=data)
        return path

    def _batch(self, names):
        """Several films of `FILMS` in one go; False where one of them cannot be made here."""
        sources, films, count = [], [], 0
        for name in names:
            arguments = FILMS[name]
            given = len(arguments) - arguments[::-1].index("-i") + 1
            wanted = range(count, count + arguments.count("-i"))
            sources, count = sources + arguments[:given], wanted.stop
            maps = itertools.chain.from_iterable(("-map", number) for number in wanted)
            films += [*maps, *arguments[given:], self.folder / name]
        try:
            ffmpeg(*sources, *films)
        except AssertionError:
            return False
        return True

    def of(self, work, name):
        """`make.of(Twin, "dog.mp4")`: what `work` makes of a film of `FILMS`."""
        return self.begun.setdefault((work, name), Once(lambda: work(self(name))))()

    def hurt(self):
        """How hurt copies of the films of `HURT` end, by name, in a process of its own."""
        return self.begun.setdefault("hurt", Once(lambda: fresh(HURTS, *map(self, HURT))))()

    def prepare(self, name):
        """Does what the test of that name will ask for."""
        for table, work in ((TIMED, Twin), (SOUNDS, decoded), (PIXELS | CHROMA, raw_frames)):
            if name in table:
                self.of(work, name)
        self.hurt() if name in HURT else self(name)


@pytest.fixture(scope="module")
def make(request, tmp_path_factory):
    """See `Workshop`. What the chosen tests will ask for is made on threads beside them."""
    tests = (item for item in request.session.items if hasattr(item, "callspec"))
    items = (item for item in tests if getattr(item, "module", None) is request.module)
    names = [item.callspec.params.get("name") for item in items]
    names = [name for name in dict.fromkeys(names) if name in FILMS and shutil.which("ffmpeg")]
    workshop, pool = Workshop(tmp_path_factory.mktemp("films"), names), ThreadPoolExecutor(2)
    for name in names:
        pool.submit(workshop.prepare, name)
    yield workshop
    pool.shutdown(cancel_futures=True)


@pytest.fixture
def small(make):
    """Two seconds, 25 frames a second with B-frames, a rising tone."""
    return make("small.mp4")


# What is read, and its twins.


def heard(path, rate, **options):
    """All samples from the first moment on, silence where nothing is heard, and where the first block begins."""
    with Film(path, options.pop("limits", None)) as film:
        blocks = list(film.read(rate=rate, **options))
    return joined(blocks)


def joined(blocks):
    assert all(isinstance(block, Sound) for block in blocks)
    end = 0
    samples = np.zeros(blocks[-1].first + len(blocks[-1].samples) if blocks else 0, np.float32)
    for block in blocks:
        assert block.samples.dtype == np.float32 and block.samples.ndim == 1 and len(block.samples)
        assert block.first >= end, "a block begins before the one before it ended"
        end = block.first + len(block.samples)
        samples[block.first : end] = block.samples
    assert np.abs(samples).max(initial=0) <= 1
    return samples, blocks[0].first if blocks else None


def seen(path, times, **options):
    with Film(path, options.pop("limits", None)) as film:
        pictures = list(film.read(times=times, **options))
    for one in pictures:
        assert isinstance(one, Picture) and one.frame.dtype == np.uint8
        assert one.frame.flags.c_contiguous and one.frame.ndim == one.frame.shape[2] == 3
    return pictures


def both(path, rate, **options):
    """In one pass: samples, the number of the first, and frames by their times."""
    with Film(path) as film:
        pieces = list(film.read(rate=rate, **options))
    samples, first = joined([piece for piece in pieces if isinstance(piece, Sound)])
    return samples, first, {piece.time: piece.frame for piece in pieces if isinstance(piece, Picture)}


def raw_frames(path, *options):
    """All frames in a row, as ffmpeg decodes them."""
    wanted = ["-map", "0:V:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    return np.frombuffer(ffmpeg(*options, "-i", path, *wanted), np.uint8)


def decoded(path, rate=16_000, *, track="0:a:0"):
    """Ffmpeg's own mono samples at a rate, without regard to their times."""
    raw = ffmpeg("-i", path, "-map", track, "-ac", "1", "-ar", rate, "-f", "s32le", "-")
    return np.frombuffer(raw, np.int32) / np.float32(2**31)


class Twin:
    """The slow way: every frame as ffmpeg decodes it, its time as ffprobe tells it, and a search for each moment."""

    def __init__(self, path):
        entries = "frame=best_effort_timestamp_time,pkt_duration_time,duration_time,width,height:format=start_time"
        told = ffprobe(path, entries, "V:0")
        zero, told = float(told["format"]["start_time"]), told["frames"]
        shape = len(told), told[0]["height"], told[0]["width"], 3
        self.frames = raw_frames(path).reshape(shape)
        self.starts = [float(frame["best_effort_timestamp_time"]) - zero for frame in told]
        self.end = self.starts[-1] + float(told[-1].get("duration_time") or told[-1].get("pkt_duration_time") or 0)

    def at(self, time):
        """What was shown last before; half a second before the first, the first already; nothing after the last."""
        if self.starts[0] - EARLY <= time < self.starts[0]:
            return self.frames[0]
        begun = [number for number, start in enumerate(self.starts) if start <= time + 1e-6]
        return self.frames[begun[-1]] if begun and time < self.end - 1e-6 else None


def assert_pictures(path, times, twin):
    expected = {time: frame for time in times if (frame := twin.at(time)) is not None}
    came = {one.time: one.frame for one in seen(path, times)}
    assert list(came) == list(expected)
    wrong = [time for time, frame in expected.items() if np.abs(came[time].astype(int) - frame).max() > STEPS]
    assert not wrong, wrong
    return expected


def assert_same_sound(came, expected, steps=1.5):
    """Within one and a half steps of 16 bits."""
    assert len(came) == len(expected)
    assert np.abs(came - expected).max(initial=0) * 2**15 <= steps


def apart(came, expected, slip):
    """How far two sounds are from each other at most, where one may lie up to `slip` samples aside."""
    inner = came[slip : min(len(came), len(expected)) - 2 * slip]
    starts = range(2 * slip + 1)
    return min(np.abs(inner - expected[start : start + len(inner)]).max(initial=0) for start in starts)


def refusal(path, *, limits=None, **wanted):
    """Why a file is refused: one sentence that names it."""
    with pytest.raises(MediaError) as caught:
        with Film(path, limits) as film:
            for _ in film.read(**wanted or {"rate": 16_000, "times": [0.0]}):
                pass
    text, reason = str(caught.value), caught.value.reason
    name = str(path).encode("utf-8", "backslashreplace").decode()
    assert text == f"{name!r} {reason}." and text.isprintable(), text
    assert reason[0].islower() and not reason.endswith((".", " ")) and ". " not in reason, reason
    assert name not in reason and "file:" not in reason and "\n" not in reason, reason
    return reason


# Real films.


REAL = ["bigbuckbunny.mp4", "v_GGSY1Qvo990.mp4", "v_ZNVhz7ctTq0.mp4"]


@pytest.fixture(params=REAL)
def real(request, data_root):
    path = data_root / "media" / request.param
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def test_a_real_film_has_the_duration_and_the_tracks_that_ffprobe_tells(real):
    told = ffprobe(real, "format=duration:stream=codec_type,codec_name,duration")
    streams = {stream["codec_type"]: stream for stream in told["streams"]}
    with Film(real) as film:
        assert film.seconds == pytest.approx(float(told["format"]["duration"]), abs=0.01)
        for track, kind in ((film.audio, "audio"), (film.visual, "video")):
            assert track.codec == streams[kind]["codec_name"]
            assert track.seconds == pytest.approx(float(streams[kind]["duration"]), abs=0.01)


def test_every_frame_of_a_real_film_is_on_display_when_ffprobe_says(real):
    """Frames follow each other as in the file: as many as it has, and every twentieth is ffmpeg's, pixel by pixel."""
    told = ffprobe(real, "packet=pts_time:stream=width,height,nb_frames", "v:0")
    starts = sorted(float(packet["pts_time"]) for packet in told["packets"])
    (stream,) = told["streams"]
    between = [(one + other) / 2 for one, other in itertools.pairwise(starts)]
    pictures = seen(real, [*between, starts[-1]])
    assert len(pictures) == int(stream["nb_frames"]) == len(starts)
    raw = ffmpeg("-i", real, "-vf", "select='not(mod(n,20))'", "-fps_mode", "passthrough",
                 "-pix_fmt", "rgb24", "-f", "rawvideo", "-")  # fmt: skip
    expected = np.frombuffer(raw, np.uint8).reshape(-1, stream["height"], stream["width"], 3)
    assert len(expected) == math.ceil(len(starts) / 20)
    for one, frame in zip(pictures[::20], expected, strict=True):
        assert np.abs(one.frame.astype(np.int16) - frame).max() <= STEPS


def test_a_real_film_has_the_samples_that_ffmpeg_decodes(real):
    (stream,) = ffprobe(real, "stream=sample_rate,duration_ts", "a:0")["streams"]
    native = int(stream["sample_rate"])
    came, first = heard(real, native)
    assert first == 0 and len(came) == int(stream["duration_ts"])
    assert_same_sound(came, decoded(real, native))
    came, first = heard(real, 16_000)
    assert first == 0
    assert_same_sound(came, decoded(real, 16_000))


def test_one_pass_gives_what_two_passes_give(data_root):
    real, times = data_root / "media" / REAL[1], [0.5 * number for number in range(12)]
    if not real.is_file():
        pytest.skip(f"{real} is not here")
    with Film(real) as film:
        pieces = list(film.read(rate=16_000, times=times))
        assert film.audio.reached == pytest.approx(film.seconds, abs=0.06)
        assert film.audio.damaged == film.visual.damaged == 0
    blocks = [piece for piece in pieces if isinstance(piece, Sound)]
    pictures = [piece for piece in pieces if isinstance(piece, Picture)]
    assert np.array_equal(np.concatenate([block.samples for block in blocks]), heard(real, 16_000)[0])
    alone = seen(real, times)
    assert [one.time for one in pictures] == [one.time for one in alone]
    assert all(np.array_equal(one.frame, other.frame) for one, other in zip(pictures, alone, strict=True))


# The picture on display at a moment.


@pytest.mark.parametrize("name", TIMED)
def test_the_picture_of_a_moment_is_the_last_that_began_before(make, name):
    path, twin = make(name), make.of(Twin, name)
    grid = [0.0237 * number for number in range(int((twin.end + 0.3) / 0.0237))]
    exact = [round(start, 9) for start in twin.starts if start >= 0]
    expected = assert_pictures(path, sorted({*grid, *exact}), twin)
    assert len({frame.tobytes() for frame in expected.values()}) == len(twin.frames)


def test_an_edit_list_cuts_frames_and_samples_away(make, small):
    """Copied from 0.7 s on, a film still holds what comes before, from the last key frame, and says not to show it."""
    path = make("edit.mp4", "-ss", "0.7", "-i", small, "-c", "copy")
    held = len(ffprobe(path, "packet=pts", "v:0")["packets"])
    twin = Twin(path)
    assert len(twin.frames) < held
    assert_pictures(path, [0.0137 * number for number in range(100)], twin)
    came, first = heard(path, 44_100)
    assert first == 0
    assert_same_sound(came, decoded(path, 44_100))


def test_moments_may_repeat_be_whole_numbers_and_never_end(small):
    assert [one.time for one in seen(small, [0, 0, 1, 1.5, 1.5, 7])] == [0, 0, 1, 1.5, 1.5]
    assert [one.time for one in seen(small, itertools.count())] == [0, 1]
    assert [one.time for one in seen(small, np.arange(0, 9, 0.5, dtype=np.float32))] == [0, 0.5, 1, 1.5]
    assert seen(small, []) == seen(small, [99]) == []


def test_blocks_and_pictures_come_as_the_film_plays(small):
    """Neither sound nor pictures run ahead of the other by more than a block and what a decoder holds."""
    heard_until = seen_until = 0.0
    with Film(small) as film:
        for piece in film.read(rate=8000, times=itertools.count(0, 0.04)):
            if isinstance(piece, Sound):
                heard_until = (piece.first + len(piece.samples)) / 8000
            else:
                seen_until = piece.time
            assert abs(heard_until - seen_until) < media_tracks.BLOCK_SECONDS + 1.0


@pytest.mark.parametrize("name", ["gap.mp4", "gap-b.mp4"])
def test_what_a_track_reached_is_where_its_last_frame_ends(make, name):
    with Film(make(name)) as film:
        list(film.read(rate=8000, times=[0.0]))
        assert film.audio.reached == pytest.approx(6, abs=0.05)
    with Film(make(name)) as film:
        list(film.read(times=itertools.count()))
        assert film.visual.reached == pytest.approx(make.of(Twin, name).end, abs=0.05)


# Sound in its place.


@pytest.mark.parametrize("name", HOLES)
def test_a_hole_in_the_sound_stays_a_hole(make, name):
    """Thirty-one packets are missing. What follows is where ffprobe says, and is what ffmpeg decodes."""
    path = make(name)
    told = ffprobe(path, "frame=pts_time,nb_samples:format=start_time", "a:0")
    zero, raw = float(told["format"]["start_time"]), decoded(path, 44_100)
    position, end, jumps, expected = 0, 0, 0, np.zeros(200_000, np.float32)
    for number, frame in enumerate(told["frames"]):
        place = round((float(frame["pts_time"]) - zero) * 44_100)
        if number and abs(place - end) < 4410:
            place = end
        jumps += bool(number) and place != end
        end = place + frame["nb_samples"]
        expected[place:end] = raw[position : position + frame["nb_samples"]]
        position += frame["nb_samples"]
    came, _ = heard(path, 44_100)
    assert jumps == 1 and position == len(raw)
    # A stamp is rounded, to whole milliseconds in Matroska and to 90,000ths in MPEG: one sample more or less.
    assert len(came) == pytest.approx(end, abs=1)
    assert np.abs(came[:26_000] - expected[:26_000]).max() < 2 / 2**15
    assert apart(came[60_000:], expected[60_000:end], 1) < 2 / 2**15
    assert not came[30_000:52_000].any() and np.abs(came[60_000:]).max() > 0.3


@pytest.mark.parametrize("name", ["late-sound.mp4", "late-sound.mkv", "late-sound.ts"])
def test_sound_that_starts_late_is_placed_late(make, name):
    path = make(name)
    start = float(ffprobe(path, "stream=start_time", "a:0")["streams"][0]["start_time"])
    late = start - float(ffprobe(path, "format=start_time")["format"]["start_time"])
    came, first = heard(path, 44_100)
    assert 0.6 < late < 0.75 and first == pytest.approx(late * 44_100, abs=1)
    assert_same_sound(came[first:], decoded(path, 44_100))
    assert heard(path, 16_000)[1] == pytest.approx(late * 16_000, abs=1)


def test_sound_that_starts_before_the_picture_starts_at_once(make):
    path = make("late-picture.mkv")
    samples, first, pictures = both(path, 16_000, times=[0.0, 0.5, 0.6, 1.0, 2.0])
    assert first == 0 and list(pictures) == [1.0, 2.0]
    assert_same_sound(samples, decoded(path))


def test_sound_that_changes_its_format_midway_goes_on(make):
    """Mono of 44,100 Hz, then stereo of 22,050 Hz, in one stream of MP3 without a header."""
    plain = [*MP3, "-write_xing", "0", "-id3v2_version", "0"]
    one, other = make("one.mp3", *sound(1), *plain), make("other.mp3", *sound(1, 22_050, "stereo"), *plain)
    path = one.with_name("one-other.mp3")
    path.write_bytes(one.read_bytes() + other.read_bytes())
    came, first = heard(path, 16_000)
    assert first == 0 and 2.0 < len(came) / 16_000 < 2.2
    # FFmpeg mistakes the rate of the first frame, of 26 ms.
    assert apart(came[1000:14_000], heard(one, 16_000)[0][1000:14_000], 500) < 0.01
    for second in (0, 1):
        assert np.abs(came[16_000 * second + 4000 :][:8000]).max() > 0.2


# Pixels.


EIGHT = {
    "as-it-is": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "mirrored-180": (1, 0, 0, -1),
    "mirrored-90": (0, 1, 1, 0),
    "mirrored-270": (0, -1, -1, 0),
}


@pytest.mark.parametrize("matrix", EIGHT.values(), ids=EIGHT)
def test_a_picture_is_upright_and_mirrored_as_ffmpeg_shows_it(make, tmp_path, matrix):
    """All eight ways to lay a rectangle down, written by hand into the header of the track."""
    plain = [*picture(rate=5, seconds=0.4, source="testsrc"), *X264, "-pix_fmt", "yuv444p"]
    data = make("plain.mp4", *plain).read_bytes()
    place = data.index(b"tkhd") + 4 + 40
    one, last = 1 << 16, 1 << 30
    assert struct.unpack_from(">9i", data, place) == (one, 0, 0, 0, one, 0, 0, 0, last)
    a, b, c, d = (one * part for part in matrix)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, last) + data[place + 36 :])
    raw = ffmpeg("-i", path, "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    shape = (64, 96, 3) if matrix[0] else (96, 64, 3)
    (came,) = seen(path, [0])
    assert np.abs(came.frame - np.frombuffer(raw, np.uint8).reshape(shape).astype(int)).max() <= STEPS


@pytest.mark.parametrize("name", PIXELS)
def test_a_picture_of_any_format_is_as_ffmpeg_converts_it(make, name):
    frames = np.stack([one.frame for one in seen(make(name), [0.05, 0.15, 0.25])])
    expected = make.of(raw_frames, name).reshape(3, 48, 64, 3)
    assert np.abs(frames.astype(int) - expected).max() <= STEPS


@pytest.mark.parametrize("name", CHROMA)
def test_a_picture_whose_chroma_is_interpolated_is_close_to_what_ffmpeg_makes(make, name):
    frames = np.stack([one.frame for one in seen(make(name), [0.05, 0.15, 0.25])])
    expected = make.of(raw_frames, name).reshape(3, 48, 64, 3)
    assert np.abs(frames.astype(int) - expected).mean() <= CHROMA_STEPS and expected.std() > 20


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (17, 1), (3, 5), (65, 33)], ids="{0[0]}x{0[1]}".format)
def test_a_picture_of_an_odd_size_keeps_it(make, size):
    """FFV1 loses nothing."""
    width, height = size
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "5", "-i", "-"]
    path = make(f"{width}x{height}.mkv", *given, *FFV1, "bgr0", data=frames.tobytes())
    assert np.array_equal([one.frame for one in seen(path, [0.1, 0.3])], frames)


def test_a_coded_picture_of_an_odd_size_is_cut_to_it(make):
    """H.264 codes whole blocks of 16 x 16 and says what to cut off."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 33, 65, 3), dtype=np.uint8)
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "65x33", "-r", "5", "-i", "-"]
    path = make("65x33.mp4", *given, *X444, data=frames.tobytes())
    came = np.stack([one.frame for one in seen(path, [0.1, 0.3])])
    assert np.abs(came.astype(int) - raw_frames(path).reshape(2, 33, 65, 3)).max() <= STEPS


def jpeg_film(path, pictures):
    """A film of JPEG pictures as they are, five a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, data in enumerate(pictures):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 5)
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_a_camera_may_write_exif_into_the_pictures_of_a_film(make, tmp_path, suffix):
    plain = make("one.jpg", *picture("64x48", 5, 1), "-pix_fmt", "yuvj420p", "-frames:v", "1", "-f", "image2")
    data = plain.read_bytes()
    tag = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 1, 0)
    exif = data[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + data[2:]
    (expected,) = seen(jpeg_film(tmp_path / f"plain.{suffix}", [data] * 3), [0.3])
    (came,) = seen(jpeg_film(tmp_path / f"exif.{suffix}", [exif] * 3), [0.3])
    assert np.array_equal(came.frame, expected.frame)


@pytest.mark.parametrize("space", ["ycgco", "bt2020c"])
def test_colours_in_a_space_that_cannot_be_converted_are_shown_somehow_or_refused(make, space):
    path = make(f"{space}.mp4", *picture("64x48", 5, 0.4), *X264, "-colorspace", space)
    try:
        (came,) = seen(path, [0])
    except MediaError:
        refusal(path)
    else:
        assert came.frame.shape == (48, 64, 3)


# Sound of many kinds.


@pytest.mark.parametrize("name", SOUNDS)
def test_samples_of_any_kind_are_mixed_to_one_channel_as_ffmpeg_does(make, name):
    came, first = heard(make(name), 16_000)
    assert first == 0 or name == "stereo.ogg" and first < 100, "Vorbis says that it begins 3 ms late"
    assert_same_sound(came[first:], make.of(decoded, name))


@pytest.mark.parametrize("name", ["8k.wav", "s24.wav", "surround.m4a", "stereo.mp3"])
def test_samples_at_their_own_rate_are_not_resampled(make, name):
    rate = int(ffprobe(make(name), "stream=sample_rate", "a:0")["streams"][0]["sample_rate"])
    assert_same_sound(heard(make(name), rate)[0], decoded(make(name), rate))


def wav(path, samples, rate=16_000, channels=1, code=1):
    """A plain header of 44 bytes: no layout of channels, nothing checked."""
    data, bits = samples.tobytes(), 8 * samples.dtype.itemsize
    wide = channels * bits // 8
    header = struct.pack("<HHIIHH", code, channels, rate, rate * wide & 0xFFFFFFFF, wide & 0xFFFF, bits)
    riff = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + header
    path.write_bytes(riff + b"data" + struct.pack("<I", len(data)) + data)
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24])
def test_channels_that_are_all_alike_sound_like_one(tmp_path, channels):
    tone = np.round(8000 * np.sin(np.arange(1600) / 9)).astype(np.int16)
    path = wav(tmp_path / "alike.wav", np.repeat(tone[:, None], channels, axis=1), channels=channels)
    assert_same_sound(heard(path, 16_000)[0], tone / 2**15)


@pytest.mark.parametrize("channels", [9, 10, 11, 13, 63, 255, 65_535])
def test_channels_that_nobody_can_place_are_mixed_or_refused(tmp_path, channels):
    path = wav(tmp_path / "many.wav", np.full((64, channels), 1000, np.int16), channels=channels)
    try:
        heard(path, 16_000)
    except MediaError:
        refusal(path, rate=16_000)


@pytest.mark.parametrize("rate", [0, 1, 10, 999, 768_000, 10**6, 10**8, 2**31 - 1, 2**31, 2**32 - 1])
def test_an_absurd_sample_rate_is_read_or_refused(tmp_path, rate):
    path = wav(tmp_path / "absurd.wav", np.full(500, 8000, np.int16), rate=rate)
    try:
        came, _ = heard(path, 16_000)
    except MediaError:
        refusal(path, rate=16_000)
    else:
        assert len(came) == pytest.approx(500 / rate * 16_000, abs=20)


def test_samples_beyond_one_or_no_numbers_at_all_stay_within_one(tmp_path):
    samples = np.array([0.5, 2, -3, np.nan, np.inf, -np.inf, 1e30, 1e-40] * 40, np.float32)
    path = wav(tmp_path / "wild.wav", samples, code=3)
    for rate in (16_000, 8000):
        assert np.isfinite(heard(path, rate)[0]).all()


# Containers and tracks.


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_gives_the_tracks_it_holds(make, name):
    with Film(make(name)) as film:
        assert film.seconds == pytest.approx(2, abs=0.15)
        assert (film.visual is None) == name.startswith("record") and (film.audio is None) == name.startswith("mute")
        pieces = list(film.read(rate=16_000, times=[0.04 * number + 0.005 for number in range(100)]))
        for track in (film.audio, film.visual):
            if track is not None:
                assert track.packets and not track.damaged and track.reached == pytest.approx(2, abs=0.15)
        assert film.missing() is None
        film.check_whole()
    pictures = [piece for piece in pieces if isinstance(piece, Picture)]
    samples, first = joined([piece for piece in pieces if isinstance(piece, Sound)])
    if film.visual is not None:
        assert 49 <= len({one.frame.tobytes() for one in pictures}) <= 50
    if film.audio is not None:
        assert len(samples) / 16_000 == pytest.approx(2, abs=0.15) and first < 2000


def test_what_a_film_lacks_is_left_out(make):
    assert len(heard(make("mute.mp4"), 16_000)[0]) == 0
    with Film(make("record.mp3")) as film:
        assert list(film.read(times=[0, 1])) == list(film.read()) == []


@pytest.mark.parametrize("suffix", ["mp3", "flac", "m4a"])
def test_the_cover_of_a_record_is_no_picture(make, suffix):
    cover = [*picture("64x48", 1, 1), "-map", "0:a", "-map", "1:v", "-frames:v", "1", "-c:v", "png"]
    codec = {"mp3": MP3, "flac": [], "m4a": AAC}[suffix]
    path = make(f"cover.{suffix}", *sound(), *cover, "-disposition:v:0", "attached_pic", *codec)
    assert {"audio", "video"} == {one["codec_type"] for one in ffprobe(path, "stream=codec_type")["streams"]}
    with Film(path) as film:
        assert film.visual is None and film.audio is not None
    samples, _, pictures = both(path, 16_000, times=[0, 1])
    assert not pictures
    assert_same_sound(samples, decoded(path))


@pytest.mark.parametrize("chosen", [0, 1])
def test_of_several_tracks_of_sound_the_default_one_is_heard(make, chosen):
    quiet = ["-f", "lavfi", "-i", "aevalsrc=0.01*sin(2000*t):s=44100:d=2"]
    marks = ["-disposition:a:0", "0", "-disposition:a:1", "0", f"-disposition:a:{chosen}", "default"]
    tracks = [*picture(), *sound(), *quiet, "-map", "0", "-map", "1", "-map", "2", *marks]
    path = make(f"tracks-{chosen}.mkv", *tracks, *X264, "-c:a", "flac")
    came, first = heard(path, 44_100)
    assert_same_sound(came[first:], decoded(path, 44_100, track=f"0:a:{chosen}"))


def test_subtitles_chapters_and_attachments_are_passed_over(make, tmp_path):
    (tmp_path / "words.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    (tmp_path / "font.ttf").write_bytes(bytes(1000))
    extra = ["-attach", tmp_path / "font.ttf", "-metadata:s:t", "mimetype=application/x-truetype-font"]
    source = ["-i", tmp_path / "words.srt", *picture(), *sound()]
    path = make("words.mkv", *source, "-map", "0", "-map", "1", "-map", "2", *extra, *X264, *AAC)
    kinds = [one["codec_type"] for one in ffprobe(path, "stream=codec_type")["streams"]]
    assert sorted(kinds) == ["attachment", "audio", "subtitle", "video"]
    samples, _, pictures = both(path, 16_000, times=[0.5, 1.5])
    assert len(samples) > 31_000 and len(pictures) == 2
    assert "neither sound nor a picture" in refusal(make("words-only.mkv", "-i", tmp_path / "words.srt"))


def test_sound_that_the_header_does_not_announce_and_that_begins_late_does_no_harm(make):
    """A stream that is recorded before somebody speaks; FFmpeg looks at a few seconds to find the tracks."""
    codec = ["-c:v", "flv", *MP3]
    one, other = make("mute.flv", *picture("64x48", 5, 12), *codec), make("loud.flv", *TINY, *sound(1), *codec)
    path, header = one.with_name("mute-loud.flv"), 13
    tags, time = bytearray(other.read_bytes()[header:]), 12_000
    place = 0
    while place < len(tags):
        kind, size, stamp = tags[place], *(int.from_bytes(tags[place + at : place + at + 3]) for at in (1, 4))
        tags[place + 4 : place + 7] = (stamp + time).to_bytes(3)
        place += 11 + size + 4
        assert kind in (8, 9, 18)
    path.write_bytes(one.read_bytes() + tags)
    assert len(seen(path, itertools.count())) >= 12


def test_a_film_can_be_read_again(small):
    with Film(small) as film:
        first = [len(piece.samples) for piece in film.read(rate=8000)]
        assert [len(piece.samples) for piece in film.read(rate=8000)] == first


def test_a_film_that_was_left_midway_is_read_from_its_beginning(small):
    with Film(small) as film:
        assert next(film.read(rate=8000)).first == 0
        assert next(film.read(rate=8000)).first == 0


def test_the_decoder_may_have_any_number_of_threads(small):
    frames = []
    for threads in (0, 1, 3):
        with Film(small, threads=threads) as film:
            frames.append(np.stack([piece.frame for piece in film.read(times=[0.1, 0.9, 1.9])]))
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])


# Parts of a long film.


SLIP = 0.001
"""Seconds by which the sound of a part may lie aside: Matroska, FLV and ASF keep whole milliseconds."""


@pytest.mark.parametrize(
    "name",
    PARTS,
)
def test_a_part_of_a_film_is_what_the_whole_has_there(make, name):
    path = make(name)
    with Film(path) as film:
        rate = film.audio.stream.codec_context.sample_rate if film.audio else 8000
        assert film.seconds == pytest.approx(20, abs=0.5)
    grid = [*(0.07 * number + 0.003 for number in range(350)), 61.0, 62.0]
    whole, _, pictures = both(path, rate, times=grid)
    slip = math.ceil(SLIP * rate)
    for start, end in ((12.34, 13.9), (16.0, 17.0), (18.6, 99.0), (60.0, 70.0)):
        wanted = [time for time in grid if start <= time < end]
        samples, first, shown = both(path, rate, times=wanted, start=start, end=end)
        assert list(shown) == [time for time in wanted if time in pictures]
        assert [time for time, frame in shown.items() if not np.array_equal(frame, pictures[time])] == []
        expected = whole[round(start * rate) : round(end * rate)]
        assert max(0, len(samples) - round(start * rate)) == pytest.approx(len(expected), abs=slip)
        if len(expected):
            assert first == round(start * rate)
            assert apart(samples[first:], expected, slip) < 0.002


@pytest.mark.parametrize("start", [0.9, 12.9])
def test_nothing_from_before_the_start_or_after_the_end_comes(make, start):
    """Before ten seconds a film is read from its beginning, later it is sought: the promise is the same."""
    samples, first, pictures = both(make("part.mp4"), 8000, times=itertools.count(), start=start, end=start + 2.5)
    assert list(pictures) == [math.ceil(start), math.ceil(start) + 1, math.ceil(start) + 2]
    assert first == round(start * 8000) and len(samples) == round((start + 2.5) * 8000)


def test_a_part_of_a_film_is_found_without_reading_what_is_before_or_after(make):
    with Film(make("part.mp4")) as film:
        list(film.read(rate=8000, times=itertools.count(), start=15.0, end=16.0))
        assert film.visual.packets < 50 and film.audio.packets < 80
    with Film(make("part.mp4")) as film:
        list(film.read(rate=8000, times=itertools.count(), end=2.0))
        assert film.visual.packets < 30 and film.audio.packets < 40


@pytest.mark.parametrize("suffix", ["mkv", "webm", "ts", "flv"])
def test_a_film_that_was_piped_says_no_length_and_is_read_all_the_same(make, tmp_path, suffix):
    source, path = make("part.webm" if suffix == "webm" else "part.mkv"), tmp_path / f"piped.{suffix}"
    kind = {"mkv": ["-live", "1", "-f", "matroska"], "webm": ["-live", "1", "-f", "webm"], "ts": ["-f", "mpegts"]}
    path.write_bytes(ffmpeg("-i", source, "-c", "copy", *kind.get(suffix, ["-f", suffix]), "-"))
    if suffix in ("mkv", "webm"):
        assert "duration" not in ffprobe(path, "format=duration")["format"]
    with Film(path) as film:
        assert film.seconds == pytest.approx(20, abs=0.3)
    grid = [0.35 * number + 0.103 for number in range(70)]
    samples, _, pictures = both(path, 8000, times=grid)
    assert len(pictures) == pytest.approx(20 / 0.35, abs=2) and len(samples) == pytest.approx(160_000, abs=3000)
    part, first = heard(path, 8000, start=15.0, end=16.0)
    assert first == 120_000 and len(part) == 128_000


@pytest.mark.parametrize(
    "name",
    ["offset.mkv", "offset.mp4", "offset.ts"],
)
def test_a_film_whose_clock_starts_late_lasts_as_long_as_it_plays(make, name):
    with Film(make(name), Limits(seconds=10)) as film:
        assert film.seconds == pytest.approx(2, abs=0.1)
        list(film.read(rate=8000, times=itertools.count()))
        assert film.missing() is None


# Limits.


def test_a_film_that_says_it_is_too_long_is_refused(small):
    assert refusal(small, limits=Limits(seconds=1.5)) == "lasts 2.0 s, and the limit is 1.5 s"
    assert len(heard(small, 8000, limits=Limits(seconds=2.1))[0]) > 15_000


def lasting(path, source, seconds):
    """A copy of a Matroska film whose header tells another length."""
    data = bytearray(source.read_bytes())
    place = data.index(b"\x44\x89\x88") + 3
    data[place : place + 8] = struct.pack(">d", 1000 * seconds)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("wanted", [{"rate": 8000}, {"times": [0.0, 4.0, 8.0]}], ids=["sound", "pictures"])
def test_a_film_that_is_longer_than_it_says_is_stopped_at_the_limit(make, tmp_path, wanted):
    path, until = lasting(tmp_path / "lie.mkv", make("part.mkv"), 3.0), 0.0
    with Film(path, Limits(seconds=5)) as film:
        assert film.seconds == pytest.approx(3)
        with pytest.raises(MediaError, match="lasts longer than it says, and the limit is 5 s"):
            for piece in film.read(**wanted):
                until = piece.time if isinstance(piece, Picture) else (piece.first + len(piece.samples)) / 8000
    assert 3.9 < until < 7


def test_a_picture_that_stays_for_a_month_does_not_outlast_the_limit(tmp_path):
    """Three frames, then one more after a month: whoever asks for a picture a second gets no million of them."""
    path = tmp_path / "month.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuvj420p", Fraction(1, 1000)
        for number, time in enumerate([0, 40, 80, 2_000_000_000]):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            frame = frame.reformat(format="yuvj420p")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    came = 0
    with Film(lasting(path, path, 1.0), Limits(seconds=60)) as film:
        with pytest.raises(MediaError, match="limit is 60 s"):
            for _ in film.read(times=itertools.count()):
                came += 1
                assert came < 100


def test_a_file_of_too_many_bytes_is_refused(small):
    size = small.stat().st_size
    assert refusal(small, limits=Limits(bytes=size - 1)) == f"has {size:,} bytes, and the limit is {size - 1:,}"
    assert len(seen(small, [0], limits=Limits(bytes=size))) == 1


def test_frames_of_too_many_pixels_are_refused(small):
    expected = "has frames of 96 x 64 pixels, and the limit is 6,143 in all"
    assert refusal(small, limits=Limits(pixels=6143)) == expected
    assert len(seen(small, [0], limits=Limits(pixels=None))) == 1


def test_frames_of_just_as_many_pixels_as_the_limit_are_read(small):
    """FFmpeg's own limit counts what a decoder allocates, which is rounded up to whole blocks and lines."""
    assert len(seen(small, [0, 1], limits=Limits(pixels=96 * 64))) == 2


def test_frames_that_grow_midway_are_shown_within_the_limit_and_refused_beyond(make, tmp_path):
    path, times = tmp_path / "grows.h264", [0.02 * number for number in range(100)]
    parts = [make(f"{size}.h264", *picture(size, 5, 1), *X264) for size in ("96x64", "192x128")]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    shapes = [one.frame.shape for one in seen(path, times)]
    assert list(dict.fromkeys(shapes)) == [(64, 96, 3), (128, 192, 3)]
    largest = 0
    with pytest.raises(MediaError):
        with Film(path, Limits(pixels=10_000)) as film:
            for piece in film.read(times=times):
                largest = max(largest, piece.frame.shape[0] * piece.frame.shape[1])
    assert largest <= 96 * 64


@pytest.mark.parametrize("told", [10_000, 100], ids=["header", "lying-header"])
def test_a_huge_picture_is_refused_before_memory_is_spent_on_it(tmp_path, told):
    """Three black PNG pictures, 1.3 MB each packed and 300 MB unpacked; a decoder that starts on one takes 290 MB."""
    side, path = 10_000, tmp_path / "huge.mov"
    packer, rows = zlib.compressobj(1), bytes(100 * (1 + 3 * side))
    body = b"".join(packer.compress(rows) for _ in range(side // 100)) + packer.flush()
    chunks = {b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT": body, b"IEND": b""}
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in chunks.items()
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = told, told, "rgb24"
        for number in range(3):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1)
            container.mux(packet)
    code = """
before, refused, pictures = peak(), None, 0
try:
    with media.Film(arguments[0]) as film:
        for _ in film.read(times=[0, 1, 2]):
            pictures += 1
except media.MediaError as error:
    refused = error.reason
print(json.dumps([refused, pictures, peak() - before]))
"""
    refused, pictures, spent = fresh(code, path)
    assert refused and not pictures and spent < 60, (refused, pictures, spent)


# Hostile files.


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
    """A pipe or a device would be waited for without end."""
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    for name, reason in {
        "folder.mp4": "is no file",
        "pipe.mp4": "is no file",
        "loop.mp4": "cannot be read: Too many levels of symbolic links",
        "dangling.mp4": "cannot be read: No such file or directory",
        "missing.mp4": "cannot be read: No such file or directory",
        "nul\0.mp4": "cannot be read: embedded null byte",
        "x" * 300 + ".mp4": "cannot be read: File name too long",
    }.items():
        assert refusal(tmp_path / name) == refusal(str(tmp_path / name)) == reason
    for device in ("/dev/zero", "/dev/null", "/dev/stdin"):
        assert refusal(device) == "is no file"
    with socket.socket(socket.AF_UNIX) as one:
        monkeypatch.chdir(tmp_path)  # a socket's name must be short
        one.bind("socket.mp4")
        assert refusal("socket.mp4") == "is no file"
    assert refusal("\ud800.mp4").startswith("cannot be read")


def test_a_file_that_nobody_may_read_is_refused(small, tmp_path):
    path = Path(shutil.copy(small, tmp_path / "mine.mp4"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("whoever runs this may read anything")
    assert refusal(path) == "cannot be read: Permission denied"


JUNK = {
    "zero bytes": b"",
    "one byte": b"\0",
    "zeros": bytes(100_000),
    "text": b"This is a letter, not a film.\n" * 500,
    "json": b'{"film": []}',
    "markup": b"<!doctype html><html><video src='http://127.0.0.1/x.mp4'></video></html>",
    "random": np.random.default_rng(0).bytes(100_000),
    "zip": b"PK\3\4" + bytes(2000),
    "a box that never ends": struct.pack(">I4s", 0, b"ftyp") + bytes(1000),
    "boxes in boxes": b"".join(struct.pack(">I4s", 100_000 - 8 * depth, b"moov") for depth in range(2000)),
    "an ogg of four bytes": b"OggS",
    "a sound of no known kind": struct.pack(">4s5I", b".snd", 24, 1000, 99, 8000, 1) + bytes(1000),
    "a jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(1000),
}


@pytest.mark.parametrize("kind", JUNK)
@pytest.mark.parametrize("name", ["x.mp4", "x.wav", "x"])
def test_what_is_no_film_is_refused(tmp_path, kind, name):
    (tmp_path / name).write_bytes(JUNK[kind])
    reason = refusal(tmp_path / name)
    assert (reason == "is empty") == (kind == "zero bytes")


def test_a_still_picture_is_no_film(make):
    assert refusal(make("still.png", *picture("64x48", 1, 1), "-frames:v", "1")).startswith("is no film")


def test_a_film_whose_index_is_cut_off_cannot_be_read(make, tmp_path):
    data, path = make("part.mp4").read_bytes(), tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    assert data.index(b"moov") > len(data) // 2
    assert refusal(path).startswith("is no film that can be read")


def test_a_film_whose_index_is_in_front_is_read_up_to_where_it_is_cut(make, tmp_path):
    source = make("front.mp4", "-i", make("part.mp4"), "-c", "copy", "-movflags", "+faststart")
    data, path = source.read_bytes(), tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    grid = [0.5 * number for number in range(60)]
    whole, _, pictures = both(source, 8000, times=grid)
    with Film(path) as film:
        assert film.seconds == pytest.approx(20, abs=0.1)
        list(film.read(rate=8000, times=grid))
        heard_until, seen_until = film.audio.reached, film.visual.reached
        assert film.missing().startswith("is cut off: it ends after ")
        assert film.missing(until=1.0) is None
        with pytest.raises(MediaError, match="is cut off: .*, and says it lasts 20.0 s"):
            film.check_whole()
    assert 3 < heard_until < 17 and 3 < seen_until < 17
    samples, _, shown = both(path, 8000, times=grid)
    assert len(samples) == pytest.approx(heard_until * 8000, abs=300)
    assert np.abs(samples[:-2048] - whole[: len(samples) - 2048]).max() < 0.001
    assert list(shown) == [time for time in grid if time < seen_until - 1e-6]
    assert all(np.array_equal(shown[time], pictures[time]) for time in list(shown)[:-1])


def test_a_track_that_nobody_asked_for_is_not_missing(make):
    """Six seconds of sound, two of pictures, all of which were read."""
    path = make("short-picture.mp4", *picture("64x48", 5), *sound(6), *X264, *AAC)
    with Film(path) as film:
        assert len(list(film.read(times=itertools.count()))) == 2
        assert film.missing() is None


HURTS = """
from pathlib import Path

MOST = (".mp4", ".mkv", ".avi", ".mp3")

def end(path, start):
    try:
        with media.Film(path, media.Limits(seconds=600, pixels=1_000_000)) as film:
            wanted = (number / 5 for number in range(10**12))
            return sum(1 for _ in film.read(rate=16_000, times=wanted, start=start, end=start + 30))
    except media.MediaError as error:
        return "refused" if str(error).isprintable() and str(error).endswith(".") else str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def copies(data, flipped):
    for seed in range(flipped):
        chance, hurt = random.Random(seed), bytearray(data)
        reach = chance.choice((len(hurt), len(hurt), min(len(hurt), 2000), min(len(hurt), 500)))
        for _ in range(chance.choice((1, 3, 10, 50, 200))):
            place = chance.randrange(reach)
            hurt[place] = chance.choice((chance.randrange(256), 0, 255, hurt[place] ^ 1 << chance.randrange(8)))
        yield f"flipped-{seed}", hurt, chance.choice((0.0, 0.0, 20.0))
    for size in sorted({*range(1, 64, 6), *(int(64 * 1.3**step) for step in range(40))}):
        if size < len(data):
            yield f"cut-{size}", data[:size], 0.0

ends = {}
for source in map(Path, arguments):
    ends[source.name] = {}
    for how, hurt, start in copies(source.read_bytes(), 60 if source.suffix in MOST else 15):
        path = source.with_name(f"{how}-{source.name}")
        path.write_bytes(hurt)
        print(path.name, file=sys.stderr, flush=True)
        ends[source.name][how] = end(path, start)
        path.unlink()
    ends[source.name]["peak"] = peak()
print(json.dumps(ends))
"""


@pytest.mark.parametrize("name", HURT)
def test_a_hurt_film_gives_pieces_or_one_sentence(make, name):
    """Copies with bytes flipped, others cut short, all in one process, which would be seen to crash or to hang."""
    ends = make.hurt()[name]
    assert ends.pop("peak") < 300
    assert {key: end for key, end in ends.items() if not isinstance(end, int) and end != "refused"} == {}
    assert len(ends) > 30 and "refused" in ends.values() and any(isinstance(end, int) for end in ends.values())


def test_a_track_of_which_nothing_can_be_decoded_is_no_silence(tmp_path):
    """One packet and it is garbage: that is all of the track, however few it is."""
    path = jpeg_film(tmp_path / "garbage.avi", [bytes(range(256)) * 4])
    assert "damaged" in refusal(path, times=[0.0])


def test_damage_is_counted_in_packets_that_are_there(tmp_path):
    """Of three, three are garbage; there is no fourth."""
    path = jpeg_film(tmp_path / "garbage.avi", [bytes(range(256)) * 4] * 3)
    assert refusal(path, times=[0.0]) == "is damaged: 3 of 3 packets of mjpeg cannot be read"


NAMES = [
    "a\nb.mp4", "a\"b'c.mp4", "a:b.mp4", "http:x.mp4", "file:x.mp4", "pipe:0", "concat:a|b.mp4", "-x.mp4", "--help",
    "%d.mp4", "a%03d.mp4", "*.mp4", "[ab].mp4", "?.mp4", "~.mp4", "$HOME.mp4", " .mp4 ", "#t=1.mp4", "a?b=1.mp4",
    "a\\b.mp4", "subfile,,start,1,end,5,,:x.mp4", "data:x.mp4", "crypto:x", "x.m3u8", "x", "é日本.mp4",
    "\udcff\udcfe.mp4", "a\x1b[31m.mp4", "x" * 250,
]  # fmt: skip


def test_a_name_is_a_name_whatever_is_in_it(small, tmp_path, monkeypatch):
    """Neither a protocol nor a pattern nor an option: what lies beside is never taken for it."""
    monkeypatch.chdir(tmp_path)
    for other in ("0.mp4", "a000.mp4", "a.mp4", "b.mp4", "x.mp4"):
        Path(other).write_bytes(b"not this one")
    expected = len(heard(small, 8000)[0])
    for name in NAMES:
        path = tmp_path / name
        shutil.copy(small, path)
        for form in (name, Path(name), path, str(path)):
            assert len(heard(form, 8000)[0]) == expected, form
        assert refusal(path, limits=Limits(seconds=1)).startswith("lasts")
        path.write_bytes(b"")
        assert refusal(path) == refusal(name) == "is empty"
        path.write_bytes(b"junk")
        assert refusal(path).startswith("is no film that can be read")


class Opened:
    """Which files of a folder anybody opens meanwhile; the kernel says (inotify)."""

    def __init__(self, folder):
        self.folder, self.libc = folder, ctypes.CDLL(None, use_errno=True)

    def __enter__(self):
        self.watch = self.libc.inotify_init1(os.O_NONBLOCK)
        assert self.libc.inotify_add_watch(self.watch, os.fsencode(self.folder), 0x20) >= 0
        return self

    def names(self):
        try:
            data = os.read(self.watch, 1 << 16)
        except BlockingIOError:
            return set()
        names = set()
        while data:
            (length,) = struct.unpack_from("12xI", data)
            names.add(data[16 : 16 + length].rstrip(b"\0").decode())
            data = data[16 + length :]
        return names

    def __exit__(self, *reason):
        os.close(self.watch)


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{other}\n#EXT-X-ENDLIST\n",
    "m3u8 of an address": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{address}/other.ts\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {other}\nfile '{address}/other.ts'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
    'mimeType="video/mp2t"><Representation id="1" bandwidth="1"><BaseURL>{other}</BaseURL><SegmentBase/>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
    "</CompositionPlaylist>",
    "asx": '<asx version="3.0"><entry><ref href="{address}/other.ts"/></entry></asx>',
    "pls": "[playlist]\nFile1={other}\nNumberOfEntries=1\nVersion=2\n",
    "redirect": "[Reference]\nRef1={address}/other.ts\n",
    "ffmetadata": ";FFMETADATA1\ntitle={other}\n",
    "smil": '<smil><body><video src="{address}/other.ts"/></body></smil>',
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat", "mpd", "sdp"])
def test_a_playlist_is_refused_and_nothing_it_names_is_opened(make, tmp_path, kind, suffix):
    other = shutil.copy(make("other.ts", *picture("64x48", 5, 1), *X264), tmp_path / "other.ts")
    path = tmp_path / f"list.{suffix}"
    with socket.create_server(("127.0.0.1", 0)) as server, Opened(tmp_path) as opened:
        server.setblocking(False)
        port = server.getsockname()[1]
        path.write_text(PLAYLISTS[kind].format(other=other, address=f"http://127.0.0.1:{port}", port=port))
        assert opened.names() == {path.name}
        assert refusal(path).startswith("is no film that can be read")
        assert opened.names() == {path.name}
        with pytest.raises(BlockingIOError):
            server.accept()
        seen(other, [0])
        assert opened.names() == {"other.ts"}, "the watch would have seen it"


def boxes(data, start, end):
    """Boxes of an MP4 between two places: name, first and last byte."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        yield name, start, start + size
        start += size


def test_a_film_that_keeps_its_frames_in_another_file_does_not_get_them(make, tmp_path):
    """QuickTime may name another file for its frames; the name grows the header, which is at the end."""
    other = shutil.copy(make("other.mov", *picture("64x48", 5, 1), "-c:v", "mpeg4"), tmp_path / "other.mov")
    data = bytearray(Path(other).read_bytes())
    target = os.fsencode(other)
    name = Path(other).name.encode()
    record = bytes(10) + b"\1x".ljust(28, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    record += struct.pack(">HH", 0, 0) + bytes(16) + struct.pack(">HH", 2, len(target)) + target
    record += bytes(len(target) % 2) + struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    start, end, chain = 0, len(data), []
    for wanted in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start, end = next((first, last) for name, first, last in boxes(data, start, end) if name == wanted)
        chain.append(start)
        start += 8
    assert end - start == 20, "one reference, to this very file"
    for box in chain:
        (size,) = struct.unpack_from(">I", data, box)
        struct.pack_into(">I", data, box, size + len(entry) - 12)
    data[start + 8 : end] = entry
    path = tmp_path / "points.mov"
    path.write_bytes(data)
    with Opened(tmp_path) as opened:
        with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
            assert container.streams.video
        assert opened.names() == {"points.mov", "other.mov"}, "a reader that follows the name opens it"
        try:
            seen(path, [0])
        except MediaError:
            pass
        assert opened.names() == {"points.mov"}


def test_nothing_is_said_behind_the_callers_back(make, tmp_path, capfd):
    """What is wrong is in the error: FFmpeg's own lines stay out of the terminal."""
    data, path = bytearray(make("hurt.mp4").read_bytes()), tmp_path / "hurt.mp4"
    place = data.index(b"mdat")
    data[place + 100 : place + 4000] = bytes(3900)
    path.write_bytes(data)
    refusal(path)
    said = capfd.readouterr()
    assert said.out == said.err == ""


# Memory and descriptors.


def test_no_file_stays_open(make, small, tmp_path):
    """Two hundred times a whole film, one that is left midway, one that is refused, one that is broken."""
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    (tmp_path / "cut.mp4").write_bytes(small.read_bytes()[:-2000])
    code = """
small, junk, cut, count = *arguments, lambda: len(os.listdir("/proc/self/fd"))
def read(path, limits=None, **wanted):
    try:
        with media.Film(path, limits) as film:
            return [next(film.read(**wanted)) for _ in range(1)]
    except media.MediaError:
        return []
ways = [
    lambda: read(small, rate=8000), lambda: read(small, times=[0.5]), lambda: read(small, rate=8000, start=11),
    lambda: read(small, media.Limits(seconds=1)), lambda: read(small, media.Limits(pixels=1)), lambda: read(junk),
    lambda: read(cut), lambda: read(small + "x"),
]
def work(times):
    for number in range(times):
        try:
            ways[number % len(ways)]()
        except StopIteration:
            pass
work(16)
before = count()
work(200)
print(json.dumps([before, count()]))
"""
    before, after = fresh(code, small, tmp_path / "junk.mp4", tmp_path / "cut.mp4")
    assert before == after


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_two_hours_are_read_in_little_memory(make, tmp_path, suffix):
    short = make("short.mp4", *picture("160x120", 5, 4), *sound(4, 16_000), *X264, "-g", "20", *AAC)
    path = tmp_path / f"long.{suffix}"
    ffmpeg("-stream_loop", "-1", "-i", short, "-t", "7200", "-c", "copy", path)
    code = """
samples = pictures = 0
with media.Film(arguments[0]) as film:
    for piece in film.read(rate=16_000, times=range(0, 10_000, 5)):
        if isinstance(piece, media.Sound):
            samples += len(piece.samples)
        else:
            pictures += 1
    seconds = film.seconds
middle = None
with media.Film(arguments[0]) as film:
    middle = sum(len(piece.samples) for piece in film.read(rate=16_000, start=5000, end=5010))
print(json.dumps([seconds, samples, pictures, middle, peak()]))
"""
    seconds, samples, pictures, middle, peak = fresh(code, path, timeout=300)
    assert seconds == pytest.approx(7200, abs=5) and samples / 16_000 == pytest.approx(7200, abs=5)
    assert pictures == pytest.approx(1440, abs=2) and middle == 160_000
    assert peak < 300
