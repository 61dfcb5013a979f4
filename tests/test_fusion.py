"""The fusion: which linear map of the two subspaces becomes the embedding, and how it is chosen."""

import importlib.util
import itertools
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_dualspace import CanonicalLayer, Directions, DualSubspaceConfig, PairMoments
from modeling_dualspace.fusion import (
    HeldOut,
    fit_fusion,
    held_out_from,
    held_out_map,
    projected_correlations,
    reads_validation,
)

TOYS = ["i", "ii", "iii"]


@pytest.fixture(scope="module")
def toys(root):
    """benchmarks/fusion.py, where the toys are."""
    sys.path.insert(0, str(root / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_fusion", root / "benchmarks" / "fusion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(root / "benchmarks"))


def better_half_and_default(toys, toy, by_heart, seeds):
    scores = {
        name: sum(toys.fused_map(toy, by_heart, seed, toys.FUSIONS[name]) for seed in seeds) / len(seeds)
        for name in ("explicit", "implicit", "default")
    }
    return max(scores["explicit"], scores["implicit"]), scores["default"]


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("by_heart", [False, True])
def test_the_default_is_no_worse_than_the_better_subspace_over_five_seeds(toys, toy, by_heart):
    better, default = better_half_and_default(toys, toy, by_heart, range(5))
    assert default > better - 0.01


WIDTH = 7  # four explicit columns, three implicit ones


def make_config(**settings):
    sizes = {"num_labels": 3, "explicit_dim": 4, "embed_dim": 4}
    return DualSubspaceConfig(**sizes | {"audio_hidden": [], "visual_hidden": []} | settings)


def make_split(rows=90, seed=0, noise=1.0):
    """(audio outputs, visual outputs, memberships): explicit columns share a latent, implicit ones see the class."""
    generator = torch.Generator().manual_seed(seed)
    members = torch.eye(3)[torch.arange(rows) % 3]
    latent = torch.randn(rows, 4, generator=generator)
    audio, visual = (
        torch.cat([latent, members], 1) + noise * torch.randn(rows, WIDTH, generator=generator) for _ in range(2)
    )
    return audio, visual, members


def moments_of(audio, visual, members):
    return PairMoments(WIDTH, WIDTH, 3).update(audio, visual, members)


def held_out_of(audio, visual, members):
    mine = (audio, visual, members, torch.arange(len(audio)))
    return HeldOut(*mine, *mine, moments_of(audio, visual, members))


def fuse(config, held_out=None, noise=1.0):
    layer = CanonicalLayer(WIDTH, WIDTH, config.output_dim)
    return layer, fit_fusion(layer, config, moments_of(*make_split(noise=noise)), held_out)


@pytest.mark.parametrize("cluster_weight", [0.0, 0.4, 1.0])
def test_projected_correlations_equal_those_of_the_projected_rows(cluster_weight):
    audio, visual, members = (tensor.double() for tensor in make_split(seed=1))
    audio_weights, visual_weights = torch.randn(2, WIDTH, 5, dtype=torch.float64)
    visual_weights[:, 0] = 0  # a direction past the rank
    visual_weights[:, 1] = -visual_weights[:, 1]
    zeros = torch.zeros(5)
    directions = Directions(zeros, audio_weights, zeros, visual_weights, zeros)
    found = projected_correlations(directions, moments_of(audio, visual, members).covariances(cluster_weight))
    projected = [
        ((rows - rows.mean(dim=0)) @ W).numpy() for rows, W in ((audio, audio_weights), (visual, visual_weights))
    ]
    # Each clip with itself, and with the mean of its class.
    same_class = (members @ members.T / members.sum(dim=0).max()).numpy()
    partners = (1 - cluster_weight) * projected[1] + cluster_weight * same_class @ projected[1]
    for k in range(5):
        sizes = np.linalg.norm(projected[0][:, k]) * np.linalg.norm(projected[1][:, k])
        expected = max(0.0, projected[0][:, k] @ partners[:, k] / sizes) if k else 0.0
        assert found[k].item() == pytest.approx(expected, abs=1e-12)
    assert (found[1:] > 0).any()


def test_the_fusion_keeps_the_candidate_that_ranks_validation_best():
    held_out = held_out_of(*make_split(seed=1))
    layer, record = fuse(make_config(), held_out)
    assert record["candidates"] == 3 + 4 * 2
    assert held_out_map(layer, held_out) == pytest.approx(record["validation_map"], abs=1e-12)
    alone = [{"variant": "explicit"}, {"variant": "implicit"}, {"fusion": "cca"}]
    scores = [held_out_map(fuse(make_config(**settings))[0], held_out) for settings in alone]
    for cluster_weight, ridge in itertools.product((0.0, 0.2, 0.5, 1.0), (1e-4, 1e-2)):
        config = make_config(fusion_cluster_weight=cluster_weight, fusion_ridge=ridge)
        fixed, choice = fuse(config, held_out)
        assert choice == {"candidate": "weighted-cluster-cca", "cluster_weight": cluster_weight, "ridge": ridge}
        scores.append(held_out_map(fixed, held_out))
    assert record["validation_map"] == pytest.approx(max(scores), abs=1e-12)


def test_what_the_config_says_is_not_chosen():
    held_out = held_out_of(*make_split(seed=1))
    record = fuse(make_config(fusion_cluster_weight=0.3), held_out)[1]
    assert record["candidates"] == 3 + 2 and record.get("cluster_weight", 0.3) == 0.3
    record = fuse(make_config(fusion_ridge=0.2), held_out)[1]
    assert record["candidates"] == 3 + 4 and record.get("ridge", 0.2) == 0.2


def test_of_candidates_that_rank_alike_the_one_that_needs_no_choice_is_kept():
    audio, visual, members = make_split(noise=0.0)
    # Two clips of one class: every candidate is perfect.
    record = fuse(make_config(), held_out_of(audio[:6:3], visual[:6:3], members[:6:3]))[1]
    assert record["validation_map"] == 1 and record["candidate"] == "weighted-cluster-cca"
    assert (record["cluster_weight"], record["ridge"]) == (0.5, 1e-4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"candidate": "weighted-cluster-cca", "cluster_weight": 0.5, "ridge": 1e-4}),
        ({"fusion_ridge": 0.1}, {"candidate": "weighted-cluster-cca", "cluster_weight": 0.5, "ridge": 0.1}),
        ({"fusion_cluster_weight": 1.0}, {"candidate": "weighted-cluster-cca", "cluster_weight": 1.0, "ridge": 1e-4}),
        ({"fusion": "cca"}, {"candidate": "cca", "ridge": 1e-4}),
        ({"variant": "explicit"}, {"candidate": "explicit", "ridge": 1e-4}),
        ({"variant": "implicit"}, {"candidate": "implicit"}),
    ],
)
def test_without_validation_nothing_is_chosen(settings, expected):
    layer, record = fuse(make_config(**settings))
    assert record == expected and layer.fitted


def test_validation_is_read_only_where_it_changes_something():
    assert reads_validation(make_config()) and reads_validation(make_config(variant="shared"))
    for settings in ({"variant": "explicit"}, {"variant": "implicit"}, {"fusion": "cca"}):
        assert not reads_validation(make_config(**settings))


def test_each_subspace_alone_is_blind_to_the_other():
    audio, _, _ = make_split(seed=1)
    other = torch.randn(90, WIDTH)
    explicit, implicit = (fuse(make_config(variant=variant))[0] for variant in ("explicit", "implicit"))
    torch.testing.assert_close(explicit.audio(torch.cat([audio[:, :4], other[:, 4:]], 1)), explicit.audio(audio))
    torch.testing.assert_close(
        implicit.audio(torch.cat([other[:, :4], audio[:, 4:]], 1)), normalize(audio[:, 4:], dim=1)
    )


def test_validation_weighs_the_directions_by_what_they_are_worth_on_rows_that_were_not_seen():
    config = make_config(fusion_cluster_weight=0.0, fusion_ridge=1e-4)
    trained = fuse(config, noise=0.0)[0]  # both modalities put out the same: every correlation is one
    np.testing.assert_allclose(trained.correlations, 1, atol=1e-3)
    layer = fuse(config, held_out_of(*make_split(seed=1)), noise=0.0)[0]
    assert (layer.correlations < 0.9).all() and (layer.correlations > 0).all()
    weights = layer.correlations / trained.correlations
    torch.testing.assert_close(layer.audio_weights, trained.audio_weights * weights, rtol=1e-4, atol=1e-5)


def test_validation_that_nobody_labelled_chooses_by_the_own_pair():
    audio, visual, _ = make_split(seed=1)
    numbers = torch.arange(len(audio))
    mine = (audio, visual, numbers, numbers)
    held_out = HeldOut(*mine, *mine, PairMoments(WIDTH, WIDTH, 3).update(audio, visual))
    layer, record = fuse(make_config(), held_out)
    assert record["validation_map"] == pytest.approx(held_out_map(layer, held_out), abs=1e-12)
    assert record["candidate"] != "implicit"  # which tells classes apart, not clips


def test_few_validation_clips_do_not_choose_what_knows_pairs_and_no_class(toys):
    """A clip's own pair is a third of what is relevant among thirty clips: left in, it chose (ii)'s explicit half."""
    seeds = range(5)
    settings = toys.FUSIONS["default"]
    few = sum(toys.fused_map("ii", False, seed, settings, validation=30) for seed in seeds) / len(seeds)
    many = sum(toys.fused_map("ii", False, seed, settings) for seed in seeds) / len(seeds)
    # Chance is .11 and what pairs alone give .12; thirty clips choose a little worse than five hundred.
    assert few > 0.8 * many


def test_the_implicit_outputs_are_compared_as_they_are():
    audio, _, _ = make_split(seed=1)
    layer, _ = fuse(make_config(fusion="implicit"))
    torch.testing.assert_close(layer.audio(audio), normalize(audio[:, 4:], dim=1))


def test_a_power_of_zero_leaves_directions_unweighted():
    held_out = held_out_of(*make_split(seed=1))
    power_zero = make_config(fusion_power=0, fusion_cluster_weight=0, fusion_ridge=1e-4)
    one, other = (fuse(config, held_out)[0].audio(held_out.audio) for config in (power_zero, make_config(fusion="cca")))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("relative", [False, True])
def test_the_ridge_is_of_the_kind_the_config_says(relative):
    # The same ridge, said absolutely and as a multiple of a mean eigenvalue that is far from one.
    layers = [fuse(make_config(fusion="cca", fusion_ridge=1.0, ridge_relative=kind))[0] for kind in (False, relative)]
    assert torch.allclose(layers[0].correlations, layers[1].correlations, atol=1e-3) == (not relative)


@pytest.mark.parametrize("candidate", ["explicit", "implicit", "cca", "weighted-cluster-cca"])
def test_what_validation_chose_can_be_named_for_a_refit_without_one(candidate):
    named = {"fusion": candidate}
    if candidate == "weighted-cluster-cca":
        named |= {"fusion_cluster_weight": 1.0, "fusion_ridge": 1e-2}
    layer, record = fuse(make_config(**named))
    assert record["candidate"] == candidate and layer.fitted
    if candidate == "weighted-cluster-cca":
        assert (record["cluster_weight"], record["ridge"]) == (1.0, 1e-2)


def outputs_of(audio, visual, labels):
    return held_out_from([(audio, visual, labels)], make_config(), torch.device("cpu"))


def test_clips_that_nobody_labelled_are_neither_relevant_nor_irrelevant():
    audio, visual, members = make_split(seed=1)
    labels = members.argmax(dim=1)
    layer, _ = fuse(make_config(fusion="cca"))
    some = labels.clone()
    some[45:] = -100
    half, first = outputs_of(audio, visual, some), outputs_of(audio[:45], visual[:45], labels[:45])
    assert held_out_map(layer, half) == pytest.approx(held_out_map(layer, first), abs=1e-12)


def test_directions_that_correlate_the_wrong_way_are_worth_nothing():
    audio, visual, members = make_split(seed=1)
    directions = fuse(make_config(fusion="cca"))[0]
    found = Directions(
        directions.audio_mean.double(), directions.audio_weights.double(),
        directions.visual_mean.double(), -directions.visual_weights.double(), directions.correlations.double(),
    )  # fmt: skip
    assert (projected_correlations(found, moments_of(audio, visual, members).covariances()) == 0).all()


def test_labels_that_no_two_clips_share_choose_nothing_and_pairs_do():
    audio, visual, _ = make_split(seed=1)
    lonely = torch.full((90,), -100)
    lonely[:3] = torch.arange(3)
    layer, _ = fuse(make_config(fusion="cca"))
    nobody = torch.full((90,), -100)
    assert held_out_map(layer, outputs_of(audio, visual, lonely)) == held_out_map(
        layer, outputs_of(audio, visual, nobody)
    )
