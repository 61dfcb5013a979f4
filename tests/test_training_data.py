"""What is learnt from: every row once an epoch, the same batches wherever features lie and however many processes."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.testing import assert_close

from modeling_dualspace import feature_dataset, training_data
from modeling_dualspace.feature_dataset import FeatureBatches, to_tensors
from modeling_dualspace.feature_schema import Description
from modeling_dualspace.training_data import TrainingData

PLACES = ["device", "memory", "stream"]


@pytest.fixture
def splits(make_batch, as_split):
    return {"train": as_split(make_batch(50)), "validation": as_split(make_batch(20, seed=2))}


@pytest.fixture
def as_process(monkeypatch):
    """`as_process(rank, count)`: what is made from here on believes to be one of several processes."""

    def believe(rank, count):
        monkeypatch.setattr(feature_dataset, "process_index", lambda: rank)
        monkeypatch.setattr(feature_dataset, "world_size", lambda: count)

    return believe


def plain(rows, **columns):
    """A split without names of classes, as somebody else may have made it."""
    features = torch.randn(rows, 6).tolist(), torch.randn(rows, 8).tolist()
    return Dataset.from_dict(dict(zip(("audio_features", "visual_features"), features, strict=True)) | columns)


def joined(batches):
    batches = list(batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)


# Steps


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 1000])
@pytest.mark.parametrize("place", PLACES)
def test_an_epoch_is_every_row_once_in_even_batches(splits, place, batch_size):
    data = TrainingData(splits, features=place)
    steps = data.steps(batch_size, seed=3)
    for epoch in (0, 1):
        batches = list(steps.epoch(epoch))
        sizes = [len(batch["index"]) for batch in batches]
        assert len(sizes) == len(steps) == -(-50 // batch_size)
        assert (
            max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size and min(sizes) == data.smallest_batch(batch_size)
        )
        rows = joined(batches)
        same({name: column[rows["index"].argsort()] for name, column in rows.items()}, to_tensors(splits["train"]))


def test_epochs_are_other_orders_fixed_by_the_seed(splits):
    data = TrainingData(splits)

    def order(seed, epoch):
        return tuple(joined(data.steps(8, seed).epoch(epoch))["index"].tolist())

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(set(orders.values())) == 6
    assert order(1, 2) == orders[1, 2]


@pytest.mark.parametrize("block", [65_536, 20])
@pytest.mark.parametrize("place", PLACES)
def test_processes_together_take_the_batches_that_one_takes(splits, as_process, monkeypatch, place, block):
    monkeypatch.setattr(training_data, "BLOCK", block)
    alone = list(TrainingData(splits, features=place).steps(4, seed=3).epoch(1))
    for count in (2, 3, 5):
        shares = []
        for rank in range(count):
            as_process(rank, count)
            shares.append(list(TrainingData(splits, features=place).steps(4, seed=3).epoch(1)))
        assert {len(share) for share in shares} == {len(alone)}
        for batch, *parts in zip(alone, *shares, strict=True):
            same(joined(parts), batch)


@pytest.mark.parametrize("place", PLACES)
def test_leaving_out_what_was_done_is_walking_past_it(splits, place):
    whole = list(TrainingData(splits, features=place).steps(7, seed=3).epoch(4))
    steps = TrainingData(splits, features=place).steps(7, seed=3)
    for skip in (0, 1, 5, 8, 100):
        rest = list(steps.epoch(4, skip))
        assert len(rest) == max(8 - skip, 0)
        for one, other in zip(rest, whole[skip:], strict=True):
            same(one, other)
    assert len(list(steps.epoch(5))) == 8  # the next epoch is whole again


def test_where_features_lie_changes_no_batch(splits):
    found = [list(TrainingData(splits, features=place).steps(7, seed=3).epoch(2)) for place in PLACES]
    for batches in found[1:]:
        for one, other in zip(batches, found[0], strict=True):
            same(one, other)


def test_blocks_of_a_stream_are_shared_out_evenly(splits, monkeypatch):
    monkeypatch.setattr(training_data, "BLOCK", 20)
    data = TrainingData(splits, features="stream")
    steps = data.steps(9, seed=0)
    batches = list(steps.epoch(0))
    assert len(batches) == len(steps) and data.smallest_batch(9) == min(len(batch["index"]) for batch in batches)
    same({"index": joined(batches)["index"].sort().values}, {"index": torch.arange(50)})


@pytest.mark.parametrize("seed", [None, 0])
def test_nothing_to_share_out_is_no_batch(splits, seed):
    assert list(FeatureBatches(splits["train"].select([]), 4, even=True, seed=seed)) == []


# Passes


@pytest.mark.parametrize("place", PLACES)
def test_a_pass_is_every_row_once_in_order_again_and_again(splits, place, monkeypatch):
    monkeypatch.setattr(training_data, "PASS", 16)
    data = TrainingData(splits, features=place)
    for name in ("train", "validation", "train"):
        batches = list(data.passes(name))
        assert [len(batch["index"]) for batch in batches[:-1]] == [16] * (len(batches) - 1)
        same(joined(batches), to_tensors(splits[name]))
    assert data.passes("test") is None
    list(data.steps(8, 0).epoch(0))  # and no step changes it
    same(joined(data.passes("train")), to_tensors(splits["train"]))


def test_resident_features_are_in_memory_once(splits):
    data = TrainingData(splits, features="memory")
    (first,) = data.passes("train")
    (again,) = data.passes("train")
    assert first["audio_features"].data_ptr() == again["audio_features"].data_ptr()
    assert data.steps(8, 0)._batches._whole(None)["audio_features"].data_ptr() == first["audio_features"].data_ptr()
    data.release()
    assert next(iter(data.passes("train")))["audio_features"].data_ptr() != first["audio_features"].data_ptr()


def test_a_refit_learns_from_both_splits(splits):
    data = TrainingData(DatasetDict(splits))
    both = data.joined()
    expected = {name: torch.cat([to_tensors(split)[name] for split in splits.values()]) for name in ("labels",)}
    rows = joined(both.passes("train"))
    assert torch.equal(rows["index"], torch.arange(70)) and torch.equal(rows["labels"], expected["labels"])
    assert both.passes("validation") is None and len(joined(both.steps(9, 0).epoch(0))["index"]) == 70
    assert len(joined(data.passes("train"))["index"]) == 50 and data.passes("validation") is not None
    assert data.record("train", "validation")["rows"] == {"train": 50, "validation": 20}


def test_what_fits_is_kept_and_what_does_not_is_read_again(splits, monkeypatch):
    assert TrainingData(splits).features == "device"
    free = training_data.psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(training_data.psutil, "virtual_memory", lambda: free)
    assert TrainingData(splits).features == "stream"
    assert TrainingData(splits, features="memory").features == "memory"


# Splits


def test_without_a_split_to_learn_from_there_is_a_sentence(splits):
    with pytest.raises(ValueError, match="learns from a split `train`, and this data set has validation"):
        TrainingData({"validation": splits["validation"]})
    with pytest.raises(ValueError, match="has none"):
        TrainingData({})
    with pytest.raises(ValueError, match="split train is a stream"):
        TrainingData({"train": splits["train"].to_iterable_dataset()})
    for nothing in (splits["train"].select([]), plain(0)):
        with pytest.raises(ValueError, match="split train has no clip with both a sound and a picture"):
            TrainingData(splits | {"train": nothing})
    unpaired = Dataset.from_dict({"audio_features": [[1.0], None], "visual_features": [None, [1.0]]})
    with pytest.raises(ValueError, match="no clip with both"):
        TrainingData({"train": unpaired})


def test_an_empty_validation_split_is_none(splits):
    data = TrainingData(splits | {"validation": splits["validation"].select([])})
    assert data.passes("validation") is None and "validation" not in data.splits
    assert len(joined(data.joined().passes("train"))["index"]) == 50


def test_other_splits_are_not_looked_at_but_count_in_the_fingerprint(splits):
    silent = splits["train"].map(lambda row: {"audio_features": None}, features=splits["train"].features)
    data = TrainingData(splits)
    assert TrainingData(splits | {"test": splits["train"]}).fingerprint != data.fingerprint
    assert TrainingData(splits | {"test": silent}).splits.keys() == {"train", "validation"}


@pytest.mark.parametrize("place", PLACES)
def test_clips_that_lack_a_modality_are_left_out_and_said(make_batch, caplog, place):
    batch = make_batch(9)
    audio, visual = batch["audio_features"].tolist(), batch["visual_features"].tolist()
    audio[2], visual[5], audio[7], visual[7] = None, None, None, None
    unpaired = {"train": Dataset.from_dict({"audio_features": audio, "visual_features": visual})}
    data = TrainingData(unpaired, features=place)
    assert "3 of 9 clips lack a sound or a picture" in caplog.text
    kept = torch.tensor([0, 1, 3, 4, 6, 8])
    for rows in (joined(data.passes("train")), joined(data.steps(2, 0).epoch(0))):
        order = rows["index"].argsort()
        assert_close(rows["audio_features"][order], batch["audio_features"][kept])
    assert data.widths == {"audio_dim": 6, "visual_dim": 8} and data.record("train")["rows"] == {"train": 6}


# Labels


def test_what_nobody_annotated_has_no_classes(make_batch, as_split):
    batch = make_batch(20)
    del batch["labels"]
    data = TrainingData({"train": as_split(batch)})
    assert not data.labelled and data.num_labels is None and data.class_names is None
    assert all("labels" not in rows for rows in data.steps(6, 0).epoch(0))


def test_named_classes_are_counted_by_name_and_numbered_ones_over_all_splits(splits):
    named = TrainingData(splits)
    assert named.num_labels == 3 and named.class_names == ["dog", "drum", "train"]
    numbered = {"train": plain(4, label=[0, 1, None, 1]), "validation": plain(2, label=[4, 0])}
    assert TrainingData(numbered).num_labels == 5
    assert TrainingData({"train": plain(3, label=[-1, -1, -100])}).num_labels is None


@pytest.mark.parametrize("rows", [2, 4, 9])
def test_all_processes_count_the_same_classes(as_process, rows):
    found = set()
    for rank in range(3):
        as_process(rank, 3)
        found.add(TrainingData({"train": plain(rows, label=list(range(rows)))}).num_labels)
    assert found == {rows}


def test_memberships_are_a_row_a_clip_and_unknown_where_they_lack():
    members = [[1.0, 0.0, 1.0, 0.0], None, [0.0] * 4, [0.0, 1.0, 0.0, 0.0]]
    data = TrainingData({"train": plain(4, labels=members)})
    assert data.labelled and data.num_labels == 4 and data.class_names is None
    rows = joined(data.passes("train"))["labels"]
    assert rows[1].isnan().all() and rows[0].tolist() == members[0]
    data.splits["train"].info.description = str(Description("0" * 16, "a", "v", False, ("a", "b", "c", "d")))
    described = TrainingData(data.splits)
    assert described.class_names == ["a", "b", "c", "d"] and described.fingerprint == "0" * 16


def test_a_validation_split_that_nobody_annotated_may_stand_beside_one_that_somebody_did(splits):
    bare = splits["validation"].remove_columns("label")
    data = TrainingData(splits | {"validation": bare})
    assert data.labelled and "labels" not in joined(data.passes("validation"))
    assert joined(data.joined().passes("train"))["labels"][50:].tolist() == [-100] * 20
