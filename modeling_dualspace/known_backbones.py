"""Backbones by name, folder or id of the Hub; what is written down of one, and loaded again."""

import difflib
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .audio_backbones import LogMel
from .backbones import Backbone, Modality, Steps, digest
from .paper_networks import NETWORKS, find_converted, recorded_settings
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
    settings: Mapping[str, Any] | None = None,
) -> Backbone:
    """One that comes with DualSpace, by its name; or any audio, vision or video model of transformers.

    Args:
        modality: `audio` or `visual`.
        source: `logmel`, `thumbnail`; `vggish`, `soundnet`, `inception`, `i3d`, once converted; a folder, or an id of
            the Hub.
        revision: a commit, branch or tag on the Hub.
        fps: frames a second, of visual ones; None leaves it to the backbone.
        steps: how a network of transformers is to cut a track, instead of as it does by itself.
        device: where a network runs; None takes the best there is.
        dtype: in which it computes: `float32`, unless asked for `float16` or `bfloat16`, which are then part of its
            constants: their vectors are others.
        settings: of one of the four networks of ours, in place of those it was converted with: `post`, `front_end`,
            `layer`, ..., as their configurations and `VggishFeatureExtractor` explain them.

    Example:
        ```python
        >>> load_backbone("visual", "thumbnail", fps=2).steps.rate
        2

        ```
    """
    if fps is not None and not 0.01 <= fps <= 120:
        raise ValueError(f"Frames a second lie between 0.01 and 120, got {fps}.")
    names = known_names(modality)
    for other in BUILT_IN:
        if source in set(known_names(other)) - set(names):
            raise ValueError(
                f"`{source}` makes {other} features, not {modality} ones: the built-in {modality} backbones are "
                f"{', '.join(names)}."
            )
    if source in BUILT_IN[modality]:
        if settings:
            raise ValueError(f"`{source}` has no settings, so `{next(iter(settings))}` cannot be set.")
        made = BUILT_IN[modality][source]
        return made() if modality == "audio" or fps is None else made(fps=fps)
    from .transformers_backbones import transformers_backbone

    try:
        place = str(find_converted(source)) if source in names else source
        found = transformers_backbone(
            modality, place, revision=revision, fps=fps, steps=steps, device=device, dtype=dtype, settings=settings
        )
    except ValueError as error:
        if source in names and Path(source).is_dir():
            error = ValueError(f"{error} For the folder beside you write ./{source}.")
        close = [] if source in names else difflib.get_close_matches(source, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"The {modality} backbone {source!r} cannot be loaded (built in: {', '.join(names)}{hint}): {error}"
        ) from None
    if source in names:
        found.source = source
    return found


def known_names(modality: Modality) -> list[str]:
    """Of what `load_backbone` takes without a folder or an id."""
    return [*BUILT_IN[modality], *(name for name, network in NETWORKS.items() if network.modality == modality)]


def check_known(given: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raises where there is a key that nobody reads."""
    for key in sorted(set(given) - known):
        close = difflib.get_close_matches(key, known, n=1)
        raise ValueError(f"{where}: there is no key `{key}`.{f' Did you mean `{close[0]}`?' if close else ''}")


def check_record(modality: Modality, record: Mapping[str, Any]) -> dict[str, Any]:
    """What was saved of a backbone; raises where it is not whole, or its constants are not those it is named after."""
    kinds = {"spec": str, "source": str, "width": int, "weights": str, "constants": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
    if wrong:
        raise ValueError(f"What was saved of the {modality} backbone has no `{wrong[0]}` as it should: save it again.")
    check_known(record, {*kinds, "revision", "versions"}, f"What was saved of the {modality} backbone")
    try:
        Steps(**record["constants"]["steps"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(
            f"What was saved of the {modality} backbone does not say how tracks are cut (`constants.steps`) in words "
            "that this version knows: save it again, or take the version that saved it."
        ) from None
    if record["spec"].partition("@")[2] != digest(record["constants"], record["weights"]):
        raise ValueError(
            f"What was saved of the {modality} backbone was changed: its constants are not those of {record['spec']}."
        )
    return dict(record)


def versions() -> dict[str, str]:
    """Of the packages that take part in making features, as far as they are installed."""
    found = {}
    for package in ("transformers", "torch", "numpy", "librosa", "av"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def reload_backbone(
    modality: Modality, record: Mapping[str, Any], *, device: str | None = None, dtype: str | None = None
) -> Backbone:
    """The backbone that a record is of; raises where what is loaded would give other vectors."""
    steps = Steps(**check_record(modality, record)["constants"]["steps"])
    built_in = record["source"] in BUILT_IN[modality]
    try:
        found = load_backbone(
            modality,
            record["source"],
            revision=record.get("revision"),
            fps=steps.rate if built_in and modality == "visual" else None,
            steps=None if built_in else steps,
            device=device,
            dtype=dtype or record["constants"].get("dtype"),
            settings=recorded_settings(modality, record["constants"]),
        )
    except ValueError as error:
        moved = f'Moved? Say where: `from_pretrained(..., {modality}="PLACE")`.'
        raise ValueError(str(error) if built_in else f"{error} {moved}") from None
    if found.spec != record["spec"] or found.width != record["width"]:
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
