"""Writes that are whole or not at all, and short fingerprints."""

import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARKER = "README.md"
"""What a folder of ours holds, what is written into it last, and whose YAML bears the tag of the next line."""

TAG = "dualspace"


def short_digest(parts: Iterable[bytes]) -> str:
    """The first 16 hex digits of the sha256 of byte strings, each with its length, so that none runs into the next.

    Example:
        ```python
        >>> short_digest([b"ab", b"c"]) == short_digest([b"a", b"bc"])
        False

        ```
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def printable(name: str) -> str:
    """A name as it can be printed and stored, whatever bytes a file system put into it."""
    return name.encode("utf-8", "backslashreplace").decode()


@contextmanager
def atomic_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `out` that takes its place once the block has ended well, and else disappears.

    Args:
        out: what the folder will be called. It must not exist yet, or be empty.
        overwrite: put a former folder of ours out of the way, once the new one is whole.
    """
    out = Path(os.path.abspath(out))
    _check_place(out, overwrite)
    made = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    temporary = out.parent / f".tmp-{out.name}-{owner}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir()
        yield temporary
        _check_place(out, overwrite)  # a long time may have passed
        _swap(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # not empty: it was a success, or somebody else's
            for folder in made:
                folder.rmdir()


def _check_place(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file; a folder will be made: choose another name.")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"{out} exists already and is not empty: choose another name, or pass overwrite (--overwrite)."
        )
    if not _is_ours(out):
        raise ValueError(f"{out} is not one of ours to overwrite: no {MARKER} with the tag {TAG}. Choose another name.")


def _is_ours(folder: Path) -> bool:
    """Whether losing it loses nothing that cannot be made again: a checkout has a README.md too."""
    card = folder / MARKER
    if not card.is_file() or (folder / ".git").exists():
        return False
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    return head.startswith("---") and f"- {TAG}" in head.splitlines()


def _swap(temporary: Path, out: Path) -> None:
    """Two renames, and the former folder comes back should the second fail."""
    out = out.resolve()  # through a link: the folder is replaced, not the link
    former = temporary.with_name(temporary.name + "-former")
    if out.exists():
        out.rename(former)
    try:
        temporary.rename(out)
    except BaseException:
        if former.exists():
            former.rename(out)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Removes what a process of this machine left behind that was killed while it wrote `out`."""
    if os.name != "posix":  # elsewhere asking whether a process lives can end it
        return
    host = socket.gethostname()
    for leftover in out.parent.glob(f".tmp-{out.name}-{host}-*"):
        with suppress(ValueError, IndexError):
            process = int(leftover.name.removeprefix(f".tmp-{out.name}-{host}-").split("-")[0])
            if not leftover.name.endswith("-former") and not _is_alive(process):
                shutil.rmtree(leftover, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
