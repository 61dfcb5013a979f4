"""Every system of a suite on the same data: the paper's tables, cell by cell, and gone on with where it stopped."""

import os
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .comparison_cells import Cell, ComparedData, check_cells, make_cells, read_data
from .comparison_tables import Table, make_tables, to_markdown
from .comparison_workers import DONE, run_cells
from .console import StoppedError, asked_to_stop, quiet, sentence
from .distributed import cores
from .files import locked, write_file, write_json
from .published import MAPS, MINUTES
from .report import write_report
from .results import time_of
from .retrieval_scores import DIRECTIONS
from .suite import Suite

FORMAT = 1
PAGE = "report.html"
MADE = ("cells", "table.json", "tables.md", PAGE, "report-figures", ".lock")
"""All that is ever in a comparison's folder."""
FIGURES = ("map", *DIRECTIONS, "legacy_prefix_average")


def run_comparison(
    suite: Suite,
    data: Sequence[str],
    out: Path,
    *,
    config: str | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    command: str | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """Trains and scores what is not finished, writes tables and report, and returns what `table.json` says.

    A cell lies in `cells/<fingerprint>/`, by what decides its outcome: what is finished is read, whoever made it, and
    what was begun is gone on with. A cell that fails is a sentence in the table, and is tried again the next time.

    Args:
        suite: what is compared; see `load_suite`.
        data: folders of data sets, or their ids on the Hub.
        out: the folder.
        config: of the data sets.
        jobs: cells at a time: by default as many as there are cores, or one on a GPU.
        threads: of each cell on a CPU: one, unless said otherwise. With the same number cells are the same to the bit,
            however many run at a time.
        command: what was typed.
        report: whether to draw the page too.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # the group of processes is not there yet
        raise ValueError(
            "A comparison runs cells side by side by --jobs, and each in one process: leave the launcher out."
        )
    _check_ours(out)
    with quiet():
        opened = [read_data(path, config) for path in data]
    compared = [one for one, _ in opened]
    prints = [one.fingerprint for one in compared]
    if twice := next((one.id for one in compared if prints.count(one.fingerprint) > 1), None):
        raise ValueError(f"{twice} is named twice, or is what another data set is: name each once.")
    cells = make_cells(suite, compared, out)
    with quiet():
        check_cells(suite, [cell for cell in cells if not cell.finished], {one.fingerprint: to for one, to in opened})
    del opened
    with locked(out, f"Another comparison is at work in {out}: wait for it, or name another folder by --out."):
        failed = _run(cells, jobs=jobs, threads=threads, command=command)
        table = _table(suite, compared, cells, failed)
        write_json(out / "table.json", table)
        tables = make_tables(table)
        write_file(out / "tables.md", to_markdown(suite.name, tables).encode())
        if report:
            try:
                _report(suite, cells, failed, tables, out, command)
            except KeyboardInterrupt:
                said = f"stopped: the tables are written, in {out}, and the same command draws the page"
                raise StoppedError(signal.SIGINT, said) from None
    return table


def _check_ours(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, and a comparison is a folder: name another by --out.")
    found = [one.name for one in out.iterdir()] if out.is_dir() else []
    foreign = [name for name in found if name not in MADE and not name.startswith(".tmp-")]
    if foreign:
        raise ValueError(
            f"{out} holds {foreign[0]}, which no comparison makes, so nothing is written there: name another folder by "
            "--out."
        )


def _run(cells: Sequence[Cell], *, jobs: int | None, threads: int | None, command: str | None) -> dict[Path, str]:
    """Runs what is not finished; gives the sentences of those that failed."""
    on_cpu = not torch.accelerator.is_available()
    different = {cell.folder: cell for cell in cells}
    waiting = [cell for folder, cell in different.items() if not cell.finished]
    jobs = jobs or (min(cores(), len(waiting)) if on_cpu else 1) or 1
    ready, failed = len(different) - len(waiting), dict[Path, str]()
    if ready:
        _say(f"{ready} of {len(different)} cells are finished already")
    for cell in waiting:
        if damage := cell.damage:
            _say(f"{cell.title}: {damage}, so it is made anew ({cell.folder})")
    with asked_to_stop() as stop:
        settings: dict[str, Any] = {"threads": threads or (1 if on_cpu else None), "command": command, "stop": stop}
        try:
            for count, (cell, ended) in enumerate(run_cells(waiting, jobs=jobs, **settings), start=1):
                ready += ended == DONE
                if ended != DONE:
                    failed[cell.folder] = ended
                outcome = _outcome(cell) if ended == DONE else f"FAILED: {ended} ({cell.folder})"
                _say(f"{cell.title}: {outcome}; {len(waiting) - count} left")
        except StoppedError as stopped:
            rest = "goes on with the rest" if ready < len(different) else "writes the tables"
            said = f"stopped: {ready} of {len(different)} cells are finished; the same command {rest}"
            raise StoppedError(stopped.signal, said) from None
    return failed


def _outcome(cell: Cell) -> str:
    record = cell.record()
    return f"{record['measure']} {record['map']:.4f}, {record['updates']:,} updates, {time_of(record['seconds'])}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(
    suite: Suite, data: Sequence[ComparedData], cells: Sequence[Cell], failed: Mapping[Path, str]
) -> dict[str, Any]:
    """Rows in the order of data sets and systems: neither dates nor seconds decide anything but their own figures."""
    rows = []
    for one in data:
        for name in suite.systems:
            of_row = [cell for cell in cells if cell.system == name and cell.data is one]
            rows.append({"system": name, "data": one.fingerprint} | _row(of_row, failed) | _published(name, one))
    return {
        "format": FORMAT,
        "name": suite.name,
        "seeds": suite.seeds,
        "data": [one.facts() for one in data],
        "rows": rows,
    }


def _row(cells: Sequence[Cell], failed: Mapping[Path, str]) -> dict[str, Any]:
    records: list[dict[str, Any]] = [
        {"seed": cell.seed, "cell": cell.folder.name, "failed": failed[cell.folder]}
        if cell.folder in failed
        else cell.record()
        for cell in cells
    ]
    known = [record for record in records if "failed" not in record]
    row: dict[str, Any] = {"measure": known[0]["measure"] if known else None}
    row |= {name: _over_seeds([record[name] for record in known]) for name in FIGURES if known and name in known[0]}
    row["classes"] = {
        way: {
            name: _over_seeds([record["classes"][way][name] for record in known]) for name in known[0]["classes"][way]
        }
        for way in (DIRECTIONS if known else ())
    }
    row["seconds"] = _over_seeds([record["seconds"] for record in known])
    shown = [{key: value for key, value in record.items() if key not in ("measure", "classes")} for record in records]
    return row | {"cells": shown}


def _over_seeds(values: Sequence[float | None]) -> dict[str, float] | None:
    """Their mean, and how they deviate from it; None where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known), "deviation": statistics.stdev(known) if len(known) > 1 else 0.0}


def _published(system: str, data: ComparedData) -> dict[str, Any]:
    """The paper's figures, where its data these are."""
    found = MAPS.get(data.comparable or "", {}).get(system)
    figures = None if found is None else dict(zip((*DIRECTIONS, "map"), found, strict=True))
    minutes = MINUTES.get(system) if data.comparable == "vegas" else None
    return {"published": figures, "published_minutes": minutes}


def _report(
    suite: Suite,
    cells: Sequence[Cell],
    failed: Mapping[Path, str],
    tables: Sequence[Table],
    out: Path,
    command: str | None,
) -> None:
    """The page about the cells of the first seed; a sentence where there can be none."""
    shown = [cell for cell in cells if cell.seed == suite.seeds[0] and cell.folder not in failed]
    if not shown:
        return
    best = max((cell for cell in shown if cell.data is shown[0].data), key=lambda cell: cell.record()["map"])
    names = [cell.system for cell in shown]
    note = f"Of seed {suite.seeds[0]} alone, here and below; the tables above have the means." * (len(suite.seeds) > 1)
    try:
        with quiet():
            written = write_report(
                [cell.folder for cell in shown], out / PAGE, command=command, names=names, tables=tables,
                closely=best.system, title=f"DualSpace report: {suite.name}", note=note,
            )  # fmt: skip
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _say(f"{out / PAGE} is not written: {sentence(error)}")
        return
    for line in written["left_out"]:
        _say(f"Left out of the report: {line}")
