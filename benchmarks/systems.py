"""Closed forms to compare with, trained models, and the table over seeds that both benchmarks on real data print."""

import contextlib
import copy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from modeling_dualspace.baselines import ClusterCcaConfig, ClusterCcaModel, RandomConfig, RandomModel
from modeling_dualspace.feature_dataset import FeatureBatches, to_tensors
from modeling_dualspace.loading import load_model, load_splits
from modeling_dualspace.ranking import mean_average_precision, summed_average_precision
from modeling_dualspace.recipe import Recipe, recipe_from
from modeling_dualspace.targets import label_targets
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train
from modeling_dualspace.validation import validate

CLUSTER_WEIGHTS, RIDGES = (0.5, 0.0, 0.2, 1.0), (1e-2, 1e-4, 1e-1, 1.0)
Scores = dict[str, float]
DIRECTIONS = ("audio_to_visual", "visual_to_audio", "map")
NAMES_OF_TEXTS = {"visual_to_audio": "img→txt", "audio_to_visual": "txt→img", "map": "mean"}


class Linear:
    """Canonical directions of the scaled features, compared by cosine.

    Args:
        clips: what they are fitted to.
        classes: how many there are.
        dim: of the common space.
        cluster_weight: 0 pairs clips with themselves, 1 with their class at equal weight.
        ridge: as a multiple of the mean eigenvalue.
        power: each direction is multiplied by its correlation to this power.
        all_pairs: every pair of a class counts the same (cluster CCA as published): large classes count more.
    """

    def __init__(
        self, clips: Mapping[str, Tensor], classes: int, dim: int, *,
        cluster_weight: float = 0.0, ridge: float = 1e-4, power: float = 0.0, all_pairs: bool = False,
    ):  # fmt: skip
        config = ClusterCcaConfig(
            **_widths(clips),
            num_labels=classes, embed_dim=dim, pairing="all" if all_pairs else "even", cluster_weight=cluster_weight,
            feature_scaling="standardize", ridge=ridge, ridge_relative=True, power=power,
        )  # fmt: skip
        self.model = ClusterCcaModel(config)
        self.model.finish([clips])

    def embed(self, clips: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Unit rows, audio and visual."""
        return _embeds(self.model, clips)


def _widths(clips: Mapping[str, Tensor]) -> dict[str, int]:
    return {f"{name}_dim": clips[f"{name}_features"].shape[1] for name in ("audio", "visual")}


def _embeds(model: Any, clips: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    return model.get_audio_embeds(clips["audio_features"]), model.get_visual_embeds(clips["visual_features"])


def score(embeds: tuple[Tensor, Tensor], clips: Mapping[str, Tensor], classes: int) -> Scores:
    """MAP over the full ranking, own pair in the gallery."""
    return mean_average_precision(*embeds, label_targets(clips["labels"], classes)[0])


def folds(labels: Tensor, count: int = 5) -> Iterator[Tensor]:
    """True where a clip is held out: a part of each class, another in each fold."""
    generator = torch.Generator().manual_seed(0)
    number = torch.empty(len(labels), dtype=torch.long)
    for one in labels.unique():
        rows = (labels == one).nonzero().flatten()
        number[rows[torch.randperm(len(rows), generator=generator)]] = torch.arange(len(rows)) % count
    for fold in range(count):
        yield number == fold


def weighted_cluster_cca(clips: Mapping[str, Tensor], classes: int, dim: int) -> Linear:
    """The strong linear rival: cluster weight and ridge chosen by five folds of what it may learn from."""

    def held_out_map(**settings: float) -> float:
        total = 0.0
        for held_out in folds(clips["labels"]):
            inside = {name: column[~held_out] for name, column in clips.items()}
            outside = {name: column[held_out] for name, column in clips.items()}
            audio, visual = Linear(inside, classes, dim, power=1.0, **settings).embed(outside)
            targets, numbers = label_targets(outside["labels"], classes)[0], torch.arange(len(audio))
            for pair in ((audio, visual), (visual, audio)):
                sums = summed_average_precision(*pair, targets, targets, left_out=(numbers, numbers))
                total += float(sums[0] / sums[1].clamp_min(1))
        return total

    grid = [{"cluster_weight": weight, "ridge": ridge} for weight in CLUSTER_WEIGHTS for ridge in RIDGES]
    best = max(grid, key=lambda settings: held_out_map(**settings))
    return Linear(clips, classes, dim, power=1.0, **best)


PAPERS_FUSION = {"fusion": "cca", "fusion_lengths": False}


def changed(recipe: Recipe, seed: int, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other settings."""
    content = recipe.resolved()
    content["train"] |= {"seed": seed} | settings.get("train", {})
    content["model"] |= settings.get("model", {})
    return recipe_from(content)


class Trained:
    """A recipe's models: the one whose epoch is that of the recipe, and the refit one."""

    def __init__(self, recipe: Recipe, splits: Mapping[str, Dataset]):
        self.splits = dict(splits)
        with tempfile.TemporaryDirectory() as folder, quiet():
            recipe = replace(recipe, output=f"{folder}/run")
            self.summary = train(recipe, data=TrainingData(self.splits), progress=False)
            self.refit = load_model(str(Path(folder, "run")))
            before = Path(folder, "run", "before-refit")
            self.chosen = load_model(str(before)) if before.exists() else self.refit

    def scores(self, split: Dataset, *, refit: bool, finish: Mapping[str, Any] | None = None) -> Scores:
        """On a split; finished anew with other settings of the closed form behind the networks, if any are named."""
        model: Any = self.refit if refit else self.chosen
        if finish:
            model = copy.deepcopy(model)
            for name, value in finish.items():
                setattr(model.config, name, value)
            learnt = concatenate_datasets(list(self.splits.values())) if refit else self.splits["train"]
            with quiet():
                model.finish(FeatureBatches(learnt))
        return validate(model, FeatureBatches(split))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what a training says of itself."""
    from modeling_dualspace.console import quiet as without_bars

    with without_bars(all_warnings=True):
        yield


class Table:
    """Scores by system and seed, on validation and, once asked for, on test."""

    def __init__(self, splits: Sequence[str]):
        self.splits = splits
        self.found: dict[str, dict[str, list[Scores]]] = {}

    def add(self, system: str, **scores: Scores) -> None:
        """One seed's, by split."""
        for split, values in scores.items():
            self.found.setdefault(system, {}).setdefault(split, []).append(values)

    def mean(self, system: str, split: str, key: str = "map") -> float:
        """Over seeds."""
        return statistics.fmean(values[key] for values in self.found[system][split])

    def lead(self, system: str, other: str, split: str) -> tuple[float, float]:
        """By how much it is ahead, seed by seed: mean and deviation."""
        pairs = zip(self.found[system][split], self.found[other][split], strict=False)
        leads = [one["map"] - two["map"] for one, two in pairs]
        return statistics.fmean(leads), statistics.stdev(leads) if len(leads) > 1 else 0.0

    def show(self, names: Mapping[str, str], published: Mapping[str, str] | None = None) -> None:
        """One line a system.

        Args:
            names: of the three columns of each split.
            published: a last column.
        """
        width = max(map(len, self.found))
        head = "".join(f"  {split + ' ' + names[key]:>16}" for split in self.splits for key in DIRECTIONS)
        print(f"{'MAP (measured)':{width}}{head}{'  the papers' if published else ''}")
        for system, by_split in self.found.items():
            cells = [self._cell(by_split.get(split), key) for split in self.splits for key in DIRECTIONS]
            line = f"{system:{width}}" + "".join(f"  {cell:>16}" for cell in cells)
            print(line + (f"  {published.get(system, '')}" if published else ""))

    @staticmethod
    def _cell(values: Sequence[Scores] | None, key: str) -> str:
        if not values:
            return "-"
        numbers = [one[key] for one in values]
        spread = f" ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else ""
        return f"{statistics.fmean(numbers):.4f}{spread}"

    def figures(self) -> dict[str, Any]:
        """Means and deviations, for the line of JSON."""
        return {
            system: {
                split: {
                    key: [statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0]
                    for key in DIRECTIONS
                    if (numbers := [one[key] for one in values])
                }
                for split, values in by_split.items()
            }
            for system, by_split in self.found.items()
        }


def tensors(*splits: Dataset) -> dict[str, Tensor]:
    """All their clips."""
    return to_tensors(concatenate_datasets(list(splits)) if len(splits) > 1 else splits[0])


def built(
    script: str, source: str | None, configs: Sequence[str], flags: Sequence[str] = ()
) -> dict[str, dict[str, Dataset]]:
    """What a script of dataset_scripts makes of published files, by configuration and split."""
    builder = Path(__file__).parent.parent / "dataset_scripts" / f"{script}.py"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "features")
        words = [*([] if source is None else ["--source", source]), "--out", str(out), *flags]
        done = subprocess.run([sys.executable, str(builder), *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])
        with quiet():
            found = {name: load_splits(str(out), name) for name in configs}
        # In memory: the folder goes away.
        return {
            name: {split: Dataset.from_dict(rows.to_dict(), rows.features) for split, rows in splits.items()}
            for name, splits in found.items()
        }


def add_closed_forms(
    table: Table,
    splits: Mapping[str, Dataset],
    classes: int,
    seeds: range,
    systems: Mapping[str, Callable[[dict[str, Tensor]], Linear]],
) -> None:
    """A random ranking by seed, and systems that are fitted once: to train for validation, to both for test."""
    train, validation = splits["train"], splits["validation"]
    learnt = {"validation": tensors(train), "test": tensors(train, validation)}
    held_out = {split: tensors(splits[split]) for split in table.splits}
    for seed in seeds:
        drawn = RandomModel(RandomConfig(**_widths(held_out[table.splits[0]]), seed=seed))
        table.add(
            "random", **{split: score(_embeds(drawn, clips), clips, classes) for split, clips in held_out.items()}
        )
    for name, fit in systems.items():
        found = {split: score(fit(learnt[split]).embed(clips), clips, classes) for split, clips in held_out.items()}
        table.add(name, **found)
