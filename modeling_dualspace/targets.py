"""Labels as targets: one row of class membership a clip, and which rows are known at all."""

import torch
from torch import Tensor

from .moments import row_number

UNKNOWN = -100
"""The class of a clip that nobody annotated, as in transformers. Every negative number, and NaN, means the same."""


def label_targets(labels: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Targets `(n, num_labels)` of 0 and 1 as float32, and `known` `(n,)`: False where a clip has no annotation.

    Args:
        labels: classes `(n,)` as integers, unknown where negative; or memberships `(n, num_labels)`, unknown where the
            row holds a NaN or a negative number. A row of zeros is known to belong to none of the classes.
        num_labels: how many classes there are.

    Example:
        ```python
        >>> label_targets(torch.tensor([1, -100]), 2)
        (tensor([[0., 1.],
                [0., 0.]]), tensor([ True, False]))

        ```
    """
    if labels.ndim == 1:
        known = labels >= 0
        return (labels.unsqueeze(1) == torch.arange(num_labels, device=labels.device)).float(), known
    known = ~(labels.isnan() | (labels < 0)).any(dim=1)
    return torch.where(known.unsqueeze(1), labels, 0.0).float(), known


def shares(targets: Tensor) -> Tensor:
    """Memberships with rows that sum to one; a row of zeros stays one."""
    return targets / targets.sum(dim=1, keepdim=True).clamp_min(torch.finfo(targets.dtype).tiny)


def check_labels(labels: Tensor, num_labels: int, rows: int, numbers: int | Tensor = 0) -> None:
    """Raises unless `labels` are `rows` classes below `num_labels`, or as many rows of memberships.

    Args:
        labels: as for `label_targets`.
        num_labels: how many classes there are.
        rows: how many clips they belong to.
        numbers: by which rows are named in the message: `(n,)`, or the number of the first.
    """
    if labels.is_complex() or labels.ndim == 0:
        raise ValueError(f"Labels must be classes (n,) or memberships (n, {num_labels}), got {labels.dtype} numbers.")
    if len(labels) != rows:
        raise ValueError(f"Labels and clips must pair up: {len(labels)} labels came for {rows} clips.")
    if labels.ndim == 1:
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(f"Labels of shape (n,) must be integers (classes), got {labels.dtype}.")
        wrong = labels >= num_labels
        problem = f"classes must lie in 0..{num_labels - 1}, negative where unknown"
    elif labels.ndim == 2 and labels.shape[1] == num_labels:
        wrong = ((labels != 0) & (labels != 1) & (labels >= 0)).any(dim=1)
        problem = "memberships must be 0 or 1, negative or NaN where unknown"
    else:
        raise ValueError(
            f"Labels must be classes of shape (n,) or memberships of shape (n, {num_labels}), got "
            f"{tuple(labels.shape)}. Set `num_labels` in the config to the number of classes."
        )
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"Bad label in row {row_number(row, numbers)}: {problem}, got {labels[row].tolist()}. "
            "Set `num_labels` in the config to the number of classes, or mend the row."
        )


def check_labelled(system: object, clips: int, labelled: Tensor) -> None:
    """Raises where a system that learns from categories was given clips, and none that has one.

    Args:
        system: that learns from them.
        clips: how many there were.
        labelled: how many of them had a label, in whichever parts.
    """
    if clips and not labelled.any():
        raise ValueError(
            f"{type(system).__name__} learns from the categories of clips, and no training clip has a label "
            "(`labels`): annotate some, or take a system that needs none, like cca."
        )
