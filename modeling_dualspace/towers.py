"""From raw features to the outputs of networks, one modality at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from .configuration_dualspace import DualSubspaceConfig
from .keeps_float32 import KeepsFloat32
from .moments import ColumnMoments

_NORMALIZATIONS = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class FeatureStatistics(KeepsFloat32):
    """Raw features to centred and scaled ones; the identity until fitted."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(width, dtype=torch.float32))

    @torch.no_grad()
    def set(self, moments: ColumnMoments, scaling: str) -> None:
        """Takes mean and deviation from training data; a column that does not vary keeps a scale of one."""
        mean, deviation = moments.mean.to(self.mean), moments.variance().sqrt().to(self.scale)
        if not (torch.isfinite(mean) & torch.isfinite(deviation)).all():
            raise ValueError(f"The {moments.name} features are too large for float32: divide them by a constant.")
        self.mean.copy_(mean if scaling != "none" else torch.zeros_like(mean))
        scales = torch.where(deviation > 0, deviation, 1.0)
        self.scale.copy_(scales if scaling == "standardize" else torch.ones_like(scales))

    def forward(self, features: Tensor) -> Tensor:
        """`(n, d)` to `(n, d)`, in float32 or better."""
        return (features - self.mean) / self.scale


def hidden_layers(
    widths: Sequence[int], *, activation: str, dropout: float, normalization: str = "none"
) -> nn.Sequential:
    """Linear, normalisation, activation, dropout from each width to the next."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [
            nn.Linear(before, after),
            _NORMALIZATIONS[normalization](after),
            ACT2FN[activation],
            nn.Dropout(dropout),
        ]
    return nn.Sequential(*layers)


def init_layer(module: nn.Module) -> bool:
    """Begins a linear layer or feature statistics as all our networks do; False where a module is neither."""
    if isinstance(module, nn.Linear):
        init.xavier_uniform_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, FeatureStatistics):
        init.zeros_(module.mean)
        init.ones_(module.scale)
    else:
        return False
    return True


class Encoder(nn.Module):
    """Raw features of one modality to what a network makes of them, their scaling included.

    Args:
        widths: of the features, the hidden layers and the outputs.
        bias: whether the last layer has one.
        input_dropout: of the scaled features.
        layers: `activation`, `dropout`, `normalization`; see `hidden_layers`.
    """

    def __init__(self, widths: Sequence[int], *, bias: bool = True, input_dropout: float = 0.0, **layers: Any):
        super().__init__()
        self.statistics = FeatureStatistics(widths[0])
        last = nn.Linear(widths[-2], widths[-1], bias=bias)
        self.network = nn.Sequential(nn.Dropout(input_dropout), *hidden_layers(widths[:-1], **layers), last)

    def first_layers(self) -> tuple[str, str]:
        """Beginnings of the names of what raw features go through first."""
        return "statistics.", "network.1."

    def forward(self, features: Tensor) -> Tensor:
        """Outputs `(n, widths[-1])` of raw features `(n, widths[0])`."""
        return self.network(self.statistics(features).to(next(self.network.parameters()).dtype))


class SubspaceTowers(nn.Module):
    """One modality's way into both subspaces: two towers, or one trunk with two heads (`shared`)."""

    def __init__(self, width: int, hidden: list[int], config: DualSubspaceConfig):
        super().__init__()
        self.input_dropout = nn.Dropout(config.input_dropout)
        widths = [width, *hidden]
        shared = config.variant == "shared"

        def layers() -> nn.Sequential:
            return hidden_layers(
                widths,
                activation=config.activation,
                dropout=config.dropout,
                normalization=config.normalization,
            )

        self.trunk = layers() if shared else nn.Identity()
        self.explicit, self.implicit = (
            nn.Sequential(*([] if shared else layers()), nn.Linear(widths[-1], outputs))
            for outputs in (config.explicit_dim, config.implicit_dim)
        )

    def first_layers(self) -> list[str]:
        """The names of the layers that features go into."""
        return (
            ["trunk.0"] if isinstance(self.trunk, nn.Sequential) and len(self.trunk) else ["explicit.0", "implicit.0"]
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Explicit `(n, k)` and implicit `(n, C)` outputs of features `(n, d)`."""
        features = self.trunk(self.input_dropout(features.to(next(self.parameters()).dtype)))
        return self.explicit(features), self.implicit(features)
