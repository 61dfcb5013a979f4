"""A repository before it is one: all its files in a folder, made by its kind, the same bytes every time."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from huggingface_hub.utils.sha import git_hash

from .files import CARD, short_digest
from .release_plan import Item

CHUNK = 1 << 20


@dataclass(frozen=True)
class FileFacts:
    """How a file is known.

    Args:
        size: in bytes.
        sha256: what large files are called by.
        git: what others are.
    """

    size: int
    sha256: str
    git: str


@dataclass
class Staged:
    """One repository, complete, in a folder.

    Args:
        kind: its name.
        repo_id: where it goes.
        repo_type: `model`, `dataset` or `space`.
        folder: where all its files are.
        private: whether nobody else shall see it.
        source: what a person named.
        synthetic: whether it comes of made-up features.
        notes: what its owner should know, one sentence each.
        fingerprints: of what it holds: data sets, a model.
        places: where data sets are that it was measured on, by fingerprint.
    """

    kind: str
    repo_id: str
    repo_type: str
    folder: Path
    private: bool = False
    source: str = ""
    synthetic: bool = False
    notes: list[str] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    @property
    def card(self) -> str:
        """The text of its card."""
        return (self.folder / CARD).read_text(encoding="utf-8")

    @cached_property
    def files(self) -> dict[str, FileFacts]:
        """By name, in order."""
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        return {name: _facts(found[name]) for name in sorted(found)}

    def seal(self) -> None:
        """All files are there, and what is asked of them from now on is of those."""
        self.__dict__.pop("files", None)

    @property
    def digest(self) -> str:
        """Of names and content of all files: another release has another."""
        return short_digest(f"{name} {facts.sha256}".encode() for name, facts in self.files.items())


@dataclass(frozen=True)
class Kind:
    """A kind of thing that can be released.

    Args:
        name: as a person says it.
        repo_type: what the Hub keeps it as.
        recognises: whether a folder is one.
        stage: fills `staged.folder`, which is empty, and says the rest in `staged`; it may look at what was staged
            before it.
        looks: how a person tells one.
        order: in which they are made: what a card names comes before it.
        takes: which of `license`, `data`, `card` and `carbon` can be said of it.
        refuses: why the others cannot.
        needs_path: whether there must be something on disk.
    """

    name: str
    repo_type: str
    recognises: Callable[[Path], bool]
    stage: Callable[[Item, Staged, Sequence[Staged]], None]
    looks: str
    order: int = 0
    takes: tuple[str, ...] = ()
    refuses: str = ""
    needs_path: bool = True


def place(source: Path, target: Path) -> None:
    """The file under another name, without a copy where that can be."""
    if target.exists():
        raise ValueError(f"{source} and another file would both be called {target.name}: rename one of them.")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """A text, the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _facts(path: Path) -> FileFacts:
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    # Git's name of a large file is never asked for.
    return FileFacts(size, digest.hexdigest(), git_hash(path.read_bytes()) if size <= 10 * CHUNK else "")
