"""What a report is about: runs, results and grids, found under the paths a person names."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        """Where its model lies: in the run, or where a result says it was."""
        places = [str(self.run.folder)] if self.run.folder else [result["model"]["id"] for result in self.results]
        return next((folder for place in places if (folder := model_folder(place))), None)

    @property
    def variant(self) -> str | None:
        """Of the dual-subspace model; None where it is something else, or nobody knows."""
        if self.model is None:
            recipe = self.run.recipe or next((result["recipe"] for result in self.results if result.get("recipe")), {})
            return (recipe.get("model") or {}).get("variant")
        try:
            config = json.loads((self.model / "config.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise ValueError(f"{self.model}/config.json is no JSON: save the model again.") from None
        return config.get("variant") if config.get("model_type") == "dualspace" else None

    def result(self, key: DataKey) -> Mapping[str, Any] | None:
        """Its evaluation on one split, the newest."""
        return newest_of(self.results, key)


def key_of(result: Mapping[str, Any]) -> DataKey:
    """Which split a result is of."""
    return result["data"]["fingerprint"], result["data"]["split"]


def results_of(sources: Iterable[Source], key: DataKey) -> dict[str, Mapping[str, Any]]:
    """The results on one split, by the name of the source."""
    return {source.name: result for source in sources if (result := source.result(key))}


def newest_of(results: Iterable[Mapping[str, Any]], key: DataKey) -> Mapping[str, Any] | None:
    """The newest result of a split."""
    found = [result for result in results if key_of(result) == key]
    return max(found, key=lambda result: result.get("date") or "", default=None)


def read_sources(paths: Iterable[str | Path], names: Iterable[str] | None = None) -> list[Source]:
    """Reads what lies under the paths; raises, naming the path, where nothing of ours does.

    Args:
        paths: runs, grids, results, folders of such.
        names: what each is called, one a path, each of which is a run then; two may be called alike that are of
            different data.
    """
    if names is not None:
        return [replace(_read(Path(path)), name=name) for path, name in zip(paths, names, strict=True)]
    named: dict[str, Source] = {}
    for source in (_read(place) for path in paths for place in _places(Path(path))):
        same = next((other for other in named.values() if _is_same(source, other)), None)
        if same:  # it was named before, or this is one more result of it
            more = [result for result in source.results if result not in same.results]
            named[same.name] = replace(same, results=[*same.results, *more])
            continue
        numbers, name = itertools.count(2), source.name
        if name in named and source.run.folder:  # two runs of one recipe are told apart by their folders
            name = f"{source.name} ({source.run.folder.resolve().name})"
        while name in named:
            name = f"{source.name} ({next(numbers)})"
        named[name] = replace(source, name=name)
    return list(named.values())


def _is_same(one: Source, other: Source) -> bool:
    """Whether both are of one run or, without a run, of one model."""
    if one.run.folder and other.run.folder:
        return one.run.folder.samefile(other.run.folder)
    if one.run.folder or other.run.folder:
        return False
    return one.results[0]["model"]["id"] == other.results[0]["model"]["id"]


def _places(path: Path) -> list[Path]:
    """The path, or what lies in a folder of results or of runs."""
    if not path.exists():
        raise ValueError(f"There is nothing at {path}: expected a run, a grid, or a result of `dualspace evaluate`.")
    cells = _cells_of(path)
    if cells and _table(path) and not _is_surface(path):
        return cells  # each for itself: of other settings than alpha and beta there is no surface
    if path.is_file() or _is_run(path) or cells:
        return [path]
    inside = sorted(path.glob("*.json")) if not (path / "config.json").exists() else []
    inside += [folder for folder in sorted(path.iterdir()) if _is_run(folder)] if path.is_dir() else []
    if not inside and (path / "config.json").exists() and path.name != "model":
        raise ValueError(
            f"{path} holds a model and no result: `dualspace evaluate {path} DATA` makes one to report on."
        )
    return inside or [path]


def _read(path: Path) -> Source:
    if path.is_file():
        result = read_result(path)
        folder = path.resolve().parent.parent  # of a run, if results/ is where it lies
        run = Run(folder if path.resolve().parent.name == "results" and _is_run(folder) else None)
        name = (result.get("recipe") or {}).get("name") or _name(run, str(run.folder or result["model"]["id"]))
        return Source(str(name), run, [result])
    if path.name == "model" and _is_run(path.parent):
        path = path.parent
    cells = [Run(cell) for cell in _cells_of(path)]
    if not cells and not _is_run(path):
        raise ValueError(
            f"{path} is no run: expected a folder that training wrote (with history.jsonl, model/ or results/), a grid "
            "(with cells/), or a result that `dualspace evaluate` wrote."
        )
    run = Run(path)
    return Source(_name(run, str(path)), run, run.results, cells)


def _cells_of(path: Path) -> list[Path]:
    """Of a grid, as its table has them: what else lies there is of former ones."""
    found = [cell for cell in sorted(path.glob("cells/*")) if _is_run(cell)]
    rows = _table(path).get("rows", [])
    named = [cell.get("cell") for row in rows for cell in row.get("cells", [row])]  # a comparison has several a row
    return [cell for cell in found if cell.name in named] if named else found


def _is_surface(path: Path) -> bool:
    return {"model.alpha", "model.beta"} <= set(_table(path).get("grid", {}))


def _table(path: Path) -> dict[str, Any]:
    """What a grid's table says; nothing where there is none that can be read."""
    try:
        content = json.loads((path / "table.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_run(folder: Path) -> bool:
    places = ("history.jsonl", "model/config.json", "results")
    return folder.is_dir() and any((folder / place).exists() for place in places)


def _name(run: Run, path: str) -> str:
    path = str(Path(path).resolve()) if Path(path).exists() else path
    parts = [part for part in Path(path).parts if part not in ("model", ".", "..")]
    return str((run.recipe or {}).get("name") or (parts[-1] if parts else path))


def grid_values(cells: Sequence[Run], key: DataKey | None) -> dict[tuple[float, float], float]:
    """MAP by (alpha, beta), the mean over further settings and seeds.

    Args:
        cells: of the grid.
        key: the split they were scored on: nothing unless all of them were, as a grid may well not have seen test but
            for its winner. None is the best MAP on validation.
    """
    if key is not None and not all(newest_of(cell.results, key) for cell in cells):
        return {}
    found: dict[tuple[float, float], list[float]] = {}
    for cell in cells:
        settings = (cell.recipe or {}).get("model") or {}
        if key is None:
            values = [(line.get("validation") or {}).get("map") for line in cell.history]
        else:
            newest = newest_of(cell.results, key)
            values = [newest["metrics"]["map"]] if newest else []
        known = [value for value in values if value is not None]
        if {"alpha", "beta"} <= settings.keys() and known:
            found.setdefault((float(settings["alpha"]), float(settings["beta"])), []).append(max(known))
    return {pair: sum(values) / len(values) for pair, values in found.items()}
