"""Optimisers of players, and how their learning rates change."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from .recipe import OptimizerSettings, ScheduleSettings

DROP, EVERY = 0.5, 100
"""Of a step schedule that says neither factor nor epochs."""
SMOOTHING = {"adamw": 0.999, "adamax": 0.999, "rmsprop": 0.9}
"""By default; of RMSprop what Keras has, by whose name published recipes call it."""


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """The optimiser of named parameters; vectors (biases, norms) are not decayed."""
    groups = [
        {"params": [one for one in parameters.values() if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters.values() if one.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    smoothing = SMOOTHING.get(settings.name, 0.0) if settings.smoothing is None else settings.smoothing
    betas = settings.momentum, smoothing
    if settings.name == "adamax":
        return torch.optim.Adamax(groups, lr=settings.lr, betas=betas)
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=settings.lr, alpha=smoothing, momentum=settings.momentum)
    # Fused: one pass over memory instead of one an operation, on CPU and GPU alike.
    fused = all(one.device.type in ("cpu", "cuda") for one in parameters.values())
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=fused)


def rate(schedule: ScheduleSettings, progress: float, epoch: int = 0) -> float:
    """By what the learning rate is multiplied when `progress` of all steps, and so many epochs, are done.

    Example:
        ```python
        >>> [rate(ScheduleSettings("linear", warmup=0.5), progress) for progress in (0.25, 0.5, 0.75)]
        [0.5, 1.0, 0.5]
        >>> [rate(ScheduleSettings("step", every=100), 0.5, epoch) for epoch in (99, 100, 250)]
        [1.0, 0.5, 0.25]

        ```
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"Progress lies between 0 and 1, got {progress}.")
    dropped = (schedule.factor or DROP) ** (epoch // (schedule.every or EVERY)) if schedule.name == "step" else 1.0
    if progress < schedule.warmup:
        return dropped * progress / schedule.warmup
    rest = (progress - schedule.warmup) / (1 - schedule.warmup) if schedule.warmup < 1 else 0.0
    if schedule.name == "linear":
        return 1 - rest
    return (1 + math.cos(math.pi * rest)) / 2 if schedule.name == "cosine" else dropped


def set_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Of all its groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_tensors(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """What it remembers, by the names of its parameters: `weight/exp_avg`."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer_tensors(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Makes it remember them."""
    content = optimizer.state_dict()
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    number = {id(parameter): place for place, parameter in enumerate(ordered)}
    content["state"] = {}
    for key, value in tensors.items():
        name, what = key.rsplit("/", 1)
        content["state"].setdefault(number[id(parameters[name])], {})[what] = value
    optimizer.load_state_dict(content)
