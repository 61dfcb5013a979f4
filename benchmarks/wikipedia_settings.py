"""Each setting of the recipe `wikipedia` earns its place in cross-validation, without a look at test.

    python benchmarks/wikipedia_settings.py --data DIR [--quick] [--check]

Train and validation together are cut into five folds of each class; a model learns from four and is scored on the
fifth, choosing nothing. The recipe against itself with one setting changed, fold by fold: what it loses, with its
deviation over folds. The first group is what matters, and each has to lose; the second was tried and need not.
--quick: two folds, three of the first group.
"""

import sys
from typing import Any

import torch
from datasets import concatenate_datasets
from harness import parse, report
from systems import NAMES_OF_TEXTS, Table, Trained, built, changed, folds

from modeling_dualspace.recipe import load_recipe

RECIPE = "the recipe"
MATTER: dict[str, dict[str, Any]] = {
    "no layer norm": {"model": {"normalization": "none"}},
    "no dropout": {"model": {"dropout": 0.0}},
    "no input dropout": {"model": {"input_dropout": 0.0}},
    "no lengths": {"model": {"fusion_lengths": False}},
    "the paper's fusion": {"model": {"fusion": "cca", "fusion_lengths": False}},
    "AdamW": {"train": {"optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}}},
}
OTHERS: dict[str, dict[str, Any]] = {
    "a constant rate": {"train": {"schedule": {"name": "constant"}}},
    "features fused too": {"model": {"fusion_features": True}},
    "lambda .5": {"model": {"fusion_cluster_weight": 0.5, "fusion_ridge": 0.01}},
    "alpha .2": {"model": {"alpha": 0.2}},
    "alpha 1": {"model": {"alpha": 1.0}},
    "beta 0": {"model": {"beta": 0.0}},
    "ridge 1e-4": {"model": {"ridge": 1e-4}},
    "nuclear": {"model": {"correlation": "nuclear"}},
    "two hidden layers": {"model": {"audio_hidden": [256, 256], "visual_hidden": [512, 512]}},
    "batch 512": {"train": {"batch_size": 512}},
}


def main(argv: list[str] | None = None) -> int:
    """Trains every setting on every fold, and prints what each loses."""
    arguments = parse(__doc__, argv, data=True)
    splits = built("wikipedia", arguments.data, ["default"])["default"]
    clips = concatenate_datasets([splits["train"], splits["validation"]])
    tried = dict(list(MATTER.items())[2:5]) if arguments.quick else MATTER | OTHERS
    table = Table(["fold"])
    for number, held_out in enumerate(folds(torch.tensor(clips["label"]))):
        if number == 2 and arguments.quick:
            break
        learnt, scored = (clips.select(rows.nonzero().flatten().tolist()) for rows in (~held_out, held_out))
        for name, settings in ({RECIPE: {}} | tried).items():
            found = Trained(changed(load_recipe("wikipedia"), number, settings), {"train": learnt})
            table.add(name, fold=found.scores(scored, refit=True))
        print(f"fold {number + 1}", file=sys.stderr)
    table.show(NAMES_OF_TEXTS)
    goals, figures = {}, table.figures()
    for name in tried:
        lead, deviation = table.lead(RECIPE, name, "fold")
        print(f"{name}: loses {lead:+.4f} ± {deviation:.4f} over folds")
        figures[name]["loses"] = [lead, deviation]
        if name in MATTER:
            goals[f"{name} loses"] = lead > 0
    return report("wikipedia_settings", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
