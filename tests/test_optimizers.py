"""Optimisers and schedules, beside those of torch and of transformers."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from modeling_dualspace.optimizers import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    rate,
    set_rate,
)
from modeling_dualspace.recipe import OptimizerSettings, ScheduleSettings

SGD = OptimizerSettings("sgd", lr=0.1, momentum=0.8, weight_decay=0.3)
ADAMW = OptimizerSettings("adamw", lr=0.1, momentum=0.8, weight_decay=0.3)
RMSPROP = OptimizerSettings("rmsprop", lr=0.1, momentum=0.6, smoothing=0.8, weight_decay=0.3)
ADAMAX = OptimizerSettings("adamax", lr=0.1, momentum=0.8, weight_decay=0.3)
ALL = (SGD, ADAMW, RMSPROP, ADAMAX)
THEIRS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.8, foreach=False),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.999), foreach=False),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, alpha=0.8, momentum=0.6, foreach=False),
    "adamax": lambda groups: torch.optim.Adamax(groups, lr=0.1, betas=(0.8, 0.999), foreach=False),
}


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def steps(model, optimizer, count=5, rates=()):
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        rows = torch.randn(7, 3, generator=generator, dtype=torch.float64).to(next(model.parameters()))
        if rates:
            set_rate(optimizer, rates[number])
        optimizer.zero_grad()
        model(rows).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.name)
def test_a_step_is_that_of_torch_with_matrices_decayed_and_vectors_not(settings, dtype):
    ours, theirs = network(dtype), network(dtype)
    groups = [
        {"params": [one for one in theirs.parameters() if one.ndim == 2], "weight_decay": 0.3},
        {"params": [one for one in theirs.parameters() if one.ndim == 1], "weight_decay": 0.0},
    ]
    steps(ours, make_optimizer(dict(ours.named_parameters()), settings))
    steps(theirs, THEIRS[settings.name](groups))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_adamw_is_the_published_formula():
    """Loshchilov and Hutter, algorithm 2, for one weight."""
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    optimizer = make_optimizer({"w": weight}, ADAMW)
    value, first, second = 2.0, 0.0, 0.0
    for step in range(1, 6):
        weight.grad = 3 * weight.detach() ** 2
        gradient = 3 * value**2
        optimizer.step()
        first, second = 0.8 * first + 0.2 * gradient, 0.999 * second + 0.001 * gradient**2
        value -= 0.1 * 0.3 * value
        value -= 0.1 * (first / (1 - 0.8**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert weight.item() == pytest.approx(value, rel=1e-12)


def test_rmsprop_is_the_published_formula():
    """Hinton, lecture 6e, for one weight; what is decayed is added to the gradient."""
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    optimizer = make_optimizer({"w": weight}, replace(RMSPROP, momentum=0.0))
    value, square = 2.0, 0.0
    for _ in range(5):
        weight.grad = 3 * weight.detach() ** 2
        gradient = 3 * value**2 + 0.3 * value
        optimizer.step()
        square = 0.8 * square + 0.2 * gradient**2
        value -= 0.1 * gradient / (square**0.5 + 1e-8)
        assert weight.item() == pytest.approx(value, rel=1e-12)


def test_adamax_is_the_published_formula():
    """Kingma and Ba, algorithm 2, for one weight; what is decayed is added to the gradient."""
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    optimizer = make_optimizer({"w": weight}, ADAMAX)
    value, first, largest = 2.0, 0.0, 0.0
    for step in range(1, 6):
        weight.grad = 3 * weight.detach() ** 2
        gradient = 3 * value**2 + 0.3 * value
        optimizer.step()
        first, largest = 0.8 * first + 0.2 * gradient, max(0.999 * largest, abs(gradient))
        value -= 0.1 / (1 - 0.8**step) * first / largest
        # torch adds 1e-8 to each gradient before it is compared, that no weight is divided by zero.
        assert weight.item() == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize("name", [settings.name for settings in ALL])
def test_a_weight_that_gets_no_gradient_stays_a_number(name):
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = make_optimizer({"w": weight}, OptimizerSettings(name, lr=0.1))
    for _ in range(3):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))


@pytest.mark.parametrize("shapes", [[(3,), ()], [(2, 2)], [(2, 2), (3,), (1, 1, 1)]])
def test_every_parameter_is_in_one_group(shapes):
    parameters = {str(place): nn.Parameter(torch.ones(shape)) for place, shape in enumerate(shapes)}
    groups = make_optimizer(parameters, ADAMW).param_groups
    held = [one for group in groups for one in group["params"]]
    assert {id(one) for one in held} == {id(one) for one in parameters.values()} and len(held) == len(shapes)
    assert all(group["weight_decay"] == (0.3 if one.ndim > 1 else 0) for group in groups for one in group["params"])


# Schedules


@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 5), (20, 20), (1, 0), (7, 3)])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_a_schedule_is_that_of_transformers(name, total, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    reference = {
        "constant": lambda: get_constant_schedule_with_warmup(optimizer, warmup),
        "linear": lambda: get_linear_schedule_with_warmup(optimizer, warmup, total),
        "cosine": lambda: get_cosine_schedule_with_warmup(optimizer, warmup, total),
    }[name]()
    for step in range(total):
        expected = reference.get_last_lr()[0]
        assert rate(ScheduleSettings(name, warmup / total), step / total) == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("warmup", [0.0, 1e-9, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_a_rate_lies_between_nothing_and_the_whole_and_falls_after_the_warmup(name, warmup):
    grid = [step / 1000 for step in range(1001)]
    rates = [rate(ScheduleSettings(name, warmup), progress) for progress in grid]
    assert all(-1e-15 <= one <= 1 for one in rates)
    after = [one for one, progress in zip(rates, grid, strict=True) if progress >= warmup]
    assert after == sorted(after, reverse=True) and after[0] > 0.99
    if warmup < 1 and name != "constant":
        assert rates[-1] == pytest.approx(0, abs=1e-15)


def test_a_rate_that_is_set_is_that_of_the_next_step_in_every_group():
    model = network()
    optimizer = make_optimizer(dict(model.named_parameters()), SGD)
    before = [one.clone() for one in model.parameters()]
    steps(model, optimizer, 2, rates=[0.0, 0.0])
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    steps(model, optimizer, 1, rates=[0.5])
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert not any(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


# Remembered


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.name)
def test_what_is_remembered_goes_by_name_whatever_the_order(settings, dtype):
    model, other = network(dtype), network(dtype)
    named = dict(model.named_parameters())
    optimizer = make_optimizer(named, settings)
    steps(model, optimizer)
    other.load_state_dict(model.state_dict())
    backwards = dict(reversed(list(other.named_parameters())))
    resumed = make_optimizer(backwards, settings)
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, named).items()}
    assert {name.rsplit("/")[0] for name in tensors} == named.keys()
    load_optimizer_tensors(resumed, backwards, dict(sorted(tensors.items(), reverse=True)))
    steps(model, optimizer)
    steps(other, resumed)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.name)
def test_parameters_that_never_moved_have_nothing_to_remember(settings):
    model = network()
    named = dict(model.named_parameters())
    optimizer = make_optimizer(named, settings)
    assert optimizer_tensors(optimizer, named) == {}
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer.step()
    tensors = optimizer_tensors(optimizer, named)
    assert {name.rsplit("/")[0] for name in tensors} == {"0.weight"}
    fresh = make_optimizer(named, settings)
    load_optimizer_tensors(fresh, named, tensors)
    assert optimizer_tensors(fresh, named).keys() == tensors.keys()
    load_optimizer_tensors(fresh, named, {})
    assert optimizer_tensors(fresh, named) == {}


@pytest.mark.parametrize(("name", "share"), [("adamw", 0.999), ("adamax", 0.999), ("rmsprop", 0.9)])
def test_smoothing_is_that_of_the_optimiser_unless_it_is_said(name, share):
    for said, expected in ((None, share), (0.5, 0.5)):
        optimizer = make_optimizer({"w": nn.Parameter(torch.ones(2, 2))}, OptimizerSettings(name, smoothing=said))
        group = optimizer.param_groups[0]
        assert (group["alpha"] if name == "rmsprop" else group["betas"][1]) == expected
