"""What state a network is in: learning or not, loaded or begun anew, in step with other processes, finite."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .distributed import all_reduce_sum, world_size


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and batch statistics; the mode of every module is put back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # One by one: somebody may have frozen a part.
        for module in training:
            module.training = True


def was_loaded(module: nn.Module) -> bool:
    """Whether all of a module's own tensors came out of a file, when `_init_weights` is asked to begin it."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return all(getattr(tensor, "_is_hf_initialized", False) for tensor in own)


def share_batch_statistics(model: nn.Module) -> None:
    """Averages the running statistics of batch norms over processes, each of which saw its own shards."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and world_size() > 1:
            for running in (module.running_mean, module.running_var):
                if running is not None:
                    all_reduce_sum(running)
                    running /= world_size()


def check_outputs(*outputs: Tensor) -> None:
    """Raises unless what a network makes of finite features is finite."""
    if not all(torch.isfinite(rows).all() for rows in outputs):
        raise ValueError(
            "The outputs are not finite although the features are: training diverged. Lower the learning rate, "
            "or clip the gradient."
        )
