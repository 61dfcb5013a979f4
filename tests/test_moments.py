"""Streaming moments against two passes over all rows at once."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from modeling_dualspace import ColumnMoments, PairMoments, moments

NAN, INFINITY = float("nan"), float("inf")
KINDS_OF_LABELS = ("none", "classes", "several", "some")


def make_stream(rows=600, offset=0.0, labels="classes", seed=0):
    """Correlated pairs whose means drift along the stream, so that every chunk has its own."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(rows, 12, generator=generator, dtype=torch.float64)
    drift = torch.linspace(-1, 1, rows, dtype=torch.float64).unsqueeze(1)
    classes = torch.randint(0, 3, (rows,), generator=generator)
    stream = {
        "audio": normal[:, :3] + normal[:, 3:6] + drift + classes.unsqueeze(1) + offset,
        "visual": torch.cat([normal[:, :3], normal[:, 8:10]], 1) - drift + classes.unsqueeze(1) - 3 * offset,
        "weights": torch.rand(rows, generator=generator, dtype=torch.float64) + 0.5,
    }
    if labels in ("classes", "some"):
        stream["targets"] = one_hot(classes, 3)
    if labels == "several":  # one row in eight or so has none
        stream["targets"] = torch.randint(0, 2, (rows, 3), generator=generator).float()
    if labels == "some":
        stream["known"] = torch.rand(rows, generator=generator) < 0.6
    return stream


def part(stream, rows):
    return {name: tensor[rows] for name, tensor in stream.items()}


def accumulate(stream, splits=1):
    accumulator = PairMoments(3, 5, 3)
    for rows in torch.arange(len(stream["audio"])).tensor_split(splits):
        accumulator.update(**part(stream, rows))
    return accumulator


def two_passes(stream, cluster_weight):
    """(S_aa, S_vv, S_av) with the matrix P of all pairs written out: S = A'PV/W."""
    weights = stream.get("weights", torch.ones(len(stream["audio"]))).double().numpy()
    audio, visual = stream["audio"].double().numpy(), stream["visual"].double().numpy()
    audio, visual = audio - weights @ audio / weights.sum(), visual - weights @ visual / weights.sum()
    members = stream.get("targets", torch.zeros(len(audio), 3)).double().numpy()
    if "known" in stream:
        members = members * stream["known"].numpy()[:, None]
    labelled = members.any(axis=1)
    members[labelled] *= (weights[labelled] / members[labelled].sum(axis=1))[:, None]
    clusters = (members / np.maximum(members.sum(axis=0), 1e-300)) @ members.T
    # A row that nobody labelled is a class of its own.
    clusters += np.diag(weights * ~labelled)
    mixed = (1 - cluster_weight) * np.diag(weights) + cluster_weight * clusters
    products = (audio.T * weights) @ audio, (visual.T * weights) @ visual, audio.T @ mixed @ visual
    return tuple(product / weights.sum() for product in products)


def assert_moments(stream, *accumulators):
    for cluster_weight in (0.0, 0.3, 1.0):
        expected = two_passes(stream, cluster_weight)
        audio, visual = (np.sqrt(np.diagonal(marginal)) for marginal in expected[:2])
        # An entry of a covariance is made of the deviations of two columns: errors are relative to those.
        sizes = np.outer(audio, audio), np.outer(visual, visual), np.outer(audio, visual)
        for accumulator in accumulators:
            for found, twin, size in zip(accumulator.covariances(cluster_weight)[:3], expected, sizes, strict=True):
                assert np.abs((found.numpy() - twin) / size).max() < 1e-12


@pytest.mark.parametrize("labels", KINDS_OF_LABELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_one_update_equals_two_passes(labels, weighted):
    stream = make_stream(labels=labels)
    if not weighted:
        del stream["weights"]
    assert_moments(stream, accumulate(stream))


@pytest.mark.parametrize("splits", [2, 7, (1, 2, 300), 600])
@pytest.mark.parametrize("labels", KINDS_OF_LABELS)
def test_any_split_into_updates_gives_the_same_moments(splits, labels):
    stream = make_stream(labels=labels, offset=10.0)
    assert_moments(stream, accumulate(stream, splits))


@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("splits", [1, 3, 60])
def test_a_large_offset_costs_no_digits(offset, splits):
    # A double of 1e6 is spaced by 1e-10: what an update loses by moving its mean must not stay in the sums.
    stream = make_stream(offset=offset, labels="some")
    assert_moments(stream, accumulate(stream, splits))


def test_a_long_update_is_cut_into_chunks(monkeypatch):
    monkeypatch.setattr(moments, "_CHUNK_BYTES", 1)  # as short as they get: 256 rows
    stream = make_stream(rows=600, labels="some")
    assert_moments(stream, accumulate(stream))
    columns = ColumnMoments(3, "audio").update(stream["audio"])
    np.testing.assert_allclose(columns.variance(), stream["audio"].numpy().var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("labels", KINDS_OF_LABELS)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_accumulators_merge_in_any_order(labels, offset):
    stream = make_stream(rows=120, labels=labels, offset=offset)
    parts = [part(stream, rows) for rows in torch.arange(120).tensor_split((0, 7, 80))]  # the first is empty
    merged = []
    for order in itertools.permutations(parts):
        first, *others = (PairMoments(3, 5, 3).update(**rows) for rows in order)
        merged.append(functools.reduce(PairMoments.merge, others, first))
    assert_moments(stream, *merged)
    assert {accumulator.rows for accumulator in merged} == {120}


def test_a_merged_accumulator_takes_further_rows():
    stream = make_stream(labels="some")
    rows = torch.arange(600).tensor_split(3)
    merged = PairMoments(3, 5, 3).update(**part(stream, rows[0]))
    merged.merge(PairMoments(3, 5, 3).update(**part(stream, rows[1]))).update(**part(stream, rows[2]))
    assert_moments(stream, merged)


def test_one_process_reduces_to_itself():
    stream = make_stream(labels="some")
    assert_moments(stream, accumulate(stream, 3).all_reduce())
    columns = ColumnMoments(3, "audio").update(stream["audio"]).all_reduce()
    np.testing.assert_allclose(columns.variance(), stream["audio"].numpy().var(axis=0), rtol=1e-12)


def test_a_weight_of_three_is_a_row_that_came_three_times():
    stream = make_stream(rows=50)
    times = torch.arange(50) % 3 + 1
    repeated = {name: tensor.repeat_interleave(times, dim=0) for name, tensor in stream.items()}
    del repeated["weights"]
    assert_moments(repeated, accumulate(stream | {"weights": times}))


def test_a_row_of_no_weight_changes_nothing():
    stream = make_stream(rows=50)
    stream["weights"][40:] = 0
    assert_moments(part(stream, slice(0, 40)), accumulate(stream))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_rows_are_summed_in_float64(dtype):
    stream = make_stream(offset=5.0)
    stream |= {name: stream[name].to(dtype) for name in ("audio", "visual")}
    assert_moments(stream, accumulate(stream, 3))


def test_without_any_label_each_clip_is_its_own_class():
    stream = make_stream(labels="none")
    for given in (stream, stream | {"targets": torch.zeros(600, 3)}):
        accumulator = accumulate(given, 3)
        torch.testing.assert_close(accumulator.covariances(1.0).cross, accumulator.covariances().cross)
        assert_moments(stream, accumulator)


def test_targets_to_be_ignored_may_hold_anything():
    stream = make_stream(labels="some")
    garbage = torch.where(stream["known"].unsqueeze(1), stream["targets"].double(), NAN)
    assert_moments(stream, accumulate(stream | {"targets": garbage}))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6, -1e6 - 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_column_has_no_covariance_whatever_its_value(value, weighted):
    # Many rows, since rounding adds up: two such columns would otherwise correlate perfectly.
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    rows[:, 1] = value
    weights = torch.rand(len(rows), generator=generator, dtype=torch.float64) if weighted else None
    covariances = PairMoments(2, 2).update(rows, rows, weights=weights).covariances()
    for matrix in covariances[:3]:
        assert matrix[0, 0] > 0.9
        assert not matrix[1].any() and not matrix[:, 1].any()
    assert ColumnMoments(2, "audio").update(rows).variance()[1] == 0


def test_a_column_that_varies_a_little_is_not_constant():
    column = 1e6 + 1e-3 * torch.randn(500, 1, dtype=torch.float64)
    expected = np.var(column.numpy())
    assert PairMoments(1, 1).update(column, column).covariances().cross.item() == pytest.approx(expected, rel=1e-9)
    assert ColumnMoments(1, "audio").update(column).variance().item() == pytest.approx(expected, rel=1e-9)


def test_a_block_has_the_covariances_of_its_columns():
    rows = torch.randn(30, 5, dtype=torch.float64)
    block = PairMoments(5, 5).update(rows, 2 * rows).covariances().block(slice(1, 3))
    twin = PairMoments(2, 2).update(rows[:, 1:3], 2 * rows[:, 1:3]).covariances()
    for found, expected in zip(block, twin, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("name", ["audio", "visual"])
@pytest.mark.parametrize("row", [0, 299, 300, 599])
def test_a_row_that_is_not_finite_is_named_by_its_number_in_the_stream(name, value, row, monkeypatch):
    monkeypatch.setattr(moments, "_CHUNK_BYTES", 1)
    stream = make_stream(rows=600)
    stream[name][row, 1] = value
    message = f"{name.capitalize()} features must be finite numbers, but row {row} holds NaN or infinity"
    for splits in (1, 2):  # row 299 lies past the first chunk, row 300 may begin the second update
        with pytest.raises(ValueError, match=message):
            accumulate(stream, splits)
    columns = ColumnMoments(stream[name].shape[1], name)
    with pytest.raises(ValueError, match=message):
        columns.update(stream[name][:300]).update(stream[name][300:])


def test_a_row_that_is_not_finite_is_refused_at_no_weight_too():
    stream = make_stream(rows=20)
    stream["visual"][3, 0], stream["weights"][3] = INFINITY, 0
    with pytest.raises(ValueError, match="Visual features must be finite numbers, but row 3"):
        accumulate(stream)


@pytest.mark.parametrize(
    ("audio", "visual", "message"),
    [
        ((4, 3), (5, 5), "Audio and visual rows must pair up: 4 against 5. Drop the unpaired clips."),
        ((4, 2), (4, 5), r"Expected audio rows of shape \(n, 3\), got \(4, 2\)"),
        ((4, 3), (4, 1), r"Expected visual rows of shape \(n, 5\), got \(4, 1\)"),
        ((4,), (4, 5), r"Expected audio rows of shape \(n, 3\), got \(4,\)"),
        ((4, 3), (4, 5, 1), r"Expected visual rows of shape \(n, 5\), got \(4, 5, 1\)"),
    ],
)
def test_rows_of_a_wrong_shape_are_refused(audio, visual, message):
    with pytest.raises(ValueError, match=message):
        PairMoments(3, 5).update(torch.zeros(audio), torch.zeros(visual))


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (4,)])
def test_columns_of_a_wrong_width_are_refused(shape):
    with pytest.raises(ValueError, match="3"):
        ColumnMoments(3, "audio").update(torch.zeros(shape))


@pytest.mark.parametrize("name", ["targets", "known", "weights"])
@pytest.mark.parametrize("rows", [49, 51])
def test_what_comes_with_the_rows_must_pair_up_too(name, rows):
    stream = make_stream(rows=50, labels="some")
    stream[name] = make_stream(rows=rows, labels="some")[name]
    with pytest.raises(ValueError, match=f"{rows}"):
        PairMoments(3, 5, 3).update(**stream)


def test_targets_must_be_as_wide_as_there_are_classes():
    with pytest.raises(ValueError, match="3"):
        PairMoments(2, 2, 3).update(torch.zeros(4, 2), torch.zeros(4, 2), torch.ones(4, 2))


@pytest.mark.parametrize("make", [accumulate, lambda stream: PairMoments(3, 5).merge(PairMoments(3, 5))])
def test_no_rows_at_all_are_refused(make):
    with pytest.raises(ValueError, match="Cannot fit to an empty split: no rows came"):
        make(make_stream(rows=0)).covariances()


@pytest.mark.parametrize("splits", [1, (1, 2, 50), 200])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_column_moments_equal_two_passes_for_any_split(splits, offset):
    rows = make_stream(rows=200, offset=offset)["audio"]
    columns = ColumnMoments(3, "audio")
    for piece in rows.tensor_split(splits):
        columns.update(piece)
    assert columns.count == 200
    np.testing.assert_allclose(columns.mean, rows.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(columns.variance(), rows.numpy().var(axis=0), rtol=1e-12)


def test_rows_of_no_weight_do_not_set_the_pivot():
    rows = torch.randn(50, 2, dtype=torch.float64) * 1e-3 + 1e8
    outlier = torch.full((1, 2), 1e15, dtype=torch.float64)
    weights = torch.ones(51)
    weights[0] = 0
    both = torch.cat([outlier, rows])
    found = PairMoments(2, 2).update(both, both, weights=weights).covariances().audio
    expected = PairMoments(2, 2).update(rows, rows).covariances().audio
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


# Every pair of a class at the same weight.


def every_pair(stream, cluster_weight):
    """(S_aa, S_vv, S_av) with a matrix that counts each pair of a class: as often as both of its rows came."""
    audio, visual = stream["audio"].numpy(), stream["visual"].numpy()
    weights = stream.get("weights", torch.ones(len(audio))).double().numpy()
    audio, visual = audio - weights @ audio / weights.sum(), visual - weights @ visual / weights.sum()
    members = stream["targets"].double().numpy() * stream.get("known", torch.ones(len(audio))).numpy()[:, None]
    members /= np.maximum(members.sum(axis=1, keepdims=True), 1)
    pairs = (weights[:, None] * members) @ (weights[:, None] * members).T
    pairs += np.diag(weights * ~members.any(axis=1))  # each time an unlabelled row came it met itself
    mixed = (1 - cluster_weight) * np.diag(weights) / weights.sum() + cluster_weight * pairs / pairs.sum()
    return *((view.T * weights) @ view / weights.sum() for view in (audio, visual)), audio.T @ mixed @ visual


@pytest.mark.parametrize("labels", ["classes", "several", "some"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cluster_weight", [0.0, 0.8, 1.0])
def test_all_pairs_of_a_class_count_the_same(labels, weighted, cluster_weight):
    stream = make_stream(rows=90, labels=labels, offset=10.0)
    if not weighted:
        del stream["weights"]
    expected = every_pair(stream, cluster_weight)
    merged = accumulate(part(stream, slice(0, 31))).merge(accumulate(part(stream, slice(31, 90)), 3))
    for accumulator in (accumulate(stream), accumulate(stream, (1, 2, 50)), merged):
        for found, twin in zip(accumulator.covariances(cluster_weight, all_pairs=True)[:3], expected, strict=True):
            # Entries of about one to ten, moved by offsets of ten to thirty and back.
            np.testing.assert_allclose(found, twin, atol=1e-11)


def test_all_pairs_see_a_weight_of_two_as_a_row_that_came_twice():
    stream = make_stream(rows=40, labels="some")
    times = torch.arange(40) % 2 + 1
    repeated = {name: tensor.repeat_interleave(times, dim=0) for name, tensor in stream.items() if name != "weights"}
    found = accumulate(stream | {"weights": times}).covariances(0.7, all_pairs=True)
    for one, twin in zip(found, accumulate(repeated).covariances(0.7, all_pairs=True), strict=True):
        torch.testing.assert_close(one, twin, rtol=1e-12, atol=1e-12)


def test_without_any_label_all_pairs_are_the_own_ones():
    accumulator = accumulate(make_stream(rows=50, labels="none"))
    torch.testing.assert_close(accumulator.covariances(1.0, all_pairs=True).cross, accumulator.covariances().cross)
