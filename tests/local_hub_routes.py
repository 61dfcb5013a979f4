"""The local Hub's answers about repositories and their files; `local_hub_writes` and `local_hub_collections` go on."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlencode

from local_hub_cards import card_data, card_errors
from local_hub_store import Commit, Entry, HubError, Repository, Store, User, require

ROUTES: list[tuple[str, re.Pattern, Callable]] = []
_PARTS = {
    "kind": "models|datasets|spaces",
    "prefix": "|datasets/|spaces/",
    "id": "[^/]+/[^/]+",
    "slug": "[^/]+/[^/]+",
    "rest": ".+",
    "path": "(?:/.*)?",
}


@dataclass
class Answer:
    """A status, headers, the body; JSON unless said otherwise."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One request: by whom, for what, with which body."""

    store: Store
    base: str
    method: str
    path: str  # as it came, percent-encoded
    query: dict[str, list[str]]
    headers: dict[str, str]  # lower-case names
    body: bytes
    user: User | None = None
    need_licence: bool = True
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Model, dataset, or space."""
        if "kind" in self.parts:
            return self.parts["kind"].removesuffix("s")
        return self.parts["prefix"].removesuffix("s/") or "model"

    @property
    def words(self) -> str:
        """What follows the repository, decoded."""
        return unquote(self.parts["rest"])

    def repository(self, write: bool = False) -> Repository:
        """The repository that the path names."""
        return self.store.repository(self.kind, unquote(self.parts["id"]), self.user, write)

    def json(self):
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, f"Not JSON: {error}") from None

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


def route(method: str, template: str):
    """Register what answers a path such as `/api/{kind}/{id}/tree/{rest}`."""
    pattern = re.sub(r"{(\w+)}", lambda part: f"(?P<{part[1]}>{_PARTS.get(part[1], '[^/]+')})", template)

    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


def dispatch(call: Call) -> Answer:
    """Find what answers a call; refusals become answers too."""
    try:
        for method, pattern, function in ROUTES:
            found = pattern.fullmatch(call.path)
            if found and method == ("GET" if call.method == "HEAD" else call.method):
                call.parts = found.groupdict()
                return _moved(call) or function(call)
        raise HubError(404, "Sorry, we can't find the page you are looking for.")
    except HubError as error:
        return refusal(error)


def refusal(error: HubError) -> Answer:
    """What the Hub answers when it refuses."""
    headers = {"X-Error-Message": error.message, **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return answer({"error": error.message, **error.more}, error.status, headers)


def answer(value, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """JSON."""
    body = json.dumps(value).encode()
    return Answer(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def page(call: Call, items: list, size: int) -> Answer:
    """One page of a list and, in `Link`, the way to the next."""
    size = min(size, int(call.query.get("limit", [size])[0]))
    start = int(call.query.get("cursor", [0])[0])
    headers = {"X-Total-Count": str(len(items))}
    if start + size < len(items):
        query = urlencode({**call.query, "cursor": [start + size]}, doseq=True)
        headers["Link"] = f'<{call.base}{call.path}?{query}>; rel="next"'
    return answer(items[start : start + size], headers=headers)


def split_revision(repository: Repository, words: str) -> tuple[Commit, str]:
    """A path that begins with a revision, which may have slashes of its own."""
    segments = words.split("/")
    first = segments[0]
    for count in range(1, len(segments) + 1):
        name = "/".join(unquote(one) for one in segments[:count])
        if repository.find(name):
            return repository.at(name), unquote("/".join(segments[count:])).strip("/")
    raise HubError(404, f"Invalid rev id: {unquote(first)}", "RevisionNotFound")


def _moved(call: Call) -> Answer | None:
    if "id" not in call.parts or call.method not in ("GET", "HEAD"):
        return None
    old = unquote(call.parts["id"])
    new = call.store.moved.get((call.kind, old))
    if new is None:
        return None
    return Answer(307, headers={"Location": call.path.replace(quote(old), quote(new), 1)})


# ---- who one is, and what there is


@route("GET", "/api/whoami-v2")
def _whoami(call: Call) -> Answer:
    user = require(call.user)
    organisations = [
        {"type": "org", "id": name, "name": name, "fullname": name, "roleInOrg": user.role}
        for name in user.organisations
    ]
    token = {"displayName": "local", "role": user.role, "createdAt": "2026-01-01T00:00:00.000Z"}
    told = {"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "isPro": False, "canPay": False}
    return answer({**told, "orgs": organisations, "auth": {"type": "access_token", "accessToken": token}})


@route("POST", "/api/validate-yaml")
def _validate_yaml(call: Call) -> Answer:
    asked = call.json()
    errors, warnings = card_errors(asked.get("content", ""), asked.get("repoType") or "model", call.need_licence)
    told = {"errors": [{"message": one} for one in errors], "warnings": [{"message": one} for one in warnings]}
    return answer(told, 400 if errors else 200)


@route("GET", "/api/{kind}")
def _list(call: Call) -> Answer:
    readable = [one for one in call.store.repositories.values() if one.kind == call.kind]
    found = [_info(one, one.at("main"), False) for one in readable if call.store.may_read(call.user, one)]
    wanted = {name: call.query.get(name, []) for name in ("author", "search", "filter", "pipeline_tag")}
    tags = {tag for one in wanted["filter"] for tag in one.split(",")}
    found = [
        one
        for one in found
        if (not wanted["author"] or one["author"] in wanted["author"])
        and all(text.lower() in one["id"].lower() for text in wanted["search"])
        and (not wanted["pipeline_tag"] or one["pipeline_tag"] in wanted["pipeline_tag"])
        and tags <= set(one["tags"])
    ]
    return page(call, [_expanded(call, one) for one in reversed(found)], 1000)


@route("GET", "/api/{kind}/{id}")
def _about(call: Call) -> Answer:
    repository = call.repository()
    return answer(_expanded(call, _info(repository, repository.at("main"), call.flag("blobs"))))


@route("GET", "/api/{kind}/{id}/revision/{rest}")
def _about_revision(call: Call) -> Answer:
    repository = call.repository()
    return answer(_expanded(call, _info(repository, repository.at(call.words), call.flag("blobs"))))


@route("GET", "/api/{kind}/{id}/auth-check(?:/\\w+)?")
def _auth_check(call: Call) -> Answer:
    call.repository(write=call.path.endswith("/write"))
    return answer({})


def _expanded(call: Call, info: dict) -> dict:
    wanted = set(call.query.get("expand", [])) | set(call.query.get("expand[]", []))
    return {key: value for key, value in info.items() if not wanted or key in wanted | {"id", "_id"}}


def _info(repository: Repository, commit: Commit, blobs: bool) -> dict:
    card = card_data(_text(commit, "README.md"))
    config = _config(commit)
    info = {
        "_id": repository.identity, "id": repository.name, "author": repository.namespace, "sha": commit.oid,
        "lastModified": commit.date, "createdAt": repository.created, "private": repository.private,
        "gated": False, "disabled": False, "downloads": 0, "likes": 0, "cardData": card or None,
        "tags": _tags(repository, commit, card, config), "pipeline_tag": card.get("pipeline_tag"),
        "library_name": card.get("library_name"),
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
    }  # fmt: skip
    if repository.kind == "model":
        info |= {"modelId": repository.name, "config": config, "model-index": card.get("model-index"), "spaces": []}
    if repository.kind == "space":
        info |= {"sdk": card.get("sdk", repository.sdk), "host": None, "subdomain": None}
    return json.loads(json.dumps(info, default=str))  # a card may hold dates


def _text(commit: Commit, path: str) -> str:
    return commit.tree[path].content.decode(errors="replace") if path in commit.tree else ""


def _config(commit: Commit) -> dict:
    try:
        found = json.loads(_text(commit, "config.json") or "{}")
    except ValueError:
        return {}
    return {key: found[key] for key in ("architectures", "model_type", "auto_map") if key in found}


def _tags(repository: Repository, commit: Commit, card: dict, config: dict) -> list[str]:
    def listed(key):
        value = card.get(key) or []
        return value if isinstance(value, list) else [value]

    tags = [card.get("library_name"), config.get("model_type"), card.get("pipeline_tag"), *listed("tags")]
    tags += [f"{name}:{value}" for name in ("license",) for value in listed(name)]
    tags += [f"dataset:{value}" for value in listed("datasets")]
    tags += [*listed("language"), *(f"task_categories:{value}" for value in listed("task_categories"))]
    tags += ["safetensors" if any(path.endswith(".safetensors") for path in commit.tree) else None]
    tags += [card.get("sdk", repository.sdk) if repository.kind == "space" else None, "region:us"]
    return list(dict.fromkeys(str(tag) for tag in tags if tag))


def _sibling(path: str, entry: Entry, blobs: bool) -> dict:
    told = {"rfilename": path}
    if blobs:
        told |= {"blobId": entry.oid, "size": entry.size}
        if entry.lfs:
            told["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": len(entry.stored)}
    return told


# ---- files


@route("GET", "/api/{kind}/{id}/tree/{rest}")
def _tree(call: Call) -> Answer:
    repository = call.repository()
    commit, folder = split_revision(repository, call.parts["rest"])
    start = f"{folder}/" if folder else ""
    inside = [path for path in commit.tree if path.startswith(start)]
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist on this revision", "EntryNotFound")
    shown = _with_folders(inside)
    if not call.flag("recursive"):
        shown = [path for path in shown if "/" not in path[len(start) :]]
    shown = [path for path in shown if path.startswith(start)]
    expand = call.flag("expand")
    return page(call, [_described(repository, commit, path, expand) for path in shown], 50 if expand else 1000)


@route("POST", "/api/{kind}/{id}/paths-info/{rest}")
def _paths_info(call: Call) -> Answer:
    repository = call.repository()
    commit = repository.at(call.words)
    if "json" in call.headers.get("content-type", ""):
        asked = call.json()
        paths, expand = asked.get("paths", []), bool(asked.get("expand"))
    else:
        asked = parse_qs(call.body.decode())
        paths, expand = asked.get("paths", []), asked.get("expand", [""])[0].lower() in ("1", "true")
    there = set(_with_folders(list(commit.tree)))
    return answer([_described(repository, commit, path, expand) for path in paths if path in there])


def _with_folders(paths: list[str]) -> list[str]:
    folders = {path[: at.start()] for path in paths for at in re.finditer("/", path)}
    return sorted({*paths, *folders})


def _described(repository: Repository, commit: Commit, path: str, expand: bool) -> dict:
    entry = commit.tree.get(path)
    if entry is None:
        below = sorted((one, e.oid) for one, e in commit.tree.items() if one.startswith(f"{path}/"))
        oid = hashlib.sha1(json.dumps(below).encode()).hexdigest()
        told = {"type": "directory", "oid": oid, "size": 0, "path": path}
    else:
        told = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.lfs:
            told["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(entry.stored)}
    if expand:
        last = repository.last_change(commit.oid, path)
        told["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return told


@route("GET", "/{prefix}{id}/(?:resolve|raw)/{rest}")
def _resolve(call: Call) -> Answer:
    repository = call.repository()
    commit, path = split_revision(repository, call.parts["rest"])
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    entry = commit.tree.get(path)
    if entry is None:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    raw = call.path[len(call.parts["prefix"] + call.parts["id"]) + 1 :].startswith("/raw/")
    content = entry.stored if raw else entry.content
    headers["ETag"] = f'"{entry.oid if raw else entry.etag}"'
    headers["Content-Type"] = "application/octet-stream" if b"\0" in content[:512] else "text/plain; charset=utf-8"
    name = path.rsplit("/", 1)[-1]
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";"
    if entry.lfs and not raw:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    return _ranged(call.headers.get("range"), content, headers)


def _ranged(asked: str | None, content: bytes, headers: dict[str, str]) -> Answer:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", (asked or "").replace(" ", ""))
    if not found or not any(found.groups()):
        return Answer(200, content, headers)
    size = len(content)
    if found[1]:
        start, stop = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    else:
        start, stop = max(0, size - int(found[2])), size
    if start >= stop:
        raise HubError(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(206, content[start:stop], headers)


# ---- history


@route("GET", "/api/{kind}/{id}/refs")
def _refs(call: Call) -> Answer:
    repository = call.repository()

    def listed(names, folder):
        return [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in names.items()]

    branches, tags = listed(repository.branches, "heads"), listed(repository.tags, "tags")
    return answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@route("GET", "/api/{kind}/{id}/commits/{rest}")
def _commits(call: Call) -> Answer:
    told = []
    for one in call.repository().ancestors(call.words):
        authors = [{"user": one.author, "avatar": ""}]
        told.append({"id": one.oid, "title": one.title, "message": one.message, "date": one.date, "authors": authors})
        if "formatted" in call.query.get("expand[]", []):
            told[-1]["formatted"] = {"title": one.title, "message": one.message}
    return page(call, told, 50)
