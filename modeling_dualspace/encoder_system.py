"""What every compared system shares that learns a network a modality on raw features."""

from collections.abc import Iterable
from dataclasses import field
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from .codes import sign_codes
from .configuration_dualspace import CrossModalConfig, check_layers
from .distributed import all_reduce_sum, world_size
from .modeling_crossmodal import Batch, CrossModalModel
from .module_state import share_batch_statistics
from .targets import check_labelled, label_targets
from .towers import Encoder, init_layer

MODALITIES = ("audio", "visual")
OTHER = {"audio": "visual", "visual": "audio"}


@strict
class EncoderConfig(CrossModalConfig):
    """What the networks on raw features are configured by.

    Args:
        audio_hidden: widths of the hidden layers of the audio network.
        visual_hidden: likewise.
        activation: after each hidden layer, by its name in transformers.
        dropout: after each activation.
        input_dropout: of the scaled features.
        normalization: of each hidden layer, before its activation: `none`, `batch` or `layer`.
        feature_scaling: of the raw features by statistics of the training split: `standardize`, which is ours, whatever
            else of a system is published; `center` or `none`.
        loss_weights: of terms whose weight is to be another than the system's own.
    """

    terms: ClassVar[tuple[str, ...]] = ()
    weights: ClassVar[dict[str, float]] = {}
    """Those of its terms that are not 1."""

    audio_hidden: list[int] = field(default_factory=list)
    visual_hidden: list[int] = field(default_factory=list)
    activation: str = "relu"
    dropout: float | int = 0.0
    input_dropout: float | int = 0.0
    normalization: Literal["none", "batch", "layer"] = "none"
    feature_scaling: Literal["standardize", "center", "none"] = "standardize"

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.loss_weights, dict):
            self.loss_weights = {**self.weights, **self.loss_weights}
        super().__post_init__(**kwargs)

    def validate_encoders(self) -> None:
        """Networks that can be built."""
        check_layers(self, widths=("audio_hidden", "visual_hidden"), dropouts=("dropout", "input_dropout"))


@strict
class WideEncoderConfig(EncoderConfig):
    """What networks are configured by whose outputs are not embedded as they are.

    Args:
        encoder_dim: width of what each modality's own network gives.
    """

    encoder_dim: int = 1024

    def validate_encoder_dim(self) -> None:
        """At least one column."""
        if self.encoder_dim < 1:
            raise ValueError(f"`encoder_dim` must be at least 1, got {self.encoder_dim}.")


class EncoderModel(CrossModalModel):
    """A system of one network a modality.

    A subclass says what rows are embedded (`_outputs`), if not those of its networks, and what is learnt (`objective`)
    from them.
    """

    config_class = EncoderConfig
    config: EncoderConfig
    _keep_in_fp32_modules_strict = ["statistics"]
    class_tensors: ClassVar[tuple[str, ...]] = ()
    """Names of parameters whose first dimension counts classes."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self.audio_encoder = self._encoder(config.audio_dim, config.audio_hidden)
        self.visual_encoder = self._encoder(config.visual_dim, config.visual_hidden)

    def _encoder(self, features: int, hidden: list[int]) -> Encoder:
        """The network of a modality."""
        return self._network([features, *hidden, getattr(self.config, "encoder_dim", self.config.embed_dim)])

    def _network(self, widths: list[int], **options: Any) -> Encoder:
        """One with the layers of the config; see `Encoder`."""
        config = self.config
        layers = {"activation": config.activation, "dropout": config.dropout, "normalization": config.normalization}
        return Encoder(widths, input_dropout=config.input_dropout, **layers | options)

    def _init_weights(self, module: nn.Module) -> None:
        if not init_layer(module):
            super()._init_weights(module)

    def parts(self) -> dict[str, list[str]]:
        """The first layers, with the statistics, and what there is of each class."""
        found = {f"{modality}_features": list[str]() for modality in MODALITIES}
        for path, module in self.named_modules():
            if isinstance(module, Encoder):
                first = tuple(f"{path}.{name}" for name in module.first_layers())
                names = [name for name in self.state_dict() if name.startswith(first)]
                found[f"{_modality_of(path)}_features"] += names
        return super().parts() | found | ({"classes": list(self.class_tensors)} if self.class_tensors else {})

    @property
    def smallest_batch(self) -> int:
        """A batch norm needs two clips in each process."""
        return 2 * world_size() if any(isinstance(module, nn.BatchNorm1d) for module in self.modules()) else 1

    def prepare(self, data: Iterable[Batch]) -> None:
        """Fits mean and scale of the raw features, and sees to it that there are labels where they are learnt from."""
        labelled = torch.zeros(1, device=self.device)

        def look(batch: Batch) -> None:
            if "labels" in batch:
                labelled.add_(label_targets(batch["labels"], self.config.num_labels or 0)[1].sum())

        moments = dict(zip(MODALITIES, self._feature_moments(data, look), strict=True))
        for path, module in self.named_modules():
            if isinstance(module, Encoder):
                module.statistics.set(moments[_modality_of(path)], self.config.feature_scaling)
        all_reduce_sum(labelled)
        if self.uses_labels:
            check_labelled(self, int(moments["audio"].count), labelled)

    def finish(self, data: Iterable[Batch], validation: Iterable[Batch] | None = None) -> None:
        """Nothing is left to fit; processes agree on what batch norms saw."""
        share_batch_statistics(self)

    def _outputs(self, features: Tensor, modality: str) -> Tensor:
        """What is learnt from and embedded, of raw features."""
        return getattr(self, f"{modality}_encoder")(features)

    def _embed_rows(self, features: Tensor, modality: str) -> Tensor:
        outputs = self._outputs(features, modality)
        return sign_codes(outputs) if self.config.codes else nn.functional.normalize(outputs, dim=1)

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Outputs of both networks, and labels where there are any."""
        return self._by_modality(batch) | self._labels(batch)

    def _by_modality(self, batch: Batch) -> dict[str, Tensor]:
        return {modality: self._outputs(batch[f"{modality}_features"], modality) for modality in MODALITIES}

    def _labels(self, batch: Batch) -> Batch:
        self._check_labels(batch)
        return {"labels": batch["labels"]} if "labels" in batch and self.uses_labels else {}

    def _targets(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Memberships `(n, C)` of 0 and 1, zeros where unknown, and which rows are known."""
        classes = self.config.num_labels or 0
        if "labels" not in rows:
            known = torch.zeros(len(rows["audio"]), dtype=torch.bool, device=rows["audio"].device)
            return torch.zeros(len(known), classes, device=known.device), known
        targets, known = label_targets(rows["labels"], classes)
        return targets * known.unsqueeze(1), known


def _modality_of(path: str) -> str:
    """Whose network it is, by its name in the model."""
    found = next((name for name in MODALITIES if name in path), None)
    if found is None:
        raise ValueError(f"The encoder {path!r} is of no modality: call it after one, audio or visual.")
    return found
