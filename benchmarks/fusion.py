"""The default fusion is no worse than the better of the two subspaces, whichever of them is noise.

    python benchmarks/fusion.py [--quick] [--check]

Fixed toys stand for the outputs of trained towers: 10 classes, 2,000 training clips, 500 for validation, 1,000 for
test. In (i) the explicit outputs are noise, in (ii) they correlate pairs by something that has nothing to do with the
class, in (iii) the implicit ones are noise. Each comes twice: with implicit outputs that are as good on the training
split as elsewhere, and with ones that have learnt its labels by heart, as trained towers do. Printed is the MAP on
test, the mean of both directions, over five seeds (`--quick`: two); goal: within .01 of the better half on each, with
`fusion_features` and without (`outputs`). The towers hand on what they are given: features tell nothing that outputs do
not, and know the labels by heart as they do. A column without a goal shows the default with 30 validation clips, as
whoever has few would have. Last comes what choosing costs on outputs of VEGAS's size: 2,248 clips to choose on, 20,234
to fit to, as a ratio to taking the default unchosen.
"""

import statistics
import sys

import torch
from harness import interleaved, parse, report
from torch import Tensor

from modeling_dualspace import DualSubspaceConfig, DualSubspaceModel
from modeling_dualspace.ranking import mean_average_precision

CLASSES = WIDTH = 10
SPLITS = {"train": 2000, "validation": 500, "test": 1000}
TOYS = {
    "i": "explicit is noise",
    "ii": "explicit correlates pairs by something else",
    "iii": "implicit is noise",
}
FUSIONS = {
    "explicit": {"variant": "explicit"},
    "implicit": {"variant": "implicit"},
    "cca": {"fusion": "cca"},
    "outputs": {"fusion_features": False},
    "default": {},
}
DEFAULTS = ("outputs", "default")
"""Chosen on validation: among maps of the outputs alone, and of outputs and features."""


def outputs(toy: str, rows: int, by_heart: bool, draw: torch.Generator, world: torch.Generator) -> dict[str, Tensor]:
    """Outputs of both towers, explicit and implicit side by side, as a batch of features."""

    def noise(width: int = WIDTH) -> Tensor:
        return torch.randn(rows, width, generator=draw)

    labels = torch.arange(rows) % CLASSES
    onehot = torch.eye(CLASSES)[labels]
    pair, batch = noise(), {"labels": labels}
    prototypes = torch.randn(CLASSES, WIDTH, generator=world)
    for name in ("audio_features", "visual_features"):
        mix = torch.randn(WIDTH, WIDTH, generator=world) / WIDTH**0.5
        if toy == "i":
            explicit = noise()
        elif toy == "ii":
            explicit = (pair + 0.3 * noise()) @ mix
        else:
            explicit = (prototypes[labels] + 0.5 * pair + 0.7 * noise()) @ mix
        implicit = 0.5 * noise() if toy == "iii" else onehot + 0.5 * noise()
        if by_heart:
            implicit = onehot + 0.05 * noise()
        batch[name] = torch.cat([explicit, implicit], dim=1)
    return batch


def passes_through(**settings) -> DualSubspaceModel:
    """A model whose towers hand on what they are given: the first columns are explicit, the last implicit."""
    model = DualSubspaceModel(
        DualSubspaceConfig(
            audio_dim=2 * WIDTH, visual_dim=2 * WIDTH, audio_hidden=[], visual_hidden=[], num_labels=CLASSES,
            feature_scaling="none", **settings,
        )
    )  # fmt: skip
    with torch.no_grad():
        for towers in (model.audio_towers, model.visual_towers):
            both = torch.cat([towers.explicit[-1].weight, towers.implicit[-1].weight])
            for tower, part in ((towers.explicit, slice(0, WIDTH)), (towers.implicit, slice(WIDTH, 2 * WIDTH))):
                tower[-1].weight.copy_(torch.eye(len(both))[part])
                tower[-1].bias.zero_()
    return model


@torch.no_grad()
def fused_map(toy: str, by_heart: bool, seed: int, settings: dict, validation: int = SPLITS["validation"]) -> float:
    """MAP on test of one fusion, fitted on train and chosen on so many validation clips."""
    draw = torch.Generator().manual_seed(seed)
    data = {
        split: outputs(toy, rows, by_heart and split == "train", draw, torch.Generator().manual_seed(seed))
        for split, rows in (SPLITS | {"validation": validation}).items()
    }
    model = passes_through(**settings)
    model.finish([data["train"]], [data["validation"]])
    test, targets = data["test"], torch.eye(CLASSES)[data["test"]["labels"]]
    audio = model.get_audio_embeds(test["audio_features"])
    visual = model.get_visual_embeds(test["visual_features"])
    return mean_average_precision(audio, visual, targets)["map"]


def table(seeds: int) -> dict[str, dict[str, float]]:
    """Mean MAP of every fusion on every toy."""

    def mean(toy: str, by_heart: bool, settings: dict, **sizes: int) -> float:
        return statistics.mean(fused_map(toy, by_heart, seed, settings, **sizes) for seed in range(seeds))

    return {
        f"{toy}{' by heart' if by_heart else ''}": {
            name: mean(toy, by_heart, settings) for name, settings in FUSIONS.items()
        }
        | {"30 clips": mean(toy, by_heart, {}, validation=30)}
        for toy in TOYS
        for by_heart in (False, True)
    }


def cost_of_choosing(repeats: int) -> float:
    """Seconds of `finish` with validation over those without, at VEGAS's size."""
    draw, world = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    train, validation = (outputs("iii", rows, False, draw, world) for rows in (20234, 2248))
    model = passes_through()
    seconds = interleaved(
        repeats, chosen=lambda: model.finish([train], [validation]), unchosen=lambda: model.finish([train])
    )
    print(f"choosing takes {seconds['chosen']:.2f} s, taking the default {seconds['unchosen']:.3f} s")
    return seconds["chosen"] / seconds["unchosen"]


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    arguments = parse(__doc__, argv)
    figures = table(2 if arguments.quick else 5)
    print(f"{'toy':14}" + "".join(f"{name:>10}" for name in (*FUSIONS, "30 clips")))
    for toy, scores in figures.items():
        print(f"{toy:14}" + "".join(f"{score:10.3f}" for score in scores.values()) + f"   {TOYS[toy.split()[0]]}")
    goals = {
        f"toy {toy}: {name} within .01 of the better half": scores[name]
        >= max(scores["explicit"], scores["implicit"]) - 0.01
        for toy, scores in figures.items()
        for name in DEFAULTS
    }
    cost = {"choosing_over_not_choosing": cost_of_choosing(1 if arguments.quick else 3)}
    return report("fusion", {"map": figures} | cost, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
