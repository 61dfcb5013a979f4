"""Pseudo-random numbers of a row: the same for equal rows, whatever process, batch or device they come in."""

import torch
from torch import Tensor

from .moments import as_float64, chunks

_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""The two multipliers of splitmix64, as signed numbers (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014)."""


def random_salt(size: int, seed: int | None = None) -> Tensor:
    """`(size,)` numbers of 64 bits to hash rows with; without a seed they are drawn from torch's generator."""
    generator = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, (size,), generator=generator, dtype=torch.int64)


def row_hash(rows: Tensor, salt: Tensor) -> Tensor:
    """64 bits `(n,)` of each row `(n, d)`: equal for rows that are equal as float32, and else by chance alone.

    Example:
        ```python
        >>> rows = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-0.0, 1.0]])
        >>> keys = row_hash(rows, random_salt(2, seed=0))
        >>> (keys[0] == keys[2]).item(), (keys[0] == keys[1]).item()
        (True, False)

        ```
    """
    keys = []
    for chunk in chunks(*rows.shape):  # 64 bits a number are a copy of all of them
        bits = (rows[chunk].float() + 0.0).contiguous().view(torch.int32).long()  # -0 counts as 0
        # Odd multipliers; products and sums wrap around.
        keys.append((mixed(bits + salt) * (2 * salt + 1)).sum(dim=1))
    return mixed(torch.cat(keys)) if keys else salt[:0]


def mixed(keys: Tensor) -> Tensor:
    """Bits shuffled so that neighbouring numbers have nothing in common; one to one."""
    keys = (keys ^ _shifted(keys, 30)) * _FIRST
    keys = (keys ^ _shifted(keys, 27)) * _SECOND
    return keys ^ _shifted(keys, 31)


def _shifted(keys: Tensor, bits: int) -> Tensor:
    """To the right, filled with zeros: torch's own shift keeps the sign."""
    return (keys >> bits) & ((1 << (64 - bits)) - 1)


def random_normals(keys: Tensor, width: int) -> Tensor:
    """Independent standard normal numbers `(n, width)` of keys `(n,)`, by Box and Muller."""
    counters = torch.arange(2 * width, device=keys.device) + 1
    draws = mixed(keys.unsqueeze(1) + mixed(counters))
    uniform = (as_float64(_shifted(draws, 11)) + 0.5) / 2**53
    radius, angle = uniform[:, :width].log().mul(-2).sqrt(), 2 * torch.pi * uniform[:, width:]
    return radius * angle.cos()
