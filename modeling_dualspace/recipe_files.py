"""Recipes as files: found by name or path, with what is set on the command line."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .resources import resource
from .yaml_files import Loader, read_yaml

EXTRACTION = "extract_"
"""So the names of those begin that say how features are extracted; all others train."""
TRAIN, EXTRACT = "`dualspace train`", "`dualspace extract --recipe`"
_TELLING = {TRAIN: ("data", "train", "model"), EXTRACT: ("audio", "visual")}
"""By these keys one sees what a recipe is for."""


def names_of_ours() -> list[str]:
    """The recipes that come with DualSpace."""
    return sorted(path.stem for path in resource("configs").glob("*.yaml"))


def read_recipe(
    name: str | Path, overrides: Iterable[str], known: Sequence[str], like: str = "train.epochs=3"
) -> tuple[dict[str, Any], str]:
    """The content of a recipe, and what to call it in messages.

    Args:
        name: a YAML file, or one of `known`.
        overrides: `train.epochs=3` and the like; the value is YAML.
        known: the names that may be meant.
        like: an override as an example.
    """
    file, overrides = _find(str(name), known), list(overrides)
    content = read_yaml(file)
    other = TRAIN if known[0].startswith(EXTRACTION) else EXTRACT
    if telling := next((key for key in _TELLING[other] if key in content), None):
        raise ValueError(f"{file} is a recipe for {other}: it has the key `{telling}`.")
    content.setdefault("name", file.stem)
    override(content, overrides, like)
    return content, " ".join([str(file), *(["with", *overrides] if overrides else [])])


def override(content: dict[str, Any], overrides: Iterable[str], like: str = "train.epochs=3") -> None:
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


def _find(name: str, known: Sequence[str]) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if name in known:
        return resource(f"configs/{name}.yaml")
    close = difflib.get_close_matches(path.stem, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else f" Ours are {', '.join(known)}."
    if path.stem in names_of_ours() and path.stem not in known:
        hint = f" {path.stem} is one for {EXTRACT if path.stem.startswith(EXTRACTION) else TRAIN}."
    raise ValueError(f"There is no recipe {name}: expected a YAML file, or the name of one of ours.{hint}")
