"""Kernel CCA against its eigenproblem in plain NumPy, against other people's, and its approximations against theirs."""

import numpy as np
import pytest
import scipy.linalg
import torch

from modeling_dualspace.baselines import KccaConfig, KccaModel
from modeling_dualspace.baselines.kcca import KernelMap

DIM = 3


@pytest.fixture
def views(make_batch):
    """Audio and visual rows in float64, 40 to fit to and 25 more."""
    batch = make_batch(65)
    audio, visual = (batch[f"{name}_features"].double().numpy() for name in ("audio", "visual"))
    return (audio[:40], visual[:40]), (audio[40:], visual[40:])


def fit(views, *splits, **settings):
    audio, visual = (torch.from_numpy(view).float() for view in views)
    given = {"feature_scaling": "none", "embed_dim": DIM, "seed": 0, "components": 50} | settings
    model = KccaModel(KccaConfig(audio_dim=audio.shape[1], visual_dim=visual.shape[1], **given))
    pieces = zip(audio.tensor_split(splits), visual.tensor_split(splits), strict=True)
    model.finish([{"audio_features": one, "visual_features": other} for one, other in pieces])
    return model


def embeds(model, views):
    audio, visual = (torch.from_numpy(view).float() for view in views)
    return model.get_audio_embeds(audio).numpy(), model.get_visual_embeds(visual).numpy()


def assert_embeds(model, views, scores, tolerance=1e-3):
    """Equal to a peer's scores at unit length, but for a sign a column, the same in both modalities.

    Points, weights and kernel values are float32, to 6e-8 of them; a direction undoes eigenvalues as small as a
    thousandth of the largest on its way to variates of about one, and forty such errors add.
    """
    found, expected = embeds(model, views), [one / np.linalg.norm(one, axis=1, keepdims=True) for one in scores]
    signs = np.sign((found[0] * expected[0]).sum(axis=0))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs * signs, atol=tolerance)


def kernel(rows, points, gamma):
    """`rbf`, or `linear` where there is no gamma."""
    if gamma is None:
        return rows @ points.T
    return np.exp(-gamma * ((rows[:, None] - points[None]) ** 2).sum(axis=2))


def eigenproblem(fitted, asked, gammas, c, ridge=0.0):
    """Scores of rows, and correlations: K_a K_v on one side, c K + (1 - c) (K^2 + n r K) on the other.

    Correlations are (1 - c) times its eigenvalues: those of a CCA with a ridge, which are one at most.
    """
    n = len(fitted[0])
    H = np.eye(n) - 1 / n
    plain = [kernel(view, view, gamma) for view, gamma in zip(fitted, gammas, strict=True)]
    Ka, Kv = (H @ K @ H for K in plain)
    blocks = [c * K + (1 - c) * (K @ K + n * ridge * K) for K in (Ka, Kv)]
    # A centred kernel has a null space, where both sides are zero: it is cut off, in coordinates of each kernel.
    bases = [np.linalg.eigh(K) for K in (Ka, Kv)]
    bases = [vectors[:, values > 1e-9 * values[-1]] for values, vectors in bases]
    Ba, Bv = (basis.T @ block @ basis for basis, block in zip(bases, blocks, strict=True))
    cross = bases[0].T @ Ka @ Kv @ bases[1]
    left = np.block([[np.zeros_like(Ba), cross], [cross.T, np.zeros_like(Bv)]])
    values, vectors = scipy.linalg.eigh(left, scipy.linalg.block_diag(Ba, Bv))
    values, vectors = values[::-1][:DIM], vectors[:, ::-1][:, :DIM]
    duals = bases[0] @ vectors[: Ba.shape[0]], bases[1] @ vectors[Ba.shape[0] :]
    scores = []
    for view, points, gamma, K, dual in zip(asked, fitted, gammas, plain, duals, strict=True):
        scores.append((kernel(view, points, gamma) - K.mean(axis=0)) @ H @ dual)
    return scores, values * (1 - c if c < 1 else 1)


# The exact kernel.

GAMMAS = {"rbf": 0.02, "linear": None}


@pytest.mark.parametrize("c", [0.01, 0.1, 0.5, 1])
@pytest.mark.parametrize("name", GAMMAS)
def test_it_solves_its_eigenproblem_for_clips_it_saw_and_others(views, name, c):
    fitted, asked = views
    gamma = GAMMAS[name]
    model = fit(fitted, kernel=name, gamma=gamma, constraint=c)
    if name == "rbf":  # of full rank, or the peer would see directions that ours leaves out
        assert max(np.linalg.cond(kernel(view, view, gamma)) for view in fitted) < 1e6
    for clips in views:
        scores, rho = eigenproblem(fitted, clips, (gamma, gamma), c)
        assert_embeds(model, clips, scores)
    np.testing.assert_allclose(model.layer.correlations, rho, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GAMMAS)
def test_it_equals_that_of_cca_zoo(views, name):
    nonparametric = pytest.importorskip("cca_zoo.nonparametric")
    fitted, asked = views
    c = 0.1
    ratio = c / (1 - c) / 39  # its block is (1 - c) K^2 / (n - 1) + c K
    peer = nonparametric.KCCA(DIM, kernel=name, gamma=GAMMAS[name], shrinkage=ratio / (1 + ratio)).fit(list(fitted))
    model = fit(fitted, kernel=name, gamma=GAMMAS[name], constraint=c)
    assert_embeds(model, asked, peer.transform(list(asked)))


@pytest.mark.parametrize("name", GAMMAS)
def test_a_ridge_is_added_in_the_feature_space(views, name):
    model = fit(views[0], kernel=name, gamma=GAMMAS[name], ridge=0.05)
    scores, rho = eigenproblem(*views, (GAMMAS[name],) * 2, 0.1, ridge=0.05)
    assert_embeds(model, views[1], scores)
    np.testing.assert_allclose(model.layer.correlations, rho, rtol=1e-5)


def test_the_linear_kernel_is_a_linear_cca_with_that_constraint(views):
    fitted, asked = views
    means = [view.mean(axis=0) for view in fitted]
    audio, visual = (view - mean for view, mean in zip(fitted, means, strict=True))
    roots = []
    for view in (audio, visual):
        values, vectors = np.linalg.eigh(0.7 * view.T @ view / 40 + 0.3 / 40 * np.eye(view.shape[1]))
        roots.append(vectors / np.sqrt(values) @ vectors.T)
    left, rho, right = np.linalg.svd(roots[0] @ audio.T @ visual / 40 @ roots[1])
    weights = roots[0] @ left[:, :DIM], roots[1] @ right.T[:, :DIM]
    for components in (40, 15):  # even few points span all of six and eight columns
        model = fit(fitted, kernel="linear", constraint=0.3, components=components)
        assert_embeds(model, asked, [(view - mean) @ W for view, mean, W in zip(asked, means, weights, strict=True)])
        np.testing.assert_allclose(model.layer.correlations, 0.7 * rho[:DIM], rtol=1e-5)


def test_room_for_more_points_than_clips_changes_nothing_and_says_exact(views):
    fitted, asked = views
    scores, rho = eigenproblem(fitted, asked, (0.02, 0.02), 0.1)
    for components in (40, 41, 90):
        model = fit(fitted, components=components, gamma=0.02)
        assert_embeds(model, asked, scores)
        np.testing.assert_allclose(model.layer.correlations, rho, rtol=1e-5)
        choice = model.config.kernel_choice
        assert (choice["map"], choice["clips"], choice["audio_points"]) == ("exact", 40, 40)
        assert choice["audio_gamma"] == choice["visual_gamma"] == pytest.approx(0.02)
    assert fit(fitted, components=39).config.kernel_choice["map"] == "nystroem"
    assert fit(fitted, 40, components=39).config.kernel_choice["map"] == "nystroem"  # an empty batch comes last
    few = [np.sign(view[:, :1] - view[:, :1].mean()) for view in fitted]  # of one side: the other is approximated still
    for views in ((few[0], fitted[1]), (fitted[0], few[1])):
        assert fit(views, components=39).config.kernel_choice["map"] == "nystroem"


def test_room_for_many_more_points_changes_nothing_even_where_a_kernel_is_smooth(views):
    scores, rho = eigenproblem(*views, (0.002, 0.002), 0.01)
    # Eigenvalues below a millionth of the largest are left out, whose directions weigh about a thousandth here.
    for components in (40, 1000):
        model = fit(views[0], components=components, gamma=0.002, constraint=0.01)
        assert_embeds(model, views[1], scores, tolerance=2e-3)
        np.testing.assert_allclose(model.layer.correlations, rho, rtol=2e-5)


def test_clips_that_come_twice_take_one_point(views):
    fitted, asked = views
    twice = [np.concatenate([view, view[:10]]) for view in fitted]
    model = fit(twice, 7, 45, components=40, gamma=0.02)
    assert model.config.kernel_choice["map"] == "exact" and model.config.kernel_choice["clips"] == 50
    assert model.config.kernel_choice["visual_points"] == 40
    scores, rho = eigenproblem(twice, asked, (0.02, 0.02), 0.1)
    assert_embeds(model, asked, scores)
    np.testing.assert_allclose(model.layer.correlations, rho, rtol=1e-5)


@pytest.mark.parametrize("scaling", ["none", "center", "standardize"])
def test_features_are_scaled_by_training_clips_before_the_kernel(views, scaling):
    fitted = [view * 10 ** np.linspace(-1, 1, view.shape[1]) for view in views[0]]
    asked = [view * 10 ** np.linspace(-1, 1, view.shape[1]) for view in views[1]]
    given = [
        [(view - own.mean(axis=0) * (scaling != "none")) / (own.std(axis=0) if scaling == "standardize" else 1)
         for view, own in zip(clips, fitted, strict=True)] for clips in (fitted, asked)
    ]  # fmt: skip
    gammas = []
    for view in given[0]:
        squares = ((view[:, None] - view[None]) ** 2).sum(axis=2)[np.triu_indices(40, 1)]
        gammas.append(1 / np.sort(squares)[(len(squares) - 1) // 2])  # of an even count, the lower of the middle two
    model = fit(fitted, feature_scaling=scaling)
    choice = model.config.kernel_choice
    assert [choice["audio_gamma"], choice["visual_gamma"]] == pytest.approx(gammas, rel=1e-5)
    scores, _ = eigenproblem(*given, gammas, 0.1)
    assert_embeds(model, asked, scores, tolerance=5e-3)  # columns of a tenth and of ten: narrow kernels' tails


# Its approximations.


def cca_of_features(fitted, asked, c):
    """Scores of rows in explicit features, with marginals (1 - c) S + c/n I."""
    n, means = len(fitted[0]), [view.mean(axis=0) for view in fitted]
    centred = [view - mean for view, mean in zip(fitted, means, strict=True)]
    roots = []
    for view in centred:
        values, vectors = np.linalg.eigh((1 - c) * view.T @ view / n + c / n * np.eye(view.shape[1]))
        roots.append(vectors / np.sqrt(values) @ vectors.T)
    left, rho, right = np.linalg.svd(roots[0] @ centred[0].T @ centred[1] / n @ roots[1])
    weights = roots[0] @ left[:, :DIM], roots[1] @ right.T[:, :DIM]
    return [(view - mean) @ W for view, mean, W in zip(asked, means, weights, strict=True)], (1 - c) * rho[:DIM]


def points_of(model, name):
    return getattr(model, f"{name}_kernel").points.double().numpy()


def test_nystroem_equals_that_of_scikit_learn_with_the_same_points(views):
    kernel_approximation = pytest.importorskip("sklearn.kernel_approximation")
    fitted, asked = views
    model = fit(fitted, components=12, gamma=0.02)
    assert model.config.kernel_choice["map"] == "nystroem" and model.config.kernel_choice["audio_points"] == 12
    features = []
    for number, name in enumerate(("audio", "visual")):
        points = points_of(model, name)
        # They are clips, each once.
        nearest = np.abs(fitted[number].astype(np.float32)[None] - points[:, None]).max(axis=2)
        assert (nearest.min(axis=1) == 0).all() and len(set(nearest.argmin(axis=1))) == 12
        peer = kernel_approximation.Nystroem(gamma=0.02, n_components=12, random_state=0).fit(points)
        features.append([peer.transform(clips[number]) for clips in views])
    scores, rho = cca_of_features(*zip(*features, strict=True), 0.1)
    assert_embeds(model, asked, scores)
    np.testing.assert_allclose(model.layer.correlations, rho, rtol=1e-5)


def test_random_features_are_a_cca_of_cosines(views):
    model = fit(views[0], components=12, gamma=0.02, approximation="random_features")
    features = []
    for number, name in enumerate(("audio", "visual")):
        offsets = getattr(model, f"{name}_kernel").offsets.double().numpy()
        features.append(
            [np.sqrt(2 / 12) * np.cos(clips[number] @ points_of(model, name).T + offsets) for clips in views]
        )
    scores, rho = cca_of_features(*zip(*features, strict=True), 0.1)
    assert_embeds(model, views[1], scores)
    np.testing.assert_allclose(model.layer.correlations, rho, rtol=1e-5)
    assert (
        fit(views[0], components=90, approximation="random_features").config.kernel_choice["map"] == "random_features"
    )


def test_products_of_random_features_approximate_the_kernel(views):
    rows = torch.from_numpy(views[0][0])
    config = KccaConfig(components=20_000, approximation="random_features", gamma=0.02)
    drawn = KernelMap(6, config)
    drawn.reset(seed=0)
    drawn.set(rows[:5].float(), config.gamma)
    features = drawn(rows).numpy()
    # Each product is a mean of 20,000 numbers that deviate by at most one: .007. This is five times that.
    np.testing.assert_allclose(features @ features.T, kernel(*[rows.numpy()] * 2, 0.02), atol=0.035)


@pytest.mark.parametrize("approximation", ["nystroem", "random_features"])
def test_the_seed_decides_what_is_drawn_and_without_one_torch_does(views, approximation):
    def drawn(seed):
        model = fit(views[0], components=12, approximation=approximation, seed=seed)
        return model.audio_kernel.points, model.visual_kernel.points

    assert all(map(torch.equal, drawn(1), drawn(1))) and not any(map(torch.equal, drawn(1), drawn(2)))
    torch.manual_seed(5)
    first, second = drawn(None), drawn(None)
    torch.manual_seed(5)
    assert all(map(torch.equal, drawn(None), first)) and not any(map(torch.equal, first, second))


def test_the_same_points_are_chosen_whatever_the_batches(views):
    whole = fit(views[0], components=12)
    for splits, order in (((5, 6, 30), slice(None)), ((20,), np.arange(40)[::-1])):
        model = fit([view[order] for view in views[0]], *splits, components=12)
        for name in ("audio", "visual"):
            np.testing.assert_allclose(points_of(model, name), points_of(whole, name))


@pytest.mark.parametrize("constraint", [0.1, 0.5])
def test_more_points_come_nearer_to_the_exact_kernel(views, constraint):
    exact = fit(views[0], constraint=constraint).layer.correlations
    errors = [
        (fit(views[0], components=m, constraint=constraint).layer.correlations - exact).norm() for m in (4, 12, 39)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_second_fit_that_fails_leaves_no_mixture_of_two(views):
    model = fit(views[0])
    audio, visual = (torch.from_numpy(view).float() for view in views[1])
    with pytest.raises(ValueError, match="a generator is empty the second time"):
        model.finish(iter([{"audio_features": audio, "visual_features": visual}]))
    with pytest.raises(RuntimeError, match="not fitted yet"):
        model.get_audio_embeds(audio)


def test_a_gamma_may_be_a_whole_number():
    assert KccaConfig(gamma=1).gamma == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"constraint": 0}, "`constraint` must be above 0 and at most 1, got 0"),
        ({"constraint": 1.5}, "`constraint` must be above 0 and at most 1, got 1.5"),
        ({"gamma": 0.0}, "`gamma` must be a finite number above 0, or null, got 0"),
        ({"gamma": float("inf")}, "`gamma` must be a finite number above 0, or null, got inf"),
        ({"components": 0}, "`components` must be at least 1, got 0"),
        ({"kernel": "linear", "gamma": 1.0}, "The linear kernel has no `gamma`"),
        ({"kernel": "linear", "approximation": "random_features"}, "`approximation` must be nystroem with it"),
        ({"kernel": "poly"}, "kernel"),
        ({"approximation": "none"}, "approximation"),
        ({"constraint": float("nan")}, "`constraint` must be above 0 and at most 1, got nan"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(Exception) as error:  # noqa: B017 - strict fields raise errors of their own
        KccaConfig(**settings)
    assert message in str(error.value)
