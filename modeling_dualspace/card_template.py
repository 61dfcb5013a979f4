"""Cards are Jinja templates: ours, or one that extends ours; a field without a value stops everything."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, ModelCard, RepoCard, SpaceCard
from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError
from yaml import YAMLError


def fill(base: Path, own: str | Path | None, values: Mapping[str, Any]) -> str:
    """The text of a card.

    Args:
        base: our template, which another extends by the name of its file.
        own: another; none takes ours as it is.
        values: of the fields.
    """
    try:
        sources = {base.name: base.read_text(encoding="utf-8")}
        sources["card"] = Path(own).read_text(encoding="utf-8") if own else sources[base.name]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The template {own or base} cannot be read: {error}.") from None
    environment = Environment(
        loader=DictLoader(sources), undefined=StrictUndefined, finalize=_given, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,
    )  # fmt: skip
    try:
        return environment.get_template("card").render(values)
    except RecursionError:
        raise ValueError(f"The template {own or base} extends itself: begin it by extending {base.name}.") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ValueError(f"The template {own or base} cannot be filled: {error}.") from None


def _given(value: Any) -> Any:
    """What is printed; nothing has no words."""
    if value is None:
        raise ValueError("a field has no value, and would be printed as None")
    return value


def parse(text: str, repo_type: str) -> RepoCard:
    """A card, read as the Hub reads it; raises, in words, where it cannot be."""
    kinds = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
    try:
        card: RepoCard = kinds[repo_type](text)
        return card
    except (YAMLError, KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"The metadata of the card, README.md, are not what the Hub takes: {what.rstrip('.')}."
        ) from None


def plain(value: Any) -> Any:
    """What others wrote, so that in a card it is one line of text, and neither code nor a table of its own.

    Example:
        ```python
        >>> plain({"name": "a`b", "rows": ["one", 3]})
        {'name': "a'b", 'rows': ['one', 3]}

        ```
    """
    if isinstance(value, str):
        return " ".join(value.split("\n")).replace("`", "'").replace("\r", " ")
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


PLACE = re.compile(r"(?:(?<=^-\w)|(?<![\w.:/\\]))(?:file:(?://)?)?(?:~|\.\.|[A-Za-z]:)?[\\/][^,=\[\]{}'\"\n]*")


def plain_command(command: str) -> str:
    """A command without the folders of the machine it was typed on.

    Example:
        ```python
        >>> plain_command("dualspace evaluate /home/me/runs/tiny ../vegas-features --split test")
        'dualspace evaluate tiny vegas-features --split test'

        ```
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is never closed
        return " ".join(map(_without_place, command.split()))
    return shlex.join(map(_without_place, words))


def renamed(command: str, names: Mapping[str, str]) -> str:
    """A command in which whole words, or what stands behind their `=`, are called otherwise.

    Example:
        ```python
        >>> renamed("dualspace evaluate toy-model toy init=toy", {"toy": "me/toy"})
        'dualspace evaluate toy-model me/toy init=me/toy'

        ```
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is never closed
        return command
    parts = [word.rpartition("=") for word in words]
    return shlex.join(key + equals + names.get(value, value) for key, equals, value in parts)


def _without_place(word: str) -> str:
    return PLACE.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], word)
