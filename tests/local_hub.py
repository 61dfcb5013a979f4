"""A Hub of one's own, in memory, that Hugging Face's clients use unmodified, with faults on demand.

    python tests/local_hub.py --port 8080

starts one and says which variables to set, so that a release can be tried without the Hub. In a test:

    with LocalHub() as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("me/thing")
        hub.fail("POST", r"/commit/", status=500, times=2)
        api.upload_folder(repo_id="me/thing", folder_path=folder)
        assert hub.files("me/thing")["config.json"] == ...

What its parts do: `local_hub_store` keeps everything, `local_hub_routes`, `local_hub_writes` and
`local_hub_collections` answer, `local_hub_cards` reads READMEs, and this file listens, fails and records.
"""

import argparse
import contextlib
import re
import secrets
import socket
import string
import struct
import sys
import threading
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent))  # for its parts, when pytest or a script loads this file by its path

import local_hub_collections  # noqa: E402, F401
import local_hub_writes  # noqa: E402, F401
from local_hub_routes import Answer, Call, answer, dispatch, refusal  # noqa: E402
from local_hub_store import Collection, HubError, Store, User  # noqa: E402


class Request(NamedTuple):
    """What was asked and answered; the status is 0 where the connection was cut before the answer."""

    method: str
    path: str
    status: int


@dataclass
class Fault:
    """What goes wrong, for which requests, and how often it has."""

    method: str | None
    pattern: re.Pattern
    left: int
    skip: int = 0
    status: int | None = None
    retry_after: int | None = None
    cut: bool = False
    stale: bool = False
    lost: bool = False
    fired: int = 0


class LocalHub:
    """The Hub, listening on a port of this machine for as long as the `with` block lasts."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", need_licence: bool = True):
        self.store, self.lock, self.need_licence = Store(), threading.RLock(), need_licence
        self.requests: list[Request] = []
        self.errors: list[str] = []  # tracebacks of what this server itself did wrong
        self.faults: list[Fault] = []
        self._server = _Server((host, port), _Handler)
        self._server.hub = self
        self._thread: threading.Thread | None = None
        self.url = f"http://{host}:{self._server.server_port}"
        self.token = self.add_user("me")

    def __enter__(self) -> "LocalHub":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()
        if kind is None and self.errors:
            raise AssertionError("the local Hub itself failed:\n" + "\n".join(self.errors))

    def add_user(self, name: str, token: str | None = None, organisations=(), role: str = "write") -> str:
        """Let a user in; the token, made up unless given."""
        token = token or "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))
        self.store.users[token] = User(name, tuple(organisations), role)
        return token

    def fail(self, method: str | None, pattern: str, *, times: int = 1, skip: int = 0, **how) -> Fault:
        """Let requests go wrong whose method is this and whose path the pattern is found in.

        Args:
            method: Such as "POST"; None for any.
            pattern: A regular expression, searched in the path without its query.
            times: How many requests fail; then all is well again.
            skip: How many go well before.
            **how: One of `status` (an answer, perhaps with `retry_after` seconds), `cut` (half of the body arrives,
                or is sent, then the connection ends), `stale` (another's commit lands first), `lost` (the request is
                carried out, its answer never arrives).

        Returns:
            The fault; its `fired` counts.
        """
        if sum(how.get(name) not in (None, False) for name in ("status", "cut", "stale", "lost")) != 1:
            raise ValueError(f"expected one of status, cut, stale, lost; got {how or 'nothing'}")
        fault = Fault(method, re.compile(pattern), times, skip, **how)
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget the requests and the faults, not the repositories."""
        with self.lock:
            self.requests.clear()
            self.faults.clear()

    def repository(self, repo_id: str, repo_type: str = "model"):
        """What the store holds of a repository."""
        return self.store.repositories[repo_type or "model", repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Every file of a revision."""
        with self.lock:
            tree = self.repository(repo_id, repo_type).at(revision).tree
            return {path: tree[path].content for path in sorted(tree)}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[tuple[str, str]]:
        """Ids and titles, newest first."""
        with self.lock:
            return [(one.oid, one.title) for one in self.repository(repo_id, repo_type).ancestors(revision)]

    def tags(self, repo_id: str, repo_type: str = "model") -> dict[str, str]:
        """The commit of each tag."""
        with self.lock:
            return dict(self.repository(repo_id, repo_type).tags)

    def branches(self, repo_id: str, repo_type: str = "model") -> dict[str, str]:
        """The commit of each branch."""
        with self.lock:
            return dict(self.repository(repo_id, repo_type).branches)

    @property
    def collections(self) -> dict[str, Collection]:
        """Every collection by its slug."""
        with self.lock:
            return {one.slug: one for one in self.store.collections.values()}

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, which is thereby used up once."""
        with self.lock:
            for fault in self.faults:
                if fault.left and fault.method in (None, method) and fault.pattern.search(path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.left, fault.fired = fault.left - 1, fault.fired + 1
                    return fault
        return None

    def carry_out(self, call: Call, fault: Fault | None) -> Answer:
        """The answer to a call, and what the call changes."""
        with self.lock:
            try:
                call.user = self._user(call.headers.get("authorization"))
                if fault and fault.stale:
                    self._foreign_commit(call.path)
                return dispatch(call)
            except HubError as error:
                return refusal(error)
            except Exception as error:
                self.errors.append(traceback.format_exc())
                return answer({"error": f"the local Hub failed, see its `errors`: {error!r}"}, 500)

    def _user(self, authorization: str | None) -> User | None:
        if authorization is None:
            return None
        user = self.store.users.get(authorization.removeprefix("Bearer ").strip())
        if user is None:
            raise HubError(401, "Invalid username or password.")
        return user

    def _foreign_commit(self, path: str) -> None:
        kind, name, branch = re.fullmatch("/api/(model|dataset|space)s/([^/]+/[^/]+)/commit/(.+)", path).groups()
        repository = self.store.repositories[kind, unquote(name)]
        content = f"{len(repository.history)}\n".encode()
        change = ("file", {"path": "foreign.txt", "content": content})
        repository.commit(unquote(branch), {"summary": "Someone else's commit"}, [change], "someone-else")


class _Server(ThreadingHTTPServer):
    """A thread a connection; connections end with the server."""

    daemon_threads, block_on_close, request_queue_size = True, False, 64
    hub: LocalHub

    def __init__(self, *arguments):
        self._connections: set[socket.socket] = set()
        self.to_reset: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        if request not in self.to_reset:
            return super().shutdown_request(request)
        self.to_reset.discard(request)
        return self.close_request(request)

    def close_connections(self) -> None:
        for one in list(self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):  # a client that goes away is no error
            self.hub.errors.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    """Read a request, let it be answered or fail, record it."""

    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, 2**16
    server: _Server

    def log_message(self, *_):
        pass

    def _serve(self) -> None:
        hub, address = self.server.hub, urlsplit(self.path)
        fault = hub.fault_for(self.command, address.path)
        has_body = "chunked" in self.headers.get("Transfer-Encoding", "") or int(
            self.headers.get("Content-Length") or 0
        )
        if fault and fault.cut and (has_body or self.command == "HEAD"):
            self._read_body(half=True)
            return self._hang_up()
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(address.query, keep_blank_values=True)
        call = Call(hub.store, hub.url, self.command, address.path, query, headers, self._read_body())
        call.need_licence = hub.need_licence
        if fault and fault.status:
            waiting = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return self._send(refusal(HubError(fault.status, "a fault on demand", headers=waiting)))
        made = hub.carry_out(call, fault)
        if fault and fault.lost:
            return self._hang_up()
        return self._send(made, half=bool(fault and fault.cut))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _record(self, status: int) -> None:
        self.server.hub.requests.append(Request(self.command, urlsplit(self.path).path, status))

    def _read_body(self, half: bool = False) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            size = int(self.headers.get("Content-Length") or 0)
            return self._read(size // 2 if half else size)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"-1", 16):
            parts.append(self._read(size // 2 if half else size))
            if half:
                break
            self.rfile.readline()
        else:
            self.rfile.readline()
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        content = self.rfile.read(size) if size >= 0 else b""
        if len(content) != size:  # nothing may come of a request that did not arrive
            raise ConnectionError("the client went away")
        return content

    def _send(self, made: Answer, half: bool = False) -> None:
        self._record(0 if half else made.status)  # first, so that whoever has the answer finds the record
        self.send_response(made.status)
        for name, value in made.headers.items():
            self.send_header(name, value.encode("ascii", "replace").decode().replace("\n", " "))
        self.send_header("Content-Length", str(len(made.body)))
        self.send_header("X-Request-Id", secrets.token_hex(8))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(made.body[: len(made.body) // 2] if half else made.body)
        self.wfile.flush()
        self.close_connection = self.close_connection or half

    def _hang_up(self) -> None:
        self._record(0)
        # To linger for no time makes the end a reset, not a polite one.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.to_reset.add(self.connection)
        self.close_connection = True


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080, help="where to listen on this machine; 0: any free port")
    parser.add_argument("--user", default="me", help="whose token is told")
    parser.add_argument("--organisation", action="append", default=[], help="what the user may write to besides")
    arguments = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt), LocalHub(arguments.port) as hub:
        token = hub.add_user(arguments.user, organisations=arguments.organisation)
        print(f"A Hub for {arguments.user}, in memory, until Ctrl-C. In another shell:\n")
        for name, value in (("HF_ENDPOINT", hub.url), ("HF_TOKEN", token), ("HF_HUB_DISABLE_XET", "1")):
            print(f"export {name}={value}")
        print(flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
