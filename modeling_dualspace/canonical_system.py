r"""What every compared system shares that ends in linear canonical directions of both modalities.

`finish` fits them in closed form, from one pass over the training clips: to the features themselves, or to what a
network, a kernel or whatever else a subclass has makes of them.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.utils import logging

from .cca import CanonicalLayer, canonical_directions
from .configuration_dualspace import CrossModalConfig, check_at_least_zero
from .distributed import agreed, all_reduce_sum
from .modeling_crossmodal import Batch, CrossModalModel
from .module_state import check_outputs, evaluating, share_batch_statistics, was_loaded
from .moments import as_float64
from .pair_moments import Covariances, PairMoments
from .targets import check_labelled, label_targets, shares
from .towers import init_layer

logger = logging.get_logger(__name__)

Maps = tuple[Tensor, Tensor]


@strict
class CanonicalConfig(CrossModalConfig):
    r"""What canonical directions are configured by.

    Args:
        embed_dim: how many directions.
        ridge: r, added to the diagonal of both covariances.
        ridge_relative: whether r is a multiple of the mean eigenvalue of each.
        power: p: each direction is multiplied by $\rho^p$, so that noise does not weigh as much as signal. 0 is the
            published method, 1 its weighted form.
        lengths: whether embeddings keep the length of their variates, in two columns more; see `CanonicalLayer`.
    """

    players: ClassVar[tuple[str, ...]] = ()
    terms: ClassVar[tuple[str, ...]] = ()
    makes_codes = False

    ridge: float | int = 1e-4
    ridge_relative: bool = False
    power: float | int = 0.0
    lengths: bool = False

    @property
    def output_dim(self) -> int:
        """Width of the embeddings as they come out."""
        return self.embed_dim + 2 * self.lengths

    def validate_directions(self) -> None:
        """Ridge and power that mean something."""
        for name in ("ridge", "power"):
            check_at_least_zero(name, getattr(self, name))


class CanonicalModel(CrossModalModel):
    """A system that ends in canonical directions of paired rows.

    A subclass may say what rows are fitted instead of the features (`_rows`), which moments of them (`_moments`,
    `_covariances`), and in what coordinates the ridge is added (`_maps`).
    """

    config_class = CanonicalConfig
    config: CanonicalConfig
    _keep_in_fp32_modules_strict = ["layer", "statistics"]

    def __init__(self, config: CanonicalConfig, audio_width: int | None = None, visual_width: int | None = None):
        super().__init__(config)
        widths = audio_width or config.audio_dim, visual_width or config.visual_dim
        self.layer = CanonicalLayer(*widths, config.embed_dim, config.lengths)

    def _init_weights(self, module: nn.Module) -> None:
        if not was_loaded(module):
            self.layer.forget()  # it was not fitted to what begins anew
        if isinstance(module, CanonicalLayer):
            module.reset()
        elif not init_layer(module):
            super()._init_weights(module)

    @property
    def fitted(self) -> bool:
        """Whether directions were fitted, here or before the weights were saved."""
        return self.layer.fitted

    def parts(self) -> dict[str, list[str]]:
        """All of the directions."""
        return super().parts() | {"fitted": [name for name in self.state_dict() if name.startswith("layer.")]}

    def _embed_rows(self, features: Tensor, modality: str) -> Tensor:
        return getattr(self.layer, modality)(self._rows(features, modality))

    def _rows(self, features: Tensor, modality: str) -> Tensor:
        """What directions are fitted to, of raw features; one row a clip."""
        return features

    def finish(self, data: Iterable[Batch], validation: Iterable[Batch] | None = None) -> None:
        """Fits the directions to a training pass; chooses nothing, so validation is not looked at."""
        share_batch_statistics(self)
        with evaluating(self), torch.no_grad():
            moments = self._moments(data)
            covariances = self._covariances(moments)
            maps = self._maps(covariances)
            fitted = covariances if maps is None else covariances.mapped(*maps)
            fitted = self._with_constraint(fitted, moments.rows)
            ridge, relative = self.config.ridge, self.config.ridge_relative
            directions = canonical_directions(fitted, self.config.embed_dim, ridge, relative)
            if maps is not None:
                directions = directions.behind(covariances, *maps)
            self.layer.lengths = self.config.lengths
            self.layer.set(directions, self.config.power)
        self.layer.check()
        most = min(len(self.layer.audio_mean), len(self.layer.visual_mean))
        if self.config.embed_dim > most:
            logger.warning(
                f"`embed_dim` is {self.config.embed_dim}, and there are {most} directions at most: the rest are 0."
            )

    def _moments(self, data: Iterable[Batch]) -> PairMoments:
        """Moments of the rows of all processes."""
        moments = self._no_moments()

        def look() -> None:
            for batch in self._batches(data):
                moments.update(*self._both(batch))

        agreed(look)
        return moments.all_reduce()

    def _no_moments(self, classes: int = 0) -> PairMoments:
        return PairMoments(len(self.layer.audio_mean), len(self.layer.visual_mean), classes, self.device)

    def _both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = tuple(self._rows(batch[f"{modality}_features"], modality) for modality in ("audio", "visual"))
        check_outputs(*rows)
        return rows[0], rows[1]

    def _covariances(self, moments: PairMoments) -> Covariances:
        """Those whose directions are sought."""
        return moments.covariances()

    def _maps(self, covariances: Covariances) -> Maps | None:
        """Linear maps of both sides into the coordinates in which the ridge is added."""
        return None

    def _with_constraint(self, covariances: Covariances, rows: int) -> Covariances:
        """Marginals as the method constrains them, in those coordinates, before the ridge; of so many clips."""
        return covariances


@strict
class ClusterConfig(CanonicalConfig):
    r"""What directions of clusters are configured by: pairs of a sound with any sight of its category.

    Args:
        pairing: how pairs are counted, see `ClusterModel`.
        cluster_weight: $\lambda$: share of the pairs of a category in the cross-covariance; the rest are a clip's own.
            The authors' mix is `pairing="mixed"` with .8.
    """

    pairing: Literal["all", "mixed", "even"] = "all"
    cluster_weight: float | int = 1.0

    def validate_clusters(self) -> None:
        """A share, and one that the pairing can have."""
        if not 0 <= self.cluster_weight <= 1:
            raise ValueError(f"`cluster_weight` must lie in 0..1, got {self.cluster_weight}.")
        if self.pairing == "all" and self.cluster_weight != 1:
            raise ValueError(
                f"`pairing` all has no pairs but those of a category, and `cluster_weight` is {self.cluster_weight}: "
                "take the pairing mixed, or even."
            )


class ClusterModel(CanonicalModel):
    r"""Directions of cluster CCA, in closed form in the sums of each class, whichever way pairs are counted.

    With classes of $n_c$ rows that sum to $s_a^c, s_v^c$, and $M = \sum_c n_c^2$:

    - `all`, as published: $S_{av} = \frac1M \sum_c s_a^c {s_v^c}'$, $S_{aa} = \frac1M \sum_c n_c \sum_i a_i a_i'$,
      everything centred on $\frac1M \sum_c n_c s_a^c$: the moments of all pairs of a class, materialised nowhere.
    - `mixed`, as the authors' code has it: $(1-\lambda)$ of the clips' own pairs and $\lambda$ of all pairs of a class,
      with the covariances and means of the clips.
    - `even`, ours: likewise, but each clip meets its class with a weight of $1/n_c$, so that a class counts as its
      clips do and no correlation exceeds one.

    A clip that nobody labelled is a class of its own.
    """

    config_class = ClusterConfig
    config: ClusterConfig

    def _moments(self, data: Iterable[Batch]) -> PairMoments:
        moments = self._no_moments(self.config.num_labels or 0)
        sizes = self._class_sizes(data) if self.config.pairing == "all" else None

        def look() -> None:
            for batch in self._batches(data):
                members, (audio, visual) = self._members(batch), self._both(batch)
                if sizes is not None:
                    rows, classes, weights = _by_class(members, sizes)
                    moments.update(audio[rows], visual[rows], classes, weights=weights)
                else:
                    moments.update(audio, visual, members)

        agreed(look)
        moments.all_reduce()
        check_labelled(self, moments.rows, moments.class_weight)
        return moments

    def _class_sizes(self, data: Iterable[Batch]) -> Tensor:
        """Clips of each class, over all processes; raises where none has a label."""
        sizes = as_float64(torch.zeros(1 + (self.config.num_labels or 0), device=self.device))

        def look() -> None:
            for batch in self._batches(data):
                sizes[0] += len(batch["audio_features"])
                sizes[1:] += self._members(batch).to(sizes).sum(dim=0)

        agreed(look)
        all_reduce_sum(sizes)
        check_labelled(self, int(sizes[0]), sizes[1:])
        return sizes[1:]

    def _members(self, batch: Batch) -> Tensor:
        """Memberships `(n, C)` with rows that sum to one, or to zero where nobody annotated."""
        if "labels" not in batch:
            return torch.zeros(len(batch["audio_features"]), self.config.num_labels or 0, device=self.device)
        targets, known = label_targets(batch["labels"], self.config.num_labels or 0)
        return shares(targets * known.unsqueeze(1))

    def _covariances(self, moments: PairMoments) -> Covariances:
        return moments.covariances(self.config.cluster_weight, all_pairs=self.config.pairing == "mixed")


def _by_class(members: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each clip once for each class that it is in: its row, that class `(n, C)`, and in how many pairs it takes part.

    What is in no class stands for itself, in one pair.
    """
    rows, classes = members.nonzero(as_tuple=True)
    alone = (~members.any(dim=1)).nonzero().flatten()
    # Class sizes may lie on another device, which has float64.
    shared = members[rows, classes].to(sizes) * sizes[classes.to(sizes.device)]
    one_hot = nn.functional.one_hot(classes, members.shape[1])
    return (
        torch.cat([rows, alone]),
        torch.cat([one_hot, one_hot.new_zeros(len(alone), members.shape[1])]),
        torch.cat([shared, sizes.new_ones(len(alone))]),
    )


@strict
class LinearConfig(CanonicalConfig):
    """What canonical directions of raw features are configured by.

    Args:
        feature_scaling: `standardize` adds the ridge to columns of unit variance; `none` to those of the features.
    """

    feature_scaling: Literal["standardize", "none"] = "none"


class LinearModel(CanonicalModel):
    """Canonical directions of raw features."""

    config_class = LinearConfig
    config: LinearConfig

    def __init__(self, config: LinearConfig):
        super().__init__(config)
        self.post_init()

    def _maps(self, covariances: Covariances) -> Maps | None:
        return standardizing(covariances) if self.config.feature_scaling == "standardize" else None


def standardizing(covariances: Covariances) -> Maps:
    """Maps that bring every column to unit variance; one that does not vary is left out."""

    def diagonal(covariance: Tensor) -> Tensor:
        deviation = covariance.diagonal().clamp_min(0).sqrt()
        return torch.diag(torch.where(deviation > 0, 1 / deviation, 0.0))

    return diagonal(covariances.audio), diagonal(covariances.visual)
