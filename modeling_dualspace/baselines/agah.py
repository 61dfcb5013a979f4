"""Adversary-guided asymmetric hashing (AGAH)."""

from dataclasses import field

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from ..adversary import gradient_penalty, scorer
from ..configuration_dualspace import check_activation, check_at_least_zero, check_layers
from ..encoder_system import MODALITIES, EncoderModel, WideEncoderConfig
from ..losses import at_least_float32
from ..modeling_crossmodal import Batch
from ..triplets import class_relations, triplets_of


@strict
class AgahConfig(WideEncoderConfig):
    """Codes, the attention over labels, and the critic; `EncoderConfig` explains the rest.

    Args:
        embed_dim: bits of a code.
        attention: how sharply a clip attends to the labels that are like it.
        margin: m of the triplets, by cosine.
        critic_hidden: widths of the hidden layers of the critic.
        critic_activation: after each of them, by its name in transformers.
    """

    model_type = "dualspace_agah"
    players = ("model", "critic")
    terms = ("triplet", "quantization", "codebook", "deceit", "critic", "penalty")
    weights = {"deceit": 0.1, "penalty": 10.0}
    makes_codes = True

    turns: list[str] = field(default_factory=lambda: ["critic", "model"])
    codes: bool = True
    embed_dim: int = 64
    encoder_dim: int = 512
    attention: float | int = 5.0
    margin: float | int = 0.3
    critic_hidden: list[int] = field(default_factory=lambda: [256, 64])
    critic_activation: str = "relu"

    def validate_hashing(self) -> None:
        """Networks that can be built, and numbers that mean something."""
        check_layers(self, widths=("critic_hidden",))
        check_activation("critic_activation", self.critic_activation)
        for name in ("attention", "margin"):
            check_at_least_zero(name, getattr(self, name))


class AgahModel(EncoderModel):
    r"""Binary codes by attention over labels, triplets and a codebook of classes; a critic makes modalities alike.

    Features $f$ of a modality attend to unit features $e_c$ of the labels, which are learnt, with
    $w_c = \sigma(s \cos(f, e_c))$, and $g = f / \|f\| + \sum_c w_c e_c / \sum_c w_c$ goes on to the code
    $h \in [-1, 1]^b$, whose signs are what is searched. To be minimised:

    - `triplet`: $\max(0, m - \cos(h, h^+) + \cos(h, h^-))$, all triplets of a batch, in both directions,
    - `quantization`: $1 - \cos(h, \operatorname{sign} h)$, both modalities,
    - `codebook`: $\frac1{nC} \|\frac1b h B' - (2Y - 1)\|^2$ with B, a learnt code of each class, both modalities,
    - `deceit`: $E\,D(g_v) - E\,D(g_a)$, while a critic D maximises it (`critic` is minus that), whose slope is kept
      near one (`penalty`, as in WGAN-GP).

    Gu, Gu, Gu, Li, Xiong and Wang, "Adversary guided asymmetric hashing for cross-modal retrieval", ICMR 2019. The
    paper's image network reads pixels; on global vectors it is fully connected. Its labels' features are class means,
    its codes of classes signs found coordinate by coordinate, its critics two, one a modality; here the first two are
    learnt with the rest, and one critic sees both. `codebook` is printed as a sum, and b^2 times as large.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(6, 4), "visual_features": torch.randn(6, 5),
        ...          "labels": torch.arange(6) % 3}
        >>> model = AgahModel(AgahConfig(audio_dim=4, visual_dim=5, num_labels=3, embed_dim=16, encoder_dim=8))
        >>> model.prepare([clips])
        >>> list(model(**clips).terms), list(model(**clips, player="critic").terms)
        (['triplet', 'quantization', 'codebook', 'deceit'], ['critic', 'penalty'])
        >>> model.get_audio_embeds(clips["audio_features"]).abs().unique()
        tensor([0.2500])

        ```
    """

    config_class = AgahConfig
    config: AgahConfig
    class_tensors = ("label_features", "codebook")

    def __init__(self, config: AgahConfig):
        super().__init__(config)
        classes, width = config.num_labels or 0, config.encoder_dim
        self.label_features = nn.Parameter(torch.empty(classes, width))
        self.codebook = nn.Parameter(torch.empty(classes, config.embed_dim))
        self.activation = ACT2FN[config.activation]
        self.hashing = nn.ModuleDict({name: nn.Linear(width, config.embed_dim) for name in MODALITIES})
        self.critic = scorer([width, *config.critic_hidden], config.critic_activation)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.normal_(self.label_features)
            init.normal_(self.codebook)
        else:
            super()._init_weights(module)

    def _features(self, features: Tensor, modality: str) -> Tensor:
        """What the critic sees, and codes are made of: `(n, encoder_dim)`."""
        own = nn.functional.normalize(self.activation(super()._outputs(features, modality)), dim=1)
        labels = nn.functional.normalize(self.label_features, dim=1)
        shares = torch.sigmoid(self.config.attention * own @ labels.T)
        return own + shares @ labels / shares.sum(dim=1, keepdim=True)

    def _outputs(self, features: Tensor, modality: str) -> Tensor:
        return self._code(self._features(features, modality), modality)

    def _code(self, features: Tensor, modality: str) -> Tensor:
        return torch.tanh(self.hashing[modality](features))

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Features of both modalities; for the model their codes and labels, for the critic where to look between."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and player == "model"):
            features = {
                f"{name}_attended": self._features(batch[f"{name}_features"], name) for name in MODALITIES
            }  # fmt: skip
        if player == "critic":
            draws = torch.rand(len(batch["audio_features"]), 1, device=self.device)
            return features | {"mix": draws}
        codes = {name: self._code(features[f"{name}_attended"], name) for name in MODALITIES}
        return features | codes | self._labels(batch)

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """The terms of whoever learns."""
        attended = [rows[f"{name}_attended"].to(self.codebook) for name in MODALITIES]  # in the precision of the critic
        with torch.autocast(attended[0].device.type, enabled=False):
            deceit = self.critic(attended[1]).mean() - self.critic(attended[0]).mean()
            if player == "critic":
                penalty = gradient_penalty(self.critic, attended[1], attended[0], rows["mix"].to(attended[0]))
                return {"critic": -deceit, "penalty": penalty}
            targets, known = self._targets(rows)
            audio, visual = (at_least_float32(rows[name]) for name in MODALITIES)
            book = self.codebook
            return {
                "triplet": cosine_triplets(audio, visual, targets, self.config.margin),
                "quantization": quantization_loss(audio) + quantization_loss(visual),
                "codebook": codebook_loss(audio, book, targets, known) + codebook_loss(visual, book, targets, known),
                "deceit": deceit,
            }


def cosine_triplets(audio: Tensor, visual: Tensor, targets: Tensor, margin: float) -> Tensor:
    """Of all triplets of a batch, sounds with sights and sights with sounds, by one minus the cosine."""
    same, differs = class_relations(targets)
    distances = 1 - nn.functional.normalize(audio, dim=1) @ nn.functional.normalize(visual, dim=1).T
    there = triplets_of(distances, same, differs, margin=margin)
    return there + triplets_of(distances.T, same.T, differs.T, margin=margin)


def quantization_loss(codes: Tensor) -> Tensor:
    """How far codes `(n, b)` are from their signs, by one minus the cosine."""
    cosines = codes.abs().sum(dim=1) / (codes.norm(dim=1) * codes.shape[1] ** 0.5).clamp_min(1e-12)
    return 1 - cosines.mean()


def codebook_loss(codes: Tensor, codebook: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    r"""How far known clips' codes are from those of their classes, and near the others'.

    $$\frac1{nC} \|\tfrac1b h B' - (2Y - 1)\|^2$$
    """
    wrong = codes @ codebook.to(codes).T / codes.shape[1] - (2 * targets - 1)
    return torch.where(known.unsqueeze(1), wrong.square(), 0.0).sum() / (known.sum() * wrong.shape[1]).clamp_min(1)
