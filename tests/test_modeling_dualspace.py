"""The dual-subspace model: what it learns, fits, embeds, saves and refuses."""

import copy
import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from modeling_dualspace import (
    DualSubspaceModel,
    canonical_correlation,
    discriminative_loss,
    orthogonality_loss,
)
from modeling_dualspace.ranking import summed_average_precision
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
    assert model.fusion.audio_weights.shape[0] == 25


@pytest.mark.parametrize(("variant", "terms"), VARIANTS.items())
def test_each_variant_has_its_terms_and_every_parameter_a_gradient(make_model, batch, variant, terms):
    model = make_model(variant=variant)
    output = model(**batch)
    assert set(output.terms) == terms
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


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


@pytest.mark.parametrize(
    "settings",
    [
        {"audio_hidden": [], "visual_hidden": []},
        {"audio_hidden": [8, 8, 8], "activation": "tanh"},
        {"normalization": "batch", "dropout": 0.1},
        {"normalization": "layer", "activation": "gelu"},
        {"feature_scaling": "none"},
        {"feature_scaling": "center"},
        {"fusion": "cca"},
        {"ridge_relative": False},
        {"embed_dim": 1, "explicit_dim": 2},
        {"embed_dim": 12},
    ],
)
def test_a_network_of_any_shape_learns_embeds_and_reloads(make_model, batch, tmp_path, settings):
    model = fit(make_model(**settings), batch, steps=5)
    model.finish([batch], [batch])
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    embeds = loaded.get_visual_embeds(batch["visual_features"])
    assert torch.equal(embeds, model.get_visual_embeds(batch["visual_features"]))
    assert embeds.shape == (60, model.config.output_dim)
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(60))


def test_training_raises_map_far_above_the_untrained_model(make_model, make_batch):
    train, test = make_batch(240), make_batch(120, seed=2)
    targets, _ = label_targets(test["labels"], 3)

    def score(model):
        audio = model.get_audio_embeds(test["audio_features"])
        total, queries = summed_average_precision(audio, model.get_visual_embeds(test["visual_features"]),
                                                  targets, targets)  # fmt: skip
        return total / queries

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
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
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


def test_finish_leaves_mode_and_weights_as_they_were(make_model, batch):
    model = make_model(dropout=0.5, normalization="batch").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("fusion")}
    model.finish([batch], [batch])
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_finish_keeps_the_candidate_that_is_best_on_validation_and_says_which(make_model, make_batch):
    model = make_model()
    model.finish([make_batch()], [make_batch(seed=2)])
    choice = model.config.fusion_choice
    assert choice["candidates"] == 11 and 0 < choice["validation_map"] <= 1


def test_without_validation_finish_says_so(make_model, batch, warnings_logged):
    model = make_model()
    model.finish([batch])
    sentence = "No validation split: the fusion takes its default, a cluster weight of 0.5 and a ridge of 0.0001"
    assert sentence in warnings_logged.text
    assert model.config.fusion_choice == {"candidate": "weighted-cluster-cca", "cluster_weight": 0.5, "ridge": 1e-4}


def test_a_fusion_that_settings_fix_is_not_chosen(make_model, batch):
    model = make_model(fusion_cluster_weight=0.2, fusion_ridge=1e-3)
    model.finish([batch], [batch])
    assert model.config.fusion_choice == {"candidate": "weighted-cluster-cca", "cluster_weight": 0.2, "ridge": 1e-3}


def test_validation_without_labels_ranks_by_pair(make_model, batch):
    del batch["labels"]
    model = make_model()
    model.finish([batch], [batch])
    assert model.config.fusion_choice["candidates"] == 11


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_statistics_and_fusion_stay_float32_under_every_dtype(fitted, batch, tmp_path, dtype):
    fitted.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    cast = copy.deepcopy(fitted).to(dtype)
    for model in (loaded, cast):
        assert model.dtype == dtype
        for name, buffer in fitted.named_buffers():
            kept = dict(model.named_buffers())[name]
            assert kept.dtype in (torch.float32, torch.float64) and torch.equal(kept.float(), buffer), name
        embeds = model.get_audio_embeds(batch["audio_features"])
        # bfloat16 towers carry eight bits: a cosine of two embeddings of a clip loses no more than a percent.
        cosine = (embeds.float() * fitted.get_audio_embeds(batch["audio_features"])).sum(1)
        assert cosine.min() > 0.99


def test_weights_and_buffers_come_back_bit_for_bit_as_safetensors(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is DualSubspaceModel and not loaded.training
    for name, tensor in fitted.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.config.fusion_choice == fitted.config.fusion_choice


def test_auto_classes_know_the_model():
    config = AutoConfig.for_model("dualspace", audio_hidden=[4], visual_hidden=[4])
    assert type(AutoModel.from_config(config)) is DualSubspaceModel


def test_buffers_missing_from_a_file_come_back_as_the_identity(make_model, tmp_path):
    """A checkpoint without statistics or fusion, as other code may write it, is unfitted and not garbage."""
    model = make_model()
    parameters = {name: tensor.clone() for name, tensor in model.named_parameters()}
    model.save_pretrained(tmp_path, state_dict=parameters)
    loaded = DualSubspaceModel.from_pretrained(tmp_path)
    assert not loaded.fitted
    assert loaded.audio_statistics.mean.eq(0).all() and loaded.visual_statistics.scale.eq(1).all()
    assert loaded.fusion.audio_weights.eq(0).all()


def test_loading_the_state_of_an_unfitted_model_unfits(fitted, make_model):
    fitted.load_state_dict(make_model().state_dict())
    assert not fitted.fitted


def test_models_pickle_and_copy(fitted, batch):
    for twin in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert torch.equal(
            twin.get_audio_embeds(batch["audio_features"]), fitted.get_audio_embeds(batch["audio_features"])
        )


def test_a_loaded_model_compiles_whole_at_once(fitted, batch, tmp_path):
    fitted.save_pretrained(tmp_path)
    compiled = torch.compile(AutoModel.from_pretrained(tmp_path), fullgraph=True, backend="eager")
    embeds = compiled(audio_features=batch["audio_features"]).audio_embeds
    assert torch.equal(embeds, fitted.get_audio_embeds(batch["audio_features"]))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_steps_and_embeddings_are_those_of_the_model(fitted, batch, backend):
    compiled = torch.compile(fitted, fullgraph=True, backend=backend)
    audio = batch["audio_features"]
    torch.testing.assert_close(compiled(audio_features=audio).audio_embeds, fitted.get_audio_embeds(audio))
    fitted.train()
    torch.testing.assert_close(compiled(**batch).loss, fitted(**batch).loss)
    compiled(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in fitted.parameters())


def test_autocast_keeps_the_losses_and_the_fusion_in_float32(fitted, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = fitted(**batch)
    assert output.loss.dtype == torch.float32
    assert output.audio_embeds.dtype == torch.float32


def test_the_stock_trainer_trains_and_evaluates_without_an_adapter(make_model, make_batch, tmp_path):
    data = make_batch(96)
    clips = [dict(zip(data, row, strict=True)) for row in zip(*(rows.tolist() for rows in data.values()), strict=True)]
    model = make_model(alpha=1.0)
    model.prepare([data])
    arguments = TrainingArguments(
        tmp_path, per_device_train_batch_size=32, num_train_epochs=15, learning_rate=1e-2, report_to=[],
        save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=clips, eval_dataset=clips)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    model.finish([data])
    prediction = trainer.predict(clips)
    assert prediction.metrics["test_loss"] < before - 0.3
    audio, visual = prediction.predictions
    assert audio.shape == visual.shape == (96, 4)


def test_the_stock_trainer_evaluates_clips_that_nobody_labelled(make_model, batch, tmp_path):
    clips = [
        {"audio_features": audio, "visual_features": visual}
        for audio, visual in zip(batch["audio_features"].tolist(), batch["visual_features"].tolist(), strict=True)
    ]
    arguments = TrainingArguments(tmp_path, label_names=[], report_to=[], disable_tqdm=True, use_cpu=True)
    assert Trainer(make_model(variant="explicit"), arguments, eval_dataset=clips).evaluate()["eval_loss"] < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_features": torch.zeros(60, 5)}, r"Expected audio features of shape \(n, 6\), got \(60, 5\)"),
        ({"audio_features": torch.zeros(6)}, r"Expected audio features of shape \(n, 6\), got \(6,\)"),
        ({"audio_features": [[0.0] * 6] * 60}, "Expected `audio_features` as a torch.Tensor, got list"),
        ({"labels": [0] * 60}, "Expected `labels` as a torch.Tensor, got list: call `torch.as_tensor` first"),
        ({"visual_features": torch.zeros(59, 8)}, "must pair up: 60 against 59"),
        ({"visual_features": torch.full((60, 8), torch.inf)}, "Visual features must be finite.*row 0"),
        ({"labels": torch.arange(60) % 4}, r"Bad label in row 3: classes must lie in 0..2"),
        ({"labels": torch.zeros(60, 4)}, r"memberships of shape \(n, 3\), got \(60, 4\)"),
        ({"labels": torch.full((60, 3), 0.5)}, "memberships must be 0 or 1"),
        ({"labels": torch.zeros(60, dtype=torch.bool)}, "must be integers .classes., got torch.bool"),
        ({"labels": torch.zeros(59, dtype=torch.long)}, "59 labels came for 60 clips"),
    ],
)
def test_prepare_finish_and_forward_name_what_is_wrong(make_model, batch, change, message):
    model = make_model(activation="tanh")
    for step in (model.prepare, model.finish):
        with pytest.raises((ValueError, TypeError), match=message):
            step([batch | change])
    if "must be finite" not in message:  # in a hot loop nobody looks at the values: `prepare` has
        with pytest.raises((ValueError, TypeError), match=message):
            model(**batch | change)


def test_data_that_are_no_batches_are_refused(make_model, batch):
    for step in (make_model().prepare, make_model().finish):
        with pytest.raises(TypeError, match="Expected an iterable of batches.*got dict: wrap a single batch in a list"):
            step(batch)
        with pytest.raises(TypeError, match="got NoneType"):
            step(None)
        with pytest.raises(
            ValueError, match="`audio_features` and `visual_features`, got .'labels', 'visual_features'"
        ):
            step([{"visual_features": batch["visual_features"], "labels": batch["labels"]}])


def test_other_columns_of_a_data_set_are_ignored(make_model, batch):
    batch |= {"clip_id": [f"clip-{row}" for row in range(60)], "index": torch.arange(60), "labels": batch["labels"]}
    model = make_model()
    model.prepare([batch])
    model.finish([batch])
    assert model(**batch).loss.isfinite()


def test_a_misnamed_label_column_is_not_ignored(make_model, batch):
    batch["label"] = batch.pop("labels")
    with pytest.raises(ValueError, match="under `labels`, not `label`"):
        make_model()(**batch)


def test_a_bad_row_is_named_by_its_number_in_the_split(make_model, batch):
    unlabelled = {name: rows for name, rows in batch.items() if name != "labels"}
    later = {name: rows.clone() for name, rows in batch.items()}
    later["labels"][5] = 9
    for step in (make_model().prepare, make_model().finish):
        with pytest.raises(ValueError, match="Bad label in row 65"):
            step([unlabelled, later])


def test_a_generator_that_is_spent_is_named_among_the_causes(make_model, batch):
    model, data = make_model(), iter([batch])
    model.prepare(data)
    with pytest.raises(ValueError, match="a generator is empty the second time"):
        model.finish(data)


def test_embedding_is_in_eval_mode_whatever_the_mode_of_the_model(make_model, batch):
    model = fit(make_model(dropout=0.5, normalization="batch"), batch, steps=3)
    model.finish([batch])
    audio = batch["audio_features"]
    expected = model.eval().get_audio_embeds(audio)
    assert torch.equal(model.train().get_audio_embeds(audio), expected) and model.training
    # One clip alone: batch statistics would not even be defined.
    torch.testing.assert_close(model.get_audio_embeds(audio[:1]), expected[:1])


def test_features_far_from_any_seen_still_give_unit_rows_or_a_sentence(fitted, batch):
    embeds = fitted.get_audio_embeds(batch["audio_features"] * 1e30)
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(60))
    with torch.no_grad():
        fitted.audio_towers.explicit[0].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="gave embeddings that are not: the weights of the model hold NaN"):
        fitted.get_audio_embeds(batch["audio_features"])
    with pytest.raises(ValueError, match="outputs are not finite although the features are: training diverged"):
        fitted.finish([batch])


def test_data_without_any_common_direction_leave_the_model_unfitted(make_model, batch):
    model = make_model()
    one = {name: rows[:1] for name, rows in batch.items()}
    with pytest.raises(
        ValueError, match="no direction of the training outputs correlates. Are there at least two rows"
    ):
        model.finish([one])
    assert not model.fitted


def test_new_statistics_make_the_fusion_stale(fitted, batch):
    fitted.prepare([batch])
    assert not fitted.fitted


def test_validation_that_cannot_tell_candidates_apart_keeps_the_default(make_model, batch):
    model = make_model()
    model.finish([batch], [{name: rows[:1] for name, rows in batch.items()}])
    assert (model.config.fusion_choice["cluster_weight"], model.config.fusion_choice["ridge"]) == (0.5, 1e-4)


def test_the_implicit_variant_asks_for_labels(make_model, batch):
    del batch["labels"]
    with pytest.raises(ValueError, match="learns from labels alone, and this batch has none"):
        make_model(variant="implicit")(**batch)


def test_data_without_labels_are_said_to_teach_no_category(make_model, batch, warnings_logged):
    del batch["labels"]
    make_model().prepare([batch])
    assert "No training clip has a label" in warnings_logged.text


@pytest.mark.parametrize(
    "missing", ["fusion.audio_weights", "visual_towers.implicit.0.weight", "audio_statistics.mean"]
)
def test_a_file_that_lacks_a_part_gives_an_unfitted_model(fitted, tmp_path, missing):
    state = {name: tensor for name, tensor in fitted.state_dict().items() if name != missing}
    fitted.save_pretrained(tmp_path, state_dict=state)
    assert not AutoModel.from_pretrained(tmp_path).fitted


def test_a_width_that_changed_after_building_is_refused(make_model, batch):
    model = make_model(num_labels=3, embed_dim=2)
    model.config.fusion = "cca"
    with pytest.raises(ValueError, match="built for embeddings 3 wide, and its config asks for 2 now"):
        model.finish([batch])


def test_without_a_loss_only_embeddings_are_returned(fitted, batch):
    output = fitted(**batch, return_loss=False)
    assert output.loss is None and output.terms is None and output.visual_embeds is not None


def test_empty_splits_are_refused(make_model, batch):
    model = make_model()
    for step in (model.prepare, model.finish):
        with pytest.raises(ValueError, match="empty split"):
            step([])
    with pytest.raises(ValueError, match="empty validation split: pass None"):
        model.finish([batch], [])


def test_a_class_without_clips_is_named(make_model, batch, warnings_logged):
    model = make_model(num_labels=5)
    model.config.id2label[3] = "snoring"
    model.prepare([batch])
    assert "2 of 5 classes have no labelled training clip: 3 (snoring), 4 (LABEL_4)." in warnings_logged.text
    model.finish([batch], [batch])
    assert model.get_audio_embeds(batch["audio_features"]).isfinite().all()


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_batch_smaller_than_the_subspace_is_safe(make_model, make_batch, rows):
    model = make_model()
    output = model(**make_batch(rows))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
