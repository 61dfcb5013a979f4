"""A short film in the making: what a program draws on and plays into, as a camera and a microphone would have it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray
SAMPLE_RATE = 16_000


class Scene:
    """A clip in the making: what its class draws on and plays into, and what picture and sound share.

    Lengths are in heights of the picture, y points down. What moves over frames is an array `(t,)`.
    """

    def __init__(self, rng: np.random.Generator, seconds: float, size: tuple[int, int], fps: int):
        (width, height), frames = size, round(seconds * fps)
        self.rng, self.wide, self.seconds = rng, width / height, frames / fps
        self.time = np.arange(frames) / fps
        self.sample_time = np.arange(round(self.seconds * SAMPLE_RATE)) / SAMPLE_RATE
        self.bigness, self.vigour = rng.uniform(size=2)
        self.radius, self.side = 0.09 + 0.13 * self.bigness, rng.choice([-1, 1])
        drift = 0.05 * np.sin(rng.uniform(0.5, 2) * self.time + rng.uniform(0, 6.3, (2, 1)))
        self.x, self.y = self.wide * rng.uniform(0.36, 0.64) + drift[0], rng.uniform(0.45, 0.6) + drift[1]
        # Brightness goes round in a circle: whatever the ground, the paints stand out from it and from each other.
        ground = rng.uniform()
        self.paints = [self._colour(ground + turn) for turn in rng.uniform(-0.06, 0.06, 3) + [0.5, 0.28, 0.72]]
        self.columns = (np.arange(width, dtype=np.float32) + 0.5) / height
        self.rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
        self.sound = np.zeros(len(self.sample_time))
        still = np.tile(self._colour(ground)[:, None, None, None], (1, height, width))
        for _ in range(3):  # a blotchy ground
            blotch = np.cos(rng.uniform(-9, 9) * self.columns + rng.uniform(-9, 9) * self.rows + rng.uniform(0, 6.3))
            still += (rng.uniform(-0.06, 0.06, (3, 1, 1, 1)) * blotch).astype(np.float32)
        self.picture = np.repeat(still, frames, axis=1)
        self._draw_surroundings(ground)

    def _colour(self, brightness: float) -> Array:
        tint = self.rng.uniform(-0.35, 0.35, 3)
        return np.clip(brightness % 1 + tint - tint.mean(), 0.02, 0.98).astype(np.float32)

    def _draw_surroundings(self, ground: float) -> None:
        """Shapes that belong to no class and keep their own time."""
        uniform = self.rng.uniform
        for _ in range(self.rng.integers(1, 5)):
            swing = uniform(0, 0.15) * np.sin(uniform(0.5, 9) * self.time)
            x, y = uniform(0, self.wide) + swing, uniform(0, 1) + uniform(-1, 1) * swing
            end, radii = (x + uniform(-0.2, 0.2), y + uniform(-0.2, 0.2)), tuple(uniform(0.01, 0.12, 2))
            self.stroke((x, y), end, radii, self._colour(ground + uniform(0.15, 0.85)), 0.8, flat=uniform() < 0.5)

    def set_beats(self, low: float, high: float, jitter: float) -> None:
        """Events, `low` to `high` a second, from before the clip to after it, one of them early in it.

        `phase` counts them, with fractions; `age` is how long ago the last one was.
        """
        self.period = 1 / np.exp(self.rng.uniform(np.log(low), np.log(high)))
        first = self.rng.uniform(0, min(self.period, self.seconds / 2))
        steps = np.arange(-3.0, self.seconds / self.period + 3)
        moved = self.rng.uniform(0, jitter) * self.rng.uniform(-0.5, 0.5, len(steps)) * (steps != 0)
        self.beats = first + self.period * (steps + moved)
        self.phase, self.sample_phase = (
            np.interp(time, self.beats, np.arange(len(steps))) for time in (self.time, self.sample_time)
        )
        self.age = self.phase % 1 * self.period

    def pitch(self, low: float, high: float) -> float:
        """Hertz: what is big is low, give or take."""
        return low * (high / low) ** np.clip(1 - self.bigness + self.rng.normal(0, 0.05), 0, 1)

    # The picture.

    def stroke(self, start, end, radius, colour: Array, alpha: ArrayLike = 1, flat: bool = False) -> None:
        """A line from `start` to `end`, of one radius or from one of two to the other; its ends round or `flat`."""
        values = (*start, *end, *(radius if isinstance(radius, tuple) else (radius, radius)))
        x0, y0, x1, y1, r0, r1 = (
            np.broadcast_to(np.asarray(value, np.float32), len(self.time))[:, None, None] for value in values
        )
        reach = max(r0.max(), r1.max()) + 0.02
        rows, columns = (  # all that it comes near to
            slice(*np.searchsorted(axis.ravel(), [min(a.min(), b.min()) - reach, max(a.max(), b.max()) + reach]))
            for axis, a, b in ((self.rows, y0, y1), (self.columns, x0, x1))
        )
        angle, length = np.arctan2(y1 - y0, x1 - x0), np.hypot(y1 - y0, x1 - x0) + 1e-6
        x, y = self.columns[columns] - x0, self.rows[rows] - y0
        if angle.any():
            along, aside = x * np.cos(angle) + y * np.sin(angle), np.abs(x * np.sin(angle) - y * np.cos(angle))
        else:  # level, as discs are: the same numbers from one axis each, with far less work
            along, aside = x, np.abs(y)
        beyond = np.abs(along - length / 2) - length / 2
        thickness = r0 if (r0 == r1).all() else r0 + np.clip(along, 0, length) / length * (r1 - r0)
        if flat:
            distance = np.maximum(aside - thickness, beyond)
        else:
            distance = np.hypot(aside, np.maximum(beyond, 0)) - thickness
        self.fill(distance, colour, alpha, rows, columns)

    def disc(self, x, y, radius, colour: Array, alpha: ArrayLike = 1) -> None:
        """A stroke of no length."""
        self.stroke((x, y), (x, y), radius, colour, alpha)

    def fill(self, distance: Array, colour: Array, alpha: ArrayLike = 1, rows=slice(None), columns=slice(None)) -> None:
        """Paints where the distance to a shape is below 0, the edge softened over a pixel."""
        mask = np.clip(0.5 - distance * len(self.rows), 0, 1) * np.reshape(np.asarray(alpha, np.float32), (-1, 1, 1))
        for plane, value in zip(self.picture[:, :, rows, columns], colour, strict=True):
            plane += mask * (value - plane)

    def specks(self, x: Array, y: Array, alpha: Array, colour: Array) -> None:
        """Many dots at once, `(t, dots)`."""
        frame, x, y, alpha = np.broadcast_arrays(np.arange(len(self.time))[:, None], x, y, alpha)
        height, width = len(self.rows), len(self.columns)
        grain = max(1, round(height / 70))
        for right, down in np.ndindex(grain, grain):
            column, row = (np.floor(place * height).astype(int) + more for place, more in ((x, right), (y, down)))
            seen = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (alpha > 0)
            where = frame[seen], row[seen], column[seen]
            for plane, value in zip(self.picture, colour, strict=True):
                plane[where] += alpha[seen] * (value - plane[where])

    # The sound.

    def play(self, sound: Array, times: ArrayLike, gains: ArrayLike = 1.0) -> None:
        """Adds a sound at some times, as far as it falls within the clip."""
        for time, gain in np.broadcast(times, gains):
            first = round(time * SAMPLE_RATE)
            if 0 <= first < len(self.sound):
                part = sound[: len(self.sound) - first]
                self.sound[first : first + len(part)] += gain * part

    def ring(self, frequency: float, fade: float, partials: Sequence[float] = (1,), drop: float = 0) -> Array:
        """Something struck: partials that fade, the higher the sooner, and end `drop` octaves lower."""
        time = np.arange(int(4 * fade * SAMPLE_RATE)) / SAMPLE_RATE
        turns = np.cumsum(frequency * 2 ** (drop * (np.exp(-3 * time / fade) - 1))) / SAMPLE_RATE
        return sum(np.sin(2 * np.pi * p * turns) * np.exp(-time / fade * p**0.5) / p**0.5 for p in partials)

    def hiss(self, low: float, high: float, slope: float = 0, fade: float | None = None) -> Array:
        """Noise between two frequencies, its power falling with frequency; as long as the clip, or fading."""
        count = len(self.sound) if fade is None else int(4 * fade * SAMPLE_RATE)
        frequency = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20)
        gain = frequency ** (-slope / 2) / np.sqrt(1 + (low / frequency) ** 6) / np.sqrt(1 + (frequency / high) ** 6)
        noise = np.fft.irfft(np.fft.rfft(self.rng.standard_normal(count)) * gain, count)
        return noise / noise.std() * (1 if fade is None else np.exp(-np.arange(count) / SAMPLE_RATE / fade))

    def finish(self) -> tuple[Array, Array]:
        """Frames and samples, with what a camera, a room and a microphone add."""
        uniform, picture, sound = self.rng.uniform, self.picture, self.sound
        grain = uniform(0, 0.06) * self.rng.standard_normal(picture.shape[1:], dtype=np.float32)
        exposure, frames = uniform(0.75, 1.1), np.empty((*picture.shape[1:], 3), np.uint8)
        for channel, plane in enumerate(picture):
            frames[..., channel] = np.clip((plane + grain) * exposure, 0, 1) * 255
        echo = int(uniform(0.04, 0.2) * SAMPLE_RATE)
        sound[echo:] += uniform(0, 0.4) * sound[:-echo].copy()
        sound = sound / (np.abs(sound).max() + 1e-9) + self.hiss(20, 8000, uniform(0, 2)) * 10 ** uniform(-2.2, -1.2)
        hum = np.sin(2 * np.pi * uniform(45, 250) * self.sample_time[:, None] * [1, 2, 3]) @ uniform(0, 0.06, 3)
        spectrum = np.fft.rfft(sound + hum * uniform() ** 2)
        spectrum *= np.linspace(0.01, 1, len(spectrum)) ** uniform(-0.4, 0.4)
        sound = np.fft.irfft(spectrum, len(sound))
        loudness = 10 ** (uniform(-0.9, -0.7) + 0.6 * self.vigour)
        return frames, (sound / np.abs(sound).max() * loudness).astype(np.float32)
