"""A published checkpoint becomes a folder that the name of its network finds, or none at all."""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoFeatureExtractor, AutoModel

from modeling_dualspace import checkpoint_layouts, conversion
from modeling_dualspace.conversion import convert, read_components, render
from modeling_dualspace.extracted_set import check_place
from modeling_dualspace.files import atomic_folder, is_as_made
from modeling_dualspace.i3d import I3dConfig, I3dModel
from modeling_dualspace.inception import InceptionConfig, InceptionModel
from modeling_dualspace.known_backbones import load_backbone
from modeling_dualspace.paper_networks import NETWORKS
from modeling_dualspace.vggish import VggishConfig, VggishModel

SOUND = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 4


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    """VGGish of two channels as the network of that name, and a cache of its own."""
    config = functools.partial(VggishConfig, channels=[2] * 6, hidden=8)
    config.model_type = VggishConfig.model_type
    monkeypatch.setitem(NETWORKS, "vggish", NETWORKS["vggish"]._replace(config=config))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    checkpoint_layouts._shapes_of.cache_clear()
    yield
    checkpoint_layouts._shapes_of.cache_clear()


@pytest.fixture
def loaded(monkeypatch):
    """The backbones that conversions tried, at the end."""
    backbones = []

    def load(*arguments, **settings):
        backbones.append(load_backbone(*arguments, **settings))
        return backbones[-1]

    monkeypatch.setattr(conversion, "load_backbone", load)
    return backbones


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """In torchvggish's layout, which is ours."""
    torch.manual_seed(1)
    return VggishModel(VggishConfig(channels=[2] * 6, hidden=8)).state_dict()


@pytest.fixture
def checkpoint(tmp_path, weights) -> Path:
    torch.save(weights, tmp_path / "vggish.pth")
    return tmp_path / "vggish.pth"


@pytest.fixture
def components(tmp_path) -> Path:
    """As AudioSet publishes them."""
    random = np.random.default_rng(2)
    content = {"pca_eigen_vectors": random.standard_normal((128, 128)), "pca_means": random.standard_normal(128)}
    np.savez(tmp_path / "vggish_pca_params.npz", **content)
    return tmp_path / "vggish_pca_params.npz"


@pytest.fixture
def refused(tmp_path):
    """`refused(network, file, ...)`: the one sentence in which a conversion ends that leaves everything as it was."""

    def run(*arguments, **settings) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(ValueError) as caught:
            convert(*arguments, **settings)
        message = str(caught.value)
        assert "\n" not in message and ".tmp-" not in message
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return message

    return run


def vector(backbone) -> np.ndarray:
    return backbone.embed([[backbone.prepare(SOUND[:15_600])]])[0]


def test_the_name_alone_finds_what_was_converted(checkpoint, weights, tmp_path):
    found = convert("vggish", checkpoint)
    folder = tmp_path / "assets" / "dualspace" / "backbones" / "vggish"
    assert found["out"] == str(folder) and found["named"] and is_as_made(folder)
    assert found["layout"] == "torchvggish" and found["tensors"] == 18 and found["left_out"] == []
    backbone = load_backbone("audio", "vggish")
    assert backbone.spec == found["spec"] and backbone.source == "vggish" and backbone.width == found["width"] == 128
    model = AutoModel.from_pretrained(folder)
    assert type(model) is VggishModel and all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    patches = AutoFeatureExtractor.from_pretrained(folder)(SOUND, return_tensors="pt")["input_features"]
    with torch.no_grad():
        np.testing.assert_allclose(vector(backbone), model(patches).pooler_output[0].numpy(), atol=1e-6)
    text = render(found)
    assert text.startswith(
        f"{folder}: {found['spec']}, 128 numbers a unit, from the layout of torchvggish (18 tensors)"
    )
    assert text.endswith("--audio vggish")


def test_a_folder_of_ones_own_is_found_by_its_path(checkpoint, tmp_path):
    found = convert("vggish", str(checkpoint), str(tmp_path / "deep" / "mine"))
    assert found["out"] == str(tmp_path / "deep" / "mine") and not found["named"]
    assert load_backbone("audio", found["out"]).spec == found["spec"]
    assert render(found).endswith(f"--audio {tmp_path / 'deep' / 'mine'}")
    assert not (tmp_path / "assets").exists()


def test_what_is_written_are_safetensors_and_json_alone(checkpoint, tmp_path):
    convert("vggish", checkpoint, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".made-by-dualspace", "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip


def test_converting_twice_gives_the_same_bytes(checkpoint, components, tmp_path):
    for name in ("a", "b"):
        convert("vggish", checkpoint, tmp_path / name, components=components)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b")
    )  # fmt: skip
    assert first == second


def test_the_card_says_where_it_comes_from_and_nothing_of_the_machine(checkpoint, components, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert("vggish", Path("vggish.pth"), tmp_path / "out", components=components)
    card = (tmp_path / "out" / "README.md").read_text()
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert f"`vggish.pth` (SHA-256 {digest}), in the layout of torchvggish." in card
    assert "Converted by DualSpace" in card and "`vggish_pca_params.npz`" in card
    assert "licence is that of the checkpoint" in card and "Left out" not in card
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content and b"/tmp" not in content and b".tmp-" not in content, path


def test_the_name_in_the_card_is_that_of_a_link(checkpoint, tmp_path):
    # The Hub's cache calls a file by its hash, and links to it by its name.
    (tmp_path / "linked.pth").symlink_to(checkpoint)
    convert("vggish", tmp_path / "linked.pth", tmp_path / "out")
    assert "`linked.pth`" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["npz", "arrays", "tensors", "ours"])
def test_components_come_from_what_is_published(checkpoint, components, weights, tmp_path, kind):
    arrays = dict(np.load(components))
    path = tmp_path / "pca.pth"
    if kind == "npz":
        path = components
    elif kind == "arrays":
        torch.save(arrays, path)
    elif kind == "tensors":
        torch.save({name: torch.from_numpy(array).reshape(128, -1) for name, array in arrays.items()}, path)
    else:
        torch.save({"pca.weight": torch.from_numpy(arrays["pca_eigen_vectors"]), "pca.mean": arrays["pca_means"]}, path)
    found = convert("vggish", checkpoint, components=path)
    assert found["tensors"] == 20 and found["width"] == 128
    raw, made = (vector(load_backbone("audio", "vggish", settings={"post": post})) for post in ("none", "pca"))
    projected = arrays["pca_eigen_vectors"].astype("f4").astype("f8") @ (raw - arrays["pca_means"].astype("f4"))
    np.testing.assert_allclose(made, projected, rtol=1e-5, atol=1e-5)
    bits = np.floor((np.clip(projected, -2, 2) + 2) * (255 / 4))
    np.testing.assert_allclose(vector(load_backbone("audio", "vggish")), (bits - 128) / 256, atol=1.01 / 256)


def test_audiosets_own_components_are_read(data_root):
    path = data_root / "vggish_pca" / "vggish_pca_params.npz"
    found, published = read_components(path), np.load(path)
    assert torch.equal(found["pca.weight"], torch.from_numpy(published["pca_eigen_vectors"]).float())
    assert torch.equal(found["pca.mean"], torch.from_numpy(published["pca_means"]).float().flatten())


def youtube(folder: Path, width: int = 6, count: int = 5, **changed) -> Path:
    """The files of yt8m_pca.tgz: columns, and eigenvectors in rows."""
    random = np.random.default_rng(3)
    vectors = np.linalg.qr(random.standard_normal((width, width)))[0][:count].astype("f4")
    values = np.sort(random.uniform(0, 2, (count, 1)))[::-1].astype("f4")
    arrays = {"mean": random.standard_normal((width, 1)).astype("f4"), "eigenvals": values, "eigenvecs": vectors}
    folder.mkdir()
    for name, array in (arrays | changed).items():
        if array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=True)
    return folder


def test_youtube_8ms_components_are_whitened_as_its_code_has_them(tmp_path):
    folder = youtube(tmp_path / "yt8m", width=1100, count=1050)
    found = read_components(folder)
    mean, values, vectors = (np.load(folder / f"{name}.npy") for name in ("mean", "eigenvals", "eigenvecs"))
    rows = np.random.default_rng(4).standard_normal((3, 1100))
    # feature_extractor.py: the mean's first column, vectors.T[:, :1024], and the square root of values[:1024, 0] + 1e-4
    expected = (rows - mean[:, 0]) @ vectors.T[:, :1024] / np.sqrt(values[:1024, 0].astype("f8") + 1e-4)
    made = (rows - found["pca.mean"].double().numpy()) @ found["pca.weight"].double().numpy().T
    assert found["pca.weight"].shape == (1024, 1100) and found["pca.weight"].dtype == torch.float32
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"mean": None}, r"mean\.npy cannot be read as an array of NumPy"),
        ({"eigenvals": None}, r"eigenvals\.npy cannot be read as an array of NumPy"),
        ({"mean": np.array([{}], dtype=object)}, r"mean\.npy cannot be read as an array of NumPy: Object arrays"),
        ({"mean": np.array("text")}, r"mean\.npy cannot be read .* array \(\) of <U4"),
        ({"mean": np.zeros((5, 1))}, r"rows of components as long as the mean, got \(5, 6\) and \(5,\)"),
        ({"eigenvals": np.zeros((4, 1))}, r"an eigenvalue of zero or more for each of the first 5 .* and \(4,\)"),
        ({"eigenvals": np.full((5, 1), -1.0)}, "an eigenvalue of zero or more"),
        ({"eigenvals": np.full((5, 1), np.nan)}, "an eigenvalue of zero or more"),
        ({"eigenvecs": np.zeros(5)}, r"got \(5,\) and \(5,\)"),
        ({"eigenvecs": np.full((5, 6), np.nan)}, "hold what is no number"),
    ],
)
def test_wrong_components_of_youtube_8m_are_refused(tmp_path, changed, sentence):
    folder = youtube(tmp_path / "yt8m", **changed)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_components(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"weights": np.zeros((2, 2)), "b": np.zeros(2)},
            "expected `pca_eigen_vectors` and `pca_means`, got weights, b",
        ),
        ({"pca_means": np.zeros(2)}, "expected `pca_eigen_vectors` and `pca_means`, got pca_means"),
        ({"pca_eigen_vectors": np.zeros((2, 3)), "pca_means": np.zeros(2)}, r"got \(2, 3\) and \(2,\)"),
        ({"pca_eigen_vectors": np.zeros(4), "pca_means": np.zeros(4)}, r"got \(4,\) and \(4,\)"),
        ({"pca_eigen_vectors": np.zeros((0, 4)), "pca_means": np.zeros(4)}, r"got \(0, 4\) and \(4,\)"),
        ({"pca_eigen_vectors": np.full((2, 2), np.inf), "pca_means": np.zeros(2)}, "hold what is no number"),
    ],
)
def test_wrong_components_are_refused(checkpoint, refused, tmp_path, arrays, sentence):
    np.savez(tmp_path / "pca.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        read_components(tmp_path / "pca.npz")
    assert str(tmp_path / "pca.npz") in refused("vggish", checkpoint, components=tmp_path / "pca.npz")


def test_components_of_another_networks_vectors_are_refused(checkpoint, refused, tmp_path):
    np.savez(tmp_path / "pca.npz", pca_eigen_vectors=np.eye(4, 2048), pca_means=np.zeros(2048))
    assert refused("vggish", checkpoint, components=tmp_path / "pca.npz") == (
        "The principal components are of vectors of 2048 numbers, and the vggish of these settings gives 128: take "
        "components that were fitted to its own."
    )
    assert "pca.tgz: weights come in files that end in" in refused("vggish", checkpoint, components=archive(tmp_path))
    assert "nowhere does not exist" in refused("vggish", checkpoint, components=tmp_path / "nowhere")


def archive(folder: Path) -> Path:
    (folder / "yt8m_pca.tgz").write_bytes(b"x")
    return folder / "yt8m_pca.tgz"


def test_settings_are_kept_in_the_folder(checkpoint, components, tmp_path):
    settings = {"post": "8bit", "final_relu": True, "front_end": "librosa"}
    found = convert("vggish", checkpoint, tmp_path / "out", components=components, settings=settings)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["post"] == "8bit" and config["final_relu"] is True and config["pca"] == 128
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["front_end"] == "librosa"
    backbone = load_backbone("audio", str(tmp_path / "out"))
    assert backbone.spec == found["spec"] and backbone.steps.rate == 22_050
    made = backbone.embed([[backbone.prepare(np.zeros(backbone.steps.length, np.float32))]])
    assert np.array_equal(made, made.round())
    plain = convert("vggish", checkpoint, tmp_path / "plain", components=components)
    assert plain["spec"] != found["spec"]
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["post"] == "dequantised"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pots": "pca"}, "no setting `pots`: did you mean `post`"),
        ({"post": "pca"}, "needs principal components"),
        ({"post": "all"}, "post"),
        ({"hidden": 16}, "hidden"),
        ({"pca": 4}, "pca"),
        ({"front_end": "mine"}, "front_end"),
    ],
)
def test_settings_that_cannot_be_are_refused(checkpoint, refused, settings, sentence):
    assert sentence in refused("vggish", checkpoint, settings=settings)


def test_what_is_there_is_overwritten_on_demand_alone(checkpoint, weights, refused, tmp_path):
    first = convert("vggish", checkpoint)
    assert "exists already and is not empty" in refused("vggish", checkpoint)
    assert "exists already and is not empty" in refused("vggish", tmp_path / "missing.pth")  # before anything is read
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, checkpoint)
    assert convert("vggish", checkpoint, overwrite=True)["spec"] != first["spec"]
    (Path(first["out"]) / "notes.txt").write_text("mine")
    assert "notes.txt was put there" in refused("vggish", checkpoint, overwrite=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    assert "was not made here" in refused("vggish", checkpoint, foreign, overwrite=True)
    assert "is a file; a folder will be made" in refused("vggish", checkpoint, checkpoint, overwrite=True)


def test_a_network_replaces_no_data_set_and_features_replace_no_network(checkpoint, refused, tmp_path):
    with atomic_folder(tmp_path / "features") as folder:
        (folder / "README.md").write_text("a data set")
    assert "holds something else than a network" in refused("vggish", checkpoint, tmp_path / "features", overwrite=True)
    convert("vggish", checkpoint, tmp_path / "network")
    with pytest.raises(ValueError, match="holds a model, which features do not replace"):
        check_place(tmp_path / "films", tmp_path / "network", True)


def test_nothing_is_left_of_a_conversion_that_fails(checkpoint, components, weights, refused, tmp_path, monkeypatch):
    broken = tmp_path / "broken.pth"
    torch.save({name: tensor for name, tensor in weights.items() if name != "features.3.bias"}, broken)
    assert f"{broken}, read as torchvggish's, lacks" in refused("vggish", broken)
    assert "missing.pth does not exist" in refused("vggish", tmp_path / "missing.pth")
    assert "holds no soundnet in a layout we know" in refused("soundnet", checkpoint)
    assert "no network 'vggisch' to convert: expected one of vggish, soundnet" in refused("vggisch", checkpoint)
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "load_backbone", unusable)
        message = refused("vggish", checkpoint, tmp_path / "out", components=components)
        assert message == f"The audio backbone '{tmp_path / 'out'}' cannot be loaded."
    monkeypatch.setattr(VggishModel, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        convert("vggish", checkpoint, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists() and not list(tmp_path.glob(".tmp*"))


def unusable(modality, source, **settings):
    raise ValueError(f"The {modality} backbone {source!r} cannot be loaded.")


def full(model, folder):
    (folder / "model.safetensors").write_bytes(b"half")
    raise OSError(28, "No space left on device")


@pytest.mark.slow
@torch.no_grad()
def test_inception_is_converted_with_pictures_components_and_its_classifier_left_out(tmp_path, loaded):
    torch.manual_seed(5)
    model = InceptionModel(InceptionConfig()).eval()
    source = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    source["Conv2d_1a_3x3.bn.running_mean"] = torch.randn(32)
    model.load_state_dict(source, strict=False)
    torch.save(
        {"state_dict": source | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}},
        tmp_path / "i.pth",
    )
    folder = youtube(tmp_path / "yt8m", width=2048, count=1030)
    out = tmp_path / "out"
    found = convert("inception", tmp_path / "i.pth", out, components=folder, settings={"post": "pca"})
    assert found["width"] == 1024 and found["left_out"] == ["fc.bias", "fc.weight"]
    assert "(566 tensors, 2 of its classifier left out)" in render(found) and "--visual" in render(found)
    assert "Left out: 2 tensors of classifiers, like `fc.bias`." in (out / "README.md").read_text()
    config, pictures = (json.loads((out / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
    assert config["last_pool"] == "max" and config["pool_counts_padding"] is False and config["pca"] == 1024
    assert pictures["size"] == {"height": 299, "width": 299} and pictures["do_center_crop"] is False
    (backbone,) = loaded
    frame = np.random.default_rng(6).integers(0, 256, (299, 299, 3), np.uint8)
    made = backbone.embed([[backbone.prepare(frame)]])[0]
    model.config.last_pool = "max"
    for block in model.children():
        if hasattr(block, "counts_padding"):
            block.counts_padding = False
    model.Mixed_7c.pool = "max"
    pixels = (torch.from_numpy(frame.transpose(2, 0, 1)[None].astype("f4")) - 128) / 128
    raw, parts = model(pixels).pooler_output[0].double(), read_components(folder)
    expected = (raw - parts["pca.mean"]) @ parts["pca.weight"].double().T
    np.testing.assert_allclose(made, expected.numpy(), rtol=0, atol=1e-4 * expected.abs().max().item())


def test_i3d_is_converted_as_it_looks_at_videos(tmp_path, loaded):
    torch.manual_seed(7)
    weights = I3dModel(I3dConfig()).state_dict()
    weights["Conv3d_1a_7x7.bn.running_mean"].add_(0.1)
    source = {f"module.{name.replace('.conv.', '.conv3d.')}": tensor for name, tensor in weights.items()}
    torch.save(source | {"module.logits.conv3d.bias": torch.zeros(400)}, tmp_path / "rgb_imagenet.pt")
    settings = {"num_frames": 9, "crop_size": {"height": 193, "width": 193}}
    found = convert("i3d", tmp_path / "rgb_imagenet.pt", tmp_path / "out", settings=settings)
    assert found["layout"] == "pytorch-i3d (piergiaj)" and found["width"] == 1024
    pictures = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert pictures["size"] == {"shortest_edge": 256} and pictures["crop_size"] == {"height": 193, "width": 193}
    assert pictures["image_mean"] == pictures["image_std"] == [0.5] * 3 and pictures["do_center_crop"] is True
    assert loaded[0].steps.length == 9
