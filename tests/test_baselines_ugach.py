"""UGACH: ranking and reward beside NumPy's, the generator's gradient beside that of the expectation, labels unread."""

import os
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from forked import Killed, in_a_child
from players import (
    CLASSES,
    assert_two_stay_alike,
    assert_two_take_the_step_of_one,
    doubled,
    easy_data,
    held_out_map,
    learnt,
    moved,
    parameters_of,
    slopes,
)
from safetensors.torch import load_file
from sklearn.neighbors import NearestNeighbors
from transformers import AutoModel

from modeling_dualspace.average_precision import average_precision
from modeling_dualspace.baselines import UgachConfig, UgachModel
from modeling_dualspace.codes import hamming, pack
from modeling_dualspace.neighbours import NeighbourGraph
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [12], "visual_hidden": [12], "embed_dim": 16, "neighbours": 3}
DIRECTIONS = (("audio", "visual"), ("visual", "audio"))


def make(**settings):
    torch.manual_seed(0)
    return UgachModel(UgachConfig(audio_dim=6, visual_dim=8, **MODEL | settings))


@pytest.fixture
def clips(make_batch):
    """`clips(rows)`: with their rows of the split."""
    return lambda rows=60, seed=1: make_batch(rows, seed) | {"index": torch.arange(rows)}


@pytest.fixture
def prepared(clips):
    """`prepared(rows, ...)`: a model with the graph of as many clips."""

    def of(rows=60, **settings):
        model = make(**settings)
        model.prepare([clips(rows)])
        return model

    return of


def neighbours(batch, k):
    """`(n, n)`: whether the second is the first, or among its nearest in standardised sounds or sights."""
    near = np.eye(len(batch["index"]), dtype=bool)
    for name in ("audio_features", "visual_features"):
        rows = batch[name].numpy().astype(float)
        rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
        for own, line in enumerate(NearestNeighbors(n_neighbors=k + 1).fit(rows).kneighbors(rows)[1]):
            near[own, line[line != own]] = True
    return near


def random_rows(places, samples, bits=16, seed=0):
    """What `encode` might have made, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"place": torch.as_tensor(places)}
    size = {"generator": generator, "dtype": torch.float64}
    for name in ("audio", "visual"):
        for what in (name, f"{name}_positive", f"{name}_generated"):
            rows[what] = torch.rand(len(places), bits, **size)
        rows[f"{name}_draws"] = torch.rand(len(places), samples, **size)
    return rows


def numpy_chances(rows, near, queries, gallery):
    """Of every clip of the batch to be a query's negative."""
    places = rows["place"].numpy()
    mine, theirs = rows[f"{queries}_generated"].numpy(), rows[f"{gallery}_generated"].numpy()
    chances = np.zeros((len(places), len(places)))
    for i, j in product(range(len(places)), repeat=2):
        if not near[places[i], places[j]]:
            chances[i, j] = np.exp(-((mine[i] - theirs[j]) ** 2).sum())
    return chances / np.maximum(chances.sum(axis=1, keepdims=True), 1e-300)


def numpy_hinge(rows, queries, gallery, i, j, margin):
    mine = rows[queries].numpy()[i]
    near = ((mine - rows[f"{gallery}_positive"].numpy()[i]) ** 2).sum()
    return max(0.0, margin + near - ((mine - rows[gallery].numpy()[j]) ** 2).sum())


def numpy_game(rows, near, margin):
    """Ranking and reward, query by query and draw by draw."""
    ranking, reward = [], []
    for queries, gallery in DIRECTIONS:
        chances, hinges, rewards = numpy_chances(rows, near, queries, gallery), [], []
        for i, draws in enumerate(rows[f"{queries}_draws"].numpy()):
            for number in draws if chances[i].any() else ():
                j = next(j for j in range(len(chances)) if chances[i, : j + 1].sum() > number)
                hinges.append(numpy_hinge(rows, queries, gallery, i, j, margin))
                rewards.append(-np.log(chances[i, j]) * np.log1p(np.exp(hinges[-1])))
        ranking.append(np.mean(hinges) if hinges else 0.0)
        reward.append(np.mean(rewards) if rewards else 0.0)
    return {"ranking": np.mean(ranking), "reward": np.mean(reward)}


# The objective.


@pytest.mark.parametrize("margin", [None, 0.0, 0.5])
@pytest.mark.parametrize("samples", [1, 5])
def test_ranking_and_reward_are_those_of_loops_over_given_draws(clips, prepared, margin, samples):
    model = prepared(margin=margin, samples=samples)
    near = neighbours(clips(), 3)
    rows = random_rows([4, 17, 33, 5, 59, 20, 41, 11, 2, 38], samples)
    expected = numpy_game(rows, near, 2.0 if margin is None else margin)  # an eighth of 16 bits
    for player, term in (("model", "ranking"), ("generator", "reward")):
        found = model.objective(rows, player, 0.0)
        assert list(found) == [term]
        assert found[term].item() == pytest.approx(expected[term], rel=1e-9)  # float64 throughout


@pytest.mark.parametrize("seed", range(3))
def test_a_query_that_has_but_positives_is_left_out(clips, prepared, seed):
    near = neighbours(clips(), 3)
    lonely = next(i for i in range(60) if near[i].sum() >= 5)
    batch = np.flatnonzero(near[lonely])
    assert not all(near[i, batch].all() for i in batch)  # the others have negatives
    rows = random_rows(batch, 4, seed=seed)
    for name in ("audio_generated", "visual_generated"):
        rows[name].requires_grad_()
    model, expected = prepared(samples=4), numpy_game({k: v.detach() for k, v in rows.items()}, near, 2.0)
    assert model.objective(rows, "model", 0.0)["ranking"].item() == pytest.approx(expected["ranking"], rel=1e-9)
    reward = model.objective(rows, "generator", 0.0)["reward"]
    assert reward.item() == pytest.approx(expected["reward"], rel=1e-9)
    reward.backward()
    assert all(rows[name].grad.isfinite().all() and rows[name].grad.any() for name in rows if "generated" in name)


@pytest.mark.parametrize("player", ["model", "generator"])
def test_a_batch_of_positives_alone_costs_nothing_and_moves_nothing(clips, prepared, player):
    model = prepared(8, neighbours=6)
    batch = {name: rows[:1] for name, rows in clips(8).items()}  # one clip: itself is all there is
    loss = model(**batch, player=player).loss
    loss.backward()
    assert loss == 0 and not any(one.grad is not None and one.grad.any() for one in model.parameters())


def test_where_every_clip_is_near_every_other_there_is_nothing_to_learn(prepared):
    with pytest.raises(ValueError, match=r"Of 8 clips each is among the 7 nearest .*: set fewer by model.neighbours"):
        prepared(8, neighbours=7)


def test_a_negative_is_no_positive_whatever_is_drawn(prepared, make_batch):
    """Two heaps, in each of which all are neighbours: a negative lies in the other, two units away."""
    batch = make_batch(8) | {"index": torch.arange(8)}
    batch["audio_features"] += 1000 * (torch.arange(8) % 2).unsqueeze(1)
    batch["visual_features"] += 1000 * (torch.arange(8) % 2).unsqueeze(1)
    model = make(samples=7, margin=5.0)
    model.prepare([batch])
    rows = random_rows(range(8), 7)
    heap = torch.nn.functional.one_hot(torch.arange(8) % 2, 16).double()
    last = np.nextafter(1.0, 0.0)
    for name in ("audio", "visual"):
        rows[name] = rows[f"{name}_positive"] = heap
        rows[f"{name}_draws"] = torch.tensor([[0.0, 1e-300, 0.25, 0.5, 0.75, 1 - 1e-9, last]] * 8).double()
    assert model.objective(rows, "model", 0.0)["ranking"] == 3.0


def test_the_generator_s_gradient_is_on_average_that_of_the_exact_reward_surrogate(clips, prepared):
    """Every negative of every query is drawn in turn, weighed by its chance."""
    places, n = [4, 17, 33, 5, 59, 20], 6
    model, near = prepared(samples=1), neighbours(clips(), 3)
    rows = random_rows(places, 1)
    chances = {queries: numpy_chances(rows, near, queries, gallery) for queries, gallery in DIRECTIONS}
    leaves = [rows[f"{name}_generated"].requires_grad_() for name in ("audio", "visual")]

    def gradient():
        return torch.cat(torch.autograd.grad(model.objective(rows, "generator", 0.0)["reward"], leaves))

    base, mean = gradient(), 0
    for queries, _ in DIRECTIONS:
        for i in range(n):
            draws = rows[f"{queries}_draws"]
            kept = draws[i].clone()
            for j in np.flatnonzero(chances[queries][i]):
                draws[i] = chances[queries][i, :j].sum() + chances[queries][i, j] / 2
                mean = mean + chances[queries][i, j] * gradient()
            draws[i] = kept
    mean = mean - (2 * n - 1) * base  # a draw is of one query: all others' shares came with it each time

    exact = 0
    for queries, gallery in DIRECTIONS:
        own, theirs = rows[f"{queries}_generated"], rows[f"{gallery}_generated"]
        allowed = torch.from_numpy(~near[np.ix_(places, places)])
        distances = (own.unsqueeze(1) - theirs).square().sum(dim=2)
        weights = torch.where(allowed, torch.exp(-distances), 0.0)
        rewards = torch.tensor([
            [np.log1p(np.exp(numpy_hinge({k: v.detach() for k, v in rows.items()}, queries, gallery, i, j, 2.0)))
             for j in range(n)] for i in range(n)
        ])  # fmt: skip
        exact = exact + (weights / weights.sum(dim=1, keepdim=True) * rewards).sum() / n / 2
    expected = torch.cat(torch.autograd.grad(-exact, leaves))  # what is minimised is minus the reward
    # float64; sixty gradients of about the size of the result are added and taken away.
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("player", ["model", "generator"])
def test_low_precision_is_the_networks_not_the_loss_s(prepared, player):
    model, rows = prepared(), {name: one.float() for name, one in random_rows([4, 17, 33, 5, 59, 20], 2).items()}
    rows["place"] = rows["place"].long()
    whole = model.objective(rows, player, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.objective(rows, player, 0.0) == whole


@pytest.mark.parametrize(("player", "term"), [("model", "ranking"), ("generator", "reward")])
def test_a_term_is_as_steep_as_differences_say(clips, prepared, player, term):
    model = prepared().double().train()
    steep, difference = slopes(model, doubled(clips()), player, term)
    # Of a step of 1e-6 a float64 difference keeps nine digits or so.
    assert abs(steep) > 1e-4 and steep == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("player", ["model", "generator"])
def test_each_player_learns_from_its_own_turn_alone(clips, prepared, player):
    model = prepared()
    model(**clips(), player=player).loss.backward()
    found = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert found == set(parameters_of(model, player))
    assert len(found) == 8 and all(name.startswith("generator.") == (player == "generator") for name in found)


def test_by_turns_a_training_moves_the_networks_and_the_generator(data):
    model = make()
    model.prepare(data.passes("train"))
    (first, one), (second, other), (third, _) = moved(model, data, 3)
    assert (first, second, third) == ("model", "generator", "model")
    assert one == set(parameters_of(model, "model")) and other == set(parameters_of(model, "generator"))


# Codes.


def test_embeddings_are_bits_whose_cosine_ranks_as_hamming_does(clips, prepared):
    model = prepared(embed_dim=24)
    batch = clips()
    audio, visual = model.get_audio_embeds(batch["audio_features"]), model.get_visual_embeds(batch["visual_features"])
    for codes in (audio, visual):
        assert codes.unique().tolist() == pytest.approx([-(24**-0.5), 24**-0.5])
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(60), rtol=0, atol=1e-6)  # float32: 24 squares
    assert pack(audio).shape == (60, 3)
    cosines, distances = audio.double() @ visual.double().T, hamming(pack(audio), pack(visual))
    # Entries are float32 of an irrational number.
    torch.testing.assert_close(cosines, 1 - 2 * distances / 24.0, rtol=0, atol=1e-6, check_dtype=False)
    relevant = (batch["labels"].unsqueeze(1) == batch["labels"]).numpy()
    by_bits = average_precision(-distances.float().numpy(), relevant)
    np.testing.assert_allclose(average_precision(cosines.float().numpy().round(4), relevant), by_bits)


def test_a_code_is_where_the_discriminator_s_output_passes_one_half_and_of_its_own_clip_alone(clips, prepared):
    model = prepared(dropout=0.5, normalization="batch").train()
    batch = clips()
    whole = model.get_audio_embeds(batch["audio_features"])
    assert torch.equal(model.get_audio_embeds(batch["audio_features"]), whole) and model.training
    for row in (0, 31):
        assert torch.equal(model.get_audio_embeds(batch["audio_features"][row : row + 1]), whole[row : row + 1])
    outputs = model.eval()._codes(batch["audio_features"], "audio")
    assert torch.equal(outputs >= 0.5, whole > 0) and 0 < outputs.min() and outputs.max() < 1


# The graph.


def test_what_is_missing_is_a_sentence(clips, prepared):
    batch = clips()
    with pytest.raises(RuntimeError, match=r"call `model.prepare\(batches\)` first"):
        make()(**batch)
    del batch["index"]
    for learn in (lambda: make().prepare([batch]), lambda: prepared()(**batch)):
        with pytest.raises(ValueError, match="batches need the column `index`") as error:
            learn()
        assert "\n" not in str(error.value)


def test_a_loaded_model_embeds_to_the_bit_without_a_graph_and_learns_once_it_has_one_again(clips, prepared, tmp_path):
    model, batch = prepared().eval(), clips()
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, UgachModel)
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in model.state_dict().items())
    both = {name: batch[name] for name in ("audio_features", "visual_features")}
    found = loaded(**both, return_loss=False)
    assert torch.equal(found.audio_embeds, model.get_audio_embeds(batch["audio_features"]))
    loaded.prepare([batch])
    torch.manual_seed(2)
    loss = loaded.train()(**batch).loss
    torch.manual_seed(2)
    assert torch.equal(loss, model.train()(**batch).loss)
    assert model.eval()(**batch).loss is None  # the graph knows the clips that are learnt from, and no others


def test_a_model_from_a_file_takes_both_modalities_as_any_other_does(clips, prepared, tmp_path):
    """What a processor makes of a film goes into the model as it comes; there is no graph, and so no loss."""
    model, batch = prepared().eval(), clips()
    model.save_pretrained(tmp_path / "saved")
    found = AutoModel.from_pretrained(tmp_path / "saved")(batch["audio_features"], batch["visual_features"])
    assert torch.equal(found.audio_embeds, model.get_audio_embeds(batch["audio_features"])) and found.loss is None


# Training.


@pytest.fixture
def ugach(recipe):
    return lambda output="run", model=MODEL, **settings: replace(
        recipe(output, **settings), system="ugach", model=dict(model)
    )


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same_bits(one, other):
    assert one.keys() == other.keys() and len(one) >= 20
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_no_label_is_read(ugach, data, tmp_path):
    bare = {name: split.remove_columns("label") for name, split in data.splits.items()}
    order = {name: torch.randperm(len(split)).numpy() for name, split in data.splits.items()}
    mixed = {name: split.add_column("label", np.array(data.splits[name]["label"])[order[name]]).cast_column(
        "label", data.splits[name].features["label"]) for name, split in bare.items()}  # fmt: skip
    assert mixed["train"]["label"][:] != data.splits["train"]["label"][:]
    for name, given in (("true", data), ("mixed", TrainingData(mixed)), ("none", TrainingData(bare))):
        train(ugach(name, epochs=2, choose="last", refit=False), data=given, progress=False)
    assert_same_bits(weights(tmp_path / "true"), weights(tmp_path / "mixed"))
    assert_same_bits(weights(tmp_path / "true"), weights(tmp_path / "none"))


def test_a_seed_decides_and_a_run_that_was_killed_goes_on_to_the_same_bits(ugach, data, tmp_path):
    model = MODEL | {"dropout": 0.2}
    of = lambda name, **more: ugach(name, model, epochs=2, **more)  # noqa: E731
    train(of("whole"), data=data, progress=False)
    train(of("other", seed=1, refit=False), data=data, progress=False)
    for step in (4, 7):  # in the first training, and in the refit, whose graph holds validation clips too
        child = in_a_child(lambda step=step: train(of("killed"), data=Killed(data, step), resume=True, progress=False))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    train(of("killed"), data=data, resume=True, progress=False)
    whole, other = weights(tmp_path / "whole"), weights(tmp_path / "other")
    assert_same_bits(whole, weights(tmp_path / "killed"))
    assert not any(torch.equal(whole[name], other[name]) for name in whole if name.endswith("weight"))


def test_in_bfloat16_it_trains(ugach, data, tmp_path):
    train(ugach(epochs=2, refit=False, precision="bf16"), data=data, progress=False)
    assert all(one.isfinite().all() for one in weights(tmp_path / "run").values())


def test_without_a_label_it_finds_clips_of_a_class_that_it_never_saw():
    """Of 150 clips in five classes a random order has a MAP of .2 and little; far clouds could have one of 1.

    Of five seeds it begins at .22 to .33 and comes to .81 to .99.
    """
    model, data = make(embed_dim=32), easy_data(labelled=False)
    model.prepare(data.passes("train"))
    assert held_out_map(model) < 2.25 / CLASSES
    learnt(model, data, epochs=12, lr=0.01)
    assert held_out_map(model) > 0.6


# Many processes.


@pytest.mark.parametrize("player", ["model", "generator"])
def test_two_processes_take_the_step_of_one_on_what_they_drew(together, clips, player, monkeypatch):
    """Positives, which each process looks up and encodes, are here the first that would do."""
    first = lambda graph, places: {name: rows[graph.near[places][:, 1]] for name, rows in graph.features.items()}  # noqa: E731
    monkeypatch.setattr(NeighbourGraph, "drawn", first)
    draws = ["audio_draws", "visual_draws"]
    assert_two_take_the_step_of_one(together, make, clips(), player, draws)


def test_two_processes_stay_alike_over_steps_of_uneven_shards(together, data):
    assert_two_stay_alike(together, lambda: make(dropout=0.2), data, ["ranking", "reward"])
