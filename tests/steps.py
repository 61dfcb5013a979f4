"""One step of a system: its loss and its gradient, in one process or in two that share a batch."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.parallel import DistributedDataParallel

FIRST = 41
"""Clips of the first process; the second has the rest."""


def a_step(model, clips) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch, and the gradient of all parameters."""
    loss = model(**clips).loss
    loss.backward()
    return loss.detach(), torch.cat([one.grad.flatten() for one in model.parameters()])


def a_share(make: Callable, clips) -> tuple[DistributedDataParallel, dict]:
    """In one of two processes: the model as it learns there, and this process's clips."""
    AcceleratorState._reset_state()
    first = Accelerator(cpu=True).process_index == 0
    model = DistributedDataParallel(make().double(), broadcast_buffers=False)
    return model, {name: rows[:FIRST] if first else rows[FIRST:] for name, rows in clips.items()}
