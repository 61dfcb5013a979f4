"""DSCMR: every term beside loops over clips, the layer that both modalities share, its training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from players import CLASSES, doubled, easy_data, held_out_map, learnt
from steps import assert_two_take_the_step_of_one
from terms import LABELS, assert_slopes, classes_of, outputs, related
from torch import nn
from transformers import AutoModel

from modeling_dualspace.baselines import DscmrConfig, DscmrModel
from modeling_dualspace.baselines.dscmr import discrimination_loss
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [7], "encoder_dim": 9, "embed_dim": 4}


def make(**settings):
    torch.manual_seed(0)
    return DscmrModel(DscmrConfig(**{"audio_dim": 6, "visual_dim": 8, "num_labels": 3} | MODEL | settings))


def label_matrix(sets):
    return np.array([[float(c in (own or ())) for c in range(3)] for own in sets])


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


# The objective.


@pytest.mark.parametrize("kind", ["frobenius", "row_norm"])
@pytest.mark.parametrize("name", LABELS)
def test_predictions_of_both_modalities_are_beside_the_labels_as_printed_or_by_rows(name, kind):
    model, rows, sets = make(norm=kind).double(), outputs(LABELS[name]), classes_of(LABELS[name])
    Y, known = label_matrix(sets), [i for i, own in enumerate(sets) if own is not None]
    W, b = model.classifier.weight.detach().numpy(), model.classifier.bias.detach().numpy()
    expected = 0.0
    for modality in ("audio", "visual"):
        P = rows[modality].detach().numpy() @ W.T + b
        squares = [((P[i] - Y[i]) ** 2).sum() for i in known]
        if kind == "frobenius":  # one root of all squares, over n; a clip nobody annotated is not one of the n
            expected += sum(squares) ** 0.5 / max(len(known), 1)
        else:
            expected += sum(square**0.5 for square in squares) / max(len(known), 1)
    term = model.objective(rows, "model", 1.0)["classification"]
    assert term.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert_slopes(
        lambda: model.objective(rows, "model", 1.0)["classification"],
        [rows["audio"], rows["visual"], *model.classifier.parameters()],
    )


@pytest.mark.parametrize("name", LABELS)
def test_half_cosines_say_which_clips_share_a_class_within_and_across_modalities(name):
    model, rows, sets = make().double(), outputs(LABELS[name]), classes_of(LABELS[name])
    u, v = (rows[modality].detach().numpy() for modality in ("audio", "visual"))
    expected = 0.0
    for one, other in ((u, u), (u, v), (v, v)):
        terms = []
        for i in range(12):
            for j in range(12):
                if (same := related(sets[i], sets[j])) is not None:
                    t = cosine(one[i], other[j]) / 2
                    terms.append(np.log(1 + np.exp(t)) - same * t)
        expected += sum(terms) / max(len(terms), 1)
    term = model.objective(rows, "model", 1.0)["discrimination"]
    assert term.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert_slopes(lambda: model.objective(rows, "model", 1.0)["discrimination"], [rows["audio"], rows["visual"]])


def test_the_likelihood_of_labels_is_that_of_a_coin_by_half_a_cosine():
    """Zhen et al., (4): p(s = 1) is the sigmoid of half the cosine, and the loss its mean negative logarithm."""
    rows, targets = outputs(None), torch.eye(3)[LABELS["classes"]]
    units = [nn.functional.normalize(rows[modality], dim=1) for modality in ("audio", "visual")]
    same = (targets @ targets.T).double()
    expected = sum(
        nn.functional.binary_cross_entropy_with_logits(units[a] @ units[b].T / 2, same)
        for a, b in ((0, 0), (0, 1), (1, 1))
    )
    torch.testing.assert_close(
        discrimination_loss(rows["audio"], rows["visual"], targets), expected, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("name", ["classes", "unknown", "absent"])
def test_all_pairs_are_pulled_together_annotated_or_not(name):
    model, rows = make().double(), outputs(LABELS[name])
    difference = (rows["audio"] - rows["visual"]).detach().numpy()
    found = model.objective(rows, "model", 1.0)["invariance"]
    assert found.item() == pytest.approx(sum(one**2 for one in difference.flat) ** 0.5 / 12, rel=1e-12)
    assert_slopes(lambda: model.objective(rows, "model", 1.0)["invariance"], [rows["audio"], rows["visual"]])


def test_the_loss_is_the_sum_of_its_terms_by_their_weights(batch):
    for settings, weights in (
        ({}, (1, 1e-3, 0.1)),
        ({"invariance": 3}, (1, 1e-3, 3)),
        ({"classification": 0, "discrimination": 2.0}, (0, 2, 0.1)),
    ):
        output = make(loss_weights=settings).double()(**doubled(batch))
        terms = [output.terms[name].item() for name in ("classification", "discrimination", "invariance")]
        assert output.loss.item() == pytest.approx(np.dot(terms, weights), rel=1e-12)
        assert len(output.terms) == 3


def test_outputs_that_are_all_alike_and_zeros_learn_without_a_nan():
    for value in (0.0, 1.0):
        rows = {name: torch.full((12, 4), value, requires_grad=True) for name in ("audio", "visual")}
        model = make()
        output = model.objective(rows | {"labels": LABELS["unknown"]}, "model", 1.0)
        sum(output.values()).backward()
        assert all(torch.isfinite(rows[name].grad).all() for name in rows)


def test_in_low_precision_terms_are_sums_in_float32():
    model, rows = make(), {name: one.detach().bfloat16() for name, one in outputs(None).items()}
    targets = torch.eye(3)[LABELS["classes"]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model.objective(rows | {"labels": LABELS["classes"]}, "model", 1.0)
        found = discrimination_loss(rows["audio"], rows["visual"], targets)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    expected = discrimination_loss(rows["audio"].double(), rows["visual"].double(), targets)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)  # of rows that are the same to the bit


def test_a_whole_step_has_the_gradient_of_its_loss(batch):
    model, clips = make(activation="tanh").double(), doubled(batch)
    model.prepare([clips])
    assert_slopes(lambda: model(**clips).loss, model.parameters())


# The networks.


def test_each_modality_has_layers_of_its_own_and_one_that_both_share(batch):
    model = make()
    assert {name: tuple(one.shape) for name, one in model.named_parameters() if one.ndim == 2} == {
        "audio_encoder.network.1.weight": (7, 6), "audio_encoder.network.5.weight": (9, 7),
        "visual_encoder.network.1.weight": (9, 8), "common.2.weight": (4, 9), "classifier.weight": (3, 4),
    }  # fmt: skip
    model.prepare([batch])
    state = {name: one.numpy() for name, one in model.state_dict().items()}
    rows = model.encode(batch, "model")
    for modality, layers in (("audio", (1, 5)), ("visual", (1,))):
        features = batch[f"{modality}_features"].numpy()
        x = (features - features.mean(axis=0)) / features.std(axis=0)
        for layer in layers:  # ReLU after every layer of its own, and nothing after the common one
            weight, bias = (state[f"{modality}_encoder.network.{layer}.{kind}"] for kind in ("weight", "bias"))
            x = np.maximum(x @ weight.T + bias, 0)
        expected = x @ state["common.2.weight"].T + state["common.2.bias"]
        # float32 of three layers.
        np.testing.assert_allclose(rows[modality].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_by_default_they_are_those_of_the_paper():
    config = DscmrConfig()
    assert (config.encoder_dim, config.embed_dim) == (2048, 1024)
    assert (config.activation, config.norm) == ("relu", "frobenius")
    assert config.loss_weights == {"discrimination": 1e-3, "invariance": 0.1} and config.audio_hidden == []


def test_the_common_layer_is_one_tensor_also_when_it_comes_back(batch, tmp_path):
    model = make()
    model.prepare([batch])
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, DscmrModel) and loaded.config.loss_weights == model.config.loss_weights
    for one in (model, loaded):
        for modality in ("audio", "visual"):
            one.zero_grad()
            one.train().encode(batch, "model")[modality].sum().backward()
            assert one.common[2].weight.grad.any()
        kept = embeds = one.get_audio_embeds(batch["audio_features"]), one.get_visual_embeds(batch["visual_features"])
        with torch.no_grad():
            one.common[2].weight[0] += 1
        embeds = one.get_audio_embeds(batch["audio_features"]), one.get_visual_embeds(batch["visual_features"])
        assert all((now - then).abs().max() > 0.1 for now, then in zip(embeds, kept, strict=True))
    assert torch.equal(loaded.get_visual_embeds(batch["visual_features"]), embeds[1])


@pytest.mark.parametrize("settings", [{"dropout": 0.5}, {"input_dropout": 0.5}, {"normalization": "batch"}])
def test_an_embedding_is_a_unit_row_of_its_own_clip_alone(batch, settings):
    model = make(**settings, activation="tanh")  # of a few ReLUs all may be dead, and a row of zeros left
    model.prepare([batch])
    model.train()
    for _ in range(3):
        model(**batch)
    for embed, features in (
        (model.get_audio_embeds, batch["audio_features"]),
        (model.get_visual_embeds, batch["visual_features"]),
    ):
        whole = embed(features)
        torch.testing.assert_close(whole.norm(dim=1), torch.ones(60), rtol=1e-5, atol=0)
        # One row is a product of another shape, summed in another order: float32.
        torch.testing.assert_close(embed(features[7:8]), whole[7:8], rtol=1e-5, atol=1e-6)
    assert model.training


# Training.


@pytest.fixture
def dscmr(recipe):
    return lambda output="run", **settings: replace(recipe(output, **settings), system="dscmr", model=dict(MODEL))


def test_it_learns_to_find_clips_of_a_class():
    """Of five classes the floor is a fifth, of clouds that fall anywhere a third; of six seeds the least learnt .98."""
    torch.manual_seed(0)
    model = DscmrModel(DscmrConfig(audio_dim=6, visual_dim=8, num_labels=CLASSES, encoder_dim=16, embed_dim=8))
    data = easy_data()
    model.prepare(data.passes("train"))
    before = held_out_map(model)
    learnt(model, data, epochs=10)
    assert before < 0.5 and held_out_map(model) > 0.8


def test_films_of_which_some_are_annotated_teach_it(dscmr, make_batch, as_split):
    clips = make_batch(90)
    clips["labels"] = torch.where(torch.arange(90) % 2 > 0, -1, clips["labels"])
    data = TrainingData({"train": as_split(clips), "validation": as_split(make_batch(45, seed=2))})
    summary = train(dscmr(epochs=10, refit=False, optimizer={"lr": 0.02}), data=data, progress=False)
    assert summary["validation"]["map"] > 0.55  # a third is chance; of five seeds the least learnt .67


def test_films_that_nobody_annotated_are_a_sentence(dscmr, data, make_batch, as_split):
    bare = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    for given in (bare, TrainingData({"train": as_split(make_batch(30) | {"labels": torch.full((30,), -1)})})):
        with pytest.raises(
            ValueError, match="DscmrModel learns from the categories .* a system that needs none"
        ) as error:
            train(dscmr(epochs=1), data=given, progress=False)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", ["sorted", "unknown"])
def test_two_processes_take_the_step_of_one(together, batch, labels):
    """The second begins with the 41st clip: it sees none of the first class, or none that is annotated."""
    clips, own = doubled(batch), batch["labels"]
    clips["labels"] = own.sort().values if labels == "sorted" else torch.where(torch.arange(60) < 41, own, -100)

    assert_two_take_the_step_of_one(together, make, clips)


# Settings.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder_dim": 0}, "`encoder_dim` must be at least 1, got 0"),
        ({"norm": "mean"}, "norm"), ({"dropout": 1.0}, "`dropout` must be at least 0"),
        ({"activation": "reluu"}, "Did you mean 'relu'"), ({"codes": True}, "DscmrConfig makes no codes"),
        ({"turns": ["critic"]}, "must name model, in any order"), ({"encoder_dims": 3}, "encoder_dims"),
        ({"loss_weights": {"invarance": 1}}, "'invarance'.*classification and discrimination and invariance"),
        ({"loss_weights": {"invariance": -1}}, "loss_weights"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(Exception, match=said):
        DscmrConfig(**settings)


def test_a_batch_norm_is_not_asked_to_learn_from_one_clip(dscmr, data):
    with pytest.raises(ValueError, match="smallest batch would have 1 clip, and this model needs 2 at least"):
        train(replace(dscmr(batch_size=1), model=MODEL | {"normalization": "batch"}), data=data, progress=False)
