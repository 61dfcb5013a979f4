"""The metric `RetrievalMAP` of the `evaluate` library: a thin shell over the kernel beside it."""

from typing import Any

import datasets
import evaluate
import numpy as np

from .average_precision import as_numpy, average_precision
from .cosines import unit_rows
from .legacy_prefix_average import prefix_average
from .retrieval_scores import CUTOFFS, retrieval_scores

# `evaluate.load` carries only the siblings that this file names, and takes a comment behind an import for an address.
__all__ = ["RetrievalMAP", "average_precision", "prefix_average", "unit_rows"]

DESCRIPTION = """\
Mean average precision (MAP) of audio-visual cross-modal retrieval, in both directions: sounds find videos, and videos
find sounds. An item is relevant when it shares a class with the query. The ranking is the full one, by cosine; the
query's own pair stays in the gallery; items that tie count by the expectation over their orders.
"""
INPUTS = """
Args:
    audio_embeds: one embedding a clip, `(n, d)`.
    visual_embeds: row by row the pairs of `audio_embeds`.
    labels: the class of each clip, `(n,)`, or its memberships, `(n, classes)` of 0 and 1; a negative number where
        nobody annotated: those clips are left out.
    detailed: with True, precision, recall, MAP and hits at every cut-off, R-precision, and MAP by class.
    class_names: of the classes, for the details.
    cutoffs: for the details.
    legacy_prefix_average: for the details; what some published scripts print instead of average precision.

Returns:
    `map`, the mean of `audio_to_visual` and `visual_to_audio`; with `detailed` each direction is a dictionary.

Examples:
    >>> metric = RetrievalMAP()
    >>> metric.add_batch(audio_embeds=[[1.0, 0.0], [0.0, 1.0]], visual_embeds=[[1.0, 0.0], [0.6, 0.8]], labels=[0, 1])
    >>> metric.add(audio_embeds=[0.8, 0.6], visual_embeds=[0.0, 1.0], labels=0)
    >>> {name: round(value, 3) for name, value in metric.compute().items()}
    {'map': 0.667, 'audio_to_visual': 0.639, 'visual_to_audio': 0.694}
"""
NAMES = {"audio_embeds", "visual_embeds", "labels"}
CITATION = """\
@article{zeng2023dual,
  title = {Learning Explicit and Implicit Dual Common Subspaces for Audio-visual Cross-modal Retrieval},
  author = {Zeng, Donghuo and others},
  journal = {ACM Transactions on Multimedia Computing, Communications, and Applications},
  year = {2023}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class RetrievalMAP(evaluate.Metric):
    """`add`, `add_batch` and `compute`, in one process or, with `num_process` and `process_id`, in several."""

    def _info(self) -> evaluate.MetricInfo:
        embeds = datasets.List(datasets.Value("float32"))
        both = {"audio_embeds": embeds, "visual_embeds": embeds}
        info = evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=[
                datasets.Features({**both, "labels": datasets.Value("int64")}),
                datasets.Features({**both, "labels": datasets.List(datasets.Value("float32"))}),
            ],
        )
        # Arrays, not lists of lists of numbers. The constructor takes it for a promise that there are only scalars.
        info.format = "numpy"
        return info

    def add_batch(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> None:
        """Adds clips."""
        rows = _checked(columns)
        if len(rows["labels"]):
            super().add_batch(**rows)

    def add(self, *, prediction: Any = None, reference: Any = None, **columns: Any) -> None:
        """Adds one clip."""
        self.add_batch(**{name: [value] for name, value in columns.items()})

    def _finalize(self) -> None:
        """Every process waits for a file of every other: one that was given no clips writes an empty one."""
        if self.writer is None and self.num_process > 1:
            self.selected_feature_format = self.features[0]
            self._init_writer()
        super()._finalize()
        # A process that is ahead must not write its next clips over those the first has yet to read.
        self._module_info.experiment_id += "+"

    def _get_all_cache_files(self) -> Any:
        """Where the first process has no clips, the files of the others say which kind of labels there are."""
        paths, locks = super()._get_all_cache_files()
        kinds = [datasets.Dataset.from_file(path).features["labels"] for path in paths]
        self.selected_feature_format = self.features[any(isinstance(kind, datasets.List) for kind in kinds)]
        return paths, locks

    def _compute(
        self,
        *,
        audio_embeds: Any = None,
        visual_embeds: Any = None,
        labels: Any = None,
        detailed: bool = False,
        class_names: list[str] | None = None,
        cutoffs: Any = CUTOFFS,
        legacy_prefix_average: bool = False,
    ) -> dict[str, Any]:
        table = retrieval_scores(
            np.asarray(audio_embeds),
            np.asarray(visual_embeds),
            np.asarray(labels),
            class_names=class_names,
            cutoffs=cutoffs if detailed else (),
            legacy_prefix_average=legacy_prefix_average,
        )
        if detailed:
            return table
        directions = {name: direction["map"] for name, direction in table.items() if isinstance(direction, dict)}
        return {"map": table["map"], **directions}


def _checked(columns: dict[str, Any]) -> dict[str, np.ndarray]:
    """The three columns as arrays of as many rows."""
    if columns.keys() != NAMES or any(value is None for value in columns.values()):
        given = sorted(name for name, value in columns.items() if value is not None)
        raise ValueError(f"Expected {', '.join(sorted(NAMES))}; got {', '.join(given) or 'none of them'}.")
    rows = {name: _column(value, name) for name, value in columns.items()}
    counts = {name: len(column) for name, column in rows.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"Expected as many rows in each column, got {counts}.")
    labels = rows["labels"]
    if labels.ndim == 1 and len(labels) and labels.dtype.kind not in "iu":
        raise ValueError(f"Labels are classes, whole numbers, or rows of memberships; got {labels.dtype}.")
    wrong = [name for name in NAMES - {"labels"} if len(labels) and rows[name].ndim != 2]
    if wrong:
        raise ValueError(f"Expected one row of numbers a clip in `{wrong[0]}`, got shape {rows[wrong[0]].shape}.")
    return rows


def _column(value: Any, name: str) -> np.ndarray:
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        return as_numpy(value)
    rows = [as_numpy(row) for row in value]
    shapes = sorted({row.shape for row in rows})
    if len(shapes) > 1:
        raise ValueError(f"All rows of `{name}` must be of one width, got {[shape[0] for shape in shapes if shape]}.")
    return np.stack(rows) if rows else np.zeros(0)
