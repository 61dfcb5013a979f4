"""Keras's Inception V3, whose layers have no telling names, under the names of ours.

Keras itself loads weights by their order. A model lists its layers by depth, the farthest from its end first, and so
does every file that says in which order its layers stand; the numbers in their names count them as they were made.
"""

import functools
import re

import torch
from torch import Tensor

from .checkpoint_files import Tensors
from .inception import InceptionConfig, InceptionModel

# The convolutions as they stand in Keras's `Model.layers`, by the place in which they were made; so do their norms.
BY_DEPTH = [
    0, 1, 2, 3, 4, 8, 6, 9, 5, 7, 10, 11, 15, 13, 16, 12, 14, 17, 18, 22, 20, 23, 19, 21, 24, 25, 27, 28, 26,
    29, 34, 35, 31, 36, 32, 37, 30, 33, 38, 39, 44, 45, 41, 46, 42, 47, 40, 43, 48, 49, 54, 55, 51, 56, 52,
    57, 50, 53, 58, 59, 64, 65, 61, 66, 62, 67, 60, 63, 68, 69, 72, 73, 70, 74, 71, 75, 80, 77, 81, 78, 79,
    82, 83, 76, 84, 89, 86, 90, 87, 88, 91, 92, 85, 93,
]  # fmt: skip
_VARIABLES = ((r"gamma", "weight"), (r"beta", "bias"), (r"mean", "running_mean"), (r"var|std", "running_var"))
"""Of a norm. What Keras 1 calls std is the variance too."""
_NUMBERED = ("bias", "running_mean", "running_var")
"""Of a norm without a scale, where Keras 3 numbers them."""


def names_of_keras(tensors: Tensors) -> dict[str, str | None]:
    """Our names of the keys of a file, None for its classifier; a key that fits nothing is its own name."""
    found: dict[str, str | None] = {}
    kinds: dict[str, dict[str, list[str]]] = {"conv": {}, "norm": {}}
    for key, tensor in tensors.items():
        layer = _layer(key)
        kind = "conv" if tensor.ndim == 4 else "norm" if re.match(r"batch_?norm", layer) else None
        if "/" in key and kind:
            kinds[kind].setdefault(layer, []).append(key)
        else:
            found[key] = None if re.match(r"(predictions|dense)", layer) else key
    for kind, layers in kinds.items():
        for name, keys in zip(_as_they_stand(layers, next(iter(tensors), "")), layers.values(), strict=True):
            for key in keys:
                part = "conv.weight" if kind == "conv" else _norm_part(key)
                found[key] = f"{name}.{part}" if name and part else key
    return found


def turned_from_keras(name: str, tensor: Tensor) -> Tensor:
    """Kernels of Keras are (height, width, in, out)."""
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor


def _layer(key: str) -> str:
    return key.removeprefix("model_weights/").removeprefix("layers/").partition("/")[0]


def _number(layer: str) -> int:
    told = re.search(r"_(\d+)$", layer)
    return int(told[1]) if told else 0


def _as_they_stand(layers: dict[str, list[str]], first: str) -> list[str | None]:
    """Our name of each layer; None where there are too many."""
    listed, numbered = list(layers), sorted(layers, key=_number)
    ours = _convolutions()
    if first.startswith("layers/"):  # Keras 3 numbers them anew in a file, as they stand in the model
        made = dict(zip(numbered, BY_DEPTH, strict=False))
    elif listed in (numbered, sorted(layers)):  # the file does not say how they stood
        made = dict(zip(numbered, range(len(ours)), strict=False))
    else:
        made = dict(zip(listed, BY_DEPTH, strict=False))
    return [ours[made[layer]] if layer in made else None for layer in layers]


def _norm_part(key: str) -> str | None:
    variable = key.rpartition("/")[2].partition(":")[0]
    if variable.isdecimal():
        return f"bn.{_NUMBERED[int(variable)]}" if int(variable) < len(_NUMBERED) else None
    variable = variable.removeprefix(_layer(key))
    return next((f"bn.{part}" for pattern, part in _VARIABLES if re.search(pattern, variable)), None)


@functools.lru_cache(maxsize=1)
def _convolutions() -> list[str]:
    """Ours, in the order in which they are made: torchvision's, and Keras's."""
    with torch.device("meta"):
        model = InceptionModel(InceptionConfig())
    return [name.removesuffix(".conv.weight") for name in model.state_dict() if name.endswith(".conv.weight")]
