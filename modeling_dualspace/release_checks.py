"""What must be right before anything is uploaded: nothing secret, nothing unfilled, nothing that cannot be seen."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import RepoCard, get_token

from .files import CARD, MANIFEST
from .staging import Staged

SECRETS = {
    "a Hugging Face token": rb"\b(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})",
    "an AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google key": rb"\bAIza[\w-]{35}",
    "an API key": rb"\bsk-[\w-]{24,}",
    "a Slack token": rb"\bxox[abeoprs]-[\w-]{10,}",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY",
    "a password in an address": rb"\b[a-z][a-z0-9+.]{1,9}://[\w.%-]{1,64}:[^\s/@:\"'`<>{]{1,64}@",
}
OWN_SECRETS = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(?:_ID)?$", re.IGNORECASE)
"""Names of environment variables whose content is nobody's business."""
SECRET_NAMES = re.compile(r"^(?:\.env|\.netrc|\.git-credentials|id_[a-z0-9]+|.*\.(?:pem|key|p12|pfx))$")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
UNFILLED = re.compile(
    r"\{\{|\}\}|\{%|%\}|\[More Information Needed\]|\bTODO\b|\bFIXME\b|\| *(?:None|nan|Undefined) *\|"
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#]+)[^)]*\)")
PERSONAL = re.compile(rb"(?:/home|/Users)/[^/\s\"'\x00-\x1f]+/|[A-Z]:\\\\?Users\\\\?[^\\\s]+\\")
OVERLAP = 4096


def check(staged: Staged) -> list[str]:
    """What is wrong, one sentence each; nothing is uploaded unless that is nothing. Adds to the notes."""
    return [*_card_problems(staged), *_name_problems(staged), *_file_problems(staged)]


def _card_problems(staged: Staged) -> Iterator[str]:
    try:
        card = RepoCard(staged.card)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        yield f"Its card, {CARD}, cannot be read: {' '.join(str(error).split())}."
        return
    license_ = card.data.get("license")
    if not license_:
        yield "No licence is given: say --license apache-2.0, or whichever it is, or `license` in the release."
    elif license_ in ("unknown", ["unknown"]) and not staged.private:
        yield (
            "Nobody said under which licence it may be passed on, so it is pushed to nowhere public: say so in its "
            "card once you know (`DataCard(license=...)`, --license for a model), or keep it to yourself by --private."
        )
    prose = re.sub(r"^```.*?^```", "", card.text, flags=re.DOTALL | re.MULTILINE)
    unfilled = UNFILLED.search(prose)
    if unfilled:
        line = next(line for line in prose.splitlines() if unfilled[0] in line).strip()
        yield f"A field of its card is not filled: {unfilled[0].strip(' |')} in the line {line[:80]!r}."
    for target in LINK.findall(prose):
        if not re.match(r"[a-z]+:", target) and not (staged.folder / target).is_file():
            yield f"Its card shows {target}, and there is no such file: a picture comes out of results, or not at all."


def _name_problems(staged: Staged) -> Iterator[str]:
    if not staged.synthetic:
        return
    if "synthetic" not in staged.repo_id.split("/")[1].lower():
        yield f"It comes of synthetic features, and its name must say so: call it {staged.repo_id}-synthetic."
    body = RepoCard(staged.card).text.strip().splitlines() if (staged.folder / CARD).is_file() else [""]
    if not any("synthetic" in line.lower() for line in [line for line in body if line][:3]):
        yield "It comes of synthetic features, and the first lines of its card must say so."


def _file_problems(staged: Staged) -> Iterator[str]:
    own = _own_secrets()
    personal: list[str] = []
    for path in sorted(staged.folder.rglob("*")):
        name = path.relative_to(staged.folder).as_posix()
        if not path.is_file():
            continue
        if SECRET_NAMES.match(path.name):
            yield f"{name} is called as files with secrets are: move it away."
        elif path.name[0] == "." and path.name != MANIFEST:
            yield f"{name} is hidden: move it away, or rename it."
        if path.suffix in PICKLES:
            yield f"{name} is a pickle, which runs code where it is loaded: save it as safetensors."
        found = _found_in(path, own)
        if found.startswith("!"):
            personal.append(name)
        elif found:
            yield f"{name} holds {found}: take it out, and have it revoked if anybody may have seen it."
    if personal:
        staged.notes.append(f"{', '.join(personal)} names folders of this machine, and everybody could read that.")


def _own_secrets() -> list[bytes]:
    named = [value for name, value in os.environ.items() if OWN_SECRETS.search(name)]
    return [value.encode() for value in (get_token() or "", *named) if len(value) >= 12]


def _found_in(path: Path, own: Sequence[bytes]) -> str:
    """Which secret a file holds; `!` where it only names somebody's folder; empty where neither."""
    personal, home = "", str(Path.home()).encode() + b"/"
    for content in _contents(path):
        for what, pattern in SECRETS.items():
            if re.search(pattern, content):
                return what
        if any(secret in content for secret in own):
            return "what an environment variable or the Hub's login here keeps secret"
        if PERSONAL.search(content) or (len(home) > 2 and home in content):
            personal = "!"
    return personal


def _contents(path: Path) -> Iterator[bytes]:
    """A file in pieces that overlap; of Parquet the texts, which are compressed there."""
    if path.suffix == ".parquet":
        yield from _texts(path)
        return
    with path.open("rb") as file:
        tail = b""
        while chunk := file.read(1 << 24):
            yield tail + chunk
            tail = chunk[-OVERLAP:]


def _texts(path: Path) -> Iterator[bytes]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException:
        return  # loading it, which comes next, says what is wrong
    names = [
        one.name for one in file.schema_arrow if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)
    ]
    for group in file.iter_batches(columns=names) if names else ():
        for column in group.columns:
            yield "\n".join(value for value in column.to_pylist() if value).encode()
