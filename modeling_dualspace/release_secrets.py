"""What is nobody's business: tokens, keys and passwords in whatever is to be released, and folders of this machine."""

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import get_token

# What it is, what it always holds (which is found fast, and then looked around), and how all of it looks.
SECRETS: list[tuple[str, tuple[bytes, ...], re.Pattern[bytes]]] = [
    ("a Hugging Face token", (b"hf_", b"api_org_"), re.compile(rb"\b(?:hf|api_org)_[A-Za-z0-9]{30,}")),
    ("a GitHub token", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"), re.compile(
        rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})")),
    ("a GitLab token", (b"glpat-",), re.compile(rb"\bglpat-[\w-]{20,}")),
    ("an npm token", (b"npm_",), re.compile(rb"\bnpm_[A-Za-z0-9]{36}")),
    ("an AWS key", (b"AKIA", b"ASIA"), re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("an AWS key", (b"aws_secret_access_key",), re.compile(rb"aws_secret_access_key\W{1,5}[A-Za-z0-9/+]{40}")),
    ("a signed token", (b"eyJ",), re.compile(rb"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}")),
    ("a Google key", (b"AIza",), re.compile(rb"\bAIza[\w-]{35}")),
    ("an API key", (b"sk-", b"sk_"), re.compile(
        rb"\bsk[-_](?=[\w-]{0,64}\d)(?=[\w-]{0,64}[A-Z])[\w-]{24,}|\bsk_(?:live|test)_[A-Za-z0-9]{16,}")),
    ("a Slack token", (b"xox",), re.compile(rb"\bxox[abeoprs]-[\w-]{10,}")),
    ("a private key", (b"-----BEGIN ",), re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY")),
    ("a password in an address", (b"://",), re.compile(
        rb"(?i:\b[a-z][a-z0-9+.]{1,9})://[\w.%-]{0,64}:[^\s/@:\"'`<>{}$*]{1,64}@[\w[]")),
]  # fmt: skip
BEFORE, BEHIND = 80, 240
"""How far around it is looked."""
WORDS = {"TOKEN", "PAT", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "KEY", "APIKEY", "CREDENTIAL", "CREDENTIALS"}
"""In the name of an environment variable whose content is nobody's business."""
PLACES = {"PATH", "FILE", "DIR", "URL", "NAME", "HOME"}
"""At the end of the name of one that says where something is."""
NAMES = re.compile(
    r"^(?:\.env.*|\.netrc|_netrc|\.git-credentials|\.npmrc|\.pypirc|id_(?:rsa|dsa|ecdsa|ed25519)|.*\.(?:pem|key|p12|pfx)"
    r"|(?:credentials?|secrets?)(?:\.\w+)?)$",
    re.IGNORECASE,
)
PERSONAL = re.compile(rb"(?:/home|/Users)/[^/\s\"'\x00-\x1f]+/|[A-Z]:\\\\?Users\\\\?[^\\\s]+\\")
HOMES = (b"/home/", b"/Users/", b"Users\\")
PIECE, OVERLAP = 1 << 24, 4096


def secret_in(path: Path) -> str | None:
    """Which secret a file holds, in words."""
    own = _own_secrets()
    for content in _contents(path):
        for what, anchors, pattern in SECRETS:
            if any(pattern.search(around) for anchor in anchors for around in _around(content, anchor)):
                return what
        if any(secret in content for secret in own):
            return "what an environment variable, or the login to the Hub, keeps secret here"
    return None


def _around(content: bytes, anchor: bytes) -> Iterator[bytes]:
    """What stands around each place where the anchor is, which spares an expression most of the bytes."""
    place = content.find(anchor)
    while place >= 0:
        yield content[max(0, place - BEFORE) : place + BEHIND]
        place = content.find(anchor, place + 1)


def is_personal(path: Path) -> bool:
    """Whether a file names somebody's folder."""
    home = str(Path.home()).encode() + b"/"
    return any(
        (len(home) > 2 and home in content) or (any(word in content for word in HOMES) and PERSONAL.search(content))
        for content in _contents(path)
    )


def _own_secrets() -> list[bytes]:
    """What must not leave this machine."""
    found = [get_token() or ""]
    found += [value for name, value in os.environ.items() if is_secret(name) and not _is_place(value)]
    return [value.encode("utf-8", "surrogateescape") for value in found if len(value) >= 12]


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds what is nobody's business."""
    words = name.upper().split("_")
    return words[-1] not in PLACES and any(word in WORDS or word.endswith(("PASSWORD", "TOKEN")) for word in words)


def _is_place(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # longer than any name
        return False


def _contents(path: Path) -> Iterator[bytes]:
    """A file in pieces that overlap; of what is compressed also what is in it."""
    if path.suffix == ".parquet":
        yield from _texts(path)
    if path.suffix == ".gz":
        with suppress(OSError, EOFError, zlib.error), gzip.open(path) as packed:
            yield from _pieces(packed)
    with path.open("rb") as file:
        yield from _pieces(file)


def _pieces(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    tail, wide = b"", None
    while chunk := file.read(PIECE):
        if wide is None:  # UTF-16, where every other byte of a token is 0
            wide = chunk[:2] in (b"\xff\xfe", b"\xfe\xff")
        yield (tail + chunk).replace(b"\x00", b"") if wide else tail + chunk
        tail = chunk[-OVERLAP:]


def _texts(path: Path) -> Iterator[bytes]:
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        yield "\n".join([*schema.names, str(schema.metadata or ""), str(schema)]).encode()
        names = [one.name for one in schema if _has_text(one.type)]
        for group in file.iter_batches(columns=names) if names else ():
            for column in group.columns:
                yield b"\n".join(_bytes_in(column.to_pylist()))
    except (pa.ArrowException, OSError):
        return  # loading it, which comes next, says what is wrong


def _has_text(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_text(kind.field(number).type) for number in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return _has_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_binary(kind) or str(kind).startswith(("large_", "string_", "binary"))


def _bytes_in(value: Any) -> Iterator[bytes]:
    """All texts and bytes, however deep."""
    if isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for one in value.items():
            yield from _bytes_in(list(one))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _bytes_in(one)
