"""Places in Milvus, `http://host:19530#collection` and `films.db#collection`, and what is said when something fails."""

import importlib.util
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from .files import one_line
from .optional import require

COLLECTION = "dualspace"
TOKEN = "MILVUS_TOKEN"
"""The environment variable that a server's token is in."""
SECONDS = 60.0
"""After which a call has failed."""
_CONNECTING = 10.0
_SILENCE = re.compile(r"Fail connecting|\[\w+\] Retry (timeout|run out)")
_NOT_FOUND = 100
_speaking: ContextVar[bool] = ContextVar("speaking", default=False)
_opening = threading.RLock()
_users: Counter[str] = Counter()
"""How many have a file of Milvus Lite open in this process: the last one lets go of it."""


_LOCAL = re.compile(r"(?P<uri>(?!\w+://).*\.db)(#(?P<name>[^#]*))?", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """A collection in Milvus.

    Args:
        uri: of the server, or the file of Milvus Lite.
        collection: in it.
    """

    uri: str
    collection: str

    @classmethod
    def is_one(cls, text: str) -> bool:
        """Whether a text is such a place."""
        return re.match(r"(https?|tcp|unix|grpcs?)://", text) is not None or _LOCAL.fullmatch(text) is not None

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Of what a person types.

        Example:
            ```python
            >>> Place.parse("films.db"), Place.parse("http://host:19530#films")
            (Place(uri='films.db', collection='dualspace'), Place(uri='http://host:19530', collection='films'))

            ```
        """
        local = _LOCAL.fullmatch(text)
        uri, name = (local["uri"], local["name"]) if local else (text.partition("#")[0], text.partition("#")[2])
        name = name or COLLECTION
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
            raise ValueError(f"A collection of Milvus is named by letters, digits and underscores, got {name!r}.")
        place = cls(uri, name)
        if not place.is_local and "@" in urlsplit(uri).netloc:
            raise ValueError(f"A place in Milvus holds no password, as it is shown: put the token into {TOKEN}.")
        return place

    def __str__(self) -> str:
        return f"{self.uri}#{self.collection}"

    @property
    def is_local(self) -> bool:
        """Whether it is a file of Milvus Lite."""
        return self.uri.endswith(".db") and "://" not in self.uri

    @property
    def folder(self) -> Path:
        """In which Milvus Lite keeps what it calls a file."""
        return Path(self.uri)

    def check_local(self, new: bool) -> None:
        """Raises where there is no such file of Milvus Lite, or something else: connecting would make one."""
        if not new and not self.folder.exists():
            raise ValueError(f"{self.uri} is not there: `create_index`, or `dualspace index`, makes an index.")
        if self.folder.exists() and not (self.folder / "LOCK").exists():
            raise ValueError(f"{self.uri} is nothing that this Milvus Lite wrote: name another file.")
        if not self.folder.absolute().parent.is_dir():
            raise ValueError(f"{self.folder.absolute().parent} is no folder: make it, or name another file.")


def connect(place: Place, *, new: bool = False) -> Any:
    """A client, to be given back by `disconnect`; raises in one sentence where there is nobody."""
    module = _pymilvus()
    if not place.is_local:
        with speaking(place):
            token = os.environ.get(TOKEN, "")
            return module.MilvusClient(uri=place.uri, token=token, timeout=_CONNECTING, dedicated=True)
    if importlib.util.find_spec("milvus_lite") is None:
        raise ModuleNotFoundError(
            f"{place.uri} is a file of Milvus Lite, which is not installed: run `pip install milvus-lite`."
        )
    with _opening:
        place.check_local(new)
        before = _speaking.set(True)
        try:
            client = module.MilvusClient(uri=place.uri, timeout=_CONNECTING, dedicated=True)
        except module.MilvusException:
            raise ValueError(
                f"{place.uri} cannot be opened: another process has it, as Milvus Lite is for one at a time, or it is "
                "damaged; close it there, or keep the index in a folder or on a server of Milvus."
            ) from None
        finally:
            _speaking.reset(before)
        _users[str(place.folder.absolute())] += 1
    return client


def disconnect(place: Place, client: Any) -> None:
    """Lets go of a client, and of the file of Milvus Lite once nobody here has it open."""
    with _opening:
        with suppress(Exception):
            client.close()
        if place.is_local:
            file = str(place.folder.absolute())
            _users[file] -= 1
            if _users[file] <= 0:
                del _users[file]
                require("milvus_lite.server_manager", extra="search").server_manager_instance.release_server(file)


def _pymilvus() -> ModuleType:
    """The package, whose log, of tracebacks, is quiet about what is said in one sentence here."""
    module = require("pymilvus", extra="search")
    for name in ("pymilvus", "pymilvus.milvus_client"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_heard)
    lite = logging.getLogger("milvus_lite")
    if lite.level == logging.NOTSET:
        lite.setLevel(logging.CRITICAL)
    return module


def _heard(record: logging.LogRecord) -> bool:
    return not _speaking.get()


@contextmanager
def speaking(place: Place) -> Iterator[None]:
    """What Milvus raises, as one sentence: a ConnectionError where nobody answers, a ValueError otherwise."""
    module, grpc = _pymilvus(), require("grpc", extra="search")
    before = _speaking.set(True)
    try:
        yield
    except (module.MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
        said = one_line(str(getattr(error, "message", "") or error))[:300]
        code = getattr(error, "code", None)
        code = code() if callable(code) else code
        if code == grpc.StatusCode.UNAUTHENTICATED or "auth check failure" in said:
            raise ValueError(f"{place.uri} wants another token ({said}): put it into {TOKEN}.") from None
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or _SILENCE.match(said):
            raise ConnectionError(f"Nobody answers at {place.uri} ({said}): see that Milvus runs there.") from None
        if code == _NOT_FOUND:
            raise ValueError(no_collection(place)) from None
        raise ValueError(f"Milvus at {place} refused: {said}.") from None
    finally:
        _speaking.reset(before)


def no_collection(place: Place) -> str:
    """What to say where there is none."""
    return f"{place.uri} has no collection {place.collection}: `create_index`, or `dualspace index`, makes an index."
