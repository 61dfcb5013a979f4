"""Published weights as tensors by name, from whatever file they come in. Nothing in a file is ever run."""

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .optional import require

Tensors = dict[str, Tensor]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Under one of these training scripts keep the weights beside their optimiser."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def read_checkpoint(path: str | Path) -> Tensors:
    """The tensors of a file, by the names they have there.

    PyTorch's files (.pth, .pt, .bin, .tar) are read by `torch.load(weights_only=True)`, safetensors as they are,
    Keras's by h5py (.h5, .hdf5, .keras; extra `data`), NumPy's (.npz) without pickles. Where a file's name ends in a
    hash, as those of torch.hub do (`vggish-10086976.pth`), the content must have it.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Tensors]] = {
        **dict.fromkeys((".pth", ".pt", ".bin", ".tar"), _read_torch),
        **dict.fromkeys((".h5", ".hdf5", ".keras"), _read_keras),
        ".safetensors": _read_safetensors,
        ".npz": _read_numpy,
    }
    if not path.is_file():
        came = "is a folder" if path.exists() else "does not exist"
        raise ValueError(f"Expected a file with published weights: {path} {came}.")
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path}: weights come in files that end in {', '.join(readers)}, and this is {path.suffix or 'without'}."
        )
    check_hash(path)
    tensors = readers[path.suffix.lower()](path)
    if not tensors:
        raise ValueError(f"{path} holds no tensors: download it again.")
    return tensors


def check_hash(path: Path) -> None:
    """Raises where a file's name says how a hash of its content begins, and none does."""
    told = _HASH_IN_NAME.search(path.name)
    if told is None:
        return
    found = [_hash(path, kind) for kind in ("sha256", "sha1", "md5")]
    if not any(digest.startswith(told[1]) for digest in found):
        raise ValueError(
            f"{path} is damaged or was changed: by its name a hash of it begins with {told[1]}, and its SHA-256 is "
            f"{found[0][:12]}...: download it again, or rename it if the name means something else."
        )


def _hash(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _read_torch(path: Path) -> Tensors:
    # Arrays of NumPy are let in, which the published components of VGGish are; they carry no code either.
    harmless: list[Any] = [np.ndarray, np.dtype, np.empty(0).__reduce__()[0]]
    harmless += [type(np.dtype(kind)) for kind in ("float32", "float64", "int64", "uint8")]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError, EOFError, ImportError, OSError, RuntimeError, ValueError) as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise ValueError(
                f"{path} holds more than tensors, which could run anything and is not read: take a file with the state "
                "dict alone."
            ) from None
        raise ValueError(f"{path} is no file of PyTorch, or is damaged: download it again.") from None
    return _named(content, str(path))


def _named(content: Any, where: str) -> Tensors:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected tensors by name, got {type(content).__name__}: take the state dict.")
    found = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            found[str(name).removeprefix("module.")] = value.detach()
    return found


def _read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): download it again.") from None


def _read_numpy(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as arrays of NumPy ({error}): download it again.") from None


def _read_keras(path: Path) -> Tensors:
    """Every data set of an HDF5 file by its path in it."""
    h5py = require("h5py", extra="data")
    found: Tensors = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
            # Keras 3 numbers layers anew in a file, and later versions of it keep their own names beside.
            own = item.parent.attrs.get("name")
            found[f"{own}/{item.name.split('/')[-1]}" if own else name] = torch.from_numpy(
                np.ascontiguousarray(item[()])
            )

    try:
        source: Any = path
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(source, "r") as file:
            file.visititems(take)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as weights of Keras ({error}): download it again.") from None
    return found
