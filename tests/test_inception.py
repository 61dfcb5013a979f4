"""Inception V3 against pytorchcv's with the same weights, with its own pools and with those of other checkpoints."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from modeling_dualspace.backbones import Steps
from modeling_dualspace.conv_norm import ConvNorm
from modeling_dualspace.inception import InceptionConfig, InceptionModel
from modeling_dualspace.known_backbones import load_backbone
from modeling_dualspace.pooling import Pooling
from modeling_dualspace.units import Unit

PEER = "compares with pytorchcv, which `make` installs by .ci/peers.txt"
# Channels that come out of each block of torchvision's inception.py.
PUBLISHED = {
    "Mixed_5b": 256, "Mixed_5c": 288, "Mixed_5d": 288, "Mixed_6a": 768, "Mixed_6b": 768, "Mixed_6c": 768,
    "Mixed_6d": 768, "Mixed_6e": 768, "Mixed_7a": 1280, "Mixed_7b": 2048, "Mixed_7c": 2048,
}  # fmt: skip
PICTURES = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"height": 75, "width": 75},
    "resample": 2, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> InceptionModel:
    """Random weights, and batch norms that do something."""
    torch.manual_seed(0)
    made = InceptionModel(InceptionConfig()).eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return made


@pytest.fixture(scope="module")
def peer(model):
    """pytorchcv's, whose tensors come in the same order under other names."""
    inceptionv3 = pytest.importorskip("pytorchcv.models.inceptionv3", reason=PEER).inceptionv3
    with torch.device("meta"):
        made = inceptionv3().eval()
    theirs = made.state_dict()
    classifier = [name for name in theirs if name.startswith("output.")]
    names = [name for name in theirs if name not in classifier]
    ours = model.state_dict()
    assert [theirs[name].shape for name in names] == [value.shape for value in ours.values()]
    weights = dict(zip(names, ours.values(), strict=True))
    made.load_state_dict(
        weights | {name: torch.zeros_like(theirs[name], device="cpu") for name in classifier}, assign=True
    )
    return made


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def made(model, pictures):
    with torch.no_grad():
        return model(pictures)


def close(made: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the rounding of float32, a part of the largest: 48 layers sum up to 4,032 products each."""
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def alike(model: InceptionModel, **settings) -> InceptionModel:
    """The same weights with other settings."""
    other = InceptionModel(InceptionConfig(**settings)).eval()
    other.load_state_dict(model.state_dict(), assign=True)
    return other


def test_it_is_the_network_of_pytorchcv(model, peer, pictures, made):
    with torch.no_grad():
        theirs = peer.features(pictures).flatten(1)
    assert made.pooler_output.shape == theirs.shape == (2, 2048)
    assert theirs.std() > 0.05 and (theirs[0] - theirs[1]).std() > 0.01  # there is something to compare
    close(made.pooler_output, theirs)


def test_it_has_as_many_weights_as_pytorchcvs_without_its_classifier(model, peer):
    assert model.num_parameters() == 21_785_568
    whole = sum(value.numel() for value in peer.parameters())
    assert whole == 23_834_568 == 21_785_568 + (2048 + 1) * 1000
    assert sum(isinstance(module, ConvNorm) for module in model.modules()) == 94
    assert all(module.bn.eps == 0.001 for module in model.modules() if isinstance(module, ConvNorm))


def test_a_vector_is_the_mean_over_the_last_map_after_its_relu(made):
    assert made.last_hidden_state.shape == (2, 2048, 8, 8) and made.last_hidden_state.min() == 0
    close(made.pooler_output, made.last_hidden_state.flatten(2).double().mean(2).float())


def test_each_block_has_the_published_width(model):
    widths = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, maps, name=name: widths.update({name: maps.shape})
        )
        for name in PUBLISHED
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, 299, 299))
    for hook in hooks:
        hook.remove()
    edges = dict.fromkeys(PUBLISHED, 17) | dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), 35)
    edges |= dict.fromkeys(("Mixed_7a", "Mixed_7b", "Mixed_7c"), 8)
    assert widths == {name: (1, channels, edges[name], edges[name]) for name, channels in PUBLISHED.items()}


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("last", ["average", "max"])
def test_pools_are_those_of_the_checkpoint_that_somebody_has(model, peer, counts, last):
    theirs = copy.deepcopy(peer)
    theirs.features.final_pool = nn.AdaptiveAvgPool2d(1)  # its own knows one size of pictures
    pools = [module for module in theirs.modules() if isinstance(module, nn.AvgPool2d)]
    assert len(pools) == 9 and all(pool.count_include_pad for pool in pools)
    for pool in pools:
        pool.count_include_pad = counts
    if last == "max":
        theirs.features.stage3.unit3.branches.branch4.pool = nn.MaxPool2d(3, 1, 1)
    pictures = torch.rand(2, 3, 139, 171, generator=torch.Generator().manual_seed(2)) * 2 - 1
    other = alike(model, pool_counts_padding=counts, last_pool=last)
    with torch.no_grad():
        expected, usual = theirs.features(pictures).flatten(1), model(pictures).pooler_output
        close(other(pictures).pooler_output, expected)
    differs = (expected - usual).abs().max() > 1e-3 * expected.max()
    assert differs == ((counts, last) != (True, "average"))


@pytest.mark.parametrize("settings", [{}, {"pool_counts_padding": False, "last_pool": "max"}])
def test_folding_changes_nothing_beyond_rounding(model, pictures, made, settings):
    folded = alike(model, **settings)
    folded.for_inference()
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        expected = alike(model, **settings)(pictures[:1, :, :171, :139]).pooler_output
        close(folded(pictures[:1, :, :171, :139]).pooler_output, expected)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())  # the other one is left as it was


def test_random_weights_neither_blow_up_nor_die_out():
    torch.manual_seed(3)
    fresh = InceptionModel(InceptionConfig()).eval()
    spreads = {}
    for name, module in fresh.named_children():
        module.register_forward_hook(lambda _, __, maps, name=name: spreads.update({name: maps.std().item()}))
    with torch.no_grad():
        fresh(torch.rand(1, 3, 139, 139) * 2 - 1)
    assert len(spreads) == 5 + 11 and all(0.01 < spread < 100 for spread in spreads.values()), spreads


def test_it_can_be_trained():
    model = InceptionModel(InceptionConfig()).train()
    model(torch.rand(2, 3, 75, 75)).pooler_output.square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())


def youtube8m(E: np.ndarray, m: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Its eight bits: rounded, halves up."""
    components = (vectors.astype(np.float64) - m) @ E.T
    return np.floor((np.clip(components, -2, 2) + 2) * (255 / 4) + 0.5)


@pytest.fixture(scope="module")
def with_components(model, tmp_path_factory):
    """A folder of the same network with seven components, and these."""
    other = InceptionModel(InceptionConfig(pca=7)).eval()
    other.load_state_dict(model.state_dict() | other.pca.state_dict(prefix="pca."))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        vectors = model(torch.rand(6, 3, 75, 75, generator=generator) * 2 - 1).pooler_output
    other.pca.mean.copy_(vectors.mean(0))
    other.pca.weight.copy_(torch.randn(7, 2048, generator=generator) / 8 / vectors.std())
    folder = tmp_path_factory.mktemp("inception")
    other.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    return folder, other.pca.weight.double().numpy(), other.pca.mean.double().numpy()


def test_a_clip_gets_the_mean_over_its_frames_of_what_components_make_of_each(with_components):
    folder, E, m = with_components
    random = np.random.default_rng(5)
    # Frames between noise and one shade, so that they differ.
    frames = [
        (random.integers(0, 256, (75, 75, 3)) * share + 128 * (1 - share)).astype(np.uint8)
        for share in np.linspace(0, 1, 5)
    ]
    plain = load_backbone("visual", str(folder), device="cpu")
    assert plain.steps == Steps(rate=1, length=1, hop=1) and plain.width == 2048
    vectors = plain.embed([[plain.prepare(frame)] for frame in frames])
    bits = youtube8m(E, m, vectors)
    assert len(np.unique(bits)) > 15
    expected = {"pca": (vectors.astype(np.float64) - m) @ E.T, "8bit": bits, "dequantised": (bits - 128) / 256}
    for post, rows in expected.items():
        backbone = load_backbone("visual", str(folder), device="cpu", settings={"post": post})
        pooling = Pooling({"visual": backbone}, batch_size=5)
        for frame in frames:
            pooling.add("film", Unit("visual", (0,), [backbone.prepare(frame)]))
        pooling.flush()
        # The same batch gives the same vectors; the rest is float64, and told in float32.
        np.testing.assert_allclose(pooling.mean(("film", 0), "visual"), rows.mean(0), rtol=1e-6, atol=1e-7)
    # Not the bits of the mean, which is what somebody has who pools first.
    assert np.abs(youtube8m(E, m, vectors.mean(0)) - bits.mean(0)).max() > 0.05


def test_a_checkpoint_comes_back_with_its_settings_and_components(with_components, model):
    folder, E, m = with_components
    settings = {"pool_counts_padding": False, "last_pool": "max", "post": "pca"}
    back, report = InceptionModel.from_pretrained(folder, **settings, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert back.config.model_type == "dualspace_inception" and back.config.last_pool == "max"
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in model.state_dict().items())
    pictures = torch.rand(2, 3, 75, 75)
    with torch.no_grad():
        vectors = alike(model, pool_counts_padding=False, last_pool="max")(pictures).pooler_output.double().numpy()
        np.testing.assert_allclose(back.eval()(pictures).pooler_output, (vectors - m) @ E.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"last_pol": "max"}, "no key `last_pol`. Did you mean `last_pool`"),
        ({"last_pool": "maximum"}, "maximum"),
        ({"pool_counts_padding": "no"}, "pool_counts_padding"),
        ({"post": "8bit"}, "needs principal components"),
        ({"pca": -1}, "0 for none: got -1"),
    ],
)
def test_a_wrong_setting_is_refused(settings, sentence):
    with pytest.raises(Exception, match=sentence):
        InceptionConfig(**settings)


@pytest.mark.parametrize("shape", [(3, 299, 299), (1, 1, 299, 299), (1, 299, 299, 3), (1, 3, 74, 299), (1, 3, 299, 74)])
def test_pictures_of_another_shape_are_refused_in_a_sentence(model, shape):
    with pytest.raises(ValueError, match=r"Expected pictures \(n, 3, height, width\) of at least 75 x 75, got \("):
        model(torch.zeros(shape))


def test_the_smallest_picture_makes_a_vector(model):
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 75, 75)).last_hidden_state.shape == (1, 2048, 1, 1)
