"""A clip of one's own, and what both ways of listing clips say about them."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .files import printable
from .splits import SPLITS

SPLIT_NAMES = {name: name for name in SPLITS} | {"val": "validation"}
NOT_UTF8 = re.compile("[\ud800-\udfff]")  # what Python puts where a file's name, or JSON, held no character


@dataclass(frozen=True)
class Clip:
    """One film or one piece of it."""

    clip_id: str  # the film's path relative to the folder; a piece adds a media fragment: dog/rex.mp4#t=10,20
    path: Path  # where to read it
    film: str  # what must not be torn apart over splits; by default the film's relative path
    split: str
    label: str | None = None  # None where nobody annotated
    labels: tuple[str, ...] | None = None  # where a list has the column `labels`
    start: float | None = None  # seconds of the film
    end: float | None = None  # None is where the film ends

    name: str = field(default="", compare=False)  # the film's path relative to the folder or the list

    @property
    def classes(self) -> tuple[str, ...]:
        """The class or the classes; empty where nobody annotated."""
        return self.labels or (() if self.label is None else (self.label,))


@dataclass(frozen=True)
class Entry:
    """A clip whose split may still be empty, its film's relative path, and where a complaint should point."""

    clip: Clip
    name: str
    where: str


def fragment(start: float | None, end: float | None) -> str:
    """`#t=10,20`, a media fragment as the W3C has it; nothing for the whole film."""
    ends = ["" if second is None else f"{second:.3f}".rstrip("0").rstrip(".") for second in (start, end)]
    return "#t=" + ",".join(ends).rstrip(",") if any(ends) else ""


def is_inside(path: str, folder: str) -> bool:
    """Whether an absolute path lies in a folder, or is it."""
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def check_agreement(
    entries: list[Entry], rule: str, key: Callable[[Entry], str], value: Callable[[Entry], object]
) -> None:
    """Entries of one key must have one value."""
    first: dict[str, Entry] = {}
    for entry in entries:
        other = first.setdefault(key(entry), entry)
        if value(other) != value(entry):
            raise ValueError(f"{rule.format(key(entry))}: compare {other.where} and {entry.where}.")


def note(what: str, names: Iterable[str]) -> list[str]:
    """One sentence with how many there are and the first of them; none where there are none."""
    names = sorted(names)
    return [f"{what}: {len(names)} ({some(names)})."] if names else []


def some(names: list[str]) -> str:
    """The first few names."""
    return printable(", ".join(names[:5])) + (", …" if len(names) > 5 else "")


def nfc(text: str) -> str:
    """With accents composed, so that one name has one form."""
    return unicodedata.normalize("NFC", text)
