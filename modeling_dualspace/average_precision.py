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

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np

Array = Any  # of NumPy, or a tensor of torch

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


def average_precision(scores: Array, relevant: Array, k: int | None = None, *, threads: int | None = None) -> Array:
    """Average precision of each query, `(q,)` in float64 on the CPU; NaN for a query without a relevant item.

    Args:
        scores: `(q, n)`, higher is better. Equal ones tie, and count by the expectation over their orders.
        relevant: `(q, n)`, True and False, or 1 and 0.
        k: only the first k ranks count; None is the whole ranking.
        threads: rank so many chunks at a time; None is `OMP_NUM_THREADS`, or as many as there are processors.

    Example:
        ```python
        >>> average_precision(np.array([[0.9, 0.8, 0.7]]), np.array([[1, 0, 1]]))
        array([0.83333333])
        >>> average_precision(np.array([[0.5, 0.5]]), np.array([[0, 1]]))  # 1 or 1/2, one as likely as the other
        array([0.75])

        ```
    """
    if not hasattr(scores, "detach"):
        scores, relevant = np.asarray(scores), np.asarray(relevant)
    _check_shapes(scores, relevant)
    queries, items = scores.shape
    chunks = list(query_chunks(queries, items, chunk_scores(scores)))

    def part(chunk: slice) -> np.ndarray:
        return rank(scores[chunk], relevant[chunk], first=chunk.start).average_precision(k)

    if _on_cuda(scores):  # whose streams belong to this thread
        parts = [part(chunk) for chunk in chunks]
    else:  # sorting and searching let other threads run
        with ThreadPoolExecutor(_threads() if threads is None else threads) as pool:
            parts = list(pool.map(part, chunks))
    result = np.concatenate([np.zeros(0), *parts])
    return result if isinstance(scores, np.ndarray) else sys.modules["torch"].from_numpy(result)


def chunk_scores(values: Array) -> int:
    """How many scores a chunk may have where the values are."""
    return 16 * CHUNK_SCORES if _on_cuda(values) else CHUNK_SCORES


def _on_cuda(values: Array) -> bool:
    return not isinstance(values, np.ndarray) and values.device.type == "cuda"


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(given) if given.isdecimal() and int(given) else min(os.cpu_count() or 1, 8)


def _check_shapes(scores: Array, relevant: Array) -> None:
    if scores.ndim != 2 or tuple(scores.shape) != tuple(relevant.shape):
        raise ValueError(
            f"Expected scores and relevance of one shape, (queries, items); got {tuple(scores.shape)} and "
            f"{tuple(relevant.shape)}."
        )


def _check_values(scores: Array, relevant: Array) -> None:
    if "bool" in str(scores.dtype):
        raise ValueError("Scores come first and then relevance, and these scores are True and False: are they swapped?")
    if "bool" not in str(relevant.dtype) and bool(((relevant != 0) & (relevant != 1)).any()):
        raise ValueError(f"Expected relevance of True and False, or 1 and 0; got other {relevant.dtype} numbers.")


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
    _check_shapes(scores, relevant)
    _check_values(scores, relevant)
    device = _Cuda if _on_cuda(scores) else _Host
    scores, relevant = device.arrays(scores, relevant)
    ordered = device.sort(scores)
    if ordered.shape[1]:
        nan = device.host(ordered[:, -1] != ordered[:, -1])  # NaN comes last
        if nan.any():
            raise ValueError(f"Scores must be numbers, but those of query {first + int(nan.argmax())} hold NaN.")
    return _ranking(device, ordered, *device.hits(scores, relevant))


def _ranking(device: Any, ordered: Array, hits: Array, counts: np.ndarray) -> "Ranking":
    """Looks the scores of relevant items up among all.

    `ordered` are all scores, ascending, `(q, n)`; `hits` those of the relevant items, ascending, at the right end of
    each row, `(q, w)`; `counts` how many they are.
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
class Ties:
    """The relevant items that are tied with others, one number each: those of a query from the worst to the best."""

    rows: np.ndarray
    columns: np.ndarray
    above: np.ndarray  # items before the tied ones
    size: np.ndarray  # how many are tied
    found: np.ndarray  # how many of those are relevant
    before: np.ndarray  # relevant items before them
    last: np.ndarray  # whether it is the last of those it is tied with

    def where(self, keep: np.ndarray) -> "Ties":
        """Some of them."""
        return Ties(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def _ties(rows: np.ndarray, columns: np.ndarray, above: np.ndarray, size: np.ndarray, width: int) -> Ties:
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = (rows[1:] != rows[:-1]) | (above[1:] != above[:-1])
    ends = np.flatnonzero(last)
    found = np.diff(ends, prepend=-1)
    before = width - 1 - columns[ends]
    return Ties(rows, columns, above, size, found.repeat(found), before.repeat(found), last)


@dataclass(frozen=True)
class Ranking:
    """Where the relevant items of each query stand: what every measure is computed from. Made by `rank`.

    Measures are `(q,)` in float64, expectations where scores tie, NaN for a query without a relevant item. A cut-off
    beyond the gallery is the gallery.
    """

    device: Any
    ordered: Array
    above: np.ndarray  # items before each relevant one, (q, w), from worst to best; rows with fewer begin with `items`
    counts: np.ndarray
    ties: Ties | None

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
        k = self.items if k is None else self._cut(k)
        if not self.above.shape[1] or k == self.items:
            return (self.sums[:, -1] if self.above.shape[1] else self.counts) / self.relevant
        count, open_ties = self._inside(k)
        total = np.where(count > 0, self.sums[np.arange(len(count)), count - 1], 0.0)
        if open_ties:
            parts = self._tied_precision(open_ties, k - open_ties.above)
            total += np.bincount(open_ties.rows, parts, len(total))
        return total / np.minimum(self.relevant, k)

    def precision(self, k: int) -> np.ndarray:
        """Relevant items among the first k, over k."""
        return self.found(k) / self._cut(k)

    def recall(self, k: int) -> np.ndarray:
        """Relevant items among the first k, over all relevant ones."""
        return self.found(k) / self.relevant

    def found(self, k: int) -> np.ndarray:
        """Relevant items among the first k."""
        return self._found(self._cut(k)) * self.relevant / self.relevant

    def r_precision(self) -> np.ndarray:
        """Precision, and recall, at as many ranks as there are relevant items."""
        return self._found(self.counts[:, None]) / self.relevant

    def hit(self, k: int) -> np.ndarray:
        """Whether any of the first k is relevant; where that depends on ties, its probability."""
        k = self._cut(k)
        if not self.above.shape[1]:
            return self.relevant
        best = np.where(self.counts > 0, self.above[:, -1] < k, np.nan)
        if self.ties:
            ties = self.ties.where(self.ties.columns == self.above.shape[1] - 1)
            taken, other = np.clip(k - ties.above, 0, ties.size), ties.size - ties.found
            # That none of `taken` draws out of `size` items is one of `found`: a ratio of binomials.
            logs = self._log_factorials
            none = logs[other] - logs[(other - taken).clip(0)] + logs[ties.size - taken] - logs[ties.size]
            best[ties.rows] = 1 - (taken <= other) * np.exp(none)
        return best

    @cached_property
    def relevant(self) -> np.ndarray:
        """How many relevant items there are, NaN where none: what is divided by."""
        return np.where(self.counts > 0, self.counts, np.nan)

    @cached_property
    def precisions(self) -> np.ndarray:
        """The expected precision at each relevant item, `(q, w)`; 0 where there is none."""
        inverse = np.concatenate([1 / np.arange(1, self.items + 1), [0.0]])
        result = np.arange(self.above.shape[1], 0, -1) * inverse[self.above]
        if self.ties:
            result[self.ties.rows, self.ties.columns] = self._tied_precision(self.ties, self.ties.size)
        return result

    @cached_property
    def sums(self) -> np.ndarray:
        """Of the expected precisions, from the best relevant item on, `(q, w)`."""
        return self.precisions[:, ::-1].cumsum(axis=1)

    @cached_property
    def _log_factorials(self) -> np.ndarray:
        return np.concatenate([[0.0], np.log(np.arange(1, self.items + 1)).cumsum()])

    @cached_property
    def _harmonic(self) -> np.ndarray:
        return np.concatenate([[0.0], (1 / np.arange(1, self.items + 1)).cumsum()])

    def _tied_precision(self, ties: Ties, taken: np.ndarray) -> np.ndarray:
        r"""Expected precision at a tied item where it stands within the first `taken` of them: all have an equal share.

        $\frac 1g \sum_{j=0}^{m-1} \frac{R_b + 1 + js}{b + 1 + j}$ with $s = \frac{r-1}{g-1}$, by harmonic numbers.
        """
        span = self._harmonic[ties.above + taken] - self._harmonic[ties.above]
        step = (ties.found - 1) / (ties.size - 1)
        return ((ties.before + 1) * span + step * (taken - (ties.above + 1) * span)) / ties.size

    def _found(self, k: Any) -> np.ndarray:
        count, open_ties = self._inside(k)
        if open_ties is None:
            return count.astype(np.float64)
        limit = np.broadcast_to(k, (len(count), 1))[open_ties.rows, 0]
        return count + np.bincount(open_ties.rows, (limit - open_ties.above) / open_ties.size, len(count))

    def _inside(self, k: Any) -> tuple[np.ndarray, Ties | None]:
        """How many relevant items stand within the first k ranks in any order, and those for which it depends on it.

        k is one number, or one a query, `(q, 1)`.
        """
        count = (self.above < k).sum(axis=1)
        if not self.ties:
            return count, None
        limit = np.broadcast_to(k, (len(count), 1))[self.ties.rows, 0]
        open_ties = self.ties.where((self.ties.above < limit) & (self.ties.above + self.ties.size > limit))
        return count - np.bincount(open_ties.rows, minlength=len(count)), open_ties

    def _cut(self, k: int) -> int:
        if index(k) < 1:
            raise ValueError(f"A cut-off counts ranks from 1 on, got {k}.")
        return max(1, min(k, self.items))


def as_numpy(values: Array) -> np.ndarray:
    """An array, or a tensor wherever it is, as an array."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if "bfloat16" in str(values.dtype) else values).numpy()  # which NumPy does not have


class _Host:
    """Sorts and searches with NumPy."""

    host = staticmethod(np.asarray)

    @staticmethod
    def arrays(scores: Array, relevant: Array) -> tuple[np.ndarray, np.ndarray]:
        scores, relevant = as_numpy(scores), as_numpy(relevant)
        if scores.dtype not in (np.float32, np.float64):
            scores = scores.astype(np.float32 if scores.dtype == np.float16 else np.float64)
        return scores, relevant.astype(bool, copy=False)

    @staticmethod
    def sort(scores: np.ndarray) -> np.ndarray:
        return np.sort(scores, axis=1)

    @staticmethod
    def hits(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = np.fromiter(map(np.count_nonzero, relevant), np.int64, len(relevant))  # faster than along an axis
        width = int(counts.max(initial=0))
        hits = scores[relevant]
        if len(hits) < len(scores) * width:  # not as many for every query
            hits, found = np.full((len(scores), width), -np.inf, scores.dtype), hits
            hits[np.arange(width) >= (width - counts)[:, None]] = found
        hits = hits.reshape(len(scores), width)
        hits.sort(axis=1)
        return hits, counts

    @staticmethod
    def search(ordered: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Items below each hit, -1 where there is none; row, column and end in the order of those that tie."""
        below = np.full(hits.shape, -1)
        for row, start in enumerate((hits.shape[1] - counts).tolist()):
            below[row, start:] = ordered[row].searchsorted(hits[row, start:])
        items = ordered.shape[1]
        inside = np.minimum(below + 1, items - 1)
        inside += (np.arange(len(ordered)) * items)[:, None]
        following = ordered.reshape(-1).take(inside) if items else hits
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
        torch, scores = sys.modules["torch"], scores.detach()
        if scores.dtype not in (torch.float32, torch.float64):
            scores = scores.to(torch.float32 if scores.dtype in (torch.float16, torch.bfloat16) else torch.float64)
        return scores, torch.as_tensor(relevant, device=scores.device).bool()

    @staticmethod
    def sort(scores: Array) -> Array:
        return scores.contiguous().sort(dim=1).values  # a sort keeps the strides, and a search wants none

    @staticmethod
    def hits(scores: Array, relevant: Array) -> tuple[Array, np.ndarray]:
        counts = relevant.sum(dim=1)
        width = int(counts.max()) if len(counts) else 0
        hits = scores.masked_fill(~relevant, float("-inf")).sort(dim=1).values
        return hits[:, hits.shape[1] - width :].contiguous(), counts.cpu().numpy()

    @staticmethod
    def search(ordered: Array, hits: Array, counts: np.ndarray) -> tuple[np.ndarray, ...]:
        torch, width, hits = sys.modules["torch"], hits.shape[1], hits.contiguous()
        below = torch.searchsorted(ordered, hits)
        end = torch.searchsorted(ordered, hits, right=True)
        start = torch.as_tensor(width - counts, device=hits.device)[:, None]
        absent = torch.arange(width, device=hits.device) < start
        below = below.masked_fill(absent, -1)
        rows, columns = ((end - below > 1) & ~absent).nonzero(as_tuple=True)
        return tuple(each.cpu().numpy() for each in (below, rows, columns, end[rows, columns]))
