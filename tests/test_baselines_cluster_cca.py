"""Cluster CCA against all the pairs of each class, materialised, and its mixtures against their formulas."""

import numpy as np
import pytest
import torch

from modeling_dualspace.baselines import ClusterCcaConfig, ClusterCcaModel

SIZES = (3, 40, 9, 20)
UNKNOWN = -100


def make_clips(labels="classes", seed=0):
    """72 clips of classes of very unequal size, and their labels: one, one or none, or several."""
    random = np.random.default_rng(seed)
    classes = random.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    common, centres = random.standard_normal((len(classes), 3)), random.standard_normal((2, len(SIZES), 7))
    audio = common @ random.standard_normal((3, 5)) + centres[0, classes, :5] + random.standard_normal((72, 5)) + 2
    visual = common @ random.standard_normal((3, 7)) + centres[1, classes] + random.standard_normal((72, 7)) - 5
    if labels == "some":
        classes = np.where(random.random(72) < 0.4, UNKNOWN, classes)
    if labels == "several":
        classes = np.maximum(np.eye(4)[classes], random.random((72, 4)) < 0.25)
        classes[:6] = 0  # known to be of none
        classes[6:9] = np.nan
    return audio.astype(np.float32), visual.astype(np.float32), classes


def fit(clips, *splits, **settings):
    """A model fitted to clips in batches that end at the splits; no ridge, unless there is one in the settings."""
    columns = (torch.from_numpy(column).tensor_split(splits) for column in clips)
    names = ("audio_features", "visual_features", "labels")
    batches = [dict(zip(names, columns, strict=False)) for columns in zip(*columns, strict=True)]
    given = {"audio_dim": 5, "visual_dim": 7, "num_labels": 4, "ridge": 0.0} | settings
    model = ClusterCcaModel(ClusterCcaConfig(**given))
    model.finish(batches)
    return model


def shares(labels):
    """Memberships (n, C) whose rows sum to one; a clip that nobody labelled has a column of its own."""
    members = labels if labels.ndim == 2 else np.where(labels[:, None] == np.arange(4), 1.0, 0.0)
    members = np.where(np.isnan(members), 0, members)
    alone = ~members.any(axis=1)
    return np.hstack([members, np.eye(len(members))[:, alone]]) / np.maximum(members.sum(axis=1), 1)[:, None]


def all_pairs(labels):
    """(i, j) of every pair of a class, or of a clip with itself, and how much each counts."""
    weights = shares(labels) @ shares(labels).T
    return *weights.nonzero(), weights[weights.nonzero()]


def moments(audio, visual, weights=None):
    """Means and covariances of pairs that are there row by row."""
    audio, visual = audio.astype(np.float64), visual.astype(np.float64)
    means = [np.average(view, axis=0, weights=weights) for view in (audio, visual)]
    joint = np.cov(np.hstack([audio, visual]).T, bias=True, aweights=weights)
    return means, joint[:5, :5], joint[5:, 5:], joint[:5, 5:]


def by_formula(S_aa, S_vv, S_av, ridge=0.0):
    """Singular values of T, and both weights."""
    roots = []
    for S in (S_aa, S_vv):
        values, vectors = np.linalg.eigh(S + ridge * np.eye(len(S)))
        roots.append(vectors / np.sqrt(values) @ vectors.T)
    left, rho, right = np.linalg.svd(roots[0] @ S_av @ roots[1], full_matrices=False)
    return rho, roots[0] @ left, roots[1] @ right.T


def assert_fitted(model, clips, means, *covariances, rank, ridge=0.0, power=0):
    """The model keeps these means and directions; numbers of about one, in float32, of sums in float64."""
    rho, audio_weights, visual_weights = by_formula(*covariances, ridge)
    layer = model.layer
    np.testing.assert_allclose(layer.audio_mean, means[0], atol=1e-5)
    np.testing.assert_allclose(layer.visual_mean, means[1], atol=1e-5)
    np.testing.assert_allclose(layer.correlations[:rank], rho[:rank], atol=1e-5)
    scores = [(view - mean) @ W[:, :rank] * np.minimum(rho[:rank], 1) ** power
              for view, mean, W in zip(clips, means, (audio_weights, visual_weights), strict=False)]  # fmt: skip
    found = [model.get_audio_embeds(torch.from_numpy(clips[0])), model.get_visual_embeds(torch.from_numpy(clips[1]))]
    signs = np.sign((found[0][:, :rank].numpy() * scores[0]).sum(axis=0))
    for ours, theirs in zip(found, scores, strict=True):
        theirs = theirs * signs / np.linalg.norm(theirs, axis=1, keepdims=True)
        np.testing.assert_allclose(ours[:, :rank], theirs, atol=1e-4)  # short rows are blown up to unit length
        assert not ours[:, rank:].any()
    assert not layer.correlations[rank:].any()
    assert not layer.audio_weights[:, rank:].any() and not layer.visual_weights[:, rank:].any()


# All pairs of a class.


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("power", [0, 1])
def test_it_is_a_cca_of_all_pairs_of_each_class(ridge, power):
    clips = audio, visual, classes = make_clips()
    rows = [(i, j) for i in range(72) for j in range(72) if classes[i] == classes[j]]
    assert len(rows) == sum(size**2 for size in SIZES)
    first, second = np.array(rows).T
    model = fit(clips, ridge=ridge, power=power, embed_dim=6)
    assert_fitted(model, clips, *moments(audio[first], visual[second]), rank=3, ridge=ridge, power=power)


def test_a_clip_that_nobody_labelled_is_paired_with_itself():
    clips = audio, visual, classes = make_clips("some")
    first, second, weights = all_pairs(classes)
    assert (weights == 1).all() and len(first) < sum(size**2 for size in SIZES)
    assert_fitted(fit(clips, embed_dim=6), clips, *moments(audio[first], visual[second]), rank=5)


def test_a_pair_of_clips_with_several_labels_counts_by_what_they_share():
    clips = audio, visual, labels = make_clips("several")
    first, second, weights = all_pairs(labels)
    assert_fitted(fit(clips, embed_dim=6), clips, *moments(audio[first], visual[second], weights), rank=5)


def test_labels_as_0_and_1_give_what_classes_give():
    audio, visual, classes = make_clips("some")
    members = np.where(classes[:, None] == UNKNOWN, np.nan, np.eye(4)[classes % 4]).astype(np.float32)
    for settings in ({}, {"pairing": "mixed", "cluster_weight": 0.8}, {"pairing": "even"}):
        models = [fit((audio, visual, labels), **settings) for labels in (classes, members)]
        for name, buffer in models[0].layer.named_buffers():
            assert torch.equal(models[1].layer.get_buffer(name), buffer)


# Mixtures.


@pytest.mark.parametrize("labels", ["classes", "some", "several"])
@pytest.mark.parametrize("cluster_weight", [0.8, 0.3, 1, 0])
def test_mixed_is_a_share_of_own_pairs_and_of_all_pairs_with_the_covariances_of_clips(labels, cluster_weight):
    clips = audio, visual, given = make_clips(labels)
    means, S_aa, S_vv, own = moments(audio, visual)
    first, second, weights = all_pairs(given)
    pairs = ((audio - means[0])[first] * weights[:, None]).T @ (visual - means[1])[second] / weights.sum()
    cross = (1 - cluster_weight) * own + cluster_weight * pairs
    # A share of own pairs has all five directions, and so have clips that are classes of their own.
    rank = 3 if labels == "classes" and cluster_weight == 1 else 5
    model = fit(clips, pairing="mixed", cluster_weight=cluster_weight, embed_dim=6)
    assert_fitted(model, clips, means, S_aa, S_vv, cross, rank=rank)


@pytest.mark.parametrize("labels", ["classes", "some", "several"])
@pytest.mark.parametrize("cluster_weight", [0.5, 1, 0])
def test_even_meets_each_class_at_one_over_its_size(labels, cluster_weight):
    clips = audio, visual, given = make_clips(labels)
    means, S_aa, S_vv, own = moments(audio, visual)
    Z = shares(given)
    D = np.diag(Z.sum(axis=0))
    clusters = (Z.T @ (audio - means[0])).T @ np.linalg.pinv(D) @ (Z.T @ (visual - means[1])) / 72
    cross = (1 - cluster_weight) * own + cluster_weight * clusters
    rank = 3 if labels == "classes" and cluster_weight == 1 else 5
    model = fit(clips, pairing="even", cluster_weight=cluster_weight, embed_dim=6, power=1)
    assert_fitted(model, clips, means, S_aa, S_vv, cross, rank=rank, power=1)
    assert model.layer.correlations.max() <= 1 + 1e-6


def test_where_classes_are_of_one_size_all_three_ways_are_one(make_batch):
    batch = make_batch(60)
    clips = [batch[name].numpy() for name in ("audio_features", "visual_features", "labels")]
    given = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "embed_dim": 4}
    one, *others = (fit(clips, pairing=pairing, **given).layer for pairing in ("all", "mixed", "even"))
    for other in others:
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(other.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


# Ranks, scaling, batches.


@pytest.mark.parametrize("settings", [{}, {"ridge": 1e-4}, {"ridge": 1.0}, {"feature_scaling": "standardize"}])
@pytest.mark.parametrize("pairing", ["all", "even"])
@pytest.mark.parametrize("offset", [0, 1000])
def test_there_is_one_direction_fewer_than_classes_and_the_rest_is_zero(settings, pairing, offset):
    audio, visual, classes = make_clips()
    model = fit((audio + np.float32(offset), visual, classes), pairing=pairing, embed_dim=10, **settings)
    layer = model.layer
    assert (layer.correlations[:3] > 1e-3).all() and not layer.correlations[3:].any()
    for weights in (layer.audio_weights, layer.visual_weights):
        assert weights[:, :3].any(dim=0).all() and not weights[:, 3:].any()
    assert not model.get_audio_embeds(torch.from_numpy(audio))[:, 3:].any()


def test_a_class_that_no_training_clip_has_takes_no_direction():
    audio, visual, classes = make_clips()
    models = [fit((audio, visual, classes), num_labels=count) for count in (4, 9)]
    for name, buffer in models[0].layer.named_buffers():
        torch.testing.assert_close(models[1].layer.get_buffer(name), buffer)


@pytest.mark.parametrize("settings", [{}, {"pairing": "mixed", "cluster_weight": 0.8}])
def test_standardized_columns_take_the_ridge_at_unit_variance(settings):
    clips = audio, visual, classes = make_clips()
    units = np.array([1e2, 1e-2, 1, 10, 0.1], dtype=np.float32)
    scaled = audio * units, visual * 50, classes
    first, second, _ = all_pairs(classes)
    rows = (audio, visual) if settings else (audio[first], visual[second])  # whose variances become one
    audio, visual = (view / own.std(axis=0) for view, own in zip((audio, visual), rows, strict=True))
    model = fit(scaled, feature_scaling="standardize", ridge=0.3, embed_dim=5, **settings)
    plain = fit((audio, visual, classes), ridge=0.3, embed_dim=5, **settings)
    torch.testing.assert_close(model.layer.correlations, plain.layer.correlations, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        model.get_audio_embeds(torch.from_numpy(scaled[0])), plain.get_audio_embeds(torch.from_numpy(audio)),
        rtol=0, atol=1e-3,  # weights undo units of a hundred and of a hundredth
    )  # fmt: skip
    assert len(clips) == 3


@pytest.mark.parametrize("labels", ["classes", "some", "several"])
@pytest.mark.parametrize("settings", [{}, {"pairing": "mixed", "cluster_weight": 0.8}, {"pairing": "even"}])
def test_batches_split_otherwise_give_the_same_directions(labels, settings):
    clips = make_clips(labels)
    whole, pieces = fit(clips, **settings), fit(clips, 1, 8, 8, 60, **settings)
    for name, buffer in whole.layer.named_buffers():
        torch.testing.assert_close(pieces.layer.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


def test_a_batch_without_labels_is_one_that_nobody_labelled():
    audio, visual, classes = make_clips()
    classes[:20] = UNKNOWN
    rows = [{"audio_features": torch.from_numpy(audio[part]), "visual_features": torch.from_numpy(visual[part])}
            for part in (slice(0, 20), slice(20, 72))]  # fmt: skip
    rows[1]["labels"] = torch.from_numpy(classes[20:])
    for pairing in ("all", "even"):
        twin = fit((audio, visual, classes), pairing=pairing)
        model = ClusterCcaModel(twin.config)
        model.finish(rows)
        torch.testing.assert_close(model.layer.correlations, twin.layer.correlations)


# What is refused.


@pytest.mark.parametrize("pairing", ["all", "mixed", "even"])
def test_clips_without_any_label_are_refused_in_one_sentence(pairing):
    audio, visual, _ = make_clips()
    for labels in ([], [np.full(72, UNKNOWN)], [np.zeros((72, 4))]):
        message = "learns from the categories of clips, and no training clip has a label"
        with pytest.raises(ValueError, match=message) as error:
            fit((audio, visual, *labels), 30, pairing=pairing)
        assert "\n" not in str(error.value) and "cca" in str(error.value)


def test_a_class_beyond_those_there_are_is_named_with_its_row():
    audio, visual, classes = make_clips()
    classes[50] = 4
    with pytest.raises(ValueError, match="Bad label in row 50: classes must lie in 0..3"):
        fit((audio, visual, classes), 30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster_weight": 0.8}, "take the pairing mixed, or even"),
        ({"pairing": "mixed", "cluster_weight": 1.2}, "`cluster_weight` must lie in 0..1, got 1.2"),
        ({"pairing": "even", "cluster_weight": -0.1}, "`cluster_weight` must lie in 0..1, got -0.1"),
        ({"pairing": "even", "cluster_weight": float("nan")}, "`cluster_weight` must lie in 0..1, got nan"),
        ({"pairing": "some"}, "pairing"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(Exception) as error:  # noqa: B017 - strict fields raise errors of their own
        ClusterCcaConfig(**settings)
    assert message in str(error.value)
