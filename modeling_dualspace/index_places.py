"""Where an index lies: a folder, Milvus by URI, or the Hub; and whose embeddings it will hold."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError

from .console import sentence
from .files import CARD, model_fingerprint
from .index_folder import FolderStore
from .index_milvus import MilvusStore
from .index_rows import Identity
from .index_store import Store
from .milvus_place import Place
from .results import is_hub_id


def is_uri(place: str | Path) -> bool:
    """Whether a place is one of Milvus, a server or a file of Milvus Lite (it is a folder), and no index's folder."""
    return Place.is_one(str(place)) and not (Path(place) / CARD).is_file()


def is_there(place: str) -> bool:
    """Whether there is anything at a place already."""
    if is_uri(place):
        return MilvusStore.exists(place)
    return Path(place).is_dir() and any(Path(place).iterdir())


def create_store(place: str | Path, identity: Identity) -> Store:
    """An empty index, at a place where nothing is."""
    return MilvusStore.create(str(place), identity) if is_uri(place) else FolderStore.create(Path(place), identity)


def open_store(place: str | Path, *, approximate: bool = False) -> Store:
    """An index that is there; one of the Hub is downloaded, and cannot be changed."""
    if is_uri(place):
        if approximate:
            raise ValueError("Milvus has its own indexes of vectors: `approximate` is for an index in a folder.")
        return MilvusStore.open(str(place))
    if Path(place).is_dir():
        return FolderStore.open(Path(place), approximate=approximate)
    return FolderStore.open(_downloaded(str(place)), approximate=approximate, copied=str(place))


def copy_store(out: str | Path, identity: Identity, batches: Iterable[pa.Table], **said: Any) -> Store:
    """A new index with some rows; what could not be finished is removed again."""
    if not is_uri(out):
        return FolderStore.save(Path(out), identity, batches, **said)
    store = MilvusStore.create(str(out), identity)
    try:
        for rows in batches:
            store.add(rows)
    except BaseException:
        store.remove()
        raise
    return store


def _downloaded(place: str) -> Path:
    """An index of the Hub."""
    if not is_hub_id(place):
        raise ValueError(
            f"{place} is no index: expected a folder that `dualspace index` wrote, an id of the Hub, or a place in "
            "Milvus like http://host:19530#name or films.db#name."
        )
    try:
        patterns = ["README.md", "data/*.parquet"]
        return Path(snapshot_download(place, repo_type="dataset", allow_patterns=patterns))
    except (HTTPError, OSError, ValueError) as error:
        raise ValueError(
            f"{place} is no folder here, and could not be had from the Hub as an index: {sentence(error)}"
        ) from None


def identity_of(model: Any, name: str = "") -> Identity:
    """What an index says of its model.

    Args:
        model: loaded.
        name: by what; a folder is named from the root on, so that it is found from elsewhere.
    """
    config = model.config
    name = name or str(getattr(config, "_name_or_path", ""))
    if Path(name).is_dir():
        name = str(Path(name).resolve())
    return Identity(
        name or type(model).__name__,
        config.model_type,
        model_fingerprint(model),
        config.feature_spec,
        int(config.output_dim),
        bool(getattr(config, "codes", False)),
    )
