"""Vectors of units in batches, and their means, against a loop that embeds one unit after the other."""

import numpy as np
import pytest

from modeling_dualspace.backbones import Backbone, Steps
from modeling_dualspace.pooling import Pooling
from modeling_dualspace.units import Unit


class Counting(Backbone):
    """A unit's vector is its pieces' mean; notes how many came at a time."""

    def __init__(self, modality, width=3):
        self.modality, self.name, self.source, self.width = modality, "counting", "counting", width
        self.steps, self.batches = Steps(rate=1, length=2, hop=2), []

    def embed(self, units):
        self.batches.append(len(units))
        return np.stack([np.mean(pieces, axis=0) for pieces in units]).astype(np.float32)


def backbones():
    return {"audio": Counting("audio", 3), "visual": Counting("visual", 5)}


def some_units(count, seed=0):
    """Units of both modalities, of five clips in three films, several of a clip and several clips of one."""
    chance, made = np.random.default_rng(seed), []
    for _ in range(count):
        modality, width = (("audio", 3), ("visual", 5))[int(chance.integers(2))]
        clips = tuple(chance.choice(5, size=int(chance.integers(1, 5)), replace=False).tolist())
        pieces = list(chance.standard_normal((2, width)).astype(np.float32))
        made.append((f"film {chance.integers(3)}", Unit(modality, clips, pieces)))
    return made


def naive_vectors(units):
    """By film, clip and modality: the vectors in the order in which the units came."""
    found = {}
    for film, unit in units:
        vector = (unit.pieces[0] / 2 + unit.pieces[1] / 2).astype(np.float32)
        for clip in unit.clips:
            found.setdefault(((film, clip), unit.modality), []).append(vector)
    return found


def pooled(units, batch_size=32, keep=False):
    pooling = Pooling(backbones(), batch_size, keep=keep)
    for film, unit in units:
        pooling.add(film, unit)
    pooling.flush()
    return pooling


# One rounding of the mean to float32 (values around 1), and one of each vector.
CLOSE = 1e-6


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32, 1000])
def test_a_clips_vector_is_the_mean_over_its_units_whatever_the_batch(batch_size):
    units = some_units(300)
    pooling, expected = pooled(units, batch_size), naive_vectors(units)
    assert len(expected) == 3 * 5 * 2
    for (owner, modality), vectors in expected.items():
        mean = sum(vector.astype(np.float64) for vector in vectors) / len(vectors)
        found = pooling.mean(owner, modality)
        assert found.dtype == np.float32 and np.abs(found - mean).max() < CLOSE
    for modality, backbone in pooling.backbones.items():
        count = sum(unit.modality == modality for _, unit in units)
        rest = [count % batch_size] if count % batch_size else []
        assert backbone.batches == [batch_size] * (count // batch_size) + rest


def test_the_batch_size_changes_no_bit_where_the_network_does_not_care():
    units = some_units(200)
    one, many = pooled(units, 1), pooled(units, 17)
    for owner, modality in naive_vectors(units):
        assert np.array_equal(one.mean(owner, modality), many.mean(owner, modality))


def test_sums_are_kept_in_more_digits_than_the_vectors_have():
    # 1 and thousands of 1e-8: in float32 the sum would stay 1 for ever.
    values = [1.0] + [1e-8] * 10_000
    units = [("film", Unit("audio", (0,), [np.full(3, value, np.float32)])) for value in values]
    assert np.allclose(pooled(units).mean(("film", 0), "audio"), (1 + 1e-4) / 10_001, rtol=1e-6, atol=0)


def test_the_vectors_of_all_units_are_kept_in_order_where_they_are_asked_for():
    units = some_units(120)
    pooling = pooled(units, 7, keep=True)
    for (owner, modality), vectors in naive_vectors(units).items():
        found = pooling.frames(owner, modality)
        assert found.dtype == np.float32 and np.abs(found - np.stack(vectors)).max() < CLOSE
        assert np.abs(found.astype(np.float64).mean(axis=0) - pooling.mean(owner, modality)).max() < CLOSE
    assert pooled(units).frames(owner, modality).shape == (0, pooling.backbones[modality].width)  # nobody asked


def test_a_unit_of_several_clips_is_embedded_once_and_counts_for_each():
    shared, own = (Unit("audio", clips, [np.full(3, value, np.float32)]) for clips, value in (((4, 2), 1), ((2,), 3)))
    pooling = pooled([("film", shared), ("film", own)])
    assert pooling.backbones["audio"].batches == [2]
    assert pooling.mean(("film", 4), "audio").tolist() == [1] * 3
    assert pooling.mean(("film", 2), "audio").tolist() == [2] * 3


def test_films_of_the_same_clip_numbers_do_not_mix():
    units = [(film, Unit("visual", (0,), [np.full(5, film, np.float32)])) for film in range(4)]
    pooling = pooled(units)
    assert [pooling.mean((film, 0), "visual")[0] for film in range(4)] == [0, 1, 2, 3]


def test_a_clip_without_units_has_no_mean_and_no_rows():
    pooling = pooled([("film", Unit("audio", (0,), [np.ones(3, np.float32)]))], keep=True)
    assert pooling.mean(("film", 0), "visual") is None and pooling.mean(("film", 1), "audio") is None
    assert pooling.frames(("film", 0), "visual").shape == (0, 5)
    assert pooling.backbones["visual"].batches == []


def test_what_waits_is_embedded_once_the_batch_is_full_and_flushing_twice_adds_nothing():
    pooling = Pooling(backbones(), 2)
    unit = Unit("audio", (0,), [np.ones(3, np.float32)])
    pooling.add("film", unit)
    assert pooling.mean(("film", 0), "audio") is None
    pooling.add("film", unit)
    assert pooling.mean(("film", 0), "audio").tolist() == [1] * 3
    pooling.add("film", Unit("audio", (0,), [np.full(3, 4, np.float32)]))
    pooling.flush()
    pooling.flush()
    assert pooling.mean(("film", 0), "audio").tolist() == [2] * 3 and pooling.backbones["audio"].batches == [2, 1]


def test_a_backbone_that_gives_fewer_vectors_than_units_is_found_out():
    made = backbones()
    made["audio"].embed = lambda units: np.zeros((1, 3), np.float32)
    pooling = Pooling(made, 2)
    pooling.add("film", Unit("audio", (0,), [np.ones(3, np.float32)]))
    with pytest.raises(ValueError, match="zip"):
        pooling.add("film", Unit("audio", (0,), [np.ones(3, np.float32)]))
