"""Published weights as tensors by name, from whatever file they come in. Nothing in a file is ever run."""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .optional import require
from .torch7_files import read_torch7

Tensors = dict[str, Tensor]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Under one of these training scripts keep the weights beside their optimiser."""
LARGEST = 2**31
"""Bytes of all tensors in a file, which may claim any size: seven times the largest of ours."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def read_checkpoint(path: str | Path) -> Tensors:
    """The tensors of a file, by the names they have there.

    PyTorch's files (.pth, .pt, .bin, .tar) are read by `torch.load(weights_only=True)`, safetensors as they are,
    Torch7's (.t7) by `read_torch7`, Keras's by h5py (.h5, .hdf5, .keras; extra `data`), NumPy's (.npz) without pickles.
    Where a file's name ends in a hash, as those of torch.hub do (`vggish-10086976.pth`), the content must have it.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Tensors]] = {
        **dict.fromkeys((".pth", ".pt", ".bin", ".tar"), _read_torch),
        **dict.fromkeys((".h5", ".hdf5", ".keras"), _read_keras),
        ".t7": read_torch7,
        ".safetensors": _read_safetensors,
        ".npz": _read_numpy,
    }
    if not path.is_file():
        came = "is a folder" if path.exists() else "does not exist"
        raise ValueError(f"Expected a file with published weights: {path} {came}.")
    if path.suffix.lower() == ".npy":
        raise ValueError(
            f"{path} holds one array, or a pickle, which could run anything and is not read: take `soundnet8_final.t7` "
            "or `sound8.pth` for `sound8.npy`, and for other arrays a file of them by name (.npz)."
        )
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path}: weights come in files that end in {', '.join(readers)}, and this is {path.suffix or 'without'}."
        )
    path.open("rb").close()  # a file that may not be read says so itself
    check_hash(path)
    tensors = readers[path.suffix.lower()](path)
    if not tensors:
        raise ValueError(f"{path} holds no tensors: download it again.")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise ValueError(f"{path}: `{name}` is no plain tensor of real numbers: take another file.")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: `{name}` claims more numbers than the file holds: take another file.")
    return tensors


def check_hash(path: Path) -> None:
    """Raises where a file's name says how a hash of its content begins, and none does."""
    told = _HASH_IN_NAME.search(path.name)
    if told is None or any(_hash(path, kind).startswith(told[1]) for kind in ("sha256", "sha1", "md5")):
        return
    raise ValueError(
        f"{path} is damaged or was changed: by its name a hash of it begins with {told[1]}, and its SHA-256 is "
        f"{_hash(path, 'sha256')[:12]}...: download it again, or rename it if the name means something else."
    )


def _hash(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _read_torch(path: Path) -> Tensors:
    # Arrays of NumPy are let in, which the published components of VGGish are; they carry no code either.
    rebuild = np.empty(0).__reduce__()[0]
    harmless: list[Any] = [np.ndarray, np.dtype, rebuild, (rebuild, "numpy.core.multiarray._reconstruct")]
    harmless += [type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "uint8")]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes of torch's unpickler, which runs nothing
        with path.open("rb") as file:
            begins = file.read(2)
        if "weights_only" in str(error) and (begins == b"PK" or begins[:1] == b"\x80"):  # an archive or a pickle
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
    found: Tensors = {}
    for key, value in content.items():
        name = str(key).removeprefix("module.")
        if isinstance(value, np.ndarray) and _is_of_numbers(value):
            value = _tensor(value)
        if isinstance(value, Tensor):
            if name in found:
                raise ValueError(f"{where} holds `{name}` twice, with `module.` before it and without.")
            found[name] = value.detach()
    return found


def _is_of_numbers(array: Any) -> bool:
    return array.dtype.kind in "fiub" and array.dtype.itemsize <= 8


def _tensor(array: np.ndarray) -> Tensor:
    """Of an array of numbers, whatever their order of bytes."""
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))


def _read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): download it again.") from None


def _read_numpy(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST:
                raise ValueError("it claims more than two gigabytes")
        with np.load(path, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged archive, or what NumPy would have to unpickle
        raise ValueError(f"{path} cannot be read as arrays of NumPy ({error}): download it again.") from None
    return {name: _tensor(array) for name, array in held.items() if _is_of_numbers(array)}


def _read_keras(path: Path) -> Tensors:
    """Every data set of an HDF5 file by its path in it, in the order in which its layers stand if it says so."""
    h5py = require("h5py", extra="data")
    try:
        with h5py.File(_hdf5(path), "r") as file:
            group = file["model_weights"] if "model_weights" in file else file
            told = [name if isinstance(name, str) else name.decode() for name in group.attrs.get("layer_names", ())]
            held = dict(_data_sets(file, h5py))
    except Exception as error:  # h5py has one for each way in which a file may be damaged
        raise ValueError(f"{path} cannot be read as weights of Keras ({error}): download it again.") from None
    place = {name: number for number, name in enumerate(told)}
    layers = {key: key.removeprefix("model_weights/").partition("/")[0] for key in held}
    return {key: held[key] for key in sorted(held, key=lambda key: place.get(layers[key], len(place)))}


def _hdf5(path: Path) -> Any:
    """The file itself, or the one in Keras's archive."""
    if path.suffix.lower() != ".keras":
        return path
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("model.weights.h5").file_size > LARGEST:
            raise ValueError("its weights claim more than two gigabytes")
        return io.BytesIO(archive.read("model.weights.h5"))


def _data_sets(file: Any, h5py: Any) -> Iterator[tuple[str, Tensor]]:
    items: list[tuple[str, Any]] = []
    whole = 0
    file.visititems(lambda name, item: items.append((name, item)))
    for name, item in items:
        optimizer = name.startswith(("optimizer", "model_weights/optimizer"))
        if isinstance(item, h5py.Dataset) and _is_of_numbers(item) and not optimizer:
            if item.external or item.is_virtual:
                raise ValueError(f"`{name}` lies in another file")
            whole += item.nbytes
            if whole > LARGEST:
                raise ValueError("it claims more than two gigabytes")
            yield name, _tensor(item[()])
