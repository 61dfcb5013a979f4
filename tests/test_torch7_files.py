"""Torch7's files: what is written by the format's description is read back, and no file can do harm or hang."""

import itertools
import struct
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from modeling_dualspace.checkpoint_files import read_checkpoint
from modeling_dualspace.checkpoint_layouts import fit
from modeling_dualspace.conversion import convert
from modeling_dualspace.soundnet import SoundnetConfig, SoundnetModel
from modeling_dualspace.torch7_files import read_torch7

NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN = range(6)
KINDS = {"Float": "f", "Double": "d", "Long": "q", "Int": "i", "Short": "h", "Char": "b", "Byte": "B", "Half": "e"}
# main_train.lua of cvondrick/soundnet: place among the modules, channels in and out, kernel; a batch norm follows.
CONVOLUTIONS = [
    (1, 1, 16, 64), (5, 16, 32, 32), (9, 32, 64, 16), (12, 64, 128, 8), (15, 128, 256, 4), (19, 256, 512, 4),
    (22, 512, 1024, 4),
]  # fmt: skip
GEOMETRY = [(2, 32), (2, 16), (2, 8), (2, 4), (2, 2), (2, 2), (2, 2)]
POOLS = {0: 8, 1: 8, 4: 4}


class Storage(NamedTuple):
    """Numbers, of the class `torch.<kind>Storage`."""

    kind: str
    numbers: list | np.ndarray


class View(NamedTuple):
    """A tensor of the class of its storage."""

    storage: Storage | None
    sizes: tuple = ()
    steps: tuple = ()
    start: int = 1


class Module(NamedTuple):
    """An object of `nn`, written as its fields."""

    name: str
    fields: dict
    version: int = 1


class Closure(NamedTuple):
    """A function as bytes, and what it closes over."""

    code: bytes
    values: dict


class Writer:
    """File.lua of torch/torch7, as its comments describe what it writes."""

    def __init__(self):
        self.out, self.numbers, self.kept = bytearray(), {}, []

    def put(self, form: str, *values) -> None:
        self.out += struct.pack(f"<{form}", *values)

    def text(self, text: str | bytes) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.put("i", len(raw))
        self.out += raw

    def again(self, kind: int, value) -> bool:
        """Its kind and its number, and whether it was written before."""
        self.put("i", kind)
        known = id(value) in self.numbers
        self.put("i", self.numbers.setdefault(id(value), len(self.numbers) + 1))
        self.kept.append(value)
        return known

    def write(self, value) -> None:
        if value is None:
            self.put("i", NIL)
        elif isinstance(value, bool):
            self.put("ii", BOOLEAN, value)
        elif isinstance(value, int | float):
            self.put("id", NUMBER, value)
        elif isinstance(value, str):
            self.put("i", STRING)
            self.text(value)
        elif isinstance(value, list):
            self.write(dict(enumerate(value, 1)))
        elif isinstance(value, dict):
            if not self.again(TABLE, value):
                self.put("i", len(value))
                for part in itertools.chain.from_iterable(value.items()):
                    self.write(part)
        elif isinstance(value, Closure):
            if not self.again(8, value):
                self.text(value.code)
                self.write(value.values)
        elif not self.again(OBJECT, value):
            self.text(f"V {value.version if isinstance(value, Module) else 1}")
            self.object(value)

    def object(self, value) -> None:
        if isinstance(value, Module):
            self.text(value.name)
            self.write(value.fields)
        elif isinstance(value, View):
            self.text(f"torch.{value.storage.kind if value.storage else 'Float'}Tensor")
            self.put(f"i{2 * len(value.sizes)}q", len(value.sizes), *value.sizes, *value.steps)
            self.put("q", value.start)
            self.write(value.storage)
        else:
            form = KINDS[value.kind.removeprefix("Cuda") or "Float"]
            self.text(f"torch.{value.kind}Storage")
            self.put("q", len(value.numbers))
            if isinstance(value.numbers, np.ndarray):
                self.out += value.numbers.astype(f"<{form}").tobytes()
            else:
                self.put(f"{len(value.numbers)}{form}", *value.numbers)


EMPTY = View(None)


def row(*numbers: float, kind: str = "Float") -> View:
    return View(Storage(kind, list(numbers)), (len(numbers),), (1,))


@pytest.fixture
def saved(tmp_path):
    """`saved(value)`: a file of it."""

    def write(value, name="net.t7"):
        writer = Writer()
        writer.write(value)
        (tmp_path / name).write_bytes(writer.out)
        return tmp_path / name

    return write


@pytest.fixture
def refused(tmp_path):
    """`refused(bytes)`: the one sentence in which reading them ends."""

    def read(content: bytes) -> str:
        path = tmp_path / "bad.t7"
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            read_torch7(path)
        message = str(caught.value)
        assert message.startswith(f"{path} cannot be read as a binary file of Torch7 (at byte ") and "\n" not in message
        assert message.endswith("): download it again.")
        return message

    return read


def nested() -> Module:
    """A convolution, a batch norm, a ReLU and two layers abreast, with what training leaves in them."""
    conv = {
        "_type": "torch.FloatTensor", "kW": 1, "kH": 2, "train": False, "output": row(7, 8), "gradInput": EMPTY,
        "weight": View(Storage("Float", [1, 2, 3, 4]), (2, 1, 2, 1), (2, 2, 1, 1)), "bias": row(5, 6),
        "gradWeight": row(9, 9, 9, 9), "gradBias": row(9, 9), "_input": None,
    }  # fmt: skip
    norm = {
        "weight": row(1, 2), "bias": row(3, 4), "running_mean": row(5, 6), "running_var": row(7, 8), "eps": 1e-5,
        "save_mean": row(9, 9), "save_std": row(9, 9), "affine": True,
    }  # fmt: skip
    heads = Module("nn.ConcatTable", {"modules": [Module("nn.Linear", {"weight": row(1), "bias": row(2)})]})
    modules = [
        Module("nn.SpatialConvolution", conv), Module("nn.SpatialBatchNormalization", norm, 2),
        Module("nn.ReLU", {"inplace": True, "output": EMPTY}), heads,
    ]  # fmt: skip
    return Module("nn.Sequential", {"modules": modules, "output": row(1), "_type": "torch.FloatTensor"})


def test_modules_are_named_by_their_places(saved):
    found = read_torch7(saved(nested()))
    assert list(found) == [
        "1.weight", "1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var", "4.1.weight", "4.1.bias",
    ]  # fmt: skip
    assert found["1.weight"].dtype == torch.float32 and found["1.weight"].shape == (2, 1, 2, 1)
    assert found["1.weight"].flatten().tolist() == [1, 2, 3, 4] and found["1.bias"].tolist() == [5, 6]
    assert found["2.running_var"].tolist() == [7, 8] and found["4.1.bias"].tolist() == [2]


def test_it_is_read_by_the_end_of_its_name(saved):
    found = read_checkpoint(saved(nested(), "NET.T7"))
    assert len(found) == 8 and found["2.weight"].tolist() == [1, 2]


@pytest.mark.parametrize("kind", [*KINDS, "Cuda", "CudaDouble", "CudaHalf", "CudaLong"])
def test_every_kind_of_number_becomes_float32(saved, kind):
    found = read_torch7(saved({"a": row(1, 100, 3, kind=kind)}))["a"]
    assert found.dtype == torch.float32 and found.tolist() == [1, 100, 3]


def test_numbers_beyond_float32_are_infinite_without_a_warning(saved):
    assert read_torch7(saved({"a": row(1e300, kind="Double")}))["a"].tolist() == [float("inf")]


def test_tables_go_by_their_keys_and_functions_are_skipped(saved):
    code = Closure(b"\x1bLua", {"name": "up", "value": row(9)})
    table = {"net": nested(), 2: {"means": row(1, 2)}, 1.5: row(3), "step": code, "epoch": 7, True: row(4), "no": None}
    found = read_torch7(saved(table))
    assert (
        found["2.means"].tolist() == [1, 2] and found["1.5"].tolist() == [3] and found["net.2.bias"].tolist() == [3, 4]
    )
    assert len(found) == 8 + 2


def test_tensors_may_lie_in_one_storage_in_any_order(saved):
    flat = Storage("Cuda", [0, 1, 2, 3, 4, 5, 6, 7])
    turned = View(flat, (2, 3), (1, 2), 2)  # by columns, from the second number
    found = read_torch7(saved({"a": turned, "b": View(flat, (2,), (1,), 7), "c": View(flat, (1, 1), (8, 1), 8)}))
    assert found["a"].tolist() == [[1, 3, 5], [2, 4, 6]]
    assert found["b"].tolist() == [6, 7] and found["c"].tolist() == [[7]]


def test_what_comes_again_is_its_number_alone(saved):
    weight = row(1, 2)
    found = read_torch7(saved({"a": weight, "b": {"c": weight}}))
    assert found["a"].tolist() == found["b.c"].tolist() == [1, 2]


def test_files_from_before_versions_have_the_class_alone(tmp_path):
    writer = Writer()
    writer.again(OBJECT, object())
    writer.text("nn.Linear")
    writer.write({"weight": row(1, 2)})
    (tmp_path / "old.t7").write_bytes(writer.out)
    assert read_torch7(tmp_path / "old.t7")["weight"].tolist() == [1, 2]


def test_the_first_batch_norms_kept_one_over_the_deviation(saved):
    # Of the first version, nn multiplied by running_std, in which eps is already.
    inverse, eps = [0.5, 2.0, 10.0], 1e-3
    fields = {"running_std": row(*inverse), "running_mean": row(1, 2, 3), "eps": eps}
    found = read_torch7(
        saved(Module("nn.Sequential", {"modules": [Module("nn.SpatialBatchNormalization", fields, 1)]}))
    )
    rows = torch.tensor([[4.0, 5.0, 6.0]])
    made = F.batch_norm(rows, found["1.running_mean"], found["1.running_var"], eps=eps)
    torch.testing.assert_close(made, (rows - torch.tensor([1.0, 2.0, 3.0])) * torch.tensor(inverse))
    for wrong in (Module("nn.BatchNormalization", fields, 2), Module("nn.BatchNormalization", {**fields, "eps": None})):
        assert list(read_torch7(saved(wrong))) == ["running_mean"]  # as Torch itself: the variance is missing


def test_cycles_and_shared_tables_end(saved):
    ring = {"a": row(1)}
    ring["self"] = ring
    module = Module("nn.Sequential", {"modules": {}})
    module.fields["modules"][1] = module
    ring["module"] = module
    assert list(read_torch7(saved(ring))) == ["a"]
    laughs = {"end": row(1)}
    for _ in range(40):  # 2 ** 40 ways lead to its end
        laughs = {"left": laughs, "right": laughs}
    begun = time.perf_counter()
    found = read_torch7(saved(laughs))
    assert len(found) == 1 and time.perf_counter() - begun < 1


def test_objects_inside_one_another_without_end_are_refused(refused):
    deep = b"".join(struct.pack("<iii", TABLE, number, 1) for number in range(1, 100_000))
    assert "more than 100 objects inside one another" in refused(deep)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "at byte 0: it ends too early"),
        (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "there is no object of kind"),  # as text
        (struct.pack("<i", 99), "there is no object of kind 99"),
        (struct.pack("<ii4s", 6, 4, b"\x1bLua"), "a function"),
        (struct.pack("<ii", STRING, 2**31 - 1), "ends too early"),
        (struct.pack("<ii", STRING, -1), "ends too early"),
        (struct.pack("<iii", TABLE, 1, 2**31 - 1), "ends too early"),
        (struct.pack("<iii", TABLE, 1, -1), "ends too early"),
        (struct.pack("<iii3si6si", OBJECT, 1, 3, b"V 1", 6, b"nn.Abc", NIL), "a nn.Abc without fields"),
    ],
)
def test_what_is_no_file_of_torch7_is_refused_in_a_sentence(refused, content, sentence):
    assert sentence in refused(content)


def array_of(what: str, rest: bytes) -> bytes:
    name = f"torch.Float{what}".encode()
    return struct.pack(f"<iii3si{len(name)}s", OBJECT, 1, 3, b"V 1", len(name), name) + rest


@pytest.mark.parametrize("length", [2**62, 2**40, 3, -1, -(2**63)])
def test_a_storage_cannot_claim_more_than_the_file_holds(refused, length):
    assert "ends too early" in refused(array_of("Storage", struct.pack("<q", length) + bytes(8)))


@pytest.mark.parametrize(
    ("sizes", "steps", "start"),
    [
        ((3,), (1,), 1),  # one more than there are
        ((2,), (1,), 2),
        ((2,), (1,), 0),
        ((2**40,), (0,), 1),  # one number, many times
        ((-1, -1), (1, 1), 1),
        ((2,), (-1,), 2),
        ((2**62, 2**62), (1, 1), 1),
        ((1,), (2**63 - 1,), 2**62),
    ],
)
def test_a_tensor_cannot_reach_beyond_its_storage(saved, refused, sizes, steps, start):
    content = saved(View(Storage("Float", [1, 2]), sizes, steps, start)).read_bytes()
    assert "a tensor of" in refused(content) and "from 2 numbers" in refused(content)


def test_a_tensor_of_no_storage_or_of_too_many_dimensions_is_refused(saved, refused):
    assert "from 0 numbers" in refused(saved(View(None, (2,), (1,), 1)).read_bytes())
    assert "1000 dimensions" in refused(array_of("Tensor", struct.pack("<i", 1000)))
    assert "-1 dimensions" in refused(array_of("Tensor", struct.pack("<i", -1)))


def test_a_name_without_end_is_refused(saved, refused):
    assert "a name of 5000 letters" in refused(saved({"a" * 5000: row(1)}).read_bytes())


def test_a_file_cut_off_anywhere_is_refused(saved, refused):
    content = saved(nested()).read_bytes()
    for end in range(0, len(content), 23):
        refused(content[:end])


def test_no_damage_ends_in_anything_but_a_sentence(saved, tmp_path):
    content, random = bytearray(saved(nested()).read_bytes()), np.random.default_rng(0)
    path, sentences = tmp_path / "damaged.t7", 0
    for _ in range(500):
        damaged = content.copy()
        for place in random.integers(0, len(content), random.integers(1, 4)):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert sum(tensor.numel() for tensor in read_torch7(path).values()) < len(content)
        except ValueError as error:
            sentences += 1
            assert "cannot be read as a binary file of Torch7" in str(error)
    assert sentences > 100


@pytest.fixture(scope="module")
def soundnet8(tmp_path_factory):
    """A file as the authors' code saves the network: on a GPU, all weights in one storage, and its tensors by place."""
    generator = np.random.default_rng(1)
    wanted = {}
    for place, before, after, kernel in CONVOLUTIONS:
        wanted[f"{place}.weight"], wanted[f"{place}.bias"] = (after, before, kernel, 1), (after,)
        wanted |= {f"{place + 1}.weight": (after,), f"{place + 1}.bias": (after,)}
    for place, width in (("25.1", 1000), ("25.2", 401)):
        wanted |= {f"{place}.weight": (width, 1024, 8, 1), f"{place}.bias": (width,)}
    flat = generator.standard_normal(sum(map(np.prod, wanted.values())), np.float32) * 0.05
    storage, tensors, views, start = Storage("Cuda", flat), {}, {}, 0
    for name, sizes in wanted.items():
        count = int(np.prod(sizes))
        tensors[name] = torch.from_numpy(flat[start : start + count].reshape(sizes))
        steps = [int(np.prod(sizes[place + 1 :])) for place in range(len(sizes))]
        views[name] = View(storage, sizes, tuple(steps), start + 1)
        start += count
    modules = {place: Module("cudnn.ReLU", {"output": EMPTY, "inplace": True}) for place in range(1, 29)}
    for place, _, after, _ in CONVOLUTIONS:
        part = {"weight": views[f"{place}.weight"], "bias": views[f"{place}.bias"], "gradWeight": EMPTY, "padH": 2}
        modules[place] = Module("cudnn.SpatialConvolution", part)
        mean, variance = generator.standard_normal(after, np.float32), generator.uniform(0.5, 2, after)
        norm = {"running_mean": View(Storage("Cuda", mean), (after,), (1,)), "eps": 1e-5, "affine": True}
        norm |= {"running_var": View(Storage("Cuda", variance), (after,), (1,))}
        norm |= {part: views[f"{place + 1}.{part}"] for part in ("weight", "bias")}
        modules[place + 1] = Module("nn.SpatialBatchNormalization", norm, 2)
        tensors[f"{place + 1}.running_mean"] = torch.from_numpy(mean)
        tensors[f"{place + 1}.running_var"] = torch.from_numpy(variance).float()
    heads = [
        Module("cudnn.SpatialConvolution", {part: views[f"25.{head}.{part}"] for part in ("weight", "bias")})
        for head in (1, 2)
    ]
    modules[25] = Module("nn.ConcatTable", {"modules": heads, "output": {}})
    modules[26] = Module("nn.ParallelTable", {"modules": [Module("nn.SplitTable", {"dimension": 3})] * 2})
    writer = Writer()
    writer.write(Module("nn.Sequential", {"modules": modules, "output": EMPTY, "train": False}))
    path = tmp_path_factory.mktemp("soundnet") / "soundnet8_final.t7"
    path.write_bytes(writer.out)
    return path, tensors


@pytest.fixture(scope="module")
def fitted(soundnet8):
    return fit("soundnet", read_checkpoint(soundnet8[0]), str(soundnet8[0]))


def test_every_tensor_of_soundnet_finds_its_place(soundnet8, fitted):
    tensors = soundnet8[1]
    assert fitted.layout.title == "SoundNet (Torch7)" and not fitted.left_out and not fitted.settings
    compared = set()
    for number, (place, *_) in enumerate(CONVOLUTIONS, 1):
        for part in ("weight", "bias"):
            ours = fitted.weights[f"conv{number}.conv.{part}"]
            assert torch.equal(ours.reshape(tensors[f"{place}.{part}"].shape), tensors[f"{place}.{part}"])
            compared |= {f"{place}.{part}"}
        for part in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(fitted.weights[f"conv{number}.bn.{part}"], tensors[f"{place + 1}.{part}"])
            compared |= {f"{place + 1}.{part}"}
    for head, name in (("25.1", "objects"), ("25.2", "scenes")):
        assert torch.equal(fitted.weights[f"{name}.weight"][..., None], tensors[f"{head}.weight"])
        assert torch.equal(fitted.weights[f"{name}.bias"], tensors[f"{head}.bias"])
        compared |= {f"{head}.weight", f"{head}.bias"}
    assert compared == tensors.keys() == read_checkpoint(soundnet8[0]).keys()
    assert len({tensor.untyped_storage().data_ptr() for tensor in fitted.weights.values()}) == len(fitted.weights)


@torch.no_grad()
def test_it_hears_what_the_authors_network_hears(soundnet8, fitted):
    tensors = {name: tensor.double() for name, tensor in soundnet8[1].items()}
    sound = torch.randn(1, 4600, generator=torch.Generator().manual_seed(2)) * 30
    maps = sound.double()[:, None, :, None]
    for number, (place, *_) in enumerate(CONVOLUTIONS):
        stride, padding = GEOMETRY[number]
        maps = F.conv2d(maps, tensors[f"{place}.weight"], tensors[f"{place}.bias"], (stride, 1), (padding, 0))
        norm = (tensors[f"{place + 1}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        maps = F.batch_norm(maps, *norm, eps=1e-5).relu()
        if number in POOLS:
            maps = F.max_pool2d(maps, (POOLS[number], 1))
    with torch.device("meta"):
        model = SoundnetModel(SoundnetConfig()).eval()
    model.load_state_dict(fitted.weights, assign=True)
    close = {"rtol": 0, "atol": 1e-5 * maps.abs().max().item()}
    torch.testing.assert_close(model(sound).pooler_output.double(), maps.mean((2, 3)), **close)


def test_the_authors_file_is_converted_in_one_command(soundnet8, fitted, tmp_path):
    found = convert("soundnet", soundnet8[0], tmp_path / "out")
    assert found["layout"] == "SoundNet (Torch7)" and found["width"] == 1024 and found["left_out"] == []
    weights = SoundnetModel.from_pretrained(tmp_path / "out").state_dict()
    assert weights.keys() == fitted.weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in fitted.weights.items())


def test_the_small_soundnet_is_refused_by_name(saved):
    # main_train_small.lua: other kernels, and a pool after the third convolution; so other places.
    modules = [Module("nn.SpatialConvolution", {"weight": row(1), "bias": row(1)}) for _ in range(14)]
    path = saved(Module("nn.Sequential", {"modules": modules}), "soundnet5_final.t7")
    with pytest.raises(ValueError, match=r"soundnet5_final\.t7 holds no soundnet in a layout we know .*\(Torch7\)"):
        fit("soundnet", read_checkpoint(path), str(path))
