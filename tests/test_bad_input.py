"""One sentence each: what was expected, what came, where, and what to do."""

import pytest
import torch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_features": torch.zeros(60, 5)}, r"Expected audio features of shape \(n, 6\), got \(60, 5\)"),
        ({"audio_features": torch.zeros(6)}, r"got \(6,\). That is one clip: .*put a DataLoader around a data set"),
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
        # What a shard would call its row 5 is row 1011 of the split.
        with pytest.raises(ValueError, match="Bad label in row 1011"):
            step([later | {"index": torch.arange(60) * 2 + 1001}])


def test_a_generator_that_is_spent_is_named_among_the_causes(make_model, batch):
    model, data = make_model(), iter([batch])
    model.prepare(data)
    with pytest.raises(ValueError, match="a generator is empty the second time"):
        model.finish(data)


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
    with pytest.raises(ValueError, match="no direction of the training rows correlates. Are there at least two rows"):
        model.finish([one])
    assert not model.fitted


def test_the_implicit_variant_asks_for_labels(make_model, batch):
    del batch["labels"]
    with pytest.raises(ValueError, match="learns from labels alone, and this batch has none"):
        make_model(variant="implicit")(**batch)


def test_data_without_labels_are_said_to_teach_no_category(make_model, batch, warnings_logged):
    del batch["labels"]
    make_model().prepare([batch])
    assert "No training clip has a label" in warnings_logged.text


def test_a_width_that_changed_after_building_is_refused(make_model, batch):
    model = make_model(num_labels=3, embed_dim=2)
    model.config.fusion = "cca"
    with pytest.raises(ValueError, match="built for 3 directions, and its config asks for 2 now"):
        model.finish([batch])


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
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("index", [torch.tensor(3), torch.arange(59), torch.ones(60, dtype=torch.bool)])
def test_an_index_that_numbers_no_rows_is_refused(make_model, batch, index):
    with pytest.raises(ValueError, match=r"`index` holds the row of each clip as an integer, shape \(60,\); got"):
        make_model().prepare([batch | {"index": index}])
