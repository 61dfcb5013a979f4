"""Where a recipe is trained, and on what: processes, devices, trackers, data."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType
from datasets import Dataset

from .distributed import agreed, process_index
from .loading import load_splits
from .optional import require
from .recipe import Recipe
from .training_data import TrainingData

TRACKERS = [kind.value for kind in LoggerType if kind.value != "all"]
KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Of processes that hold the whole model each: the losses need all rows, and closed forms all parameters."""


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Where a recipe is trained: the device there is, all processes of the launcher.

    An Accelerator that was made before in this process is of no use afterwards: accelerate keeps one state for all, and
    this one may be of another precision.
    """
    for name in recipe.train.trackers:
        _check_tracker(name)
    cpu = not torch.accelerator.is_available()
    if cpu and recipe.train.precision == "fp16":
        raise ValueError("`train.precision` is fp16, which needs a GPU, and there is none: fp32 and bf16 work here.")
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision={"fp32": "no"}.get(recipe.train.precision, recipe.train.precision),
        log_with=recipe.train.trackers or None,
        project_dir=str(recipe.folder / "trackers"),
    )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError("Accelerate's configuration accumulates gradients, and a correlation is no sum over batches.")
    if accelerator.distributed_type not in KINDS:
        raise ValueError(
            f"Accelerate's configuration asks for {accelerator.distributed_type.value}, and each process must hold the "
            "whole model here: take one of training/accelerate_configs."
        )
    return accelerator


def _check_tracker(name: str) -> None:
    if name not in TRACKERS:
        raise ValueError(f"`train.trackers` names {name!r}; Accelerate knows {', '.join(TRACKERS)}.")
    if name == "tensorboard":
        require(name, extra="trackers")
    elif name not in map(str, get_available_trackers()):
        raise ValueError(f"`train.trackers` names {name}, which is not installed: run `pip install {name}`.")


def open_data(recipe: Recipe, device: torch.device) -> TrainingData:
    """The data set a recipe names; one process makes its cache, and then the others read it."""

    def load() -> dict[str, Dataset]:
        return load_splits(recipe.data.path, recipe.data.config)

    first = agreed(lambda: None if process_index() else load())
    splits = agreed(lambda: load() if first is None else first)
    return TrainingData(splits, device, recipe.train.features)
