"""`logmel` against its formula, written out in float64 without librosa, and against librosa's own."""

import functools
from concurrent.futures import ThreadPoolExecutor

import librosa
import numpy as np
import pytest

from modeling_dualspace.audio_backbones import LogMel
from modeling_dualspace.backbones import Steps

RATE, FFT, WINDOW, HOP, BANDS = 16_000, 512, 400, 160, 32

# Levels lie around 10 to 100 dB, where float32 has steps of 1e-6 to 8e-6. A transform of 512 samples knows a line of
# the spectrum to 1e-7 of the strongest one, and so its level, where it is 20 dB weaker (the noise below), to 1e-5 dB: a
# few steps in all (seen: 7e-6). Far below what a wrong window or another scale would make: whole dB.
CLOSE = 1e-4
# Where nothing but a pure tone sounds, the far bands hold what leaks there, 1e-6 of its amplitude and less, of which
# the transform knows a tenth; over the lines of a band and a hundred frames most of that cancels (seen: 4e-5 dB).
LEAKED = 0.01


def mel(hertz):
    """Slaney's scale: 200/3 Hz a step up to 1 kHz, from there on 27 steps for a factor of 6.4."""
    hertz = np.asarray(hertz, dtype=np.float64)
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4))


def hertz(mels):
    mels = np.asarray(mels, dtype=np.float64)
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))


@functools.cache
def bank():
    """Triangles between 50 and 8,000 Hz, each of area 1: `(bands, lines)`."""
    corners, lines = hertz(np.linspace(mel(50), mel(8000), BANDS + 2)), np.arange(FFT // 2 + 1) * RATE / FFT
    rows = []
    for low, middle, high in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
        triangle = np.minimum((lines - low) / (middle - low), (high - lines) / (high - middle))
        rows.append(np.maximum(triangle, 0) * 2 / (high - low))
    return np.array(rows)


def loudness(samples):
    """`(bands, frames)` in decibels: frame t is centred on sample 160 t, with zeros outside."""
    samples = np.asarray(samples, dtype=np.float64)
    samples = np.pad(samples, (0, max(0, FFT - len(samples))))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    columns = []
    for centre in range(0, len(samples) + 1, HOP):
        heard = np.zeros(FFT)
        for place in range(WINDOW):
            number = centre - WINDOW // 2 + place
            if 0 <= number < len(samples):
                heard[(FFT - WINDOW) // 2 + place] = samples[number] * hann[place]
        columns.append(10 * np.log10(bank() @ np.abs(np.fft.rfft(heard)) ** 2 + 1e-10))
    return np.array(columns).T


def statistics(bands):
    count = bands.shape[1]
    mean = [sum(band) / count for band in bands]
    spread = [np.sqrt(sum((value - sum(band) / count) ** 2 for value in band) / count) for band in bands]
    slope = [sum(value * (2 * t / (count - 1) - 1) for t, value in enumerate(band)) / count for band in bands]
    change = [sum(abs(band[t] - band[t - 1]) for t in range(1, count)) / (count - 1) for band in bands]
    return np.array([*mean, *spread, *slope, *change])


def vector(samples):
    backbone = LogMel()
    found = backbone.embed([[backbone.prepare(samples)]])
    assert found.shape == (1, 128) and found.dtype == np.float32 and np.isfinite(found).all()
    return found[0]


def noise(count, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def swell(count=RATE):
    """Noise that grows a hundredfold, as a drum recorded backwards."""
    return noise(count) * np.geomspace(0.01, 1, count, dtype=np.float32)


@pytest.mark.parametrize("count", [RATE, 15_999, 8_000, 1_000, 513, 512, 511, 401, 160, 2])
def test_noise_of_any_length_gives_the_numbers_of_the_formula(count):
    assert np.abs(vector(noise(count)) - statistics(loudness(noise(count)))).max() < CLOSE


def test_what_grows_gives_the_numbers_of_the_formula():
    assert np.abs(vector(swell()) - statistics(loudness(swell()))).max() < CLOSE


def test_a_pure_tone_gives_the_numbers_of_the_formula_down_to_what_leaks():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32) / 2
    off = np.abs(vector(tone) - statistics(loudness(tone)))
    loud = loudness(tone).mean(axis=1) > -20
    assert loud.sum() == 4 and off[:BANDS][loud].max() < CLOSE
    assert off.max() < LEAKED


def test_a_single_sample_is_a_click_as_loud_as_it_is():
    # A click is equally strong in all lines: it is known as well as noise. At its place the window is 1.
    click = vector(np.ones(1, dtype=np.float32))
    assert np.abs(click - statistics(loudness([1.0]))).max() < CLOSE
    first = loudness([1.0])[:, 0]
    assert np.allclose(first, 10 * np.log10(bank().sum(axis=1)))


@pytest.mark.parametrize("count", [1, 700, RATE])
def test_silence_is_the_floor_everywhere_and_nothing_moves(count):
    silent = vector(np.zeros(count, dtype=np.float32))
    assert np.abs(silent[:BANDS] + 100).max() < CLOSE and np.abs(silent[BANDS:]).max() < CLOSE


def test_it_is_the_spectrogram_that_librosa_makes():
    power = librosa.feature.melspectrogram(
        y=swell().astype(np.float64), sr=RATE, n_fft=FFT, win_length=WINDOW, hop_length=HOP, n_mels=BANDS, fmin=50.0,
        fmax=8000.0, center=True, pad_mode="constant",
    )  # fmt: skip
    bands = 10 * np.log10(power + 1e-10)
    assert bands.shape == (BANDS, 101)
    assert np.abs(vector(swell()) - statistics(bands)).max() < CLOSE


def test_what_is_played_backwards_differs_in_its_slope_alone():
    # 99 hops of 160, and half a one at either end: reversed, the frames are the same ones in another order.
    samples = swell(99 * HOP + 1)
    forward, backward = (vector(one).reshape(4, BANDS) for one in (samples, samples[::-1]))
    assert np.abs(forward[[0, 1, 3]] - backward[[0, 1, 3]]).max() < CLOSE
    assert np.abs(forward[2] + backward[2]).max() < CLOSE and forward[2].min() > 1


def test_a_units_vector_depends_on_that_unit_alone():
    backbone = LogMel()
    units = [[backbone.prepare(noise(RATE, seed))] for seed in range(5)]
    together = backbone.embed(units)
    for unit, row in zip(units, together, strict=True):
        assert np.array_equal(backbone.embed([unit])[0], row)


def test_four_threads_at_once_make_what_one_makes():
    backbone, sounds = LogMel(), [noise(RATE if seed % 3 else 300, seed) for seed in range(40)]
    alone = [backbone.prepare(sound) for sound in sounds]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(backbone.prepare, sounds), alone, strict=True):
            assert np.array_equal(found, expected)


def test_what_is_given_is_left_as_it_was():
    samples = noise(RATE)
    samples.flags.writeable = False
    found = vector(samples)
    assert np.array_equal(found, vector(list(map(float, samples))))
    assert np.array_equal(found, vector(np.repeat(samples, 2)[::2]))  # a view with gaps


def test_the_name_in_a_feature_spec_is_the_one_it_has_had():
    # It is written into models and data sets: whoever changes what this backbone computes changes a constant with it,
    # and then this line; all that was made before is another's.
    assert LogMel().spec == "logmel@2066f12f"


@pytest.mark.parametrize(
    "changed",
    [{"BANDS": 40}, {"LOWEST": 20.0}, {"FFT": 1024}, {"WINDOW": 512}, {"HOP": 320}, {"FLOOR": 1e-8},
     {"steps": Steps(rate=22_050, length=22_050, hop=22_050)}, {"steps": Steps(rate=RATE, length=RATE, hop=8_000)}],
    ids=str,
)  # fmt: skip
def test_another_constant_makes_another_name(changed):
    other = type("Other", (LogMel,), changed)()
    assert other.spec.startswith("logmel@") and other.spec != LogMel().spec


def test_its_constants_are_those_of_the_formula():
    backbone = LogMel()
    assert (backbone.modality, backbone.width, backbone.weights) == ("audio", 128, "")
    assert backbone.steps == Steps(rate=RATE, length=RATE, hop=RATE)
    assert backbone.constants == {
        "bands": BANDS, "lowest": 50.0, "highest": 8000.0, "fft": FFT, "window": WINDOW, "hop": HOP, "floor": 1e-10,
        "statistics": "mean std slope change",
    }  # fmt: skip
