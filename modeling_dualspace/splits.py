"""Who trains and who tests: splits by the hash of a film, and validation carved from train."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

SPLITS = ("train", "validation", "test")
FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def _position(name: str) -> float:
    """A place in [0, 1) that depends on the name alone; composed and decomposed accents are one name."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(film: str, fractions: Mapping[str, float] = FRACTIONS) -> str:
    """The split of a film: a function of its id alone, so that adding a film moves no other.

    Every class gets the same fractions, up to chance: what depends on no other film cannot count them.

    Example:
        ```python
        >>> [split_of(f"dog/{number}.mp4") for number in range(4)]
        ['train', 'train', 'train', 'train']
        >>> split_of("dog/rex.mp4", {"train": 0.5, "test": 0.5})
        'test'

        ```
    """
    if not (fractions and min(fractions.values()) >= 0 and abs(sum(fractions.values()) - 1) <= 1e-6):
        raise ValueError(f"Fractions of splits must be positive and sum to 1, got {dict(fractions)}.")
    if not fractions.keys() <= set(SPLITS):
        raise ValueError(f"Splits are called {', '.join(SPLITS)}, got {', '.join(fractions)}.")
    position, edge = _position(film), 0.0
    for split, fraction in fractions.items():
        edge += fraction
        if position < edge:
            return split
    return [name for name, fraction in fractions.items() if fraction][-1]  # rounding: the edges end just below 1


def carve_validation(ids: Sequence[str], classes: Sequence[Hashable], fraction: float = 0.1) -> list[bool]:
    """Which rows of train become validation: `fraction` of each class, at least one of two, by the hash of their ids.

    Args:
        ids: one name a row, whose order and company do not matter to which rows are nearest to being chosen.
        classes: one class a row; None is a class too.
        fraction: of every class, rounded to the nearest row.

    Example:
        ```python
        >>> sum(carve_validation([f"train/{row}" for row in range(50)], [row % 5 for row in range(50)]))
        5

        ```
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction carved for validation must lie between 0 and 1, got {fraction}.")
    members: dict[Hashable, list[int]] = defaultdict(list)
    for row, name in enumerate(classes):
        members[name].append(row)
    chosen = [False] * len(ids)
    for rows in members.values():
        count = max(int(len(rows) * fraction + 0.5), int(len(rows) > 1))
        for row in sorted(rows, key=lambda row: (_position(ids[row]), ids[row]))[:count]:
            chosen[row] = True
    return chosen
