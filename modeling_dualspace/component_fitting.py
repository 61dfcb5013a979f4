r"""Principal components of a network's vectors, fitted in one pass to training clips, frame by frame.

$$S = V \Lambda V', \qquad W = (\Lambda_k + 10^{-4} I)^{-1/2} V_k'$$

as YouTube-8M whitens its own. The mean and S are streamed in float64; nothing but a shard of frames is held.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .backbones import Array, Backbone
from .clips import Clip
from .console import Stop, StoppedError
from .conversion import network_card, write_network
from .distributed import agreed, from_first, process_index, world_size
from .extracted_set import work_folder
from .extraction_plan import Settings, Shard, plan
from .extraction_shards import Row, await_shards, is_whole, read_shard, write_shard
from .feature_pca import ROUGHLY_NONE, Post
from .files import CARD, MANIFEST, atomic_folder, check_folder, read_manifest, short_digest, write_json
from .film_reader import Reading, reading
from .pair_moments import PairMoments
from .paper_networks import NETWORKS, network_of
from .pooling import Batch, Owner, embedded
from .transformers_backbones import transformers_backbone
from .transformers_models import quiet

COMPONENTS = "components.json"
CHUNK = 4096


@dataclass(frozen=True)
class Fitting:
    """The extraction that it is done for.

    Args:
        out: its data set; the network is saved beside it, and vectors wait in its folder of shards.
        settings: its limits and batch size.
        workers: films read at once.
        stop: asked between units.
        overwrite: whether the data set may be replaced.
        progress: show a bar on stderr.
    """

    out: Path
    settings: Settings
    workers: int
    stop: Stop
    overwrite: bool = False
    progress: bool = True


def with_components(
    backbone: Backbone, components: int, clips: Sequence[Clip], fitting: Fitting, post: Post = "dequantised"
) -> Backbone:
    """The network with components of its own vectors of these clips; loaded where they were fitted to the same before.

    Each process writes the vectors of its shards of films, which are kept until the data set is written; the first then
    fits all of them, in one order, whoever wrote them. The network is called after what it was fitted to, and never
    replaced: what was made with another one keeps it.

    Args:
        backbone: one of our networks, without components.
        components: how many.
        clips: of the training split.
        fitting: how films are read, and where it goes.
        post: what becomes of the components; the network is saved with the form of the paper, whichever is asked for.
    """
    name = agreed(lambda: _check(backbone, components, clips, post))
    settings = replace(fitting.settings, audio="", visual=backbone.spec, window=None, hop=None)
    shards = from_first(lambda: plan(clips, settings))
    key = short_digest([str(components).encode(), *(shard.key.encode() for shard in shards)])
    folder = fitting.out.with_name(f"{fitting.out.name}-{name}-{key[:8]}")
    if not from_first(lambda: _is_there(folder)):
        from_first(lambda: check_folder(fitting.out.resolve(), fitting.overwrite))  # better known before the work
        work = _Vectors(backbone, shards, settings, fitting)
        agreed(work.begin)
        work.run()
        await_shards(work.places, work.check_stop)
        from_first(lambda: _fit(work, components, name, folder, key))
    return agreed(lambda: _loaded(folder, backbone, post))


def training_clips(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Those of the training split; where there are more, `most` of them by a hash of their names."""
    chosen = [clip for clip in clips if clip.split == "train"]
    return chosen if len(chosen) <= most else sorted(chosen, key=_by_lot)[:most]


def _by_lot(clip: Clip) -> bytes:
    return hashlib.sha256(clip.clip_id.encode("utf-8", "surrogateescape")).digest()


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


def _is_there(folder: Path) -> bool:
    """Whether the network was saved there, all of it; raises where something else is, or it is no longer whole."""
    if not folder.exists():
        return False
    if (folder / MANIFEST).is_file():
        with suppress(ValueError):  # what is no list of files is no longer whole
            sizes = read_manifest((folder / MANIFEST).read_text(encoding="utf-8"))
            parts = [name for name in sizes if name not in (CARD, MANIFEST)]  # its card may say more by now
            if COMPONENTS in parts and all(_size(folder / name) == sizes[name] for name in parts):
                return True
    raise ValueError(f"{folder} is where components of these films belong, and is damaged or none: remove it.")


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


class _Vectors:
    """The vectors of all units of some films: a file a shard, in the order of films."""

    def __init__(self, backbone: Backbone, shards: Sequence[Shard], settings: Settings, fitting: Fitting):
        self.backbone, self.settings, self.fitting = backbone, settings, fitting
        self.place = {shard: work_folder(fitting.out) / f"components-{shard.name}" for shard in shards}
        self.mine = [shard for shard in list(shards)[process_index() :: world_size()]]

    @property
    def places(self) -> list[Path]:
        """The files, in order."""
        return list(self.place.values())

    def begin(self) -> None:
        """Finds out what is there already."""
        self.mine = [shard for shard in self.mine if not is_whole(self.place[shard])]

    def run(self) -> None:
        """Writes those of this process that are not there."""
        films = [film for shard in self.mine for film in shard.films]
        heard, seen = (self.backbone, None) if self.backbone.modality == "audio" else (None, self.backbone)
        bar = tqdm(total=len(films), unit=" films", desc="components", disable=None if self.fitting.progress else True)
        with bar, reading(films, heard, seen, self.settings, self.fitting.workers, 1) as readings:
            for shard in self.mine:
                write_shard(self.place[shard], self._rows(shard, readings, bar))

    def _rows(self, shard: Shard, readings: Iterator[Reading], bar: tqdm) -> list[Row]:
        batch = Batch(self.settings.batch_size)
        rows: list[Row] = []

        def embed() -> None:
            if units := batch.pop():
                vectors = embedded(self.backbone, [pieces for _, pieces in units])
                for (owners, _), vector in zip(units, vectors, strict=True):
                    rows.extend(self._rows_of(owners, vector))

        for number in range(len(shard.films)):
            film = next(readings)
            for unit in film.units:
                if batch.add(unit.pieces, [(number, clip) for clip in unit.clips]):
                    embed()
                self.check_stop()
            self.check_stop()
            bar.update()
        embed()
        return rows

    def _rows_of(self, owners: Sequence[Owner], vector: Array) -> Iterator[Row]:
        """A unit as a shard has it: a row for each clip, and a vector in the first; none where it is not finite."""
        of_sound, kept = self.backbone.modality == "audio", [vector, *[None] * (len(owners) - 1)]
        for (film, clip), one in zip(owners, kept, strict=True) if np.isfinite(vector).all() else ():
            audio, visual = (one, None) if of_sound else (None, one)
            yield Row(int(str(film)), clip, "", None, None, None, of_sound, not of_sound, audio, visual)

    def check_stop(self) -> None:
        """Raises where somebody asked for it."""
        if signal := self.fitting.stop.signal:
            kept, folder = sum(is_whole(place) for place in self.places), work_folder(self.fitting.out)
            raise StoppedError(
                signal,
                f"stopped while components were fitted; {kept} of {len(self.places)} shards are kept in {folder}: the "
                "same command goes on",
            )

    def moments(self) -> tuple[PairMoments, int]:
        """Of all vectors, and the number of clips that have one."""
        moments, clips = PairMoments(self.backbone.width, 0), 0
        for place in self.places:
            rows = list(read_shard(place))
            clips += len({(row.film, row.of) for row in rows})
            found = [row.visual if row.audio is None else row.audio for row in rows]
            vectors = [vector for vector in found if vector is not None]  # a unit that clips share has one
            for start in range(0, len(vectors), CHUNK):
                chunk = torch.from_numpy(np.stack(vectors[start : start + CHUNK]))
                moments.update(chunk, chunk.new_zeros(len(chunk), 0))
        return moments, clips


def _fit(work: _Vectors, components: int, name: str, folder: Path, key: str) -> None:
    moments, clips = work.moments()
    weight, mean, share = _components(moments, components, name)
    record = {"key": key, "clips": clips, "frames": int(moments.weight), "components": components,
              "share_of_variance": share}  # fmt: skip
    _write(folder, work.backbone, name, {"pca.weight": weight, "pca.mean": mean}, record)


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


def _write(folder: Path, backbone: Any, name: str, pca: dict[str, Tensor], record: dict[str, Any]) -> None:
    kind = NETWORKS[name]
    settings = backbone.constants["config"] | {"pca": record["components"], "post": "dequantised"}
    hears = {} if kind.extractor is None else backbone.processor.to_dict()
    hears = {key: value for key, value in hears.items() if not key.endswith("_type")}
    with quiet(), atomic_folder(folder) as temporary:
        model = kind.model.from_pretrained(backbone.place.path, use_safetensors=True, **backbone.place.at)  # type: ignore[attr-defined]
        write_network(name, model.state_dict() | pca, settings, backbone.prepares, hears, temporary)
        write_json(temporary / COMPONENTS, record)
        (temporary / CARD).write_text(_card(name, backbone, record), encoding="utf-8")


def _card(name: str, backbone: Backbone, record: dict[str, Any]) -> str:
    return network_card(name, [
        f"`{backbone.spec}` with {record['components']} whitened principal components, fitted by DualSpace to "
        f"{record['frames']:,} frames of {record['clips']:,} training clips; they hold "
        f"{record['share_of_variance']:.1%} of the variance.",
        "The licence is that of the checkpoint it was made of; say it here before you pass this on.",
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
