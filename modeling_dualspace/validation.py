"""How good a model is in the middle of training: MAP on a validation split, by the rows each process holds."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .distributed import agreed, all_reduce_sum, gather_rows, process_index
from .feature_schema import MODALITIES
from .modeling_crossmodal import Batch, CrossModalModel
from .module_state import evaluating
from .moments import check_finite
from .ranking import summed_average_precision
from .retrieval_scores import DIRECTIONS
from .targets import UNKNOWN, label_targets


@torch.no_grad()
def validate(model: CrossModalModel, batches: Iterable[Batch]) -> dict[str, Any]:
    """`map`, `audio_to_visual` and `visual_to_audio` over the full ranking, the same in every process.

    Clips of unknown class are left out. Where nobody annotated any, a query's own pair is all that is relevant, and
    `relevance` says `pair` instead of `class`.

    Args:
        model: fitted.
        batches: a data pass: this process's rows.
    """
    audio, visual, targets, known = agreed(lambda: _embedded(model, batches))
    relevance = "class" if gather_rows(known).any() else "pair"
    if relevance == "class":
        audio, visual, targets = audio[known], visual[known], targets[known]
    else:
        targets = torch.arange(len(audio), device=audio.device) + (process_index() << 40)
    scores = [
        summed_average_precision(queries, gather_rows(gallery), targets, gather_rows(targets))
        for queries, gallery in ((audio, visual), (visual, audio))
    ]
    sums = torch.stack(scores).to(audio.device)
    all_reduce_sum(sums)
    means = dict(zip(DIRECTIONS, _means(sums), strict=True))
    return {"map": sum(means.values()) / 2, **means, "relevance": relevance}


def _embedded(model: CrossModalModel, batches: Iterable[Batch]) -> list[Tensor]:
    """Embeddings of this process's rows, audio and visual, their memberships, and which are known."""
    parts = []
    with evaluating(model):
        for batch in batches:
            rows = {name: tensor.to(model.device) for name, tensor in batch.items()}
            for name in MODALITIES:
                check_finite(rows[name], name.replace("_", " "), rows.get("index", 0))
            audio = model.get_audio_embeds(rows["audio_features"]).float()
            visual = model.get_visual_embeds(rows["visual_features"]).float()
            labels = rows.get("labels", torch.full((len(audio),), UNKNOWN, device=audio.device))
            parts.append((audio, visual, *label_targets(labels, model.config.num_labels or 1)))
    if not parts:
        raise ValueError("There is no clip to validate on: expected a data pass with at least one batch.")
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def _means(sums: Tensor) -> list[float]:
    return (sums[:, 0] / sums[:, 1].clamp_min(1)).tolist()
