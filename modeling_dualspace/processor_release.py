"""The processor of a model or a data set that is released: whether others can load it, and what it makes of a probe."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import PROCESSOR_NAME

from .known_backbones import known_names
from .loading import is_public
from .model_card import CHECKED
from .processing_dualspace import MODALITIES, DualSubspaceProcessor
from .results import is_hub_id


def released_processor(folder: Path, spec: str | None, *, private: bool) -> DualSubspaceProcessor | None:
    """The processor in a folder, None where there is none; raises where others could not use it.

    Args:
        folder: of a model or a data set.
        spec: what made the features of either; None where nobody says.
        private: whether it goes where nobody else looks.
    """
    check_code(folder)
    if not (folder / PROCESSOR_NAME).is_file():
        return None
    try:
        processor = DualSubspaceProcessor.from_pretrained(folder)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / PROCESSOR_NAME} is no processor that can be loaded: {error}") from None
    if spec is not None and spec != processor.feature_spec:
        raise ValueError(
            f"{folder / PROCESSOR_NAME} makes features of {processor.feature_spec}, and what it lies beside has those "
            f"of {spec}: remove the file, or put the right one there."
        )
    for modality in MODALITIES:
        source = processor.source(modality)
        if source in known_names(modality):
            continue  # comes with the package, or can be converted by anybody: its hash says whether it is the same
        if not is_hub_id(source):
            raise ValueError(
                f"{folder / PROCESSOR_NAME} names a folder of this machine for its {modality} backbone, where nobody "
                f"else has it: bring that to the Hub (`hf upload me/network {source}`) and say so in the file "
                f'(`DualSubspaceProcessor.from_pretrained(F, {modality}="me/network").save_pretrained(F)`), or remove '
                "the file."
            )
        if not private and not is_public(source, "model"):
            raise ValueError(
                f"{folder / PROCESSOR_NAME} names {source}, which is not public: make it so, or pass --private."
            )
    return processor


def check_code(folder: Path) -> None:
    """Raises where a file says that code from elsewhere is to be run: a push tries what it declares."""
    for name in ("config.json", PROCESSOR_NAME):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            declared = [*dict(content.get("auto_map") or {}).values()]
            declared += [made_by["impl"] for made_by in dict(content.get("custom_pipelines") or {}).values()]
        except (OSError, LookupError, ValueError, AttributeError, TypeError):
            continue  # none there, or none that can be loaded: whoever needs it says so
        for entry in declared:
            module = str(entry).partition(".")[0]
            if not re.fullmatch(r"\w+\.\w+", str(entry)) or not (folder / f"{module}.py").is_file():
                raise ValueError(
                    f"{folder / name} says that {str(entry)!r} is to be run, which is no file beside it: save it again "
                    "by `save_pretrained`."
                )


def check_features(processor: DualSubspaceProcessor) -> dict[str, list[float]]:
    """The first features of a sound and a picture that anybody can make; `stranger` and the card have the same two."""
    sound = np.sin(np.arange(16_000) ** 1.5 / 5_000).astype(np.float32)
    picture = (np.arange(64 * 64 * 3) * 7 % 256).astype(np.uint8).reshape(64, 64, 3)
    made: Any = processor(audio=sound, sampling_rate=16_000, images=picture)
    return {name: [round(value, 4) for value in made[f"{name}_features"][0, :CHECKED].tolist()] for name in MODALITIES}
