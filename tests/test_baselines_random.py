"""The random floor: drawn once a clip, at random in every other respect."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoConfig, AutoModel

from modeling_dualspace.baselines import RandomConfig, RandomModel
from modeling_dualspace.retrieval_scores import retrieval_scores

SAME = {"audio_dim": 5, "visual_dim": 5}  # so that a sound and a sight may be the same numbers


def make(seed=0, **settings) -> RandomModel:
    return RandomModel(RandomConfig(**{"audio_dim": 6, "visual_dim": 8} | settings, seed=seed))


def test_embeddings_have_unit_length_and_the_width_asked_for():
    embeds = make(embed_dim=7).get_visual_embeds(torch.randn(30, 8))
    assert embeds.shape == (30, 7) and embeds.dtype == torch.float32
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(30))


def test_a_clip_has_one_embedding_alone_in_any_batch_and_in_any_place():
    model, rows = make(), torch.randn(40, 6)
    embeds = model.get_audio_embeds(rows)
    assert torch.equal(torch.cat([model.get_audio_embeds(row) for row in rows.split(1)]), embeds)
    assert torch.equal(model.get_audio_embeds(rows.flip(0)), embeds.flip(0))
    assert torch.equal(model.get_audio_embeds(rows.double()), embeds)  # a data set may hand out either
    assert torch.equal(model.train().get_audio_embeds(rows), embeds)


def test_clips_with_the_same_features_share_an_embedding_and_minus_zero_is_zero():
    model, rows = make(), torch.randn(4, 6).relu()
    assert (rows == 0).any()
    assert torch.equal(model.get_audio_embeds(torch.where(rows == 0, -0.0, rows)), model.get_audio_embeds(rows))


def test_the_seed_decides_and_nothing_else():
    rows = torch.randn(9, 6)
    torch.manual_seed(1)
    first = make(seed=3).get_audio_embeds(rows)
    torch.manual_seed(2)
    assert torch.equal(make(seed=3).get_audio_embeds(rows), first)


def test_without_a_seed_torch_decides_as_it_does_on_first_weights():
    rows, draws = torch.randn(9, 6), []
    for state in (4, 4, 5):
        torch.manual_seed(state)
        draws.append(make(seed=None).get_audio_embeds(rows))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_seeds_modalities_and_clips_have_nothing_in_common():
    rows = torch.randn(4000, 5)
    draws = [draw(rows) for seed in (0, 1) for model in [make(seed, **SAME)]
             for draw in (model.get_audio_embeds, model.get_visual_embeds)]  # fmt: skip
    draws.append(draws[0].roll(1, dims=0))
    # Columns of 4,000 independent draws correlate by .016 at random: the largest of 1,225 stays below five of that.
    correlations = torch.corrcoef(torch.cat(draws, dim=1).T) - torch.eye(50)
    assert correlations.abs().max() < 0.08


def test_a_row_that_is_all_zeros_is_drawn_anew_for_every_seed_and_modality():
    nothing = torch.zeros(1, 5)
    draws = [draw(nothing) for seed in range(3) for model in [make(seed, **SAME)]
             for draw in (model.get_audio_embeds, model.get_visual_embeds)]  # fmt: skip
    assert (torch.corrcoef(torch.cat(draws)) - torch.eye(6)).abs().max() < 0.95


def test_embeddings_are_uniform_on_the_sphere():
    # Archimedes: in three dimensions every coordinate of such a point is uniform on [-1, 1].
    embeds = make(embed_dim=3).get_audio_embeds(torch.randn(20_000, 6)).double().numpy()
    direction = np.array([[2.0, -1.0, 2.0]]) / 3
    for coordinate in (*embeds.T, *(direction @ embeds.T)):
        assert stats.kstest(coordinate, "uniform", args=(-1, 2)).pvalue > 1e-3  # one draw, fixed by its seed


def expected_average_precision(relevant, items):
    """The mean over all orders: the item at rank k is relevant by R/N, and so are (R-1)/(N-1) of those above it."""
    ranks = np.arange(1, items + 1)
    return np.mean((1 + (ranks - 1) * (relevant - 1) / (items - 1)) / ranks)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_ranking_by_them_is_as_good_as_chance(make_batch, seed):
    batch = make_batch(600)
    labels = torch.arange(600) % 3
    labels[:200] = 0  # 333, 133 and 134: each class has a floor of its own
    sizes = labels.bincount()[labels].numpy()
    model = make(seed)
    embeds = model.get_audio_embeds(batch["audio_features"]), model.get_visual_embeds(batch["visual_features"])
    floor = np.mean([expected_average_precision(size, 600) for size in sizes])
    scores = retrieval_scores(*(one.numpy() for one in embeds), labels.numpy())
    # Queries share one gallery in ten dimensions, so their errors do too: seeds differ by about .005.
    assert scores["map"] == pytest.approx(floor, abs=0.02)


def test_it_needs_no_fit_and_has_no_loss(make_batch):
    model, batch = make().eval(), make_batch(9)
    assert model.fitted and not list(model.parameters()) and not model.uses_labels
    before = model(**batch)
    assert before.loss is None and before.audio_embeds.shape == (9, 10)
    model.prepare([batch])
    model.finish([batch])
    assert torch.equal(model(**batch).audio_embeds, before.audio_embeds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_survives_saving_and_loading_in_any_type(tmp_path, make_batch, dtype):
    model, batch = make(seed=5).eval(), make_batch(20)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert isinstance(loaded, RandomModel) and AutoConfig.from_pretrained(tmp_path).seed == 5
    for found, expected in ((loaded(**batch), model(**batch)), (model.to(dtype)(**batch), loaded(**batch))):
        assert torch.equal(found.audio_embeds, expected.audio_embeds)
        assert torch.equal(found.visual_embeds, expected.visual_embeds)


def test_a_checkpoint_without_its_salt_draws_by_its_seed_again(tmp_path):
    model, rows = make(seed=5), torch.randn(20, 6)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if name != "audio_salt"}
    save_file(kept, file, metadata={"format": "pt"})
    assert torch.equal(AutoModel.from_pretrained(tmp_path).get_audio_embeds(rows), model.get_audio_embeds(rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(3, 5), r"Expected audio features of shape \(n, 6\), got \(3, 5\)"),
        (torch.zeros(6), "That is one clip"),
        (torch.zeros(3, 6, dtype=torch.int64), "floating type"),
        (torch.full((3, 6), float("nan")), "row 0 holds NaN"),
    ],
)
def test_rows_that_are_none_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        make().get_audio_embeds(rows)


@pytest.mark.parametrize(
    "settings", [{"embed_dim": 0}, {"audio_dim": 0}, {"seed": "one"}, {"sede": 1}, {"loss_weights": {"x": -1}}]
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(Exception, match="|".join(settings)):  # what of strict fields comes as an error of its own
        RandomConfig(**settings)
