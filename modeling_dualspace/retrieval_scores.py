"""From the embeddings of both modalities and their labels to one table: MAP in both directions, and what goes with it.

Embeddings are compared by cosine, in float64 and then rounded: items whose embeddings are alike tie wherever they lie,
and codes of +-1 rank as by their integer products. A query's own pair stays in the gallery.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .average_precision import Array, Ranking, as_numpy, chunk_scores, query_chunks, rank
from .cosines import as_scores, unit_rows
from .legacy_prefix_average import prefix_average

CUTOFFS = (1, 5, 10, 20, 50, *range(100, 1001, 100))
DIRECTIONS = {"audio_to_visual": ("audio", "visual"), "visual_to_audio": ("visual", "audio")}
_MEANS = {
    "map": "average_precision",
    "chance": "chance",
    "r_precision": "r_precision",
    "legacy_prefix_average": "legacy_prefix_average",
}
"""The means over queries, and of what."""
_AT = ("map_at", "precision_scope", "recall", "hit")
"""What is measured at every cut-off."""


def retrieval_scores(
    audio: Array,
    visual: Array,
    labels: Array | None = None,
    *,
    class_names: Sequence[str] | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
    legacy_prefix_average: bool = False,
    score: Callable[..., dict[str, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """The table of one model on one split: `map`, `audio_to_visual`, `visual_to_audio`, each direction in detail.

    Args:
        audio: embeddings `(n, d)`.
        visual: embeddings `(n, d)`, row by row the pairs of `audio`.
        labels: classes `(n,)`, negative where unknown; or memberships `(n, C)`, NaN where unknown. Clips of unknown
            class are left out. Without any labels the recall of the own pair is all there is.
        class_names: of the classes.
        cutoffs: ranks at which precision, recall and the like are taken.
        legacy_prefix_average: add what some published scripts print instead of average precision.
        score: what scores all queries of a direction, if not `query_scores`: several processes, say.

    Example:
        ```python
        >>> scores = retrieval_scores(np.eye(3), np.eye(3), np.array([0, 0, 1]), class_names=["dog", "drum"])
        >>> round(scores["map"], 3), scores["audio_to_visual"]["per_class"]["drum"]
        (0.944, {'map': 1.0, 'queries': 1})
        >>> scores["audio_to_visual"]["recall"]["1"]  # of two dogs one is found at once, of one drum the one
        0.6666666666666666

        ```
    """
    embeds = as_pairs(audio, visual)
    labels = None if labels is None else as_labels(labels, embeds["audio"])
    known = np.ones(len(embeds["audio"]), dtype=bool) if labels is None else is_known(labels)
    if not known.any():
        raise ValueError("Nobody annotated these clips, so there is no MAP: bring the labels, or pass none at all.")
    if not known.all():
        embeds, labels = {name: rows[known] for name, rows in embeds.items()}, None if labels is None else labels[known]
    cutoffs = [int(k) for k in cutoffs]
    options: dict[str, Any] = {"cutoffs": cutoffs, "legacy_prefix_average": legacy_prefix_average}
    found = {
        direction: (score or query_scores)(embeds[queries], embeds[gallery], labels, **options)
        for direction, (queries, gallery) in DIRECTIONS.items()
    }
    table = score_table(found, labels, class_names=class_names, cutoffs=cutoffs)
    return table | {"unlabelled": int((~known).sum())}


def query_scores(
    queries: Array,
    gallery: Array,
    query_labels: Array | None,
    gallery_labels: Array | None = None,
    *,
    paired: bool = True,
    cutoffs: Sequence[int] = CUTOFFS,
    legacy_prefix_average: bool = False,
    chunks: Iterable[slice] | None = None,
) -> dict[str, np.ndarray]:
    """Every measure of each query: `(q,)`, or `(q, cut-offs)` for what is taken at a rank.

    Args:
        queries: `(q, d)`.
        gallery: `(n, d)`.
        query_labels: `(q,)` or `(q, C)`; a query whose class is unknown has no relevant item. None: only the own pair
            is looked for.
        gallery_labels: `(n,)` or `(n, C)`; None says that query i and item i are a pair, and share their labels.
        paired: whether query i and item i are a pair.
        cutoffs: ranks; those beyond the gallery become the gallery.
        legacy_prefix_average: see `retrieval_scores`.
        chunks: which of `grid(...)`; None is all of them. Any share of them gives the same numbers.
    """
    cuts = clipped(cutoffs, len(gallery))
    if paired and len(queries) != len(gallery):
        raise ValueError(f"{len(queries)} queries and {len(gallery)} items are no pairs: pass `paired=False`.")
    if query_labels is not None and gallery_labels is None:
        if not paired:
            raise ValueError("Queries and gallery are no pairs, so the gallery needs labels of its own.")
        gallery_labels = query_labels
    unit_gallery = unit_rows(gallery)

    parts = []
    # No threads here: the products have theirs, and the two kinds get in each other's way.
    for chunk in grid(queries, gallery) if chunks is None else chunks:
        scores = as_scores(unit_rows(queries[chunk]) @ unit_gallery.T)
        relevant = scores != scores if query_labels is None else _relevance(query_labels[chunk], gallery_labels)
        ranking = rank(scores, relevant, first=chunk.start)
        measures = {} if query_labels is None else _measures(ranking, cuts, legacy_prefix_average)
        if paired:
            own = ranking.only(scores[:, chunk].diagonal())
            measures["pair_recall"] = _at_each(own.recall, cuts, own)
        parts.append(measures)
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def grid(queries: Array, gallery: Array) -> list[slice]:
    """The chunks in which queries are ranked: of about the same memory, whatever the gallery."""
    return list(query_chunks(len(queries), len(gallery), chunk_scores(gallery)))


def score_table(
    found: Mapping[str, Mapping[str, np.ndarray]],
    labels: Array | None,
    *,
    class_names: Sequence[str] | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
    gallery: int | None = None,
) -> dict[str, Any]:
    """What `query_scores` found in both directions, as one table of means over the queries that have a relevant item.

    Args:
        found: by direction, of all queries.
        labels: of the queries, `(n,)` or `(n, C)`.
        class_names: of the classes.
        cutoffs: those of `query_scores`.
        gallery: how many items there were; None is as many as queries.
    """
    gallery = len(next(iter(next(iter(found.values())).values()))) if gallery is None else gallery
    cuts = clipped(cutoffs, gallery)
    table = {
        direction: _direction(values, None if labels is None else as_numpy(labels), cuts, class_names)
        for direction, values in found.items()
    }
    return {
        "map": None if labels is None else sum(table[direction]["map"] for direction in DIRECTIONS) / 2,
        **table,
        "gallery": gallery,
        "clipped_cutoffs": sorted({int(k) for k in cutoffs if k > gallery}),
    }


def clipped(cutoffs: Sequence[int], items: int) -> list[int]:
    """The cut-offs that a gallery of so many items has; the largest, if any is beyond it, is the gallery itself."""
    if min(cutoffs, default=1) < 1:
        raise ValueError(f"A cut-off counts ranks from 1 on, got {min(cutoffs)}.")
    return sorted({min(k, max(items, 1)) for k in cutoffs})


def _direction(
    values: Mapping[str, np.ndarray], labels: np.ndarray | None, cuts: list[int], class_names: Sequence[str] | None
) -> dict[str, Any]:
    pair = {"pair_recall": _at(values["pair_recall"], cuts)} if "pair_recall" in values else {}
    if labels is None:
        return {"queries": len(values["pair_recall"]), **pair}
    precision = values["average_precision"]
    scored = ~np.isnan(precision)
    if not scored.any():
        raise ValueError(
            f"None of the {len(precision)} queries shares a class with any item of the gallery, so there is no MAP: "
            "are the labels those of these clips?"
        )
    result: dict[str, Any] = {name: float(values[key][scored].mean()) for name, key in _MEANS.items() if key in values}
    result |= {name: _at(values[name][scored], cuts) for name in _AT}
    result |= pair
    result["per_class"] = _per_class(precision, labels, class_names)
    return result | {"queries": int(scored.sum()), "excluded_queries": int((~scored).sum())}


def _per_class(precision: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None) -> dict[str, Any]:
    """The mean over the queries of each class; with several classes a query counts for all of its own."""
    numbers = list(range(labels.shape[1])) if labels.ndim == 2 else np.unique(labels[labels >= 0]).tolist()
    if class_names is None:
        names = {number: str(number) for number in numbers}
    elif numbers[-1:] and numbers[-1] >= len(class_names):
        raise ValueError(f"There are labels up to {numbers[-1]}, and only {len(class_names)} class names.")
    else:
        names = dict(enumerate(class_names))
    result = {}
    for number, name in names.items():
        of_class = labels == number if labels.ndim == 1 else labels[:, number] > 0
        values = precision[of_class & ~np.isnan(precision)]
        result[name] = {"map": float(values.mean()) if len(values) else None, "queries": len(values)}
    return result


def _measures(ranking: Ranking, cuts: list[int], legacy: bool) -> dict[str, np.ndarray]:
    found = _at_each(ranking.found, cuts, ranking)
    measures = {
        "map_at": _at_each(ranking.average_precision, cuts, ranking),
        "precision_scope": found / np.array(cuts, dtype=float),
        "recall": found / ranking.relevant[:, None],
        "hit": _at_each(ranking.hit, cuts, ranking),
        "average_precision": ranking.average_precision(),
        "r_precision": ranking.r_precision(),
        "chance": _by_chance(ranking),
    }
    return measures | ({"legacy_prefix_average": prefix_average(ranking)} if legacy else {})


def _by_chance(ranking: Ranking) -> np.ndarray:
    r"""Average precision of a random ranking, as if all items tied: $\frac 1N (H_N + \frac{(R-1)(N-H_N)}{N-1})$."""
    items, relevant = ranking.items, ranking.relevant
    harmonic = float((1 / np.arange(1, items + 1)).sum())
    return (harmonic + (relevant - 1) * (items - harmonic) / max(items - 1, 1)) / max(items, 1)


def _at_each(measure: Callable[[int], np.ndarray], cuts: list[int], ranking: Ranking) -> np.ndarray:
    return np.array([measure(k) for k in cuts]).reshape(len(cuts), len(ranking.counts)).T


def _at(values: np.ndarray, cuts: list[int]) -> dict[str, float]:
    return {str(k): float(mean) for k, mean in zip(cuts, values.mean(axis=0), strict=True)}


def as_pairs(audio: Array, visual: Array) -> dict[str, Array]:
    """Both as arrays or, where both are tensors, as those; raises unless they are finite and pair up, `(n, d)` each."""
    tensors = _is_tensor(audio) and _is_tensor(visual) and audio.device == visual.device
    embeds = {"audio": audio, "visual": visual} if tensors else {"audio": as_numpy(audio), "visual": as_numpy(visual)}
    for name, rows in embeds.items():
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"Expected {name} embeddings (n, d) of at least one clip, got shape {tuple(rows.shape)}.")
        if not tensors and rows.dtype.kind != "f":
            embeds[name] = rows = rows.astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinities of both signs
            wrong = as_numpy(rows - rows != 0).any(axis=1)
        if wrong.any():
            raise ValueError(
                f"{name.capitalize()} embeddings must be finite numbers, but row {int(wrong.argmax())} holds NaN or "
                "infinity: mend that clip, or the model that embedded it."
            )
    if embeds["audio"].shape != embeds["visual"].shape:
        shapes = " and ".join(str(tuple(rows.shape)) for rows in embeds.values())
        raise ValueError(f"Audio and visual embeddings must pair up, in one space; got shapes {shapes}.")
    return embeds


def as_labels(labels: Array, embeds: Array) -> Array:
    """The labels, of the kind of the embeddings; raises unless they are classes or memberships, one row a clip."""
    values = as_numpy(labels)
    if values.ndim not in (1, 2) or len(values) != len(embeds):
        raise ValueError(
            f"Expected one label a clip, ({len(embeds)},), or memberships ({len(embeds)}, classes); got {values.shape}."
        )
    if values.ndim == 1 and values.dtype.kind not in "iu":
        raise ValueError(f"Labels of shape (n,) are classes, whole numbers; got {values.dtype}.")
    if values.ndim == 2 and (values.shape[1] < 2 or ((values >= 0) & (values != 0) & (values != 1)).any()):
        raise ValueError(
            f"Labels of shape (n, classes) are memberships, 0 and 1, of at least two classes; got {values.shape} with "
            f"values up to {values.max(initial=0)}. Class numbers have the shape (n,): `labels[:, 0]`."
        )
    return sys.modules["torch"].as_tensor(labels, device=embeds.device) if _is_tensor(embeds) else values


def is_known(labels: Array) -> np.ndarray:
    """`(n,)`: False where nobody annotated."""
    labels = as_numpy(labels)
    return labels >= 0 if labels.ndim == 1 else (labels >= 0).all(axis=1)


def _is_tensor(values: Array) -> bool:
    return hasattr(values, "detach")


def _relevance(queries: Array, gallery: Array) -> Array:
    """Whether they share a class, `(q, n)`."""
    if queries.ndim == 1:
        return (queries[:, None] == gallery) & (queries >= 0)[:, None]
    return ((queries > 0) * 1.0) @ ((gallery > 0) * 1.0).T > 0
