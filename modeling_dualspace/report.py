"""One self-contained page about runs, their results and their models, and its figures as PNG for cards."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from jinja2 import DictLoader, Environment, StrictUndefined

from . import figures
from .evaluation import load_model, load_split
from .feature_dataset import dataset_fingerprint
from .feature_schema import Description, in_order
from .files import model_fingerprint, write_file
from .report_samples import Sample, class_counts, sample
from .report_sources import DataKey, Source, grid_values, key_of, read_sources
from .results import is_hub_id
from .retrieval_scores import DIRECTIONS

TEMPLATE = Path(__file__).with_name("report_page.html")
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
    draw: Callable[[figures.Style], Any]


@dataclass
class Section:
    """What is known about one split of one data set."""

    key: DataKey
    sources: list[Source]
    pictures: list[Picture] = field(default_factory=list)
    extremes: dict[str, Any] = field(default_factory=dict)
    looked_at: str = ""
    left_out: list[str] = field(default_factory=list)

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """By the name of the source."""
        found = {source.name: source.result(self.key) for source in self.sources}
        return {name: result for name, result in found.items() if result}

    @property
    def data(self) -> Mapping[str, Any]:
        """As the results call it."""
        return next(iter(self.results.values()))["data"]


def write_report(
    paths: Sequence[str | Path], out: str | Path, *, data: str | None = None, command: str | None = None
) -> dict[str, Any]:
    """Writes the page to `out` and the figures beside it, into a folder called after it; returns what was written.

    Args:
        paths: run folders, grids, or result files; the first that has a model is the one looked at closely.
        out: the HTML file.
        data: where the data set is, if not where it was when the results were made.
        command: what was typed.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"A report is a page, and {out.name} does not end in .html: call it {out.name}.html.")
    sources = read_sources(paths)
    sections = [_section(key, sources, data) for key in _keys(sources)]
    training = list(_training_pictures(sources))
    if not sections and not training:
        raise ValueError(
            f"There is nothing to show: {', '.join(map(str, paths))} hold no history and no result. "
            "`dualspace evaluate` writes one."
        )
    left_out = [f"{source.name} has no result: `dualspace evaluate` makes one." for source in sources
                if not source.results and not source.cells]  # fmt: skip
    left_out += [line for section in sections for line in section.left_out]
    folder = out.with_name(f"{out.stem}-figures")
    shown: dict[str, str] = {}
    for picture in [*training, *(picture for section in sections for picture in section.pictures)]:
        print(f"drawing {picture.name}", file=sys.stderr)
        shown[picture.name] = figures.to_svg(picture.draw, picture.name, f"{picture.title}. {picture.caption}")
        write_file(folder / f"{picture.name}.png", figures.to_png(picture.draw))
    environment = Environment(
        loader=DictLoader({"page": TEMPLATE.read_text(encoding="utf-8")}), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    date = datetime.now(UTC).isoformat(timespec="minutes")
    page = environment.get_template("page").render(
        sections=sections, training=training, left_out=left_out, shown=shown, words=WORDS, light=figures.LIGHT,
        dark=figures.DARK, command=command, date=date, directions=list(DIRECTIONS),
    )  # fmt: skip
    write_file(out, page.encode())
    return {
        "report": str(out),
        "figures": [str(folder / f"{name}.png") for name in shown],
        "left_out": left_out,
    }


def _keys(sources: Sequence[Source]) -> list[DataKey]:
    """The splits that any result is of, in the order in which they come."""
    runs = [source.results for source in sources]
    runs += [cell.results for source in sources for cell in source.cells]
    return list(dict.fromkeys(key_of(result) for results in runs for result in results))


def _section(key: DataKey, sources: Sequence[Source], data: str | None) -> Section:
    section = Section(key, [source for source in sources if source.result(key)])
    if not section.results:  # of the cells of a grid alone
        section.sources = [
            Source(source.name, cell, [result])
            for source in sources for cell in source.cells for result in cell.results if key_of(result) == key
        ][:1]  # fmt: skip
    number = re.sub(r"[^\w-]+", "-", f"{key[1]}-{key[0][:4]}").strip("-")  # in names of files
    section.pictures += _result_pictures(section, number)
    section.pictures += _grid_pictures(section, sources, number)
    try:
        splits, split = _load(section.data, key, [data] if data else _places(sources, key))
    except (ValueError, OSError) as error:
        section.left_out.append(f"Clips per class, and every picture of single clips: {_short(error)}")
        return section
    counts = class_counts(splits)
    if counts:
        caption = "Clips of each class and split, counted in the data set."
        draw = partial(figures.clips_per_class, counts=counts)
        section.pictures.insert(0, Picture(f"clips-per-class-{number}", "Clips per class", caption, draw))
    try:
        _look_closely(section, split, number)
    except (ValueError, OSError, RuntimeError) as error:
        section.left_out.append(f"Every picture of single clips: {_short(error)}")
    return section


def _result_pictures(section: Section, number: str) -> Iterator[Picture]:
    """What the numbers of the results alone show."""
    results = {name: result for name, result in section.results.items() if result["metrics"]["map"] is not None}
    if not results:
        return
    first = next(iter(results))
    variants = {source.name: source.variant for source in section.sources if source.name in results}
    several = [name for name, variant in variants.items() if variant]
    over = several if len({variants[name] for name in several}) > 1 else list(results)
    for direction in DIRECTIONS:
        curves = {name: result["metrics"][direction]["precision_scope"] for name, result in results.items()}
        yield Picture(
            f"precision-scope-{direction.replace('_', '-')}-{number}", f"Precision by scope: {WORDS[direction]}",
            "The share of relevant items among the first K, averaged over the queries.",
            partial(figures.precision_scope, curves=curves),
        )  # fmt: skip
    for direction in DIRECTIONS:
        per_class = {name: _class_maps(result, direction) for name, result in results.items()}
        classes = list(per_class[first])
        means = {each: _mean([per_class[name].get(each) for name in over]) for each in classes} if over[1:] else None
        what = f"mean of {', '.join(over) if len(over) < 5 else f'{len(over)} models'}"
        yield Picture(
            f"class-map-{direction.replace('_', '-')}-{number}", f"MAP by class: {WORDS[direction]}",
            f"Bars: {first}." + (f" Diamonds: the {what}." if means else ""),
            partial(figures.class_precision, name=first, values=per_class[first], others=what, means=means),
        )  # fmt: skip


def _class_maps(result: Mapping[str, Any], direction: str) -> dict[str, float]:
    rows = result["metrics"][direction]["per_class"]
    return {name: row["map"] for name, row in rows.items() if row["map"] is not None}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _grid_pictures(section: Section, sources: Sequence[Source], number: str) -> Iterator[Picture]:
    for place, source in enumerate(source for source in sources if source.cells):
        values, measure = grid_values(source.cells, section.key)
        if not values:
            section.left_out.append(f"The surface over alpha and beta: no cell of {source.name} has both, and a MAP.")
            continue
        rivals = {
            name: result["metrics"]["map"] for name, result in section.results.items()
            if result["model"]["model_type"] != "dualspace" and result["metrics"]["map"] is not None
        }  # fmt: skip
        plane = max(rivals.items(), key=lambda rival: rival[1]) if rivals and measure.endswith(section.key[1]) else None
        yield Picture(
            f"alpha-beta-{number}-{place + 1}", "MAP over alpha and beta",
            f"{measure}, {source.name}." + (f" What beats {plane[0]} is framed." if plane else ""),
            partial(figures.alpha_beta, values=values, measure=measure, plane=plane),
        )  # fmt: skip


def _training_pictures(sources: Sequence[Source]) -> Iterator[Picture]:
    """Runs with the same loss terms in one figure, four at most."""
    groups: dict[frozenset[str], dict[str, list[dict[str, Any]]]] = {}
    for source in sources:
        history = [{"terms": {}, **line} for line in source.run.history if "epoch" in line]
        if history:
            groups.setdefault(frozenset(history[0]["terms"]), {})[source.name] = history
    figures_of = [
        dict(list(runs.items())[start : start + 4]) for runs in groups.values() for start in range(0, len(runs), 4)
    ]
    for number, histories in enumerate(figures_of):
        yield Picture(
            f"loss-{number + 1}", f"Training: {', '.join(histories)}",
            "Each loss term before its weight, their weighted sum, and the MAP on validation, by epoch.",
            partial(figures.loss_terms, histories=histories),
        )  # fmt: skip


def _places(sources: Sequence[Source], key: DataKey) -> list[str]:
    """Where results, of whichever split, say that the data set is."""
    results = [result for source in sources for result in source.results]
    results += [result for source in sources for cell in source.cells for result in cell.results]
    return list(dict.fromkeys(result["data"]["id"] for result in results if result["data"]["fingerprint"] == key[0]))


def _load(data: Mapping[str, Any], key: DataKey, places: Sequence[str]) -> tuple[dict[str, Dataset], Dataset]:
    """All splits, and the one that was scored; raises where it is not here, or not what it was."""
    place = next((place for place in places if Path(place).exists()), None)
    place = place or next((place for place in places if is_hub_id(place)), None)
    if place is None:
        raise ValueError(f"the data set is not at {' nor at '.join(places)}; --data says where it is.")
    config = None if data["config"] in (None, "default") else data["config"]
    split = load_split(place, config, key[1])
    description = Description.parse(split.info.description or "")
    if key[0] not in (description.fingerprint if description else None, dataset_fingerprint({key[1]: split})):
        raise ValueError(f"the data set at {place} is not the one that was scored (its fingerprint is not {key[0]}).")
    everything = load_dataset(place, config)
    return {name: everything[name] for name in in_order(everything)}, split


def _look_closely(section: Section, split: Dataset, number: str) -> None:
    """Adds the pictures of single clips, of the first source that has a model."""
    source = next((source for source in section.sources if source.model), None)
    if source is None:
        raise ValueError("none of the runs has its model beside it.")
    result = section.results[source.name]
    model = load_model(str(source.model))
    if model_fingerprint(model) != result["model"]["fingerprint"]:
        raise ValueError(f"the model of {source.name} has changed since it was evaluated: evaluate it again.")
    print(f"embedding {section.data['id']} with {source.name}", file=sys.stderr)
    found: Sample = sample(model, split)
    section.looked_at = source.name
    section.extremes = found.extremes()
    cosines, labels = found.cosines()
    names = found.names
    planes, classes = found.planes()
    for name, groups in planes.items():
        what = "Circles are sounds, triangles videos. " if len(groups) > 1 else ""
        section.pictures.append(Picture(
            f"tsne-{name.replace(' ', '-')}-{number}", f"t-SNE of the {name}",
            f"{len(classes)} clips of {section.key[1]}, {source.name}, coloured by class. {what}"
            "Neighbours mean something; distances between clusters do not.",
            partial(figures.scatter, groups=groups, labels=classes, names=names),
        ))  # fmt: skip
    section.pictures.append(Picture(
        f"similarity-{number}", "Similarity, ordered by class",
        f"Cosines of {len(labels)} sounds and their videos, {source.name}: squares on the diagonal are classes that "
        "are told apart.",
        partial(figures.similarity, cosines=cosines, labels=labels, names=names),
    ))  # fmt: skip


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith(".") else f"{text}."
