"""What an extraction has to do, in shards: films that are read together, written together, and never read again."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .clips import Clip
from .files import short_digest
from .media import Limits

SHARDS = 16  # where there are few films: as many as processes that share them, or more
SHARD_FILMS = 64
SHARD_BYTES = 2**29
"""A shard is what is lost when a process is killed, and what processes share out; a batch never spans two."""


@dataclass(frozen=True)
class Settings:
    """What decides the vectors and the clips.

    Args:
        audio: what makes the audio features, as in a `feature_spec`.
        visual: likewise.
        window: seconds of a clip; None takes each film, or each row of a list, as one.
        hop: seconds from the start of one window to the next.
        limits: of films.
        batch_size: units embedded at a time.
    """

    audio: str
    visual: str
    window: float | None = None
    hop: float | None = None
    limits: Limits = Limits()
    batch_size: int = 64

    def __post_init__(self):
        if self.window is None and self.hop is not None:
            raise ValueError("A hop is between windows: say how long they are, with --window.")
        for name in ("window", "hop"):
            value = getattr(self, name)
            if value is not None and not 0.1 <= value <= 86_400:
                raise ValueError(f"--{name} is in seconds, from 0.1 to 86,400, got {value:g}.")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}.")


@dataclass(frozen=True)
class FilmClips:
    """A film, and its clips as they were listed."""

    path: Path
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Shard:
    """Some films; `key` changes when anything does that decides what comes out of them."""

    number: int
    films: tuple[FilmClips, ...]
    key: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.number:06d}-{self.key}.parquet"


def plan(clips: Sequence[Clip], settings: Settings) -> list[Shard]:
    """The shards of some clips, the same on every machine: labels and splits do not matter to them."""
    films: dict[Path, list[Clip]] = {}
    for clip in clips:
        films.setdefault(clip.path, []).append(clip)
    most = min(SHARD_FILMS, max(1, len(films) // SHARDS))
    shards: list[Shard] = []
    waiting: list[FilmClips] = []
    size = 0
    for path, of_film in films.items():
        bytes_ = _size(path)
        if waiting and (len(waiting) >= most or size + bytes_ > SHARD_BYTES):
            shards.append(_shard(len(shards), waiting, settings))
            waiting, size = [], 0
        waiting.append(FilmClips(path, tuple(of_film)))
        size += bytes_
    return [*shards, _shard(len(shards), waiting, settings)] if waiting else shards


def _shard(number: int, films: Sequence[FilmClips], settings: Settings) -> Shard:
    parts = [json.dumps(asdict(settings), sort_keys=True)]
    for film in films:
        parts += [str(_size(film.path)), str(_time(film.path)), str(os.access(film.path, os.R_OK))]
        parts += [json.dumps([clip.clip_id, clip.name, clip.start, clip.end]) for clip in film.clips]
    return Shard(number, tuple(films), short_digest(part.encode("utf-8", "surrogateescape") for part in parts))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
