"""The fusion: which linear map of subspaces and features becomes the embedding, and how it is chosen."""

import importlib.util
import itertools
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn.functional import normalize

from modeling_dualspace import CanonicalLayer, DualSubspaceConfig, PairMoments, fusion
from modeling_dualspace.fusion import HeldOut, fit_fusion, held_out_from, held_out_map
from modeling_dualspace.ranking import mean_average_precision

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


@pytest.mark.slow
@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("by_heart", [False, True])
def test_the_default_is_no_worse_than_the_better_subspace_over_five_seeds(toys, toy, by_heart):
    better, default = better_half_and_default(toys, toy, by_heart, range(5))
    assert default > better - 0.01


OUTPUTS, AUDIO, VISUAL = 7, 5, 6  # four explicit columns, three implicit ones; widths of the features behind them


def make_config(**settings):
    sizes = {"num_labels": 3, "explicit_dim": 4, "embed_dim": 4, "audio_dim": AUDIO, "visual_dim": VISUAL}
    return DualSubspaceConfig(**sizes | {"audio_hidden": [], "visual_hidden": []} | settings)


def make_split(rows=90, seed=0, noise=1.0):
    """(audio, visual, memberships): explicit columns share a latent, implicit ones see the class, features see both."""
    generator, mix = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    members = torch.eye(3)[torch.arange(rows) % 3]
    seen = torch.cat([torch.randn(rows, 4, generator=generator), members], 1)
    sides = []
    for width in (AUDIO, VISUAL):
        side = torch.cat([seen, seen @ torch.randn(OUTPUTS, width, generator=mix)], 1)
        sides.append(side + noise * torch.randn(side.shape, generator=generator))
    return *sides, members


def moments_of(config, audio, visual, members):
    return PairMoments(*config.fusion_widths, 3).update(*cut(config, audio, visual), members)


def cut(config, audio, visual):
    """The columns that such a model fuses."""
    widths = config.fusion_widths
    return audio[:, : widths[0]], visual[:, : widths[1]]


def held_out_of(config, audio, visual, members):
    mine = (*cut(config, audio, visual), members, torch.arange(len(audio)))
    return HeldOut(*mine, *mine)


def fuse(config, held_out=None, noise=1.0, like=None):
    layer = CanonicalLayer(*config.fusion_widths, config.output_dim)
    return layer, fit_fusion(layer, config, moments_of(config, *make_split(noise=noise)), held_out, like)


def embeds(layer, config, split):
    audio, visual = cut(config, *split[:2])
    return torch.cat([layer.audio(audio), layer.visual(visual)])


WEIGHTED = {
    "candidate": "weighted-cluster-cca",
    "cluster_weight": fusion.UNCHOSEN_CLUSTER_WEIGHT,
    "ridge": fusion.UNCHOSEN_RIDGE,
}
WITH_FEATURES = WEIGHTED | {"candidate": "with-features", "ridge": fusion.UNCHOSEN_FEATURES_RIDGE}


@pytest.mark.parametrize(("weight", "ridge", "power"), [(1.0, 0.1, 1.0), (0.3, 0.02, 0.5), (0.0, 1.0, 0.0)])
def test_outputs_and_features_are_fused_as_scipy_does_it(weight, ridge, power):
    config = make_config(fusion_cluster_weight=weight, fusion_ridge=ridge, fusion_power=power)
    audio, visual, members = make_split(seed=3)
    members[80:] = 0  # unlabelled: partners of themselves alone
    layer = CanonicalLayer(*config.fusion_widths, config.output_dim)
    record = fit_fusion(layer, config, moments_of(config, audio, visual, members), None)
    assert record == {"candidate": "with-features", "cluster_weight": weight, "ridge": ridge}
    a, v = ((rows - rows.mean(dim=0)).double().numpy() for rows in (audio, visual))
    labels = np.where(members.any(dim=1), members.argmax(dim=1), 3 + np.arange(90))
    partners = np.stack([(1 - weight) * v[i] + weight * v[labels == labels[i]].mean(axis=0) for i in range(90)])
    marginals = [rows.T @ rows / 90 * (1 + ridge * np.eye(rows.shape[1])) for rows in (a, v)]
    cross, wide = a.T @ partners / 90, a.shape[1]
    both = np.zeros((wide + v.shape[1],) * 2)
    both[:wide, wide:], both[wide:, :wide] = cross, cross.T
    values, vectors = scipy.linalg.eigh(both, scipy.linalg.block_diag(*marginals))
    rho, W = values[:-5:-1], vectors[:, :-5:-1] * 2**0.5
    np.testing.assert_allclose(layer.correlations, rho, atol=1e-5)
    projected = [torch.from_numpy(rows @ part * rho**power) for rows, part in ((a, W[:wide]), (v, W[wide:]))]
    expected = normalize(torch.cat(projected), dim=1).float()
    actual = embeds(layer, config, (audio, visual))
    torch.testing.assert_close(actual @ actual.T, expected @ expected.T, rtol=1e-4, atol=1e-4)  # whatever the signs


def test_the_unit_of_a_feature_column_does_not_matter():
    """`feature_scaling="none"` leaves columns as they are; one that never varies is passed over."""
    config, split = make_config(), make_split(seed=3)
    units = torch.cat([torch.ones(OUTPUTS), 10.0 ** torch.arange(-4, AUDIO - 4)])
    found = []
    for unit in (torch.ones_like(units), units):
        audio, visual, members = (split[0] * unit).double(), split[1].double(), split[2]
        visual[:, -1] = 7.0
        layer = CanonicalLayer(*config.fusion_widths, config.output_dim).double()
        fit_fusion(layer, config, moments_of(config, audio, visual, members), None)
        found.append(embeds(layer, config, (audio, visual)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize(("lead", "taken"), [(-9, False), (0.0, False), (0.99, False), (1.01, True)])
def test_another_candidate_must_lead_the_unchosen_one_by_a_margin(monkeypatch, features, lead, taken):
    config, tried = make_config(fusion_features=features), []

    def scored(layer, _):
        tried.append(layer.audio_weights.clone())
        return 0.5 + (lead * fusion.MARGIN if len(tried) == 4 else -0.2 * (len(tried) > 1))

    monkeypatch.setattr(fusion, "held_out_map", scored)
    layer, record = fuse(config, held_out_of(config, *make_split(seed=1)))
    assert len(tried) == record.pop("candidates") == 8 + 3 + features
    assert record.pop("validation_map") == 0.5 + lead * fusion.MARGIN * taken
    assert (record == (WITH_FEATURES if features else WEIGHTED)) != taken
    assert torch.equal(layer.audio_weights, tried[3 if taken else 0])


# What is clearly better there: the implicit outputs; nothing (another ridge is, a little); outputs alone, where the
# features of validation are noise; nothing.
@pytest.mark.parametrize(
    ("features", "seed", "noise", "clear"),
    [(False, 1, 0, True), (False, 3, 0, False), (True, 1, 9, True), (True, 1, 0, False)],
)
def test_the_fusion_keeps_what_ranks_validation_clearly_better(features, seed, noise, clear):
    config, validation = make_config(fusion_features=features), make_split(seed=seed)
    for rows in validation[:2]:
        rows[:, OUTPUTS:] += noise * torch.randn(90, rows.shape[1] - OUTPUTS)
    held_out = held_out_of(config, *validation)
    layer, record = fuse(config, held_out)
    assert held_out_map(layer, held_out) == pytest.approx(record["validation_map"], abs=1e-12)
    others = [{"candidate": name} for name in ("explicit", "implicit", "cca")]
    grid = itertools.product((0.0, 0.2, 0.5, 1.0), (1e-4, 1e-2))
    others += [WEIGHTED | {"cluster_weight": weight, "ridge": ridge} for weight, ridge in grid]
    best = max(held_out_map(fuse(config, like=like)[0], held_out) for like in others)
    unchosen = held_out_map(fuse(config)[0], held_out)
    assert (best >= unchosen + fusion.MARGIN) == clear
    assert record["validation_map"] == pytest.approx(best if clear else unchosen, abs=1e-12)


NAMED = [
    ({}, {"candidate": "with-features", "cluster_weight": 1.0, "ridge": fusion.UNCHOSEN_FEATURES_RIDGE}),
    ({"fusion_ridge": 0.2}, {"candidate": "with-features", "cluster_weight": 1.0, "ridge": 0.2}),
    ({"fusion_cluster_weight": 0.3}, WITH_FEATURES | {"cluster_weight": 0.3}),
    ({"fusion_features": False}, {"candidate": "weighted-cluster-cca", "cluster_weight": 1.0, "ridge": 1e-2}),
    ({"fusion_features": False, "fusion_ridge": 0.2}, WEIGHTED | {"ridge": 0.2}),
    ({"fusion_features": False, "fusion_cluster_weight": 0.3}, WEIGHTED | {"cluster_weight": 0.3}),
    ({"fusion": "cca"}, {"candidate": "cca", "ridge": 1e-4}),
    ({"fusion": "cca", "fusion_ridge": 0.2}, {"candidate": "cca", "ridge": 0.2}),
    ({"fusion": "explicit", "fusion_ridge": 0.2}, {"candidate": "explicit", "ridge": 0.2}),
    ({"variant": "explicit"}, {"candidate": "explicit", "ridge": 1e-4}),
    ({"variant": "implicit"}, {"candidate": "implicit"}),
]


@pytest.mark.parametrize(("settings", "expected"), NAMED)
def test_without_validation_nothing_is_chosen(settings, expected):
    layer, record = fuse(make_config(**settings))
    assert record == expected and layer.fitted


@pytest.mark.parametrize(("settings", "record"), NAMED)
def test_what_was_chosen_elsewhere_is_taken_whatever_validation_says(settings, record):
    """The same embeddings out of a layer that has columns for features too as out of one as wide as it need be."""
    narrow, wide = make_config(**settings), make_config()
    one, (other, taken) = fuse(narrow)[0], fuse(wide, held_out_of(wide, *make_split(seed=1)), like=record)
    assert taken == record and other.audio_mean.shape == (OUTPUTS + AUDIO,)
    actual, expected = embeds(other, wide, make_split(seed=2)), embeds(one, narrow, make_split(seed=2))
    torch.testing.assert_close(actual[:, : expected.shape[1]], expected, rtol=0, atol=1e-6)
    assert (actual[:, expected.shape[1] :] == 0).all()


def test_a_choice_that_reads_features_cannot_be_taken_over_without_them():
    with pytest.raises(ValueError, match="reads features, and this model has no columns for them"):
        fuse(make_config(fusion_features=False), like=WITH_FEATURES)


def test_what_the_config_says_is_not_chosen():
    for settings, kept, candidates in (
        ({"fusion_cluster_weight": 0.3}, {"cluster_weight": 0.3}, 1 + 3 + 2),
        ({"fusion_ridge": 0.2}, {"ridge": 0.2}, 1 + 3 + 4),
        ({"fusion_ridge": 0.2, "fusion_features": False}, {"ridge": 0.2}, 3 + 4),
    ):
        config = make_config(**settings)
        record = fuse(config, held_out_of(config, *make_split(seed=1)))[1]
        assert record["candidates"] == candidates and kept | record == record | kept


def test_of_candidates_that_rank_alike_the_one_that_needs_no_choice_is_kept():
    audio, visual, members = make_split(noise=0.0)
    # Two clips of one class: every candidate is perfect.
    config = make_config()
    record = fuse(config, held_out_of(config, audio[:6:3], visual[:6:3], members[:6:3]))[1]
    assert record == WITH_FEATURES | {"validation_map": 1.0, "candidates": 12}


def test_validation_is_read_only_where_it_changes_something():
    assert (lambda config: config.fusion_is_open)(make_config()) and (lambda config: config.fusion_is_open)(
        make_config(variant="shared")
    )
    fixed = {"fusion_cluster_weight": 0.5, "fusion_ridge": 0.1}
    for settings in ({"variant": "explicit"}, {"variant": "implicit"}, {"fusion": "cca"}, fixed):
        assert not (lambda config: config.fusion_is_open)(make_config(**settings))


def test_each_subspace_alone_is_blind_to_the_other():
    audio, _, _ = make_split(seed=1)
    audio, other = audio[:, :OUTPUTS], torch.randn(90, OUTPUTS)
    explicit, implicit = (fuse(make_config(variant=variant))[0] for variant in ("explicit", "implicit"))
    torch.testing.assert_close(explicit.audio(torch.cat([audio[:, :4], other[:, 4:]], 1)), explicit.audio(audio))
    torch.testing.assert_close(
        implicit.audio(torch.cat([other[:, :4], audio[:, 4:]], 1)), normalize(audio[:, 4:], dim=1)
    )


def test_correlations_are_those_of_the_training_outputs_whatever_validation_says():
    settings = {"fusion_cluster_weight": 0.0, "fusion_ridge": 1e-4, "fusion_features": False}
    config = make_config(**settings)
    alone, beside = (
        fuse(config, held_out, noise=0.0)[0] for held_out in (None, held_out_of(config, *make_split(seed=1)))
    )
    np.testing.assert_allclose(alone.correlations, 1, atol=1e-3)  # both modalities put out the same
    assert all(torch.equal(beside.state_dict()[name], tensor) for name, tensor in alone.state_dict().items())


def test_validation_that_nobody_labelled_chooses_by_the_own_pair():
    config = make_config()
    audio, visual = cut(config, *make_split(seed=1)[:2])
    numbers = torch.arange(len(audio))
    mine = (audio, visual, numbers, numbers)
    layer, record = fuse(config, HeldOut(*mine, *mine))
    own = mean_average_precision(layer.audio(audio), layer.visual(visual), torch.eye(90))
    assert record["validation_map"] == pytest.approx(held_out_map(layer, HeldOut(*mine, *mine)), abs=1e-12)
    assert record["validation_map"] == pytest.approx(own["map"], abs=1e-6)
    assert record["candidate"] != "implicit"  # which tells classes apart, not clips


def test_few_validation_clips_do_not_choose_what_knows_pairs_and_no_class(toys):
    """A clip's own pair is a third of what is relevant among thirty clips: left in, it chose (ii)'s explicit half."""
    seeds = range(5)
    settings = toys.FUSIONS["default"]
    few = sum(toys.fused_map("ii", False, seed, settings, validation=30) for seed in seeds) / len(seeds)
    many = sum(toys.fused_map("ii", False, seed, settings) for seed in seeds) / len(seeds)
    # Chance is .11 and what pairs alone give .12; thirty clips choose a little worse than five hundred.
    assert few > 0.8 * many


def test_a_power_of_zero_leaves_directions_unweighted():
    fixed = {"fusion_cluster_weight": 0, "fusion_ridge": 1e-4, "fusion_features": False}
    configs, split = (make_config(fusion_power=0, **fixed), make_config(fusion="cca")), make_split(seed=1)
    torch.testing.assert_close(*(embeds(fuse(config)[0], config, split) for config in configs))


@pytest.mark.parametrize("relative", [False, True])
def test_the_ridge_is_of_the_kind_the_config_says(relative):
    # The same ridge, said absolutely and as a multiple of a mean eigenvalue that is far from one.
    layers = [fuse(make_config(fusion="cca", fusion_ridge=1.0, ridge_relative=kind))[0] for kind in (False, relative)]
    assert torch.allclose(layers[0].correlations, layers[1].correlations, atol=1e-3) == (not relative)


def outputs_of(layer, audio, visual, labels):
    return held_out_from([(audio[:, :OUTPUTS], visual[:, :OUTPUTS], labels)], layer, 3)


def test_clips_that_nobody_labelled_are_neither_relevant_nor_irrelevant():
    audio, visual, members = make_split(seed=1)
    labels = members.argmax(dim=1)
    layer, _ = fuse(make_config(fusion="cca"))
    some = labels.clone()
    some[45:] = -100
    half, first = outputs_of(layer, audio, visual, some), outputs_of(layer, audio[:45], visual[:45], labels[:45])
    assert held_out_map(layer, half) == pytest.approx(held_out_map(layer, first), abs=1e-12)


def test_labels_that_no_two_clips_share_choose_nothing_and_pairs_do():
    audio, visual, _ = make_split(seed=1)
    lonely = torch.full((90,), -100)
    lonely[:3] = torch.arange(3)
    layer, _ = fuse(make_config(fusion="cca"))
    nobody = torch.full((90,), -100)
    assert held_out_map(layer, outputs_of(layer, audio, visual, lonely)) == held_out_map(
        layer, outputs_of(layer, audio, visual, nobody)
    )
