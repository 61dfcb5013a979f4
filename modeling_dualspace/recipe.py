"""Recipes: YAML files that reproduce one reported number each, typed and closed against misspelt keys."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from .files import short_digest
from .recipe_files import TRAINING, override, read_recipe, set_key
from .typed import build
from .yaml_files import Dumper

NO_MATTER = ("name", "output", "checkpoint", "train.trackers", "train.features")
"""What may be another and the outcome is the same. (Features that are read from disk are shuffled in blocks; a run that
goes on checks that.)"""


@dataclass(frozen=True)
class DataSettings:
    """What is trained on: `path`, a folder or an id of the Hub, and its `config`."""

    path: str
    config: str | None = None


@dataclass(frozen=True)
class OptimizerSettings:
    """How a player's parameters move.

    Args:
        name: `sgd`, the paper's, `adamw` (without decay that is Adam), `adamax`, or `rmsprop`.
        lr: the learning rate, before the schedule.
        momentum: how much of the last step, or of `adamw`'s and `adamax`'s running mean, stays.
        smoothing: how much of the running mean square stays, the second of two betas: by default .999 of `adamw` and
            `adamax`, .9 of `rmsprop`; `sgd` has none.
        weight_decay: of matrices; biases and norms have none. `adamw` takes it off the weights, the others add it to
            the gradient.
    """

    name: Literal["sgd", "adamw", "adamax", "rmsprop"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    smoothing: float | None = None
    weight_decay: float = 0.0


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate changes.

    Args:
        name: `constant`; `linear` or `cosine`, to zero; or `step`, by a factor again and again.
        warmup: a share of all steps, before which the rate rises from zero.
        every: epochs after which `step` multiplies it, 100 where nothing is said.
        factor: by what, .5 where nothing is said.
    """

    name: Literal["constant", "linear", "cosine", "step"] = "constant"
    warmup: float = 0.0
    every: int | None = None
    factor: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained.

    Args:
        epochs: passes over the training split, unless patience or `min_steps` has it otherwise.
        min_steps: steps to take at least: where clips are few, there are more epochs.
        choose: the epoch whose model is kept: the `best` on validation, or the `last`, as a schedule that ends in
            nothing wants it.
        batch_size: rows of a batch over all processes, at most: an epoch's rows are shared out evenly.
        seed: of weights, order and dropout.
        refit: after an epoch was chosen on validation, train on train and validation together for as long.
        precision: `fp32`, `bf16` or `fp16`; what is fitted in closed form, and the correlation, stay float32 or better.
        compile: compile the towers by `torch.compile`.
        clip: the largest norm of a gradient; null does not clip.
        eval_every: epochs from one validation to the next.
        patience: stop after so many validations without a better one; null never does.
        optimizer: of the player `model`.
        players: the optimisers of other players, by name.
        schedule: of the learning rates.
        freeze: names, or beginnings of names, of parameters that stay as they are.
        trackers: by Accelerate: `tensorboard`, `trackio` and the like.
        features: where they are kept: on the `device`, in `memory`, or read from disk again and again (`stream`);
            `auto` takes the first that fits.
    """

    epochs: int = 100
    min_steps: int = 0
    choose: Literal["best", "last"] = "best"
    batch_size: int = 512
    seed: int = 0
    refit: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    clip: float | None = None
    eval_every: int = 1
    patience: int | None = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    players: dict[str, OptimizerSettings] = field(default_factory=dict)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    freeze: list[str] = field(default_factory=list)
    trackers: list[str] = field(default_factory=list)
    features: Literal["auto", "device", "memory", "stream"] = "auto"


@dataclass(frozen=True)
class CheckpointSettings:
    """When a run is saved, so that it can go on: every so many minutes, steps or both; the last `keep` stay."""

    every_minutes: float | None = 10.0
    every_steps: int | None = None
    keep: int = 3


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, how, and where it goes.

    Args:
        name: by which tables and reports call it.
        data: what it is trained on.
        system: the model type, with or without `dualspace_`.
        init: a model to start from, by folder or by id of the Hub; null starts from nothing.
        model: fields of the system's config, where they differ from its defaults (or from those of `init`).
        train: how.
        checkpoint: how often it is saved.
        output: the run's folder; null is `runs/<name>`.
        grid: lists of values by key (`model.alpha`): every combination is a run of its own.
    """

    name: str
    data: DataSettings
    system: str = "dualspace"
    init: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    train: TrainSettings = field(default_factory=TrainSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    output: str | None = None
    grid: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_numbers(self)

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        return Path(self.output or f"runs/{self.name}")

    def resolved(self) -> dict[str, Any]:
        """All of it as plain values, defaults included: what is saved beside the weights."""
        return asdict(self)

    def fingerprint(self, data: str) -> str:
        """Sixteen hex digits of all that decides the outcome: the data by its fingerprint; no name and no place."""
        content = self.resolved() | {"data": {"fingerprint": data, "config": self.data.config}, "grid": None}
        for key in NO_MATTER:
            set_key(content, key, None)
        return short_digest([json.dumps(_numbers(content), sort_keys=True, separators=(",", ":")).encode()])

    def to_yaml(self) -> str:
        """As `load_recipe` reads it, with every default."""
        return yaml.dump(self.resolved(), Dumper=Dumper, sort_keys=False, allow_unicode=True)

    def cells(self) -> list["Recipe"]:
        """The runs of a grid, each named by what it sets; of a recipe without one, itself."""
        if not self.grid:
            return [self]
        cells = []
        for values in itertools.product(*self.grid.values()):
            point = dict(zip(self.grid, values, strict=True))
            said = ",".join(f"{key.rsplit('.')[-1]}={value}" for key, value in point.items()).replace("/", "_")
            content = self.resolved() | {"grid": {}, "name": f"{self.name}[{said}]"}
            for key, value in point.items():
                set_key(content, key, value)
            cells.append(recipe_from(content))
        return cells


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        name: a YAML file, or the name of one of ours (`vegas`).
        overrides: `train.epochs=3` and the like; the value is YAML.

    Example:
        ```python
        >>> load_recipe("tiny", ["train.optimizer.lr=1e-2", "name=mine"]).train.optimizer.lr
        0.01

        ```
    """
    overrides = list(overrides)
    content, file = read_recipe(name, TRAINING)
    override(content, overrides)
    return recipe_from(content, " ".join([str(file), *(["with", *overrides] if overrides else [])]))


def recipe_from(content: Mapping[str, Any], where: str = "The recipe") -> Recipe:
    """A recipe of plain values; raises, naming the key, where one is unknown, missing or of a wrong type."""
    return build(Recipe, content, where)


def check_players(settings: TrainSettings, players: Iterable[str]) -> None:
    """Raises where an optimiser is that of a player whom the system has not."""
    known = list(dict.fromkeys(players))
    unknown = next((name for name in settings.players if name not in known), None)
    if unknown is not None:
        said = " and ".join(known) or "none"
        raise ValueError(
            f"`train.players` names {unknown!r}, and the system's players are {said}: name one of those, or leave it "
            "out."
        )


def known_recipes() -> list[str]:
    """The names of those that come with DualSpace."""
    return TRAINING.names()


def _numbers(content: Any) -> Any:
    """1 and 1.0 are the same setting."""
    if isinstance(content, Mapping):
        return {key: _numbers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_numbers(value) for value in content]
    return float(content) if isinstance(content, int) and not isinstance(content, bool) else content


def _check_numbers(recipe: Recipe) -> None:
    """What no type can say."""
    train, checkpoint = recipe.train, recipe.checkpoint
    optimizers: Sequence[tuple[str, OptimizerSettings]] = [
        ("train.optimizer", train.optimizer),
        *((f"train.players.{name}", settings) for name, settings in train.players.items()),
    ]
    bounds: list[tuple[str, float | None, float, float]] = [
        ("train.epochs", train.epochs, 1, math.inf),
        ("train.min_steps", train.min_steps, 0, math.inf),
        ("train.batch_size", train.batch_size, 1, math.inf),
        ("train.seed", train.seed, 0, 2**31),
        ("train.eval_every", train.eval_every, 1, math.inf),
        ("train.patience", train.patience, 1, math.inf),
        ("train.clip", train.clip, 1e-12, math.inf),
        ("train.schedule.warmup", train.schedule.warmup, 0, 1),
        ("train.schedule.every", train.schedule.every, 1, math.inf),
        ("train.schedule.factor", train.schedule.factor, 1e-12, 1),
        ("checkpoint.every_minutes", checkpoint.every_minutes, 1e-9, math.inf),
        ("checkpoint.every_steps", checkpoint.every_steps, 1, math.inf),
        ("checkpoint.keep", checkpoint.keep, 1, math.inf),
    ]
    for path, settings in optimizers:
        bounds += [
            (f"{path}.lr", settings.lr, 0, math.inf),
            (f"{path}.weight_decay", settings.weight_decay, 0, math.inf),
        ]
        for name, share in (("momentum", settings.momentum), ("smoothing", settings.smoothing)):
            if share is not None and not 0 <= share < 1:
                raise ValueError(f"`{path}.{name}` must be at least 0 and below 1, got {share}.")
        if settings.name == "sgd" and settings.smoothing is not None:
            raise ValueError(f"`{path}.smoothing` has no effect where `{path}.name` is sgd: leave one of them out.")
    for key, value, low, high in bounds:
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            most = f" and at most {high:g}" if high < math.inf else ""
            raise ValueError(f"`{key}` must be at least {low:g}{most}, got {value}.")
    _check_useless(train)
    for key, values in recipe.grid.items():
        if not values or any(value in values[:place] for place, value in enumerate(values)):
            raise ValueError(f"`grid` must name at least one value of `{key}`, and none twice: got {values}.")
    if not re.fullmatch(r"[^/\\\0]+", recipe.name) or recipe.name in (".", ".."):
        raise ValueError(f"`name` becomes a folder's name, so it has no slash in it: got {recipe.name!r}.")


def _check_useless(train: TrainSettings) -> None:
    """Settings that others leave without effect."""
    for name in ("every", "factor"):
        if train.schedule.name != "step" and getattr(train.schedule, name) is not None:
            raise ValueError(
                f"`train.schedule.{name}` has no effect where `train.schedule.name` is {train.schedule.name}: set "
                "train.schedule.name=step, or leave it out."
            )
    if train.patience is not None and train.choose == "last":
        raise ValueError("`train.patience` has no effect where `train.choose` is last: leave one of them out.")
