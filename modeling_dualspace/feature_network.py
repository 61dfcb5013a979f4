"""What the paper's networks share: components behind the last layer, random weights, and an extractor's constants."""

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .closed_config import ClosedConfig
from .conv_norm import fold, initialize
from .feature_pca import FeaturePca, Post, check_post


@strict
class FeatureNetworkConfig(ClosedConfig):
    """What each of them is configured by.

    Args:
        pca: how many principal components the weights hold; 0 for none.
        post: what becomes of the vectors: `none`, `pca`, `8bit` or `dequantised`, (x - 128) / 256.
    """

    pca: int = 0
    post: Post = "none"

    def validate_post(self) -> None:
        """Components are there where they are needed."""
        check_post(self.post, self.pca)


class FeatureNetwork(PreTrainedModel):
    """What gives a vector a unit as `pooler_output`."""

    _keep_in_fp32_modules_strict = {"pca"}

    def add_components(self, width: int, *, rounds: bool = False) -> None:
        """Makes room for those that the weights hold, of vectors so wide."""
        if self.config.pca:
            self.pca = FeaturePca(width, self.config.pca, rounds=rounds)

    def output(self, vectors: Tensor, last: Tensor) -> BaseModelOutputWithPooling:
        """The vectors as they are wanted, and the last layer."""
        post = self.config.post
        pooled = vectors if post == "none" else self.pca(vectors, post)
        return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=pooled)

    def for_inference(self) -> None:
        """The same function, sooner; weights are then no longer those of a checkpoint."""
        fold(self)

    def _init_weights(self, module: nn.Module) -> None:
        module.reset() if isinstance(module, FeaturePca) else initialize(module)


def constants_of(extractor: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The constants of a feature extractor: known ones alone, each of its default's type, and numbers not negative.

    Args:
        extractor: its name, for messages.
        defaults: by name.
        given: some of them, and what transformers itself keeps in a feature extractor's file.

    Example:
        ```python
        >>> constants_of("Ear", {"rate": 16_000, "scale": 1.0}, {"scale": 2})
        {'rate': 16000, 'scale': 2.0}

        ```
    """
    constants = dict(defaults)
    for key, value in given.items():
        if key.endswith("_type") or key.startswith("_") or key in ("auto_map", "processor_class"):
            continue
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else f" It has {', '.join(defaults)}."
            raise ValueError(f"{extractor} has no constant `{key}`.{hint}")
        kind = type(defaults[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{extractor}: `{key}` is like {defaults[key]!r}, got {value!r}.")
        if not isinstance(value, str) and not 0 <= value < float("inf"):
            raise ValueError(f"{extractor}: `{key}` is finite and not negative, got {value!r}.")
        constants[key] = kind(value)
    return constants


def one_sound(raw_speech: Any, sampling_rate: int | None, rate: int, name: str) -> np.ndarray:
    """The samples of a sound `(n,)`, float64; raises where they are something else, or are heard too fast.

    Args:
        raw_speech: within -1 and 1.
        sampling_rate: of it, if it is told.
        rate: what the network hears.
        name: of the network, for messages.
    """
    samples = np.asarray(raw_speech)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"Expected the samples of one sound in one row, got {samples.shape}: pass one at a time.")
    if samples.dtype.kind != "f":
        raise ValueError(f"{name} hears samples within -1 and 1, got {samples.dtype}: scale them.")
    if sampling_rate not in (None, rate):
        raise ValueError(f"{name} hears {rate} samples a second, got {sampling_rate}: resample it.")
    return samples.astype(np.float64)
