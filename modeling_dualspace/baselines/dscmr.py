"""Deep supervised cross-modal retrieval (DSCMR)."""

from dataclasses import field
from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..encoder_system import EncoderModel, WideEncoderConfig
from ..losses import at_least_float32, discriminative_loss
from ..triplets import class_relations


@strict
class DscmrConfig(WideEncoderConfig):
    """Defaults are the published networks; `EncoderConfig` explains the rest.

    Args:
        embed_dim: width of the common space.
        norm: of predictions less labels, and of one modality less the other: the paper's `frobenius`, or `row_norm`, a
            mean over rows, which its authors' code has and which does not fall with the batch.
    """

    model_type = "dualspace_dscmr"
    players = ("model",)
    terms = ("classification", "discrimination", "invariance")
    weights = {"discrimination": 1e-3, "invariance": 0.1}
    makes_codes = False

    turns: list[str] = field(default_factory=lambda: ["model"])
    embed_dim: int = 1024
    encoder_dim: int = 2048
    norm: Literal["frobenius", "row_norm"] = "frobenius"


class DscmrModel(EncoderModel):
    r"""One classifier for both modalities over one common layer, and cosines that tell classes apart.

    With common rows $u, v$, their predictions $P_u, P_v$, and $t_{ij}$ half a cosine:

    $$\frac1n \|P_u - Y\|_F + \frac1n \|P_v - Y\|_F
      + \lambda \sum_{uu, uv, vv} \overline{\log(1 + e^{t_{ij}}) - s_{ij} t_{ij}} + \eta \frac1n \|u - v\|_F$$

    where $s_{ij}$ says whether two clips share a class, $\lambda = .001$ and $\eta = .1$ (Zhen, Hu, Wang and Peng,
    "Deep supervised cross-modal retrieval", CVPR 2019). The authors' script takes means of row norms in place of
    Frobenius norms, and the epoch that is best on test; here it is the paper's norm, and validation.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(6, 4), "visual_features": torch.randn(6, 5),
        ...          "labels": torch.arange(6) % 3}
        >>> model = DscmrModel(DscmrConfig(audio_dim=4, visual_dim=5, num_labels=3, encoder_dim=8, embed_dim=6))
        >>> model.prepare([clips])
        >>> list(model(**clips).terms)
        ['classification', 'discrimination', 'invariance']

        ```
    """

    config_class = DscmrConfig
    config: DscmrConfig
    class_tensors = ("classifier.weight", "classifier.bias")

    def __init__(self, config: DscmrConfig):
        super().__init__(config)
        self.common = nn.Sequential(
            ACT2FN[config.activation], nn.Dropout(config.dropout), nn.Linear(config.encoder_dim, config.embed_dim)
        )
        self.classifier = nn.Linear(config.embed_dim, config.num_labels or 0)
        self.post_init()

    def _outputs(self, features: Tensor, modality: str) -> Tensor:
        return self.common(super()._outputs(features, modality))

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """Predictions beside labels, cosines beside classes, and both modalities of a clip beside each other."""
        targets, known = self._targets(rows)
        audio, visual = rows["audio"], rows["visual"]
        predictions = self.classifier(audio), self.classifier(visual)
        differences, norm = at_least_float32(audio) - at_least_float32(visual), self.config.norm
        apart = torch.linalg.vector_norm(differences, dim=None if norm == "frobenius" else 1).sum() / len(audio)
        return {
            "classification": discriminative_loss(*predictions, targets, known, kind=norm),
            "discrimination": discrimination_loss(audio, visual, targets),
            "invariance": apart,
        }


def discrimination_loss(audio: Tensor, visual: Tensor, targets: Tensor) -> Tensor:
    r"""Minus the mean log-likelihood of which clips share a class, by half their cosines, within and across modalities.

    $$\sum_{uu, uv, vv} \frac1{n^2} \sum_{ij} \log(1 + e^{t_{ij}}) - s_{ij} t_{ij}, \qquad t = \tfrac12 \cos$$

    Args:
        audio: `(n, d)`.
        visual: `(n, d)`.
        targets: memberships `(n, C)`; a row of zeros, of unknown class, is left out.
    """
    same, differs = class_relations(targets)
    units = [nn.functional.normalize(at_least_float32(rows), dim=1) for rows in (audio, visual)]
    known = same | differs
    total = audio.new_zeros(())
    with torch.autocast(audio.device.type, enabled=False):
        for one, other in ((0, 0), (0, 1), (1, 1)):
            halves = units[one] @ units[other].T / 2
            surprise = nn.functional.softplus(halves) - same * halves
            total = total + torch.where(known, surprise, 0.0).sum() / known.sum().clamp_min(1)
    return total
