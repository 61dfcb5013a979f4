"""Mean average precision where the embeddings are: what a model chooses its own fusion by."""

import torch
from torch import Tensor

_CHUNK_SCORES = 2**22
"""Queries are ranked in chunks of about this many scores, which bounds memory."""


def average_precision(scores: Tensor, relevant: Tensor) -> Tensor:
    r"""Average precision of each query over the full ranking, `(q,)`; NaN for a query without a relevant item.

    Equal scores count by the expectation over their orders: of g tied items, r of them relevant, after b items with R
    relevant ones among them, the j-th is relevant with probability r/g, and then has $R + 1 + (j-1)(r-1)/(g-1)$
    relevant items up to its rank b + j. Otherwise embeddings that are all alike would be scored by the order of rows.

    Args:
        scores: `(q, n)`, higher is better.
        relevant: `(q, n)`, 0 or 1.

    Example:
        ```python
        >>> average_precision(torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[1, 0, 1]]))
        tensor([0.8333])

        ```
    """
    scores, order = scores.sort(dim=1, descending=True)
    hits = relevant.gather(1, order).to(torch.float64 if scores.device.type != "mps" else torch.float32)
    items = scores.shape[1]
    position = torch.arange(items, device=scores.device).expand_as(order)
    changes = scores[:, 1:] != scores[:, :-1]
    edge = torch.ones_like(order[:, :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, changes], 1), position, 0).cummax(dim=1).values
    last = torch.where(torch.cat([changes, edge], 1), position, items - 1).flip(1).cummin(dim=1).values.flip(1)
    found = torch.nn.functional.pad(hits.cumsum(dim=1), (1, 0))
    before = found.gather(1, first)
    tied_hits, tied = found.gather(1, last + 1) - before, last - first + 1
    rank_in_tie = position - first
    expected = before + 1 + rank_in_tie * (tied_hits - 1) / (tied - 1).clamp_min(1)
    precision = tied_hits / tied * expected / (position + 1)
    return (precision.sum(dim=1) / found[:, -1]).to(scores.dtype)


def summed_average_precision(
    queries: Tensor, gallery: Tensor, query_targets: Tensor, gallery_targets: Tensor
) -> Tensor:
    """Sum of average precisions and number of queries that have any, `(2,)`, in float64 on the CPU.

    Embeddings are compared by inner product. A gallery item is relevant when it shares a class with the query, where
    targets are memberships `(n, C)`; or has the same number, where they are numbers `(n,)`.
    """
    result = torch.zeros(2, dtype=torch.float64)
    step = max(1, _CHUNK_SCORES // max(len(gallery), 1))
    for start in range(0, len(queries), step):
        chunk = slice(start, start + step)
        relevant = _relevance(query_targets[chunk], gallery_targets)
        precision = average_precision(queries[chunk] @ gallery.T, relevant)
        scored = precision[~precision.isnan()].double().cpu()
        result += torch.stack([scored.sum(), torch.tensor(float(len(scored)), dtype=torch.float64)])
    return result


def _relevance(queries: Tensor, gallery: Tensor) -> Tensor:
    return queries.unsqueeze(1) == gallery if queries.ndim == 1 else (queries @ gallery.T) > 0
