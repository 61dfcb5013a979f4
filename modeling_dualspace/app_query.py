"""What a visitor asks, what comes back, and what they are told where nothing can."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .index_rows import Hit
from .media import MediaError

logger = logging.getLogger(__name__)

MOST = 50
"""Clips that are shown at a time."""
WORDS = {"audio": "sound", "visual": "pictures"}
"""What a person calls the modalities."""
_ENDS = re.compile(r"[;\n]|,(?=[^,;\n]*[<>=])")
"""Where one condition ends and the next begins: a comma is part of a value unless another condition follows."""
UNKNOWN = "The search failed, and not by your doing: whoever runs this page finds the reason in its log."


class RefusedError(ValueError):
    """What a visitor is told, in one sentence."""


@dataclass(frozen=True)
class Asked:
    """What somebody searches with: one track of a file, or of a clip that is in the index.

    Args:
        modality: that asks.
        path: of the file.
        picture: whether it is a single one.
        clip_id: of the clip, otherwise.
    """

    modality: str
    path: str | None = None
    picture: bool = False
    clip_id: str | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return str(self.clip_id) if self.path is None else os.path.basename(self.path)


@dataclass(frozen=True)
class Wish:
    """What may be found.

    Args:
        among: the modality that is searched; None is the one that does not ask.
        k: clips, at most.
        labels: of any of which they are.
        where: what their metadata say, `year>=2010, city=Oslo`.
        per_film: the best window of each film only.
    """

    among: str | None = None
    k: int = 10
    labels: Sequence[str] = ()
    where: str = ""
    per_film: bool = False

    @property
    def conditions(self) -> list[str]:
        """One by one.

        Example:
            ```python
            >>> Wish(where="city=Oslo, Norway, year>=2010; take=2").conditions
            ['city=Oslo, Norway', 'year>=2010', 'take=2']

            ```
        """
        return [text.strip() for text in _ENDS.split(self.where or "") if text.strip()]


@dataclass(frozen=True)
class Answer:
    """What was found.

    Args:
        query: that was asked.
        among: what was searched.
        hits: the best first.
        embedding: of the query, `(d,)`.
        seconds: that it took.
        note: what a visitor should know.
    """

    query: Asked
    among: str
    hits: list[Hit]
    embedding: np.ndarray
    seconds: float
    note: str = ""


@contextmanager
def told(query: Asked) -> Iterator[None]:
    """Whatever goes wrong is one sentence that names no place of this machine: others' sentences go to the log."""
    try:
        yield
    except RefusedError:
        raise
    except MediaError as error:
        raise RefusedError(_here(query, f"{query.name!r} {error.reason}.")) from None
    except Exception:
        logger.exception("A search with %s failed.", query.name)
        raise RefusedError(UNKNOWN) from None


def _here(query: Asked, text: str) -> str:
    """A sentence with the name of a file in place of where it lies."""
    text = " ".join(text.split())
    return text.replace(query.path, query.name) if query.path else text
