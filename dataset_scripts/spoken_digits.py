"""Spoken and written digits: the Free Spoken Digit Dataset paired with scikit-learn's handwritten digits.

    python dataset_scripts/spoken_digits.py --source recordings --out spoken-digits-features

Then `load_dataset("spoken-digits-features")`, and `load_dataset("spoken-digits-features", "speakers")`. The source is
the folder of recordings, `<digit>_<speaker>_<number>.wav`; the images come with scikit-learn. A digit that is said and
a digit that is written are paired at random inside their class, so a pair shares its class and nothing else.

Configurations: `default`, where recordings 0 to 4 of each speaker and 30 images a class are test; `speakers`, where the
last two speakers in the alphabet are heard in validation and in test only. No image and no recording is in two splits.
"""

import functools
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Value
from scipy.io import wavfile

from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_builder import FeatureBuilder, FeatureConfig, build
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.optional import require
from modeling_dualspace.splits import SPLITS, carve_validation

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
BANDS, SEGMENTS = 32, 4
TEST_IMAGES, TEST_RECORDINGS = 30, 5
NAME = re.compile(r"([0-9])_([A-Za-z0-9]+)_([0-9]+)\.wav")


class SpokenDigits(FeatureBuilder):
    """Digits said and digits written."""

    CARD = DataCard(
        "Spoken and written digits",
        "spoken-digits-features",
        Path(__file__).parent / "cards" / "spoken_digits.md",
        columns={
            "clip_id": "the recording, without .wav",
            "audio_features": "the recording: 32 log-mel bands, averaged over each quarter of its length",
            "visual_features": "the image: 8 x 8 pixels of 0 to 16",
            "speaker": "who speaks",
            "image": "which of scikit-learn's 1,797 images; one image is in many pairs of its split",
        },
    )
    WHERE_FROM = (
        "The Free Spoken Digit Dataset (Jackson et al.) is a public repository of that name: its folder `recordings` "
        "holds the 3,000 .wav files."
    )

    @classmethod
    def configs(cls, settings: FeatureConfig) -> list[str]:
        """By recording, or by speaker."""
        return ["default", "speakers"]

    @classmethod
    def open(cls, settings: FeatureConfig) -> FeatureSource:
        """Lists the recordings, pairs them, and computes features when they are asked for."""
        if settings.class_order:
            raise ValueError("The names of the recordings say the digit: leave --class-order out.")
        recordings = list_recordings(Path(settings.source))
        split_of = _by_speaker(recordings) if settings.name == "speakers" else _by_number(recordings)
        images, digits = _images()
        pools = _image_splits(digits)
        pairs = {}
        for number, split in enumerate(SPLITS):
            chosen = [one for one, name in zip(recordings, split_of, strict=True) if name == split]
            pairs[split] = _pair(chosen, digits, pools[split], seed=number)

        return FeatureSource(
            name=settings.name,
            features=feature_columns(
                BANDS * SEGMENTS, 64, DIGITS, extra={"speaker": Value("string"), "image": Value("int64")}
            ),
            splits={split: [f"{settings.name}/{split}"] for split in SPLITS},
            rows=functools.partial(_rows, pairs, images, settings.stamp),
            audio="log-mel-quarters@fsdd",
            visual="pixels@sklearn-digits",
            lengths={f"{settings.name}/{split}": len(chosen) for split, (chosen, _) in pairs.items()},
            facts={"held_out": _held_out(recordings) if settings.name == "speakers" else {}},
        )


def _rows(
    pairs: Mapping[str, tuple[list["Recording"], np.ndarray]], images: np.ndarray, stamp: str, part: str
) -> Iterator[dict[str, Any]]:
    """Reads a part; of the module, not of a call, so that it can be sent to another process."""
    chosen, partners = pairs[part.split("/")[1]]
    if chosen:
        yield {
            "clip_id": [one.path.stem for one in chosen],
            "audio_features": np.stack([log_mel_summary(str(one.path), stamp) for one in chosen]),
            "visual_features": images[partners],
            "label": np.array([one.digit for one in chosen]),
            "speaker": [one.speaker for one in chosen],
            "image": partners,
        }


@dataclass(frozen=True)
class Recording:
    """A file, and what its name says."""

    path: Path
    digit: int
    speaker: str
    number: int


def list_recordings(folder: Path) -> list[Recording]:
    """The recordings of a folder in the order of their names, one of another form being refused."""
    found = []
    for path in sorted(folder.glob("*.wav")):
        match = NAME.fullmatch(path.name)
        if not match:
            raise ValueError(f"{folder}: expected recordings named <digit>_<speaker>_<number>.wav, got {path.name!r}.")
        found.append(Recording(path, int(match[1]), match[2], int(match[3])))
    if not found:
        raise ValueError(f"{folder}: expected .wav files, and found none.")
    absent = sorted(set(range(10)) - {one.digit for one in found})
    if absent:
        raise ValueError(f"{folder}: no recording of the digits {', '.join(map(str, absent))}.")
    return found


def _by_number(recordings: list[Recording]) -> list[str]:
    """Recordings 0 to 4 of each speaker are test; of the others a tenth of each digit is validation."""
    test = [one.number < TEST_RECORDINGS for one in recordings]
    return _carved(recordings, test)


def _by_speaker(recordings: list[Recording]) -> list[str]:
    names = _held_out(recordings)
    return [names.get(one.speaker, "train") for one in recordings]


def _held_out(recordings: list[Recording]) -> dict[str, str]:
    """The last two speakers: whom validation and test hear."""
    speakers = sorted({one.speaker for one in recordings})
    if len(speakers) < 3:
        raise ValueError(f"Expected at least three speakers, to hold out two, got {', '.join(speakers)}.")
    return {speakers[-2]: "validation", speakers[-1]: "test"}


def _carved(recordings: list[Recording], test: list[bool]) -> list[str]:
    rest = [one for one, is_test in zip(recordings, test, strict=True) if not is_test]
    held = carve_validation([one.path.stem for one in rest], [one.digit for one in rest])
    validation = {one.path for one, is_held in zip(rest, held, strict=True) if is_held}
    return [
        "test" if is_test else "validation" if one.path in validation else "train"
        for one, is_test in zip(recordings, test, strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _images() -> tuple[np.ndarray, np.ndarray]:
    bunch = require("sklearn.datasets", extra="baselines").load_digits()
    return bunch.data.astype(np.float32), bunch.target.astype(np.int64)


def _image_splits(digits: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the images of each split: 30 a class for test, a tenth of the other 1,497 for validation."""
    generator = np.random.default_rng(0)
    test = np.concatenate([generator.permutation(np.flatnonzero(digits == digit))[:TEST_IMAGES] for digit in range(10)])
    rest = np.setdiff1d(np.arange(len(digits)), test)
    held = np.array(carve_validation([f"image/{row}" for row in rest], digits[rest].tolist()), dtype=bool)
    return {"train": rest[~held], "validation": rest[held], "test": np.sort(test)}


def _pair(
    recordings: list[Recording], digits: np.ndarray, pool: np.ndarray, seed: int
) -> tuple[list[Recording], np.ndarray]:
    """An image for each recording, of its class: every image of the class is used before one is used again."""
    generator = np.random.default_rng(seed + 1)
    partners = np.empty(len(recordings), dtype=np.int64)
    for digit in range(10):
        places = [place for place, one in enumerate(recordings) if one.digit == digit]
        images = pool[digits[pool] == digit]
        rounds = -(-len(places) // len(images))
        drawn = np.concatenate([generator.permutation(images) for _ in range(rounds)] or [images[:0]])
        partners[places] = drawn[: len(places)]
    return recordings, partners


def read_sound(path: str) -> tuple[int, np.ndarray]:
    """The rate, and one channel of samples within [-1, 1], from a .wav of any width."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks that are not sound
            warnings.filterwarnings("error", message="Reached EOF")
            rate, samples = wavfile.read(path)
    except Exception as error:  # of many kinds: what its parser stumbles over
        raise ValueError(f"{path} is no .wav file that can be read ({error}).") from None
    if rate < 1000 or not len(samples):
        raise ValueError(f"{path}: expected a sound of at least 1,000 samples a second, got {len(samples)} at {rate}.")
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    samples = samples.astype(np.float64)
    if kind in "iu":  # 8 bits have no sign
        samples = (samples - 128 if kind == "u" else samples) / 2 ** (bits - 1)
    return rate, samples.mean(axis=1) if samples.ndim > 1 else samples


@functools.lru_cache(maxsize=4096)
def log_mel_summary(path: str, stamp: str = "") -> np.ndarray:
    """The logarithm of 32 mel bands, averaged over each quarter of the recording: what is said, and in which order.

    Args:
        path: of the recording.
        stamp: changes when the recordings do; two configurations compute a summary once.
    """
    rate, samples = read_sound(path)
    window = max(64, int(0.032 * rate))
    samples = np.pad(samples, (0, max(0, 4 * window - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[:: window // 4] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    bands = np.log(power @ _mel_bands(rate, window) + 1e-6)
    quarters = np.array_split(bands, SEGMENTS)
    return np.concatenate([quarter.mean(axis=0) for quarter in quarters]).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _mel_bands(rate: int, window: int) -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(window // 2 + 1, BANDS, 50.0, rate / 2, rate, norm=None, mel_scale="htk")


def main(argv: list[str] | None = None) -> int:
    """Builds the folder; returns the exit code."""
    return build(SpokenDigits, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
