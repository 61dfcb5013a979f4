"""What a recipe asks for: one run, or a grid of them, a cell for every combination of its values."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator, PartialState

from .distributed import from_first, process_index
from .files import write_json
from .final_score import score_final
from .model_setup import check_config
from .recipe import Recipe
from .retrieval_scores import DIRECTIONS
from .run_folder import RunFolder
from .trainer import DivergedError
from .training_data import TrainingData
from .training_run import train
from .training_setup import make_accelerator, open_data


def train_recipe(recipe: Recipe, *, final: bool = False, command: str | None = None, **options: Any) -> dict[str, Any]:
    """Trains a run or a grid, and returns its summary or its table.

    Args:
        recipe: with a grid or without.
        final: then score test, every cell of a grid; see `score_final`.
        command: what was typed.
        options: `resume`, `overwrite`, `progress`, `data` and `accelerator` as for `train`.
    """
    run = train_grid if recipe.grid else train
    outcome = run(recipe, **options)
    if not final:
        return outcome
    if not recipe.grid:
        return outcome | {"final": _scores(recipe, command)}
    for row in (row for row in outcome["rows"] if "failed" not in row):
        cell = next(one for one in recipe.cells() if _point(one, recipe) == {key: row[key] for key in recipe.grid})
        row["final"] = _scores(replace(cell, output=str(recipe.folder / "cells" / row["cell"])), command)
    from_first(lambda: write_json(recipe.folder / "table.json", outcome))
    return outcome


def _scores(recipe: Recipe, command: str | None) -> dict[str, Any]:
    """Both directions and their mean, of each model that was scored."""
    found = score_final(recipe, device=_device(), command=command)
    return {
        name: {"map": metrics["map"], **{direction: metrics[direction].get("map") for direction in DIRECTIONS}}
        for name, metrics in ((name, result["metrics"]) for name, result in found.items())
    }


def train_grid(
    recipe: Recipe,
    *,
    data: TrainingData | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    **again: bool,
) -> dict[str, Any]:
    """Trains every cell, and returns what `table.json` says: one row a cell, the best on validation first.

    A cell lies in `cells/<fingerprint>/`, by what decides its outcome: a grid that grows keeps what it has.

    Args:
        recipe: with a grid.
        data: for all cells, instead of what each names.
        accelerator: for all cells, likewise.
        progress: say on stderr what is going on.
        again: `resume`, which reads what is finished and goes on with what was begun, or `overwrite`.
    """
    cells = recipe.cells()
    from_first(lambda: _begin(recipe))
    opened: dict[tuple[Any, ...], TrainingData] = {}
    rows = []
    for number, cell in enumerate(cells, start=1):
        key = (cell.data, cell.train.features)
        if data is None and key not in opened:
            opened.clear()  # one data set at a time is in memory
            opened[key] = open_data(cell, _device())
            for other in cells:  # what is wrong with any is better known before hours than after
                if other.data == cell.data:
                    check_config(other, opened[key])
        clips = data or opened[key]
        cell = replace(cell, output=str(recipe.folder / "cells" / cell.fingerprint(clips.fingerprint)))
        if progress and not process_index():
            print(f"cell {number} of {len(cells)}: {cell.name}", file=sys.stderr)
        there = accelerator or make_accelerator(cell)
        try:
            summary = train(cell, data=clips, accelerator=there, progress=progress, **again)
        except DivergedError as error:  # the others may well not
            summary = {"failed": str(error)}
            if progress and not process_index():
                print(f"cell {number}: {error}", file=sys.stderr)
        rows.append({"cell": cell.folder.name, **_point(cell, recipe), **_result(summary)})
    rows.sort(key=lambda row: -(row["map"] or 0.0))
    table = {"format": 1, "name": recipe.name, "grid": recipe.grid, "rows": rows}
    from_first(lambda: write_json(recipe.folder / "table.json", table))
    return table


def _begin(recipe: Recipe) -> None:
    """A grid lies in a folder of its own, beside no run."""
    folder = RunFolder(recipe.folder)
    if folder.begun:
        raise ValueError(f"{folder.path} holds a run, and a grid is none: name another folder by output=FOLDER.")
    folder.write_recipe(recipe)


def _device() -> torch.device:
    return PartialState(cpu=not torch.accelerator.is_available()).device


def _point(cell: Recipe, grid: Recipe) -> dict[str, Any]:
    """What this cell sets."""
    content = cell.resolved()
    return {key: _get(content, key) for key in grid.grid}


def _get(content: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        content = content[part]
    return content


def _result(summary: Mapping[str, Any]) -> dict[str, Any]:
    if "failed" in summary:
        return dict.fromkeys(("map", *DIRECTIONS, "epoch", "seconds")) | {"failed": summary["failed"]}
    found = summary["validation"] or {}
    scores = {name: found.get(name) for name in ("map", *DIRECTIONS)}
    return scores | {"epoch": summary["epoch"], "seconds": summary["seconds"]["total"]}
