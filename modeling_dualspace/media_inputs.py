"""What people pass as films, sounds and pictures, in one form each."""

import os
from typing import Any

import numpy as np

from .backbones import Array
from .media import Limits, MediaError
from .optional import require

PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Not every kind that PIL knows: some are handed to other programs."""


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
    if is_path(value) or (hasattr(value, "convert") and many == 3):  # a path, or a picture of PIL
        return [value]
    axes = getattr(value, "ndim", None)
    if axes is not None:
        return _of_array(value, axes, many)
    try:
        values = list(value)
    except TypeError:
        raise ValueError(
            f"Expected paths or arrays, one or a list of them, got {type(value).__name__}"
            f"{': pictures go by `images`' if hasattr(value, 'convert') else ''}."
        ) from None
    if not values:
        raise ValueError("Nothing to look at or listen to: the list is empty.")
    first = values[0]
    if many == 1 and not is_path(first) and np.ndim(first) == 0:
        return [np.asarray(values)]
    if many == 4 and not is_path(first) and (hasattr(first, "convert") or getattr(first, "ndim", 0) == 3):
        return [values]  # the frames of one film
    if not (is_path(first) or hasattr(first, "convert") or hasattr(first, "__len__")):
        raise ValueError(f"Expected paths or arrays in the list, got {type(first).__name__}.")
    return values


def _of_array(value: Any, axes: int, many: int) -> list[Any]:
    shape = tuple(value.shape)
    if axes not in (many, many + 1):
        raise ValueError(f"Expected an array of {many} axes, or {many + 1} for several, got shape {shape}.")
    if 0 in shape:
        what = {1: "samples", 3: "pixels", 4: "frames"}[many]
        raise ValueError(f"Nothing to look at or listen to: got no {what}, an array of shape {shape}.")
    if many == 1 and axes == 2 and shape[1] <= 8 < shape[0]:
        raise ValueError(
            f"A sound is one row of samples, got shape {shape}, which looks like channels: average them by "
            "`.mean(axis=1)`."
        )
    return [value] if axes == many else list(value)


def as_samples(sound: Any) -> Array:
    """Mono, `(n,)` float32."""
    samples = np.asarray(sound)
    if not samples.size:
        raise ValueError("A sound has no samples: leave it out.")
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(
            f"A sound is one row of samples within -1 and 1, as floats, got {samples.dtype} of shape {samples.shape}: "
            "average channels, and divide whole numbers by their largest."
        )
    if not np.isfinite(samples).all() or np.abs(samples).max() > 2:
        raise ValueError(f"Samples must lie within -1 and 1, the largest is {np.abs(samples).max():g}.")
    return samples.astype(np.float32)


def as_pixels(image: Any, limits: Limits | None = None) -> Array:
    """RGB `(height, width, 3)` uint8, upright."""
    if is_path(image):
        pillow = require("PIL.Image", extra="media")
        try:
            _check_bytes(image, limits or Limits())
            with pillow.open(image, formats=PICTURES) as opened:
                return _converted(opened, image, limits or Limits())
        except MediaError:
            raise
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            raise MediaError(image, f"is no picture that can be read ({' '.join(str(error).split())})") from None
    if hasattr(image, "convert"):
        return _converted(image, "the picture", limits or Limits())
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            f"A picture is an array (height, width, 3) of uint8, RGB, got {pixels.dtype} of shape {pixels.shape}."
        )
    return pixels


def _check_bytes(image: Any, limits: Limits) -> None:
    size = os.stat(image).st_size
    if limits.bytes is not None and size > limits.bytes:
        raise MediaError(image, f"has {size:,} bytes, and the limit is {limits.bytes:,}")


def _converted(image: Any, name: Any, limits: Limits) -> Array:
    """The pixels of a picture of PIL: a telephone writes how it was held beside them."""
    width, height = image.size
    if limits.pixels is not None and width * height > limits.pixels:
        raise MediaError(name, f"has {width} x {height} pixels, and the limit is {limits.pixels:,} in all")
    upright = require("PIL.ImageOps", extra="media").exif_transpose(image)
    if upright.mode.startswith("I;16"):  # PIL would cut it off at 255
        grey = np.asarray(upright) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))
