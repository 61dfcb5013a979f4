"""Backbones by name, folder or id of the Hub."""

from collections.abc import Callable, Mapping
from typing import Any

from .audio_backbones import LogMel
from .backbones import Backbone, Modality, Steps
from .visual_backbones import Thumbnail

BUILT_IN: dict[Modality, dict[str, Callable[..., Backbone]]] = {
    "audio": {"logmel": LogMel},
    "visual": {"thumbnail": Thumbnail},
}
DEFAULTS: dict[Modality, str] = {"audio": "logmel", "visual": "thumbnail"}


def load_backbone(
    modality: Modality,
    source: str,
    *,
    revision: str | None = None,
    fps: float | None = None,
    steps: Steps | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Backbone:
    """One that comes with DualSpace, by its name; or any audio, vision or video model of transformers.

    Args:
        modality: `audio` or `visual`.
        source: `logmel`, `thumbnail`, a folder, or an id of the Hub.
        revision: a commit, branch or tag on the Hub.
        fps: frames a second, of visual ones; None leaves it to the backbone.
        steps: how a network of transformers is to cut a track, instead of as it does by itself.
        device: where a network runs; None takes the best there is.
        dtype: in which it computes: `float32`, `float16` or `bfloat16`; None is float32 on a CPU, and what the weights
            have elsewhere.

    Example:
        ```python
        >>> load_backbone("visual", "thumbnail", fps=2).steps.rate
        2

        ```
    """
    if fps is not None and not 0.01 <= fps <= 120:
        raise ValueError(f"Frames a second lie between 0.01 and 120, got {fps}.")
    if source in BUILT_IN[modality]:
        made = BUILT_IN[modality][source]
        return made() if modality == "audio" or fps is None else made(fps=fps)
    for other, built_in in BUILT_IN.items():
        if source in built_in:
            raise ValueError(
                f"`{source}` makes {other} features, not {modality} ones: the built-in {modality} backbones are "
                f"{', '.join(BUILT_IN[modality])}."
            )
    from .transformers_backbones import transformers_backbone

    try:
        return transformers_backbone(
            modality, source, revision=revision, fps=fps, steps=steps, device=device, dtype=dtype
        )
    except ValueError as error:
        names = ", ".join(BUILT_IN[modality])
        raise ValueError(f"The {modality} backbone {source!r} cannot be loaded: {error} (Built in: {names}.)") from None


def reload_backbone(
    modality: Modality, record: Mapping[str, Any], *, device: str | None = None, dtype: str | None = None
) -> Backbone:
    """The backbone that a record is of; raises where what is loaded would give other vectors."""
    steps = Steps(**record["constants"]["steps"])
    built_in = record["source"] in BUILT_IN[modality]
    found = load_backbone(
        modality,
        record["source"],
        revision=record.get("revision"),
        fps=steps.rate if built_in and modality == "visual" else None,
        steps=None if built_in else steps,
        device=device,
        dtype=dtype,
    )
    if found.spec != record["spec"]:
        was, now = record, found.record()
        differ = [key for key in ("width", "weights") if was.get(key) != now[key]]
        differ += [
            f"{key} {was['constants'].get(key)} then, {now['constants'].get(key)} now"
            for key in sorted({*was["constants"], *now["constants"]})
            if was["constants"].get(key) != now["constants"].get(key)
        ]
        raise ValueError(
            f"The {modality} features were made by {record['spec']}, and {record['source']} is {found.spec} here "
            f"({'; '.join(differ) or 'another network'}): take the version that was used, or extract and train anew."
        )
    return found
