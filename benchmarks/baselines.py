"""What fitting the compared systems costs on VEGAS's shape, beside the paper's minutes and beside peers.

    python benchmarks/baselines.py [--quick] [--check] [--only NAME ...]

Synthetic features, 22,482 clips of 128 and 1,024 columns. Every system is its recipe's: closed forms are fitted from
batches of 1,024, as a training pass gives them; networks take the recipe's steps by the loop that trains them, 1,000 of
them at most, or with --quick five, from which the rest is reckoned (marked ~). No epoch is chosen, so that none ends
early. Times are this machine's; the paper's are of unknown hardware and epochs, on VEGAS. --only: these systems, no
peers, no goals.

Peers get the same clips, or as many of the first as they take in reasonable time: cca_zoo's ridge CCA and KCCA,
scikit-learn's CCA, C-CCA of pairs that are materialised, and triplets as one tensor of n^3, both as their authors'
code has them.

Goals: CCA and C-CCA within ten seconds, TNN-C-CCA within two minutes, the last six within ten minutes each with all the
updates of their recipes; nothing slower than a peer on the same clips.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from cca_zoo.linear import RidgeCCA
from cca_zoo.nonparametric import KCCA
from harness import interleaved, parse, report
from sklearn.cross_decomposition import CCA
from torch import Tensor
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from modeling_dualspace.baselines import CcaConfig, CcaModel, ClusterCcaConfig, ClusterCcaModel, KccaConfig, KccaModel
from modeling_dualspace.recipe import load_recipe
from modeling_dualspace.synthetic import CLASSES, synthetic_clips
from modeling_dualspace.trainer import Trainer
from modeling_dualspace.triplets import triplet_loss

ROWS, BATCH = 22_482, 1024
PAPER = {
    "random": 0.04,
    "cca": 1.08,
    "cluster_cca": 1.24,
    "kcca": 2.03,
    "dcca": 5.15,
    "c_dcca": 18.56,
    "tnn_c_cca": 192,
    "dscmr": 22.05,
    "acmr": 176.7,
    "ucal": None,
    "ugach": None,
    "agah": None,
    "cm_gan": None,
}
"""Minutes of training on VEGAS, where they are published."""
DEEP = ("dscmr", "acmr", "ucal", "ugach", "agah", "cm_gan")
GOALS = {"cca": 10.0, "cluster_cca": 10.0, "tnn_c_cca": 120.0} | dict.fromkeys(DEEP, 600.0)
"""Seconds."""
MOST = 1_000
"""Updates that are taken."""
Clips = Mapping[str, Tensor]


def first(clips: Clips, rows: int) -> dict[str, Tensor]:
    """As many of the clips."""
    return {name: column[:rows] for name, column in clips.items()}


def batches(clips: Clips, size: int = BATCH) -> list[dict[str, Tensor]]:
    """A training pass."""
    parts = zip(*(column.split(size) for column in clips.values()), strict=True)
    return [dict(zip(clips, part, strict=True)) for part in parts]


def fit(name: str, clips: Clips, quick: bool) -> dict[str, Any]:
    """Seconds to fit a system by its recipe, and the updates of its network."""
    recipe = load_recipe(f"baselines/{name}")
    config = CONFIG_MAPPING[f"dualspace_{recipe.system}"](num_labels=len(CLASSES), **recipe.model)
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(config)
    read = clips if model.uses_labels else {key: column for key, column in clips.items() if key != "labels"}
    data = batches(read)
    start = time.perf_counter()
    model.prepare(data)
    steps = -(-len(clips["labels"]) // recipe.train.batch_size)
    updates = max(recipe.train.epochs * steps, recipe.train.min_steps) if config.turns else 0
    prepared = time.perf_counter() - start
    taken = min(updates, 5 if quick else MOST)
    stepping = train_for(model, read, recipe, taken) * (updates / taken) if taken else 0.0
    start = time.perf_counter()
    model.eval()
    model.finish(data)
    seconds = prepared + stepping + time.perf_counter() - start
    return {"seconds": seconds, "updates": updates, "taken": taken}


class Shuffled:
    """Batches of clips in an order drawn anew each epoch, as the loop asks for them."""

    def __init__(self, clips: Clips, size: int):
        self.clips, self.size, self.rows = clips, size, len(clips["audio_features"])

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def epoch(self, number: int, skip: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of one."""
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(number))
        for rows in order.tensor_split(len(self))[skip:]:
            yield {name: column[rows] for name, column in self.clips.items()}


def train_for(model: Any, clips: Clips, recipe: Any, count: int) -> float:
    """Seconds of so many updates, after one turn of each player that warms up."""
    trainer = Trainer(model, Shuffled(clips, recipe.train.batch_size), recipe.train, Accelerator(cpu=True))
    warm = len(model.config.turns)
    for _ in trainer.steps():
        if trainer.step == warm:
            start = time.perf_counter()
        if trainer.step == warm + count:
            break
    seconds = time.perf_counter() - start
    trainer.close()
    return seconds * count / (trainer.step - warm)


def by_pairs(clips: Clips) -> None:
    """C-CCA as its authors have it: all pairs of each class, in memory."""
    audio, visual = [], []
    for one in clips["labels"].unique():
        rows = clips["labels"] == one
        a, v = clips["audio_features"][rows], clips["visual_features"][rows]
        audio.append(a.repeat_interleave(len(v), dim=0))
        visual.append(v.repeat(len(a), 1))
    model = CcaModel(CcaConfig())
    model.finish([{"audio_features": torch.cat(audio), "visual_features": torch.cat(visual)}])


def by_cube(anchors: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    """All triplets as one tensor of n^3."""
    distances = (anchors.unsqueeze(1) - others).square().sum(dim=2)
    same = labels.unsqueeze(1) == labels
    losses = (distances.unsqueeze(2) - distances.unsqueeze(1) + 0.5).clamp_min(0)
    wanted = same.unsqueeze(2) & ~same.unsqueeze(1)
    return (losses * wanted).sum() / wanted.sum()


def backward(loss: Callable[[Tensor, Tensor], Tensor], rows: int) -> Callable[[], None]:
    """A loss of made-up embeddings and its gradient."""
    audio, visual = (torch.rand(rows, 10, requires_grad=True) for _ in range(2))
    return lambda: loss(audio, visual).backward()


def peers(clips: Clips, quick: bool) -> dict[str, tuple[str, float]]:
    """Against each: of what, and how many times as long it takes."""
    found = {}

    def race(name: str, what: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
        seconds = interleaved(1 if quick else 3, ours=ours, theirs=theirs)
        found[name] = (what, seconds["theirs"] / seconds["ours"])

    def views(rows: int) -> list[np.ndarray]:
        return [clips[name][:rows].double().numpy() for name in ("audio_features", "visual_features")]

    rows = 5_000 if quick else ROWS
    few, cut = batches(first(clips, rows)), views(rows)
    ridge = RidgeCCA(10, shrinkage=1e-4)
    race("cca_zoo RidgeCCA", f"{rows:,} clips", lambda: CcaModel(CcaConfig()).finish(few), lambda: ridge.fit(cut))
    small = {name: column[:, :128] if column.ndim == 2 else column for name, column in first(clips, 2_000).items()}
    narrow = [small[name].double().numpy() for name in ("audio_features", "visual_features")]
    peer, config = CCA(10, max_iter=500), CcaConfig(visual_dim=128)
    race(
        "scikit-learn CCA", "2,000 clips, 128 columns each", lambda: CcaModel(config).finish([small]),
        lambda: peer.fit(*narrow),
    )  # fmt: skip
    count = 400 if quick else 1_000
    kernel, seen = KCCA(10, kernel="rbf", shrinkage=0.1, gamma=1e-3), views(count)
    exact = KccaConfig(components=count, gamma=1e-3)
    race(
        "cca_zoo KCCA", f"{count:,} clips, exact", lambda: KccaModel(exact).finish([first(clips, count)]),
        lambda: kernel.fit(seen),
    )  # fmt: skip
    some = first(clips, 500)
    race(
        "C-CCA of pairs in memory", "500 clips",
        lambda: ClusterCcaModel(ClusterCcaConfig()).finish([some]), lambda: by_pairs(some),
    )  # fmt: skip
    labels = clips["labels"][:200]
    same = labels.unsqueeze(1) == labels
    race(
        "triplets of n^3", "200 clips, value and gradient",
        backward(lambda audio, visual: triplet_loss(audio, visual, same, ~same, margin=0.5), 200),
        backward(lambda audio, visual: by_cube(audio, visual, labels), 200),
    )  # fmt: skip
    return found


def main(argv: list[str] | None = None) -> int:
    """Fits, and prints both tables."""
    arguments = parse(__doc__, argv, only=True)
    if unknown := set(arguments.only or ()) - set(PAPER):
        sys.exit(f"There is no system {min(unknown)}: there are {', '.join(PAPER)}.")
    clips = synthetic_clips(ROWS, seed=0) | {"index": torch.arange(ROWS)}
    print(f"{'system':<16}{'seconds, measured':>18}{'updates':>9}{'the paper, s':>14}{'times as fast':>15}")
    found = {}
    for name, minutes in PAPER.items():
        if name not in (arguments.only or PAPER):
            continue
        found[name] = fit(name, clips, arguments.quick)
        seconds, updates = found[name]["seconds"], found[name]["updates"]
        reckoned = "~" if found[name]["taken"] < updates else ""
        paper = f"{60 * minutes:>14,.0f}{60 * minutes / seconds:>15,.1f}" if minutes else f"{'-':>14}{'-':>15}"
        print(f"{name:<16}{reckoned + f'{seconds:.2f}':>18}{updates:>9,}{paper}", flush=True)
    if arguments.only:
        return report("baselines", {"fits": found}, {}, arguments)
    against = peers(clips, arguments.quick)
    for name, (what, ratio) in against.items():
        print(f"{name:<26}{ratio:9.1f} times our time ({what})")
    goals = {f"{name} within {most:.0f} s": found[name]["seconds"] <= most for name, most in GOALS.items()}
    goals |= {f"no slower than {name}": ratio >= 1 for name, (_, ratio) in against.items()}
    figures = {"fits": found, "peers": {name: {"of": what, "ratio": ratio} for name, (what, ratio) in against.items()}}
    return report("baselines", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
