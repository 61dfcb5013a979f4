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


def assert_two_take_the_step_of_one(together, make: Callable, clips) -> None:
    """Prepared and asked for a step, two processes come to the loss and the gradient of one."""

    def work():
        model, mine = a_share(make, clips)
        model.module.prepare([mine])
        return a_step(model, mine)

    model = make().double()
    model.prepare([clips])
    expected = a_step(model, clips)
    for loss, slope in together(2, work):
        # float64 but for the statistics, which are kept as float32 of sums in another order.
        torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=0)
        assert (slope - expected[1]).abs().max() < 1e-5 * expected[1].abs().max()
