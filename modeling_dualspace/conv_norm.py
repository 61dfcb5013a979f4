"""A convolution, its batch norm and a ReLU; and the same folded into one convolution for whoever only looks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from transformers import initialization as init


class ConvNorm(nn.Module):
    """What Inception, I3D and SoundNet are made of.

    Args:
        conv: the convolution, of one, two or three dimensions.
        eps: of the batch norm.
    """

    def __init__(self, conv: Any, eps: float):
        super().__init__()
        norms = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}
        self.conv = conv
        self.bn: nn.Module = norms[type(conv)](conv.out_channels, eps=eps)

    def forward(self, rows: Tensor) -> Tensor:
        """`(n, channels, ...)` to `(n, channels of the convolution, ...)`."""
        rows = self.bn(self.conv(rows))
        return rows.relu() if torch.is_grad_enabled() else rows.relu_()


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Makes one convolution of each convolution and its batch norm: the same function, with half the passes."""
    for module in model.modules():
        if isinstance(module, ConvNorm) and not isinstance(module.bn, nn.Identity):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()  # type: ignore[arg-type]


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Random weights that keep the size of what goes through, where a checkpoint has none."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        for name, tensor in module.state_dict(keep_vars=True).items():
            init.ones_(tensor) if name in ("weight", "running_var") else init.zeros_(tensor)
