"""Closed-form CCA against other people's, and cluster CCA against all the pairs it stands for."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn.functional import normalize

from modeling_dualspace import CanonicalLayer, PairMoments, canonical_directions, whitening
from modeling_dualspace.cca import add_ridge


def make_views(rows=300, audio=4, visual=5, shared=3, seed=0):
    """Two views that see something of the same, in float64."""
    random = np.random.default_rng(seed)
    common = random.standard_normal((rows, shared))
    return tuple(
        common @ random.standard_normal((shared, width)) + random.standard_normal((rows, width))
        for width in (audio, visual)
    )


def moments_of(audio, visual, targets=None, known=None, weights=None, classes=0):
    given = (None if array is None else torch.from_numpy(array) for array in (targets, known, weights))
    return PairMoments(audio.shape[1], visual.shape[1], classes).update(
        torch.from_numpy(audio), torch.from_numpy(visual), *given
    )


def fit(audio, visual, dim, **ridge):
    return canonical_directions(moments_of(audio, visual).covariances(), dim, **ridge)


def project(directions, audio, visual):
    audio, visual = torch.from_numpy(audio).double(), torch.from_numpy(visual).double()
    return (
        ((audio - directions.audio_mean) @ directions.audio_weights).numpy(),
        ((visual - directions.visual_mean) @ directions.visual_weights).numpy(),
    )


def centre(rows):
    rows = rows.astype(np.float64)
    return rows - rows.mean(axis=0)


def naive_covariances(audio, visual):
    audio, visual = centre(audio), centre(visual)
    return tuple(product / len(audio) for product in (audio.T @ audio, visual.T @ visual, audio.T @ visual))


def naive_correlations(audio, visual, cross, ridges=(0.0, 0.0)):
    """Singular values of (S_aa + rI)^-1/2 S_av (S_vv + rI)^-1/2, as the formula has it."""
    roots = (
        scipy.linalg.inv(scipy.linalg.sqrtm(S + r * np.eye(len(S)))).real
        for S, r in zip((audio, visual), ridges, strict=True)
    )
    return np.linalg.svd(next(roots) @ cross @ next(roots), compute_uv=False)


def correlations_of_spans(audio, visual, tolerance):
    """Cosines of the principal angles between two column spaces (Björck and Golub, 1973): never squares the data."""
    bases = []
    for view in (audio, visual):
        basis, values, _ = np.linalg.svd(centre(view), full_matrices=False)
        bases.append(basis[:, values > tolerance * values[0]])
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def correlations_of_columns(left, right):
    return [np.corrcoef(*columns)[0, 1] for columns in zip(left.T, right.T, strict=True)]


def assert_same_up_to_sign_and_scale(found, expected, tolerance):
    assert np.abs(correlations_of_columns(found, expected)).min() > 1 - tolerance


# Plain CCA.


def test_correlations_and_variates_equal_those_of_scikit_learn():
    cross_decomposition = pytest.importorskip("sklearn.cross_decomposition")
    audio, visual = make_views()
    directions = fit(audio, visual, 4)
    peer = cross_decomposition.CCA(4, tol=1e-14, max_iter=100_000).fit(audio, visual)
    scores = peer.transform(audio, visual)
    for ours, theirs in zip(project(directions, audio, visual), scores, strict=True):
        assert_same_up_to_sign_and_scale(ours, theirs, 1e-4)
    np.testing.assert_allclose(directions.correlations, correlations_of_columns(*scores), atol=1e-6)


def test_correlations_and_variates_equal_the_generalised_eigenproblem():
    audio, visual = make_views()
    directions = fit(audio, visual, 4)
    joint = np.cov(np.hstack([audio, visual]).T, bias=True)
    marginals = scipy.linalg.block_diag(joint[:4, :4], joint[4:, 4:])
    values, vectors = scipy.linalg.eigh(joint - marginals, marginals)  # pairs of +-rho
    values, vectors = values[::-1][:4], vectors[:, ::-1][:, :4]
    np.testing.assert_allclose(directions.correlations, values, atol=1e-9)
    found = project(directions, audio, visual)
    assert_same_up_to_sign_and_scale(found[0], audio @ vectors[:4], 1e-9)
    assert_same_up_to_sign_and_scale(found[1], visual @ vectors[4:], 1e-9)


def test_correlations_and_variates_equal_those_of_cca_zoo():
    linear = pytest.importorskip("cca_zoo.linear")
    audio, visual = make_views()  # of full rank, where it is right
    directions = fit(audio, visual, 4)
    scores = linear.CCA(n_components=4).fit_transform([audio, visual])
    np.testing.assert_allclose(directions.correlations, correlations_of_columns(*scores), atol=1e-9)
    for ours, peer in zip(project(directions, audio, visual), scores, strict=True):
        assert_same_up_to_sign_and_scale(ours, peer, 1e-9)


def test_variates_have_unit_variance_and_correlate_with_their_own_partner_only():
    audio, visual = make_views()
    directions = fit(audio, visual, 4)
    variates = np.hstack(project(directions, audio, visual))
    partners = np.diag(directions.correlations.numpy())
    expected = np.block([[np.eye(4), partners], [partners, np.eye(4)]])
    np.testing.assert_allclose(np.cov(variates.T, bias=True), expected, atol=1e-12)


def test_the_largest_weight_of_every_audio_direction_is_positive():
    for seed in range(5):
        weights = fit(*make_views(seed=seed), 4).audio_weights
        assert (weights.gather(0, weights.abs().argmax(dim=0, keepdim=True)) > 0).all()


# Data of less rank than columns.


def widen(view, how, seed):
    """A view of rank 3 as 30 columns."""
    if how == "mixed":
        return view @ np.random.default_rng(seed).standard_normal((3, 30))
    return np.tile(view, 10) * np.repeat([1.0, -2.0, 0.5, 3.0, 1e-3], 6)  # copies in other units


@pytest.mark.parametrize("how", ["mixed", "copied"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mean", [0, 2])
def test_duplicated_columns_add_no_correlation(how, dtype, seed, mean):
    random = np.random.default_rng(seed)
    audio, visual = (random.standard_normal((200, 3)) for _ in range(2))
    stored = [widen(view, how, seed) for view in (audio, visual)]
    directions = fit(*((columns + mean * columns.std(axis=0)).astype(dtype) for columns in stored), 10)
    # float32 stores a column with an error of 6e-8, and a correlation with one of about that.
    expected = correlations_of_spans(audio, visual, 1e-9)
    np.testing.assert_allclose(directions.correlations[:3], expected, atol=1e-6 if dtype == np.float32 else 1e-9)
    for past in (directions.audio_weights, directions.visual_weights, directions.correlations.unsqueeze(0)):
        assert past[:, :3].any(dim=0).all() and not past[:, 3:].any()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_a_constant_column_is_as_good_as_absent(value, ridge):
    audio, visual = make_views()
    padded = tuple(np.insert(view, 2, value, axis=1) for view in (audio, visual))
    directions, twin = fit(*padded, 6, ridge=ridge), fit(audio, visual, 6, ridge=ridge)
    torch.testing.assert_close(directions.correlations, twin.correlations, rtol=0, atol=1e-12)
    for name in ("audio_weights", "visual_weights"):
        weights = getattr(directions, name)
        assert weights[2].abs().max() < 1e-12  # a ridge leaves the rounding of a zero
        torch.testing.assert_close(weights[[0, 1, *range(3, len(weights))]], getattr(twin, name), rtol=0, atol=1e-11)


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("relative", [False, True])
def test_a_view_that_does_not_vary_correlates_with_nothing(ridge, relative):
    audio, visual = make_views()
    for views in ((np.full_like(audio, 0.1), visual), (audio, np.full_like(visual, 7.0)), (audio[:1], visual[:1])):
        directions = fit(*views, 3, ridge=ridge, relative=relative)
        assert not directions.correlations.any()
        assert not directions.audio_weights.any() and not directions.visual_weights.any()


def test_fewer_rows_than_columns_correlate_perfectly_and_no_further_than_their_rank():
    # 12 centred rows span 11 dimensions, in both views all of them: every angle between the two is zero.
    audio, visual = make_views(rows=12, audio=20, visual=30)
    directions = fit(audio, visual, 15)
    np.testing.assert_allclose(directions.correlations, [1.0] * 11 + [0.0] * 4, atol=1e-9)
    found = project(directions, audio, visual)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)  # correlated by 1 - d, variates differ by sqrt(2d)
    np.testing.assert_allclose(found[0].T @ found[0] / 12, np.diag([1.0] * 11 + [0.0] * 4), atol=1e-9)


def test_fewer_rows_than_columns_of_one_view():
    audio, visual = make_views(rows=12, audio=4, visual=30)
    np.testing.assert_allclose(fit(audio, visual, 6).correlations, [1.0] * 4 + [0.0] * 2, atol=1e-9)


def test_fewer_rows_than_columns_with_a_ridge_equal_the_formula():
    audio, visual = make_views(rows=12, audio=20, visual=30)
    expected = naive_correlations(*naive_covariances(audio, visual), ridges=(0.1, 0.1))
    directions = fit(audio, visual, 15, ridge=0.1)
    np.testing.assert_allclose(directions.correlations[:11], expected[:11], atol=1e-9)
    assert not directions.correlations[11:].any()


# Numbers that are hard to compute with.


def test_float32_features_far_from_zero_lose_nothing_but_their_rounding():
    audio, visual = (np.float32(1e6 + view) for view in make_views(rows=1000))  # float32 has steps of 1/16 there
    directions = fit(audio, visual, 4)
    np.testing.assert_allclose(directions.correlations, correlations_of_spans(audio, visual, 1e-9), atol=1e-9)
    variates = np.hstack(project(directions, audio, visual))
    np.testing.assert_allclose(variates.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(variates.var(axis=0), 1, atol=1e-9)


def test_units_do_not_matter_without_a_ridge():
    audio, visual = make_views()
    units = np.array([1e6, 1e-6, 1.0, 1e3, 1e-3])
    directions, twin = fit(audio * units[:4], visual * units[::-1], 4), fit(audio, visual, 4)
    np.testing.assert_allclose(directions.correlations, twin.correlations, atol=1e-9)
    found, expected = project(directions, audio * units[:4], visual * units[::-1]), project(twin, audio, visual)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same_up_to_sign_and_scale(ours, theirs, 1e-9)


def test_rounded_copies_of_columns_in_another_unit_hide_no_true_correlation():
    """The copies differ from their columns by float32 rounding alone: directions nobody wants, badly conditioned."""
    generator = torch.Generator().manual_seed(1)
    shared, views = torch.randn(20000, 3, generator=generator), []
    for _ in range(2):
        view = torch.randn(20000, 100, generator=generator)
        view[:, :3] = 0.27**0.5 * shared + 0.73**0.5 * view[:, :3]
        views.append(torch.cat([view, 1.8 * view + 32], dim=1).numpy())
    # Twenty thousand rows leave a few hundredths open around .27; one bound for all directions was .32 here.
    assert (fit(*views, 3).correlations > 0.24).all()


def test_units_do_not_decide_what_counts_as_rank():
    audio, visual = (np.random.default_rng(seed).standard_normal((200, 3)) for seed in (0, 1))
    expected = correlations_of_spans(audio, visual, 1e-9)
    units = np.geomspace(1e-6, 1e6, 30)
    found = fit(widen(audio, "mixed", 0) * units, widen(visual, "mixed", 1) * units[::-1], 5).correlations
    np.testing.assert_allclose(found, [*expected, 0, 0], atol=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.1, 10.0])
@pytest.mark.parametrize("relative", [False, True])
def test_a_ridge_is_absolute_or_relative_to_the_mean_eigenvalue(ridge, relative):
    audio, visual = make_views()
    audio, visual = 5 * audio, visual / 5
    *marginals, cross = naive_covariances(audio, visual)
    ridges = [ridge * np.linalg.eigvalsh(S).mean() if relative else ridge for S in marginals]
    expected = naive_correlations(*marginals, cross, ridges)
    directions = fit(audio, visual, 4, ridge=ridge, relative=relative)
    np.testing.assert_allclose(directions.correlations, expected, atol=1e-9)
    for S, r, weights in zip(marginals, ridges, (directions.audio_weights, directions.visual_weights), strict=True):
        np.testing.assert_allclose(weights.T.numpy() @ (S + r * np.eye(len(S))) @ weights.numpy(), np.eye(4), atol=1e-9)


def test_a_relative_ridge_does_not_see_the_scale_of_a_view():
    audio, visual = make_views()
    expected = fit(audio, visual, 4, ridge=0.1, relative=True).correlations
    found = fit(1e4 * audio, 1e-4 * visual, 4, ridge=0.1, relative=True).correlations
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_add_ridge_is_a_multiple_of_the_identity():
    S = torch.diag(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    torch.testing.assert_close(add_ridge(S, 0.5).diagonal() - S.diagonal(), S.new_full((3,), 0.5))
    torch.testing.assert_close(add_ridge(S, 0.5, relative=True).diagonal() - S.diagonal(), S.new_full((3,), 1.5))


def make_maps(widths=(3, 6), seed=0):
    """Linear maps into other widths: one of less rank than columns, one the other way about."""
    random = np.random.default_rng(seed)
    return tuple(random.standard_normal(shape) for shape in zip((4, 5), widths, strict=True))


def test_mapped_covariances_are_those_of_mapped_rows():
    views, maps = make_views(), make_maps()
    mapped = moments_of(*views).covariances().mapped(*map(torch.from_numpy, maps))
    twin = moments_of(*(view @ each for view, each in zip(views, maps, strict=True))).covariances()
    for found, expected in zip(mapped, twin, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_directions_of_mapped_rows_are_directions_behind_the_maps(ridge):
    views, maps = make_views(), make_maps()
    covariances, tensors = moments_of(*views).covariances(), list(map(torch.from_numpy, maps))
    inside = canonical_directions(covariances.mapped(*tensors), 4, ridge)
    behind = inside.behind(covariances, *tensors)
    assert behind.audio_weights.shape == (4, 4) and behind.visual_weights.shape == (5, 4)
    assert torch.equal(behind.correlations, inside.correlations) and not behind.audio_weights[:, 3:].any()
    expected = project(inside, *(view @ each for view, each in zip(views, maps, strict=True)))
    for found, twin in zip(project(behind, *views), expected, strict=True):
        np.testing.assert_allclose(found, twin, atol=1e-10)


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="At least one direction must be asked for, got 0"):
        fit(*make_views(), 0)
    with pytest.raises(ValueError, match="A ridge must be a finite number of at least 0, got -0.1"):
        fit(*make_views(), 2, ridge=-0.1)


def make_spectrum(eigenvalues, seed=0):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))[0]
    return rotation * eigenvalues @ rotation.T


@pytest.mark.parametrize(
    ("S", "rank", "tolerance"),
    [
        # Rounding of S moves W'SW by its condition number times 1e-16; the tolerances leave a factor of ten and more.
        pytest.param(make_spectrum([1.0, 2.0, 3.0, 4.0]), 4, 1e-14, id="well-conditioned"),
        pytest.param(make_spectrum(np.geomspace(1e-10, 1, 8)), 8, 1e-4, id="badly conditioned"),
        pytest.param(scipy.linalg.hilbert(7), 7, 1e-6, id="hilbert"),
        pytest.param(np.diag(np.geomspace(1e-20, 1e20, 6)), 6, 1e-14, id="units"),
        pytest.param(make_spectrum([0.0, 0.0, 0.0, 1.0, 2.0]), 2, 1e-14, id="rank-deficient"),
        pytest.param(np.ones((6, 6)), 1, 1e-14, id="all alike"),
        pytest.param(np.diag([0.0, 3.0, 0.0]), 1, 1e-14, id="constant columns"),
        pytest.param(np.zeros((3, 3)), 0, 0, id="zero"),
    ],
)
def test_whitening_whitens_whatever_the_rank(S, rank, tolerance):
    white = whitening(torch.from_numpy(S)).numpy()
    assert white.shape == (len(S), rank)
    np.testing.assert_allclose(white.T @ S @ white, np.eye(rank), atol=10 * tolerance)


# Cluster CCA.


def make_clusters(sizes=(3, 40, 9, 20), offset=3.0, seed=0):
    """(audio, visual, classes) of imbalanced classes, in mixed order."""
    random = np.random.default_rng(seed)
    classes = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    audio, visual = make_views(len(classes), 6, 7, seed=seed)
    centres = random.standard_normal((2, len(sizes), 7))
    return audio + centres[0, classes, :6] + offset, visual + centres[1, classes] - offset, classes


def memberships(classes):
    return np.eye(classes.max() + 1)[classes]


def naive_mixture(audio, visual, members, cluster_weight):
    """(S_aa, S_vv, S_av) by the design's formula, in matrices."""
    *marginals, pairs = naive_covariances(audio, visual)
    Z = members / members.sum(axis=1, keepdims=True)
    D = np.diag(Z.sum(axis=0))
    clusters = (Z.T @ centre(audio)).T @ np.linalg.inv(D) @ (Z.T @ centre(visual)) / len(audio)
    return *marginals, (1 - cluster_weight) * pairs + cluster_weight * clusters


def assert_mixture(moments, expected, cluster_weight):
    covariances = moments.covariances(cluster_weight)
    for found, twin in zip(covariances[:3], expected, strict=True):
        np.testing.assert_allclose(found, twin, atol=1e-12)
    found = canonical_directions(covariances, 6).correlations.numpy()
    np.testing.assert_allclose(found, naive_correlations(*expected)[:6], atol=1e-9)
    assert (found <= 1 + 1e-9).all()


def test_cluster_cca_equals_a_cca_of_all_pairs_of_each_class():
    audio, visual, classes = make_clusters()
    rows = np.array([(i, j) for i in range(len(classes)) for j in range(len(classes)) if classes[i] == classes[j]])
    all_audio, all_visual = audio[rows[:, 0]], visual[rows[:, 1]]
    sizes = np.bincount(classes)[classes].astype(np.float64)
    covariances = moments_of(audio, visual, memberships(classes), weights=sizes, classes=4).covariances(1.0)
    expected = naive_covariances(all_audio, all_visual)
    for found, twin in zip(covariances[:3], expected, strict=True):
        np.testing.assert_allclose(found, twin, atol=1e-9)
    np.testing.assert_allclose(covariances.audio_mean, all_audio.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(covariances.visual_mean, all_visual.mean(axis=0), atol=1e-12)
    directions = canonical_directions(covariances, 6)
    np.testing.assert_allclose(directions.correlations[:3], naive_correlations(*expected)[:3], atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("splits", [1, 9])
def test_cluster_cca_has_one_direction_fewer_than_classes(offset, weighted, splits):
    audio, visual, classes = make_clusters(offset=offset)
    sizes = np.bincount(classes)[classes].astype(np.float64) if weighted else np.ones(len(classes))
    moments = PairMoments(6, 7, 4)
    for rows in torch.arange(len(classes)).tensor_split(splits):
        given = (torch.from_numpy(array)[rows] for array in (audio, visual, memberships(classes)))
        moments.update(*given, weights=torch.from_numpy(sizes)[rows])
    directions = canonical_directions(moments.covariances(1.0), 6)
    assert (directions.correlations[:3] > 1e-3).all() and not directions.correlations[3:].any()
    assert not directions.audio_weights[:, 3:].any() and not directions.visual_weights[:, 3:].any()


@pytest.mark.parametrize("cluster_weight", [0.0, 0.2, 0.5, 1.0])
def test_the_mixture_equals_the_formula_on_imbalanced_classes(cluster_weight):
    audio, visual, classes = make_clusters()
    expected = naive_mixture(audio, visual, memberships(classes), cluster_weight)
    assert_mixture(moments_of(audio, visual, memberships(classes), classes=4), expected, cluster_weight)


@pytest.mark.parametrize("cluster_weight", [0.0, 0.2, 0.5, 1.0])
def test_the_mixture_equals_the_formula_where_clips_have_several_labels(cluster_weight):
    audio, visual, classes = make_clusters()
    members = np.maximum(memberships(classes), np.random.default_rng(1).random((len(classes), 4)) < 0.3)
    expected = naive_mixture(audio, visual, members, cluster_weight)
    assert_mixture(moments_of(audio, visual, members, classes=4), expected, cluster_weight)


@pytest.mark.parametrize("cluster_weight", [0.0, 0.2, 0.5, 1.0])
def test_an_unlabelled_clip_is_a_class_of_its_own(cluster_weight):
    audio, visual, classes = make_clusters()
    known = np.random.default_rng(1).random(len(classes)) < 0.5
    members = np.hstack([memberships(classes) * known[:, None], np.eye(len(classes))[:, ~known]])
    expected = naive_mixture(audio, visual, members, cluster_weight)
    moments = moments_of(audio, visual, memberships(classes), known, classes=4)
    assert_mixture(moments, expected, cluster_weight)


@pytest.mark.parametrize("seed", range(5))
def test_no_mixture_has_a_correlation_above_one_on_outputs_that_equal_their_labels(seed):
    # Trained outputs repeat the memberships: the hardest case, with correlations of one.
    random = np.random.default_rng(seed)
    members = (random.random((60, 4)) < [0.9, 0.2, 0.1, 0.05]).astype(np.float64)
    members[members.sum(axis=1) == 0, 0] = 1
    moments = moments_of(members, members, members, random.random(60) < 0.8, classes=4)
    for cluster_weight in (0.0, 0.2, 0.5, 1.0):
        assert canonical_directions(moments.covariances(cluster_weight), 4).correlations.max() <= 1 + 1e-9


def test_without_labels_clusters_are_pairs():
    audio, visual = make_views()
    moments = moments_of(audio, visual, np.zeros((300, 4)), classes=4)
    torch.testing.assert_close(moments.covariances(1.0).cross, moments.covariances(0.0).cross)


# The layer that keeps the directions.


def make_layer(dim=4, power=0.0):
    directions = fit(*make_views(), 4)
    layer = CanonicalLayer(4, 5, dim)
    layer.set(directions, power)
    return layer, directions


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_a_layer_gives_variates_weighed_by_a_power_of_their_correlation_at_unit_length(power):
    layer, directions = make_layer(power=power)
    audio, visual = make_views(seed=1)
    variates = project(directions, audio, visual)
    embeddings = layer.audio(torch.from_numpy(audio)), layer.visual(torch.from_numpy(visual))
    for found, twin in zip(embeddings, variates, strict=True):
        assert found.dtype == torch.float32
        expected = normalize(torch.from_numpy(twin * directions.correlations.numpy() ** power), dim=1)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_variates_of_a_layer_are_its_embeddings_at_whatever_length(lengths, power):
    directions, views = fit(*make_views(), 4), make_views(seed=1)
    layer = CanonicalLayer(4, 5, 6, lengths)
    layer.set(directions, power)
    rows = [torch.from_numpy(view) for view in views]
    variates = layer.audio_variates(rows[0]), layer.visual_variates(rows[1])
    scale = 1 / (2 * (directions.correlations**power).norm()) if lengths else 1.0
    for found, twin in zip(variates, project(directions, *views), strict=True):
        assert found.shape == (300, 6) and found.dtype == torch.float32 and not found[:, 4:].any()
        expected = torch.from_numpy(twin) * directions.correlations**power * scale
        torch.testing.assert_close(found[:, :4].double(), expected, rtol=0, atol=1e-5)
    for found, embeddings in zip(variates, (layer.audio(rows[0]), layer.visual(rows[1])), strict=True):
        torch.testing.assert_close(normalize(found, dim=1), normalize(embeddings[:, :6], dim=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.audio_variates(rows[0]), variates[0])


def test_a_wider_layer_gives_the_same_cosines():
    audio, visual = (torch.from_numpy(view) for view in make_views(seed=1))
    narrow, wide = make_layer()[0], make_layer(dim=9)[0]
    torch.testing.assert_close(wide.audio(audio) @ wide.visual(visual).T, narrow.audio(audio) @ narrow.visual(visual).T)
    assert not wide.audio(audio)[:, 4:].any()


def test_a_layer_forgets_what_it_kept_before():
    layer = make_layer(dim=6)[0]
    layer.set(fit(*make_views(seed=1), 2))
    assert not layer.audio_weights[:, 2:].any() and not layer.correlations[2:].any()


def test_a_layer_too_narrow_for_its_directions_is_refused():
    with pytest.raises(ValueError, match="A layer 3 wide cannot keep 4 directions"):
        make_layer(dim=3)


def test_a_layer_knows_whether_it_was_fitted_and_its_weights_tell():
    layer, fresh = make_layer()[0], CanonicalLayer(4, 5, 4)
    assert layer.fitted and not fresh.fitted
    fresh.load_state_dict(layer.state_dict())
    assert fresh.fitted
    layer.reset()
    assert not layer.fitted and not layer.audio_weights.any()
    fresh.load_state_dict(layer.state_dict())
    assert not fresh.fitted


@pytest.mark.parametrize("cast", [torch.nn.Module.half, torch.nn.Module.bfloat16])
def test_a_layer_keeps_its_digits_when_a_model_is_cast_to_less(cast):
    layer = make_layer()[0]
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    model = cast(torch.nn.Sequential(torch.nn.Linear(2, 2), layer))
    assert model[0].weight.dtype != torch.float32
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, before[name])
    rows = torch.randn(3, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer.audio(rows), layer.audio(rows.float()), rtol=0, atol=0)


def test_embeddings_of_a_layer_depend_on_their_own_row_alone():
    layer = make_layer()[0]
    rows = torch.randn(20, 4)
    torch.testing.assert_close(layer.audio(rows)[7:8], layer.audio(rows[7:8]))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_with_lengths_a_cosine_is_a_dot_product_of_variates_up_to_one_factor(power):
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(400, 3, generator=generator)
    audio = shared @ torch.randn(3, 6, generator=generator) + 0.5 * torch.randn(400, 6, generator=generator)
    visual = shared @ torch.randn(3, 5, generator=generator) + 0.5 * torch.randn(400, 5, generator=generator)
    directions = canonical_directions(PairMoments(6, 5).update(audio, visual).covariances(), 4, ridge=1e-3)
    layer = CanonicalLayer(6, 5, 4, lengths=True)
    layer.set(directions, power)
    found = [layer.audio(audio).double(), layer.visual(visual).double()]
    assert found[0].shape == (400, 6)
    for rows in found:
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(400, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    variates = [
        (rows.double() - mean) @ (weights * directions.correlations**power)
        for rows, mean, weights in (
            (audio, directions.audio_mean, directions.audio_weights),
            (visual, directions.visual_mean, directions.visual_weights),
        )
    ]
    usual = (directions.correlations**power).norm()  # a variate has a variance of about one
    short = [rows.norm(dim=1) <= 2 * usual for rows in variates]
    expected = (variates[0] @ variates[1].T / (2 * usual) ** 2)[short[0]][:, short[1]]
    torch.testing.assert_close((found[0] @ found[1].T)[short[0]][:, short[1]], expected, rtol=1e-5, atol=1e-6)
    assert all(0.9 < share.double().mean() < 1 for share in short)
    longer = found[0][~short[0], -2:]  # what is longer than that counts as so long
    torch.testing.assert_close(longer, torch.zeros_like(longer))


def test_the_same_layer_without_lengths_gives_the_directions_of_those_rows():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    directions = canonical_directions(PairMoments(3, 3).update(rows, rows).covariances(), 2)
    long, unit = CanonicalLayer(3, 3, 2, lengths=True), CanonicalLayer(3, 3, 2)
    for layer in (long, unit):
        layer.set(directions, 1.0)
    torch.testing.assert_close(torch.nn.functional.normalize(long.audio(rows)[:, :2], dim=1), unit.audio(rows))
