"""The Hub: one commit a repository, the same content never twice, and every failure a sentence that says what to do."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from .files import MANIFEST, read_manifest
from .release_plan import Release
from .staging import Staged

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before asking again."""
LONGEST = 300.0
"""The longest pause that is made because the Hub asks for one."""
AGAIN = (429, 500, 502, 503, 504)
STALE = (409, 412)
"""Somebody else's commit was first, or the answer to our own was lost."""
KEEP = "What was uploaded so far is kept there, and no release was changed by half: run the same command again."


@dataclass(frozen=True)
class Pushed:
    """What became of one repository.

    Args:
        url: of it.
        commit: what its main branch is now.
        tag: of this release.
        changed: whether anything was.
    """

    url: str
    commit: str
    tag: str
    changed: bool


class Hub:
    """The account that this machine is logged in with.

    Raises where it is with none.
    """

    def __init__(self) -> None:
        self.api = HfApi()
        with _in_words("asking who is logged in"):
            if not get_token():
                raise LocalTokenNotFoundError("none")
            account = _patiently(self.api.whoami)
        self.name = account["name"]
        if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ValueError("The token may only read: make one that may write, and log in again by `hf auth login`.")
        self.namespaces = [self.name, *(one["name"] for one in account.get("orgs", []))]

    def check(self, staged: Sequence[Staged], tag: str) -> None:
        """Raises where one of the repositories cannot take this release; changes nothing."""
        for one in staged:
            if one.repo_id.split("/")[0] not in self.namespaces:
                raise ValueError(
                    f"{self.name} may write to {', '.join(self.namespaces)}, not to {one.repo_id}: choose one of "
                    "these, or log in as somebody else (`hf auth login`)."
                )
            self._check_card(one)
            info = self.info(one)
            if info is None:
                continue
            if one.private and not info.private:
                raise ValueError(
                    f"{one.repo_id} is public already: make it private on the Hub first, or choose another name."
                )
            if tag in self.tags(one) and (self.tags(one)[tag] != info.sha or any(self.differences(one, info.sha))):
                raise ValueError(f"{one.repo_id} has a release {tag} already, of other content: choose another --tag.")

    def _check_card(self, staged: Staged) -> None:
        """What the Hub's own validator says of it."""
        with _in_words(f"having the card of {staged.repo_id} checked"):
            try:
                _patiently(RepoCard(staged.card).validate, repo_type=staged.repo_type)
            except ValueError as error:
                said = re.findall(r'"message": *"((?:[^"\\]|\\.)*)"', str(error)) or [" ".join(str(error).split())]
                what = without_secrets("; ".join(said).replace('\\"', '"'))
                raise ValueError(
                    f"Nothing was uploaded. The Hub does not take the card of {staged.repo_id}: {what}."
                ) from None

    def info(self, staged: Staged) -> Any:
        """What the Hub says of a repository; None where there is none."""
        with _in_words(f"looking at {staged.repo_id}"):
            try:
                return _patiently(self.api.repo_info, staged.repo_id, repo_type=staged.repo_type)
            except RepositoryNotFoundError:
                return None

    def tags(self, staged: Staged) -> dict[str, str]:
        """The commits of its releases."""
        with _in_words(f"looking at the releases of {staged.repo_id}"):
            refs = _patiently(self.api.list_repo_refs, staged.repo_id, repo_type=staged.repo_type)
        return {ref.name: ref.target_commit for ref in refs.tags}

    def differences(self, staged: Staged, commit: str) -> tuple[list[str], list[str]]:
        """Which files a commit lacks or has otherwise, and which it has of a former release and not of this one."""
        where: dict[str, Any] = {"repo_id": staged.repo_id, "repo_type": staged.repo_type, "revision": commit}
        with _in_words(f"comparing with {staged.repo_id}"):
            tree = _patiently(lambda: list(self.api.list_repo_tree(recursive=True, **where)))
            there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
            former = {}
            if MANIFEST in there:
                try:
                    path = _patiently(self.api.hf_hub_download, filename=MANIFEST, **where)
                    with open(path, encoding="utf-8") as file:
                        former = read_manifest(file.read())
                except (EntryNotFoundError, ValueError, UnicodeDecodeError):
                    logger.debug("%s has no list of its files that can be read", staged.repo_id)
        missing = [name for name, facts in staged.files.items() if not _is_there(facts, there.get(name))]
        return missing, [name for name in former if name in there and name not in staged.files]

    def push(self, staged: Staged, tag: str = "") -> Pushed:
        """Brings a repository to what is staged, by one commit, and tags it. What is there already stays.

        Files that somebody else put there stay too; those of a former release that this one has not any more go.
        """
        with _in_words(f"pushing {staged.repo_id}"):
            url = self._create(staged)
            first = self.info(staged).sha
            commit = self._commit(staged, tag)
            tag = self._tag(staged, commit, tag)
        return Pushed(url, commit, tag, commit != first)

    def _create(self, staged: Staged) -> str:
        url = _patiently(
            self.api.create_repo,
            staged.repo_id,
            repo_type=staged.repo_type,
            private=staged.private or None,
            space_sdk="gradio" if staged.repo_type == "space" else None,
            exist_ok=True,
        )
        return str(url)

    def _commit(self, staged: Staged, tag: str) -> str:
        """The commit at which the repository is what is staged; each try begins by looking what is there by now."""

        def bring() -> str:
            head = self.info(staged).sha
            missing, gone = self.differences(staged, head)
            if not missing and not gone:
                return str(head)
            operations: list[Any] = [CommitOperationAdd(name, staged.folder / name) for name in missing]
            operations += [CommitOperationDelete(name) for name in gone]
            title = f"Release {tag or staged.digest[:8]}"
            done = self.api.create_commit(
                staged.repo_id, operations, commit_message=title, repo_type=staged.repo_type, parent_commit=head
            )
            return str(done.oid)

        return _patiently(bring, too=STALE)

    def _tag(self, staged: Staged, commit: str, tag: str) -> str:
        name = tag or f"release-{staged.digest[:8]}"
        if name not in self.tags(staged):
            _patiently(
                self.api.create_tag,
                staged.repo_id,
                tag=name,
                revision=commit,
                repo_type=staged.repo_type,
                exist_ok=True,
            )
        return name

    def collect(self, namespace: str, release: Release, staged: Sequence[Staged]) -> str:
        """Puts repositories into the release's collection, made where there is none; returns its address."""
        title = release.collection
        with _in_words(f"collecting {title}"):
            found = next((one for one in self.api.list_collections(owner=namespace) if one.title == title), None)
            if found is None:
                found = _patiently(
                    self.api.create_collection,
                    title,
                    namespace=namespace,
                    description=release.description[:150] or None,
                    private=release.private,
                    exists_ok=True,
                )
            for one in staged:
                _patiently(
                    self.api.add_collection_item,
                    found.slug,
                    item_id=one.repo_id,
                    item_type=one.repo_type,
                    exists_ok=True,
                )
        return f"{self.api.endpoint}/collections/{found.slug}"


def _is_there(facts: Any, entry: RepoFile | None) -> bool:
    if entry is None:
        return False
    return entry.lfs.sha256 == facts.sha256 if entry.lfs else entry.blob_id == facts.git


def _patiently(ask: Callable[..., Any], *arguments: Any, too: Sequence[int] = (), **settings: Any) -> Any:
    """What is asked; again, after the pause the Hub asks for, where it was busy or the connection broke.

    `huggingface_hub` itself does so for uploads, and not for commits. What is asked here may be asked twice.

    Args:
        ask: what to call.
        *arguments: of it.
        too: further answers of the Hub after which to ask again, at once.
        **settings: of it.
    """
    for wait in WAITS:
        try:
            return ask(*arguments, **settings)
        except (HTTPError, RuntimeError) as error:
            cause = _of_the_hub(error)
            if cause is None:
                raise
            status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
            if status is not None and status not in (*AGAIN, *too):
                raise
            asked = cause.response.headers.get("Retry-After", "") if status == 429 else ""  # type: ignore[attr-defined]
            time.sleep(min(float(asked), LONGEST) if asked.isdecimal() else 0.0 if status in too else wait)
    return ask(*arguments, **settings)


def _of_the_hub(error: BaseException) -> HTTPError | None:
    """What went wrong between here and the Hub; an upload hides it behind an error of its own."""
    return (
        error if isinstance(error, HTTPError) else error.__cause__ if isinstance(error.__cause__, HTTPError) else None
    )


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """What goes wrong while something is done, in words, and without what is secret."""
    try:
        with _secrets_kept():
            yield
    except OfflineModeIsEnabled:
        raise ValueError(
            f"{what}: HF_HUB_OFFLINE is set, so the Hub is not asked: unset it, or use --dry-run."
        ) from None
    except LocalTokenNotFoundError:
        raise ValueError(
            "Nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN; --dry-run needs neither."
        ) from None
    except (HTTPError, RuntimeError) as error:
        cause = _of_the_hub(error)
        if cause is None:
            raise
        if isinstance(cause, HfHubHTTPError):
            raise RuntimeError(f"{what}: {_explain(cause)}") from None
        raise RuntimeError(f"{what}: the connection to the Hub broke ({without_secrets(str(cause))}). {KEEP}") from None


@contextmanager
def _secrets_kept() -> Iterator[None]:
    """What the library logs of requests it tries again has no token in it, and no signed address."""

    def plain(record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True

    handlers = logging.getLogger("huggingface_hub").handlers
    for handler in handlers:
        handler.addFilter(plain)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(plain)


def _explain(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = without_secrets(" ".join(str(error.server_message or "").split()))
    said = f" ({said})" if said else ""
    if status == 401:
        return f"the Hub does not know this token{said}: log in again by `hf auth login`, or set HF_TOKEN anew."
    if status == 403:
        return f"the token may not do this{said}: take one that may write there."
    if status == 404:
        return f"there is no such thing on the Hub, or this token may not see it{said}."
    if status == 413:
        return f"a file is too large for the Hub{said}: write the data set in smaller shards."
    if status in STALE:
        return f"somebody else keeps changing it at the same time{said}. {KEEP}"
    if status == 429:
        return f"the Hub asks for a pause{said}. {KEEP}"
    if status >= 500:
        return f"the Hub has a fault of its own, {status}{said}. {KEEP}"
    return f"the Hub refused it with {status}{said}: mend that, and run the same command again."


def without_secrets(text: str) -> str:
    """A text in which no token stands, nor what an address was signed with.

    Example:
        ```python
        >>> without_secrets("Bearer hf_" + "a" * 34)
        'Bearer [token]'

        ```
    """
    token = get_token()
    text = text.replace(token, "[token]") if token else text
    text = re.sub(r"(https?://[^\s?]+)\?[^\s'\")]+", r"\1", text)
    return re.sub(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}", "[token]", text)
