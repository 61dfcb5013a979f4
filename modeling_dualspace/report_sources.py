"""What a report is about: runs, results and grids, found under the paths a person names."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .results import Run, model_folder, read_result

DataKey = tuple[str, str]
"""A split as results know it: the fingerprint of its data set, and its name."""


@dataclass(frozen=True)
class Source:
    """One of the things a report compares: a run, or a result without one.

    Args:
        name: what it is called in tables and figures.
        run: its recipe and history, where there are any.
        results: its evaluations.
        cells: of a grid, the runs of its cells.
    """

    name: str
    run: Run
    results: Sequence[Mapping[str, Any]]
    cells: Sequence[Run] = field(default=())

    @property
    def model(self) -> Path | None:
        """Where its model lies."""
        return model_folder(str(self.run.folder)) if self.run.folder else None

    @property
    def variant(self) -> str | None:
        """Of the dual-subspace model; None where it is something else, or nobody knows."""
        if self.model is None:
            return (self.run.recipe or {}).get("model", {}).get("variant")
        config = json.loads((self.model / "config.json").read_text(encoding="utf-8"))
        return config.get("variant") if config.get("model_type") == "dualspace" else None

    def result(self, key: DataKey) -> Mapping[str, Any] | None:
        """Its evaluation on one split, the newest."""
        found = [result for result in self.results if key_of(result) == key]
        return max(found, key=lambda result: result.get("date") or "", default=None)


def key_of(result: Mapping[str, Any]) -> DataKey:
    """Which split a result is of."""
    return result["data"]["fingerprint"], result["data"]["split"]


def read_sources(paths: Iterable[str | Path]) -> list[Source]:
    """Reads what lies under the paths; raises, naming the path, where nothing of ours does."""
    sources = [_read(Path(path)) for path in paths]
    names: dict[str, int] = {}
    result = []
    for source in sources:
        count = names[source.name] = names.get(source.name, 0) + 1
        name = source.name if count == 1 else f"{source.name} ({count})"
        result.append(Source(name, source.run, source.results, source.cells))
    return result


def _read(path: Path) -> Source:
    if path.is_file():
        result = read_result(path)
        folder = path.resolve().parent.parent  # of a run, if results/ is where it lies
        run = Run(folder if path.parent.name == "results" and _is_run(folder) else None)
        return Source(_name(run, str(result["model"]["id"])), run, [result])
    if path.name == "model" and _is_run(path.parent):
        path = path.parent
    cells = [Run(cell) for cell in sorted(path.glob("cells/*")) if _is_run(cell)]
    if not cells and not _is_run(path):
        raise ValueError(
            f"{path} is no run: expected a folder that training wrote (with history.jsonl, model/ or results/), a grid "
            "(with cells/), or a result that `dualspace evaluate` wrote."
        )
    run = Run(path)
    return Source(_name(run, str(path)), run, run.results, cells)


def _is_run(folder: Path) -> bool:
    places = ("history.jsonl", "model/config.json", "results")
    return folder.is_dir() and any((folder / place).exists() for place in places)


def _name(run: Run, path: str) -> str:
    parts = [part for part in Path(path).parts if part not in ("model", ".", "..")]
    return str((run.recipe or {}).get("name") or (parts[-1] if parts else path))


def grid_values(cells: Sequence[Run], key: DataKey) -> tuple[dict[tuple[float, float], float], str]:
    """MAP by (alpha, beta), the mean over further settings and seeds, and what it was measured on.

    On the split of `key` where every cell was scored there, else on validation: a grid may well not have seen test.
    """
    scored = {cell: [result for result in cell.results if key_of(result) == key] for cell in cells}
    on_split = all(scored.values())
    found: dict[tuple[float, float], list[float]] = {}
    for cell in cells:
        settings = (cell.recipe or {}).get("model") or {}
        validations = [(line.get("validation") or {}).get("map") for line in cell.history]
        values = [result["metrics"]["map"] for result in scored[cell]] if on_split else validations
        known = [value for value in values if value is not None]
        if {"alpha", "beta"} <= settings.keys() and known:
            found.setdefault((float(settings["alpha"]), float(settings["beta"])), []).append(max(known))
    means = {pair: sum(values) / len(values) for pair, values in found.items()}
    return means, f"MAP on {key[1]}" if on_split else "best MAP on validation"
