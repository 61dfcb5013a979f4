"""What people pass as films, sounds and pictures, in one form each."""

import os
from typing import Any

import numpy as np

from .backbones import Array
from .media import MediaError
from .optional import require


def is_path(value: Any) -> bool:
    """Whether it is the name of a file."""
    return isinstance(value, (str, os.PathLike))


def named(source: Any) -> str:
    """What to call it in a message."""
    return str(source) if is_path(source) else f"{type(source).__name__}"


def as_list(value: Any, many: int) -> list[Any]:
    """One or several as a list; an array with one axis more than a single one has is several.

    Args:
        value: what was passed; None is none.
        many: axes of a single one: of a film 4, of a picture 3, of a sound 1.
    """
    if value is None:
        return []
    if is_path(value) or hasattr(value, "convert"):  # a path, or a picture of PIL
        return [value]
    axes = getattr(value, "ndim", None)
    if axes is not None:
        if axes not in (many, many + 1):
            raise ValueError(
                f"Expected an array of {many} axes, or {many + 1} for several, got shape {tuple(value.shape)}."
            )
        return [value] if axes == many else list(value)
    values = list(value)
    if not values:
        raise ValueError("Nothing to look at or listen to: the list is empty.")
    if many == 1 and isinstance(values[0], (int, float)):
        return [np.asarray(values)]
    if many == 4 and not is_path(values[0]) and (hasattr(values[0], "convert") or getattr(values[0], "ndim", 0) == 3):
        return [values]  # the frames of one film
    return values


def as_samples(sound: Any) -> Array:
    """Mono, `(n,)` float32."""
    samples = np.asarray(sound)
    if samples.ndim != 1 or samples.dtype.kind != "f" or not len(samples):
        raise ValueError(
            f"A sound is one row of samples within -1 and 1, as floats, got {samples.dtype} of shape {samples.shape}: "
            "average channels, and divide whole numbers by their largest."
        )
    if not np.isfinite(samples).all() or np.abs(samples).max() > 2:
        raise ValueError(f"Samples must lie within -1 and 1, the largest is {np.abs(samples).max():g}.")
    return samples.astype(np.float32)


def as_pixels(image: Any) -> Array:
    """RGB `(height, width, 3)` uint8."""
    if is_path(image):
        pillow = require("PIL.Image", extra="media")
        try:
            with pillow.open(image) as opened:
                return np.asarray(opened.convert("RGB"))
        except (OSError, ValueError) as error:
            raise MediaError(image, f"is no picture that can be read ({error})") from None
    if hasattr(image, "convert"):
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            f"A picture is an array (height, width, 3) of uint8, RGB, got {pixels.dtype} of shape {pixels.shape}."
        )
    return pixels
