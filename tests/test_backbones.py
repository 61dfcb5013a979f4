"""How tracks are cut into units, against a naive loop; and the name that a backbone has in a `feature_spec`."""

import hashlib
import json
import math

import numpy as np
import pytest

from modeling_dualspace.backbones import Backbone, Steps, digest
from modeling_dualspace.configuration_dualspace import spec_parts


def naive_starts(count, length, hop, least):
    """A unit at every hop, as long as enough of it is left; the first wherever there is anything."""
    starts, place = [], 0
    while place < count and (place == 0 or count - place >= least * length):
        starts.append(place)
        place += hop
    return starts


class Toy(Backbone):
    """What a subclass has to say, and no more."""

    modality, name, source, width = "audio", "toy", "somewhere/toy", 3

    def __init__(self, steps=Steps(rate=10, length=10, hop=10), weights="", **constants):  # noqa: B008
        self.steps, self.weights, self._more = steps, weights, constants

    @property
    def constants(self):
        return self._more


def test_units_start_where_a_naive_loop_starts_them():
    chance = np.random.default_rng(0)
    for _ in range(3000):
        length, hop, count = (int(chance.integers(1, top)) for top in (12, 16, 60))
        least = float(chance.choice([0.01, 0.25, 0.5, 0.75, 1.0, chance.uniform(0.01, 1)]))
        steps = Steps(rate=10, length=length, hop=hop, least=least)
        assert steps.starts(count) == naive_starts(count, length, hop, least), (steps, count)


def test_a_clip_shorter_than_a_unit_makes_one_and_an_empty_one_none():
    steps = Steps(rate=16_000, length=16_000, hop=16_000)
    assert [steps.starts(count) for count in (-5, 0, 1, 15_999, 16_000, 23_999, 24_000)] == [
        [], [], [0], [0], [0], [0], [0, 16_000],
    ]  # fmt: skip


def test_a_clip_of_hours_is_cut_at_once():
    # Ten hours of sound, by hops of 10 ms: nothing here may take the square of that.
    starts = Steps(rate=16_000, length=16_000, hop=160).starts(16_000 * 36_000)
    assert len(starts) == 100 * 36_000 - 49 and starts[-1] == (len(starts) - 1) * 160


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0}, {"rate": -1}, {"length": 0}, {"length": -3}, {"hop": 0}, {"least": 0}, {"least": 1.1}],
    ids=str,
)
def test_steps_that_lead_nowhere_are_refused_by_a_sentence(wrong):
    with pytest.raises(ValueError, match=r"^A rate, a length and a hop are positive, .*: got Steps\(.*\)\.$"):
        Steps(**{"rate": 10, "length": 10, "hop": 10} | wrong)


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_a_rate_that_is_no_number_is_refused_by_the_same_sentence(rate):
    with pytest.raises(ValueError, match="^A rate, a length and a hop are positive"):
        Steps(rate=rate, length=1, hop=1)


def test_a_whole_rate_is_written_as_one_so_that_25_and_25_0_are_the_same_backbone():
    whole, broken = Steps(rate=25.0, length=1, hop=1), Steps(rate=30_000 / 1001, length=1, hop=1)
    assert isinstance(whole.rate, int) and whole == Steps(rate=25, length=1, hop=1)
    assert broken.rate == 30_000 / 1001
    assert Toy(whole).spec == Toy(Steps(rate=25, length=1, hop=1)).spec != Toy(broken).spec


def test_the_digest_is_eight_digits_of_a_hash_of_plain_json():
    text = '{"constants":{"a":[1,2.5],"b":null},"weights":"w"}'
    assert digest({"b": None, "a": [1, 2.5]}, "w") == hashlib.sha256(text.encode()).hexdigest()[:8]


def test_constants_read_from_a_file_have_the_digest_of_those_written():
    constants = {"steps": {"rate": 30_000 / 1001}, "size": (3, 5), "floor": 1e-10, "name": "späť", "on": True}
    assert digest(json.loads(json.dumps(constants)), "") == digest(constants, "")


def test_whatever_decides_the_vectors_is_in_the_spec_and_nothing_else_is():
    toy = Toy(power=2)
    assert toy.spec == Toy(power=2).spec and toy.spec.startswith("toy@") and len(toy.spec) == len("toy@") + 8
    others = [Toy(), Toy(power=3), Toy(power=2, more=None), Toy(power=2, weights="0123")]
    others += [
        Toy(Steps(**{"rate": 10, "length": 10, "hop": 10} | wrong), power=2)
        for wrong in ({"rate": 11}, {"length": 11}, {"hop": 5}, {"least": 0.25})
    ]
    assert len({toy.spec, *(other.spec for other in others)}) == 1 + len(others)
    moved = Toy(power=2)
    moved.source, moved.revision = "elsewhere/toy", "0123abcd"  # the same weights by another way
    assert moved.spec == toy.spec


def test_a_record_says_all_that_a_backbone_is_loaded_and_checked_by():
    toy = Toy(power=2, weights="0123")
    toy.revision = "main"
    record = json.loads(json.dumps(toy.record()))
    assert record == {
        "spec": toy.spec, "source": "somewhere/toy", "revision": "main", "width": 3, "weights": "0123",
        "constants": {"steps": {"rate": 10, "length": 10, "hop": 10, "least": 0.5}, "power": 2},
    }  # fmt: skip
    assert record["spec"] == f"toy@{digest(record['constants'], record['weights'])}"


def test_a_spec_is_taken_apart_into_its_modalities():
    spec = f"audio={Toy().spec} visual=clip@0123abcd"
    assert spec_parts(spec) == {"audio": Toy().spec, "visual": "clip@0123abcd"}
    assert spec_parts("visual=clip@0123abcd") == {"visual": "clip@0123abcd"}
    assert spec_parts(None) == spec_parts("") == spec_parts("precomputed") == {}


def test_a_backbone_that_says_nothing_embeds_nothing():
    for call in (lambda: Backbone().prepare(np.zeros(3)), lambda: Backbone().embed([[None]])):
        with pytest.raises(NotImplementedError):
            call()
    assert Backbone().constants == {}
