r"""The dual-subspace model.

Zeng et al., "Learning Explicit and Implicit Dual Common Subspaces for Audio-visual Cross-modal Retrieval", ACM TOMM
2023. Each modality has two towers, into a subspace where pairs correlate (explicit) and one where categories separate
(implicit); a linear CCA layer over both is the common space:

$$L = L_{corr} + \alpha L_{dis} + \beta L_{cons}$$
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.dynamic_module_utils import get_cached_module_file, get_relative_import_files
from transformers.utils import HF_MODULES_CACHE, logging

from .cca import CanonicalLayer
from .configuration_dualspace import DualSubspaceConfig
from .distributed import agreed, all_reduce_sum
from .fusion import fit_fusion, held_out_from, output_moments
from .losses import canonical_correlation, discriminative_loss, orthogonality_loss
from .modeling_crossmodal import Batch, CrossModalModel
from .module_state import check_outputs, evaluating, share_batch_statistics, was_loaded
from .targets import label_targets
from .towers import FeatureStatistics, SubspaceTowers, init_layer

logger = logging.get_logger(__name__)

PIPELINE = "pipeline_dualspace"
"""What the model's own code does not name, and goes along all the same."""
# Not the name that the package registers: under that one, `pipeline` would ask those who have it to trust remote code.
TASK = "audio-visual-retrieval-remote"


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
        self.fusion = CanonicalLayer(*config.fusion_widths, config.fusion_dim, config.fusion_lengths)
        if config.orthogonality == "scale_free":
            # Nothing in the objective sees where the explicit outputs are centred: Adam, which blows up any gradient to
            # the same size, would move it by rounding alone.
            for towers in (self.audio_towers, self.visual_towers):
                towers.explicit[-1].bias.requires_grad_(False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if not was_loaded(module):
            self.fusion.forget()  # it was not fitted to what comes now
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            super()._init_weights(module)
        elif isinstance(module, CanonicalLayer):
            module.reset()
        else:
            init_layer(module)

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

    @property
    def choice(self) -> dict[str, Any] | None:
        """Which candidate became the fusion."""
        return self.config.fusion_choice

    @property
    def smallest_batch(self) -> int:
        """Two sides with k columns each correlate perfectly in some direction over 2k rows, whatever they are."""
        return 2 * self.config.explicit_dim + 1 if self.config.variant != "implicit" else 1

    def parts(self) -> dict[str, list[str]]:
        """The last layers of the implicit towers, the first of all towers with the statistics, and the fusion."""
        found: dict[str, list[str]] = {"classes": [], "fitted": []}
        for modality, towers in (("audio", self.audio_towers), ("visual", self.visual_towers)):
            last = f"{modality}_towers.implicit.{len(towers.implicit) - 1}."
            first = f"{modality}_statistics.", *(f"{modality}_towers.{name}." for name in towers.first_layers())
            names = list(self.state_dict())
            found["classes"] += [name for name in names if name.startswith(last)]
            found[f"{modality}_features"] = [name for name in names if name.startswith(first)]
        return found | {"fitted": [name for name in self.state_dict() if name.startswith("fusion.")]}

    def _embed_rows(self, features: Tensor, modality: str) -> Tensor:
        if modality == "audio":
            return self.fusion.audio(self._audio_outputs(features))
        return self.fusion.visual(self._visual_outputs(features))

    def _audio_outputs(self, features: Tensor) -> Tensor:
        """Explicit and implicit outputs, side by side; and behind them the scaled features, if those are fused."""
        return self._fusion_rows(self.audio_towers, self.audio_statistics(features))

    def _visual_outputs(self, features: Tensor) -> Tensor:
        return self._fusion_rows(self.visual_towers, self.visual_statistics(features))

    def _fusion_rows(self, towers: SubspaceTowers, features: Tensor) -> Tensor:
        outputs = towers(features)
        wide = len(self.fusion.audio_mean) > self.config.explicit_dim + self.config.implicit_dim
        return torch.cat([*outputs, features] if wide else outputs, dim=1)

    def prepare(self, data: Iterable[Batch]) -> None:
        """Fits mean and scale of the raw features, and looks at the labels."""
        seen = torch.zeros(self.config.implicit_dim, device=self.device)

        def look(batch: Batch) -> None:
            if "labels" in batch:
                targets, known = label_targets(batch["labels"], self.config.implicit_dim)
                seen.add_((targets * known.unsqueeze(1)).sum(dim=0))

        audio, visual = self._feature_moments(data, look)
        all_reduce_sum(seen)
        self.audio_statistics.set(audio, self.config.feature_scaling)
        self.visual_statistics.set(visual, self.config.feature_scaling)
        self.fusion.forget()
        self.config.fusion_choice = None
        self._report_missing_classes(seen)

    def _report_missing_classes(self, seen: Tensor) -> None:
        names = self.config.id2label or {}
        missing = [f"{index} ({names.get(index)})" for index in (seen == 0).nonzero().flatten().tolist()]
        if not self.uses_labels or not missing:
            return
        if len(missing) == len(names):
            logger.warning("No training clip has a label (`labels`): only pairs can be learnt, and no category.")
        else:
            logger.warning(
                f"{len(missing)} of {len(names)} classes have no labelled training clip: {', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}. They cannot be learnt; is `num_labels` that of this data?"
            )

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Outputs of all four towers, and the labels where the variant reads them."""
        rows: dict[str, Tensor] = {}
        rows["audio_explicit"], rows["audio_implicit"] = self.audio_towers(
            self.audio_statistics(batch["audio_features"])
        )
        rows["visual_explicit"], rows["visual_implicit"] = self.visual_towers(
            self.visual_statistics(batch["visual_features"])
        )
        if "labels" in batch and self.uses_labels:
            self._check_labels(batch)
            rows["labels"] = batch["labels"]
        return rows

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """The terms of the variant: `correlation` (minus it), `discriminative`, `orthogonality`."""
        config, terms = self.config, {}
        if config.variant == "implicit" and "labels" not in rows:
            raise ValueError("The implicit variant learns from labels alone, and this batch has none: pass `labels`.")
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
        if len(self.fusion.correlations) != self.config.fusion_dim:
            raise ValueError(
                f"The model was built for {len(self.fusion.correlations)} directions, and its config asks for "
                f"{self.config.fusion_dim} now: set `variant`, `fusion` and `embed_dim` before building it."
            )
        choice, held_out = self._fit(data, validation, None)
        if self.config.fusion_is_open and not held_out:
            taken = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in choice.items())
            logger.warning(f"No validation split: the fusion takes its default, {taken}, and is not chosen.")

    def finish_like(self, chosen: CrossModalModel, data: Iterable[Batch]) -> None:
        """Fits the fusion that `chosen` took on validation, to the outputs of this one."""
        self._fit(data, None, chosen.choice)

    def _fit(
        self, data: Iterable[Batch], validation: Iterable[Batch] | None, like: dict[str, Any] | None
    ) -> tuple[dict[str, Any], bool]:
        """What was taken, and whether validation was looked at."""
        self.config.fusion_choice = None
        widths = self.config.fusion_widths
        if (len(self.fusion.audio_mean), len(self.fusion.visual_mean), self.fusion.lengths) != (
            *widths, self.config.fusion_lengths,
        ):  # fmt: skip
            # `fusion` or `fusion_features` was set after building: the file would not fit the config beside it.
            layer = CanonicalLayer(*widths, self.config.fusion_dim, self.config.fusion_lengths)
            self.fusion = layer.to(self.fusion.audio_mean)
        share_batch_statistics(self)
        held_out = None
        with evaluating(self), torch.no_grad():
            classes = self.config.implicit_dim
            train = agreed(lambda: output_moments(self._outputs(data), self.fusion, classes)).all_reduce()
            if validation is not None and self.config.fusion_is_open:
                outputs = agreed(lambda: list(self._outputs(validation)))
                held_out = held_out_from(outputs, self.fusion, classes)
            choice = fit_fusion(self.fusion, self.config, train, held_out, like)
        self.config.fusion_choice = choice
        return choice, held_out is not None

    def _outputs(self, data: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Concatenated outputs of each batch, audio and visual, and its labels."""
        for batch in self._batches(data):
            audio, visual = self._audio_outputs(batch["audio_features"]), self._visual_outputs(batch["visual_features"])
            check_outputs(audio, visual)
            yield audio, visual, batch.get("labels")

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """As for any model of transformers; and with the code of its pipeline, for those without this package."""
        code = self._pipeline_code()
        if code is None:
            vars(self.config).pop("custom_pipelines", None)
        else:
            made_by = {"impl": f"{PIPELINE}.AudioVisualRetrievalPipeline", "pt": ["AutoModel"], "type": "multimodal"}
            self.config.custom_pipelines = {TASK: made_by}
        folder = Path(save_directory)
        if code is not None and is_main_process and not folder.is_file():  # of a file, transformers says what is wrong
            folder.mkdir(parents=True, exist_ok=True)
            for file in (code, *map(Path, get_relative_import_files(code))):
                shutil.copyfile(file, folder / file.name)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    def _pipeline_code(self) -> Path | None:
        """The file of the pipeline; None where it can no longer be had."""
        beside = Path(__file__).with_name(f"{PIPELINE}.py")
        if beside.is_file():
            return beside
        place, revision = self.name_or_path or "", getattr(self.config, "_commit_hash", None)
        try:  # of code that travelled, only what the model's names was brought along
            return Path(HF_MODULES_CACHE, get_cached_module_file(place, beside.name, revision=revision))
        except OSError:
            logger.warning(f"There is no {beside.name} in {place!r}: the model is saved without its pipeline.")
            return None


DualSubspaceConfig.register_for_auto_class()
DualSubspaceModel.register_for_auto_class("AutoModel")
