"""Adversarial cross-modal retrieval (ACMR)."""

from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from ..configuration_dualspace import check_at_least_zero
from ..losses import at_least_float32, class_surprise
from ..triplets import class_relations
from .ucal import UcalConfig, UcalModel


@strict
class AcmrConfig(UcalConfig):
    r"""Defaults are the authors' networks and weights; `UcalConfig` and `EncoderConfig` explain what is not here.

    Args:
        margin: $\mu$: how far clips of other classes are pushed away.
        push: $\lambda$: the weight of doing so, beside that of pulling a class together.
    """

    model_type = "dualspace_acmr"
    terms = ("label", "triplet", "modality", "regularization")
    weights = {"label": 100.0, "regularization": 1e-4}

    output_normalization: Literal["none", "batch"] = "none"
    margin: float | int = 1.0
    push: float | int = 1.0

    def validate_triplets(self) -> None:
        """Numbers that mean something."""
        for name in ("margin", "push"):
            check_at_least_zero(name, getattr(self, name))


class AcmrModel(UcalModel):
    r"""Embeddings that tell classes apart and from which a classifier cannot tell the modality.

    For the networks $f, g$ and a classifier of labels, to be minimised

    $$100 L_{label} + L_{triplet} + \epsilon \sum_l \|W_l\|_F - \lambda L_{modality}$$

    while the classifier of modalities minimises $L_{modality}$: a gradient reversal between them, whose $\lambda$ grows
    from 0 to 1. $L_{label}$ is the cross-entropy of both modalities' predictions; $L_{triplet}$ adds up
    $\|x - y^+\| + \lambda_t \max(0, \mu - \|x - y^-\|)$ over a clip and those of its class and of others in the other
    modality, in both directions (Wang, Yang, Xu, Hanjalic and Shen, "Adversarial cross-modal retrieval", ACM MM 2017).
    In the authors' code the adversary's gradient never reaches the networks, the classifier of labels is not trained,
    and a triplet has one negative; here it is as the paper means it, over all triplets of a batch, as a mean.
    $L_{modality}$ is the mean over both modalities, which the paper adds up.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(6, 4), "visual_features": torch.randn(6, 5),
        ...          "labels": torch.arange(6) % 3}
        >>> model = AcmrModel(AcmrConfig(audio_dim=4, visual_dim=5, num_labels=3))
        >>> model.prepare([clips])
        >>> list(model(**clips, progress=0.5).terms)
        ['label', 'triplet', 'modality', 'regularization']

        ```
    """

    config_class = AcmrConfig
    config: AcmrConfig
    uses_labels = True
    class_tensors = ("classifier.weight", "classifier.bias")

    def _add_parts(self, config: UcalConfig) -> None:
        self.classifier = nn.Linear(config.embed_dim, config.num_labels or 0)

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """What classes ask for, and the adversary."""
        config = self.config
        audio, visual = at_least_float32(rows["audio"]), at_least_float32(rows["visual"])
        targets = self._targets(rows)[0]
        label = class_surprise(self.classifier(rows["audio"]), targets)
        label = label + class_surprise(self.classifier(rows["visual"]), targets)
        triplet = split_triplets(audio, visual, targets, margin=config.margin, push=config.push)
        triplet = triplet + split_triplets(visual, audio, targets, margin=config.margin, push=config.push)
        return {"label": label, "triplet": triplet, **self._play(rows, progress)}


def split_triplets(anchors: Tensor, others: Tensor, targets: Tensor, *, margin: float, push: float) -> Tensor:
    r"""Mean over anchors of $\|x - y^+\| + \lambda \max(0, \mu - \|x - y^-\|)$, itself a mean over all their triplets.

    The two parts do not see each other, so that a mean over triplets is one over positives and one over negatives.

    Args:
        anchors: `(n, d)`.
        others: `(n, d)`, of the other modality.
        targets: memberships `(n, C)`; what has none, and what has no positive or no negative, is in no triplet.
        margin: $\mu$.
        push: $\lambda$.
    """
    same, differs = class_relations(targets)
    # Not by products: a root of rounded squares has no gradient to speak of near zero.
    distances = torch.cdist(anchors, others, compute_mode="donot_use_mm_for_euclid_dist")
    pull = torch.where(same, distances, 0.0).sum(dim=1) / same.sum(dim=1).clamp_min(1)
    away = torch.where(differs, (margin - distances).clamp_min(0), 0.0).sum(dim=1) / differs.sum(dim=1).clamp_min(1)
    whole = same.any(dim=1) & differs.any(dim=1)
    return torch.where(whole, pull + push * away, 0.0).sum() / whole.sum().clamp_min(1)
