"""What some published scripts print instead of average precision: an average over every prefix of the ranking.

It is larger for bad rankings and compares with nothing; it is here so that such figures can be told apart.
"""

import numpy as np

from .average_precision import Ranking


def prefix_average(ranking: Ranking) -> np.ndarray:
    r"""The mean over all k of $\sum_{j \le k} rel_j P_j$ over the relevant items among the first k, 0 while none.

    `(q,)` in float64, the expectation where scores tie, NaN for a query without a relevant item.

    Example:
        ```python
        >>> from modeling_dualspace.average_precision import rank
        >>> prefix_average(rank(np.array([[0.9, 0.8, 0.7]]), np.array([[0, 1, 0]])))  # 0, 1/2, 1/2
        array([0.33333333])

        ```
    """
    above, sums = ranking.above[:, ::-1], ranking.precisions[:, ::-1].cumsum(axis=1)
    size = np.ones_like(ranking.above)
    if ranking.ties:
        size[ranking.ties.rows, ranking.ties.columns] = ranking.ties.size
    following = np.full_like(above, ranking.items)
    following[:, :-1] = above[:, 1:]
    # From the end of an item, or of those it is tied with, to where the next one stands, nothing changes.
    ranks = (following - above - size[:, ::-1] + 1) * (following != above)
    parts = sums / np.arange(1, above.shape[1] + 1) * ranks * (above < ranking.items)
    total = parts.cumsum(axis=1)[:, -1] if parts.shape[1] else np.zeros(len(parts))
    if ranking.ties:
        ties = ranking.ties.where(ranking.ties.last)
        known = np.where(ties.before > 0, sums[ties.rows, ties.before - 1], 0.0)
        groups = zip(ties.above, ties.size, ties.found, ties.before, known, strict=True)
        np.add.at(total, ties.rows, [_amid_ties(*map(float, group)) for group in groups])
    return total * (ranking.relevant / ranking.relevant) / max(ranking.items, 1)


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
