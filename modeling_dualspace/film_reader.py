"""Films read by several threads at once, and given out in order: what is decoded while the network is at work."""

import math
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .backbones import Backbone
from .clip_folder import windows
from .clips import Clip
from .extraction_plan import FilmClips, Settings
from .media import OF_THE_MACHINE, Film, MediaError
from .units import Unit, nbytes, units

AHEAD_BYTES = 2**26
"""Of prepared units that wait for the network, for each film that is being read."""


@dataclass
class Piece:
    """A clip of a film: a window of the listed clip `of`, or all of it; `problem` is what is wrong with it."""

    clip: Clip
    of: int
    problem: str | None = None


@dataclass
class Reading:
    """A film while it is read: iterate over `units`, then `pieces` are its clips."""

    film: FilmClips
    units: Iterator[Unit]
    pieces: list[Piece]


@contextmanager
def reading(
    films: Sequence[FilmClips],
    audio: Backbone | None,
    visual: Backbone | None,
    settings: Settings,
    workers: int,
    threads: int,
) -> Iterator[Iterator[Reading]]:
    """Yields the films in order, each to be read to its end before the next.

    Args:
        films: to be read.
        audio: what prepares sound; None leaves it out.
        visual: what prepares pictures; None leaves them out.
        settings: windows and limits.
        workers: films read at once.
        threads: of each decoder.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="film")
    try:
        yield _in_order(films, pool, stop, (audio, visual, settings, threads), workers)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    films: Sequence[FilmClips],
    pool: ThreadPoolExecutor,
    stop: threading.Event,
    how: tuple[Backbone | None, Backbone | None, Settings, int],
    workers: int,
) -> Iterator[Reading]:
    waiting: deque[Reading] = deque()
    rest = iter(films)
    while True:
        while len(waiting) < workers + 1 and (film := next(rest, None)) is not None:
            handover = _Handover(stop)
            reading = Reading(film, handover.items(), [])
            pool.submit(_read, reading, handover, *how)
            waiting.append(reading)
        if not waiting:
            return
        yield waiting.popleft()


class _Handover:
    """A queue between two threads that holds no more than so many bytes, and can be given up."""

    def __init__(self, stop: threading.Event):
        self.stop = stop
        self.queue: queue.Queue[Any] = queue.Queue()
        self.room = threading.Condition()
        self.bytes = 0

    def put(self, item: Any) -> None:
        size = nbytes(item.pieces) if isinstance(item, Unit) else 0
        with self.room:
            while self.bytes and self.bytes + size > AHEAD_BYTES and not self.stop.is_set():
                self.room.wait(0.1)
            self.bytes += size
        if self.stop.is_set():
            raise _StoppedError
        self.queue.put((size, item))

    def items(self) -> Iterator[Unit]:
        while True:
            size, item = self.queue.get()
            with self.room:
                self.bytes -= size
                self.room.notify()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


class _StoppedError(Exception):
    """Nobody waits for what is read any more."""


def _read(
    reading: Reading,
    handover: _Handover,
    audio: Backbone | None,
    visual: Backbone | None,
    settings: Settings,
    threads: int,
) -> None:
    """Reads one film, in a thread of its own; whatever is wrong with it is a problem of its clips."""
    listed = [Piece(clip, number) for number, clip in enumerate(reading.film.clips)]
    end: BaseException | None = None
    try:
        with Film(reading.film.path, settings.limits, threads=threads) as film:
            reading.pieces = pieces = list(_pieces(listed, film.seconds, settings))
            good = [piece for piece in pieces if piece.problem is None]
            numbers = [number for number, piece in enumerate(pieces) if piece.problem is None]
            spans = [_span(piece.clip, film.seconds) for piece in good]
            for unit in units(film, spans, audio, visual):
                handover.put(replace(unit, clips=tuple(numbers[clip] for clip in unit.clips)))
            for piece, span in zip(good, spans, strict=True):
                piece.problem = film.missing(span[1])
                piece.clip = replace(piece.clip, start=span[0], end=span[1])
    except _StoppedError:
        return
    except MediaError as error:
        reading.pieces = [replace(piece, problem=error.reason) for piece in listed]
    except OSError as error:
        if error.errno in OF_THE_MACHINE:
            end = error
        reading.pieces = [replace(piece, problem=f"cannot be read: {error.strerror or error}") for piece in listed]
    except Exception as error:
        end = error if isinstance(error, ImportError) else None  # that is no film's fault
        reason = f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        reading.pieces = [replace(piece, problem=reason) for piece in listed]
    except BaseException as error:  # or who waits for this film would wait for ever
        end = error
    handover.queue.put((0, end))


def _span(clip: Clip, seconds: float) -> tuple[float, float]:
    return clip.start or 0.0, seconds if clip.end is None else min(clip.end, seconds)


def _pieces(listed: Sequence[Piece], seconds: float, settings: Settings) -> Iterator[Piece]:
    """The clips of a film whose length is known."""
    for piece in listed:
        start, end = round((piece.clip.start or 0.0) * 1000), math.floor(seconds * 1000 + 1e-6)  # as `windows` counts
        if start >= end:
            yield replace(piece, problem=f"starts at {start / 1000:g} s, and its film lasts {seconds:g} s")
        elif settings.window is None:
            yield piece
        else:
            hop = settings.window if settings.hop is None else settings.hop
            yield from (Piece(clip, piece.of) for clip in windows(piece.clip, seconds, settings.window, hop))
