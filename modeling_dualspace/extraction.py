"""Films to a feature data set: in shards that several processes share out, and that a later run goes on with.

`extract` is what `dualspace extract` and `training/extract.py` call. What it writes is a data set like any other, with
the processor that made its features, and a table of the clips that could not be used.
"""

import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .backbones import Backbone, Modality
from .clip_folder import ClipList, list_clips
from .clips import Clip
from .component_fitting import Fitting, training_clips, with_components
from .console import Stop, StoppedError, asked_to_stop
from .distributed import agreed, cores, from_first, process_index, world_size
from .extracted_set import Extracted, check_place, finished, work_folder, write_set
from .extraction_plan import Settings, Shard, plan
from .extraction_recipe import BackboneSettings
from .extraction_shards import Row, await_shards, is_whole, write_shard
from .files import check_folder, locked, one_line
from .film_reader import Piece, Reading, reading
from .known_backbones import DEFAULTS, load_backbone
from .media import Limits
from .pooling import Pooling
from .processing_dualspace import MODALITIES, DualSubspaceProcessor
from .splits import SPLITS


def extract(
    source: str | Path,
    out: str | Path,
    *,
    audio: str | BackboneSettings | Backbone = DEFAULTS["audio"],
    visual: str | BackboneSettings | Backbone = DEFAULTS["visual"],
    fps: float | None = None,
    window: float | None = None,
    hop: float | None = None,
    limits: Limits | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    keep_unpaired: bool = False,
    license: str = "unknown",
    overwrite: bool = False,
    refresh: bool = False,
    progress: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Extracts the features of one's own films, and returns what was written and what was skipped.

    Args:
        source: a folder of films or a list of them, see `list_clips`.
        out: the data set's folder, made anew.
        audio: a backbone, what `load_backbone` takes, or that with settings, as a recipe has it.
        visual: likewise.
        fps: frames a second, None as the backbone has it.
        window: seconds of a clip; None takes each film as one.
        hop: seconds from one window to the next; None is `window`.
        limits: of films.
        batch_size: units embedded at a time, over clips.
        workers: films read at once; None is one a core.
        device: where networks run.
        dtype: in which they compute.
        keep_unpaired: keep clips that lack a sound or a picture; that column is then empty.
        license: under which the features may be passed on.
        overwrite: replace a data set that is there, and was made this way.
        refresh: likewise, but only where it was made of other films or by other settings.
        progress: show a bar on stderr.
        command: what the card says it was made by.

    Example:
        ```python
        found = extract("my_videos", "my-features", window=10, hop=5)
        print(found["clips"], found["skipped"])
        ```
    """
    out, settings = Path(out), Settings("", "", window, hop, limits or Limits(), batch_size)
    check_place(Path(source), out, overwrite or refresh)
    _check_device(device)
    films = from_first(lambda: list_clips(source))
    wanted: dict[Modality, BackboneSettings | Backbone] = {"audio": _settings(audio), "visual": _settings(visual)}
    where = {"device": device, "dtype": dtype}
    backbones = agreed(lambda: {name: _load(name, one, fps, where) for name, one in wanted.items()})
    workers, progress = workers or cores(), progress and not process_index()
    with ExitStack() as stack:
        taken = f"Another process is extracting to {out}: wait for it, or choose another --out."
        from_first(lambda: stack.enter_context(locked(work_folder(out), taken)))
        stop = stack.enter_context(asked_to_stop())
        fitting = Fitting(out, settings, workers, stop, overwrite, progress)
        for name, one in wanted.items():
            if isinstance(one, BackboneSettings) and one.components:
                backbones[name] = _with_components(backbones[name], one, films, fitting)
        processor = DualSubspaceProcessor(backbones["audio"], backbones["visual"])
        settings = replace(settings, **{name: backbones[name].spec for name in MODALITIES})
        shards = from_first(lambda: plan(films.clips, settings))
        asked = Extracted(Path(source), out, films, shards, settings, processor, keep_unpaired, license, command)
        former = None if overwrite else from_first(lambda: finished(asked))
        return _extracted(asked, former, workers, stop, overwrite or refresh, progress)


def _extracted(
    asked: Extracted, former: dict[str, Any] | None, workers: int, stop: Stop, overwrite: bool, progress: bool
) -> dict[str, Any]:
    """What was written, now or before; nothing in processes that are not the first."""
    if former is not None:
        if not process_index():  # it was killed before it tidied up
            shutil.rmtree(asked.folder, ignore_errors=True)
        return former
    from_first(lambda: check_folder(asked.out.resolve(), overwrite))
    work = agreed(lambda: _Work(asked, workers, stop, progress))
    work.run()
    if process_index():
        return {}
    await_shards([asked.place(shard) for shard in asked.shards], work.check_stop)
    written = write_set(asked, overwrite=overwrite, progress=progress)
    shutil.rmtree(asked.folder, ignore_errors=True)
    return written


def _settings(given: str | BackboneSettings | Backbone) -> BackboneSettings | Backbone:
    return BackboneSettings(given) if isinstance(given, str) else given


def _load(modality: Modality, given: BackboneSettings | Backbone, fps: float | None, where: dict[str, Any]) -> Backbone:
    if isinstance(given, Backbone):
        return given
    fitted = {"post"} if given.components else set()  # it says what becomes of components that are fitted later
    return load_backbone(
        modality,
        given.source or DEFAULTS[modality],
        revision=given.revision,
        fps=fps if modality == "visual" else None,
        settings={key: value for key, value in given.settings.items() if key not in fitted},
        **where,
    )


def _with_components(backbone: Backbone, wanted: BackboneSettings, films: ClipList, fitting: Fitting) -> Backbone:
    """With components of its vectors of training clips: the network is kept beside the data set."""
    clips = training_clips(films.clips, wanted.component_clips)
    fitted = with_components(backbone, wanted.components, clips, fitting, wanted.settings.get("post", "dequantised"))
    films.notes.append(f"{backbone.name} with its components is {fitted.source}: keep it, a processor looks there.")
    return fitted


def _check_device(device: str | None) -> None:
    """Raises where there is no such device, whether a backbone needs it or not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"The device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None


class _Work:
    """This process's shards, those excepted that are there already."""

    def __init__(self, asked: Extracted, workers: int, stop: Stop, progress: bool):
        self.asked, self.workers, self.stop, self.progress = asked, workers, stop, progress
        mine = asked.shards[process_index() :: world_size()]
        self.shards = [shard for shard in mine if not is_whole(asked.place(shard))]
        self.there = sum(len(shard.films) for shard in mine) - sum(len(shard.films) for shard in self.shards)
        self.films = [film for shard in self.shards for film in shard.films]

    def run(self) -> None:
        """Reads every film, and writes every shard as soon as it is whole."""
        if not self.films:
            return
        audio, visual = (self.asked.processor.backbone(modality) for modality in MODALITIES)
        workers = min(self.workers, len(self.films))
        threads = max(1, self.workers // workers)
        bar = tqdm(
            total=self.there + len(self.films), initial=self.there, unit=" films", desc=self.asked.out.name,
            disable=None if self.progress else True,
        )  # fmt: skip
        with bar, reading(self.films, audio, visual, self.asked.settings, workers, threads) as films:
            self.began, self.clips = time.monotonic(), 0
            for shard in self.shards:
                write_shard(self.asked.place(shard), self._rows(shard, films, bar))

    def _rows(self, shard: Shard, films: Any, bar: tqdm) -> list[Row]:
        """The clips of a shard, embedded: batches reach over its films, and end with it."""
        backbones = {name: self.asked.processor.backbone(name) for name in MODALITIES}
        pooling = Pooling(backbones, self.asked.settings.batch_size)
        waiting: list[tuple[int, list[Piece]]] = []
        rows: list[Row] = []
        for number in range(len(shard.films)):
            film: Reading = next(films)
            for unit in film.units:
                pooling.add(number, unit)
                self.check_stop()
            self.check_stop()
            waiting.append((number, film.pieces))
            while waiting and pooling.is_settled(waiting[0][0]):  # its sums are needed no more
                rows += _rows_of(*waiting.pop(0), pooling)
            self.clips += len(film.pieces)
            bar.set_postfix_str(f"{self.clips / (time.monotonic() - self.began):.1f} clips/s", refresh=False)
            bar.update()
        pooling.flush()
        for number, pieces in waiting:
            rows += _rows_of(number, pieces, pooling)
        return rows

    def check_stop(self) -> None:
        """Raises where somebody asked for it."""
        if self.stop.signal is not None:
            kept = sum(is_whole(self.asked.place(shard)) for shard in self.asked.shards)
            raise StoppedError(
                self.stop.signal,
                f"stopped; {kept} of {len(self.asked.shards)} shards are kept in {self.asked.folder}: the same command "
                "goes on",
            )


def _rows_of(film: int, pieces: list[Piece], pooling: Pooling) -> list[Row]:
    """The clips of a film; its sums are let go."""
    vectors = [[pooling.pop((film, place), name) for name in MODALITIES] for place in range(len(pieces))]
    return [_row(film, piece, *found) for piece, found in zip(pieces, vectors, strict=True)]


def _row(film: int, piece: Piece, audio: Any, visual: Any) -> Row:
    """What a clip came to."""
    clip: Clip = piece.clip
    problem = piece.problem
    if problem is None:
        for name, vector in (("audio", audio), ("visual", visual)):
            if vector is not None and not np.isfinite(vector).all():
                problem = f"has {name} features that are not finite"
        if audio is None and visual is None:
            problem = "has neither sound nor a picture there"
    if problem is not None:
        audio = visual = None
    there = audio is not None, visual is not None
    return Row(film, piece.of, clip.clip_id, clip.start, clip.end, problem, *there, audio, visual)


def render(found: dict[str, Any]) -> str:
    """What was written, in words."""
    lines = [one_line(note) for note in found["notes"]]
    splits = ", ".join(f"{split} {rows:,}" for split, rows in found["splits"].items())
    clips = "1 clip" if found["clips"] == 1 else f"{found['clips']:,} clips"
    lines.append(f"{found['out']}: {clips} ({splits}), {found['description']}")
    if found["skipped"]:
        lines.append(f"Skipped: {found['skipped']:,} clips, listed with their reasons in {found['table']}:")
        lines += [f"  {one_line(clip_id)}: {one_line(reason)}" for clip_id, reason in found["first_skipped"]]
    if len(found["classes"]) == 1:
        lines.append(
            f"All clips are of one class, {found['classes'][0]}: where that is none, give a list of films with their "
            "labels, or sort them into folders."
        )
    if set(found["splits"]) < set(SPLITS):
        lines.append(
            "A model wants clips in train, validation and test: where films are few, name their splits in a list "
            "(metadata.csv with the columns path, label and split in the folder), and extract again with --overwrite."
        )
    if "train" in found["splits"]:
        name = Path(found["out"]).name
        lines.append(
            f"Next: dualspace train films data.path={found['out']} output=runs/{name}   (`finetune` starts from a "
            "published model, init=...)"
        )
    return "\n".join(lines)
