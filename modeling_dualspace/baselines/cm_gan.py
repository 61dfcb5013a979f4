"""Cross-modal generative adversarial networks (CM-GAN)."""

from dataclasses import field
from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..adversary import draw, scorer, told_apart
from ..configuration_dualspace import check_activation, check_layers
from ..encoder_system import MODALITIES, OTHER, EncoderModel, WideEncoderConfig
from ..losses import at_least_float32, class_surprise
from ..modeling_crossmodal import Batch
from ..towers import hidden_layers
from ..triplets import class_relations


@strict
class CmGanConfig(WideEncoderConfig):
    """Auto-encoders and discriminators; `EncoderConfig` explains the rest.

    Args:
        embed_dim: width of the code, which both modalities share.
        encoder_dim: width of what each modality's own network gives, before the layer of the code, and of what comes
            behind the code on the way back.
        critic_hidden: widths of the hidden layers of each discriminator.
        critic_activation: after each of them, by its name in transformers.
    """

    model_type = "dualspace_cm_gan"
    players = ("model", "critic")
    terms = ("reconstruction", "classification", "deceit_within", "deceit_across", "within", "across")
    makes_codes = False

    turns: list[str] = field(default_factory=lambda: ["critic", "model", "model", "model", "model", "model"])
    embed_dim: int = 1024
    encoder_dim: int = 1024
    normalization: Literal["none", "batch", "layer"] = "batch"
    critic_hidden: list[int] = field(default_factory=lambda: [1024])
    critic_activation: str = "relu"

    def validate_critic(self) -> None:
        """Discriminators that can be built."""
        check_layers(self, widths=("critic_hidden",))
        check_activation("critic_activation", self.critic_activation)


class CmGanModel(EncoderModel):
    r"""Auto-encoders whose codes tell classes apart and deceive discriminators within and across modalities.

    Each modality is encoded, by a network of its own and a last layer that both share, to a code s, and decoded to r.
    Discriminators learn to tell

    - `within` each modality, its features from their reconstructions r,
    - `across`, a code beside its own features, $(s_a, a)$, from the other modality's code of the same clip beside them,
      $(s_v, a)$, and from a code of the same modality of a clip of another class; likewise for v,

    and the networks, five steps to their one, that r pass for features (`deceit_within`) and $(s_v, a)$ for $(s_a, a)$
    (`deceit_across`), besides the `classification` of both codes by one layer and the squared error of the
    `reconstruction` (Peng and Qi, "CM-GANs: cross-modal generative adversarial networks for common representation
    learning", TOMM 2019).

    The paper's encoders are convolutions over pixels and words; on global vectors they are fully connected. It prints
    the networks' side as the discriminators' with the sign changed; here they learn to raise the score of what is to
    deceive, which has the same optimum and a gradient where that has none, and a code of another class is not meant to
    pass: it would be pulled where all codes are alike.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(6, 4), "visual_features": torch.randn(6, 5),
        ...          "labels": torch.arange(6) % 3}
        >>> model = CmGanModel(CmGanConfig(audio_dim=4, visual_dim=5, num_labels=3, embed_dim=8, encoder_dim=8))
        >>> model.prepare([clips])
        >>> list(model(**clips).terms), list(model(**clips, player="critic").terms)
        (['reconstruction', 'classification', 'deceit_within', 'deceit_across'], ['within', 'across'])

        ```
    """

    config_class = CmGanConfig
    config: CmGanConfig
    class_tensors = ("classifier.weight", "classifier.bias")

    def __init__(self, config: CmGanConfig):
        super().__init__(config)
        widths = {"audio": config.audio_dim, "visual": config.visual_dim}
        self.activation = ACT2FN[config.activation]
        self.common = nn.Linear(config.encoder_dim, config.embed_dim)
        self.normalized = nn.ModuleDict({name: nn.BatchNorm1d(config.embed_dim) for name in MODALITIES})
        self.decoders = nn.ModuleDict({name: self._decoder(width) for name, width in widths.items()})
        self.classifier = nn.Linear(config.embed_dim, config.num_labels or 0)
        self.critic = nn.ModuleDict()
        for name, width in widths.items():
            for what, seen in ((f"within_{name}", width), (f"across_{name}", config.embed_dim + width)):
                self.critic[what] = scorer([seen, *config.critic_hidden], config.critic_activation)
        self.post_init()

    def _decoder(self, features: int) -> nn.Module:
        """From the code back to scaled features."""
        config = self.config
        hidden = hidden_layers(
            [config.embed_dim, config.encoder_dim],
            activation=config.activation,
            dropout=config.dropout,
            normalization=config.normalization,
        )
        return nn.Sequential(*hidden, nn.Linear(config.encoder_dim, features))

    def parts(self) -> dict[str, list[str]]:
        """Whatever takes in raw features or gives them back."""
        found = super().parts()
        for name in MODALITIES:
            last = len(list(self.decoders[name].children())) - 1
            ends = f"decoders.{name}.{last}.", f"critic.within_{name}.0.", f"critic.across_{name}.0."
            found[f"{name}_features"] += [each for each in self.state_dict() if each.startswith(ends)]
        return found

    def _outputs(self, features: Tensor, modality: str) -> Tensor:
        return self.normalized[modality](self.common(self.activation(super()._outputs(features, modality))))

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Scaled features, codes and reconstructions of both modalities, labels, numbers to draw other classes by."""
        rows = self._labels(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and player == "model"):
            rows |= self._by_modality(batch)
            for name in MODALITIES:
                statistics = getattr(self, f"{name}_encoder").statistics
                rows[f"{name}_given"] = statistics(batch[f"{name}_features"])
                rows[f"{name}_again"] = self.decoders[name](rows[name])
        if player == "critic":
            rows["draws"] = torch.rand(len(batch["audio_features"]), 1, device=self.device)
        return rows

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """The terms of whoever learns."""
        if player == "critic":
            return self._critic(rows)
        targets = self._targets(rows)[0]
        terms = [self._terms(rows, name, targets) for name in MODALITIES]
        return {name: terms[0][name] + terms[1][name] for name in terms[0]}

    def _terms(self, rows: dict[str, Tensor], modality: str, targets: Tensor) -> dict[str, Tensor]:
        """Of one modality, for the networks."""
        given, again = rows[f"{modality}_given"], rows[f"{modality}_again"]
        return {
            "reconstruction": nn.functional.mse_loss(at_least_float32(again), given),
            "classification": class_surprise(self.classifier(rows[modality]), targets),
            "deceit_within": deceived(self._within(modality, again)),
            "deceit_across": deceived(self._across(modality, rows[OTHER[modality]], given)),
        }

    def _critic(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = self._targets(rows)[0]
        differs = class_relations(targets)[1]
        some = differs.any(dim=1)
        place = draw(differs[some].float(), rows["draws"][some]).squeeze(1)
        within, across = [], []
        for name in MODALITIES:
            given, code = rows[f"{name}_given"], rows[name]
            within.append(told_apart(self._within(name, given), self._within(name, rows[f"{name}_again"])))
            wrong = self._across(name, rows[OTHER[name]], given), self._across(name, code[place], given[some])
            across.append(told_apart(self._across(name, code, given), torch.cat(wrong)))
        return {"within": within[0] + within[1], "across": across[0] + across[1]}

    def _within(self, modality: str, features: Tensor) -> Tensor:
        return at_least_float32(self.critic[f"within_{modality}"](features.to(self.common.weight)))

    def _across(self, modality: str, codes: Tensor, features: Tensor) -> Tensor:
        return at_least_float32(
            self.critic[f"across_{modality}"](torch.cat([codes, features], dim=1).to(self.common.weight))
        )


def deceived(scores: Tensor) -> Tensor:
    """Mean cross-entropy of logits of what is to pass for real."""
    return nn.functional.softplus(-scores).mean()
