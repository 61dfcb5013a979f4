"""Suites: YAML files that name the systems of a comparison, typed and closed against misspelt keys."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .recipe import Recipe, load_recipe, recipe_from
from .resources import resource
from .typed import build
from .yaml_files import merged, read_yaml

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class System:
    """A row of the tables.

    Args:
        recipe: a YAML file, sought beside the suite too, or the name of one of ours.
        instead: recipes in its place on data of the paper, by `vegas` and `ave`.
        model: settings over the recipe's, and over those of the whole suite.
        train: likewise.
        drawn: whether another seed gives another model; else it is trained with the first seed alone.
    """

    recipe: str
    instead: dict[str, str] = field(default_factory=dict)
    model: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    drawn: bool = True


@dataclass(frozen=True, kw_only=True)
class Over:
    """Settings over those of every recipe.

    Args:
        model: fields that are set in every system that has them.
        train: of the training.
        checkpoint: when runs are saved.
    """

    model: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    checkpoint: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is compared.

    Args:
        name: of the comparison.
        systems: by their names in tables, in the order of their rows. Beside a name that the paper has, its figures
            are shown.
        seeds: each system is trained once with every seed.
        over: settings of all.
    """

    name: str
    systems: dict[str, System]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    over: Over = field(default_factory=Over)

    def choose(self, only: Iterable[str] = (), seeds: Iterable[int] = ()) -> "Suite":
        """With some of the systems, or with other seeds; all of them, and its own, where none are named."""
        only, others = list(only), list(seeds)
        seeds = others or self.seeds
        for name in only:
            if name not in self.systems:
                unknown = f"The suite {self.name} has no system {name}"
                if name in known_suites() or Path(name).suffix in (".yaml", ".yml"):
                    raise ValueError(f"{unknown}, which is a suite: name the suite before --only.")
                raise ValueError(f"{unknown}.{_meant(name, self.systems)}")
        chosen = {name: system for name, system in self.systems.items() if not only or name in only}
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            what = "--seeds" if others else f"`seeds` of the suite {self.name}"
            raise ValueError(f"{what} must be whole numbers from 0 on, at least one and none twice, got {seeds}.")
        return replace(self, systems=chosen, seeds=seeds)

    def recipe(self, name: str, seed: int, data: Mapping[str, Any], paper: str | None = None) -> Recipe:
        """What trains a system with a seed.

        Args:
            name: of the system.
            seed: of weights, order and dropout.
            data: `path` and `config` of what it is trained on.
            paper: which data set of the paper that is, if any.
        """
        system, where = self.systems[name], f"The system {name} of the suite {self.name}"
        source = system.instead.get(paper or "", system.recipe)
        try:
            content = load_recipe(source).resolved()
            known = config_fields(content["system"])
        except ValueError as error:
            sought = "" if Path(source).is_file() else " It was sought beside the suite too."
            raise ValueError(f"{where}: {error}{sought}") from None
        if content["grid"]:
            raise ValueError(
                f"{where}: its recipe {source} has a `grid`, and a row has one setting: leave the grid out, and list a "
                f"system for each setting, with {' and '.join(f'`{key}`' for key in content['grid'])} of its own."
            )
        shared = {key: value for key, value in self.over.model.items() if key in known}
        settings = merged(
            {"model": shared, "train": self.over.train, "checkpoint": self.over.checkpoint},
            {"model": system.model, "train": system.train},
        )
        place = {"name": f"{name}[seed={seed}]".replace("/", "_"), "data": dict(data), "output": None, "grid": {}}
        recipe = recipe_from(merged(content, settings) | place, where)
        if unknown := next((key for key in recipe.model if key not in known), None):
            raise ValueError(f"{where} has an unknown key `model.{unknown}`.{_meant(unknown, known)}")
        return replace(recipe, train=replace(recipe.train, seed=seed))

    def place_of(self, name: str, said: str) -> str:
        """Where in the suite the setting of a system stands that an error speaks of; nothing where it does not."""
        own = self.systems[name]
        places: dict[str, tuple[Settings, Settings]] = {
            f"systems.{name}": (own.model, own.train), "over": (self.over.model, self.over.train),
        }  # fmt: skip
        for place, parts in places.items():
            for part, settings in zip(("model", "train"), parts, strict=True):
                key = next((key for key in settings if f"`{key}`" in said or f"`{part}.{key}`" in said), None)
                if key is not None:
                    return f"`{place}.{part}.{key}`"
        return ""


def config_fields(system: str) -> set[str]:
    """What can be set of a system's model."""
    kind = next((name for name in (f"dualspace_{system}", system) if name in CONFIG_MAPPING), None)
    if kind is None:
        raise ValueError(f"There is no system {system!r}: a system of your own is registered before, in Python.")
    return {entry.name for entry in dataclasses.fields(CONFIG_MAPPING[kind])}


def known_suites() -> list[str]:
    """The names of those that come with DualSpace.

    Example:
        ```python
        >>> known_suites()
        ['paper', 'tiny']

        ```
    """
    return sorted(path.stem for path in resource("benchmarks").glob("*.yaml"))


def load_suite(name: str | Path) -> Suite:
    """Reads a suite, and every recipe it names.

    Args:
        name: a YAML file, or the name of one of ours.
    """
    file = _find(str(name))
    content = read_yaml(file, ours="benchmarks")
    content.setdefault("name", file.stem)
    suite: Suite = build(Suite, content, str(file))
    if not suite.systems:
        raise ValueError(f"{file} names nothing to compare: list `systems`, each with a `recipe`.")
    systems = {name: _beside(system, file.parent) for name, system in suite.systems.items()}
    suite = replace(suite, systems=systems).choose()
    _check(suite, str(file))
    return suite


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if name in known_suites():
        return resource(f"benchmarks/{name}.yaml")
    meant = _meant(path.stem, known_suites())
    raise ValueError(f"There is no suite {name}: expected a YAML file, or the name of one of ours.{meant}")


def _beside(system: System, folder: Path) -> System:
    def place(recipe: str) -> str:
        return str(folder / recipe) if (folder / recipe).is_file() else recipe

    return replace(
        system, recipe=place(system.recipe), instead={name: place(one) for name, one in system.instead.items()}
    )


def _check(suite: Suite, where: str) -> None:
    """Raises where a recipe cannot be made, or a setting of all is one of none."""
    known: set[str] = set()
    for name, system in suite.systems.items():
        unknown = next((key for key in system.instead if key not in ("vegas", "ave")), None)
        if unknown:
            raise ValueError(f"{where}: `systems.{name}.instead` names data of the paper, vegas or ave, got {unknown}.")
        for paper in (None, *system.instead):
            recipe = suite.recipe(name, suite.seeds[0], {"path": "anywhere"}, paper)
            known |= config_fields(recipe.system)
    unknown = next((key for key in suite.over.model if key not in known), None)
    if unknown:
        raise ValueError(f"{where}: `over.model.{unknown}` is a setting of no system.{_meant(unknown, known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name.lower(), {one.lower(): one for one in known}, n=1)
    meant = next((one for one in known if close and one.lower() == close[0]), None)
    return f" Did you mean {_quoted(meant)}?" if meant else f" There are {', '.join(map(_quoted, sorted(known)))}."


def _quoted(name: str) -> str:
    """As it is typed, and told apart in a list."""
    return f'"{name}"' if "," in name or " " in name else name
