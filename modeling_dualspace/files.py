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
"""What a folder of ours holds, and what is written into it last."""


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


@contextmanager
def atomic_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `out` that takes its place once the block has ended well, and else disappears.

    Args:
        out: what the folder will be called. It must not exist yet, or be empty.
        overwrite: put a former folder of this kind, known by its README.md, out of the way, once the new one is whole.
    """
    out = Path(os.path.abspath(out))
    _check_place(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    temporary = out.parent / f".tmp-{out.name}-{owner}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        yield temporary
        _check_place(out, overwrite)  # a long time may have passed
        _swap(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    if not (out / MARKER).is_file():
        raise ValueError(f"{out} holds no {MARKER}, so it is not one of ours to overwrite: choose another name.")


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
