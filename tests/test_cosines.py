"""Cosines: units, and what ties."""

import numpy as np
import pytest
import torch

from modeling_dualspace.cosines import as_scores, unit_rows


def make_rows(rows=50, width=7, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_rows_come_out_of_unit_length_in_float64_and_go_in_unharmed(kind):
    rows = make_rows()
    given = kind(rows.astype(np.float64))
    found = np.asarray(unit_rows(given))
    np.testing.assert_array_equal(np.asarray(given), rows)
    # A handful of roundings of float64 each.
    np.testing.assert_allclose(found, rows / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None], rtol=1e-14)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
@pytest.mark.parametrize("power", [-900, -3, 5, 900])
def test_a_power_of_two_changes_no_bit_however_large(kind, power):
    rows = make_rows().astype(np.float64)
    np.testing.assert_array_equal(unit_rows(kind(np.ldexp(rows, power))), unit_rows(kind(rows)))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_a_row_of_zeros_and_one_without_numbers_stay(kind):
    assert np.asarray(unit_rows(kind(np.zeros((2, 3))))).tolist() == [[0, 0, 0]] * 2
    assert unit_rows(kind(np.zeros((2, 0)))).shape == (2, 0)


@pytest.mark.parametrize("bits", [10, 16, 24, 48, 100, 128])
def test_codes_rank_by_their_integer_products_zero_among_them(bits):
    codes = np.sign(make_rows(80, bits))
    scores = as_scores(unit_rows(codes) @ unit_rows(codes).T)
    products = (codes @ codes.T).astype(int)
    assert 0 in products
    for scored, exact in zip(scores, products, strict=True):
        assert len(np.unique(scored)) == len(np.unique(exact))
        np.testing.assert_array_equal(np.argsort(scored, kind="stable"), np.argsort(exact, kind="stable"))


def test_scores_are_the_cosines_to_the_precision_of_float32():
    cosines = np.random.default_rng(0).uniform(-1, 1, (100, 100))
    np.testing.assert_allclose(as_scores(cosines.copy()), cosines, rtol=2**-24, atol=2**-40)


@pytest.mark.parametrize("cosines", [np.zeros(3, np.float32), torch.zeros(3), np.zeros(3, int)])
def test_cosines_that_were_rounded_before_are_refused(cosines):
    with pytest.raises(TypeError, match="must come in float64"):
        as_scores(cosines)
