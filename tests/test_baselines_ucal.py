"""UCAL: its terms beside loops, whose gradient is turned round and how far, and that no label is read."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from players import CLASSES, doubled, easy_data, held_out_map, learnt
from safetensors.torch import load_file
from steps import a_share, a_step
from terms import assert_slopes, outputs
from torch import nn
from transformers import AutoModel

from modeling_dualspace.baselines import UcalConfig, UcalModel
from modeling_dualspace.baselines.ucal import told_apart
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [12], "visual_hidden": [12, 8], "embed_dim": 4, "adversary_hidden": [5, 3]}
TERMS = ["pair", "modality", "regularization"]


def make(**settings):
    torch.manual_seed(0)
    return UcalModel(UcalConfig(**{"audio_dim": 6, "visual_dim": 8, "num_labels": 3} | MODEL | settings))


def part(model, name):
    """Parameters of the networks, or of the classifier of modalities."""
    return [one for path, one in model.named_parameters() if path.startswith("adversary.") == (name == "adversary")]


# The objective.


def test_pairs_are_as_far_apart_as_their_squares_say():
    model, rows = make().double(), outputs(None)
    a, v = rows["audio"].tolist(), rows["visual"].tolist()
    expected = sum((x - y) ** 2 for one, other in zip(a, v, strict=True) for x, y in zip(one, other, strict=True)) / 12
    found = model.objective(rows, "model", 1.0)
    assert list(found) == TERMS and found["pair"].item() == pytest.approx(expected, rel=1e-12)
    assert_slopes(lambda: model.objective(rows, "model", 1.0)["pair"], [rows["audio"], rows["visual"]])


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_modalities_are_told_apart_as_two_classes_at_equal_weight(progress):
    """-1/2n sum log D(a) + log(1 - D(v)), whatever the strength of the reversal."""
    model, rows = make().double(), outputs(None)
    chances = [torch.sigmoid(model.adversary(rows[name])).flatten().tolist() for name in ("audio", "visual")]
    expected = -sum(math.log(a) + math.log(1 - v) for a, v in zip(*chances, strict=True)) / 24
    assert model.objective(rows, "model", progress)["modality"].item() == pytest.approx(expected, rel=1e-12)


def test_the_matrices_of_both_networks_are_kept_small_and_nothing_else():
    model = make().double()
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.1)  # no bias is zero
    matrices = [one for name, one in model.named_parameters() if "_encoder" in name and one.ndim == 2]
    assert sorted(map(tuple, (one.shape for one in matrices))) == [(4, 8), (4, 12), (8, 12), (12, 6), (12, 8)]
    expected = sum(np.linalg.norm(one.detach().numpy()) for one in matrices)  # not its square
    assert model.objective(outputs(None), "model", 1.0)["regularization"].item() == pytest.approx(expected, rel=1e-12)
    model.zero_grad()
    model.objective(outputs(None), "model", 1.0)["regularization"].backward()
    for name, one in model.named_parameters():
        kept = any(one is matrix for matrix in matrices)
        if kept:
            torch.testing.assert_close(one.grad, one.detach() / one.detach().norm(), msg=name)
        assert kept or one.grad is None or not one.grad.any()


def test_the_loss_is_the_sum_of_its_terms_by_their_weights(batch):
    for settings, weights in (({}, (1, 1, 1e-4)), ({"modality": 3}, (1, 3, 1e-4)), ({"regularization": 0}, (1, 1, 0))):
        output = make(loss_weights=settings).double()(**doubled(batch))
        terms = [output.terms[name].item() for name in TERMS]
        assert output.loss.item() == pytest.approx(np.dot(terms, weights), rel=1e-12)
    assert make(loss_weights={"pair": 2}).config.loss_weights == {"pair": 2, "regularization": 1e-4}


# The game.


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_networks_climb_the_classifier_s_loss_as_far_as_training_is_and_it_descends_it(batch, progress):
    model, clips = make(adversary_activation="tanh").double(), doubled(batch)
    model.prepare([clips])

    def modality():
        return model.objective(model.encode(clips, "model"), "model", progress)["modality"]

    assert_slopes(modality, part(model, "adversary"))
    assert_slopes(modality, part(model, "networks"), factor=-(2 / (1 + math.exp(-10 * progress)) - 1))


def test_at_the_beginning_networks_learn_from_pairs_alone(batch):
    found = []
    for weight in (0.0, 5.0):
        model = make(loss_weights={"modality": weight}).double()
        model(**doubled(batch), progress=0.0).loss.backward()
        found.append(torch.cat([one.grad.flatten() for one in part(model, "networks")]))
        assert any(one.grad.any() for one in part(model, "adversary")) == (weight > 0)
    assert torch.equal(*found)


def test_all_other_terms_have_the_gradient_of_their_value(batch):
    model, clips = make().double(), doubled(batch)
    model.prepare([clips])
    for name in ("pair", "regularization"):
        assert_slopes(lambda name=name: model(**clips).terms[name], part(model, "networks"))


def test_a_classifier_alone_learns_to_tell_and_networks_alone_to_deceive_it(batch):
    model = make(output_normalization="none")
    model.prepare([batch])

    def price():
        rows = model.encode(batch, "model")
        return told_apart(*(model.adversary(rows[name]) for name in ("audio", "visual"))).item()

    def descend(which):
        optimizer = torch.optim.Adam(part(model, which), lr=0.02)
        for _ in range(150):
            model.zero_grad()
            model.objective(model.encode(batch, "model"), "model", 1.0)["modality"].backward()
            optimizer.step()
        return price()

    told = descend("adversary")
    assert told < 0.8 * math.log(2)  # that is what who guesses pays
    assert descend("networks") > 1.5 * told


# The networks.


@pytest.mark.parametrize("kind", ["batch", "none"])
def test_outputs_are_tanh_of_layers_and_of_a_batch_norm_before_the_last(batch, kind):
    model = make(output_normalization=kind)
    model.prepare([batch])
    state = {name: one.numpy() for name, one in model.state_dict().items()}
    rows = model.train().encode(batch, "model")
    for modality, layers in (("audio", (1, 5)), ("visual", (1, 5, 9))):
        features = batch[f"{modality}_features"].numpy()
        x = (features - features.mean(axis=0)) / features.std(axis=0)
        for layer in layers:
            weight, bias = (state[f"{modality}_encoder.network.{layer}.{one}"] for one in ("weight", "bias"))
            x = x @ weight.T + bias
            if layer != layers[-1]:
                x = np.tanh(x)
            elif kind == "batch":
                x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
        # float32 of three layers.
        np.testing.assert_allclose(rows[modality].detach().numpy(), np.tanh(x), rtol=1e-4, atol=1e-5)
    assert [tuple(one.shape) for one in model.adversary.parameters()] == [(5, 4), (5,), (3, 5), (3,), (1, 3), (1,)]
    assert any(isinstance(one, nn.BatchNorm1d) for one in model.modules()) == (kind == "batch")


def test_by_default_they_are_acmr_s():
    config = UcalConfig()
    assert (config.audio_hidden, config.visual_hidden, config.embed_dim) == ([512, 100], [512, 100], 40)
    assert (config.activation, config.output_activation, config.output_normalization) == ("tanh", "tanh", "batch")
    assert not UcalModel.uses_labels and config.loss_weights == {"regularization": 1e-4}


@pytest.mark.parametrize("settings", [{"dropout": 0.5}, {"output_normalization": "none", "input_dropout": 0.5}])
def test_an_embedding_is_a_unit_row_of_its_own_clip_alone_and_comes_back(batch, settings, tmp_path):
    model = make(**settings)
    model.prepare([batch])
    model.train()
    for _ in range(3):
        model(**batch)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    for modality in ("audio", "visual"):
        features = batch[f"{modality}_features"]
        whole = getattr(model, f"get_{modality}_embeds")(features)
        torch.testing.assert_close(whole.norm(dim=1), torch.ones(60), rtol=1e-5, atol=0)
        # One row is a product of another shape, summed in another order: float32.
        torch.testing.assert_close(
            getattr(model, f"get_{modality}_embeds")(features[7:8]), whole[7:8], rtol=1e-5, atol=1e-6
        )
        assert torch.equal(getattr(loaded, f"get_{modality}_embeds")(features), whole)
    assert model.training


# Training.


@pytest.fixture
def ucal(recipe):
    return lambda output="run", **settings: replace(recipe(output, **settings), system="ucal", model=dict(MODEL))


def test_no_label_is_read(ucal, make_batch, as_split, tmp_path):
    """To the bit: true labels, shuffled ones, other numbers of classes, and none."""
    clips = {"train": make_batch(90), "validation": make_batch(45, seed=2)}
    given = {
        "true": lambda one: one,
        "shuffled": lambda one: one | {"labels": one["labels"][torch.randperm(len(one["labels"]))]},
        "constant": lambda one: one | {"labels": one["labels"] * 0},
        "absent": lambda one: {name: rows for name, rows in one.items() if name != "labels"},
    }
    found = {}
    for name, change in given.items():
        data = TrainingData({split: as_split(change(one)) for split, one in clips.items()})
        summary = train(ucal(name, epochs=2, refit=False, choose="last"), data=data, progress=False)
        found[name] = load_file(tmp_path / name / "model" / "model.safetensors")
        assert summary["epoch"] == 2
    lines = [json.loads(line) for line in (tmp_path / "true" / "history.jsonl").read_text().splitlines()]
    assert lines[-1]["terms"].keys() == set(TERMS)
    for name in given:
        assert found[name].keys() == found["true"].keys()
        assert all(torch.equal(one, found[name][key]) for key, one in found["true"].items()), name


def test_labels_handed_to_it_by_hand_change_nothing_either(batch):
    losses = []
    for labels in (batch["labels"], torch.zeros(60, dtype=torch.int64), None):
        given = {name: rows for name, rows in batch.items() if name != "labels"}
        losses.append(make().train()(**given | ({} if labels is None else {"labels": labels})).loss)
    assert losses[0].equal(losses[1]) and losses[0].equal(losses[2])


def test_it_learns_to_find_clips_of_a_class_that_nobody_named():
    """Of five classes the floor is a fifth, of clouds that fall anywhere a third; of six seeds the least learnt .85."""
    torch.manual_seed(0)
    sizes = {"audio_hidden": [16], "visual_hidden": [16], "embed_dim": 8}
    model = UcalModel(UcalConfig(audio_dim=6, visual_dim=8, num_labels=CLASSES, **sizes))
    data = easy_data(labelled=False)
    model.prepare(data.passes("train"))
    before = held_out_map(model)
    learnt(model, data, epochs=10)
    assert before < 0.5 and held_out_map(model) > 0.75


def test_the_epoch_is_not_chosen_by_labels(ucal, data):
    summary = train(ucal(epochs=2, refit=False), data=data, progress=False)
    assert (summary["chosen_on"], summary["epoch"]) == (None, 2)


def test_a_batch_of_one_clip_is_refused(ucal, data):
    with pytest.raises(ValueError, match="smallest batch would have 1 clip, and this model needs 2 at least"):
        train(ucal(batch_size=1), data=data, progress=False)


@pytest.mark.parametrize("progress", [0.05, 1.0])
def test_two_processes_take_the_step_of_one(together, batch, progress):
    """Without batch norm, which knows the clips of its own process."""
    clips = doubled(batch) | {"progress": progress}

    def shared():
        return make(output_normalization="none")

    def work():
        model, mine = a_share(shared, {name: rows for name, rows in clips.items() if name != "progress"})
        model.module.prepare([mine])
        return a_step(model, mine | {"progress": progress})

    model = shared().double()
    model.prepare([doubled(batch)])
    expected = a_step(model, clips)
    for loss, slope in together(2, work):
        # float64 but for the statistics, which are kept as float32 of sums in another order.
        torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=0)
        assert (slope - expected[1]).abs().max() < 1e-5 * expected[1].abs().max()


def test_two_processes_end_with_one_batch_norm(together, batch):
    def work():
        model, mine = a_share(make, doubled(batch))
        model.module.prepare([mine])
        model.train()
        a_step(model, mine)
        model.module.finish([mine])
        return model.module.eval().get_audio_embeds(doubled(batch)["audio_features"]).detach()

    one, other = together(2, work)
    assert torch.equal(one, other)


# Settings.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"output_activation": "tanhh"}, "`output_activation` must be one of those in transformers.*'tanh'"),
        ({"adversary_activation": "x"}, "`adversary_activation` must be one of"),
        ({"adversary_hidden": [3, 0]}, "`adversary_hidden` must hold widths of at least 1"),
        ({"output_normalization": "layer"}, "output_normalization"), ({"codes": True}, "UcalConfig makes no codes"),
        ({"turns": []}, "must name model, in any order"), ({"margin": 1.0}, "margin"),
        ({"loss_weights": {"label": 1}}, "'label', and those of UcalConfig are pair and modality and regularization"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(Exception, match=said):
        UcalConfig(**settings)
