"""How a model of transformers prepares sound and frames: by its own processor, or by Pillow with its constants."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, AutoImageProcessor
from transformers.utils import cached_file

from .transformers_models import SEES, Place, essential, first_line

logger = logging.getLogger(__name__)

# The files that may say how inputs are prepared, with the key of the part where one file holds several.
SETTINGS = {
    "audio": (
        ("processor_config.json", "feature_extractor"),
        ("processor_config.json", "audio_processor"),
        ("preprocessor_config.json", None),
    ),
    "visual": (
        ("processor_config.json", "image_processor"),
        ("preprocessor_config.json", None),
        ("processor_config.json", "video_processor"),
        ("video_preprocessor_config.json", None),
    ),
}
# Processors that exist for torchvision alone and do nothing beyond resizing, cropping, rescaling and normalising, all
# of them bilinear by default: Pillow does the same.
PLAIN = {
    "DINOv3ViTImageProcessor", "PeVideoVideoProcessor", "TimmWrapperImageProcessor", "VideoMAEVideoProcessor",
    "VJEPA2VideoProcessor",
}  # fmt: skip
PILLOW_TAKES = (
    "do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_rescale",
    "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb",
)  # fmt: skip


def settings_of(place: Place, modality: str) -> dict[str, Any]:
    """How the inputs are prepared, as the first file has it that says so."""
    for name, part in SETTINGS[modality]:
        found = cached_file(place.path, name, _raise_exceptions_for_missing_entries=False, **place.at)
        if found is None:
            continue
        try:
            settings = json.loads(Path(found).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"The {name} of `{place.source}` is no JSON: {first_line(error)}") from error
        settings = settings.get(part) if part else settings
        # In a repository of both modalities, preprocessor_config.json is the feature extractor's.
        if settings and ("sampling_rate" in settings) == (modality == "audio"):
            return settings
    if modality == "visual" and (settings := _settings_of_timm(place)):
        return settings
    files = " or ".join(dict.fromkeys(name for name, _ in SETTINGS[modality]))
    raise ValueError(
        f"`{place.source}` does not say how to prepare {SEES[modality]}: save its processor beside the model, which "
        f"writes {files}."
    )


def _settings_of_timm(place: Place) -> dict[str, Any] | None:
    """As a repository of timm has it, in its configuration: resized to a little more, and cut to the middle."""
    found = cached_file(place.path, "config.json", _raise_exceptions_for_missing_entries=False, **place.at)
    return pictures_of_timm(Path(found)) if found else None


def pictures_of_timm(file: Path) -> dict[str, Any] | None:
    """What such a configuration says of pictures; None where it is none, or says nothing that is understood here."""
    try:
        return _pictures_of_timm(json.loads(file.read_text(encoding="utf-8"))["pretrained_cfg"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def _pictures_of_timm(told: dict[str, Any]) -> dict[str, Any] | None:
    filters = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
    if told.get("crop_mode", "center") != "center" or told["interpolation"] not in filters:
        return None
    _, height, width = told["input_size"]
    return {
        "image_processor_type": "TimmWrapperImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": math.floor(min(height, width) / float(told.get("crop_pct", 0.875)))},
        "resample": filters[told["interpolation"]],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(told["mean"]),
        "image_std": list(told["std"]),
    }


def sound_processor(place: Place) -> tuple[Any, dict[str, Any]]:
    """The model's own feature extractor, and what its file says."""
    settings = settings_of(place, "audio")
    try:
        return AutoFeatureExtractor.from_pretrained(place.path, trust_remote_code=False, **place.at), settings
    except Exception as error:
        raise ValueError(f"The feature extractor of `{place.source}` cannot be used: {first_line(error)}") from error


def frame_processor(place: Place) -> tuple[Any, dict[str, Any]]:
    """The model's own image processor by Pillow, and what its file says.

    Pillow is preferred even where torchvision is installed, so that the same folder gives the same vectors on every
    machine.
    """
    settings = settings_of(place, "visual")
    try:
        from transformers.image_processing_backends import PilBackend

        own = AutoImageProcessor.from_pretrained(place.path, backend="pil", trust_remote_code=False, **place.at)
        if isinstance(own, PilBackend):
            return own, settings
        refusal: Exception | None = None
    except Exception as error:  # which one it is depends on what is missing: a class, a file, a package
        own, refusal = None, error
    declared = settings.get("image_processor_type") or settings.get("video_processor_type") or ""
    declared = declared.removesuffix("Fast")
    if declared not in PLAIN:
        if own is not None:
            return own, settings
        raise ValueError(
            f"`{declared or 'the image processor'}` of `{place.source}` cannot be used without torchvision: "
            f"{first_line(refusal) if refusal else 'choose another model.'}"
        ) from refusal
    constants = _for_pillow(place, declared, settings)
    logger.warning(
        "`%s` of `%s` exists for torchvision alone: Pillow prepares the frames in its place, with the same constants "
        "and other rounding.",
        declared,
        place.source,
    )
    return PilBackend(**constants), settings


def _for_pillow(place: Place, declared: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    constants = {name: settings[name] for name in PILLOW_TAKES if settings.get(name) is not None}
    needed = {"do_resize": "size", "do_center_crop": "crop_size", "do_normalize": "image_std", "do_rescale": None}
    for step, argument in needed.items():
        # What a file leaves out is a default of a class that cannot be imported here: only what is told is believed.
        told = step in settings or (step == "do_center_crop" and "crop_size" not in settings)
        if not told or (settings.get(step) and argument and argument not in constants):
            raise ValueError(
                f"The file of `{declared}` in `{place.source}` says nothing of `{step if not told else argument}`: "
                "add it, or save the processor again with transformers 5."
            )
    if declared == "VJEPA2VideoProcessor" and constants.get("do_center_crop"):
        crop = constants["crop_size"]
        edge = crop["height"] if isinstance(crop, Mapping) else crop
        constants["size"] = {"shortest_edge": int(edge * 256 / 224)}  # so the class does, whatever its file says
    return {"resample": 2, **constants}


def processor_constants(processor: Any) -> dict[str, Any]:
    """What a feature extractor or an image processor was made with; tables that follow from it are left out."""
    constants = {"class": type(processor).__name__}
    for name, value in essential(processor.to_dict()).items():
        try:
            value = json.loads(json.dumps(value))
        except (TypeError, ValueError):  # an array: a window, mel filters
            continue
        if len(json.dumps(value)) <= 1000:  # old checkpoints of Whisper carry their mel filters as lists
            constants[name] = value
    return constants


def fits(value: Any) -> np.ndarray:
    """What a processor made, as an array that numpy and torch share; halves and doubles become float32."""
    array = np.asarray(value)
    return np.ascontiguousarray(array, np.float32) if array.dtype.kind == "f" else np.ascontiguousarray(array)
