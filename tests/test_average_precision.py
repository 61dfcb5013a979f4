"""The ranking kernel against loops, peers, all orders of what is tied, and itself on inputs of every kind."""

import ast
import functools
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from modeling_dualspace import average_precision as kernel
from modeling_dualspace.average_precision import average_precision, query_chunks, rank
from modeling_dualspace.legacy_prefix_average import prefix_average

AVE = (10, 9, 17, 17, 6, 6, 10, 18, 18, 18, 16, 6, 17, 8, 13)
"""Test clips by class of the 15 that the paper keeps: 189."""
ZERO = np.zeros((1, 1))


def rank_with_torch(scores, relevant):
    """What runs on a GPU, here on the CPU."""
    scores, relevant = kernel._Cuda.arrays(torch.as_tensor(scores), torch.as_tensor(relevant))
    return kernel._ranking(kernel._Cuda, kernel._Cuda.sort(scores), *kernel._Cuda.hits(scores, relevant))


DEVICES = pytest.mark.parametrize("make", [rank, rank_with_torch])


def measures(ranking, cuts=None):
    """Every number there is, `(q, numbers)`: at all cut-offs, two of them beyond the gallery."""
    cuts = cuts or range(1, ranking.items + 3)
    at = [ranking.average_precision, ranking.precision, ranking.recall, ranking.hit]
    columns = [ranking.average_precision(), ranking.r_precision()] + [measure(k) for measure in at for k in cuts]
    return np.stack([*columns, prefix_average(ranking)], axis=1)


def naive_measures(relevant):
    """The same of relevances in the order of the ranking, by their definitions."""
    n, total = len(relevant), sum(relevant)
    if not total:
        return [math.nan] * (3 + 4 * (n + 2))
    found = [sum(relevant[:k]) for k in range(n + 1)]
    sums = [sum(found[j + 1] / (j + 1) for j in range(k) if relevant[j]) for k in range(n + 1)]
    cuts = [*range(1, n + 1), n, n]
    columns = [sums[n] / total, found[total] / total] + [sums[k] / min(total, k) for k in cuts]
    columns += [found[k] / k for k in cuts] + [found[k] / total for k in cuts] + [found[k] > 0 for k in cuts]
    return columns + [sum(sums[k] / found[k] for k in cuts[:n] if found[k]) / n]


@functools.cache
def naive_table(items):
    """`naive_measures` of every pattern of relevance."""
    return np.array([naive_measures(pattern) for pattern in itertools.product([0, 1], repeat=items)])


def expected_measures(scores, relevant):
    """Means over all orders that descend by score, for each row of `relevant`."""
    orders = [
        list(order)
        for order in itertools.permutations(range(len(scores)))
        if all(scores[i] >= scores[j] for i, j in itertools.pairwise(order))
    ]
    patterns = relevant[:, orders] @ (2 ** np.arange(len(scores))[::-1])
    return naive_table(len(scores))[patterns].mean(axis=1)


def make_scores(queries=30, items=40, levels=None, seed=0, dtype=np.float64):
    """Scores of both signs, without ties or of a few levels; relevance of very unequal counts, the first row's none."""
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((queries, items))
    if levels:
        scores = generator.integers(-levels // 2, levels // 2, (queries, items))
    relevant = generator.random((queries, items)) < generator.random((queries, 1)) ** 3
    relevant[range(queries), generator.integers(0, items, queries)] = True
    relevant[0], relevant[1:2] = False, True
    return scores.astype(dtype), relevant


# Peers.


def test_a_ranking_without_ties_has_the_measures_of_the_loops():
    scores, relevant = make_scores()
    in_order = np.take_along_axis(relevant, np.argsort(-scores, axis=1), axis=1)
    expected = np.array([naive_measures(row.astype(int).tolist()) for row in in_order])
    np.testing.assert_allclose(measures(rank(scores, relevant)), expected, rtol=1e-9)
    np.testing.assert_allclose(average_precision(scores, relevant), expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(average_precision(scores, relevant, 7), expected[:, 8], rtol=1e-9)


def test_average_precision_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    scores, relevant = make_scores(60, 90)
    expected = [metrics.average_precision_score(*row) for row in zip(relevant[1:], scores[1:], strict=True)]
    np.testing.assert_allclose(average_precision(scores, relevant), [np.nan, *expected], rtol=1e-9)


def test_average_precision_is_that_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.retrieval")
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    scores, relevant = make_scores(50, 80, dtype=np.float32)
    found = average_precision(scores, relevant)
    # The peer takes no item of a score <= 0 for relevant.
    scores, relevant = torch.from_numpy(scores - scores.min() + 1), torch.from_numpy(relevant)
    expected = [functional.retrieval_average_precision(*row) for row in zip(scores[1:], relevant[1:], strict=True)]
    np.testing.assert_allclose(found[1:], torch.stack(expected), atol=1e-6)
    metric = retrieval.RetrievalMAP(empty_target_action="skip")
    metric.update(scores.flatten(), relevant.flatten(), indexes=torch.arange(50).repeat_interleave(80))
    assert np.nanmean(found) == pytest.approx(metric.compute().item(), abs=1e-6)


@pytest.mark.slow
def test_every_measure_is_that_of_ranx():
    ranx = pytest.importorskip("ranx")
    scores, relevant = make_scores(25, 30)
    scores, relevant = scores[1:], relevant[1:]
    run = {f"q{q:02}": {f"d{d}": float(score) for d, score in enumerate(row)} for q, row in enumerate(scores)}
    qrels = {f"q{q:02}": {f"d{d}": 1 for d in np.flatnonzero(row)} for q, row in enumerate(relevant)}
    ranking, cuts = rank(scores, relevant), (1, 2, 5, 10, 30)
    found = {"map": ranking.average_precision(), "r-precision": ranking.r_precision()}
    for name, measure in (("recall", ranking.recall), ("precision", ranking.precision), ("hit_rate", ranking.hit)):
        found |= {f"{name}@{k}": measure(k) for k in cuts}
    expected = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(found), return_mean=False)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, err_msg=name)


# Ties.


@DEVICES
@pytest.mark.parametrize("items", [1, 2, 3, 4, 5, 6])
def test_ties_count_by_the_expectation_over_their_orders(items, make):
    relevant = np.array(list(itertools.product([0, 1], repeat=items)))
    for levels in itertools.combinations_with_replacement([-math.inf, -0.5, 3.0], items):
        scores = np.random.default_rng(items).permutation(levels)
        ranking = make(np.tile(scores, (len(relevant), 1)), relevant)
        np.testing.assert_allclose(measures(ranking), expected_measures(scores, relevant), rtol=0, atol=1e-12)
        own = np.arange(len(relevant)) % items
        expected = expected_measures(scores, np.eye(items, dtype=int))[own]
        given = scores[own] if make is rank else torch.from_numpy(scores[own])
        np.testing.assert_allclose(measures(ranking.only(given)), expected, rtol=0, atol=1e-12)


def test_ties_of_each_query_are_its_own():
    # Rows of one chunk with other scores, other ties and other counts than their neighbours.
    scores, relevant = make_scores(40, 6, levels=4)
    rows = zip(scores, relevant[:, None].astype(int), strict=True)
    expected = np.concatenate([expected_measures(*row) for row in rows])
    np.testing.assert_allclose(measures(rank(scores, relevant)), expected, rtol=0, atol=1e-12)


def test_a_hit_among_many_ties_has_the_probability_of_a_draw_without_return():
    relevant = np.arange(189) < np.array(AVE)[:, None]
    ranking = rank(np.zeros(relevant.shape), relevant)
    for k in (1, 2, 10, 100, 170, 188, 189):
        expected = [1 - math.comb(189 - count, k) / math.comb(189, k) for count in AVE]
        np.testing.assert_allclose(ranking.hit(k), expected, rtol=1e-9)
        np.testing.assert_allclose(ranking.recall(k), k / 189, rtol=1e-9)


def test_ties_far_down_a_large_gallery_keep_their_digits():
    scores, relevant = np.zeros((2, 100_000)), np.zeros((2, 100_000), dtype=bool)
    scores[0, :-2] = np.arange(100_000)[:1:-1]
    relevant[0, -2:], relevant[1, 7] = True, True
    harmonic = math.fsum(1 / rank for rank in range(1, 100_001))
    expected = [(1 / 99_999 + 2 / 100_000) / 2, harmonic / 100_000]
    np.testing.assert_allclose(average_precision(scores, relevant), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(rank(scores, relevant).hit(10), [0, 1e-4], rtol=0, atol=1e-10)


def closed_form(items, count):
    """Expected average precision of a random ranking."""
    harmonic = sum(1 / rank for rank in range(1, items + 1))
    return (harmonic + (count - 1) * (items - harmonic) / (items - 1)) / items


def test_a_random_ranking_has_the_average_precision_of_the_closed_form():
    labels = np.repeat(np.arange(15), AVE)
    relevant = labels[:, None] == labels
    expected = np.array([closed_form(189, AVE[label]) for label in labels])
    alike = rank(np.full((189, 189), -0.3), relevant)
    np.testing.assert_allclose(alike.average_precision(), expected, rtol=1e-9)
    generator = np.random.default_rng(0)
    random = [average_precision(generator.standard_normal((189, 189)), relevant).mean() for _ in range(20)]
    assert expected.mean() == pytest.approx(0.0998, abs=5e-5)
    assert np.mean(random) == pytest.approx(expected.mean(), abs=0.003)


# Properties.


@DEVICES
@pytest.mark.parametrize("levels", [None, 8])
def test_the_order_of_the_gallery_and_the_scale_of_scores_do_not_matter(levels, make):
    scores, relevant = make_scores(levels=levels)
    expected, order = measures(make(scores, relevant)), np.random.default_rng(1).permutation(40)
    np.testing.assert_array_equal(measures(make(scores.take(order, axis=1), relevant.take(order, axis=1))), expected)
    np.testing.assert_array_equal(measures(make(np.exp(scores), relevant)), expected)
    np.testing.assert_array_equal(measures(make(scores * 1e30 - 1e20, relevant)), expected)


@pytest.mark.parametrize("levels", [None, 2, 8])
def test_measures_keep_their_bounds(levels):
    scores, relevant = make_scores(100, 50, levels=levels)
    ranking = rank(scores, relevant)
    values = measures(ranking)
    assert np.isnan(values[0]).all() and not np.isnan(values[1:]).any()
    assert (values[1:] >= 0).all() and (values[1:] <= 1 + 1e-12).all()
    for measure in (ranking.recall, ranking.hit):
        curve = np.array([measure(k) for k in range(1, 51)])[:, 1:]
        assert (np.diff(curve, axis=0) >= -1e-12).all() and np.allclose(curve[-1], 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ranking.average_precision(50), ranking.average_precision(), rtol=1e-12)


def test_a_ranking_is_perfect_or_as_bad_as_it_gets():
    counts = np.arange(1, 21)
    relevant, scores = np.arange(20) < counts[:, None], np.tile(-np.arange(20.0), (20, 1))
    perfect, reversed_ = rank(scores, relevant), rank(-scores, relevant)
    for measure in (perfect.average_precision, perfect.r_precision, functools.partial(prefix_average, perfect)):
        np.testing.assert_allclose(measure(), 1, rtol=1e-12)
    worst = [np.mean([i / (20 - count + i) for i in range(1, count + 1)]) for count in counts]
    np.testing.assert_allclose(reversed_.average_precision(), worst, rtol=1e-12)
    np.testing.assert_array_equal(reversed_.hit(5), counts > 15)


@pytest.mark.parametrize("queries", [0, 1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("items", [0, 1, 10])
def test_chunks_cover_every_query_once_and_none_has_a_single_row(queries, items):
    for budget in (1, 10, 20, 35, 10_000):
        chunks = list(query_chunks(queries, items, scores=budget))
        assert [row for chunk in chunks for row in range(queries)[chunk]] == list(range(queries))
        sizes = [chunk.stop - chunk.start for chunk in chunks]
        assert all(size > 1 for size in sizes) or queries == 1
        assert all(size <= max(2, budget // max(items, 1)) + 1 for size in sizes)
    assert list(query_chunks(queries, items)) == ([slice(0, queries)] if queries else [])


@pytest.mark.parametrize("budget", [1, 300, 400, 2000, 10**6])
@pytest.mark.parametrize("levels", [None, 8])
def test_chunks_of_any_size_give_the_same_numbers(budget, levels, monkeypatch):
    # To the last bit, although each chunk has its own largest number of relevant items.
    (scores, relevant), cuts = make_scores(61, 300, levels=levels), (1, 5, 40, 299)
    expected, whole = average_precision(scores, relevant, 5), measures(rank(scores, relevant), cuts)
    monkeypatch.setattr(kernel, "query_chunks", lambda queries, items, _=0: query_chunks(queries, items, budget))
    np.testing.assert_array_equal(average_precision(scores, relevant, 5), expected)
    parts = [measures(rank(scores[chunk], relevant[chunk]), cuts) for chunk in kernel.query_chunks(61, 300)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


# Inputs.


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float16, np.float32, np.float64, ">f4"])
def test_scores_and_relevance_of_any_type_rank_alike(dtype):
    scores, relevant = make_scores(levels=100)
    scores = (scores > 0 if dtype is bool else abs(scores)).astype(dtype)
    expected = average_precision(scores.astype(np.float64), relevant)
    for kind in (bool, np.int64, np.float32):
        found = average_precision(scores, relevant.astype(kind))
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scores", [np.float16([[1, 1 + 2**-10, 2**-24, 0]]), np.array([[2, 3, 1, 0]]) + 2**40])
def test_scores_that_differ_in_their_own_type_do_not_tie(scores):
    np.testing.assert_allclose(average_precision(scores, np.array([[0, 1, 1, 0]])), [5 / 6], rtol=1e-12)


def laid_out(array):
    """The same numbers in other strides, and one that nobody may write to."""
    frozen = array.copy()
    frozen.setflags(write=False)
    return [array.T.copy().T, array.repeat(2, axis=0)[::2], array[::-1, ::-1].copy()[::-1, ::-1], frozen]


@DEVICES
@pytest.mark.filterwarnings("error", "ignore:The given NumPy array is not writable")
def test_the_layout_of_memory_does_not_matter_and_inputs_stay_as_they_are(make, request):
    request.addfinalizer(functools.partial(torch.set_warn_always, torch.is_warn_always_enabled()))
    torch.set_warn_always(True)  # of each copy that a layout costs, not of the first alone
    scores, relevant = make_scores(levels=8, dtype=np.float32)
    expected = measures(make(scores, relevant))
    for given, hits in itertools.product(laid_out(scores), laid_out(relevant)):
        if make is rank_with_torch and min(*given.strides, *hits.strides) < 0:
            continue  # a tensor cannot
        np.testing.assert_array_equal(measures(make(given, hits)), expected)
        np.testing.assert_array_equal(given, scores)
        np.testing.assert_array_equal(hits, relevant)


def test_infinite_scores_stand_at_the_ends():
    scores = np.array([[0.0, np.inf, -np.inf, np.inf, -np.inf]])
    np.testing.assert_allclose(average_precision(scores, np.array([[1, 1, 0, 0, 0]])), [(3 / 4 + 2 / 3) / 2])
    np.testing.assert_allclose(average_precision(scores, np.array([[0, 0, 1, 0, 0]])), [(1 / 4 + 1 / 5) / 2])


@DEVICES
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_two_zeros_tie(dtype, make):
    scores = np.array([[0.0, -0.0, -1], [-0.0, 0.0, -1]], dtype=dtype)
    for relevant in np.array([[[1, 0, 0]] * 2, [[0, 1, 0]] * 2]):
        np.testing.assert_array_equal(make(scores, relevant).average_precision(), [0.75, 0.75])


@pytest.mark.parametrize("nan", [np.nan, -np.nan])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_that_are_no_numbers_are_refused_by_the_number_of_their_query(nan, dtype, monkeypatch):
    scores, relevant = make_scores(20, 33, dtype=dtype)
    scores[17, 5] = scores[19, 2] = nan
    monkeypatch.setattr(kernel, "query_chunks", lambda queries, items, _=0: query_chunks(queries, items, 100))
    for given in (scores, torch.from_numpy(scores)):
        with pytest.raises(ValueError, match="query 17 hold NaN"):
            average_precision(given, relevant)
    with pytest.raises(ValueError, match="query 107 hold NaN"):
        rank(scores[10:], relevant[10:], first=100)
    with pytest.raises(ValueError, match="query 7 hold NaN"):
        rank(scores[10:], relevant[10:])


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((2, 3), (3,)), ((1, 2, 3),) * 2])
def test_relevance_of_another_shape_is_refused(shapes):
    scores, relevant = map(np.zeros, shapes)
    with pytest.raises(ValueError, match=r"one shape, \(queries, items\); got"):
        average_precision(scores, relevant)


@pytest.mark.parametrize("k", [0, -1])
def test_a_cut_off_below_one_is_refused(k):
    ranking = rank(ZERO, ZERO)
    for measure in (ranking.average_precision, ranking.precision, ranking.recall, ranking.hit):
        with pytest.raises(ValueError, match=f"from 1 on, got {k}"):
            measure(k)


@DEVICES
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_rank_has_no_measure(shape, make):
    values = measures(make(np.zeros(shape), np.zeros(shape)))
    assert len(values) == shape[0] and np.isnan(values).all()
    assert average_precision(np.zeros(shape), np.zeros(shape)).shape == shape[:1]


@DEVICES
def test_one_item_is_found_at_once(make):
    np.testing.assert_array_equal(measures(make(ZERO, ZERO + 1)), np.ones((1, 15)))


# Torch.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_tensors_give_a_tensor_of_the_same_numbers(dtype):
    scores, relevant = make_scores(levels=20)
    expected = average_precision(scores, relevant, 9)
    for hits in (torch.from_numpy(relevant), torch.from_numpy(relevant).to(dtype)):
        found = average_precision(torch.from_numpy(scores).to(dtype), hits, 9)
        assert isinstance(found, torch.Tensor) and found.dtype == torch.float64
        np.testing.assert_array_equal(found, expected)


@DEVICES
def test_scores_with_a_gradient_are_ranked_without_it(make):
    scores, relevant = make_scores(levels=8)
    found = make(torch.from_numpy(scores).requires_grad_(), torch.from_numpy(relevant))
    np.testing.assert_array_equal(measures(found), measures(rank(scores, relevant)))
    assert not getattr(found.ordered, "requires_grad", False)


@pytest.mark.parametrize("levels", [None, 3, 8, 30])
def test_what_runs_on_a_gpu_gives_the_same_numbers(levels):
    scores, relevant = make_scores(levels=levels)
    scores[2, ::3], scores[3:6, ::2], scores[4] = -np.inf, np.inf, -np.inf
    host, other, own = rank(scores, relevant), rank_with_torch(scores, relevant), scores.diagonal()
    np.testing.assert_array_equal(measures(other), measures(host))
    np.testing.assert_array_equal(measures(other.only(torch.tensor(own))), measures(host.only(own)))


def test_the_file_stands_alone_with_numpy():
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", sys.argv[1])
module = sys.modules["alone"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import numpy as np
assert module.average_precision(np.array([[0.5, 0.5]]), np.array([[0, 1]])) == 0.75
assert not {"torch", "scipy", "transformers", "modeling_dualspace"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-c", code, kernel.__file__], check=True, timeout=60)
    with open(kernel.__file__) as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    assert not any(node.level for node in nodes if isinstance(node, ast.ImportFrom))


def test_what_is_swapped_or_no_relevance_is_refused():
    scores, relevant = np.array([[0.5, -0.2]]), np.array([[True, False]])
    with pytest.raises(ValueError, match="are they swapped"):
        average_precision(relevant, scores)
    for wrong in (scores, np.array([[2, 0]]), np.array([[np.nan, 1]])):
        with pytest.raises(ValueError, match="relevance of True and False, or 1 and 0"):
            average_precision(scores, wrong)
    assert average_precision([[0.5, -0.2]], [[1, 0]]).tolist() == [1.0]
