"""The loop: N processes take the steps of one, players take turns, what is frozen stays."""

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from modeling_dualspace import CrossModalConfig, CrossModalModel
from modeling_dualspace.optimizers import rate
from modeling_dualspace.recipe import OptimizerSettings, ScheduleSettings, TrainSettings
from modeling_dualspace.trainer import Trainer
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.validation import validate


@pytest.fixture
def data(make_batch, as_split):
    """A batch of 25 or so clips is shared out unevenly among two, and among three."""
    return lambda: TrainingData({"train": as_split(make_batch(103)), "validation": as_split(make_batch(41, seed=2))})


def accelerator():
    AcceleratorState._reset_state()
    return Accelerator(cpu=True)


def trained(model, data, settings, epochs=None):
    model.prepare(data.passes("train"))
    trainer = Trainer(model, data.steps(settings.batch_size, settings.seed), settings, accelerator())
    steps = [bool(over) for over in trainer.steps(epochs)]
    losses = trainer.losses()
    trainer.close()
    return steps, losses


SETTINGS = {
    "sgd": TrainSettings(epochs=1, batch_size=26, optimizer=OptimizerSettings("sgd", 1e-2)),
    "adamw": TrainSettings(epochs=1, batch_size=26, optimizer=OptimizerSettings("adamw", 1e-3, weight_decay=0.1)),
    "clipped": TrainSettings(epochs=1, batch_size=26, clip=0.1, schedule=ScheduleSettings("cosine", 0.3)),
    "paper": TrainSettings(epochs=1, batch_size=26, optimizer=OptimizerSettings("sgd", 1e-3)),
}


@pytest.mark.parametrize(("count", "name"), [*((2, name) for name in SETTINGS), (3, "sgd")])
def test_many_processes_take_the_steps_of_one(together, data, make_model, count, name):
    given = SETTINGS[name]
    paper = {"discriminative": "frobenius", "orthogonality": "batch"} if name == "paper" else {}

    def work():
        torch.manual_seed(0)
        model, clips, sizes = make_model(**paper), data(), []
        objective = model.objective
        model.objective = lambda rows, *rest: sizes.append(len(rows["audio_explicit"])) or objective(rows, *rest)
        _, losses = trained(model, clips, given)
        model.finish(clips.passes("train"), clips.passes("validation"))
        score = validate(model, clips.passes("validation"))
        return dict(model.named_parameters()), losses, score["map"], model.choice["candidate"], sizes

    expected = work()
    for found in together(count, work):
        for name, parameter in expected[0].items():
            # Sums in float32 of other orders, over an epoch: relative to the largest entry of each.
            assert (found[0][name] - parameter).abs().max() <= 1e-5 * parameter.abs().max().clamp_min(1e-3), name
        assert found[4] == expected[4]  # rows of global batches: shares were shares
        assert found[1] == pytest.approx(expected[1], rel=1e-4)
        assert found[2] == pytest.approx(expected[2], abs=1e-3) and found[3] == expected[3]


def test_an_epoch_ends_after_all_its_batches_and_losses_are_means(data, make_model):
    model = make_model()
    steps, losses = trained(model, data(), TrainSettings(epochs=3, batch_size=26))
    assert steps == [False, False, False, True] * 3
    assert losses["loss"] == pytest.approx(
        losses["correlation"] + 0.01 * losses["discriminative"] + 0.001 * losses["orthogonality"], abs=1e-5
    )


def test_the_loop_takes_the_steps_of_a_loop_by_hand(data, make_model):
    settings = TrainSettings(epochs=2, batch_size=26, optimizer=OptimizerSettings("sgd", 0.05, momentum=0.8), clip=0.5)
    torch.manual_seed(0)
    model, twin = make_model(), make_model()
    twin.load_state_dict(model.state_dict())
    clips = data()
    trained(model, clips, settings)

    twin.prepare(clips.passes("train"))
    twin.train()
    optimizer = torch.optim.SGD([one for one in twin.parameters() if one.requires_grad], lr=0.05, momentum=0.8)
    epochs = clips.steps(26, 0)
    for epoch in range(2):
        for batch in epochs.epoch(epoch):
            optimizer.zero_grad()
            twin(**batch).loss.backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)


class Rivals(CrossModalModel):
    """A critic that tells sound from sight, and a model that makes them alike: two players, two optimisers."""

    config_class = CrossModalConfig

    def __init__(self, config):
        super().__init__(config)
        self.audio, self.visual = nn.Linear(6, 4), nn.Linear(8, 4)
        self.critic = nn.Linear(4, 1)
        self.post_init()

    def encode(self, batch, player):
        with torch.set_grad_enabled(player == "model"):
            return {"audio": self.audio(batch["audio_features"]), "visual": self.visual(batch["visual_features"])}

    def objective(self, rows, player, progress):
        gap = self.critic(rows["audio"]).mean() - self.critic(rows["visual"]).mean()
        noise = torch.randn(()) * 0.01  # drawn by (seed, step): the same in every process
        return {"gap": -gap + noise + 0.1 * self.critic.weight.square().sum()} if player == "critic" else {"gap": gap}

    def get_audio_embeds(self, audio_features):
        return nn.functional.normalize(self.audio(audio_features), dim=1)

    def get_visual_embeds(self, visual_features):
        return nn.functional.normalize(self.visual(visual_features), dim=1)


@pytest.mark.parametrize("count", [1, 2])
def test_players_take_turns_and_move_only_what_is_theirs(together, data, count):
    settings = TrainSettings(epochs=1, batch_size=26, players={"critic": OptimizerSettings("sgd", 0.1)})

    def work():
        torch.manual_seed(0)
        config = CrossModalConfig(audio_dim=6, visual_dim=8, turns=["critic", "critic", "model"], num_labels=3)
        model, clips = Rivals(config), data()
        trainer = Trainer(model, clips.steps(26, 0), settings, accelerator())
        moved = []
        before = {name: one.clone() for name, one in model.named_parameters()}
        for _ in trainer.steps():
            moved.append({name.split(".")[0] for name, one in model.named_parameters() if not one.equal(before[name])})
            before = {name: one.clone() for name, one in model.named_parameters()}
        return moved, dict(model.named_parameters())

    found = [work()] if count == 1 else together(count, work)
    for moved, _ in found:
        assert moved == [{"critic"}, {"critic"}, {"audio", "visual"}, {"critic"}]


def test_what_is_frozen_stays_and_drops_nothing_out(data, make_model):
    model = make_model(dropout=0.5)
    before = {name: one.clone() for name, one in model.named_parameters()}
    trained(model, data(), TrainSettings(epochs=1, batch_size=50, freeze=["audio_towers", "visual_towers.explicit"]))
    moved = {name.rsplit(".", 2)[0] for name, one in model.named_parameters() if not one.equal(before[name])}
    assert moved == {"visual_towers.implicit"}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["audio_tower"], "no parameter's name begins so: parts are"),
        (["audio_towers", "visual_towers"], "leaves nothing to learn"),
    ],
)
def test_freezing_what_is_not_there_or_everything_is_refused(data, make_model, freeze, message):
    with pytest.raises(ValueError, match=message):
        trained(make_model(), data(), TrainSettings(epochs=1, batch_size=50, freeze=freeze))


def test_a_player_that_no_system_has_is_refused(data, make_model):
    with pytest.raises(ValueError, match=r"names 'critic', and the system's players are model: name"):
        trained(make_model(), data(), TrainSettings(epochs=1, batch_size=50, players={"critic": OptimizerSettings()}))


def test_a_model_is_left_as_it_was_found(data, make_model):
    model = make_model()
    trained(model, data(), TrainSettings(epochs=1, batch_size=50, precision="bf16"))
    assert "forward" not in model.__dict__ and "encode" not in model.__dict__ and not model.training
    trained(model, data(), TrainSettings(epochs=1, batch_size=50))  # and may be trained again


@pytest.mark.slow  # inductor compiles for half a minute
def test_compiled_towers_take_the_same_steps(data, make_model):
    torch.manual_seed(0)
    model, twin = make_model(), make_model()
    twin.load_state_dict(model.state_dict())
    trained(model, data(), TrainSettings(epochs=2, batch_size=26, optimizer=OptimizerSettings("sgd", 0.01)))
    trained(
        twin, data(), TrainSettings(epochs=2, batch_size=26, optimizer=OptimizerSettings("sgd", 0.01), compile=True)
    )
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_a_process_whose_clips_are_bad_leaves_no_other_waiting(together, data, make_model):
    def work():
        model, clips = make_model(), data()
        rows = next(
            iter(clips.passes("train"))
        )  # made resident: both processes see the same, and each looks at its share
        bad = {name: column.clone() for name, column in rows.items()}
        if dist.is_initialized() and dist.get_rank() == 1:
            bad["audio_features"][0, 0] = torch.nan
        try:
            model.prepare([bad])
        except (ValueError, RuntimeError) as error:
            return str(error)

    def joined():
        accelerator()
        return work()

    for said in together(2, joined):
        assert "must be finite numbers, but row" in said


def test_a_schedule_ends_where_training_does_and_knows_nothing_beyond():
    assert [rate(ScheduleSettings("cosine"), progress) for progress in (0.0, 1.0)] == [1.0, 0.0]
    with pytest.raises(ValueError, match="Progress lies between 0 and 1, got 1.25"):
        rate(ScheduleSettings("cosine"), 1.25)
