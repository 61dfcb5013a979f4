"""Modules whose buffers stay float32."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class KeepsFloat32(nn.Module):
    """A module whose buffers are fitted in closed form, and stay float32 when a model is cast to less.

    `_keep_in_fp32_modules_strict` does so while loading; this does for `.half()`, `.bfloat16()` and `.to(dtype)`.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "KeepsFloat32":
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            kept = before[name]
            if buffer is not None and kept is not None and buffer.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = kept.to(device=buffer.device, dtype=torch.float32)
        return self
