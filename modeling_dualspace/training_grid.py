"""What a recipe asks for: one run, or a grid of them, a cell for every combination of its values."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from .distributed import from_first, process_index
from .files import write_json
from .final_score import score_final
from .recipe import Recipe
from .retrieval_scores import DIRECTIONS
from .training_data import TrainingData
from .training_run import make_accelerator, open_data, train


def train_recipe(recipe: Recipe, *, final: bool = False, command: str | None = None, **options: Any) -> dict[str, Any]:
    """Trains a run or a grid, and returns its summary or its table.

    Args:
        recipe: with a grid or without.
        final: then score test, every cell of a grid; see `score_final`.
        command: what was typed.
        options: `resume`, `overwrite`, `progress`, `data` and `accelerator` as for `train`.
    """
    accelerator = options.pop("accelerator", None) or make_accelerator(recipe)
    run = train_grid if recipe.grid else train
    outcome = run(recipe, accelerator=accelerator, **options)
    if not final:
        return outcome
    if not recipe.grid:
        return outcome | {"final": _scores(recipe, accelerator, command)}
    for row in outcome["rows"]:
        cell = replace(recipe, grid={}, output=str(recipe.folder / "cells" / row["cell"]))
        row["final"] = _scores(cell, accelerator, command)
    from_first(lambda: write_json(recipe.folder / "table.json", outcome))
    return outcome


def _scores(recipe: Recipe, accelerator: Accelerator, command: str | None) -> dict[str, Any]:
    """Both directions and their mean, of each model that was scored."""
    found = score_final(recipe, device=accelerator.device, command=command)
    return {
        name: {"map": metrics["map"], **{direction: metrics[direction].get("map") for direction in DIRECTIONS}}
        for name, metrics in ((name, result["metrics"]) for name, result in found.items())
    }


def train_grid(
    recipe: Recipe,
    *,
    data: TrainingData | None = None,
    accelerator: Accelerator | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains every cell, and returns what `table.json` says: one row a cell, the best on validation first.

    A cell lies in `cells/<fingerprint>/`, by what decides its outcome: a grid that grows keeps what it has.

    Args:
        recipe: with a grid.
        data: instead of what `recipe.data` names.
        accelerator: where; made by `make_accelerator` otherwise.
        resume: cells that are finished are read, one that was begun is gone on with.
        overwrite: start all of them anew.
        progress: say on stderr what is going on.
    """
    accelerator = accelerator or make_accelerator(recipe)
    data = data or open_data(recipe, accelerator.device)
    cells = [_placed(cell, recipe, data) for cell in recipe.cells()]
    if not (resume or overwrite):
        from_first(lambda: _refuse(recipe, cells))
    rows = []
    for number, cell in enumerate(cells, start=1):
        if progress and not process_index():
            print(f"cell {number} of {len(cells)}: {cell.name}", file=sys.stderr)
        summary = train(cell, data=data, resume=resume, overwrite=overwrite, accelerator=accelerator, progress=progress)
        rows.append({"cell": cell.folder.name, **_point(cell, recipe), **_result(summary)})
    rows.sort(key=lambda row: -(row["map"] or 0.0))
    table = {"format": 1, "name": recipe.name, "grid": recipe.grid, "rows": rows}
    from_first(lambda: write_json(recipe.folder / "table.json", table))
    return table


def _placed(cell: Recipe, grid: Recipe, data: TrainingData) -> Recipe:
    return replace(cell, output=str(grid.folder / "cells" / cell.fingerprint(data.fingerprint)))


def _refuse(recipe: Recipe, cells: Sequence[Recipe]) -> None:
    """A folder with cells is not trained in by accident."""
    if any((cell.folder / "recipe.yaml").is_file() for cell in cells):
        raise ValueError(
            f"{recipe.folder} holds cells of this grid already: go on with them by --resume, start them anew by "
            "--overwrite, or name another folder by output=FOLDER."
        )


def _point(cell: Recipe, grid: Recipe) -> dict[str, Any]:
    """What this cell sets."""
    content = cell.resolved()
    return {key: _get(content, key) for key in grid.grid}


def _get(content: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        content = content[part]
    return content


def _result(summary: Mapping[str, Any]) -> dict[str, Any]:
    found = summary["validation"] or {}
    scores = {name: found.get(name) for name in ("map", *DIRECTIONS)}
    return scores | {"epoch": summary["epoch"], "seconds": summary["seconds"]["total"]}
