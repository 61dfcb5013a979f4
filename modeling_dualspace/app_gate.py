"""Who may have which file: clips of the index for all, an upload for whoever sent it, and nothing else for anybody.

Gradio's own rules are wider: its route for files serves whatever lies in its folder to whoever knows a path, an app
that is mounted takes any path of this machine for an upload, and some routes fetch addresses or take files without end.
So a gate stands before it: it lets through the routes that the page needs, files that were uploaded, bodies of known
size.
"""

import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from .app_files import Uploads, in_words

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
        if path.startswith(FILE):
            refused = (
                None if self.uploads.may_see(path.removeprefix(FILE), visitor) else (404, "There is no such file.")
            )
        elif (path.rstrip("/") or "/") in PLAIN or path.startswith(BELOW):
            refused, receive = await self._checked(scope, path, receive, visitor)
        else:
            refused = (404, "There is no such page.")
        if refused:
            await _drain(receive)
            await _reply(send, *refused)
        elif path.rstrip("/") == UPLOAD:
            await self.app(scope, receive, self._noting(send, visitor))
        else:
            await self.app(scope, receive, _greeting(scope, send) if path == "/" and visitor is None else send)

    async def _checked(
        self, scope: Scope, path: str, receive: Receive, visitor: str | None
    ) -> tuple[tuple[int, str] | None, Receive]:
        """Why a body is refused, if it is; and the body, to be read again."""
        if scope["method"] != "POST":
            return None, receive
        length = _header(scope, b"content-length")
        if not length.isdecimal():
            return (411, "Say how long the request is, by a header Content-Length."), receive
        if path.rstrip("/") == UPLOAD:
            if int(length) > self.uploads.limit + BODY:
                return (
                    413,
                    f"A file may have {in_words(self.uploads.limit)} at most: cut it, or make it smaller.",
                ), receive
            full = (507, "Too many files are being searched with just now: try again in some minutes.")
            return None if self.uploads.has_room(int(length)) else full, receive
        if int(length) > BODY:
            return (413, f"A request may have {in_words(BODY)} at most; files go by {UPLOAD}."), receive
        body = await _read(receive)
        known = all(self.uploads.may_use(each, visitor) for each in files_in(body))
        refused = (403, f"Files are searched with that were sent to {UPLOAD} before: no other path, and no address.")
        return None if known else refused, _again(body, receive)

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


def files_in(body: bytes) -> Iterator[str]:
    """Every path that a request names, whether it means a file by it or not."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return  # Gradio says what is wrong with it
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


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _drain(receive: Receive) -> None:
    """Whoever is still sending would not hear the answer."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)


def _again(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _reply(send: Send, status: int, text: str) -> None:
    body = json.dumps({"detail": text, "error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
