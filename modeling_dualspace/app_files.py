"""The files of the page: clips of the index, which all may have, and uploads, which are their senders'."""

import atexit
import base64
import binascii
import functools
import mimetypes
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from .optional import require

ROOM = 20
"""Uploads of the largest size that there is room for."""


@functools.cache
def uploads_folder() -> Path:
    """Of this process, nobody else's, and gone when it ends: Gradio's default is shared by all apps of the machine."""
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent:
        Path(parent).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dualspace-app-", dir=parent)).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def load_gradio() -> Any:
    """Gradio, with its files where ours are, telling nobody that it is used."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    folder = str(uploads_folder())
    os.environ["GRADIO_TEMP_DIR"] = folder
    return require("gradio", extra="app")


@dataclass
class Upload:
    """A file that somebody sent.

    Args:
        owners: by their cookies; None is among them where it came without one, as programs send them.
        when: it came or was last searched with, on a clock that never goes back.
    """

    owners: set[str | None] = field(default_factory=set)
    when: float = field(default_factory=time.monotonic)


class Uploads:
    """What visitors sent, for a while.

    Args:
        limit: bytes of one file.
        keep: seconds that a file is kept, since it came or was last searched with.
        folder: where they lie; the pages of a process share one.
    """

    _lock: ClassVar[Any] = threading.RLock()
    _all: ClassVar["weakref.WeakSet[Uploads]"] = weakref.WeakSet()

    def __init__(self, limit: int, keep: float, folder: Path | None = None):
        self.limit, self.keep, self.folder = limit, keep, folder or uploads_folder()
        self._files: dict[str, Upload] = {}
        self._coming: list[int] = []
        with self._lock:
            self._all.add(self)

    def add(self, path: str, owner: str | None) -> None:
        """A file came."""
        with self._lock:
            upload = self._files.setdefault(path, Upload())
            upload.when = time.monotonic()
            upload.owners.add(owner)

    def reserve(self, size: int) -> bool:
        """Takes room for so many bytes that are to come, if there is so much: `release` gives it back.

        What lies there counts, whether it came whole or not; what is coming counts until it is there.
        """
        with self._lock:
            lies = sum(_size(file) for file in _files_in(self.folder))
            coming = sum(sum(each._coming) for each in self._neighbours())
            if lies + coming + size > ROOM * self.limit:
                return False
            self._coming.append(size)
            return True

    def release(self, size: int) -> None:
        """They came, or did not."""
        with self._lock:
            self._coming.remove(size)
            if not any(each._coming for each in self._neighbours()):
                for file in self._unknown():
                    if file.parent == self.folder:  # broken off: what is whole has a folder of its own
                        file.unlink(missing_ok=True)

    def may_see(self, path: str, visitor: str | None) -> bool:
        """Whether a visitor sent this file."""
        with self._lock:
            return path in self._files and visitor is not None and visitor in self._files[path].owners

    def may_use(self, path: str, visitor: str | None) -> bool:
        """Whether a visitor may search with it, which keeps it: their own, or one that came without a cookie."""
        with self._lock:
            upload = self._files.get(path)
            if upload is None or not {visitor, None} & upload.owners:
                return False
            upload.when = time.monotonic()
            return True

    def may_have_had(self, path: str) -> bool:
        """Whether a path looks like that of an upload, of whomever, that may have been here."""
        return path.startswith(f"{self.folder}{os.sep}") and ".." not in path

    def tidy(self) -> None:
        """Removes what has been here for too long, and what nobody knows of any more."""
        with self._lock:
            late = [path for path, file in self._files.items() if time.monotonic() - file.when > self.keep]
            for path in late:
                del self._files[path]
                if not any(path in each._files for each in self._neighbours()):
                    Path(path).unlink(missing_ok=True)
            keep = max(each.keep for each in self._neighbours())
            for file in self._unknown():
                if _age(file) > keep:
                    file.unlink(missing_ok=True)
            for folder in [Path(place) for place, *_ in os.walk(self.folder)][1:]:
                if _age(folder) > keep:
                    with suppress(OSError):  # it is not empty
                        folder.rmdir()

    def _neighbours(self) -> list["Uploads"]:
        """Of all pages whose files lie in the same folder."""
        return [each for each in self._all if each.folder == self.folder]

    def _unknown(self) -> list[Path]:
        known = {path for each in self._neighbours() for path in each._files}
        return [file for file in _files_in(self.folder) if str(file) not in known]


def _files_in(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # it went meanwhile
        return 0


def _age(file: Path) -> float:
    """Seconds since it was last written to."""
    try:
        return time.time() - file.lstat().st_mtime
    except OSError:
        return 0.0


def add_routes(app: Any, catalogues: Sequence[Any]) -> None:
    """`/clip/<index>/<clip>`, with byte ranges, and `/map/<index>`."""
    responses = require("starlette.responses", extra="app")

    def found(request: Any) -> Any:
        number = int(request.path_params["number"])
        return catalogues[number] if number < len(catalogues) else None

    def clip(request: Any) -> Any:
        catalogue = found(request)
        film = catalogue.film(request.path_params["clip"]) if catalogue else None
        if film is None:
            return responses.JSONResponse({"detail": "There is no such clip."}, 404)
        kind = mimetypes.guess_type(film.name)[0] or ""
        plays = kind.startswith(("audio/", "video/"))  # anything else is no page of ours
        name = quote(os.fsencode(film.name))
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": f"{'inline' if plays else 'attachment'}; filename*=utf-8''{name}",
            "Cache-Control": "private, max-age=600",
        }
        return responses.FileResponse(film, media_type=kind if plays else "application/octet-stream", headers=headers)

    def drawn(request: Any) -> Any:
        catalogue = found(request)
        if catalogue is None:
            return responses.JSONResponse({"detail": "There is no such index."}, 404)
        return responses.JSONResponse(catalogue.map)

    app.add_route("/clip/{number:int}/{clip}", clip)
    app.add_route("/map/{number:int}", drawn)


def in_words(size: int) -> str:
    """A number of bytes.

    Example:
        ```python
        >>> in_words(200_000_000), in_words(1_500)
        ('200 MB', '1.5 kB')

        ```
    """
    for factor, unit in ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def kept_for(keep: float) -> str:
    """How long a file is kept.

    Example:
        ```python
        >>> kept_for(1_800), kept_for(45)
        ('30 minutes', '45 seconds')

        ```
    """
    return f"{keep / 60:.0f} minutes" if keep >= 120 else f"{keep:g} seconds"


def token(clip_id: str) -> str:
    """A clip's name as a part of an address, whatever is in it: no `..` or `%2F` for anybody on the way to resolve."""
    return base64.urlsafe_b64encode(clip_id.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def clip_of(text: str) -> str | None:
    """The other way; None where it is none.

    Example:
        ```python
        >>> clip_of(token("../dog?.mp4")), clip_of("%")
        ('../dog?.mp4', None)

        ```
    """
    try:
        name = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return None
    return name if token(name) == text else None
