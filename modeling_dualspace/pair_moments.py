"""Moments of pairs: all that a canonical correlation analysis, of pairs or of classes, needs to know of its data."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from .distributed import all_reduce_sum
from .moments import EMPTY_SPLIT, Centre, as_float64, check_finite, check_width, chunks, constant_columns
from .targets import shares

_TINY = torch.finfo(torch.float64).tiny


class Covariances(NamedTuple):
    """Of two views, with their means."""

    audio: Tensor
    """$S_{aa}$ `(p, p)`"""
    visual: Tensor
    """$S_{vv}$ `(q, q)`"""
    cross: Tensor
    """$S_{av}$ `(p, q)`"""
    audio_mean: Tensor
    visual_mean: Tensor

    def block(self, columns: slice) -> "Covariances":
        """Those of the same columns of both views."""
        return Covariances(
            self.audio[columns, columns],
            self.visual[columns, columns],
            self.cross[columns, columns],
            self.audio_mean[columns],
            self.visual_mean[columns],
        )

    def mapped(self, audio_map: Tensor, visual_map: Tensor) -> "Covariances":
        """Those of `audio @ audio_map` and `visual @ visual_map`."""
        return Covariances(
            audio_map.T @ self.audio @ audio_map,
            visual_map.T @ self.visual @ visual_map,
            audio_map.T @ self.cross @ visual_map,
            self.audio_mean @ audio_map,
            self.visual_mean @ visual_map,
        )


class PairMoments:
    r"""Weighted moments of paired rows and of their classes, in one pass.

    With row weights $w_i$, $W = \sum w_i$, class memberships $Z$ whose rows sum to one (one-hot for one class, $Y$ with
    its rows normalised for several), $D = \mathrm{diag}(Z' w)$ and $A, V$ centred on their weighted means:

    $$S_{pairs} = \tfrac1W \sum_i w_i a_i v_i' \qquad
      S_{cl} = \tfrac1W \Big[(Z'wA)' D^{-1} (Z'wV) + \sum_{i\ \text{unlabelled}} w_i a_i v_i'\Big]$$

    $S_{cl}$ pairs each clip with those of its class at weight $1/n_c$, so a class counts as its clips do, and a clip
    that nobody labelled is a class of its own. Both are $A'PV/W$ with $\|P\| \le 1$: against $S_{aa}$ and $S_{vv}$ as
    they are, no mixture of the two has a canonical correlation above one. Memory is $O(d^2 + Cd)$.

    Cluster CCA (Rasiwasia et al., "Cluster canonical correlation analysis", AISTATS 2014), which pairs *all* audio and
    visual rows of a class, is the case $w_i = n_{c(i)}$: the size of a clip's class, from a pass over the labels.
    """

    _SUMS = (
        "audio_scatter",
        "visual_scatter",
        "labelled_cross",
        "unlabelled_cross",
        "class_weight",
        "class_audio",
        "class_visual",
    )

    def __init__(self, audio_dim: int, visual_dim: int, num_labels: int = 0, device: torch.device | str = "cpu"):
        def zeros(*shape: int) -> Tensor:
            return as_float64(torch.zeros(shape, device=device))

        self.rows = 0
        self.weight = zeros()
        self.audio_centre, self.visual_centre = Centre(zeros(audio_dim)), Centre(zeros(visual_dim))
        self.audio_scatter, self.visual_scatter = zeros(audio_dim, audio_dim), zeros(visual_dim, visual_dim)
        self.labelled_cross, self.unlabelled_cross = zeros(audio_dim, visual_dim), zeros(audio_dim, visual_dim)
        self.class_weight = zeros(num_labels)
        self.class_audio, self.class_visual = zeros(num_labels, audio_dim), zeros(num_labels, visual_dim)

    def update(
        self,
        audio: Tensor,
        visual: Tensor,
        targets: Tensor | None = None,
        known: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> "PairMoments":
        """Takes in paired rows.

        Args:
            audio: `(n, p)`.
            visual: `(n, q)`.
            targets: memberships `(n, C)`, not negative; rows of zeros count as unlabelled.
            known: `(n,)`, False for rows whose targets are to be ignored.
            weights: `(n,)`, not negative; 1 each where absent.
        """
        self._check(audio, visual, targets, known, weights)
        for chunk in chunks(len(audio), audio.shape[1] + visual.shape[1]):
            self._update_chunk(
                as_float64(audio[chunk]).to(self.weight.device),
                as_float64(visual[chunk]).to(self.weight.device),
                self._memberships(targets, known, chunk),
                None if weights is None else as_float64(weights[chunk]).to(self.weight.device),
            )
        return self

    def _check(
        self, audio: Tensor, visual: Tensor, targets: Tensor | None, known: Tensor | None, weights: Tensor | None
    ) -> None:
        if len(audio) != len(visual):
            raise ValueError(
                f"Audio and visual rows must pair up: {len(audio)} against {len(visual)}. Drop the unpaired clips."
            )
        check_width(audio, len(self.audio_scatter), "audio")
        check_width(visual, len(self.visual_scatter), "visual")
        for given, what in ((targets, "targets"), (known, "known"), (weights, "weights")):
            if given is not None and len(given) != len(audio):
                raise ValueError(f"Rows and their {what} must pair up: {len(audio)} against {len(given)}.")
        if targets is not None:
            check_width(targets, len(self.class_weight), "target")
            used = targets if known is None else targets[known]
            if not ((used >= 0) & torch.isfinite(used)).all():
                raise ValueError("Targets must be finite memberships, 0 or more; name unknown rows by `known`.")
        if weights is not None and not ((weights >= 0) & torch.isfinite(weights)).all():
            raise ValueError("Weights must be finite numbers of at least 0.")

    def _memberships(self, targets: Tensor | None, known: Tensor | None, chunk: slice) -> Tensor | None:
        """Targets of a chunk with rows that sum to one, or to zero where unlabelled."""
        if targets is None or targets.shape[1] == 0:
            return None
        members = as_float64(targets[chunk]).to(self.weight.device)
        if known is not None:
            members = torch.where(known[chunk].to(members.device).unsqueeze(1), members, 0.0)
        return shares(members)

    def _update_chunk(self, audio: Tensor, visual: Tensor, members: Tensor | None, weights: Tensor | None) -> None:
        check_finite(audio, "audio features", self.rows)
        check_finite(visual, "visual features", self.rows)
        if not self.weight > 0:  # no sum is anything yet: the pivots may still be put among rows that count
            first = 0 if weights is None else int((weights > 0).to(torch.uint8).argmax())
            self.audio_centre, self.visual_centre = Centre(audio[first].clone()), Centre(visual[first].clone())
        self.rows += len(audio)
        weight = audio.new_tensor(float(len(audio))) if weights is None else weights.sum()
        total = (self.weight + weight).clamp_min(_TINY)
        audio, visual = audio - self.audio_centre.pivot, visual - self.visual_centre.pivot
        offsets = []
        for centre, rows in ((self.audio_centre, audio), (self.visual_centre, visual)):
            sums = rows.sum(dim=0) if weights is None else weights @ rows
            offsets.append(centre.offset + (sums - weight * centre.offset) / total)
        self._recentre(*offsets)
        audio -= offsets[0]
        visual -= offsets[1]
        weighted = visual if weights is None else visual * weights.unsqueeze(1)
        self.audio_scatter.addmm_(audio.T, audio if weights is None else audio * weights.unsqueeze(1))
        self.visual_scatter.addmm_(visual.T, weighted)
        labelled = None if members is None else members.any(dim=1)
        if labelled is None or not labelled.any():
            self.unlabelled_cross.addmm_(audio.T, weighted)
        elif labelled.all():
            self.labelled_cross.addmm_(audio.T, weighted)
        else:
            self.labelled_cross.addmm_(audio[labelled].T, weighted[labelled])
            self.unlabelled_cross.addmm_(audio[~labelled].T, weighted[~labelled])
        if members is not None:
            members = members if weights is None else members * weights.unsqueeze(1)
            self.class_weight += members.sum(dim=0)
            self.class_audio.addmm_(members.T, audio)
            self.class_visual.addmm_(members.T, visual)
        self.weight = self.weight + weight

    def _recentre(self, audio_offset: Tensor, visual_offset: Tensor) -> None:
        """Moves every sum, exactly, to other means about the same pivots.

        The sums are about their own mean here, so those of the unlabelled rows are minus those of the labelled ones.
        """
        audio, visual = self.audio_centre.offset - audio_offset, self.visual_centre.offset - visual_offset
        labelled_weight = self.class_weight.sum()
        labelled_audio, labelled_visual = self.class_audio.sum(dim=0), self.class_visual.sum(dim=0)
        self.audio_scatter.addr_(self.weight * audio, audio)
        self.visual_scatter.addr_(self.weight * visual, visual)
        both = torch.outer(labelled_audio, visual) + torch.outer(audio, labelled_visual)
        self.labelled_cross += both + torch.outer(labelled_weight * audio, visual)
        self.unlabelled_cross -= both - torch.outer((self.weight - labelled_weight) * audio, visual)
        self.class_audio.addr_(self.class_weight, audio)
        self.class_visual.addr_(self.class_weight, visual)
        self.audio_centre = Centre(self.audio_centre.pivot, audio_offset)
        self.visual_centre = Centre(self.visual_centre.pivot, visual_offset)

    def merge(self, other: "PairMoments") -> "PairMoments":
        """Takes in everything another accumulator has seen, and leaves that one as it is."""
        shapes = [[tuple(getattr(moments, name).shape) for name in self._SUMS] for moments in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"Moments of different widths do not merge: {shapes[0]} against {shapes[1]}.")
        other = copy.deepcopy(other)
        if not self.weight > 0:
            self.audio_centre, self.visual_centre = other.audio_centre, other.visual_centre
        other.audio_centre = other.audio_centre.about(self.audio_centre.pivot)
        other.visual_centre = other.visual_centre.about(self.visual_centre.pivot)
        share = other.weight / (self.weight + other.weight).clamp_min(_TINY)
        offsets = [
            torch.lerp(mine.offset, theirs.offset, share)
            for mine, theirs in (
                (self.audio_centre, other.audio_centre),
                (self.visual_centre, other.visual_centre),
            )
        ]
        for moments in (self, other):
            moments._recentre(*offsets)
        for name in self._SUMS:
            getattr(self, name).add_(getattr(other, name))
        self.weight = self.weight + other.weight
        self.rows += other.rows
        return self

    def all_reduce(self) -> "PairMoments":
        """Replaces the moments of this process's rows by those of all processes; a process without rows is welcome."""
        weight, rows = self.weight.clone(), torch.tensor(self.rows, device=self.weight.device)
        all_reduce_sum(weight, rows)
        total = weight.clamp_min(_TINY)
        self.audio_centre, audio_offset = self.audio_centre.reduced(self.weight, total)
        self.visual_centre, visual_offset = self.visual_centre.reduced(self.weight, total)
        self._recentre(audio_offset, visual_offset)
        all_reduce_sum(*(getattr(self, name) for name in self._SUMS))
        self.weight, self.rows = weight, int(rows)
        return self

    def covariances(self, cluster_weight: float = 0.0, *, all_pairs: bool = False) -> Covariances:
        r"""$S_{aa}$, $S_{vv}$ and $(1-\lambda) S_{pairs} + \lambda S_{cl}$, where $\lambda$ is `cluster_weight`.

        A column that varies by no more than rounding has no covariance with anything, itself included.

        Args:
            cluster_weight: share of the pairs of a class in the cross-covariance.
            all_pairs: every pair of a class counts the same in $S_{cl}$, so that a class counts as its pairs do, not
                as its clips; a correlation may then be above one.
        """
        if not 0 <= cluster_weight <= 1:
            raise ValueError(f"A cluster weight must lie in 0..1, got {cluster_weight}.")
        if self.rows == 0:
            raise ValueError(EMPTY_SPLIT)
        if not self.weight > 0:
            raise ValueError(f"Cannot fit to {self.rows} rows that all weigh nothing.")
        pairs = self.labelled_cross + self.unlabelled_cross
        clusters = self._clusters(all_pairs)
        cross = torch.lerp(pairs, clusters, cluster_weight)
        audio, visual, cross = (sums / self.weight for sums in (self.audio_scatter, self.visual_scatter, cross))
        audio_mean, visual_mean = self.audio_centre.mean, self.visual_centre.mean
        audio_varies = ~constant_columns(audio.diagonal(), audio_mean)
        visual_varies = ~constant_columns(visual.diagonal(), visual_mean)
        return Covariances(
            audio * torch.outer(audio_varies, audio_varies),
            visual * torch.outer(visual_varies, visual_varies),
            cross * torch.outer(audio_varies, visual_varies),
            audio_mean,
            visual_mean,
        )

    def _clusters(self, all_pairs: bool) -> Tensor:
        """Sum over all clips of a clip with those of its class; each has the weight that it has by itself."""
        if not all_pairs:
            inverse = torch.where(self.class_weight > 0, 1 / self.class_weight, 0.0)
            return (self.class_audio * inverse.unsqueeze(1)).T @ self.class_visual + self.unlabelled_cross
        alone = self.weight - self.class_weight.sum()
        pairs = self.class_weight.square().sum() + alone  # each unlabelled clip has one: with itself
        return (self.class_audio.T @ self.class_visual + self.unlabelled_cross) * (self.weight / pairs)
