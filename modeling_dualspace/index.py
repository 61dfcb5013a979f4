"""Search: clips by their sound or their pictures, out of an index of what one model made of them.

An index lies in a folder, or in Milvus where one machine is not enough. It knows its model, and refuses embeddings of
any other.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from torch import nn
from tqdm import tqdm

from .feature_schema import in_order
from .index_data import Clips, source_of
from .index_filter import Filter
from .index_places import copy_store, create_store, identity_of, open_store
from .index_queries import Queries
from .index_rows import MODALITIES, OTHER, Hit, Identity, as_queries, make_rows
from .index_store import MOST, Store
from .loading import check_fit, load_model, load_splits


def create_index(
    place: str | Path, model: str | nn.Module, *, films: str | Path | None = None, trust_remote_code: bool = False
) -> "Index":
    """A new index, empty.

    Args:
        place: a folder that is not there yet, or `http://host:19530#name`, `films.db#name`: Milvus.
        model: its model: a folder, a run, an id of the Hub; or the model itself, which then must have been loaded from
            a place that can be named.
        films: the folder that the paths of clips start from, where films are to be played.
        trust_remote_code: run the code that comes with the model.

    Example:
        ```python
        with create_index("films-index", "runs/clips") as index:
            index.add_data("clips-features")
            hits = index.search(audio="bark.wav")
        ```
    """
    loaded = load_model(model, trust_remote_code=trust_remote_code) if isinstance(model, str) else model
    identity = identity_of(loaded, model if isinstance(model, str) else "")
    return Index(create_store(place, identity), str(place), model=loaded, films=films)


def open_index(
    place: str | Path, *, model: str | nn.Module | None = None, films: str | Path | None = None,
    approximate: bool = False, trust_remote_code: bool = False,
) -> "Index":  # fmt: skip
    """An index that is there.

    Args:
        place: as it was created; or the id of one on the Hub, `me/films-index`.
        model: where its model is now, if not where it was.
        films: the folder that the paths of clips start from, where films are to be played.
        approximate: of a folder with very many clips, search nearly; `describe` says how much that misses.
        trust_remote_code: run the code that comes with the model.
    """
    store = open_store(place, approximate=approximate)
    return Index(store, str(place), model=model, films=films, trust_remote_code=trust_remote_code)


class Index:
    """Clips that can be found by sound and by sight.

    Use `create_index` and `open_index`. Searches may come from several threads, and see what was added meanwhile, by
    whomever; one at a time may write.

    Args:
        store: where it lies.
        place: as a person calls it.
        model: its model, or where that is, if not where it was.
        films: the folder that the paths of clips start from.
        trust_remote_code: run the code that comes with the model.
    """

    def __init__(
        self, store: Store, place: str, *, model: str | nn.Module | None = None, films: str | Path | None = None,
        trust_remote_code: bool = False,
    ):  # fmt: skip
        self.store, self.place = store, place
        self.films = Path(films) if films is not None else None
        if self.films is not None and not self.films.is_dir():
            raise ValueError(f"{films} is no folder: expected the one that the paths of clips start from.")
        self._queries = Queries(store.identity, model, trust_remote_code)

    @property
    def identity(self) -> Identity:
        """Whose embeddings it holds."""
        return self.store.identity

    @property
    def model(self) -> Any:
        """Its model, loaded when it is first needed."""
        return self._queries.model

    @property
    def model_place(self) -> str:
        """Where its model is."""
        return self._queries.place

    @property
    def processor(self) -> Any:
        """What makes features of media for its model."""
        return self._queries.processor

    def __len__(self) -> int:
        return len(self.store)

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of files, connections and memory."""
        self.store.close()

    def add(
        self, clip_ids: Sequence[str], audio: Any = None, visual: Any = None, *, made_by: Any,
        source: str | None = None, **facts: Sequence[Any] | None,
    ) -> int:  # fmt: skip
        """Adds clips by their embeddings; those that are there already are replaced.

        In a folder all are added or none; Milvus takes large batches in parts.

        Args:
            clip_ids: their names.
            audio: embeddings `(n, dim)` of their sounds, rows of NaN where there is none; or nothing at all.
            visual: of their pictures, likewise.
            made_by: the model that made the embeddings, or its fingerprint.
            source: the fingerprint of a data set they come from.
            facts: `path`, `start`, `end`, `labels` (names) and `metadata` (a dictionary), one a clip, None if unknown.
        """
        self._check_maker(made_by)
        if not len(clip_ids):
            return 0
        return self.store.add(make_rows(self.identity, clip_ids, {"audio": audio, "visual": visual}, facts, source))

    def add_data(
        self, data: str, *, config: str | None = None, splits: Sequence[str] = (), progress: bool = True
    ) -> int:
        """Adds the clips of a data set, batch by batch, and returns how many.

        Those that came from this very data set are there already and left out, so that what was interrupted goes on;
        those of the same name that came from another are replaced. (A data set's fingerprint is of ids, features and
        labels: where paths, times or further columns alone have changed, delete clips first.)

        Args:
            data: its folder, or its id on the Hub.
            config: of the data set.
            splits: some of its splits; all otherwise.
            progress: show a bar on stderr.
        """
        found = load_splits(data, config)
        missing = [name for name in splits if name not in found]
        if missing:
            raise ValueError(f"{data} has the splits {', '.join(found)}, and no {missing[0]}.")
        wanted = [name for name in in_order(found) if not splits or name in splits]
        first = found[wanted[0]]
        check_fit(self.model, self.identity.model_id, first, data)
        source = source_of(found)
        there = self.store.from_source(source)
        parts = [Clips(found[name], name, self.model).without(there) for name in wanted]
        added = 0
        with tqdm(
            total=sum(map(len, parts)), unit=" clips", desc=str(self.place), disable=None if progress else True
        ) as bar:
            for names, embeds, facts in (batch for part in parts for batch in part.batches()):
                added += self.store.add(make_rows(self.identity, names, embeds, facts, source))
                bar.update(len(names))
        self.store.settle()
        return added

    def keep_only(self, clip_ids: Iterable[str]) -> int:
        """Takes all other clips away, and returns how many."""
        kept = set(clip_ids)
        return self.delete([name for name in self.store.facts(["clip_id"])["clip_id"].to_pylist() if name not in kept])

    def delete(self, clip_ids: Sequence[str]) -> int:
        """Takes clips away, and returns how many were there."""
        return self.store.delete(list(dict.fromkeys(clip_ids))) if len(clip_ids) else 0

    def embed(self, *, audio: Any = None, video: Any = None, image: Any = None, **settings: Any) -> np.ndarray:
        """The embedding `(1, dim)` of a sound, of the pictures of a film, or of a picture.

        Args:
            audio: a file with sound (a film too), or samples with their `sampling_rate`.
            video: a film, of which the pictures are taken.
            image: a picture.
            settings: what the processor takes: `sampling_rate`, `fps`.
        """
        return self._queries.embed(audio=audio, video=video, image=image, **settings)[1]

    def search(
        self, *, audio: Any = None, video: Any = None, image: Any = None, among: str | None = None, k: int = 10,
        labels: str | Sequence[str] = (), where: str | Sequence[str] = (), per_film: bool = False, **settings: Any,
    ) -> list[Hit]:  # fmt: skip
        """The clips nearest to a sound, or to pictures: among the pictures, or among the sounds.

        Args:
            audio: a file with sound (a film too), or samples with their `sampling_rate`: searches pictures.
            video: a film, of which the pictures are taken: searches sounds.
            image: a picture, likewise.
            among: `audio` or `visual`, if not the other one.
            k: how many.
            labels: only clips of one of these.
            where: only clips whose metadata say so: `year>=2010`, `split=test`.
            per_film: only the best clip of each film.
            settings: what the processor takes.
        """
        if among is not None:
            _check_among(among)
        wanted, k = Filter.of(labels, where), _check_k(k)  # what is wrong is said before any film is read
        modality, embeds = self._queries.embed(audio=audio, video=video, image=image, **settings)
        return self._search(embeds, among or OTHER[modality], k, wanted, per_film)[0]

    def search_embeds(
        self, embeds: Any, *, among: str, made_by: Any, k: int = 10, labels: str | Sequence[str] = (),
        where: str | Sequence[str] = (), per_film: bool = False,
    ) -> list[list[Hit]]:  # fmt: skip
        """The clips nearest to each of some embeddings.

        Args:
            embeds: `(q, dim)`, unit rows.
            among: `audio` or `visual`: what is searched.
            made_by: the model that made them, or its fingerprint.
            k: how many for each.
            labels: only clips of one of these.
            where: only clips whose metadata say so: `year>=2010`, `split=test`.
            per_film: only the best clip of each film.
        """
        _check_among(among)
        self._check_maker(made_by)
        queries = as_queries(self.identity, embeds)
        return self._search(queries, among, _check_k(k), Filter.of(labels, where), per_film)

    def _search(self, queries: np.ndarray, among: str, k: int, wanted: Filter, per_film: bool) -> list[list[Hit]]:
        if not per_film:
            return self.store.search(queries, among, k, wanted)
        return [self._films(query[None], among, k, wanted) for query in queries]

    def _films(self, query: np.ndarray, among: str, k: int, wanted: Filter) -> list[Hit]:
        """The best clip of each of k films: more and more are asked for until they are of so many."""
        asked = min(MOST, 4 * k)
        while True:
            hits = self.store.search(query, among, asked, wanted)[0]
            best: dict[str, Hit] = {}
            for hit in hits:
                best.setdefault(hit.path or hit.clip_id, hit)
            if len(best) >= k or len(hits) < asked or asked == MOST:
                return list(best.values())[:k]
            asked = min(MOST, 8 * asked)

    def _check_maker(self, made_by: Any) -> None:
        if isinstance(made_by, str):
            self.identity.check(made_by, "what made these")
        else:
            self._queries.check(made_by)

    def get(self, clip_ids: Sequence[str]) -> list[Hit | None]:
        """Clips by name, None where there is none; their score is NaN."""
        return self.store.get(list(clip_ids))

    def embeds(self, clip_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings `(n, dim)` of clips' sounds, and of their pictures; NaN where a clip has none, or is none."""
        table = self.store.fetch(list(dict.fromkeys(clip_ids)))
        places = {name: row for row, name in enumerate(table["clip_id"].to_pylist())}
        rows = [places.get(name, table.num_rows) for name in clip_ids]
        nothing = np.full((1, self.identity.dim), np.nan, dtype=np.float32)
        audio, visual = (
            np.concatenate([self.identity.unstored(table[f"{name}_embeds"]), nothing])[rows] for name in MODALITIES
        )
        return audio, visual

    def labels(self) -> list[str]:
        """Names of the classes there are clips of."""
        return sorted(self._label_counts())

    def _label_counts(self) -> dict[str, int]:
        column = self.store.facts(["labels"])["labels"]
        return {one["values"]: one["counts"] for one in pc.value_counts(pc.list_flatten(column)).to_pylist()}

    def why_nothing(self, labels: Sequence[str] = (), where: str | Sequence[str] = ()) -> str | None:
        """What a filter names that the index has not, and what it has; None where nothing is misspelt."""
        known = self.labels()
        unknown = [label for label in labels if label not in known]
        if unknown:
            return f"No clip is labelled {unknown[0]}: there are {', '.join(known[:20]) or 'no labels'}."
        texts = pc.unique(self.store.facts(["metadata"])["metadata"]).drop_null().to_pylist()
        keys = sorted({key for text in texts for key in json.loads(text)})
        asked = [one.key for one in Filter.of((), where).conditions]
        strange = [key for key in asked if key not in keys]
        if strange:
            return f"No clip says anything about {strange[0]}: there are {', '.join(keys[:20]) or 'no metadata'}."
        return None

    def sample(self, count: int = 2000) -> tuple[list[Hit], np.ndarray, np.ndarray]:
        """Clips, evenly out of all, always the same; their embeddings of sounds, and of pictures, NaN where none."""
        table = self.store.sample(count)
        rows = table.drop_columns([f"{name}_embeds" for name in MODALITIES]).to_pylist()
        hits = [Hit.from_row(row, np.nan) for row in rows]
        audio, visual = (self.identity.unstored(table[f"{name}_embeds"]) for name in MODALITIES)
        return hits, audio, visual

    def film(self, hit: Hit) -> Path | None:
        """The film a clip is of; None where that is not here, or not inside `films`."""
        if self.films is None or not hit.path or ".." in Path(hit.path).parts or Path(hit.path).is_absolute():
            return None
        with suppress(OSError, ValueError, RuntimeError):  # names that no file can have, links in a circle
            root = self.films.resolve()
            file = (root / hit.path).resolve()
            return file if file.is_relative_to(root) and file.is_file() else None
        return None

    def describe(self) -> dict[str, Any]:
        """What it holds, and whose embeddings they are."""
        identity = self.identity
        paths = self.store.facts(["path"])["path"].drop_null()
        return {
            "place": self.place,
            "engine": self.store.engine,
            "clips": len(self),
            "with": self.store.counts(),
            "films": pc.count_distinct(paths).as_py(),
            "labels": dict(sorted(self._label_counts().items())),
            "model": {
                "id": identity.model_id,
                "model_type": identity.model_type,
                "fingerprint": identity.fingerprint,
                "feature_spec": identity.feature_spec,
                "dim": identity.dim,
                "codes": identity.codes,
            },
            **self.store.describe(),
        }

    def save(self, out: str | Path) -> "Index":
        """Copies what it holds into a new index: a folder, or Milvus; what was deleted is in no batch of it."""
        store = copy_store(out, self.identity, self.store.batches())
        return Index(
            store, str(out), model=self._queries.given, films=self.films, trust_remote_code=self._queries.trusted
        )


def _check_among(among: str) -> None:
    if among not in MODALITIES:
        raise ValueError(f"`among` is what is searched, audio or visual, got {among!r}.")


def _check_k(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MOST:
        raise ValueError(f"`k` is how many clips to find, 1 to {MOST:,}, got {k!r}.")
    return int(k)
