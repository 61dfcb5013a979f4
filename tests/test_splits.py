"""Splits by hash, and validation carved from train."""

from collections import Counter

import pytest

from modeling_dualspace.splits import FRACTIONS, carve_validation, split_of


def test_a_film_has_its_split_whatever_other_films_there_are():
    before = {film: split_of(film) for film in ("dog/1.mp4", "cat/2.mp4", "ä/ö.mp4")}
    assert before == {film: split_of(film) for film in reversed(before)}
    assert split_of("ä.mp4") == split_of("a\u0308.mp4")  # composed and decomposed


def test_every_class_gets_the_same_fractions_up_to_chance():
    # 3,000 films: the standard deviation of a share of .1 is .0055, of .8 .0073; four of them are allowed.
    for name in ("dog", "cat"):
        counts = Counter(split_of(f"{name}/{number}.mp4") for number in range(3000))
        for split, fraction in FRACTIONS.items():
            assert counts[split] / 3000 == pytest.approx(fraction, abs=0.03)


def test_fractions_may_be_chosen_and_must_sum_to_one():
    assert {split_of(str(number), {"train": 1.0, "test": 0.0}) for number in range(200)} == {"train"}
    with pytest.raises(ValueError, match="are called train, validation, test, got train, val"):
        split_of("film", {"train": 0.5, "val": 0.5})
    for wrong in ({}, {"train": 0.5}, {"train": 1.5, "test": -0.5}, {"train": float("nan")}):
        with pytest.raises(ValueError, match="sum to 1"):
            split_of("film", wrong)


def test_validation_takes_its_share_of_every_class():
    classes = ["a"] * 100 + ["b"] * 30 + ["c"] * 2 + ["d"]
    chosen = carve_validation([f"train/{row:06d}" for row in range(len(classes))], classes)
    assert Counter(name for name, held in zip(classes, chosen, strict=True) if held) == {"a": 10, "b": 3, "c": 1}


def test_validation_depends_on_names_and_not_on_their_order():
    ids = [f"train/{row:06d}" for row in range(200)]
    chosen = dict(zip(ids, carve_validation(ids, [0] * 200), strict=True))
    backwards = dict(zip(ids[::-1], carve_validation(ids[::-1], [0] * 200), strict=True))
    assert chosen == backwards


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_a_fraction_that_leaves_one_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        carve_validation(["a"], [0], fraction)
