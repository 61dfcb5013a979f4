"""I3D: the published layers and TensorFlow's padding, its slow twin, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from modeling_dualspace.conv_norm import ConvNorm
from modeling_dualspace.i3d import BLOCKS, I3dConfig, I3dModel, pool, same

# i3d.py of deepmind/kinetics-i3d: what goes into a block, and the channels of its paths, as they stand there.
PUBLISHED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32), "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64), "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64), "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128), "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> I3dModel:
    """Random weights, and batch norms that do something."""
    torch.manual_seed(0)
    made = I3dModel(I3dConfig()).eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.8, 1.5)
    return made


@pytest.fixture(scope="module")
def videos() -> torch.Tensor:
    """One whose maps are of odd sizes in height (193, 97, 49, 25, 13, 7), even ones in width, and both in time."""
    return torch.rand(1, 10, 3, 193, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def made(model, videos):
    with torch.no_grad():
        return model(videos)


def padded(maps: torch.Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> torch.Tensor:
    """Zeros around a map by the rule that TensorFlow's manual gives for SAME."""
    sides = []
    for size, of_kernel, of_stride in zip(maps.shape[2:], kernel, stride, strict=True):
        rest = size % of_stride
        both = max(of_kernel - (rest or of_stride), 0)
        sides = [both // 2, both - both // 2, *sides]
    return F.pad(maps, sides)


def twin(weights: dict[str, torch.Tensor], videos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last map and the vectors, one published line after another, without a module; zeros before each maximum."""

    def unit(name: str, maps: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernels = weights[f"{name}.conv.weight"]
        maps = F.conv3d(padded(maps, kernels.shape[2:], (stride,) * 3), kernels, None, stride)
        mean, variance, scale, shift = (
            weights[f"{name}.bn.{part}"][:, None, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((maps - mean) / (variance + 0.001).sqrt() * scale + shift).clamp(min=0)

    def highest(maps: torch.Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> torch.Tensor:
        assert maps.min() >= 0  # or zeros would not be TensorFlow's padding
        return F.max_pool3d(padded(maps, kernel, stride), kernel, stride)

    def mixed(name: str, maps: torch.Tensor) -> torch.Tensor:
        second, third = unit(f"{name}.b1a", maps), unit(f"{name}.b2a", maps)
        fourth = unit(f"{name}.b3b", highest(maps, (3, 3, 3), (1, 1, 1)))
        return torch.cat([unit(f"{name}.b0", maps), unit(f"{name}.b1b", second), unit(f"{name}.b2b", third), fourth], 1)

    maps = highest(unit("Conv3d_1a_7x7", videos.transpose(1, 2), 2), (1, 3, 3), (1, 2, 2))
    maps = highest(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", maps)), (1, 3, 3), (1, 2, 2))
    maps = highest(mixed("Mixed_3c", mixed("Mixed_3b", maps)), (3, 3, 3), (2, 2, 2))
    for letter in "bcdef":
        maps = mixed(f"Mixed_4{letter}", maps)
    maps = highest(maps, (2, 2, 2), (2, 2, 2))
    maps = mixed("Mixed_5c", mixed("Mixed_5b", maps))
    windows = [maps[:, :, step : step + 2, :7, :7].mean((2, 3, 4)) for step in range(maps.shape[2] - 1)]
    return maps, torch.stack(windows).mean(0)


def test_it_is_the_published_network(model, videos, made):
    with torch.no_grad():
        maps, vectors = twin(model.state_dict(), videos)
    assert made.last_hidden_state.shape == maps.shape == (1, 1024, 2, 7, 7)
    # Both are float32: 22 sums of at most 4320 products, one after another, in another order.
    torch.testing.assert_close(made.last_hidden_state, maps, rtol=0, atol=1e-5 * maps.max().item())
    torch.testing.assert_close(made.pooler_output, vectors, rtol=0, atol=1e-5 * vectors.max().item())


def test_it_has_as_many_weights_as_the_published_layers(model):
    def unit(before: int, after: int, kernel: int) -> int:
        return before * after * kernel**3 + 2 * after  # the batch norm's; DeepMind's has no scale, so half of these

    stem = unit(3, 64, 7) + unit(64, 64, 1) + unit(64, 192, 3)
    assert stem == (65_856 + 128) + (4096 + 128) + (331_776 + 384)
    total = stem
    for before, b0, b1a, b1b, b2a, b2b, b3b in PUBLISHED.values():
        total += unit(before, b0, 1) + unit(before, b1a, 1) + unit(b1a, b1b, 3)
        total += unit(before, b2a, 1) + unit(b2a, b2b, 3) + unit(before, b3b, 1)
    # With a classifier of 400, 1024 * 400 + 400 more: 12,697,264, as piergiaj's file has.
    assert model.num_parameters() == total == 12_287_264
    assert sum(isinstance(module, ConvNorm) for module in model.modules()) == 3 + 9 * 6


def test_a_block_takes_what_the_one_before_it_gives(model):
    gives = 192
    for name, (before, *channels) in PUBLISHED.items():
        assert before == gives and BLOCKS[name] == tuple(channels), name
        gives = model.get_submodule(name).width
    assert gives == 1024


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        (224, 7, 2, (2, 3)),  # the first layer at its own size: one more behind
        (193, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (97, 3, 2, (1, 1)),
        (14, 2, 2, (0, 0)),
        (13, 2, 2, (0, 1)),
        (7, 3, 1, (1, 1)),
        (7, 1, 1, (0, 0)),
        (4, 1, 2, (0, 0)),
    ],
)
def test_padding_is_tensorflows(size, kernel, stride, padding):
    assert same(size, kernel, stride) == padding


def test_padding_never_wins_a_maximum():
    odd = torch.tensor([-1.0, -5, -2, -6, -3])
    even = torch.tensor([-7.0, -5, -2, -6, -3, -4])
    along_width = ((1, 1, 3), (1, 1, 2))
    # Odd: (., -1, -5), (-5, -2, -6), (-6, -3, .); even: (-7, -5, -2), (-2, -6, -3), (-3, -4, .).
    assert pool(odd[None, None, None, None], *along_width).flatten().tolist() == [-1, -2, -3]
    assert pool(even[None, None, None, None], *along_width).flatten().tolist() == [-2, -2, -3]


@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (3, 1), (1, 1)])
def test_the_maximum_of_any_size_is_that_of_a_padded_map(size, kernel, stride):
    maps = torch.rand(1, 2, size, size + 1, size + 2, generator=torch.Generator().manual_seed(size))
    sizes = (kernel,) * 3, (stride,) * 3
    assert torch.equal(pool(maps, *sizes), F.max_pool3d(padded(maps, *sizes), *sizes))


def test_the_first_and_the_last_step_in_time_count_half(model):
    with torch.no_grad():
        made = model(torch.rand(1, 24, 3, 193, 193, generator=torch.Generator().manual_seed(2)) * 2 - 1)
    first, second, third = made.last_hidden_state.mean((3, 4)).unbind(2)
    torch.testing.assert_close(made.pooler_output, (first / 2 + second + third / 2) / 2)


def test_folding_changes_nothing_beyond_rounding(model, videos, made):
    copy = I3dModel(I3dConfig()).eval()
    copy.load_state_dict(model.state_dict())
    copy.for_inference()
    assert not [module for module in copy.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    with torch.no_grad():
        folded = copy(videos).pooler_output
    torch.testing.assert_close(folded, made.pooler_output, rtol=0, atol=1e-5 * made.pooler_output.max().item())


def test_half_precision_gives_nearly_the_same(model, videos, made):
    half = I3dModel(I3dConfig()).eval()
    half.load_state_dict(model.state_dict())
    with torch.no_grad():
        vectors = half.bfloat16()(videos.bfloat16()).pooler_output.float()
    # Eight bits in each of 22 layers; their errors do not all point one way.
    torch.testing.assert_close(vectors, made.pooler_output, rtol=0, atol=0.05 * made.pooler_output.max().item())


def test_random_weights_neither_blow_up_nor_die_out(videos):
    torch.manual_seed(3)
    fresh = I3dModel(I3dConfig(pca=3, post="pca")).eval()
    spreads = {}
    for name, module in fresh.named_children():
        module.register_forward_hook(lambda _, __, maps, name=name: spreads.update({name: maps.std().item()}))
    with torch.no_grad():
        assert fresh(videos[:, :9, :, :, :193]).pooler_output.shape == (1, 3)
    assert len(spreads) == 3 + 9 + 1
    assert all(0.1 < spread < 100 for spread in spreads.values()), spreads


def test_a_checkpoint_comes_back(model, tmp_path):
    model.save_pretrained(tmp_path)
    back, report = I3dModel.from_pretrained(tmp_path, num_frames=16, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert back.config.model_type == "dualspace_i3d" and back.config.num_frames == 16
    for name, value in model.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_frame": 64}, "no key `num_frame`. Did you mean `num_frames`"),
        ({"num_frames": 8}, "takes 9 frames or more: got `num_frames` 8"),
        ({"post": "pca"}, "needs principal components"),
    ],
)
def test_a_wrong_setting_is_refused(settings, sentence):
    with pytest.raises(Exception, match=sentence):
        I3dConfig(**settings)


@pytest.mark.parametrize(
    "shape", [(1, 8, 3, 224, 224), (1, 9, 3, 192, 224), (1, 9, 3, 224, 192), (1, 3, 9, 224, 224), (9, 3, 224, 224)]
)
def test_videos_of_another_shape_are_refused_in_a_sentence(model, shape):
    with pytest.raises(ValueError, match=r"at least 9 frames of 193 x 193, .* makes one step, got \("):
        model(torch.zeros(shape))


def test_larger_frames_make_several_windows(model):
    with torch.no_grad():
        made = model(torch.rand(1, 9, 3, 193, 225, generator=torch.Generator().manual_seed(4)) * 2 - 1)
    maps = made.last_hidden_state
    assert maps.shape == (1, 1024, 2, 7, 8)
    both = (maps[..., :7].mean((2, 3, 4)) + maps[..., 1:].mean((2, 3, 4))) / 2
    torch.testing.assert_close(made.pooler_output, both)
