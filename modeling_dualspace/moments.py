r"""First and second moments in one pass, in float64, by merging centred moments.

A covariance from sums of squares, $\sum x x' - n \mu \mu'$, loses every digit once the mean is large against the
deviation. Here all sums are kept about the running mean, and moved exactly when the mean moves (Chan, Golub and
LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979). Two accumulators, of two
chunks or of two processes, merge the same way: both are moved to the joint mean, and then they add.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .distributed import all_reduce_sum

_CHUNK_BYTES = 2**25
"""Rows are widened to float64 in chunks of about this size, which bounds memory whatever the size of the batch."""


def _float64(tensor: Tensor) -> Tensor:
    # mps has no float64: there the moments live on the CPU.
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def _chunks(rows: int, width: int) -> Iterator[slice]:
    step = max(256, _CHUNK_BYTES // (8 * max(width, 1)))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def check_finite(rows: Tensor, name: str, first_row: int = 0, sums: Tensor | None = None) -> None:
    """Raises, naming the row, unless all `rows` `(n, d)` are finite; `first_row` is the number of the first of them."""
    # A NaN or an infinity anywhere shows in the column sums: rows are searched only when there is one.
    if not torch.isfinite(rows.sum(dim=0) if sums is None else sums).all():
        wrong = (~torch.isfinite(rows)).any(dim=1).nonzero()
        if len(wrong):  # otherwise it was the sum that overflowed
            raise ValueError(
                f"{name.capitalize()} features must be finite numbers, but row {first_row + int(wrong[0])} holds NaN "
                "or infinity. Mend that clip or leave it out."
            )


def constant_columns(variance: Tensor, mean: Tensor) -> Tensor:
    """True where a column varies by no more than rounding does about its mean."""
    return variance <= (16 * torch.finfo(torch.float64).eps * mean.abs()).square()


class ColumnMoments:
    """Count, mean and variance of each column of a stream of rows.

    Example:
        ```python
        >>> moments = ColumnMoments(2, "audio").update(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> moments.mean.tolist(), moments.variance().tolist()
        ([2.0, 5.0], [1.0, 0.0])

        ```
    """

    def __init__(self, width: int, name: str, device: torch.device | str = "cpu"):
        self.name = name
        self.count = _float64(torch.zeros((), device=device))
        self.mean = _float64(torch.zeros(width, device=device))
        self.squares = _float64(torch.zeros(width, device=device))

    def update(self, rows: Tensor) -> "ColumnMoments":
        """Takes in `rows` `(n, width)`; a row that is not finite is refused by its number in the stream."""
        for chunk in _chunks(*rows.shape):
            block = _float64(rows[chunk]).to(self.mean.device)
            sums = block.sum(dim=0)
            check_finite(block, self.name, int(self.count), sums)
            joint = self.mean + (sums - len(block) * self.mean) / (self.count + len(block))
            self.squares += self.count * (self.mean - joint).square() + (block - joint).square().sum(dim=0)
            self.mean = joint
            self.count += len(block)
        return self

    def all_reduce(self) -> "ColumnMoments":
        """Replaces the moments of this process's rows by those of all processes; a process without rows is welcome."""
        count, total = self.count.clone(), self.count * self.mean
        all_reduce_sum(count, total)
        joint = total / count.clamp_min(1)
        self.squares += self.count * (self.mean - joint).square()
        all_reduce_sum(self.squares)
        self.count, self.mean = count, joint
        return self

    def variance(self) -> Tensor:
        """Variance of each column, over n, and exactly zero for a column that does not vary."""
        variance = self.squares / self.count.clamp_min(1)
        return variance.masked_fill(constant_columns(variance, self.mean), 0)


class Covariances(NamedTuple):
    """What a canonical correlation analysis needs to know of its data."""

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
            return _float64(torch.zeros(shape, device=device))

        self.rows = 0
        self.weight = zeros()
        self.audio_mean, self.visual_mean = zeros(audio_dim), zeros(visual_dim)
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
        if len(audio) != len(visual):
            raise ValueError(
                f"Audio and visual rows must pair up: {len(audio)} against {len(visual)}. Drop the unpaired clips."
            )
        for rows, mean, name in ((audio, self.audio_mean, "audio"), (visual, self.visual_mean, "visual")):
            if rows.ndim != 2 or rows.shape[1] != len(mean):
                raise ValueError(f"Expected {name} rows of shape (n, {len(mean)}), got {tuple(rows.shape)}.")
        for chunk in _chunks(len(audio), audio.shape[1] + visual.shape[1]):
            self._update_chunk(
                _float64(audio[chunk]).to(self.weight.device),
                _float64(visual[chunk]).to(self.weight.device),
                *self._memberships(targets, known, chunk, weights),
            )
        return self

    def _memberships(
        self, targets: Tensor | None, known: Tensor | None, chunk: slice, weights: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        weight = None if weights is None else _float64(weights[chunk]).to(self.weight.device)
        if targets is None or targets.shape[1] == 0:
            return None, weight
        targets = _float64(targets[chunk]).to(self.weight.device)
        if known is not None:
            targets = targets * known[chunk].to(targets.device).unsqueeze(1)
        return targets / targets.sum(dim=1, keepdim=True).clamp_min(torch.finfo(targets.dtype).tiny), weight

    def _update_chunk(self, audio: Tensor, visual: Tensor, members: Tensor | None, weights: Tensor | None) -> None:
        rows = len(audio)
        weight = audio.new_tensor(float(rows)) if weights is None else weights.sum()
        audio_sum = audio.sum(dim=0) if weights is None else weights @ audio
        visual_sum = visual.sum(dim=0) if weights is None else weights @ visual
        check_finite(audio, "audio", self.rows, audio_sum)
        check_finite(visual, "visual", self.rows, visual_sum)
        total = (self.weight + weight).clamp_min(torch.finfo(torch.float64).tiny)
        self._recentre(
            self.audio_mean + (audio_sum - weight * self.audio_mean) / total,
            self.visual_mean + (visual_sum - weight * self.visual_mean) / total,
        )
        audio, visual = audio - self.audio_mean, visual - self.visual_mean
        weighted = audio if weights is None else audio * weights.unsqueeze(1)
        self.audio_scatter.addmm_(weighted.T, audio)
        self.visual_scatter.addmm_(visual.T if weights is None else (visual * weights.unsqueeze(1)).T, visual)
        if members is None:
            self.unlabelled_cross.addmm_(weighted.T, visual)
        else:
            labelled = members.any(dim=1)
            if labelled.all():
                self.labelled_cross.addmm_(weighted.T, visual)
            else:
                self.labelled_cross.addmm_(weighted[labelled].T, visual[labelled])
                self.unlabelled_cross.addmm_(weighted[~labelled].T, visual[~labelled])
            members = members if weights is None else members * weights.unsqueeze(1)
            self.class_weight += members.sum(dim=0)
            self.class_audio.addmm_(members.T, audio)
            self.class_visual.addmm_(members.T, visual)
        self.weight = self.weight + weight
        self.rows += rows

    def _recentre(self, audio_mean: Tensor, visual_mean: Tensor) -> None:
        """Moves every sum, exactly, to other means.

        The sums are about their own mean here, so those of the unlabelled rows are minus those of the labelled ones.
        """
        audio, visual = self.audio_mean - audio_mean, self.visual_mean - visual_mean
        labelled_weight = self.class_weight.sum()
        labelled_audio, labelled_visual = self.class_audio.sum(dim=0), self.class_visual.sum(dim=0)
        self.audio_scatter.addr_(self.weight * audio, audio)
        self.visual_scatter.addr_(self.weight * visual, visual)
        both = torch.outer(labelled_audio, visual) + torch.outer(audio, labelled_visual)
        self.labelled_cross += both + torch.outer(labelled_weight * audio, visual)
        self.unlabelled_cross -= both - torch.outer((self.weight - labelled_weight) * audio, visual)
        self.class_audio.addr_(self.class_weight, audio)
        self.class_visual.addr_(self.class_weight, visual)
        self.audio_mean, self.visual_mean = audio_mean, visual_mean

    def merge(self, other: "PairMoments") -> "PairMoments":
        """Takes in everything another accumulator has seen; `other` is left moved to the joint mean."""
        total = (self.weight + other.weight).clamp_min(torch.finfo(torch.float64).tiny)
        share = other.weight / total
        audio_mean = self.audio_mean + share * (other.audio_mean - self.audio_mean)
        visual_mean = self.visual_mean + share * (other.visual_mean - self.visual_mean)
        for moments in (self, other):
            moments._recentre(audio_mean, visual_mean)
        for name in self._SUMS:
            getattr(self, name).add_(getattr(other, name))
        self.weight = self.weight + other.weight
        self.rows += other.rows
        return self

    def all_reduce(self) -> "PairMoments":
        """Replaces the moments of this process's rows by those of all processes; a process without rows is welcome."""
        weight, rows = self.weight.clone(), torch.tensor(self.rows, device=self.weight.device)
        audio_mean, visual_mean = self.weight * self.audio_mean, self.weight * self.visual_mean
        all_reduce_sum(weight, rows, audio_mean, visual_mean)
        total = weight.clamp_min(torch.finfo(torch.float64).tiny)
        self._recentre(audio_mean / total, visual_mean / total)
        all_reduce_sum(*(getattr(self, name) for name in self._SUMS))
        self.weight, self.rows = weight, int(rows)
        return self

    def covariances(self, cluster_weight: float = 0.0) -> Covariances:
        r"""$S_{aa}$, $S_{vv}$ and $(1-\lambda) S_{pairs} + \lambda S_{cl}$, where $\lambda$ is `cluster_weight`.

        A column that varies by no more than rounding has no covariance with anything, itself included.
        """
        if self.rows == 0:
            raise ValueError("Cannot fit to an empty split: no rows came. Look at the split's name and its filters.")
        pairs = self.labelled_cross + self.unlabelled_cross
        inverse = torch.where(self.class_weight > 0, 1 / self.class_weight, 0.0)
        clusters = (self.class_audio * inverse.unsqueeze(1)).T @ self.class_visual + self.unlabelled_cross
        cross = torch.lerp(pairs, clusters, cluster_weight)
        audio, visual, cross = (sums / self.weight for sums in (self.audio_scatter, self.visual_scatter, cross))
        audio_varies = ~constant_columns(audio.diagonal(), self.audio_mean)
        visual_varies = ~constant_columns(visual.diagonal(), self.visual_mean)
        return Covariances(
            audio * torch.outer(audio_varies, audio_varies),
            visual * torch.outer(visual_varies, visual_varies),
            cross * torch.outer(audio_varies, visual_varies),
            self.audio_mean,
            self.visual_mean,
        )
