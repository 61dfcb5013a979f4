"""The prefix average against its definition, the figures it explains, and a slow twin where much is tied."""

import numpy as np
import pytest

from modeling_dualspace.average_precision import rank
from modeling_dualspace.legacy_prefix_average import prefix_average

AVE = (10, 9, 17, 17, 6, 6, 10, 18, 18, 18, 16, 6, 17, 8, 13)
"""Test clips by class of the 15 that the paper keeps."""


def naive(relevant):
    """Of relevances in the order of the ranking, as the scripts have it."""
    prefixes = []
    for k in range(1, len(relevant) + 1):
        hits = [sum(relevant[:j]) / j for j in range(1, k + 1) if relevant[j - 1]]
        prefixes.append(sum(hits) / len(hits) if hits else 0)
    return sum(prefixes) / len(prefixes)


def test_without_ties_it_is_what_the_scripts_compute():
    generator = np.random.default_rng(0)
    scores, relevant = generator.standard_normal((30, 40)), generator.random((30, 40)) < 0.2
    order = np.argsort(-scores, axis=1)
    expected = [naive(row) if any(row) else np.nan for row in np.take_along_axis(relevant, order, axis=1).tolist()]
    np.testing.assert_allclose(prefix_average(rank(scores, relevant)), expected, rtol=1e-12)


def test_ties_count_by_the_mean_over_many_orders():
    generator = np.random.default_rng(1)
    scores, relevant = generator.integers(0, 3, (4, 30)).astype(float), generator.random((4, 30)) < 0.3
    found = prefix_average(rank(scores, relevant))
    drawn = np.array([
        prefix_average(rank(scores + generator.uniform(0, 0.5, scores.shape), relevant)) for _ in range(4000)
    ])  # fmt: skip
    # Four standard errors of the mean; every order of small cases is in test_average_precision.py, to 1e-12.
    assert (abs(found - drawn.mean(axis=0)) < 4 * drawn.std(axis=0) / 4000**0.5).all()


def test_groups_of_ties_do_not_disturb_each_other():
    generator = np.random.default_rng(2)
    scores, relevant = generator.integers(0, 12, (60, 200)).astype(float), generator.random((60, 200)) < 0.2
    alone = [prefix_average(rank(scores[[row]], relevant[[row]]))[0] for row in range(60)]
    np.testing.assert_allclose(prefix_average(rank(scores, relevant)), alone, rtol=1e-12)


def test_a_random_ranking_of_ave_has_what_published_tables_show_for_it():
    labels = np.repeat(np.arange(15), AVE)
    relevant = labels[:, None] == labels
    generator = np.random.default_rng(0)
    random = [prefix_average(rank(generator.standard_normal((189, 189)), relevant)).mean() for _ in range(20)]
    assert np.mean(random) == pytest.approx(0.1246, abs=0.003)
    assert prefix_average(rank(np.zeros((189, 189)), relevant)).mean() == pytest.approx(0.1246, abs=5e-4)


def test_nothing_relevant_has_none():
    assert np.isnan(prefix_average(rank(np.zeros((2, 3)), np.zeros((2, 3))))).all()
