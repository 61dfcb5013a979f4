"""A model looked at closely: its clips in a plane, their similarities, the best and the worst of its queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from .cosines import unit_rows
from .evaluation import embed
from .feature_dataset import keep_paired, to_tensors
from .feature_schema import class_names_of
from .optional import require
from .retrieval_scores import DIRECTIONS, is_known, query_scores

PLANES = ("audio inputs", "visual inputs", "embeddings")
POINTS = 600
"""Clips in a plane: enough to see clusters, few enough to see points."""
ROWS = 300
"""Clips in a map of similarities."""
SHOWN = 5


@dataclass(frozen=True)
class Sample:
    """The clips of a split that are labelled with one class each, as a model embeds them."""

    split: Dataset
    embeds: dict[str, np.ndarray]
    labels: np.ndarray
    names: list[str]

    def rows(self, count: int) -> np.ndarray:
        """Some of the clips, in the order of their classes, with the shares these have; the same ones every time."""
        generator = np.random.default_rng(0)
        chosen = generator.permutation(len(self.labels))[:count]
        return chosen[np.lexsort((chosen, self.labels[chosen]))]

    def cosines(self) -> tuple[np.ndarray, np.ndarray]:
        """Of sounds and videos, `(n, n)` in the order of their classes, and these."""
        rows = self.rows(ROWS)
        return self.embeds["audio"][rows] @ self.embeds["visual"][rows].T, self.labels[rows]

    def plane(self, what: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """t-SNE of one of `PLANES`, of the embeddings of both modalities together; and the classes of the clips."""
        rows = self.rows(POINTS)
        if what == "embeddings":
            both = _plane(np.concatenate([self.embeds[name][rows] for name in ("audio", "visual")]))
            return {"audio": both[: len(rows)], "visual": both[len(rows) :]}, self.labels[rows]
        name = f"{what.split()[0]}_features"
        return {name: _plane(to_tensors(self.split.select(rows))[name].numpy())}, self.labels[rows]

    def extremes(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """The best and the worst queries of each direction by average precision, with what they retrieved."""
        return {direction: self._extremes(*pair) for direction, pair in DIRECTIONS.items()}

    def _extremes(self, queries: str, gallery: str) -> dict[str, list[dict[str, Any]]]:
        found = query_scores(self.embeds[queries], self.embeds[gallery], self.labels, cutoffs=())
        precision = found["average_precision"]
        order = np.argsort(-precision, kind="stable")
        order = order[~np.isnan(precision[order])]
        count = min(SHOWN, len(order) // 2 or 1)
        ends = {"best": self._one_a_class(order)[:count], "worst": self._one_a_class(order[::-1])[:count]}
        return {
            which: [self._query(row, precision[row], queries, gallery) for row in rows] for which, rows in ends.items()
        }

    def _one_a_class(self, order: np.ndarray) -> list[int]:
        """The first of every class, and then the others: five queries of one class say little."""
        _, firsts = np.unique(self.labels[order], return_index=True)
        firsts.sort()
        return [*order[firsts].tolist(), *np.delete(order, firsts).tolist()]

    def _query(self, row: int, precision: float, queries: str, gallery: str) -> dict[str, Any]:
        cosines = self.embeds[gallery] @ self.embeds[queries][row]
        best = np.argsort(-cosines, kind="stable")[:SHOWN]
        return {
            **self._clip(row),
            "precision": float(precision),
            "found": [
                {**self._clip(item), "cosine": float(cosines[item]), "right": self.labels[item] == self.labels[row],
                 "own": item == row}
                for item in best
            ],
        }  # fmt: skip

    def _clip(self, row: int) -> dict[str, Any]:
        clip = self.split[int(row)]
        name = clip.get("path") or clip.get("clip_id") or f"row {row}"
        return {"clip": str(name), "class": self.names[self.labels[row]]}


def sample(model: Any, split: Dataset) -> Sample:
    """Embeds a split, to look at it closely.

    Args:
        model: with `get_audio_embeds` and `get_visual_embeds`.
        split: with a `label` column.
    """
    names = class_names_of(split.features, split.info.description)
    if "label" not in split.features or names is None:
        raise ValueError("the pictures of single clips need one `label` a clip")
    paired = keep_paired(split)
    found = embed(model, paired)
    labels = found["labels"].cpu().numpy()
    known = is_known(labels)
    if not known.any():
        raise ValueError("the pictures of single clips need clips of known class, and there is none")
    embeds = {name: unit_rows(found[name]).cpu().numpy()[known] for name in ("audio", "visual")}
    return Sample(paired.select(np.flatnonzero(known)), embeds, labels[known], names)


def class_counts(splits: Mapping[str, Dataset]) -> dict[str, dict[str, int]]:
    """Clips of each class, by split; nothing where clips have no classes."""
    counts: dict[str, dict[str, int]] = {}
    for name, split in splits.items():
        classes = class_names_of(split.features, split.info.description)
        if classes is None:
            return {}
        column = "label" if "label" in split.features else "labels"
        values = split.select_columns([column]).with_format("numpy")[:][column]
        counts[name] = dict(zip(classes, _count(values, len(classes)), strict=True))
    return counts


def _count(values: Any, classes: int) -> Sequence[int]:
    if np.ndim(values) == 2:
        return np.nansum(np.asarray(values) > 0, axis=0).tolist()
    known = np.asarray([value for value in values if value is not None and value == value and value >= 0], dtype=int)
    return np.bincount(known, minlength=classes).tolist()


def _plane(rows: np.ndarray) -> np.ndarray:
    """t-SNE to two dimensions, `(n, 2)`; as for every such picture, distances between clusters mean nothing."""
    decomposition, manifold = (require(f"sklearn.{name}", extra="report") for name in ("decomposition", "manifold"))
    if len(rows) < 5:
        raise ValueError(f"t-SNE needs at least five clips, and there are {len(rows)}")
    rows = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    if not rows.any():
        raise ValueError("t-SNE needs clips that differ, and these are all alike")
    rows /= np.abs(rows).max()  # it ends the process where squares are no numbers any more
    if min(rows.shape) > 50:  # what t-SNE's author does too: its own distances are the costly part
        rows = decomposition.PCA(50, random_state=0).fit_transform(rows)
    perplexity = min(30, (len(rows) - 1) / 3)
    start = "pca" if rows.shape[1] > 1 else "random"
    # Over so few points several threads mostly wait for each other.
    with require("threadpoolctl", extra="report").threadpool_limits(1):
        return manifold.TSNE(2, perplexity=perplexity, init=start, random_state=0).fit_transform(rows)
