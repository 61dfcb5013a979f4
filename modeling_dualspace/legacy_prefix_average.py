"""What some published scripts print instead of average precision: an average over every prefix of the ranking.

It is larger for bad rankings and compares with nothing; it is here so that such figures can be told apart.
"""

import numpy as np

from .average_precision import Ranking, Ties


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
    above, sums = ranking.above[:, ::-1], ranking.sums
    if not above.shape[1]:
        return ranking.relevant
    size = np.ones_like(ranking.above)
    if ranking.ties:
        size[ranking.ties.rows, ranking.ties.columns] = ranking.ties.size
    following = np.full_like(above, ranking.items)
    following[:, :-1] = above[:, 1:]
    # From the end of an item, or of those it is tied with, to where the next one stands, nothing changes.
    ranks = (following - above - size[:, ::-1] + 1) * (following != above)
    parts = sums / np.arange(1, above.shape[1] + 1) * ranks * (above < ranking.items)
    total = parts.cumsum(axis=1)[:, -1]
    if ranking.ties:
        groups = ranking.ties.where(ranking.ties.last)
        known = np.where(groups.before > 0, sums[groups.rows, groups.before - 1], 0.0)
        np.add.at(total, groups.rows, _amid_ties(groups, known))
    return total * (ranking.relevant / ranking.relevant) / ranking.items


def _amid_ties(groups: Ties, known: np.ndarray) -> np.ndarray:
    """The sum over the ranks amid tied items, all but their last, of the expected prefix of `prefix_average`.

    Args:
        groups: one number for each group of tied items.
        known: the expected sum of precisions before each.
    """
    result = np.zeros(len(known))
    order = np.argsort(-groups.size, kind="stable")  # the longest first: those that are over drop off at the end
    above, size, found, before = (
        each[order].astype(np.float64)[:, None] for each in (groups.above, groups.size, groups.found, groups.before)
    )
    known = known[order][:, None]
    count = np.arange(int(found.max(initial=0)) + 1.0)
    chance = np.where(count == 0, 1.0, np.zeros_like(found))  # that so many relevant ones are among the first m drawn
    total, span = np.zeros_like(known), np.zeros_like(known)
    for m in range(1, int(size.max(initial=1))):
        going = np.searchsorted(-size[:, 0], -m)  # groups of more than m items
        above, size, found, before, known, chance, span = (
            each[:going] for each in (above, size, found, before, known, chance, span)
        )
        drawn = (found - count).clip(0) / (size - m + 1)
        moved = chance * drawn
        chance = chance - moved
        chance[:, 1:] += moved[:, :-1]
        span = span + 1 / (above + m)
        inside = count / m * ((before + 1) * span + (count - 1) / max(m - 1, 1) * (m - (above + 1) * span))
        total[:going] += (chance * (known + inside) / np.maximum(before + count, 1)).sum(axis=1, keepdims=True)
    result[order] = total[:, 0]
    return result
