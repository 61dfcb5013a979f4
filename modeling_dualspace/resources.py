"""Files beside the code that a person with only the wheel needs too: recipes, the card's template."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_PLACES = (_PACKAGE / "resources", _PACKAGE.parent / "training", _PACKAGE.parent)
"""In a wheel; in a checkout."""


def resource(name: str) -> Path:
    """Where `configs/tiny.yaml` or `model_card.md` lies, installed or in a checkout.

    Example:
        ```python
        >>> resource("configs/tiny.yaml").name
        'tiny.yaml'

        ```
    """
    found = next((place / name for place in _PLACES if (place / name).exists()), None)
    if found is None:
        raise FileNotFoundError(f"DualSpace was installed without {name}: install it again, or work in a clone.")
    return found
