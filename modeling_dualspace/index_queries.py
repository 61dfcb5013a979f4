"""What is searched with: media through the processor and the model of an index, both loaded when first needed."""

import threading
from typing import Any

import numpy as np
import torch
from torch import nn

from .files import model_fingerprint
from .index_rows import Identity, as_queries
from .loading import find_processor, load_model
from .media import MediaError
from .media_inputs import named as named_source


class Queries:
    """Embeds queries with the very model an index was made with.

    Args:
        identity: of the index.
        given: the model, or where it is now; None looks where it was.
        trust_remote_code: run the code that comes with it.
    """

    def __init__(self, identity: Identity, given: str | nn.Module | None, trust_remote_code: bool = False):
        self.identity, self.given, self.trusted = identity, given, trust_remote_code
        self._loading = threading.Lock()
        self._checked: Any = None
        self._processor: Any = None

    @property
    def place(self) -> str:
        """Where the model is."""
        if isinstance(self.given, str):
            return self.given
        return str(getattr(getattr(self.given, "config", None), "_name_or_path", "")) or self.identity.model_id

    @property
    def model(self) -> Any:
        """The model; raises where what is there is another."""
        with self._loading:
            if self._checked is None:
                model = self.given if isinstance(self.given, nn.Module) else self._loaded()
                self.identity.check(model_fingerprint(model), f"the model in {self.place}")
                self._checked = model.eval()
            return self._checked

    def _loaded(self) -> nn.Module:
        place = self.given if isinstance(self.given, str) else self.identity.model_id
        try:
            return load_model(place, trust_remote_code=self.trusted)
        except ValueError as error:
            raise ValueError(
                f"The model of this index cannot be loaded: {error} (--model says where it is now.)"
            ) from None

    def check(self, model: Any) -> None:
        """Raises unless a model is this index's."""
        if model is not self._checked:
            self.identity.check(model_fingerprint(model), "the model that made these")

    @property
    def processor(self) -> Any:
        """What makes features for the model; raises where nothing does."""
        model = self.model
        with self._loading:
            if self._processor is None:
                self._processor = find_processor(model.config.feature_spec, (self.place, "model"))
            if self._processor is None:
                made = model.config.feature_spec or "features that nobody described"
                raise ValueError(
                    f"{self.place} has no processor beside it that makes {made}: films can be searched with a model "
                    "that was trained on features of `dualspace extract`; embeddings go by `search_embeds`."
                )
            return self._processor

    @torch.no_grad()
    def embed(
        self, *, audio: Any = None, video: Any = None, image: Any = None, **settings: Any
    ) -> tuple[str, np.ndarray]:
        """Of which modality a query is, and its embedding `(1, dim)`."""
        given = {"audio": audio, "video": video, "image": image}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(
                f"One thing is searched with, `audio`, `video` or `image`, got {' and '.join(named) or 'none'}."
            )
        model, processor = self.model, self.processor
        media = {"audio": {"audio": audio}, "image": {"images": image}}
        media["video"] = {"videos": video, "modalities": ("visual",)}
        try:
            inputs = processor(**media[named[0]], **settings)
        except MediaError as error:
            if "has no picture" in str(error):
                raise MediaError(named_source(video), "has no pictures: search by its sound, with `audio`") from None
            raise
        modality = "audio" if named[0] == "audio" else "visual"
        features = inputs[f"{modality}_features"]
        if len(features) != 1:
            raise ValueError(f"One {named[0]} is searched with at a time, got {len(features)}: call `search` for each.")
        model.check_feature_spec(inputs["feature_spec"])
        device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
        embeds = getattr(model, f"get_{modality}_embeds")(features.to(device))
        return modality, as_queries(self.identity, embeds)
