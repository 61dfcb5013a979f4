"""Releases: everything is made, checked and tried before anything is uploaded, and tried again from where it went.

`push` is what `dualspace push` and `training/release.py` call.
"""

import math
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .console import quiet
from .files import CARD, MANIFEST, atomic_folder, write_manifest
from .hub import Hub, Pushed
from .release_checks import check
from .release_kinds import KINDS, kind_of
from .release_plan import Item, Release, find_release, load_release, single
from .staging import Staged
from .verification import verify

CONTENT = ("license", "data", "card", "carbon", "trust_remote_code")
"""What can be said of an item beside its name and place."""
TAG = re.compile(r"(?!.*\.\.)(?!.*\.lock$)\w(?:[\w.+-]{0,98}[\w+-])?")


def push(
    path: str,
    to: str,
    *,
    dry_run: bool = False,
    private: bool = False,
    tag: str = "",
    collection: str = "",
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Brings something to the Hub, and looks at it there; returns what was done.

    Args:
        path: a run, a model, a data set, the metric's folder; or a release, by its file or the name of one of ours.
        to: the repository's name, `me/dualspace-vegas`; of a release the namespace, `me`.
        dry_run: do all of it but what the Hub does; without the network, unless a data set is only there.
        private: nobody else shall see it.
        tag: of this release; made of its content otherwise.
        collection: the title of a collection it goes into.
        out: keep what goes, or would go, to the Hub in this folder too.
        progress: say on stderr what is being done.
        settings: of every item that does not say otherwise: `license`, `data`, `card`, `carbon`, `trust_remote_code`.

    Example:
        ```python
        push("runs/tiny", "me/dualspace-vegas-synthetic", license="apache-2.0", dry_run=True)
        ```
    """
    release = _plan(path, to, private, tag, collection, settings)
    out = _check_out(out) if out is not None else None
    hub = None if dry_run else Hub()
    if hub:
        hub.check_names([item.name for item in release.items])
    with _place(out) as folder, quiet():
        staged = _stage(release, folder, progress)
        wrong = [f"{one.repo_id}: {line}" for one in staged for line in check(one)]
        if wrong:
            raise ValueError(f"Nothing was uploaded. {' '.join(wrong)}")
        if hub:
            hub.check(staged, release.tag)
        _say(progress, "trying what would be pushed, in a fresh process")
        seen, pushed, address = _verified(staged), {}, None
        if hub:
            pushed = _uploaded(hub, staged, release.tag, progress)
            _say(progress, "trying what was pushed, in a fresh process")
            seen = _verified(staged, commits={name: one.commit for name, one in pushed.items()})
            namespace = to.split("/")[0]
            address = hub.collect(namespace, release, staged) if release.collection else None
        return {
            "dry_run": dry_run,
            "repositories": [_said(one, pushed.get(one.repo_id), seen[one.repo_id]) for one in staged],
            "collection": address or release.collection or None,
            "out": str(out) if out is not None else None,
        }


def _uploaded(hub: Hub, staged: Sequence[Staged], tag: str, progress: bool) -> dict[str, Pushed]:
    """What became of each repository; each is complete before the next is begun."""
    pushed = {}
    for one in staged:
        _say(progress, f"pushing {one.repo_id}")
        pushed[one.repo_id] = hub.push(one, tag)
    return pushed


def _plan(path: str, to: str, private: bool, tag: str, collection: str, settings: Mapping[str, Any]) -> Release:
    """What to release, and how, of what a person said here and in a file."""
    file = find_release(path)
    release = load_release(file, to) if file else single(path, to)
    unknown = sorted(set(settings) - set(CONTENT))
    if unknown:
        raise TypeError(f"push takes no {', '.join(unknown)}: beside the rest it takes {', '.join(CONTENT)}.")
    tag = tag or release.tag
    if tag and (not TAG.fullmatch(tag) or tag in ("main", "HEAD")):
        raise ValueError(f"A tag is made of letters, digits, single dots, -, + and _, like v1.0, got {tag!r}.")
    given = {name: value for name, value in settings.items() if _is_said(value)}
    everywhere = private or release.private
    items = [replace(item, private=everywhere or item.private) for item in release.items]
    _check_here(items)
    return replace(
        release,
        items=[_with(item, given, of_several=bool(file)) for item in items],
        private=everywhere,
        tag=tag,
        collection=collection or release.collection,
    )


def _check_here(items: Sequence[Item]) -> None:
    absent = [item for item in items if item.path and not Path(item.path).exists()]
    if absent:
        how = "; ".join(f"{item.path} (by {item.made_by})" if item.made_by else item.path for item in absent)
        raise ValueError(f"Nothing was uploaded. Not here, and to be made first: {how}.")


def _with(item: Item, given: Mapping[str, Any], *, of_several: bool) -> Item:
    """What is said of all goes for each that can have it, and does not say otherwise."""
    kind = kind_of(item.path, item.kind)
    refused = [name for name in given if name not in kind.takes]
    refused = [] if of_several else refused
    refused += [name for name in CONTENT if name not in kind.takes and _is_said(getattr(item, name))]
    carbon = given.get("carbon", item.carbon)
    if carbon is not None and not 0 <= carbon < math.inf:
        raise ValueError(f"{item.name}: the carbon of a training is a number of grams of at least 0, got {carbon}.")
    if refused:
        raise ValueError(f"{item.name}: a {kind.name} takes no {', '.join(refused)}: {kind.refuses}.")
    taken = {name: value for name, value in given.items() if name in kind.takes}
    if of_several:
        taken = {name: value for name, value in taken.items() if not _is_said(getattr(item, name))}
    return replace(item, kind=kind.name, **taken)


def _is_said(value: Any) -> bool:
    return not (value is None or value is False or value == "")


def _stage(release: Release, folder: Path, progress: bool) -> list[Staged]:
    """All repositories of a release, in the order of their kinds, each in a folder of its own."""
    staged: list[Staged] = []
    for item in sorted(release.items, key=lambda item: kind_of(item.path, item.kind).order):
        _say(progress, f"making {item.name}")
        kind = kind_of(item.path, item.kind)
        target = folder / f"{kind.repo_type}s" / item.name
        target.mkdir(parents=True)
        one = Staged(kind.name, item.name, kind.repo_type, target, private=item.private, source=item.path)
        try:
            kind.stage(item, one, staged)
        except (ValueError, TypeError) as error:
            raise ValueError(f"Nothing was uploaded. {item.name}: {error}") from None
        write_manifest(target)
        one.seal()
        staged.append(one)
    return staged


def _verified(staged: Sequence[Staged], commits: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    try:
        return verify(staged, commits=commits)
    except ValueError as error:
        if commits is not None:
            raise RuntimeError(
                f"What was pushed is complete, but loading it from the Hub did not go well: {error} (Was it the "
                "network? The same command looks again.)"
            ) from None
        raise ValueError(f"Nothing was uploaded. {error}") from None


def _said(one: Staged, pushed: Pushed | None, seen: Sequence[str]) -> dict[str, Any]:
    return {
        "repo_id": one.repo_id,
        "kind": one.kind,
        "private": pushed.private if pushed else one.private,
        "source": one.source,
        "files": [{"path": name, "size": facts.size, "sha256": facts.sha256} for name, facts in one.files.items()],
        "card": one.card,
        "notes": one.notes,
        "verified": list(seen),
        "url": pushed.url if pushed else None,
        "commit": pushed.commit if pushed else None,
        "tag": pushed.tag if pushed else None,
        "changed": pushed.changed if pushed else None,
        "tagged": pushed.tagged if pushed else None,
    }


def render(result: Mapping[str, Any]) -> str:
    """What was done, as plain text: of what was not uploaded every file, and the cards."""
    lines: list[str] = []
    for one in result["repositories"]:
        to = f"{one['kind']} {one['repo_id']}{' (private)' if one['private'] else ''}"
        lines += ["", f"{to}, from {one['source']}" if one["source"] else to]
        if result["dry_run"]:
            width = max(len(entry["path"]) for entry in one["files"])
            lines += [
                f"  {entry['path']:{width}}  {entry['size']:12,}  {entry['sha256'][:12]}" for entry in one["files"]
            ]
            lines += [f"  --- {CARD} ---", *(f"  | {line}".rstrip() for line in one["card"].splitlines()), "  ---"]
        else:
            count = len(one["files"])
            lines.append(f"  {one['url']}")
            what = f"pushed, {count} files" if one["changed"] else "is there already, nothing changed"
            what += ", but for a new tag" if one["tagged"] and not one["changed"] else ""
            lines.append(f"  {what}: revision {one['tag']}, commit {one['commit'][:10]}")
        lines += [f"  seen: {line}" for line in one["verified"]]
        lines += [f"  note: {line}" for line in one["notes"]]
    if result["collection"]:
        lines += ["", f"Collection: {result['collection']}"]
    if result["out"]:
        lines += ["", f"Kept in {result['out']}"]
    if result["dry_run"]:
        lines += ["", "Nothing was uploaded (--dry-run)."]
    return "\n".join(lines).strip("\n")


def _check_out(out: str | Path) -> Path:
    """The folder; raises where it holds anything that was not kept by a release before."""
    out = Path(out)
    found = [path.name for path in out.iterdir()] if out.is_dir() else [out.name] if out.exists() else []
    foreign = [name for name in found if name not in (MANIFEST, *(f"{kind.repo_type}s" for kind in KINDS))]
    if foreign:
        raise ValueError(
            f"--out {out} holds {foreign[0]}, which no release put there: name a folder that is not there yet."
        )
    return out


@contextmanager
def _place(out: Path | None) -> Iterator[Path]:
    """Where everything is put together: for a while, or to stay."""
    with tempfile.TemporaryDirectory(prefix="dualspace-release-") as folder:
        yield Path(folder)
        if out is not None:
            with atomic_folder(out, overwrite=True) as kept:
                for path in Path(folder).rglob("*"):
                    if path.is_file():
                        # A copy: what is kept may be edited, and what it was made of must not change with it.
                        target = kept / path.relative_to(folder)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(path, target)


def _say(progress: bool, text: str) -> None:
    if progress:
        print(text, file=sys.stderr)
