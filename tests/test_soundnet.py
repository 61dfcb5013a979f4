"""SoundNet: the published layers, its slow twin, and what sounds become before it hears them."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from modeling_dualspace.backbones import Steps
from modeling_dualspace.soundnet import (
    LAYERS,
    Layer,
    SoundnetConfig,
    SoundnetFeatureExtractor,
    SoundnetModel,
    least_samples,
)

TEN_SECONDS = 220_500
# main_train.lua of cvondrick/soundnet: channels in and out, kernel, stride, padding, and the maximum that follows.
PUBLISHED = {
    "conv1": (1, 16, 64, 2, 32, 8), "conv2": (16, 32, 32, 2, 16, 8), "conv3": (32, 64, 16, 2, 8, None),
    "conv4": (64, 128, 8, 2, 4, None), "conv5": (128, 256, 4, 2, 2, 4), "conv6": (256, 512, 4, 2, 2, None),
    "conv7": (512, 1024, 4, 2, 2, None),
}  # fmt: skip
# Frames of twenty seconds, on which the network was trained: one for five seconds at its end.
FRAMES_OF_TWENTY_SECONDS = {
    "conv1": 220_501, "pool1": 27_562, "conv2": 13_782, "pool2": 1722, "conv3": 862, "conv4": 432, "conv5": 217,
    "pool5": 54, "conv6": 28, "conv7": 15, "objects": 4, "scenes": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> SoundnetModel:
    """Random weights, and batch norms that do something."""
    torch.manual_seed(0)
    made = SoundnetModel(SoundnetConfig()).eval()
    with torch.no_grad():
        for name in PUBLISHED:
            layer = made.get_submodule(name)
            layer.conv.bias.normal_()
            layer.bn.weight.uniform_(0.5, 1.5)
            layer.bn.bias.normal_()
            layer.bn.running_mean.normal_()
            layer.bn.running_var.uniform_(0.5, 2)
    return made


@torch.no_grad()
def at(model: SoundnetModel, layer: str, sounds: torch.Tensor):
    """What the same weights give at another layer."""
    model.config.layer = layer
    made = model(sounds)
    model.config.layer = "conv7"
    return made


@torch.no_grad()
def twin(weights: dict[str, torch.Tensor], sounds: torch.Tensor) -> dict[str, torch.Tensor]:
    """All layers as the published code has them: in two dimensions, of which one is a column, in float64."""
    weights = {name: value.double() for name, value in weights.items()}
    maps, made = sounds.double()[:, None, :, None], {}
    for name, (_, _, kernel, stride, padding, pool) in PUBLISHED.items():
        kernels = weights[f"{name}.conv.weight"][..., None]
        assert kernels.shape[2:] == (kernel, 1)
        maps = F.conv2d(maps, kernels, weights[f"{name}.conv.bias"], (stride, 1), (padding, 0))
        mean, variance, scale, shift = (
            weights[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        maps = made[name] = ((maps - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
        if pool:
            maps = made[f"pool{name[-1]}"] = F.max_pool2d(maps, (pool, 1), (pool, 1))
    for name in ("objects", "scenes"):
        made[name] = F.conv2d(maps, weights[f"{name}.weight"][..., None], weights[f"{name}.bias"], (2, 1))
    return made


def test_every_layer_is_the_published_one(model):
    sounds = torch.randn(2, TEN_SECONDS, generator=torch.Generator().manual_seed(1)) * 30
    expected = twin(model.state_dict(), sounds)
    assert expected.keys() == LAYERS.keys() == set(get_args(Layer))
    for layer, maps in expected.items():
        made = at(model, layer, sounds)
        frames = maps.squeeze(3).transpose(1, 2)
        # Eight sums of at most 8192 products in float32 differ by some 1e-7 each from those in float64.
        close = {"rtol": 0, "atol": 1e-5 * frames.abs().max().item()}
        torch.testing.assert_close(made.last_hidden_state.double(), frames, **close)
        torch.testing.assert_close(made.pooler_output.double(), frames.mean(1), **close)


def test_it_has_as_many_weights_as_the_published_layers(model):
    convolutions = sum((before * kernel + 1) * after for before, after, kernel, *_ in PUBLISHED.values())
    norms = sum(2 * after for _, after, *_ in PUBLISHED.values())
    heads = (1024 * 8 + 1) * (1000 + 401)
    assert convolutions == 1040 + 16_416 + 32_832 + 65_664 + 131_328 + 524_800 + 2_098_176
    assert norms == 4064 and heads == 11_478_393
    assert model.num_parameters() == convolutions + norms + heads == 14_352_713


def test_twenty_seconds_make_the_published_numbers_of_frames(model):
    for layer in ("conv1", "pool2", "pool5", "conv7", "objects", "scenes"):
        shape = at(model, layer, torch.zeros(1, 441_000)).last_hidden_state.shape
        assert shape == (1, FRAMES_OF_TWENTY_SECONDS[layer], LAYERS[layer][0])


@pytest.mark.parametrize("layer", get_args(Layer))
def test_a_layer_needs_no_sample_more_than_it_says(model, layer):
    least = least_samples(layer)
    assert at(model, layer, torch.zeros(1, least)).last_hidden_state.shape == (1, 1, LAYERS[layer][0])
    sound = torch.randn(1, least // 2 + 1, generator=torch.Generator().manual_seed(0))
    repeated = torch.cat([sound, sound], dim=1)[:, :least]
    assert torch.equal(at(model, layer, sound).pooler_output, at(model, layer, repeated).pooler_output)


def test_one_sample_less_makes_no_frame_in_the_published_network(model):
    whole = twin(model.state_dict(), torch.zeros(1, 209_374))
    assert whole["objects"].shape[2] == whole["scenes"].shape[2] == 1
    with pytest.raises(RuntimeError, match="[Kk]ernel size can't be greater"):
        twin(model.state_dict(), torch.zeros(1, 209_373))


def test_layers_beyond_the_chosen_one_are_not_computed(model):
    seen = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, module in model.named_children()
    ]
    at(model, "pool2", torch.zeros(1, 10_000))
    at(model, "scenes", torch.zeros(1, TEN_SECONDS))
    for hook in hooks:
        hook.remove()
    assert seen == ["conv1", "conv2", *PUBLISHED, "scenes"]


def test_folding_changes_nothing_beyond_rounding(model):
    copy = SoundnetModel(SoundnetConfig()).eval()
    copy.load_state_dict(model.state_dict())
    copy.for_inference()
    assert not [module for module in copy.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    sounds = torch.randn(1, TEN_SECONDS, generator=torch.Generator().manual_seed(2)) * 30
    for layer in ("conv7", "objects"):
        before, after = at(model, layer, sounds).pooler_output, at(copy, layer, sounds).pooler_output
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * before.abs().max().item())


def test_random_weights_neither_blow_up_nor_die_out():
    torch.manual_seed(3)
    fresh = SoundnetModel(SoundnetConfig()).eval()
    loud = torch.randn(1, TEN_SECONDS).clamp(-3, 3) * 256 / 3
    for layer in LAYERS:
        spread = at(fresh, layer, loud).last_hidden_state.std().item()
        assert 1 < spread < 1e4, layer


def test_a_checkpoint_comes_back_and_may_be_loaded_at_another_layer(model, tmp_path):
    model.save_pretrained(tmp_path)
    back, report = SoundnetModel.from_pretrained(tmp_path, layer="scenes", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert back.config.model_type == "dualspace_soundnet" and back.config.layer == "scenes"
    for name, value in model.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name
    sounds = torch.randn(1, TEN_SECONDS)
    with torch.no_grad():
        assert torch.equal(back.eval()(sounds).pooler_output, at(model, "scenes", sounds).pooler_output)


def test_components_are_those_of_the_chosen_layer():
    config = SoundnetConfig(layer="conv3", pca=5, post="8bit")
    vectors = SoundnetModel(config).eval()(torch.randn(2, 10_000)).pooler_output
    assert vectors.shape == (2, 5) and torch.equal(vectors, vectors.round())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layr": "conv7"}, "no key `layr`. Did you mean `layer`"),
        ({"layer": "conv8"}, "conv8"),
        ({"post": "pca"}, "needs principal components"),
        ({"pca": -1}, "0 for none: got -1"),
    ],
)
def test_a_wrong_setting_is_refused(settings, sentence):
    with pytest.raises(Exception, match=sentence):
        SoundnetConfig(**settings)


@pytest.mark.parametrize("shape", [(220_500,), (1, 1, 220_500), (2, 0)])
def test_sounds_of_another_shape_are_refused_in_a_sentence(model, shape):
    with pytest.raises(ValueError, match=r"Expected sounds \(n, samples\), got .*SoundnetFeatureExtractor"):
        model(torch.zeros(shape))


def test_samples_are_scaled():
    extractor = SoundnetFeatureExtractor()
    short = np.array([1.0, -1.0, 0.1])
    values = extractor(short, sampling_rate=22_050)["input_values"]
    assert values.dtype == np.float32 and values.shape == (1, 3)
    assert values[0, :2].tolist() == [256, -256] and values[0, 2] == np.float32(0.1) * 256
    whole = extractor(np.ones(TEN_SECONDS), return_tensors="pt")["input_values"]
    assert whole.shape == (1, TEN_SECONDS) and (whole == 256).all()
    assert extractor.steps == Steps(rate=22_050, length=TEN_SECONDS, hop=TEN_SECONDS)


def test_the_constants_of_the_extractor_are_in_its_file(tmp_path):
    SoundnetFeatureExtractor(hop=110_250).save_pretrained(tmp_path)
    back = SoundnetFeatureExtractor.from_pretrained(tmp_path)
    assert back.steps == Steps(rate=22_050, length=TEN_SECONDS, hop=110_250)
    expected = {"sampling_rate": 22_050, "scale": 256.0, "length": TEN_SECONDS, "hop": 110_250}
    assert expected.items() <= back.to_dict().items()


@pytest.mark.parametrize(
    ("sound", "rate", "sentence"),
    [
        (np.zeros((2, 9)), 22_050, "one sound in one row, got \\(2, 9\\)"),
        (np.zeros(0), 22_050, "one sound in one row, got \\(0,\\)"),
        (np.zeros(9), 16_000, "hears 22050 samples a second, got 16000"),
    ],
)
def test_the_extractor_takes_one_sound_at_its_own_rate(sound, rate, sentence):
    with pytest.raises(ValueError, match=sentence):
        SoundnetFeatureExtractor()(sound, sampling_rate=rate)
