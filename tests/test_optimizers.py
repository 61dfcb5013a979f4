"""Optimisers and schedules, beside those of torch and of transformers."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.testing import assert_close
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from modeling_dualspace import CrossModalConfig, CrossModalModel
from modeling_dualspace.optimizers import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    rate,
    set_rate,
)
from modeling_dualspace.recipe import OptimizerSettings, ScheduleSettings, TrainSettings, load_recipe
from modeling_dualspace.trainer import Trainer

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


@pytest.mark.parametrize(("every", "factor"), [(1, 0.5), (3, 0.1), (100, 0.5), (7, 1.0)])
def test_a_step_schedule_is_that_of_torch(every, factor):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, every, factor)
    settings, expected = ScheduleSettings("step", every=every, factor=factor), 1.0
    for epoch in range(250):
        expected *= factor if epoch and epoch % every == 0 else 1.0
        for progress in (epoch / 250, (epoch + 0.9) / 250):  # all steps of an epoch have one rate
            assert rate(settings, progress, epoch) == pytest.approx(expected, rel=1e-12)
        assert reference.get_last_lr()[0] == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        reference.step()


def test_a_step_schedule_halves_every_hundred_epochs_unless_it_is_said():
    for settings in (
        ScheduleSettings("step"),
        ScheduleSettings("step", every=100),
        ScheduleSettings("step", factor=0.5),
    ):
        assert [rate(settings, 0.5, epoch) for epoch in (0, 99, 100, 199, 200, 499)] == [1, 1, 0.5, 0.5, 0.25, 1 / 16]


def test_a_step_schedule_begins_after_the_warmup():
    settings = ScheduleSettings("step", warmup=0.1, every=20, factor=0.5)
    rates = [rate(settings, step / 1000, step // 10) for step in range(1000)]  # of a hundred epochs of ten steps
    assert rates[:100] == pytest.approx([step / 100 for step in range(100)], rel=1e-12)
    assert rates[100:] == [0.5 ** (step // 200) for step in range(100, 1000)]


class Slide(CrossModalModel):
    """One weight, which each step moves by the learning rate."""

    config_class = CrossModalConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(1))
        self.post_init()

    def encode(self, batch, player):
        return {"audio": batch["audio_features"]}

    def objective(self, rows, player, progress):
        return {"height": self.weight.sum()}


def sliding(data, settings):
    AcceleratorState._reset_state()
    model = Slide(CrossModalConfig(audio_dim=6, visual_dim=8, num_labels=3, turns=["model"]))
    return model, Trainer(model, data.steps(settings.batch_size, settings.seed), settings, Accelerator(cpu=True))


@pytest.mark.parametrize("resumed", [None, 4, 9], ids=lambda step: f"after {step}")
def test_a_trainer_halves_its_rate_after_so_many_epochs_also_where_it_goes_on(data, resumed):
    schedule = ScheduleSettings("step", every=2, factor=0.5)
    settings = TrainSettings(epochs=7, batch_size=45, optimizer=OptimizerSettings("sgd", 1.0, 0.0), schedule=schedule)
    model, trainer = sliding(data, settings)
    heights, walk = [0.0], trainer.steps()
    for step in range(1, 15):  # two batches an epoch
        next(walk)
        heights.append(model.weight.item())
        if step == resumed:
            kept = trainer.checkpoint({})
            trainer.close()
            model, trainer = sliding(data, settings)
            trainer.restore(kept)
            walk = trainer.steps()
    assert next(walk, None) is None
    trainer.close()
    moves = [before - after for before, after in zip(heights, heights[1:], strict=False)]
    assert moves == [1.0] * 4 + [0.5] * 4 + [0.25] * 4 + [0.125] * 2  # powers of two: exact


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


# Settings


def test_a_step_schedule_is_read_as_meant_and_every_part_of_it_matters():
    parts = {"every": 50, "factor": 0.25, "warmup": 0.1}
    said = [f"train.schedule.{name}={value}" for name, value in parts.items()]
    named = "train.schedule.name=step"
    assert load_recipe("tiny", [named, *said]).train.schedule == ScheduleSettings("step", **parts)
    recipes = [load_recipe("tiny", given) for given in ([], [named], *([named, one] for one in said))]
    assert len({recipe.fingerprint("f") for recipe in recipes}) == 5


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("part", ["every=100", "factor=0.5"])
def test_parts_of_a_step_schedule_are_refused_where_it_is_another(name, part):
    key = f"train.schedule.{part.split('=')[0]}"
    with pytest.raises(
        ValueError, match=f"`{key}` has no effect where `train.schedule.name` is {name}: set train.schedule.name=step"
    ):
        load_recipe("tiny", [f"train.schedule.name={name}", f"train.schedule.{part}"])


def test_smoothing_that_has_no_effect_is_refused():
    with pytest.raises(ValueError, match="`train.optimizer.smoothing` has no effect where .* is sgd"):
        load_recipe("tiny", ["train.optimizer.name=sgd", "train.optimizer.smoothing=0.9"])
