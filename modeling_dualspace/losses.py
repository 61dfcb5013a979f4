r"""The three terms of the dual-subspace objective (Zeng et al., ACM TOMM 2023), for tensors of the global batch.

Each is differentiable, computed in float32 or better whatever comes in, and finite wherever the squares of its rows
are: with fewer rows than columns, one row, rows that are all alike. None is a mean over rows, so none may be computed
on a shard and averaged.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from .targets import shares

CorrelationKind = Literal["nuclear", "frobenius"]
DiscriminativeKind = Literal["frobenius", "row_norm"]
OrthogonalityKind = Literal["paper", "batch", "scale_free"]


def canonical_correlation(
    audio: Tensor,
    visual: Tensor,
    *,
    kind: CorrelationKind = "frobenius",
    ridge: float = 1e-4,
    relative: bool = True,
    targets: Tensor | None = None,
    cluster_weight: float = 0.0,
) -> Tensor:
    r"""The canonical correlation of a batch, a scalar to be maximised.

    $$T = (S_{aa} + rI)^{-1/2} S_{av} (S_{vv} + rI)^{-1/2}$$

    Args:
        audio: outputs `(n, p)`.
        visual: outputs `(n, q)`.
        kind: `nuclear`, the sum of the singular values of T (Andrew et al., "Deep canonical correlation analysis", ICML
            2013), or `frobenius`, the root of the sum of their squares, which needs triangular solves only.
        ridge: r.
        relative: whether r is a multiple of the mean eigenvalue of each view. Then the term does not change when
            outputs are scaled; otherwise growing them is a way to a larger value.
        targets: memberships `(n, C)`, rows of zeros where unknown; for a `cluster_weight`.
        cluster_weight: $\lambda$: the cross-covariance is $(1-\lambda) S_{pairs} + \lambda S_{cl}$, whose second part
            pairs each row with those of its class, as in `PairMoments`.

    Example:
        ```python
        >>> rows = torch.eye(4)[:, :2]
        >>> round(canonical_correlation(rows, rows, kind="nuclear").item(), 3)
        2.0

        ```
    """
    if not 0 <= ridge < math.inf:
        raise ValueError(f"A ridge must be a finite number of at least 0, got {ridge}.")
    if not 0 <= cluster_weight <= 1:
        raise ValueError(f"A cluster weight must lie in 0..1, got {cluster_weight}.")
    if cluster_weight and targets is None:
        raise ValueError(f"A cluster weight of {cluster_weight} needs `targets`, and none came.")
    _check_rows(audio, visual, *([] if targets is None else [targets]))
    audio, visual = at_least_float32(audio), at_least_float32(visual)
    with torch.autocast(audio.device.type, enabled=False):
        centred_audio, centred_visual = _centred(audio), _centred(visual)
        factor_audio = _cholesky(centred_audio, audio, ridge, relative)
        factor_visual = _cholesky(centred_visual, visual, ridge, relative)
        cross = centred_audio.T @ centred_visual / len(audio)
        if cluster_weight and targets is not None:
            cross = torch.lerp(cross, _cluster_cross(centred_audio, centred_visual, targets.to(cross)), cluster_weight)
        return _sum_of_correlations(factor_audio, cross, factor_visual, kind, rows=len(audio))


def _cluster_cross(audio: Tensor, visual: Tensor, targets: Tensor) -> Tensor:
    """Cross-covariance of each row with the mean of its class; a row of no class stands for itself."""
    members = shares(targets)
    sizes = members.sum(dim=0)
    inverse = torch.where(sizes > 0, 1 / torch.where(sizes > 0, sizes, 1.0), 0.0)
    alone = (~targets.any(dim=1, keepdim=True)).to(audio)
    clusters = (members.T @ audio * inverse.unsqueeze(1)).T @ (members.T @ visual)
    return (clusters + (audio * alone).T @ visual) / len(audio)


def _sum_of_correlations(
    factor_audio: Tensor, cross: Tensor, factor_visual: Tensor, kind: CorrelationKind, rows: int
) -> Tensor:
    """Of T, up to rotations from both sides, which change no singular value."""
    left = torch.linalg.solve_triangular(factor_audio, cross, upper=False)
    rotated = torch.linalg.solve_triangular(factor_visual, left.T, upper=False)
    if kind == "frobenius":
        return torch.linalg.vector_norm(rotated)
    if kind == "nuclear":
        # n centred rows span n - 1 directions. The rest are rounding: they have no correlation, and their singular
        # vectors no meaning, so they must not send a gradient.
        # A singular value decomposition refuses a NaN, which is to show in the loss: it is given zeros instead.
        finite = torch.isfinite(rotated).all()
        values = torch.linalg.svdvals(torch.where(finite, rotated, 0.0))
        return torch.where(finite, values[: rows - 1].sum(), torch.nan)
    raise ValueError(f"Correlation kind must be 'nuclear' or 'frobenius', got {kind!r}.")


def discriminative_loss(
    audio: Tensor,
    visual: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    kind: DiscriminativeKind = "row_norm",
) -> Tensor:
    r"""How far the implicit outputs are from the label vectors, a scalar.

    `frobenius` is the paper's $\frac1n \|A - Y\|_F + \frac1n \|V - Y\|_F$, which falls like $n^{-1/2}$ as the batch
    grows; `row_norm` is the mean over rows of $\|a_i - y_i\|$, plus that of the visual rows, which does not.

    Args:
        audio: outputs `(n, C)`.
        visual: outputs `(n, C)`.
        targets: label vectors `(n, C)`.
        known: `(n,)`, False for clips that nobody annotated: they count neither in the norm nor in n.
        kind: `frobenius` or `row_norm`.
    """
    known = torch.ones(len(audio), dtype=torch.bool, device=audio.device) if known is None else known
    _check_rows(audio, visual, targets, known)
    if not audio.shape == visual.shape == targets.shape:
        shapes = [tuple(tensor.shape) for tensor in (audio, visual, targets)]
        raise ValueError(f"Implicit outputs and targets must have one shape, got {shapes}.")
    count = known.sum().clamp_min(1)

    def distance(outputs: Tensor) -> Tensor:
        residual = torch.where(known.unsqueeze(1), at_least_float32(outputs) - targets, 0.0)
        if kind == "frobenius":
            return torch.linalg.vector_norm(residual) / count
        if kind == "row_norm":
            return torch.linalg.vector_norm(residual, dim=1).sum() / count
        raise ValueError(f"Discriminative kind must be 'frobenius' or 'row_norm', got {kind!r}.")

    return distance(audio) + distance(visual)


def class_surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of predictions `(n, C)` where targets `(n, C)` name a class; several share a clip evenly."""
    logits = at_least_float32(logits)
    surprise = -(shares(targets.to(logits)) * torch.nn.functional.log_softmax(logits, dim=1)).sum()
    return surprise / targets.any(dim=1).sum().clamp_min(1)


def orthogonality_loss(
    audio_explicit: Tensor,
    audio_implicit: Tensor,
    visual_explicit: Tensor,
    visual_implicit: Tensor,
    *,
    kind: OrthogonalityKind = "scale_free",
) -> Tensor:
    r"""How much the two subspaces repeat each other, a scalar.

    $$\|Q_{ex}^{a\prime} Q_{im}^a\|_F^2 + \|Q_{ex}^{v\prime} Q_{im}^v\|_F^2 + \|Q_{im}^{a\prime} Q_{im}^v\|_F^2$$

    Args:
        audio_explicit: outputs `(n, k)`.
        audio_implicit: outputs `(n, C)`.
        visual_explicit: outputs `(n, k)`.
        visual_implicit: outputs `(n, C)`.
        kind: `paper`, as printed, which grows with $n^2$; `batch`, over $n^2$; `scale_free`, of centred outputs and
            over the product of their squared norms, each term in [0, 1]: it can only be met by turning the subspaces
            away from each other, where `batch` is met by shrinking the explicit one, to whose scale a correlation is
            blind.
    """
    _check_rows(audio_explicit, audio_implicit, visual_explicit, visual_implicit)
    pairs = (
        (audio_explicit, audio_implicit),
        (visual_explicit, visual_implicit),
        (audio_implicit, visual_implicit),
    )
    terms = [_overlap(at_least_float32(left), at_least_float32(right), kind) for left, right in pairs]
    return torch.stack(terms).sum()


def _overlap(left: Tensor, right: Tensor, kind: OrthogonalityKind) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):
        if kind == "paper":
            return (left.T @ right).square().sum()
        if kind == "batch":
            return (left.T @ right / len(left)).square().sum()
        if kind == "scale_free":
            left, right = _unit_norm(_centred(left)), _unit_norm(_centred(right))
            return (left.T @ right).square().sum()
    raise ValueError(f"Orthogonality kind must be 'paper', 'batch' or 'scale_free', got {kind!r}.")


def _check_rows(*tensors: Tensor) -> None:
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(f"A loss needs as many rows from each side, and at least one; got {lengths}.")


def at_least_float32(tensor: Tensor) -> Tensor:
    """A half-precision tensor as float32; others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _centred(rows: Tensor) -> Tensor:
    # Twice: the rounding of the first mean is relative to the mean, and rows that are all alike would share it.
    rows = rows - rows.mean(dim=0)
    return rows - rows.mean(dim=0)


def _unit_norm(rows: Tensor) -> Tensor:
    # Each by its own norm, before any product: that of both squares overflows where neither of them does.
    return rows / torch.linalg.vector_norm(rows).clamp_min(torch.finfo(rows.dtype).tiny)


def _cholesky(centred: Tensor, rows: Tensor, ridge: float, relative: bool) -> Tensor:
    """Cholesky factor of S + rI, with as much more on the diagonal as rounding asks for.

    A batch with fewer rows than columns has a singular S, and rounding can make it slightly indefinite: a multiple of
    its trace at the level of rounding repairs that. Rows that are all alike leave nothing but the rounding of their
    mean, which must not pass for a direction: hence the multiple of the mean square of the rows themselves.
    """
    covariance = centred.T @ centred / len(centred)
    eps = torch.finfo(covariance.dtype).eps
    trace = covariance.diagonal().sum().detach()
    floor = 4 * eps * trace + (4 * eps) ** 2 * rows.detach().square().mean() + torch.finfo(covariance.dtype).tiny
    mean_eigenvalue = covariance.diagonal().mean() if relative else 1.0
    diagonal = (ridge * mean_eigenvalue + floor).expand(len(covariance))
    factor, failed = torch.linalg.cholesky_ex(covariance + torch.diag_embed(diagonal))
    # To raise would be to wait for the device in every step: a failure shows as a NaN in the loss.
    return torch.where(failed > 0, torch.nan, factor)
