"""The last step: a finished run on a split it has not seen, and a log of how often anybody looked."""

import json
import subprocess
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from .distributed import agreed, from_first
from .evaluation import evaluate
from .feature_schema import Description
from .files import write_json
from .loading import load_split
from .recipe import Recipe
from .results import result_path
from .run_folder import RunFolder


def score_final(
    recipe: Recipe,
    *,
    split: str = "test",
    device: torch.device | str = "cpu",
    command: str | None = None,
    legacy_prefix_average: bool = False,
) -> dict[str, dict[str, Any]]:
    """Scores what a run left on a split, and writes the results into the run; by what was scored.

    `model` is what is pushed; where it was refit, `before_refit` is the one whose epoch was chosen. Each look is a line
    of `final.jsonl`, with the commit: a test split that was looked at often is none any more.

    Args:
        recipe: of a run that is finished.
        split: of the data the recipe names.
        device: where to embed and rank.
        command: what was typed.
        legacy_prefix_average: add what some published scripts print as MAP.
    """
    folder = RunFolder(recipe.folder)
    summary = from_first(lambda: folder.summary)
    if not summary:
        raise ValueError(f"{folder.path} holds no finished run: train it first.")
    _check_data(summary, agreed(lambda: load_split(recipe.data.path, recipe.data.config, split)))
    runs = {"model": folder.path}
    if from_first(lambda: (folder.chosen / "model").is_dir()):
        runs["before_refit"] = folder.chosen
    results = {}
    for name, run in runs.items():
        result = evaluate(
            str(run),
            recipe.data.path,
            recipe.data.config,
            split,
            device=device,
            command=command,
            legacy_prefix_average=legacy_prefix_average,
        )
        result["environment"]["commit"] = commit()
        place = result_path(str(run), recipe.data.path, recipe.data.config, split)
        from_first(partial(write_json, place, result))
        results[name] = result
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "split": split,
        "map": {name: result["metrics"]["map"] for name, result in results.items()},
        "command": command,
    }
    from_first(lambda: _log(folder.path / "final.jsonl", line))
    return results


def _check_data(summary: dict[str, Any], data: Dataset) -> None:
    """Test belongs to the data that were trained on, as far as a card says which they are."""
    description, before = Description.parse(data.info.description), summary["data"]["fingerprint"]
    if summary["data"].get("described") and (description is None or description.fingerprint != before):
        raise ValueError(
            f"The data have changed since the run was trained: their fingerprint was {before} and is "
            f"{description.fingerprint if description else 'gone'} now. Train anew, or bring the former data back."
        )


def _log(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def commit() -> str | None:
    """Of the checkout this package lies in, with a `+` where files were changed since; None of an installed one."""
    here = Path(__file__).parent
    try:
        if Path(_git(here, "rev-parse", "--show-toplevel")) != here.parent.resolve():
            return None  # the repository is somebody's in which this is installed
        found = [_git(here, "rev-parse", "HEAD"), _git(here, "status", "--porcelain", "--", ".")]
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{found[0]}+" if found[1] else found[0]


def _git(place: Path, *words: str) -> str:
    command = ["git", "-C", str(place), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
