"""The contract of learning: what trainer, evaluation, index and app know of a system, and all they know."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_dualspace import CrossModalConfig, spec_parts
from .distributed import agreed, gather_named_rows
from .module_state import evaluating
from .moments import ColumnMoments, check_finite
from .targets import check_labels

Batch = dict[str, Tensor]
"""`index` `(n,)`, `audio_features` and `visual_features` `(n, d)`, `labels` `(n,)` or `(n, C)`; what does not apply is
absent."""


@dataclass
class CrossModalOutput(ModelOutput):
    """What `forward` returns; None where it does not apply.

    Args:
        loss: weighted sum of the terms, of the global batch.
        terms: each term by its name, before its weight.
        audio_embeds: `(n, d)` of unit length, compared by cosine.
        visual_embeds: `(n, d)` of unit length.
    """

    loss: Tensor | None = None
    terms: dict[str, Tensor] | None = None
    audio_embeds: Tensor | None = None
    visual_embeds: Tensor | None = None


class CrossModalModel(PreTrainedModel):
    """A system that embeds sound and sight in one space.

    A subclass says how by `encode` and `objective` (what is learnt by gradient), `prepare` and `finish` (what is fitted
    in closed form before and after), and `get_audio_embeds` and `get_visual_embeds`. A data pass, as `prepare` and
    `finish` take it, can be iterated again and again, and gives every row of this process's shard once, in order.
    """

    config_class = CrossModalConfig
    config: CrossModalConfig
    base_model_prefix = "model"
    main_input_name = "audio_features"
    # The loss is that of the global batch. The stock Trainer must not rescale it by a count of items.
    accepts_loss_kwargs = False

    uses_labels: ClassVar[bool] = True
    """False where no label is read: the trainer then drops them from every batch. Ask the model, not its class: a
    subclass may let its config decide."""

    def __init__(self, config: CrossModalConfig):
        config.validate()
        super().__init__(config)

    @property
    def device(self) -> torch.device:
        """Where the model is, also when it has no parameters but fitted buffers only."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters, or of the buffers where a closed form has nothing else; float32 without either."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As for any model of transformers; and looks at the fitted flag once, so that no compiled graph has to."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        _ = model.fitted
        return loaded

    @property
    def loss_weights(self) -> dict[str, float]:
        """A weight for a named term; 1 where absent."""
        return self.config.loss_weights

    def get_audio_embeds(self, audio_features: Tensor) -> Tensor:
        """Embeddings `(n, output_dim)` of unit length of raw audio features `(n, audio_dim)`; raises while unfitted."""
        return self._embed(audio_features, "audio")

    def get_visual_embeds(self, visual_features: Tensor) -> Tensor:
        """Embeddings `(n, output_dim)` of unit length of raw visual features `(n, visual_dim)`, likewise."""
        return self._embed(visual_features, "visual")

    def _embed_rows(self, features: Tensor, modality: str) -> Tensor:
        """Unit rows of raw features of the right width, in eval mode: what a system says by this, and no more."""
        raise NotImplementedError

    @property
    def fitted(self) -> bool:
        """Whether `finish` has run, here or before the weights were saved."""
        return True

    def prepare(self, data: Iterable[Batch]) -> None:
        """Fits what must stand before the first step: statistics, a first stage, a graph."""

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """This process's rows, as named tensors: all that `objective` will see, once gathered."""
        self._refuse_to_learn()
        return {}

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """The named loss terms of the global batch."""
        self._refuse_to_learn()
        return {}

    def _refuse_to_learn(self) -> None:
        if self.config.turns:  # a closed form has no loss, and that is all there is to say
            raise NotImplementedError(f"{type(self).__name__} has `turns`, and so needs `encode` and `objective`.")

    def finish(self, data: Iterable[Batch], validation: Iterable[Batch] | None = None) -> None:
        """Fits what is a closed form of the outputs, before every scoring; may be called again and again."""

    def finish_like(self, chosen: "CrossModalModel", data: Iterable[Batch]) -> None:
        """`finish` after a refit, when no validation is left: what `chosen` chose on it is taken over."""
        self.finish(data)

    @property
    def choice(self) -> dict[str, Any] | None:
        """What `finish` chose on validation, for the record; None where it chooses nothing."""
        return None

    @property
    def smallest_batch(self) -> int:
        """Rows that a global batch must have for the objective to mean anything."""
        return 1

    def parts(self) -> dict[str, list[str]]:
        """Names of tensors that belong to some data alone: what else takes over of this model must leave or cut them.

        `classes`, whose first dimension counts classes; `audio_features` and `visual_features`, which look at raw
        ones; and `fitted`, what `finish` makes.
        """
        return {}

    @can_return_tuple
    def forward(
        self,
        audio_features: Tensor | None = None,
        visual_features: Tensor | None = None,
        labels: Tensor | None = None,
        player: str = "model",
        progress: float = 1.0,
        return_loss: bool = True,
        **extra,
    ) -> CrossModalOutput:
        """The loss of a batch of pairs, or the embeddings of one modality.

        With both modalities: the loss and its terms, over the rows of all processes; and the embeddings too in `eval`
        mode, once fitted. With one: its embeddings, None while unfitted.

        Args:
            audio_features: `(n, audio_dim)`, raw.
            visual_features: `(n, visual_dim)`, raw, row by row the pairs of `audio_features`.
            labels: classes `(n,)`, or memberships `(n, num_labels)`; negative (or NaN) where unknown.
            player: who learns from this batch; see `CrossModalConfig.turns`.
            progress: how much of training is done, 0 to 1.
            return_loss: False leaves out the loss, and with it every exchange between processes.
            extra: further columns of the batch (`index`); `feature_spec`, as a processor adds it, is checked.
        """
        if audio_features is None and visual_features is None:
            raise ValueError("Nothing to embed: pass `audio_features`, `visual_features` or both.")
        if "label" in extra:
            raise ValueError("A batch holds its labels under `labels`, not `label`: rename the column.")
        self.check_feature_spec(extra.get("feature_spec"))
        given = {"audio_features": audio_features, "visual_features": visual_features, "labels": labels, **extra}
        batch = _tensors(given)
        output: dict[str, Any] = {}
        if return_loss and audio_features is not None and visual_features is not None:
            self._check_pairs(batch)
            terms = self.objective(gather_named_rows(self.encode(batch, player)), player, progress)
            weighted = [self.loss_weights.get(name, 1.0) * term for name, term in terms.items()]
            output |= {"terms": terms, "loss": torch.stack(weighted).sum() if weighted else None}
        if not self.training or not output.get("terms"):  # a closed form has no loss in any mode
            output["audio_embeds"] = self._embeds_or_none(self.get_audio_embeds, audio_features)
            output["visual_embeds"] = self._embeds_or_none(self.get_visual_embeds, visual_features)
        return CrossModalOutput(**output)

    def check_feature_spec(self, spec: str | None) -> None:
        """Raises where features were made otherwise than those the model was trained on, as far as both say.

        Args:
            spec: what made the features: `audio=<backbone>@<hex> visual=...`, or one of both.
        """
        known = spec_parts(self.config.feature_spec)
        for modality, made in spec_parts(spec).items():
            if known.get(modality, made) != made:
                raise ValueError(
                    f"This model was trained on {modality} features of {known[modality]}, and these were made by "
                    f"{made}: use the processor that is saved beside it, `AutoProcessor.from_pretrained`."
                )

    def _embeds_or_none(self, embed, features: Tensor | None) -> Tensor | None:
        return embed(features) if features is not None and self.fitted else None

    def _batches(self, data: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a data pass, on the device of the model, each looked at from all sides.

        A bad row is named by its `index`, or by its place in the pass where batches carry none. Labels are left out
        where the system reads none.
        """
        if data is None or isinstance(data, (Mapping, Tensor)):
            raise TypeError(
                f"Expected an iterable of batches, each a dictionary of tensors, got {type(data).__name__}: "
                "wrap a single batch in a list."
            )
        rows = 0
        for given in data:
            if not isinstance(given, Mapping) or not {"audio_features", "visual_features"} <= given.keys():
                keys = sorted(given) if isinstance(given, Mapping) else type(given).__name__
                raise ValueError(f"A batch is a dictionary with `audio_features` and `visual_features`, got {keys}.")
            batch = _tensors(given)
            if not self.uses_labels:
                batch.pop("labels", None)
            self._check_pairs(batch)
            size = len(batch["audio_features"])
            index = batch.get("index")
            if index is not None and (index.shape != (size,) or index.dtype not in (torch.int64, torch.int32)):
                raise ValueError(
                    f"`index` holds the row of each clip as an integer, shape ({size},); got {index.dtype} of shape "
                    f"{tuple(index.shape)}."
                )
            numbers = rows if index is None else index
            for name in ("audio", "visual"):
                check_finite(batch[f"{name}_features"], f"{name} features", numbers)
            if "labels" in batch:
                check_labels(batch["labels"], self.config.num_labels or 0, size, numbers)
            yield {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            rows += size

    def _feature_moments(
        self, data: Iterable[Batch], look: Callable[[Batch], None] | None = None
    ) -> tuple[ColumnMoments, ColumnMoments]:
        """Moments of the raw features of a data pass, audio and visual, of all processes.

        Args:
            data: the pass.
            look: is shown every batch.
        """
        audio = ColumnMoments(self.config.audio_dim, "audio", self.device)
        visual = ColumnMoments(self.config.visual_dim, "visual", self.device)

        def walk() -> None:
            for batch in self._batches(data):
                audio.update(batch["audio_features"])
                visual.update(batch["visual_features"])
                if look is not None:
                    look(batch)

        agreed(walk)
        return audio.all_reduce(), visual.all_reduce()

    def _check_labels(self, batch: Batch) -> None:
        """Raises where a batch that is learnt from has labels that are none."""
        # On an accelerator a look at the values would wait for it in every step; `prepare` has seen them all.
        if "labels" in batch and batch["labels"].device.type == "cpu" and not torch.compiler.is_compiling():
            check_labels(batch["labels"], self.config.num_labels or 0, len(batch["audio_features"]))

    def _check_pairs(self, batch: Batch) -> None:
        self._check_features(batch["audio_features"], self.config.audio_dim, "audio")
        self._check_features(batch["visual_features"], self.config.visual_dim, "visual")
        audio, visual = len(batch["audio_features"]), len(batch["visual_features"])
        if audio != visual:
            raise ValueError(
                f"Audio and visual rows must pair up: {audio} against {visual}. Drop the unpaired clips; to embed "
                "them, pass one modality at a time."
            )

    def _check_features(self, features: Tensor, width: int, name: str) -> Tensor:
        _check_tensor(features, f"{name} features")
        if features.ndim != 2 or features.shape[1] != width:
            mend = (
                "That is one clip: add a dimension with `unsqueeze(0)`, or put a DataLoader around a data set"
                if features.shape == (width,)
                else f"Pool frames into one vector a clip, or set `{name}_dim` in the config to that of your features"
            )
            raise ValueError(f"Expected {name} features of shape (n, {width}), got {tuple(features.shape)}. {mend}.")
        if not features.is_floating_point():
            raise ValueError(f"Expected {name} features of a floating type, got {features.dtype}: call `.float()`.")
        return features

    def _embed(self, features: Tensor, name: str) -> Tensor:
        """Embeddings of checked features, in eval mode whatever the mode of the model.

        An embedding depends on its own clip alone: dropout would make it a matter of chance, and batch statistics one
        of its neighbours.
        """
        if not self.fitted:
            raise RuntimeError(
                f"This {type(self).__name__} is not fitted yet, so it has no common space: call "
                "`model.finish(batches)` with the training batches first, or load a model that was saved after it."
            )
        self._check_features(features, getattr(self.config, f"{name}_dim"), name)
        if self.training or (not torch.compiler.is_compiling() and any(module.training for module in self.modules())):
            with evaluating(self):
                embeds = self._embed_rows(features, name)
        else:
            embeds = self._embed_rows(features, name)
        # In a compiled graph a look at the values would break it.
        if not torch.compiler.is_compiling():
            check_finite(features, f"{name} features")
            if not torch.isfinite(embeds).all():
                raise ValueError(
                    f"Finite {name} features gave embeddings that are not: the weights of the model hold NaN, or the "
                    "features are far beyond those it was trained on."
                )
        return embeds


def _check_tensor(value: Any, what: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected {what} as a torch.Tensor, got {type(value).__name__}: call `torch.as_tensor` first.")


def _tensors(columns: Mapping[str, Any]) -> Batch:
    """Columns that are tensors: what else a data set carries (names, paths) no model reads."""
    for name in ("audio_features", "visual_features", "labels"):
        if columns.get(name) is not None:
            _check_tensor(columns[name], f"`{name}`")
    return {name: column for name, column in columns.items() if isinstance(column, Tensor)}
