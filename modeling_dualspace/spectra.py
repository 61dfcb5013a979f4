"""Short-time spectra and bands of them, by NumPy alone.

librosa's first transform costs a second and 150 MB for the compiler it brings, and a matrix product for the bands wakes
all threads of the linear algebra, which then spin where the decoder should work.
"""

import functools

import numpy as np

Array = np.ndarray
Band = tuple[int, Array]
"""A band's first bin, and the weights from there on."""


def spectra(samples: Array, window: Array, hop: int) -> Array:
    """The spectrum of every whole frame, from the first sample on, `(bins, frames)`, in the samples' precision."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[::hop]
    return np.fft.rfft(frames * window, axis=1).T


@functools.lru_cache(maxsize=8)
def hann(length: int, fft: int, *, centred: bool) -> Array:
    """Hann's window, periodic, with zeros around it or behind it until it is `fft` long; float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    before = (fft - length) // 2 if centred else 0
    window = np.pad(window, (before, fft - length - before))
    window.setflags(write=False)  # it is everybody's
    return window


def bands_of(filters: Array) -> list[Band]:
    """The bands of a filter bank `(bins, bands)`; one without weight is a band of zero."""
    bands = []
    for column in filters.T:
        there = np.flatnonzero(column)
        first, last = (there[0], there[-1]) if len(there) else (0, 0)
        bands.append((int(first), column[first : last + 1].copy()))
    return bands


def in_bands(spectrum: Array, bands: list[Band]) -> Array:
    """`(bins, frames)` to `(bands, frames)`."""
    return np.stack([weights @ spectrum[first : first + len(weights)] for first, weights in bands])
