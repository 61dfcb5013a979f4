"""Cards are Jinja templates: ours, or one that extends ours; a field without a value stops everything."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError


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
        loader=DictLoader(sources), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    try:
        return environment.get_template("card").render(values)
    except TemplateError as error:
        raise ValueError(f"The template {own or base} cannot be filled: {error}.") from None
    except (TypeError, ValueError, ArithmeticError) as error:  # a filter that got what it cannot take
        raise ValueError(f"The template {own or base} cannot be filled: {error}.") from None


def plain_command(command: str) -> str:
    """A command without the folders of the machine it was typed on.

    Example:
        ```python
        >>> plain_command("dualspace evaluate /home/me/runs/tiny ../vegas-features --split test")
        'dualspace evaluate tiny vegas-features --split test'

        ```
    """
    words = []
    for word in shlex.split(command):
        key, equals, value = word.partition("=") if not word.startswith(("/", ".", "~")) else ("", "", word)
        far = value.startswith(("/", "../", "~")) or re.match(r"[A-Za-z]:[\\/]", value)
        words.append(key + equals + (re.split(r"[\\/]", value.rstrip("\\/"))[-1] if far else value))
    return shlex.join(words)
