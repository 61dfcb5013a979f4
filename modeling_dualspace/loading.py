"""What a person names, by its folder or by its id on the Hub: a model that embeds both modalities, a data set."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel
from transformers.utils import PROCESSOR_NAME
from yaml import YAMLError

from .arrow_tensors import arrow_view, declared_widths
from .feature_dataset import dataset_fingerprint
from .feature_schema import MODALITIES, Description
from .processing_dualspace import DualSubspaceProcessor
from .results import is_hub_id, model_folder

logger = logging.getLogger(__name__)


def load_model(path: str, *, trust_remote_code: bool = False) -> nn.Module:
    """A model that embeds both modalities: a folder of `save_pretrained`, a run folder, or an id of the Hub."""
    folder = model_folder(path) if path else None
    if folder is None and not is_hub_id(path):
        raise ValueError(
            f"{path or 'An empty name'} holds no model: expected a folder that `save_pretrained` wrote (with "
            "config.json), a run folder with model/ in it, or an id of the Hub like me/dualspace-vegas. (MODEL comes "
            "first, then DATA.)"
        )
    try:
        model, found = AutoModel.from_pretrained(
            folder or path, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"The weights in {folder or path} cannot be read ({error}): copy them again.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(_why_not_loaded(path, folder, error)) from None
    check_model(model, path)
    if found["missing_keys"]:
        names = ", ".join(sorted(found["missing_keys"])[:3])
        raise ValueError(f"{folder or path} lacks {len(found['missing_keys'])} weights ({names} ...): save it again.")
    if not getattr(model, "fitted", True):
        raise ValueError(
            f"The model in {folder or path} is not fitted yet, so it has no common space: call "
            "`model.finish(batches)` with the training batches, and save it again."
        )
    return model.eval()


def _why_not_loaded(path: str, folder: Path | None, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"{path} brings code of its own: if you trust it, `dualspace evaluate` takes --trust-remote-code."
    if "size" in text and "mismatch" in text:
        return f"The weights in {folder or path} are of other sizes than its config.json says: save it again."
    if folder is None:
        return f"{path} is no folder here, and could not be had from the Hub as a model: {text}"
    return f"{folder}: {text}"


def check_model(model: Any, name: str) -> None:
    """Raises unless it can embed both modalities."""
    missing = [method for method in ("get_audio_embeds", "get_visual_embeds") if not hasattr(model, method)]
    if missing:
        raise TypeError(
            f"{name} is a {type(model).__name__} without {' and '.join(missing)}, so it cannot be evaluated: expected "
            "a model like DualSubspaceModel, with both."
        )


def find_processor(spec: str | None, *places: tuple[str, str]) -> DualSubspaceProcessor | None:
    """The processor that makes features of a `feature_spec`; None where no place has one.

    Args:
        spec: what made the features.
        places: folders and ids of the Hub, each with what it is there: `dataset` or `model`.
    """
    for name, kind in places if spec else ():
        folder = Path(name) if kind == "dataset" else model_folder(name) or Path(name)
        try:
            file = folder / PROCESSOR_NAME
            if not file.is_file() and is_hub_id(name):
                file = Path(hf_hub_download(name, PROCESSOR_NAME, repo_type=kind))
            processor = DualSubspaceProcessor.from_pretrained(file.parent) if file.is_file() else None
        except ValueError as error:
            logger.warning("The processor of %s is left out: %s", name, error)
            continue
        except (EntryNotFoundError, LocalEntryNotFoundError):
            continue
        except (HTTPError, OSError) as error:
            logger.warning("The processor of %s could not be had, and is left out: %s", name, error)
            continue
        if processor is not None and processor.feature_spec == spec:
            return processor
        if processor is not None:
            logger.warning("The processor of %s makes features of %s, and is left out.", name, processor.feature_spec)
    return None


def load_split(path: str, config: str | None, split: str) -> Dataset:
    """One split of a data set, by folder or by its id on the Hub."""
    return _load(path, config, split)


def load_splits(path: str, config: str | None) -> dict[str, Dataset]:
    """All splits of a data set, likewise."""
    return dict(_load(path, config, None))


def _load(path: str, config: str | None, split: str | None) -> Any:
    if not path or not (Path(path).is_dir() or is_hub_id(path)):
        # `datasets` would serve a folder that is gone from its cache.
        what = "is a file" if path and Path(path).is_file() else "is no folder here, and no id of the Hub"
        raise ValueError(
            f"{path or 'An empty name'} {what}: expected a data set's folder, as the builders of dataset_scripts write "
            "it, or an id of the Hub like me/vegas-features."
        )
    local = Path(path).is_dir()
    if local and not any(Path(path).iterdir()):
        raise ValueError(f"{path} is empty: expected a data set, as the builders of dataset_scripts write it.")
    try:
        return load_dataset(str(Path(path).resolve()) if local else path, config, split=split)
    except (DatasetsError, OSError, ValueError, YAMLError) as error:
        text = " ".join(str(error.__cause__ or error).split())
        what = f"The split {split!r} of {path}" if split else path
        raise ValueError(f"{what} cannot be loaded: {text}") from None


def find_split(data: Mapping[str, Any], split: str, places: Iterable[str]) -> tuple[str, Dataset]:
    """Where the data set of a result is, and the split that was scored; raises where it is not here as it was.

    Args:
        data: what the result says of it.
        split: of it.
        places: to look at, the best first.
    """
    config = None if data["config"] in (None, "default") else data["config"]
    reasons = []
    for place in dict.fromkeys(places):
        if not Path(place).exists() and not is_hub_id(place):
            reasons.append(f"the data set is not at {place}")
            continue
        try:
            found = load_split(place, config, split)
        except ValueError as error:
            reasons.append(str(error).removesuffix("."))
            continue
        if data["fingerprint"] == data_fingerprint(found, split):
            return place, found
        reasons.append(
            f"what is at {place} is not the one that was scored (its fingerprint is not {data['fingerprint']})"
        )
    raise ValueError(f"{'; '.join(reasons)}; --data says where it is.")


def is_public(repo_id: str, repo_type: str) -> bool:
    """Whether anybody sees a repository, as far as the Hub can be asked."""
    try:
        return not HfApi().repo_info(repo_id, repo_type=repo_type, token=False).private
    except (HTTPError, OSError, ValueError):
        return False


def check_fit(model: Any, model_id: str, data: Dataset, data_id: str) -> None:
    """Raises unless the features of the data are what the model takes, as far as both say."""
    widths = declared_widths(arrow_view(data)) or {}
    for name in MODALITIES:
        expected, came = getattr(model.config, name.replace("features", "dim"), None), widths.get(name)
        if expected and came and expected != came:
            raise ValueError(
                f"{model_id} takes {name.replace('_', ' ')} of width {expected}, and those of {data_id} are {came} "
                "wide: evaluate it on features like those it was trained on, or train a model on these."
            )
    spec, description = getattr(model.config, "feature_spec", None), Description.parse(data.info.description)
    made = description.feature_spec if description else spec
    if spec and spec != made:
        raise ValueError(
            f"{model_id} was trained on features of {spec}, and {data_id} holds {made}: extract the data anew, or, if "
            "they are the same under another name, correct `feature_spec` in the model's config.json."
        )


def data_fingerprint(data: Dataset, split: str) -> str:
    """What the card of a whole data set says; of a slice of a split, or of data without our card, found anew."""
    description = Description.parse(data.info.description)
    return description.fingerprint if description and "[" not in split else dataset_fingerprint({split: data})
