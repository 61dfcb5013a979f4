"""The exact nearest: beside a sort of float64 scores, with ties, filters and pieces."""

import numpy as np
import pytest
import torch

from modeling_dualspace import nearest as nearest_module
from modeling_dualspace.codes import hamming, pack
from modeling_dualspace.nearest import Codes, Vectors, as_words, nearest


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sorted_scores(rows: np.ndarray, query: np.ndarray, k: int, banned: np.ndarray | None = None):
    """The slow twin: every score in float64, a stable sort."""
    scores = (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = [row for row in np.argsort(-scores, kind="stable") if banned is None or not banned[row]][:k]
    return np.array(order, dtype=int), scores[order]


def check(gallery, rows, queries, k, banned=None):
    for query, (found, scores) in zip(queries, nearest(gallery, queries, k, banned), strict=True):
        expected, exact = sorted_scores(rows, query, k, banned)
        assert found.tolist() == expected.tolist() and scores.tolist() == exact.tolist()


@pytest.mark.parametrize("k", [1, 10, 100, 5000])
@pytest.mark.parametrize("rows, width", [(1, 10), (7, 3), (3000, 10), (20_000, 10), (2000, 512)])
def test_it_is_the_sort_of_all_scores_in_float64(rows, width, k):
    generator = np.random.default_rng(rows + k)
    clips = unit(generator.standard_normal((rows, width)))
    check(Vectors([np.ascontiguousarray(clips.T)]), clips, unit(generator.standard_normal((3, width))), k)


def test_rows_that_tie_come_in_their_order_also_at_the_last_place():
    generator = np.random.default_rng(0)
    few = unit(generator.standard_normal((5, 10)))
    clips = few[generator.integers(0, 5, 8000)]
    for k in (1, 7, 1601, 4000):
        check(Vectors([np.ascontiguousarray(clips.T)]), clips, few[:2], k)


def test_scores_that_float32_cannot_tell_apart_are_told_apart():
    """Rows of length one that differ in their last bits, of which float32 rounds the product to the same number."""
    generator = np.random.default_rng(1)
    base = unit(generator.standard_normal((1, 512)))
    clips = np.repeat(base, 600, axis=0)
    clips += (generator.integers(-3, 4, clips.shape) * np.spacing(clips)).astype(np.float32)
    products = (clips @ base[0]).astype(np.float32)
    assert len(np.unique(products)) < 200
    check(Vectors([np.ascontiguousarray(clips.T)]), clips, base, 20)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999, 1.0])
def test_what_may_not_be_found_is_not(share):
    generator = np.random.default_rng(2)
    clips = unit(generator.standard_normal((4000, 10)))
    banned = generator.random(4000) < share
    check(Vectors([np.ascontiguousarray(clips.T)]), clips, clips[:2], 10, banned)


def test_pieces_are_searched_as_one_and_merged_as_they_grow():
    generator = np.random.default_rng(3)
    clips = unit(generator.standard_normal((3000, 10)))
    gallery = Vectors([np.zeros((10, 0), dtype=np.float32)])
    edges = [0, 2000, 2010, 2300, 2301, 3000]
    before = None
    for start, stop in zip(edges, edges[1:], strict=False):
        before, gallery = gallery, gallery.with_rows(np.ascontiguousarray(clips[start:stop].T))
        check(gallery, clips[:stop], clips[:2], 10)
    assert len(before) == 2301 and len(gallery) == 3000  # what was handed out stays as it is
    check(before, clips[:2301], clips[:2], 10)
    assert len(gallery.pieces) < len(edges) - 1
    assert np.array_equal(gallery.take(np.array([2999, 0, 2305])), clips[[2999, 0, 2305]])


def test_many_queries_are_one_query_after_another(monkeypatch):
    generator = np.random.default_rng(4)
    clips = unit(generator.standard_normal((2000, 10)))
    monkeypatch.setattr(nearest_module, "FLOATS", 3 * 2000)  # three at a time
    check(Vectors([np.ascontiguousarray(clips.T)]), clips, clips[:8], 5)


@pytest.mark.parametrize("bits", [8, 10, 64, 100])
def test_codes_are_ranked_by_hamming_distance_and_scored_by_cosine(bits):
    generator = np.random.default_rng(bits)
    codes = torch.from_numpy(np.where(generator.random((3000, bits)) < 0.5, -1.0, 1.0) / bits**0.5)
    packed = pack(codes)
    gallery = Codes([np.ascontiguousarray(as_words(packed.numpy()).T)], bits)
    found = nearest(gallery, as_words(packed[:4].numpy()), 50)
    for query, (rows, scores) in enumerate(found):
        distances = hamming(packed[query : query + 1], packed)[0].numpy()
        expected = np.argsort(distances, kind="stable")[:50]
        assert rows.tolist() == expected.tolist()
        assert np.allclose(scores, (codes[query] @ codes[torch.from_numpy(rows)].T).numpy(), atol=1e-12)


def test_nothing_is_found_among_nothing():
    [(rows, scores)] = nearest(Vectors([np.zeros((4, 0), dtype=np.float32)]), np.eye(4, dtype=np.float32)[:1], 3)
    assert rows.tolist() == [] and scores.tolist() == []
