"""The tracks of a film while it is read: sound as samples at a wanted rate, pictures at wanted times."""

import gc
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray

BLOCK_SECONDS = 0.5
GAP_SECONDS = 0.1
"""Sound that is this far from where it should follow is put where its time says."""
HOLD_SECONDS = 60.0
"""A frame is on display for no longer: what claims to be a picture of months is a hole, or somebody's trap."""
EARLY_SECONDS = 0.5
"""What begins so late is taken for the beginning: its first picture is shown for the moments before it, too."""


class UnreadableError(Exception):
    """What is wrong with a track."""


@dataclass(frozen=True)
class Sound:
    """Samples `(n,)`, float32 within -1 and 1; `first` is the number of the first among all of the film."""

    first: int
    samples: Array


@dataclass(frozen=True)
class Picture:
    """The frame on display at `time`, `(height, width, 3)` uint8, RGB, upright."""

    time: float
    frame: Array


@dataclass
class Track:
    """One track as the file describes it, and how far it was read; `ended` says that there was no more to read."""

    stream: Any
    codec: str
    seconds: float | None
    reached: float = 0.0
    ended: bool = False
    packets: int = 0
    damaged: int = 0

    def pass_over(self, packet: Any, zero: float) -> None:
        """Takes down how far a packet reaches that nobody decodes."""
        if packet.pts is not None:
            self.reached = max(self.reached, float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero)


class SoundReader:
    """Frames of sound as samples at another rate, each where its time says."""

    def __init__(self, av: Any, track: Track, rate: int, zero: float, start: float, end: float):
        self.av, self.track, self.rate, self.zero = av, track, rate, zero
        self.first, self.last = round(start * rate), math.inf if end == math.inf else round(end * rate)
        self.position: int | None = None  # of the next sample that comes out of the resampler
        self.expected: float | None = None  # when the next frame should begin
        self.skip = 0
        self.waiting: list[Array] = []
        self.waiting_from = 0
        self.count = 0
        self.done = False
        self._renew()

    def _renew(self) -> None:
        # By way of whole numbers: FFmpeg then mixes channels so that nothing exceeds 1.
        self.resampler = self.av.AudioResampler(format="s32", layout="mono", rate=self.rate)

    def take(self, frame: Any) -> Iterator[Sound]:
        """What is whole with the next frame."""
        time = self.expected if frame.pts is None else float(frame.pts * frame.time_base) - self.zero
        time = 0.0 if time is None else time
        if self.expected is None or abs(time - self.expected) > GAP_SECONDS:
            yield from self._drain()
            yield from self._flush()
            place = round(time * self.rate)
            self.position = place if self.position is None else max(place, self.position)
            self.skip = self.position - place  # what was heard is not heard again
            self.expected = time
        self.expected += frame.samples / frame.sample_rate
        self.track.reached = max(self.track.reached, self.expected)
        try:
            pieces = self.resampler.resample(frame)
        except ValueError:  # another format from here on
            yield from self._drain()
            pieces = self.resampler.resample(frame)
        yield from self._put(pieces)

    def _drain(self) -> Iterator[Sound]:
        """What the resampler still holds; then a new one."""
        if self.position is not None:
            yield from self._put(self.resampler.resample(None))
        self._renew()

    def _put(self, pieces: list[Any]) -> Iterator[Sound]:
        for piece in pieces:
            samples = piece.to_ndarray().reshape(-1).astype(np.float32) / np.float32(2**31)
            dropped = min(self.skip, len(samples))
            self.skip -= dropped
            samples, place = samples[dropped:], self.position or 0
            self.position = place + len(samples)
            lead = max(0, self.first - place)
            samples, place = samples[lead:], place + lead
            if place + len(samples) >= self.last:
                samples, self.done = samples[: max(0, int(self.last) - place)], True
            if len(samples):
                self.waiting_from = place if not self.waiting else self.waiting_from
                self.waiting.append(samples)
                self.count += len(samples)
            if self.done or self.count >= BLOCK_SECONDS * self.rate:
                yield from self._flush()
            if self.done:
                return

    def _flush(self) -> Iterator[Sound]:
        if self.waiting:
            yield Sound(self.waiting_from, np.concatenate(self.waiting))
        self.waiting, self.count = [], 0

    def let_go(self) -> None:
        """Nothing is held."""

    def finish(self) -> Iterator[Sound]:
        """What is left at the end of the track."""
        yield from self._drain()
        yield from self._flush()


class PictureReader:
    """Of the frames of a track those on display at wanted times."""

    def __init__(self, track: Track, times: Iterable[float], zero: float, start: float, end: float, pixels: int | None):
        self.track, self.times, self.zero, self.start, self.end = track, iter(times), zero, start, end
        self.pixels = pixels
        rate = track.stream.average_rate or track.stream.guessed_rate or 25
        self.duration = float(1 / Fraction(rate))
        self.shown: Any = None
        self.rotation: float | None = None
        self.matrix: tuple[int, ...] | None = None
        self.since = 0.0
        self.before = track.reached
        self.latest = self.over = 0.0  # when the last picture begins, and when it ends
        self.held = False  # whether the frame on display is one whose side data were read
        self.done = False
        self._next()

    def _next(self) -> None:
        self.wanted = next((time for time in self.times if time >= self.start), math.inf)
        self.done = self.wanted >= self.end or self.wanted == math.inf

    def take(self, frame: Any) -> Iterator[Picture]:
        """What was on display until the next frame."""
        if self.pixels is not None and frame.width * frame.height > self.pixels:
            size = f"{frame.width} x {frame.height}"
            raise UnreadableError(f"has frames of {size} pixels, and the limit is {self.pixels:,} in all")
        release, self.held = self.held, False
        if frame.rotation != self.rotation:  # seldom, see `let_go`
            self.rotation, self.matrix, self.held = frame.rotation, display_matrix(frame), True
        time = self.over if frame.pts is None else float(frame.pts * frame.time_base) - self.zero
        lasts = float(frame.duration * frame.time_base) if frame.duration else self.duration
        self.latest = max(self.latest, time)
        self.over = max(self.latest, time + lasts)
        self.track.reached = max(self.before, self.over)
        if self.shown is None:  # what comes a little late is taken for the beginning
            while not self.done and self.wanted < time - EARLY_SECONDS:
                self._next()
            if not self.done and self.wanted < time:
                yield from self._show(frame)
        while not self.done and self.wanted < time - 1e-6:
            if self.wanted < self.since + HOLD_SECONDS:
                yield from self._show(self.shown or frame)
            else:
                self._next()
        self.shown, self.since = frame, time
        if release:
            gc.collect(1)

    def _show(self, frame: Any) -> Iterator[Picture]:
        yield Picture(self.wanted, _upright(frame, self.matrix))
        self._next()

    def finish(self) -> Iterator[Picture]:
        """The last frame is on display for as long as it lasts."""
        over = min(self.over, self.since + HOLD_SECONDS)
        while self.shown is not None and not self.done and self.wanted < over - 1e-6:
            yield from self._show(self.shown)

    def let_go(self) -> None:
        """Frees the frame whose side data were read: the two hold each other, and with them the decoder's buffers."""
        self.shown = None
        if self.held:
            gc.collect(1)


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """How a frame is to be turned, a b . c d of x' = a x + c y, y' = b x + d y; None where nothing is said of it.

    A telephone writes how it was held beside the picture.
    """
    try:
        beside = list(frame.side_data)
    except ValueError:  # PyAV does not know every kind: the angle is all that can be had then
        turns = round(frame.rotation / 90) % 4
        return ((1, 0, 0, 0, 1), (0, -1, 0, 1, 0), (-1, 0, 0, 0, -1), (0, 1, 0, -1, 0))[turns]
    found = [bytes(data) for data in beside if data.type.name == "DISPLAYMATRIX"]
    return tuple(np.frombuffer(found[0], np.int32)[:5].tolist()) if found else None


def _upright(frame: Any, matrix: tuple[int, ...] | None) -> Array:
    """RGB as it is to be seen."""
    try:
        picture = frame.to_ndarray(format="rgb24")
    except OSError:  # a space of colours that swscale does not know: as if nothing had been said about it
        frame.colorspace = 2
        picture = frame.to_ndarray(format="rgb24")
    if matrix is not None:
        a, b, _, c, d = matrix
        if abs(b) + abs(c) > abs(a) + abs(d):
            picture, a, d = picture.swapaxes(0, 1), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(picture)
