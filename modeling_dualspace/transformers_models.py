"""A model of transformers from a folder or the Hub: its configuration, its weights, and the tower that is kept."""

import hashlib
import inspect
import io
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import constants, resolve_revision
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from transformers import MODEL_MAPPING, AutoConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging as of_transformers

REPOSITORY_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
INPUTS = {"audio": {"input_values", "input_features"}, "visual": {"pixel_values", "pixel_values_videos"}}
SEES = {"audio": "sound", "visual": "pictures"}
MASKS = ("attention_mask", "padding_mask", "pixel_attention_mask")
# PE-AV's released classes, and the modality they see.
PERCEPTION = {"pe_audio": "audio", "pe_video": "video"}
# In a configuration or a preprocessor, but no reason for another vector.
INCIDENTAL = {
    "architectures", "auto_map", "data_format", "device", "disable_grouping", "dtype", "feature_extractor_type",
    "id2label", "image_processor_type", "input_data_format", "label2id", "name_or_path", "processor_class",
    "return_tensors", "text_config", "torch_dtype", "transformers_version",
}  # fmt: skip


class Place(NamedTuple):
    """A folder, or a repository of the Hub at one commit."""

    source: str
    path: str
    revision: str | None = None

    @property
    def at(self) -> dict[str, Any]:
        """How everything is read from here."""
        return {"revision": self.revision} if self.revision else {}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and the reports of transformers."""
    verbosity, bars = of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        # Making a PE-AV video model prints that its docstring is incomplete; AST's mel filters warn at every load.
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        of_transformers.set_verbosity(verbosity)
        if bars:
            of_transformers.enable_progress_bar()


def find(source: str | os.PathLike, revision: str | None) -> tuple[Place, Any]:
    """Where a model lies, and its configuration."""
    source = os.fspath(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"`{source}` is a folder, which has no revision {revision!r}: leave `revision` out.")
        if not (folder / "config.json").is_file():
            raise ValueError(f"`{source}` holds no config.json: give a folder that `save_pretrained` wrote.")
        place = Place(str(folder.resolve()), str(folder))  # a processor is loaded wherever one works
    elif folder.is_file():
        raise ValueError(
            f"`{source}` is a file: a published checkpoint is converted first, `dualspace convert NETWORK FILE`."
        )
    elif REPOSITORY_ID.fullmatch(source):
        place = Place(source, source, revision)
    else:
        raise ValueError(f"`{source}` is neither a folder nor an id of the Hub, which reads like `name/model`.")
    try:
        if not folder.is_dir():  # all files of one commit, whatever is pushed meanwhile
            found = resolve_revision(source, revision=revision, local_files_only=constants.HF_HUB_OFFLINE)
            place = place._replace(revision=found.resolved)
        config = AutoConfig.from_pretrained(place.path, trust_remote_code=False, **place.at)
    except Exception as error:
        raise ValueError(_why_not(place, revision, error)) from error
    if getattr(config, "model_args", None):  # timm would be told from where to unpickle
        raise ValueError(f"`{source}` hands `model_args` to another library, which may load anything: take another.")
    return place, config


def _why_not(place: Place, revision: str | None, error: BaseException) -> str:
    """One sentence about a configuration that could not be read."""
    name = f"`{place.source}`"
    at = f" at revision {revision!r}" if revision else ""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if any_is(GatedRepoError):
        return f"{name} is gated: ask for access on its page on the Hub and log in with `hf auth login`."
    if any_is(RevisionNotFoundError):
        return f"{name} has no revision {revision!r} on the Hub: give a branch, a tag or a commit of it."
    if any_is(OfflineModeIsEnabled, LocalEntryNotFoundError, RevisionResolutionError):
        return (
            f"{name} is no folder, and as an id{at} it is neither in the cache nor can the Hub be reached: "
            "go online (and unset HF_HUB_OFFLINE), or give a folder."
        )
    if any_is(RepositoryNotFoundError, HFValidationError):
        return f"{name} is neither a folder nor a model on the Hub: mind the spelling, or log in with `hf auth login`."
    if any_is(HfHubHTTPError):
        return f"The Hub does not give {name}: {first_line(error)}"
    if any_is(KeyError) or "model_type" in str(error) or "custom code" in str(error):
        return (
            f"{name} has a config.json that names no model which transformers {transformers.__version__} has itself, "
            "and code out of a repository is never run: choose another model, or update transformers."
        )
    return f"The config.json of {name} cannot be used: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """What an error says first, as the end of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:") + "."


def model_class(place: Place, config: Any) -> Any:
    """The class that `AutoModel` takes, or one it lacks: a tower by itself, or one with its projection."""
    named = next(iter(getattr(config, "architectures", None) or []), "")
    declared = getattr(transformers, named, None) if named.isidentifier() else None
    own = inspect.isclass(declared) and getattr(declared, "config_class", None) is type(config)
    known = MODEL_MAPPING[type(config)] if type(config) in MODEL_MAPPING else None
    if own and (known is None or named.endswith("WithProjection")):
        return declared
    if known is None:
        raise ValueError(
            f"`{place.source}` is of the type {config.model_type!r}, for which transformers has no bare model: "
            "choose another."
        )
    return known[0] if isinstance(known, tuple) else known


def check_sees(place: Place, config: Any, kind: Any, modality: str) -> None:
    """Refuses a model that has no tower for the modality."""
    if modality not in INPUTS:
        raise ValueError(f"A modality is 'audio' or 'visual', not {modality!r}.")
    takes = set(inspect.signature(kind.forward).parameters)
    able = [name for name, inputs in INPUTS.items() if inputs & takes]
    if modality in able:
        return
    what = f"`{place.source}` ({config.model_type})"
    if not able:
        raise ValueError(f"{what} takes neither sound nor pictures: choose a model of audio, images or video.")
    raise ValueError(
        f"{what} takes {SEES[able[0]]}, not {SEES[modality]}: use it for {able[0]!r}, or choose another for "
        f"{modality!r}."
    )


def part_seen(config: Any, kind: Any, modality: str) -> tuple[Any, Any]:
    """The configuration and the class of the one tower to load, where one checkpoint holds several models.

    Their text tower and the other modality are then never read, nor is timm needed for the sound of PE-AV.
    """
    if config.model_type != "pe_audio_video":
        return config, kind
    part = config.audio_config if modality == "audio" else config.video_config
    return part, MODEL_MAPPING[type(part)]


def load_model(place: Place, config: Any, kind: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model in its checkpoint's own precision, and those of its tensors that the checkpoint does not hold."""
    try:
        model, report = kind.from_pretrained(
            place.path, config=config, dtype="auto", use_safetensors=True, output_loading_info=True, **place.at
        )
    except ImportError as error:
        raise ValueError(f"`{place.source}` needs a package that is not installed: {first_line(error)}") from error
    except Exception as error:
        if isinstance(error, OSError) and "safetensors" in str(error):
            raise ValueError(
                f"`{place.source}` has no model.safetensors, and pickled weights are never read: save the model again "
                "with transformers 5, or take a revision that has safetensors."
            ) from error
        lead = "cannot be read" if isinstance(error, OSError) else "do not fit its config.json"
        raise ValueError(f"The weights of `{place.source}` {lead}: {first_line(error)}") from error
    tensors = model.state_dict(keep_vars=True)
    return model.eval(), {name: tensors[name] for name in report["missing_keys"] if name in tensors}


def check_covered(place: Place, kept: torch.nn.Module, missing: Mapping[str, torch.Tensor]) -> bool:
    """Refuses random weights in the part that is kept; whether its pooler is one that nobody trained."""
    used = {id(tensor) for tensor in kept.state_dict(keep_vars=True).values()}
    absent = sorted(name for name, tensor in missing.items() if id(tensor) in used and not _never_used(name))
    lacking = [name for name in absent if not re.search(r"(^|\.)pooler\.", name)]
    if lacking:
        raise ValueError(
            f"The weights of `{place.source}` do not cover the model: {len(lacking)} tensors are missing, as "
            f"`{lacking[0]}`, and would be random; give the folder or the id of the whole checkpoint."
        )
    return bool(absent)


def _never_used(name: str) -> bool:
    return name.rpartition(".")[2] == "masked_spec_embed"  # wav2vec2 puts it over masked time, in training alone


def weights_hash(kept: torch.nn.Module, missing: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, types, shapes and bytes of the tensors that are kept and trained."""
    untrained = {id(tensor) for tensor in missing.values()}
    whole = hashlib.sha256()
    for name, tensor in sorted(kept.state_dict(keep_vars=True).items()):
        if id(tensor) in untrained or _never_used(name) or name.endswith("num_batches_tracked"):
            continue
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()[:16]


def config_hash(config: Any) -> str:
    """A hash of what a configuration says beyond the defaults, without labels, text tower, versions and paths."""
    text = json.dumps(essential(config.to_diff_dict()), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def essential(value: Any) -> Any:
    """What is left of a configuration without what is incidental."""
    if isinstance(value, Mapping):
        kept = {str(key): each for key, each in value.items() if str(key) not in INCIDENTAL and str(key)[:1] != "_"}
        return {key: essential(each) for key, each in kept.items() if each is not None}
    return [essential(each) for each in value] if isinstance(value, list | tuple) else value


class _PerceptionTower(torch.nn.Module):
    """One modality of PE-AV with its head into the joint space, for which the released classes have no call."""

    def __init__(self, encoder: torch.nn.Module, head: torch.nn.Module, *, frame_level: bool):
        super().__init__()
        self.encoder, self.head, self.frame_level = encoder, head, frame_level

    def forward(self, **inputs: torch.Tensor) -> BaseModelOutputWithPooling:
        output = self.encoder(**inputs)
        if self.frame_level:  # trained frame by frame: its class token has no place in the joint space
            return BaseModelOutputWithPooling(last_hidden_state=self.head(output.last_hidden_state))
        return BaseModelOutputWithPooling(pooler_output=self.head(output.pooler_output))


class Tower(torch.nn.Module):
    """The part of a model that sees one modality, and the one call that makes vectors of it."""

    def __init__(self, model: Any, modality: str):
        super().__init__()
        self.architecture, self.call, self.pooling = type(model).__name__, "forward", ""
        self.pooler_trained = True
        named = next(iter(model.config.architectures or []), "")
        if what := PERCEPTION.get(model.config.model_type):
            self.architecture = named if named == "PeAudioFrameLevelModel" else self.architecture
            encoder, head = getattr(model, f"{what}_encoder"), getattr(model, f"{what}_head")
            self.model: Any = _PerceptionTower(encoder, head, frame_level="FrameLevel" in self.architecture)
            self.takes = set(inspect.signature(encoder.forward).parameters)
            return
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        joint = ["get_audio_features"] if modality == "audio" else ["get_video_features", "get_image_features"]
        self.call = next((name for name in joint if hasattr(model, name)), "forward")
        self.takes = set(inspect.signature(getattr(model, self.call)).parameters)
        for name in [*model._modules, *model._parameters]:
            unused = self.call != "forward" and re.match("text|logit_|prompts", name)  # prompts: XCLIP's text, too
            if unused or (name == "predictor" and "skip_predictor" in self.takes):
                setattr(model, name, None)
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The vectors (units, width), float32."""
        given: dict[str, Any] = {name: value for name, value in inputs.items() if name in self.takes}
        if "skip_predictor" in self.takes:
            given["skip_predictor"] = True  # V-JEPA 2's features are the encoder's, not what is predicted out of them
        call = self.model if self.call == "forward" else getattr(self.model, self.call)
        output = call(**given)
        field, value = ("", output) if isinstance(output, torch.Tensor) else self._field(output)
        if field == "last_hidden_state":
            mask = next((inputs[name] for name in MASKS if name in inputs), None)
            value = _mean_over_tokens(value.float(), mask)
        elif value.ndim > 2 and value.shape[2:].numel() == 1:
            value = value.flatten(1)
        if value.ndim != 2:
            raise ValueError(f"{self.architecture} gives {tuple(value.shape)} and not one vector a unit.")
        self.pooling = ", ".join(name for name in (self.call, field) if name)
        return value.float()

    def _field(self, output: Any) -> tuple[str, torch.Tensor]:
        usable = ["audio_embeds", "image_embeds", "video_embeds"]
        usable += ["pooler_output"] if self.pooler_trained else []
        for name in [*usable, "last_hidden_state"]:
            value = getattr(output, name, None)
            if isinstance(value, torch.Tensor):
                return name, value
        raise ValueError(f"{self.architecture} gives neither a pooled output nor a last hidden state.")


def _mean_over_tokens(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mean over tokens (units, tokens, width), or over a map (units, width, height, width of the map).

    A mask of another length than the tokens is one of what they were made from, as samples or spectrogram frames: the
    same share of the tokens, rounded up, is no padding. All padding is at the end.
    """
    if hidden.ndim == 4:
        return hidden.flatten(2).mean(-1)
    if mask is None or hidden.ndim != 3:
        return hidden.mean(1)
    tokens = hidden.shape[1]
    count = ((mask.long().sum(1) * tokens + mask.shape[1] - 1) // mask.shape[1]).clamp(min=1)
    real = (torch.arange(tokens, device=hidden.device) < count[:, None]).unsqueeze(-1)
    return hidden.where(real, 0).sum(1) / count[:, None].to(hidden.dtype)
