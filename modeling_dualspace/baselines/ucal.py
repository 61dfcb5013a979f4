"""Unsupervised cross-modal retrieval through adversarial learning (UCAL)."""

from dataclasses import field
from typing import ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..adversary import reversal_strength, reverse_gradient, scorer, told_apart
from ..configuration_dualspace import check_activation, check_layers
from ..encoder_system import MODALITIES, EncoderConfig, EncoderModel
from ..losses import at_least_float32


@strict
class UcalConfig(EncoderConfig):
    """Networks and the classifier of modalities that they are to deceive; `EncoderConfig` explains the rest.

    Args:
        embed_dim: width of the common space.
        output_activation: after the last layer, by its name in transformers.
        output_normalization: of the outputs, before their activation: `batch`, by which no column can shrink to a
            constant, or `none`.
        adversary_hidden: widths of the hidden layers of the classifier of modalities.
        adversary_activation: after each of them.
    """

    model_type = "dualspace_ucal"
    players = ("model",)
    terms: ClassVar[tuple[str, ...]] = ("pair", "modality", "regularization")
    weights = {"regularization": 1e-4}
    makes_codes = False

    turns: list[str] = field(default_factory=lambda: ["model"])
    embed_dim: int = 40
    audio_hidden: list[int] = field(default_factory=lambda: [512, 100])
    visual_hidden: list[int] = field(default_factory=lambda: [512, 100])
    activation: str = "tanh"
    output_activation: str = "tanh"
    output_normalization: Literal["none", "batch"] = "batch"
    adversary_hidden: list[int] = field(default_factory=lambda: [20, 10])
    adversary_activation: str = "relu"

    def validate_adversary(self) -> None:
        """A classifier that can be built."""
        check_layers(self, widths=("adversary_hidden",))
        for name in ("output_activation", "adversary_activation"):
            check_activation(name, getattr(self, name))


class UcalModel(EncoderModel):
    r"""Pairs are pulled together, and a classifier learns to tell modalities apart and is deceived. No label is read.

    $$\frac1n \sum_i \|f(a_i) - g(v_i)\|^2
      + \lambda\, \frac1{2n} \sum_i \big[\log D(f(a_i)) + \log(1 - D(g(v_i)))\big] + \epsilon \sum_l \|W_l\|_F$$

    is minimised by f and g, while D maximises the second term: a gradient reversal between them, whose $\lambda$ grows
    from 0 to 1 (He, Xu, Lu et al., "Unsupervised cross-modal retrieval through adversarial learning", ICME 2017). As
    printed, outputs that are all alike are best; ours is the batch norm behind the last layer, by which they cannot be:
    `output_normalization="none"` is without.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(6, 4), "visual_features": torch.randn(6, 5)}
        >>> model = UcalModel(UcalConfig(audio_dim=4, visual_dim=5, audio_hidden=[8], visual_hidden=[8]))
        >>> model.prepare([clips])
        >>> list(model(**clips, progress=0.5).terms)
        ['pair', 'modality', 'regularization']

        ```
    """

    config_class = UcalConfig
    config: UcalConfig
    uses_labels = False

    def __init__(self, config: UcalConfig):
        super().__init__(config)
        kind = nn.BatchNorm1d if config.output_normalization == "batch" else nn.Identity
        self.outputs = nn.ModuleDict({name: nn.Sequential(kind(config.embed_dim)) for name in MODALITIES})
        self.activation = ACT2FN[config.output_activation]
        self.adversary = scorer([config.embed_dim, *config.adversary_hidden], config.adversary_activation)
        self._add_parts(config)
        self.post_init()

    def _add_parts(self, config: UcalConfig) -> None:
        """What a subclass has besides."""

    def _outputs(self, features: Tensor, modality: str) -> Tensor:
        return self.activation(self.outputs[modality](super()._outputs(features, modality)))

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """How far pairs are apart, and how well modalities are told apart."""
        audio, visual = at_least_float32(rows["audio"]), at_least_float32(rows["visual"])
        return {"pair": (audio - visual).square().sum(dim=1).mean(), **self._play(rows, progress)}

    def _play(self, rows: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """The terms of the adversary, and of the weights."""
        strength = reversal_strength(progress)
        scores = [self.adversary(reverse_gradient(rows[name], strength)) for name in MODALITIES]
        matrices = [
            parameter
            for name in MODALITIES
            for parameter in getattr(self, f"{name}_encoder").parameters()
            if parameter.ndim == 2
        ]
        norms = torch.stack([torch.linalg.vector_norm(at_least_float32(matrix)) for matrix in matrices])
        return {"modality": told_apart(*map(at_least_float32, scores)), "regularization": norms.sum()}
