"""What systems whose players take turns are asked alike: whose gradient it is, how steep it is, what is learnt."""

from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, List, Value
from steps import FIRST
from torch.nn.parallel import DistributedDataParallel

from modeling_dualspace.recipe import OptimizerSettings, TrainSettings
from modeling_dualspace.trainer import Trainer
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.validation import validate

CLASSES = 5


def parameters_of(model, player):
    """`critic` owns what lies under `model.critic`, `model` the rest."""
    others = tuple(f"{other}." for other in model.config.players if other != "model")
    return {
        name: one
        for name, one in model.named_parameters()
        if (name.startswith(f"{player}.") if player != "model" else not name.startswith(others))
    }


def slopes(model, clips, player, term, size=1e-6):
    """How steep a term of a step is along some direction of its player's parameters: by autograd, and by difference.

    Every call draws the same numbers.
    """
    own = list(parameters_of(model, player).values())
    generator = torch.Generator().manual_seed(3)
    way = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in own]

    def value():
        torch.manual_seed(1)
        return model.objective(model.encode(clips, player), player, 0.5)[term]

    model.train()  # without dropout, and so that no embedding is made besides
    found = torch.autograd.grad(value(), own, allow_unused=True)
    steep = sum((one * step).sum().item() for one, step in zip(found, way, strict=True) if one is not None)
    ends = []
    for far in (size, -2 * size):  # to one side, and over to the other
        with torch.no_grad():
            for one, step in zip(own, way, strict=True):
                one.add_(far * step)
        ends.append(value().item())
    return steep, (ends[0] - ends[1]) / (2 * size)


def doubled(clips):
    """The same clips in float64."""
    return {name: rows.double() if rows.is_floating_point() else rows for name, rows in clips.items()}


def moved(model, data, steps, **settings):
    """Names of the parameters that each step of a real training moved, after the player whose turn it was."""
    told = []
    with training(model, data, **settings) as trainer:
        before = {name: one.detach().clone() for name, one in model.named_parameters()}
        walk = trainer.steps()
        for step in range(steps):
            next(walk)
            now = {name: one.detach().clone() for name, one in model.named_parameters()}
            told.append((trainer.turns[step % len(trainer.turns)],
                         {name for name in now if not torch.equal(now[name], before[name])}))  # fmt: skip
            before = now
    return told


@contextmanager
def training(model, data, lr=0.01, momentum=0.9, **settings):
    """The trainer of a prepared model, of one optimiser for all players and of what else its settings are to be."""
    AcceleratorState._reset_state()
    chosen = OptimizerSettings(lr=lr, momentum=momentum)
    players = {player: chosen for player in set(model.config.turns) - {"model"}}
    settings = TrainSettings(**{"epochs": 2, "batch_size": 30, "optimizer": chosen, "players": players} | settings)
    trainer = Trainer(model, data.steps(settings.batch_size, settings.seed), settings, Accelerator(cpu=True))
    yield trainer
    trainer.close()


def easy_data(seed=0, labelled=True):
    """300 clips of five classes to learn from and 150 to look at: in either modality a class is a cloud of its own."""
    centres = torch.Generator().manual_seed(100 + seed)
    places = [3 * torch.randn(CLASSES, width, generator=centres) for width in (6, 8)]
    return TrainingData({name: _easy_split(rows, place, places, seed, labelled)
                         for place, (name, rows) in enumerate((("train", 300), ("validation", 150)))})  # fmt: skip


def _easy_split(rows, place, places, seed, labelled):
    generator = torch.Generator().manual_seed(10 * seed + place)
    labels = torch.arange(rows) % CLASSES
    audio, visual = (centre[labels] + torch.randn(rows, centre.shape[1], generator=generator) for centre in places)
    columns = {"audio_features": audio.tolist(), "visual_features": visual.tolist()}
    features = {name: List(Value("float32"), length=len(column[0])) for name, column in columns.items()}
    if labelled:
        columns["label"], features["label"] = labels.tolist(), ClassLabel(names=[*"abcde"])
    return Dataset.from_dict(columns, features=Features(features))


def held_out_map(model, seed=0):
    """MAP over the clips of `easy_data` that are looked at."""
    return validate(model, easy_data(seed).passes("validation"))["map"]


def learnt(model, data, **settings):
    """Prepares and trains it; the mean of every term over the last epoch."""
    model.prepare(data.passes("train"))
    with training(model, data, **settings) as trainer:
        for over in trainer.steps():
            if over:
                terms = trainer.losses()
    model.finish(data.passes("train"))
    return terms


def turns_of_two(together, make, clips, player):
    """A step of one player in two processes of 41 and 19 clips: of each the gathered rows, the loss, the gradient."""

    def work():
        AcceleratorState._reset_state()
        first = Accelerator(cpu=True).process_index == 0
        mine = {name: rows[:FIRST] if first else rows[FIRST:] for name, rows in clips.items()}
        model = make().double()
        model.prepare([mine])
        seen, objective = [], model.objective
        model.objective = lambda rows, *rest: seen.append(rows) or objective(rows, *rest)
        torch.manual_seed(FIRST * first)  # each draws its own
        several = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
        loss = several(**mine, player=player).loss
        loss.backward()
        slope = {name: one.grad for name, one in parameters_of(model, player).items()}
        return {name: rows.detach() for name, rows in seen[0].items()}, loss.detach(), slope

    return together(2, work)


def assert_two_take_the_step_of_one(together, make, clips, player, drawn):
    """On what they drew, which is in the rows named."""
    clips = doubled(clips)
    (rows, loss, slope), (others, other_loss, other_slope) = turns_of_two(together, make, clips, player)
    assert len(rows["audio" if "audio" in rows else "audio_attended"]) == len(clips["labels"])
    assert set(drawn) <= set(rows) and all(torch.equal(rows[name], others[name]) for name in rows)
    assert torch.equal(loss, other_loss) and all(torch.equal(slope[name], other_slope[name]) for name in slope)
    model = make().double()
    model.prepare([clips])
    again = model.encode(clips, player) | {name: rows[name] for name in drawn}
    terms = model.objective(again, player, 1.0)
    expected = sum(model.loss_weights.get(name, 1.0) * term for name, term in terms.items())
    expected.backward()
    # float64 but for the statistics of features, which are kept as float32 of sums in another order.
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0)
    own = parameters_of(model, player)
    largest = max(one.grad.abs().max() for one in own.values())
    for name, one in own.items():
        assert (one.grad - slope[name]).abs().max() < 1e-4 * largest, name


def assert_two_stay_alike(together, make, data, terms):
    """Over steps of the real training on shards that are not even: 90 clips in batches of 22 and 23."""

    def work():
        model = make()
        model.prepare(data.passes("train"))
        with training(model, data, batch_size=27, epochs=3) as trainer:
            assert trainer.accelerator.num_processes == 2 and all(trainer.step for _ in trainer.steps())
            losses = trainer.losses()
        model.finish(data.passes("train"))
        return dict(model.state_dict()), losses

    (one, losses), (other, others) = together(2, work)
    assert losses == others and set(losses) == {"loss", *terms}
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    model = make()
    model.prepare(data.passes("train"))
    assert all(rows.isfinite().all() for rows in one.values())
    assert not any(torch.equal(rows, one[name]) for name, rows in model.named_parameters() if rows.any())
