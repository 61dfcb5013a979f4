"""Clips as units in one pass over a film, against a twin that has the whole film in memory and cuts clip by clip."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from modeling_dualspace import media_tracks
from modeling_dualspace import units as units_module
from modeling_dualspace.backbones import Backbone, Steps
from modeling_dualspace.media import Film
from modeling_dualspace.optional import require
from modeling_dualspace.sample_clips import write_clip
from modeling_dualspace.sample_scenes import Rendered, render_clip
from modeling_dualspace.units import Cutter, Unit, filled, units

# The tracks of a film are resampled and scaled by the same code whether it is read whole or from somewhere: what may
# differ is what a decoder that starts in the middle has not heard. It starts a second early, where AAC needs a block.
SAMPLES_CLOSE = 1e-6


# The cutter.


def naive_cuts(steps, clips, row, present):
    """Every clip by itself, by `Steps.starts`: where its units end and start."""
    found = {}
    for number, first, last in clips:
        last = int(min(last, len(row)))
        places = [(min(first + start + steps.length, last), first + start) for start in steps.starts(last - first)]
        found[number] = [(end, start) for end, start in places if any(present[start:end])]
    return found


def random_case(chance, kind):
    """Steps, clips that overlap, nest, are equal, touch, lie apart and end after the track, and a row with holes."""
    length, hop = int(chance.integers(1, 9)), int(chance.integers(1, 12))
    steps = Steps(rate=10, length=length, hop=hop, least=float(chance.choice([0.1, 0.5, 0.7, 1.0])))
    total, clips = int(chance.integers(0, 70)), []
    for number in chance.permutation(int(chance.integers(0, 9))).tolist():
        first = int(chance.integers(0, 80))
        last = chance.choice([first + int(chance.integers(0, 40)), math.inf], p=[0.8, 0.2])
        if clips and chance.random() < 0.5:  # in some relation to another one
            _, start, end = clips[int(chance.integers(len(clips)))]
            after = start + hop if end == math.inf else int(end)
            first, last = [(start, end), (start + hop, end), (after, last), (start, last)][int(chance.integers(4))]
        clips.append((number, int(first), float(last) if last == math.inf else int(last)))
    present = np.ones(total, dtype=bool)
    for _ in range(int(chance.integers(0, 4))):
        start = int(chance.integers(0, total + 1))
        present[start : start + int(chance.integers(1, 25))] = False
    if kind == "array":
        row = np.where(present, np.arange(1, total + 1), 0).astype(np.float32)
    else:
        row = [f"frame {place}" if there else None for place, there in enumerate(present)]
    return steps, clips, row, present.tolist()


def chunks(chance, row, present):
    """What is present, in order, in pieces of chance size: where each begins, and what is in it."""
    place = 0
    while place < len(row):
        if not present[place]:
            place += 1
            continue
        end = place + int(chance.choice([1, 2, 5, 30]))
        end = next((other for other in range(place, min(end, len(row))) if not present[other]), min(end, len(row)))
        yield place, row[place:end]
        place = end


def trimmed(row, present):
    """As far as the last thing that came: a track has no other end."""
    last = max((place + 1 for place, there in enumerate(present) if there), default=0)
    return row[:last], present[:last]


@pytest.mark.parametrize("kind", ["array", "list"])
def test_units_are_those_of_a_twin_that_has_all_in_memory(kind):
    chance = np.random.default_rng(3)
    seen = Counter()
    for number in range(1500):
        steps, clips, row, present = random_case(chance, kind)
        row, present = trimmed(row, present)
        cutter = Cutter(steps, clips, np.zeros(0, np.float32) if kind == "array" else [])
        cuts = []
        for place, items in chunks(chance, row, present):
            cuts += cutter.add(place, items)
            assert len(cutter.held) < steps.length, number  # less than one unit, whatever the clips
        cuts += cutter.finish()
        rest, places = naive_cuts(steps, clips, row, present), []
        for owners, items in cuts:
            # All its clips wait for the same one, and get it whole.
            (where,) = {rest[owner].pop(0) for owner in owners}
            assert list(items) == list(row[where[1] : where[0]]), (number, where)
            assert len(owners) == len(set(owners)) and isinstance(items, type(row))
            places.append(where)
        assert not any(rest.values()), number
        # In the order in which they end, each once; but where the track ends just where a clip does, those of clips
        # that would have gone on are known to be over only afterwards.
        assert [end for end, _ in places] == sorted(end for end, _ in places), number
        assert all(end == len(row) for (end, _), times in Counter(places).items() if times > 1), number
        seen["shared"] += any(len(owners) > 1 for owners, _ in cuts)
        seen["holes"] += not all(present)
        seen["open"] += any(last == math.inf for *_, last in clips)
        seen["beyond"] += any(len(row) < last < math.inf for *_, last in clips)
        seen["after"] += any(first >= len(row) for _, first, _ in clips)
        seen["gaps"] += steps.hop > steps.length
        seen["laps"] += steps.hop < steps.length
    assert min(seen.values()) > 100, seen


def test_a_unit_that_clips_share_is_cut_once_for_all_of_them():
    clips = [(7, 0, 12), (3, 0, math.inf), (5, 4, 12), (9, 1, 5)]
    cutter = Cutter(Steps(rate=1, length=4, hop=4), clips, [])
    cuts = [*cutter.add(0, list("abcdefghijkl")), *cutter.finish()]
    named = [(sorted(owners), "".join(items)) for owners, items in cuts]
    assert named == [([3, 7], "abcd"), ([9], "bcde"), ([3, 5, 7], "efgh"), ([3, 5, 7], "ijkl")]


def test_what_nobody_waits_for_is_not_held():
    cutter = Cutter(Steps(rate=1, length=5, hop=5), [(0, 1_000, 1_010), (1, 5_000, 5_005)], np.zeros(0, np.float32))
    found = []
    for place in range(0, 6_000, 50):
        for owners, items in cutter.add(place, np.arange(place, place + 50, dtype=np.float32)):
            found.append((owners, items.tolist()))
        assert len(cutter.held) < 5
    assert not list(cutter.finish())
    assert found == [((0,), [*range(1000, 1005)]), ((0,), [*range(1005, 1010)]), ((1,), [*range(5000, 5005)])]


def test_a_hole_of_hours_costs_no_more_than_a_short_one():
    day = 16_000 * 86_400
    cutter = Cutter(Steps(rate=16_000, length=100, hop=100), [(0, day, math.inf)], np.zeros(0, np.float32))
    assert not list(cutter.add(0, np.ones(50, np.float32)))
    ((owners, items),) = cutter.add(day, np.full(100, 2, np.float32))
    assert owners == (0,) and (items == 2).all()


def test_a_torn_track_is_silent_where_it_is_torn_and_a_wholly_missing_unit_is_none():
    cutter = Cutter(Steps(rate=1, length=4, hop=4), [(0, 0, math.inf)], np.zeros(0, np.float32))
    cuts = [*cutter.add(2, np.ones(3, np.float32)), *cutter.add(13, np.ones(3, np.float32)), *cutter.finish()]
    assert [items.tolist() for _, items in cuts] == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 1, 1]]


def test_what_comes_twice_is_taken_once():
    cutter = Cutter(Steps(rate=1, length=3, hop=3), [(0, 0, math.inf)], [])
    cuts = [*cutter.add(0, [0, 1, 2, 3]), *cutter.add(2, [2, 3, 4, 5]), *cutter.finish()]
    assert [items for _, items in cuts] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "frames, length, expected",
    [("ab", 4, "abbb"), (["a", None, "b", None], 4, "aabb"), ([None, None, "a"], 3, "aaa"), ("a", 1, "a")],
)
def test_a_unit_is_filled_up_with_the_frame_before_and_where_there_is_none_with_the_first(frames, length, expected):
    assert filled(list(frames), length) == list(expected)


# Films.


class Spy(Backbone):
    """Gives back what it was given, and counts."""

    name = source = "spy"
    width = 1

    def __init__(self, modality, steps):
        self.modality, self.steps, self.prepared = modality, steps, 0

    def prepare(self, piece):
        self.prepared += 1
        return piece.copy()


FPS, FILM_SECONDS = 12, 3.5


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A small film."""
    path = tmp_path_factory.mktemp("film") / "drum.mp4"
    write_clip(path, render_clip("drum", (1, 1), FILM_SECONDS, size=(64, 48), fps=FPS))
    return path


@pytest.fixture(scope="module")
def long_film(tmp_path_factory):
    """A little more than two minutes: noise of changing loudness, and frames that differ."""
    chance = np.random.default_rng(0)
    seconds, fps = 125, 4
    small = chance.integers(0, 256, (seconds * fps, 6, 8, 3), dtype=np.uint8)
    loud = np.repeat(chance.uniform(0.05, 0.5, seconds * 4), 4_000)
    samples = (loud * chance.uniform(-1, 1, seconds * 16_000)).astype(np.float32)
    path = tmp_path_factory.mktemp("film") / "long.mp4"
    write_clip(path, Rendered(small.repeat(8, 1).repeat(8, 2), samples, 16_000, fps))
    return path


def everything(path):
    """All samples at 16 kHz, all frames, and how many of them there are a second."""
    with Film(path) as film:
        samples = np.concatenate([sound.samples for sound in film.read(rate=16_000)])
    with require("av", extra="media").open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return samples, frames, rate


def naive_units(path, spans, audio, visual):
    """Clip by clip: where its units begin and what is in them."""
    samples, frames, rate = everything(path)
    found = {"audio": {}, "visual": {}}
    for number, (start, end) in enumerate(spans):
        first, last = (min(len(samples), round(min(one, 1e6) * 16_000)) for one in (start, end))
        heard = samples[first:last]
        found["audio"][number] = [heard[at : at + audio.steps.length] for at in audio.steps.starts(len(heard))]
        shown, moment = [], Fraction(start).limit_denominator(1000)
        while not shown or moment < Fraction(end if end < math.inf else 1e6) - Fraction(1, 10**6):
            if moment * rate >= len(frames):
                break
            shown.append(frames[int(moment * rate)])
            moment += 1 / Fraction(visual.steps.rate)
        found["visual"][number] = [
            [shown[min(at + place, len(shown) - 1)] for place in range(visual.steps.length)]
            for at in visual.steps.starts(len(shown))
        ]
    return found


def read_units(path, spans, audio, visual):
    with Film(path) as film:
        return list(units(film, spans, audio, visual))


def assert_as_naive(path, spans, audio, visual):
    expected, found = naive_units(path, spans, audio, visual), {"audio": {}, "visual": {}}
    for unit in read_units(path, spans, audio, visual):
        for clip in unit.clips:
            found[unit.modality].setdefault(clip, []).append(unit.pieces)
    for number in range(len(spans)):
        heard, seen = (found[name].get(number, []) for name in ("audio", "visual"))
        assert len(heard) == len(expected["audio"][number]) and len(seen) == len(expected["visual"][number]), number
        for (samples,), known in zip(heard, expected["audio"][number], strict=True):
            assert samples.dtype == np.float32 and samples.shape == known.shape
            assert np.abs(samples - known).max() <= SAMPLES_CLOSE, number
        for pictures, known in zip(seen, expected["visual"][number], strict=True):
            assert all(map(np.array_equal, pictures, known)) and len(pictures) == len(known), number


SECOND = Steps(rate=16_000, length=16_000, hop=16_000)
CUTS = {
    "a second each": (SECOND, Steps(rate=1, length=1, hop=1)),
    "that overlap": (Steps(rate=16_000, length=8_000, hop=3_000), Steps(rate=4, length=3, hop=2)),
    "with gaps": (Steps(rate=16_000, length=2_000, hop=5_000), Steps(rate=12, length=2, hop=7)),
    "of odd rates": (Steps(rate=16_000, length=16_000, hop=16_000, least=1.0), Steps(rate=7, length=4, hop=4)),
}
SPANS = {
    "the whole film": [(0.0, FILM_SECONDS)],
    "to wherever it ends": [(0.0, math.inf)],
    "windows that overlap": [(start / 2, start / 2 + 1) for start in range(6)],
    "in any order, nested, equal and within each other": [(1.0, 3.0), (0.0, 3.5), (1.0, 3.0), (1.5, 2.0), (0.25, 1.25)],
    "beyond its end": [(3.0, 9.0), (0.5, math.inf), (5.0, 6.0), (3.4, 3.6)],
    "very short ones": [(0.0, 0.01), (1.001, 1.002), (3.25, 3.26)],
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("spans", SPANS)
def test_a_film_gives_the_units_of_a_twin_that_read_all_of_it(film, spans, cut):
    assert_as_naive(film, SPANS[spans], *map(Spy, ("audio", "visual"), CUTS[cut]))


def test_clips_far_apart_are_sought_and_give_the_units_of_reading_everything(long_film, monkeypatch):
    passages, read = [], Film.read

    def watched(film, *, start=0.0, end=math.inf, **rest):
        passages.append((start, end))
        return read(film, start=start, end=end, **rest)

    spans = [(118.0, 120.5), (2.0, 4.0), (60.0, 62.0), (61.5, 63.25), (3.5, 5.0)]
    audio, visual = map(Spy, ("audio", "visual"), CUTS["that overlap"])
    decoded, take = Counter(), media_tracks.PictureReader.take

    def counted(reader, frame):
        decoded["frames"] += 1
        return take(reader, frame)

    monkeypatch.setattr(Film, "read", watched)
    monkeypatch.setattr(media_tracks.PictureReader, "take", counted)
    assert {unit.modality for unit in read_units(long_film, spans, audio, visual)} == {"audio", "visual"}
    assert passages == [(2.0, 5.0), (60.0, 63.25), (118.0, 120.5)]
    # Of 500 frames those of three passages, and those from the key frame before on that lead there (seen: 109).
    assert decoded["frames"] < 250, decoded
    monkeypatch.setattr(Film, "read", read)
    assert_as_naive(long_film, spans, audio, visual)


def test_what_lies_near_is_read_on_and_what_lies_far_is_passed_over():
    spans = [(0.0, 10.0), (200.0, 201.0), (5.0, 20.0), (50.0, 60.0), (50.0, math.inf), (300.0, 301.0)]
    assert list(units_module._passages(spans)) == [([0, 2, 3, 4, 1, 5], 0.0, math.inf)]
    passages = [([0, 2, 3], 0.0, 60.0), ([4], 91.0, 92.0), ([1], 200.0, 201.0)]
    assert list(units_module._passages([*spans[:4], (91.0, 92.0)])) == passages
    assert list(units_module._passages([])) == []


@pytest.mark.parametrize("rate", [4, 12, 15, 30])
def test_windows_that_overlap_prepare_every_sample_and_frame_they_share_once(film, rate):
    audio, visual = Spy("audio", SECOND), Spy("visual", Steps(rate=rate, length=1, hop=1))
    spans = [(0.0, 2.0), (1.0, 3.0), (0.0, 3.0), (2.0, 3.0)]
    found = read_units(film, spans, audio, visual)
    assert audio.prepared == 3 and [unit.clips for unit in found if unit.modality == "audio"] == [
        (0, 2), (0, 1, 2), (1, 2, 3),
    ]  # fmt: skip
    assert visual.prepared == 3 * rate == sum(unit.modality == "visual" for unit in found)


def test_units_come_in_the_order_in_which_they_end_and_name_their_clips_once(film):
    rates = {"audio": 16_000, "visual": 4}
    spies = [Spy(name, Steps(rate=rate, length=2 * rate, hop=rate)) for name, rate in rates.items()]
    samples, frames, _ = everything(film)
    ends = {"audio": [], "visual": []}
    for unit in read_units(film, [(0.5, 3.0), (0.0, 3.0), (0.5, 3.0)], *spies):
        assert isinstance(unit, Unit) and len(set(unit.clips)) == len(unit.clips)
        if unit.modality == "audio":
            tail = unit.pieces[0][-400:]
            off = (np.abs(samples[at - 400 : at] - tail).max() for at in range(400, len(samples) + 1, 400))
            ends["audio"].append(next(place for place, most in enumerate(off) if most < SAMPLES_CLOSE))
        else:
            ends["visual"].append(next(at for at, frame in enumerate(frames) if np.array_equal(frame, unit.pieces[-1])))
    for places in ends.values():  # 0 to 2, 0.5 to 2.5, and three that end at 3
        assert len(places) == 5 and places == sorted(places)


@pytest.mark.parametrize("left_out", ["audio", "visual"])
def test_what_nobody_asked_for_is_left_out(film, left_out):
    audio, visual = Spy("audio", SECOND), Spy("visual", Steps(rate=1, length=1, hop=1))
    both = read_units(film, [(0.0, 3.0)], audio, visual)
    one = read_units(film, [(0.0, 3.0)], *(None if spy.modality == left_out else spy for spy in (audio, visual)))
    kept = [unit for unit in both if unit.modality != left_out]
    assert len(one) == len(kept) == 3
    for found, expected in itertools.zip_longest(one, kept):
        assert found.clips == expected.clips and np.array_equal(found.pieces, expected.pieces)


def test_no_clips_are_no_units(film):
    assert read_units(film, [], Spy("audio", SECOND), Spy("visual", Steps(rate=1, length=1, hop=1))) == []
