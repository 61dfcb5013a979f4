"""VGGish: its front end against a twin in plain NumPy, torchvggish and librosa; its network against torchvggish's."""

import functools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from modeling_dualspace.backbones import Steps
from modeling_dualspace.units import Cutter
from modeling_dualspace.vggish import VggishConfig, VggishFeatureExtractor, VggishModel

# vggish_params.py of AudioSet; 25 and 10 ms of 16,000 samples a second are 400 and 160.
RATE, WINDOW, HOP, FFT, BANDS, LOWEST, HIGHEST, OFFSET, FRAMES = 16_000, 400, 160, 512, 64, 125.0, 7500.0, 0.01, 96
PATCH, NEXT = 15_600, 15_360  # samples under a patch, and from one to the next
# Channels into and out of each convolution of vggish_slim.py; a maximum of 2 x 2 follows those that say so.
CONVOLUTIONS = {
    0: (1, 64, True), 3: (64, 128, True), 6: (128, 256, False), 8: (256, 256, True), 11: (256, 512, False),
    13: (512, 512, True),
}  # fmt: skip
PEER = "compares with torchvggish, which `make` installs by .ci/peers.txt"
TINY = {"channels": [3, 4, 5, 6, 7, 8], "hidden": 10, "width": 9}


def mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


@functools.cache
def bank() -> np.ndarray:
    """Triangles `(bands, bins)` that are straight in mel; the bin of 0 Hz has no part in any."""
    corners = [mel(LOWEST) + (mel(HIGHEST) - mel(LOWEST)) * place / (BANDS + 1) for place in range(BANDS + 2)]
    weights = np.zeros((BANDS, FFT // 2 + 1))
    for band, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for line in range(1, FFT // 2 + 1):
            place = mel(line * RATE / FFT)
            weights[band, line] = max(0.0, min((place - low) / (middle - low), (high - place) / (high - middle)))
    return weights


@functools.cache
def transform() -> np.ndarray:
    """Fourier's sum over a window, `(bins, samples)`: a periodic Hann window, and no fast transform."""
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * place / WINDOW) for place in range(WINDOW)]
    turns = np.outer(np.arange(FFT // 2 + 1), np.arange(WINDOW)) % FFT  # whole turns only blur the angle
    return np.exp(-2j * np.pi * turns / FFT) * hann


def twin_frames(samples: np.ndarray) -> np.ndarray:
    """`(frames, bands)`, from the first sample on."""
    samples = np.asarray(samples, np.float64)
    heard = np.array([samples[start : start + WINDOW] for start in range(0, len(samples) - WINDOW + 1, HOP)])
    return np.log(np.abs(heard @ transform().T) @ bank().T + OFFSET)


def twin_patches(samples: np.ndarray) -> np.ndarray:
    """`(patches, 96, 64)`: a short sound goes on in silence, and what begins a patch without filling it is dropped."""
    silence = [0.0] * max(0, PATCH - len(samples))
    frames = twin_frames(np.concatenate([samples, silence]))
    return np.array([frames[first : first + FRAMES] for first in range(0, len(frames) - FRAMES + 1, FRAMES)])


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, count)


def sounds() -> dict[str, np.ndarray]:
    time = np.arange(20_000) / RATE
    click = np.zeros(20_000)
    click[777] = 1
    return {
        "noise": noise(20_000), "faint noise": 1e-6 * noise(20_000, seed=1),
        "sine of 1 kHz": np.sin(2000 * np.pi * time), "sine below the bands": np.sin(60 * np.pi * time),
        "silence": np.zeros(20_000), "click": click, "constant": np.ones(20_000),
        "full scale": np.where(noise(20_000, seed=2) < 0, -1.0, 1.0),
    }  # fmt: skip


@pytest.mark.parametrize("sound", sounds())
def test_the_spectrogram_is_that_of_the_published_constants(sound):
    samples = sounds()[sound]
    made = VggishFeatureExtractor().log_mel(samples)
    assert made.dtype == np.float64 and made.shape == (123, 64)  # 1 + (20000 - 400) // 160
    np.testing.assert_allclose(made, twin_frames(samples), rtol=0, atol=1e-10)


# One patch is 15,600 samples, and each further 15,360 make one more.
@pytest.mark.parametrize(
    ("count", "patches"),
    [
        (1, 1), (399, 1), (400, 1), (559, 1), (560, 1), (8000, 1), (15_599, 1), (15_600, 1), (15_601, 1), (30_959, 1),
        (30_960, 2), (30_961, 2), (40_000, 2), (46_319, 2), (46_320, 3), (60_000, 3),
    ],
)  # fmt: skip
def test_a_sound_of_any_length_becomes_the_published_patches(count, patches):
    samples = noise(count, seed=count)
    expected = twin_patches(samples)
    made = VggishFeatureExtractor()(samples, sampling_rate=RATE)["input_features"]
    assert made.shape == expected.shape == (patches, FRAMES, BANDS) and made.dtype == np.float32
    # Numbers lie between -4.7 and 4, where float32 has steps of at most 4.8e-7: half a step when they are rounded.
    np.testing.assert_allclose(made, expected, rtol=0, atol=2.5e-7)


def test_silence_is_the_logarithm_of_the_offset():
    made = VggishFeatureExtractor()(np.zeros(40_000), return_tensors="pt")["input_features"]
    assert made.shape == (2, FRAMES, BANDS) and (made == np.float32(math.log(0.01))).all()


@pytest.mark.parametrize("sound", sounds())
def test_the_spectrogram_is_that_of_torchvggish(sound):
    peer = pytest.importorskip("torchvggish.mel_features", reason=PEER)
    theirs = peer.log_mel_spectrogram(
        sounds()[sound], RATE, OFFSET, 0.025, 0.010, num_mel_bins=BANDS, lower_edge_hertz=LOWEST,
        upper_edge_hertz=HIGHEST,
    )  # fmt: skip
    np.testing.assert_allclose(VggishFeatureExtractor().log_mel(sounds()[sound]), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [15_600, 15_601, 30_959, 30_960, 50_000])
def test_the_patches_are_those_of_torchvggish_wherever_it_makes_any(count):
    peer = pytest.importorskip("torchvggish.vggish_input", reason=PEER)
    theirs = peer.waveform_to_examples(noise(count), RATE, return_tensor=False)
    made = VggishFeatureExtractor()(noise(count))["input_features"]
    np.testing.assert_allclose(made, theirs, rtol=0, atol=2.5e-7)  # float32, as above


@pytest.mark.parametrize("count", [50_688, 50_689, 99_839, 99_840])
def test_the_other_front_end_is_librosas_mel_spectrogram(count):
    librosa = pytest.importorskip("librosa")
    samples = noise(count)
    settings = {"sr": 22_050, "n_fft": 2048, "hop_length": 512, "n_mels": 64, "center": False}
    extractor = VggishFeatureExtractor(front_end="librosa")
    made = extractor.log_mel(samples)
    exact = librosa.feature.melspectrogram(y=samples, dtype=np.float64, **settings)
    np.testing.assert_allclose(made, np.log(exact + 0.01).T, rtol=0, atol=1e-10)
    # Called as people call it, librosa keeps its bands in float32: sums of positive products are then off by one part
    # in 1.7e7 (2^-24), and so is the logarithm, in absolute terms.
    usual = librosa.feature.melspectrogram(y=samples, **settings)
    np.testing.assert_allclose(made, np.log(usual + 0.01).T, rtol=0, atol=1.2e-7)
    patches = extractor(samples, sampling_rate=22_050)["input_features"]
    assert patches.shape == (1 if count < 99_840 else 2, FRAMES, BANDS)  # 95 hops and a window; 96 hops more
    np.testing.assert_allclose(patches.reshape(-1, BANDS), made[: 96 * len(patches)], rtol=0, atol=2.5e-7)


@pytest.mark.parametrize("front_end", ["audioset", "librosa"])
@pytest.mark.parametrize("share", [0.0001, 0.7, 1, 1.99, 2, 3.3])
def test_units_one_by_one_are_the_patches_of_the_whole_sound(front_end, share):
    extractor = VggishFeatureExtractor(front_end=front_end)
    steps = extractor.steps
    expected = {"audioset": Steps(RATE, PATCH, NEXT, least=1), "librosa": Steps(22_050, 50_688, 49_152, least=1)}
    assert steps == expected[front_end]
    samples = noise(math.ceil(share * steps.length)).astype(np.float32)
    whole = extractor(samples)["input_features"]
    starts = steps.starts(len(samples))
    by_starts = [extractor(samples[start : start + steps.length])["input_features"] for start in starts]
    assert all(len(patches) == 1 for patches in by_starts)
    assert np.array_equal(np.concatenate(by_starts), whole)  # the very same sums: bit by bit
    cutter, place, by_cutter = Cutter(steps, [(0, 0, math.inf)], np.zeros(0, np.float32)), 0, []
    while place < len(samples):  # as a decoder gives it
        by_cutter += [unit for _, unit in cutter.add(place, samples[place : place + 1152])]
        place += 1152
    by_cutter += [unit for _, unit in cutter.finish()]
    assert np.array_equal(np.concatenate([extractor(unit)["input_features"] for unit in by_cutter]), whole)


@pytest.mark.parametrize(
    ("sound", "rate", "sentence"),
    [
        (np.zeros((2, 9)), 16_000, r"one sound in one row, got \(2, 9\)"),
        (np.zeros(0), 16_000, r"one sound in one row, got \(0,\)"),
        (np.zeros(9), 22_050, "hears 16000 samples a second, got 22050: resample"),
    ],
)
def test_the_extractor_takes_one_sound_at_its_own_rate(sound, rate, sentence):
    with pytest.raises(ValueError, match=sentence):
        VggishFeatureExtractor()(sound, sampling_rate=rate)


def test_a_front_end_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="is audioset or librosa, got 'torchaudio'"):
        VggishFeatureExtractor(front_end="torchaudio")


@pytest.mark.parametrize("constants", [{}, {"front_end": "librosa"}, {"hop": 200, "power": 2, "highest": 7000.0}])
def test_the_constants_of_the_extractor_come_back_out_of_its_file(constants, tmp_path):
    made = VggishFeatureExtractor(**constants)
    made.save_pretrained(tmp_path)
    back = VggishFeatureExtractor.from_pretrained(tmp_path)
    assert back.steps == made.steps
    samples = noise(60_000)
    assert np.array_equal(back(samples)["input_features"], made(samples)["input_features"])


def test_a_window_of_ones_own_comes_back_out_of_the_file(tmp_path):
    VggishFeatureExtractor(window_length=320).save_pretrained(tmp_path)
    assert VggishFeatureExtractor.from_pretrained(tmp_path).steps.length == 95 * 160 + 320


def test_a_misspelt_constant_of_the_extractor_is_refused():
    with pytest.raises((TypeError, ValueError), match="hopp"):
        VggishFeatureExtractor(hopp=200)


# The network.


@pytest.fixture(scope="module")
def full() -> VggishModel:
    """The published size, with random weights, biases and all."""
    torch.manual_seed(0)
    made = VggishModel(VggishConfig()).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.3)
    return made


@pytest.fixture(scope="module")
def patches() -> torch.Tensor:
    return VggishFeatureExtractor()(noise(50_000), return_tensors="pt")["input_features"]


def raw(model: VggishModel, patches: torch.Tensor, **settings) -> torch.Tensor:
    """What the same weights give with another setting."""
    before = {name: getattr(model.config, name) for name in settings}
    for name, value in settings.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        made = model(patches).pooler_output
    for name, value in before.items():
        setattr(model.config, name, value)
    return made


@torch.no_grad()
def twin(weights: dict[str, torch.Tensor], patches: torch.Tensor, *, final_relu: bool) -> torch.Tensor:
    """The published layers one after another, in float64."""
    weights = {name: value.double() for name, value in weights.items()}
    maps = patches.double()[:, None]
    for place, (_, _, pools) in CONVOLUTIONS.items():
        name = f"features.{place}"
        maps = F.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp(min=0)
        if pools:
            count, channels, height, width = maps.shape
            maps = maps.reshape(count, channels, height // 2, 2, width // 2, 2).amax((3, 5))
    channels, height, width = maps.shape[1:]
    assert (height, width) == (6, 4)
    # TensorFlow's order: of a time, of a band, all channels.
    order = [(row, column, channel) for row in range(6) for column in range(4) for channel in range(channels)]
    vectors = torch.stack([maps[:, channel, row, column] for row, column, channel in order], 1)
    for place in (0, 2, 4):
        vectors = vectors @ weights[f"embeddings.{place}.weight"].T + weights[f"embeddings.{place}.bias"]
        vectors = vectors.clamp(min=0) if place < 4 or final_relu else vectors
    return vectors


@pytest.mark.parametrize("final_relu", [False, True])
def test_it_is_the_network_of_torchvggish(full, patches, final_relu):
    peer_module = pytest.importorskip("torchvggish.torchvggish", reason=PEER)
    with torch.device("meta"):
        peer = peer_module._vgg().eval()
    assert list(peer.state_dict()) == list(full.state_dict())
    peer.load_state_dict(full.state_dict(), assign=True)
    if not final_relu:  # which they have and AudioSet's features have not
        peer.embeddings[5] = torch.nn.Identity()
    with torch.no_grad():
        theirs = peer(patches[:, None])
    made = raw(full, patches, final_relu=final_relu)
    assert made.shape == theirs.shape == (3, 128) and (theirs.min() < 0) != final_relu and theirs.std() > 0.1
    torch.testing.assert_close(made, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_it_has_the_published_layers_and_no_more(full):
    shapes = {name: tuple(value.shape) for name, value in full.state_dict().items()}
    expected = {}
    for place, (before, after, _) in CONVOLUTIONS.items():
        expected |= {f"features.{place}.weight": (after, before, 3, 3), f"features.{place}.bias": (after,)}
    for place, (before, after) in {0: (12_288, 4096), 2: (4096, 4096), 4: (4096, 128)}.items():
        expected |= {f"embeddings.{place}.weight": (after, before), f"embeddings.{place}.bias": (after,)}
    assert shapes == expected
    assert full.num_parameters() == 72_141_184
    assert not full.config.final_relu  # AudioSet's features are the numbers before one


@pytest.mark.parametrize("final_relu", [False, True])
def test_a_narrow_one_has_the_same_layers(patches, final_relu):
    model = VggishModel(VggishConfig(**TINY, final_relu=final_relu)).eval()
    with torch.no_grad():
        made = model(patches)
    expected = twin(model.state_dict(), patches, final_relu=final_relu)
    # Nine sums of at most 192 products in float32.
    torch.testing.assert_close(made.pooler_output.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert torch.equal(made.last_hidden_state, made.pooler_output[:, None])


def test_random_weights_neither_blow_up_nor_die_out(patches):
    torch.manual_seed(3)
    fresh = VggishModel(VggishConfig(channels=[16] * 6, hidden=64, pca=5, post="pca")).eval()
    spreads = {}
    for name, module in fresh.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda _, __, maps, name=name: spreads.update({name: maps.std().item()}))
    with torch.no_grad():
        assert fresh(patches).pooler_output.shape == (3, 5)
    assert len(spreads) == 9 and all(0.1 < spread < 100 for spread in spreads.values()), spreads


def test_components_and_eight_bits_are_audiosets():
    model = VggishModel(VggishConfig(**TINY, pca=5)).eval()
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(40, FRAMES, BANDS, generator=generator)
    vectors = raw(model, patches)
    model.pca.mean.copy_(vectors.mean(0))
    model.pca.weight.copy_(torch.randn(5, 9, generator=generator) / 2 / vectors.std(0))
    E, m = model.pca.weight.double().numpy(), model.pca.mean.double().numpy()
    components = (E @ (vectors.double().numpy().T - m.reshape(-1, 1))).T
    bits = ((np.clip(components, -2.0, 2.0) - -2.0) * (255.0 / (2.0 - -2.0))).astype(np.uint8)
    assert len(np.unique(bits)) > 50
    assert vectors.shape == (40, 9)
    # Told in float32, in which it comes.
    np.testing.assert_allclose(raw(model, patches, post="pca").numpy(), components, rtol=1e-6, atol=1e-6)
    assert np.array_equal(raw(model, patches, post="8bit").numpy(), bits)
    assert np.array_equal(raw(model, patches, post="dequantised").numpy(), (bits - 128.0) / 256.0)


def test_a_checkpoint_comes_back_with_its_components(tmp_path, patches):
    model = VggishModel(VggishConfig(**TINY, pca=5, post="dequantised", final_relu=True)).eval()
    model.pca.mean.normal_()
    model.save_pretrained(tmp_path)
    back, report = VggishModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert back.config.model_type == "dualspace_vggish" and back.config.final_relu
    assert back.state_dict().keys() == model.state_dict().keys() >= {"pca.mean", "pca.weight"}
    with torch.no_grad():
        assert torch.equal(back.eval()(patches).pooler_output, model(patches).pooler_output)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hiden": 8}, "no key `hiden`. Did you mean `hidden`"),
        ({"channels": [64] * 5}, "`channels` are six positive numbers"),
        ({"channels": [64, 64, 0, 64, 64, 64]}, "`channels` are six positive numbers"),
        ({"hidden": 0}, "`hidden` and `width` are positive"),
        ({"final_relu": "yes"}, "final_relu"),
        ({"post": "8bits"}, "8bits"),
        ({"post": "8bit"}, "needs principal components"),
        ({"pca": -1}, "0 for none: got -1"),
    ],
)
def test_a_wrong_setting_is_refused(settings, sentence):
    with pytest.raises(Exception, match=sentence):
        VggishConfig(**settings)


@pytest.mark.parametrize("shape", [(96, 64), (1, 1, 96, 64), (1, 64, 96), (2, 95, 64)])
def test_patches_of_another_shape_are_refused_in_a_sentence(shape):
    model = VggishModel(VggishConfig(**TINY))
    with pytest.raises(ValueError, match=r"Expected patches \(n, 96, 64\), got \(.*VggishFeatureExtractor"):
        model(torch.zeros(shape))
