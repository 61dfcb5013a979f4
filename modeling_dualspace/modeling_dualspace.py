r"""The dual-subspace model.

Zeng et al., "Learning Explicit and Implicit Dual Common Subspaces for Audio-visual Cross-modal Retrieval", ACM TOMM
2023. Each modality has two towers, into a subspace where pairs correlate (explicit) and one where categories separate
(implicit); a linear CCA layer over both is the common space:

$$L = L_{corr} + \alpha L_{dis} + \beta L_{cons}$$
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import logging

from .cca import CanonicalLayer, KeepsFloat32
from .configuration_dualspace import DualSubspaceConfig
from .distributed import all_reduce_sum, gather_rows, process_index
from .fusion import HeldOut, fit_fusion, reads_validation
from .losses import canonical_correlation, discriminative_loss, orthogonality_loss
from .modeling_crossmodal import Batch, CrossModalModel
from .moments import ColumnMoments
from .pair_moments import PairMoments
from .targets import check_labels, label_targets

logger = logging.get_logger(__name__)

_NORMALIZATIONS = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class FeatureStatistics(KeepsFloat32):
    """Raw features to centred and scaled ones; the identity until fitted."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(width, dtype=torch.float32))

    @torch.no_grad()
    def set(self, moments: ColumnMoments, scaling: str) -> None:
        """Takes mean and deviation from training data; a column that does not vary keeps a scale of one."""
        variance = moments.variance()
        deviation = torch.where(variance > 0, variance.sqrt(), 1.0)
        self.mean.copy_(moments.mean if scaling != "none" else torch.zeros_like(moments.mean))
        self.scale.copy_(deviation if scaling == "standardize" else torch.ones_like(deviation))

    def forward(self, features: Tensor) -> Tensor:
        """`(n, d)` to `(n, d)`, in float32 or better."""
        return (features - self.mean) / self.scale


def _layers(widths: list[int], config: DualSubspaceConfig) -> nn.Sequential:
    """Linear, normalisation, activation, dropout from each width to the next."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [
            nn.Linear(before, after),
            _NORMALIZATIONS[config.normalization](after),
            ACT2FN[config.activation],
            nn.Dropout(config.dropout),
        ]
    return nn.Sequential(*layers)


class SubspaceTowers(nn.Module):
    """One modality's way into both subspaces: two towers, or one trunk with two heads (`shared`)."""

    def __init__(self, width: int, hidden: list[int], config: DualSubspaceConfig):
        super().__init__()
        widths = [width, *hidden]
        shared = config.variant == "shared"
        self.trunk = _layers(widths, config) if shared else nn.Identity()
        self.explicit, self.implicit = (
            nn.Sequential(*([] if shared else _layers(widths, config)), nn.Linear(widths[-1], outputs))
            for outputs in (config.explicit_dim, config.implicit_dim)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Explicit `(n, k)` and implicit `(n, C)` outputs of features `(n, d)`."""
        features = self.trunk(features.to(next(self.parameters()).dtype))
        return self.explicit(features), self.implicit(features)


class DualSubspaceModel(CrossModalModel):
    """Audio-visual retrieval in a fused explicit and implicit common subspace.

    `prepare` fits the feature statistics, gradient steps on `forward(...).loss` train the towers, and `finish` fits the
    fusion. Users pass raw features throughout.

    Example:
        ```python
        >>> _ = torch.manual_seed(0)
        >>> config = DualSubspaceConfig(audio_dim=6, visual_dim=8, num_labels=3, embed_dim=4, explicit_dim=4,
        ...                             audio_hidden=[16], visual_hidden=[16])
        >>> model = DualSubspaceModel(config)
        >>> batch = {"audio_features": torch.randn(32, 6), "visual_features": torch.randn(32, 8),
        ...          "labels": torch.arange(32) % 3}
        >>> model.prepare([batch])
        >>> model(**batch).loss.backward()
        >>> model.finish([batch], validation=[batch])
        >>> model.get_audio_embeds(batch["audio_features"]).shape
        torch.Size([32, 4])

        ```
    """

    config_class = DualSubspaceConfig
    config: DualSubspaceConfig
    base_model_prefix = "dualspace"
    _keep_in_fp32_modules_strict = ["audio_statistics", "visual_statistics", "fusion"]

    def __init__(self, config: DualSubspaceConfig):
        super().__init__(config)
        self.audio_statistics = FeatureStatistics(config.audio_dim)
        self.visual_statistics = FeatureStatistics(config.visual_dim)
        self.audio_towers = SubspaceTowers(config.audio_dim, config.audio_hidden, config)
        self.visual_towers = SubspaceTowers(config.visual_dim, config.visual_hidden, config)
        outputs = config.explicit_dim + config.implicit_dim
        self.fusion = CanonicalLayer(outputs, outputs, config.output_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            super()._init_weights(module)
        elif isinstance(module, FeatureStatistics):
            init.zeros_(module.mean)
            init.ones_(module.scale)
        elif isinstance(module, CanonicalLayer):
            module.reset()

    @property
    def uses_labels(self) -> bool:  # type: ignore[override]
        """Not in the explicit variant, which is unsupervised and stays so."""
        return self.config.variant != "explicit"

    @property
    def fitted(self) -> bool:
        """Whether the fusion was fitted, here or before the weights were saved."""
        return self.fusion.fitted

    @property
    def loss_weights(self) -> dict[str, float]:
        """Alpha and beta by the names of their terms."""
        config = self.config
        return {"discriminative": config.alpha, "orthogonality": config.beta} | config.loss_weights

    def get_audio_embeds(self, audio_features: Tensor) -> Tensor:
        """Embeddings `(n, output_dim)` of unit length of raw audio features `(n, audio_dim)`."""
        self._check_embeddable(audio_features, self.config.audio_dim, "audio")
        return self.fusion.audio(self._concatenated(self._audio_outputs(audio_features)))

    def get_visual_embeds(self, visual_features: Tensor) -> Tensor:
        """Embeddings `(n, output_dim)` of unit length of raw visual features `(n, visual_dim)`."""
        self._check_embeddable(visual_features, self.config.visual_dim, "visual")
        return self.fusion.visual(self._concatenated(self._visual_outputs(visual_features)))

    def _audio_outputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        features = self._check_features(features, self.config.audio_dim, "audio")
        return self.audio_towers(self.audio_statistics(features))

    def _visual_outputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        features = self._check_features(features, self.config.visual_dim, "visual")
        return self.visual_towers(self.visual_statistics(features))

    @staticmethod
    def _concatenated(outputs: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat(outputs, dim=1)

    def prepare(self, data: Iterable[Batch]) -> None:
        """Fits mean and scale of the raw features, and looks at the labels."""
        audio = ColumnMoments(self.config.audio_dim, "audio", self.device)
        visual = ColumnMoments(self.config.visual_dim, "visual", self.device)
        # Labelled clips a class, and a last entry that counts the batches with labels.
        seen = torch.zeros(self.config.implicit_dim + 1, device=self.device)
        rows = 0
        for batch in map(self._to_device, data):
            self._check_pairs(batch)
            audio.update(self._check_features(batch["audio_features"], self.config.audio_dim, "audio"))
            visual.update(self._check_features(batch["visual_features"], self.config.visual_dim, "visual"))
            if "labels" in batch and self.uses_labels:
                size = len(batch["audio_features"])
                check_labels(batch["labels"], self.config.implicit_dim, size, rows)
                targets, known = label_targets(batch["labels"], self.config.implicit_dim)
                seen[:-1] += (targets * known.unsqueeze(1)).sum(dim=0)
                seen[-1] += 1
                rows += size
        audio.all_reduce()
        visual.all_reduce()
        all_reduce_sum(seen)
        if audio.count == 0:
            raise ValueError("Cannot prepare from an empty split: no rows came. Look at its name and its filters.")
        self.audio_statistics.set(audio, self.config.feature_scaling)
        self.visual_statistics.set(visual, self.config.feature_scaling)
        self._report_missing_classes(seen)

    def _report_missing_classes(self, seen: Tensor) -> None:
        names = self.config.id2label or {}
        missing = [f"{index} ({names.get(index)})" for index in (seen[:-1] == 0).nonzero().flatten().tolist()]
        if seen[-1] and missing:
            logger.warning(
                f"{len(missing)} of {len(names)} classes have no labelled training clip: {', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}. They cannot be learnt; is `num_labels` that of this data?"
            )

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Outputs of all four towers, and the labels where the variant reads them."""
        rows: dict[str, Tensor] = {}
        rows["audio_explicit"], rows["audio_implicit"] = self._audio_outputs(batch["audio_features"])
        rows["visual_explicit"], rows["visual_implicit"] = self._visual_outputs(batch["visual_features"])
        if "labels" in batch and self.uses_labels:
            # On an accelerator a look at the values would wait for it in every step; `prepare` has seen them all.
            if batch["labels"].device.type == "cpu" and not torch.compiler.is_compiling():
                check_labels(batch["labels"], self.config.implicit_dim, len(batch["audio_features"]))
            rows["labels"] = batch["labels"]
        return rows

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """The terms of the variant: `correlation` (minus it), `discriminative`, `orthogonality`."""
        config, terms = self.config, {}
        if config.variant != "implicit":
            terms["correlation"] = -canonical_correlation(
                rows["audio_explicit"],
                rows["visual_explicit"],
                kind=config.correlation,
                ridge=config.ridge,
                relative=config.ridge_relative,
            )
        if "labels" in rows:
            targets, known = label_targets(rows["labels"], config.implicit_dim)
            terms["discriminative"] = discriminative_loss(
                rows["audio_implicit"], rows["visual_implicit"], targets, known, kind=config.discriminative
            )
        terms["orthogonality"] = orthogonality_loss(
            rows["audio_explicit"],
            rows["audio_implicit"],
            rows["visual_explicit"],
            rows["visual_implicit"],
            kind=config.orthogonality,
        )
        return terms

    def finish(self, data: Iterable[Batch], validation: Iterable[Batch] | None = None) -> None:
        """Fits the fusion on the outputs of the training pass, chosen on those of the validation pass.

        What was chosen, and its validation MAP, is kept in `config.fusion_choice`.
        """
        with self._evaluating():
            train = self._output_moments(self._outputs(data)).all_reduce()
            held_out = None
            if validation is not None and reads_validation(self.config):
                held_out = self._held_out(validation)
            self.config.fusion_choice = fit_fusion(self.fusion, self.config, train, held_out)
        choice = self.config.fusion_choice
        if choice["candidate"] == "weighted-cluster-cca" and held_out is None:
            logger.warning(
                f"No validation split: the fusion takes a cluster weight of {choice['cluster_weight']} and a ridge of "
                f"{choice['ridge']} unchosen."
            )

    def _outputs(self, data: Iterable[Batch]) -> Iterable[tuple[Tensor, Tensor, Tensor | None]]:
        """Concatenated outputs of each batch, audio and visual, and its labels."""
        for batch in map(self._to_device, data):
            audio = self._concatenated(self._audio_outputs(batch["audio_features"]))
            visual = self._concatenated(self._visual_outputs(batch["visual_features"]))
            yield audio, visual, batch.get("labels") if self.uses_labels else None

    def _output_moments(self, outputs: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> PairMoments:
        classes, width = self.config.implicit_dim, self.config.explicit_dim + self.config.implicit_dim
        moments = PairMoments(width, width, classes, self.device)
        for audio, visual, labels in outputs:
            if labels is not None:
                check_labels(labels, classes, len(audio), moments.rows)
            targets, known = (None, None) if labels is None else label_targets(labels, classes)
            moments.update(audio, visual, targets, known)
        return moments

    def _held_out(self, validation: Iterable[Batch]) -> HeldOut:
        """Validation outputs of this process and of all."""
        outputs = list(self._outputs(validation))
        moments = self._output_moments(outputs).all_reduce()
        if moments.rows == 0:
            raise ValueError("Cannot choose a fusion on an empty validation split: pass None where there is none.")
        # A process without rows still takes part, with none.
        none = torch.zeros(0, len(moments.audio_scatter), device=self.device)
        audio = torch.cat([none, *(audio.float() for audio, _, _ in outputs)])
        visual = torch.cat([none, *(visual.float() for _, visual, _ in outputs)])
        targets = self._relevance_targets(outputs)
        if moments.class_weight.sum() == 0:
            # Nobody labelled validation: a clip's relevant item is its own pair, by a number no other clip has.
            targets = torch.arange(len(audio), device=self.device) + (process_index() << 40)
        return HeldOut(audio, visual, targets, gather_rows(audio), gather_rows(visual), gather_rows(targets), moments)

    def _relevance_targets(self, outputs: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
        """Memberships `(n, C)`, zeros where unknown."""
        memberships = [torch.zeros(0, self.config.implicit_dim, device=self.device)]
        for audio, _, labels in outputs:
            if labels is None:
                memberships.append(memberships[0].new_zeros(len(audio), self.config.implicit_dim))
            else:
                targets, known = label_targets(labels, self.config.implicit_dim)
                memberships.append(targets * known.unsqueeze(1))
        return torch.cat(memberships)


DualSubspaceConfig.register_for_auto_class()
DualSubspaceModel.register_for_auto_class("AutoModel")
