"""Cosines that tie where they are equal. NumPy alone; tensors stay tensors."""

from typing import Any

import numpy as np

Array = Any  # of NumPy, or a tensor of torch


def unit_rows(rows: Array) -> Array:
    """Rows of unit length in float64, a copy; one of zeros stays, and has a cosine of 0 with everything."""
    if hasattr(rows, "detach"):
        rows = rows.detach().double() * 1.0
        largest = rows.abs().amax(1) if rows.shape[1] else rows.sum(1)
    else:
        rows = rows.astype(np.float64)
        largest = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))  # without a copy
    rows /= (largest + (largest == 0))[:, None]  # squares are numbers then, however large or small a row is
    norm = np.sqrt(np.einsum("ij,ij->i", rows, rows)) if isinstance(rows, np.ndarray) else rows.norm(dim=1)
    rows /= (norm + (norm == 0))[:, None]
    return rows


def as_scores(cosines: Array) -> Array:
    """Float64 cosines, or inner products of rows of about unit length, as float32 scores; the argument is used up.

    The sums of float64 differ in their last bits by where a row lies, and float32 keeps those bits next to 0, where it
    is fine: what is equal would not tie there. So they are first rounded to multiples of 2^-39, far above such errors
    and far below all that means anything: what is equal then ties, unless it lies on the very edge of two multiples.

    Example:
        ```python
        >>> as_scores(np.array([3e-17, -2e-17, 0.5]))
        array([0. , 0. , 0.5], dtype=float32)

        ```
    """
    if "float64" not in str(cosines.dtype):
        raise TypeError(f"Cosines must come in float64, to be rounded once; got {cosines.dtype}.")
    cosines += 2.0**13
    cosines -= 2.0**13
    return cosines.astype(np.float32) if isinstance(cosines, np.ndarray) else cosines.float()
