"""Made-up features: the same whenever and however they are drawn, and as hard as they are meant to be."""

import pytest
import torch
from torch.nn.functional import one_hot

from modeling_dualspace import CanonicalLayer, PairMoments, canonical_directions
from modeling_dualspace.ranking import mean_average_precision
from modeling_dualspace.synthetic import CLASS_SHARES, CLASSES, synthetic_chunks, synthetic_clips

PUBLISHED = {"cca": 0.330, "cluster_cca": 0.708}
"""Test MAP on VEGAS, the mean of both directions: what the constants were calibrated to."""


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, column in found.items():
        assert torch.equal(column, expected[name]), name


# The draw.


def test_clips_are_columns_of_the_contract():
    clips = synthetic_clips(1234, seed=0)
    shapes = {name: (tuple(column.shape), column.dtype) for name, column in clips.items()}
    assert shapes == {
        "audio_features": ((1234, 128), torch.float32),
        "visual_features": ((1234, 1024), torch.float32),
        "labels": ((1234,), torch.int64),
    }


@pytest.mark.parametrize(("audio_dim", "visual_dim"), [(1, 1), (6, 8), (200, 3)])
def test_any_width_will_do(audio_dim, visual_dim):
    clips = synthetic_clips(7, 0, audio_dim, visual_dim)
    assert clips["audio_features"].shape == (7, audio_dim) and clips["visual_features"].shape == (7, visual_dim)
    assert all(torch.isfinite(column).all() for column in clips.values())


def test_equal_seeds_give_equal_clips_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    clips = synthetic_clips(1500, 3, 6, 8)
    assert_same(synthetic_clips(1500, 3, 6, 8), clips)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("other", [1, -1, 2**32])
def test_other_seeds_give_other_clips(other):
    # A CPU generator would take 2**32 for 0.
    one, two = synthetic_clips(50, 0, 6, 8), synthetic_clips(50, other, 6, 8)
    assert all((one[name] != two[name]).any() for name in one)


def test_no_chunk_repeats_another():
    audio = synthetic_clips(3000, 0, 6, 8)["audio_features"]
    assert len(audio.unique(dim=0)) == 3000


def test_a_larger_draw_begins_with_a_smaller_one():
    larger = synthetic_clips(2300, 0)
    for rows in (1, 999, 1000, 1001, 2000):
        assert_same({name: column[:rows] for name, column in larger.items()}, synthetic_clips(rows, 0))


def test_chunks_end_to_end_are_the_clips():
    chunks = list(synthetic_chunks(2300, 0, 6, 8))
    assert [len(chunk["labels"]) for chunk in chunks] == [1000, 1000, 300]
    assert_same(
        {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}, synthetic_clips(2300, 0, 6, 8)
    )


def test_nothing_is_drawn_before_it_is_asked_for():
    first = next(iter(synthetic_chunks(10**12, 0, 6, 8)))
    assert_same(first, synthetic_clips(1000, 0, 6, 8))


def test_the_width_of_one_modality_changes_nothing_else():
    narrow, wide = synthetic_clips(100, 0, 6, 8), synthetic_clips(100, 0, 6, 20)
    assert torch.equal(narrow["labels"], wide["labels"])
    assert torch.equal(narrow["audio_features"], wide["audio_features"])


def test_the_number_of_threads_changes_no_more_than_rounding():
    # Products may be summed in another order; what is drawn may not change.
    threads, drawn = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            drawn.append(synthetic_clips(1000, 0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0]["labels"], drawn[1]["labels"])
    for name in ("audio_features", "visual_features"):
        torch.testing.assert_close(drawn[0][name], drawn[1][name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"rows": -3}, {"audio_dim": 0}, {"visual_dim": 0}])
def test_nothing_to_draw_is_refused_at_the_call(wrong):
    with pytest.raises(ValueError, match=f"Expected `{next(iter(wrong))}` of synthetic clips to be at least 1"):
        synthetic_chunks(**{"rows": 5, "seed": 0} | wrong)


# What is drawn.


def test_audio_is_bounded_and_visual_is_mostly_small_with_a_long_tail():
    clips = synthetic_clips(2000, 0)
    audio, visual = clips["audio_features"], clips["visual_features"]
    assert audio.abs().max() <= 0.5 and audio.unique().numel() > 0.9 * audio.numel()
    assert visual.min() == 0 and 0.4 < (visual == 0).float().mean() < 0.8
    deviation = visual - visual.mean()
    assert deviation.pow(3).mean() / visual.std() ** 3 > 1.5  # skewed, where a symmetric one has 0
    assert (audio.std(dim=0) > 0.01).all() and (visual.std(dim=0) > 0.01).all()


def test_classes_are_uneven_between_half_and_one_and_a_half_times_the_mean():
    assert len(CLASSES) == len(CLASS_SHARES) == 10 and sum(CLASS_SHARES) == pytest.approx(1)
    labels = synthetic_clips(22_482, 0, 1, 1)["labels"]
    sizes = torch.bincount(labels, minlength=10) / 2248.2
    # Drawn, not dealt: the standard deviation of a share is at most .025 of the mean.
    torch.testing.assert_close(sizes, 10 * torch.tensor(CLASS_SHARES), rtol=0, atol=0.1)
    assert 0.4 < sizes.min() < 0.6 and 1.5 < sizes.max() < 1.7


def least_squares_accuracy(rows, labels, test_rows, test_labels):
    """Of a linear classifier, in closed form."""
    columns = torch.cat([rows, torch.ones(len(rows), 1)], dim=1).double()
    gram = columns.T @ columns + 1e-2 * len(rows) / 1000 * torch.eye(columns.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, columns.T @ one_hot(labels, len(CLASSES)).double())
    test_columns = torch.cat([test_rows, torch.ones(len(test_rows), 1)], dim=1).double()
    return ((test_columns @ weights).argmax(dim=1) == test_labels).float().mean().item()


def test_what_is_not_linear_tells_sounds_apart_better():
    # Of a thousand visual features a linear map is as good as any: they leave little to be untangled.
    train, test = (synthetic_clips(rows, seed, visual_dim=1) for seed, rows in enumerate((8000, 2000)))
    mean, scale = train["audio_features"].mean(dim=0), train["audio_features"].std()
    rows, test_rows = ((clips["audio_features"] - mean) / scale for clips in (train, test))
    # The hidden layer is random and only the last one fitted: what training all of it finds is no less.
    first = torch.randn(128, 1000, generator=torch.Generator().manual_seed(0)) / 128**0.5
    hidden, test_hidden = (torch.relu(part @ first + 0.5) for part in (rows, test_rows))
    linear = least_squares_accuracy(rows, train["labels"], test_rows, test["labels"])
    deep = least_squares_accuracy(hidden, train["labels"], test_hidden, test["labels"])
    # .832 and .866 here; of 2,000 clips a difference of .02 is past what chance makes.
    assert deep > linear + 0.02


def canonical_scores(train_rows, test_rows):
    """MAP of CCA and of both readings of cluster CCA, each with its first correlation."""
    train, test = synthetic_clips(train_rows, 0), synthetic_clips(test_rows, 1)
    audio, visual, targets = train["audio_features"], train["visual_features"], one_hot(train["labels"], len(CLASSES))
    sizes = targets.sum(dim=0)[train["labels"]]
    shared = PairMoments(128, 1024, len(CLASSES)).update(audio, visual, targets)
    # Of all pairs of a class: every clip is in as many as its class has clips.
    paired = PairMoments(128, 1024, len(CLASSES)).update(audio, visual, targets, weights=sizes)
    # Nine are all the directions that ten means have; a tenth would be rounding.
    asked = {
        "cca": (shared.covariances(), 10),
        "cluster_cca, shared marginals": (shared.covariances(cluster_weight=1.0), 9),
        "cluster_cca, its own marginals": (paired.covariances(cluster_weight=1.0), 9),
    }
    result = {}
    for name, (covariances, dim) in asked.items():
        layer = CanonicalLayer(128, 1024, dim)
        layer.set(canonical_directions(covariances, dim, ridge=1e-4))
        embeds = layer.audio(test["audio_features"]), layer.visual(test["visual_features"])
        score = mean_average_precision(*embeds, one_hot(test["labels"], len(CLASSES)))
        result[name] = score["map"], layer.correlations[0].item()
    return result


def assert_calibrated(found, tolerance):
    for name, (score, _) in found.items():
        assert score == pytest.approx(PUBLISHED[name.split(",")[0]], abs=tolerance), name


def test_a_third_of_the_rows_comes_near_the_published_figures_already():
    found = canonical_scores(8000, 2000)
    # Four pairs of seeds gave .307 to .322 for CCA and .667 to .700 for the two cluster CCAs: up to .04 below for want
    # of rows, and .007 of scatter.
    assert_calibrated(found, tolerance=0.05)
    # Pairs share more than their class, which is why CCA does so much worse.
    assert found["cca"][1] > found["cluster_cca, shared marginals"][1] + 0.1


@pytest.mark.slow
def test_the_whole_set_comes_near_the_published_figures():
    assert_calibrated(canonical_scores(22_482, 5_621), tolerance=0.03)


def test_ten_classes_have_nine_directions_however_many_rows_come_at_once():
    # With one rounding error for a bound, a tenth direction of this draw was kept: rounding, blown up to unit length.
    clips = synthetic_clips(22_482, seed=5)
    moments = PairMoments(128, 1024, len(CLASSES))
    moments.update(clips["audio_features"], clips["visual_features"], one_hot(clips["labels"], len(CLASSES)))
    found = canonical_directions(moments.covariances(cluster_weight=1.0), 10, ridge=1e-4).correlations
    assert found[8] > 0.3 and found[9] == 0
