"""CCA as a system: against other people's, and its ridges against the formula in plain NumPy."""

import numpy as np
import pytest
import torch

from modeling_dualspace.baselines import CcaConfig, CcaModel

UNITS = np.array([1e3, 1.0, 1e-2, 30.0, 1.0, 0.1])


@pytest.fixture
def views(make_batch):
    """Audio and visual rows in float64, 80 to fit to and 40 more, in units of their own."""
    batch = make_batch(120)
    audio, visual = batch["audio_features"].double().numpy() * UNITS, batch["visual_features"].double().numpy()
    return (audio[:80], visual[:80]), (audio[80:], visual[80:])


def fit(views, **settings):
    audio, visual = (torch.from_numpy(view).float() for view in views)
    model = CcaModel(CcaConfig(audio_dim=audio.shape[1], visual_dim=visual.shape[1], **settings))
    model.finish([{"audio_features": audio, "visual_features": visual}])
    return model


def embeds(model, views):
    audio, visual = (torch.from_numpy(view).float() for view in views)
    return model.get_audio_embeds(audio).numpy(), model.get_visual_embeds(visual).numpy()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def assert_embeds(model, views, scores, tolerance=1e-4):
    """Equal to scores of a peer at unit length, but for the sign of a column, which is the same in both modalities.

    Features of thousands are given in float32, with steps of 6e-8 of them, and variates are of one; weights that undo
    units and correlated columns blow that up a hundredfold and more.
    """
    found, expected = embeds(model, views), [unit(np.asarray(one)) for one in scores]
    signs = np.sign((found[0] * expected[0]).sum(axis=0))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs * signs, atol=tolerance)


def by_formula(fitted, asked, dim, ridges, power=0):
    """Scores of rows by T = (S_aa + rI)^-1/2 S_av (S_vv + rI)^-1/2, and the singular values of T."""
    means = [view.mean(axis=0) for view in fitted]
    audio, visual = (view - mean for view, mean in zip(fitted, means, strict=True))
    roots = []
    for view, ridge in zip((audio, visual), ridges, strict=True):
        values, vectors = np.linalg.eigh(view.T @ view / len(view) + ridge * np.eye(view.shape[1]))
        roots.append(vectors / np.sqrt(values) @ vectors.T)
    left, values, right = np.linalg.svd(roots[0] @ (audio.T @ visual / len(audio)) @ roots[1])
    weights = roots[0] @ left[:, :dim], roots[1] @ right.T[:, :dim]
    scores = [
        (view - mean) @ each * values[:dim] ** power for view, mean, each in zip(asked, means, weights, strict=True)
    ]
    return scores, values[:dim]


def test_it_equals_that_of_scikit_learn(views):
    cross_decomposition = pytest.importorskip("sklearn.cross_decomposition")
    fitted, asked = views
    model = fit(fitted, embed_dim=4, ridge=0)
    peer = cross_decomposition.CCA(4, tol=1e-14, max_iter=100_000).fit(*fitted)
    trained = peer.transform(*fitted)
    rho = [np.corrcoef(*columns)[0, 1] for columns in zip(*(one.T for one in trained), strict=True)]
    np.testing.assert_allclose(model.layer.correlations, rho, atol=1e-5)
    # Its variates have a length of their own, and its power iteration stops at about 1e-4 of a direction.
    scores = [one / own.std(axis=0) for one, own in zip(peer.transform(*asked), trained, strict=True)]
    assert_embeds(model, asked, scores, tolerance=1e-3)


def test_it_equals_that_of_cca_zoo(views):
    linear = pytest.importorskip("cca_zoo.linear")
    fitted, asked = views
    peer = linear.CCA(n_components=5).fit(list(fitted))
    model = fit(fitted, embed_dim=5, ridge=0)
    rho = [
        np.corrcoef(*columns)[0, 1] for columns in zip(*(one.T for one in peer.transform(list(fitted))), strict=True)
    ]
    np.testing.assert_allclose(model.layer.correlations, rho, atol=1e-5)
    assert_embeds(model, asked, peer.transform(list(asked)))


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 0.9])
def test_its_ridge_is_a_shrinkage_of_cca_zoo(views, shrinkage):
    # (1 - c) X'X / (n - 1) + cI is, but for a factor, S + rI with S over n and r as below.
    linear = pytest.importorskip("cca_zoo.linear")
    fitted, asked = views
    fitted, asked = ((audio / UNITS, visual) for audio, visual in (fitted, asked))
    peer = linear.RidgeCCA(n_components=4, shrinkage=shrinkage).fit(list(fitted))
    model = fit(fitted, embed_dim=4, ridge=shrinkage / (1 - shrinkage) * 79 / 80)
    assert_embeds(model, asked, peer.transform(list(asked)))


@pytest.mark.parametrize("power", [0, 1])
@pytest.mark.parametrize("ridge", [1e-4, 0.1, 5])
@pytest.mark.parametrize("how", ["absolute", "relative", "standardized", "both"])
def test_a_ridge_equals_the_formula(views, how, ridge, power):
    fitted, asked = views
    model = fit(
        fitted,
        embed_dim=4,
        ridge=ridge,
        power=power,
        ridge_relative=how in ("relative", "both"),
        feature_scaling="standardize" if how in ("standardized", "both") else "none",
    )
    ridges, given = [ridge, ridge], views
    if how == "relative":
        ridges = [ridge * np.linalg.eigvalsh(np.cov(view.T, bias=True)).mean() for view in fitted]
    if how in ("standardized", "both"):  # columns of unit variance: the mean eigenvalue is one
        scales = [(view.mean(axis=0), view.std(axis=0)) for view in fitted]
        given = [[(view - mean) / deviation for view, (mean, deviation) in zip(part, scales, strict=True)]
                 for part in views]  # fmt: skip
    scores, rho = by_formula(*given, 4, ridges, power)
    np.testing.assert_allclose(model.layer.correlations, rho, atol=1e-5)
    assert_embeds(model, asked, scores)


def test_the_published_ridge_is_1e_4_of_raw_features_and_ten_directions():
    config = CcaConfig()
    assert (config.ridge, config.embed_dim, config.ridge_relative, config.power) == (1e-4, 10, False, 0)
    assert config.feature_scaling == "none" and not config.lengths and config.output_dim == 10


def test_on_standardized_columns_the_unit_of_a_column_does_not_matter(views):
    fitted, asked = views
    changed = [[audio / UNITS[::-1] + 3, 50 * visual] for audio, visual in (fitted, asked)]
    models = [fit(one, embed_dim=4, ridge=0.5, feature_scaling="standardize") for one in (fitted, changed[0])]
    np.testing.assert_allclose(*(model.layer.correlations for model in models), atol=1e-5)
    assert_embeds(models[1], changed[1], embeds(models[0], asked))
    raw = [fit(one, embed_dim=4, ridge=0.5).layer.correlations for one in (fitted, changed[0])]
    assert (raw[0] - raw[1]).abs().max() > 0.01


def test_a_column_that_does_not_vary_is_as_good_as_absent(views):
    fitted, asked = views
    for scaling in ("none", "standardize"):
        twin = fit(fitted, embed_dim=4, feature_scaling=scaling)
        padded = [[np.insert(audio, 2, 0.1, axis=1), visual] for audio, visual in (fitted, asked)]
        model = fit(padded[0], embed_dim=4, feature_scaling=scaling)
        assert_embeds(model, padded[1], embeds(twin, asked))
        padded[1][0][:, 2] = 9  # whatever it may be elsewhere
        assert_embeds(model, padded[1], embeds(twin, asked))


def test_texts_that_sum_to_one_have_a_direction_less_than_columns(views):
    (audio, visual), asked = views
    texts = np.exp(visual) / np.exp(visual).sum(axis=1, keepdims=True)
    for ridge in (0, 1e-4):
        model = fit((texts, np.hstack([audio / UNITS, visual])), embed_dim=10, ridge=ridge)
        # A ridge gives the missing direction a variance, and no covariance but the rounding of float32 rows: 1e-7.
        assert (model.layer.correlations[:7] > 1e-3).all() and (model.layer.correlations[7:] < 1e-3).all()
        assert not model.layer.correlations[8:].any() and not model.layer.audio_weights[:, 8:].any()
    narrow = fit((audio, visual), embed_dim=10)
    assert narrow.layer.correlations.count_nonzero() == 6
    for rows in embeds(narrow, asked):
        assert rows.shape == (40, 10) and not rows[:, 6:].any()


def test_more_directions_than_there_are_change_no_cosine(views):
    fitted, asked = views
    wide, narrow = (embeds(fit(fitted, embed_dim=dim), asked) for dim in (10, 6))
    np.testing.assert_allclose(wide[0] @ wide[1].T, narrow[0] @ narrow[1].T, atol=1e-6)


def test_labels_are_not_even_looked_at(views):
    audio, visual = (torch.from_numpy(view).float() for view in views[0])
    model = CcaModel(CcaConfig(audio_dim=6, visual_dim=8, num_labels=2))
    nonsense = torch.full((3,), 99)
    model.finish([{"audio_features": audio, "visual_features": visual, "labels": nonsense}])
    assert model.fitted and not model.uses_labels
