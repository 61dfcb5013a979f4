r"""VGGish: the network whose 128 numbers a second of sound the paper's audio features are.

Hershey et al., "CNN architectures for large-scale audio classification" (ICASSP 2017); the network, its front end and
its post-processing as AudioSet publishes them. Names of weights are those of the PyTorch port that most people have
(torchvggish), so that its checkpoint fits as it is.
"""

import functools
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

import numpy as np
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .backbones import Array, Steps
from .feature_network import FeatureNetwork, FeatureNetworkConfig, constants_of, one_sound
from .spectra import Band, bands_of, hann, in_bands, spectra

FrontEnd = Literal["audioset", "librosa"]
FRONT_ENDS: dict[str, dict[str, Any]] = {
    "audioset": {
        "sampling_rate": 16_000, "window_length": 400, "fft": 512, "hop": 160, "lowest": 125.0, "highest": 7500.0,
        "scale": "kaldi", "norm": "none", "power": 1,
    },
    "librosa": {
        "sampling_rate": 22_050, "window_length": 2048, "fft": 2048, "hop": 512, "lowest": 0.0, "highest": 11_025.0,
        "scale": "slaney", "norm": "slaney", "power": 2,
    },
}  # fmt: skip
BANDS, FRAMES, OFFSET = 64, 96, 0.01


class VggishFeatureExtractor(FeatureExtractionMixin):
    r"""Patches of 96 frames and 64 bands of $\log(M |X| + .01)$, in float64 until they are done.

    Frames begin with the first sample, nothing is centred or padded, and what does not fill a patch at the end is
    dropped; a sound shorter than one patch is filled up with silence.

    Args:
        front_end: `audioset`, the network's own: 16 kHz, a periodic Hann window of 25 ms in a transform of 512, every
            10 ms, magnitudes, 64 triangles even in mel from 125 to 7,500 Hz. `librosa`, our reading of what the paper
            says: librosa's mel spectrogram with n_fft=2048 and hop_length=512, at librosa's default rate of 22,050 and
            with its default bands (`center=False`). The network was trained on the first.
        kwargs: single constants, instead of the front end's.

    Example:
        ```python
        >>> extractor = VggishFeatureExtractor()
        >>> extractor(np.zeros(40_000), sampling_rate=16_000)["input_features"].shape
        (2, 96, 64)

        ```
    """

    model_input_names: ClassVar[list[str]] = ["input_features"]
    sampling_rate: int
    window_length: int
    fft: int
    hop: int
    lowest: float
    highest: float
    scale: str
    norm: str
    power: int
    bands: int
    frames: int
    offset: float

    def __init__(self, front_end: FrontEnd = "audioset", **kwargs: Any):
        if front_end not in FRONT_ENDS:
            raise ValueError(f"`front_end` is {' or '.join(FRONT_ENDS)}, got {front_end!r}.")
        defaults = {"bands": BANDS, "frames": FRAMES, "offset": OFFSET} | FRONT_ENDS[front_end]
        constants = constants_of("VGGish's feature extractor", defaults, kwargs)
        _check(constants)
        super().__init__(**kwargs | {"front_end": front_end} | constants)

    @property
    def steps(self) -> Steps:
        """A unit is the sound under one patch; consecutive patches share what two frames share."""
        length = (self.frames - 1) * self.hop + self.window_length
        return Steps(rate=self.sampling_rate, length=length, hop=self.frames * self.hop, least=1)

    def log_mel(self, samples: Array) -> Array:
        """The spectrogram of one sound `(n,)`, `(frames, bands)` float64."""
        window = hann(self.window_length, self.fft, centred=False)
        # A frame is a window long, and is then filled up to the transform's length.
        padded = np.concatenate([np.asarray(samples, np.float64), np.zeros(self.fft - self.window_length)])
        magnitudes = np.abs(spectra(padded, window, self.hop)) ** self.power
        filters = _filters(self.sampling_rate, self.fft, self.bands, self.lowest, self.highest, self.scale, self.norm)
        return np.log(in_bands(magnitudes, filters) + self.offset).T

    def __call__(
        self, raw_speech: Any, sampling_rate: int | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """`input_features` `(patches, 96, 64)`, float32, of one sound `(n,)` within -1 and 1."""
        samples = one_sound(raw_speech, sampling_rate, self.sampling_rate, "VGGish")
        samples = np.pad(samples, (0, max(0, self.steps.length - len(samples))))
        frames = self.log_mel(samples)
        patches = frames[: len(frames) // self.frames * self.frames].reshape(-1, self.frames, self.bands)
        return BatchFeature({"input_features": patches.astype(np.float32)}, tensor_type=return_tensors)


def _check(constants: Mapping[str, Any]) -> None:
    """Raises where constants do not go together."""
    rate, low, high = (constants[name] for name in ("sampling_rate", "lowest", "highest"))
    if not low < high <= rate / 2:
        raise ValueError(f"Bands go from `lowest` up to `highest`, half of {rate} at most: got {low:g} and {high:g}.")
    if not 0 < constants["window_length"] <= constants["fft"]:
        raise ValueError(f"A window of {constants['window_length']} does not fit a transform of {constants['fft']}.")
    for name in ("hop", "power", "bands", "frames", "offset"):
        if not constants[name]:
            raise ValueError(f"`{name}` of VGGish's feature extractor is more than 0.")
    for name, known in (("scale", ("kaldi", "slaney", "htk")), ("norm", ("none", "slaney"))):
        if constants[name] not in known:
            raise ValueError(f"`{name}` is {' or '.join(known)}, got {constants[name]!r}.")


@functools.lru_cache(maxsize=4)
def _filters(rate: int, fft: int, bands: int, lowest: float, highest: float, scale: str, norm: str) -> list[Band]:
    even = scale == "kaldi"  # in mel: its triangles are straight there, and bent in Hz
    return bands_of(
        mel_filter_bank(
            fft // 2 + 1,
            bands,
            lowest,
            highest,
            rate,
            norm=None if norm == "none" else norm,
            mel_scale=scale,
            triangularize_in_mel_space=even,
        )
    )


@strict
class VggishConfig(FeatureNetworkConfig):
    """What there is to choose about the network.

    Args:
        channels: of its six convolutions; a pooling follows the first, second, fourth and sixth.
        hidden: width of its two hidden layers.
        width: of what it gives.
        final_relu: whether negative numbers become zero at its end. AudioSet's features were made without
            (its code had one until 2020), and so is what its components were fitted to; PyTorch ports have one.
        pca: how many principal components the weights hold; 0 for none. AudioSet's are 128.
        post: what becomes of the vectors: `none`, `pca`, `8bit` (AudioSet's form) or `dequantised`, (x - 128) / 256.
    """

    model_type = "dualspace_vggish"

    channels: list[int] = field(default_factory=lambda: [64, 128, 256, 256, 512, 512])
    hidden: int = 4096
    width: int = 128
    final_relu: bool = False

    def validate_channels(self) -> None:
        """Six, and all widths positive."""
        if len(self.channels) != 6 or min([*self.channels, self.hidden, self.width]) < 1:
            raise ValueError(
                f"`channels` are six positive numbers, `hidden` and `width` are positive: got {self.channels}, "
                f"{self.hidden} and {self.width}."
            )


class VggishModel(FeatureNetwork):
    """Patches of a log-mel spectrogram to vectors.

    Example:
        ```python
        >>> import torch
        >>> tiny = VggishConfig(channels=[2] * 6, hidden=8)
        >>> VggishModel(tiny)(torch.zeros(3, 96, 64)).pooler_output.shape
        torch.Size([3, 128])

        ```
    """

    config_class = VggishConfig
    base_model_prefix = "vggish"
    main_input_name = "input_features"

    def __init__(self, config: VggishConfig):
        super().__init__(config)
        layers: list[nn.Module] = []
        before = 1
        for number, channels in enumerate(config.channels):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in (0, 1, 3, 5) else []
            before = channels
        self.features = nn.Sequential(*layers)
        widths = [before * (FRAMES // 16) * (BANDS // 16), config.hidden, config.hidden, config.width]
        dense: list[nn.Module] = []
        for wide, narrow in zip(widths, widths[1:], strict=False):
            dense += [nn.Linear(wide, narrow), nn.ReLU()]
        self.embeddings = nn.Sequential(*dense[:-1])
        self.add_components(config.width)
        self.post_init()

    def forward(self, input_features: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The vectors of patches `(n, 96, 64)`: `pooler_output` `(n, d)`, and as the network gives them."""
        if input_features.shape[1:] != (FRAMES, BANDS):
            raise ValueError(
                f"Expected patches (n, {FRAMES}, {BANDS}), got {tuple(input_features.shape)}: make them by "
                "`VggishFeatureExtractor`."
            )
        maps = self.features(input_features[:, None])
        vectors = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # time, band, channel: as TensorFlow has them
        if self.config.final_relu:
            vectors = vectors.relu()
        return self.output(vectors, vectors[:, None])
