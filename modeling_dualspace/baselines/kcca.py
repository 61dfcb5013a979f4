"""Kernel canonical correlation analysis (KCCA)."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import initialization as init

from ..canonical_system import CanonicalConfig, CanonicalModel, Maps
from ..cca import add_ridge
from ..distributed import from_first, gather_rows
from ..keeps_float32 import KeepsFloat32
from ..modeling_crossmodal import Batch
from ..module_state import was_loaded
from ..moments import as_float64
from ..pair_moments import Covariances
from ..row_hash import random_salt, row_hash
from ..towers import FeatureStatistics

MEDIAN_OF = 2_000
"""Points whose distances are looked at for their median: there are a million pairs of half as many."""
KERNEL_RANK = 1e-6
"""Eigenvalues of a kernel matrix below this share of the largest are left out: kernels are kept as float32, and what
is divided by the root of less would be their rounding."""


@strict
class KccaConfig(CanonicalConfig):
    r"""Kernel CCA; without published settings, these are ours.

    Args:
        kernel: `rbf`, $\exp(-\gamma \|x - z\|^2)$, or `linear`.
        gamma: of `rbf`; None takes one over the median squared distance of points, for each modality its own.
        constraint: c in $cK + (1-c)K^2$, whose quadratic form is one for either side: the larger, the
            smoother what is found.
        components: the kernel is exact up to so many different clips; beyond them it is approximated by as many.
        approximation: `nystroem`, by its values at that many clips (Williams and Seeger, NIPS 2000), or
            `random_features`, by cosines of random projections (Rahimi and Recht, NIPS 2007).
        seed: of the clips or the projections; None takes torch's, as any model's first weights do.
        feature_scaling: of the raw features before the kernel: `standardize`, `center` or `none`.
        kernel_choice: which it was, of how many clips, with which gamma: a record, not a setting.
    """

    model_type = "dualspace_kcca"

    ridge: float | int = 0.0
    kernel: Literal["rbf", "linear"] = "rbf"
    gamma: float | int | None = None
    constraint: float | int = 0.1
    components: int = 1000
    approximation: Literal["nystroem", "random_features"] = "nystroem"
    seed: int | None = None
    feature_scaling: Literal["standardize", "center", "none"] = "standardize"
    kernel_choice: dict[str, Any] | None = None

    def validate_kernel(self) -> None:
        """A kernel there is."""
        if not 0 < self.constraint <= 1:
            raise ValueError(f"`constraint` must be above 0 and at most 1, got {self.constraint}.")
        if self.constraint == 1 and (self.power or self.lengths):
            raise ValueError(
                "With a `constraint` of 1 directions have covariances and no correlations, so nothing to be weighted "
                "by: leave `power` and `lengths`, or take a smaller constraint."
            )
        if self.gamma is not None and not 0 < self.gamma < float("inf"):
            raise ValueError(f"`gamma` must be a finite number above 0, or null, got {self.gamma}.")
        if self.components < 1:
            raise ValueError(f"`components` must be at least 1, got {self.components}.")
        if self.kernel == "linear" and (self.approximation != "nystroem" or self.gamma is not None):
            raise ValueError("The linear kernel has no `gamma`, and `approximation` must be nystroem with it.")


class KernelMap(KeepsFloat32):
    """A kernel's values between a row and points, or the random features that stand for them."""

    points: Tensor
    offsets: Tensor
    present: Tensor
    gamma: Tensor
    salt: Tensor

    def __init__(self, width: int, config: KccaConfig):
        super().__init__()
        self.kernel = "cosines" if config.approximation == "random_features" else config.kernel
        self.register_buffer("points", torch.zeros(config.components, width))
        self.register_buffer("offsets", torch.zeros(config.components))
        self.register_buffer("present", torch.zeros(config.components))  # 0 where there were fewer clips than room
        self.register_buffer("gamma", torch.zeros(1))
        self.register_buffer("salt", torch.zeros(width, dtype=torch.int64))

    def reset(self, seed: int | None) -> None:
        """Forgets the points, and draws by what others will be chosen."""
        for buffer in (self.points, self.offsets, self.present, self.gamma):
            init.zeros_(buffer)
        init.copy_(self.salt, random_salt(len(self.salt), seed))

    @torch.no_grad()
    def set(self, points: Tensor, gamma: float | None) -> None:
        """Takes rows as points, fewer than there is room for where there are no more; projections are drawn."""
        self.points.zero_()[: len(points)].copy_(points)
        self.present.zero_()[: len(points) if self.kernel != "cosines" else None].fill_(1)
        self.gamma.fill_(_median_gamma(points) if gamma is None else gamma)
        if self.kernel == "cosines":
            generator = torch.Generator().manual_seed(int(self.salt[0]))
            normal = torch.randn(self.points.shape, generator=generator).to(self.points)
            self.points.copy_(normal * (2 * self.gamma).sqrt())
            self.offsets.copy_(2 * torch.pi * torch.rand(len(self.offsets), generator=generator))

    def forward(self, rows: Tensor) -> Tensor:
        """`(n, components)` of rows `(n, d)`, in float64: differences of large squares stand in an exponent."""
        rows, points = as_float64(rows), as_float64(self.points)
        products = rows @ points.T
        if self.kernel == "linear":
            return products  # that with a zero is none
        if self.kernel == "cosines":
            return (products + as_float64(self.offsets)).cos() * (2 / len(points)) ** 0.5
        squares = rows.square().sum(dim=1, keepdim=True) + points.square().sum(dim=1) - 2 * products
        return (-as_float64(self.gamma) * squares.clamp_min(0)).exp() * as_float64(self.present)

    def whitening(self) -> Tensor:
        """R with R K R' = 1 for the kernel matrix K of the points: `forward(x) @ R` has the kernel as its products."""
        if self.kernel == "cosines":
            return torch.diag(as_float64(self.present))
        there = self.present.to(as_float64(self.present).device) > 0
        values, vectors = torch.linalg.eigh(self(self.points[self.present > 0])[:, there])
        kept = values > values[-1] * KERNEL_RANK
        result = values.new_zeros(len(there), int(kept.sum()))
        result[there] = vectors[:, kept] / values[kept].sqrt()
        return result


def _median_gamma(points: Tensor) -> float:
    distances = torch.pdist(as_float64(points[:MEDIAN_OF])).square()
    distances = distances[distances > 0]
    return float(1 / distances.median()) if len(distances) else 1.0


class KccaModel(CanonicalModel):
    r"""Kernel CCA: canonical correlation analysis of what two kernels make of the features.

    $$\max_{\alpha, \beta}\; \alpha' K_a K_v \beta \quad\text{where}\quad
      \alpha' (cK_a + (1-c)K_a^2) \alpha = \beta' (cK_v + (1-c)K_v^2) \beta = 1$$

    with centred kernels (Akaho, "A kernel method for canonical correlation analysis", 2001; Hardoon et al., "Canonical
    correlation analysis: an overview with application to learning methods", 2004). In the feature space of the kernel
    that is a CCA with a ridge of $c / ((1-c) n)$, so one pass gives all moments once points are known: those of all
    clips while they are few, which is exact, and of a sample beyond. `config.kernel_choice` says which it was.
    (Correlations are those of that CCA, at most one; the problem above has $1/(1-c)$ times as much. With $c = 1$ it is
    kernel PLS.)

    Example:
        ```python
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(50, 4), "visual_features": torch.randn(50, 6)}
        >>> model = KccaModel(KccaConfig(audio_dim=4, visual_dim=6, components=20))
        >>> model.finish([clips])
        >>> model.config.kernel_choice["map"], model.config.kernel_choice["audio_points"]
        ('nystroem', 20)

        ```
    """

    config_class = KccaConfig
    config: KccaConfig
    uses_labels = False
    _keep_in_fp32_modules_strict = ["layer", "audio_statistics", "visual_statistics", "audio_kernel", "visual_kernel"]

    def __init__(self, config: KccaConfig):
        super().__init__(config, config.components, config.components)
        self.audio_statistics = FeatureStatistics(config.audio_dim)
        self.visual_statistics = FeatureStatistics(config.visual_dim)
        self.audio_kernel = KernelMap(config.audio_dim, config)
        self.visual_kernel = KernelMap(config.visual_dim, config)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, KernelMap):
            if not was_loaded(module):
                self.layer.forget()
            module.reset(self.config.seed)
        else:
            super()._init_weights(module)

    def parts(self) -> dict[str, list[str]]:
        """Everything is fitted."""
        return {"fitted": list(self.state_dict())}

    def finish(self, data: Iterable[Batch], validation: Iterable[Batch] | None = None) -> None:
        """Finds statistics and points in a first pass, directions in a second."""
        self.layer.forget()
        kernels = {"audio": self.audio_kernel, "visual": self.visual_kernel}
        for kernel in kernels.values():  # all processes take the same points
            kernel.salt.copy_(torch.tensor(from_first(kernel.salt.tolist)))
        samples = {name: _Sample(self.config.components, kernel.salt) for name, kernel in kernels.items()}

        def look(batch: Batch) -> None:
            for name, sample in samples.items():
                sample.add(batch[f"{name}_features"])

        moments = dict(zip(samples, self._feature_moments(data, look), strict=True))
        record: dict[str, Any] = {"map": self.config.approximation, "clips": int(moments["audio"].count)}
        exact = True
        for name, sample in samples.items():
            statistics, kernel = getattr(self, f"{name}_statistics"), kernels[name]
            statistics.set(moments[name], self.config.feature_scaling)
            rows, whole = sample.gathered()
            kernel.set(statistics(rows), self.config.gamma)
            exact = exact and whole and kernel.kernel != "cosines"
            record |= {f"{name}_points": len(rows) if kernel.kernel != "cosines" else self.config.components}
            record |= {f"{name}_gamma": float(kernel.gamma)} if self.config.kernel == "rbf" else {}
        super().finish(data, validation)
        self.config.kernel_choice = record | ({"map": "exact"} if exact else {})

    def _rows(self, features: Tensor, modality: str) -> Tensor:
        statistics, kernel = getattr(self, f"{modality}_statistics"), getattr(self, f"{modality}_kernel")
        return kernel(statistics(features))

    def _embed_rows(self, features: Tensor, modality: str) -> Tensor:
        rows = self._rows(features, modality)
        return getattr(self.layer, modality)(rows.float().to(features.device))

    def _maps(self, covariances: Covariances) -> Maps | None:
        return self.audio_kernel.whitening(), self.visual_kernel.whitening()

    def _with_constraint(self, covariances: Covariances, rows: int) -> Covariances:
        c = float(self.config.constraint)
        # With c = 1 nothing is left of the covariances.
        share, ridge = (1.0, c / (1 - c) / rows) if c < 1 else (0.0, 1 / rows)
        audio, visual = (add_ridge(share * side, ridge) for side in (covariances.audio, covariances.visual))
        return covariances._replace(audio=audio, visual=visual)


class _Sample:
    """Different rows of a stream, at most so many: those whose hashes are the smallest, whatever their order."""

    def __init__(self, size: int, salt: Tensor):
        self.size, self.salt = size, salt
        self.keys, self.rows, self.whole = salt[:0], torch.zeros(0, len(salt), device=salt.device), True

    def add(self, rows: Tensor) -> None:
        """Takes in the rows of a batch."""
        keys = row_hash(rows, self.salt)
        self._keep(torch.cat([self.keys, keys]), torch.cat([self.rows, rows.float()]))

    def _keep(self, keys: Tensor, rows: Tensor) -> None:
        keys, order = keys.sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        self.whole = self.whole and int(first.sum()) <= self.size
        self.keys, self.rows = keys[first][: self.size], rows[order[first][: self.size]]

    def gathered(self) -> tuple[Tensor, bool]:
        """The rows of all processes, and whether they are all there were."""
        whole = self.whole
        self._keep(gather_rows(self.keys), gather_rows(self.rows))
        return self.rows, all(
            bool(one) for one in gather_rows(torch.tensor([whole and self.whole]).to(self.rows.device))
        )
