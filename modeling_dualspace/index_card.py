"""The card of an index: a data set's, with whose embeddings these are."""

from pathlib import Path
from typing import Any

import yaml

from .files import CARD, write_file
from .index_rows import Identity, schema
from .yaml_files import Dumper, Loader

_TAGS = ("audio-visual", "cross-modal-retrieval", "dualspace")
_SYNTHETIC = "\n**SYNTHETIC: a program made up what these embeddings come of.**\n"
_BODY = """
# Index of {clips:,} clips

Embeddings of [{model}](#the-model), to find video by sound and sound by video:

```python
from modeling_dualspace.index import open_index

index = open_index("{name}")
hits = index.search(audio="bark.wav", k=10)  # the clips whose pictures go with that sound
```

or `dualspace search {name} --audio bark.wav`, or, as a page, `dualspace app {name}`.

## What is in it

`data/` holds batches in the order they were added. A clip may be in several: the last row of a `clip_id` counts, and
one that is `deleted` takes it away (`Index.save` writes a copy without what is gone). Columns: `clip_id`; `path`,
`start` and `end` of the film, in seconds; `labels`, the names of its classes; `metadata`, as JSON; `source`, the
fingerprint of the data set it comes from; `audio_embeds` and `visual_embeds`, {stored}. This card is written
anew whenever clips are added; a `license` in its head stays.

## The model

`{model}`, a `{model_type}` with the fingerprint `{fingerprint}`. Embeddings of any other model have nothing to do with
these, and are refused.
"""


def write_index_card(
    folder: Path, identity: Identity, clips: int, batches: int, *, name: str = "", license: str = "",
    synthetic: bool = False,
) -> None:  # fmt: skip
    """Writes README.md, whole or not at all.

    Args:
        folder: of the index.
        identity: of its model.
        clips: that it holds.
        batches: in `data/`.
        name: it is loaded by.
        license: of the embeddings, as the Hub calls it.
        synthetic: whether they come of made-up features.
    """
    head: dict[str, Any] = {"license": license} if license else {}
    head |= {"pretty_name": f"Index of {clips} clips", "tags": [*_TAGS, *(["synthetic"] if synthetic else [])]}
    head |= {"kind": "index", **identity.to_dict()}
    head["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}]
    # The description alone reaches the key of what `load_dataset` caches: without it a batch more is not noticed.
    about = _about(identity, clips, batches)
    head["dataset_info"] = {"description": about, "features": _features(identity)}
    stored = f"bits of codes of {identity.dim}, packed" if identity.codes else f"unit rows of {identity.dim} numbers"
    body = _BODY.format(
        clips=clips, model=identity.model_id, name=name or folder.resolve().name, stored=stored,
        model_type=identity.model_type, fingerprint=identity.fingerprint,
    )  # fmt: skip
    text = yaml.dump(head, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
    write_file(folder / CARD, f"---\n{text}---\n{_SYNTHETIC if synthetic else ''}{body}".encode())


def settle_index_card(folder: Path, identity: Identity, clips: int, batches: int) -> None:
    """Writes the card anew where it does not say what the index holds; licence and origin stay as they were said."""
    head = _head(folder)
    if _about(identity, clips, batches) != dict(head.get("dataset_info") or {}).get("description"):
        license, synthetic = said_of(folder)
        write_index_card(folder, identity, clips, batches, license=license, synthetic=synthetic)


def _about(identity: Identity, clips: int, batches: int) -> str:
    return f"index={identity.fingerprint} clips={clips} batches={batches}"


def _features(identity: Identity) -> list[dict[str, Any]]:
    """The schema as `datasets` writes it."""
    found: list[dict[str, Any]] = []
    for column in schema(identity):
        if column.name.endswith("_embeds"):
            kind = "uint8" if identity.codes else "float32"
            found.append({"name": column.name, "list": kind, "length": identity.width})
        elif column.name == "labels":
            found.append({"name": column.name, "list": "string"})
        else:
            kinds = {"start": "float64", "end": "float64", "deleted": "bool"}
            found.append({"name": column.name, "dtype": kinds.get(column.name, "string")})
    return found


def is_index(folder: Path) -> bool:
    """Whether a folder says it is an index."""
    try:
        return _head(folder).get("kind") == "index"
    except ValueError:
        return False


def read_index_card(folder: Path) -> Identity:
    """Whose embeddings an index holds; raises where a folder is none."""
    head = _head(folder)
    if head.get("kind") != "index":
        raise ValueError(f"{folder} is no index: expected a folder that `dualspace index` wrote.")
    try:
        return Identity.from_dict(head)
    except ValueError as error:
        raise ValueError(f"{folder / CARD} is no card of an index that this version reads: {error}.") from None


def said_of(folder: Path) -> tuple[str, bool]:
    """Under which licence the card says embeddings may be passed on, and whether they come of made-up features."""
    head = _head(folder)
    return str(head.get("license") or ""), "synthetic" in (head.get("tags") or ())


def _head(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        _, head, _ = text.split("---\n", 2)
        found = yaml.load(head, Loader)
    except (OSError, ValueError, yaml.YAMLError):
        raise ValueError(
            f"{folder} is no index: expected a folder that `dualspace index` wrote, with README.md and data/."
        ) from None
    return found if isinstance(found, dict) else {}
