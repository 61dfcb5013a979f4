"""Inception V3: the network whose last pooling layer the paper's visual features come from.

Szegedy et al., "Rethinking the inception architecture for computer vision" (CVPR 2016). Names of weights are
torchvision's, so that its checkpoint, timm's, and the one of 2015 that YouTube-8M was made with fit as they are but for
their classifiers, which are left out. torchvision itself is not needed.
"""

from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .conv_norm import ConvNorm
from .feature_network import FeatureNetwork, FeatureNetworkConfig

WIDTH, EPS = 2048, 0.001
Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel]
"""Name, channels, kernel."""
Branch = list[Layer | tuple[Layer, Layer]]
"""Layers one after another; of a pair both see the same, and stand side by side."""

_STEM: list[Branch] = [
    [("Conv2d_1a_3x3", 32, 3), ("Conv2d_2a_3x3", 32, 3), ("Conv2d_2b_3x3", 64, 3)],
    [("Conv2d_3b_1x1", 80, 1), ("Conv2d_4a_3x3", 192, 3)],
]
_WITHOUT_PADDING = {"Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3"}


def _five(pool: int) -> list[Branch]:
    return [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        [("branch_pool", pool, 1)],
    ]


def _seven(width: int) -> list[Branch]:
    wide, high = (1, 7), (7, 1)
    return [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", width, 1), ("branch7x7_2", width, wide), ("branch7x7_3", 192, high)],
        [
            ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, high), ("branch7x7dbl_3", width, wide),
            ("branch7x7dbl_4", width, high), ("branch7x7dbl_5", 192, wide),
        ],
        [("branch_pool", 192, 1)],
    ]  # fmt: skip


_NINE: list[Branch] = [
    [("branch1x1", 320, 1)],
    [("branch3x3_1", 384, 1), (("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1)))],
    [
        ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3),
        (("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
    ],
    [("branch_pool", 192, 1)],
]  # fmt: skip
_SMALLER: dict[str, list[Branch]] = {
    "Mixed_6a": [
        [("branch3x3", 384, 3)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ],
    "Mixed_7a": [
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
        [
            ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, 3),
        ],
    ],
}  # fmt: skip
"""Blocks that halve the map: the last layer of each path has a stride of two, and the maximum stands beside them."""
BLOCKS: dict[str, list[Branch]] = {
    "Mixed_5b": _five(32), "Mixed_5c": _five(64), "Mixed_5d": _five(64),
    "Mixed_6a": _SMALLER["Mixed_6a"],
    "Mixed_6b": _seven(128), "Mixed_6c": _seven(160), "Mixed_6d": _seven(160), "Mixed_6e": _seven(192),
    "Mixed_7a": _SMALLER["Mixed_7a"],
    "Mixed_7b": _NINE, "Mixed_7c": _NINE,
}  # fmt: skip


def layers(path: Branch) -> list[Layer]:
    """Those of a path, in order, pairs one by one."""
    flat: list[Layer] = []
    for part in path:
        flat += list(part) if isinstance(part[0], tuple) else [part]
    return flat


@strict
class InceptionConfig(FeatureNetworkConfig):
    """What there is to choose about the network.

    Args:
        pool_counts_padding: whether the zeros around a map count in the means of its borders: in torchvision's
            weights they do, in those of TensorFlow and Keras, which were trained so, they do not.
        last_pool: before the last branch: `average`, or `max`, which the network of 2015 has (YouTube-8M's, and that of
            the Fréchet inception distance).
        pca: how many principal components the weights hold; 0 for none. The paper takes 1,024.
        post: what becomes of the vectors: `none` (2,048 numbers), `pca`, `8bit` or `dequantised`, (x - 128) / 256.
    """

    model_type = "dualspace_inception"

    pool_counts_padding: bool = True
    last_pool: Literal["average", "max"] = "average"


def _conv(before: int, layer: Layer, *, stride: int, padded: bool) -> ConvNorm:
    _, channels, kernel = layer
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (sizes[0] // 2, sizes[1] // 2) if padded else 0
    return ConvNorm(nn.Conv2d(before, channels, sizes, stride, padding, bias=False), EPS)


class InceptionBlock(nn.Module):
    """Paths side by side: all see the same map, and their channels are put together."""

    def __init__(self, before: int, paths: list[Branch], *, halves: bool, pool: str, counts_padding: bool):
        super().__init__()
        self.paths, self.halves, self.pool, self.counts_padding = paths, halves, pool, counts_padding
        self.width = before if halves else 0
        for path in paths:
            width = before
            for place, part in enumerate(path):
                last = halves and place == len(path) - 1
                side_by_side = layers([part])
                for layer in side_by_side:
                    self.add_module(layer[0], _conv(width, layer, stride=2 if last else 1, padded=not last))
                width = sum(layer[1] for layer in side_by_side)
            self.width += width

    def forward(self, maps: Tensor) -> Tensor:
        """`(n, channels, height, width)`, of `self.width` channels."""
        made = [self._follow(path, maps) for path in self.paths]
        return torch.cat([*made, F.max_pool2d(maps, 3, 2)] if self.halves else made, dim=1)

    def _follow(self, path: Branch, maps: Tensor) -> Tensor:
        if path[0][0] == "branch_pool":
            average = self.pool == "average"
            maps = (
                F.avg_pool2d(maps, 3, 1, 1, count_include_pad=self.counts_padding)
                if average
                else F.max_pool2d(maps, 3, 1, 1)
            )
        for part in path:
            made = [self.get_submodule(layer[0])(maps) for layer in layers([part])]
            maps = made[0] if len(made) == 1 else torch.cat(made, dim=1)
        return maps


class InceptionModel(FeatureNetwork):
    """Pictures to vectors: the mean over the last map of 2,048 channels, after its ReLU.

    Example:
        ```python
        >>> model = InceptionModel(InceptionConfig()).eval()
        >>> with torch.no_grad():
        ...     model(torch.zeros(1, 3, 299, 299)).pooler_output.shape
        torch.Size([1, 2048])

        ```
    """

    config_class = InceptionConfig
    base_model_prefix = "inception"
    main_input_name = "pixel_values"

    def __init__(self, config: InceptionConfig):
        super().__init__(config)
        width = 3
        for path in _STEM:
            for layer in layers(path):
                stride = 2 if layer[0] == "Conv2d_1a_3x3" else 1
                self.add_module(layer[0], _conv(width, layer, stride=stride, padded=layer[0] not in _WITHOUT_PADDING))
                width = layer[1]
        for name, paths in BLOCKS.items():
            pool = config.last_pool if name == "Mixed_7c" else "average"
            block = InceptionBlock(
                width, paths, halves=name in _SMALLER, pool=pool, counts_padding=config.pool_counts_padding
            )
            self.add_module(name, block)
            width = block.width
        self.add_components(WIDTH, rounds=True)
        self.post_init()

    def for_inference(self) -> None:
        """Folded, and with channels last, as a CPU is faster."""
        super().for_inference()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-arg]

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The vectors of pictures `(n, 3, height, width)`, best 299 x 299, within -1 and 1: `pooler_output`."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or min(pixel_values.shape[2:]) < 75:
            raise ValueError(
                f"Expected pictures (n, 3, height, width) of at least 75 x 75, got {tuple(pixel_values.shape)}."
            )
        maps = pixel_values.contiguous(memory_format=torch.channels_last)
        for path in _STEM:
            for name, _, _ in layers(path):
                maps = self.get_submodule(name)(maps)
            maps = F.max_pool2d(maps, 3, 2)
        for name in BLOCKS:
            maps = self.get_submodule(name)(maps)
        vectors = maps.float().mean(dim=(2, 3))
        return self.output(vectors, maps)
