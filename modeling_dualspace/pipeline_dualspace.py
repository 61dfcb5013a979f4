"""The pipeline `audio-visual-retrieval`: media or features in, embeddings or ranked clips out."""

import itertools
import os
from collections.abc import Iterable, Sequence
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline

from .clip_gallery import Array, Gallery, found_by_index, gallery_of, ranked, stamp
from .clip_queries import FEATURES, Query, batched, checked_count, modality_of, queries_of, query_of, stacked
from .cosines import unit_rows
from .media import Film, MediaError
from .media_inputs import as_pixels, is_path, named

OTHER = {"audio": "visual", "visual": "audio"}
FEATURE_ROWS = 1024
"""Taken at a time, unless said otherwise: of media it is one."""
OF_TRANSFORMERS = {"local_files_only"}
"""What `pipeline` hands on, and no pipeline reads."""


class AudioVisualRetrievalPipeline(Pipeline):
    """Embeds clips by their sound or their pictures, or finds the clips of a gallery that go with them.

    With this package imported, `pipeline("audio-visual-retrieval", model=...)` makes one, and asks for no flag. Without
    it, `pipeline(model=..., trust_remote_code=True)` makes the same of a dual-subspace model that was saved or pushed.
    Features may be asked of every system; media need the processor that is saved beside the model.

    Example:
        ```python
        >>> from modeling_dualspace.baselines import RandomConfig, RandomModel
        >>> model = RandomModel(RandomConfig(audio_dim=4, visual_dim=6, embed_dim=3, seed=1))
        >>> pipe = AudioVisualRetrievalPipeline(model, device="cpu")
        >>> films = pipe(visual_features=torch.eye(6))
        >>> len(films), films[0]["visual_embeds"].shape
        (6, (3,))
        >>> found = pipe(audio_features=torch.ones(4), gallery=films, top_k=2)
        >>> [sorted(hit) for hit in found]
        [['clip', 'score'], ['clip', 'score']]

        ```
    """

    _load_processor = None  # if there is one
    _load_tokenizer: Any = False
    _load_feature_extractor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        missing = [name for name in ("get_audio_embeds", "get_visual_embeds") if not hasattr(model, name)]
        if missing:
            raise TypeError(
                f"Expected a model that embeds both modalities, and {type(model).__name__} has no "
                f"{' and no '.join(missing)}: take one like DualSubspaceModel."
            )
        self._kept: dict[str, tuple[Any, Array]] = {}
        super().__init__(model, *args, **kwargs)
        processor: Any = self.processor
        # It was loaded with the `dtype` of the model, and makes features by that of its own backbones.
        if isinstance(getattr(processor, "dtype", None), torch.dtype) or getattr(processor, "dtype", None) == "auto":
            processor.dtype = None
        if processor is not None and getattr(processor, "device", "") is None:
            processor.device = str(self.device)

    def __call__(  # type: ignore[override]
        self,
        inputs: Any = None,
        *,
        audio: Any = None,
        video: Any = None,
        image: Any = None,
        audio_features: Any = None,
        visual_features: Any = None,
        num_workers: int | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Any:
        """Embeddings, or ranked clips where there is a `gallery`; of one clip, or of a list of them.

        Args:
            inputs: files, and nothing is said of what they are: each is opened, and taken for a film where it has
                moving pictures (so it is asked for by its pictures), else for a sound, else for a picture. Besides, a
                picture of PIL; or a dictionary of one of the following, or of `array` and `sampling_rate`, a sound. Of
                a generator or a `torch` data set of such, results come one by one.
            audio: a sound or several: files (of films too), or samples `(n,)` with a `sampling_rate`.
            video: a film or several: files, or rows of frames `(t, height, width, 3)`.
            image: a picture or several: files, PIL images, or arrays `(height, width, 3)`.
            audio_features: `(audio_dim,)` of one clip, or `(n, audio_dim)` of several.
            visual_features: likewise.
            num_workers: processes that read media.
            batch_size: clips taken at a time.
            options: any of these, which `pipeline(...)` takes too, for all calls:

                - `modality`: "audio" asks for films by their sound; None takes their pictures.
                - `sampling_rate`, `fps`: of samples and rows of frames.
                - `gallery`: media files; embeddings `(n, d)`, or a list of what this returned for clips; or an index,
                  by `search_embeds`. Files are embedded once, for as long as the same ones are passed.
                - `top_k`: how many clips to find; 10, unless said otherwise.
                - `among`: what of the gallery to search, "audio" or "visual"; None takes what the query is not.
                - `labels`, `where`, `per_film`: what an index filters by, and whether it gives each film once.

        Returns:
            For each clip `{"audio_embeds": (d,)}` or `{"visual_embeds": (d,)}`, of NumPy; with a gallery, a list of
            `{"score": cosine, "clip": ...}`, best first. `clip` is the file, or the number of the row; of an index, a
            dictionary of `clip_id`, `path`, `start`, `end`, `labels` and `metadata`.
        """
        given = {"audio": audio, "video": video, "image": image}
        given |= {"audio_features": audio_features, "visual_features": visual_features, "": inputs}
        given = {kind: value for kind, value in given.items() if value is not None}
        if len(given) != 1:
            names = " and ".join(f"`{kind or 'inputs'}`" for kind in given) or "nothing"
            raise ValueError(
                "Expected one of a file, `audio`, `video`, `image`, `audio_features` and `visual_features`, got "
                f"{names}: call the pipeline once for each."
            )
        ((kind, value),) = given.items()
        usual = self._batch_size if self._batch_size is not None else FEATURE_ROWS if kind in FEATURES else 1
        size = checked_count("batch_size", usual if batch_size is None else batch_size)
        settings = {"num_workers": num_workers, "batch_size": 1, **options}  # ours are of clips, theirs of our batches
        if not kind and isinstance(value, (GeneratorType, Dataset)):
            rows: Any = value
            if not isinstance(value, (GeneratorType, IterableDataset)):  # one by number need not end by itself
                rows = map(rows.__getitem__, range(len(rows)))
            batches = (batch for batch in batched(map(query_of, rows), size))
            return itertools.chain.from_iterable(super().__call__(batches, **settings))
        queries, single = queries_of(kind, value)
        if not queries:
            self._sanitize_parameters(**options)
            return []
        found = list(itertools.chain.from_iterable(super().__call__(list(batched(queries, size)), **settings)))
        return found[0] if single else found

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What preprocessing, the model and postprocessing are told; raises where nobody knows an option."""
        given = {name: value for name, value in options.items() if value is not None and name not in OF_TRANSFORMERS}
        before: dict[str, Any] = {
            name: given.pop(name) for name in ("modality", "sampling_rate", "fps") if name in given
        }
        known = ("gallery", "top_k", "among", "labels", "where", "per_film")
        after = {name: given.pop(name) for name in known if name in given}
        if given:
            raise TypeError(
                f"This pipeline has no option `{next(iter(given))}`: it takes modality, sampling_rate, fps, "
                f"{', '.join(known)}, batch_size and num_workers."
            )
        for name, value in (("modality", before.get("modality")), ("among", after.get("among"))):
            if value not in (None, *OTHER):
                raise ValueError(f'`{name}` is "audio" or "visual", got {value!r}.')
        if "top_k" in after:
            after["top_k"] = checked_count("top_k", after["top_k"])
        if "gallery" in after:
            after["gallery"] = gallery_of(after["gallery"])
        return before, {}, after

    def preprocess(  # type: ignore[override]
        self, queries: Sequence[Query], modality: str | None = None, sampling_rate: Any = None, fps: Any = None
    ) -> dict[str, Any]:
        """The features of some clips: `parts`, one a modality and kind, and which clips each is of."""
        groups: dict[tuple[str, Any], list[int]] = {}
        for number, query in enumerate(queries):
            kind = query.kind or self._looked_into(query.source)
            groups.setdefault((kind, query.sampling_rate or sampling_rate), []).append(number)
        parts = []
        for (kind, rate), numbers in groups.items():
            sources = [queries[number].source for number in numbers]
            heard = modality_of(kind, modality, sources[0])
            features = stacked(sources, kind) if kind in FEATURES else self._features(kind, sources, heard, rate, fps)
            parts.append({"modality": heard, "numbers": numbers, "features": features})
        return {"parts": parts, "count": len(queries)}

    def _features(self, kind: str, sources: list[Any], modality: str, rate: Any, fps: Any) -> torch.Tensor:
        """What the processor makes of media of one kind."""
        for source in filter(is_path, sources):
            if "://" in str(source):
                raise ValueError(f"{source} is an address, and a file was expected: download it first.")
        processor: Any = self._needed_processor(sources[0])
        if kind == "audio":
            inputs = processor(audio=sources, sampling_rate=rate)
        elif kind == "image":
            inputs = processor(images=sources)
        else:
            inputs = processor(videos=sources, modalities=(modality,), fps=fps)
        if hasattr(self.model, "check_feature_spec"):
            model: Any = self.model
            model.check_feature_spec(inputs.get("feature_spec"))
        return inputs[f"{modality}_features"]

    def _needed_processor(self, source: Any) -> Any:
        if self.processor is None:
            raise ValueError(
                f"No processor could be loaded from beside the model, and {named(source)} needs one: save one there by "
                "`DualSubspaceProcessor().save_pretrained(FOLDER)`, pass `pipeline(..., processor=...)`, or pass "
                "features."
            )
        return self.processor

    def _looked_into(self, source: Any) -> str:
        """Which kind of media a file holds."""
        if "://" in str(source):
            raise ValueError(f"{source} is an address, and a file was expected: download it first.")
        limits = getattr(self._needed_processor(source), "limits", None)
        try:
            with Film(source, limits) as film:
                return "audio" if film.visual is None else "video"
        except MediaError:
            try:
                as_pixels(source, limits)
            except (MediaError, OSError):
                pass
            else:
                return "image"
            raise

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        parts = []
        for part in model_inputs["parts"]:
            embed = getattr(self.model, f"get_{part['modality']}_embeds")
            parts.append({**part, "features": None, "embeds": embed(part["features"]).float()})
        return {**model_inputs, "parts": parts}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, Any],
        gallery: Any = None,
        top_k: int = 10,
        among: str | None = None,
        **filters: Any,
    ) -> list[Any]:
        """An answer for each clip."""
        if filters and not hasattr(gallery, "search_embeds"):
            raise ValueError(f"`{next(iter(filters))}` filters what an index holds: pass one as `gallery`.")
        answers: list[Any] = [None] * model_outputs["count"]
        for part in model_outputs["parts"]:
            embeds, modality = part["embeds"].numpy(), part["modality"]
            searched = among or OTHER[modality]
            if gallery is None:
                found: Iterable[Any] = [{f"{modality}_embeds": row} for row in embeds]
            elif hasattr(gallery, "search_embeds"):
                lists = gallery.search_embeds(embeds, among=searched, k=top_k, made_by=self.model, **filters)
                found = [[found_by_index(hit) for hit in hits] for hits in lists]
            else:
                found = ranked(embeds, self._gallery_rows(gallery, searched), gallery.files, top_k)
            for number, answer in zip(part["numbers"], found, strict=True):
                answers[number] = answer
        return answers

    def _gallery_rows(self, gallery: "Gallery", modality: str) -> Array:
        """Unit rows to search; those of files are kept until others are asked for, or a file has changed."""
        if gallery.files is None:
            rows, width = gallery.rows, getattr(self.model.config, "output_dim", None)
            assert rows is not None
            if gallery.modality not in (None, modality):
                raise ValueError(
                    f"The gallery holds {gallery.modality} embeddings, and {modality} ones are to be searched: pass "
                    f'the others, or among="{gallery.modality}".'
                )
            if width not in (None, rows.shape[1]):
                raise ValueError(
                    f"The gallery's embeddings are {rows.shape[1]} wide, and this model's {width}: embed it by the "
                    "same model."
                )
            return rows
        state = [(os.fspath(file), *stamp(file)) for file in gallery.files]
        kept, rows = self._kept.get(modality, (None, None))
        if rows is None or kept != state:
            rows = unit_rows(self._embedded(gallery.files, modality))
            self._kept[modality] = (state, rows)
        return rows

    def _embedded(self, files: Sequence[Any], modality: str) -> Array:
        """Embeddings of files, `(n, d)`."""
        rows: list[Array] = []
        for batch in batched(map(query_of, files), self._batch_size or 1):
            outputs = self.forward(self.preprocess(batch, modality))
            rows += [row[f"{modality}_embeds"] for row in self.postprocess(outputs)]
        return np.stack(rows)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """The model and its processor; either brings the code it needs, and the model that of this pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory, **kwargs)
