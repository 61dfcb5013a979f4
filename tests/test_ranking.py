"""Average precision against loops, peers and every order of what is tied."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_dualspace import ranking
from modeling_dualspace.average_precision import average_precision, query_chunks
from modeling_dualspace.ranking import mean_average_precision, summed_average_precision


def naive_average_precision(relevant):
    """Of relevances in the order of the ranking."""
    precisions = [sum(relevant[: k + 1]) / (k + 1) for k in range(len(relevant)) if relevant[k]]
    return sum(precisions) / len(precisions)


def expected_average_precision(scores, relevant):
    """The mean over all orders of the items that descend by score, each as likely as the others."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[i] >= scores[j] for i, j in itertools.pairwise(order))
    ]
    return sum(naive_average_precision([relevant[item] for item in order]) for order in orders) / len(orders)


def make_retrieval(queries=40, items=60, classes=5, seed=0):
    """(queries, gallery, query targets, gallery targets), some of them with several classes and some with none."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = [normalize(torch.randn(rows, 6, generator=generator), dim=1) for rows in (queries, items)]
    targets = [(torch.rand(rows, classes, generator=generator) < 0.2).float() for rows in (queries, items)]
    return *embeddings, *targets


# Average precision.


def test_average_precision_equals_the_loop_over_the_ranking():
    scores, relevant = torch.rand(30, 50, dtype=torch.float64), torch.rand(30, 50) < 0.2
    order = scores.argsort(dim=1, descending=True)
    expected = [naive_average_precision(row.tolist()) for row in relevant.gather(1, order)]
    np.testing.assert_allclose(average_precision(scores, relevant), expected, rtol=1e-12)


def test_average_precision_equals_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    # Negative scores too: a cosine may well be below zero. No ties, where the peer interpolates.
    scores, relevant = torch.randn(30, 50, dtype=torch.float64), torch.rand(30, 50) < 0.2
    expected = [metrics.average_precision_score(*row) for row in zip(relevant.numpy(), scores.numpy(), strict=True)]
    np.testing.assert_allclose(average_precision(scores, relevant), expected, rtol=1e-12)


@pytest.mark.parametrize("items", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ties_count_by_the_expectation_over_their_orders(items, levels):
    generator = torch.Generator().manual_seed(items)
    scores = torch.randint(0, levels, (6, items), generator=generator).double() - 1
    relevant = torch.randint(0, 2, (6, items), generator=generator)
    relevant[:, 0] = 1
    expected = [expected_average_precision(*row) for row in zip(scores.tolist(), relevant.tolist(), strict=True)]
    np.testing.assert_allclose(average_precision(scores, relevant), expected, rtol=1e-12)


def test_the_order_of_the_gallery_does_not_matter():
    scores, relevant = torch.randint(0, 4, (20, 50)).float(), torch.rand(20, 50) < 0.3
    order = torch.randperm(50)
    found = average_precision(scores[:, order], relevant[:, order])
    torch.testing.assert_close(found, average_precision(scores, relevant))


def test_large_groups_of_ties_keep_their_digits():
    # 300 queries of a few hundred items each, in groups of about 40; the twin goes by the formula, rank for rank.
    scores, relevant = torch.randint(-5, 5, (300, 400)).float(), torch.rand(300, 400) < 0.3
    expected = []
    for row, hits in zip(scores.numpy(), relevant.numpy(), strict=True):
        total, before, rank = 0.0, 0, 0
        for score in sorted(set(row), reverse=True):
            tied, hit = (row == score).sum(), hits[row == score].sum()
            for j in range(tied):
                total += hit / tied * (before + 1 + j * (hit - 1) / max(tied - 1, 1)) / (rank + j + 1)
            before, rank = before + hit, rank + tied
        expected.append(total / hits.sum())
    np.testing.assert_allclose(average_precision(scores, relevant), expected, rtol=1e-12)


def test_the_two_zeros_tie():
    found = average_precision(torch.tensor([[0.0, -0.0]]), torch.tensor([[0, 1]]))
    assert found.item() == 0.75


def test_a_ranking_is_perfect_or_as_bad_as_it_gets():
    scores = torch.arange(10.0).flip(0).expand(2, 10)
    relevant = torch.stack([torch.arange(10) < 3, torch.arange(10) > 8])
    np.testing.assert_allclose(average_precision(scores, relevant), [1.0, 0.1], rtol=1e-6)


def test_a_query_without_a_relevant_item_has_no_average_precision():
    relevant = torch.tensor([[0, 0, 0], [0, 1, 0]])
    found = average_precision(torch.tensor([[3.0, 2.0, 1.0]] * 2), relevant)
    assert found.isnan().tolist() == [True, False] and found[1] == 0.5


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_to_rank_has_no_average_precision(shape):
    found = average_precision(torch.zeros(shape), torch.zeros(shape))
    assert found.shape == shape[:1] and found.isnan().all()


# Its sum over embeddings.


def naive_sum(queries, gallery, relevant):
    precisions = [
        naive_average_precision(row[np.argsort(-scores)])
        for row, scores in zip(relevant, queries.numpy() @ gallery.numpy().T, strict=True)
        if row.any()
    ]
    return [sum(precisions), len(precisions)]


def test_items_that_share_a_class_are_relevant_and_queries_without_any_are_left_out():
    queries, gallery, query_targets, gallery_targets = make_retrieval()
    relevant = np.array([[bool((q * g).any()) for g in gallery_targets] for q in query_targets])
    found = summed_average_precision(queries, gallery, query_targets, gallery_targets)
    expected = naive_sum(queries, gallery, relevant)
    assert found.dtype == torch.float64 and found[1] == expected[1] < len(queries)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_without_classes_an_item_of_the_same_number_is_relevant():
    queries, gallery = make_retrieval()[:2]
    query_numbers, numbers = torch.arange(40) + 30, torch.arange(60)
    found = summed_average_precision(queries, gallery, query_numbers, numbers)
    expected = naive_sum(queries, gallery, query_numbers.numpy()[:, None] == numbers.numpy())
    assert found[1] == 30
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("scores", [1, 59, 60, 61, 200, 100_000])
@pytest.mark.parametrize("numbers", [False, True])
def test_chunks_of_queries_give_the_same_sum(scores, numbers, monkeypatch):
    retrieval = make_retrieval()
    if numbers:
        retrieval = *retrieval[:2], torch.arange(40), torch.arange(60)
    expected = summed_average_precision(*retrieval)
    monkeypatch.setattr(ranking, "query_chunks", lambda q, n: query_chunks(q, n, scores))
    torch.testing.assert_close(summed_average_precision(*retrieval), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("queries", [0, 5])
def test_a_gallery_or_queries_without_rows_sum_to_nothing(queries):
    retrieval = make_retrieval(queries=queries, items=0)
    assert summed_average_precision(*retrieval).tolist() == [0, 0]


@pytest.mark.parametrize("width", [3, 10, 15])
@pytest.mark.parametrize("items", [7, 33, 65, 130])
def test_a_gallery_that_is_all_alike_is_ranked_by_chance_whatever_its_order(width, items):
    # Collapsed embeddings: the items are bit for bit the same, so every score of a query must be.
    generator = torch.Generator().manual_seed(0)
    queries = normalize(torch.randn(9, width, generator=generator), dim=1)
    gallery = queries[:1].repeat(items, 1)
    relevant = torch.arange(items) < items // 3
    expected = average_precision(torch.zeros(1, items, dtype=torch.float64), relevant.unsqueeze(0))
    for order in (torch.arange(items), torch.arange(items).flip(0)):
        targets = relevant[order].float().unsqueeze(1)
        found = summed_average_precision(queries, gallery, torch.ones(9, 1), targets)
        assert found[0].item() == pytest.approx(9 * expected.item(), rel=1e-6)


def test_an_item_that_is_left_out_changes_no_rank_of_the_others():
    queries, gallery, query_classes, gallery_classes = torch.randn(9, 5), torch.randn(9, 5), *torch.randint(3, (2, 9))
    numbers = torch.arange(9)
    one, other = torch.eye(3)[query_classes], torch.eye(3)[gallery_classes]
    found = summed_average_precision(queries, gallery, one, other, left_out=(numbers, numbers))
    expected = torch.zeros(2, dtype=torch.float64)
    for row in range(9):
        kept = numbers != row
        expected += summed_average_precision(queries[row : row + 1], gallery[kept], one[row : row + 1], other[kept])
    torch.testing.assert_close(found, expected)


def test_mean_average_precision_is_that_of_both_directions():
    audio, visual, members = torch.randn(20, 4), torch.randn(20, 4), torch.eye(5)[torch.arange(20) % 5]
    score = mean_average_precision(audio, visual, members)
    total, count = summed_average_precision(visual, audio, members, members)
    assert score["visual_to_audio"] == pytest.approx((total / count).item())
    assert score["map"] == pytest.approx((score["audio_to_visual"] + score["visual_to_audio"]) / 2)


def test_embeddings_that_are_no_numbers_are_refused():
    rows = torch.ones(3, 2)
    rows[1] = torch.nan
    with pytest.raises(ValueError, match="Query embedding must be finite numbers, but row 1"):
        mean_average_precision(rows, torch.ones(3, 2), torch.eye(3))
