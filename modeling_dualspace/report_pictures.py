"""The pictures that results and histories give by themselves, without a model or a data set at hand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import figures
from .figure_style import Style
from .report_sources import DataKey, Source, grid_values, results_of
from .retrieval_scores import DIRECTIONS

MARKED = 5
"""Marks in a row of bars that can still be told apart."""
WORDS = {"audio_to_visual": "sound finds video", "visual_to_audio": "video finds sound"}


@dataclass(frozen=True)
class Picture:
    """A figure of the page, and of its folder.

    Args:
        name: of its file.
        title: above it.
        caption: below it: what it shows, and what to see in it.
        draw: makes it, in one style or another.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Style], Any]


def result_pictures(
    sources: Sequence[Source], key: DataKey, numbers: Mapping[str, int], tail: str
) -> Iterator[Picture]:
    """What the numbers of the results alone show."""
    found = results_of(sources, key)
    results = {name: result for name, result in found.items() if result["metrics"]["map"] is not None}
    for direction in DIRECTIONS if results else ():
        curves = {name: result["metrics"][direction]["precision_scope"] for name, result in results.items()}
        yield Picture(
            f"precision-scope-{direction.replace('_', '-')}-{tail}", f"Precision by scope: {WORDS[direction]}",
            "The share of relevant items among the first K, averaged over the queries, from K = 10 on.",
            partial(figures.precision_scope, curves=curves, numbers=numbers),
        )  # fmt: skip
    if results:
        yield from _class_pictures(sources, results, tail)
    for direction in DIRECTIONS:
        curves = {name: result["metrics"][direction].get("pair_recall") or {} for name, result in found.items()}
        if any(curves.values()):
            yield Picture(
                f"own-pair-{direction.replace('_', '-')}-{tail}", f"The own pair: {WORDS[direction]}",
                "The share of queries whose own pair is among the first K, from K = 10 on.",
                partial(figures.precision_scope, curves=curves, numbers=numbers, measure="own pair among the first K"),
            )  # fmt: skip


def _class_pictures(
    sources: Sequence[Source], results: Mapping[str, Mapping[str, Any]], tail: str
) -> Iterator[Picture]:
    """Bars of the dual model, or of the first; the mean over variants as diamonds, or else a mark for each other.

    Of more than can be told apart, the best by MAP are shown, and the bars are those of the best.
    """
    found = {source.name: source.variant for source in sources if source.name in results and source.variant}
    once = {variant: name for name, variant in reversed(found.items())}  # the first of those that differ otherwise
    variants = {name: variant for name, variant in found.items() if once[variant] == name}
    first, many = once.get("dual", next(iter(results))), len(results) > MARKED + 1
    if many and len(set(variants.values())) < 2:
        results = dict(sorted(results.items(), key=lambda one: one[1]["metrics"]["map"], reverse=True))
        first = next(iter(results))
    for direction in DIRECTIONS:
        per_class = {name: _class_maps(result, direction) for name, result in results.items()}
        if len(set(variants.values())) > 1:
            of_all = {each: _mean([per_class[name].get(each) for name in variants]) for each in per_class[first]}
            dots = {f"mean of {', '.join(variants)}": of_all}
            what = f" Diamonds: the {next(iter(dots))}."
        else:
            others = [(name, values) for name, values in per_class.items() if name != first]
            dots = dict(others[:MARKED])
            what = f" Marks: {', '.join(dots)}." if dots else ""
            if many:
                what += f" These are the best {MARKED + 1} of {len(per_class)} by MAP: more would hide each other."
        yield Picture(
            f"class-map-{direction.replace('_', '-')}-{tail}", f"MAP by class: {WORDS[direction]}",
            f"Bars: {first}.{what}",
            partial(figures.class_precision, name=first, values=per_class[first], dots=dots),
        )  # fmt: skip


def _class_maps(result: Mapping[str, Any], direction: str) -> dict[str, float]:
    rows = result["metrics"][direction]["per_class"]
    return {name: row["map"] for name, row in rows.items() if row["map"] is not None}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def grid_pictures(sources: Sequence[Source], key: DataKey, numbers: Mapping[str, int], tail: str) -> Iterator[Picture]:
    """The surfaces of grids whose cells were scored on this split, against the best of the rivals."""
    rivals = {
        name: result["metrics"]["map"] for name, result in results_of(sources, key).items()
        if result["model"]["model_type"] != "dualspace" and result["metrics"]["map"] is not None
    }  # fmt: skip
    plane = max(rivals.items(), key=lambda rival: rival[1]) if rivals else None
    for source in sources:
        values = grid_values(source.cells, key)
        if values:
            yield _surface(f"{tail}-{numbers[source.name] + 1}", source, values, f"MAP on {key[1]}", plane)


def validation_grids(sources: Sequence[Source], keys: Sequence[DataKey]) -> Iterator[Picture]:
    """The surfaces of grids that were not scored as a whole on any split."""
    for number, source in enumerate(sources, start=1):
        values = grid_values(source.cells, None)
        if values and not any(grid_values(source.cells, key) for key in keys):
            yield _surface(str(number), source, values, "best MAP on validation", None)


def _surface(name: str, source: Source, values: Any, measure: str, plane: tuple[str, float] | None) -> Picture:
    framed = f" What beats {plane[0]} is framed." if plane else ""
    return Picture(
        f"alpha-beta-{name}", f"MAP over alpha and beta: {source.name}",
        f"{measure}, the mean over the cells of each pair.{framed}",
        partial(figures.alpha_beta, values=values, measure=measure, plane=plane),
    )  # fmt: skip


def training_pictures(sources: Sequence[Source], numbers: Mapping[str, int]) -> Iterator[Picture]:
    """Runs with the same data and the same loss terms in one figure, four at most."""
    groups: dict[tuple[str, frozenset[str]], dict[str, list[dict[str, Any]]]] = {}
    for source in sources:
        history = [{"terms": {}, **line} for line in source.run.history if "epoch" in line]
        if any(line["terms"] for line in history):  # a closed form has no course
            data = str((source.run.recipe or {}).get("data"))
            groups.setdefault((data, frozenset(history[0]["terms"])), {})[source.name] = history
    fours = [list(runs.items())[start : start + 4] for runs in groups.values() for start in range(0, len(runs), 4)]
    for number, histories in enumerate(map(dict, fours)):
        yield Picture(
            f"loss-{number + 1}", f"Training: {', '.join(histories)}",
            "Each loss term before its weight, their weighted sum, and the MAP on validation, by epoch.",
            partial(figures.loss_terms, histories=histories, numbers=numbers),
        )  # fmt: skip
