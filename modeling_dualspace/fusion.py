r"""Which linear map of the two subspaces becomes the embedding, and how that is chosen.

The paper's fusion is a plain CCA of the concatenated outputs. It keeps the directions along which pairs correlate
most, whether or not they tell categories apart, and weighs noise like signal. The weighted cluster CCA here mixes pairs
and same-class pairs in the cross-covariance and multiplies each direction by its correlation. It may look at the scaled
features too, beside the outputs: a linear way around the towers, in closed form, which is what few clips or few steps
fall back on. Where validation shows something else to be clearly better, that is taken.
"""

from collections.abc import Iterable, Sequence
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
UNCHOSEN_CLUSTER_WEIGHT, UNCHOSEN_RIDGE, UNCHOSEN_FEATURES_RIDGE = 1.0, 1e-2, 0.3
MARGIN = 0.01
"""By how much MAP on validation another candidate must be ahead of the one that is taken unchosen: the best of a dozen
on a few hundred clips is ahead by chance."""


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


Outputs = Iterable[tuple[Tensor, Tensor, Tensor | None]]
"""Of each batch: what goes into the fusion, audio and visual, explicit, implicit and features side by side; labels."""


def output_moments(outputs: Outputs, layer: CanonicalLayer, classes: int) -> PairMoments:
    """Moments of this process's rows of the fusion."""
    moments = PairMoments(len(layer.audio_mean), len(layer.visual_mean), classes, layer.audio_mean.device)
    for audio, visual, labels in outputs:
        targets, known = (None, None) if labels is None else label_targets(labels, classes)
        moments.update(audio, visual, targets, known)
    return moments


def held_out_from(
    outputs: Sequence[tuple[Tensor, Tensor, Tensor | None]], layer: CanonicalLayer, classes: int
) -> HeldOut:
    """Gathers the validation outputs of all processes."""
    # A process without rows still takes part, with none.
    device = layer.audio_mean.device
    none = torch.zeros(0, classes, device=device)
    audio = torch.cat([none.new_zeros(0, len(layer.audio_mean)), *(audio.float() for audio, _, _ in outputs)])
    visual = torch.cat([none.new_zeros(0, len(layer.visual_mean)), *(visual.float() for _, visual, _ in outputs)])
    rows = torch.tensor(float(len(audio)), device=device)
    all_reduce_sum(rows)
    if not rows:
        raise ValueError("Cannot choose a fusion on an empty validation split: pass None where there is none.")
    numbers = torch.arange(len(audio), device=device) + (process_index() << 40)
    targets = numbers
    pairs = [_targets(rows, labels, classes) for rows, _, labels in outputs]
    members = torch.cat([none, *(targets for targets, _ in pairs)])
    clips = members.sum(dim=0)
    all_reduce_sum(clips)
    if (clips > 1).any():
        # Some clips share a class. What nobody labelled is neither relevant nor irrelevant to anything.
        known = torch.cat([none[:, 0] > 0, *(known for _, known in pairs)])
        audio, visual, targets, numbers = audio[known], visual[known], members[known], numbers[known]
    mine = (audio, visual, targets, numbers)
    everyone = gather_rows(audio), gather_rows(visual), gather_rows(targets), gather_rows(numbers)
    return HeldOut(*mine, *everyone)


def _targets(rows: Tensor, labels: Tensor | None, classes: int) -> tuple[Tensor, Tensor]:
    """Memberships of a batch, and which are known."""
    return label_targets(rows.new_full((len(rows),), UNKNOWN) if labels is None else labels, classes)


class Candidate(NamedTuple):
    """A linear map into the common space, and the name and numbers it goes by."""

    directions: Directions
    power: float
    record: dict[str, Any]


def fit_fusion(
    layer: CanonicalLayer,
    config: DualSubspaceConfig,
    train: PairMoments,
    held_out: HeldOut | None,
    like: dict[str, Any] | None = None,
) -> dict[str, Any]:
    r"""Sets the layer to a candidate, and returns what it was.

    Candidates of `weighted-cluster-cca` are outputs and features together with $\lambda = 1$ and a ridge of .3; the
    outputs alone with $\lambda \in \{0, .2, .5, 1\}$ and ridge in $\{10^{-4}, 10^{-2}\}$, as far as the config leaves
    them open; the paper's `cca`; the implicit outputs as they are; and the explicit outputs by plain CCA. The first
    (without features, $\lambda = 1$ and $10^{-2}$) is taken unless validation shows another to be better by `MARGIN`.

    Args:
        layer: over the concatenation of explicit and implicit outputs, and of features where they are fused.
        config: of the model.
        train: moments of the training outputs, of all processes.
        held_out: validation outputs, or None.
        like: what was chosen elsewhere, and is to be taken here.
    """
    if like is not None:
        chosen = _named(config, train, like)
    elif config.fused != "weighted-cluster-cca":
        chosen = _named(config, train, {"candidate": config.fused})
    elif config.fusion_is_open and held_out is not None:
        chosen = _best(_candidates(config, train), layer, held_out)
    else:
        chosen = _unchosen(config, train)
    layer.set(chosen.directions, chosen.power)
    layer.check()
    return chosen.record


def _unchosen(config: DualSubspaceConfig, train: PairMoments) -> Candidate:
    weight = UNCHOSEN_CLUSTER_WEIGHT if config.fusion_cluster_weight is None else config.fusion_cluster_weight
    if config.fusion_features and len(train.audio_scatter) > config.explicit_dim + config.implicit_dim:
        ridge = UNCHOSEN_FEATURES_RIDGE if config.fusion_ridge is None else config.fusion_ridge
        return _with_features(config, train, weight, ridge)
    return _weighted(config, train, weight, UNCHOSEN_RIDGE if config.fusion_ridge is None else config.fusion_ridge)


def _named(config: DualSubspaceConfig, train: PairMoments, record: dict[str, Any]) -> Candidate:
    """The candidate that a record speaks of."""
    name = record["candidate"]
    if name in ("with-features", "weighted-cluster-cca"):
        make = _with_features if name == "with-features" else _weighted
        return make(config, train, record["cluster_weight"], record["ridge"])
    if name == "implicit":
        return _implicit(config, train)
    return {"explicit": _explicit, "cca": _cca}[name](config, train, record.get("ridge", _ridge(config)))


def _candidates(config: DualSubspaceConfig, train: PairMoments) -> list[Candidate]:
    """The one that is taken unchosen comes first."""
    weights = CLUSTER_WEIGHTS if config.fusion_cluster_weight is None else (config.fusion_cluster_weight,)
    ridges = RIDGES if config.fusion_ridge is None else (config.fusion_ridge,)
    grid = [_weighted(config, train, weight, ridge) for weight in weights for ridge in ridges]
    first = _unchosen(config, train)
    others = [*grid, *(_named(config, train, {"candidate": name}) for name in ("cca", "implicit", "explicit"))]
    return [first, *(other for other in others if other.record != first.record)]


def _best(candidates: list[Candidate], layer: CanonicalLayer, held_out: HeldOut) -> Candidate:
    scores = []
    for candidate in candidates:
        layer.set(candidate.directions, candidate.power)
        scores.append(held_out_map(layer, held_out))
    # Sums of precisions depend on the order of addition: what differs by less than that is a tie, and the first stays.
    best = max(range(len(candidates)), key=lambda candidate: round(scores[candidate], 9))
    if scores[best] < scores[0] + MARGIN:
        best = 0
    record = candidates[best].record | {"validation_map": scores[best], "candidates": len(candidates)}
    return candidates[best]._replace(record=record)


def held_out_map(layer: CanonicalLayer, held_out: HeldOut) -> float:
    """Mean over both directions of MAP on validation, the same number in every process.

    Where there are classes, a query's own pair is left out: of few clips a class it is much of what is relevant, and
    fusions that know pairs and no class would win. The number is for choosing: that of `validate` leaves it in.
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
    ).to(held_out.audio.device)
    all_reduce_sum(sums)
    return float((sums[:, 0] / sums[:, 1].clamp_min(1)).mean())


def _ridge(config: DualSubspaceConfig) -> float:
    return RIDGES[0] if config.fusion_ridge is None else config.fusion_ridge


def _explicit(config: DualSubspaceConfig, train: PairMoments, ridge: float) -> Candidate:
    covariances = train.covariances().block(slice(0, config.explicit_dim))
    directions = canonical_directions(covariances, config.embed_dim, ridge, config.ridge_relative)
    return Candidate(_padded(directions, 0, train), 0.0, {"candidate": "explicit", "ridge": ridge})


def _implicit(config: DualSubspaceConfig, train: PairMoments) -> Candidate:
    # The outputs as they are: no mean is taken off, since they already stand for memberships of classes.
    width = config.implicit_dim
    zeros = train.audio_scatter.new_zeros(width)
    identity = torch.diag_embed(zeros + 1)
    directions = Directions(zeros, identity, zeros, identity, zeros + 1)
    return Candidate(_padded(directions, config.explicit_dim, train), 0.0, {"candidate": "implicit"})


def _cca(config: DualSubspaceConfig, train: PairMoments, ridge: float) -> Candidate:
    covariances = _of_outputs(train.covariances(), config)
    directions = canonical_directions(covariances, config.embed_dim, ridge, config.ridge_relative)
    return Candidate(_padded(directions, 0, train), 0.0, {"candidate": "cca", "ridge": ridge})


def _of_outputs(covariances: Covariances, config: DualSubspaceConfig) -> Covariances:
    return covariances.block(slice(0, config.explicit_dim + config.implicit_dim))


def _weighted(config: DualSubspaceConfig, train: PairMoments, weight: float, ridge: float) -> Candidate:
    """Outputs alone."""
    covariances = _of_outputs(train.covariances(weight), config)
    directions = canonical_directions(covariances, config.embed_dim, ridge, config.ridge_relative)
    record = {"candidate": "weighted-cluster-cca", "cluster_weight": weight, "ridge": ridge}
    return Candidate(_padded(directions, 0, train), config.fusion_power, record)


def _with_features(config: DualSubspaceConfig, train: PairMoments, weight: float, ridge: float) -> Candidate:
    """Outputs and features together.

    The ridge shares the weight between features and outputs, which may fit the training labels all too well; that of
    each column is a multiple of its own variance, since their units have nothing in common.
    """
    if len(train.audio_scatter) <= config.explicit_dim + config.implicit_dim:
        raise ValueError("The fusion to take over reads features, and this model has no columns for them.")
    covariances = train.covariances(weight)
    covariances = covariances._replace(
        audio=covariances.audio + ridge * torch.diag(covariances.audio.diagonal()),
        visual=covariances.visual + ridge * torch.diag(covariances.visual.diagonal()),
    )
    directions = canonical_directions(covariances, config.embed_dim)
    record = {"candidate": "with-features", "cluster_weight": weight, "ridge": ridge}
    return Candidate(directions, config.fusion_power, record)


def _padded(directions: Directions, first: int, train: PairMoments) -> Directions:
    """Directions over some columns of the concatenation, as directions over all of them."""
    audio_width, visual_width = len(train.audio_scatter), len(train.visual_scatter)

    def rows(tensor: Tensor, width: int) -> Tensor:
        full = tensor.new_zeros(width, *tensor.shape[1:])
        full[first : first + len(tensor)] = tensor
        return full

    return directions._replace(
        audio_mean=rows(directions.audio_mean, audio_width),
        audio_weights=rows(directions.audio_weights, audio_width),
        visual_mean=rows(directions.visual_mean, visual_width),
        visual_weights=rows(directions.visual_weights, visual_width),
    )
