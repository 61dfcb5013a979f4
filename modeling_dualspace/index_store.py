"""Where an index lies, and all that it knows of that place."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from .index_filter import Filter
from .index_rows import Hit, Identity

MOST = 16_384
"""Clips that one search finds at most: what Milvus allows."""


class Store(Protocol):
    """The rows of an index, in the columns of `index_rows.schema`, in whichever place they lie."""

    identity: Identity
    """Whose embeddings they are."""

    @property
    def engine(self) -> str:
        """How they are searched, in words."""

    def __len__(self) -> int:
        """How many clips there are."""

    def add(self, rows: pa.Table) -> int:
        """Adds a batch, whole or not at all; clips that are there already are replaced. Returns its rows."""

    def delete(self, clip_ids: Sequence[str]) -> int:
        """Takes clips away, and returns how many there were."""

    def search(self, queries: np.ndarray, among: str, k: int, wanted: Filter) -> list[list[Hit]]:
        """The k nearest of each query `(q, dim)` among the sounds or the pictures, the best first."""

    def get(self, clip_ids: Sequence[str]) -> list[Hit | None]:
        """Clips by name, None where there is none; their score is NaN."""

    def fetch(self, clip_ids: Sequence[str]) -> pa.Table:
        """Clips by name, with their embeddings, those that are there."""

    def from_source(self, source: str) -> set[str]:
        """Names of the clips that came from a data set, by its fingerprint."""

    def facts(self, names: Sequence[str]) -> pa.Table:
        """Columns of all clips, without embeddings."""

    def batches(self, rows: int = ...) -> Iterator[pa.Table]:
        """All clips with their embeddings, as they would be added."""

    def sample(self, count: int) -> pa.Table:
        """Clips, evenly out of all and always the same, with their embeddings."""

    def counts(self) -> dict[str, int]:
        """How many clips have a sound (`audio`), and how many a picture (`visual`)."""

    def describe(self) -> dict[str, Any]:
        """What else there is to say of the place."""

    def settle(self) -> None:
        """Puts right what a process that was killed left undone."""

    def remove(self) -> None:
        """Removes the index."""

    def close(self) -> None:
        """Lets go of files, connections and memory."""
