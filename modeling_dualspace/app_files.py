"""The files of the page: clips of the index, which all may have, and uploads, which are their senders'."""

import atexit
import functools
import mimetypes
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .app_map import map_of
from .optional import require

ROOM = 20
"""Uploads of the largest size that are kept at a time."""


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
        size: in bytes.
        owners: by their cookies; empty where it came without one.
        when: it came, on a clock that never goes back.
    """

    size: int
    owners: set[str] = field(default_factory=set)
    when: float = field(default_factory=time.monotonic)


class Uploads:
    """What visitors sent, for a while.

    Args:
        limit: bytes of one file.
        keep: seconds that a file is kept.
    """

    def __init__(self, limit: int, keep: float):
        self.limit, self.keep = limit, keep
        self._files: dict[str, Upload] = {}
        self._lock = threading.Lock()

    def add(self, path: str, owner: str | None) -> None:
        """A file came."""
        with self._lock:
            size = os.path.getsize(path) if os.path.isfile(path) else self.limit
            upload = self._files.setdefault(path, Upload(size))
            upload.when = time.monotonic()
            upload.owners |= {owner} if owner else set()

    def has_room(self, size: int) -> bool:
        """Whether so many bytes may come."""
        with self._lock:
            return sum(file.size for file in self._files.values()) + size <= ROOM * self.limit

    def may_see(self, path: str, visitor: str | None) -> bool:
        """Whether a visitor sent this file."""
        with self._lock:
            return path in self._files and visitor is not None and visitor in self._files[path].owners

    def may_use(self, path: str, visitor: str | None) -> bool:
        """Whether a visitor may search with it: their own, or one that came without a cookie, as programs send them."""
        with self._lock:
            return path in self._files and (not self._files[path].owners or visitor in self._files[path].owners)

    def tidy(self) -> None:
        """Removes what has been here for too long."""
        with self._lock:
            late = [path for path, file in self._files.items() if time.monotonic() - file.when > self.keep]
            for path in late:
                del self._files[path]
                Path(path).unlink(missing_ok=True)


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
        return responses.JSONResponse(map_of(catalogue))

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
