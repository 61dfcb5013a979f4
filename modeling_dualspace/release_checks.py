"""What must be right before anything is uploaded: nothing secret, nothing unfilled, nothing that cannot be seen."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from .card_template import parse
from .files import CARD, MANIFEST
from .release_secrets import NAMES, is_personal, secret_in
from .staging import Staged

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"}
PACKED = ([".gz"], [".bz2"], [".xz"], [".zip"], [".zst"])
UNFILLED = re.compile(r"\{\{|\}\}|\{%|%\}|\[More Information Needed\]|\bTODO\b|\bFIXME\b")
CODE = re.compile(r"^ *(```+|~~~+).*?^ *\1`*~*[ \t]*$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(
    r"""!\[[^\]]*\]\(\s*(?:<([^>]+)>|([^)\s]+))|<img\b[^>]*\bsrc\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE
)
LINKED = re.compile(r"(?<!!)\[[^\]]*\]\(\s*(?:<([^>]+)>|([^)\s]+))|^ *\[[^\]^]+\]:\s*<?([^\s>]+)", re.MULTILINE)


def check(staged: Staged) -> list[str]:
    """What is wrong, one sentence each; nothing is uploaded unless that is nothing. Adds to the notes."""
    return [*_card_problems(staged), *_file_problems(staged)]


def _card_problems(staged: Staged) -> Iterator[str]:
    try:
        card = parse(staged.card, staged.repo_type)
    except (OSError, ValueError) as error:
        yield f"Its card, {CARD}, cannot be read: {' '.join(str(error).split()).rstrip('.')}."
        return
    yield from _licence_problems(staged, card.data.get("license"))
    if card.data.get("license") == "other" and not card.data.get("license_name"):
        yield "Its licence is `other`: say which by `license_name` and `license_link` in the metadata of its template."
    prose = CODE.sub("", card.text)
    unfilled = UNFILLED.search(f"{card.data}\n{prose}")
    if unfilled:
        line = next(line for line in f"{card.data}\n{prose}".splitlines() if unfilled[0] in line).strip()
        yield f"A field of its card is not filled: {unfilled[0]} in the line {line[:80]!r}."
    yield from _picture_problems(staged, prose)
    if staged.synthetic:
        yield from _synthetic_problems(staged, card.text)


def _licence_problems(staged: Staged, licence: object) -> Iterator[str]:
    names = [str(name).strip().lower() for name in (licence if isinstance(licence, list) else [licence or ""])]
    if not all(names) or not names:
        yield "No licence is given: say --license apache-2.0, or whichever it is, or `license` in the release."
    elif "unknown" in names and not staged.private:
        yield (
            "Nobody said under which licence it may be passed on, so it is pushed to nowhere public: say so in its "
            "card once you know (`DataCard(license=...)`, or --license of `extract`, and of the push of a model, an "
            "index or a page), or keep it to yourself by --private."
        )


def _picture_problems(staged: Staged, prose: str) -> Iterator[str]:
    """What a card shows must come along; what it links to must too, unless it is elsewhere."""
    shown = {next(filter(None, found)) for found in SHOWN.findall(prose)}
    linked = {next(filter(None, found)) for found in LINKED.findall(prose)}
    for target in sorted(shown | linked):
        path = unquote(target.split("#")[0].split("?")[0])
        elsewhere = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", target) or (target in linked and target.startswith("/"))
        if elsewhere or not path:
            continue
        name = re.sub(r"^(?:\./)+", "", path).rstrip("/")
        known = name in staged.files or (target in linked and any(file.startswith(f"{name}/") for file in staged.files))
        if not known:
            yield f"Its card shows {target}, and there is no such file: a picture comes out of results, or not at all."


def _synthetic_problems(staged: Staged, text: str) -> Iterator[str]:
    if "synthetic" not in staged.repo_id.split("/")[1].lower():
        yield f"It comes of synthetic features, and its name must say so: call it {staged.repo_id}-synthetic."
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")  # the heading is but the name
    if "synthetic" not in first.lower():
        yield f"It comes of synthetic features, and the first line of its card must say so, not {first[:60]!r}."


def _file_problems(staged: Staged) -> Iterator[str]:
    personal: list[str] = []
    for name in staged.files:
        path, parts = staged.folder / name, Path(name).parts
        if any(NAMES.match(part) for part in parts):
            yield f"{name} is called as files with secrets are: move it away."
        elif any(part.startswith(".") for part in parts) and name != MANIFEST:
            yield f"{name} is hidden: move it away, or rename it."
        suffixes = [suffix.lower() for suffix in path.suffixes]
        if PICKLES & set(suffixes[-2:] if suffixes[-1:] in PACKED else suffixes[-1:]):
            yield f"{name} is a pickle, which runs code where it is loaded: save it as safetensors."
        found = secret_in(path)
        if found:
            yield f"{name} holds {found}: take it out, and have it revoked if anybody may have seen it."
        elif is_personal(path):
            personal.append(name)
    if personal:
        staged.notes.append(f"{', '.join(personal)} names folders of this machine, and everybody could read that.")
