"""How features are extracted, as a YAML file: typed, and closed against misspelt keys."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .media import Limits
from .recipe_files import EXTRACTING, override, read_recipe, set_key
from .typed import build
from .yaml_files import merged


@dataclass(frozen=True)
class BackboneSettings:
    """What makes the features of one modality.

    Args:
        source: what `load_backbone` takes; null is the default.
        revision: on the Hub.
        settings: of a network of ours, in place of those it was converted with; `post` is also that of components that
            are fitted.
        components: principal components to be fitted to the vectors of training clips, frame by frame; 0 for none. The
            network with its components is then saved beside the data set.
        component_clips: how many training films, or rows of a list, they are fitted to, at most.
    """

    source: str | None = None
    revision: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    components: int = 0
    component_clips: int = 4000

    def __post_init__(self) -> None:
        if self.components < 0 or self.component_clips < 1:
            raise ValueError(
                "`components` is 0 or more, and `component_clips` 1 or more: got "
                f"{self.components} and {self.component_clips}."
            )


@dataclass(frozen=True)
class ExtractionRecipe:
    """How films become features. What is null is as `extract` has it.

    Args:
        name: of the recipe.
        audio: what hears.
        visual: what sees.
        fps: frames a second.
        window: seconds of a clip; null takes each film as one.
        hop: seconds from one window to the next.
        batch_size: units embedded at a time.
        dtype: in which networks compute.
        keep_unpaired: keep clips that lack a sound or a picture.
        license: under which the features may be passed on.
        max_seconds: skip films that last longer.
        max_bytes: skip larger files.
        max_pixels: skip larger frames.
    """

    name: str = "default"
    audio: BackboneSettings = field(default_factory=BackboneSettings)
    visual: BackboneSettings = field(default_factory=BackboneSettings)
    fps: float | None = None
    window: float | None = None
    hop: float | None = None
    batch_size: int | None = None
    dtype: str | None = None
    keep_unpaired: bool = False
    license: str | None = None
    max_seconds: float | None = None
    max_bytes: int | None = None
    max_pixels: int | None = None

    def arguments(self) -> dict[str, Any]:
        """As `extract` takes them; what is null is left to it."""
        names = ("fps", "window", "hop", "batch_size", "dtype", "keep_unpaired", "license")
        found = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        bounds = {"seconds": self.max_seconds, "bytes": self.max_bytes, "pixels": self.max_pixels}
        limits = Limits(**{name: value for name, value in bounds.items() if value is not None})  # type: ignore[arg-type]
        return {"audio": self.audio, "visual": self.visual, "limits": limits, **found}


def known_extractions() -> list[str]:
    """The names of those that come with DualSpace."""
    return EXTRACTING.names()


def load_extraction(
    name: str | Path | None = None, overrides: Iterable[str] = (), given: Mapping[str, Any] | None = None
) -> ExtractionRecipe:
    """Reads a recipe.

    Args:
        name: a YAML file, or the name of one of ours (`extract_vegas`); None is what `dualspace extract` does alone.
        overrides: `visual.components=512` and the like; the value is YAML.
        given: values by key, as flags have them, which come last. What the recipe sets for its network is not set for
            another that is asked for in its place.

    Example:
        ```python
        >>> load_extraction("extract_vegas", given={"window": 10.0}).audio.source
        'vggish'

        ```
    """
    overrides = list(overrides)
    content, file = ({}, "The extraction") if name is None else read_recipe(name, EXTRACTING)
    changes: dict[str, Any] = {}
    override(changes, overrides, EXTRACTING.like)
    for key, value in (given or {}).items():
        set_key(changes, key, value)
    for modality in ("audio", "visual"):
        source = _source(changes, modality)
        if source is not None and source != _source(content, modality):  # what was said of one means nothing to another
            content.pop(modality, None)
            content.pop("fps" if modality == "visual" else "", None)
    where = " ".join([str(file), *(["with", *overrides] if overrides else [])])
    return build(ExtractionRecipe, merged(content, changes), where)


def _source(content: Mapping[str, Any], modality: str) -> Any:
    part = content.get(modality)
    return part.get("source") if isinstance(part, Mapping) else None
