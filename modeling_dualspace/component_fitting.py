r"""Principal components of a network's vectors, fitted in one pass to training clips, frame by frame.

$$S = V \Lambda V', \qquad W = (\Lambda_k + 10^{-4} I)^{-1/2} V_k'$$

as YouTube-8M whitens its own. The mean and S are streamed in float64; nothing but a batch of frames is held.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .backbones import Backbone
from .clips import Clip
from .console import Stop, StoppedError
from .conversion import ROUGHLY_NONE, write_network
from .distributed import agreed, from_first, process_index, world_size
from .extraction_plan import Settings, plan
from .files import CARD, atomic_folder, short_digest, write_json
from .film_reader import reading
from .media import Limits
from .pair_moments import PairMoments
from .paper_networks import NETWORKS, network_of
from .pooling import Batch
from .transformers_backbones import transformers_backbone

COMPONENTS = "components.json"


def with_components(
    backbone: Backbone,
    components: int,
    clips: Sequence[Clip],
    folder: Path,
    *,
    limits: Limits,
    batch_size: int,
    workers: int,
    stop: Stop,
    overwrite: bool = False,
    progress: bool = True,
) -> Backbone:
    """The network with components of its own vectors of these clips; loaded where they were fitted to the same before.

    Args:
        backbone: one of our networks, without components.
        components: how many.
        clips: of the training split.
        folder: where the network is saved with them.
        limits: of films.
        batch_size: units embedded at a time.
        workers: films read at once.
        stop: asked between films.
        overwrite: replace a folder that was made this way.
        progress: show a bar on stderr.
    """
    name = _check(backbone, components, clips)
    settings = Settings("", backbone.spec, limits=limits, batch_size=batch_size)
    shards = from_first(lambda: plan(clips, settings))
    key = short_digest([str(components).encode(), *(shard.key.encode() for shard in shards)])
    if from_first(lambda: _key(folder)) != key:
        films = [film for shard in shards[process_index() :: world_size()] for film in shard.films]
        moments = agreed(lambda: _moments(backbone, films, settings, workers, stop, progress)).all_reduce()
        weight, mean, share = _components(moments, components, name)
        record = {"key": key, "clips": len(clips), "frames": int(moments.weight), "components": components,
                  "share_of_variance": share}  # fmt: skip
        from_first(lambda: _write(folder, backbone, name, {"pca.weight": weight, "pca.mean": mean}, record, overwrite))
    return agreed(lambda: _loaded(folder, backbone))


def training_clips(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Those of the training split; where there are more, `most` of them by a hash of their names."""
    chosen = [clip for clip in clips if clip.split == "train"]
    if len(chosen) > most:
        chosen = sorted(chosen, key=lambda clip: hashlib.sha256(clip.clip_id.encode()).digest())[:most]
    return chosen


def _check(backbone: Backbone, components: int, clips: Sequence[Clip]) -> str:
    config = getattr(getattr(backbone, "tower", None), "model", None)
    name = network_of(config.config) if config is not None else None
    if name is None:
        raise ValueError(
            f"Components are fitted to {', '.join(NETWORKS)}, and not to {backbone.name}: set `components` to 0."
        )
    if backbone.constants["config"]["pca"]:
        raise ValueError(
            f"{backbone.source} has components of its own: set `components` to 0, or convert {name} without them."
        )
    if not 0 < components <= backbone.width:
        raise ValueError(
            f"{name} has {backbone.width} numbers a unit, of which {components} components cannot be made."
        )
    if not clips:
        raise ValueError("Components are fitted to training clips, and no clip is in train: name splits in a list.")
    return name


def _key(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / COMPONENTS).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _moments(
    backbone: Backbone, films: Sequence[Any], settings: Settings, workers: int, stop: Stop, progress: bool
) -> PairMoments:
    """Of all units of some films; what cannot be read is passed over here, and told by the extraction."""
    moments = PairMoments(backbone.width, 0)
    batch = Batch(settings.batch_size)

    def embed() -> None:
        if units := batch.pop():
            rows = torch.from_numpy(backbone.embed([pieces for _, pieces in units]))
            moments.update(rows, rows.new_zeros(len(rows), 0))

    heard, seen = (backbone, None) if backbone.modality == "audio" else (None, backbone)
    bar = tqdm(films, unit=" films", desc="components", disable=None if progress else True)
    with bar, reading(films, heard, seen, settings, workers, 1) as readings:
        for _ in bar:
            for unit in next(readings).units:
                if batch.add(unit.pieces, []):
                    embed()
                if stop.signal is not None:
                    raise StoppedError(
                        stop.signal, "stopped while components were fitted: the same command begins anew"
                    )
    embed()
    return moments


def _components(moments: PairMoments, components: int, name: str) -> tuple[Tensor, Tensor, float]:
    frames = int(moments.weight)
    if frames <= components:
        raise ValueError(
            f"{components} components take more than {components} frames of training clips, and these have {frames}: "
            "take more films, more frames a second, or fewer components."
        )
    covariances = moments.covariances()
    values, vectors = torch.linalg.eigh(covariances.audio)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1).T
    whole = float(values.sum())
    if values[components - 1] <= values[0] * len(values) * torch.finfo(values.dtype).eps:
        raise ValueError(
            f"The {frames} frames of training clips do not vary in {components} directions, as {name} sees them: take "
            "fewer components."
        )
    rows = vectors[:components]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    rows = rows * largest.sign()  # or they would be up or down by chance
    weight = rows / (values[:components, None] + ROUGHLY_NONE).sqrt()
    return weight.float(), covariances.audio_mean.float(), float(values[:components].sum()) / whole


def _write(
    folder: Path, backbone: Any, name: str, pca: dict[str, Tensor], record: dict[str, Any], overwrite: bool
) -> None:
    kind = NETWORKS[name]
    model = kind.model.from_pretrained(backbone.place.path, use_safetensors=True, **backbone.place.at)  # type: ignore[attr-defined]
    settings = backbone.constants["config"] | {"pca": record["components"], "post": "dequantised"}
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_network(name, model.state_dict() | pca, settings, backbone.prepares, {}, temporary)
        write_json(temporary / COMPONENTS, record)
        (temporary / CARD).write_text(_card(name, backbone, record), encoding="utf-8")


def _card(name: str, backbone: Backbone, record: dict[str, Any]) -> str:
    return "\n".join([
        "---", "library_name: transformers", f"tags: [dualspace, {name}, feature-extraction]", "---", f"# {name}", "",
        f"`{backbone.spec}` with {record['components']} whitened principal components, fitted by DualSpace to "
        f"{record['frames']:,} frames of {record['clips']:,} training clips; they hold "
        f"{record['share_of_variance']:.1%} of the variance.",
        "The licence is that of the checkpoint it was made of.", "",
    ])  # fmt: skip


def _loaded(folder: Path, backbone: Any) -> Backbone:
    return transformers_backbone(
        backbone.modality,
        folder,
        device=str(backbone.device),
        dtype=backbone.constants.get("dtype"),
        steps=backbone.steps,
    )
