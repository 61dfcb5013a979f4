"""Triplets across modalities: an anchor of one, everything else of the other."""

from typing import Literal

import torch
from torch import Tensor

from .losses import at_least_float32

TripletMean = Literal["all", "active"]


def triplet_loss(
    anchors: Tensor, others: Tensor, same: Tensor, differs: Tensor, *, margin: float, mean: TripletMean = "all"
) -> Tensor:
    r"""The triplet loss of all triplets of a batch by squared distances, a scalar; see `triplets_of`.

    Args:
        anchors: `(n, d)`.
        others: `(m, d)`, of the other modality.
        same: `(n, m)`, whether a row is a positive of an anchor.
        differs: `(n, m)`, whether it is a negative; what is neither (of unknown class) is in no triplet.
        margin: m.
        mean: over `all` triplets, or over the `active` ones, whose loss is above zero.

    Example:
        ```python
        >>> anchors, others = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [0.5]])
        >>> same = torch.tensor([[True, False, False]])
        >>> triplet_loss(anchors, others, same, ~same, margin=0.5)
        tensor(0.6250)

        ```
    """
    distances = squared_distances(anchors, others, (same | differs).any(dim=0))
    return triplets_of(distances, same, differs, margin=margin, mean=mean)


def triplets_of(
    distances: Tensor, same: Tensor, differs: Tensor, *, margin: float, mean: TripletMean = "all"
) -> Tensor:
    r"""The triplet loss of all triplets of a batch, by whatever distance.

    $$\frac1N \sum_i \sum_{p \in P_i} \sum_{n \in N_i} \max(0, d_{ip} - d_{in} + m)$$

    There are of the order of $n^3$ of them. Sorted by distance, the negatives that lie within the margin of a positive
    are the first so many, and their sum is a prefix: $O(n^2 \log n)$ time, $O(n^2)$ memory, exact, with gradient.

    Args:
        distances: `(n, m)`, of anchors and others.
        same: see `triplet_loss`; the others likewise.
        differs: of the same shape.
        margin: m.
        mean: what is divided by.
    """
    negatives = torch.where(differs, distances, torch.inf).sort(dim=1).values
    prefix = torch.nn.functional.pad(torch.where(negatives.isinf(), 0.0, negatives).cumsum(dim=1), (1, 0))
    reach = distances + margin
    within = torch.searchsorted(negatives.detach().contiguous(), reach.detach().contiguous())
    sums = within * reach - prefix.gather(1, within)
    total = torch.where(same, sums, 0.0).sum()
    count = torch.where(same, within if mean == "active" else differs.sum(dim=1, keepdim=True), 0).sum()
    return total / count.clamp_min(1)


def squared_distances(anchors: Tensor, others: Tensor, used: Tensor | None = None) -> Tensor:
    """`(n, m)`, in float32 or better; about the mean of the others that are used, since large squares cancel."""
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, others = at_least_float32(anchors), at_least_float32(others)
        kept = others.detach() if used is None else torch.where(used.unsqueeze(1), others.detach(), 0.0)
        mean = kept.sum(dim=0) / (max(len(others), 1) if used is None else used.sum().clamp_min(1))
        anchors, others = anchors - mean, others - mean
        products = anchors @ others.T
        return (anchors.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1) - 2 * products).clamp_min(0)


def class_relations(members: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows share a class `(n, n)`, and which do not, of memberships `(n, C)`; a row of zeros is in neither."""
    known = members.any(dim=1)
    both = known.unsqueeze(1) & known
    share = members @ members.T > 0
    return both & share, both & ~share
