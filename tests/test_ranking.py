"""Average precision against loops, peers and every order of what is tied; and the fusion that is chosen by it."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_dualspace import CanonicalLayer, Directions, DualSubspaceConfig, PairMoments, ranking
from modeling_dualspace.fusion import HeldOut, fit_fusion, held_out_map, projected_correlations, reads_validation
from modeling_dualspace.ranking import average_precision, summed_average_precision


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
    monkeypatch.setattr(ranking, "_CHUNK_SCORES", scores)
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


# The fusion that is chosen by it.


WIDTH = 7  # four explicit columns, three implicit ones


def make_config(**settings):
    sizes = {"num_labels": 3, "explicit_dim": 4, "embed_dim": 4}
    return DualSubspaceConfig(**sizes | {"audio_hidden": [], "visual_hidden": []} | settings)


def make_split(rows=90, seed=0, noise=1.0):
    """(audio outputs, visual outputs, memberships): explicit columns share a latent, implicit ones see the class."""
    generator = torch.Generator().manual_seed(seed)
    members = torch.eye(3)[torch.arange(rows) % 3]
    latent = torch.randn(rows, 4, generator=generator)
    audio, visual = (
        torch.cat([latent, members], 1) + noise * torch.randn(rows, WIDTH, generator=generator) for _ in range(2)
    )
    return audio, visual, members


def moments_of(audio, visual, members):
    return PairMoments(WIDTH, WIDTH, 3).update(audio, visual, members)


def held_out_of(audio, visual, members):
    mine = (audio, visual, members, torch.arange(len(audio)))
    return HeldOut(*mine, *mine, moments_of(audio, visual, members))


def fuse(config, held_out=None, noise=1.0):
    layer = CanonicalLayer(WIDTH, WIDTH, config.output_dim)
    return layer, fit_fusion(layer, config, moments_of(*make_split(noise=noise)), held_out)


@pytest.mark.parametrize("cluster_weight", [0.0, 0.4, 1.0])
def test_projected_correlations_equal_those_of_the_projected_rows(cluster_weight):
    audio, visual, members = (tensor.double() for tensor in make_split(seed=1))
    audio_weights, visual_weights = torch.randn(2, WIDTH, 5, dtype=torch.float64)
    visual_weights[:, 0] = 0  # a direction past the rank
    visual_weights[:, 1] = -visual_weights[:, 1]
    zeros = torch.zeros(5)
    directions = Directions(zeros, audio_weights, zeros, visual_weights, zeros)
    found = projected_correlations(directions, moments_of(audio, visual, members).covariances(cluster_weight))
    projected = [
        ((rows - rows.mean(dim=0)) @ W).numpy() for rows, W in ((audio, audio_weights), (visual, visual_weights))
    ]
    # Each clip with itself, and with the mean of its class.
    same_class = (members @ members.T / members.sum(dim=0).max()).numpy()
    partners = (1 - cluster_weight) * projected[1] + cluster_weight * same_class @ projected[1]
    for k in range(5):
        sizes = np.linalg.norm(projected[0][:, k]) * np.linalg.norm(projected[1][:, k])
        expected = max(0.0, projected[0][:, k] @ partners[:, k] / sizes) if k else 0.0
        assert found[k].item() == pytest.approx(expected, abs=1e-12)
    assert (found[1:] > 0).any()


def test_the_fusion_keeps_the_candidate_that_ranks_validation_best():
    held_out = held_out_of(*make_split(seed=1))
    layer, record = fuse(make_config(), held_out)
    assert record["candidates"] == 3 + 4 * 2
    assert held_out_map(layer, held_out) == pytest.approx(record["validation_map"], abs=1e-12)
    alone = [{"variant": "explicit"}, {"variant": "implicit"}, {"fusion": "cca"}]
    scores = [held_out_map(fuse(make_config(**settings))[0], held_out) for settings in alone]
    for cluster_weight, ridge in itertools.product((0.0, 0.2, 0.5, 1.0), (1e-4, 1e-2)):
        config = make_config(fusion_cluster_weight=cluster_weight, fusion_ridge=ridge)
        fixed, choice = fuse(config, held_out)
        assert choice == {"candidate": "weighted-cluster-cca", "cluster_weight": cluster_weight, "ridge": ridge}
        scores.append(held_out_map(fixed, held_out))
    assert record["validation_map"] == pytest.approx(max(scores), abs=1e-12)


def test_what_the_config_says_is_not_chosen():
    held_out = held_out_of(*make_split(seed=1))
    record = fuse(make_config(fusion_cluster_weight=0.3), held_out)[1]
    assert record["candidates"] == 3 + 2 and record.get("cluster_weight", 0.3) == 0.3
    record = fuse(make_config(fusion_ridge=0.2), held_out)[1]
    assert record["candidates"] == 3 + 4 and record.get("ridge", 0.2) == 0.2


def test_of_candidates_that_rank_alike_the_one_that_needs_no_choice_is_kept():
    audio, visual, members = make_split(noise=0.0)
    # Two clips of one class: every candidate is perfect.
    record = fuse(make_config(), held_out_of(audio[:6:3], visual[:6:3], members[:6:3]))[1]
    assert record["validation_map"] == 1 and record["candidate"] == "weighted-cluster-cca"
    assert (record["cluster_weight"], record["ridge"]) == (0.5, 1e-4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"candidate": "weighted-cluster-cca", "cluster_weight": 0.5, "ridge": 1e-4}),
        ({"fusion_ridge": 0.1}, {"candidate": "weighted-cluster-cca", "cluster_weight": 0.5, "ridge": 0.1}),
        ({"fusion_cluster_weight": 1.0}, {"candidate": "weighted-cluster-cca", "cluster_weight": 1.0, "ridge": 1e-4}),
        ({"fusion": "cca"}, {"candidate": "cca", "ridge": 1e-4}),
        ({"variant": "explicit"}, {"candidate": "explicit", "ridge": 1e-4}),
        ({"variant": "implicit"}, {"candidate": "implicit"}),
    ],
)
def test_without_validation_nothing_is_chosen(settings, expected):
    layer, record = fuse(make_config(**settings))
    assert record == expected and layer.fitted


def test_validation_is_read_only_where_it_changes_something():
    assert reads_validation(make_config()) and reads_validation(make_config(variant="shared"))
    for settings in ({"variant": "explicit"}, {"variant": "implicit"}, {"fusion": "cca"}):
        assert not reads_validation(make_config(**settings))


def test_each_subspace_alone_is_blind_to_the_other():
    audio, _, _ = make_split(seed=1)
    other = torch.randn(90, WIDTH)
    explicit, implicit = (fuse(make_config(variant=variant))[0] for variant in ("explicit", "implicit"))
    torch.testing.assert_close(explicit.audio(torch.cat([audio[:, :4], other[:, 4:]], 1)), explicit.audio(audio))
    torch.testing.assert_close(
        implicit.audio(torch.cat([other[:, :4], audio[:, 4:]], 1)), normalize(audio[:, 4:], dim=1)
    )


def test_validation_weighs_the_directions_by_what_they_are_worth_on_rows_that_were_not_seen():
    config = make_config(fusion_cluster_weight=0.0, fusion_ridge=1e-4)
    trained = fuse(config, noise=0.0)[0]  # both modalities put out the same: every correlation is one
    np.testing.assert_allclose(trained.correlations, 1, atol=1e-3)
    layer = fuse(config, held_out_of(*make_split(seed=1)), noise=0.0)[0]
    assert (layer.correlations < 0.9).all() and (layer.correlations > 0).all()
    weights = layer.correlations / trained.correlations
    torch.testing.assert_close(layer.audio_weights, trained.audio_weights * weights, rtol=1e-4, atol=1e-5)


def test_validation_that_nobody_labelled_chooses_by_the_own_pair():
    audio, visual, _ = make_split(seed=1)
    numbers = torch.arange(len(audio))
    mine = (audio, visual, numbers, numbers)
    held_out = HeldOut(*mine, *mine, PairMoments(WIDTH, WIDTH, 3).update(audio, visual))
    layer, record = fuse(make_config(), held_out)
    assert record["validation_map"] == pytest.approx(held_out_map(layer, held_out), abs=1e-12)
    assert record["candidate"] != "implicit"  # which tells classes apart, not clips
