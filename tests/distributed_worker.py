"""One of several processes: `python distributed_worker.py RANK WORLD FOLDER`, started by test_distributed.py.

Everything is computed twice: by this process alone on the whole data, before the group exists, and by all on their
shards.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from modeling_dualspace import (
    ColumnMoments,
    CrossModalConfig,
    CrossModalModel,
    DualSubspaceConfig,
    DualSubspaceModel,
    PairMoments,
)
from modeling_dualspace.distributed import gather_named_rows, gather_rows

ROWS = 24
# First rows of the second process: equal halves, unequal ones, and a first process with none.
SPLITS = {"equal": 12, "unequal": 5, "one_empty": 0}
OFFSETS = (0, 1_000_000)
LOSSES = {
    "default": {},
    "paper": {"correlation": "nuclear", "discriminative": "frobenius", "orthogonality": "paper"},
    "batch": {"orthogonality": "batch", "ridge_relative": False, "ridge": 1e-3},
    "shared": {"variant": "shared", "normalization": "layer", "activation": "tanh"},
    "explicit": {"variant": "explicit"},
    "implicit": {"variant": "implicit"},
}


def clips(seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows with an offset, a tenth of them unlabelled, classes of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(ROWS) % 7).clamp_max(2)
    labels[::10] = -100
    return {
        "audio_features": torch.randn(ROWS, 6, generator=generator).double(),
        "visual_features": torch.randn(ROWS, 8, generator=generator).double(),
        "labels": labels,
    }


def shard(data: dict[str, torch.Tensor], rank: int, first: int) -> dict[str, torch.Tensor]:
    """The rows of one of two processes."""
    part = slice(0, first) if rank == 0 else slice(first, None)
    return {name: rows[part] for name, rows in data.items()}


def make_model(**settings) -> DualSubspaceModel:
    """A float64 model, the same in every process."""
    torch.manual_seed(0)
    sizes = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "embed_dim": 4, "explicit_dim": 4}
    hidden = {"audio_hidden": [16], "visual_hidden": [16], "dropout": 0.0}
    return DualSubspaceModel(DualSubspaceConfig(**sizes | hidden | {"alpha": 0.5, "beta": 0.3} | settings)).double()


def gradient(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Loss of a batch, and its gradient as one vector."""
    output = model(**batch)
    output.loss.backward()
    return [output.loss.detach(), torch.cat([one.grad.flatten() for one in model.parameters() if one.requires_grad])]


def moments_of(data: dict[str, torch.Tensor], offset: float) -> tuple[ColumnMoments, PairMoments]:
    """Both accumulators, with weighted rows and a mean far from zero."""
    targets = torch.nn.functional.one_hot(data["labels"].clamp_min(0), 3)
    weights = 1 + (data["labels"] % 3)
    audio, visual = data["audio_features"] + offset, data["visual_features"]
    columns = ColumnMoments(6, "audio").update(audio)
    return columns, PairMoments(6, 8, 3).update(audio, visual, targets, data["labels"] >= 0, weights)


def said_by(columns: ColumnMoments, pairs: PairMoments) -> list[torch.Tensor]:
    """Everything the accumulators say."""
    return [columns.mean, columns.variance(), *pairs.covariances(0.3), pairs.class_weight, pairs.weight]


def fitted(model: DualSubspaceModel, data, validation, like=None) -> torch.Tensor:
    """Statistics, fusion and choice after both closed forms, as one vector."""
    model.prepare([data])
    if like is None:
        model.finish([data], [validation])
    else:
        chosen = make_model()
        chosen.config.fusion_choice = like
        model.finish_like(chosen, [data, validation])
    choice = model.config.fusion_choice
    numbers = [choice.get("cluster_weight", -1), choice.get("ridge", -1), choice.get("validation_map", -1)]
    buffers = [buffer.flatten() for buffer in model.buffers()]
    return torch.cat([*buffers, torch.tensor(numbers, dtype=torch.float64)])


def without_labels(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pairs alone."""
    return {name: rows for name, rows in data.items() if name != "labels"}


def fits(data, validation) -> dict[str, torch.Tensor]:
    """`fitted` with and without features, without labels, and as another model chose."""
    like = {"candidate": "with-features", "cluster_weight": 0.3, "ridge": 0.05}
    return {
        "fit": fitted(make_model(), data, validation),
        "outputs": fitted(make_model(fusion_features=False), data, validation),
        "pairs": fitted(make_model(), *map(without_labels, (data, validation))),
        "like": fitted(make_model(), data, validation, like),
    }


class TwoPlayersConfig(CrossModalConfig):
    """See `TwoPlayers`."""

    model_type = "dualspace_toy_distributed"


class TwoPlayers(CrossModalModel):
    """A critic that `objective` alone uses, on gathered rows, and a map that learns against it by turns."""

    config_class = TwoPlayersConfig

    def __init__(self, config: TwoPlayersConfig):
        super().__init__(config)
        self.map = torch.nn.Linear(6, 8)
        self.critic = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        self.post_init()

    def encode(self, batch, player):
        """The map learns in its own turn only."""
        with torch.set_grad_enabled(player == "model"):
            return {"audio": self.map(batch["audio_features"]), "visual": batch["visual_features"]}

    def objective(self, rows, player, progress):
        """Neither term is a mean over rows."""
        gap = self.critic(rows["audio"]).square().sum().sqrt() - self.critic(rows["visual"]).square().sum().sqrt()
        return {"critic": gap} if player == "critic" else {"fool": -gap}


def step_of(player: str, data: dict[str, torch.Tensor], parallel: bool) -> list[torch.Tensor]:
    """Gradients of one player's turn; a parameter that has none counts as zero."""
    torch.manual_seed(0)
    model: torch.nn.Module = TwoPlayers(TwoPlayersConfig(audio_dim=6, visual_dim=8, turns=["critic", "model"])).double()
    if parallel:
        model = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
    model(**data, player=player).loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return [torch.cat([gradient.flatten() for gradient in gradients])]


def main(rank: int, world: int, folder: Path) -> None:
    """Writes what one process and what all of them computed."""
    torch.set_num_threads(1)
    data, validation = clips(), clips(seed=1)
    one = {f"gradient/{name}": gradient(make_model(**settings), data) for name, settings in LOSSES.items()}
    one |= {f"moments/{offset}": said_by(*moments_of(data, offset)) for offset in OFFSETS}
    one |= {f"player/{player}": step_of(player, data, parallel=False) for player in ("critic", "model")}
    one |= fits(data, validation)

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    several = {}
    for split, first in SPLITS.items():
        mine = shard(data, rank, first)
        gathered = gather_named_rows(mine)
        several[f"{split}/gathered"] = torch.stack([(gathered[name] == data[name]).all() for name in data])
        for name, settings in LOSSES.items():
            model = DistributedDataParallel(make_model(**settings), broadcast_buffers=False)
            several[f"{split}/gradient/{name}"] = gradient(model, mine)
        for player in ("critic", "model"):
            several[f"{split}/player/{player}"] = step_of(player, mine, parallel=True)
        for offset in OFFSETS:
            reduced = (moments.all_reduce() for moments in moments_of(mine, offset))
            several[f"{split}/moments/{offset}"] = said_by(*reduced)
        several |= {f"{split}/{name}": found for name, found in fits(mine, shard(validation, rank, first)).items()}
    try:
        gather_named_rows(
            {"rows": torch.zeros(2, 3)} if rank else {"rows": torch.zeros(2, 3), "labels": torch.zeros(2)}
        )
    except ValueError as error:
        several["mismatch"] = str(error)
    model = make_model(normalization="batch").train()
    model(**shard(data, rank, 12))
    model.finish([shard(data, rank, 12)])
    several["running"] = model.audio_towers.explicit[1].running_mean
    several["low_precision"] = gather_rows(torch.full((rank + 1, 2), float(rank), dtype=torch.bfloat16)).float()
    torch.save({"one": one, "several": several}, folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
