"""Hashes of rows against Python's own whole numbers, and the normal numbers drawn from them against their law."""

import itertools

import pytest
import torch
from scipy import stats

from modeling_dualspace.row_hash import mixed, random_normals, random_salt, row_hash

EXTREMES = [0, 1, -1, 2**63 - 1, -(2**63), 2**31, -(2**31), 12345678901234567]
GOLDEN = 0x9E3779B97F4A7C15


def signed(number):
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def splitmix(number):
    """The finaliser of splitmix64 as it is published, in numbers without a size."""
    number %= 2**64
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31


def test_bits_are_mixed_as_splitmix64_mixes_them():
    numbers = EXTREMES + random_salt(200, seed=3).tolist()
    assert mixed(torch.tensor(numbers)).tolist() == [signed(splitmix(number)) for number in numbers]


def test_the_stream_of_splitmix64_comes_out_as_others_print_it():
    # The first outputs for the seed 1234567, as lists of pseudo-random generators check theirs by.
    printed = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    counters = torch.tensor([signed(1234567 + step * GOLDEN) for step in range(1, 5)])
    assert mixed(counters).tolist() == [signed(number) for number in printed]


def test_one_changed_bit_changes_half_of_the_bits():
    keys = random_salt(300, seed=0)
    for bit in (0, 1, 31, 32, 62, 63):
        changed = (mixed(keys) ^ mixed(keys ^ (1 << bit if bit < 63 else -(2**63)))).tolist()
        counts = [(number % 2**64).bit_count() for number in changed]
        # 300 sums of 64 coins: their mean deviates by 4 / sqrt(300), of which this is four.
        assert sum(counts) / len(counts) == pytest.approx(32, abs=1)


def test_a_row_has_one_hash_whatever_type_layout_or_company_it_comes_in():
    rows, salt = torch.randn(50, 7).bfloat16().float(), random_salt(7, seed=0)
    keys = row_hash(rows, salt)
    assert keys.dtype == torch.int64 and keys.shape == (50,)
    for same in (rows.double(), rows.bfloat16(), rows.T.contiguous().T, rows.repeat(1, 2)[:, :7]):
        assert torch.equal(row_hash(same, salt), keys)
    assert torch.equal(torch.cat([row_hash(row, salt) for row in rows.split(1)]), keys)
    assert torch.equal(row_hash(rows.flip(0), salt), keys.flip(0))
    assert row_hash(rows[:0], salt).shape == (0,)


def test_minus_zero_is_zero_and_what_float32_cannot_tell_apart_is_the_same():
    salt = random_salt(2, seed=0)
    rows = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert len(row_hash(rows, salt).unique()) == 1


def test_the_smallest_change_of_one_number_changes_the_hash():
    row, salt = torch.randn(1, 5), random_salt(5, seed=0)
    nearby = row.repeat(6, 1)
    nearby[range(5), range(5)] = torch.nextafter(nearby[range(5), range(5)], torch.tensor(9.0))
    assert len(row_hash(nearby, salt).unique()) == 6


def test_rows_that_are_easily_taken_for_one_another_are_told_apart():
    # Everything of three numbers out of 21, in every order: sums, sets and pairs of them come again and again.
    values = [step / 2 for step in range(-10, 11)]
    rows = torch.tensor(list(itertools.product(values, repeat=3)))
    assert len(row_hash(rows, random_salt(3, seed=0)).unique()) == len(rows)
    assert len(row_hash(torch.eye(2000), random_salt(2000, seed=0)).unique()) == 2000


def test_a_salt_is_that_of_its_seed_and_decides_the_hash():
    rows = torch.randn(20, 4)
    assert torch.equal(random_salt(4, seed=7), random_salt(4, seed=7))
    keys = [row_hash(rows, random_salt(4, seed=seed)) for seed in range(3)]
    assert len(torch.cat(keys).unique()) == 60


def test_a_salt_does_not_move_torchs_own_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random_salt(4, seed=1), random_normals(random_salt(4, seed=1), 3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("keys", ["random", "counted"])
def test_numbers_of_keys_are_normal_and_independent(keys):
    keys = random_salt(20_000, seed=0) if keys == "random" else torch.arange(20_000)
    numbers = random_normals(keys, 5)
    assert numbers.shape == (20_000, 5) and numbers.dtype == torch.float64
    # One draw, fixed for ever: p is that of the largest of six looks, and would be below 1e-3 once in 170 seeds.
    for column in (*numbers.T, numbers.flatten()):
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    # Correlations of 20,000 independent numbers deviate by .007: this is over four times that.
    neighbours = torch.cat([numbers[1:], numbers[:-1], numbers[:-1].square()], dim=1)
    assert (torch.corrcoef(neighbours.T) - torch.eye(15)).abs().max() < 0.03


def test_every_key_has_finite_numbers_of_its_own():
    numbers = random_normals(torch.tensor(EXTREMES), 200)
    assert torch.isfinite(numbers).all() and len(numbers.flatten().unique()) == numbers.numel()
    assert torch.equal(random_normals(torch.tensor(EXTREMES[3:4]), 200), numbers[3:4])
