"""The dual model on real sounds and images, and on few of them: no worse than linear weighted cluster CCA.

    python benchmarks/spoken_digits.py --data DIR [--quick] [--final] [--check]

DIR holds the recordings of the Free Spoken Digit Dataset; scikit-learn has the handwritten digits. Over five seeds,
mean and deviation of MAP on validation (and test with --final), in both configurations of the data set: random, ridge
CCA, cluster CCA, linear weighted cluster CCA (its cluster weight and ridge by cross-validation), and the recipe
`spoken_digits` in all variants and under both fusions.

Then few clips: 10, 30 and 100 of each class, drawn from train, five draws. The rival learns from all of them, its two
settings by five folds of them; the dual model is the recipe `finetune`, which learns from all of them and chooses
nothing. Goal: no worse than the rival at 10, 30 and 100 a class. Beside it what was tried: without the features in the
fusion, without dropout, a fifth of the steps, more weight decay; an epoch and a fusion chosen on a fifth of
the clips before the refit. --quick: the few
clips alone, 10 and 30 of each class, two draws, the rival and the dual model.
"""

import sys
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from harness import parse, report
from systems import (
    PAPERS_FUSION,
    Linear,
    Table,
    Trained,
    add_closed_forms,
    built,
    changed,
    folds,
    score,
    tensors,
    weighted_cluster_cca,
)

from modeling_dualspace.recipe import load_recipe

CLASSES, DIM = 10, 10
RIVAL, DUAL = "linear weighted cluster CCA", "dual, default fusion"
NAMES = {"audio_to_visual": "a→v", "visual_to_audio": "v→a", "map": "mean"}
VARIANTS = {"explicit": "explicit", "implicit": "implicit", "shared": "shared", DUAL: "dual"}
TOWERS = {"audio_hidden": [256, 256], "visual_hidden": [256, 256]}
"""Of a model that starts from nothing, where `finetune` would have those of the model it starts from."""
TRIED: dict[str, dict[str, Any]] = {
    DUAL: {},
    "no features in the fusion": {"model": {"fusion_features": False}},
    "no dropout": {"model": {"dropout": 0.0}},
    "a fifth of the steps": {"train": {"min_steps": 120}},
    "weight decay .1": {"train": {"optimizer": {"name": "adamw", "lr": 0.001, "weight_decay": 0.1}}},
}


def whole_table(splits: dict[str, Dataset], final: bool, seeds: range) -> Table:
    """All systems on all clips."""
    table = Table(["validation", "test"] if final else ["validation"])
    systems = {
        "ridge CCA": lambda clips: Linear(clips, CLASSES, DIM),
        "C-CCA": lambda clips: Linear(clips, CLASSES, DIM, cluster_weight=1.0, all_pairs=True),
        RIVAL: lambda clips: weighted_cluster_cca(clips, CLASSES, DIM),
    }
    add_closed_forms(table, splits, CLASSES, seeds, systems)
    recipe = load_recipe("spoken_digits")
    for seed in seeds:
        for name, variant in VARIANTS.items():
            found = Trained(
                changed(recipe, seed, {"model": {"variant": variant}}),
                {split: splits[split] for split in ("train", "validation")},
            )
            fusions = {name: {}} | ({"dual, the paper's fusion": PAPERS_FUSION} if name == DUAL else {})
            for row, fusion in fusions.items():
                table.add(row, **{
                    split: found.scores(splits[split], refit=split == "test", finish=fusion) for split in table.splits
                })  # fmt: skip
    return table


def draw(split: Dataset, count: int, seed: int) -> Dataset:
    """So many clips of each class."""
    labels, generator = torch.tensor(split["label"]), torch.Generator().manual_seed(seed)
    chosen = [(labels == one).nonzero().flatten() for one in range(CLASSES)]
    rows = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:count]] for rows in chosen])
    return split.select(rows.tolist())


def few_clips(splits: dict[str, Dataset], count: int, final: bool, seeds: range, quick: bool) -> Table:
    """Little to learn from; validation and test are seen by nobody."""
    table = Table(["validation", "test"] if final else ["validation"])
    held_out = {split: tensors(splits[split]) for split in table.splits}
    recipe = replace(load_recipe("finetune"), model=load_recipe("finetune").model | TOWERS)
    for seed in seeds:
        few = draw(splits["train"], count, seed)
        rival = weighted_cluster_cca(tensors(few), CLASSES, DIM)
        table.add(RIVAL, **{split: score(rival.embed(clips), clips, CLASSES) for split, clips in held_out.items()})
        for name, settings in {DUAL: {}}.items() if quick else TRIED.items():
            found = Trained(changed(recipe, seed, settings), {"train": few})
            table.add(name, **{split: found.scores(splits[split], refit=True) for split in table.splits})
        if not quick:
            outside = next(folds(torch.tensor(few["label"])))
            parts = {
                name: few.select(rows.nonzero().flatten().tolist())
                for name, rows in (("train", ~outside), ("validation", outside))
            }
            chosen = {"train": {"choose": "best"}}
            chosen["model"] = {"fusion_cluster_weight": None, "fusion_ridge": None}
            found = Trained(changed(recipe, seed, chosen), parts)
            table.add("chosen on a fifth", **{split: found.scores(splits[split], refit=True) for split in table.splits})
    return table


def main(argv: list[str] | None = None) -> int:
    """Fits, trains, and prints the tables."""
    arguments = parse(__doc__, argv, data=True)
    configs = ["default"] if arguments.quick else ["default", "speakers"]
    found = built("spoken_digits", arguments.data, configs)
    seeds = range(2 if arguments.quick else 5)
    goals, figures = {}, {}
    split = "test" if arguments.final else "validation"
    for config, splits in found.items():
        if not arguments.quick:
            print(f"\n{config}, all clips")
            table = whole_table(splits, arguments.final, seeds)
            table.show(NAMES)
            figures[f"{config}, all"] = table.figures()
        for count in (10, 30) if arguments.quick else (10, 30, 100):
            print(f"\n{config}, {count} clips of each class")
            table = few_clips(splits, count, arguments.final, seeds, arguments.quick)
            table.show(NAMES)
            lead, deviation = table.lead(DUAL, RIVAL, split)
            print(f"dual ahead of the rival on {split}: {lead:+.4f} ± {deviation:.4f} over {len(seeds)} draws")
            goals[f"{config}, {count} of each class: dual no worse than the rival on {split}"] = lead >= 0
            figures[f"{config}, {count}"] = table.figures()
    return report("spoken_digits", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
