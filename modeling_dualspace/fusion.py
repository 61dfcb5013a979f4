r"""Which linear map of the two subspaces becomes the embedding, and how that is chosen.

The paper's fusion is a plain CCA of the concatenated outputs. It keeps the directions along which pairs correlate
most, whether or not they tell categories apart, and weighs noise like signal. The weighted cluster CCA here mixes pairs
and same-class pairs in the cross-covariance and multiplies each direction by its correlation; how much of which is
chosen by the mean average precision on validation, with the subspaces alone among the candidates.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cca import CanonicalLayer, Directions, canonical_directions
from .configuration_dualspace import DualSubspaceConfig
from .distributed import all_reduce_sum, gather_rows, process_index
from .pair_moments import Covariances, PairMoments
from .ranking import summed_average_precision
from .targets import UNKNOWN, label_targets

CLUSTER_WEIGHTS = (0.0, 0.2, 0.5, 1.0)
RIDGES = (1e-4, 1e-2)
UNCHOSEN_CLUSTER_WEIGHT, UNCHOSEN_RIDGE = 0.5, 1e-4


class HeldOut(NamedTuple):
    """Validation outputs: this process's rows are the queries, those of all processes the gallery."""

    audio: Tensor
    visual: Tensor
    targets: Tensor
    """memberships `(n, C)`; or numbers `(n,)` where no two clips share a class: then only a pair is relevant"""
    numbers: Tensor
    """`(n,)`, one of its own for each clip of all processes"""
    gallery_audio: Tensor
    gallery_visual: Tensor
    gallery_targets: Tensor
    gallery_numbers: Tensor
    moments: PairMoments
    """of all processes"""


Outputs = Iterable[tuple[Tensor, Tensor, Tensor | None]]
"""Of each batch: audio and visual outputs, explicit and implicit side by side, and labels or None."""


def output_moments(outputs: Outputs, config: DualSubspaceConfig, device: torch.device) -> PairMoments:
    """Moments of this process's outputs."""
    classes, width = config.implicit_dim, config.explicit_dim + config.implicit_dim
    moments = PairMoments(width, width, classes, device)
    for audio, visual, labels in outputs:
        targets, known = (None, None) if labels is None else label_targets(labels, classes)
        moments.update(audio, visual, targets, known)
    return moments


def held_out_from(outputs: Outputs, config: DualSubspaceConfig, device: torch.device) -> HeldOut:
    """Gathers the validation outputs of all processes."""
    outputs = list(outputs)
    moments = output_moments(outputs, config, device).all_reduce()
    if moments.rows == 0:
        raise ValueError("Cannot choose a fusion on an empty validation split: pass None where there is none.")
    # A process without rows still takes part, with none.
    none = torch.zeros(0, config.explicit_dim + config.implicit_dim, device=device)
    audio = torch.cat([none, *(audio.float() for audio, _, _ in outputs)])
    visual = torch.cat([none, *(visual.float() for _, visual, _ in outputs)])
    numbers = torch.arange(len(audio), device=device) + (process_index() << 40)
    targets = numbers
    pairs = [_targets(rows, labels, config) for rows, _, labels in outputs]
    members = torch.cat([none[:, config.explicit_dim :], *(targets for targets, _ in pairs)])
    clips = members.sum(dim=0)
    all_reduce_sum(clips)
    if (clips > 1).any():
        # Some clips share a class. What nobody labelled is neither relevant nor irrelevant to anything.
        known = torch.cat([none[:, 0] > 0, *(known for _, known in pairs)])
        audio, visual, targets, numbers = audio[known], visual[known], members[known], numbers[known]
    mine = (audio, visual, targets, numbers)
    everyone = gather_rows(audio), gather_rows(visual), gather_rows(targets), gather_rows(numbers)
    return HeldOut(*mine, *everyone, moments)


def _targets(rows: Tensor, labels: Tensor | None, config: DualSubspaceConfig) -> tuple[Tensor, Tensor]:
    """Memberships of a batch, and which are known."""
    return label_targets(rows.new_full((len(rows),), UNKNOWN) if labels is None else labels, config.implicit_dim)


class Candidate(NamedTuple):
    """A linear map into the common space, and the name and numbers it goes by."""

    directions: Directions
    power: float
    record: dict[str, Any]


def reads_validation(config: DualSubspaceConfig) -> bool:
    """Whether validation outputs change what `fit_fusion` does."""
    return config.fused == "weighted-cluster-cca"


def fit_fusion(layer: CanonicalLayer, config: DualSubspaceConfig, train: PairMoments, held_out: HeldOut | None) -> dict:
    r"""Sets the layer to the best candidate on validation, and returns what it was.

    Candidates of `weighted-cluster-cca` are the weighted one with $\lambda \in \{0, .2, .5, 1\}$ and ridge in
    $\{10^{-4}, 10^{-2}\}$, as far as the config leaves them open, the paper's `cca`, the implicit outputs as they are,
    and the explicit outputs by plain CCA. The weighted one with $\lambda = .5$ and ridge $10^{-4}$ is kept where
    nothing is better, and taken where there is no validation.

    Args:
        layer: over the concatenation of explicit and implicit outputs.
        config: of the model.
        train: moments of the training outputs, of all processes.
        held_out: validation outputs, or None.
    """
    unseen = {"explicit": _explicit, "implicit": _implicit, "cca": _cca}
    if config.fused in unseen:
        chosen = unseen[config.fused](config, train)
    elif config.fusion_is_open and held_out is not None:
        chosen = _best(_candidates(config, train, held_out), layer, held_out)
    else:
        weight = config.fusion_cluster_weight
        weight = UNCHOSEN_CLUSTER_WEIGHT if weight is None else weight
        chosen = _weighted(config, train, weight, _ridge(config), held_out)
    layer.set(chosen.directions, chosen.power)
    if not layer.correlations.any():
        layer.forget()
        raise ValueError(
            "Nothing to fit the fusion to: no direction of the training outputs correlates. Are there at least two "
            "rows, and do the features vary?"
        )
    return chosen.record


def _candidates(config: DualSubspaceConfig, train: PairMoments, held_out: HeldOut) -> list[Candidate]:
    weights = CLUSTER_WEIGHTS if config.fusion_cluster_weight is None else (config.fusion_cluster_weight,)
    ridges = RIDGES if config.fusion_ridge is None else (config.fusion_ridge,)
    grid = [(weight, ridge) for weight in weights for ridge in ridges]
    # The one that is taken unchosen comes first, and so wins where validation cannot tell.
    grid.sort(key=lambda point: point != (UNCHOSEN_CLUSTER_WEIGHT, UNCHOSEN_RIDGE))
    weighted = [_weighted(config, train, weight, ridge, held_out) for weight, ridge in grid]
    return [*weighted, _cca(config, train), _implicit(config, train), _explicit(config, train)]


def _best(candidates: list[Candidate], layer: CanonicalLayer, held_out: HeldOut) -> Candidate:
    scores = []
    for candidate in candidates:
        layer.set(candidate.directions, candidate.power)
        scores.append(held_out_map(layer, held_out))
    # Sums of precisions depend on the order of addition: what differs by less than that is a tie, and the first stays.
    best = max(range(len(candidates)), key=lambda candidate: round(scores[candidate], 9))
    record = candidates[best].record | {"validation_map": scores[best], "candidates": len(candidates)}
    return candidates[best]._replace(record=record)


def held_out_map(layer: CanonicalLayer, held_out: HeldOut) -> float:
    """Mean over both directions of MAP on validation, the same number in every process.

    Where there are classes, a query's own pair is left out: of few clips a class it is much of what is relevant, and
    fusions that know pairs and no class would win. The number is for choosing, and optimistic as a score: correlations
    were estimated on the same rows.
    """
    audio, visual = layer.audio(held_out.audio), layer.visual(held_out.visual)
    gallery_audio, gallery_visual = layer.audio(held_out.gallery_audio), layer.visual(held_out.gallery_visual)
    targets = (held_out.targets, held_out.gallery_targets)
    own = None if held_out.targets.ndim == 1 else (held_out.numbers, held_out.gallery_numbers)
    sums = torch.stack(
        [
            summed_average_precision(audio, gallery_visual, *targets, left_out=own),
            summed_average_precision(visual, gallery_audio, *targets, left_out=own),
        ]
    ).to(held_out.moments.weight.device)
    all_reduce_sum(sums)
    return float((sums[:, 0] / sums[:, 1].clamp_min(1)).mean())


def _ridge(config: DualSubspaceConfig) -> float:
    return UNCHOSEN_RIDGE if config.fusion_ridge is None else config.fusion_ridge


def _explicit(config: DualSubspaceConfig, train: PairMoments) -> Candidate:
    covariances = train.covariances().block(slice(0, config.explicit_dim))
    directions = canonical_directions(covariances, config.embed_dim, _ridge(config), config.ridge_relative)
    return Candidate(_padded(directions, 0, config), 0.0, {"candidate": "explicit", "ridge": _ridge(config)})


def _implicit(config: DualSubspaceConfig, train: PairMoments) -> Candidate:
    # The outputs as they are: no mean is taken off, since they already stand for memberships of classes.
    width = config.implicit_dim
    zeros = train.audio_scatter.new_zeros(width)
    identity = torch.diag_embed(zeros + 1)
    directions = Directions(zeros, identity, zeros, identity, zeros + 1)
    return Candidate(_padded(directions, config.explicit_dim, config), 0.0, {"candidate": "implicit"})


def _cca(config: DualSubspaceConfig, train: PairMoments) -> Candidate:
    directions = canonical_directions(train.covariances(), config.embed_dim, _ridge(config), config.ridge_relative)
    return Candidate(directions, 0.0, {"candidate": "cca", "ridge": _ridge(config)})


def _weighted(
    config: DualSubspaceConfig, train: PairMoments, weight: float, ridge: float, held_out: HeldOut | None
) -> Candidate:
    covariances = train.covariances(weight)
    directions = canonical_directions(covariances, config.embed_dim, ridge, config.ridge_relative)
    if held_out is not None:
        rho = projected_correlations(directions, held_out.moments.covariances(weight)) * (directions.correlations > 0)
        if rho.any():  # a validation split too small to show any says nothing
            directions = directions._replace(correlations=rho)
    record = {"candidate": "weighted-cluster-cca", "cluster_weight": weight, "ridge": ridge}
    return Candidate(directions, config.fusion_power, record)


def projected_correlations(directions: Directions, covariances: Covariances) -> Tensor:
    """Correlation `(k,)` of each pair of variates on other data, clipped to [0, 1].

    Outputs that were trained to equal the labels correlate perfectly on the training split; on rows that were not seen
    they show what they are worth.
    """
    audio, visual = directions.audio_weights, directions.visual_weights
    cross = (audio * (covariances.cross @ visual)).sum(dim=0)
    audio_variance = (audio * (covariances.audio @ audio)).sum(dim=0)
    visual_variance = (visual * (covariances.visual @ visual)).sum(dim=0)
    deviation = (audio_variance * visual_variance).clamp_min(0).sqrt()
    return torch.where(deviation > 0, cross / deviation, 0.0).clamp(0, 1)


def _padded(directions: Directions, first: int, config: DualSubspaceConfig) -> Directions:
    """Directions over some columns of the concatenation, as directions over all of them."""
    width = config.explicit_dim + config.implicit_dim

    def rows(tensor: Tensor) -> Tensor:
        full = tensor.new_zeros(width, *tensor.shape[1:])
        full[first : first + len(tensor)] = tensor
        return full

    return directions._replace(
        audio_mean=rows(directions.audio_mean),
        audio_weights=rows(directions.audio_weights),
        visual_mean=rows(directions.visual_mean),
        visual_weights=rows(directions.visual_weights),
    )
