"""The graph of neighbours beside scikit-learn's and loops, in whatever order and in however many processes."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from modeling_dualspace import moments
from modeling_dualspace.neighbours import NeighbourGraph, nearest

NAMES = ("audio_features", "visual_features")


def clips(rows=40, seed=0, gaps=True):
    """In float64, so that no rounding decides which of two is nearer; rows of a split some of which are not there."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(rows) * 3 + 2 if gaps else torch.arange(rows)
    return {
        "index": index,
        "audio_features": torch.randn(rows, 3, generator=generator, dtype=torch.float64),
        "visual_features": torch.randn(rows, 5, generator=generator, dtype=torch.float64) + 7,
    }


def chosen(batch, rows):
    return {name: column[rows] for name, column in batch.items()}


def as_it_is(name, rows):
    return rows


def graph_of(batches, neighbours=4, scaled=as_it_is):
    return NeighbourGraph.of(batches, neighbours, scaled)


def peers(rows, k):
    """Places of the k nearest others of every row, by scikit-learn."""
    found = NearestNeighbors(n_neighbors=k + 1).fit(rows.numpy()).kneighbors(rows.numpy(), return_distance=False)
    return [{int(place) for place in line if place != own} for own, line in enumerate(found)]


def assert_same_graph(one, other):
    assert torch.equal(one.index, other.index) and torch.equal(one.near, other.near)
    assert all(torch.equal(one.features[name], other.features[name]) for name in NAMES)


# The nearest.


@pytest.mark.parametrize("k", [1, 7, 19])
def test_the_nearest_are_those_of_a_loop_and_of_scikit_learn_in_order_and_without_oneself(k):
    rows = clips(20)["visual_features"]
    found = nearest(rows, rows, torch.arange(20), k)
    for own, line in enumerate(found.tolist()):
        distances = [float(((rows[own] - other) ** 2).sum()) for other in rows]
        assert line == sorted(set(range(20)) - {own}, key=lambda place: distances[place])[:k]
    assert [set(line) for line in found.tolist()] == peers(rows, k)


def test_queries_that_are_some_of_the_gallery_leave_out_their_own_places_alone():
    rows = clips(20)["audio_features"]
    own = torch.tensor([17, 3, 8])
    assert torch.equal(nearest(rows[own], rows, own, 5), nearest(rows, rows, torch.arange(20), 5)[own])


def test_many_queries_are_looked_up_in_chunks_to_the_same_end(monkeypatch):
    rows = clips(600)["audio_features"]
    whole = nearest(rows, rows, torch.arange(600), 3)
    monkeypatch.setattr(moments, "_CHUNK_BYTES", 1)
    assert len(list(moments.chunks(600, 600))) == 3
    assert torch.equal(nearest(rows, rows, torch.arange(600), 3), whole)
    assert nearest(rows[:0], rows, torch.arange(0), 3).shape == (0, 3)


def test_far_from_the_origin_float32_still_knows_who_is_near():
    rows = clips(30)["audio_features"]
    far = (rows + 1000).float()  # squares of 1e6, whose float32 rounding is as large as the distances
    expected = peers(far.double(), 4)
    found = nearest(far, far, torch.arange(30), 4)
    assert [set(line) for line in found.tolist()] == expected


def test_of_duplicates_each_has_the_others_for_neighbours_and_never_itself():
    rows = clips(12)["audio_features"]
    rows[3] = rows[7] = rows[9]
    found = nearest(rows, rows, torch.arange(12), 4).tolist()
    for own in (3, 7, 9):
        assert set(found[own][:2]) == {3, 7, 9} - {own}
    assert all(own not in line and len(set(line)) == 4 for own, line in enumerate(found))


# The graph.


@pytest.mark.parametrize("k", [1, 4])
def test_a_clip_s_neighbours_are_itself_and_the_nearest_by_sound_and_by_sight(k):
    batch = clips()
    graph = graph_of([batch], k)
    assert graph.near.shape == (40, 1 + 2 * k) and graph.near[:, 0].tolist() == list(range(40))
    for name, columns in zip(NAMES, (slice(1, 1 + k), slice(1 + k, None)), strict=True):
        assert [set(line) for line in graph.near[:, columns].tolist()] == peers(batch[name], k)
        assert torch.equal(graph.features[name], batch[name])


def test_near_is_judged_by_scaled_features_and_what_is_kept_are_the_raw_ones():
    batch = clips()
    weights = {"audio_features": torch.tensor([10.0, 0.1, 1.0]), "visual_features": torch.tensor([0.0] * 4 + [1.0])}
    graph = graph_of([batch], 3, lambda name, rows: rows * weights[name])
    assert [set(line) for line in graph.near[:, 1:4].tolist()] == peers(batch["audio_features"] * weights[NAMES[0]], 3)
    assert [set(line) for line in graph.near[:, 4:].tolist()] == peers(batch["visual_features"] * weights[NAMES[1]], 3)
    assert torch.equal(graph.features["audio_features"], batch["audio_features"])


def test_batches_in_any_order_make_the_same_graph():
    batch = clips()
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    assert_same_graph(graph_of([chosen(batch, part) for part in order.split([17, 1, 22])]), graph_of([batch]))


def test_a_generator_is_walked_once():
    batch = clips()
    assert_same_graph(graph_of(chosen(batch, part) for part in torch.arange(40).split(9)), graph_of([batch]))


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_where_there_are_fewer_clips_than_neighbours_all_others_are_neighbours(rows):
    graph = graph_of([clips(rows)], 10)
    assert graph.near.shape == (rows, 1 + 2 * (rows - 1))
    assert all(set(line) == set(range(rows)) for line in graph.near.tolist())
    assert graph.are_neighbours(torch.arange(rows)).all()


def test_places_are_found_by_the_row_of_the_split_and_an_unknown_row_is_a_sentence():
    graph = graph_of([clips()])
    assert graph.places(torch.tensor([119, 2, 50, 2])).tolist() == [39, 0, 16, 0]
    small = graph_of([clips() | {"index": clips()["index"].int()}])
    for one in (graph, small):
        assert [one.places(torch.tensor([5], dtype=kind)).tolist() for kind in (torch.int32, torch.int64)] == [[1]] * 2
    assert graph.places(torch.tensor([], dtype=torch.int64)).tolist() == []
    for unknown in (3, -1, 1000):  # in a gap, before the first, behind the last
        with pytest.raises(ValueError, match=f"Row {unknown} was not among the clips .* call `model.prepare`") as error:
            graph.places(torch.tensor([5, unknown]))
        assert "\n" not in str(error.value)


def test_each_of_a_clip_s_own_neighbours_is_drawn_as_often_as_any_other_and_both_features_are_of_one_clip():
    batch = clips(12)
    graph = graph_of([batch], 2)
    torch.manual_seed(0)
    places, draws = torch.tensor([4, 9]), 4000
    found = graph.drawn(places.repeat_interleave(draws))
    for number, place in enumerate(places.tolist()):
        part = slice(number * draws, (number + 1) * draws)
        whom = [(found[name][part].unsqueeze(1) == batch[name]).all(dim=2).float().argmax(dim=1) for name in NAMES]
        assert torch.equal(*whom)  # a sound and a sight that belong together
        for other in range(12):
            expected = draws * (graph.near[place] == other).float().mean().item()
            # A binomial's deviation is at most 32 of 4000 draws; five of them.
            assert abs((whom[0] == other).sum().item() - expected) <= (160 if expected else 0)
    torch.manual_seed(5)
    first = graph.drawn(places)
    torch.manual_seed(5)
    assert all(torch.equal(first[name], again) for name, again in graph.drawn(places).items())


def test_who_is_whose_neighbour_is_what_loops_say_and_is_not_mutual():
    graph = graph_of([clips()])
    places = torch.tensor([3, 30, 3, 0, 12, 25, 7, 18])
    found = graph.are_neighbours(places)
    for i, one in enumerate(places.tolist()):
        for j, other in enumerate(places.tolist()):
            assert found[i, j].item() == (other in graph.near[one].tolist())
    everyone = graph.are_neighbours(torch.arange(40))
    assert everyone.diagonal().all() and not torch.equal(everyone, everyone.T)


# Many processes.


@pytest.mark.parametrize("first", [29, 1, 0], ids=["uneven", "one", "none"])
def test_two_processes_make_the_graph_of_one(together, first):
    batch = clips()
    order = torch.from_numpy(np.random.default_rng(1).permutation(40))

    def work():
        from accelerate import Accelerator

        mine = order[:first] if Accelerator(cpu=True).process_index == 0 else order[first:]
        graph = graph_of([chosen(batch, part) for part in mine.split(11)])
        return graph.index, graph.features, graph.near

    expected = graph_of([batch])
    for found in together(2, work):
        assert_same_graph(NeighbourGraph(*found), expected)


def test_what_goes_wrong_in_one_process_ends_all(together):
    def work():
        from accelerate import Accelerator

        first = Accelerator(cpu=True).process_index == 0

        def walk():
            yield clips()
            if first:
                raise ValueError("Row 7 is bad.")

        with pytest.raises((ValueError, RuntimeError), match="Row 7 is bad"):
            graph_of(walk())
        return torch.ones(1)

    together(2, work)
