"""Torch7's binary files (.t7) as tensors by name, without Torch. Nothing in a file is ever run.

The format is that of `torch.save` on a machine of 64 bits, by torch/torch7: File.lua, generic/Storage.c and
generic/Tensor.c. Each object is a number of its kind and then its content; tables, tensors, storages and modules have a
number of their own besides, and whatever comes again is that number alone.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN, FUNCTION, OLD_CLOSURE, CLOSURE = range(9)
NUMBERS = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "<i1",
    "Byte": "<u1", "": "<f4",
}  # fmt: skip
"""What the numbers of a storage are in a file. On a GPU, `torch.CudaTensor` has floats, and says no more."""
_ARRAY = re.compile(rf"torch\.(?:Cuda)?({'|'.join(NUMBERS)})(Tensor|Storage)")
PARTS = ("weight", "bias", "running_mean", "running_var")
"""What a module computes with; gradients, outputs and buffers that it keeps beside are left."""
DEEPEST, MOST_DIMENSIONS, LONGEST_KEY = 100, 16, 100


@dataclass
class Torch7Object:
    """A module: its class, the version of that, and its fields."""

    name: str
    version: int
    fields: dict[Any, Any]


class _UnreadableError(Exception):
    """Why a file is none of Torch7's."""

    def __init__(self, why: str = "it ends too early"):
        super().__init__(why)


def read_torch7(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file as float32, by the places of their modules, which Torch counts from one.

    Of an `nn.Sequential` these are `1.weight`, `1.bias`, `2.running_mean`, ..., and of a container in it `25.1.weight`.
    Tensors of plain tables go by their keys. Functions are skipped. Tensors may share their memory.

    Batch norms of their first version keep one over the deviation, as `running_std`; it becomes the variance as where
    Torch reads them, in `nn.BatchNormalization`: running_std ** -2 - eps.

    Args:
        path: of a file that `torch.save` wrote, in its binary format.
    """
    reader = _Reader(Path(path).read_bytes())
    try:
        return _tensors(reader.read())
    except _UnreadableError as error:
        raise ValueError(
            f"{path} cannot be read as a binary file of Torch7 (at byte {reader.at}: {error}): download it again."
        ) from None


class _Reader:
    """Goes through the bytes of a file once. Nothing is made that is larger than what is left of them says."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0
        self.known: dict[int, Any] = {}

    def take(self, count: int, kind: str) -> np.ndarray:
        """The next numbers, as they are in the file."""
        if not 0 <= count * np.dtype(kind).itemsize <= len(self.content) - self.at:
            raise _UnreadableError
        found = np.frombuffer(self.content, kind, count, self.at)
        self.at += found.nbytes
        return found

    def integer(self) -> int:
        return int(self.take(1, "<i4")[0])

    def text(self) -> str:
        return self.take(self.integer(), "u1").tobytes().decode("utf-8", "backslashreplace")

    def read(self, depth: int = 0) -> Any:
        """The next object."""
        if depth > DEEPEST:
            raise _UnreadableError(f"more than {DEEPEST} objects inside one another")
        kind = self.integer()
        if kind == NIL:
            return None
        if kind == NUMBER:
            return float(self.take(1, "<f8")[0])
        if kind == BOOLEAN:
            return self.integer() == 1
        if kind == STRING:
            return self.text()
        if kind not in (TABLE, OBJECT, OLD_CLOSURE, CLOSURE):
            raise _UnreadableError("a function" if kind == FUNCTION else f"there is no object of kind {kind}")
        number = self.integer()
        if number not in self.known:
            make = {TABLE: self._table, OBJECT: self._object}.get(kind, self._function)
            self.known[number] = make(number, depth + 1)
        return self.known[number]

    def _table(self, number: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        self.known[number] = found  # it may hold itself
        for _ in range(self._length(8)):
            key, value = self.read(depth), self.read(depth)
            if isinstance(key, str | float):
                found[key] = value
        return found

    def _length(self, least: int) -> int:
        """Of a table whose entries take some bytes at least."""
        length = self.integer()
        if not 0 <= length * least <= len(self.content) - self.at:
            raise _UnreadableError
        return length

    def _function(self, number: int, depth: int) -> None:
        self.text()
        self.known[number] = None
        self.read(depth)  # what it closes over

    def _object(self, number: int, depth: int) -> Any:
        name, version = self.text(), 0
        if told := re.fullmatch(r"V (\d{1,9})(\.0)?", name):
            name, version = self.text(), int(told[1])
        if array := _ARRAY.fullmatch(name):
            return self._storage(NUMBERS[array[1]]) if array[2] == "Storage" else self._tensor(depth)
        made = self.known[number] = Torch7Object(name, version, {})
        fields = self.read(depth)
        if not isinstance(fields, dict):
            raise _UnreadableError(f"a {name[:LONGEST_KEY]} without fields")
        made.fields = fields
        return made

    def _storage(self, kind: str) -> Tensor:
        length = int(self.take(1, "<i8")[0])
        with np.errstate(over="ignore"):
            return torch.from_numpy(self.take(length, kind).astype(np.float32))

    def _tensor(self, depth: int) -> Tensor:
        dimensions = self.integer()
        if not 0 <= dimensions <= MOST_DIMENSIONS:
            raise _UnreadableError(f"a tensor of {dimensions} dimensions")
        sizes, steps = self.take(dimensions, "<i8").tolist(), self.take(dimensions, "<i8").tolist()
        start = int(self.take(1, "<i8")[0]) - 1  # Lua counts from one
        storage = self.read(depth)
        count = int(np.prod(sizes, dtype=object)) if sizes else 0
        if not count:
            return torch.empty(0)
        last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        held = len(storage) if isinstance(storage, Tensor) and storage.ndim == 1 else 0
        if min(*sizes, *steps, start) < 0 or last >= held or count > held:
            raise _UnreadableError(f"a tensor of {tuple(sizes)} from {held} numbers")
        return storage.as_strided(sizes, steps, start)


def _tensors(root: Any) -> dict[str, Tensor]:
    """All that can be reached, each table and module by the first way that leads to it."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    ahead: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while ahead:
        path, value = ahead.pop()
        if isinstance(value, Tensor) and value.numel():
            found[".".join(path)] = value
        elif isinstance(value, dict | Torch7Object) and id(value) not in seen:
            seen.add(id(value))
            parts = _parts(value) if isinstance(value, Torch7Object) else value
            ahead += [((*path, _key(key)), part) for key, part in reversed(parts.items())]
    return found


def _parts(module: Torch7Object) -> dict[Any, Any]:
    """What a module computes with, and the modules in it."""
    fields, modules = module.fields, module.fields.get("modules")
    parts = {name: fields[name] for name in PARTS if isinstance(fields.get(name), Tensor)}
    inverse, eps = fields.get("running_std"), fields.get("eps")
    if module.version < 2 and isinstance(inverse, Tensor) and isinstance(eps, float):
        parts["running_var"] = (inverse.double().pow(-2) - eps).float()
    return parts | (modules if isinstance(modules, dict) else {})


def _key(key: str | float) -> str:
    if isinstance(key, str) and len(key) > LONGEST_KEY:
        raise _UnreadableError(f"a name of {len(key)} letters")
    return str(int(key)) if isinstance(key, float) and key.is_integer() else str(key)
