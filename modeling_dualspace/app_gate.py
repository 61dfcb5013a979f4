"""Who may have which file: clips of the index for all, an upload for whoever sent it, and nothing else for anybody.

Gradio's own rules are wider: its route for files serves whatever lies in its folder to whoever knows a path, an app
that is mounted takes any path of this machine for an upload, and some routes fetch addresses or take files without end.
So a gate stands before it: it lets through the routes that the page needs, files that were uploaded, bodies of known
size.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from .app_files import Uploads, in_words, kept_for

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

API = "/gradio_api"
FILE = f"{API}/file="
UPLOAD = f"{API}/upload"
PLAIN = {
    "/", "/config", "/theme.css", "/robots.txt", "/favicon.ico", "/manifest.json", "/pwa_icon", UPLOAD,
    *(f"{API}/{name}" for name in ("info", "openapi.json", "app_id", "startup-events", "upload_progress", "theme.css")),
    *(f"{API}/{name}" for name in ("queue/join", "queue/data", "queue/status", "cancel", "reset")),
}  # fmt: skip
BELOW = ("/clip/", "/map/", "/static/", "/assets/", "/svelte/", f"{API}/heartbeat/", f"{API}/call/", f"{API}/run/")
"""The routes the page and its clients need; the others of Gradio are not there."""
COOKIE = "dualspace"
BODY = 1_000_000
"""Bytes of a request that is no upload."""
PATIENCE = 60.0
"""Seconds that the rest of a refused request is waited for."""


class Gate:
    """Lets through what may be asked for.

    Args:
        app: behind it.
        uploads: of the visitors.
    """

    def __init__(self, app: Any, uploads: Uploads):
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            else:
                await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path") or "")
        visitor = visitor_of(scope)
        receive = _Counted(receive, self.uploads.limit + BODY)
        try:
            if path.startswith(FILE):
                if not self.uploads.may_see(path.removeprefix(FILE), visitor):
                    raise _RefusedError(404, "There is no such file.")
            elif (path.rstrip("/") or "/") not in PLAIN and not path.startswith(BELOW):
                raise _RefusedError(404, "There is no such page.")
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                greeted = path == "/" and visitor is None
                await self.app(scope, receive, _greeting(scope, send) if greeted else send)
            elif path.rstrip("/") == UPLOAD:
                await self._upload(scope, receive, send, visitor)
            else:
                await self.app(scope, await self._checked(scope, receive, visitor), send)
        except _RefusedError as refused:
            await _reply(send, refused.status, refused.text, close=not await _drain(receive))

    async def _upload(self, scope: Scope, receive: Receive, send: Send, visitor: str | None) -> None:
        """A file that somebody sends: there must be room for it before it comes."""
        length = _length(scope)
        if length > self.uploads.limit + BODY:
            most = in_words(self.uploads.limit)
            raise _RefusedError(413, f"A file may have {most} at most: cut it, or make it smaller.")
        if not await asyncio.to_thread(self.uploads.reserve, length):
            raise _RefusedError(507, "Too many files are being searched with just now: try again in some minutes.")
        try:
            await self.app(scope, _Counted(receive, length), self._noting(send, visitor))
        finally:
            self.uploads.release(length)

    async def _checked(self, scope: Scope, receive: Receive, visitor: str | None) -> Receive:
        """The body of any other request, to be read again; raises where it is refused."""
        length = _length(scope)
        if length > BODY:
            raise _RefusedError(413, f"A request may have {in_words(BODY)} at most; files go by {UPLOAD}.")
        body = await _read(_Counted(receive, length))
        try:
            unknown = [path for path in files_in(body) if not self.uploads.may_use(path, visitor)]
        except (ValueError, RecursionError):
            raise _RefusedError(400, "A request is JSON, and this one cannot be read.") from None
        if unknown and all(map(self.uploads.may_have_had, unknown)):
            kept = kept_for(self.uploads.keep)
            raise _RefusedError(403, f"This file is not here any more, it was kept for {kept}: send it again.")
        if unknown:
            said = f"Files are searched with that were sent to {UPLOAD} before: no other path, and no address."
            raise _RefusedError(403, said)
        return _again(body, receive)

    def _noting(self, send: Send, visitor: str | None) -> Send:
        """Remembers who sent what."""
        status, body = 0, b""

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body") and status == 200:
                for path in json.loads(body):
                    self.uploads.add(path, visitor)
            await send(message)

        return noted


class _RefusedError(Exception):
    """A request that goes no further, and what whoever sent it is told."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status, self.text = status, text


def files_in(body: bytes) -> Iterator[str]:
    """Every path that a request names, whether it means a file by it or not; raises where it is no JSON."""
    waiting: list[Any] = [json.loads(body)] if body else []
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "path" in part and part["path"] is not None:
                yield str(part["path"])
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def visitor_of(scope: Scope) -> str | None:
    """Who asks, by their cookie."""
    try:
        found = SimpleCookie(_header(scope, b"cookie")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None and re.fullmatch(r"[\w-]{43}", found.value) else None


def _greeting(scope: Scope, send: Send) -> Send:
    """Gives a visitor a cookie. A Space is a frame in a page of another site, where only such a cookie is kept."""
    secure = "https" in (scope.get("scheme"), _header(scope, b"x-forwarded-proto"))
    how = "SameSite=None; Secure; Partitioned" if secure else "SameSite=Lax"
    cookie = f"{COOKIE}={secrets.token_urlsafe(32)}; Path=/; HttpOnly; {how}"

    async def greeted(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), (b"set-cookie", cookie.encode())]}
        await send(message)

    return greeted


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _length(scope: Scope) -> int:
    """How many bytes a request says it has; where it comes in chunks, a length beside them means nothing."""
    length = _header(scope, b"content-length")
    if _header(scope, b"transfer-encoding") or not re.fullmatch(r"[0-9]{1,15}", length):
        raise _RefusedError(411, "Say how long the request is, by a header Content-Length and no other.")
    return int(length)


class _Counted:
    """What comes of a request; whoever sends more than so many bytes is taken for gone.

    Args:
        receive: what is wrapped.
        most: bytes.
    """

    def __init__(self, receive: Receive, most: int):
        self.receive, self.left, self.ended = receive, most, False

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            message = {"type": "http.disconnect"}
        self.ended |= not message.get("more_body", False)
        return message


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise _RefusedError(400, "The request is not as long as it says.")
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _drain(receive: _Counted) -> bool:
    """Takes the rest, as whoever is still sending would not hear the answer, but not without end; was it all?"""
    try:
        async with asyncio.timeout(PATIENCE):
            while not receive.ended:
                await receive()
    except TimeoutError:
        return False
    return receive.left >= 0


def _again(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _reply(send: Send, status: int, text: str, *, close: bool) -> None:
    body = json.dumps({"detail": text, "error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if close else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
