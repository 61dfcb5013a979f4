"""Deep CCA: its loss beside NumPy's and a peer's, its directions beside a CCA of the outputs, its training whole."""

import importlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from forked import Killed, in_a_child
from safetensors.torch import load_file
from steps import a_share, a_step
from transformers import AutoModel

from modeling_dualspace import canonical_correlation
from modeling_dualspace.baselines import DccaConfig, DccaModel
from modeling_dualspace.model_setup import build_model
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [12], "visual_hidden": [12, 8], "network_dim": 4, "embed_dim": 3}


def make(**settings):
    torch.manual_seed(0)
    return DccaModel(DccaConfig(audio_dim=6, visual_dim=8, num_labels=3, **MODEL | settings))


def outputs(model, batch):
    """What the networks make of clips, in float64 NumPy."""
    with torch.no_grad():
        rows = model.eval().encode(batch, "model")
    return rows["audio"].double().numpy(), rows["visual"].double().numpy()


def numpy_cca(audio, visual, ridges):
    """Variates and correlations of both sides, by the formula."""
    A, V = audio - audio.mean(axis=0), visual - visual.mean(axis=0)
    left, right = (
        scipy.linalg.inv(scipy.linalg.sqrtm(X.T @ X / len(X) + r * np.eye(X.shape[1])).real)
        for X, r in zip((A, V), ridges, strict=True)
    )
    U, values, W = np.linalg.svd(left @ (A.T @ V / len(A)) @ right)
    return A @ left @ U, values, V @ right @ W.T


def assert_a_cca_of_outputs(model, batch, ridge=1e-4):
    """Directions are kept as float32, and the outputs computed so."""
    values = numpy_cca(*outputs(model, batch), (ridge, ridge))[1]
    np.testing.assert_allclose(model.layer.correlations.numpy(), values[:3], rtol=1e-5)


@pytest.fixture
def dcca(recipe):
    """`dcca(output, **train)`: a recipe of deep CCA, of the first epochs of `recipe`."""

    def of(output="run", model=MODEL, system="dcca", **settings):
        return replace(recipe(output, **settings), system=system, model=dict(model))

    return of


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same_bits(one, other):
    assert one.keys() == other.keys() and len(one) >= 10
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# The objective.


@pytest.mark.parametrize("kind", ["nuclear", "frobenius"])
@pytest.mark.parametrize(("ridge", "relative"), [(1e-3, False), (0.1, True)])
def test_the_loss_is_minus_the_correlation_of_the_outputs(batch, kind, ridge, relative):
    model = make(correlation=kind, correlation_ridge=ridge, correlation_ridge_relative=relative).double().eval()
    clips = {name: rows.double() if rows.is_floating_point() else rows for name, rows in batch.items()}
    output = model(**clips)
    views = outputs(model, clips)
    ridges = [ridge * np.var(view, axis=0).mean() if relative else ridge for view in views]
    values = numpy_cca(*views, ridges)[1]
    expected = values.sum() if kind == "nuclear" else (values**2).sum() ** 0.5
    # float64; roots of covariances whose condition is at most some thousands.
    assert output.loss.item() == output.terms["correlation"].item() == pytest.approx(-expected, rel=1e-9)
    rows = (torch.from_numpy(view) for view in views)
    assert canonical_correlation(*rows, kind=kind, ridge=ridge, relative=relative).item() == pytest.approx(expected)


def test_the_frobenius_loss_is_the_root_of_a_peer_s(batch):
    """cca_zoo divides by n - 1 and does not take the root: the same ridge on covariances n / (n - 1) larger."""
    peer = importlib.import_module("cca_zoo.deep.objectives").CCALoss(reg_covar=1e-3 * 60 / 59)
    model = make(correlation="frobenius", correlation_ridge=1e-3).double()
    clips = {name: rows.double() if rows.is_floating_point() else rows for name, rows in batch.items()}
    rows = model.encode(clips, "model")
    ours, theirs = -model.objective(rows, "model", 0.0)["correlation"], -peer([rows["audio"], rows["visual"]])
    assert ours.item() == pytest.approx(theirs.item() ** 0.5, rel=1e-9)
    parameters = list(model.parameters())
    gradients = (
        torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True) for value in (ours, theirs**0.5)
    )
    for one, other in zip(*gradients, strict=True):
        # Before a batch norm a bias has no gradient but rounding: hence the absolute part.
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_the_networks_are_those_of_the_config_and_see_standardised_features(batch):
    model = make()
    model.prepare([batch])
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters() if one.ndim == 2}
    assert shapes == {
        "audio_encoder.network.1.weight": (12, 6), "audio_encoder.network.5.weight": (4, 12),
        "visual_encoder.network.1.weight": (12, 8), "visual_encoder.network.5.weight": (8, 12),
        "visual_encoder.network.9.weight": (4, 8),
    }  # fmt: skip
    assert "audio_encoder.network.5.bias" not in dict(model.named_parameters())
    for modality in ("audio", "visual"):
        features = batch[f"{modality}_features"]
        seen = getattr(model, f"{modality}_encoder").statistics(features)
        # float32 of sixty rows.
        torch.testing.assert_close(seen.mean(dim=0), torch.zeros(features.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(seen.var(dim=0, correction=0), torch.ones(features.shape[1]), rtol=1e-4, atol=0)
        # float32 features, whose means are some deviations away from zero.
        given = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
        expected = getattr(model.eval(), f"{modality}_encoder").network(given)
        torch.testing.assert_close(model.encode(batch, "model")[modality], expected, rtol=1e-4, atol=1e-5)


# The directions.


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
def test_finish_is_a_cca_of_the_outputs(batch, ridge):
    model = make(ridge=ridge)
    model.prepare([batch])
    model(**batch).loss.backward()  # batch norm has seen something
    halves = [{name: rows[part] for name, rows in batch.items()} for part in (slice(0, 40), slice(40, 60))]
    model.train()
    model.finish(halves)
    assert model.training and model.fitted
    assert_a_cca_of_outputs(model, batch, ridge)
    audio, _, visual = numpy_cca(*outputs(model, batch), (ridge, ridge))
    embeds = model.get_audio_embeds(batch["audio_features"]), model.get_visual_embeds(batch["visual_features"])
    for found, variates in zip(embeds, (audio, visual), strict=True):
        unit = variates[:, :3] / np.linalg.norm(variates[:, :3], axis=1, keepdims=True)
        signs = np.sign((unit * found.detach().numpy()).sum(axis=0))  # a mirror image is as right
        np.testing.assert_allclose(found.detach().numpy(), unit * signs, atol=1e-4)
    before = {name: buffer.clone() for name, buffer in model.state_dict().items()}
    model.finish(halves)
    assert_same_bits(before, model.state_dict())
    model.prepare(halves)  # other statistics, other outputs: the directions are of none any more
    assert not model.fitted


@pytest.mark.parametrize("dropout", ["dropout", "input_dropout"])
def test_an_embedding_depends_on_its_own_clip_alone(batch, dropout):
    model = make(**{dropout: 0.5})
    model.prepare([batch])
    model.finish([batch])
    first, second = (model.train().encode(batch, "model")["visual"] for _ in range(2))
    assert not torch.equal(first, second)
    whole = model.get_audio_embeds(batch["audio_features"])
    # One row is a product of another shape, summed in another order: float32.
    torch.testing.assert_close(model.get_audio_embeds(batch["audio_features"][7:8]), whole[7:8], rtol=1e-5, atol=1e-6)


# Training.


def test_it_trains_from_a_recipe_keeps_the_last_epoch_and_ends_in_a_cca_of_the_training_outputs(dcca, data, tmp_path):
    summary = train(dcca(epochs=4, refit=False), data=data, progress=False)
    assert (summary["chosen_on"], summary["epoch"], summary["steps"]) == (None, 4, 12)
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    losses = [line["terms"]["correlation"] for line in lines]
    assert losses[-1] < losses[0] and all(-4 <= loss < 0 for loss in losses)
    assert summary["validation"] == lines[-1]["validation"]
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    (rows,) = data.passes("train")
    assert_a_cca_of_outputs(model, rows)


def test_a_refit_is_fitted_to_train_and_validation_together(dcca, data, tmp_path):
    summary = train(dcca(epochs=2), data=data, progress=False)
    assert summary["refit"] and summary["steps"] == 2 * 3 + 2 * 5
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    (rows,) = data.joined().passes("train")
    assert len(rows["labels"]) == 135
    assert_a_cca_of_outputs(model, rows)


def test_no_label_is_read(dcca, data, make_batch, as_split, tmp_path):
    shuffled = {}
    for name, seed, rows in (("train", 1, 90), ("validation", 2, 45)):
        clips = make_batch(rows, seed=seed)
        shuffled[name] = as_split(clips | {"labels": clips["labels"][torch.randperm(rows)]})
    for name, given in (("one", data), ("other", TrainingData(shuffled))):
        train(dcca(name, epochs=2, refit=False), data=given, progress=False)
    assert_same_bits(weights(tmp_path / "one"), weights(tmp_path / "other"))


def test_films_nobody_annotated_are_chosen_on_by_their_pairs(dcca, data):
    bare = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    summary = train(dcca(epochs=2, refit=False), data=bare, progress=False)
    assert summary["chosen_on"] == "validation" and summary["validation"]["relevance"] == "pair"


@pytest.mark.parametrize(
    ("system", "model", "optimizer", "steps"),
    [
        ("dcca", MODEL | {"dropout": 0.2}, "rmsprop", (5, 7)),
        ("tnn_c_cca", {"hidden": [8]}, "adamax", (4, 6)),
    ],
)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(dcca, data, tmp_path, system, model, optimizer, steps):
    of = lambda name: dcca(name, model, system, epochs=2, optimizer={"name": optimizer, "lr": 0.01})  # noqa: E731
    expected = train(of("whole"), data=data, progress=False)
    for step in steps:  # in the first training, and in the refit
        child = in_a_child(lambda step=step: train(of("killed"), data=Killed(data, step), resume=True, progress=False))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found = train(of("killed"), data=data, resume=True, progress=False)
    assert found["validation"] == expected["validation"] and found["epoch"] == expected["epoch"]
    assert_same_bits(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.parametrize(
    "system",
    ["random", "cca", "kcca", "cluster_cca"],
)
def test_closed_forms_are_trained_from_recipes_too_and_refitted(dcca, data, tmp_path, system):
    model = {"embed_dim": 2} | {"cca": {"feature_scaling": "standardize"}, "kcca": {"components": 50}}.get(system, {})
    summary = train(dcca("closed", model, system), data=data, progress=False)
    assert (summary["chosen_on"], summary["steps"], summary["epochs"], summary["epoch"]) == (None, 0, 0, 0)
    assert summary["refit"] and 0 < summary["validation"]["map"] <= 1
    loaded = AutoModel.from_pretrained(tmp_path / "closed" / "model")
    twin = build_model(dcca("twin", model, system), data.joined())
    twin.finish(data.joined().passes("train"))
    assert {name: one.tolist() for name, one in loaded.state_dict().items()} == {
        name: one.tolist() for name, one in twin.state_dict().items()
    }
    assert train(dcca("closed", model, system), data=data, resume=True, progress=False) == summary


# Many processes.


def test_two_processes_take_the_step_of_one(together, batch):
    clips = {name: rows.double() if rows.is_floating_point() else rows for name, rows in batch.items()}

    def work():
        model, mine = a_share(lambda: make(normalization="layer"), clips)
        model.module.prepare([mine])
        found = a_step(model, mine)
        model.module.finish([mine])
        return *found, model.module.layer.correlations

    model = make(normalization="layer").double()
    model.prepare([clips])
    expected = a_step(model, clips)
    model.finish([clips])
    for loss, slope, correlations in together(2, work):
        # float64 but for the statistics, which are kept as float32 of sums in another order.
        torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=0)
        assert (slope - expected[1]).abs().max() < 1e-5 * expected[1].abs().max()
        torch.testing.assert_close(correlations, model.layer.correlations, rtol=1e-5, atol=1e-6)


# Loading.


@pytest.fixture
def saved(batch, tmp_path):
    """A fitted model whose every tensor is unlike a fresh one, and its folder."""
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape))
    model.prepare([batch])
    model(**batch).loss.backward()
    model.finish([batch])
    model.save_pretrained(tmp_path / "saved")
    return model.eval(), tmp_path / "saved"


def test_a_saved_model_is_the_same_to_the_bit(saved, batch):
    model, folder = saved
    loaded = AutoModel.from_pretrained(folder)
    assert isinstance(loaded, DccaModel)
    assert_same_bits(model.state_dict(), loaded.state_dict())
    for one, other in zip(model(**batch).to_tuple()[2:], loaded(**batch).to_tuple()[2:], strict=True):
        assert torch.equal(one, other)


def test_in_bfloat16_it_embeds_and_its_buffers_stay_float32(saved, batch):
    model, folder = saved
    loaded = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert {one.dtype for one in loaded.parameters()} == {torch.bfloat16}
    fitted = [name for name in loaded.state_dict() if name.startswith("layer.") or ".statistics." in name]
    assert len(fitted) == 10 and all(loaded.state_dict()[name].dtype == torch.float32 for name in fitted)
    found = loaded.get_audio_embeds(batch["audio_features"])
    # Eight bits a weight, three layers, then directions that blow weak outputs up: near, and of unit length.
    torch.testing.assert_close(found.norm(dim=1).float(), torch.ones(60), rtol=1e-2, atol=0)
    assert (found.float() * model.get_audio_embeds(batch["audio_features"])).sum(dim=1).median() > 0.9


def test_what_it_encodes_is_one_graph(saved, batch):
    model, _ = saved
    compiled = torch.compile(model.encode, backend="eager", fullgraph=True)(batch, "model")
    for name, rows in model.encode(batch, "model").items():
        assert torch.equal(compiled[name], rows)


@pytest.mark.parametrize("change", ["none", "classes", "width"])
def test_it_is_started_from_on_other_data(saved, dcca, make_batch, as_split, tmp_path, change, warnings_logged):
    model, folder = saved
    clips = make_batch(60, seed=5)
    if change == "width":
        clips["audio_features"] = clips["audio_features"][:, :5]
    split = as_split(clips, ("a", "b", "c") if change == "classes" else ("LABEL_0", "LABEL_1", "LABEL_2"))
    start = replace(dcca("tuned", {}, epochs=1), init=str(folder))
    fresh = build_model(start, TrainingData({"train": split}))
    was, now = model.state_dict(), fresh.state_dict()
    own = (
        "layer.",
        "audio_encoder.statistics",
        "visual_encoder.statistics",
    )  # where the data are like the former, they are kept too
    began = {name for name in was if not name.startswith(own) and not torch.equal(was[name], now[name])}
    assert began == ({"audio_encoder.network.1.weight", "audio_encoder.network.1.bias"} if change == "width" else set())
    assert ("audio features are 5 wide, and were 6 wide" in warnings_logged.text) == (change == "width")
    assert not fresh.fitted
    train(start, data=TrainingData({"train": split}), progress=False)
    assert AutoModel.from_pretrained(tmp_path / "tuned" / "model").config.audio_dim == clips["audio_features"].shape[1]


def test_other_classes_are_nothing_to_warn_of(saved, dcca, as_split, batch, warnings_logged):
    start = replace(dcca("tuned", {}), init=str(saved[1]))
    build_model(start, TrainingData({"train": as_split(batch, ("a", "b", "c"))}))
    assert "start anew" not in warnings_logged.text


# Sentences.


def test_a_batch_that_correlates_whatever_it_holds_is_refused(dcca, data, tmp_path):
    with pytest.raises(ValueError, match="smallest batch would have 7 clips, and this model needs 9 at least") as error:
        train(dcca(batch_size=8), data=data, progress=False)
    assert "\n" not in str(error.value)
    assert make(network_dim=7).smallest_batch == 15


def test_batches_that_the_refit_would_find_too_small_are_refused_before_the_first_step(
    dcca, make_batch, as_split, tmp_path
):
    data = TrainingData({"train": as_split(make_batch(90)), "validation": as_split(make_batch(44, seed=2))})
    with pytest.raises(
        ValueError, match="smallest batch would have 8 clips, and this model needs 9"
    ):  # 134 in 15 batches
        train(dcca(batch_size=9, epochs=1), data=data, progress=False)
    assert not (tmp_path / "run" / "model").exists()


def test_training_that_diverges_is_a_sentence(dcca, data):
    wild = {"name": "sgd", "lr": 1e38}
    with pytest.raises(ValueError, match="Training diverged; try a lower train.optimizer.lr") as error:
        train(dcca(epochs=3, optimizer=wild), data=data, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network_dim": 0}, "`network_dim` must be at least 1, got 0"),
        ({"audio_hidden": [8, 0]}, "`audio_hidden` must hold widths of at least 1"),
        ({"visual_hidden": [-1]}, "`visual_hidden` must hold widths of at least 1"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1"),
        ({"input_dropout": -0.1}, "`input_dropout` must be at least 0 and below 1"),
        ({"activation": "sigmoidd"}, "`activation` must be one of those in transformers.*Did you mean 'sigmoid'"),
        ({"correlation_ridge": -1}, "`correlation_ridge` must be a finite number of at least 0, got -1"),
        ({"correlation_ridge": float("inf")}, "`correlation_ridge` must be a finite number"),
        ({"ridge": float("nan")}, "`ridge` must be a finite number"), ({"power": -0.5}, "`power` must be a finite"),
        ({"turns": []}, "must name model, in any order"), ({"turns": ["critic"]}, "must name model"),
        ({"codes": True}, "DccaConfig makes no codes"), ({"embed_dim": 0}, "`embed_dim` must be at least 1"),
        ({"normalization": "group"}, "normalization"), ({"correlation": "trace"}, "correlation"),
        ({"feature_scaling": "whiten"}, "feature_scaling"), ({"hiden": [3]}, "hiden"),
        ({"loss_weights": {"correlation": -1}}, "loss_weights"),
        ({"loss_weights": {"corelation": 2}}, "corelation"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(Exception, match=said):
        DccaConfig(**settings)
