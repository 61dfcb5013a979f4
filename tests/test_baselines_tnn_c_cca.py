"""Triplets over cluster CCA: the first stage is cluster CCA's own fit, the second what loops over triplets say."""

import json
from dataclasses import replace

import pytest
import torch
from steps import a_share, a_step
from torch import nn
from transformers import AutoModel

from modeling_dualspace.baselines import ClusterCcaConfig, ClusterCcaModel, TnnCCcaConfig, TnnCCcaModel
from modeling_dualspace.model_setup import build_model
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

SIZES = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "embed_dim": 2}
MODEL = {"embed_dim": 2, "hidden": [8, 8]}


def make(**settings):
    torch.manual_seed(0)
    return TnnCCcaModel(TnnCCcaConfig(**SIZES | {"hidden": [8, 8]} | settings))


@pytest.fixture
def prepared(batch):
    """`prepared(...)`: a model after its first stage, whose every other tensor is unlike a fresh one."""

    def of(**settings):
        model = make(**settings)
        model.prepare([batch])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.rand(parameter.shape) - 0.5)
        return model

    return of


@pytest.fixture
def tnn(recipe):
    return lambda output="run", model=MODEL, **settings: replace(
        recipe(output, **settings), system="tnn_c_cca", model=dict(model)
    )


def assert_same_layer(one, other):
    for name, buffer in other.layer.named_buffers():
        assert torch.equal(dict(one.layer.named_buffers())[name], buffer), name


# The first stage.


@pytest.mark.parametrize(
    "settings",
    [{}, {"ridge": 0.1, "ridge_relative": True}, {"power": 1.0}, {"feature_scaling": "standardize"},
     {"pairing": "mixed", "cluster_weight": 0.8}, {"pairing": "even", "cluster_weight": 0.5}, {"embed_dim": 5}],
)  # fmt: skip
def test_what_is_prepared_is_cluster_cca_s_own_fit(batch, settings):
    labels = torch.where(torch.arange(60) % 5 == 0, -100, torch.arange(60) % 7 // 3)
    halves = [{name: rows[part] for name, rows in (batch | {"labels": labels}).items()}
              for part in (slice(0, 33), slice(33, 60))]  # fmt: skip
    model, alone = make(**settings), ClusterCcaModel(ClusterCcaConfig(**SIZES | settings))
    assert not model.fitted
    model.prepare(halves)
    alone.finish(halves)
    assert model.fitted
    assert_same_layer(model, alone)
    model.finish([])  # nothing is left to fit
    assert_same_layer(model, alone)


def test_the_first_stage_comes_first(batch):
    model = make()
    with pytest.raises(RuntimeError, match="The cluster CCA comes before the network: call `model.prepare"):
        model.finish([batch])
    with pytest.raises(RuntimeError, match="not fitted yet"):
        model.get_audio_embeds(batch["audio_features"])
    assert model.eval()(**batch).audio_embeds is None


# The network.


def test_an_embedding_is_what_one_network_makes_of_the_variates_of_either_side(batch, prepared):
    model = prepared()
    weights = [(one.weight, one.bias) for one in model.network if isinstance(one, nn.Linear)]
    assert [tuple(weight.shape) for weight, _ in weights] == [(8, 2), (8, 8), (2, 8)]
    assert sum(one.numel() for one in model.parameters()) == sum(w.numel() + b.numel() for w, b in weights)
    for features, variates, embed in (
        (batch["audio_features"], model.layer.audio_variates, model.get_audio_embeds),
        (batch["visual_features"], model.layer.visual_variates, model.get_visual_embeds),
    ):
        rows = variates(features)
        for place, (weight, bias) in enumerate(weights):
            rows = rows @ weight.T + bias
            rows = rows.sigmoid() if place == 2 else rows.tanh()
        expected = rows / rows.norm(dim=1, keepdim=True)
        # float32 sums of eight.
        torch.testing.assert_close(embed(features), expected, rtol=1e-5, atol=1e-6)


def test_dropout_falls_when_it_learns_and_not_when_it_embeds(batch, prepared):
    model = prepared(dropout=0.5).train()
    first, second = (model.encode(batch, "model")["audio"] for _ in range(2))
    assert not torch.equal(first, second)
    whole = model.get_audio_embeds(batch["audio_features"])
    assert torch.equal(model.get_audio_embeds(batch["audio_features"]), whole) and model.training
    # One row is a product of another shape, summed in another order: float32.
    torch.testing.assert_close(model.get_audio_embeds(batch["audio_features"][5:6]), whole[5:6], rtol=1e-5, atol=1e-6)
    model.eval()
    calm = nn.functional.normalize(model.encode(batch, "model")["audio"], dim=1)
    assert torch.equal(calm, whole)


# The objective.


@pytest.mark.parametrize("mean", ["all", "active"])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_loss_is_that_of_loops_over_triplets_of_both_directions(batch, prepared, mean, margin):
    labels = torch.where(torch.arange(60) % 9 == 0, -100, torch.arange(60) % 7 // 3)[:21]
    clips = {name: rows[:21] for name, rows in batch.items()} | {"labels": labels}
    model = prepared(margin=margin, triplet_mean=mean, dropout=0.0)
    rows = model.encode(clips, "model")
    expected = 0.0
    for anchors, others in ((rows["audio"], rows["visual"]), (rows["visual"], rows["audio"])):
        losses = []
        for i, one in enumerate(labels):
            for p, same in enumerate(labels):
                for n, other in enumerate(labels):
                    if one >= 0 and one == same and other >= 0 and other != one:
                        gap = (anchors[i] - others[p]).square().sum() - (anchors[i] - others[n]).square().sum() + margin
                        losses.append(gap.clamp_min(0).double())
        count = len(losses) if mean == "all" else sum(loss.item() > 0 for loss in losses)
        expected = expected + sum(losses) / count
    output = model(**clips)
    assert list(output.terms) == ["triplet"]
    # float32: squares of at most one.
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-7)
    parameters = list(model.parameters())
    gradients = (torch.autograd.grad(value, parameters, retain_graph=True) for value in (output.loss, expected))
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


@pytest.mark.parametrize("labels", [[1] * 60, [-100] * 60, None], ids=["one class", "unknown", "absent"])
def test_a_batch_without_triplets_costs_nothing_and_moves_nothing(batch, prepared, labels):
    model = prepared()
    del batch["labels"]
    loss = model(**batch | ({} if labels is None else {"labels": torch.tensor(labels)})).loss
    loss.backward()
    assert loss == 0 and not any(one.grad.any() for one in model.parameters())


def test_what_it_encodes_is_one_graph(batch, prepared):
    model = prepared().eval()
    compiled = torch.compile(model.encode, backend="eager", fullgraph=True)(batch, "model")
    for name, rows in model.encode(batch, "model").items():
        assert torch.equal(compiled[name], rows), name


# Training.


def test_it_trains_from_a_recipe_and_leaves_the_first_stage_as_it_was(tnn, data, tmp_path):
    optimizer = {"name": "adamw", "lr": 0.02}
    summary = train(tnn(epochs=8, refit=False, optimizer=optimizer), data=data, progress=False)
    assert summary["chosen_on"] == "validation" and summary["validation"]["relevance"] == "class"
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    # Two directions that learn nothing cost twice the margin.
    assert lines[0]["terms"]["triplet"] < 1.1 and lines[-1]["terms"]["triplet"] < 0.8 * lines[0]["terms"]["triplet"]
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    alone = ClusterCcaModel(ClusterCcaConfig(**SIZES))
    alone.finish(data.passes("train"))
    assert_same_layer(model, alone)


def test_a_refit_fits_the_first_stage_to_train_and_validation_together(tnn, data, tmp_path):
    assert train(tnn(epochs=1), data=data, progress=False)["refit"]
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    alone = ClusterCcaModel(ClusterCcaConfig(**SIZES))
    alone.finish(data.joined().passes("train"))
    assert_same_layer(model, alone)


def test_without_any_label_it_is_a_sentence(tnn, data):
    bare = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    with pytest.raises(ValueError, match="TnnCCcaModel learns from the categories .* take a system that") as error:
        train(tnn(epochs=1), data=bare, progress=False)
    assert "\n" not in str(error.value)


def test_training_that_diverges_is_a_sentence(tnn, data):
    wild = {"name": "sgd", "lr": 1e38, "weight_decay": 1.0}
    with pytest.raises(
        ValueError, match="`triplet` is nan. Training diverged; try a lower train.optimizer.lr"
    ) as error:
        train(tnn(epochs=4, optimizer=wild), data=data, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["classes", "width"])
def test_it_is_started_from_on_other_data(batch, prepared, tnn, make_batch, as_split, tmp_path, change):
    model = prepared()
    model.save_pretrained(tmp_path / "saved")
    clips, names = make_batch(60, seed=5), ("LABEL_0", "LABEL_1", "LABEL_2")
    if change == "width":
        clips["visual_features"] = clips["visual_features"][:, :5]
    else:
        clips["labels"], names = torch.arange(60) % 4, ("a", "LABEL_2", "b", "c")
    other = TrainingData({"train": as_split(clips, names)})
    start = replace(tnn("tuned", {}, epochs=1), init=str(tmp_path / "saved"))
    fresh = build_model(start, other)
    was = dict(model.named_parameters())
    assert all(torch.equal(one, was[name]) for name, one in fresh.named_parameters())
    alone = ClusterCcaModel(ClusterCcaConfig(**SIZES | {
        "visual_dim": clips["visual_features"].shape[1], "num_labels": len(names)}))  # fmt: skip
    alone.finish(other.passes("train"))
    assert_same_layer(fresh, alone)
    train(start, data=other, progress=False)
    tuned = AutoModel.from_pretrained(tmp_path / "tuned" / "model")
    assert_same_layer(tuned, alone)
    assert tuned.config.hidden == [8, 8] and list(tuned.config.id2label.values()) == list(names)


def test_other_classes_and_features_are_nothing_to_warn_of(
    prepared, tnn, make_batch, as_split, tmp_path, warnings_logged
):
    prepared().save_pretrained(tmp_path / "saved")
    clips = make_batch(60)
    clips["audio_features"] = clips["audio_features"][:, :5]
    build_model(replace(tnn(model={}), init=str(tmp_path / "saved")), TrainingData({"train": as_split(clips)}))
    assert "anew" not in warnings_logged.text


# Many processes.


@pytest.mark.parametrize("name", ["mixed", "sorted", "unknown"])
def test_two_processes_take_the_step_of_one(together, batch, name):
    """Shards of 41 and 19 clips; sorted, the second sees one class alone."""
    clips = {key: rows.double() if rows.is_floating_point() else rows for key, rows in batch.items()}
    if name == "sorted":
        order = clips["labels"].argsort()
        clips = {key: rows[order] for key, rows in clips.items()}
    if name == "unknown":
        clips["labels"] = torch.where(torch.arange(60) < 41, clips["labels"], -100)

    def work():
        model, mine = a_share(lambda: make(dropout=0.0), clips)
        model.module.prepare([mine])
        return a_step(model, mine)

    model = make(dropout=0.0).double()
    model.prepare([clips])
    expected = a_step(model, clips)
    for loss, slope in together(2, work):
        # The first stage's directions are float32 of sums in another order, and the loss is float32.
        torch.testing.assert_close(loss, expected[0], rtol=1e-5, atol=0)
        assert (slope - expected[1]).abs().max() < 1e-4 * expected[1].abs().max()


# Loading and settings.


def test_a_saved_model_is_the_same_to_the_bit_and_embeds_in_bfloat16(batch, prepared, tmp_path):
    model = prepared().eval()
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, TnnCCcaModel) and loaded.fitted
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in model.state_dict().items())
    embeds = model.get_audio_embeds(batch["audio_features"])
    assert torch.equal(loaded.get_audio_embeds(batch["audio_features"]), embeds)
    low = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert {one.dtype for one in low.layer.buffers()} == {torch.float32}
    assert {one.dtype for one in low.parameters()} == {torch.bfloat16}
    # Eight bits a weight, and a sigmoid at the end: near.
    assert (low.get_audio_embeds(batch["audio_features"]).float() * embeds).sum(dim=1).median() > 0.99


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"margin": -0.1}, "`margin` must be a finite number of at least 0"),
        ({"margin": float("inf")}, "`margin` must be a finite number of at least 0"),
        ({"hidden": [8, 0]}, "`hidden` must hold widths of at least 1"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1"),
        ({"activation": "tahn"}, "`activation` must be one of those in transformers.*Did you mean 'tanh'"),
        ({"output_activation": "sigmod"}, "`output_activation` must be one of those in transformers, got 'sigmod'"),
        ({"lengths": True}, "leave `lengths`"), ({"triplet_mean": "hard"}, "triplet_mean"),
        ({"turns": []}, "`turns` of TnnCCcaConfig must name model"), ({"codes": True}, "makes no codes"),
        ({"cluster_weight": 0.5}, "`pairing` all has no pairs but those"), ({"embed_dim": 0}, "`embed_dim` must be"),
        ({"feature_scaling": "center"}, "feature_scaling"), ({"margn": 1}, "margn"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(Exception, match=said):
        TnnCCcaConfig(**settings)
