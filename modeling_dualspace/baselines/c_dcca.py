"""Category-based deep canonical correlation analysis (C-DCCA)."""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor

from ..canonical_system import ClusterConfig, ClusterModel
from ..modeling_crossmodal import Batch
from .dcca import DccaConfig, DccaModel


@strict
class CDccaConfig(DccaConfig, ClusterConfig):
    r"""Deep CCA over categories.

    `EncoderConfig` explains the networks, `ClusterConfig` and `CanonicalConfig` of `canonical_system` the directions.

    Args:
        category_weight: $\lambda$ of the correlation that is learnt: the share of the pairs of a category.
            `cluster_weight` is that of the linear directions afterwards.
    """

    model_type = "dualspace_c_dcca"

    category_weight: float | int = 0.8

    def validate_category_weight(self) -> None:
        """A share."""
        if not 0 <= self.category_weight <= 1:
            raise ValueError(f"`category_weight` must lie in 0..1, got {self.category_weight}.")


class CDccaModel(ClusterModel, DccaModel):
    r"""Category-based deep CCA: networks whose outputs correlate within pairs and within categories, then cluster CCA.

    $$\min_{f, g}\; -\|(S_{aa} + rI)^{-1/2} \big[(1-\lambda) S_{pairs} + \lambda S_{cl}\big] (S_{vv} + rI)^{-1/2}\|_*$$

    of the outputs of a batch (Yu, Tang, Zeng et al., "Category-based deep CCA for fine-grained venue discovery from
    multimodal data", TNNLS 2018; S-DCCA of the same group is the same idea). $S_{cl}$ meets each clip with the mean of
    its category in the batch; the authors materialise the pairs of a category, which weighs large ones more. Afterwards
    linear directions of cluster CCA are fitted to the outputs of the training clips.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(60, 4), "visual_features": torch.randn(60, 6),
        ...          "labels": torch.arange(60) % 3}
        >>> config = CDccaConfig(audio_dim=4, visual_dim=6, num_labels=3, audio_hidden=[8], visual_hidden=[8],
        ...                      network_dim=4)
        >>> model = CDccaModel(config)
        >>> model.prepare([clips])
        >>> model(**clips).loss.backward()
        >>> model.finish([clips])
        >>> model.get_audio_embeds(clips["audio_features"]).shape
        torch.Size([60, 10])

        ```
    """

    config_class = CDccaConfig
    config: CDccaConfig
    uses_labels = True

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Outputs of both networks, and memberships where there are any."""
        self._check_labels(batch)
        return self._by_modality(batch) | {"members": self._members(batch)}

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """Minus the correlation of pairs and categories."""
        clusters: dict[str, Any] = {"targets": rows["members"], "cluster_weight": self.config.category_weight}
        return {"correlation": -self._correlation(rows, **clusters)}
