"""Sound as vectors: `logmel`, which needs no weights."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from transformers.audio_utils import mel_filter_bank

from .backbones import Array, Backbone, Modality, Steps
from .spectra import Band, bands_of, hann, in_bands, spectra


class LogMel(Backbone):
    r"""`logmel`: four statistics of 32 bands of librosa's log-mel spectrogram, over a second each: 128 numbers.

    With $L_{bt} = 10 \log_{10}(M_{b\cdot} |X_t|^2 + 10^{-10})$, where X is `librosa.stft` of samples at 16 kHz (Hann
    window of 400, FFT of 512, hop 160, centred, zeros outside) and M is `librosa.filters.mel` (32 bands, 50 to
    8,000 Hz, Slaney's scale and norm), and t scaled to -1 ... 1 over the second, the vector holds band by band

    - the mean of L, then its standard deviation: what is heard, and how much it varies;
    - the mean of $t L$: whether it grows or fades, so that "one" differs from the same sounds backwards;
    - the mean of $|L_t - L_{t-1}|$: how fast it changes.

    The numbers are librosa's (a test compares them); the transform is NumPy's.

    Among six such sets of 128 this one told spoken digits apart best on validation (known speakers and unheard ones).

    Example:
        ```python
        >>> backbone = LogMel()
        >>> second = np.sin(np.arange(16_000, dtype=np.float32))
        >>> backbone.embed([[backbone.prepare(second)]]).shape
        (1, 128)

        ```
    """

    modality: ClassVar[Modality] = "audio"
    name = source = "logmel"
    width = 128
    steps = Steps(rate=16_000, length=16_000, hop=16_000)

    BANDS, LOWEST, FFT, WINDOW, HOP, FLOOR = 32, 50.0, 512, 400, 160, 1e-10

    @property
    def constants(self) -> dict[str, Any]:
        """As in the formula."""
        return {
            "bands": self.BANDS,
            "lowest": self.LOWEST,
            "highest": self.steps.rate / 2,
            "fft": self.FFT,
            "window": self.WINDOW,
            "hop": self.HOP,
            "floor": self.FLOOR,
            "statistics": "mean std slope change",
        }

    def prepare(self, piece: Array) -> Array:
        """The vector of one stretch."""
        samples = np.asarray(piece, dtype=np.float32)
        padded = np.pad(samples, (self.FFT // 2, self.FFT // 2 + max(0, self.FFT - len(samples))))
        window = hann(self.WINDOW, self.FFT, centred=True).astype(np.float32)
        spectrum = spectra(padded, window, self.HOP)
        power = spectrum.real**2 + spectrum.imag**2
        mel = in_bands(power, _bands(self.steps.rate, self.FFT, self.BANDS, self.LOWEST))
        bands = 10 * np.log10(mel + self.FLOOR)
        slope = np.linspace(-1, 1, bands.shape[1], dtype=bands.dtype)
        change = np.abs(np.diff(bands, axis=1)).mean(axis=1)
        parts = (bands.mean(axis=1), bands.std(axis=1), (bands * slope).mean(axis=1), change)
        return np.concatenate(parts).astype(np.float32)

    def embed(self, units: Sequence[Sequence[Any]]) -> Array:
        """What `prepare` made, stacked."""
        return np.stack([pieces[0] for pieces in units])


@functools.lru_cache(maxsize=4)
def _bands(rate: float, fft: int, bands: int, lowest: float) -> list[Band]:
    """Of `librosa.filters.mel`."""
    filters = mel_filter_bank(fft // 2 + 1, bands, lowest, rate / 2, int(rate), norm="slaney", mel_scale="slaney")
    return bands_of(filters.astype(np.float32))
