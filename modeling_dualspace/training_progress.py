"""Where a run stands, and what is said of it once it is over."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .distributed import from_first, world_size
from .recipe import Recipe
from .training_data import TrainingData

FORMAT = 1


@dataclass
class Progress:
    """What a run must know to go on, beside weights and optimisers."""

    phase: str = "choose"
    """`choose`, then `refit` where the recipe asks for it, then `done`."""
    step: int = 0
    """Of the phase."""
    best: dict[str, Any] | None = None
    """The line of the history whose model is kept."""
    stale: int = 0
    """Validations since then."""
    lines: int = 0
    """Of the history."""
    steps_before: int = 0
    """Those of former phases."""
    seconds: dict[str, float] = field(default_factory=lambda: {"steps": 0.0, "validation": 0.0, "refit": 0.0})
    epochs: int = 0
    """Of the whole schedule."""
    chose: bool = False
    """Whether the epoch was chosen on validation."""
    rows: int = 0
    """Clips that were learnt from, over all epochs."""
    data: str | None = None
    """Its fingerprint."""
    blocks: int | None = None
    """In which an epoch is shuffled."""


def summarise(recipe: Recipe, progress: Progress, data: TrainingData, device: torch.device) -> dict[str, Any]:
    """What `summary.json` says of a run that is over."""
    best = progress.best or {}
    seconds = progress.seconds | {"total": sum(progress.seconds.values())}
    stepping = progress.seconds["steps"] + progress.seconds["refit"]
    return {
        "format": FORMAT,
        "name": recipe.name,
        "epoch": best.get("epoch"),
        "epochs": progress.epochs,
        "chosen_on": "validation" if progress.chose else None,
        "validation": best.get("validation"),
        "choice": best.get("choice"),
        "refit": recipe.train.refit and "validation" in data.splits,
        "data": {
            "id": recipe.data.path,
            "described": data.description is not None,
            **data.record(*data.splits),
        },
        "steps": progress.steps_before,
        "seconds": seconds,
        "clips_per_second": progress.rows / stepping if stepping else None,
        "peak_memory_mb": from_first(lambda: _peak_memory(device)),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world_size(),
        "threads": torch.get_num_threads(),
    }


def _peak_memory(device: torch.device) -> float | None:
    """Of this process; not known on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def flat(content: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested numbers and words by their path, as trackers take them."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}{key}/")
        elif isinstance(value, (bool, int, float, str)):
            found[f"{path}{key}"] = value
    return found
