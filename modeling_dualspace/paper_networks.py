"""The networks that the paper and those before it took their features from, as models of transformers.

Importing this registers them with `AutoConfig`, `AutoModel` and `AutoFeatureExtractor`. Their published checkpoints are
converted once (`dualspace convert`); what was converted is found here by its name.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig

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
    AutoConfig.register(_network.config.model_type, _network.config, exist_ok=True)  # type: ignore[attr-defined]
    AutoModel.register(_network.config, _network.model, exist_ok=True)
    if _network.extractor is not None:
        AutoFeatureExtractor.register(_network.config, _network.extractor, exist_ok=True)


def converted(name: str) -> Path:
    """Where `dualspace convert` puts a network unless it is told otherwise: among the assets of the Hub's cache."""
    return Path(constants.HF_ASSETS_CACHE) / "dualspace" / "backbones" / name


def find_converted(name: str) -> Path:
    """The folder of a network that was converted before."""
    folder = converted(name)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"its weights are not on this machine: get a published checkpoint (training/README says where) and run "
            f"`dualspace convert {name} FILE`, or give the folder of one that was converted elsewhere."
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
    if name is None and settings:
        raise ValueError(f"it has no settings of its own, so `{next(iter(settings))}` cannot be set.")
    own = own_settings(config) if name else {}
    prepares = {key for key in processor.to_dict() if not key.endswith("_type")}
    prepares = set(PILLOW_TAKES) if name and NETWORKS[name].modality == "visual" else prepares
    for key in sorted(settings.keys() - own.keys() - prepares):
        close = difflib.get_close_matches(key, [*own, *prepares], n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"it has {', '.join(sorted([*own, *prepares]))}."
        raise ValueError(f"there is no setting `{key}`: {hint}")
    changed = {key: value for key, value in settings.items() if key in prepares}
    try:
        if given := {key: value for key, value in settings.items() if key in own}:
            config = type(config).from_dict(config.to_dict() | given)
        if changed:
            # The constants of one front end mean nothing to another.
            before = {} if "front_end" in changed else processor.to_dict()
            kept = {key: value for key, value in before.items() if not key.endswith("_type")}
            processor = type(processor)(**(kept | changed))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"its settings cannot be used: {' '.join(str(error.__cause__ or error).split())}") from error
    return config, processor
