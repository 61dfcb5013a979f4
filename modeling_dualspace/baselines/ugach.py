"""Unsupervised generative adversarial cross-modal hashing (UGACH)."""

from collections.abc import Iterable
from dataclasses import field

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from ..adversary import draw, reward_surrogate
from ..configuration_dualspace import check_at_least_zero
from ..encoder_system import MODALITIES, OTHER, EncoderConfig, EncoderModel
from ..losses import at_least_float32
from ..modeling_crossmodal import Batch
from ..neighbours import NeighbourGraph
from ..triplets import squared_distances


@strict
class UgachConfig(EncoderConfig):
    """Codes, the graph and the game; `EncoderConfig` explains the rest.

    Args:
        embed_dim: bits of a code.
        neighbours: clips nearest to a clip in each modality, which are positives of it in the other.
        samples: negatives that are drawn for a query.
        margin: m, in bits; None is an eighth of them.
    """

    model_type = "dualspace_ugach"
    players = ("model", "generator")
    terms = ("ranking", "reward")
    makes_codes = True

    turns: list[str] = field(default_factory=lambda: ["model", "generator"])
    codes: bool = True
    embed_dim: int = 64
    audio_hidden: list[int] = field(default_factory=lambda: [4096])
    visual_hidden: list[int] = field(default_factory=lambda: [4096])
    activation: str = "tanh"
    neighbours: int = 10
    samples: int = 2
    margin: float | int | None = None

    @property
    def margin_in_bits(self) -> float:
        """The margin that is taken."""
        return self.embed_dim / 8 if self.margin is None else self.margin

    def validate_game(self) -> None:
        """Numbers that mean something."""
        for name in ("neighbours", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        check_at_least_zero("margin", self.margin_in_bits)


class UgachModel(EncoderModel):
    r"""Binary codes by a discriminator that ranks and a generator that finds what it ranks wrongly; no label is read.

    Positives $p$ of a clip $q$ are itself and its nearest neighbours in either modality, as clips of the other. The
    discriminator, which gives the codes, and the generator are a network a modality each, with outputs between 0 and 1,
    whose distance d is the squared one.

    - The generator draws negatives $n$ by $p_G(n | q) \propto e^{-d_G(q, n)}$.
    - The discriminator minimises $f = \max(0, m + d_D(q, p) - d_D(q, n))$.
    - The generator maximises $E_{n \sim p_G} \log(1 + e^{f})$, by REINFORCE.

    Zhang, Peng and Yuan, "Unsupervised generative adversarial cross-modal hashing", AAAI 2018. There negatives are
    drawn from a fiftieth of all clips that are no positives, here from those of the batch; in the authors' code the
    reward is $\sigma(f)$, and the discriminator is trained before the game begins.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(8, 4), "visual_features": torch.randn(8, 5)}
        >>> clips["index"] = torch.arange(8)
        >>> config = UgachConfig(audio_dim=4, visual_dim=5, embed_dim=16, audio_hidden=[8], visual_hidden=[8],
        ...                      neighbours=2)
        >>> model = UgachModel(config)
        >>> model.prepare([clips])  # the graph
        >>> list(model(**clips).terms), list(model(**clips, player="generator").terms)
        (['ranking'], ['reward'])
        >>> model.get_audio_embeds(clips["audio_features"]).abs().unique()
        tensor([0.2500])

        ```
    """

    config_class = UgachConfig
    config: UgachConfig
    uses_labels = False

    def __init__(self, config: UgachConfig):
        super().__init__(config)
        widths = {"audio": (config.audio_dim, config.audio_hidden), "visual": (config.visual_dim, config.visual_hidden)}
        self.generator = nn.ModuleDict({name: self._encoder(*widths[name]) for name in MODALITIES})
        self._graph: NeighbourGraph | None = None
        self.post_init()

    @property
    def smallest_batch(self) -> int:
        """A query, a positive, a negative."""
        return max(3, super().smallest_batch)

    def prepare(self, data: Iterable[Batch]) -> None:
        """Fits the statistics, and the graph of neighbours: it keeps the features of all training clips in memory."""
        super().prepare(data)
        self._graph = NeighbourGraph.of(self._indexed(data), self.config.neighbours, self._scaled)
        if (clips := len(self._graph.index)) <= self.config.neighbours + 1:
            raise ValueError(
                f"Of {clips} clips each is among the {self.config.neighbours} nearest of every other, and none is left "
                "as a negative: set fewer by model.neighbours, or bring more clips."
            )

    def _indexed(self, data: Iterable[Batch]) -> Iterable[Batch]:
        for batch in self._batches(data):
            _check_indexed(batch)
            yield {name: batch[name] for name in ("index", *(f"{modality}_features" for modality in MODALITIES))}

    def _scaled(self, name: str, features: Tensor) -> Tensor:
        return getattr(self, name.replace("features", "encoder")).statistics(features)

    def _codes(self, features: Tensor, modality: str, network: str = "model") -> Tensor:
        """What one of both makes of features, between 0 and 1."""
        outputs = self.generator[modality](features) if network == "generator" else self._outputs(features, modality)
        return torch.sigmoid(outputs)

    def encode(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Codes of the clips by both networks, of a positive of each, and the numbers that negatives are drawn by."""
        if not self.training:
            return {}  # the graph is of the clips that are learnt from: of others there is no loss
        if self._graph is None:
            raise RuntimeError("UGACH learns from a graph of the training clips: call `model.prepare(batches)` first.")
        _check_indexed(batch)
        self._graph.to(self.device)
        places = self._graph.places(batch["index"])
        positives = self._graph.drawn(places)
        rows = {"place": places}
        learns = torch.is_grad_enabled()
        for name in MODALITIES:
            features = batch[f"{name}_features"]
            with torch.set_grad_enabled(learns and player == "model"):
                rows[name] = self._codes(features, name)
                rows[f"{name}_positive"] = self._codes(positives[f"{name}_features"], name)
            with torch.set_grad_enabled(learns and player == "generator"):
                rows[f"{name}_generated"] = self._codes(features, name, "generator")
            rows[f"{name}_draws"] = torch.rand(len(features), self.config.samples, device=self.device)
        return rows

    def objective(self, rows: dict[str, Tensor], player: str, progress: float) -> dict[str, Tensor]:
        """The ranking of the discriminator, or what the generator gets for its negatives."""
        if not rows:
            return {}
        assert self._graph is not None
        positive = self._graph.are_neighbours(rows["place"])
        terms = [self._direction(rows, queries, positive, player) for queries in MODALITIES]
        return {"ranking" if player == "model" else "reward": (terms[0] + terms[1]) / 2}

    def _direction(self, rows: dict[str, Tensor], queries: str, positive: Tensor, player: str) -> Tensor:
        mine = {name: at_least_float32(rows[name]) for name in rows if name.startswith(queries)}
        theirs = {name: at_least_float32(rows[name]) for name in rows if name.startswith(OTHER[queries])}
        gallery = OTHER[queries]
        distances = squared_distances(mine[f"{queries}_generated"], theirs[f"{gallery}_generated"])
        log_chances = nn.functional.log_softmax((-distances).masked_fill(positive, -torch.inf), dim=1)
        some = ~positive.all(dim=1)  # a query whose whole batch are its positives has no negative
        if not some.any():
            return (mine[queries].sum() + distances.sum()) * 0.0
        log_chances = log_chances[some]
        drawn = draw(log_chances.detach().exp(), rows[f"{queries}_draws"][some])
        near = (mine[queries] - theirs[f"{gallery}_positive"]).square().sum(dim=1)[some]
        far = squared_distances(mine[queries], theirs[gallery])[some].gather(1, drawn)
        hinge = (self.config.margin_in_bits + near.unsqueeze(1) - far).clamp_min(0)
        if player == "model":
            return hinge.mean()
        return -reward_surrogate(log_chances.gather(1, drawn), nn.functional.softplus(hinge))


def _check_indexed(batch: Batch) -> None:
    if "index" not in batch:
        raise ValueError("UGACH looks up the neighbours of a clip by its row: batches need the column `index`.")
