"""Any audio, vision or video model of transformers as a backbone, by an id of the Hub or a folder."""

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .backbones import Array, Backbone, Modality, Steps
from .paper_networks import network_of, own_settings, with_settings
from .transformers_models import (
    INPUTS,
    Place,
    Tower,
    check_covered,
    check_sees,
    config_hash,
    find,
    first_line,
    load_model,
    model_class,
    part_seen,
    quiet,
    weights_hash,
)
from .transformers_processors import fits, frame_processor, processor_constants, sound_processor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SECONDS = 10  # of a unit, where a model takes sound of any length, or frames spread over any length
# How fast video models saw their frames in training. VideoMAE takes every fourth frame of Kinetics at about 30 a
# second; V-JEPA 2 is trained at 4 a second; TimeSformer takes every 32nd frame.
FRAMES_A_SECOND = {"videomae": 8, "vjepa2": 4, "timesformer": 1}
OTHER_VIDEO = 8
LONGEST = 16  # times the shorter edge: what lies beyond is cut off before a crop of the middle


def transformers_backbone(
    modality: Modality,
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    fps: float | None = None,
    steps: Steps | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Backbone:
    """A model of transformers as a backbone.

    The vector is the model's own in the space it shares with text where it has one (CLIP, SigLIP, CLAP, PE-AV), else
    its pooled output where the checkpoint holds a trained one, else the mean of its last hidden state over what is no
    padding. Text towers and decoders are dropped. Weights are read from safetensors alone, and code out of a
    repository is never run.

    Args:
        modality: "audio" or "visual".
        source: a folder that `save_pretrained` wrote, with the file of its processor, or an id of the Hub.
        revision: a branch, a tag or a commit on the Hub.
        device: where it runs, as "cpu" or "cuda"; by default the accelerator of this machine if it has one.
        dtype: "float32", "float16" or "bfloat16" for the network; float32 unless asked otherwise, whatever the
            checkpoint is stored in. Sound and frames are prepared in float32 always.
        fps: frames a second, in place of 1 for images and of what a video model was trained on.
        steps: how tracks are cut, in place of units that follow each other: as long as the model takes (sound of any
            length: 10 seconds), one image, or as many frames as its configuration says.
        settings: of a network of ours (`paper_networks`), in place of those it was saved with.

    Raises:
        ValueError: in one sentence, whatever keeps the model from being used.

    Example:
        ```python
        clap = transformers_backbone("audio", "laion/clap-htsat-unfused", device="cuda")
        unit = [clap.prepare(samples)]  # at most ten seconds at clap.steps.rate
        clap.embed([unit])  # (1, 512)
        ```
    """
    where, precision = _device(device), _dtype(dtype)
    with quiet():
        place, config = find(source, revision)
        kind = model_class(place, config)
        check_sees(place, config, kind, modality)
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0  # masked autoencoders hide patches at random, also where nobody trains
        processor, said = sound_processor(place) if modality == "audio" else frame_processor(place)
        try:
            config, processor = with_settings(config, processor, settings or {})
        except ValueError as error:
            raise ValueError(f"Of `{place.source}`, {error}") from error
        name = network_of(config) or config.model_type.replace("_", "-")
        config, kind = part_seen(config, kind, modality)
        model, missing = load_model(place, config, kind)
        tower = Tower(model, modality)
        tower.pooler_trained = not check_covered(place, tower, missing)
        weights = weights_hash(tower, missing)
        if hasattr(tower.model, "for_inference"):
            tower.float().model.for_inference()  # what is folded in half precision is rounded twice
        tower.to(where, precision or torch.float32)
        make = _SoundBackbone if modality == "audio" else _FrameBackbone
        backbone = make(tower, processor, config, said, fps, steps)
        backbone.name, backbone.weights, backbone.place = name, weights, place
        backbone.source, backbone.revision = place.source, place.revision
        backbone.prepares = said | processor.to_dict()
        try:
            backbone.width = backbone.probe()
        except Exception as error:
            raise ValueError(
                f"`{place.source}` makes no vector out of a unit of {backbone.steps}: {first_line(error)}"
            ) from error
    return backbone


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"The device {str(device)!r} cannot be used here: {first_line(error)}") from error


def _dtype(dtype: str | None) -> torch.dtype | None:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"A dtype is {', '.join(map(repr, DTYPES))} or None, not {dtype!r}.")
    return DTYPES[dtype] if dtype else None


class _TransformersBackbone(Backbone):
    """What is the same for sound and frames.

    `place` is where the network was found, and `prepares` what prepares its input, as a file has it.
    """

    place: Place
    prepares: dict[str, Any]

    def __init__(self, tower: Tower, processor: Any, config: Any):
        self.tower, self.processor = tower.requires_grad_(False).eval(), processor
        self._config = own_settings(config) if network_of(config) else config_hash(config)
        reference = next(tower.parameters())
        self.device, self._dtype = reference.device, reference.dtype

    @property
    def constants(self) -> dict[str, Any]:
        """The preprocessor, the configuration and the way of pooling."""
        return {
            **({} if self._dtype == torch.float32 else {"dtype": str(self._dtype).removeprefix("torch.")}),
            "model": self.tower.architecture,
            "config": self._config,
            "pooling": self.tower.pooling,
            "processor": processor_constants(self.processor),
        }

    def probe(self) -> int:
        """How wide the vectors are, found by trying."""
        raise NotImplementedError

    def unit(self, pieces: Sequence[Any]) -> dict[str, Array]:
        """What was prepared of a unit's pieces, as one row of a batch."""
        raise NotImplementedError

    def embed(self, units: Sequence[Sequence[Any]]) -> Array:
        """Units of one shape go through the network together; nothing is padded to fit its neighbours."""
        rows = [self.unit(pieces) for pieces in units]
        alike: dict[tuple, list[int]] = {}
        for index, row in enumerate(rows):
            alike.setdefault(tuple((name, value.shape) for name, value in sorted(row.items())), []).append(index)
        vectors: list[Array | None] = [None] * len(rows)
        for members in alike.values():
            batch = {name: np.stack([rows[index][name] for index in members]) for name in rows[members[0]]}
            # A GPU would round what goes into convolutions to ten bits otherwise, and call that float32.
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                made = self.tower(**{name: self._tensor(value) for name, value in batch.items()})
            for index, vector in zip(members, made.cpu().numpy(), strict=True):
                vectors[index] = vector
        return np.stack(vectors) if vectors else np.zeros((0, self.width), np.float32)  # type: ignore[arg-type]

    def _tensor(self, value: Array) -> torch.Tensor:
        tensor = torch.from_numpy(value)
        return tensor.to(self.device, self._dtype if tensor.is_floating_point() else None)


class _SoundBackbone(_TransformersBackbone):
    modality = "audio"

    def __init__(self, tower: Tower, processor: Any, config: Any, settings: Any, fps: Any, steps: Steps | None):
        super().__init__(tower, processor, config)
        if fps is not None:
            raise ValueError(f"`fps={fps}` is for pictures: sound has the rate of its model's feature extractor.")
        rate = processor.sampling_rate
        # CLAP and Whisper fill up whatever is shorter than what they take, AST whatever is no shorter than one window.
        own = most = getattr(processor, "nb_max_samples", None) or getattr(processor, "n_samples", None)
        cut = getattr(processor, "steps", None)  # ours say so themselves, and fill up what is too short
        own = most = cut.length if cut else most
        if type(processor).__name__ == "ASTFeatureExtractor":
            most = processor.max_length * rate // 100  # it counts frames, of 10 ms
        self._shortest = 1 if own else rate // 10
        takes = inspect.signature(processor.__call__).parameters
        # Padding is told apart where the extractor pads; elsewhere it knows itself whether the model wants a mask.
        self._asked = {"return_attention_mask": True} if own and "return_attention_mask" in takes else {}
        length = int(most or SECONDS * rate)
        self.steps = steps or cut or Steps(rate=rate, length=length, hop=length)
        if self.steps.rate != rate or (most and self.steps.length > most):
            raise ValueError(
                f"The model takes sound at {rate} samples a second{f', at most {most} of them' if most else ''}: got "
                f"{self.steps}."
            )

    @property
    def constants(self) -> dict[str, Any]:
        return {**super().constants, "shortest": self._shortest}

    def prepare(self, piece: Array) -> dict[str, Array]:
        sound = np.asarray(piece, np.float32)
        if sound.ndim != 1 or not 0 < len(sound) <= self.steps.length:
            raise ValueError(f"A unit of sound is 1 to {self.steps.length} samples in one row: got {sound.shape}.")
        if len(sound) < self._shortest:  # less than one window of most models
            sound = np.pad(sound, (0, self._shortest - len(sound)))
        made = self.processor(sound, sampling_rate=self.steps.rate, return_tensors="np", **self._asked)
        made = {name: fits(value)[0] for name, value in made.items()}
        if "is_longer" in made:
            # The extractor of CLAP calls one clip of a batch longer by lot; none is, for a unit is cut to fit.
            made["is_longer"] = np.zeros_like(made["is_longer"])
        return made

    def unit(self, pieces: Sequence[Any]) -> dict[str, Array]:
        (piece,) = pieces
        return piece

    def probe(self) -> int:
        return self.embed([[self.prepare(np.zeros(min(int(self.steps.rate), self.steps.length), np.float32))]]).shape[1]


class _FrameBackbone(_TransformersBackbone):
    modality = "visual"

    def __init__(self, tower: Tower, processor: Any, config: Any, settings: Any, fps: Any, steps: Steps | None):
        super().__init__(tower, processor, config)
        frames = _frames(config, settings)
        self._video = frames is not None or "pixel_values_videos" in tower.takes
        count = frames or (16 if self._video else 1)
        if fps is not None and steps is not None:
            raise ValueError(f"`fps={fps}` and `steps={steps}` both say the rate: give one of them.")
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"`fps` is a positive number of frames a second, not {fps}.")
        rate = fps or (_rate(config, settings, count) if self._video else 1)
        self.steps = steps or Steps(rate=rate, length=count, hop=count)
        if not self._video and self.steps.length != 1:
            raise ValueError(f"The model takes single images, so a unit is 1 frame long: got {self.steps}.")
        self._input = next(name for name in sorted(INPUTS["visual"], reverse=True) if name in tower.takes)
        size = getattr(processor, "size", None)
        self._cut = bool(getattr(size, "shortest_edge", None) and getattr(processor, "do_center_crop", False))

    @property
    def constants(self) -> dict[str, Any]:
        return {**super().constants, **({"longest": LONGEST} if self._cut else {})}

    def prepare(self, piece: Array) -> dict[str, Array]:
        frame = np.asarray(piece)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise ValueError(f"A frame is (height, width, 3) of uint8: got {frame.shape} of {frame.dtype}.")
        if self._cut:
            frame = _middle(frame)
        made = self.processor([frame], return_tensors="np", input_data_format="channels_last")
        if self._video:
            pixels = fits(made.get("pixel_values"))
            return {self._input: pixels.reshape(pixels.shape[-3:])}
        return {name: fits(value)[0] for name, value in made.items()}

    def unit(self, pieces: Sequence[Any]) -> dict[str, Array]:
        if len(pieces) != self.steps.length:
            raise ValueError(f"A unit is {self.steps.length} frames: got {len(pieces)}.")
        return {name: np.stack([each[name] for each in pieces]) for name in pieces[0]} if self._video else pieces[0]

    def probe(self) -> int:
        return self.embed([[self.prepare(np.zeros((64, 64, 3), np.uint8))] * self.steps.length]).shape[1]


def _frames(config: Any, settings: Any) -> int | None:
    """How many frames a video model takes at once, by its processor or its configuration; None for images."""
    if settings.get("num_frames"):
        return int(settings["num_frames"])
    for part in (config, *(getattr(config, name, None) for name in ("vision_config", "video_config"))):
        for name in ("num_frames", "frames_per_clip"):
            if getattr(part, name, None):
                return int(getattr(part, name))
    return None


def _rate(config: Any, settings: Any, frames: int) -> float:
    if settings.get("fps"):
        return float(settings["fps"])
    if config.model_type in ("pe_video", "pe_video_encoder"):  # its frames are spread evenly over a whole clip
        return frames / SECONDS
    return FRAMES_A_SECOND.get(config.model_type, OTHER_VIDEO)


def _middle(frame: Array) -> Array:
    """A frame without its far ends: resized to the shorter edge, 3 x 4000 pixels would become 224 x 298667."""
    height, width, _ = frame.shape
    most = LONGEST * min(height, width)
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return frame[top : top + min(height, most), left : left + min(width, most)]
