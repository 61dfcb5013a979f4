"""What the rendered sample clips show: ten classes, each a drawing and a sound, made by a program.

Picture and sound share more than the class: the same beats move both, what is big is low, what is vigorous is loud.
Within a class they vary: colours, grounds, sizes, places, rates, pitches, hum and noise, shapes that do not belong.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .scene import SAMPLE_RATE, Scene

Array = np.ndarray


@dataclass(frozen=True)
class Rendered:
    """A picture and a sound of the same length: frames `(t, h, w, 3)` uint8, samples `(n,)` float32 within [-1, 1]."""

    frames: Array
    samples: Array
    sample_rate: int
    fps: int


_SCENES: dict[str, tuple[Callable[..., None], tuple[float, float, float]]] = {}


def _scene(low: float, high: float, jitter: float = 0):
    """Makes a function a class with `low` to `high` beats a second, given a place, a radius r and three paints."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _SCENES[function.__name__.lstrip("_")] = function, (low, high, jitter)
        return function

    return register


def _swell(phase: Array) -> Array:
    return 0.5 + 0.5 * np.cos(2 * np.pi * phase)


@_scene(0.8, 2.2)
def _bell(scene, x, y, r, body, rope, clapper):
    """A bell on a rope, struck where it turns."""
    turn, length = (0.25 + 0.4 * scene.vigour) * np.cos(np.pi * scene.phase), scene.rng.uniform(0.2, 0.35)

    def hanging(depth, turn=turn):
        return x + depth * np.sin(turn), y - length - 0.8 * r + depth * np.cos(turn)

    scene.stroke(hanging(0), hanging(length), 0.012, rope)
    scene.disc(*hanging(length + 2.1 * r, 1.2 * turn), 0.3 * r, clapper)
    scene.disc(*hanging(length + 0.3 * r), 0.5 * r, body)
    scene.stroke(hanging(length + 0.3 * r), hanging(length + 2 * r), (0.5 * r, 1.1 * r), body, flat=True)
    partials = np.array([0.5, 1, 1.2, 1.5, 2, 2.7]) * scene.rng.uniform(0.98, 1.02, 6)
    scene.play(scene.ring(scene.pitch(250, 1500), scene.rng.uniform(0.1, 0.7), partials), scene.beats)


@_scene(1.2, 4, jitter=1)
def _bird(scene, x, y, r, feathers, branch, beak):
    """A bird that opens its beak and hops when it chirps."""
    gape, side, tilt = np.exp(-scene.age / 0.12), scene.side, scene.rng.uniform(-0.15, 0.15)
    perch, y = y.mean() + r, y - 0.3 * r * (0.3 + scene.vigour) * gape
    scene.stroke((-0.1, perch - tilt), (scene.wide + 0.1, perch + tilt), 0.02, branch)
    scene.stroke((x - side * 0.8 * r, y + 0.2 * r), (x - side * 1.9 * r, y + 0.7 * r), (0.3 * r, 0.12 * r), beak)
    scene.stroke((x - side * 0.5 * r, y + 0.25 * r), (x + side * 0.3 * r, y), (0.55 * r, 0.7 * r), feathers)
    head, crown = x + side * 0.8 * r, y - 0.75 * r
    for turn in (0.45 * gape, -0.45 * gape):
        scene.stroke((head, crown), (head + side * r * np.cos(turn), crown + r * np.sin(turn)), (0.16 * r, 0.02), beak)
    scene.disc(head, crown, 0.48 * r, feathers)
    scene.disc(head + side * 0.15 * r, crown - 0.1 * r, 0.1 * r, branch)
    length, bend, base = scene.rng.uniform(0.05, 0.14), scene.rng.uniform(-0.5, 0.5), scene.pitch(1500, 5000)
    part = np.linspace(0, 1, int(length * SAMPLE_RATE))
    note = np.sin(2 * np.pi * np.cumsum(base * 2 ** (bend * np.sin(3 * part))) / SAMPLE_RATE) * np.sin(np.pi * part)
    for again in range(scene.rng.integers(1, 4)):
        scene.play(note, scene.beats + again * length, 0.8**again)


@_scene(1.2, 3.5)
def _bouncing_ball(scene, x, y, r, ball, floor, spot):
    """A ball that thumps where it bounces."""
    rise, ground = scene.phase % 1, scene.rng.uniform(0.75, 0.9)
    squash = 0.3 * np.exp(-scene.age / 0.06) * (0.3 + scene.vigour)
    x = x + scene.side * 0.12 * (scene.time - scene.seconds / 2)
    y = ground - r * (1 - squash) - min(0.55, 1.4 * scene.period**2) * 4 * rise * (1 - rise)
    scene.stroke((-0.1, ground + 0.015), (scene.wide + 0.1, ground + 0.015), 0.015, floor)
    scene.stroke((x - squash * r, y), (x + squash * r, y), r * (1 - squash), ball)
    turn = 3 * scene.side * scene.time
    scene.disc(x + 0.5 * r * np.cos(turn), y + 0.5 * r * np.sin(turn), 0.25 * r, spot)
    scene.play(scene.ring(scene.pitch(70, 320), scene.rng.uniform(0.04, 0.12), (1, 2.3), drop=0.6), scene.beats)
    scene.play(scene.hiss(300, 3000, fade=0.008), scene.beats, scene.rng.uniform(0, 0.3))


@_scene(1.2, 4)
def _clock(scene, x, y, r, face, case, hand):
    """A clock whose hand steps when it ticks, with or without a pendulum."""
    r, rng = 1.3 * r, scene.rng
    y = y - 0.5 * r
    if rng.integers(2):
        turn = (0.2 + 0.4 * scene.vigour) * np.cos(np.pi * scene.phase)
        bob = x + 2.1 * r * np.sin(turn), y + 2.1 * r * np.cos(turn)
        scene.stroke((x, y), bob, 0.012, case)
        scene.disc(*bob, 0.3 * r, case)
    if rng.integers(2):
        scene.stroke((x, y - 1.25 * r), (x, y + 1.25 * r), 1.25 * r, case, flat=True)
    scene.disc(x, y, 1.15 * r, case)
    scene.disc(x, y, r, face)
    for hour in np.arange(0, 2 * np.pi, 2 * np.pi / rng.choice([4, 8, 12])):
        scene.disc(x + 0.85 * r * np.sin(hour), y - 0.85 * r * np.cos(hour), 0.06 * r, hand)
    steps = np.floor(scene.phase) + np.minimum(scene.age / 0.1, 1)
    for turn, length in ((steps * 2 * np.pi / rng.choice([8, 12, 20]), 0.8 * r), (rng.uniform(0, 6.3), 0.5 * r)):
        scene.stroke((x, y), (x + length * np.sin(turn), y - length * np.cos(turn)), 0.07 * r, hand)
    tock = np.where(np.arange(len(scene.beats)) % 2, 1, rng.uniform(0.4, 1))
    scene.play(scene.ring(scene.pitch(900, 4000), rng.uniform(0.006, 0.02), (1, 1.6, 2.4)), scene.beats, tock)
    scene.play(scene.hiss(1000, 7000, fade=0.003), scene.beats, tock)


@_scene(1.5, 5, jitter=0.5)
def _drum(scene, x, y, r, shell, skin, stick):
    """A drum under two sticks."""
    r, uniform = 1.2 * r, scene.rng.uniform
    y = y + 0.02 * np.exp(-scene.age / 0.08) * (0.5 + scene.vigour)
    scene.stroke((x, y), (x, y + uniform(0.8, 1.8) * r), (1.2 * r, uniform(0.9, 1.2) * r), shell, flat=True)
    scene.stroke((x - r, y), (x + r, y), 0.25 * r, skin)
    for hand, side in enumerate((-1, 1)):
        lift = (0.4 + 0.4 * scene.vigour) * np.abs(np.sin(np.pi / 2 * (scene.phase + hand))) ** 0.6
        tip = x + side * 0.25 * r, y - 0.2 * r - 1.3 * lift * r
        scene.stroke((x + side * 2 * r, y - 0.9 * r - 0.4 * lift * r), tip, 0.014, stick)
        scene.disc(*tip, 0.13 * r, stick)
    strengths = uniform(0.5, 1, len(scene.beats))
    scene.play(scene.ring(scene.pitch(90, 400), uniform(0.05, 0.15), (1, 1.6, 2.1), drop=0.3), scene.beats, strengths)
    scene.play(scene.hiss(800, 6000, fade=0.06), scene.beats, strengths * uniform(0, 0.5))


@_scene(2, 6)
def _engine(scene, x, y, r, body, wheel, smoke):
    """An engine on wheels that shakes and puffs as it chugs."""
    r, side, rail = 1.2 * r, scene.side, y
    shake = (0.006 + 0.02 * scene.vigour * np.exp(-scene.age / 0.15)) * scene.rng.uniform(-1, 1, (2, len(x)))
    x, y = x + shake[0], y + shake[1]
    pipe, top = x - side * 1.2 * r, y - 1.3 * r
    for age in (scene.age, scene.age + scene.period, scene.age + 2 * scene.period):
        puff = pipe - side * 0.12 * age, top - 0.25 * age
        scene.disc(*puff, 0.25 * r + 0.15 * age, smoke, np.clip(0.8 - age, 0, 1))
    scene.stroke((pipe, y), (pipe, top), 0.2 * r, wheel, flat=True)
    scene.stroke((x, y - 0.6 * r), (x, y + 0.6 * r), 1.6 * r, body, flat=True)
    scene.stroke((x + side * 0.9 * r, top), (x + side * 0.9 * r, y), 0.6 * r, body, flat=True)
    for place in (-0.9 * r, 0.9 * r):
        scene.disc(x + place, rail + 0.8 * r, 0.45 * r, wheel)
    turns, dull = 2 * np.pi * scene.pitch(35, 140) * scene.sample_time, scene.rng.uniform(0.5, 1.2)
    buzz = sum(np.sin(k * turns) / k**dull for k in range(1, 20))
    buzz += scene.rng.uniform(0.2, 1) * scene.hiss(100, 2500)
    scene.sound += buzz * (0.5 + np.exp(-3 * (scene.sample_phase % 1)))


@_scene(0.9, 2.2, jitter=1)
def _fireworks(scene, x, y, r, *paints):
    """Sparks that spread with a bang and crackle as they fall."""
    uniform = scene.rng.uniform
    for number, beat in enumerate(scene.beats):
        x, y, power, colour = scene.wide * uniform(0.2, 0.8), uniform(0.2, 0.6), uniform(0.5, 1), paints[number % 3]
        way, speed = uniform(0, 6.3, 90), (0.5 + 0.6 * scene.bigness) * power * uniform(0.1, 1, 90) ** 0.5
        for lag in (0.12, 0.06, 0):  # a spark and its trail
            age = np.maximum(scene.time[:, None] - beat - lag, 0)
            spread, fade = speed * (1 - np.exp(-2.5 * age)) / 2.5, np.clip(1.4 - age / 0.7, 0, 1) * (age > 0)
            scene.specks(x + np.cos(way) * spread, y + np.sin(way) * spread + 0.15 * age**2, fade, colour)
        rocket = scene.time[:, None] - beat - np.arange(3) * 0.02
        scene.specks(x, y - 0.9 * rocket, (rocket < 0) & (rocket > -0.5), colour)
        age = scene.time - beat
        scene.disc(x, y, 0.15 * power, colour, np.exp(-np.abs(age) / 0.08) * (age >= 0))
        scene.play(scene.ring(scene.pitch(50, 160), 0.12, drop=0.5), beat, power)
        scene.play(scene.hiss(60, 2500, 1, fade=0.07), beat, power)
        crackles = beat + 0.1 + scene.rng.exponential(0.3, int(40 * power))
        scene.play(scene.ring(2500, 0.002, (1, 1.7)), crackles, uniform(0.1, 0.4, len(crackles)) * power)


@_scene(0.3, 1)
def _rain(scene, x, y, r, rain, _, splash):
    """Streaks of rain in gusts, and drops that splash."""
    uniform, count = scene.rng.uniform, int(60 + 200 * scene.vigour)
    slant, speed = uniform(-0.5, 0.5), uniform(0.8, 1.8) * uniform(0.8, 1.2, count)
    start, falling = uniform(-0.3, scene.wide + 0.3, count), (uniform(size=count) + speed * scene.time[:, None]) % 1
    seen = 0.7 * (uniform(size=count) < 0.35 + 0.65 * _swell(scene.phase)[:, None])
    for y in (falling + step * 0.012 for step in range(int(3 + 4 * scene.bigness))):
        scene.specks(start + slant * y, y, seen, rain)
    drops = uniform(0, scene.seconds, int(5 * scene.seconds * uniform(0.3, 1)) + 1)
    for drop in drops:
        age = scene.time - drop
        puddle = 0.02 + 0.1 * np.clip(age, 0, 1)
        scene.disc(uniform(0, scene.wide), uniform(0.75, 1), puddle, splash, np.clip(0.8 - 3 * age, 0, 1) * (age >= 0))
    noise = scene.hiss(uniform(200, 1200), uniform(3000, 9000), uniform(0, 1))
    scene.sound += noise * (0.35 + 0.65 * _swell(scene.sample_phase))
    scene.play(scene.ring(scene.pitch(700, 2500), 0.02, drop=-0.5), drops, 3)


@_scene(0.5, 2.5)
def _siren(scene, x, y, r, light, base, lamp):
    """A light that flashes or turns with a tone that goes up and down."""
    glow = _swell(scene.phase)
    if scene.rng.integers(2):
        for turn in (np.pi * scene.phase, np.pi * scene.phase + np.pi):
            beam = x + (3 + 2 * scene.vigour) * r * np.cos(turn), y + 0.8 * r * np.sin(turn)
            scene.stroke((x, y), beam, (0.2 * r, r), light, 0.6)
    else:
        for halo in (2.6, 2, 1.5):
            scene.disc(x, y, halo * r * (0.8 + 0.4 * scene.vigour), light, 0.3 * glow)
    scene.stroke((x, y), (x, y + 0.8 * r), 0.75 * r, lamp)
    scene.stroke((x, y), (x, y + 0.8 * r), 0.7 * r, light, glow)
    scene.stroke((x, y + 0.8 * r), (x, y + 1.6 * r), (1.1 * r, 1.3 * r), base, flat=True)
    wave = 2 * _swell(scene.sample_phase) - 1
    wave = np.tanh(8 * wave) if scene.rng.uniform() < 0.3 else wave
    turns = np.cumsum(scene.pitch(350, 1600) * 2 ** (scene.rng.uniform(0.2, 0.6) * wave)) / SAMPLE_RATE
    scene.sound += sum(np.sin(2 * np.pi * k * turns) / k**2 for k in (1, 2, 3))


@_scene(0.3, 1)
def _waves(scene, x, y, r, *paints):
    """Waves that swell and hiss."""
    uniform, lift = scene.rng.uniform, (0.04 + 0.1 * scene.vigour) * _swell(scene.phase)[:, None, None]
    horizon = uniform(0.35, 0.7)
    for layer, colour in enumerate(paints):
        length, speed = uniform(0.25, 0.5) * (1 + scene.bigness), uniform(0.5, 1.5) * scene.side
        run = 2 * np.pi * (scene.columns / length - speed * scene.time[:, None, None]) + uniform(0, 6.3)
        crest = horizon + 0.15 * layer - lift - 0.025 * (1 + layer) * np.sin(run)
        scene.fill(crest - scene.rows, colour)
    loud = 0.1 + 0.9 * _swell(scene.sample_phase) ** 1.5
    scene.sound += scene.hiss(60, scene.pitch(300, 1500), 1) * loud
    scene.sound += scene.hiss(800, 6000, 1) * loud**2 * uniform(0.1, 0.6)


CLASSES = tuple(_SCENES)


def class_sentence(class_name: str) -> str:
    """What the clips of a class show.

    Example:
        ```python
        >>> class_sentence("drum")
        'A drum under two sticks.'

        ```
    """
    return _SCENES[class_name][0].__doc__ or ""


def render_clip(
    class_name: str,
    seed: int | Sequence[int],
    seconds: float = 3.0,
    size: tuple[int, int] = (160, 120),
    fps: int = 12,
) -> Rendered:
    """A clip of one of `CLASSES`; the same arguments give the same clip.

    Args:
        class_name: which.
        seed: a number, or the seed of a set and the number of the clip in it.
        seconds: how long it lasts, up to a frame.
        size: width and height.
        fps: frames a second.
    """
    if class_name not in _SCENES:
        raise ValueError(f"there is no class {class_name!r}: choose one of {', '.join(CLASSES)}")
    if not 0.5 <= seconds <= 60:
        raise ValueError(f"a clip must last between 0.5 and 60 seconds, got {seconds:g}")
    if not 4 <= fps <= 60:
        raise ValueError(f"a clip must have between 4 and 60 frames a second, got {fps}")
    if min(size) < 16 or any(side % 2 for side in size):
        raise ValueError(f"width and height must be even numbers of at least 16, got {size[0]}x{size[1]}")
    if np.min(seed) < 0:
        raise ValueError(f"a seed must be a whole number of at least 0, got {seed}")
    function, beats = _SCENES[class_name]
    # By the name and not by its place in CLASSES: a class more would change all others.
    rng = np.random.default_rng([zlib.crc32(class_name.encode()), *(int(part) for part in np.atleast_1d(seed))])
    scene = Scene(rng, seconds, size, fps)
    scene.set_beats(*beats)
    function(scene, scene.x, scene.y, scene.radius, *scene.paints)
    return Rendered(*scene.finish(), SAMPLE_RATE, fps)
