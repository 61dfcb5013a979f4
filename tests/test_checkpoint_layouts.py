"""Every published layout: each key finds its place, with its own numbers; and what does not fit is said in a sentence.

Names and shapes are those of the published code, written down here by themselves.
"""

import functools
import json
from collections.abc import Iterator

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from modeling_dualspace import checkpoint_layouts
from modeling_dualspace.checkpoint_files import read_checkpoint
from modeling_dualspace.checkpoint_layouts import LAYOUTS, Fitted, fit
from modeling_dualspace.inception import InceptionConfig, InceptionModel
from modeling_dualspace.paper_networks import NETWORKS
from modeling_dualspace.soundnet import SoundnetConfig, SoundnetModel
from modeling_dualspace.vggish import VggishConfig, VggishModel

Tensors = dict[str, torch.Tensor]
COUNTER = "num_batches_tracked"


def numbers(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    """Random numbers of these shapes, no two of which share any; variances are positive."""
    flat = torch.rand(sum(map(int, map(np.prod, shapes.values()))), generator=torch.Generator().manual_seed(seed))
    flat = flat.sub_(0.5).mul_(0.2)
    parts = flat.split([int(np.prod(shape)) for shape in shapes.values()])
    made = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    return {
        name: tensor + 1 if name.endswith(("running_var", "bn.weight")) else tensor for name, tensor in made.items()
    }


def norm(unit: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{unit}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}


def check(
    found: Fitted, title: str, expected: Tensors, left_out: set[str], source: Tensors, *, implied: int = 0
) -> None:
    """All of ours is filled with the right numbers, but for what is implied out of the file, and none is left over."""
    assert found.layout.title == title and set(found.left_out) == left_out
    assert found.weights.keys() == expected.keys()
    for name, tensor in expected.items():
        ours = found.weights[name]
        assert ours.dtype == (torch.int64 if name.endswith(COUNTER) else torch.float32), name
        assert torch.equal(ours, tensor.to(ours.dtype)), name
        assert ours.is_contiguous() and ours.untyped_storage().nbytes() == ours.nbytes, name
    assert len(source) - len(left_out) + implied == len(expected)


def sentence(network: str, tensors: Tensors, where: str = "/some/file.pth") -> str:
    with pytest.raises(ValueError) as caught:
        fit(network, tensors, where)
    message = str(caught.value)
    assert message.startswith(where) and "\n" not in message and message.endswith(".")
    return message


# --- VGGish -----------------------------------------------------------------------------------------------------------


def vggish(channels: list[int], hidden: int, features: str, dense: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for place, before, after in zip((0, 3, 6, 8, 11, 13), [1, *channels], channels, strict=False):
        shapes |= {f"{features}.{place}.weight": (after, before, 3, 3), f"{features}.{place}.bias": (after,)}
    for place, wide, narrow in ((0, channels[-1] * 24, hidden), (2, hidden, hidden), (4, hidden, 128)):
        shapes |= {f"{dense}.{place}.weight": (narrow, wide), f"{dense}.{place}.bias": (narrow,)}
    return shapes


@pytest.fixture
def tiny_vggish(monkeypatch):
    """VGGish of two channels, as the network of that name."""
    config = functools.partial(VggishConfig, channels=[2] * 6, hidden=8)
    config.model_type = VggishConfig.model_type
    monkeypatch.setitem(NETWORKS, "vggish", NETWORKS["vggish"]._replace(config=config))
    checkpoint_layouts._shapes_of.cache_clear()
    yield config
    checkpoint_layouts._shapes_of.cache_clear()


def test_torchvggishs_file_of_full_size_fits():
    source = numbers(vggish([64, 128, 256, 256, 512, 512], 4096, "features", "embeddings"), 1)
    assert sum(tensor.numel() for tensor in source.values()) == 72_141_184
    found = fit("vggish", source, "vggish-10086976.pth")
    check(found, "torchvggish", source, set(), source)
    assert found.settings == {}


@pytest.mark.parametrize(
    ("title", "features", "dense"),
    [
        ("torchvggish", "features", "embeddings"),
        ("torchaudio", "features_network", "embedding_network"),
        ("audioset-vggish-tensorflow-to-pytorch", "features", "fc"),
    ],
)
@torch.no_grad()
def test_vggish_fits_and_gives_what_its_source_gives(tiny_vggish, title, features, dense):
    source = numbers(vggish([2] * 6, 8, features, dense), 2)
    found = fit("vggish", source, "file")
    expected = {
        name.replace(f"{features}.", "features.").replace(f"{dense}.", "embeddings."): tensor
        for name, tensor in source.items()
    }
    check(found, title, expected, set(), source)
    model = VggishModel(tiny_vggish())
    model.load_state_dict(found.weights)
    patches = torch.randn(3, 96, 64, generator=torch.Generator().manual_seed(3))
    maps = patches[:, None]
    for place in (0, 3, 6, 8, 11, 13):
        maps = F.conv2d(
            maps, source[f"{features}.{place}.weight"], source[f"{features}.{place}.bias"], padding=1
        ).relu()
        maps = F.max_pool2d(maps, 2) if place in (0, 3, 8, 13) else maps
    rows = maps.permute(0, 2, 3, 1).reshape(3, -1)
    for place in (0, 2, 4):
        rows = F.linear(rows, source[f"{dense}.{place}.weight"], source[f"{dense}.{place}.bias"])
        rows = rows.relu() if place < 4 else rows  # before the last ReLU, as AudioSet has them
    torch.testing.assert_close(model(patches).pooler_output, rows)


@pytest.mark.parametrize("name", ["pca_eigen_vectors", "pca_matrix"])
def test_the_whole_model_of_torchvggish_brings_its_components(tiny_vggish, name):
    source = numbers(vggish([2] * 6, 8, "features", "embeddings"), 3)
    expected = dict(source)
    source |= {f"pproc.{name}": torch.randn(128, 128), "pproc.pca_means": torch.randn(128, 1)}
    expected |= {"pca.weight": source[f"pproc.{name}"], "pca.mean": source["pproc.pca_means"][:, 0]}
    found = fit("vggish", source, "file")
    check(found, "torchvggish", expected, set(), source)
    assert found.settings == {"pca": 128, "post": "dequantised"}
    without = {key: tensor for key, tensor in source.items() if key != "pproc.pca_means"}
    assert "file.pth, read as torchvggish's, lacks tensors of our network: 1, like `pca.mean`" in sentence(
        "vggish", without
    )
    wrong = source | {f"pproc.{name}": torch.zeros(())}
    assert f"has no place in our network: 2, like `pproc.{name}`" in sentence("vggish", wrong)


# --- Inception V3 -----------------------------------------------------------------------------------------------------

Unit = tuple[str, int, tuple[int, int]]


def _path(*units: tuple[str, int, int | tuple[int, int]]) -> list[Unit]:
    return [(name, width, (size, size) if isinstance(size, int) else size) for name, width, size in units]


def _block_a(pool: int) -> list[list[Unit]]:
    double = _path(("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))
    five = _path(("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))
    return [_path(("branch1x1", 64, 1)), five, double, _path(("branch_pool", pool, 1))]


def _block_c(width: int) -> list[list[Unit]]:
    flat, tall = (1, 7), (7, 1)
    seven = _path(("branch7x7_1", width, 1), ("branch7x7_2", width, flat), ("branch7x7_3", 192, tall))
    double = _path(
        ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, tall), ("branch7x7dbl_3", width, flat),
        ("branch7x7dbl_4", width, tall), ("branch7x7dbl_5", 192, flat),
    )  # fmt: skip
    return [_path(("branch1x1", 192, 1)), seven, double, _path(("branch_pool", 192, 1))]


def _block_e() -> list[list[Unit]]:
    three = _path(("branch3x3_1", 384, 1), ("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1)))
    double = _path(
        ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), ("branch3x3dbl_3a", 384, (1, 3)),
        ("branch3x3dbl_3b", 384, (3, 1)),
    )  # fmt: skip
    return [_path(("branch1x1", 320, 1)), three, double, _path(("branch_pool", 192, 1))]


# torchvision/models/inception.py: what goes into a block, and its paths, in the order in which they are made.
BLOCKS = {
    "Mixed_5b": (192, _block_a(32)), "Mixed_5c": (256, _block_a(64)), "Mixed_5d": (288, _block_a(64)),
    "Mixed_6a": (288, [
        _path(("branch3x3", 384, 3)),
        _path(("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
    ]),
    "Mixed_6b": (768, _block_c(128)), "Mixed_6c": (768, _block_c(160)), "Mixed_6d": (768, _block_c(160)),
    "Mixed_6e": (768, _block_c(192)),
    "Mixed_7a": (768, [
        _path(("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)),
        _path(("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
              ("branch7x7x3_4", 192, 3)),
    ]),
    "Mixed_7b": (1280, _block_e()), "Mixed_7c": (2048, _block_e()),
}  # fmt: skip
STEM = _path(
    ("Conv2d_1a_3x3", 32, 3), ("Conv2d_2a_3x3", 32, 3), ("Conv2d_2b_3x3", 64, 3), ("Conv2d_3b_1x1", 80, 1),
    ("Conv2d_4a_3x3", 192, 3),
)  # fmt: skip


def inception_units() -> Iterator[tuple[str, int, int, tuple[int, int], float]]:
    """Name, channels in and out, kernel, and how far before the end of everything it stands, in units."""
    far = 1000.0
    for (name, width, size), before in zip(STEM, [3, 32, 32, 64, 80], strict=True):
        yield name, before, width, size, (far := far - 1)
    for block, (before, paths) in BLOCKS.items():
        far -= 10
        for path in paths:
            side_by_side = {name for name, _, _ in path if name.endswith(("a", "b"))}
            steps, width = len(path) - (1 if side_by_side else 0), before
            for place, (name, after, size) in enumerate(path):
                step = min(place, steps - 1)
                # Two that stand side by side are put together by one layer more.
                yield f"{block}.{name}", width, after, size, far + steps - step + (0.3 if side_by_side else 0)
                width = width if name in side_by_side else after


UNITS = list(inception_units())


def torchvision(classes: int = 1000, aux: bool = False) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    every = [(name, before, after, size) for name, before, after, size, _ in UNITS]
    if aux:
        every += [("AuxLogits.conv0", 768, 128, (1, 1)), ("AuxLogits.conv1", 128, 768, (5, 5))]
        shapes |= {"AuxLogits.fc.weight": (classes, 768), "AuxLogits.fc.bias": (classes,)}
    for name, before, after, size in every:
        shapes |= {f"{name}.conv.weight": (after, before, *size), **norm(f"{name}.bn", after)}
    return shapes | {"fc.weight": (classes, 2048), "fc.bias": (classes,)}


@pytest.fixture(scope="module")
def inception() -> Tensors:
    """The file of torchvision, with its auxiliary classifier."""
    return numbers(torchvision(aux=True), 4)


def without_classifiers(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("fc.", "AuxLogits."))}


def with_counters(tensors: Tensors, count: torch.Tensor) -> Tensors:
    """As PyTorch 0.4.1 and later save batch norms."""
    norms = [name.removesuffix("running_var") for name in tensors if name.endswith("running_var")]
    return tensors | {f"{name}{COUNTER}": count for name in norms}


def test_the_units_are_those_of_the_published_network():
    counted = sum(int(np.prod(shape)) for name, shape in torchvision(aux=True).items() if "running" not in name)
    assert len(UNITS) == 94 and counted == 27_161_264
    assert sum(tensor.numel() for tensor in InceptionModel(InceptionConfig()).parameters()) == 23_834_568 - 2_049_000


@pytest.mark.parametrize(
    ("aux", "count"), [(True, torch.tensor(5)), (True, None), (False, torch.tensor(5)), (False, torch.tensor(5.0))]
)
def test_torchvisions_and_timms_files_fit(inception, aux, count):
    source = {name: tensor for name, tensor in inception.items() if aux or not name.startswith("AuxLogits")}
    source = with_counters(source, count) if count is not None else source
    found = fit("inception", source, "file")
    expected = with_counters(without_classifiers(inception), torch.tensor(5 if count is not None else 0))
    left_out = {name for name in source if name.startswith(("fc.", "AuxLogits."))}
    check(found, "torchvision and timm", expected, left_out, source, implied=94 if count is None else 0)
    assert found.settings == {} and found.layout.pictures["image_mean"] == [0.5] * 3
    assert found.layout.pictures["size"] == {"shortest_edge": 342} and found.layout.pictures["resample"] == 2


def test_the_network_of_2015_is_known_by_its_classes_and_pools_otherwise(inception):
    source = without_classifiers(inception) | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    found = fit("inception", source, "pt_inception-2015-12-05-6726825d.pth")
    expected = with_counters(without_classifiers(inception), torch.tensor(0))
    check(found, "pytorch-fid (the network of 2015)", expected, {"fc.weight", "fc.bias"}, source, implied=94)
    assert found.settings == {"last_pool": "max", "pool_counts_padding": False}
    assert (
        found.layout.pictures["size"] == {"height": 299, "width": 299} and not found.layout.pictures["do_center_crop"]
    )
    # (x - 128) / 128, as its graph begins
    scaled = (np.array([0, 128, 255]) / 255 - found.layout.pictures["image_mean"]) / found.layout.pictures["image_std"]
    np.testing.assert_allclose(scaled, [-1, 0, 127 / 128], atol=1e-12)


@pytest.fixture(scope="module")
def keras(inception) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """By the place in which they are made: the kernel, and beta, mean and variance of its norm."""
    made = {}
    for name, *_ in UNITS:
        kernel = np.ascontiguousarray(inception[f"{name}.conv.weight"].numpy().transpose(2, 3, 1, 0))
        made[name] = (
            kernel,
            [inception[f"{name}.bn.{part}"].numpy() for part in ("bias", "running_mean", "running_var")],
        )
    return made


def by_depth() -> list[int]:
    """Keras lists layers by their distance from the last, and those as far away in the order of their paths."""
    return sorted(range(94), key=lambda place: -UNITS[place][-1])


def legacy_keras(keras, *, start: int, end: str, top: bool, inside: str = "") -> dict[str, np.ndarray]:
    """Keras 2 (from 1, or from 0 in TensorFlow 2) and the .h5 of Keras 3, which has no `:0`."""
    found: dict[str, np.ndarray] = {}
    for place in by_depth():
        kernel, of_norm = keras[UNITS[place][0]]
        ending = f"_{place + start}" if place + start else ""
        for layer, variables in (
            (f"conv2d{ending}", {"kernel": kernel}),
            (
                f"batch_normalization{ending}",
                dict(zip(("beta", "moving_mean", "moving_variance"), of_norm, strict=True)),
            ),
        ):
            found |= {f"{inside}{layer}/{layer}/{name}{end}": array for name, array in variables.items()}
    if top:
        classifier = {"kernel": np.zeros((2048, 1000), "f4"), "bias": np.zeros(1000, "f4")}
        found |= {f"{inside}predictions/predictions/{name}{end}": array for name, array in classifier.items()}
    return found


def keras_3(keras, *, top: bool) -> dict[str, np.ndarray]:
    """`.weights.h5` of Keras 3: numbered as they stand in the model."""
    found: dict[str, np.ndarray] = {}
    for number, place in enumerate(by_depth()):
        kernel, of_norm = keras[UNITS[place][0]]
        ending = f"_{number}" if number else ""
        found[f"layers/conv2d{ending}/vars/0"] = kernel
        found |= {f"layers/batch_normalization{ending}/vars/{part}": array for part, array in enumerate(of_norm)}
    if top:
        found |= {"layers/dense/vars/0": np.zeros((2048, 1000), "f4"), "layers/dense/vars/1": np.zeros(1000, "f4")}
    return found


def check_keras(found: Fitted, inception: Tensors, left_out: set[str], source: Tensors) -> None:
    expected = with_counters(without_classifiers(inception), torch.tensor(0))
    expected |= {name: torch.ones_like(tensor) for name, tensor in expected.items() if name.endswith("bn.weight")}
    check(found, "Keras", expected, left_out, source, implied=2 * 94)
    assert len(source) == 94 * 4 + len(left_out)
    assert found.settings == {"pool_counts_padding": False}


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize(
    ("start", "end", "inside"), [(1, ":0", ""), (0, ":0", "model_weights/"), (0, "", ""), (95, "", "")]
)
def test_old_files_of_keras_fit(inception, keras, start, end, inside, top):
    arrays = legacy_keras(keras, start=start, end=end, top=top, inside=inside)
    source = {name: torch.from_numpy(array) for name, array in arrays.items()}
    left_out = {name for name in source if "predictions" in name}
    check_keras(fit("inception", source, "file.h5"), inception, left_out, source)


@pytest.mark.parametrize("order", ["alphabet", "numbers"])
def test_old_files_of_keras_fit_by_number_where_the_order_is_lost(inception, keras, order):
    arrays = legacy_keras(keras, start=1, end=":0", top=False)
    key = {"alphabet": None, "numbers": lambda name: int(name.split("/")[0].rpartition("_")[2])}[order]
    source = {name: torch.from_numpy(arrays[name]) for name in sorted(arrays, key=key)}
    check_keras(fit("inception", source, "file.h5"), inception, set(), source)


def test_the_order_of_its_layers_tells_more_than_their_numbers(inception, keras):
    # So Keras reads it. Here as its first version calls them, where a variance is a deviation; and counted otherwise.
    arrays, source = legacy_keras(keras, start=1, end=":0", top=False), {}
    words = {"kernel:0": "W:0", "beta:0": "beta:0", "moving_mean:0": "running_mean:0"}
    kinds = {"conv2d": "convolution2d", "batch_normalization": "batchnormalization"}
    for name, array in arrays.items():
        layer, _, variable = name.split("/")
        kind, _, number = layer.rpartition("_")
        layer = f"{kinds[kind]}_{95 - int(number)}"
        source[f"{layer}/{layer}_{words.get(variable, 'running_std:0')}"] = torch.from_numpy(array)
    check_keras(fit("inception", source, "file.h5"), inception, set(), source)


@pytest.mark.parametrize("top", [True, False])
def test_new_files_of_keras_fit(inception, keras, top):
    source = {name: torch.from_numpy(array) for name, array in keras_3(keras, top=top).items()}
    left_out = {name for name in source if "dense" in name}
    check_keras(fit("inception", source, "file.weights.h5"), inception, left_out, source)


@pytest.mark.parametrize("new", [False, True])
def test_files_of_keras_fit_as_they_are_written(inception, keras, tmp_path, new):
    path = tmp_path / "net.weights.h5"
    arrays = keras_3(keras, top=True) if new else legacy_keras(keras, start=1, end=":0", top=True)
    with h5py.File(path, "w") as file:
        if not new:
            layers = dict.fromkeys(name.split("/")[0] for name in arrays)
            file.attrs["layer_names"] = [name.encode() for name in ["input_1", *layers]]
        for name, array in arrays.items():
            file[name] = array
    source = read_checkpoint(path)
    left_out = {name for name in source if "dense" in name or "predictions" in name}
    check_keras(fit("inception", source, str(path)), inception, left_out, source)


def test_every_convolution_of_keras_gives_what_its_own_kernel_gives(inception, keras):
    source = {name: torch.from_numpy(array) for name, array in keras_3(keras, top=False).items()}
    weights = fit("inception", source, "file").weights
    random = np.random.default_rng(5)
    for name, before, _, (height, width), _ in UNITS:
        kernel, (beta, mean, variance) = keras[name]
        patch = random.standard_normal((height, width, before)).astype("f4")
        reference = np.maximum((np.tensordot(patch, kernel, 3) - mean) / np.sqrt(variance + 0.001) + beta, 0)
        maps = F.conv2d(torch.from_numpy(patch.transpose(2, 0, 1)[None]), weights[f"{name}.conv.weight"])
        of_norm = (weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        made = F.batch_norm(maps, *of_norm, eps=0.001).relu().flatten().numpy()
        np.testing.assert_allclose(made, reference, rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_is_wrong_in_a_file_of_keras_is_said(keras):
    source = {name: torch.from_numpy(array) for name, array in keras_3(keras, top=False).items()}
    told = "/some/file.pth, read as Keras's"
    one_more = source | {"layers/conv2d_94/vars/0": torch.zeros(1, 1, 1, 1)}
    assert f"{told}, holds what has no place in our network: 1, like `layers/conv2d_94/vars/0`" in sentence(
        "inception", one_more
    )
    scaled = source | {"layers/batch_normalization_3/vars/3": torch.ones(80)}
    assert "`layers/batch_normalization_3/vars/3`" in sentence("inception", scaled)
    odd = source | {"layers/batch_normalization_3/vars/moving_average": torch.ones(80)}
    assert "`layers/batch_normalization_3/vars/moving_average`" in sentence("inception", odd)
    missing = {name: tensor for name, tensor in source.items() if name != "layers/batch_normalization_93/vars/1"}
    assert f"{told}, lacks tensors of our network: 1, like `Mixed_7c.branch_pool.bn.running_mean`" in sentence(
        "inception", missing
    )
    shifted = {name: tensor for name, tensor in source.items() if name != "layers/conv2d_40/vars/0"}
    assert sentence("inception", shifted).startswith(told)


# --- SoundNet ---------------------------------------------------------------------------------------------------------

SOUND = [(1, 16, 64, 32), (16, 32, 32, 16), (32, 64, 16, 8), (64, 128, 8, 4), (128, 256, 4, 2), (256, 512, 4, 2),
         (512, 1024, 4, 2)]  # fmt: skip
SOUND_POOLS = {1: 8, 2: 8, 5: 4}
PORTS = {
    "SoundNet_Pytorch (smallflyingpig)": ("conv{}.0", "conv{}.1", "conv8.0", "conv8_2.0"),
    "pytorch-soundnet (keunhong, EsamGhaleb, salmedina)": ("conv{}", "batchnorm{}", "conv8_objs", "conv8_scns"),
}
SMALLFLYINGPIG, KEUNHONG = PORTS


@pytest.fixture(scope="module")
def soundnet() -> dict[str, Tensors]:
    """By the port: its file; both hold the same numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (before, after, size, _) in enumerate(SOUND, 1):
        shapes |= {
            f"{number}.weight": (after, before, size, 1),
            f"{number}.bias": (after,),
            **norm(f"{number}.bn", after),
        }
    for number, width in ((8, 1000), (9, 401)):
        shapes |= {f"{number}.weight": (width, 1024, 8, 1), f"{number}.bias": (width,)}
    made, files = numbers(shapes, 6), {}
    for title, (conv, batch, objects, scenes) in PORTS.items():
        files[title] = {}
        for name, tensor in made.items():
            number, _, part = name.partition(".")
            unit = {"8": objects, "9": scenes}.get(number, (batch if "bn." in part else conv).format(number))
            files[title][f"{unit}.{part.removeprefix('bn.')}"] = tensor
    return files


def expected_soundnet(source: Tensors, title: str, count: int) -> Tensors:
    conv, batch, objects, scenes = PORTS[title]
    expected = {}
    for number in range(1, 8):
        expected[f"conv{number}.conv.weight"] = source[f"{conv.format(number)}.weight"][..., 0]
        expected[f"conv{number}.conv.bias"] = source[f"{conv.format(number)}.bias"]
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"conv{number}.bn.{part}"] = source[f"{batch.format(number)}.{part}"]
        expected[f"conv{number}.bn.{COUNTER}"] = torch.tensor(count)
    for ours, unit in (("objects", objects), ("scenes", scenes)):
        expected[f"{ours}.weight"], expected[f"{ours}.bias"] = source[f"{unit}.weight"][..., 0], source[f"{unit}.bias"]
    return expected


@pytest.mark.parametrize("count", [torch.tensor(100.0), torch.tensor(100), None])
@pytest.mark.parametrize("title", PORTS)
def test_soundnets_ports_fit(soundnet, title, count):
    source = soundnet[title] if count is None else with_counters(soundnet[title], count)
    assert len(source) == (46 if count is None else 53)
    found = fit("soundnet", source, "file")
    expected = expected_soundnet(source, title, 0 if count is None else 100)
    check(found, title, expected, set(), source, implied=7 if count is None else 0)
    assert found.settings == {}


@pytest.mark.parametrize("title", PORTS)
@torch.no_grad()
def test_soundnet_gives_what_its_port_gives(soundnet, title):
    source, (conv, batch, *_) = soundnet[title], PORTS[title]
    turned = {name: tensor.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) if tensor.ndim == 4 else tensor
              for name, tensor in source.items()}  # fmt: skip
    found = fit("soundnet", turned, "file")  # sound8.pth holds its kernels as views
    sounds = torch.randn(2, 4600, generator=torch.Generator().manual_seed(7)) * 30
    maps = sounds[:, None, :, None]
    for number, (*_, padding) in enumerate(SOUND, 1):
        unit, of_norm = conv.format(number), batch.format(number)
        maps = F.conv2d(maps, source[f"{unit}.weight"], source[f"{unit}.bias"], (2, 1), (padding, 0))
        parts = (source[f"{of_norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        maps = F.batch_norm(maps, *parts, eps=1e-5).relu()
        maps = F.max_pool2d(maps, (SOUND_POOLS[number], 1)) if number in SOUND_POOLS else maps
    with torch.device("meta"):
        model = SoundnetModel(SoundnetConfig()).eval()
    model.load_state_dict(found.weights, assign=True)
    torch.testing.assert_close(model(sounds).pooler_output, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)


# --- I3D --------------------------------------------------------------------------------------------------------------

# i3d.py of deepmind/kinetics-i3d: what goes into a block, and the channels of b0, b1a, b1b, b2a, b2b and b3b.
INFLATED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32), "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64), "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64), "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128), "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip
PATHS = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1",
         "b3b": "branch_3.1"}  # fmt: skip


def inflated_units() -> Iterator[tuple[str, str, int, int, int]]:
    """Name at piergiaj's and at hassony2's, channels in and out, kernel."""
    for name, before, after, size in (
        ("Conv3d_1a_7x7", 3, 64, 7), ("Conv3d_2b_1x1", 64, 64, 1), ("Conv3d_2c_3x3", 64, 192, 3),
    ):  # fmt: skip
        yield name, name.lower(), before, after, size
    for block, (before, b0, b1a, b1b, b2a, b2b, b3b) in INFLATED.items():
        for path, wide, narrow, size in (
            ("b0", before, b0, 1), ("b1a", before, b1a, 1), ("b1b", b1a, b1b, 3), ("b2a", before, b2a, 1),
            ("b2b", b2a, b2b, 3), ("b3b", before, b3b, 1),
        ):  # fmt: skip
            yield f"{block}.{path}", f"{block.lower()}.{PATHS[path]}", wide, narrow, size


@pytest.fixture(scope="module")
def i3d() -> tuple[Tensors, Tensors, Tensors]:
    """By our names, piergiaj's file, hassony2's."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, _, before, after, size in inflated_units():
        shapes |= {f"{name}.conv.weight": (after, before, size, size, size), **norm(f"{name}.bn", after)}
    ours = numbers(shapes, 8)
    logits = {"weight": torch.zeros(400, 1024, 1, 1, 1), "bias": torch.zeros(400)}
    piergiaj = {f"logits.conv3d.{part}": tensor for part, tensor in logits.items()}
    hassony2 = {}
    for name, other, *_ in inflated_units():
        piergiaj[f"{name}.conv3d.weight"] = hassony2[f"{other}.conv3d.weight"] = ours[f"{name}.conv.weight"]
        for part in ("weight", "bias", "running_mean", "running_var"):
            piergiaj[f"{name}.bn.{part}"] = hassony2[f"{other}.batch3d.{part}"] = ours[f"{name}.bn.{part}"]
    return ours, piergiaj, hassony2 | {f"conv3d_0c_1x1.conv3d.{part}": tensor for part, tensor in logits.items()}


@pytest.mark.parametrize("counted", [False, True])
def test_i3ds_ports_fit(i3d, counted):
    ours, piergiaj, hassony2 = i3d
    assert len(piergiaj) == len(hassony2) == 287
    assert sum(tensor.numel() for name, tensor in piergiaj.items() if "running" not in name) == 12_697_264
    expected = with_counters(ours, torch.tensor(9 if counted else 0))
    for source, title, logits in (
        (piergiaj, "pytorch-i3d (piergiaj)", "logits.conv3d"),
        (hassony2, "kinetics_i3d_pytorch (hassony2)", "conv3d_0c_1x1.conv3d"),
    ):
        source = with_counters(source, torch.tensor(9)) if counted else source
        left_out = {f"{logits}.weight", f"{logits}.bias"}
        check(fit("i3d", source, "file"), title, expected, left_out, source, implied=0 if counted else 57)


# --- What does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(soundnet, i3d, inception) -> dict[str, tuple[str, Tensors, str, str]]:
    """By its title: the network, a whole file, a key of it that is no classifier's, and our name of that."""
    small = with_counters(soundnet[SMALLFLYINGPIG], torch.tensor(100.0))
    return {
        SMALLFLYINGPIG: ("soundnet", small, "conv3.1.running_mean", "conv3.bn.running_mean"),
        KEUNHONG: ("soundnet", soundnet[KEUNHONG], "conv8_scns.weight", "scenes.weight"),
        "pytorch-i3d (piergiaj)": ("i3d", i3d[1], "Mixed_4c.b2b.bn.bias", "Mixed_4c.b2b.bn.bias"),
        "kinetics_i3d_pytorch (hassony2)": ("i3d", i3d[2], "mixed_4c.branch_2.1.batch3d.bias", "Mixed_4c.b2b.bn.bias"),
        "torchvision and timm": (
            "inception",
            inception,
            "Mixed_7c.branch_pool.bn.bias",
            "Mixed_7c.branch_pool.bn.bias",
        ),
    }


TITLES = [SMALLFLYINGPIG, KEUNHONG, "pytorch-i3d (piergiaj)", "kinetics_i3d_pytorch (hassony2)", "torchvision and timm"]


@pytest.mark.parametrize("title", TITLES)
def test_one_key_missing_one_too_many_or_of_another_shape_is_named(files, title):
    network, whole, key, ours = files[title]
    told = f"/some/file.pth, read as {title}'s"
    without = {name: tensor for name, tensor in whole.items() if name != key}
    assert sentence(network, without) == f"{told}, lacks tensors of our network: 1, like `{ours}`."
    more = whole | {"extra.weight": torch.zeros(1), "zextra": torch.zeros(1)}
    assert sentence(network, more) == f"{told}, holds what has no place in our network: 2, like `extra.weight`."
    wide = whole | {key: torch.zeros(7, 2)}
    assert sentence(network, wide).startswith(f"{told}: `{ours}` is (7, 2), and our network has (")


@pytest.mark.parametrize("title", TITLES)
def test_the_file_of_another_network_is_told(files, title):
    network, whole, *_ = files[title]
    for other in LAYOUTS.keys() - {network}:
        message = sentence(other, whole)
        assert f"/some/file.pth holds no {other} in a layout we know ({LAYOUTS[other][0].title}, " in message
        assert f"it has {len(whole)} tensors, like `{next(iter(whole))}`" in message


@pytest.mark.parametrize("title", TITLES)
def test_batch_norms_that_nobody_trained_are_refused(files, title):
    # The converter of keunhong's port copies convolutions alone.
    network, whole, *_ = files[title]
    fresh = {name: torch.zeros_like(tensor) for name, tensor in whole.items() if name.endswith("running_mean")}
    fresh |= {name: torch.ones_like(tensor) for name, tensor in whole.items() if name.endswith("running_var")}
    message = sentence(network, whole | fresh)
    assert message.startswith(
        f"/some/file.pth, read as {title}'s: every batch norm has a mean of zero and a variance of"
    )
    assert ".running_mean`" in message and "take another file" in message
    some = {name: tensor for name, tensor in fresh.items() if "1" not in name}
    assert fit(network, whole | some, "file").weights  # one that happens to be so is none of our business


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(files, value):
    network, whole, key, ours = files[SMALLFLYINGPIG]
    broken = whole[key].clone()
    broken[-1] = value
    message = sentence(network, whole | {key: broken})
    assert message.startswith(f"/some/file.pth, read as {SMALLFLYINGPIG}'s: `{ours}` holds what is no number")


def test_two_tensors_for_one_place_are_refused(files):
    network, whole, *_ = files[SMALLFLYINGPIG]
    message = sentence(network, whole | {"objects.bias": torch.zeros(1000)})
    assert "holds two tensors for one place: 1, like `objects.bias`" in message


def test_an_empty_file_is_refused():
    for network in LAYOUTS:
        assert "it has 0 tensors" in sentence(network, {})


def test_half_precision_becomes_float32(files):
    network, whole, *_ = files[KEUNHONG]
    found = fit(network, {name: tensor.half() for name, tensor in whole.items()}, "file")
    assert torch.equal(found.weights["objects.bias"], whole["conv8_objs.bias"].half().float())


def test_what_was_found_can_be_written_as_json(files):
    for network, whole, *_ in files.values():
        found = fit(network, whole, "file")
        json.dumps({"left_out": found.left_out, "settings": found.settings, "pictures": found.layout.pictures})
