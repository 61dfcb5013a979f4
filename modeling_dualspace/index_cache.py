"""What was read of a large index, as it lies in memory, so that the next to open it need not read it again.

Derived from the batches it names, and from nothing else: whoever removes it loses a second or so.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .index_rows import MODALITIES, Identity

logger = logging.getLogger(__name__)
CACHE = ".cache"


@dataclass(frozen=True)
class Kept:
    """Clips in the order they were added, none of them gone.

    Args:
        shards: the batches they come from, each with its size and its time.
        facts: the rows, without embeddings.
        blocks: embeddings `(width, n)` by modality, zeros where there is none.
        absent: which rows have none, by modality.
    """

    shards: Mapping[str, list[int]]
    facts: pa.Table
    blocks: Mapping[str, np.ndarray]
    absent: Mapping[str, np.ndarray]


def load_kept(folder: Path, identity: Identity) -> Kept | None:
    """The last that was kept, mapped into memory; None where there is none, or none of the batches that are there."""
    with suppress(FileNotFoundError):
        for place in sorted((folder / CACHE).glob("rows-*")):
            try:
                about = json.loads((place / "about.json").read_text(encoding="utf-8"))
                if about["identity"] != identity.to_dict() or not _are_there(folder / "data", about["shards"]):
                    continue
                with pa.memory_map(str(place / "facts.arrow")) as source:
                    facts = pa.ipc.open_file(source).read_all()
                arrays = {
                    kind: {
                        name: np.asarray(np.load(place / f"{kind}-{name}.npy", mmap_mode="r")) for name in MODALITIES
                    }
                    for kind in ("blocks", "absent")
                }
                return Kept(about["shards"], facts, **arrays)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
                logger.debug("%s is left out: %s", place, error)
    return None


def keep(folder: Path, identity: Identity, kept: Kept) -> None:
    """Keeps it in place of what was kept before, where the folder can be written to."""
    cache = folder / CACHE
    temporary = cache / f".tmp-{uuid.uuid4().hex}"
    former = list(cache.glob("rows-*")) if cache.is_dir() else []
    try:
        temporary.mkdir(parents=True)
        for kind in ("blocks", "absent"):
            for name, array in getattr(kept, kind).items():
                np.save(temporary / f"{kind}-{name}.npy", array)
        with (
            pa.OSFile(str(temporary / "facts.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, kept.facts.schema) as writer,
        ):
            writer.write_table(kept.facts)
        about: dict[str, Any] = {"identity": identity.to_dict(), "shards": dict(kept.shards)}
        (temporary / "about.json").write_text(json.dumps(about), encoding="utf-8")
        temporary.rename(cache / f"rows-{uuid.uuid4().hex[:8]}")
        for place in (*former, *cache.glob(".tmp-*")):  # who has it mapped keeps it until he lets go
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        logger.debug("%s could not be written: %s", cache, error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def stamps(data: Path, shards: Iterable[str]) -> dict[str, list[int]]:
    """By which it is seen that batches are those that were read: sizes, and times in nanoseconds."""
    found = {shard: (data / shard).stat() for shard in shards}
    return {shard: [stat.st_size, stat.st_mtime_ns] for shard, stat in found.items()}


def _are_there(data: Path, shards: Mapping[str, list[int]]) -> bool:
    return stamps(data, shards) == dict(shards)
