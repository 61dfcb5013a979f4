"""Cards are Jinja templates: ours, or one that extends ours; a field without a value stops everything."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, TemplateError

PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""A block that a reader can run, and a release does."""


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
