"""ACMR: labels, triplets and the game of the modalities, each beside loops over clips; its training whole."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import Killed, in_a_child
from players import CLASSES, doubled, easy_data, held_out_map, learnt
from safetensors.torch import load_file
from steps import assert_two_take_the_step_of_one
from terms import LABELS, assert_slopes, classes_of, outputs, related, rows_of
from transformers import AutoModel

from modeling_dualspace.baselines import AcmrConfig, AcmrModel
from modeling_dualspace.baselines.acmr import split_triplets
from modeling_dualspace.losses import class_surprise
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [12], "visual_hidden": [12, 8], "embed_dim": 4, "adversary_hidden": [5, 3]}
TERMS = ["label", "triplet", "modality", "regularization"]
FLOAT32 = {"rel": 1e-5, "abs": 1e-6}
"""Class probabilities are computed so."""


def make(**settings):
    torch.manual_seed(0)
    return AcmrModel(AcmrConfig(**{"audio_dim": 6, "visual_dim": 8, "num_labels": 3} | MODEL | settings))


def targets_of(sets):
    return torch.tensor([[float(c in (own or ())) for c in range(3)] for own in sets])


# Labels.


def naive_surprise(logits, sets):
    """The mean over clips of a class of the mean over their classes of minus the log of a softmax; its gradient."""
    losses, slopes = [], np.zeros_like(logits)
    for i, own in enumerate(sets):
        if own:
            chances = [math.exp(one) / sum(map(math.exp, logits[i])) for one in logits[i]]
            losses.append(sum(-math.log(chances[c]) for c in own) / len(own))
            slopes[i] = [chances[c] - (c in own) / len(own) for c in range(3)]
    return sum(losses) / max(len(losses), 1), slopes / max(len(losses), 1)


@pytest.mark.parametrize("name", LABELS)
def test_a_class_surprises_by_the_log_of_its_chance_and_several_evenly(name):
    logits, sets = rows_of(3, width=3), classes_of(LABELS[name])
    expected, slopes = naive_surprise(logits.detach().numpy(), sets)
    found = class_surprise(logits, targets_of(sets))
    assert found.item() == pytest.approx(expected, **FLOAT32)
    found.backward()
    np.testing.assert_allclose(logits.grad.numpy(), slopes, atol=1e-6)


def test_of_one_class_a_clip_it_is_torch_s_cross_entropy():
    logits, labels = rows_of(3, width=3), LABELS["unknown"].clamp_min(-1)
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)
    found = class_surprise(logits, targets_of(classes_of(labels)))
    assert found.item() == pytest.approx(expected.item(), **FLOAT32)


def test_surprise_in_float64_stays_float64_and_in_half_precision_is_float32():
    logits, sets = rows_of(3, width=3), classes_of(LABELS["several a clip"])
    for dtype, kept in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
    ):
        assert class_surprise(logits.to(dtype), targets_of(sets)).dtype == kept
    expected = naive_surprise(logits.detach().numpy(), sets)[0]
    assert class_surprise(logits, targets_of(sets)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LABELS)
def test_one_classifier_predicts_labels_from_both_modalities(name):
    model, rows, sets = make().double(), outputs(LABELS[name]), classes_of(LABELS[name])
    W, b = model.classifier.weight.detach().numpy(), model.classifier.bias.detach().numpy()
    logits = [rows[modality].detach().numpy() @ W.T + b for modality in ("audio", "visual")]
    term = model.objective(rows, "model", 1.0)["label"]
    assert term.item() == pytest.approx(sum(naive_surprise(one, sets)[0] for one in logits), **FLOAT32)
    term.backward()
    weight = 0.0
    for one, modality in zip(logits, ("audio", "visual"), strict=True):
        slopes = naive_surprise(one, sets)[1]
        np.testing.assert_allclose(rows[modality].grad.numpy(), slopes @ W, atol=1e-6)
        weight += slopes.T @ rows[modality].detach().numpy()
    np.testing.assert_allclose(model.classifier.weight.grad.numpy(), weight, atol=1e-5)


# Triplets.


def naive_triplets(anchors, others, sets, margin, push):
    """The mean over anchors of the mean over all their triplets."""
    means = []
    for i, anchor in enumerate(anchors):
        terms = [
            np.linalg.norm(anchor - others[p]) + push * max(0.0, margin - np.linalg.norm(anchor - others[n]))
            for p in range(len(others))
            for n in range(len(others))
            if related(sets[i], sets[p]) is True and related(sets[i], sets[n]) is False
        ]
        means += [np.mean(terms)] if terms else []
    return sum(means) / max(len(means), 1)


@pytest.mark.parametrize(("margin", "push"), [(1.0, 1.0), (3.0, 0.25), (0.0, 2.0), (4.0, 0.0)])
@pytest.mark.parametrize("name", LABELS)
def test_a_clip_is_pulled_to_its_class_and_pushed_from_others_in_all_triplets(name, margin, push):
    sets, anchors, others = classes_of(LABELS[name]), rows_of(1), rows_of(2)
    found = split_triplets(anchors, others, targets_of(sets), margin=margin, push=push)
    expected = naive_triplets(anchors.detach().numpy(), others.detach().numpy(), sets, margin, push)
    assert found.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert_slopes(
        lambda: split_triplets(anchors, others, targets_of(sets), margin=margin, push=push), [anchors, others]
    )


@pytest.mark.parametrize("name", LABELS)
def test_both_modalities_are_anchors_by_the_margin_and_push_of_the_config(name):
    model, rows, sets = make(margin=2.5, push=0.5).double(), outputs(LABELS[name]), classes_of(LABELS[name])
    a, v = (rows[modality].detach().numpy() for modality in ("audio", "visual"))
    expected = naive_triplets(a, v, sets, 2.5, 0.5) + naive_triplets(v, a, sets, 2.5, 0.5)
    assert model.objective(rows, "model", 1.0)["triplet"].item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_pairs_that_are_alike_send_no_nan():
    anchors = rows_of(1)
    others = anchors.detach().clone().requires_grad_()
    split_triplets(anchors, others, torch.eye(3)[LABELS["classes"]], margin=1.0, push=1.0).backward()
    assert torch.isfinite(anchors.grad).all() and torch.isfinite(others.grad).all() and anchors.grad.any()


# The whole.


def test_the_loss_is_the_sum_of_its_terms_by_their_weights(batch):
    for settings, weights in (
        ({}, (100, 1, 1, 1e-4)), ({"modality": 3}, (100, 1, 3, 1e-4)), ({"label": 1, "triplet": 0}, (1, 0, 1, 1e-4)),
    ):  # fmt: skip
        output = make(loss_weights=settings).double()(**doubled(batch))
        assert list(output.terms) == TERMS
        terms = [output.terms[name].item() for name in TERMS]
        assert output.loss.item() == pytest.approx(np.dot(terms, weights), rel=1e-6)


@pytest.mark.parametrize("progress", [0.0, 0.2, 1.0])
def test_networks_climb_the_classifier_of_modalities_as_far_as_training_is(batch, progress):
    model, clips = make(adversary_activation="tanh").double(), doubled(batch)
    model.prepare([clips])
    named = dict(model.named_parameters())
    networks = [one for name, one in named.items() if "_encoder" in name]
    adversary = [one for name, one in named.items() if name.startswith("adversary.")]
    assert len(networks) + len(adversary) + 2 == len(named)  # and the classifier of labels

    def term(name):
        return lambda: model(**clips, progress=progress).terms[name]

    assert_slopes(term("modality"), adversary)
    assert_slopes(term("modality"), networks, factor=-(2 / (1 + math.exp(-10 * progress)) - 1))
    for name in ("triplet", "regularization"):
        assert_slopes(term(name), networks)
    # The classifier of labels is trained, and neither it nor the triplets go through the reversal.
    assert torch.autograd.grad(term("label")(), [model.classifier.weight, *networks])[0].any()


def test_a_batch_that_nobody_annotated_teaches_the_game_alone(batch):
    model = make()
    terms = []
    for labels in (torch.full((60,), -100), torch.full((60, 3), torch.nan), None):
        given = {name: rows for name, rows in batch.items() if name != "labels"}
        model.zero_grad()
        output = model(**given | ({} if labels is None else {"labels": labels}))
        output.loss.backward()
        assert output.terms["label"] == output.terms["triplet"] == 0
        assert all(torch.isfinite(one.grad).all() for one in model.parameters())
        terms.append(output.terms["modality"].item())
    assert len(set(terms)) == 1 and terms[0] > 0


def test_in_low_precision_terms_are_sums_in_float32(batch):
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch).terms
    for name, term in model(**batch).terms.items():
        # Eight bits a product, three layers deep.
        assert found[name].dtype == torch.float32 and found[name].item() == pytest.approx(term.item(), rel=0.05)


def test_of_one_class_there_are_no_triplets_but_labels(batch):
    terms = make()(**batch | {"labels": torch.zeros(60, dtype=torch.int64)}).terms
    assert terms["triplet"] == 0 and terms["label"] > 0


# The networks.


def test_networks_are_ucal_s_without_batch_norm_and_one_classifier_of_labels_is_shared(batch, tmp_path):
    model = make()
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters() if one.ndim == 2}
    assert shapes == {
        "audio_encoder.network.1.weight": (12, 6), "audio_encoder.network.5.weight": (4, 12),
        "visual_encoder.network.1.weight": (12, 8), "visual_encoder.network.5.weight": (8, 12),
        "visual_encoder.network.9.weight": (4, 8), "adversary.0.weight": (5, 4), "adversary.2.weight": (3, 5),
        "adversary.4.weight": (1, 3), "classifier.weight": (3, 4),
    }  # fmt: skip
    assert not any(isinstance(one, torch.nn.BatchNorm1d) for one in model.modules()) and AcmrModel.uses_labels
    model.prepare([batch])
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert {name: tuple(one.shape) for name, one in loaded.named_parameters() if one.ndim == 2} == shapes
    for name, one in loaded.state_dict().items():
        assert torch.equal(one, model.state_dict()[name])
    assert torch.equal(loaded.eval()(**batch).loss, model.eval()(**batch).loss)


@pytest.mark.parametrize("settings", [{"dropout": 0.5}, {"output_normalization": "batch", "input_dropout": 0.5}])
def test_an_embedding_is_a_unit_row_of_its_own_clip_alone(batch, settings):
    model = make(**settings)
    model.prepare([batch])
    model.train()
    for _ in range(3):
        model(**batch)
    whole = model.get_visual_embeds(batch["visual_features"])
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(60), rtol=1e-5, atol=0)
    # One row is a product of another shape, summed in another order: float32.
    torch.testing.assert_close(model.get_visual_embeds(batch["visual_features"][7:8]), whole[7:8], rtol=1e-5, atol=1e-6)
    assert torch.equal(model.get_visual_embeds(batch["visual_features"]), whole) and model.training


# Training.


@pytest.fixture
def acmr(recipe):
    return lambda output="run", model=MODEL, **settings: replace(
        recipe(output, **settings), system="acmr", model=dict(model)
    )


def test_it_learns_to_find_clips_of_a_class():
    """Of five classes the floor is a fifth, of clouds that fall anywhere a third; of six seeds the least learnt .96."""
    torch.manual_seed(0)
    sizes = {"audio_hidden": [16], "visual_hidden": [16], "embed_dim": 8}
    model, data = AcmrModel(AcmrConfig(audio_dim=6, visual_dim=8, num_labels=CLASSES, **sizes)), easy_data()
    model.prepare(data.passes("train"))
    before = held_out_map(model)
    learnt(model, data, epochs=8)
    assert before < 0.5 and held_out_map(model) > 0.8


def test_films_of_which_some_are_annotated_teach_it(acmr, make_batch, as_split):
    clips = make_batch(90)
    clips["labels"] = torch.where(torch.arange(90) % 2 > 0, -1, clips["labels"])
    data = TrainingData({"train": as_split(clips), "validation": as_split(make_batch(45, seed=2))})
    summary = train(acmr(epochs=8, refit=False, optimizer={"lr": 0.02}), data=data, progress=False)
    assert summary["validation"]["map"] > 0.55  # a third is chance; of five seeds the least learnt .72


def test_films_that_nobody_annotated_are_a_sentence(acmr, data, make_batch, as_split):
    bare = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    for given in (bare, TrainingData({"train": as_split(make_batch(30) | {"labels": torch.full((30,), -1)})})):
        with pytest.raises(
            ValueError, match="AcmrModel learns from the categories .* a system that needs none"
        ) as error:
            train(acmr(epochs=1), data=given, progress=False)
        assert "\n" not in str(error.value)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(acmr, data, tmp_path):
    def of(name):
        return acmr(name, MODEL | {"dropout": 0.2, "output_normalization": "batch"}, epochs=2, clip=1.0)

    expected = train(of("whole"), data=data, progress=False)
    for step in (5, 7):  # in the first training, and in the refit
        child = in_a_child(lambda step=step: train(of("killed"), data=Killed(data, step), resume=True, progress=False))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found = train(of("killed"), data=data, resume=True, progress=False)
    assert found["validation"] == expected["validation"] and found["epoch"] == expected["epoch"]
    whole, killed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and all(torch.equal(one, killed[name]) for name, one in whole.items())


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
        ({"margin": -1}, "`margin` must be a finite number of at least 0, got -1"),
        ({"push": float("nan")}, "`push` must be a finite number"),
        ({"adversary_hidden": [0]}, "`adversary_hidden` must hold"), ({"codes": True}, "AcmrConfig makes no codes"),
        ({"turns": ["critic"]}, "must name model, in any order"), ({"marginn": 1}, "marginn"),
        ({"loss_weights": {"pair": 1}}, "'pair', and those of AcmrConfig are label and triplet and modality"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(Exception, match=said):
        AcmrConfig(**settings)


def test_by_default_networks_and_weights_are_the_authors():
    config = AcmrConfig()
    assert (config.audio_hidden, config.visual_hidden, config.embed_dim) == ([512, 100], [512, 100], 40)
    assert config.loss_weights == {"label": 100.0, "regularization": 1e-4} and config.output_normalization == "none"
    assert AcmrConfig(loss_weights={"modality": 0.5}).loss_weights == config.loss_weights | {"modality": 0.5}
