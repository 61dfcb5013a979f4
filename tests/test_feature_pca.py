"""Principal components and eight bits: AudioSet's and YouTube-8M's formulas, with the published numbers and others."""

import math

import numpy as np
import pytest
import torch

from modeling_dualspace.feature_pca import FeaturePca, check_post, dequantised, quantised


def audioset(E: np.ndarray, m: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The components and the bits of vggish_postprocess.py: cut off."""
    applied = np.dot(E, x.T - m.reshape(-1, 1)).T
    clipped = np.clip(applied, -2.0, 2.0)
    return applied, ((clipped - -2.0) * (255.0 / (2.0 - -2.0))).astype(np.uint8)


def youtube8m(number: float) -> int:
    """`quantize` of extract_tfrecords_main.py, by the `round` of Python 2: halves go away from zero."""
    scaled = (min(2.0, max(-2.0, number)) + 2.0) * (255.0 / 4.0)
    return int(math.floor(scaled + 0.5))


def components(E: np.ndarray, m: np.ndarray, *, rounds: bool = False) -> FeaturePca:
    made = FeaturePca(E.shape[1], E.shape[0], rounds=rounds)
    made.load_state_dict({"weight": torch.from_numpy(E), "mean": torch.from_numpy(m)})
    return made


@pytest.fixture
def own() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components, mean and rows, as float32 holds them; most of what comes out lies within -2 and 2, some beyond."""
    random = np.random.default_rng(0)
    kinds = random.normal(size=(24, 40)) / 6, random.normal(size=40) * 3, random.normal(size=(500, 40)) * 1.2
    E, m, x = (each.astype(np.float32).astype(np.float64) for each in kinds)
    return E, m, (x + m).astype(np.float32).astype(np.float64)


@pytest.fixture
def published(data_root) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AudioSet's, and rows whose components have about the variance of one that whitening gives them."""
    path = data_root / "vggish_pca" / "vggish_pca_params.npz"
    if not path.is_file():
        pytest.skip(f"AudioSet's parameters are not at {path}")
    with np.load(path) as found:
        E, m = found["pca_eigen_vectors"], found["pca_means"]
    assert E.shape == (128, 128) and m.shape == (128,)
    assert np.array_equal(E, E.astype(np.float32)) and np.array_equal(m, m.astype(np.float32))  # nothing is lost
    wanted = np.random.default_rng(1).normal(size=(300, 128))
    return E, m, (m + wanted @ np.linalg.inv(E).T).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("parameters", ["own", "published"])
def test_components_and_eight_bits_are_audiosets(parameters, request):
    E, m, x = request.getfixturevalue(parameters)
    applied, bits = audioset(E, m, x)
    assert len(np.unique(bits)) > 200 and {0, 255} <= set(bits.ravel().tolist())
    pca, rows = components(E, m), torch.from_numpy(x)
    # Computed in float64 and told in float32: half a step of at most 2^-24 of the number.
    np.testing.assert_allclose(pca(rows).numpy(), applied, rtol=6e-8, atol=1e-12)
    for kind in (torch.float64, torch.float32):  # the rows are of float32 anyway
        assert np.array_equal(pca(rows.to(kind), "8bit").numpy(), bits)
        assert np.array_equal(pca(rows.to(kind), "dequantised").numpy(), (bits - 128.0) / 256.0)


@pytest.mark.parametrize("parameters", ["own", "published"])
def test_eight_bits_are_youtube8ms_where_they_are_rounded(parameters, request):
    E, m, x = request.getfixturevalue(parameters)
    applied, _ = audioset(E, m, x)
    expected = np.vectorize(youtube8m)(applied)
    pca = components(E, m, rounds=True)
    assert np.array_equal(pca(torch.from_numpy(x), "8bit").numpy(), expected)
    assert np.array_equal(pca(torch.from_numpy(x), "dequantised").numpy(), (expected - 128) / 256)


@pytest.mark.parametrize("parameters", ["own", "published"])
def test_torchvggish_which_rounds_differs_by_one_at_most(parameters, request):
    peer_module = pytest.importorskip("torchvggish.torchvggish", reason="`make` installs it by .ci/peers.txt")
    E, m, x = request.getfixturevalue(parameters)
    peer = object.__new__(peer_module.Postprocessor)  # made as usual, it would download its parameters
    peer._pca_matrix, peer._pca_means = torch.from_numpy(E).float(), torch.from_numpy(m).float()[:, None]
    theirs = peer.postprocess(torch.from_numpy(x).float())
    more = theirs - components(E, m)(torch.from_numpy(x), "8bit")
    assert set(more.unique().tolist()) == {0, 1}
    # It rounds what float32 makes of the components, which now and then lies on the other side of a half.
    assert (theirs == components(E, m, rounds=True)(torch.from_numpy(x), "8bit")).float().mean() > 0.999


@pytest.mark.parametrize(
    ("number", "cut_off", "rounded"),
    [
        (-math.inf, 0, 0), (-2.1, 0, 0), (-2.0, 0, 0), (-2 + 3.99 / 255, 0, 1), (-2 + 4.01 / 255, 1, 1),
        (-2 + 1.99 / 255, 0, 0), (0.0, 127, 128), (2 - 1e-9, 254, 255), (2.0, 255, 255), (3.0, 255, 255),
        (math.inf, 255, 255),
    ],
)  # fmt: skip
def test_the_ends_and_the_middle_of_the_eight_bits(number, cut_off, rounded):
    projected = torch.tensor([number], dtype=torch.float64)
    assert quantised(projected).item() == cut_off
    assert quantised(projected, rounds=True).item() == rounded


def test_dequantised_bits_lie_within_a_half():
    bits = torch.arange(256.0)
    assert dequantised(bits).tolist() == [(bit - 128) / 256 for bit in range(256)]
    assert dequantised(bits).min() == -0.5 and dequantised(bits).max() < 0.5


def test_what_float32_would_lose_decides_the_bits():
    pca = components(np.ones((1, 3)), np.zeros(3))
    rows = torch.tensor([[1e8, 1.0, -1e8]])  # in float32, 1e8 + 1 is 1e8
    assert pca(rows).item() == 1 and pca(rows, "8bit").item() == 191  # (1 + 2) * 63.75 = 191.25


@pytest.mark.parametrize("cast", [lambda pca: pca.half(), lambda pca: pca.bfloat16(), lambda pca: pca.to(torch.half)])
def test_the_parameters_stay_float32_when_a_model_is_cast_to_less(own, cast):
    E, m, x = own
    model = torch.nn.Sequential(components(E, m), torch.nn.Linear(24, 2))
    cast(model)
    assert model[1].weight.dtype in (torch.half, torch.bfloat16)
    assert torch.equal(model[0].weight, torch.from_numpy(E).float())
    assert torch.equal(model[0].mean, torch.from_numpy(m).float())
    rows = torch.from_numpy(x).to(model[1].weight.dtype)
    made = model[0](rows, "8bit")
    assert made.dtype == torch.float32 and np.array_equal(made.numpy(), audioset(E, m, rows.double().numpy())[1])


def test_rows_one_by_one_are_the_same_as_together(own):
    E, m, x = own
    pca, rows = components(E, m), torch.from_numpy(x)
    together = pca(rows, "8bit")
    assert torch.equal(torch.cat([pca(row[None], "8bit") for row in rows]), together)
    assert pca(rows[:0], "8bit").shape == (0, 24)


def test_as_new_it_takes_the_first_components_as_they_are(own):
    E, m, x = own
    pca = components(E, m)
    pca.reset()
    rows = torch.from_numpy(x)
    assert torch.equal(pca(rows), rows[:, :24].float()) and torch.equal(FeaturePca(40, 24)(rows), pca(rows))
    assert not list(pca.parameters()) and pca.state_dict().keys() == {"mean", "weight"}


def test_a_form_that_needs_components_is_refused_where_there_are_none():
    for post in ("pca", "8bit", "dequantised"):
        with pytest.raises(ValueError, match=f"`post` is '{post}', which needs principal components.*`pca` is 0.*"):
            check_post(post, 0)
        check_post(post, 1)
    check_post("none", 0)
    for count in (-1, 65_537):
        with pytest.raises(ValueError, match=f"number of components, or 0 for none: got {count}"):
            check_post("none", count)
