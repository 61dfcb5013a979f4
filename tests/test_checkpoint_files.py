"""Published files: every kind is read, nothing in one is run, and what is wrong is said in a sentence."""

import hashlib
import os
import pickle
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modeling_dualspace import checkpoint_files
from modeling_dualspace.checkpoint_files import check_hash, read_checkpoint


class Harm:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([7.0, 8.0])}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


@pytest.fixture
def refused():
    """`refused(path)`: the one sentence in which reading it ends."""

    def read(path: Path) -> str:
        with pytest.raises(ValueError) as caught:
            read_checkpoint(path)
        message = str(caught.value)
        assert str(path) in message and "\n" not in message and message.endswith(".")
        return message

    return read


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".tar", ".PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_of_pytorch_are_read_in_both_its_formats(tmp_path, suffix, zipped):
    torch.save(state(), tmp_path / f"net{suffix}", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / f"net{suffix}"), state())
    assert same(read_checkpoint(str(tmp_path / f"net{suffix}")), state())


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net"])
def test_weights_are_found_beside_an_optimiser_and_behind_a_data_parallel(tmp_path, wrapper):
    parallel = {f"module.{name}": nn.Parameter(tensor) for name, tensor in state().items()}
    optimizer = {"state": {0: torch.zeros(3)}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, wrapper: parallel, "optimizer": optimizer, "best": 0.5}, tmp_path / "net.pth")
    found = read_checkpoint(tmp_path / "net.pth")
    assert same(found, state()) and not any(tensor.requires_grad for tensor in found.values())


def test_a_name_with_and_without_module_is_refused(tmp_path, refused):
    torch.save({"module.a": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "net.pth")
    assert "holds `a` twice" in refused(tmp_path / "net.pth")


def test_half_precision_stays_as_it_is_and_views_are_kept(tmp_path):
    tensors = {
        "half": torch.ones(2, 3).half(), "brain": torch.ones(3).bfloat16(), "count": torch.tensor(5),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }  # fmt: skip
    torch.save(tensors, tmp_path / "net.pth")
    assert same(read_checkpoint(tmp_path / "net.pth"), tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "net.safetensors")
    assert same(read_checkpoint(tmp_path / "net.safetensors"), tensors)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_arrays_of_numpy_in_a_file_of_pytorch_are_read(tmp_path, old, kind):
    # As torchvggish publishes its components; NumPy before 2 called its insides otherwise.
    arrays = {"pca_eigen_vectors": np.arange(6, dtype=kind).reshape(2, 3), "pca_means": np.ones(3, kind)}
    path = tmp_path / "pca.pth"
    torch.save(arrays, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core", b"numpy.core") if old else content)
    assert same(read_checkpoint(path), {name: torch.from_numpy(array) for name, array in arrays.items()})


def test_archives_of_numpy_are_read_whatever_their_order_of_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", little=np.arange(3.0), big=np.arange(3, dtype=">f4"), name=np.array("text"))
    found = read_checkpoint(tmp_path / "a.npz")
    assert same(found, {"little": torch.arange(3.0).double(), "big": torch.arange(3.0)})


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_something_is_refused_and_not_run(tmp_path, refused, zipped):
    marker = tmp_path / "harmed"
    torch.save(state() | {"x": Harm(marker)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    (tmp_path / "b.bin").write_bytes(pickle.dumps(Harm(marker), protocol=2))
    assert "holds more than tensors, which could run anything and is not read" in refused(tmp_path / "a.pth")
    assert "take a file with the state dict alone" in refused(tmp_path / "b.bin")
    assert not marker.exists()
    with pytest.raises(FileExistsError):  # it would have harmed whoever read it
        marker.mkdir()
        pickle.loads((tmp_path / "b.bin").read_bytes())


def test_pickles_of_numpy_are_refused_and_not_run(tmp_path, refused):
    marker = tmp_path / "harmed"
    np.savez(tmp_path / "a.npz", x=np.array([Harm(marker)], dtype=object))
    np.save(tmp_path / "sound8.npy", {"conv1": {"weights": Harm(marker)}}, allow_pickle=True)
    np.save(tmp_path / "plain.npy", np.zeros(3))
    assert "cannot be read as arrays of NumPy (Object arrays" in refused(tmp_path / "a.npz")
    for name in ("sound8.npy", "plain.npy"):
        message = refused(tmp_path / name)
        assert "`soundnet8_final.t7` or `sound8.pth`" in message and "not read" in message
    assert not marker.exists()


def test_whole_modules_and_programs_are_refused(tmp_path, refused, recwarn):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    for name in ("whole.pth", "script.pt"):
        assert "holds more than tensors" in refused(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.zeros(1)], torch.zeros(1), "text", 3])
def test_what_has_no_names_is_refused(tmp_path, refused, content):
    torch.save(content, tmp_path / "net.pth")
    expected = "expected tensors by name, got (list|Tensor|str|int): take the state dict"
    assert re.search(expected, refused(tmp_path / "net.pth"))


def test_a_file_without_tensors_is_refused(tmp_path, refused):
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "net.pth")
    save_file({}, tmp_path / "net.safetensors")
    np.savez(tmp_path / "net.npz", name="text")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = ["conv2d"]
    (tmp_path / "net.t7").write_bytes(bytes(4))
    for suffix in ("pth", "safetensors", "npz", "h5", "t7"):
        assert "holds no tensors" in refused(tmp_path / f"net.{suffix}")


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.zeros(2, dtype=torch.complex64)])
def test_tensors_of_other_kinds_are_refused(tmp_path, refused, tensor):
    torch.save({"a": torch.zeros(2), "odd": tensor}, tmp_path / "net.pth")
    assert "`odd` is no plain tensor of real numbers" in refused(tmp_path / "net.pth")


SUFFIXES = [".pth", ".legacy.pth", ".safetensors", ".npz", ".h5", ".keras", ".t7"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    torch.save(state(), folder / "net.pth")
    torch.save(state() | {"array": np.ones(3)}, folder / "net.legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state(), folder / "net.safetensors")
    np.savez_compressed(folder / "net.npz", **{name: tensor.numpy() for name, tensor in state().items()})
    with h5py.File(folder / "net.h5", "w") as file:
        file.attrs["layer_names"] = ["conv2d"]
        file["conv2d/conv2d/kernel:0"] = np.ones((3, 3, 1, 2), np.float32)
    with zipfile.ZipFile(folder / "net.keras", "w") as archive:
        archive.write(folder / "net.h5", "model.weights.h5")
    (folder / "net.t7").write_bytes(bytes.fromhex("03000000 01000000 00000000"))
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_and_truncated_files_are_refused(tmp_path, whole, refused, suffix):
    content = (whole / f"net{suffix}").read_bytes()
    for part in (0, 0.1, 0.5, 0.9):
        path = tmp_path / f"net{suffix}"
        path.write_bytes(content[: int(len(content) * part)])
        assert "download it again" in refused(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_and_noise_are_refused(tmp_path, refused, suffix):
    path = tmp_path / f"net{suffix}"
    for content in (b"<html>404: Not Found</html>\n", b"version https://git-lfs.github.com/spec/v1\n", bytes(500)):
        path.write_bytes(content)
        assert "download it again" in refused(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_no_damage_ends_in_anything_but_a_sentence(tmp_path, whole, suffix):
    content, random = bytearray((whole / f"net{suffix}").read_bytes()), np.random.default_rng(0)
    path = tmp_path / f"net{suffix}"
    for _ in range(60):
        damaged = content.copy()
        for place in random.integers(0, len(content), 5):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)


def test_what_is_no_file_of_weights_is_refused(tmp_path, refused):
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "net").write_bytes(b"x")
    (tmp_path / "folder.pth").mkdir()
    assert re.search(
        r"files that end in \.pth, .*\.t7, \.safetensors, \.npz, and this is \.onnx", refused(tmp_path / "net.onnx")
    )
    assert "and this is without" in refused(tmp_path / "net")
    assert "folder.pth is a folder" in refused(tmp_path / "folder.pth")
    assert "net.pth does not exist" in refused(tmp_path / "net.pth")


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5"])
def test_a_hash_in_a_name_must_be_that_of_the_content(tmp_path, refused, kind):
    path = tmp_path / "net.pth"
    torch.save(state(), path)
    digest = hashlib.new(kind, path.read_bytes()).hexdigest()
    right, wrong = tmp_path / f"inceptionv3-0533-{digest[:8]}.pth", tmp_path / f"net-{digest[1:9]}.pth"
    path.rename(right)
    assert same(read_checkpoint(right), state())
    right.rename(wrong)
    message = refused(wrong)
    assert f"by its name a hash of it begins with {digest[1:9]}" in message and "rename it" in message
    assert hashlib.sha256(wrong.read_bytes()).hexdigest()[:12] in message


def test_names_without_a_hash_are_not_checked(tmp_path):
    for name in ("net-v1.pth", "net-0533.pth", "rgb_imagenet.pt", "net_10086976.pth"):
        (tmp_path / name).write_bytes(b"anything")
        check_hash(tmp_path / name)


def keras_legacy(path: Path, layers: dict[str, dict[str, np.ndarray]], *, inside: str = "", end: str = ":0") -> Path:
    """As Keras 2 and `save_weights` of an .h5 write it: layers in their order, variables by name."""
    with h5py.File(path, "w") as file:
        group = file.create_group(inside) if inside else file
        group.attrs["layer_names"] = [name.encode() for name in layers]
        group.attrs["backend"] = b"tensorflow"
        for layer, variables in layers.items():
            group.create_group(layer).attrs["weight_names"] = [f"{layer}/{name}{end}".encode() for name in variables]
            for name, array in variables.items():
                group[f"{layer}/{layer}/{name}{end}"] = array
    return path


def keras_3(path: Path, layers: dict[str, list[np.ndarray]], names: dict[str, str] | None = None) -> Path:
    """As Keras 3 writes `.weights.h5`: layers numbered anew, their variables numbered, and later their names beside."""
    with h5py.File(path, "w") as file:
        for layer, variables in layers.items():
            group = file.create_group(f"layers/{layer}/vars")
            if names:
                group.attrs["name"] = names[layer]
            for number, array in enumerate(variables):
                group[str(number)] = array
        file.create_group("optimizer/vars")["0"] = np.zeros(())
    return path


def test_the_old_format_of_keras_is_read_in_the_order_of_its_layers(tmp_path):
    kernel, row = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1), np.ones(3, np.float32)
    layers = {
        "input_1": {}, "conv2d_2": {"kernel": kernel}, "batch_normalization_1": {"beta": row, "moving_mean": row * 2},
        "conv2d_10": {"kernel": kernel + 1}, "conv2d_1": {"kernel": kernel + 2},
    }  # fmt: skip
    for name, inside, end in (("a.h5", "", ":0"), ("b.hdf5", "model_weights", ":0"), ("c.h5", "", "")):
        found = read_checkpoint(keras_legacy(tmp_path / name, layers, inside=inside, end=end))
        start = f"{inside}/" if inside else ""
        assert list(found) == [
            f"{start}{layer}/{layer}/{variable}{end}" for layer, variables in layers.items() for variable in variables
        ]
        assert torch.equal(found[f"{start}conv2d_1/conv2d_1/kernel{end}"], torch.from_numpy(kernel + 2))


@pytest.mark.parametrize("named", [False, True])
def test_the_new_format_of_keras_is_read_with_and_without_names(tmp_path, named):
    kernel, row = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1), np.ones(3, np.float32)
    layers = {"conv2d": [kernel], "conv2d_5": [kernel + 1], "batch_normalization": [row, row * 2, row * 3]}
    names = {"conv2d": "conv2d", "conv2d_5": "conv2d_8", "batch_normalization": "batch_normalization_7"}
    path = keras_3(tmp_path / "net.weights.h5", layers, names if named else None)
    expected = {
        f"layers/{layer}/vars/{number}": torch.from_numpy(array)
        for layer, arrays in layers.items()
        for number, array in enumerate(arrays)
    }
    assert same(read_checkpoint(path), expected)
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(path, "model.weights.h5")
    assert same(read_checkpoint(tmp_path / "net.keras"), expected)


def test_half_precision_and_whole_numbers_of_keras_are_read_and_texts_left(tmp_path):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["a/half"], file["a/count"], file["a/big"] = np.ones(2, "<f2"), np.arange(3), np.arange(3, dtype=">f4")
        file["a/text"] = "text"
    found = read_checkpoint(tmp_path / "net.h5")
    assert same(found, {"a/half": torch.ones(2).half(), "a/count": torch.arange(3), "a/big": torch.arange(3.0)})


def test_a_file_of_keras_cannot_reach_other_files_or_claim_any_size(tmp_path, refused):
    (tmp_path / "secret").write_bytes(bytes(8))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("a/x", (2,), "f4", external=[(str(tmp_path / "secret"), 0, 8)])
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (2,))
        file.create_virtual_dataset("a/x", layout)
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("a/x", (2**40,), "f4", chunks=(1024,))
    assert "`a/x` lies in another file" in refused(tmp_path / "external.h5")
    assert "`a/x` lies in another file" in refused(tmp_path / "virtual.h5")
    assert "it claims more than two gigabytes" in refused(tmp_path / "large.h5")
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for number in range(9):
            file.create_dataset(f"a/{number}", (2**26,), "f4", chunks=(1024,))
    assert "it claims more than two gigabytes" in refused(tmp_path / "many.h5")


def test_what_unpacks_to_more_than_it_says_takes_no_memory(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(checkpoint_files, "LARGEST", 2**20)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2**18))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**13
    assert "it claims more than two gigabytes" in refused(tmp_path / "bomb.npz")
    torch.save({"a": torch.zeros(1).expand(2**40)}, tmp_path / "wide.pth")
    assert "`a` claims more numbers than the file holds" in refused(tmp_path / "wide.pth")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "model.weights.h5" in refused(tmp_path / "other.keras")


def test_an_array_cannot_claim_any_size(tmp_path, refused):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "cannot be read as arrays of NumPy" in refused(tmp_path / "a.npz")
