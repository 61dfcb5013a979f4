"""What the local Hub keeps, in memory: users, repositories with their commits, collections. Knows nothing of HTTP."""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

KINDS = ("model", "dataset", "space")
LARGE = 10 * 2**20  # bytes from which a file goes to LFS, whatever its name
_LFS_ENDINGS = (
    "7z arrow avro bin bz2 ckpt ftz gz h5 hdf5 joblib lz4 mds mlmodel model msgpack npy npz onnx ot parquet pb pickle "
    "pkl pt pth rar safetensors tar tflite tgz wasm xz zip zst bmp gif jpeg jpg png tiff webp flac mp3 ogg wav mp4 webm"
).split()
GITATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _LFS_ENDINGS).encode()


class HubError(Exception):
    """What the Hub refuses: a status, its words, the `X-Error-Code` if there is one, and more of the JSON answer."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **more):
        super().__init__(message)
        self.status, self.message, self.code, self.headers, self.more = status, message, code, headers or {}, more


@dataclass(frozen=True)
class User:
    """Who holds a token: a name, the organisations that may be written to, `read` or `write`."""

    name: str
    organisations: tuple[str, ...] = ()
    role: str = "write"

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.name, *self.organisations)


@dataclass(frozen=True)
class Entry:
    """One version of a file."""

    content: bytes
    lfs: bool = False

    @property
    def size(self) -> int:
        return len(self.content)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def stored(self) -> bytes:
        """What git holds of it: the content itself, or LFS's pointer to it."""
        if not self.lfs:
            return self.content
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """Git's name of what it holds."""
        return hashlib.sha1(b"blob %d\0" % len(self.stored) + self.stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A state of the files, and where it came from."""

    oid: str
    parents: tuple[str, ...]
    title: str
    message: str
    author: str
    date: str
    tree: dict[str, Entry] = field(repr=False)


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Repository:
    """Commits that never go away, branches and tags that point to them, LFS objects."""

    def __init__(self, kind: str, name: str, author: str, private: bool = False, sdk: str | None = None):
        self.kind, self.name, self.private, self.sdk = kind, name, private, sdk
        self.identity, self.created = secrets.token_hex(12), now()
        self.history: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        tree = {".gitattributes": Entry(GITATTRIBUTES)}
        if kind == "space":
            title = name.split("/")[1]
            tree["README.md"] = Entry(f"---\ntitle: {title}\nsdk: {sdk}\npinned: false\n---\n".encode())
        self._append("main", "initial commit", "", author, tree)

    @property
    def namespace(self) -> str:
        return self.name.split("/")[0]

    def find(self, revision: str) -> str | None:
        """The commit behind a branch, a tag, `HEAD`, or (the first 7 digits of) its id."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for names in (self.branches, self.tags, {"HEAD": self.branches["main"]}):
            if name in names:
                return names[name]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            return next((oid for oid in self.history if oid.startswith(revision)), None)
        return None

    def at(self, revision: str) -> Commit:
        """The commit behind a name; see `find`."""
        oid = self.find(revision)
        if oid is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[oid]

    def ancestors(self, revision: str) -> list[Commit]:
        """The commits of a revision, newest first."""
        commits = [self.at(revision)]
        while commits[-1].parents:
            commits.append(self.history[commits[-1].parents[0]])
        return commits

    def last_change(self, revision: str, path: str) -> Commit:
        """The newest commit in which a file, or anything in a folder, became what it is."""
        commits = self.ancestors(revision)
        state = _below(commits[0].tree, path)
        for newer, older in zip(commits, commits[1:], strict=False):
            if _below(older.tree, path) != state:
                return newer
        return commits[-1]

    def commit(self, branch: str, header: dict, operations: list[tuple[str, dict]], author: str) -> Commit:
        """Carry out all operations, or none."""
        head = self.at(branch)
        if branch not in self.branches:
            raise HubError(400, f"Not a branch: {branch}")
        parent = header.get("parentCommit")
        if parent and not head.oid.startswith(parent):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for key, value in operations:
            self._apply(tree, key, value)
        return self._append(branch, header["summary"], header.get("description") or "", author, tree)

    def _apply(self, tree: dict[str, Entry], key: str, value: dict) -> None:
        path = value["path"]
        if any(part in ("", ".", "..", ".git") for part in path.rstrip("/").split("/")):
            raise HubError(400, f"Invalid path: {path}")
        if key == "file":
            tree[path] = Entry(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            tree[path] = Entry(self.objects[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [path] if key == "deletedFile" else list(_below(tree, path.rstrip("/")))
            if not gone or not all(one in tree for one in gone):
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            for one in gone:
                del tree[one]
        else:
            raise HubError(400, f"Unknown operation: {key}")

    def _append(self, branch: str, title: str, message: str, author: str, tree: dict[str, Entry]) -> Commit:
        parents = (self.branches[branch],) if branch in self.branches else ()
        date = now()
        told = [
            parents,
            title,
            message,
            author,
            date,
            secrets.token_hex(8),
            sorted((p, e.oid) for p, e in tree.items()),
        ]
        oid = hashlib.sha1(json.dumps(told).encode()).hexdigest()
        self.history[oid] = Commit(oid, parents, title, message, author, date, tree)
        self.branches[branch] = oid
        return self.history[oid]


def _below(tree: dict[str, Entry], path: str) -> dict[str, Entry]:
    return {one: entry for one, entry in tree.items() if one == path or one.startswith(f"{path}/")}


@dataclass
class Item:
    """What a collection lists."""

    type: str
    id: str
    note: str | None = None
    identity: str = field(default_factory=lambda: secrets.token_hex(12))


@dataclass
class Collection:
    """A list of repositories under a title."""

    owner: str
    title: str
    description: str = ""
    private: bool = False
    theme: str = "orange"
    items: list[Item] = field(default_factory=list)
    identity: str = field(default_factory=lambda: secrets.token_hex(12))
    changed: str = field(default_factory=now)

    @property
    def slug(self) -> str:
        words = re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")
        return f"{self.owner}/{words}-{self.identity}"


class Store:
    """Everything the local Hub knows, and who may see or change it."""

    def __init__(self):
        self.users: dict[str, User] = {}  # by token
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.moved: dict[tuple[str, str], str] = {}
        self.collections: dict[str, Collection] = {}  # by identity, as a slug's words change with the title
        self.uploads: dict[str, tuple[Repository, str]] = {}  # an upload's address -> whose object it will be

    def may_read(self, user: User | None, item: Repository | Collection) -> bool:
        namespace = item.namespace if isinstance(item, Repository) else item.owner
        return not item.private or (user is not None and namespace in user.namespaces)

    def repository(self, kind: str, name: str, user: User | None = None, write: bool = False) -> Repository:
        """A repository that the user may read, or even write; the same answer if it is private or not there."""
        if write:
            require(user)
        found = self.repositories.get((kind, name))
        if found is None or not self.may_read(user, found):
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write:
            self.require_write(user, found.namespace)
        return found

    def require_write(self, user: User | None, namespace: str) -> None:
        """403 unless the token is one for writing and the namespace the user's own or an organisation's."""
        if require(user).role != "write":
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
        if namespace not in user.namespaces:
            raise HubError(403, f"Forbidden: you don't have the rights to write under the namespace {namespace}.")

    def create(self, kind: str, name: str, user: User | None, private: bool, sdk: str | None) -> Repository:
        """A new repository with its initial commit; 409 if there is one of that name."""
        self.require_write(user, name.split("/")[0])
        if kind not in KINDS or not re.fullmatch(r"[\w-]+/\w[\w.-]{0,94}\w|[\w-]+/\w", name) or "--" in name:
            raise HubError(400, f"Invalid repository: {kind} {name}")
        if kind == "space" and sdk not in ("gradio", "streamlit", "docker", "static"):
            raise HubError(400, f"Invalid sdk of a space: {sdk}")
        if (kind, name) in self.repositories:
            raise HubError(409, f"You already created this {kind} repo: {name}")
        self.moved.pop((kind, name), None)
        self.repositories[kind, name] = Repository(kind, name, user.name, private, sdk)
        return self.repositories[kind, name]

    def move(self, kind: str, old: str, new: str, user: User | None) -> None:
        """Rename a repository; the old name leads to it."""
        repository = self.repository(kind, old, user, write=True)
        self.require_write(user, new.split("/")[0])
        if (kind, new) in self.repositories:
            raise HubError(409, f"{new} exists")
        del self.repositories[kind, old]
        repository.name, self.repositories[kind, new], self.moved[kind, old] = new, repository, new

    def collection(self, slug: str, user: User | None, write: bool = False) -> Collection:
        """A collection by the last word of its slug."""
        if write:
            require(user)
        found = self.collections.get(slug.rsplit("-", 1)[-1])
        if found is None or slug.split("/")[0] != found.owner or not self.may_read(user, found):
            raise HubError(404, "Collection not found")
        if write:
            self.require_write(user, found.owner)
        return found


def require(user: User | None) -> User:
    """The user; 401 for nobody."""
    if user is None:
        raise HubError(401, "Invalid username or password.")
    return user
