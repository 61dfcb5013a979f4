"""Triplets over cluster CCA (TNN-C-CCA)."""

from collections.abc import Iterable
from dataclasses import field

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..configuration_dualspace import check_activation, check_at_least_zero, check_layers
from ..modeling_crossmodal import Batch
from ..towers import hidden_layers
from ..triplets import TripletMean, class_relations, triplet_loss
from .cluster_cca import ClusterCcaConfig, ClusterCcaModel


@strict
class TnnCCcaConfig(ClusterCcaConfig):
    """Defaults are the published settings.

    Args:
        embed_dim: width of the cluster CCA, and of what the network makes of it.
        hidden: widths of the hidden layers of the one network for both modalities.
        activation: after each of them, by its name in transformers.
        output_activation: after the last layer, likewise.
        dropout: after each hidden layer.
        margin: m of the triplets.
        triplet_mean: over `all` triplets of a batch, or over the `active` ones alone.
    """

    model_type = "dualspace_tnn_c_cca"
    players = ("model",)
    terms = ("triplet",)

    turns: list[str] = field(default_factory=lambda: ["model"])
    hidden: list[int] = field(default_factory=lambda: [100, 100, 100])
    activation: str = "tanh"
    output_activation: str = "sigmoid"
    dropout: float | int = 0.1
    margin: float | int = 0.5
    triplet_mean: TripletMean = "all"

    def validate_network(self) -> None:
        """A network that can be built."""
        check_layers(self, widths=("hidden",))
        check_at_least_zero("margin", self.margin)
        check_activation("output_activation", self.output_activation)
        if self.lengths:
            raise ValueError("The network's outputs have no variates whose length could be kept: leave `lengths`.")


class TnnCCcaModel(ClusterCcaModel):
    r"""A network on top of cluster CCA that learns from triplets.

    Both modalities go to ten dimensions by cluster CCA, in closed form; one network shared by both then learns by

    $$\max(0, \|x - p\|^2 - \|x - n\|^2 + m)$$

    over all triplets of a batch, sounds with sights and sights with sounds (Zeng, Yu and Oyama, "Deep triplet neural
    networks with cluster-CCA for audio-visual cross-modal retrieval", ACM TOMM 2020).

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(60, 4), "visual_features": torch.randn(60, 6),
        ...          "labels": torch.arange(60) % 3}
        >>> model = TnnCCcaModel(TnnCCcaConfig(audio_dim=4, visual_dim=6, num_labels=3))
        >>> model.prepare([clips])  # the cluster CCA
        >>> list(model(**clips).terms)
        ['triplet']

        ```
    """

    config_class = TnnCCcaConfig
    config: TnnCCcaConfig

    def __init__(self, config: TnnCCcaConfig):
        super().__init__(config)
        widths = [config.embed_dim, *config.hidden]
        hidden = hidden_layers(widths, activation=config.activation, dropout=config.dropout)
        last = nn.Linear(widths[-1], config.embed_dim), ACT2FN[config.output_activation]
        self.network = nn.Sequential(*hidden, *last)
        self.post_init()

    def prepare(self, data: Iterable[Batch]) -> None:
        """Fits the cluster CCA."""
        super().finish(data)

    def finish(self, data: Iterable[Batch], validation: Iterable[Batch] | None = None) -> None:
        """Nothing is left to fit."""
        if not self.fitted:
            raise RuntimeError("The cluster CCA comes before the network: call `model.prepare(batches)` first.")

    def _embed_rows(self, features: Tensor, modality: str) -> Tensor:
        return nn.functional.normalize(self._outputs(features, modality), dim=1)

    def _outputs(self, features: Tensor, modality: str) -> Tensor:
        """What the network makes of a modality's variates."""
        variates = getattr(self.layer, f"{modality}_variates")(features)
        return self.network(variates.to(next(self.network.parameters()).dtype))

    @property
    def smallest_batch(self) -> int:
        """A triplet has three clips."""
        return 3

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """What the network makes of both modalities, and memberships."""
        self._check_labels(batch)
        rows = {modality: self._outputs(batch[f"{modality}_features"], modality) for modality in ("audio", "visual")}
        return rows | {"members": self._members(batch)}

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """The triplets of both directions."""
        config = self.config
        same, differs = class_relations(rows["members"])
        terms = [
            triplet_loss(anchors, others, same, differs, margin=config.margin, mean=config.triplet_mean)
            for anchors, others in ((rows["audio"], rows["visual"]), (rows["visual"], rows["audio"]))
        ]
        return {"triplet": terms[0] + terms[1]}
