r"""Canonical correlation analysis in closed form, and the layer that keeps its directions.

$$T = (S_{aa} + rI)^{-1/2} S_{av} (S_{vv} + rI)^{-1/2} = U \Sigma V' \qquad
  a \mapsto (a - \mu_a)(S_{aa} + rI)^{-1/2} U$$

(Hotelling, "Relations between two sets of variates", Biometrika 1936; the ridge: Vinod, "Canonical ridge and
econometrics of joint production", 1976.) Which covariances go in decides which method comes out: see `PairMoments`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .keeps_float32 import KeepsFloat32
from .pair_moments import Covariances


class Directions(NamedTuple):
    """The closed form's answer: `(x - mean) @ weights` are canonical variates."""

    audio_mean: Tensor
    """`(p,)`"""
    audio_weights: Tensor
    """`(p, k)`; the columns past the rank of the data are zero"""
    visual_mean: Tensor
    """`(q,)`"""
    visual_weights: Tensor
    """`(q, k)`"""
    correlations: Tensor
    """`(k,)`, falling, zero past the rank"""

    def behind(self, covariances: Covariances, audio_map: Tensor, visual_map: Tensor) -> "Directions":
        """Directions of mapped rows (`Covariances.mapped`) as directions of the rows themselves."""
        return self._replace(
            audio_mean=covariances.audio_mean,
            audio_weights=audio_map @ self.audio_weights,
            visual_mean=covariances.visual_mean,
            visual_weights=visual_map @ self.visual_weights,
        )


def whitening(covariance: Tensor) -> Tensor:
    """W `(d, rank)` with `W' S W = I`, for a symmetric S that may have any rank.

    Columns are first brought to unit variance, so that the unit of a column does not decide what counts as rank. Then a
    Cholesky factor is used where its inverse proves the matrix to be of full rank, and eigenvectors elsewhere, those
    above a relative threshold. The two differ by a rotation, which a correlation does not see.
    """
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    varies = deviation > 0
    scale = torch.where(varies, 1 / deviation, 0.0)[varies]
    correlation = covariance[varies][:, varies] * torch.outer(scale, scale)
    width = len(scale)
    if width == 0:
        return covariance.new_zeros(len(deviation), 0)
    # No eigenvalue of a correlation matrix exceeds its width.
    threshold = width * width * torch.finfo(covariance.dtype).eps
    factor, failed = torch.linalg.cholesky_ex(correlation)
    inverse = None
    if not failed:
        inverse = torch.linalg.solve_triangular(factor, torch.eye(width).to(factor), upper=False)
    # 1 / ||L^-1||_F^2 bounds the smallest eigenvalue from below.
    if inverse is not None and 1 / inverse.square().sum() > threshold:
        white = inverse.T
    else:
        eigenvalues, vectors = torch.linalg.eigh(correlation)
        kept = eigenvalues > eigenvalues[-1] * width * torch.finfo(covariance.dtype).eps
        white = vectors[:, kept] / eigenvalues[kept].sqrt()
    result = covariance.new_zeros(len(deviation), white.shape[1])
    result[varies] = scale.unsqueeze(1) * white
    return result


def add_ridge(covariance: Tensor, ridge: float, relative: bool = False) -> Tensor:
    """S + rI, with r absolute or as a multiple of the mean eigenvalue of S."""
    scale = covariance.diagonal().mean() if relative else covariance.new_ones(())
    return covariance + torch.diag_embed((ridge * scale).expand(len(covariance)))


def canonical_directions(covariances: Covariances, dim: int, ridge: float = 0.0, relative: bool = False) -> Directions:
    """The `dim` pairs of directions of largest correlation.

    Where the data have fewer, the rest are zero columns with a correlation of zero, never noise out of a null space:
    one asks for ten directions of nine classes and gets eight.

    Args:
        covariances: of the two views, centred; see `PairMoments.covariances`.
        dim: number of directions.
        ridge: added to the diagonal of both marginals.
        relative: whether `ridge` is a multiple of the mean eigenvalue of each.

    Example:
        ```python
        >>> from modeling_dualspace import PairMoments
        >>> shared = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
        >>> moments = PairMoments(3, 2).update(shared.expand(-1, 3), shared.expand(-1, 2))
        >>> [round(rho, 6) for rho in canonical_directions(moments.covariances(), 2).correlations.tolist()]
        [1.0, 0.0]

        ```
    """
    if dim < 1:
        raise ValueError(f"At least one direction must be asked for, got {dim}.")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"A ridge must be a finite number of at least 0, got {ridge}.")
    if not all(torch.isfinite(tensor).all() for tensor in covariances):
        raise ValueError("Covariances must be finite: the rows they are of hold numbers too large to be squared.")
    audio = add_ridge(covariances.audio, ridge, relative)
    visual = add_ridge(covariances.visual, ridge, relative)
    white_audio, white_visual = whitening(audio), whitening(visual)
    left, values, right = torch.linalg.svd(white_audio.T @ covariances.cross @ white_visual, full_matrices=False)
    left, right = white_audio @ left, white_visual @ right.mT
    kept = (values > _rounding(audio, left, covariances.cross, right, visual)).nonzero().squeeze(1)[:dim]
    # A direction and its mirror image are equally right: the largest weight is made positive, so that runs agree.
    largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True)) if len(left) else left.new_ones(1, left.shape[1])
    sign = torch.where(largest < 0, -1.0, 1.0).to(largest)

    def padded(columns: Tensor) -> Tensor:
        return nn.functional.pad(columns[..., kept], (0, dim - len(kept)))

    return Directions(
        covariances.audio_mean,
        padded(left * sign),
        covariances.visual_mean,
        padded(right * sign),
        padded(values),
    )


def _rounding(audio: Tensor, audio_weights: Tensor, cross: Tensor, visual_weights: Tensor, visual: Tensor) -> Tensor:
    """How large a correlation rounding alone can make of each pair of directions, `(k,)`.

    Entries of the cross-covariance carry errors relative to the deviations of their columns, and a direction blows them
    up by its length, measured in those deviations.
    """
    deviations = audio.diagonal().sqrt().unsqueeze(1), visual.diagonal().sqrt().unsqueeze(1)
    blown_up = (deviations[0] * audio_weights).norm(dim=0) * (deviations[1] * visual_weights).norm(dim=0)
    relative = cross / (deviations[0] @ deviations[1].T).clamp_min(torch.finfo(cross.dtype).tiny)
    # At least one rounding error an entry, however small the cross-covariance is; and a few for sums of many rows:
    # those of 22,482 in one update just passed one.
    return 8 * torch.finfo(cross.dtype).eps * blown_up * relative.norm().clamp_min(1.0)


class CanonicalLayer(KeepsFloat32):
    """Two linear maps into one space, with their means: the linear CCA layer of the paper, and of every CCA system.

    Args:
        audio_dim: width of audio rows.
        visual_dim: width of visual rows.
        dim: how many directions.
        lengths: whether rows keep their length, up to twice the usual one: two more columns, one a modality, fill it up
            to one, so that a cosine of audio and visual is a dot product of variates. Rows that say little are short,
            and then are nobody's nearest neighbours.
    """

    audio_mean: Tensor
    audio_weights: Tensor
    visual_mean: Tensor
    visual_weights: Tensor
    correlations: Tensor
    fitted_flag: Tensor

    def __init__(self, audio_dim: int, visual_dim: int, dim: int, lengths: bool = False):
        super().__init__()
        shapes: dict[str, tuple[int, ...]] = {
            "audio_mean": (audio_dim,),
            "audio_weights": (audio_dim, dim),
            "visual_mean": (visual_dim,),
            "visual_weights": (visual_dim, dim),
            "correlations": (dim,),
            "fitted_flag": (1,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32))
        self._fitted = False
        self.lengths = lengths

    @property
    def fitted(self) -> bool:
        """Whether directions were set. The flag travels with the weights; once seen it is not read again."""
        if not self._fitted and not self.fitted_flag.is_meta:
            self._fitted = bool(self.fitted_flag.item())
        return self._fitted

    def reset(self) -> None:
        """Forgets the directions, as `_init_weights` of a model asks for."""
        for buffer in self.buffers():
            init.zeros_(buffer)
        self.forget()

    def forget(self) -> None:
        """Counts as unfitted from now on: what the directions were fitted to is no longer there."""
        self.fitted_flag.zero_()
        self._fitted = False

    @torch.no_grad()
    def set(self, directions: Directions, power: float = 0.0) -> None:
        r"""Keeps these directions, each multiplied by $\rho^p$ so that noise does not weigh as much as signal.

        Directions narrower than the layer are followed by zeros, to which a cosine is blind.
        """
        weight = directions.correlations.clamp(0, 1) ** power if power else torch.ones_like(directions.correlations)
        if self.lengths:  # a variate has a variance of about one
            weight = weight / (2 * (weight * (directions.correlations > 0)).norm()).clamp_min(1e-6)
        dim = directions.audio_weights.shape[1]
        if dim > self.correlations.shape[0]:
            raise ValueError(f"A layer {self.correlations.shape[0]} wide cannot keep {dim} directions.")
        self.audio_mean.copy_(directions.audio_mean)
        self.visual_mean.copy_(directions.visual_mean)
        for name in ("audio_weights", "visual_weights"):
            buffer = getattr(self, name).zero_()
            buffer[:, :dim].copy_(getattr(directions, name) * weight)
        self.correlations.zero_()[:dim].copy_(directions.correlations)
        self.fitted_flag.fill_(1)
        self._fitted = True

    def audio(self, rows: Tensor) -> Tensor:
        """Audio rows `(n, audio_dim)` in the common space, at unit length `(n, dim)`; two columns more with lengths."""
        return self._embed(self.audio_variates(rows), (0, 1))

    def visual(self, rows: Tensor) -> Tensor:
        """Visual rows `(n, visual_dim)` in the common space, at unit length, likewise."""
        return self._embed(self.visual_variates(rows), (1, 0))

    def audio_variates(self, rows: Tensor) -> Tensor:
        """Audio rows `(n, audio_dim)` along the directions, at whatever length `(n, dim)`."""
        return _variates(rows, self.audio_mean, self.audio_weights)

    def visual_variates(self, rows: Tensor) -> Tensor:
        """Visual rows `(n, visual_dim)` likewise."""
        return _variates(rows, self.visual_mean, self.visual_weights)

    def check(self) -> None:
        """Raises where no direction was found: there is no common space then."""
        if not self.correlations.any():
            self.forget()
            raise ValueError(
                "Nothing to fit to: no direction of the training rows correlates. Are there at least two rows, and do "
                "the features vary?"
            )

    def _embed(self, variates: Tensor, zeros: tuple[int, int]) -> Tensor:
        with torch.autocast(variates.device.type, enabled=False):
            # By the largest first: the square of a large number may not be one any more, nor that of a small one.
            largest = variates.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(variates.dtype).tiny)
            unit = nn.functional.normalize(variates / largest, dim=1)
            if not self.lengths:
                return unit
            length = (largest * (variates / largest).norm(dim=1, keepdim=True)).clamp_max(1)
            rest = nn.functional.pad((1 - length**2).sqrt(), zeros)
            return torch.cat([length * unit, rest], dim=1)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fitted = False
        _ = self.fitted  # looked at here, so that no compiled graph has to


def _variates(rows: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return (rows.to(mean.dtype) - mean) @ weights
