r"""Principal components of a network's vectors, fitted in one pass to training clips, frame by frame.

$$S = V \Lambda V', \qquad W = (\Lambda_k + 10^{-4} I)^{-1/2} V_k'$$

as YouTube-8M whitens its own. The mean and S are streamed in float64; nothing but a batch of frames is held.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from .backbones import Backbone
from .clips import Clip
from .console import Stop, StoppedError
from .conversion import ROUGHLY_NONE, write_network
from .distributed import agreed, from_first, process_index, world_size
from .extraction_plan import Settings, plan
from .feature_pca import Post
from .files import CARD, atomic_folder, check_folder, short_digest, write_json
from .film_reader import reading
from .pair_moments import PairMoments
from .paper_networks import NETWORKS, network_of
from .pooling import Batch
from .transformers_backbones import transformers_backbone
from .transformers_models import quiet

COMPONENTS = "components.json"


@dataclass(frozen=True)
class Fitting:
    """How films are read for it.

    Args:
        settings: of the extraction: limits and batch size.
        workers: films read at once.
        stop: asked between units.
        overwrite: replace a network that was saved before with components of other clips.
        progress: show a bar on stderr.
    """

    settings: Settings
    workers: int
    stop: Stop
    overwrite: bool = False
    progress: bool = True


def with_components(
    backbone: Backbone,
    components: int,
    clips: Sequence[Clip],
    folder: Path,
    fitting: Fitting,
    post: Post = "dequantised",
) -> Backbone:
    """The network with components of its own vectors of these clips; loaded where they were fitted to the same before.

    Args:
        backbone: one of our networks, without components.
        components: how many.
        clips: of the training split.
        folder: where the network is saved with them.
        fitting: how films are read.
        post: what becomes of the components; the network is saved with the form of the paper, whichever is asked for.
    """
    name = agreed(lambda: _check(backbone, components, clips, post))
    settings = replace(fitting.settings, audio="", visual=backbone.spec, window=None, hop=None)
    shards = from_first(lambda: plan(clips, settings))
    key = short_digest([str(components).encode(), *(shard.key.encode() for shard in shards)])
    if from_first(lambda: _key(folder)) != key:
        from_first(lambda: check_folder(folder.resolve(), fitting.overwrite))  # before the work, not after it
        films = [film for shard in shards[process_index() :: world_size()] for film in shard.films]
        moments = agreed(lambda: _moments(backbone, films, settings, fitting)).all_reduce()
        weight, mean, share = agreed(lambda: _components(moments, components, name))
        record = {"key": key, "clips": len(clips), "frames": int(moments.weight), "components": components,
                  "share_of_variance": share}  # fmt: skip
        pca = {"pca.weight": weight, "pca.mean": mean}
        from_first(lambda: _write(folder, backbone, name, pca, record, fitting.overwrite))
    return agreed(lambda: _loaded(folder, backbone, post))


def training_clips(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Those of the training split; where there are more, `most` of them by a hash of their names."""
    chosen = [clip for clip in clips if clip.split == "train"]
    if len(chosen) > most:
        chosen = sorted(chosen, key=lambda clip: hashlib.sha256(clip.clip_id.encode()).digest())[:most]
    return chosen


def _check(backbone: Backbone, components: int, clips: Sequence[Clip], post: Post) -> str:
    config = getattr(getattr(getattr(backbone, "tower", None), "model", None), "config", None)
    name = network_of(config) if config is not None else None
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
    if post not in get_args(Post) or post == "none":
        raise ValueError(
            f"`post` says what becomes of the {components} components: pca, 8bit or dequantised, got {post!r}."
        )
    if not clips:
        raise ValueError("Components are fitted to training clips, and no clip is in train: name splits in a list.")
    return name


def _key(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / COMPONENTS).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _moments(backbone: Backbone, films: Sequence[Any], settings: Settings, fitting: Fitting) -> PairMoments:
    """Of all units of some films; what cannot be used is passed over here, and told by the extraction."""
    # Where the network is: several processes with a GPU each add nothing up elsewhere.
    moments = PairMoments(backbone.width, 0, device=getattr(backbone, "device", "cpu"))
    batch = Batch(settings.batch_size)

    def embed() -> None:
        if units := batch.pop():
            rows = torch.from_numpy(backbone.embed([pieces for _, pieces in units]))
            rows = rows[rows.isfinite().all(dim=1)]
            moments.update(rows, rows.new_zeros(len(rows), 0))

    def check_stop() -> None:
        if signal := fitting.stop.signal:
            raise StoppedError(signal, "stopped while components were fitted: the same command begins anew")

    heard, seen = (backbone, None) if backbone.modality == "audio" else (None, backbone)
    bar = tqdm(films, unit=" films", desc="components", disable=None if fitting.progress else True)
    with bar, reading(films, heard, seen, settings, fitting.workers, 1) as readings:
        for _ in bar:
            for unit in next(readings).units:
                if batch.add(unit.pieces, []):
                    embed()
                check_stop()
            check_stop()
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
    values, vectors = torch.linalg.eigh(covariances.audio.cpu())
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
    return weight.float(), covariances.audio_mean.cpu().float(), float(values[:components].sum()) / whole


def _write(
    folder: Path, backbone: Any, name: str, pca: dict[str, Tensor], record: dict[str, Any], overwrite: bool
) -> None:
    kind = NETWORKS[name]
    settings = backbone.constants["config"] | {"pca": record["components"], "post": "dequantised"}
    hears = {} if kind.extractor is None else backbone.processor.to_dict()
    hears = {key: value for key, value in hears.items() if not key.endswith("_type")}
    with quiet(), atomic_folder(folder, overwrite=overwrite) as temporary:
        model = kind.model.from_pretrained(backbone.place.path, use_safetensors=True, **backbone.place.at)  # type: ignore[attr-defined]
        write_network(name, model.state_dict() | pca, settings, backbone.prepares, hears, temporary)
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


def _loaded(folder: Path, backbone: Any, post: Post) -> Backbone:
    return transformers_backbone(
        backbone.modality,
        folder,
        device=str(backbone.device),
        dtype=backbone.constants.get("dtype"),
        steps=backbone.steps,
        settings={"post": post},
    )
