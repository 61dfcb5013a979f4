"""Rows of every process, with gradient: what turns the loss of a shard into the loss of the global batch."""

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_HEADER = 64
"""Numbers exchanged ahead of a batch: a checksum of its names and widths, and the length of each."""


def world_size() -> int:
    """Number of processes that train together; 1 where none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Rank of this process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    r"""Concatenates the rows of all processes in the order of their ranks, shape $(\sum_r n_r, \dots)$.

    Shards may differ in length, and may be empty: each is padded to the longest, gathered, and cut back.

    Gradients flow through. Each of $W$ processes computes the same loss of the same gathered rows, so the gradient that
    comes back to a shard is $W$ times its own; `DistributedDataParallel` divides by $W$, and what the optimiser sees is
    the gradient of the global batch, with no factor to set.

    Example:
        ```python
        >>> gather_rows(torch.ones(2, 3)).shape  # one process: its own rows
        torch.Size([2, 3])

        ```
    """
    return gather_named_rows({"rows": rows})["rows"]


def gather_named_rows(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """`gather_rows` of every tensor, with one exchange of the lengths for all of them.

    Every process must bring the same names in the same order.
    """
    if world_size() == 1 or not rows:
        return rows
    # One exchange of one size, whatever a process brings: what would not fit together is then said, and not run into.
    device = next(iter(rows.values())).device
    kinds = repr([(name, str(tensor.dtype), tuple(tensor.shape[1:])) for name, tensor in rows.items()])
    header = [zlib.crc32(kinds.encode()), *map(len, rows.values())]
    if len(header) > _HEADER:
        raise ValueError(f"A batch may bring {_HEADER - 1} named tensors at most, got {len(rows)}.")
    header += [0] * (_HEADER - len(header))
    headers = all_gather(torch.tensor(header, device=device)).tolist()
    if len({other[0] for other in headers}) > 1:
        raise ValueError(
            f"All processes must bring the same tensors of the same widths to a batch, and another brings others than "
            f"these: {kinds}. Do all shards have labels, or none?"
        )
    return {
        name: _gather_uneven(tensor, [other[1 + place] for other in headers])
        for place, (name, tensor) in enumerate(rows.items())
    }


def all_gather(tensor: Tensor) -> Tensor:
    """Stacks one tensor of the same shape from every process, shape `(processes, ...)`; differentiable."""
    if world_size() == 1:
        return tensor.unsqueeze(0)
    # Imported where used: a build of torch without distributed support has no such module.
    from torch.distributed._functional_collectives import all_gather_single, wait_tensor

    group = dist.distributed_c10d._get_default_group()
    gathered = wait_tensor(all_gather_single(tensor.contiguous(), 0, group))
    return gathered.reshape(world_size(), *tensor.shape)


def all_reduce_sum(*tensors: Tensor) -> None:
    """Replaces each tensor by its sum over the processes; no gradient."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def process_share(parts: Sequence[Any]) -> Sequence[Any]:
    """This process's parts of a list: the lists of all processes, one after the other, are the whole again."""
    edges = [len(parts) * rank // world_size() for rank in (process_index(), process_index() + 1)]
    return parts[slice(*edges)]


def cores() -> int:
    """Of those this process may use, the share that is its own."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def agreed(run: Callable[[], Any]) -> Any:
    """What `run` returns here, once it has ended well on every process; else all end, and none waits for another.

    `run` itself must not ask the others for anything: who failed before that would leave them waiting.

    Where it went well itself, a process raises the sentence of the first that failed.
    """
    if world_size() == 1:
        return run()
    result, error = None, None
    try:
        result = run()
    except Exception as failure:
        error = failure
    errors: list[Any] = [None] * world_size()
    dist.all_gather_object(errors, None if error is None else (type(error).__name__, str(error)))
    wrong = next((one for one in errors if one is not None), None)
    if wrong is None:
        return result
    told = error or RuntimeError(wrong[1] or wrong[0])
    told.__dict__["told"] = True  # by all: no process needs to say it again
    raise told


def from_first(run: Callable[[], Any]) -> Any:
    """What `run` returns in the first process, in all of them; only there it runs, and where it fails all end."""
    result = agreed(lambda: None if process_index() else run())
    if world_size() > 1:
        parcel = [result]
        dist.broadcast_object_list(parcel)
        (result,) = parcel
    return result


def anywhere(*flags: bool, device: torch.device | str = "cpu") -> list[bool]:
    """Whether each is true in any process; all must ask at once."""
    counts = torch.tensor(flags, dtype=torch.float32, device=device)
    all_reduce_sum(counts)
    return [count > 0 for count in counts.tolist()]


def _gather_uneven(tensor: Tensor, counts: list[int]) -> Tensor:
    longest = max(counts)
    padded = torch.cat([tensor, tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])])
    gathered = all_gather(padded)
    return torch.cat([shard[:count] for shard, count in zip(gathered, counts, strict=True)])
