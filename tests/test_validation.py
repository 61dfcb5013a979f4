"""MAP in the middle of training is that of the evaluation, and of scikit-learn."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import average_precision_score

from modeling_dualspace.evaluation import evaluate_model
from modeling_dualspace.feature_dataset import FeatureBatches
from modeling_dualspace.ranking import mean_average_precision
from modeling_dualspace.validation import validate

DIRECTIONS = ("audio_to_visual", "visual_to_audio")


@torch.no_grad()
def by_scikit_learn(model, batch, relevant):
    """Query by query, by another's average precision; queries that have nothing to find are left out."""
    audio = model.get_audio_embeds(batch["audio_features"]).double()
    visual = model.get_visual_embeds(batch["visual_features"]).double()
    found = {}
    for name, scores in zip(DIRECTIONS, (audio @ visual.T, visual @ audio.T), strict=True):
        scores = scores.float().numpy()
        assert all(len(set(row)) == len(row) for row in scores.tolist())  # no ties
        rows = [average_precision_score(hits, row) for hits, row in zip(relevant, scores, strict=True) if any(hits)]
        found[name] = np.mean(rows)
    return found | {"map": (found["audio_to_visual"] + found["visual_to_audio"]) / 2}


def in_batches(batch, size):
    return [{name: column[start : start + size] for name, column in batch.items()} for start in range(0, 60, size)]


def agrees(found, expected, relevance):
    assert found["relevance"] == relevance
    for name in ("map", *DIRECTIONS):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize("size", [60, 7, 1])
def test_map_is_that_of_scikit_learn_whatever_the_batches(fitted, make_batch, size):
    batch = make_batch(60, seed=5)
    relevant = (batch["labels"].unsqueeze(1) == batch["labels"]).numpy()
    agrees(validate(fitted, in_batches(batch, size)), by_scikit_learn(fitted, batch, relevant), "class")


def test_map_is_that_of_the_evaluation_and_of_the_choice_of_the_fusion(fitted, make_batch, as_split):
    batch = make_batch(50, seed=5)
    split = as_split(batch)
    found = validate(fitted, FeatureBatches(split, 16))
    table = evaluate_model(fitted, split)["metrics"]
    agrees(found, {"map": table["map"]} | {name: table[name]["map"] for name in DIRECTIONS}, "class")
    embeds = fitted.get_audio_embeds(batch["audio_features"]), fitted.get_visual_embeds(batch["visual_features"])
    agrees(found, mean_average_precision(*embeds, torch.eye(3)[batch["labels"]]), "class")


def test_clips_of_unknown_class_are_neither_queries_nor_found(fitted, make_batch, as_split):
    batch = make_batch(60, seed=5)
    unknown = torch.rand(60) < 0.4
    known = {name: column[~unknown] for name, column in batch.items()}
    some = batch | {"labels": torch.where(unknown, -100, batch["labels"])}
    relevant = (known["labels"].unsqueeze(1) == known["labels"]).numpy()
    agrees(validate(fitted, in_batches(some, 11)), by_scikit_learn(fitted, known, relevant), "class")
    assert validate(fitted, in_batches(some, 11)) == validate(fitted, in_batches(known, 60))
    only = {"audio_features": batch["audio_features"].tolist(), "visual_features": batch["visual_features"].tolist()}
    labels = [None if value < 0 else value for value in some["labels"].tolist()]
    table = evaluate_model(fitted, Dataset.from_dict(only | {"label": labels}))["metrics"]
    assert validate(fitted, [some])["map"] == pytest.approx(table["map"], abs=1e-6)


def test_several_classes_a_clip_are_relevant_by_any_they_share(fitted, make_batch):
    batch = make_batch(60, seed=5)
    members = (torch.rand(60, 3) < 0.4).float()
    members[:5] = 0  # known to belong to none: neither of use as a query, nor found
    relevant = ((members @ members.T) > 0).numpy()
    assert not relevant[0].any()
    agrees(validate(fitted, [batch | {"labels": members}]), by_scikit_learn(fitted, batch, relevant), "class")
    members[30:40] = torch.nan
    known = torch.arange(60)[~members.isnan().any(dim=1)]
    fewer = {name: column[known] for name, column in batch.items()} | {"labels": members[known]}
    assert validate(fitted, [batch | {"labels": members}]) == validate(fitted, [fewer])


@pytest.mark.parametrize("labels", [None, torch.full((60,), -100), torch.full((60, 3), torch.nan)])
def test_without_any_label_a_query_s_own_pair_is_what_is_looked_for(fitted, make_batch, labels):
    batch = make_batch(60, seed=5)
    del batch["labels"]
    expected = by_scikit_learn(fitted, batch, np.eye(60, dtype=bool))
    batch |= {} if labels is None else {"labels": labels}
    agrees(validate(fitted, in_batches(batch, 13)), expected, "pair")


def test_batches_with_and_without_labels_may_follow_each_other(fitted, make_batch):
    first, second = in_batches(make_batch(60, seed=5), 30)
    bare = {name: column for name, column in second.items() if name != "labels"}
    assert validate(fitted, [first, bare]) == validate(fitted, [first])


def test_an_empty_share_counts_for_nothing(fitted, make_batch):
    batch = make_batch(60, seed=5)
    nothing = {name: column[:0] for name, column in batch.items()}
    assert validate(fitted, [nothing, batch, nothing]) == validate(fitted, [batch])


def test_labels_that_no_class_knows_still_find_nothing_but_spoil_nothing(fitted, make_batch):
    batch = make_batch(60, seed=5)
    beyond = batch | {"labels": batch["labels"].clone().index_fill_(0, torch.arange(4), 7)}
    relevant = ((beyond["labels"].unsqueeze(1) == beyond["labels"]) & (beyond["labels"] < 3)).numpy()
    agrees(validate(fitted, [beyond]), by_scikit_learn(fitted, batch, relevant), "class")


def test_the_model_is_left_in_the_mode_it_was_in_and_scored_in_that_of_use(make_model, batch):
    model = make_model(dropout=0.5, normalization="batch")
    model.prepare([batch])
    model.finish([batch])
    model.train()
    model.audio_towers.eval()
    first = validate(model, [batch])
    assert model.training and model.visual_towers.training and not model.audio_towers.training
    assert validate(model, [batch]) == first == validate(model.eval(), [batch])


def test_a_model_that_was_not_fitted_says_so(make_model, batch):
    with pytest.raises(RuntimeError, match="not fitted yet"):
        validate(make_model(), [batch])


def test_a_pass_without_rows_is_a_sentence(fitted):
    with pytest.raises(ValueError, match="empty|no clip|no rows"):
        validate(fitted, [])
