"""Deep canonical correlation analysis (DCCA)."""

from collections.abc import Iterable
from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from torch import Tensor

from ..canonical_system import CanonicalConfig, CanonicalModel
from ..configuration_dualspace import check_at_least_zero
from ..encoder_system import EncoderConfig, EncoderModel
from ..losses import canonical_correlation
from ..modeling_crossmodal import Batch
from ..towers import Encoder


@strict
class DccaConfig(CanonicalConfig, EncoderConfig):
    """Defaults are the network of the published figures: three hidden layers of 1024, sigmoid, batch norm.

    `EncoderConfig` explains the networks, `CanonicalConfig` the directions.

    Args:
        network_dim: width of what both networks give.
        correlation: `nuclear`, the published one, or `frobenius`; see `canonical_correlation`.
        correlation_ridge: r of the correlation that is learnt; `ridge` is that of the linear CCA afterwards.
        correlation_ridge_relative: whether it is a multiple of the mean eigenvalue of each side.
    """

    model_type = "dualspace_dcca"
    players = ("model",)
    terms = ("correlation",)

    turns: list[str] = field(default_factory=lambda: ["model"])
    audio_hidden: list[int] = field(default_factory=lambda: [1024, 1024, 1024])
    visual_hidden: list[int] = field(default_factory=lambda: [1024, 1024, 1024])
    network_dim: int = 10
    activation: str = "sigmoid"
    normalization: Literal["none", "batch", "layer"] = "batch"
    correlation: Literal["nuclear", "frobenius"] = "nuclear"
    correlation_ridge: float | int = 1e-3
    correlation_ridge_relative: bool = False

    def validate_network(self) -> None:
        """A width, and a ridge."""
        check_at_least_zero("correlation_ridge", self.correlation_ridge)
        if self.network_dim < 1:
            raise ValueError(f"`network_dim` must be at least 1, got {self.network_dim}.")


class DccaModel(CanonicalModel, EncoderModel):
    r"""Deep CCA: two networks whose outputs correlate, and a linear CCA of the outputs.

    $$\min_{f, g}\; -\|T(f(a), g(v))\|_*$$

    over large batches (Andrew et al., "Deep canonical correlation analysis", ICML 2013); no label is read. After
    training, canonical directions are fitted to the outputs of the training clips. Their last layers have no bias: a
    correlation does not see it.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(50, 4), "visual_features": torch.randn(50, 6)}
        >>> model = DccaModel(DccaConfig(audio_dim=4, visual_dim=6, embed_dim=3, network_dim=3, audio_hidden=[8],
        ...                              visual_hidden=[8]))
        >>> model.prepare([clips])
        >>> list(model(**clips).terms)
        ['correlation']
        >>> model.finish([clips])
        >>> model.get_audio_embeds(clips["audio_features"]).shape
        torch.Size([50, 3])

        ```
    """

    config_class = DccaConfig
    config: DccaConfig
    uses_labels = False

    def __init__(self, config: DccaConfig):
        super().__init__(config, config.network_dim, config.network_dim)
        self.post_init()

    def _encoder(self, features: int, hidden: list[int]) -> Encoder:
        return self._network([features, *hidden, self.config.network_dim], bias=False)

    @property
    def smallest_batch(self) -> int:
        """Two sides with k columns each correlate perfectly in some direction over 2k rows, whatever they are."""
        return max(2 * self.config.network_dim + 1, super().smallest_batch)

    def prepare(self, data: Iterable[Batch]) -> None:
        """Fits mean and scale of the raw features."""
        super().prepare(data)
        self.layer.forget()

    def _rows(self, features: Tensor, modality: str) -> Tensor:
        return self._outputs(features, modality)

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """Minus the correlation."""
        return {"correlation": -self._correlation(rows)}

    def _correlation(self, rows: dict[str, Tensor], **clusters) -> Tensor:
        config = self.config
        return canonical_correlation(
            rows["audio"],
            rows["visual"],
            kind=config.correlation,
            ridge=config.correlation_ridge,
            relative=config.correlation_ridge_relative,
            **clusters,
        )
