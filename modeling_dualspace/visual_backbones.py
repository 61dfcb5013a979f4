"""Pictures as vectors: `thumbnail`, which needs no weights."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .backbones import Array, Backbone, Modality, Steps


class Thumbnail(Backbone):
    """`thumbnail`: colour and edges on a grid of 16 x 16, a frame a second: 1,024 numbers.

    The frame is shrunk to 64 x 64 whatever its shape, each cell the mean of its pixels, within 0 and 1. Then come, row
    by row, red, green and blue, and the size of the gradient of the luma (.299 R + .587 G + .114 B; central
    differences, halved at the border), each as the mean over 4 x 4 cells.

    Example:
        ```python
        >>> backbone = Thumbnail()
        >>> frame = np.full((36, 48, 3), 255, dtype=np.uint8)
        >>> backbone.embed([[backbone.prepare(frame)]])[0, [0, -1]].tolist()
        [1.0, 0.0]

        ```
    """

    modality: ClassVar[Modality] = "visual"
    name = source = "thumbnail"
    width = 1024

    SIDE, CELLS = 64, 16

    def __init__(self, fps: float = 1.0):
        self.steps = Steps(rate=fps, length=1, hop=1)

    @property
    def constants(self) -> dict[str, Any]:
        """The two grids."""
        return {"side": self.SIDE, "cells": self.CELLS, "channels": "red green blue edges"}

    def prepare(self, piece: Array) -> Array:
        """The vector of one frame."""
        small = _shrunk(_shrunk(piece, self.SIDE, 0), self.SIDE, 1) / np.float32(255)
        luma = small @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        padded = np.pad(luma, 1, mode="edge")
        down, right = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
        channels = np.concatenate([small, np.hypot(down, right)[:, :, None] / 2], axis=2)
        cell = self.SIDE // self.CELLS
        grid = channels.reshape(self.CELLS, cell, self.CELLS, cell, 4).mean(axis=(1, 3), dtype=np.float32)
        return grid.transpose(2, 0, 1).reshape(-1)

    def embed(self, units: Sequence[Sequence[Any]]) -> Array:
        """What `prepare` made, stacked."""
        return np.stack([pieces[0] for pieces in units])


def _shrunk(pixels: Array, size: int, axis: int) -> Array:
    """Means over `size` stretches of an axis; where it is shorter than that, pixels stand for several."""
    length = pixels.shape[axis]
    edges = np.arange(size + 1) * length // size
    sums = np.add.reduceat(pixels, edges[:-1], axis=axis, dtype=np.float32)
    counts = np.maximum(np.diff(edges), 1).astype(np.float32)
    return sums / counts.reshape([-1 if one == axis else 1 for one in range(pixels.ndim)])
