"""The nearest of very many rows, nearly: faiss looks into a few of many lists, and says how much that misses.

What comes out of the lists is compared exactly, as everything else is; rows that came after the lists were made are
searched exactly too.
"""

import json
import logging
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .files import short_digest, write_json
from .nearest import Columns, in_order, nearest
from .optional import require

logger = logging.getLogger(__name__)
LEAST = 20_000
"""Rows from which on lists are worth it."""
TRIED = 200
"""Queries that probes are chosen by, and as many others that the recall is stated of."""
AT = 10
WANTED = 0.95
FEW = 0.1
"""The share of rows that may be found below which they are searched exactly."""
SHARE = 4
"""Lists are made anew once a fourth of them again has come."""


class Lists:
    """An inverted file over the rows of a gallery that were there when it was made.

    Args:
        index: of faiss.
        rows: how many it covers.
        probes: lists that are looked into.
        recall: the share of the exact first ten that is found, of queries that chose nothing.
    """

    def __init__(self, index: Any, rows: int, probes: int, recall: float):
        self.index, self.rows, self.probes, self.recall = index, rows, probes, recall

    @classmethod
    def build(cls, gallery: Columns, queries: np.ndarray, banned: np.ndarray | None = None) -> "Lists":
        """Makes lists, and looks into as many as it takes to find `WANTED` of the exact first ten.

        Args:
            gallery: what is searched.
            queries: `(2 * TRIED, width)` or fewer, as they will be asked: of the other modality.
            banned: rows that may never be found.
        """
        faiss = require("faiss", extra="search")
        stored = gallery.take(np.arange(len(gallery)))
        count, width = max(1, min(round(2 * len(stored) ** 0.5), len(stored) // 40)), stored.shape[1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, count, faiss.METRIC_INNER_PRODUCT)
        usable = np.arange(len(stored)) if banned is None else np.flatnonzero(~banned)
        index.train(stored[usable[np.linspace(0, len(usable) - 1, min(len(usable), 64 * count)).astype(int)]])
        index.add(stored)
        lists = cls(index, len(stored), 1, 0.0)
        while lists.recall_of(gallery, queries[::2], banned) < WANTED and lists.probes < count:
            lists.probes = min(count, 2 * lists.probes)
        lists.recall = lists.recall_of(gallery, queries[1::2], banned)
        return lists

    def recall_of(self, gallery: Columns, queries: np.ndarray, banned: np.ndarray | None = None) -> float:
        """The share of the exact first ten that the lists find."""
        exact = nearest(gallery, queries, AT, banned)
        found = self.nearest(gallery, queries, AT, banned)
        hits = [
            len(np.intersect1d(one[0], other[0])) / max(1, len(one[0])) for one, other in zip(exact, found, strict=True)
        ]
        return float(np.mean(hits)) if hits else 1.0

    def nearest(
        self, gallery: Columns, queries: np.ndarray, k: int, banned: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `nearest.nearest`, of the rows in the lists that are looked into, and of all that came later.

        Where few rows may be found, lists that were chosen for all of them hold too few: those are searched exactly,
        and so is a query that found less than it asked for.
        """
        allowed = len(gallery) if banned is None else len(gallery) - int(banned.sum())
        if allowed < FEW * len(gallery):
            return nearest(gallery, queries, k, banned)
        faiss = require("faiss", extra="search")
        settings: dict[str, Any] = {"nprobe": self.probes}
        if banned is not None:
            settings["sel"] = faiss.IDSelectorBitmap(np.packbits(~banned[: self.rows], bitorder="little"))
        _, rows = self.index.search(queries, min(k + AT, self.rows), params=faiss.SearchParametersIVF(**settings))
        later = nearest(gallery.after(self.rows), queries, k, None if banned is None else banned[self.rows :])
        found = [
            in_order(gallery, query, np.union1d(one[one >= 0], self.rows + other), k)
            for query, one, (other, _) in zip(queries, rows, later, strict=True)
        ]
        short = [number for number, (one, _) in enumerate(found) if len(one) < min(k, allowed)]
        for number, one in zip(short, nearest(gallery, queries[short], k, banned) if short else (), strict=True):
            found[number] = one
        return found

    def is_old(self, rows: int) -> bool:
        """Whether so much has come since that they should be made anew."""
        return rows - self.rows > self.rows // SHARE

    def describe(self) -> dict[str, Any]:
        """What a person should know."""
        return {"lists": self.index.nlist, "probes": self.probes, f"recall@{AT}": round(self.recall, 4)}


def cached_lists(
    cache: Path, among: str, gallery: Columns, queries: np.ndarray, banned: np.ndarray | None = None
) -> Lists:
    """Lists as they were kept, or made now and kept where that can be, in place of those of before."""
    faiss = require("faiss", extra="search")
    file = cache / f"lists-{among}-{_digest(gallery)}.faiss"
    about = file.with_suffix(".json")
    with suppress(RuntimeError, OSError, ValueError, KeyError):
        said = json.loads(about.read_text(encoding="utf-8"))
        return Lists(faiss.read_index(str(file)), len(gallery), int(said["probes"]), float(said["recall"]))
    lists = Lists.build(gallery, queries, banned)
    temporary = cache / f".tmp-{uuid.uuid4().hex}"
    try:
        cache.mkdir(exist_ok=True)
        faiss.write_index(lists.index, str(temporary))
        for former in cache.glob(f"lists-{among}-*"):
            former.unlink()
        temporary.replace(file)
        write_json(about, {"probes": lists.probes, "recall": lists.recall})
    except (OSError, RuntimeError) as error:
        logger.debug("%s could not be written: %s", file, error)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return lists


def _digest(gallery: Columns) -> str:
    """Of what is in it, however it lies in pieces."""
    sums = [0] * gallery.pieces[0].shape[0]
    for piece in gallery.pieces:
        sums = [zlib.crc32(row.tobytes(), total) for row, total in zip(piece, sums, strict=True)]
    return short_digest([str((len(gallery), *sums)).encode()])
