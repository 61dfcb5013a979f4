r"""Principal components of a network's vectors, and the eight bits in which AudioSet and YouTube-8M publish them.

$$y = W (x - \mu), \qquad q = \lfloor (\mathrm{clip}(y, -2, 2) + 2) \cdot 255 / 4 \rfloor, \qquad
  \tilde y = (q - 128) / 256$$

AudioSet cuts off as written, YouTube-8M rounds. W is whitened: what it was fitted to comes out with a variance of one.
The third form is what the authors of the paper train on.
"""

from typing import Literal

import torch
from torch import Tensor
from transformers import initialization as init

from .keeps_float32 import KeepsFloat32

Post = Literal["none", "pca", "8bit", "dequantised"]
"""What becomes of a network's vectors: nothing, or one of the three forms above."""

LOWEST, HIGHEST, LEVELS = -2.0, 2.0, 255
WIDEST = 65_536
ROUGHLY_NONE = 1e-4
"""Added to each variance before components are whitened, as YouTube-8M does."""


class FeaturePca(KeepsFloat32):
    """The projection W and its mean, computed in float64 wherever there is such a thing.

    Args:
        width: of what goes in.
        components: of what comes out.
        rounds: whether eight bits are rounded, as YouTube-8M does, or cut off, as AudioSet does.

    Example:
        ```python
        >>> pca = FeaturePca(3, 2)
        >>> pca(torch.tensor([[1.0, -3.0, 7.0]]), "8bit").tolist()
        [[191.0, 0.0]]

        ```
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, width: int, components: int, *, rounds: bool = False):
        super().__init__()
        self.rounds = rounds
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("weight", torch.eye(components, width))

    def reset(self) -> None:
        """As new: the first components as they are."""
        init.zeros_(self.mean)
        init.eye_(self.weight)

    def forward(self, rows: Tensor, post: Post = "pca") -> Tensor:
        """`(n, width)` to `(n, components)`, float32."""
        kind = torch.float32 if rows.device.type == "mps" else torch.float64
        # In float32 a value near the edge between two of the eight bits would now and then fall beyond it.
        projected = (rows.to(kind) - self.mean.to(kind)) @ self.weight.to(kind).T
        if post in ("8bit", "dequantised"):
            projected = quantised(projected, rounds=self.rounds)
        if post == "dequantised":
            projected = dequantised(projected)
        return projected.float()


def quantised(projected: Tensor, *, rounds: bool = False) -> Tensor:
    """Whole numbers from 0 to 255."""
    scaled = (projected.clamp(LOWEST, HIGHEST) - LOWEST) * (LEVELS / (HIGHEST - LOWEST))
    return (scaled + 0.5 if rounds else scaled).floor()


def dequantised(bits: Tensor) -> Tensor:
    """Eight bits as numbers within -.5 and .5, as the authors of the paper take them."""
    return (bits - 128) / 256


def check_post(post: Post, components: int) -> None:
    """Raises where a form is asked for that needs components, and there are none."""
    if not 0 <= components <= WIDEST:
        raise ValueError(f"`pca` is the number of components, or 0 for none: got {components}.")
    if post != "none" and not components:
        raise ValueError(
            f"`post` is {post!r}, which needs principal components, and these weights have none (`pca` is 0): convert "
            "the checkpoint again with --components, or have them fitted (`components` in an extraction's recipe)."
        )
