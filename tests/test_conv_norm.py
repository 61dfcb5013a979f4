"""A convolution with its batch norm, folded into one and not, in one, two and three dimensions."""

import pytest
import torch
from torch import nn

from modeling_dualspace.conv_norm import ConvNorm, fold, initialize

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
KINDS = [(dimensions, bias) for dimensions in (1, 2, 3) for bias in (False, True)]
EPS = 0.001


def layer(dimensions: int, *, bias: bool, before: int = 3, after: int = 5) -> ConvNorm:
    """In float64 and eval mode, with a norm that does something; one variance is less than eps."""
    made = ConvNorm(CONVOLUTIONS[dimensions](before, after, 3, 2, 1, bias=bias), EPS).double().eval()
    with torch.no_grad():
        made.bn.weight.uniform_(-1.5, 1.5)
        made.bn.bias.normal_()
        made.bn.running_mean.normal_()
        made.bn.running_var.uniform_(0.3, 2)
        made.bn.running_var[0] = 1e-5
    return made


def maps(dimensions: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, *(7, 6, 5)[:dimensions], dtype=torch.float64)


def by_formula(made: ConvNorm, rows: torch.Tensor) -> torch.Tensor:
    weights = made.state_dict()
    convolve = getattr(torch, f"conv{rows.ndim - 2}d")
    rows = convolve(rows, weights["conv.weight"], weights.get("conv.bias"), stride=2, padding=1)
    mean, variance, scale, shift = (
        weights[f"bn.{name}"].reshape(-1, *[1] * (rows.ndim - 2))
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (rows - mean) / (variance + EPS).sqrt() * scale + shift


# Float64 throughout: sums of at most 81 products of a few units, divided by no less than sqrt(.001).
CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize(("dimensions", "bias"), KINDS)
def test_it_is_a_convolution_a_batch_norm_and_a_relu(dimensions, bias):
    made, rows = layer(dimensions, bias=bias), maps(dimensions)
    assert type(made.bn) is NORMS[dimensions]
    expected = by_formula(made, rows)
    assert expected.min() < 0
    expected = expected.clamp(min=0)
    torch.testing.assert_close(made(rows), expected, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(made(rows), expected, **CLOSE)


@pytest.mark.parametrize(("dimensions", "bias"), KINDS)
def test_folding_changes_nothing_beyond_rounding(dimensions, bias):
    made, rows = layer(dimensions, bias=bias), maps(dimensions)
    with torch.no_grad():
        expected = made(rows)
        fold(made)
        assert type(made.bn) is nn.Identity and made.conv.bias is not None
        assert [name for name, _ in made.named_parameters()] == ["conv.weight", "conv.bias"]
        torch.testing.assert_close(made(rows), expected, **CLOSE)


def test_folding_reaches_every_layer_of_a_model_and_leaves_others_alone():
    alone = nn.BatchNorm2d(5)
    model = nn.Sequential(layer(2, bias=False), nn.Sequential(layer(2, bias=True, before=5)), alone).double().eval()
    alone.running_mean.normal_()
    rows = maps(2)
    with torch.no_grad():
        expected = model(rows)
        fold(model)
        torch.testing.assert_close(model(rows), expected, **CLOSE)
    assert model[2] is alone and [type(each) for each in model.modules()].count(nn.BatchNorm2d) == 1


def test_folding_again_changes_nothing():
    made = layer(2, bias=False)
    fold(made)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    fold(made)
    assert before.keys() == made.state_dict().keys() == {"conv.weight", "conv.bias"}
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("dimensions", "bias"), KINDS)
def test_where_gradients_flow_nothing_is_overwritten(dimensions, bias, folded):
    made, rows = layer(dimensions, bias=bias), maps(dimensions).requires_grad_()
    if folded:
        fold(made)
    before_relu = []
    made.bn.register_forward_hook(lambda _, __, given: before_relu.append(given))
    made(rows).pow(3).sum().backward()
    assert before_relu[0].min() < 0  # still there for whoever looks
    mine, other = rows.grad.clone(), rows.detach().clone().requires_grad_()
    assert mine.abs().sum() > 0
    expected = before_relu[0].detach().clamp(min=0)
    torch.testing.assert_close(made(other), expected, **CLOSE)
    (made.bn(made.conv(other)).clamp(min=0) ** 3).sum().backward()
    torch.testing.assert_close(mine, other.grad, **CLOSE)


def test_what_comes_in_is_never_overwritten():
    made, rows = layer(2, bias=True), maps(2)
    kept = rows.clone()
    for _ in range(2):
        with torch.inference_mode():
            made(rows)
        assert torch.equal(rows, kept)
        fold(made)


@pytest.mark.parametrize(("dimensions", "bias"), KINDS)
def test_random_weights_keep_the_size_of_what_goes_through(dimensions, bias):
    made = ConvNorm(CONVOLUTIONS[dimensions](32, 64, 3, bias=bias), EPS).eval()
    with torch.no_grad():
        for value in made.state_dict().values():
            value.fill_(7)
    made.apply(initialize)
    weight = made.conv.weight
    # He's: a variance of 2 over the number of inputs; of 6,144 draws and more the spread is known to 2 %.
    assert weight.std().item() == pytest.approx((2 / (32 * 3**dimensions)) ** 0.5, rel=0.05)
    assert not bias or not made.conv.bias.any()
    rows = torch.randn(1, 64, *[9] * dimensions)
    torch.testing.assert_close(made.bn(rows), rows / (1 + EPS) ** 0.5)  # as if it were not there
    assert made.bn.num_batches_tracked == 0
