r"""First and second moments in one pass, in float64, by merging centred moments.

A covariance from sums of squares, $\sum x x' - n \mu \mu'$, loses every digit once the mean is large against the
deviation. Here all sums are kept about the running mean, and moved exactly when the mean moves (Chan, Golub and
LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979). Two accumulators, of two
chunks or of two processes, merge the same way: both are moved to the joint mean, and then they add.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .distributed import all_reduce_sum

_CHUNK_BYTES = 2**25
"""Rows are widened to float64 in chunks of about this size, which bounds memory whatever the size of the batch."""

EMPTY_SPLIT = (
    "Cannot fit to an empty split: no rows came. Look at its name and its filters, and pass a list or a data set: a "
    "generator is empty the second time."
)


def as_float64(tensor: Tensor) -> Tensor:
    """On its device; on the CPU where it comes from mps, which has no float64."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover `rows` rows, each small enough to be widened."""
    step = max(256, _CHUNK_BYTES // (8 * max(width, 1)))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def check_width(rows: Tensor, width: int, name: str) -> None:
    """Raises unless `rows` are `(n, width)`."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"Expected {name} rows of shape (n, {width}), got {tuple(rows.shape)}.")


def check_finite(rows: Tensor, name: str, numbers: int | Tensor = 0) -> None:
    """Raises, naming the row, unless all `rows` `(n, d)` are finite.

    Args:
        rows: what to look at.
        name: what they are, for the message.
        numbers: by which rows are named: `(n,)`, or the number of the first.
    """
    # A NaN or an infinity anywhere shows in the column sums: rows are searched only when there is one.
    if not torch.isfinite(rows.sum(dim=0)).all():
        wrong = (~torch.isfinite(rows)).any(dim=1).nonzero()
        if len(wrong):  # otherwise it was the sum that overflowed
            row = row_number(int(wrong[0]), numbers)
            raise ValueError(
                f"{name.capitalize()} must be finite numbers, but row {row} holds NaN or infinity. "
                "Mend that clip or leave it out."
            )


def row_number(row: int, numbers: int | Tensor) -> int:
    """The number by which a person knows a row: `numbers[row]`, or counted on from the number of the first."""
    return numbers + row if isinstance(numbers, int) else int(numbers[row])


def constant_columns(variance: Tensor, mean: Tensor) -> Tensor:
    """True where a column varies by no more than rounding does about its mean."""
    return variance <= (16 * torch.finfo(torch.float64).eps * mean.abs()).square()


class Centre:
    """A mean as a pivot among the rows and a small offset from it.

    The rounding of a mean is relative to the mean: at 1e6 it is 1e-10, which would enter everything that is moved by
    it. The offset is as small as the rows' deviations are, and so is its rounding.
    """

    def __init__(self, pivot: Tensor, offset: Tensor | None = None):
        self.pivot = pivot
        self.offset = torch.zeros_like(pivot) if offset is None else offset

    @property
    def mean(self) -> Tensor:
        """The mean itself, `(d,)`."""
        return self.pivot + self.offset

    def about(self, pivot: Tensor) -> "Centre":
        """The same mean with another pivot."""
        return Centre(pivot, (self.pivot - pivot) + self.offset)

    def reduced(self, weight: Tensor, total: Tensor) -> tuple["Centre", Tensor]:
        """This mean about a pivot common to all processes, and the offset of the joint mean from that pivot.

        Args:
            weight: of this process's rows.
            total: of those of all processes.
        """
        pivot = weight * self.mean
        all_reduce_sum(pivot)
        centre = self.about(pivot / total)
        offset = weight * centre.offset
        all_reduce_sum(offset)
        return centre, offset / total


class ColumnMoments:
    """Count, mean and variance of each column of a stream of rows.

    Example:
        ```python
        >>> moments = ColumnMoments(2, "audio").update(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> moments.mean.tolist(), moments.variance().tolist()
        ([2.0, 5.0], [1.0, 0.0])

        ```
    """

    def __init__(self, width: int, name: str, device: torch.device | str = "cpu"):
        self.name = name
        self.count = as_float64(torch.zeros((), device=device))
        self.squares = as_float64(torch.zeros(width, device=device))
        self.centre = Centre(torch.zeros_like(self.squares))

    @property
    def mean(self) -> Tensor:
        """Of each column, `(d,)`."""
        return self.centre.mean

    def update(self, rows: Tensor) -> "ColumnMoments":
        """Takes in `rows` `(n, width)`; a row that is not finite is refused by its number in the stream."""
        check_width(rows, len(self.squares), self.name)
        for chunk in chunks(*rows.shape):
            block = as_float64(rows[chunk]).to(self.squares.device)
            check_finite(block, f"{self.name} features", int(self.count))
            if self.count == 0:
                self.centre = Centre(block[0].clone())
            block = block - self.centre.pivot
            offset = self.centre.offset
            joint = offset + (block - offset).sum(dim=0) / (self.count + len(block))
            self.squares += self.count * (offset - joint).square() + (block - joint).square().sum(dim=0)
            self.centre = Centre(self.centre.pivot, joint)
            self.count += len(block)
        return self

    def all_reduce(self) -> "ColumnMoments":
        """Replaces the moments of this process's rows by those of all processes; a process without rows is welcome."""
        count = self.count.clone()
        all_reduce_sum(count)
        centre, joint = self.centre.reduced(self.count, count.clamp_min(1))
        self.squares += self.count * (centre.offset - joint).square()
        all_reduce_sum(self.squares)
        self.count, self.centre = count, Centre(centre.pivot, joint)
        return self

    def variance(self) -> Tensor:
        """Variance of each column, over n, and exactly zero for a column that does not vary."""
        if self.count == 0:
            raise ValueError(EMPTY_SPLIT)
        variance = self.squares / self.count
        return variance.masked_fill(constant_columns(variance, self.mean), 0)
