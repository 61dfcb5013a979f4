"""Films, sounds and pictures as the model's inputs: the processor that is saved beside a model."""

import difflib
import math
import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .backbones import Backbone, Modality
from .known_backbones import DEFAULTS, check_known, check_record, load_backbone, reload_backbone, versions
from .media import Film, Limits, MediaError
from .media_inputs import as_list, as_pixels, as_samples, is_path, named
from .optional import require
from .pooling import Owner, Pooling
from .units import Unit, filled, units

MODALITIES: tuple[Modality, ...] = ("audio", "visual")
_LOADING = threading.Lock()
_SETTINGS = ("limits", "batch_size", "device", "dtype")
"""What is not saved."""


class DualSubspaceProcessor(ProcessorMixin):
    """Media in, model inputs out: one vector of audio and one of visual features a clip.

    A clip's vector is the mean over its frames, and of its sound over stretches (the paper's equation (1) prints a mean
    over dimensions; its sizes mean frames). Which backbone makes the vectors, and by which constants, is saved with the
    processor; a network is loaded when it is first needed, and refused if it is not the one that was saved.

    Args:
        audio: a backbone, what `load_backbone` takes, or what was saved of one.
        visual: likewise.
        limits: of films that are opened.
        batch_size: units embedded at a time.
        device: where networks run; None takes the best there is.
        dtype: in which they compute.

    Example:
        ```python
        >>> processor = DualSubspaceProcessor()
        >>> sound = np.sin(np.arange(24_000, dtype=np.float32) / 9)
        >>> inputs = processor(audio=sound, sampling_rate=16_000, images=np.zeros((36, 64, 3), np.uint8))
        >>> inputs["audio_features"].shape, inputs["visual_features"].shape, inputs["feature_spec"][:13]
        (torch.Size([1, 128]), torch.Size([1, 1024]), 'audio=logmel@')

        ```
    """

    def __init__(
        self,
        audio: str | Backbone | Mapping[str, Any] = DEFAULTS["audio"],
        visual: str | Backbone | Mapping[str, Any] = DEFAULTS["visual"],
        limits: Limits | None = None,
        batch_size: int = 32,
        device: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__()
        self.auto_map: dict[str, str] | None = None  # filled in by whoever saves the code too
        self.limits, self.batch_size, self.device, self.dtype = limits, batch_size, device, dtype
        self._loaded: dict[Modality, Backbone] = {}
        self._records: dict[Modality, dict[str, Any]] = {}
        for modality, given in zip(MODALITIES, (audio, visual), strict=True):
            if isinstance(given, Mapping):
                self._records[modality] = check_record(modality, given)
                continue
            backbone = given
            if is_path(given):
                backbone = load_backbone(modality, str(given), device=device, dtype=dtype)
            if not isinstance(backbone, Backbone):
                raise ValueError(f"Expected a backbone or the name of one for {modality}, got {type(given).__name__}.")
            if backbone.modality != modality:
                raise ValueError(f"{backbone.name} makes {backbone.modality} features, not {modality} ones.")
            self._loaded[modality], self._records[modality] = backbone, backbone.record()

    def backbone(self, modality: Modality) -> Backbone:
        """The network of a modality, loaded now if it was not."""
        with _LOADING:  # threads that ask at once get one and the same
            if modality not in self._loaded:
                record = self._records[modality]
                self._loaded[modality] = reload_backbone(modality, record, device=self.device, dtype=self.dtype)
            return self._loaded[modality]

    def source(self, modality: Modality) -> str:
        """By what the backbone of a modality is loaded: its name, a folder, or an id of the Hub."""
        return str(self._records[modality]["source"])

    @property
    def feature_spec(self) -> str:
        """What made the features, as a model's config and a data set's card have it."""
        return " ".join(f"{modality}={self._records[modality]['spec']}" for modality in MODALITIES)

    @property
    def model_input_names(self) -> list[str]:
        """What a model takes of what comes out."""
        return ["audio_features", "visual_features"]

    def __call__(
        self,
        videos: Any = None,
        audio: Any = None,
        images: Any = None,
        *,
        sampling_rate: int | None = None,
        fps: float | None = None,
        modalities: Sequence[Modality] | None = None,
        return_frames: bool = False,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Features of films, or of sounds, of pictures, or of both.

        Args:
            videos: a film or several: paths, which are heard and seen, or rows of frames `(t, height, width, 3)` uint8,
                which are seen.
            audio: a sound or several: paths, or samples `(n,)` within -1 and 1, which need a `sampling_rate`; an array
                of two axes is several.
            images: a picture or several: paths, PIL images, or `(height, width, 3)` uint8.
            sampling_rate: samples a second of all sounds given as arrays.
            fps: frames a second of all films given as arrays; None says they are as many as the backbone takes.
            modalities: what to take of films; None takes both. `("visual",)` for films without sound.
            return_tensors: `pt`, or `np` for NumPy's arrays.
            return_frames: give `audio_frames` and `visual_frames` too: a list with the vectors `(t, d)` of each clip.

        Returns:
            `audio_features` `(n, d)` and `visual_features` `(n, d)`, as far as they were asked for, and `feature_spec`.
        """
        if videos is None and audio is None and images is None:
            raise ValueError("Nothing to look at or listen to: pass `videos`, `audio` or `images`.")
        if videos is not None and (audio is not None or images is not None):
            raise ValueError("A film has both its sound and its pictures: pass `videos`, or `audio` and `images`.")
        wanted = _wanted(modalities)
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f'`return_tensors` is "pt" or "np", got {return_tensors!r}.')
        if fps is not None and not 0.01 <= fps <= 1000:
            raise ValueError(f"`fps` is frames a second, .01 to 1000, got {fps}.")
        rows: dict[Modality, list[Any]] = {}
        if videos is not None:
            films = as_list(videos, 4)
            if modalities is not None and "audio" in wanted and not all(map(is_path, films)):
                raise ValueError("Rows of frames have no sound: pass files, or the sound by `audio`.")
            shown: tuple[Modality, ...] = wanted if all(map(is_path, films)) else ("visual",)
            rows = {modality: films for modality in shown}
            streams = [self._film(film, shown, fps) for film in films]
        else:
            sounds, pictures = as_list(audio, 1), as_list(images, 3)
            rows |= {"audio": sounds} if sounds else {}
            rows |= {"visual": pictures} if pictures else {}
            streams = [self._sound(one, sampling_rate) for one in sounds]
            streams += [self._image(one) for one in pictures]
        pooling = Pooling({modality: self.backbone(modality) for modality in rows}, self.batch_size, keep=return_frames)
        for number, stream in enumerate(streams):
            for unit in stream:
                pooling.add(number, unit)
        pooling.flush()
        inputs = self._inputs(pooling, rows, return_frames, together=videos is not None)
        return _as_numpy(inputs) if return_tensors == "np" else inputs

    def _inputs(
        self, pooling: Pooling, rows: Mapping[Modality, list[Any]], return_frames: bool, *, together: bool
    ) -> BatchFeature:
        """The vectors of what was asked for, row by row."""
        data: dict[str, Any] = {}
        first = 0
        for modality, given in rows.items():
            owners: list[Owner] = [(first + number, 0) for number in range(len(given))]
            first += 0 if together else len(given)
            found = [pooling.mean(owner, modality) for owner in owners]
            for source, vector in zip(given, found, strict=True):
                if vector is None:
                    what, other = ("sound", "visual") if modality == "audio" else ("picture", "audio")
                    hint = f': for the rest of it pass modalities=("{other}",)' if together else ""
                    raise MediaError(named(source), f"has no {what}{hint}")
            data[f"{modality}_features"] = torch.from_numpy(np.stack(found))  # type: ignore[arg-type]
            if return_frames:
                data[f"{modality}_frames"] = [torch.from_numpy(pooling.frames(owner, modality)) for owner in owners]
        data["feature_spec"] = " ".join(f"{modality}={self._records[modality]['spec']}" for modality in rows)
        return BatchFeature(data)

    def _film(self, film: Any, shown: Sequence[Modality], fps: float | None) -> Iterator[Unit]:
        """The units of a film: a file, or a row of frames."""
        if not is_path(film):
            yield from self._frames(film, fps)
            return
        with Film(film, self.limits) as opened:
            audio, visual = (self.backbone(name) if name in shown else None for name in MODALITIES)
            yield from units(opened, [(0.0, opened.seconds)], audio, visual)
            opened.check_whole()

    def _frames(self, frames: Any, fps: float | None) -> Iterator[Unit]:
        backbone = self.backbone("visual")
        steps = backbone.steps
        if not len(frames):
            raise ValueError("A film has no frames: leave it out.")
        count = len(frames) if fps is None else math.ceil(len(frames) / fps * steps.rate - 1e-6)
        places = [
            number if fps is None else min(len(frames) - 1, int(number / steps.rate * fps + 1e-6))
            for number in range(count)
        ]
        for start in steps.starts(count):
            pieces = [backbone.prepare(as_pixels(frames[place])) for place in places[start : start + steps.length]]
            yield Unit("visual", (0,), filled(pieces, steps.length))

    def _sound(self, sound: Any, sampling_rate: int | None) -> Iterator[Unit]:
        backbone = self.backbone("audio")
        if is_path(sound):
            with Film(sound, self.limits) as opened:
                yield from units(opened, [(0.0, opened.seconds)], backbone, None)
                opened.check_whole()
            return
        samples = as_samples(sound)
        if sampling_rate is None:
            raise ValueError("Samples say nothing about their speed: pass `sampling_rate`, samples a second.")
        try:
            whole = operator.index(sampling_rate)
        except TypeError:
            whole = 0
        if not 1_000 <= whole <= 1_000_000:
            raise ValueError(f"`sampling_rate` is a whole number from 1,000 to 1,000,000, got {sampling_rate!r}.")
        if sampling_rate != backbone.steps.rate:
            resample = require("librosa", extra="media").resample
            samples = resample(samples, orig_sr=sampling_rate, target_sr=backbone.steps.rate)
        for start in backbone.steps.starts(len(samples)):
            yield Unit("audio", (0,), [backbone.prepare(samples[start : start + backbone.steps.length])])

    def _image(self, image: Any) -> Iterator[Unit]:
        """A picture is a film that stands still."""
        backbone = self.backbone("visual")
        frame = backbone.prepare(as_pixels(image, self.limits))
        yield Unit("visual", (0,), filled([frame], backbone.steps.length))

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the backbones by name, version and constants, and what they are called together."""
        saved: dict[str, Any] = {"processor_class": type(self).__name__, "feature_spec": self.feature_spec}
        for modality, record in self._records.items():
            saved[modality] = {"versions": versions()} | record
        return saved | ({"auto_map": self.auto_map} if self.auto_map else {})

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any):
        """As for any processor; a file that holds something else is refused, and so is a place without one."""
        place = pretrained_model_name_or_path
        try:
            found, rest = super().get_processor_dict(place, **kwargs)
        except AttributeError:
            found, rest = {}, {}
        missing = [name for name in MODALITIES if not isinstance(found.get(name), Mapping)]
        if missing:
            raise ValueError(
                f"{place} holds no processor of ours, with the backbones {' and '.join(MODALITIES)} in "
                f"processor_config.json ({missing[0]} is missing): save one there by `save_pretrained`."
            )
        check_known(
            found, {*MODALITIES, "feature_spec", "processor_class", "auto_map"}, f"{place}, processor_config.json"
        )
        return found, rest

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any):
        """Made of what was saved; `device`, `dtype`, `batch_size` and `limits` are the caller's.

        So are `audio` and `visual`: where a network lies now, which must be the one that was saved.
        """
        known = (*_SETTINGS, *MODALITIES)
        for key in kwargs:
            if key not in known and (close := difflib.get_close_matches(key, known, n=1)):
                raise ValueError(f"A processor has no setting `{key}`. Did you mean `{close[0]}`?")
        settings = {key: value for key, value in kwargs.items() if key in _SETTINGS}
        moved = {name: {"source": str(kwargs[name]), "revision": None} for name in MODALITIES if name in kwargs}
        records = {name: processor_dict[name] | moved.get(name, {}) for name in MODALITIES}
        processor = cls(**records, **settings)
        if processor_dict.get("feature_spec") != processor.feature_spec:
            raise ValueError(
                f"The saved processor was changed: it says it makes {processor_dict.get('feature_spec')}, and its "
                f"backbones make {processor.feature_spec}."
            )
        return (processor, {}) if kwargs.get("return_unused_kwargs") else processor


def _as_numpy(inputs: BatchFeature) -> BatchFeature:
    """The same without tensors."""
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            inputs[name] = value.numpy()
        elif isinstance(value, list):
            inputs[name] = [one.numpy() for one in value]
    return inputs


def _wanted(modalities: Sequence[Modality] | None) -> tuple[Modality, ...]:
    wanted = MODALITIES if modalities is None else tuple(modalities)
    if isinstance(modalities, str) or not wanted or set(wanted) - set(MODALITIES):
        raise ValueError(f'`modalities` is ("audio",), ("visual",) or both, got {modalities!r}.')
    return tuple(name for name in MODALITIES if name in wanted)


DualSubspaceProcessor.register_for_auto_class("AutoProcessor")
