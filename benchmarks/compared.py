"""All compared systems beside the dual model and its variants: the paper's table, on data that are at hand.

    python benchmarks/compared.py [--data DIR] [--quick] [--final] [--check] [--only NAME ...]

DIR holds Wikipedia's raw features or the recordings of the Free Spoken Digit Dataset: five seeds, mean and deviation of
MAP. Without it, synthetic features of VEGAS's shape are made, and everything runs once, a cell in five minutes at most,
with no refit.

A system stands there as published, by its recipe of training/configs/baselines (of DSCMR and CM-GAN, which take long,
60 and 30 epochs at most, and three validations without a better one), and tuned: with other ridges, fewer directions,
and, of networks, the towers and the steps of the dual model's recipe (the last six by AdamW; a step is one player's, so
that networks which play take fewer). Validation chooses among them, over two seeds, by MAP; or, where a system reads no
label, by how well a query finds its own pair, which reads none.
What ends in linear directions is also weighted, each direction multiplied by its correlation, as in the dual model's
default fusion, and weighted with the length of the variates kept, as it may too.

Validation is scored by what train taught; test, with --final only, by what was refit on both. The recipes of the dual
model were themselves chosen on train and validation: only test says who leads. Its ablations have its settings.

--quick: one seed, closed forms as published, the dual model. --only: these systems, and no goal. Goal: the dual model
leads.
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

from modeling_dualspace import DualSubspaceConfig
from modeling_dualspace.recipe import Recipe, load_recipe, recipe_from
from modeling_dualspace.yaml_files import merged

Settings = Mapping[str, Any]
DUAL = "dual"
NAMES = {"audio_to_visual": "a→v", "visual_to_audio": "v→a", "map": "mean"}
LINEAR: dict[str, Settings] = {
    ", tuned": {"power": 0.0, "lengths": False},
    ", tuned, weighted": {"power": 1.0, "lengths": False},
    ", tuned, weighted, lengths": {"power": 1.0, "lengths": True},
}
"""How what ends in linear directions is finished."""
TOWERS = ("audio_hidden", "visual_hidden", "activation", "normalization", "dropout", "input_dropout", "feature_scaling")
STEPS = ("epochs", "min_steps", "choose", "eval_every", "patience", "batch_size", "optimizer", "schedule")


@dataclass(frozen=True)
class System:
    """A system, and what is tried of it.

    Args:
        recipe: by name.
        tries: settings over the recipe's, beside none.
        ends: rows of the best of them, each with settings of its closed form.
        over: settings that all share.
        cap: settings over the recipe's where nothing is tried: where it ends, if that would be too late.
        brief: epochs on a set as large as VEGAS; 0 of a closed form.
        drawn: whether a closed form hangs on the seed.
    """

    recipe: str
    tries: Sequence[Settings] = ()
    ends: Mapping[str, Settings] = field(default_factory=dict)
    over: Settings = field(default_factory=dict)
    cap: Settings = field(default_factory=dict)
    brief: int = 0
    drawn: bool = False

    def asked(self, settings: Settings, seed: int, *, refit: bool) -> Recipe:
        """The recipe with those settings."""
        content = merged(load_recipe(self.recipe).resolved(), merged(settings or self.cap, self.over))
        content["train"] |= {"seed": seed, "refit": refit}
        return recipe_from(content)

    def seeds(self, count: int) -> range:
        """One, where another gives the same."""
        return range(count if self.brief or self.drawn else 1)


def scaled(ridges: Sequence[float], dims: Sequence[int] = (10,), **model: Any) -> list[Settings]:
    """Ridges on columns of unit variance, and numbers of directions."""
    same = {"feature_scaling": "standardize", **model}
    return [{"model": same | {"ridge": ridge, "embed_dim": dim}} for dim in dims for ridge in ridges]


def like_dual(recipe: str, **model: Any) -> Settings:
    """The towers and the steps that the dual model has."""
    content = load_recipe(recipe).resolved()
    dual = DualSubspaceConfig(**content["model"])
    towers = {name: getattr(dual, name) for name in TOWERS}
    return {"model": towers | model, "train": {name: content["train"][name] for name in STEPS}}


def correlation_of_dual(recipe: str) -> Settings:
    """The correlation that it has."""
    dual = DualSubspaceConfig(**load_recipe(recipe).resolved()["model"])
    return {
        "correlation": dual.correlation, "correlation_ridge": dual.ridge, "ridge": 0.01, "ridge_relative": True,
        "correlation_ridge_relative": dual.ridge_relative,
    }  # fmt: skip


def rivals(recipe: str) -> dict[str, System]:
    """All of them."""
    ridges, ours = (0.01, 0.1, 1.0), like_dual(recipe, **correlation_of_dual(recipe))
    kernels: list[Settings] = [
        {"model": {"feature_scaling": kind, "constraint": c, "embed_dim": dim}}
        for kind in ("standardize", "center") for c in (0.1, 0.9, 0.99, 0.999) for dim in (5, 10)
    ]  # fmt: skip
    narrow = load_recipe("baselines/dcca_small").resolved()
    small = {"model": narrow["model"], "train": {name: narrow["train"][name] for name in ("batch_size", "optimizer")}}
    even = {"pairing": "even", "cluster_weight": 0.5}
    stage = scaled([0.1])[0]
    return {
        "random": System("baselines/random", drawn=True),
        "CCA": System("baselines/cca", scaled(ridges, (5, 7, 10)), LINEAR),
        "KCCA": System("baselines/kcca", kernels, LINEAR, drawn=True),
        "C-CCA": System("baselines/cluster_cca", scaled(ridges, (5, 10)), LINEAR),
        "C-CCA, authors' mix": System("baselines/cluster_cca_mixed", scaled(ridges), LINEAR),
        "C-CCA, even": System(
            "baselines/cluster_cca_even",
            [one for weight in (0.2, 0.5, 1.0) for one in scaled((1e-4, *ridges), cluster_weight=weight)],
            {end: over for end, over in LINEAR.items() if over["power"]},
        ),
        "DCCA": System("baselines/dcca", [small, ours], LINEAR, brief=10),
        "C-DCCA": System(
            "baselines/c_dcca",
            [{"train": {"optimizer": {"lr": 1e-3}}}, ours, merged(ours, {"model": even})], LINEAR, brief=10,
        ),
        "TNN-C-CCA": System(
            "baselines/tnn_c_cca",
            [{"model": {"triplet_mean": "active"}}, stage, merged(stage, {"model": {"power": 1.0}})],
            {", tuned": {}}, brief=10,
        ),
        **deep_rivals(recipe),
    }  # fmt: skip


def deep_rivals(recipe: str) -> dict[str, System]:
    """Those that end in no linear directions."""
    # Their losses are of other sizes than the dual model's, to which plain descent is tied.
    adam = {"train": {"optimizer": {"name": "adamw", "lr": 1e-3, "momentum": 0.9, "weight_decay": 0.01}}}
    narrow, ends = {"encoder_dim": 256, "embed_dim": 128}, {", tuned": {}}
    fields = {"DSCMR": {**narrow, "norm": "row_norm"}, "CM-GAN": narrow}
    tuned = {
        name: merged(like_dual(recipe, **fields.get(name, {})), adam)
        for name in ("DSCMR", "ACMR", "UCAL", "UGACH", "AGAH", "CM-GAN")
    }
    caps = {
        name: {"train": {"epochs": epochs, "min_steps": 0, "patience": 3}}
        for name, epochs in (("DSCMR", 60), ("CM-GAN", 30))
    }
    return {
        name: System(f"baselines/{name.lower().replace('-', '_')}", [settings], ends, cap=caps.get(name, {}), brief=10)
        for name, settings in tuned.items()
    }


def variants(recipe: str) -> dict[str, System]:
    """The dual model and its ablations, as a recipe has it; a subspace alone is compared by cosine."""
    alone = {name: {"model": {"variant": name, "fusion_lengths": False}} for name in ("explicit", "implicit")}
    over: dict[str, Settings] = alone | {"shared": {"model": {"variant": "shared"}}}
    found = {name: System(recipe, over=settings, brief=10) for name, settings in over.items()}
    ends: dict[str, Settings] = {", lengths": {"fusion_lengths": True}, ", the paper's fusion": PAPERS_FUSION}
    return found | {DUAL: System(recipe, ends=ends, brief=10)}


def on_data(folder: str | None, quick: bool) -> tuple[str, dict[str, Dataset], dict[str, System]]:
    """What a folder holds: its name, its splits, and the systems with the dual model's recipe for it."""
    if folder is None:
        flags = ["--rows", "4000"] if quick else []
        systems = rivals("vegas") | variants("vegas")
        brief = {name: _brief(system) for name, system in systems.items()}
        return "synthetic", built("synthetic_features", None, ["default"], flags)["default"], brief
    name = "wikipedia" if (Path(folder) / "raw_features.mat").exists() else "spoken_digits"
    return name, built(name, folder, ["default"])["default"], rivals(name) | variants(name)


def _brief(system: System) -> System:
    """With fewer epochs, and fewer tries: of networks the last, which has the dual model's towers and steps."""
    if not system.brief:
        return replace(system, tries=system.tries[-3:])
    steps = {"epochs": system.brief, "min_steps": 0, "eval_every": 4, "patience": None}
    return replace(system, tries=system.tries[-1:], over=merged(system.over, {"train": steps}))


class Trainings:
    """Models of one system, each trained once."""

    def __init__(self, name: str, system: System, splits: Mapping[str, Dataset]):
        self.name, self.system = name, system
        self.learnt = {split: splits[split] for split in ("train", "validation")}
        self.found: dict[str, Trained] = {}

    def of(self, settings: Settings, seed: int, *, refit: bool) -> Trained:
        """By these settings."""
        key = f"{settings} {seed} {refit}"
        if key not in self.found:
            start = time.perf_counter()
            self.found[key] = Trained(self.system.asked(settings, seed, refit=refit), self.learnt)
            said = f"{self.found[key].summary['steps']:,} updates, {time.perf_counter() - start:.0f} s"
            print(f"{self.name}, seed {seed}, {settings or 'as published'}: {said}", file=sys.stderr)
        return self.found[key]


def choose(trainings: Trainings, validation: Dataset, seeds: int, *, refit: bool) -> dict[str, Settings]:
    """The settings that each end takes; `refit` as for the rows, which take over what was trained."""
    system, name = trainings.system, trainings.name
    tries: list[Settings] = [{}, *system.tries]
    if len(tries) == 1:
        return dict.fromkeys(system.ends, {})
    scores: dict[str, list[float]] = {end: [] for end in system.ends}
    for settings in tries:
        trained = [trainings.of(settings, seed, refit=refit) for seed in system.seeds(seeds)]
        for end, over in system.ends.items():
            found = [one.scores(_seen(validation, one), refit=False, finish=over)["map"] for one in trained]
            scores[end].append(statistics.fmean(found))
    chosen = {end: max(range(len(tries)), key=lambda place: round(values[place], 9)) for end, values in scores.items()}
    for end, place in chosen.items():
        said = ", ".join(f"{value:.4f}" for value in scores[end])
        print(f"{name}{end}: {tries[place] or 'as published'}, number {place} of {said}", file=sys.stderr)
    return {end: tries[place] for end, place in chosen.items()}


def _seen(split: Dataset, found: Trained) -> Dataset:
    """What a system may choose by: without labels where it reads none, so that a query's own pair is what counts."""
    labels = [] if found.chosen.uses_labels else sorted({"label", "labels"} & set(split.column_names))
    return split.remove_columns(labels)


def fill(
    table: Table, name: str, system: System, splits: Mapping[str, Dataset], seeds: int, *, refit: bool
) -> dict[str, Settings]:
    """The rows of a system; returns by which settings each was made."""
    trainings = Trainings(name, system, splits)
    rows: dict[str, Settings] = {"": {}} | choose(trainings, splits["validation"], min(seeds, 2), refit=refit)
    for seed in system.seeds(seeds):
        for end, settings in rows.items():
            found, over = trainings.of(settings, seed, refit=refit), system.ends.get(end, {})
            scores = {split: found.scores(splits[split], refit=split == "test", finish=over) for split in table.splits}
            table.add(name + end, **scores)
    return {name + end: settings for end, settings in rows.items() if end}


def leads(table: Table) -> bool:
    """Whether the dual model is ahead of all others, on the last split of the table."""
    split = table.splits[-1]
    others = [row for row in table.found if not row.startswith(DUAL)]
    best = max(others, key=lambda row: table.mean(row, split))
    # Rivals are finished with lengths or without, as validation has it: so is the dual model.
    ours = max((DUAL, f"{DUAL}, lengths"), key=lambda row: table.mean(row, "validation") if row in table.found else 0.0)
    ahead = table.mean(ours, split) - table.mean(best, split)
    count = len(table.found[best][split])
    by_seed = f" ± {table.lead(ours, best, split)[1]:.4f} over {count} seeds" if count > 1 else ""
    print(f"{ours} ahead of the next, {best}, on {split}: {ahead:+.4f}{by_seed}")
    return ahead > 0


def main(argv: list[str] | None = None) -> int:
    """Chooses, trains, and prints the table."""
    arguments: argparse.Namespace = parse(__doc__, argv, data="if there is any", only=True)
    name, splits, systems = on_data(arguments.data, arguments.quick)
    if arguments.quick:
        kept = {one: system for one, system in systems.items() if not system.brief or one == DUAL}
        systems = {one: replace(system, tries=(), ends={}) for one, system in kept.items()}
    if unknown := set(arguments.only or ()) - set(systems):
        sys.exit(f"There is no system {min(unknown)}: there are {', '.join(systems)}.")
    if arguments.only:
        systems = {one: system for one, system in systems.items() if one in arguments.only}
    table = Table(["validation", "test"] if arguments.final else ["validation"])
    seeds = 1 if arguments.quick or name == "synthetic" else 5
    settings: dict[str, Settings] = {}
    for one, system in systems.items():
        settings |= fill(table, one, system, splits, seeds, refit=arguments.final and name != "synthetic")
    print(f"{name}: {', '.join(f'{len(rows):,} {split}' for split, rows in splits.items())}")
    table.show(NAMES)
    goals = {} if arguments.only else {f"the dual model leads on {name}, {table.splits[-1]}": leads(table)}
    return report("compared", {name: table.figures(), "settings": settings}, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
