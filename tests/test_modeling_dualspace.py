"""The dual-subspace model: what it learns, fits, embeds, saves and refuses."""

import copy

import pytest
import torch

from modeling_dualspace import (
    canonical_correlation,
    discriminative_loss,
    orthogonality_loss,
)
from modeling_dualspace.fusion import UNCHOSEN_CLUSTER_WEIGHT, UNCHOSEN_FEATURES_RIDGE
from modeling_dualspace.ranking import mean_average_precision
from modeling_dualspace.targets import label_targets

VARIANTS = {
    "dual": {"correlation", "discriminative", "orthogonality"},
    "shared": {"correlation", "discriminative", "orthogonality"},
    "explicit": {"correlation", "orthogonality"},
    "implicit": {"discriminative", "orthogonality"},
}


def fit(model, batch, steps=150, learning_rate=0.01):
    model.prepare([batch])
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
    return model.eval()


def test_towers_have_the_widths_of_the_paper(make_model):
    model = make_model(
        audio_dim=128, visual_dim=1024, audio_hidden=[1024, 1024], visual_hidden=[1024, 2048], explicit_dim=10,
        num_labels=15,
    )  # fmt: skip
    widths = [[layer.in_features for layer in tower if hasattr(layer, "in_features")]
              for tower in (model.audio_towers.explicit, model.visual_towers.implicit)]  # fmt: skip
    assert widths == [[128, 1024, 1024], [1024, 1024, 2048]]
    assert model.audio_towers.explicit[-1].out_features == 10
    # The fusion sees 25 outputs, and behind them the features where it is not told otherwise.
    assert (len(model.fusion.audio_weights), len(model.fusion.visual_weights)) == (25 + 128, 25 + 1024)
    for settings in ({"fusion_features": False}, {"fusion": "cca"}, {"variant": "explicit"}):
        assert len(make_model(**settings).fusion.audio_weights) == 4 + 3


@pytest.mark.parametrize("orthogonality", ["scale_free", "batch", "paper"])
@pytest.mark.parametrize(("variant", "terms"), VARIANTS.items())
def test_each_variant_has_its_terms_and_every_parameter_that_they_see_a_gradient(
    make_model, batch, variant, terms, orthogonality
):
    model = make_model(variant=variant, orthogonality=orthogonality, beta=1.0)
    output = model(**batch)
    assert set(output.terms) == terms
    output.loss.backward()
    biases = {f"{modality}_towers.explicit.{len(towers.explicit) - 1}.bias"
              for modality, towers in (("audio", model.audio_towers), ("visual", model.visual_towers))}  # fmt: skip
    unseen = biases if orthogonality == "scale_free" else set()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (not parameter.requires_grad) == (name in unseen), name
    # Where the explicit outputs are centred is seen by those alone whose gradient is asked for.
    with torch.no_grad():
        for name in biases:
            model.get_parameter(name).add_(torch.randn(4))
        moved = model(**batch).loss
    assert torch.allclose(moved, output.loss, rtol=1e-5, atol=1e-6) == bool(unseen)


def test_the_loss_is_the_weighted_sum_of_the_terms_of_losses_py(make_model, batch):
    model = make_model(alpha=0.3, beta=0.2, correlation="nuclear", discriminative="frobenius", orthogonality="batch")
    rows = model.encode(batch, "model")
    explicit = rows["audio_explicit"], rows["visual_explicit"]
    targets, _ = label_targets(batch["labels"], 3)
    expected = (
        -canonical_correlation(*explicit, kind="nuclear")
        + 0.3 * discriminative_loss(rows["audio_implicit"], rows["visual_implicit"], targets, kind="frobenius")
        + 0.2 * orthogonality_loss(
            rows["audio_explicit"], rows["audio_implicit"], rows["visual_explicit"], rows["visual_implicit"],
            kind="batch",
        )
    )  # fmt: skip
    torch.testing.assert_close(model(**batch).loss, expected)


def test_shared_has_one_trunk_a_modality(make_model):
    dual, shared = make_model(), make_model(variant="shared")
    assert shared.num_parameters() < dual.num_parameters()
    assert len(shared.audio_towers.explicit) == 1 and len(shared.audio_towers.trunk) > 0


def test_training_raises_map_far_above_the_untrained_model(make_model, make_batch):
    train, test = make_batch(240), make_batch(120, seed=2)
    targets, _ = label_targets(test["labels"], 3)

    def score(model):
        output = model(**test, return_loss=False)
        return mean_average_precision(output.audio_embeds, output.visual_embeds, targets)["map"]

    model = make_model(alpha=1.0)
    model.prepare([train])
    model.finish([train])
    untrained = score(model.eval())
    fit(model, train).finish([train])
    # A random ranking of three equal classes scores about .34; the noise of the toy leaves about .9 to reach.
    assert score(model) > max(0.7, untrained + 0.02)


@pytest.mark.parametrize("labels", ["absent", "some", "none", "several"])
def test_films_nobody_annotated_train_too(make_model, batch, labels):
    if labels == "absent":
        del batch["labels"]
    elif labels == "several":
        batch["labels"] = torch.nn.functional.one_hot(batch["labels"], 3).float()
        batch["labels"][:5, 0], batch["labels"][7] = 1.0, float("nan")
    else:
        batch["labels"] = batch["labels"].clone()
        batch["labels"][10 if labels == "some" else 0 :] = -100
    model = make_model()
    output = model(**batch)
    assert ("discriminative" in output.terms) == (labels != "absent")
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.requires_grad)
    model.prepare([batch])
    model.finish([batch], [batch])
    assert model.eval()(**batch).audio_embeds.isfinite().all()


def test_an_unknown_label_changes_nothing_that_labels_decide(make_model, batch):
    model = make_model(variant="implicit", beta=0.0)
    known = {name: rows[:20] for name, rows in batch.items()}
    partly = batch | {"labels": batch["labels"].clone()}
    partly["labels"][20:] = -100
    torch.testing.assert_close(model(**partly).loss, model(**known).loss)


def test_one_label_and_its_membership_vector_mean_the_same(make_model, batch):
    model = make_model()
    vectors = batch | {"labels": torch.nn.functional.one_hot(batch["labels"], 3).float()}
    torch.testing.assert_close(model(**vectors).loss, model(**batch).loss)


def test_the_explicit_variant_reads_no_label(make_model, batch):
    model = make_model(variant="explicit")
    assert not model.uses_labels and make_model().uses_labels
    wrong = batch | {"labels": (batch["labels"] + 1) % 3}
    for labels in (batch, wrong):
        model.prepare([labels])
        model.finish([labels], [labels])
        labels["embeds"] = model.get_audio_embeds(batch["audio_features"])
        labels["loss"] = model(**{name: labels[name] for name in ("audio_features", "visual_features", "labels")}).loss
    assert torch.equal(batch["embeds"], wrong["embeds"]) and torch.equal(batch["loss"], wrong["loss"])


def test_the_explicit_variant_is_the_dual_network_with_alpha_zero(make_model, batch):
    explicit = make_model(variant="explicit")
    dual = make_model(alpha=0.0)
    for one, other in zip(explicit.parameters(), dual.parameters(), strict=True):
        other.data.copy_(one.data)
    torch.testing.assert_close(explicit(**batch).loss, dual(**batch).loss)


def test_statistics_are_those_of_the_training_split_over_any_batches(make_model, batch):
    model = make_model()
    batch["audio_features"][:, 2] = 7.0
    parts = [{name: rows[part] for name, rows in batch.items()} for part in (slice(0, 7), slice(7, 60))]
    model.prepare(parts)
    audio = batch["audio_features"].double()
    torch.testing.assert_close(model.audio_statistics.mean.double(), audio.mean(0), rtol=1e-6, atol=1e-6)
    expected = audio.std(0, correction=0)
    expected[2] = 1.0  # a column that never varies is centred, and not blown up
    torch.testing.assert_close(model.audio_statistics.scale.double(), expected, rtol=1e-6, atol=1e-6)


def test_users_pass_raw_features(make_model, batch):
    """Shifted and scaled features give the same embeddings once the statistics have seen them."""
    model = make_model(feature_scaling="standardize")
    other = copy.deepcopy(model)
    moved = batch | {"audio_features": batch["audio_features"] * 100 - 50}
    for twin, data in ((model, batch), (other, moved)):
        twin.prepare([data])
        twin.finish([data])
    torch.testing.assert_close(
        model.get_audio_embeds(batch["audio_features"]), other.get_audio_embeds(moved["audio_features"]),
        rtol=1e-3, atol=1e-3,  # float32 statistics of features a hundred times larger
    )  # fmt: skip


def test_an_embedding_depends_on_its_own_clip_alone(fitted, batch):
    audio = batch["audio_features"]
    whole = fitted.get_audio_embeds(audio)
    alone = torch.cat([fitted.get_audio_embeds(audio[row : row + 1]) for row in range(len(audio))])
    torch.testing.assert_close(whole, alone)


def test_forward_with_both_embeds_too_but_only_in_eval_mode(fitted, batch):
    output = fitted(**batch)
    assert torch.equal(output.audio_embeds, fitted.get_audio_embeds(batch["audio_features"]))
    assert fitted.train()(**batch).audio_embeds is None


def test_forward_with_one_modality_embeds_it(fitted, batch):
    output = fitted(visual_features=batch["visual_features"])
    assert output.loss is None and output.audio_embeds is None
    assert torch.equal(output.visual_embeds, fitted.get_visual_embeds(batch["visual_features"]))


def test_finish_does_not_depend_on_batches_and_may_be_called_again(make_model, batch):
    model, other = make_model(), make_model()
    other.load_state_dict(model.state_dict())
    model.finish([batch], [batch])
    parts = [{name: rows[part] for name, rows in batch.items()} for part in (slice(0, 40), slice(40, 60))]
    for _ in range(2):
        other.finish(parts, parts)
    assert other.config.fusion_choice["candidate"] == model.config.fusion_choice["candidate"]
    for name, tensor in model.fusion.state_dict().items():
        torch.testing.assert_close(other.fusion.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_finish_keeps_the_candidate_that_is_best_on_validation_and_says_which(make_model, make_batch):
    model = make_model()
    model.finish([make_batch()], [make_batch(seed=2)])
    choice = model.config.fusion_choice
    assert choice["candidates"] == 12 and 0 < choice["validation_map"] <= 1 and choice == model.choice
    model.finish([make_batch()], [make_batch(rows=1)])  # which cannot tell candidates apart
    assert (model.choice["candidate"], model.choice["ridge"]) == ("with-features", UNCHOSEN_FEATURES_RIDGE)


def test_without_validation_finish_says_so(make_model, batch, warnings_logged):
    model = make_model()
    model.finish([batch])
    record = {"candidate": "with-features", "cluster_weight": UNCHOSEN_CLUSTER_WEIGHT, "ridge": UNCHOSEN_FEATURES_RIDGE}
    said = f"candidate with-features, cluster weight {record['cluster_weight']}, ridge {record['ridge']}"
    assert f"No validation split: the fusion takes its default, {said}, and is not chosen" in warnings_logged.text
    assert model.config.fusion_choice == record


@pytest.mark.parametrize(("features", "candidate"), [(True, "with-features"), (False, "weighted-cluster-cca")])
def test_a_fusion_that_settings_fix_is_not_chosen(make_model, batch, warnings_logged, features, candidate):
    model = make_model(fusion_cluster_weight=0.2, fusion_ridge=1e-3, fusion_features=features)
    model.finish([batch], [batch])
    fixed = model.get_audio_embeds(batch["audio_features"])
    assert model.config.fusion_choice == {"candidate": candidate, "cluster_weight": 0.2, "ridge": 1e-3}
    model.finish([batch])
    assert torch.equal(model.get_audio_embeds(batch["audio_features"]), fixed) and not warnings_logged.text


@pytest.mark.parametrize("candidate", ["with-features", "weighted-cluster-cca"])
def test_a_refit_takes_over_what_another_model_chose(make_model, make_batch, warnings_logged, candidate):
    fixed = {"fusion_cluster_weight": 0.3, "fusion_ridge": 0.2, "fusion_features": candidate == "with-features"}
    choice = {"candidate": candidate, "cluster_weight": 0.3, "ridge": 0.2}
    chosen, model, twin = make_model(), make_model(), make_model(**fixed)
    chosen.config.fusion_choice = choice | {"validation_map": 0.5, "candidates": 12}
    for towers in ("audio_towers", "visual_towers"):
        getattr(twin, towers).load_state_dict(getattr(model, towers).state_dict())
    everything = [make_batch(40), make_batch(20, seed=2)]
    for refit in (model, twin):
        refit.prepare(everything)
    model.finish_like(chosen, everything)
    twin.finish(everything)
    assert model.choice == twin.choice == choice and not warnings_logged.text
    visual = everything[0]["visual_features"]
    torch.testing.assert_close(model.get_visual_embeds(visual), twin.get_visual_embeds(visual))


def test_validation_without_labels_ranks_by_pair(make_model, batch):
    del batch["labels"]
    model = make_model()
    model.finish([batch], [batch])
    own = torch.eye(60)
    score = mean_average_precision(*(model.eval()(**batch)[name] for name in ("audio_embeds", "visual_embeds")), own)
    assert model.config.fusion_choice["validation_map"] == pytest.approx(score["map"], abs=1e-6)


def test_new_statistics_make_the_fusion_stale(fitted, batch):
    fitted.prepare([batch])
    assert not fitted.fitted


def test_without_a_loss_only_embeddings_are_returned(fitted, batch):
    output = fitted(**batch, return_loss=False)
    assert output.loss is None and output.terms is None and output.visual_embeds is not None


def test_a_tower_is_linear_then_normalisation_activation_and_dropout(make_model, batch):
    model = make_model(activation="gelu", normalization="layer", dropout=0.5, audio_hidden=[16]).eval()
    first, norm, last = (model.audio_towers.implicit[place] for place in (0, 1, 4))
    rows = batch["audio_features"]
    expected = last(torch.nn.functional.gelu(norm(first(rows))))
    torch.testing.assert_close(model.encode(batch, "model")["audio_implicit"], expected)
    model.train()
    one, other = (model.encode(batch, "model")["audio_implicit"] for _ in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("scaling", ["standardize", "center", "none"])
def test_features_are_scaled_as_the_config_says(make_model, batch, scaling):
    model = make_model(feature_scaling=scaling)
    model.prepare([batch])
    scaled = model.audio_statistics(batch["audio_features"])
    mean, deviation = batch["audio_features"].mean(0), batch["audio_features"].std(0, correction=0)
    expected_mean = mean if scaling == "none" else torch.zeros(6)
    expected_deviation = torch.ones(6) if scaling == "standardize" else deviation
    torch.testing.assert_close(scaled.mean(0), expected_mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(scaled.std(0, correction=0), expected_deviation, rtol=1e-5, atol=1e-4)


def test_the_ridge_of_the_config_is_that_of_the_loss(make_model, batch):
    model = make_model(ridge=0.3, ridge_relative=False)
    rows = model.encode(batch, "model")
    expected = -canonical_correlation(rows["audio_explicit"], rows["visual_explicit"], ridge=0.3, relative=False)
    torch.testing.assert_close(model(**batch).terms["correlation"], expected)


def test_a_choice_does_not_outlive_its_fusion(fitted, batch):
    with pytest.raises(ValueError, match="Nothing to fit"):
        fitted.finish([{name: rows[:1] for name, rows in batch.items()}])
    assert fitted.config.fusion_choice is None


@pytest.mark.parametrize("variant", ["dual", "shared"])
def test_input_dropout_is_of_the_scaled_features_and_of_training_alone(make_model, batch, variant):
    model = make_model(variant=variant, input_dropout=0.5, audio_hidden=[])
    model.prepare([batch])
    with torch.no_grad():
        for head in (model.audio_towers.explicit[-1], model.audio_towers.implicit[-1]):
            head.weight.copy_(torch.eye(*head.weight.shape))
    outputs = model.train().encode(batch, "model")
    scaled = model.audio_statistics(batch["audio_features"])
    ratio = outputs["audio_explicit"] / scaled[:, :4]
    torch.testing.assert_close(ratio, 2.0 * (ratio > 1))
    assert 0.3 < (ratio == 0).float().mean() < 0.7
    torch.testing.assert_close(outputs["audio_implicit"], outputs["audio_explicit"][:, :3])  # what is hidden, from both
    model.finish([batch])  # in train mode: what is fused is whole
    torch.testing.assert_close(model.fusion.audio_mean[:4], model.fusion.audio_mean[7:11])
    torch.testing.assert_close(model.eval().encode(batch, "model")["audio_explicit"], scaled[:, :4])


def test_one_row_less_than_the_smallest_batch_correlates_perfectly_whatever_it_holds(make_model):
    assert make_model(variant="implicit").smallest_batch == 1
    for variant in ("dual", "shared", "explicit"):
        rows = make_model(variant=variant, explicit_dim=5).smallest_batch
        sides = torch.randn(2, rows, 5, dtype=torch.float64)
        for taken, perfect in ((sides, False), (sides[:, 1:], True)):
            bases = [torch.linalg.qr(side - side.mean(dim=0)).Q for side in taken]
            assert (torch.linalg.svdvals(bases[0].T @ bases[1])[0] > 1 - 1e-9) == perfect
