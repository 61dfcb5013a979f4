"""The four networks as backbones: folders that `save_pretrained` wrote, by their path and by their name, and again."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers as hf
from huggingface_hub import constants
from PIL import Image
from torch import nn

from modeling_dualspace.backbones import Steps
from modeling_dualspace.i3d import I3dConfig, I3dModel
from modeling_dualspace.inception import InceptionConfig, InceptionModel
from modeling_dualspace.known_backbones import load_backbone, reload_backbone
from modeling_dualspace.paper_networks import NETWORKS, network_of, own_settings
from modeling_dualspace.soundnet import SoundnetConfig, SoundnetFeatureExtractor, SoundnetModel
from modeling_dualspace.vggish import VggishConfig, VggishFeatureExtractor, VggishModel

HEARD, SEEN = ("vggish", "soundnet"), ("inception", "i3d")
MODALITIES = dict.fromkeys(HEARD, "audio") | dict.fromkeys(SEEN, "visual")
PICTURES = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"height": 75, "width": 75},
    "resample": 2, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True,
}  # fmt: skip
# As few and as small as the network of video takes.
VIDEO = {"size": {"shortest_edge": 193}, "do_center_crop": True, "crop_size": {"height": 193, "width": 193}, "fps": 25}
MODELS = {
    "vggish": lambda: VggishModel(VggishConfig(channels=[4, 4, 6, 6, 8, 8], hidden=16, width=12, pca=5)),
    "soundnet": lambda: SoundnetModel(SoundnetConfig()),
    "inception": lambda: InceptionModel(InceptionConfig(pca=7)),
    "i3d": lambda: I3dModel(I3dConfig(num_frames=9)),
}
EXTRACTORS = {"vggish": VggishFeatureExtractor, "soundnet": SoundnetFeatureExtractor}
WIDTHS = {"vggish": 12, "soundnet": 1024, "inception": 2048, "i3d": 1024}
# A patch of 96 frames; ten seconds; a frame a second; and 25 a second.
CUTS = {
    "vggish": Steps(rate=16_000, length=15_600, hop=15_360, least=1),
    "soundnet": Steps(rate=22_050, length=220_500, hop=220_500),
    "inception": Steps(rate=1, length=1, hop=1), "i3d": Steps(rate=25, length=9, hop=9),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """`folder_of("vggish")`: where random weights of a network lie, with what prepares its input."""
    made = {}

    def of(name: str) -> str:
        if name not in made:
            torch.manual_seed(len(name))
            model, folder = MODELS[name](), tmp_path_factory.mktemp(name)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                    nn.init.uniform_(module.weight, 0.8, 1.2)
                    nn.init.normal_(module.bias, std=0.3)
                    module.running_mean.normal_(std=0.3)
                    module.running_var.uniform_(0.5, 1.5)
            if hasattr(model, "pca"):
                given = torch.randn(8, 3, 75, 75) if name == "inception" else torch.randn(8, 96, 64)
                with torch.no_grad():
                    vectors = model.eval()(given).pooler_output
                model.pca.mean.copy_(vectors.mean(0))
                model.pca.weight.normal_(std=1 / (vectors.std().item() * vectors.shape[1] ** 0.5))
            model.save_pretrained(folder)
            if name in HEARD:
                EXTRACTORS[name]().save_pretrained(folder)
            else:
                prepared = json.dumps(PICTURES | (VIDEO if name == "i3d" else {}))
                (folder / "preprocessor_config.json").write_text(prepared)
            made[name] = str(folder)
        return made[name]

    return of


@pytest.fixture(scope="module")
def load(folder_of):
    """`load("vggish", post="pca", dtype="bfloat16")`: the backbone of that folder, on the CPU."""
    made = {}

    def of(name: str, *, dtype: str | None = None, **settings):
        key = name, dtype, json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = load_backbone(
                MODALITIES[name], folder_of(name), device="cpu", dtype=dtype, settings=settings or None
            )
        return made[key]

    return of


def pieces_of(backbone, seed: int = 0) -> list[np.ndarray]:
    """One unit: noise, of another loudness or another contrast for each seed."""
    random, share = np.random.default_rng(seed), 1 / (1 + seed)
    if backbone.modality == "audio":
        return [(share * random.uniform(-1, 1, backbone.steps.length)).astype(np.float32)]
    noise = random.integers(0, 256, (backbone.steps.length, 200, 260, 3))
    return list((noise * share + 128 * (1 - share)).astype(np.uint8))


def units_of(backbone, count: int) -> list[list]:
    return [[backbone.prepare(piece) for piece in pieces_of(backbone, seed)] for seed in range(count)]


def again(backbone):
    """By what was written down of it."""
    return reload_backbone(backbone.modality, json.loads(json.dumps(backbone.record())), device="cpu")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_is_a_backbone_of_the_networks_name(load, folder_of, name):
    backbone = load(name)
    assert backbone.name == name and backbone.spec.startswith(f"{name}@") and len(backbone.spec) == len(name) + 9
    assert backbone.source == os.path.realpath(folder_of(name)) and backbone.modality == MODALITIES[name]
    assert backbone.width == WIDTHS[name] and backbone.steps == CUTS[name] and backbone.weights


def by_pillow(frame: np.ndarray, name: str) -> torch.Tensor:
    """As the constants of the folder say: resized, the middle, within -1 and 1."""
    height, width = frame.shape[:2]
    edge = (75, 75) if name == "inception" else (193 * width // height, 193)
    picture = np.asarray(Image.fromarray(frame).resize(edge, Image.Resampling.BILINEAR)).astype(np.float64)
    left = (edge[0] - edge[1]) // 2
    picture = picture[:, left : left + edge[1]]
    return torch.from_numpy((picture / 255 - 0.5) / 0.5).float().permute(2, 0, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_its_vectors_are_those_of_the_model_and_what_prepares_its_input(load, folder_of, name):
    backbone = load(name)
    pieces = pieces_of(backbone)
    model = NETWORKS[name].model.from_pretrained(folder_of(name)).eval()
    if name in HEARD:
        extractor = EXTRACTORS[name].from_pretrained(folder_of(name))
        given = extractor(pieces[0], sampling_rate=backbone.steps.rate, return_tensors="pt")
    else:
        frames = torch.stack([by_pillow(frame, name) for frame in pieces])
        given = {model.main_input_name: frames if name == "inception" else frames[None]}
    with torch.no_grad():
        expected = model(**given).pooler_output.numpy()
    made = backbone.embed([[backbone.prepare(piece) for piece in pieces]])
    assert made.shape == expected.shape and made.dtype == np.float32 and expected.std() > 0
    # The backbone folds its batch norms, so sums of up to 4,608 products in float32 are others by rounding.
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["vggish", "soundnet", "inception", "i3d"])
def test_what_was_written_down_of_a_network_gives_the_same_vectors_again(load, name):
    backbone, same = load(name), again(load(name))
    assert same.spec == backbone.spec and same.record() == backbone.record()
    assert np.array_equal(same.embed(units_of(same, 2)), backbone.embed(units_of(backbone, 2)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vggish", {"final_relu": True}),
        ("vggish", {"post": "dequantised"}),
        ("vggish", {"front_end": "librosa"}),
        ("vggish", {"front_end": "librosa", "hop": 400, "post": "8bit", "final_relu": True}),
        ("vggish", {"highest": 7000.0, "hop": 200}),
        ("vggish", {"pca": 0}),
        ("vggish", {"front_end": "librosa", "norm": "none"}),
        ("soundnet", {"layer": "pool5"}),
        (
            "inception",
            {"post": "8bit", "pool_counts_padding": False, "last_pool": "max", "size": {"height": 80, "width": 90}},
        ),
    ],
)  # fmt: skip
def test_settings_are_written_down_and_come_back(load, name, settings):
    backbone, usual = load(name, **settings), load(name)
    written = backbone.record()["constants"]
    for key, value in settings.items():
        assert value is None or (written["config"] | written["processor"])[key] == value
    assert backbone.spec != usual.spec and backbone.weights == usual.weights or settings == {"pca": 0}
    same = again(backbone)
    assert same.spec == backbone.spec and same.steps == backbone.steps
    vectors = backbone.embed(units_of(backbone, 3))
    assert np.array_equal(same.embed(units_of(same, 3)), vectors)
    if settings != {"pca": 0}:
        assert vectors.shape[1] != usual.width or not np.array_equal(vectors, usual.embed(units_of(usual, 3)))


def test_the_constants_of_one_front_end_are_forgotten_for_another(tmp_path):
    MODELS["vggish"]().save_pretrained(tmp_path)
    VggishFeatureExtractor(hop=200, highest=7000.0, power=2).save_pretrained(tmp_path)
    own = load_backbone("audio", str(tmp_path), device="cpu")
    assert own.steps == Steps(16_000, 95 * 200 + 400, 96 * 200, least=1)
    other = load_backbone("audio", str(tmp_path), device="cpu", settings={"front_end": "librosa"})
    assert other.steps == Steps(22_050, 95 * 512 + 2048, 96 * 512, least=1)
    assert other.record()["constants"]["processor"]["highest"] == 11_025
    longer = load_backbone("audio", str(tmp_path), device="cpu", settings={"front_end": "librosa", "hop": 1024})
    assert longer.steps == Steps(22_050, 95 * 1024 + 2048, 96 * 1024, least=1)
    assert own.spec.startswith("vggish@") and len({own.spec, other.spec, longer.spec}) == 3


# What is wrong and a part of the sentence that says so.
WRONG = [
    ("vggish", {"pots": "pca"}, "no setting `pots`: did you mean `post`?"),
    ("vggish", {"frontend": "librosa"}, "no setting `frontend`: did you mean `front_end`?"),
    ("vggish", {"zzz": 1}, "no setting `zzz`: it has bands, channels, .*, width"),
    ("vggish", {"layer": "pool5"}, "no setting `layer`: "),
    ("vggish", {"model_type": "bert"}, "no setting `model_type`: "),
    ("vggish", {"post": "pac"}, "'post' expected one of .*got pac"),
    ("vggish", {"post": 3}, "'post' expected one of .*got 3"),
    ("vggish", {"final_relu": "yes"}, "'final_relu' expected bool, got str"),
    ("vggish", {"final_relu": 1}, "'final_relu' expected bool, got int"),
    ("vggish", {"channels": "64"}, "`channels` is .* by the size of its weights, and cannot be '64'"),
    ("vggish", {"channels": [4, 4]}, r"`channels` is .* by the size of its weights, and cannot be \[4, 4\]"),
    ("vggish", {"pca": "5"}, "`pca` is 5 by the size of its weights, and cannot be '5'"),
    ("vggish", {"pca": 0, "post": "pca"}, "'pca', which needs principal components"),
    ("vggish", {"front_end": "torch"}, "`front_end` is audioset or librosa, got 'torch'"),
    ("vggish", {"hop": 0}, "`hop` of VGGish's feature extractor is more than 0"),
    ("soundnet", {"layer": "conv9"}, "'layer' expected one of .*got conv9"),
    ("soundnet", {"final_relu": True}, "no setting `final_relu`: "),
    ("inception", {"last_pool": "min"}, "'last_pool' expected one of .*got min"),
    ("inception", {"pool_counts_padding": "no"}, "'pool_counts_padding' expected bool, got str"),
    ("inception", {"image_men": [0.5] * 3}, "no setting `image_men`: did you mean `image_mean`?"),
    ("inception", {"size": "large"}, "size.*large"),
    ("inception", {"front_end": "librosa"}, "no setting `front_end`: "),
]
# These are found by what breaks: in a traceback, in a sentence that names another thing, or not at all.
UNCHECKED = [
    ("vggish", {"hop": "160"}, "hop"), ("vggish", {"sampling_rate": "16000"}, "sampling_rate"),
    ("vggish", {"hop": True}, "hop"), ("vggish", {"lowest": "125"}, "lowest"), ("vggish", {"offset": "0.01"}, "offset"),
    ("vggish", {"offset": -1}, "offset"), ("vggish", {"power": 0}, "power"), ("vggish", {"hidden": 8}, "hidden"),
    ("inception", {"do_resize": "no"}, "do_resize"), ("inception", {"image_std": [0.5, 0.0, 0.5]}, "image_std"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [*WRONG, *UNCHECKED],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_refused_in_one_sentence_that_names_it(folder_of, name, settings, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        load_backbone(MODALITIES[name], folder_of(name), device="cpu", settings=settings)
    said = str(caught.value)
    assert said.startswith(f"The {MODALITIES[name]} backbone '{folder_of(name)}' cannot be loaded (built in: ")
    assert "\n" not in said and "Traceback" not in said


def test_what_is_no_network_of_ours_has_no_settings(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    hf.ViTModel(hf.ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(tmp_path)
    hf.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it has no settings of its own, so `post` cannot be set"):
        load_backbone("visual", str(tmp_path), device="cpu", settings={"post": "pca"})
    with pytest.raises(ValueError, match="`logmel` has no settings, so `post` cannot be set"):
        load_backbone("audio", "logmel", settings={"post": "pca"})
    assert load_backbone("visual", str(tmp_path), device="cpu", settings={}).spec.startswith("vit@")
    assert network_of(hf.ViTConfig()) is None


def test_the_settings_of_a_network_are_those_of_its_configuration_alone():
    assert own_settings(SoundnetConfig(layer="conv3")) == {"layer": "conv3", "pca": 0, "post": "none"}
    assert own_settings(InceptionConfig()) == {
        "pool_counts_padding": True, "last_pool": "average", "pca": 0, "post": "none",
    }  # fmt: skip
    assert {network_of(network.config()): network.config.model_type for network in NETWORKS.values()} == {
        name: f"dualspace_{name}" for name in NETWORKS
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_units_in_batches_of_any_size_are_those_one_at_a_time(load, name):
    backbone = load(name)
    units = units_of(backbone, 2 if name == "i3d" else 5)
    alone = np.concatenate([backbone.embed([unit]) for unit in units])
    # Products of matrices of another height are summed up in another order, float32 throughout: of up to 50 layers a
    # part in 1e7 each. The units themselves differ by more than a hundred times that.
    close = 1e-5 * np.abs(alone).max()
    assert min(np.abs(one - other).max() for one, other in zip(alone, alone[1:], strict=False)) > 100 * close
    for size in {2, len(units)}:
        batches = [backbone.embed(units[start : start + size]) for start in range(0, len(units), size)]
        np.testing.assert_allclose(np.concatenate(batches), alone, rtol=0, atol=close)
    assert backbone.embed([]).shape == (0, backbone.width)


@pytest.mark.parametrize("name", ["vggish", "inception"])
def test_eight_bits_in_batches_of_any_size_differ_by_one_where_a_component_lies_on_an_edge(load, name):
    backbone = load(name, post="8bit")
    units = units_of(backbone, 5)
    alone, together = np.concatenate([backbone.embed([unit]) for unit in units]), backbone.embed(units)
    assert len(np.unique(alone)) > 5 and np.array_equal(alone, alone.round()) and 0 <= alone.min() < alone.max() <= 255
    assert np.abs(together - alone).max() <= 1 and (together != alone).mean() < 0.1


def test_a_short_sound_is_filled_up_with_silence_and_a_longer_one_refused(load):
    backbone = load("vggish")
    short = pieces_of(backbone)[0][:5000]
    whole = np.pad(short, (0, 10_600))
    made = backbone.embed([[backbone.prepare(short)], [backbone.prepare(whole)]])
    assert np.array_equal(made[0], made[1])
    with pytest.raises(ValueError, match="A unit of sound is 1 to 15600 samples in one row"):
        backbone.prepare(np.zeros(15_601, np.float32))


@pytest.mark.parametrize(("name", "dtype"), [("vggish", "bfloat16"), ("vggish", "float16"), ("inception", "bfloat16")])
def test_components_stay_float32_in_a_network_of_less(load, folder_of, name, dtype):
    backbone, plain = load(name, dtype=dtype, post="8bit"), load(name, dtype=dtype)
    model = backbone.tower.model
    assert next(model.parameters()).dtype == getattr(torch, dtype)
    stored = NETWORKS[name].model.from_pretrained(folder_of(name)).pca
    assert model.pca.weight.dtype == model.pca.mean.dtype == torch.float32
    assert torch.equal(model.pca.weight, stored.weight) and torch.equal(model.pca.mean, stored.mean)
    # What follows the network is done in float64, so its bits are those of the formula on its own vectors.
    units = units_of(backbone, 4)
    E, m = stored.weight.double().numpy(), stored.mean.double().numpy()
    components = (plain.embed(units).astype(np.float64) - m) @ E.T
    scaled = (np.clip(components, -2, 2) + 2) * (255 / 4)
    assert np.array_equal(backbone.embed(units), np.floor(scaled + 0.5 if name == "inception" else scaled))
    assert plain.record()["constants"]["dtype"] == dtype and plain.spec != load(name).spec
    assert name == "inception" or again(backbone).spec == backbone.spec


def test_half_precision_loses_no_more_by_folding(load, folder_of):
    exact, made = load("inception"), load("inception", dtype="bfloat16")
    units = units_of(exact, 4)
    expected = exact.embed(units)
    unfolded = NETWORKS["inception"].model.from_pretrained(folder_of("inception")).eval().bfloat16()
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack([unit[0]["pixel_values"] for unit in units]))
        usual = unfolded(pixels.bfloat16()).pooler_output.float().numpy()
    assert np.linalg.norm(made.embed(units) - expected) <= np.linalg.norm(usual - expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_name_without_converted_weights_says_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path))
    with pytest.raises(ValueError) as caught:
        load_backbone(MODALITIES[name], name)
    said = str(caught.value)
    assert said.startswith(f"The {MODALITIES[name]} backbone '{name}' cannot be loaded (built in: ")
    assert "its weights are not on this machine" in said and f"`dualspace convert {name} FILE`" in said
    assert "did you mean" not in said and "\n" not in said


def test_what_was_converted_is_found_by_its_name_and_again(load, folder_of, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path))
    (tmp_path / "dualspace" / "backbones").mkdir(parents=True)
    (tmp_path / "dualspace" / "backbones" / "vggish").symlink_to(folder_of("vggish"))
    backbone = load_backbone("audio", "vggish", device="cpu")
    assert backbone.source == "vggish" and backbone.spec == load("vggish").spec
    assert again(backbone).source == "vggish"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_name_of_a_network_of_the_other_modality_is_refused(name):
    other = {"audio": "visual", "visual": "audio"}[MODALITIES[name]]
    with pytest.raises(ValueError, match=f"`{name}` makes {MODALITIES[name]} features, not {other} ones"):
        load_backbone(other, name)


@pytest.mark.parametrize("name", ["vggish", "inception"])
def test_a_folder_of_the_other_modality_is_refused(folder_of, name):
    other = {"audio": "visual", "visual": "audio"}[MODALITIES[name]]
    with pytest.raises(ValueError, match=f"takes {'sound' if name in HEARD else 'pictures'}, not "):
        load_backbone(other, folder_of(name), device="cpu")


def test_a_nearly_right_name_is_told():
    with pytest.raises(ValueError, match=r"'vgish' cannot be loaded \(built in: .*did you mean vggish\?\)"):
        load_backbone("audio", "vgish")


ELSEWHERE = """
import json, sys
import torch
import modeling_dualspace
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

folders, found = json.loads(sys.argv[1]), {}
for name, folder in folders.items():
    found[name] = [type(AutoConfig.from_pretrained(folder)).__name__, type(AutoModel.from_pretrained(folder)).__name__]
    if name in ("vggish", "soundnet"):
        found[name].append(type(AutoFeatureExtractor.from_pretrained(folder)).__name__)
half = AutoModel.from_pretrained(folders["vggish"], dtype=torch.bfloat16)
found["dtypes"] = [str(half.embeddings[0].weight.dtype), str(half.pca.weight.dtype), str(half.pca.mean.dtype)]
print(json.dumps(found))
"""


def test_the_auto_classes_know_them_as_soon_as_the_package_is_imported(folder_of, root):
    command = [sys.executable, "-c", ELSEWHERE, json.dumps({name: folder_of(name) for name in NETWORKS})]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "vggish": ["VggishConfig", "VggishModel", "VggishFeatureExtractor"],
        "soundnet": ["SoundnetConfig", "SoundnetModel", "SoundnetFeatureExtractor"],
        "inception": ["InceptionConfig", "InceptionModel"], "i3d": ["I3dConfig", "I3dModel"],
        "dtypes": ["torch.bfloat16", "torch.float32", "torch.float32"],
    }  # fmt: skip
