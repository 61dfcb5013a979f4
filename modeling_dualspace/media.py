"""Films: one pass over a file gives its sound, mono at a wanted rate, and its frames at wanted times.

Nothing is kept but what the decoder holds: a film may be of any length. Seconds count from where the file begins, and a
picture is the one on display at a moment, so a variable frame rate needs no care. Decoding is PyAV's (FFmpeg's).
"""

import errno
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .media_tracks import Picture, PictureReader, Sound, SoundReader, Track, UnreadableError
from .optional import require

FORMATS = (
    "aac,ac3,aiff,amr,asf,asf_o,au,avi,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,m4v,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,w64,wav,yuv4mpegpipe"
)
"""What may be opened. Playlists are not among them: they name other files and addresses, and those would be opened."""

SEEK_SECONDS = 10.0
"""What lies further on is sought; before it, reading on is as fast."""
BEFORE_SECONDS = (1.0, 10.0, 60.0)
"""How far before the wanted place it is tried to seek to, until every track has a key frame there."""
MOST_THREADS = 16
"""Of a decoder: each holds frames of its own."""
LOWEST_RATE = 1_000
"""Samples a second: less is no sound, and would be blown up thousandfold."""
OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE}
"""What is no film's fault. (FFmpeg says EIO of files that are cut off, too.)"""
UNSOUGHT = {"ac3", "eac3", "h264", "hevc", "m4v", "mpeg", "mpegvideo"}
"""Formats without an index, whose packets do not say where they belong."""
DAMAGED_SHARE = 0.05
GUESSED = {"aac", "ac3", "amr", "dv", "eac3", "flv", "h264", "hevc", "ivf", "m4v", "mp3", "mpeg", "mpegvideo", "rm"}
"""Formats whose length FFmpeg guesses from how many bytes a second take."""
EXACT = {"asf", "avi", "flac", "matroska", "mov", "wav"}
"""Formats that say how long they are: what ends before is cut off."""


@dataclass(frozen=True)
class Limits:
    """What is refused, so that a stranger's file cannot occupy a server; None is no limit.

    Args:
        seconds: that a film may last: a day, unless said otherwise.
        bytes: of the file.
        pixels: of a frame. The default is a little more than 8K; such a frame takes 100 MB.
    """

    seconds: float | None = 86_400
    bytes: int | None = None
    pixels: int | None = 36_000_000

    def __post_init__(self):
        for name in ("seconds", "bytes", "pixels"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"A limit of {name} is a positive number, got {value}: leave it out for none.")


class MediaError(ValueError):
    """What is wrong with a file, in one sentence; `reason` is the same without the file's name."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{str(path).encode('utf-8', 'backslashreplace').decode()!r} {reason}.")
        self.reason = reason


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
        self._begun = self._sought = False
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
            if getattr(error, "errno", None) in OF_THE_MACHINE:
                raise
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
        if self.limits.pixels is not None:  # what looks into the file decodes pictures, too
            options["max_pixels"] = _with_margin(self.limits.pixels)
        try:
            return self._av.open(f"file:{self.path}", options=options, metadata_errors="replace")
        except PermissionError:
            raise self._error("cannot be read: Permission denied") from None
        except Exception as error:  # PyAV's are of many kinds: EOFError, LookupError, NotImplementedError ...
            if getattr(error, "errno", None) in OF_THE_MACHINE:
                raise
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
        if kind == "audio" and context.sample_rate < LOWEST_RATE:
            raise self._error(f"has sound of {context.sample_rate} samples a second, and the least is {LOWEST_RATE:,}")
        seconds = None if stream.duration is None else float(stream.duration * stream.time_base)
        return Track(stream, context.name, seconds)

    def _check_pixels(self) -> None:
        if self.visual is None:
            return
        context, limit = self.visual.stream.codec_context, self.limits.pixels
        size = context.width * context.height
        if limit is not None and not size:  # FFmpeg has not looked at what is larger
            raise self._error(f"has frames of no size, or larger than the limit of {limit:,} pixels in all")
        if limit is not None and size > limit:
            raise self._error(
                f"has frames of {context.width} x {context.height} pixels, and the limit is {limit:,} in all"
            )
        context.thread_type = "AUTO"
        context.thread_count = min(self.threads, MOST_THREADS)
        if limit is not None:  # later frames may be larger
            context.options = {"max_pixels": _with_margin(limit)}

    def _length(self) -> float:
        """Seconds as the file says; where it does not, all packets are looked at."""
        guessed = self._format in GUESSED
        if self._container.duration and not guessed:
            late = (
                max(self._zero, 0.0) if self._format == "matroska" else 0.0
            )  # it says when it ends, not how long it is
            return max(self._container.duration / 1_000_000 - late, 0.0)
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
        except Exception:  # whatever is readable has been
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
        its time says. A picture that nobody shows (half a second before the first frame, after the last) is left out.
        Reading again begins anew.

        Args:
            rate: samples a second; None leaves sound out.
            times: ascending, in seconds of the film, endless or not; None leaves pictures out.
            start: in seconds of the film.
            end: likewise.

        Raises:
            MediaError: where nothing can be read on, or more than a twentieth of a track is damaged. A file that merely
                ends too soon is no error here: see `Track.reached`.
        """
        if self._begun:
            self._reopen()
        self._begun = True
        readers: dict[int, SoundReader | PictureReader] = {}
        if rate is not None and self.audio is not None:
            readers[self.audio.stream.index] = SoundReader(self._av, self.audio, rate, self._zero, start, end)
        if times is not None and self.visual is not None:
            reader = PictureReader(self.visual, times, self._zero, start, end, self.limits.pixels)
            readers[self.visual.stream.index] = reader
        if readers:
            yield from self._read(readers, start)

    def _read(self, readers: dict[int, SoundReader | PictureReader], start: float) -> Iterator[Sound | Picture]:
        """What the readers make of the packets from a place on."""
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
            for frame in self._frames(packet, reader.track):
                yield from self._checked(reader.take(frame), reader.track)
            frame = None
        for reader in readers.values():
            if not reader.done:
                yield from self._checked(reader.finish(), reader.track)
                reader.track.ended = not reader.done
            reader.let_go()
            self._check_damage(reader.track)

    def _frames(self, packet: Any, track: Track) -> list[Any]:
        """What is decoded of a packet; nothing where it is damaged, as a player would go on."""
        track.packets += packet.size > 0
        try:
            return packet.decode()
        except MemoryError:
            raise self._error("needs more memory to be decoded than there is") from None
        except Exception:
            # What was sought may begin in the middle of something.
            track.damaged += bool(packet.size) and not (self._sought and not track.reached)
            return []

    def _checked(self, pieces: Iterator[Any], track: Track) -> Iterator[Any]:
        """The same; what goes wrong is an error of this file, and so is too long a film."""
        while True:
            try:
                piece = next(pieces, None)
            except UnreadableError as error:
                raise self._error(str(error)) from None
            except MemoryError:
                raise self._error("needs more memory to be decoded than there is") from None
            except Exception as error:
                raise self._error(f"holds {track.codec} that cannot be converted ({_why(error)})") from None
            self._check_reached(track)
            if piece is None:
                return
            yield piece

    def _packets(self, streams: list[Any], start: float) -> Iterator[Any]:
        """Packets from a little before `start`, or from the beginning where the file cannot be sought."""
        self._sought = False
        if start > SEEK_SECONDS and self._format not in UNSOUGHT:
            for before in BEFORE_SECONDS:
                if (held := self._sought_packets(streams, max(start - before, 0.0), start)) is not None:
                    self._sought = True
                    yield from itertools.chain(held, self._demux(streams))
                    return
            numbers = [stream.index for stream in streams]
            self._reopen()
            streams = [self._container.streams[number] for number in numbers]
        yield from self._demux(streams)

    def _sought_packets(self, streams: list[Any], place: float, start: float) -> list[Any] | None:
        """The first packets from a place on; None unless each track begins with a key frame before `start`."""
        held: list[Any] = []
        missing = {stream.index for stream in streams}
        try:
            self._container.seek(int((place + self._zero) * 1_000_000), backward=True)
        except Exception:
            return None
        for packet in itertools.islice(self._demux(streams), 2000):
            held.append(packet)
            if packet.stream.index in missing:
                if packet.pts is None or not packet.is_keyframe:
                    return None
                if float(packet.pts * packet.time_base) - self._zero > start:
                    return None
                missing.remove(packet.stream.index)
            if not missing:
                return held
        return None

    def _demux(self, streams: list[Any]) -> Iterator[Any]:
        packets = self._container.demux(streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception:  # nothing more can be had; how far it went is known
                return
            yield packet

    def _check_reached(self, track: Track) -> None:
        if self.limits.seconds is not None and track.reached > self.limits.seconds + 1:
            raise self._error(f"lasts longer than it says, and the limit is {self.limits.seconds:g} s")

    def _check_damage(self, track: Track) -> None:
        if track.damaged > (max(1, DAMAGED_SHARE * track.packets) if track.reached else 0):
            raise self._error(f"is damaged: {track.damaged} of {track.packets} packets of {track.codec} cannot be read")


def _with_margin(pixels: int) -> str:
    """FFmpeg counts what it allocates, in whole blocks and lines; the frame itself is counted by us."""
    return str(2 * pixels + 2**20)


def _why(error: Exception) -> str:
    """FFmpeg's own words for an error."""
    return str(getattr(error, "strerror", None) or error).rstrip(".").lower()
