"""What the page searches: its indexes, and how each answers a visitor."""

import copy
import difflib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .app_files import clip_of, token
from .app_map import Plane, fit_plane, map_of, span_of
from .app_query import MOST, WORDS, Answer, Asked, RefusedError, Wish, told
from .index_filter import Filter
from .index_queries import Queries
from .index_rows import MODALITIES, OTHER, Hit
from .media import Film, Limits

logger = logging.getLogger(__name__)

SAMPLE = 2_000
"""Clips of the map."""


class Lately:
    """What is asked for at every request and costs a walk through the index: it is had anew when it is older.

    Whoever asks meanwhile is given what was there before.

    Args:
        make: it.
        seconds: that it is good for.

    Example:
        ```python
        >>> counted = Lately(iter("ab").__next__)
        >>> counted(), counted()
        ('a', 'a')

        ```
    """

    def __init__(self, make: Callable[[], Any], seconds: float = 60.0):
        self.make, self.seconds = make, seconds
        self._lock, self._had, self._until = threading.Lock(), None, -math.inf

    def __call__(self) -> Any:
        """It."""
        if time.monotonic() >= self._until and self._lock.acquire(blocking=self._had is None):
            try:
                if time.monotonic() >= self._until:
                    self._had, self._until = self.make(), time.monotonic() + self.seconds
            finally:
                self._lock.release()
        return self._had


class _Limited(Queries):
    """Embeds what strangers send: a film may say that it is short, so the limits hold while it is decoded, too."""

    def __init__(self, index: Any, limits: Limits):
        super().__init__(index.identity, None)
        self.index, self.limits = index, limits

    @property
    def model(self) -> Any:
        """The index's own."""
        return self.index.model

    @cached_property
    def processor(self) -> Any:
        """A copy of the index's own, with the same networks."""
        limited = copy.copy(self.index.processor)
        limited.limits = self.limits
        return limited


@dataclass
class Catalogue:
    """One index as the page knows it.

    Args:
        index: that is searched.
        number: of the index, on this page.
        name: that a visitor chooses it by; made of what it is and of its model where there is none.
        limits: of what a visitor may send.
    """

    index: Any
    number: int
    name: str
    limits: Limits
    colours: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.colours = {label: number for number, label in enumerate(self.index.labels())}
        self._facts = Lately(lambda: dict(self.index.describe()))
        self._labels_now = Lately(lambda: set(self.index.labels()))
        self._map = Lately(lambda: map_of(self))
        self.queries = _Limited(self.index, self.limits)
        self.name = self.name or _name(self.facts)

    @property
    def facts(self) -> dict[str, Any]:
        """What the index holds, as it said lately."""
        return self._facts()

    @property
    def map(self) -> dict[str, Any]:
        """What a browser draws, as of lately."""
        return self._map()

    @property
    def labels(self) -> list[str]:
        """Names in use."""
        return list(self.colours)

    @cached_property
    def sample(self) -> tuple[list[Hit], dict[str, np.ndarray]]:
        """Clips and their embeddings, rows of NaN where there are none."""
        hits, *embeds = self.index.sample(SAMPLE)
        return hits, dict(zip(MODALITIES, (np.asarray(rows) for rows in embeds), strict=True))

    @cached_property
    def plane(self) -> Plane:
        """What the map shows, of both modalities."""
        return fit_plane(np.concatenate(list(self.sample[1].values())))

    @cached_property
    def metadata(self) -> list[str]:
        """What clips of the sample say something about."""
        return sorted({key for hit in self.sample[0] for key in hit.metadata})

    def url(self, hit: Hit) -> str | None:
        """Of the clip's film, relative to the page, with the seconds that are the clip; None where it is not here."""
        if self._file(hit) is None:
            return None
        start, end = span_of(hit)
        seconds = "" if start is None else f"#t={start:g}" + ("" if end is None else f",{end:g}")
        return f"clip/{self.number}/{token(hit.clip_id)}{seconds}"

    def film(self, clip: str) -> Path | None:
        """The file of a clip, by what `token` made of its name; None where there is none."""
        name = clip_of(clip)
        hit = self.index.get([name])[0] if name else None
        return None if hit is None else self._file(hit)

    def _file(self, hit: Hit) -> Path | None:
        """The film of a clip; no path, whatever somebody wrote there, is a reason to show nothing at all."""
        try:
            return self.index.film(hit)
        except (ValueError, OSError, RuntimeError) as error:
            logger.warning("The film of the clip %r cannot be looked for: %s", hit.clip_id, error)
            return None

    def search(self, query: Asked, wish: Wish) -> Answer:
        """The clips that fit; raises what a visitor can be told."""
        begun = time.perf_counter()
        with told(query):
            among = wish.among or OTHER[query.modality]
            if among not in MODALITIES:
                raise RefusedError(f"Clips are searched by `audio` or by `visual`, got {among!r}.")
            self._check(wish)
            embedding = self._embedding(query)
            settings = {"k": int(wish.k), "labels": list(wish.labels), "where": wish.conditions}
            settings |= {"per_film": wish.per_film}
            hits = self.index.search_embeds(
                embedding, among=among, made_by=self.index.identity.fingerprint, **settings
            )[0]
        note = "" if hits else self._why_nothing(wish, among)
        return Answer(query, among, hits, embedding[0], time.perf_counter() - begun, note)

    def _check(self, wish: Wish) -> None:
        if not 1 <= int(wish.k) <= MOST:
            raise RefusedError(f"Between 1 and {MOST} clips can be shown, got {wish.k}.")
        for label in wish.labels:
            if label not in self.colours and label not in self._labels_now():  # it may have come since
                near = difflib.get_close_matches(str(label), self.labels, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.labels[:8]) or 'none'}."
                raise RefusedError(f"No clip here is labelled {label!r}: {hint}")
        try:
            Filter.of(list(wish.labels), wish.conditions)
        except ValueError as error:
            raise RefusedError(str(error)) from None

    def _embedding(self, query: Asked) -> np.ndarray:
        if query.clip_id is not None:
            return self._stored(query.clip_id, query.modality)
        path = str(query.path)
        self._check_model()
        if query.picture:
            return self.queries.embed(image=path)[1]
        with Film(path, self.limits) as film:
            missing = film.audio is None if query.modality == "audio" else film.visual is None
        if missing:
            other = WORDS[OTHER[query.modality]]
            has = "sound" if query.modality == "audio" else "picture"
            raise RefusedError(f"{query.name!r} has no {has}: search with its {other}, or take another file.")
        return self.queries.embed(**{"audio" if query.modality == "audio" else "video": path})[1]

    def _check_model(self) -> None:
        """Raises where there is nothing to embed a file with; why is told to whoever runs the page."""
        try:
            _ = self.index.processor
        except Exception as error:
            logger.warning("%s has no model at hand to search by files with: %s", self.name, error)
            raise RefusedError("Files cannot be searched with here just now: take one of the clips.") from None

    def _stored(self, clip_id: str, modality: str) -> np.ndarray:
        """The embedding of a clip of the index, as it is now."""
        if modality not in MODALITIES:
            raise RefusedError(f"A clip asks by `audio` or by `visual`, got {modality!r}.")
        if self.index.get([clip_id])[0] is None:
            raise RefusedError(f"There is no clip {clip_id!r} here.")
        found = dict(zip(MODALITIES, self.index.embeds([clip_id]), strict=True))[modality]
        if np.isnan(found).any():
            raise RefusedError(f"The clip {clip_id!r} has no {WORDS[modality]}: take its {WORDS[OTHER[modality]]}.")
        return found

    def _why_nothing(self, wish: Wish, among: str) -> str:
        known = self.metadata
        for condition in Filter.of((), wish.conditions).conditions:
            if condition.key not in known:
                near = difflib.get_close_matches(condition.key, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" They have {', '.join(known[:8]) or 'none'}."
                return f"No clip says anything about {condition.key!r}.{hint}"
        if wish.labels or wish.conditions:
            return "No clip meets the filter: take a wider one."
        return f"No clip here has {'sound' if among == 'audio' else 'pictures'}: search the other way."

    def to_json(self, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        """What an answer is to a program: `path` is called `film`, as Gradio takes whatever has a `path` for a file."""
        return [_without_path(hit.to_dict() | {"film": hit.path, "url": self.url(hit)}) for hit in hits]


def _without_path(part: Any) -> Any:
    """The same, in metadata too."""
    if isinstance(part, Mapping):
        return {key: _without_path(value) for key, value in part.items() if key != "path"}
    return [_without_path(each) for each in part] if isinstance(part, list) else part


def catalogues_of(indexes: Sequence[Any], limits: Limits) -> list[Catalogue]:
    """The indexes of a page, with names that tell them apart."""
    found: list[Catalogue] = []
    for number, index in enumerate(indexes):
        catalogue = Catalogue(index, number, "", limits)
        if catalogue.name in {each.name for each in found}:
            catalogue.name += f" ({number + 1})"
        found.append(catalogue)
    return found


def public_facts(catalogue: Catalogue) -> dict[str, Any]:
    """What an index holds, without places of this machine."""
    facts = dict(catalogue.facts)
    facts.pop("place", None)
    name = str(facts["model"]["id"])
    return facts | {"model": facts["model"] | {"id": Path(name).name if os.path.isabs(name) else name}}


def _name(facts: Mapping[str, Any]) -> str:
    parts = [part for part in Path(str(facts["model"]["id"])).parts if part not in ("model", "/", ".", "..")]
    return f"{parts[-1] if parts else facts['model']['model_type']} · {_short(str(facts['place']))}"


def _short(place: str) -> str:
    """What to call an index; where Milvus runs is nobody's business.

    Example:
        ```python
        >>> _short("runs/films-index"), _short("me/films-index"), _short("http://10.0.0.7:19530#films")
        ('films-index', 'films-index', 'films')

        ```
    """
    name = Path(place).name.rsplit("#", 1)[-1]
    return "index" if "://" in place and "#" not in place else name
