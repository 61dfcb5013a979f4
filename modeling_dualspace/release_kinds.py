"""The kinds of things that can be released.

A new one is an entry here, a function that fills a folder, and what `stranger` tries with it.
"""

from pathlib import Path

from .data_release import is_data_set, stage_data_set
from .index_card import is_index
from .index_release import stage_index
from .metric_release import is_metric, stage_metric
from .model_release import is_model, stage_model
from .page_release import stage_page
from .page_space import is_page
from .staging import Kind

KINDS = (
    Kind(
        "page", "space", is_page, stage_page, order=4, takes=("license",),
        looks="a page (`dualspace app --out`)", refuses="it brings the rest along",
    ),
    Kind(
        "index", "dataset", is_index, stage_index, order=3, takes=("license",),
        looks="an index (`dualspace index`)", refuses="it is made of what it holds",
    ),
    Kind(
        "data set", "dataset", is_data_set, stage_data_set,
        looks="a data set that a builder wrote (README.md and Parquet)",
        refuses="its card was written with it, so build it with what that should say, by DataCard(license=...)",
    ),
    Kind(
        "metric", "space", is_metric, stage_metric, order=1, needs_path=False,
        looks="the metric (`dualspace metric`)", refuses="it brings its own card and licence",
    ),
    Kind(
        "model", "model", is_model, stage_model, order=2, looks="a run or a model (with config.json)",
        takes=("license", "data", "card", "carbon", "trust_remote_code"),
    ),
)  # fmt: skip
"""The first that recognises a folder has it."""


def kind_of(path: str, said: str = "") -> Kind:
    """Of which kind something is; raises where it is of none."""
    if said:
        found = next((kind for kind in KINDS if kind.name == said), None)
        if found is None:
            raise ValueError(f"There is no kind {said!r}: expected one of {', '.join(kind.name for kind in KINDS)}.")
        if not path and found.needs_path:
            raise ValueError(f"A {found.name} needs a `path`.")
        if path and not found.recognises(Path(path)):
            raise ValueError(f"{path} is no {found.name}.")
        return found
    found = next((kind for kind in KINDS if path and kind.recognises(Path(path))), None)
    if found is None:
        raise ValueError(
            f"{path or 'An item without `path`'} is nothing that can be released: expected "
            f"{', or '.join(kind.looks for kind in KINDS)}."
        )
    return found
