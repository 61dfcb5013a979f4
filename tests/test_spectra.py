"""Spectra and bands of them against sums and products written out."""

import math

import numpy as np
import pytest

from modeling_dualspace.spectra import bands_of, hann, in_bands, spectra


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


@pytest.mark.parametrize(("length", "hop"), [(8, 3), (16, 16), (7, 2), (10, 25)])
@pytest.mark.parametrize("more", [0, 1, 24, 60])
def test_a_spectrum_is_fouriers_sum_over_each_whole_frame_from_the_first_sample_on(length, hop, more):
    samples, window = random(length + more), random(length, seed=1)
    made = spectra(samples, window, hop)
    columns = []
    for start in range(0, len(samples) - length + 1, hop):
        frame = samples[start : start + length] * window
        angles = [-2 * math.pi * line / length * np.arange(length) for line in range(length // 2 + 1)]
        columns.append([(frame * np.exp(1j * angle)).sum() for angle in angles])
    assert made.dtype == np.complex128 and made.shape == (length // 2 + 1, 1 + more // hop)
    np.testing.assert_allclose(made, np.array(columns).T, rtol=0, atol=1e-13)  # sums of 16 products of at most 1


def test_a_spectrum_has_the_precision_of_the_samples():
    samples, window = random(4000), hann(400, 512, centred=False)
    padded = np.concatenate([samples, np.zeros(112)])
    exact = spectra(padded, window, 160)
    single = spectra(padded.astype(np.float32), window.astype(np.float32), 160)
    assert exact.dtype == np.complex128 and single.dtype == np.complex64
    # 400 products of at most 1, told with 24 bits: their errors of 6e-8 add up like a random walk, to 20 of them.
    np.testing.assert_allclose(single, exact, rtol=0, atol=2e-5)
    assert spectra(padded.astype(np.float32), window, 160).dtype == np.complex128  # the finer one decides


def test_neither_samples_nor_window_are_written_to():
    samples, window = random(40), random(8, seed=1)
    kept = samples.copy(), window.copy()
    spectra(samples, window, 4)
    assert np.array_equal(samples, kept[0]) and np.array_equal(window, kept[1])


@pytest.mark.parametrize(("length", "fft"), [(400, 512), (2048, 2048), (5, 9), (5, 8), (1, 1)])
def test_hanns_window_is_periodic_and_filled_up_with_zeros(length, fft):
    expected = [math.sin(math.pi * place / length) ** 2 for place in range(length)]  # no zero at its end
    behind, around = hann(length, fft, centred=False), hann(length, fft, centred=True)
    assert behind.shape == around.shape == (fft,) and behind.dtype == around.dtype == np.float64
    np.testing.assert_allclose(behind, expected + [0.0] * (fft - length), rtol=0, atol=1e-15)
    before = (fft - length) // 2
    np.testing.assert_allclose(around, [0.0] * before + expected + [0.0] * (fft - length - before), rtol=0, atol=1e-15)


def test_nobody_spoils_the_window_of_the_next_one():
    window = hann(6, 6, centred=False)
    with pytest.raises(ValueError, match="read-only"):
        window[:] = 0


# Two triangles, bands without weight at either end and between them, one with a hole, one of a single bin, a whole one.
FILTERS = np.array(
    [
        [0, 1, 0, 0, 0.0, 0, 0.5, 0],
        [0, 2, 0, 0, 0.3, 0, 0.5, 0],
        [0, 1, 0, 1, 0.0, 0, 0.5, 0],
        [0, 0, 0, 3, 0.7, 0, 0.5, 0],
        [0, 0, 0, 2, 0.0, 4, 0.5, 0],
    ]
)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.complex64, np.complex128])
def test_bands_are_the_product_with_the_filter_bank(kind):
    weights = FILTERS.astype(np.float32 if kind in (np.float32, np.complex64) else np.float64)
    spectrum = (random(5, 9) + (1j * random(5, 9, seed=1) if kind in (np.complex64, np.complex128) else 0)).astype(kind)
    made = in_bands(spectrum, bands_of(weights))
    assert made.dtype == kind and made.shape == (8, 9)
    eps = np.finfo(kind).eps
    np.testing.assert_allclose(made, FILTERS.T @ spectrum.astype(np.complex128), rtol=0, atol=8 * eps)  # 5 of up to 4
    assert not made[[0, 2, 7]].any()  # no bin at all, and no number that would be none


def test_a_spectrum_without_frames_has_bands_without_frames():
    assert in_bands(np.zeros((5, 0)), bands_of(FILTERS)).shape == (8, 0)


def test_only_the_bins_of_a_band_are_kept_and_the_bank_itself_is_not():
    filters = FILTERS.copy()
    bands = bands_of(filters)
    assert [(first, len(weights)) for first, weights in bands] == [
        (0, 1), (0, 3), (0, 1), (2, 3), (1, 3), (4, 1), (0, 5), (0, 1),
    ]  # fmt: skip
    filters[:] = 7
    assert bands[4][1].tolist() == [0.3, 0, 0.7] and bands[6][1].base is None


def test_a_bin_that_no_band_has_does_not_spoil_others():
    spectrum = np.ones((5, 2))
    spectrum[4] = np.inf
    made = in_bands(spectrum, bands_of(FILTERS))
    assert made[1].tolist() == [4, 4] and made[4].tolist() == [1, 1]  # a product with zeros would be no number
