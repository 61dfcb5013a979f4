r"""Average precision, and all that goes with it, of rankings by score. NumPy alone; CUDA tensors are ranked there.

Of a query's ranked items, $R$ relevant among $N$, with precision $P_j$ at rank $j$,

$$ \mathrm{AP} = \frac 1R \sum_{j: \text{relevant}} P_j , \qquad
   \mathrm{AP@}K = \frac 1{\min(R, K)} \sum_{j \le K: \text{relevant}} P_j . $$

Items of equal score have no order. Everything here is the expectation over all orders they could have: of $g$ tied
items after $b$ others, $r$ of them relevant and $R_b$ relevant ones before them, each is relevant at rank $b + j$ with
probability $r/g$, and then has on average $R_b + 1 + (j-1) \frac{r-1}{g-1}$ relevant items down to itself. Without
that, embeddings that are all alike would be scored by the order of rows.

A row of scores is sorted alone, without an index, and its relevant scores are looked up in it: several times faster
than to sort an index along, and exact, which a bit of relevance hidden in the scores is not. See
benchmarks/average_precision.py.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

Array = Any
"""A NumPy array, or a tensor of torch."""

CHUNK_SCORES = 2**20
"""Queries are ranked in chunks of about this many scores, which bounds memory whatever the size of the gallery."""


def query_chunks(queries: int, items: int, scores: int = CHUNK_SCORES) -> Iterator[slice]:
    """The grid of chunks of queries: it depends on the sizes alone, so any share of its chunks gives the same numbers.

    No chunk has one row, unless there is but one query: a matrix product takes another path for a single row.

    Example:
        ```python
        >>> list(query_chunks(5, 10, scores=20))
        [slice(0, 2, None), slice(2, 5, None)]

        ```
    """
    step = max(2, scores // max(items, 1))
    starts = list(range(0, queries - 1, step)) or [0]
    return (slice(*edges) for edges in pairwise([*starts, queries]) if queries)


def as_scores(cosines: Array) -> Array:
    """Float64 cosines, or inner products of rows of about unit length, as float32 scores; the argument is used up.

    The sums of float64 differ in their last bits by where a row lies, and float32 keeps those bits next to 0, where it
    is fine: what is equal would not tie there. So they are first rounded to multiples of 2^-39, far above such errors.

    Example:
        ```python
        >>> as_scores(np.array([3e-17, -2e-17, 0.5]))
        array([0. , 0. , 0.5], dtype=float32)

        ```
    """
    cosines += 2.0**13
    cosines -= 2.0**13
    return cosines.astype(np.float32) if isinstance(cosines, np.ndarray) else cosines.float()


def average_precision(scores: Array, relevant: Array, k: int | None = None) -> Array:
    """Average precision of each query, `(q,)` in float64 on the CPU; NaN for a query without a relevant item.

    Args:
        scores: `(q, n)`, higher is better. Equal ones tie, and count by the expectation over their orders.
        relevant: `(q, n)`, True and False, or 1 and 0.
        k: only the first k ranks count; None is the whole ranking.

    Example:
        ```python
        >>> average_precision(np.array([[0.9, 0.8, 0.7]]), np.array([[1, 0, 1]]))
        array([0.83333333])
        >>> average_precision(np.array([[0.5, 0.5]]), np.array([[0, 1]]))  # 1 or 1/2, one as likely as the other
        array([0.75])

        ```
    """
    if scores.ndim != 2 or tuple(scores.shape) != tuple(relevant.shape):
        raise ValueError(
            f"Expected scores and relevance of one shape, (queries, items); got {tuple(scores.shape)} and "
            f"{tuple(relevant.shape)}."
        )
    parts = [
        rank(scores[chunk], relevant[chunk], first=chunk.start).average_precision(k)
        for chunk in query_chunks(*scores.shape)
    ]
    result = np.concatenate([np.zeros(0), *parts])
    return result if isinstance(scores, np.ndarray) else sys.modules["torch"].from_numpy(result)


def rank(scores: Array, relevant: Array, first: int = 0) -> "Ranking":
    """Ranks a chunk of queries.

    Args:
        scores: `(q, n)`, higher is better.
        relevant: `(q, n)`.
        first: the number of the first query, for messages.

    Example:
        ```python
        >>> ranking = rank(np.array([[0.9, 0.8, 0.7]]), np.array([[1, 0, 1]]))
        >>> ranking.precision(2), ranking.recall(2), ranking.hit(2), ranking.r_precision()
        (array([0.5]), array([0.5]), array([1.]), array([0.5]))

        ```
    """
    device = _Host if isinstance(scores, np.ndarray) or scores.device.type != "cuda" else _Cuda
    scores, relevant = device.arrays(scores, relevant)
    ordered = device.sort(scores)
    if ordered.shape[1]:
        nan = device.host(ordered[:, -1] != ordered[:, -1])  # NaN comes last
        if nan.any():
            raise ValueError(f"Scores must be numbers, but those of query {first + int(nan.argmax())} hold NaN.")
    return _ranking(device, ordered, *device.hits(scores, relevant))


def _ranking(device: Any, ordered: Array, hits: Array, counts: np.ndarray) -> "Ranking":
    """Looks the scores of relevant items up among all.

    Args:
        device: which does it.
        ordered: all scores, ascending, `(q, n)`.
        hits: those of the relevant items, ascending, at the right end of each row, `(q, w)`.
        counts: how many they are, `(q,)`.
    """
    items = ordered.shape[1]
    below, rows, columns, end = device.search(ordered, hits, counts)
    above = items - 1 - below
    if not len(rows):
        return Ranking(device, ordered, above, counts, None)
    size = end - below[rows, columns]
    above[rows, columns] = items - end
    return Ranking(device, ordered, above, counts, _ties(rows, columns, items - end, size, hits.shape[1]))


@dataclass(frozen=True)
class _Ties:
    """The relevant items that are tied with others, one number each: those of a query from the worst to the best."""

    rows: np.ndarray
    columns: np.ndarray
    above: np.ndarray
    """Items before the tied ones."""
    size: np.ndarray
    """How many are tied."""
    found: np.ndarray
    """How many of those are relevant."""
    before: np.ndarray
    """Relevant items before them."""
    last: np.ndarray
    """Whether it is the last of those it is tied with."""

    def where(self, keep: np.ndarray) -> "_Ties":
        return _Ties(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def _ties(rows: np.ndarray, columns: np.ndarray, above: np.ndarray, size: np.ndarray, width: int) -> _Ties:
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = (rows[1:] != rows[:-1]) | (above[1:] != above[:-1])
    ends = np.flatnonzero(last)
    found = np.diff(ends, prepend=-1)
    before = width - 1 - columns[ends]
    return _Ties(rows, columns, above, size, found.repeat(found), before.repeat(found), last)


@dataclass(frozen=True)
class Ranking:
    """Where the relevant items of each query stand: what every measure is computed from. Made by `rank`.

    Measures are `(q,)` in float64, expectations where scores tie, NaN for a query without a relevant item. A cut-off
    beyond the gallery is the gallery.
    """

    device: Any
    ordered: Array
    above: np.ndarray
    """Items before each relevant one, `(q, w)`, from the worst to the best; rows with fewer begin with `items`."""
    counts: np.ndarray
    ties: _Ties | None

    @property
    def items(self) -> int:
        """In the gallery."""
        return self.ordered.shape[1]

    def only(self, scores: Array) -> "Ranking":
        """The same ranking where one item of each query alone is relevant: the one of these scores, `(q,)`."""
        hits = self.device.arrays(scores[:, None], scores[:, None])[0]
        return _ranking(self.device, self.ordered, hits, np.ones_like(self.counts))

    def average_precision(self, k: int | None = None) -> np.ndarray:
        """See the head of this file."""
        if k is None:
            return self._precisions.sum(axis=1) / self._relevant
        k = self._cut(k)
        first = self._first_column(k)
        parts = self._precisions[:, first:] * (self.above[:, first:] < k)
        if self.ties:
            ties = self.ties.where(self.ties.columns >= first)
            parts[ties.rows, ties.columns - first] = self._tied_precision(ties, np.clip(k - ties.above, 0, ties.size))
        return parts.sum(axis=1) / np.minimum(self._relevant, k)

    def precision(self, k: int) -> np.ndarray:
        """Relevant items among the first k, over k."""
        return self.recall(k) * self._relevant / self._cut(k)

    def recall(self, k: int) -> np.ndarray:
        """Relevant items among the first k, over all relevant ones."""
        k = self._cut(k)
        return self._within(k, self._first_column(k)) / self._relevant

    def r_precision(self) -> np.ndarray:
        """Precision, and recall, at as many ranks as there are relevant items."""
        return self._within(self.counts[:, None]) / self._relevant

    def hit(self, k: int) -> np.ndarray:
        """Whether any of the first k is relevant; where that depends on ties, its probability."""
        k = self._cut(k)
        if not self.above.shape[1]:
            return self._relevant
        best = np.where(self.counts > 0, self.above[:, -1] < k, np.nan)
        if self.ties:
            ties = self.ties.where(self.ties.columns == self.above.shape[1] - 1)
            taken, other = np.clip(k - ties.above, 0, ties.size), ties.size - ties.found
            # That none of `taken` draws out of `size` items is one of `found`: a ratio of binomials.
            logs = np.concatenate([[0.0], np.log(np.arange(1, self.items + 1)).cumsum()])
            none = logs[other] - logs[(other - taken).clip(0)] + logs[ties.size - taken] - logs[ties.size]
            best[ties.rows] = 1 - (taken <= other) * np.exp(none)
        return best

    def prefix_average(self) -> np.ndarray:
        r"""The mean over all k of $\sum_{j \le k} rel_j P_j$ over the relevant items among the first k, 0 while none.

        Not average precision, but what some published scripts print under that name.
        """
        above, sums = self.above[:, ::-1], self._precisions[:, ::-1].cumsum(axis=1)
        size = np.ones_like(self.above)
        if self.ties:
            size[self.ties.rows, self.ties.columns] = self.ties.size
        following = np.full_like(above, self.items)
        following[:, :-1] = above[:, 1:]
        # From the end of an item, or of those it is tied with, to where the next one stands, nothing changes.
        ranks = (following - above - size[:, ::-1] + 1) * (following != above)
        total = (sums / np.arange(1, above.shape[1] + 1) * ranks * (above < self.items)).sum(axis=1)
        if self.ties:
            ties = self.ties.where(self.ties.last)
            known = np.where(ties.before > 0, sums[ties.rows, ties.before - 1], 0.0)
            groups = zip(ties.above, ties.size, ties.found, ties.before, known, strict=True)
            np.add.at(total, ties.rows, [_amid_ties(*map(float, group)) for group in groups])
        return total * (self._relevant / self._relevant) / max(self.items, 1)

    @cached_property
    def _relevant(self) -> np.ndarray:
        """How many relevant items there are, NaN where none: what is divided by."""
        return np.where(self.counts > 0, self.counts, np.nan)

    @cached_property
    def _precisions(self) -> np.ndarray:
        """The expected precision at each relevant item, `(q, w)`; 0 where there is none."""
        inverse = np.concatenate([1 / np.arange(1, self.items + 1), [0.0]])
        result = np.arange(self.above.shape[1], 0, -1) * inverse[self.above]
        if self.ties:
            result[self.ties.rows, self.ties.columns] = self._tied_precision(self.ties, self.ties.size)
        return result

    @cached_property
    def _harmonic(self) -> np.ndarray:
        return np.concatenate([[0.0], (1 / np.arange(1, self.items + 1)).cumsum()])

    def _tied_precision(self, ties: _Ties, taken: np.ndarray) -> np.ndarray:
        r"""Expected precision at a tied item where it stands within the first `taken` of them: all have an equal share.

        $\frac 1g \sum_{j=0}^{m-1} \frac{R_b + 1 + js}{b + 1 + j}$ with $s = \frac{r-1}{g-1}$, by harmonic numbers.
        """
        span = self._harmonic[ties.above + taken] - self._harmonic[ties.above]
        step = (ties.found - 1) / (ties.size - 1)
        return ((ties.before + 1) * span + step * (taken - (ties.above + 1) * span)) / ties.size

    def _within(self, k: Any, first: int = 0) -> np.ndarray:
        """How many relevant items of the columns from `first` on stand within the first k ranks; k may be `(q, 1)`."""
        share = (self.above[:, first:] < k).astype(np.float64)
        if self.ties:
            ties = self.ties.where(self.ties.columns >= first)
            limit = np.broadcast_to(k, (len(share), 1))[ties.rows, 0]
            share[ties.rows, ties.columns - first] = np.clip(limit - ties.above, 0, ties.size) / ties.size
        return share.sum(axis=1)

    def _first_column(self, k: int) -> int:
        """All columns before it stand beyond rank k, for every query."""
        first = max(0, self.above.shape[1] - k)
        return min(first, self.ties.columns[self.ties.above < k].min(initial=first)) if self.ties else first

    def _cut(self, k: int) -> int:
        if k < 1:
            raise ValueError(f"A cut-off counts ranks from 1 on, got {k}.")
        return max(1, min(k, self.items))


def _amid_ties(above: float, size: float, found: float, before: float, known: float) -> float:
    """The sum over the ranks amid tied items, all but their last, of the expected prefix of `prefix_average`.

    Args:
        above: items before them.
        size: how many they are.
        found: how many of them are relevant.
        before: relevant items before them.
        known: the expected sum of precisions of those.
    """
    total = span = 0.0
    count = np.arange(found + 1)
    chance = (count == 0) * 1.0  # that so many relevant ones are among the first m, which are drawn one by one
    for m in range(1, int(size)):
        drawn = (found - count) / (size - m + 1)
        chance = chance * (1 - drawn) + np.concatenate([[0.0], (chance * drawn)[:-1]])
        span += 1 / (above + m)
        step = (count - 1) / max(m - 1, 1)
        inside = count / m * ((before + 1) * span + step * (m - (above + 1) * span))
        total += float((chance * (known + inside) / np.maximum(before + count, 1)).sum())
    return total


class _Host:
    """Sorts and searches with NumPy."""

    host = staticmethod(np.asarray)

    @staticmethod
    def arrays(scores: Array, relevant: Array) -> tuple[np.ndarray, np.ndarray]:
        given = (scores, relevant)
        scores, relevant = (each if isinstance(each, np.ndarray) else each.detach().cpu().numpy() for each in given)
        if scores.dtype not in (np.float32, np.float64):
            scores = scores.astype(np.float32 if scores.dtype == np.float16 else np.float64)
        return scores, relevant.astype(bool, copy=False)

    @staticmethod
    def sort(scores: np.ndarray) -> np.ndarray:
        return np.sort(scores, axis=1)

    @staticmethod
    def hits(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = np.count_nonzero(relevant, axis=1)
        width = int(counts.max(initial=0))
        hits = np.full((len(scores), width), -np.inf, scores.dtype)
        hits[np.arange(width) >= (width - counts)[:, None]] = scores[relevant]
        hits.sort(axis=1)
        return hits, counts

    @staticmethod
    def search(ordered: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Items below each hit, -1 where there is none; row, column and end in the order of those that tie."""
        below = np.full(hits.shape, -1)
        for row, start in enumerate((hits.shape[1] - counts).tolist()):
            below[row, start:] = ordered[row].searchsorted(hits[row, start:])
        items = ordered.shape[1]
        following = np.take_along_axis(ordered, np.minimum(below + 1, items - 1), axis=1) if items else hits
        rows, columns = np.nonzero((following == hits) & (below >= 0) & (below < items - 1))
        end = np.empty_like(rows)
        for start, stop in pairwise([*np.flatnonzero(np.diff(rows, prepend=-1)).tolist(), len(rows)]):
            row = rows[start]
            end[start:stop] = ordered[row].searchsorted(hits[row, columns[start:stop]], "right")
        return below, rows, columns, end


class _Cuda:
    """The same with torch, where the scores are: what comes back to the host are ranks."""

    @staticmethod
    def host(tensor: Array) -> np.ndarray:
        return tensor.cpu().numpy()

    @staticmethod
    def arrays(scores: Array, relevant: Array) -> tuple[Array, Array]:
        torch = sys.modules["torch"]
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.to(torch.float32 if scores.dtype in (torch.float16, torch.bfloat16) else torch.float64)
        return scores, relevant.to(scores.device, torch.bool)

    @staticmethod
    def sort(scores: Array) -> Array:
        return scores.sort(dim=1).values

    @staticmethod
    def hits(scores: Array, relevant: Array) -> tuple[Array, np.ndarray]:
        counts = relevant.sum(dim=1)
        width = int(counts.max()) if len(counts) else 0
        hits = scores.masked_fill(~relevant, float("-inf")).sort(dim=1).values
        return hits[:, hits.shape[1] - width :].contiguous(), counts.cpu().numpy()

    @staticmethod
    def search(ordered: Array, hits: Array, counts: np.ndarray) -> tuple[np.ndarray, ...]:
        torch, width = sys.modules["torch"], hits.shape[1]
        below = torch.searchsorted(ordered, hits)
        end = torch.searchsorted(ordered, hits, right=True)
        start = torch.as_tensor(width - counts, device=hits.device)[:, None]
        absent = torch.arange(width, device=hits.device) < start
        below = below.masked_fill(absent, -1)
        rows, columns = ((end - below > 1) & ~absent).nonzero(as_tuple=True)
        return tuple(each.cpu().numpy() for each in (below, rows, columns, end[rows, columns]))
