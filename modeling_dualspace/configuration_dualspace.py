"""Configurations: typed, validated, and closed against misspelt keys."""

import difflib
import math
from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN

from .closed_config import ClosedConfig


def spec_parts(spec: str | None) -> dict[str, str]:
    """What made the features of each modality, of a `feature_spec`.

    Example:
        ```python
        >>> spec_parts("audio=logmel@1a2b3c4d visual=thumbnail@5e6f7a8b")
        {'audio': 'logmel@1a2b3c4d', 'visual': 'thumbnail@5e6f7a8b'}

        ```
    """
    return dict(part.split("=", 1) for part in (spec or "").split() if "=" in part)


@strict
class CrossModalConfig(ClosedConfig):
    """What every system of audio-visual retrieval is configured by.

    Args:
        audio_dim: width of a clip's audio features.
        visual_dim: width of a clip's visual features.
        embed_dim: width of the embeddings.
        turns: who learns from which batch: player `turns[t % len(turns)]` from batch t; empty for a closed form.
        loss_weights: a weight for a named loss term, 1 where absent.
        codes: whether embeddings are codes of +-1/sqrt(bits).
        feature_spec: how the features were made; None fits any.
        trained_on: fingerprint of the data, and the rows of each split that were learnt from: a record, not a setting.
        num_labels: number of classes, 10 unless `id2label` says otherwise.
    """

    model_type = "dualspace_system"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["terms"]
    players: ClassVar[tuple[str, ...] | None] = None
    """Those of the system, whom `turns` names in any order and ratio, and no others; None leaves it open."""
    terms: ClassVar[tuple[str, ...] | None] = None
    """Those of its loss, which `loss_weights` weighs, and no others; None leaves it open."""
    makes_codes: ClassVar[bool | None] = None
    """Whether its embeddings are codes; None leaves it open."""

    audio_dim: int = 128
    visual_dim: int = 1024
    embed_dim: int = 10
    turns: list[str] = field(default_factory=list)
    loss_weights: dict[str, float | int] = field(default_factory=dict)
    codes: bool = False
    feature_spec: str | None = None
    trained_on: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any):
        if self.id2label is None and self.label2id is not None:
            self.id2label = {int(index): str(name) for name, index in self.label2id.items()}
        count = kwargs.get("num_labels")
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"`num_labels` must be a whole number of at least 1, got {count!r}.")
        if self.id2label is None:
            kwargs["num_labels"] = count or 10
        else:
            self._check_class_names(self.id2label, count)
        super().__post_init__(**kwargs)
        names = {str(name): int(index) for index, name in (self.id2label or {}).items()}
        if self.label2id not in (None, names):
            raise ValueError(f"`label2id` and `id2label` disagree: {self.label2id} against {self.id2label}.")
        self.label2id = names

    @staticmethod
    def _check_class_names(names: dict[Any, str], count: int | None) -> None:
        if count not in (None, len(names)):
            raise ValueError(f"`num_labels` is {count}, `id2label` names {len(names)} classes.")
        if sorted(map(int, names)) != list(range(len(names))) or not names:
            raise ValueError(f"`id2label` must name the classes 0, 1, 2 ... without a gap, got {list(names)}.")
        if len(set(names.values())) < len(names):
            raise ValueError(f"`id2label` must give every class a name of its own, got {list(names.values())}.")

    @property
    def output_dim(self) -> int:
        """Width of the embeddings as they come out; a system whose own is another says so here."""
        return self.embed_dim

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As for any configuration; a caller's classes replace those of the file, in number and by name."""
        if any(kwargs.get(key) is not None for key in ("num_labels", "id2label", "label2id")):
            config_dict = {key: value for key, value in config_dict.items() if key not in ("id2label", "label2id")}
            for key in ("id2label", "label2id"):
                if kwargs.get(key) is not None:
                    config_dict[key] = kwargs.pop(key)
        return super().from_dict(config_dict, **kwargs)

    def validate_dimensions(self) -> None:
        """Every width is a positive number."""
        for name in ("audio_dim", "visual_dim", "embed_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")

    def validate_players(self) -> None:
        """Players, and codes, as the system has them."""
        name = type(self).__name__
        if self.players is not None and set(self.turns) != set(self.players):
            must = f"name {' and '.join(self.players)}, in any order and ratio" if self.players else "be empty"
            raise ValueError(f"`turns` of {name} must {must}, got {self.turns}: leave it out.")
        if self.makes_codes is not None and self.codes != self.makes_codes:
            must, why = ("true", "codes alone") if self.makes_codes else ("false", "no codes")
            raise ValueError(f"`codes` must be {must}, since {name} makes {why}: leave it out.")

    def validate_loss_weights(self) -> None:
        """Finite weights of at least 0, of terms that there are."""
        for term, weight in self.loss_weights.items():
            check_at_least_zero(f"loss_weights[{term!r}]", weight)
            if self.terms is not None and term not in self.terms:
                known, name = " and ".join(self.terms) or "none", type(self).__name__
                raise ValueError(f"`loss_weights` names the term {term!r}, and those of {name} are {known}.")


def check_layers(config: CrossModalConfig, widths: tuple[str, ...], dropouts: tuple[str, ...] = ("dropout",)) -> None:
    """Raises where layers cannot be built.

    Args:
        config: with `activation`.
        widths: fields that hold the widths of hidden layers.
        dropouts: fields that hold the share that is dropped.
    """
    for name in widths:
        found = getattr(config, name)
        if any(width < 1 for width in found):
            raise ValueError(f"`{name}` must hold widths of at least 1, got {found}.")
    for name in dropouts:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 0 and below 1, got {getattr(config, name)}.")
    check_activation("activation", config.activation)


def check_activation(name: str, activation: str) -> None:
    """Raises, naming the field, unless transformers has it."""
    if activation not in ACT2FN:
        close = difflib.get_close_matches(activation, ACT2FN, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"`{name}` must be one of those in transformers, got '{activation}'.{hint}")


def check_at_least_zero(name: str, value: float) -> None:
    """Raises, naming the field, unless the number is finite and not negative."""
    if not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}.")


@strict
class DualSubspaceConfig(CrossModalConfig):
    r"""The dual-subspace model; defaults have the paper's sizes on VEGAS.

    Args:
        variant: `dual`; `explicit`, without $L_{dis}$ (unsupervised) and embedded from the explicit outputs by plain
            CCA; `implicit`, without $L_{corr}$ and embedded from the implicit outputs; `shared`, one trunk a modality
            with two heads.
        audio_hidden: widths of the hidden layers of each audio tower; none makes it linear.
        visual_hidden: likewise for the visual ones.
        explicit_dim: width of the explicit subspace. The implicit one is as wide as there are classes.
        activation: after each hidden layer, by its name in transformers.
        dropout: after each activation.
        input_dropout: of the scaled features, before the towers.
        normalization: of each hidden layer, before its activation: `none`, `batch` or `layer`.
        feature_scaling: of the raw features by statistics of the training split: `standardize`, `center` or `none`.
        alpha: weight of $L_{dis}$.
        beta: weight of $L_{cons}$.
        correlation: `frobenius` or `nuclear`; see `canonical_correlation`.
        ridge: r of the correlation.
        ridge_relative: whether `ridge`, and `fusion_ridge` of outputs alone, are multiples of the mean eigenvalue;
            with features, each column's is one of its own variance.
        discriminative: `row_norm`, or the paper's `frobenius`; see `discriminative_loss`.
        orthogonality: `scale_free`, `batch`, or the paper's `paper`; see `orthogonality_loss`.
        fusion: `weighted-cluster-cca`, chosen on validation among all; or `cca`, the paper's, `explicit`, `implicit`,
            which are taken unseen; see `fit_fusion`.
        fusion_ridge: r of the fusion; None has that of `weighted-cluster-cca` chosen on validation, and is 1e-4 for
            the others.
        fusion_cluster_weight: $\lambda$ of `weighted-cluster-cca`; None has it chosen on validation. With the ridge
            given too, nothing is left to choose.
        fusion_features: whether the scaled features stand beside the outputs in `weighted-cluster-cca`: a linear way
            around the towers, in closed form, which is what few clips or few steps fall back on.
        fusion_power: p of `weighted-cluster-cca`: each direction is multiplied by $\rho^p$.
        fusion_lengths: whether embeddings keep the length of their variates in two more columns; see `CanonicalLayer`.
        fusion_choice: what `finish` chose, with its score: a record, not a setting.

    Example:
        ```python
        >>> DualSubspaceConfig(audio_dim=64, num_labels=15).implicit_dim
        15
        >>> DualSubspaceConfig(alhpa=0.1)
        Traceback (most recent call last):
        ValueError: DualSubspaceConfig has no key `alhpa`. Did you mean `alpha`?

        ```
    """

    model_type = "dualspace"
    players = ("model",)
    makes_codes = False

    turns: list[str] = field(default_factory=lambda: ["model"])
    variant: Literal["dual", "explicit", "implicit", "shared"] = "dual"
    audio_hidden: list[int] = field(default_factory=lambda: [1024, 1024])
    visual_hidden: list[int] = field(default_factory=lambda: [1024, 2048])
    explicit_dim: int = 10
    activation: str = "relu"
    dropout: float | int = 0.5
    input_dropout: float | int = 0.0
    normalization: Literal["none", "batch", "layer"] = "none"
    feature_scaling: Literal["standardize", "center", "none"] = "standardize"
    alpha: float | int = 0.5
    beta: float | int = 0.001
    correlation: Literal["frobenius", "nuclear"] = "frobenius"
    ridge: float | int = 1e-4
    ridge_relative: bool = True
    discriminative: Literal["frobenius", "row_norm"] = "row_norm"
    orthogonality: Literal["paper", "batch", "scale_free"] = "scale_free"
    fusion: Literal["weighted-cluster-cca", "cca", "explicit", "implicit"] = "weighted-cluster-cca"
    fusion_ridge: float | int | None = None
    fusion_cluster_weight: float | int | None = None
    fusion_features: bool = True
    fusion_power: float | int = 1.0
    fusion_lengths: bool = False
    fusion_choice: dict[str, Any] | None = None

    @property
    def implicit_dim(self) -> int:
        """Width of the implicit subspace: the number of classes."""
        return len(self.id2label or {})

    @property
    def output_dim(self) -> int:
        """Width of the embeddings as they come out."""
        return self.fusion_dim + 2 * self.fusion_lengths

    @property
    def fusion_dim(self) -> int:
        """How many directions the fusion has.

        That is `embed_dim` for the paper's fusion. Where `finish` may choose a subspace alone, it is the widest of the
        candidates, so that no choice changes a shape; a narrower one is followed by zeros, to which a cosine is blind.
        """
        if self.fused == "implicit":
            return self.implicit_dim
        return max(self.embed_dim, self.implicit_dim) if self.fused == "weighted-cluster-cca" else self.embed_dim

    @property
    def fusion_widths(self) -> tuple[int, int]:
        """Columns that go into the fusion, of audio and visual."""
        outputs = self.explicit_dim + self.implicit_dim
        if not self.fusion_features or self.fused != "weighted-cluster-cca":
            return outputs, outputs
        return outputs + self.audio_dim, outputs + self.visual_dim

    @property
    def fusion_is_open(self) -> bool:
        """Whether anything is left for validation to choose."""
        return self.fused == "weighted-cluster-cca" and None in (self.fusion_cluster_weight, self.fusion_ridge)

    @property
    def fused(self) -> str:
        """What is embedded: `fusion`, or the one subspace of the variants that have but one."""
        return self.variant if self.variant in ("explicit", "implicit") else self.fusion

    def validate_network(self) -> None:
        """Towers that can be built."""
        check_layers(self, widths=("audio_hidden", "visual_hidden"), dropouts=("dropout", "input_dropout"))
        if self.explicit_dim < 1:
            raise ValueError(f"`explicit_dim` must be at least 1, got {self.explicit_dim}.")

    def validate_objective(self) -> None:
        """Weights and ridges of the objective and the fusion."""
        for name in ("alpha", "beta", "ridge", "fusion_ridge", "fusion_power"):
            if getattr(self, name) is not None:
                check_at_least_zero(name, getattr(self, name))
        if self.fusion_cluster_weight is not None and not 0 <= self.fusion_cluster_weight <= 1:
            raise ValueError(f"`fusion_cluster_weight` must lie in 0..1, got {self.fusion_cluster_weight}.")
        weights = {"discriminative": "alpha", "orthogonality": "beta"}
        for term in self.loss_weights.keys() - {"correlation"}:
            hint = f"its weight is `{weights[term]}`" if term in weights else "the model has no such term"
            raise ValueError(f"`loss_weights` takes `correlation` only, not `{term}`: {hint}.")
