"""All compared systems beside the dual model and its variants: the paper's table, on data that are at hand.

    python benchmarks/compared.py [--data DIR] [--quick] [--final] [--check]

DIR holds Wikipedia's raw features or the recordings of the Free Spoken Digit Dataset: five seeds, mean and deviation of
MAP. Without it, synthetic features of VEGAS's shape are made, and everything runs once, a cell in five minutes at most.

Every system is a recipe of training/configs/baselines, the published one first. Where others are tried, validation
chooses among them, over two seeds: by MAP, or, where a system reads no label, by how well a query finds its own pair,
which reads none either. Networks are tried with the towers and the optimiser of the dual model's recipe too. Validation
is scored by what train taught; test, with --final only, by what was refit on both. Systems that end in linear
directions stand there as published; weighted, each direction multiplied by its correlation, as in the dual model's
default fusion; and weighted with the length of the variates kept, as it may too.

--quick: one seed, the closed forms as published, the dual model. Goal: the dual model leads.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from harness import parse, report
from systems import PAPERS_FUSION, Table, Trained, built

from modeling_dualspace.recipe import Recipe, load_recipe, recipe_from
from modeling_dualspace.yaml_files import merged

Settings = Mapping[str, Any]
DUAL = "dual"
NAMES = {"audio_to_visual": "a→v", "visual_to_audio": "v→a", "map": "mean"}
ENDS: dict[str, Settings] = {
    "": {"power": 0.0, "lengths": False},
    ", weighted": {"power": 1.0, "lengths": False},
    ", weighted, lengths": {"power": 1.0, "lengths": True},
}
"""Of systems with linear directions: how they are finished, the networks being the same."""
DRAWN = ("random", "KCCA")
"""Closed forms that hang on the seed."""
BRIEF = {"DCCA": 20, "C-DCCA": 20, "TNN-C-CCA": 20, "explicit": 12, "implicit": 12, "shared": 12, DUAL: 12}
"""Epochs on a set as large as VEGAS."""


@dataclass(frozen=True)
class System:
    """A system, and what is tried of it.

    Args:
        recipe: by name.
        tries: settings over the recipe's; the published ones first.
        ends: by what its name is followed in the table: settings of its closed form.
        over: settings that all tries share.
    """

    recipe: str
    tries: Sequence[Settings] = ({},)
    ends: Mapping[str, Settings] = field(default_factory=lambda: {"": {}})
    over: Settings = field(default_factory=dict)

    def asked(self, settings: Settings, seed: int, *, refit: bool) -> Recipe:
        """The recipe with those settings."""
        content = merged(load_recipe(self.recipe).resolved(), merged(settings, self.over))
        content["train"] |= {"seed": seed, "refit": refit}
        return recipe_from(content)


def scaled(*ridges: float, **model: Any) -> list[Settings]:
    """Ridges on columns of unit variance."""
    return [{"model": {"feature_scaling": "standardize", "ridge": ridge, **model}} for ridge in ridges]


def like_dual(recipe: str) -> Settings:
    """The towers and the optimiser that the dual model has."""
    content = load_recipe(recipe).resolved()
    towers = ("audio_hidden", "visual_hidden", "normalization", "dropout", "input_dropout")
    model = {"normalization": "none", "activation": "relu"} | {
        name: content["model"][name] for name in towers if name in content["model"]
    }
    model |= {"correlation_ridge": 1e-2, "correlation_ridge_relative": True, "ridge": 1e-2, "ridge_relative": True}
    steps = ("epochs", "choose", "eval_every", "patience", "batch_size", "optimizer", "schedule")
    return {"model": model, "train": {name: content["train"][name] for name in steps}}


def rivals(recipe: str) -> dict[str, System]:
    """All of them."""
    kernels = [
        {"model": {"feature_scaling": kind, "constraint": c}}
        for kind in ("standardize", "center")
        for c in (0.1, 0.5, 0.9)
    ]
    even = [
        *scaled(0.01, 1e-4, 0.1, 1.0),
        *scaled(0.01, 0.1, 1.0, cluster_weight=0.2),
        *scaled(0.01, 0.1, 1.0, cluster_weight=1.0),
    ]
    ours, faster = like_dual(recipe), {"train": {"optimizer": {"lr": 1e-3}}}
    narrow = load_recipe("baselines/dcca_small").resolved()
    small = {"model": narrow["model"], "train": {name: narrow["train"][name] for name in ("batch_size", "optimizer")}}
    stage = scaled(0.1)[0]
    return {
        "random": System("baselines/random"),
        "CCA": System("baselines/cca", [{}, *scaled(0.01, 0.1, 1.0)], ENDS),
        "KCCA": System("baselines/kcca", kernels, ENDS),
        "C-CCA": System("baselines/cluster_cca", [{}, *scaled(0.01, 0.1, 1.0)], ENDS),
        "C-CCA, authors' mix": System("baselines/cluster_cca_mixed", [{}, *scaled(0.01, 0.1, 1.0)], ENDS),
        "C-CCA, even": System(
            "baselines/cluster_cca_weighted", even, {name: end for name, end in ENDS.items() if name}
        ),
        "DCCA": System("baselines/dcca", [{}, small, ours], ENDS),
        "C-DCCA": System(
            "baselines/c_dcca",
            [{}, faster, ours, merged(ours, {"model": {"pairing": "even", "cluster_weight": 0.5}})], ENDS,
        ),
        "TNN-C-CCA": System(
            "baselines/tnn_c_cca",
            [{}, {"model": {"triplet_mean": "active"}}, stage, merged(stage, {"model": {"power": 1.0}})],
        ),
    }  # fmt: skip


def variants(recipe: str) -> dict[str, System]:
    """The dual model and its ablations, as a recipe has it; a subspace alone is compared by cosine."""
    alone: dict[str, Settings] = {
        name: {"model": {"variant": name, "fusion_lengths": False}} for name in ("explicit", "implicit")
    }
    found = {name: System(recipe, over=over) for name, over in alone.items()}
    found["shared"] = System(recipe, over={"model": {"variant": "shared"}})
    return found | {DUAL: System(recipe, ends={"": {}, ", the paper's fusion": PAPERS_FUSION})}


def on_data(folder: str | None, quick: bool) -> tuple[str, dict[str, Dataset], dict[str, System]]:
    """What a folder holds: its name, its splits, and the systems with the dual model's recipe for it."""
    if folder is None:
        flags = ["--rows", "4000"] if quick else []
        splits = built("synthetic_features", None, ["default"], flags)["default"]
        return (
            "synthetic",
            splits,
            {name: _brief(name, one) for name, one in (rivals("vegas") | variants("vegas")).items()},
        )
    name = "wikipedia" if (Path(folder) / "raw_features.mat").exists() else "spoken_digits"
    return name, built(name, folder, ["default"])["default"], rivals(name) | variants(name)


def _brief(name: str, system: System) -> System:
    """With fewer epochs, and of networks only the published settings and those like the dual model's."""
    if name not in BRIEF:
        return system
    steps = {"epochs": BRIEF[name], "min_steps": 0, "eval_every": 4, "patience": None}
    return replace(
        system, tries=[*system.tries[:1], *system.tries[1:][-1:]], over=merged(system.over, {"train": steps})
    )


def score(found: Trained, split: Dataset, *, refit: bool, end: Settings, pairs: bool = False) -> dict[str, float]:
    """MAP by class, or of a query's own pair: then no label is read."""
    rows = split.remove_columns(sorted({"label", "labels"} & set(split.column_names))) if pairs else split
    return found.scores(rows, refit=refit, finish=end)


def choose(name: str, system: System, splits: Mapping[str, Dataset], seeds: range) -> dict[str, int]:
    """Which of the tries each end takes."""
    if len(system.tries) == 1:
        return dict.fromkeys(system.ends, 0)
    scores: dict[str, list[float]] = {end: [] for end in system.ends}
    for settings in system.tries:
        trained = []
        for seed in seeds:
            trained.append(Trained(system.asked(settings, seed, refit=False), splits))
            if not trained[-1].chosen.config.turns and name not in DRAWN:
                break
        for end, over in system.ends.items():
            kind = {"refit": False, "end": over, "pairs": not trained[0].chosen.uses_labels}
            scores[end].append(statistics.fmean(score(one, splits["validation"], **kind)["map"] for one in trained))
    best = {end: max(range(len(values)), key=lambda place: round(values[place], 9)) for end, values in scores.items()}
    for end, values in scores.items():
        said = ", ".join(f"{value:.4f}" for value in values)
        print(
            f"{name}{end}: setting {best[end]} of {said}: {system.tries[best[end]] or 'as published'}", file=sys.stderr
        )
    return best


def fill(
    table: Table, name: str, system: System, splits: Mapping[str, Dataset], seeds: range, choice: Mapping[str, int]
) -> None:
    """The rows of a system."""
    learnt, final = {split: splits[split] for split in ("train", "validation")}, "test" in table.splits
    for seed in seeds:
        for place in dict.fromkeys(choice.values()):
            start = time.perf_counter()
            found = Trained(system.asked(system.tries[place], seed, refit=final), learnt)
            said = f"{found.summary['steps']:,} updates, {time.perf_counter() - start:.0f} s"
            for end in (end for end in system.ends if choice[end] == place):
                over = system.ends[end]
                rows = {split: score(found, splits[split], refit=split == "test", end=over) for split in table.splits}
                table.add(name + end, **rows)
            print(f"{name}, seed {seed}: {said}", file=sys.stderr)
        if not found.chosen.config.turns and name not in DRAWN:
            break  # another seed gives the same


def lead(table: Table, seeds: range) -> bool:
    """Whether the dual model is ahead of all others, on the last split of the table."""
    split = table.splits[-1]
    others = [row for row in table.found if not row.startswith(DUAL)]
    best = max(others, key=lambda row: table.mean(row, split))
    ahead = table.mean(DUAL, split) - table.mean(best, split)
    by_seed = f" ± {table.lead(DUAL, best, split)[1]:.4f}" if len(table.found[best][split]) > 1 else ""
    print(f"dual ahead of the next, {best}, on {split}: {ahead:+.4f}{by_seed} over {len(seeds)} seeds")
    return ahead > 0


def main(argv: list[str] | None = None) -> int:
    """Chooses, trains, and prints the table."""
    arguments: argparse.Namespace = parse(__doc__, argv, data="if there is any")
    name, splits, systems = on_data(arguments.data, arguments.quick)
    if arguments.quick:
        kept = {one: system for one, system in systems.items() if one not in BRIEF or one == DUAL}
        systems = {one: replace(system, tries=system.tries[:1]) for one, system in kept.items()}
    once = arguments.quick or name == "synthetic"
    table, seeds = Table(["validation", "test"] if arguments.final else ["validation"]), range(1 if once else 5)
    for one, system in systems.items():
        fill(table, one, system, splits, seeds, choose(one, system, splits, seeds[:2]))
    print(f"{name}: {', '.join(f'{len(rows):,} {split}' for split, rows in splits.items())}")
    table.show(NAMES)
    goals = {f"the dual model leads on {name}, {table.splits[-1]}": lead(table, seeds)}
    return report("compared", {name: table.figures()}, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
