"""What the page searches: its indexes, and how each answers a visitor."""

import base64
import binascii
import difflib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from .app_map import Plane, fit_plane
from .app_query import MOST, TRACKS, Answer, Query, RefusedError, Wish, told
from .index_filter import Filter
from .index_rows import MODALITIES, OTHER, Hit
from .media import Film, Limits
from .media_inputs import as_pixels

logger = logging.getLogger(__name__)

SAMPLE = 2_000
"""Clips of the map."""


@dataclass
class Catalogue:
    """One index as the page knows it.

    Args:
        index: that is searched.
        number: of the index, on this page.
        name: that a visitor chooses it by.
        limits: of what a visitor may send.
    """

    index: Any
    number: int
    name: str
    limits: Limits
    colours: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.colours = {label: number for number, label in enumerate(self.index.labels())}

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
    def rows(self) -> dict[str, int]:
        """Of the sample, by the names of its clips."""
        return {hit.clip_id: row for row, hit in enumerate(self.sample[0])}

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
        if self.index.film(hit) is None:
            return None
        seconds = "" if hit.start is None else f"#t={hit.start:g}" + ("" if hit.end is None else f",{hit.end:g}")
        return f"clip/{self.number}/{token(hit.clip_id)}{seconds}"

    def film(self, clip: str) -> Path | None:
        """The file of a clip, by what `token` made of its name; None where there is none."""
        name = clip_of(clip)
        hit = self.index.get([name])[0] if name else None
        return None if hit is None else self.index.film(hit)

    def search(self, query: Query, wish: Wish) -> Answer:
        """The clips that fit; raises what a visitor can be told."""
        begun = time.perf_counter()
        with told(query):
            among = wish.among or OTHER[query.track]
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
            if label not in self.colours and label not in self.index.labels():  # it may have come since
                near = difflib.get_close_matches(str(label), self.labels, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.labels[:8]) or 'none'}."
                raise RefusedError(f"No clip here is labelled {label!r}: {hint}")
        Filter.of(list(wish.labels), wish.conditions)

    def _embedding(self, query: Query) -> np.ndarray:
        if query.clip_id is not None:
            return self._stored(query.clip_id, query.track)
        path = str(query.path)
        self._check_model()
        if query.picture:
            return self.index.embed(image=as_pixels(path, self.limits))
        with Film(path, self.limits) as film:
            missing = film.audio is None if query.track == "audio" else film.visual is None
        if missing:
            other = TRACKS[OTHER[query.track]]
            has = "sound" if query.track == "audio" else "picture"
            raise RefusedError(f"{query.name!r} has no {has}: search with its {other}, or take another file.")
        return self.index.embed(audio=path) if query.track == "audio" else self.index.embed(video=path)

    def _check_model(self) -> None:
        """Raises where there is nothing to embed a file with; why is told to whoever runs the page."""
        try:
            _ = self.index.processor
        except Exception as error:
            logger.warning("%s has no model at hand to search by files with: %s", self.name, error)
            raise RefusedError("Files cannot be searched with here just now: take one of the clips.") from None

    def _stored(self, clip_id: str, track: str) -> np.ndarray:
        """The embedding of a clip of the index."""
        if track not in MODALITIES:
            raise RefusedError(f"A clip asks by `audio` or by `visual`, got {track!r}.")
        if self.index.get([clip_id])[0] is None:
            raise RefusedError(f"There is no clip {clip_id!r} here.")
        row = self.rows.get(clip_id)
        found = self._looked_up(clip_id, track) if row is None else self.sample[1][track][row : row + 1]
        if found is None or np.isnan(found).any():
            raise RefusedError(f"The clip {clip_id!r} has no {TRACKS[track]}: take its {TRACKS[OTHER[track]]}.")
        return found

    def _looked_up(self, clip_id: str, track: str) -> np.ndarray | None:
        """Of a clip that is not in the sample: all batches are looked at."""
        for batch in self.index.store.batches():
            row = pc.index(batch["clip_id"], clip_id).as_py()
            if row >= 0:
                return self.index.identity.unstored(batch[f"{track}_embeds"].slice(row, 1))
        return None

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
        name = _name(index.describe())
        taken = {each.name for each in found}
        found.append(Catalogue(index, number, name if name not in taken else f"{name} ({number + 1})", limits))
    return found


def public_facts(catalogue: Catalogue) -> dict[str, Any]:
    """What an index holds, without places of this machine."""
    facts = dict(catalogue.index.describe())
    facts.pop("place", None)
    name = str(facts["model"]["id"])
    return facts | {"model": facts["model"] | {"id": Path(name).name if os.path.isabs(name) else name}}


def _name(facts: Mapping[str, Any]) -> str:
    parts = [part for part in Path(str(facts["model"]["id"])).parts if part not in ("model", "/", ".", "..")]
    return f"{parts[-1] if parts else facts['model']['model_type']} · {Path(str(facts['place'])).name}"


def token(clip_id: str) -> str:
    """A clip's name as a part of an address, whatever is in it: no `..` or `%2F` for anybody on the way to resolve."""
    return base64.urlsafe_b64encode(clip_id.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def clip_of(text: str) -> str | None:
    """The other way; None where it is none.

    Example:
        ```python
        >>> clip_of(token("../dog?.mp4")), clip_of("%")
        ('../dog?.mp4', None)

        ```
    """
    try:
        name = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return None
    return name if token(name) == text else None
