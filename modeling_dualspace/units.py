"""A film's clips as units: the stretches of sound and the frames that become one vector each, in one pass.

Clips may overlap, as windows do: a unit that several clips share is cut out once, and belongs to all of them.
"""

import heapq
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backbones import Backbone, Modality, Steps
from .media import Film, Picture, Sound

Array = np.ndarray
Span = tuple[float, float]
"""Seconds of a film; the second may be infinite: where the film ends."""

FAR_SECONDS = 30.0
"""What lies this far from the next clip is not read but passed over."""


@dataclass(frozen=True)
class Unit:
    """What makes one vector.

    Args:
        modality: `audio` or `visual`.
        clips: the numbers of the clips it belongs to.
        pieces: a list of what `Backbone.prepare` made of its stretch of sound, or of its frames.
    """

    modality: Modality
    clips: tuple[int, ...]
    pieces: list[Any]


def units(film: Film, spans: Sequence[Span], audio: Backbone | None, visual: Backbone | None) -> Iterator[Unit]:
    """The units of some clips of a film, in the order in which they end; prepared.

    Args:
        film: open.
        spans: of the clips, in any order.
        audio: None leaves sound out.
        visual: None leaves pictures out.
    """
    for numbers, start, end in _passages(spans):
        part = [(number, *spans[number]) for number in numbers]
        hearing = None if audio is None else _Hearing(audio, part)
        seeing = None if visual is None else _Seeing(visual, part)
        rate = None if audio is None else int(audio.steps.rate)
        times = None if seeing is None else seeing.times()
        for piece in film.read(rate=rate, times=times, start=start, end=end):
            if isinstance(piece, Sound) and hearing is not None:
                yield from hearing.take(piece)
            elif isinstance(piece, Picture) and seeing is not None:
                yield from seeing.take(piece)
        if hearing is not None:
            yield from hearing.finish()
        if seeing is not None:
            yield from seeing.finish()


def _passages(spans: Sequence[Span]) -> Iterator[tuple[list[int], float, float]]:
    """Clips that are read in one go: their numbers, and from where to where."""
    numbers: list[int] = []
    start = end = 0.0
    for number in sorted(range(len(spans)), key=lambda number: spans[number]):
        first, last = spans[number]
        if numbers and first > end + FAR_SECONDS:
            yield numbers, start, end
            numbers = []
        start, end = (min(start, first), max(end, last)) if numbers else (first, last)
        numbers.append(number)
    if numbers:
        yield numbers, start, end


class Cutter:
    """Cuts a growing row of items into units, of several clips at once.

    Args:
        steps: of the units.
        clips: number, first item and the one after the last of each clip; that may be infinite.
        empty: a row without items: an array, or a list.
    """

    def __init__(self, steps: Steps, clips: Sequence[tuple[int, int, float]], empty: Any):
        self.steps = steps
        self.held, self.base = empty, 0
        self.present: list[tuple[int, int]] = []
        # Units not yet cut: where they end, where they start, whose they are, and where that clip starts and ends.
        self.due: list[tuple[float, int, int, int, float]] = []
        for number, first, last in clips:
            self._expect(number, first, first, last)

    def _expect(self, number: int, start: int, first: int, last: float) -> None:
        """The next unit of a clip, should there be one."""
        end, length = start + self.steps.length, self.steps.length
        if end > last and start > first and last - start < self.steps.least * length:
            return
        if start < last:
            heapq.heappush(self.due, (min(end, last), start, number, first, last))

    def add(self, place: int, items: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Items from a place on, which lies after all before; yields the units that are whole now: whose, and items."""
        while place > self.end:  # nothing is there: pass over it bit by bit, or at once where nobody waits for it
            wanted = int(min(place, self._needed))
            if wanted > self.end:
                self.held, self.base = self.held[:0], wanted
            else:
                gap = min(place - self.end, self.steps.length)
                yield from self._grow(_blank(self.held, gap), present=False)
        yield from self._grow(items[self.end - place :], present=True)

    @property
    def end(self) -> int:
        """The place after the last item."""
        return self.base + len(self.held)

    @property
    def _needed(self) -> float:
        """No unit starts before: the one that ends first is as long as any."""
        return self.due[0][0] - self.steps.length if self.due else math.inf

    def _grow(self, items: Any, *, present: bool) -> Iterator[tuple[tuple[int, ...], Any]]:
        if present and len(items):
            self.present.append((self.end, self.end + len(items)))
        self.held = self.held + items if isinstance(items, list) else np.concatenate([self.held, items])
        yield from self._cut(self.end)
        dropped = int(min(max(0, self._needed - self.base), len(self.held)))
        self.held, self.base = self.held[dropped:], self.base + dropped
        self.present = [span for span in self.present if span[1] > self.base]

    def _cut(self, reached: int) -> Iterator[tuple[tuple[int, ...], Any]]:
        while self.due and self.due[0][0] <= reached:
            end, start = self.due[0][:2]
            clips = []
            while self.due and self.due[0][:2] == (end, start):
                _, _, number, first, last = heapq.heappop(self.due)
                clips.append(number)
                self._expect(number, start + self.steps.hop, first, last)
            if any(first < end and start < last for first, last in self.present):
                items = self.held[max(0, start - self.base) : int(end) - self.base]
                yield tuple(clips), items

    def finish(self) -> Iterator[tuple[tuple[int, ...], Any]]:
        """The track is over: every clip ends here at the latest."""
        due, self.due = self.due, []
        for _, start, number, first, last in due:
            self._expect(number, start, first, min(last, self.end))
        yield from self._cut(self.end)


def _blank(like: Any, count: int) -> Any:
    return [None] * count if isinstance(like, list) else np.zeros(count, like.dtype)


class _Hearing:
    """Units of sound."""

    def __init__(self, backbone: Backbone, clips: Sequence[tuple[int, float, float]]):
        self.backbone, rate = backbone, backbone.steps.rate
        spans = [
            (number, round(start * rate), math.inf if end == math.inf else round(end * rate))
            for number, start, end in clips
        ]
        self.cutter = Cutter(backbone.steps, spans, np.zeros(0, np.float32))

    def take(self, sound: Sound) -> Iterator[Unit]:
        """More of the track."""
        yield from self._made(self.cutter.add(sound.first, sound.samples))

    def finish(self) -> Iterator[Unit]:
        """No more of it."""
        yield from self._made(self.cutter.finish())

    def _made(self, cuts: Iterator[tuple[tuple[int, ...], Any]]) -> Iterator[Unit]:
        for clips, samples in cuts:
            yield Unit("audio", clips, [self.backbone.prepare(samples)])


class _Seeing:
    """Units of frames. Clips whose frames fall on the same moments share them; each such grid has its own cutter."""

    def __init__(self, backbone: Backbone, clips: Sequence[tuple[int, float, float]]):
        self.backbone, self.rate = backbone, backbone.steps.rate
        self.grids: dict[float, list[tuple[int, int, float]]] = {}
        for number, start, end in clips:
            place = round(start * 1000) * self.rate / 1000
            first = math.floor(place + 1e-6)
            # A frame for each moment from the start on and before the end; one at least.
            count = math.inf if end == math.inf else max(1, math.ceil((end - start) * self.rate - 1e-6))
            self.grids.setdefault(abs(round(place - first, 6)), []).append((number, first, first + count))
        self.cutters = {phase: Cutter(backbone.steps, spans, []) for phase, spans in self.grids.items()}
        self.wanted: dict[float, list[tuple[float, int]]] = {}

    def times(self) -> Iterator[float]:
        """Every wanted moment once, ascending."""
        rows = [self._moments(phase, spans) for phase, spans in self.grids.items()]
        for time, group in itertools.groupby(heapq.merge(*rows), key=lambda moment: moment[0]):
            self.wanted[time] = [(phase, place) for _, phase, place in group]
            yield time

    def _moments(self, phase: float, spans: list[tuple[int, int, float]]) -> Iterator[tuple[float, float, int]]:
        place = 0
        for first, last in sorted((first, last) for _, first, last in spans):
            place = max(place, first)
            while place < last:
                yield (place + phase) / self.rate, phase, place
                place += 1

    def take(self, picture: Picture) -> Iterator[Unit]:
        """The next frame."""
        frame = self.backbone.prepare(picture.frame)
        for phase, place in self.wanted.pop(picture.time):
            yield from self._made(self.cutters[phase].add(place, [frame]))

    def finish(self) -> Iterator[Unit]:
        """No more of them."""
        for cutter in self.cutters.values():
            yield from self._made(cutter.finish())

    def _made(self, cuts: Iterator[tuple[tuple[int, ...], Any]]) -> Iterator[Unit]:
        for clips, frames in cuts:
            yield Unit("visual", clips, filled(frames, self.backbone.steps.length))


def nbytes(item: Any) -> int:
    """What prepared pieces take in memory."""
    if isinstance(item, dict):
        return sum(nbytes(value) for value in item.values())
    if isinstance(item, (list, tuple)):
        return sum(nbytes(value) for value in item)
    return int(getattr(item, "nbytes", 0)) or sys.getsizeof(item)


def filled(frames: Sequence[Any], length: int) -> list[Any]:
    """As many frames as make a unit: for those that are missing (None), and after the last, the one before stands in.

    Example:
        ```python
        >>> filled([None, "a", None, "b"], 5)
        ['a', 'a', 'a', 'b', 'b']

        ```
    """
    found = [frame for frame in frames if frame is not None]
    whole, last = [], found[0]
    for frame in itertools.islice(itertools.chain(frames, itertools.repeat(None)), length):
        last = last if frame is None else frame
        whole.append(last)
    return whole
