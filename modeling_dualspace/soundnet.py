"""SoundNet: eight layers on the samples themselves, taught by what networks saw in two million videos.

Aytar, Vondrick & Torralba, "SoundNet: learning sound representations from unlabeled video" (NeurIPS 2016); the network
as their code builds and trains it.
"""

from typing import Any, ClassVar, Literal

import numpy as np
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .backbones import Steps
from .conv_norm import ConvNorm
from .feature_network import FeatureNetwork, FeatureNetworkConfig, constants_of, one_sound

Layer = Literal[
    "conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "conv6", "conv7", "objects", "scenes"
]  # fmt: skip
LAYERS: dict[str, tuple[int, int, int, int]] = {
    "conv1": (16, 64, 2, 32), "pool1": (16, 8, 8, 0),
    "conv2": (32, 32, 2, 16), "pool2": (32, 8, 8, 0),
    "conv3": (64, 16, 2, 8),
    "conv4": (128, 8, 2, 4),
    "conv5": (256, 4, 2, 2), "pool5": (256, 4, 4, 0),
    "conv6": (512, 4, 2, 2),
    "conv7": (1024, 4, 2, 2),
    "objects": (1000, 8, 2, 0), "scenes": (401, 8, 2, 0),
}  # fmt: skip
"""Channels, kernel, stride and padding. The last two are one layer, conv8: both see conv7."""
HEADS = ("objects", "scenes")
EPS = 1e-5


def path(layer: str) -> list[str]:
    """The layers that a sound goes through to come out of one."""
    names = [name for name in LAYERS if name not in HEADS]
    return [*names, layer] if layer in HEADS else names[: names.index(layer) + 1]


def least_samples(layer: str) -> int:
    """How many samples make one frame of a layer.

    Example:
        ```python
        >>> least_samples("conv7"), least_samples("objects")
        (4574, 209374)

        ```
    """
    frames = 1
    for name in reversed(path(layer)):
        _, kernel, stride, padding = LAYERS[name]
        frames = max((frames - 1) * stride + kernel - 2 * padding, 1)
    return frames


class SoundnetFeatureExtractor(FeatureExtractionMixin):
    """Samples from -256 to 256, which the network was trained on, of sound at 22,050 a second.

    Args:
        kwargs: single constants instead of these: `sampling_rate`, `scale`, `length` and `hop` of the units in samples
            (ten seconds, one after another).

    Example:
        ```python
        >>> SoundnetFeatureExtractor()(np.ones(220_500), sampling_rate=22_050)["input_values"].shape
        (1, 220500)

        ```
    """

    model_input_names: ClassVar[list[str]] = ["input_values"]
    sampling_rate: int
    scale: float
    length: int
    hop: int

    def __init__(self, **kwargs: Any):
        constants = {"sampling_rate": 22_050, "scale": 256.0, "length": 220_500, "hop": 220_500}
        super().__init__(**kwargs | constants_of("SoundNet's feature extractor", constants, kwargs))

    @property
    def steps(self) -> Steps:
        """Units of ten seconds, the shortest sound that the published code asks for."""
        return Steps(rate=self.sampling_rate, length=self.length, hop=self.hop)

    def __call__(
        self, raw_speech: Any, sampling_rate: int | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """`input_values` `(1, n)`, float32, of one sound `(n,)` within -1 and 1."""
        samples = one_sound(raw_speech, sampling_rate, self.sampling_rate, "SoundNet")
        values = samples[None].astype(np.float32) * np.float32(self.scale)
        return BatchFeature({"input_values": values}, tensor_type=return_tensors)


@strict
class SoundnetConfig(FeatureNetworkConfig):
    """What there is to choose about the network.

    Args:
        layer: which one's mean over time is the vector. `conv1` to `conv7` are after their batch norm and ReLU;
            `pool1`, `pool2` and `pool5` after the maximum besides; `objects` and `scenes` are the two heads of conv8,
            before their softmax. The authors extract conv7, and classify sounds by pool5.
        pca: how many principal components the weights hold, of that layer; 0 for none.
        post: what becomes of the vectors: `none`, `pca`, `8bit` or `dequantised`, (x - 128) / 256.
    """

    model_type = "dualspace_soundnet"

    layer: Layer = "conv7"


class SoundnetModel(FeatureNetwork):
    """Samples to vectors: the mean over time of one layer, beyond which nothing is computed.

    All layers are held, so that a checkpoint has a place for every weight, and any layer may be chosen while loading.

    Example:
        ```python
        >>> sound = SoundnetFeatureExtractor()(np.zeros(22_050), return_tensors="pt")
        >>> SoundnetModel(SoundnetConfig(layer="pool2"))(**sound).pooler_output.shape
        torch.Size([1, 32])

        ```
    """

    config_class = SoundnetConfig
    base_model_prefix = "soundnet"
    main_input_name = "input_values"
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"pca"}  # type: ignore[misc]

    def __init__(self, config: SoundnetConfig):
        super().__init__(config)
        before = 1
        for name in (name for name in LAYERS if not name.startswith("pool")):
            channels, kernel, stride, padding = LAYERS[name]
            conv = nn.Conv1d(before, channels, kernel, stride, padding)
            self.add_module(name, conv if name in HEADS else ConvNorm(conv, EPS))
            before = before if name in HEADS else channels
        self.add_components(LAYERS[config.layer][0])
        self.post_init()

    def forward(self, input_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The vectors of sounds `(n, samples)`: `pooler_output` `(n, d)`, and the layer `(n, frames, channels)`.

        A sound too short for one frame of the layer is repeated, as the published code does: up to 4,574 samples (.2 s)
        for conv7, and 209,374 (9.5 s) for the heads.
        """
        layer = self.config.layer
        if input_values.ndim != 2 or not input_values.shape[1]:
            raise ValueError(
                f"Expected sounds (n, samples), got {tuple(input_values.shape)}: make them by "
                "`SoundnetFeatureExtractor`."
            )
        least = least_samples(layer)
        times = -(-least // input_values.shape[1])
        maps = (input_values.repeat(1, times)[:, :least] if times > 1 else input_values)[:, None]
        for name in path(layer):
            _, kernel, stride, _ = LAYERS[name]
            pools = name.startswith("pool")
            maps = F.max_pool1d(maps, kernel, stride) if pools else self.get_submodule(name)(maps)
        vectors = maps.float().mean(dim=2)
        return self.output(vectors, maps.transpose(1, 2))
