"""Mean average precision where the embeddings are: what a model chooses its own fusion by."""

import torch
from torch import Tensor

from .moments import check_finite

_CHUNK_SCORES = 2**18
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
        tensor([0.8333], dtype=torch.float64)

        ```
    """
    rows, items = scores.shape
    if items == 0:
        return torch.full((rows,), torch.nan, dtype=torch.float64, device=scores.device)
    ordered = _sorted(_keys(scores, relevant))
    hits, value = ordered & 1, ordered >> 1
    # Tied items form one group; an item that is tied with none is a group of its own. Groups lie end to end over all
    # queries, so that running sums over everything give the hits of each.
    starts = torch.ones(rows, items, dtype=torch.bool, device=ordered.device)
    starts[:, 1:] = value[:, 1:] != value[:, :-1]
    first = starts.flatten().nonzero().squeeze(1)
    end = torch.cat([first, first.new_tensor([rows * items])])[1:]
    found = torch.nn.functional.pad(hits.flatten().cumsum(0), (1, 0))
    with_hits = found[end] > found[first]
    first, end = first[with_hits], end[with_hits]
    query = first // items
    before = found[first] - found[query * items]
    result = torch.zeros(rows, dtype=torch.float64, device=ordered.device)
    result.index_add_(0, query, _tied_precision(first - query * items, end - first, found[end] - found[first], before))
    return result / hits.sum(dim=1)


def _keys(scores: Tensor, relevant: Tensor) -> Tensor:
    """Float64 numbers that sort like falling float32 scores, with relevance in the lowest bit.

    A float32 leaves 29 bits of a float64 unused, so the bit moves no score past another, and what comes out of a sort
    of the numbers alone needs no second look-up by an order of indices.
    """
    if scores.device.type == "mps":  # which has no float64
        scores, relevant = scores.cpu(), relevant.cpu()
    # 0 - x and not -x: the two zeros must tie.
    largest = torch.finfo(torch.float32).max  # an infinity with a bit set would be no number
    falling = (0.0 - scores.float().clamp(-largest, largest)).double()
    return (falling.view(torch.int64) | relevant.to(torch.int64)).view(torch.float64)


def _sorted(keys: Tensor) -> Tensor:
    """Each row of keys in order, as int64; on a CPU by NumPy, whose sort is the faster: see benchmarks/ranking.py."""
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)
        return keys.view(torch.int64)
    return keys.sort(dim=1).values.view(torch.int64)


def _tied_precision(position: Tensor, size: Tensor, hits: Tensor, before: Tensor) -> Tensor:
    r"""Expected sum of precisions over the relevant items of groups of ties.

    Of g items from position p (counted from 0) on, r are relevant: $\frac rg \sum_{j=0}^{g-1}
    \frac{R + 1 + js}{p + 1 + j}$ with $s = \frac{r-1}{g-1}$, a sum of harmonic numbers.
    """
    # Whole numbers divided by whole numbers would come out as float32.
    hits, before = hits.double(), before.double()
    harmonic = torch.arange(1, int((position + size).max()) + 1 if len(position) else 1, device=position.device)
    harmonic = torch.nn.functional.pad(harmonic.double().reciprocal().cumsum(0), (1, 0))
    # Alone, an item needs no difference of two large numbers.
    span = torch.where(size == 1, 1 / (position + 1).double(), harmonic[position + size] - harmonic[position])
    step = (hits - 1) / (size - 1).clamp_min(1)
    return hits / size * ((before + 1) * span + step * (size - (position + 1) * span))


def mean_average_precision(audio: Tensor, visual: Tensor, targets: Tensor) -> dict[str, float]:
    """MAP over the full ranking, own pairs included: `audio_to_visual`, `visual_to_audio` and their mean, `map`.

    Args:
        audio: unit rows `(n, d)`.
        visual: unit rows `(n, d)`, the pairs of `audio`.
        targets: memberships `(n, C)`.
    """
    result = {}
    for direction, queries, gallery in (("audio_to_visual", audio, visual), ("visual_to_audio", visual, audio)):
        total, count = summed_average_precision(queries, gallery, targets, targets).tolist()
        result[direction] = total / max(count, 1)
    return result | {"map": sum(result.values()) / 2}


def summed_average_precision(
    queries: Tensor,
    gallery: Tensor,
    query_targets: Tensor,
    gallery_targets: Tensor,
    left_out: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sum of average precisions and number of queries that have any, `(2,)`, in float64 on the CPU.

    Embeddings are compared by inner product. A gallery item is relevant when it shares a class with the query, where
    targets are memberships `(n, C)`; or has the same number, where they are numbers `(n,)`.

    Args:
        queries: `(q, d)`.
        gallery: `(n, d)`.
        query_targets: `(q, C)` or `(q,)`.
        gallery_targets: `(n, C)` or `(n,)`.
        left_out: numbers of queries `(q,)` and gallery items `(n,)`: a query's ranking is without the item that has its
            number.
    """
    for rows, name in ((queries, "query"), (gallery, "gallery")):
        check_finite(rows, f"{name} embedding")
    result = torch.zeros(2, dtype=torch.float64)
    step = max(1, _CHUNK_SCORES // max(len(gallery), 1))
    for start in range(0, len(queries), step):
        chunk = slice(start, start + step)
        relevant = _relevance(query_targets[chunk], gallery_targets)
        scores = _similarity(queries[chunk], gallery)
        if left_out is not None:
            own = left_out[0][chunk].unsqueeze(1) == left_out[1]
            # Behind everything, and irrelevant: there it changes no rank of what counts.
            scores, relevant = scores.masked_fill(own, -torch.inf), relevant & ~own
        precision = average_precision(scores, relevant)
        scored = precision[~precision.isnan()].cpu()
        result += torch.stack([scored.sum(), torch.tensor(float(len(scored)), dtype=torch.float64)])
    return result


def _similarity(queries: Tensor, gallery: Tensor) -> Tensor:
    # In float64, then rounded: products in float32 differ in the last bit by where a row lies, and rows that are all
    # alike would be ranked by that instead of tying.
    if queries.device.type == "mps":
        return queries @ gallery.T
    return (queries.double() @ gallery.double().T).float()


def _relevance(queries: Tensor, gallery: Tensor) -> Tensor:
    return queries.unsqueeze(1) == gallery if queries.ndim == 1 else (queries @ gallery.T) > 0
