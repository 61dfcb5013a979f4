"""I3D: Inception V1 inflated in time, which sees what moves in a video.

Carreira & Zisserman, "Quo vadis, action recognition? A new model and the Kinetics dataset" (CVPR 2017); its network of
frames (RGB) as DeepMind publishes it, without the classifier. Names of layers are those of the PyTorch port that most
people have (piergiaj's), which says conv3d for conv.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .conv_norm import ConvNorm
from .feature_network import FeatureNetwork, FeatureNetworkConfig

WIDTH, EPS = 1024, 0.001
LEAST_FRAMES, LEAST_EDGE = 9, 193  # of which the last map has 2 and 7, what the last pooling takes
Sizes = tuple[int, int, int]
"""In time, height and width."""

FIRST = "Conv3d_1a_7x7"
STEM: dict[str, tuple[int, int]] = {FIRST: (64, 7), "Conv3d_2b_1x1": (64, 1), "Conv3d_2c_3x3": (192, 3)}
"""Channels and kernel. The first has a stride of two, in time too."""
BLOCKS: dict[str, tuple[int, ...]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of b0, b1a, b1b, b2a, b2b and b3b."""
POOLS: dict[str, tuple[Sizes, Sizes]] = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride of the maximum that stands before a layer."""


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding before and behind, which leaves `size / stride` places, rounded up.

    Example:
        ```python
        >>> same(224, 7, 2), same(225, 7, 2)
        ((2, 3), (3, 3))

        ```
    """
    padding = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return padding // 2, padding - padding // 2


def pool(maps: Tensor, kernel: Sizes, stride: Sizes) -> Tensor:
    """TensorFlow's maximum, which padding never wins.

    Ports put zeros around a map, which is the same here: all that is pooled is what a ReLU left.
    """
    before = [same(*sizes)[0] for sizes in zip(maps.shape[2:], kernel, stride, strict=True)]
    # The last window may hang over the edge, so only what stands before has to be padded, and no map is copied.
    return F.max_pool3d(maps, kernel, stride, before, ceil_mode=True)


@strict
class I3dConfig(FeatureNetworkConfig):
    """What there is to choose about the network.

    Args:
        num_frames: of a unit; the network itself takes 9 or more. It was trained on 64, and tested on whole clips.
        pca: how many principal components the weights hold; 0 for none.
        post: what becomes of the vectors: `none` (1,024 numbers), `pca`, `8bit` or `dequantised`, (x - 128) / 256.
    """

    model_type = "dualspace_i3d"

    num_frames: int = 64

    def validate_num_frames(self) -> None:
        """Enough for one step in time."""
        if self.num_frames < LEAST_FRAMES:
            raise ValueError(f"I3D takes {LEAST_FRAMES} frames or more: got `num_frames` {self.num_frames}.")


def _conv(before: int, channels: int, kernel: int, *, stride: int = 1) -> ConvNorm:
    padding = kernel // 2 if stride == 1 else 0  # with a stride of two it depends on the size
    return ConvNorm(nn.Conv3d(before, channels, kernel, stride, padding, bias=False), EPS)


class I3dBlock(nn.Module):
    """Four paths side by side: all see the same map, and their channels are put together."""

    def __init__(self, before: int, channels: tuple[int, ...]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = _conv(before, b0, 1)
        self.b1a, self.b1b = _conv(before, b1a, 1), _conv(b1a, b1b, 3)
        self.b2a, self.b2b = _conv(before, b2a, 1), _conv(b2a, b2b, 3)
        self.b3b = _conv(before, b3b, 1)
        self.width = b0 + b1b + b2b + b3b

    def forward(self, maps: Tensor) -> Tensor:
        """`(n, channels, time, height, width)`, of `self.width` channels."""
        highest = pool(maps, (3, 3, 3), (1, 1, 1))
        made = [self.b0(maps), self.b1b(self.b1a(maps)), self.b2b(self.b2a(maps)), self.b3b(highest)]
        return torch.cat(made, dim=1)


class I3dModel(FeatureNetwork):
    """Videos to vectors: the mean of what the published network hands to its classifier.

    Example:
        ```python
        >>> model = I3dModel(I3dConfig()).eval()
        >>> with torch.no_grad():
        ...     model(torch.zeros(1, 9, 3, 193, 193)).pooler_output.shape
        torch.Size([1, 1024])

        ```
    """

    config_class = I3dConfig
    base_model_prefix = "i3d"
    main_input_name = "pixel_values_videos"
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"pca"}  # type: ignore[misc]

    def __init__(self, config: I3dConfig):
        super().__init__(config)
        width = 3
        for name, (channels, kernel) in STEM.items():
            self.add_module(name, _conv(width, channels, kernel, stride=2 if name == FIRST else 1))
            width = channels
        for name, of_paths in BLOCKS.items():
            block = I3dBlock(width, of_paths)
            self.add_module(name, block)
            width = block.width
        self.add_components(WIDTH)
        self.post_init()

    def for_inference(self) -> None:
        """Folded, and with channels last, as a CPU is faster."""
        super().for_inference()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-arg]

    def forward(self, pixel_values_videos: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The vectors of videos `(n, frames, 3, height, width)`, best 224 x 224, within -1 and 1.

        `pooler_output` `(n, d)`, and the map `(n, 1024, frames / 8, height / 32, width / 32)`, rounded up, as
        `last_hidden_state`. Windows of 2 x 7 x 7 over the map are averaged, and then all windows: at 224 x 224 each is
        as large as a frame, and the first and the last step in time count half. Of larger frames there are several.
        """
        shape = tuple(pixel_values_videos.shape)
        if len(shape) != 5 or shape[1] < LEAST_FRAMES or shape[2] != 3 or min(shape[3:]) < LEAST_EDGE:
            raise ValueError(
                f"Expected videos (n, frames, 3, height, width) of at least {LEAST_FRAMES} frames of {LEAST_EDGE} x "
                f"{LEAST_EDGE}, of which the last pooling makes one step, got {shape}."
            )
        maps = pixel_values_videos.transpose(1, 2)
        in_time, in_height, in_width = (same(size, STEM[FIRST][1], 2) for size in maps.shape[2:])
        maps = F.pad(maps, (*in_width, *in_height, *in_time)).contiguous(memory_format=torch.channels_last_3d)
        for name in (*STEM, *BLOCKS):
            if name in POOLS:
                maps = pool(maps, *POOLS[name])
            maps = self.get_submodule(name)(maps)
        # In float32 at any precision of the network: processors average no volume in less.
        vectors = F.avg_pool3d(maps.float(), (2, 7, 7), 1).mean(dim=(2, 3, 4))
        return self.output(vectors, maps)
