"""What every system that ends in canonical directions has in common, over all of their options."""

import json

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_dualspace import Covariances
from modeling_dualspace.baselines import (
    CcaConfig,
    CcaModel,
    ClusterCcaConfig,
    ClusterCcaModel,
    KccaConfig,
    KccaModel,
)
from modeling_dualspace.canonical_system import standardizing

FEATURES = ("audio_features", "visual_features")
SYSTEMS = {
    "cca": (CcaModel, {}),
    "cca-weighted": (CcaModel, {"power": 1, "lengths": True}),
    "cca-standardized": (CcaModel, {"feature_scaling": "standardize", "ridge": 0.1, "ridge_relative": True}),
    "kcca": (KccaModel, {"components": 80, "power": 0.5}),  # 60 clips: fewer points than there is room for
    "kcca-linear": (KccaModel, {"components": 60, "kernel": "linear", "feature_scaling": "center", "ridge": 0.01}),
    "kcca-nystroem": (KccaModel, {"components": 20, "seed": 3, "feature_scaling": "none", "gamma": 0.01}),
    "kcca-cosines": (KccaModel, {"components": 20, "approximation": "random_features", "lengths": True}),
    "cluster": (ClusterCcaModel, {}),
    "cluster-mixed": (ClusterCcaModel, {"pairing": "mixed", "cluster_weight": 0.8, "feature_scaling": "standardize"}),
    "cluster-even": (ClusterCcaModel, {"pairing": "even", "cluster_weight": 0.5, "power": 1, "lengths": True}),
}
every_system = pytest.mark.parametrize("name", SYSTEMS)


def make(name, **settings):
    kind, given = SYSTEMS[name]
    sizes = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "embed_dim": 4} | (
        {"seed": 0} if kind is KccaModel else {}
    )
    return kind(kind.config_class(**sizes | given | settings)).eval()


def fit(name, *batches, **settings):
    model = make(name, **settings)
    model.finish(list(batches))
    return model


def part(batch, rows):
    return {column: tensor[rows] for column, tensor in batch.items()}


def kernel_of(model):
    """Which kernel it was, where there is one."""
    return getattr(model.config, "kernel_choice", None)


def embeds(model, batch):
    """Both modalities of a batch, one below the other."""
    return torch.cat([model.get_audio_embeds(batch[FEATURES[0]]), model.get_visual_embeds(batch[FEATURES[1]])])


def assert_same_space(model, twin, batch, tolerance=2e-4):
    """Equal cosines: embeddings are kept in float32, and a kernel's directions blow its rounding up a thousandfold."""
    found, expected = embeds(model, batch), embeds(twin, batch)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=0, atol=tolerance)
    torch.testing.assert_close(model.layer.correlations, twin.layer.correlations, rtol=0, atol=1e-5)


# Embeddings.


@every_system
def test_embeddings_are_of_unit_length_and_say_how_wide_they_are(name, batch):
    model = fit(name, batch)
    found = embeds(model, batch)
    assert found.shape == (120, model.config.output_dim) and found.dtype == torch.float32
    assert model.config.output_dim == 4 + 2 * model.config.lengths
    torch.testing.assert_close(found.norm(dim=1), torch.ones(120))


@every_system
def test_an_embedding_depends_on_its_own_clip_alone(name, batch, make_batch):
    model, others = fit(name, batch), make_batch(30, seed=5)
    together = embeds(model, others)
    alone = [embeds(model, part(others, slice(row, row + 1))) for row in range(30)]
    # One row and thirty are multiplied in other orders: rounding of float32, which a kernel's directions blow up.
    torch.testing.assert_close(torch.stack(alone, dim=1).flatten(0, 1), together, rtol=0, atol=1e-4)
    before = model.layer.audio_weights.clone()
    assert torch.equal(embeds(model.train(), others), together) and torch.equal(model.layer.audio_weights, before)


@every_system
def test_pairs_lie_nearer_to_each_other_than_strangers_do(name, batch, make_batch):
    model, others = fit(name, batch), make_batch(60, seed=5)
    audio, visual = embeds(model, others).chunk(2)
    cosines = audio @ visual.T
    assert cosines.diagonal().mean() > cosines.mean() + 0.1


@every_system
def test_rows_and_products_of_less_precision_are_embedded_in_float32(name, batch):
    model = fit(name, batch)
    narrow = {column: batch[column].bfloat16() for column in FEATURES}
    expected = embeds(model, {column: rows.float() for column, rows in narrow.items()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embeds(model, narrow), expected)


def test_the_weighted_form_multiplies_columns_by_their_correlation(batch):
    for name in ("cca", "kcca-nystroem", "cluster-mixed"):
        plain, half, weighted = (fit(name, batch, power=power).layer for power in (0, 0.5, 1))
        assert torch.equal(plain.correlations, weighted.correlations) and plain.correlations.min() >= 0
        rho = plain.correlations.clamp(max=1)  # what a mixture has above one counts as one
        for side in ("audio_weights", "visual_weights"):
            for layer, weight in ((weighted, rho), (half, rho.sqrt())):
                torch.testing.assert_close(getattr(layer, side), getattr(plain, side) * weight, rtol=1e-6, atol=0)


# The fit.


@every_system
def test_batches_split_or_ordered_otherwise_give_the_same_space(name, batch):
    whole = fit(name, batch)
    order = torch.randperm(60)
    pieces = [part(batch, rows) for rows in order.split([1, 30, 0, 9, 20])]
    assert_same_space(fit(name, *pieces), whole, batch)


@every_system
def test_a_second_fit_forgets_the_first(name, batch, make_batch):
    model, few = fit(name, make_batch(75, seed=3)), part(batch, slice(0, 15))
    model.finish([few])
    expected = fit(name, few)
    for key, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    assert kernel_of(model) == kernel_of(expected)


@every_system
def test_validation_clips_are_not_looked_at(name, batch):
    class Untouchable:
        def __iter__(self):
            raise AssertionError

    model = make(name)
    model.finish([batch], Untouchable())
    assert torch.equal(embeds(model, batch), embeds(fit(name, batch), batch))


@every_system
def test_labels_count_only_where_they_are_read(name, batch):
    model = fit(name, batch)
    same = torch.equal(
        embeds(fit(name, batch | {"labels": batch["labels"].roll(20).sort()[0]}), batch), embeds(model, batch)
    )
    assert model.uses_labels == name.startswith("cluster") == (not same)


def test_several_processes_with_uneven_shards_find_what_one_finds(together, batch):
    batch["labels"][::7] = -100
    shards = [part(batch, slice(*edges)) for edges in ((0, 5), (5, 60))]

    def work():
        mine = shards[PartialState(cpu=True).process_index]
        return {name: fit(name, *[part(mine, rows) for rows in torch.arange(len(mine["labels"])).split(20)])
                .state_dict() for name in SYSTEMS}  # fmt: skip

    states = together(2, work)
    for name in SYSTEMS:
        twin, model = fit(name, batch), make(name)
        for state in states:
            model.load_state_dict(state[name])
            assert_same_space(model, twin, batch)
        for key in states[0][name]:  # all processes hold the same model, to the last bit
            assert torch.equal(states[0][name][key], states[1][name][key]), (name, key)


@every_system
def test_a_process_without_clips_is_welcome(together, batch, name):
    model, twin = make(name), fit(name, batch)

    def work():
        return fit(name, *([batch] if PartialState(cpu=True).process_index else [])).state_dict()

    for state in together(2, work):
        model.load_state_dict(state)
        assert_same_space(model, twin, batch)


def test_without_a_seed_processes_agree_on_what_is_drawn(together, batch):
    def work():
        torch.manual_seed(PartialState(cpu=True).process_index)
        return [fit(name, batch, seed=None).audio_kernel.points for name in ("kcca-nystroem", "kcca-cosines")]

    first, second = together(2, work)
    assert all(map(torch.equal, first, second))


def test_a_kernel_is_exact_only_if_it_is_so_in_every_process(together, batch):
    settings = {"components": 40, "feature_scaling": "none", "seed": 0}
    model = fit("kcca", batch, **settings)
    points = [getattr(model, f"{column}_kernel").points for column in ("audio", "visual")]
    kept = [
        (batch[column].unsqueeze(1) == those).all(dim=2).any(dim=1)
        for column, those in zip(FEATURES, points, strict=True)
    ]
    point_of_both = part(batch, (kept[0] & kept[1]).nonzero()[:1, 0])

    def work():
        mine = point_of_both if PartialState(cpu=True).process_index else batch
        return fit("kcca", mine, **settings).config.kernel_choice["map"]

    assert together(2, work) == ["nystroem", "nystroem"]


def test_a_bad_row_in_one_process_ends_all_in_its_sentence(together, batch):
    bad = part(batch, slice(0, 20))
    bad["visual_features"][3, 2] = float("nan")

    def work():
        mine = bad if PartialState(cpu=True).process_index else batch
        told = []
        for name in ("cca", "kcca", "cluster", "cluster-even"):
            with pytest.raises(Exception, match="Visual features must be finite numbers, but row 3 holds NaN") as error:
                fit(name, mine)
            told.append(str(error.value))
        return told

    first, second = together(2, work)
    assert first == second


def test_maps_bring_columns_to_unit_variance_and_leave_out_those_that_do_not_vary():
    covariance = torch.tensor([[4.0, 1.0, 0.0], [1.0, 0.25, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    audio, visual = standardizing(Covariances(covariance, 4 * covariance, covariance, zero, zero))
    assert torch.equal(audio, torch.diag(torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)))
    assert torch.equal(visual, audio / 2)


# Kept and loaded.


@every_system
def test_a_model_survives_saving_and_loading_to_the_last_bit(name, batch, tmp_path):
    model = fit(name, batch)
    model.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
        assert type(loaded) is type(model) and loaded.fitted and kernel_of(loaded) == kernel_of(model)
        assert all(one.dtype == torch.float32 for one in loaded.buffers() if one.is_floating_point())
        assert torch.equal(embeds(loaded, batch), embeds(model, batch))
    assert torch.equal(embeds(model.bfloat16(), batch), embeds(loaded, batch))
    assert set(model.parts()["fitted"]) <= set(model.state_dict())
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == model.config.model_type and all(
        saved[key] == value for key, value in SYSTEMS[name][1].items()
    )


@every_system
def test_a_checkpoint_that_lacks_a_buffer_is_not_silently_used(name, batch, tmp_path):
    fit(name, batch).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole, used = load_file(file), []
    for missing in whole:
        save_file({key: tensor for key, tensor in whole.items() if key != missing}, file, metadata={"format": "pt"})
        try:
            embeds(AutoModel.from_pretrained(tmp_path), batch)
        except (RuntimeError, ValueError):
            continue
        used.append(missing)
    # A salt chooses points and is not asked again; offsets and widths are those of some kernels only.
    idle = ("salt",) if name == "kcca-cosines" else ("salt", "offsets")
    assert [key for key in used if not key.endswith(idle)] == []


# What is refused, in one sentence.


@every_system
def test_an_unfitted_model_says_so(name, batch, tmp_path):
    model = make(name)
    for _ in range(2):
        assert not model.fitted
        with pytest.raises(RuntimeError, match=r"not fitted yet, so it has no common space: call `model.finish\("):
            model.get_visual_embeds(batch["visual_features"])
        output = model(**batch)
        assert output.loss is None and output.audio_embeds is None
        model.save_pretrained(tmp_path)
        model = AutoModel.from_pretrained(tmp_path)


def assert_refused(name, batches, message):
    model = make(name)
    with pytest.raises(ValueError, match=message):
        model.finish(batches)
    assert not model.fitted


@every_system
def test_training_clips_that_are_none_are_refused(name, batch):
    infinite = batch | {"visual_features": torch.full((60, 8), torch.inf)}
    assert_refused(name, [batch, infinite], "Visual features must be finite numbers, but row 60 holds NaN")
    assert_refused(name, [batch | {"audio_features": batch["audio_features"][1:]}], "must pair up: 59 against 60")
    narrow = batch | {"visual_features": torch.zeros(60, 7)}
    assert_refused(name, [narrow], r"Expected visual features of shape \(n, 8\), got \(60, 7\)")
    assert_refused(name, [{"audio_features": batch["audio_features"]}], "with `audio_features` and `visual_features`")


@every_system
def test_an_empty_split_is_refused(name, batch):
    for batches in ([], [part(batch, slice(0, 0))]):
        assert_refused(name, batches, "Cannot fit to an empty split: no rows came")


@pytest.mark.parametrize(
    "name",
    ["kcca", "cluster"],
)
def test_a_generator_is_refused_where_clips_are_passed_twice(name, batch):
    assert_refused(name, iter([batch]), "a generator is empty the second time")


@every_system
def test_clips_that_do_not_vary_are_refused(name, batch):
    constant = batch | {"audio_features": torch.full((60, 6), 0.1)}
    for batches in ([constant], [part(batch, slice(0, 1))]):
        assert_refused(name, batches, "Nothing to fit to: no direction of the training rows correlates")


@pytest.mark.parametrize("kind", [CcaConfig, KccaConfig, ClusterCcaConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ridge": -1e-4}, "`ridge` must be a finite number of at least 0, got -0.0001"),
        ({"ridge": float("inf")}, "`ridge` must be a finite number of at least 0, got inf"),
        ({"power": -1}, "`power` must be a finite number of at least 0, got -1"),
        ({"power": float("nan")}, "`power` must be a finite number of at least 0, got nan"),
        ({"embed_dim": 0}, "`embed_dim` must be at least 1, got 0"),
        ({"turns": ["model"]}, "must be empty, got"),
        ({"codes": True}, "makes no codes: leave it out"),
        ({"rigde": 1}, "has no key `rigde`. Did you mean `ridge`?"),
        ({"ridge": "1e-4"}, "ridge"),
        ({"ridge_relative": 1}, "ridge_relative"),
        ({"lengths": "yes"}, "lengths"),
        ({"feature_scaling": "whiten"}, "feature_scaling"),
    ],
)
def test_settings_without_meaning_are_refused(kind, settings, message):
    with pytest.raises(Exception) as error:  # noqa: B017 - strict fields raise errors of their own
        kind(**settings)
    assert message in str(error.value)
