"""Writes that are whole or not at all, and short fingerprints."""

import glob
import hashlib
import json
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError

logger = logging.getLogger(__name__)

CARD = "README.md"
MANIFEST = ".made-by-dualspace"
"""Sizes and names of all that was written into a folder: what is known to have been made here can be made again."""


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


def model_fingerprint(model: Any) -> str:
    """A model's weights, and what its features are made of, as one short name: sixteen hex digits."""
    parts = [model.config.model_type.encode(), str(getattr(model.config, "feature_spec", None)).encode()]
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy().tobytes()  # whatever the type, bfloat16 too
        parts += [name.encode(), str(tensor.dtype).encode(), str(tuple(tensor.shape)).encode(), content]
    return short_digest(parts)


def write_json(path: str | Path, content: Any) -> Path:
    """Writes a file of JSON, whole or not at all; numbers that are none are refused."""
    return write_file(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_file(path: str | Path, content: bytes) -> Path:
    """Writes a file, whole or not at all, in place of a former one."""
    path = check_file(path)
    target = path.resolve()  # through a link: the file is replaced, not the link
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        make_folders(target.parent)
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def check_file(path: str | Path) -> Path:
    """The path; raises where no file can be written, as far as that can be seen before it is tried."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a file will be written: name one in it.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file, and will not be replaced: name another.")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file, so nothing can lie below it: name another place than {path}.")
    if not os.access(nearest, os.W_OK):
        raise ValueError(f"{nearest} cannot be written to: name another place than {path}.")
    return path


def make_folders(folder: Path) -> None:
    """Makes a folder and those above it; raises, naming what is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        taken = next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), folder)
        raise ValueError(f"{taken} is a file, so nothing can lie below it: choose another place.") from None


def one_line(text: str) -> str:
    r"""A text as a terminal may show it: what would move its cursor is written as it is in Python.

    Example:
        ```python
        >>> one_line("é\n\x1b[2J")
        'é\\n\\x1b[2J'

        ```
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in printable(text))


def printable(name: str) -> str:
    """A name as it can be printed and stored, whatever bytes a file system put into it."""
    return name.encode("utf-8", "backslashreplace").decode()


@contextmanager
def atomic_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `out` that takes its place once the block has ended well, and else disappears.

    Args:
        out: what the folder will be called. It must not exist yet, or be empty.
        overwrite: put a former folder that was made this way, and not touched since, out of the way.
    """
    out = Path(out).resolve()  # through a link: the folder is replaced, not the link
    if printable(str(out)) != str(out):
        raise ValueError(f"Names of folders must be UTF-8, got {printable(str(out))}: choose another name.")
    check_folder(out, overwrite)
    made = [folder for folder in out.parents if not folder.exists()]
    make_folders(out.parent)
    _sweep(out)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    temporary = out.parent / f".tmp-{out.name}-{owner}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir()
        yield temporary
        write_manifest(temporary)
        check_folder(out, overwrite)  # a long time may have passed
        _swap(temporary, out, temporary.with_name(temporary.name + "-former"))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # not empty: it was a success, or somebody else's
            for folder in made:
                folder.rmdir()


def write_manifest(folder: Path) -> None:
    """Says, in the folder itself, which files were made here."""
    lines = [f"{size} {name}\n" for name, size in _sizes(folder).items() if name != MANIFEST]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8", newline="\n")


def read_manifest(text: str) -> dict[str, int]:
    """The size of each file that was made here, by its name."""
    return {name: int(size) for size, name in (line.split(" ", 1) for line in text.splitlines())}


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Nobody else works in a folder meanwhile; the system lets go when the process ends, however it ends.

    Args:
        folder: made where there is none, and removed again if nothing was begun in it.
        taken: what to say where somebody else does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    make_folders(folder)
    lock = folder / ".lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(taken) from None
        except OSError:  # a file system without locks
            logger.debug("%s cannot be locked", folder)
        if not _is_same(file, lock):  # who had it removed it meanwhile, and somebody else may have made another
            raise ValueError(taken)
        try:
            yield
        finally:
            if _is_same(file, lock) and [one.name for one in folder.iterdir()] == [".lock"]:
                lock.unlink()
                folder.rmdir()


def _is_same(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


@contextmanager
def swap_in(out: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `out` once the block has ended well.

    For what one process writes again and again inside a folder of its own; `recover` tidies up after it was killed.
    """
    make_folders(out.parent)
    temporary = out.with_name(f".tmp-new-{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        former = out.with_name(f".tmp-former-{out.name}")
        if out.exists():
            shutil.rmtree(former, ignore_errors=True)
        _swap(temporary, out, former)
    except SafetensorError as error:  # it has no other word for a full disk
        raise OSError(f"{out} could not be written: {error}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(folder: Path) -> None:
    """Brings back what a process was killed over while `swap_in` put another in its place, and removes leftovers."""
    for former in folder.glob(".tmp-former-*"):
        place = former.with_name(former.name.removeprefix(".tmp-former-"))
        if not place.exists():
            former.rename(place)
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
        with suppress(OSError):  # a file that was not whole
            leftover.unlink(missing_ok=True)


def check_folder(out: Path, overwrite: bool) -> None:
    """Raises where `atomic_folder` could not put a folder in the end."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file; a folder will be made: choose another name.")
    if Path.cwd().is_relative_to(out):
        raise ValueError(f"{out} is where you are, or above it, and cannot be replaced: choose another name.")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{out} exists already and is not empty: choose another name, or pass --overwrite.")
    if not (out / MANIFEST).is_file():
        raise ValueError(f"{out} was not made here, so it is not overwritten: choose another name.")
    foreign = _changed(out)
    if foreign:
        raise ValueError(
            f"{out} is not overwritten: {foreign[0]} was put there or changed since it was made ({len(foreign)} files "
            "like that). Move them away, or choose another name."
        )


def is_as_made(folder: Path) -> bool:
    """Whether all that was written into a folder is there, and nothing else."""
    if not (folder / MANIFEST).is_file() or _changed(folder):
        return False
    return read_manifest((folder / MANIFEST).read_text(encoding="utf-8")).keys() <= _sizes(folder).keys()


def _changed(folder: Path) -> list[str]:
    """What was put into a folder, or changed, since it was made."""
    known = read_manifest((folder / MANIFEST).read_text(encoding="utf-8"))
    return sorted(name for name, size in _sizes(folder).items() if known.get(name) != size and name != MANIFEST)


def _sizes(folder: Path) -> dict[str, int]:
    """Of all files below a folder, in the order of their names."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


def _swap(temporary: Path, out: Path, former: Path) -> None:
    """Two renames, and the former folder comes back should the second fail."""
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
    start = f".tmp-{out.name}-{socket.gethostname()}-"
    for leftover in out.parent.glob(f"{glob.escape(start)}*"):
        with suppress(ValueError, IndexError):
            if _is_alive(int(leftover.name.removeprefix(start).split("-")[0])):
                continue
            if leftover.name.endswith("-former") and not out.exists():
                leftover.rename(out)  # it was killed between two renames
            else:
                shutil.rmtree(leftover, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
