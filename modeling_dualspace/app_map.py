"""The map of an index: a plane through the space of its embeddings, sounds and pictures in one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .index_rows import Hit


@dataclass(frozen=True)
class Plane:
    """The two directions in which embeddings differ most (principal components).

    Args:
        mean: of the embeddings, `(d,)`.
        axes: `(d, 2)`, orthonormal; zeros where there are fewer directions.
        shares: of the variance, one an axis.
    """

    mean: np.ndarray
    axes: np.ndarray
    shares: tuple[float, float]

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Where embeddings `(n, d)` lie, `(n, 2)`."""
        return (np.asarray(rows, dtype=np.float64) - self.mean) @ self.axes


def fit_plane(rows: np.ndarray) -> Plane:
    """The plane of embeddings `(n, d)`; rows of NaN do not count.

    Each axis points to where its largest weight is positive, so that a map looks the same every time.

    Example:
        ```python
        >>> plane = fit_plane(np.array([[0.0, 0, 1], [0, 4, 1], [1, 2, 1]]))
        >>> plane.place(np.array([[0.0, 4, 1]])).round(2).tolist(), round(plane.shares[0], 2)
        ([[2.0, -0.33]], 0.92)

        ```
    """
    rows = np.asarray(rows, dtype=np.float64)
    rows = rows[~np.isnan(rows).any(axis=1)]
    dim = rows.shape[1]
    if not len(rows):
        return Plane(np.zeros(dim), np.zeros((dim, 2)), (0.0, 0.0))
    mean = rows.mean(axis=0)
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    total = max(float(values.sum()), np.finfo(np.float64).tiny)
    axes, shares = np.zeros((dim, 2)), [0.0, 0.0]
    for place in range(min(2, dim)):
        value, axis = float(values[-1 - place]), vectors[:, -1 - place]
        if value > total * dim * np.finfo(np.float64).eps:
            axes[:, place] = axis * np.sign(axis[np.abs(axis).argmax()])
            shares[place] = value / total
    return Plane(mean, axes, (shares[0], shares[1]))


def map_of(catalogue: Any) -> dict[str, Any]:
    """What a browser draws: clips with the places of their sounds and pictures, None where they have none.

    Args:
        catalogue: of `app_search`.
    """
    hits, embeds = catalogue.sample
    places = {modality: _placed(catalogue.plane, rows) for modality, rows in embeds.items()}
    clips = []
    for row, hit in enumerate(hits):
        clip = {
            "id": hit.clip_id,
            "name": hit.path or hit.clip_id,
            "labels": list(hit.labels),
            "url": catalogue.url(hit),
        }
        clip |= {"colour": catalogue.colours.get(hit.labels[0], 0) if hit.labels else None}
        clip |= {"when": times(hit), **{modality: rows[row] for modality, rows in places.items()}}
        clips.append(clip)
    used = {label for hit in hits for label in hit.labels[:1]}
    legend = [[label, colour] for label, colour in catalogue.colours.items() if label in used]
    return {"clips": clips, "legend": legend, "shares": catalogue.plane.shares, "of": len(catalogue.index)}


def _placed(plane: Plane, rows: np.ndarray) -> list[list[float] | None]:
    known = ~np.isnan(rows).any(axis=1)
    found = plane.place(np.where(known[:, None], rows, 0)).round(5).tolist()
    return [point if there else None for point, there in zip(found, known, strict=True)]


def marks_of(catalogue: Any, answer: Any) -> dict[str, Any]:
    """What an answer adds to the map: where its query lies, and which points were found."""
    x, y = catalogue.plane.place(answer.embedding[None])[0].round(5).tolist()
    found: Sequence[str] = [hit.clip_id for hit in answer.hits]
    query = {"x": x, "y": y, "modality": answer.query.modality, "name": answer.query.name}
    return {"map": catalogue.number, "query": query, "among": answer.among, "found": found}


def span_of(hit: Hit) -> tuple[float | None, float | None]:
    """Where a clip begins and ends, None where nobody knows: something else than a moment may be stored, too."""
    start, end = (None if value is None or not 0 <= value < 1e9 else float(value) for value in (hit.start, hit.end))
    return start, end


def times(hit: Hit) -> str:
    """Which part of its film a clip is.

    Example:
        ```python
        >>> times(Hit("a", 1.0, "a.mp4", 62.5, 70.0, (), {})), times(Hit("a", 1.0, "a.mp4", 0.0, 59.96, (), {}))
        ('1:02.5–1:10', '0:00–1:00')

        ```
    """
    start, end = span_of(hit)
    return "" if start is None else f"{_time(start)}–{'' if end is None else _time(end)}"


def _time(seconds: float) -> str:
    tenths = round(seconds * 10)
    rest = f".{tenths % 10}" if tenths % 10 else ""
    return f"{tenths // 600}:{tenths // 10 % 60:02d}{rest}"
