"""One self-contained page about runs, their results and their models, and its figures as PNG for cards."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import DictLoader, Environment, StrictUndefined

from . import figures
from .comparison_tables import Table
from .feature_schema import in_order
from .figure_style import DARK, LIGHT, to_png, to_svg
from .files import atomic_folder, check_file, model_fingerprint, write_file
from .loading import find_split, load_model, load_splits
from .optional import require
from .report_pictures import WORDS, Picture, grid_pictures, result_pictures, training_pictures, validation_grids
from .report_samples import PLANES, Sample, class_counts, sample
from .report_sources import DataKey, Source, key_of, read_sources, results_of
from .results import check_result, is_hub_id, notes_of, time_of
from .retrieval_scores import DIRECTIONS

TEMPLATE = Path(__file__).with_name("report_page.html")


@dataclass
class Section:
    """What is known about one split of one data set.

    Args:
        key: which one.
        sources: those that were scored on it.
        data: as a result calls it.
        pictures: of it.
        extremes: the best and the worst queries, by direction.
        looked_at: whose.
        place: where the data set was found.
    """

    key: DataKey
    sources: list[Source]
    data: Mapping[str, Any]
    pictures: list[Picture] = field(default_factory=list)
    extremes: dict[str, Any] = field(default_factory=dict)
    looked_at: str = ""
    place: str = ""

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """By the name of the source."""
        return results_of(self.sources, self.key)

    @property
    def notes(self) -> list[str]:
        """What was left out of the figures, and of whose unless of all."""
        said: dict[str, list[str]] = {}
        for name, result in self.results.items():
            for line in notes_of(result["metrics"]):
                said.setdefault(line, []).append(name)
        return [
            line if len(names) == len(self.results) else f"{', '.join(names)}: {line}" for line, names in said.items()
        ]


def write_report(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    data: str | None = None,
    command: str | None = None,
    names: Sequence[str] | None = None,
    tables: Sequence[Table] = (),
    closely: str | None = None,
    title: str = "DualSpace report",
    note: str = "",
) -> dict[str, Any]:
    """Writes the page to `out` and the figures beside it, into a folder called after it; returns what was written.

    Args:
        paths: run folders, grids, or result files.
        out: the HTML file.
        data: where a data set is, if not where it was when the results were made.
        command: what was typed.
        names: what each run is called; see `read_sources`.
        tables: that stand on top of the page.
        closely: the name of the one that is looked at closely; the first that has a model, otherwise.
        title: of the page.
        note: beside the results on each data set.
    """
    out = check_file(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"A report is a page, and {out.name} does not end in .html: call it {out.name}.html.")
    require("matplotlib", extra="report")
    if data and not Path(data).is_dir() and not is_hub_id(data):
        raise ValueError(f"--data {data} is no folder here, and no id of the Hub.")
    sources = read_sources(paths, names)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(source.name for source in sources))}
    keys = _keys(sources)
    training = [*training_pictures(sources, numbers), *validation_grids(sources, keys)]
    for result in _all_results(sources):
        check_result(result, f"The result of {result['model']['id']} on {result['data']['split']}")
    if not keys and not training:
        raise ValueError(
            f"There is nothing to show, no history and no result, in {', '.join(map(str, paths))}: run "
            "`dualspace evaluate MODEL DATA` first."
        )
    left_out = [
        f"{source.name} has no result: `dualspace evaluate` makes one."
        for source in sources if not source.results and not source.cells
    ]  # fmt: skip
    folder = out.with_name(f"{out.stem}-figures")
    with atomic_folder(folder, overwrite=True) as drawn:
        sections = [_section(key, sources, numbers, data, left_out, closely) for key in keys]
        if data and all(section.place != data for section in sections):
            left_out.append(f"--data {data} holds none of the data sets that were scored.")
        shown: dict[str, str] = {}
        for picture in [*(picture for section in sections for picture in section.pictures), *training]:
            print(f"drawing {picture.name}", file=sys.stderr)
            shown[picture.name] = to_svg(picture.draw, picture.name, f"{picture.title}. {picture.caption}")
            (drawn / f"{picture.name}.png").write_bytes(to_png(picture.draw))
        page = _page(
            sections=sections, training=training, left_out=left_out, shown=shown, command=command, tables=tables,
            title=title, note=note,
        )  # fmt: skip
    write_file(out, page.encode())
    figures_written = [str(folder / f"{name}.png") for name in shown]
    return {"report": str(out), "figures": figures_written, "left_out": left_out}


def _page(**values: Any) -> str:
    environment = Environment(
        loader=DictLoader({"page": TEMPLATE.read_text(encoding="utf-8")}), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    date = datetime.now(UTC).isoformat(timespec="minutes")
    return environment.get_template("page").render(
        **values, date=date, time_of=time_of, words=WORDS, light=LIGHT, dark=DARK, directions=list(DIRECTIONS)
    )


def _all_results(sources: Sequence[Source]) -> list[Mapping[str, Any]]:
    """Of the sources, and then of the cells of grids."""
    results = [result for source in sources for result in source.results]
    return results + [result for source in sources for cell in source.cells for result in cell.results]


def _keys(sources: Sequence[Source]) -> list[DataKey]:
    """The splits that any result is of, in the order in which they come."""
    return list(dict.fromkeys(map(key_of, _all_results(sources))))


def _section(
    key: DataKey,
    sources: Sequence[Source],
    numbers: Mapping[str, int],
    data: str | None,
    left_out: list[str],
    closely: str | None,
) -> Section:
    scored = [source for source in sources if source.result(key)]
    found = next(result["data"] for result in _all_results(sources) if key_of(result) == key)
    section = Section(key, scored, found)
    tail = re.sub(r"[^\w-]+", "-", f"{key[1]}-{key[0][:4]}").strip("-")  # in names of files
    section.pictures += [*result_pictures(scored, key, numbers, tail), *grid_pictures(sources, key, numbers, tail)]
    what = f"{found['id']}, {key[1]}"
    try:
        section.place, splits, split = _load(found, key, [*([data] if data else []), *_places(sources, key)])
    except (ValueError, OSError) as error:
        left_out.append(f"{what}: clips per class, and every picture of single clips: {_short(error)}")
        return section
    counts = class_counts(splits)
    if counts:
        caption = "Clips of each class and split, counted in the data set."
        draw = partial(figures.clips_per_class, counts=counts)
        section.pictures.insert(0, Picture(f"clips-per-class-{tail}", "Clips per class", caption, draw))
    if section.sources:
        try:
            left_out += [f"{what}: {line}" for line in _look_closely(section, split, tail, closely)]
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            left_out.append(f"{what}: every picture of single clips: {_short(error)}")
    return section


def _places(sources: Sequence[Source], key: DataKey) -> list[str]:
    """Where results, of whichever split, say that the data set is."""
    found = [result["data"] for result in _all_results(sources) if key_of(result)[0] == key[0]]
    return list(dict.fromkeys(data["id"] for data in found))


def _load(data: Mapping[str, Any], key: DataKey, places: Sequence[str]) -> tuple[str, dict[str, Dataset], Dataset]:
    """Where it is, all splits, and the one that was scored."""
    place, split = find_split(data, key[1], places)
    everything = load_splits(place, None if data["config"] in (None, "default") else data["config"])
    return place, {name: everything[name] for name in in_order(everything)}, split


def _look_closely(section: Section, split: Dataset, tail: str, closely: str | None) -> Iterator[str]:
    """Adds the pictures of single clips, of that source or the first with a model; gives what could not be drawn."""
    named = sorted(section.sources, key=lambda source: source.name != closely)
    source = next((source for source in named if source.model), None)
    if source is None:
        raise ValueError("none of the models is where it was.")
    model = load_model(str(source.model))
    if model_fingerprint(model) != section.results[source.name]["model"]["fingerprint"]:
        raise ValueError(f"the model of {source.name} has changed since it was evaluated: evaluate it again.")
    print(f"embedding {section.data['id']} with {source.name}", file=sys.stderr)
    found = sample(model, split)
    section.looked_at, section.extremes = source.name, found.extremes()
    cosines, labels = found.cosines()
    section.pictures.append(Picture(
        f"similarity-{tail}", "Similarity, ordered by class",
        f"Cosines of {len(labels)} sounds and their videos, {source.name}: squares on the diagonal are classes that "
        "are told apart.",
        partial(figures.similarity, cosines=cosines, labels=labels, names=found.names),
    ))  # fmt: skip
    return _planes(section, found, source.name, tail)


def _planes(section: Section, found: Sample, name: str, tail: str) -> Iterator[str]:
    failed: dict[str, list[str]] = {}
    for what in PLANES:
        try:
            groups, classes = found.plane(what)
        except ValueError as error:
            failed.setdefault(_short(error), []).append(what)
            continue
        shapes = "Circles are sounds, triangles videos. " if len(groups) > 1 else ""
        section.pictures.append(Picture(
            f"tsne-{what.replace(' ', '-')}-{tail}", f"t-SNE of the {what}",
            f"{len(classes)} clips of {section.key[1]}, {name}; words and colours are classes. {shapes}"
            "Neighbours mean something; distances between clusters do not.",
            partial(figures.scatter, groups=groups, labels=classes, names=found.names),
        ))  # fmt: skip
    for reason, planes in failed.items():
        yield f"t-SNE of the {', '.join(planes)}: {reason}"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith(".") else f"{text}."
