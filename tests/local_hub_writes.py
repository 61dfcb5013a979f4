"""How repositories of the local Hub change: creation, uploads, commits, branches and tags."""

import base64
import fnmatch
import hashlib
import json
import secrets
from pathlib import PurePosixPath

from local_hub_cards import card_errors
from local_hub_routes import Answer, Call, answer, route
from local_hub_store import LARGE, Commit, HubError, Repository

# ---- repositories


def _asked_for(call: Call) -> tuple[str, str, dict]:
    asked = call.json()
    namespace = asked.get("organization") or (call.user.name if call.user else "")
    return asked.get("type") or "model", f"{namespace}/{asked.get('name')}", asked


def _url(call: Call, repository: Repository) -> str:
    prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
    return f"{call.base}/{prefix}{repository.name}"


@route("POST", "/api/repos/create")
def _create(call: Call) -> Answer:
    kind, name, asked = _asked_for(call)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    try:
        made = call.store.create(kind, name, call.user, private, asked.get("sdk"))
    except HubError as error:
        if error.status == 409:
            error.more["url"] = _url(call, call.store.repositories[kind, name])
        raise
    return answer({"url": _url(call, made), "name": made.name, "id": made.identity})


@route("DELETE", "/api/repos/delete")
def _delete(call: Call) -> Answer:
    kind, name, _ = _asked_for(call)
    call.store.repository(kind, name, call.user, write=True)
    del call.store.repositories[kind, name]
    return answer({})


@route("POST", "/api/repos/move")
def _move(call: Call) -> Answer:
    asked = call.json()
    call.store.move(asked.get("type") or "model", asked["fromRepo"], asked["toRepo"], call.user)
    return answer({})


@route("PUT", "/api/{kind}/{id}/settings")
def _settings(call: Call) -> Answer:
    repository, asked = call.repository(write=True), call.json()
    if "visibility" in asked or "private" in asked:
        repository.private = asked.get("visibility") == "private" or bool(asked.get("private"))
    return answer({"private": repository.private})


# ---- branches and tags


@route("POST", "/api/{kind}/{id}/branch/{rest}")
def _add_branch(call: Call) -> Answer:
    repository, asked = call.repository(write=True), call.json()
    if call.words in repository.branches and not asked.get("overwrite"):
        raise HubError(409, f"Reference already exists: refs/heads/{call.words}")
    repository.branches[call.words] = repository.at(asked.get("startingPoint") or "main").oid
    return answer({})


@route("POST", "/api/{kind}/{id}/tag/{rest}")
def _add_tag(call: Call) -> Answer:
    repository, name = call.repository(write=True), call.json()["tag"]
    oid = repository.at(call.words).oid
    if name in repository.tags:
        raise HubError(409, f"Tag reference exists already: {name}")
    repository.tags[name] = oid
    return answer({})


@route("DELETE", "/api/{kind}/{id}/(?P<what>branch|tag)/{rest}")
def _delete_reference(call: Call) -> Answer:
    repository = call.repository(write=True)
    names = repository.tags if call.parts["what"] == "tag" else repository.branches
    if call.words not in names:
        raise HubError(404, f"Reference not found: {call.words}", "RevisionNotFound")
    if names is repository.branches and call.words == "main":
        raise HubError(403, "Cannot delete the default branch")
    del names[call.words]
    return answer({})


# ---- uploads


@route("POST", "/api/{kind}/{id}/preupload/{rest}")
def _preupload(call: Call) -> Answer:
    commit, asked = call.repository(write=True).at(call.words), call.json()
    attributes = asked.get("gitAttributes") or _content(commit, ".gitattributes")
    ignored = asked.get("gitIgnore") or _content(commit, ".gitignore")
    patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line.split()[1:]]
    told = []
    for file in asked["files"]:
        path, there = file["path"], commit.tree.get(file["path"])
        binary = b"\0" in base64.b64decode(file.get("sample") or "")
        lfs = binary or file["size"] > LARGE or any(_matches(path, pattern) for pattern in patterns)
        skip = any(_matches(path, line) for line in ignored.splitlines() if line and not line.startswith("#"))
        told.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": skip})
        if there is not None:
            told[-1]["oid"] = there.etag
    return answer({"files": told})


def _content(commit: Commit, path: str) -> str:
    return commit.tree[path].content.decode() if path in commit.tree else ""


def _matches(path: str, pattern: str) -> bool:
    """Whether a git pattern without `!` covers a file: by its name, by a folder's name, by its whole path."""
    pattern = pattern.strip("/")
    if "/" in pattern:
        return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")
    return any(fnmatch.fnmatchcase(part, pattern) for part in PurePosixPath(path).parts)


@route("POST", "/{prefix}{id}[.]git/info/lfs/objects/batch")
def _batch(call: Call) -> Answer:
    repository, told = call.repository(write=True), []
    for asked in call.json()["objects"]:
        one = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in repository.objects:
            ticket = secrets.token_hex(8)
            call.store.uploads[ticket] = (repository, asked["oid"])
            verify = {"href": f"{_url(call, repository)}.git/info/lfs/objects/verify"}
            one["actions"] = {"upload": {"href": f"{call.base}/lfs/{ticket}"}, "verify": verify}
        told.append(one)
    return answer({"transfer": "basic", "objects": told})


@route("PUT", "/lfs/{ticket}")
def _put(call: Call) -> Answer:
    if call.parts["ticket"] not in call.store.uploads:
        raise HubError(403, "Request has expired")
    repository, oid = call.store.uploads[call.parts["ticket"]]
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise HubError(400, "The Content-SHA256 you specified did not match what we received")
    repository.objects[oid] = call.body
    return Answer(200, headers={"ETag": f'"{oid}"'})


@route("POST", "/{prefix}{id}[.]git/info/lfs/objects/verify")
def _verify(call: Call) -> Answer:
    repository, asked = call.repository(write=True), call.json()
    if len(repository.objects.get(asked["oid"], b"")) != asked["size"]:
        raise HubError(404, "Object does not exist on the server or has another size")
    return answer({})


@route("POST", "/api/{kind}/{id}/commit/{rest}")
def _commit(call: Call) -> Answer:
    repository = call.repository(write=True)
    if call.flag("create_pr"):
        raise HubError(400, "The local Hub knows no pull requests")
    header, operations = None, []
    for line in call.body.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            raise HubError(400, "A line of the commit is not JSON") from None
        value = told["value"]
        if told["key"] == "header":
            header = value
        else:
            if told["key"] == "file":
                encoded = value.get("encoding", "base64") == "base64"
                value["content"] = base64.b64decode(value["content"]) if encoded else value["content"].encode()
            operations.append((told["key"], value))
    if not (header and header.get("summary")):
        raise HubError(400, "A commit needs a summary")
    for key, value in operations:
        if (key, value["path"]) == ("file", "README.md"):
            _refuse_card(value["content"].decode(errors="replace"), repository.kind)
    made = repository.commit(call.words, header, operations, call.user.name)
    url = f"{_url(call, repository)}/commit/{made.oid}"
    return answer({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def _refuse_card(text: str, kind: str) -> None:
    errors, _ = card_errors(text, kind, need_licence=False)
    if errors:
        raise HubError(400, "Invalid metadata in README.md.\n" + "\n".join(f"- {one}" for one in errors))
