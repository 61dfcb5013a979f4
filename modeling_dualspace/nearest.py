"""The nearest of many rows, exactly: what float64 says, ties in the order of rows, and faster than a heap.

Scores of all rows are one product; the k-th best of the maxima of small blocks is a score that k rows reach, so that a
single comparison leaves little more than those; and these are compared in float64.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 256
"""Rows of which the best is looked at first."""
FLOATS = 1 << 22
"""Scores held at a time, of all queries together."""
NEAR = 1 << 14
"""Codes compared at a time: what is in between stays in the processor's cache."""
EXACTLY = 1 << 16
"""Rows compared in float64 at a time."""


class Columns:
    """Rows by column, `(width, n)`, which a product walks through fastest; in a few pieces, so that it can grow.

    A piece is merged with the one before when it has grown to half of it: appending costs no more than a few copies of
    each row in the end. What was handed out stays as it is.

    Args:
        pieces: arrays `(width, n)`.
    """

    def __init__(self, pieces: Sequence[np.ndarray]):
        self.pieces = list(pieces)
        while len(self.pieces) > 1 and 2 * self.pieces[-1].shape[1] >= self.pieces[-2].shape[1]:
            self.pieces[-2:] = [np.concatenate(self.pieces[-2:], axis=1)]

    def __len__(self) -> int:
        return sum(piece.shape[1] for piece in self.pieces)

    def with_rows(self, piece: np.ndarray) -> "Columns":
        """These and more."""
        return type(self)([*self.pieces, piece] if piece.shape[1] else self.pieces)

    def after(self, rows: int) -> "Columns":
        """Those that come after so many, seen where they lie."""
        found = copy.copy(self)
        left = [(max(0, rows - start), piece) for start, piece in self._placed()]
        found.pieces = [piece[:, skip:] for skip, piece in left if skip < piece.shape[1]] or [self.pieces[0][:, :0]]
        return found

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, `(n, width)`, in the order asked for."""
        found = np.empty((len(rows), self.pieces[0].shape[0]), dtype=self.pieces[0].dtype)
        for start, piece in self._placed():
            here = (rows >= start) & (rows < start + piece.shape[1])
            found[here] = piece[:, rows[here] - start].T
        return found

    def _placed(self) -> Iterator[tuple[int, np.ndarray]]:
        start = 0
        for piece in self.pieces:
            yield start, piece
            start += piece.shape[1]

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Of all rows, `(q, n)`: the larger the nearer."""
        raise NotImplementedError

    def exact(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Of some rows, as they are compared in the end."""
        raise NotImplementedError

    @property
    def margin(self) -> float:
        """How far a score may be from the exact one, twice."""
        return 0.0


class Vectors(Columns):
    """Unit rows of float32, compared by cosine."""

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """One product a piece."""
        if len(self.pieces) == 1:
            return np.asarray(queries @ self.pieces[0])
        found = np.empty((len(queries), len(self)), dtype=np.float32)
        for start, piece in self._placed():
            if piece.shape[1]:  # `out` of a product must be in one piece for a single query alone
                found[:, start : start + piece.shape[1]] = queries @ piece
        return found

    def exact(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Products of float32 are exact in float64, and each row is summed in the same way: equal rows tie."""
        parts = [
            (self.take(rows[start : start + EXACTLY]).astype(np.float64) * query.astype(np.float64)).sum(axis=1)
            for start in range(0, len(rows), EXACTLY)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def margin(self) -> float:
        """A product of unit rows of d numbers is off by no more than d roundings; rows may be a little longer."""
        return 2.1 * self.pieces[0].shape[0] * float(np.finfo(np.float32).eps)


class Codes(Columns):
    """Bits, 64 to a number, compared by Hamming distance; scores are cosines of the codes.

    Args:
        pieces: arrays `(words, n)` of uint64.
        bits: of a code.
    """

    def __init__(self, pieces: Sequence[np.ndarray], bits: int):
        super().__init__(pieces)
        self.bits = bits

    def with_rows(self, piece: np.ndarray) -> "Codes":
        """These and more."""
        return Codes([*self.pieces, piece] if piece.shape[1] else self.pieces, self.bits)

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Minus the distances."""
        found = np.empty((len(queries), len(self)), dtype=np.int16)
        for start, piece in self._placed():
            for row, query in zip(found, queries, strict=True):
                for first in range(0, piece.shape[1], NEAR):
                    part = piece[:, first : first + NEAR]
                    np.negative(_distances(query, part), out=row[start + first : start + first + part.shape[1]])
        return found

    def exact(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """As cosines."""
        return 1 - 2 * _distances(query, self.take(rows).T).astype(np.float64) / self.bits


def _distances(query: np.ndarray, words: np.ndarray) -> np.ndarray:
    distances = np.bitwise_count(np.bitwise_xor(words[0], query[0])).astype(np.int16)
    for mine, theirs in zip(query[1:], words[1:], strict=True):
        np.add(distances, np.bitwise_count(np.bitwise_xor(theirs, mine)), out=distances)
    return distances


def as_words(packed: np.ndarray) -> np.ndarray:
    """Packed codes `(n, bytes)` as `(n, words)` of uint64, filled with zeros."""
    rows, width = packed.shape
    whole = np.zeros((rows, -(-width // 8) * 8), dtype=np.uint8)
    whole[:, :width] = packed
    return whole.view(np.uint64)


def nearest(
    gallery: Columns, queries: np.ndarray, k: int, banned: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every query the rows of its k nearest and their scores, the best first; fewer where there are fewer.

    Args:
        gallery: what is searched.
        queries: `(q, width)`, stored as the gallery's rows are.
        k: how many.
        banned: `(n,)`, rows that may not be found.

    Example:
        ```python
        >>> rows = np.eye(3, dtype=np.float32)
        >>> [(found, scores)] = nearest(Vectors([rows.T]), rows[1:2], 2)
        >>> found.tolist(), scores.tolist()
        ([1, 0], [1.0, 0.0])

        ```
    """
    found = []
    step = max(1, FLOATS // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        for query, scores in zip(block, gallery.scores(block), strict=True):
            found.append(_best(gallery, query, scores, k, banned))
    return found


def _best(
    gallery: Columns, query: np.ndarray, scores: np.ndarray, k: int, banned: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    least = -np.inf if scores.dtype == np.float32 else np.iinfo(scores.dtype).min
    if banned is not None:
        np.putmask(scores, banned, least)
    threshold = _reached_by(scores, k)
    rows = np.flatnonzero(scores >= threshold - gallery.margin if threshold > least else scores > least)
    return in_order(gallery, query, rows, k)


def in_order(gallery: Columns, query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of some rows, which are in order, and their exact scores."""
    exact = gallery.exact(query, rows)
    order = np.argsort(-exact, kind="stable")[:k]
    return rows[order], exact[order]


def _reached_by(scores: np.ndarray, k: int) -> float:
    """A score that k rows at least reach, and few more do."""
    if len(scores) <= k:
        return scores.min(initial=0) if len(scores) else 0
    whole = len(scores) // BLOCK * BLOCK
    if whole // BLOCK < 4 * k:  # too few blocks to tell
        return np.partition(scores, -k)[-k]
    return np.partition(scores[:whole].reshape(-1, BLOCK).max(axis=1), -k)[-k]
