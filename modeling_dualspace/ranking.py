"""Mean average precision where the embeddings are: what a model chooses its own fusion by."""

import torch
from torch import Tensor

from .average_precision import average_precision, query_chunks
from .cosines import as_scores
from .moments import as_float64, check_finite


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
        queries: unit rows `(q, d)`.
        gallery: unit rows `(n, d)`.
        query_targets: `(q, C)` or `(q,)`.
        gallery_targets: `(n, C)` or `(n,)`.
        left_out: numbers of queries `(q,)` and gallery items `(n,)`: a query's ranking is without the item that has its
            number.
    """
    for rows, name in ((queries, "query"), (gallery, "gallery")):
        check_finite(rows, f"{name} embedding")
    result = torch.zeros(2, dtype=torch.float64)
    for chunk in query_chunks(len(queries), len(gallery)):
        relevant = _relevance(query_targets[chunk], gallery_targets)
        scores = _similarity(queries[chunk], gallery)
        if left_out is not None:
            own = (left_out[0][chunk].unsqueeze(1) == left_out[1]).to(scores.device)
            # Behind everything, and irrelevant: there it changes no rank of what counts.
            scores, relevant = scores.masked_fill(own, -torch.inf), relevant & ~own.to(relevant.device)
        precision = average_precision(scores, relevant)
        scored = precision[~precision.isnan()]
        result += torch.stack([scored.sum(), torch.tensor(float(len(scored)), dtype=torch.float64)])
    return result


def _similarity(queries: Tensor, gallery: Tensor) -> Tensor:
    # In float64, then rounded: products in float32 differ in the last bit by where a row lies, and rows that are all
    # alike would be ranked by that instead of tying.
    return as_scores(as_float64(queries) @ as_float64(gallery).T)


def _relevance(queries: Tensor, gallery: Tensor) -> Tensor:
    return queries.unsqueeze(1) == gallery if queries.ndim == 1 else (queries @ gallery.T) > 0
