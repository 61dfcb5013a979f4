"""The tables of a comparison, from what its `table.json` says: for a page, for Markdown, for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .published import FORUM, FORUM_SYSTEMS, NETWORKS, S_DCCA, TITLES
from .results import time_of
from .retrieval_scores import DIRECTIONS

ARROWS = {"audio_to_visual": "audio→visual", "visual_to_audio": "visual→audio", "map": "mean"}
THREE = (*DIRECTIONS, "map")
NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Words in rows and columns.

    Args:
        title: above it.
        head: of the columns.
        rows: as many words each.
        notes: below it, a sentence each.
        best: places of the rows and columns that lead.
        wide: whether a terminal has no room for it.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    best: frozenset[tuple[int, int]] = frozenset()
    wide: bool = False


def make_tables(table: Mapping[str, Any]) -> list[Table]:
    """All of them: of each data set, of all together, and those of the forum paper where the data are at hand."""
    found = []
    for data in table["data"]:
        rows = [row for row in table["rows"] if row["data"] == data["fingerprint"]]
        found += [_maps(table, data, rows), _times(data, rows)]
    if len(table["data"]) > 1:
        found.append(_across(table))
    found += [*_pairs(table), *_forum(table)]
    for data in table["data"]:
        rows = [row for row in table["rows"] if row["data"] == data["fingerprint"]]
        found += _classes(data, rows)
    return found


def to_markdown(name: str, tables: Sequence[Table]) -> str:
    """A page of them."""
    return "\n".join([f"# {name}", "", *(f"{_markdown(table)}\n" for table in tables)])


def to_terminal(tables: Sequence[Table]) -> str:
    """Those that a terminal has room for."""
    return "\n\n".join(_markdown(table, "") for table in tables if not table.wide)


def _markdown(table: Table, mark: str = "## ") -> str:
    """One, its columns aligned; without a mark, as a terminal shows it."""
    rows = [table.head, *table.rows]
    cells = [[_escaped(word) for word in row] if mark else list(row) for row in rows]
    if mark:
        for row, column in table.best:
            cells[row + 1][column] = f"**{cells[row + 1][column]}**"
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(table.head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for words in [cells[0], rule, *cells[1:]]:
        name, *rest = (word.rjust(width) for word, width in zip(words, widths, strict=True))
        lines.append(f"| {' | '.join([words[0].ljust(len(name)), *rest])} |")
    notes = ["", "  \n".join(table.notes)] if table.notes else []
    return "\n".join([f"{mark}{table.title}", "", *lines, *notes])


def _escaped(word: str) -> str:
    return word.replace("|", "\\|")


def _maps(table: Mapping[str, Any], data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Measured, and beside it the paper's where the data are."""
    measure = next((row["measure"] for row in rows if row["measure"]), "MAP")
    published = any(row["published"] for row in rows)
    legacy = any("legacy_prefix_average" in row for row in rows)
    head = ["system", *(f"{ARROWS[name]}, measured" for name in THREE)]
    head += ["legacy prefix average, measured"] if legacy else []
    head += [f"{ARROWS[name]}, the paper's" for name in THREE] if published else []
    lines = []
    for row in rows:
        line = [row["system"], *(_figure(row.get(name)) for name in THREE)]
        line += [_figure(row.get("legacy_prefix_average"))] if legacy else []
        line += [_plain((row["published"] or {}).get(name)) for name in THREE] if published else []
        lines.append(line)
    notes = [*_about(data), *_seeds(table, rows, measure)]
    if legacy:
        notes.append(
            "The paper's AVE figures are plausibly legacy prefix averages, over every prefix of a ranking: a random "
            "ranking has .1246 by it and a MAP of .0998 on 189 clips."
        )
    return Table(f"{measure} on {_name(data)}", head, lines, [*notes, *_failures(rows)], _leads(rows, 3))


def _leads(rows: Sequence[Mapping[str, Any]], column: int) -> frozenset[tuple[int, int]]:
    """The best mean, wherever it stands twice."""
    means = [row["map"]["mean"] if row.get("map") else None for row in rows]
    known = [mean for mean in means if mean is not None]
    return frozenset((place, column) for place, mean in enumerate(means) if known and mean == max(known))


def _about(data: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{count:,} {split}" for split, count in data["clips"].items())
    about = [f"Clips: {counts}. Data fingerprint {data['fingerprint']}."]
    if data["synthetic"]:
        about.insert(0, "These features are synthetic: good for trying the software, and for nothing else.")
    elif data["paper"] and not data["comparable"]:
        about.append(f"Clips of {TITLES[data['paper']]}, with other features than the paper's.")
    return about


def _seeds(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    """How the figures came about."""
    full = "Over the full ranking, by cosine; a query's own pair stays in the gallery."
    if measure != "MAP":
        full = "Nobody annotated these clips, so there is no MAP: this is how often a query finds its own pair."
    seeds = table["seeds"]
    if len(seeds) < 2:
        return [f"{full} Seed {seeds[0]}."]
    once = any(len(row["cells"]) == 1 for row in rows)
    rest = " What draws nothing by chance is trained once, and has no deviation." if once else ""
    return [f"{full} Mean ± deviation over the seeds {', '.join(map(str, seeds))}.{rest}"]


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for row in rows:
        by_reason: dict[str, list[str]] = {}
        for cell in row["cells"]:
            if "failed" in cell:
                by_reason.setdefault(cell["failed"], []).append(str(cell["seed"]))
        for reason, seeds in by_reason.items():
            plural = "seeds" if len(seeds) > 1 else "seed"
            said.append(f"{row['system']}, {plural} {', '.join(seeds)}, failed and is in no mean: {reason}")
    return said


def _times(data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    published = any(row["published_minutes"] is not None for row in rows)
    head = ["system", "training, measured", "minutes, measured", "updates", "on"]
    head += ["minutes, the paper's"] if published else []
    lines = []
    for row in rows:
        done = [cell for cell in row["cells"] if "failed" not in cell]
        updates = sorted({cell["updates"] for cell in done})
        many = f"{updates[0]:,}" + (f" to {updates[-1]:,}" if len(updates) > 1 else "") if updates else NOTHING
        seconds = row["seconds"]["mean"] if row["seconds"] else None
        words = [NOTHING, NOTHING] if seconds is None else [time_of(seconds), f"{seconds / 60:.2f}"]
        line = [row["system"], *words, many, ", ".join(dict.fromkeys(map(_place, done))) or NOTHING]
        if published:
            line.append(NOTHING if row["published_minutes"] is None else f"{row['published_minutes']:.2f}")
        lines.append(line)
    notes = ["Validations and the refit included; the mean over seeds. What ran beside a cell took its share."]
    notes += ["The paper names neither its hardware nor its epochs."] if published else []
    return Table(f"Time cost on {_name(data)}", head, lines, notes)


def _place(cell: Mapping[str, Any]) -> str:
    threads = cell["threads"]
    if cell["device"] != "cpu" or not threads:
        return str(cell["device"])
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}"


def _across(table: Mapping[str, Any]) -> Table:
    """All systems on all data sets."""
    systems = list(dict.fromkeys(row["system"] for row in table["rows"]))
    known = [row for row in table["rows"] if row["measure"] == "MAP"]
    found = {(row["system"], row["data"]): row["map"] for row in known}
    lines = [[name, *(_figure(found.get((name, data["fingerprint"]))) for data in table["data"])] for name in systems]
    head = ["system", *(f"{_name(data)}, measured" for data in table["data"])]
    return Table("MAP on all data sets, the mean of both directions", head, lines)


def _pairs(table: Mapping[str, Any]) -> Iterator[Table]:
    """The forum paper's first: S-DCCA by what made the features, where data sets differ in that."""
    rows = {}
    for data in table["data"]:
        row = next(
            (row for row in table["rows"] if (row["system"], row["data"]) == ("C-DCCA", data["fingerprint"])), None
        )
        if data["features"] and tuple(data["features"]) in S_DCCA and row:
            rows[data["fingerprint"]] = (data, row)
    if len({tuple(data["features"]) for data, _ in rows.values()}) < 2:
        return
    known = any(data["paper"] == "vegas" for data, _ in rows.values())
    lines = []
    order = list(S_DCCA)
    for data, row in sorted(rows.values(), key=lambda pair: order.index(tuple(pair[0]["features"]))):
        pair = tuple(data["features"])
        line = [" + ".join(NETWORKS[name] for name in pair), _name(data), *(_figure(row.get(name)) for name in THREE)]
        if known:
            line += map(_plain, _with_mean(S_DCCA[pair] if data["paper"] == "vegas" else None))
        lines.append(line)
    head = ["features", "data", *_forum_head(known)]
    yield Table("S-DCCA by features", head, lines, ["Measured is C-DCCA, which is the same idea."])


def _forum(table: Mapping[str, Any]) -> Iterator[Table]:
    """The forum paper's second: four systems on VEGAS."""
    for data in (data for data in table["data"] if data["comparable"] == "vegas"):
        rows = {row["system"]: row for row in table["rows"] if row["data"] == data["fingerprint"]}
        lines = [
            [name, *(_figure(rows[ours].get(key)) for key in THREE), *map(_plain, _with_mean(FORUM[name]))]
            for name, ours in FORUM_SYSTEMS.items() if ours in rows
        ]  # fmt: skip
        if lines:
            note = "Measured S-DCCA is C-DCCA, and measured TNN is TNN-C-CCA."
            yield Table(f"The forum paper's systems on {_name(data)}", ["system", *_forum_head(True)], lines, [note])


def _forum_head(published: bool) -> list[str]:
    theirs = [f"{ARROWS[name]}, the forum paper's" for name in THREE] if published else []
    return [*(f"{ARROWS[name]}, measured" for name in THREE), *theirs]


def _with_mean(both: tuple[float, float] | None) -> tuple[float | None, ...]:
    return (None, None, None) if both is None else (*both, sum(both) / 2)


def _classes(data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """MAP of each class, every system."""
    for way in DIRECTIONS:
        names = list(dict.fromkeys(name for row in rows for name in row["classes"].get(way, {})))
        if names:
            lines = [
                [row["system"], *(_figure(row["classes"].get(way, {}).get(name), False) for name in names)]
                for row in rows
            ]
            title = f"MAP by class on {_name(data)}, {ARROWS[way]}, measured"
            yield Table(title, ["system", *names], lines, wide=True)


def _name(data: Mapping[str, Any]) -> str:
    name = str(data["id"]).rstrip("/").split("/")[-1]
    return name if data["config"] in (None, "default") else f"{name} ({data['config']})"


def _figure(value: Mapping[str, float] | None, spread: bool = True) -> str:
    if value is None:
        return NOTHING
    return f"{value['mean']:.4f}" + (f" ± {value['deviation']:.4f}" if spread and value["deviation"] else "")


def _plain(value: float | None) -> str:
    """A published one, which has three or four places."""
    return NOTHING if value is None else f"{value:.4f}".removesuffix("0")
