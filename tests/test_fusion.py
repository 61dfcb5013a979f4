"""The fusion: which linear map of the two subspaces becomes the embedding."""

import importlib.util
import sys

import pytest
import torch

from modeling_dualspace.cca import CanonicalLayer
from modeling_dualspace.fusion import HeldOut, fit_fusion, held_out_map, reads_validation
from modeling_dualspace.pair_moments import PairMoments

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


def moments_of(audio, visual, targets):
    return PairMoments(audio.shape[1], visual.shape[1], targets.shape[1]).update(audio, visual, targets)


@pytest.fixture
def outputs(make_model, batch):
    """A tiny model's config and layer, moments of some outputs, and the same as held-out rows."""
    model = make_model()
    audio, visual = torch.randn(60, 7), torch.randn(60, 7)
    targets = torch.eye(3)[batch["labels"]]
    moments = moments_of(audio, visual, targets)
    mine = (audio, visual, targets, torch.arange(60))
    held_out = HeldOut(*mine, *mine, moments)
    return model.config, CanonicalLayer(7, 7, model.config.output_dim), moments, held_out


def test_the_implicit_variant_compares_the_implicit_outputs_as_they_are(outputs, make_model):
    _, _, moments, held_out = outputs
    layer = CanonicalLayer(7, 7, 3)
    assert fit_fusion(layer, make_model(variant="implicit").config, moments, None) == {"candidate": "implicit"}
    implicit = torch.nn.functional.normalize(held_out.audio[:, 4:], dim=1)
    torch.testing.assert_close(layer.audio(held_out.audio), implicit)


def test_the_explicit_variant_is_blind_to_the_implicit_outputs(outputs, make_model):
    _, layer, moments, held_out = outputs
    fit_fusion(layer, make_model(variant="explicit").config, moments, None)
    other = torch.cat([held_out.audio[:, :4], torch.randn(60, 3)], dim=1)
    assert torch.equal(layer.audio(other), layer.audio(held_out.audio))


def test_the_winner_scores_what_the_record_says(outputs):
    config, layer, moments, held_out = outputs
    record = fit_fusion(layer, config, moments, held_out)
    assert held_out_map(layer, held_out) == record["validation_map"]


def test_correlations_are_estimated_anew_on_validation(outputs, make_model):
    config, layer, moments, held_out = outputs
    config = make_model(fusion_cluster_weight=0.5, fusion_ridge=1e-4).config
    fit_fusion(layer, config, moments, None)
    fitted = layer.correlations.clone()
    # Validation whose pairs were torn apart: what correlated on train is worth nothing there.
    torn = held_out._replace(
        moments=moments_of(held_out.audio.roll(1, 0), held_out.visual, held_out.targets.roll(1, 0))
    )
    fit_fusion(layer, config, moments, torn)
    assert layer.correlations[0] < 0.5 * fitted[0]
    assert ((layer.correlations >= 0) & (layer.correlations <= 1)).all()


def test_only_a_choice_reads_validation(make_model):
    assert reads_validation(make_model().config) and reads_validation(make_model(variant="shared").config)
    for settings in ({"fusion": "cca"}, {"variant": "explicit"}, {"variant": "implicit"}):
        assert not reads_validation(make_model(**settings).config)


def test_a_power_of_zero_leaves_directions_unweighted(outputs, make_model):
    _, _, moments, held_out = outputs
    maps = []
    for settings in ({"fusion_power": 0, "fusion_cluster_weight": 0, "fusion_ridge": 1e-4}, {"fusion": "cca"}):
        layer = CanonicalLayer(7, 7, 4)
        fit_fusion(layer, make_model(**settings).config, moments, held_out)
        maps.append(layer.audio(held_out.audio))
    torch.testing.assert_close(*maps)
