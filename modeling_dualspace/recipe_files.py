"""Recipes as files: found by name or path, with what is set on the command line."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .resources import resource
from .yaml_files import Loader, read_yaml

EXTRACTION = "extract_"
"""So the names of those begin that say how features are extracted; all others train."""


class RecipeKind(NamedTuple):
    """What a recipe is for.

    Args:
        command: that takes it.
        telling: keys by which one sees that a file is one.
        like: an override as an example.
    """

    command: str
    telling: tuple[str, ...]
    like: str

    def names(self) -> list[str]:
        """Those that come with DualSpace."""
        folder = resource("configs")
        found = sorted(str(path.relative_to(folder).with_suffix("").as_posix()) for path in folder.rglob("*.yaml"))
        return [name for name in found if name.startswith(EXTRACTION) == (self is EXTRACTING)]


TRAINING = RecipeKind("`dualspace train`", ("data", "train", "model"), "train.epochs=3")
EXTRACTING = RecipeKind("`dualspace extract --recipe`", ("audio", "visual"), "visual.components=512")


def read_recipe(name: str | Path, kind: RecipeKind) -> tuple[dict[str, Any], Path]:
    """The content of a recipe, and its file.

    Args:
        name: a YAML file, or the name of one of ours.
        kind: what it is to be for.
    """
    file, other = _find(str(name), kind), TRAINING if kind is EXTRACTING else EXTRACTING
    content = read_yaml(file)
    if telling := next((key for key in other.telling if key in content), None):
        raise ValueError(f"{file} is a recipe for {other.command}: it has the key `{telling}`.")
    content.setdefault("name", file.stem)
    return content, file


def override(content: dict[str, Any], overrides: Iterable[str], like: str = TRAINING.like) -> None:
    """Sets what was typed as KEY=VALUE."""
    for typed in overrides:
        key, equals, value = typed.partition("=")
        if not equals or not re.fullmatch(r"[\w.]+", key):
            raise ValueError(f"An override is KEY=VALUE, like {like}, got {typed!r}.")
        try:
            set_key(content, key, yaml.load(value, Loader))
        except yaml.YAMLError:
            raise ValueError(f"The value of the override {typed!r} is no YAML: quote it.") from None


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Sets `train.epochs`, making what is above it."""
    *parents, last = key.split(".")
    for parent in parents:
        below = content.get(parent)
        content[parent] = dict(below) if isinstance(below, Mapping) else {}
        content = content[parent]
    content[last] = value


def _find(name: str, kind: RecipeKind) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    known, other = kind.names(), TRAINING if kind is EXTRACTING else EXTRACTING
    if name in known:
        return resource(f"configs/{name}.yaml")
    # baselines/cca is meant by cca too, unless there is one of that name in no folder.
    ours = {one.split("/")[-1]: one for one in sorted(known, key=lambda one: one.count("/"), reverse=True)}
    close = [path.stem] if path.stem in ours else difflib.get_close_matches(name, known, n=1)
    close = close or difflib.get_close_matches(path.stem, ours, n=1)
    hint = f" Did you mean {ours.get(close[0], close[0])}?" if close else f" Ours are {', '.join(known)}."
    if meant := next((one for one in (name, path.stem) if one in other.names()), None):
        hint = f" {meant} is one for {other.command}."
    raise ValueError(f"There is no recipe {name}: expected a YAML file, or the name of one of ours.{hint}")
