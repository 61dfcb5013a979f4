"""Films: one pass over a file gives its sound, mono at a wanted rate, and its frames at wanted times.

Nothing is kept but what the decoder holds: a film may be of any length. Seconds count from where the file begins, and a
picture is the one on display at a moment, so a variable frame rate needs no care. Decoding is PyAV's (FFmpeg's).
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .optional import require

Array = np.ndarray

FORMATS = (
    "aac,ac3,aiff,amr,asf,asf_o,au,avi,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,m4v,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,w64,wav,yuv4mpegpipe"
)
"""What may be opened. Playlists are not among them: they name other files and addresses, and those would be opened."""

BLOCK_SECONDS = 0.5
GAP_SECONDS = 0.1
"""Sound that is this far from where it should follow is put where its time says."""
SEEK_SECONDS = 10.0
"""What lies further on is sought; before it, reading on is as fast."""
DAMAGED_SHARE = 0.05
GUESSED = {"aac", "ac3", "amr", "dv", "eac3", "flv", "h264", "hevc", "ivf", "m4v", "mp3", "mpeg", "mpegvideo", "rm"}
"""Formats whose length FFmpeg guesses from how many bytes a second take."""
EXACT = {"asf", "avi", "flac", "matroska", "mov", "wav"}
"""Formats that say how long they are: what ends before is cut off."""


@dataclass(frozen=True)
class Limits:
    """What is refused, so that a stranger's file cannot occupy a server; None is no limit.

    Args:
        seconds: that a film may last.
        bytes: of the file.
        pixels: of a frame. The default is a little more than 8K; such a frame takes 100 MB.
    """

    seconds: float | None = None
    bytes: int | None = None
    pixels: int | None = 36_000_000


class MediaError(ValueError):
    """What is wrong with a file, in one sentence; `reason` is the same without the file's name."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{str(path).encode('utf-8', 'backslashreplace').decode()!r} {reason}.")
        self.reason = reason


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


class Film:
    """An open file. A context manager; `audio` and `visual` are None where there is no such track.

    Args:
        path: of the file.
        limits: what is refused.
        threads: of the decoder of pictures; 0 takes one a core.

    Example:
        ```python
        with Film("dog.mp4") as film:
            for piece in film.read(rate=16_000, times=[0, 1, 2]):
                print(piece)
        ```
    """

    def __init__(self, path: str | Path, limits: Limits | None = None, *, threads: int = 0):
        self.path, self.limits, self.threads = Path(path), limits or Limits(), threads
        self._av = require("av", extra="media")
        self._check_file()
        self._container = self._open()
        try:
            self.audio, self.visual = self._track("audio"), self._track("video")
            if self.audio is None and self.visual is None:
                raise self._error("holds neither sound nor a picture")
            self._check_pixels()
            self.seconds = self._length()
            if self.limits.seconds is not None and self.seconds > self.limits.seconds:
                raise self._error(f"lasts {self.seconds:.1f} s, and the limit is {self.limits.seconds:g} s")
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *reason: object) -> None:
        self._container.close()

    def _error(self, reason: str) -> MediaError:
        return MediaError(self.path, reason)

    def _check_file(self) -> None:
        try:
            size = os.stat(self.path).st_size
        except (OSError, ValueError) as error:
            raise self._error(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not self.path.is_file():
            raise self._error("is no file")
        if not size:
            raise self._error("is empty")
        if self.limits.bytes is not None and size > self.limits.bytes:
            raise self._error(f"has {size:,} bytes, and the limit is {self.limits.bytes:,}")

    def _open(self) -> Any:
        # `file:`, or what stands before a colon in a name would be taken for a protocol.
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        try:
            return self._av.open(f"file:{self.path}", options=options, metadata_errors="replace")
        except PermissionError:
            raise self._error("cannot be read: Permission denied") from None
        except (OSError, ValueError) as error:
            raise self._error(f"is no film that can be read ({_why(error)})") from None

    def _track(self, kind: str) -> Track | None:
        attached = self._av.stream.Disposition.attached_pic  # the cover of a record is no film
        streams = [one for one in getattr(self._container.streams, kind) if not one.disposition & attached]
        best = self._container.streams.best(kind)
        stream = best if best in streams else next(iter(streams), None)
        if stream is None or stream.codec_context is None:
            return None
        context = stream.codec_context
        if kind == "audio" and not (context.sample_rate and context.channels):
            return None
        seconds = None if stream.duration is None else float(stream.duration * stream.time_base)
        return Track(stream, context.name, seconds)

    def _check_pixels(self) -> None:
        if self.visual is None:
            return
        context, limit = self.visual.stream.codec_context, self.limits.pixels
        size = context.width * context.height
        if limit is not None and size > limit:
            raise self._error(
                f"has frames of {context.width} x {context.height} pixels, and the limit is {limit:,} in all"
            )
        context.thread_type = "AUTO"
        context.thread_count = self.threads
        if limit is not None:  # later frames may be larger
            context.options = {"max_pixels": str(limit)}

    def _length(self) -> float:
        """Seconds as the file says; where it does not, all packets are looked at."""
        guessed = self._format in GUESSED
        if self._container.duration and not guessed:
            return self._container.duration / 1_000_000
        told = [track.seconds for track in self._tracks if track.seconds]
        if told and not guessed:
            return max(told)
        last = elapsed = 0.0
        streams = [track.stream for track in self._tracks]
        try:
            for packet in self._container.demux(streams):
                lasts = float((packet.duration or 0) * packet.time_base)
                elapsed += lasts
                if packet.pts is not None:
                    last = max(last, float(packet.pts * packet.time_base) + lasts - self._zero)
        except (OSError, ValueError):  # whatever is readable has been
            pass
        self._reopen()
        return last or elapsed

    def _reopen(self) -> None:
        self._container.close()
        self._container = self._open()
        for kind, track in (("audio", self.audio), ("video", self.visual)):
            found = None if track is None else self._track(kind)
            if track is not None and found is not None:
                track.stream = found.stream
        self._check_pixels()

    @property
    def _tracks(self) -> list[Track]:
        return [track for track in (self.audio, self.visual) if track is not None]

    @property
    def _format(self) -> str:
        return self._container.format.name.split(",")[0]

    def missing(self, until: float | None = None) -> str | None:
        """What is wrong where a film that was read ended before it should, at `until`, or where its header says.

        A second or a fiftieth may be missing: tracks do not end together, and headers round. A track that gave all that
        was asked of it is whole. Where tracks do not say how long they are, the one that reaches further counts.
        """
        for track in self._tracks if self._format in EXACT else ():
            if not (track.packets and track.ended):
                continue
            told = self.seconds if track.seconds is None else min(track.seconds, self.seconds)
            end = told if until is None else min(until, told)
            reached = track.reached if track.seconds is not None else max(one.reached for one in self._tracks)
            if reached < end - max(1.0, 0.02 * end):
                return f"is cut off: it ends after {reached:.1f} s, and says it lasts {told:.1f} s"
        return None

    def check_whole(self) -> None:
        """Raises where `missing` says so."""
        if (reason := self.missing()) is not None:
            raise self._error(reason)

    @property
    def _zero(self) -> float:
        """Where the file begins, on the clock of its tracks."""
        return (self._container.start_time or 0) / 1_000_000

    def read(
        self,
        *,
        rate: int | None = None,
        times: Iterable[float] | None = None,
        start: float = 0.0,
        end: float = math.inf,
    ) -> Iterator[Sound | Picture]:
        """Sound and pictures from `start` to `end`, each in order, as they come.

        Sound comes in blocks that follow each other; where a track starts late or is torn, the next block is where
        its time says. A picture that nobody shows (before the first frame, after the last) is left out.

        Args:
            rate: samples a second; None leaves sound out.
            times: ascending, in seconds of the film, endless or not; None leaves pictures out.
            start: in seconds of the film.
            end: likewise.

        Raises:
            MediaError: where nothing can be read on, or more than a twentieth of a track is damaged. A file that merely
                ends too soon is no error here: see `Track.reached`.
        """
        readers: dict[int, _SoundReader | _PictureReader] = {}
        if rate is not None and self.audio is not None:
            readers[self.audio.stream.index] = _SoundReader(self._av, self.audio, rate, self._zero, start, end)
        if times is not None and self.visual is not None:
            readers[self.visual.stream.index] = _PictureReader(self.visual, times, self._zero, end)
        if not readers:
            return
        streams = [reader.track.stream for reader in readers.values()]
        # Where no track says how long it is, the other one shows how far the file goes.
        others = {track.stream.index: track for track in self._tracks if track.seconds is None}
        streams += [track.stream for index, track in others.items() if index not in readers]
        for packet in self._packets(streams, start):
            if (reader := readers.get(packet.stream.index)) is None:
                others[packet.stream.index].pass_over(packet, self._zero)
                continue
            if reader.done:
                if all(other.done for other in readers.values()):
                    break
                continue
            reader.track.packets += packet.size > 0
            try:
                frames = packet.decode()
            except MemoryError:
                raise self._error("needs more memory to be decoded than there is") from None
            except (OSError, ValueError):  # a player would go on as well
                reader.track.damaged += 1
                continue
            for frame in frames:
                yield from reader.take(frame)
                self._check_reached(reader.track)
        for reader in readers.values():
            if not reader.done:
                yield from reader.finish()
                reader.track.ended = not reader.done
            self._check_damage(reader.track)

    def _packets(self, streams: list[Any], start: float) -> Iterator[Any]:
        """Packets from a little before `start`, or from the beginning where the file cannot be sought."""
        if start > SEEK_SECONDS:
            try:
                self._container.seek(int((start - 1 + self._zero) * 1_000_000), backward=True)
                packets = self._demux(streams)
                first = next(packets, None)
                if first is not None and first.pts is not None:
                    if float(first.pts * first.time_base) - self._zero <= start:
                        yield first
                        yield from packets
                        return
            except (OSError, ValueError):
                pass
            streams = [stream.index for stream in streams]
            self._reopen()
            streams = [self._container.streams[index] for index in streams]
        yield from self._demux(streams)

    def _demux(self, streams: list[Any]) -> Iterator[Any]:
        packets = self._container.demux(streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (OSError, ValueError):  # nothing more can be had; how far it went is known
                return
            yield packet

    def _check_reached(self, track: Track) -> None:
        if self.limits.seconds is not None and track.reached > self.limits.seconds + 1:
            raise self._error(f"lasts longer than it says, and the limit is {self.limits.seconds:g} s")

    def _check_damage(self, track: Track) -> None:
        if track.damaged > max(1, DAMAGED_SHARE * track.packets):
            raise self._error(f"is damaged: {track.damaged} of {track.packets} packets of {track.codec} cannot be read")


def _why(error: Exception) -> str:
    """FFmpeg's own words for an error."""
    return str(getattr(error, "strerror", None) or error).rstrip(".").lower()


class _SoundReader:
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
        time = self.expected if frame.pts is None else float(frame.pts * frame.time_base) - self.zero
        time = 0.0 if time is None else time
        if self.expected is None or abs(time - self.expected) > GAP_SECONDS:
            yield from self._drain()
            yield from self._flush()
            if self.position is None or time > (self.expected or 0):
                self.position = round(time * self.rate)
            else:  # what was heard is not heard again
                self.skip = round(((self.expected or 0) - time) * self.rate)
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

    def finish(self) -> Iterator[Sound]:
        yield from self._drain()
        yield from self._flush()


class _PictureReader:
    """Of the frames of a track those on display at wanted times."""

    def __init__(self, track: Track, times: Iterable[float], zero: float, end: float):
        self.track, self.times, self.zero, self.end = track, iter(times), zero, end
        rate = track.stream.average_rate or track.stream.guessed_rate or 25
        self.duration = float(1 / Fraction(rate))
        self.shown: Any = None
        self.done = False
        self._next()

    def _next(self) -> None:
        self.wanted = next(self.times, math.inf)
        self.done = self.wanted >= self.end or self.wanted == math.inf

    def take(self, frame: Any) -> Iterator[Picture]:
        time = self.track.reached if frame.pts is None else float(frame.pts * frame.time_base) - self.zero
        lasts = float(frame.duration * frame.time_base) if frame.duration else self.duration
        self.track.reached = max(self.track.reached, time + lasts)
        if self.shown is None:  # what comes a little late is taken for the beginning
            while not self.done and self.wanted < time - 0.5:
                self._next()
            if not self.done and self.wanted < time:
                yield from self._show(frame)
        while not self.done and self.wanted < time - 1e-6:
            yield from self._show(self.shown or frame)
        self.shown = frame

    def _show(self, frame: Any) -> Iterator[Picture]:
        yield Picture(self.wanted, _upright(frame))
        self._next()

    def finish(self) -> Iterator[Picture]:
        """The last frame is on display for as long as it lasts."""
        while self.shown is not None and not self.done and self.wanted < self.track.reached - 1e-6:
            yield from self._show(self.shown)


def _upright(frame: Any) -> Array:
    """RGB as it is to be seen: a telephone writes how it was held beside the picture."""
    picture = frame.to_ndarray(format="rgb24")
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
            if abs(b) + abs(c) > abs(a) + abs(d):
                picture, a, d = picture.swapaxes(0, 1), c, b
            picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(picture)
