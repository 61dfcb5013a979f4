"""The Hub: one commit a repository, the same content never twice, and every failure a sentence that says what to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, get_token, hf_hub_url
from huggingface_hub.errors import LocalTokenNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from .files import MANIFEST, read_manifest
from .hub_faults import STALE, in_words, patiently, without_secrets
from .release_plan import Release
from .staging import Staged


@dataclass(frozen=True)
class Pushed:
    """What became of one repository.

    Args:
        url: of it.
        commit: what its main branch is now.
        tag: of this release.
        changed: whether any file was.
        tagged: whether the tag is new.
        private: whether nobody else sees it, as the Hub says.
    """

    url: str
    commit: str
    tag: str
    changed: bool
    tagged: bool
    private: bool


class Hub:
    """The account that this machine is logged in with.

    Raises where it is with none.
    """

    def __init__(self) -> None:
        self.api = HfApi()
        with in_words("asking who is logged in"):
            if not get_token():
                raise LocalTokenNotFoundError("none")
            account = patiently(self.api.whoami)
        self.name = account["name"]
        if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ValueError("The token may only read: make one that may write, and log in again by `hf auth login`.")
        self.namespaces = [self.name, *(one["name"] for one in account.get("orgs", []))]

    def check_names(self, names: Sequence[str]) -> None:
        """Raises where this account may not write to one of them."""
        for name in names:
            if name.split("/")[0] not in self.namespaces:
                raise ValueError(
                    f"{self.name} may write to {', '.join(self.namespaces)}, not to {name}: choose one of these, or "
                    "log in as somebody else (`hf auth login`)."
                )

    def check(self, staged: Sequence[Staged], tag: str) -> None:
        """Raises where one of the repositories cannot take this release; changes nothing."""
        for one in staged:
            self._check_card(one)
            info = self.info(one)
            if info is None:
                continue
            if one.private and not info.private:
                raise ValueError(
                    f"{one.repo_id} is public already: make it private on the Hub first, or choose another name."
                )
            tagged = self.tags(one).get(tag)
            if tagged and any(self.differences(one, tagged)):
                raise ValueError(f"{one.repo_id} has a release {tag} already, of other content: choose another --tag.")
            if tagged and any(self.differences(one, info.sha)):
                raise ValueError(
                    f"{tag} is a former release of {one.repo_id}, and its main branch has gone on: to go back to "
                    "what it was, choose another --tag."
                )

    def _check_card(self, staged: Staged) -> None:
        """What the Hub's own validator says of it."""
        with in_words(f"having the card of {staged.repo_id} checked"):
            try:
                patiently(RepoCard(staged.card).validate, repo_type=staged.repo_type)
            except ValueError as error:
                said = re.findall(r'"message": *"((?:[^"\\]|\\.)*)"', str(error)) or [" ".join(str(error).split())]
                what = without_secrets("; ".join(said).replace('\\"', '"'))
                raise ValueError(
                    f"Nothing was uploaded. The Hub does not take the card of {staged.repo_id}: {what}."
                ) from None

    def info(self, staged: Staged) -> Any:
        """What the Hub says of a repository; None where there is none."""
        with in_words(f"looking at {staged.repo_id}"):
            try:
                return patiently(self.api.repo_info, staged.repo_id, repo_type=staged.repo_type)
            except RepositoryNotFoundError:
                return None

    def _head(self, staged: Staged) -> str:
        info = self.info(staged)
        if info is None:
            raise RuntimeError(
                f"{staged.repo_id} is there and cannot be seen with this token, or was removed meanwhile: take a token "
                "that may read it, or choose another name."
            )
        return str(info.sha)

    def tags(self, staged: Staged) -> dict[str, str]:
        """The commits of its releases."""
        with in_words(f"looking at the releases of {staged.repo_id}"):
            refs = patiently(self.api.list_repo_refs, staged.repo_id, repo_type=staged.repo_type)
        return {ref.name: ref.target_commit for ref in refs.tags}

    def differences(self, staged: Staged, commit: str) -> tuple[list[str], list[str]]:
        """Which files a commit lacks or has otherwise, and which it has of a former release and not of this one."""
        with in_words(f"comparing with {staged.repo_id}"):
            tree = self.api.list_repo_tree(staged.repo_id, recursive=True, revision=commit, repo_type=staged.repo_type)
            there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
            former = patiently(self._manifest, staged, commit) if MANIFEST in there else {}
        missing = [name for name, facts in staged.files.items() if not _is_there(facts, there.get(name))]
        return missing, [name for name in former if name in there and name not in staged.files]

    def _manifest(self, staged: Staged, commit: str) -> dict[str, int]:
        """Which files were made by a release, asked of no cache; none where that cannot be read."""
        url = hf_hub_url(
            staged.repo_id, MANIFEST, repo_type=staged.repo_type, revision=commit, endpoint=self.api.endpoint
        )
        answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
        try:
            hf_raise_for_status(answer)
            return read_manifest(answer.text)
        except (RemoteEntryNotFoundError, ValueError):
            return {}

    def push(self, staged: Staged, tag: str = "") -> Pushed:
        """Brings a repository to what is staged, by one commit, and tags it. What is there already stays.

        Files that somebody else put there stay too; those of a former release that this one has not any more go.
        """
        with in_words(f"pushing {staged.repo_id}"):
            url = self._create(staged)
            first = self._head(staged)
            commit = patiently(self._commit, staged, tag, too=STALE)
            name = tag or f"release-{staged.digest[:8]}"
            tagged = self._tag(staged, commit, name)
            private = bool(self.info(staged).private)
        return Pushed(url, commit, name, commit != first, tagged, private)

    def _create(self, staged: Staged) -> str:
        url = patiently(
            self.api.create_repo,
            staged.repo_id,
            repo_type=staged.repo_type,
            private=staged.private or None,
            space_sdk=RepoCard(staged.card).data.get("sdk") if staged.repo_type == "space" else None,
            exist_ok=True,
        )
        return str(url)

    def _commit(self, staged: Staged, tag: str) -> str:
        """The commit at which the repository is what is staged; begins by looking what is there by now."""
        head = self._head(staged)
        missing, gone = self.differences(staged, head)
        if not missing and not gone:
            return head
        additions = [CommitOperationAdd(name, staged.folder / name) for name in missing]
        changed = [
            one.path_in_repo
            for one in additions
            if one.upload_info.sha256.hex() != staged.files[one.path_in_repo].sha256
        ]
        if changed:
            raise RuntimeError(f"{', '.join(changed)} changed after it was checked: run the same command again.")
        self._upload(staged, additions)
        operations: list[Any] = [*(CommitOperationDelete(name) for name in gone), *additions]
        title = f"Release {tag or staged.digest[:8]}"
        done = self.api.create_commit(
            staged.repo_id, operations, commit_message=title, repo_type=staged.repo_type, parent_commit=head
        )
        return str(done.oid)

    def _upload(self, staged: Staged, additions: Sequence[CommitOperationAdd]) -> None:
        """The large files, before the commit that names them. A `.gitignore` there is not asked."""
        with in_words(f"uploading to {staged.repo_id}"):  # the library was patient already
            self.api.preupload_lfs_files(
                staged.repo_id, additions, repo_type=staged.repo_type, free_memory=False, gitignore_content=""
            )
        ignored = [one.path_in_repo for one in additions if getattr(one, "_should_ignore", False)]
        if ignored:
            raise ValueError(
                f"{staged.repo_id} has a .gitignore by which the Hub leaves out {', '.join(ignored)}: remove it there."
            )

    def _tag(self, staged: Staged, commit: str, name: str) -> bool:
        """Whether the tag had to be made."""
        if name in self.tags(staged):
            return False
        settings: dict[str, Any] = {"tag": name, "revision": commit, "repo_type": staged.repo_type}
        patiently(self.api.create_tag, staged.repo_id, exist_ok=True, **settings)
        return True

    def collect(self, namespace: str, release: Release, staged: Sequence[Staged]) -> str:
        """Puts repositories into the release's collection, made where there is none; returns its address."""
        title = release.collection
        with in_words(f"collecting {title}"):
            found = next((one for one in self.api.list_collections(owner=namespace) if one.title == title), None)
            if found is None:
                found = patiently(
                    self.api.create_collection,
                    title,
                    namespace=namespace,
                    description=release.description[:150] or None,
                    private=release.private,
                    exists_ok=True,
                )
            for one in staged:
                item: dict[str, Any] = {"item_id": one.repo_id, "item_type": one.repo_type}
                patiently(self.api.add_collection_item, found.slug, exists_ok=True, **item)
        return f"{self.api.endpoint}/collections/{found.slug}"


def _is_there(facts: Any, entry: RepoFile | None) -> bool:
    if entry is None:
        return False
    return entry.lfs.sha256 == facts.sha256 if entry.lfs else entry.blob_id == facts.git
