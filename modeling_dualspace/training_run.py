"""A whole training: choose an epoch on validation, refit on everything, say what came out; and never lose an epoch.

`train(recipe)` is what `dualspace train` and `training/train.py` call. What it writes is a run folder, which `evaluate`
and `report` read; what it returns is the content of its `summary.json`.
"""

import logging
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from datasets import Dataset
from tqdm import tqdm

from .checkpoints import Checkpoint
from .console import Stop, asked_to_stop
from .distributed import agreed, anywhere, from_first, process_index, world_size
from .files import swap_in
from .loading import load_model, load_splits
from .model_setup import build_model
from .modeling_crossmodal import CrossModalModel
from .optional import require
from .recipe import Recipe
from .run_folder import RunFolder
from .trainer import Trainer
from .training_data import TrainingData
from .validation import validate

logger = logging.getLogger(__name__)

FORMAT = 1
TRACKERS = [kind.value for kind in LoggerType if kind.value != "all"]
VOTE = 10
"""Steps after which several processes ask each other whether to save or to stop."""


class StoppedError(Exception):
    """Somebody asked for it, and the run was saved.

    Args:
        signal: by which they asked.
        message: where it stands.
    """

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = signal


@dataclass
class Progress:
    """What a run must know to go on, beside weights and optimisers."""

    phase: str = "choose"
    """`choose`, then `refit` where the recipe asks for it, then `done`."""
    step: int = 0
    """Of the phase."""
    best: dict[str, Any] | None = None
    """The line of the history whose model is kept."""
    stale: int = 0
    """Validations since then."""
    lines: int = 0
    """Of the history."""
    steps_before: int = 0
    """Those of former phases."""
    seconds: dict[str, float] = field(default_factory=lambda: {"steps": 0.0, "validation": 0.0, "refit": 0.0})
    epochs: int = 0
    """Of the whole schedule."""
    chose: bool = False
    """Whether the epoch was chosen on validation."""
    rows: int = 0
    """Clips that were learnt from, over all epochs."""
    data: str | None = None
    """Its fingerprint."""
    blocks: int | None = None
    """In which an epoch is shuffled."""


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Where a recipe is trained: the device there is, all processes of the launcher."""
    for name in recipe.train.trackers:
        _check_tracker(name)
    cpu = not torch.accelerator.is_available()
    if cpu and recipe.train.precision == "fp16":
        raise ValueError("`train.precision` is fp16, which needs a GPU, and there is none: fp32 and bf16 work here.")
    AcceleratorState._reset_state()  # that of an earlier training in this process may be of another precision
    precision = {"fp32": "no"}.get(recipe.train.precision, recipe.train.precision)
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with=recipe.train.trackers or None,
        project_dir=str(recipe.folder / "trackers"),
    )


def _check_tracker(name: str) -> None:
    if name not in TRACKERS:
        raise ValueError(f"`train.trackers` names {name!r}; Accelerate knows {', '.join(TRACKERS)}.")
    if name == "tensorboard":
        require(name, extra="trackers")
    elif name not in map(str, get_available_trackers()):
        raise ValueError(f"`train.trackers` names {name}, which is not installed: run `pip install {name}`.")


def open_data(recipe: Recipe, device: torch.device) -> TrainingData:
    """The data set a recipe names; one process makes its cache, and then the others read it."""
    name, config = recipe.data.path, recipe.data.config

    def load() -> dict[str, Dataset]:
        return load_splits(name, config)

    first = agreed(lambda: None if process_index() else load())
    splits = agreed(lambda: load() if first is None else first)
    return agreed(lambda: TrainingData(splits, device, recipe.train.features))


def train(
    recipe: Recipe,
    *,
    data: TrainingData | None = None,
    accelerator: Accelerator | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains what a recipe asks for, and returns what `summary.json` says.

    Args:
        recipe: without a grid; see `training_grid` for those.
        data: instead of what `recipe.data` names.
        accelerator: where; made by `make_accelerator` otherwise.
        resume: go on with the run in the folder, if there is one.
        overwrite: start it anew.
        progress: show a bar, and a line a validation, on stderr.

    Example:
        ```python
        summary = train(load_recipe("tiny", ["output=runs/mine"]))
        print(summary["epoch"], summary["validation"]["map"])
        ```
    """
    accelerator = accelerator or make_accelerator(recipe)
    folder = RunFolder(recipe.folder)
    with ExitStack() as stack:
        from_first(lambda: stack.enter_context(folder.locked()))
        from_first(lambda: _open(folder, recipe, resume, overwrite))
        summary = from_first(lambda: folder.summary)
        if summary is not None:
            return summary
        data = data or open_data(recipe, accelerator.device)
        with asked_to_stop() as stop:
            return _Training(recipe, data, accelerator, folder, stop, progress).run()


def _open(folder: RunFolder, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    if overwrite and (folder.path / "recipe.yaml").is_file():
        for place in folder.path.iterdir():
            if place.name != ".lock":
                shutil.rmtree(place) if place.is_dir() else place.unlink()
    folder.open(recipe, resume=resume)


class _Training:
    """One run, from wherever it stands to its end."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        accelerator: Accelerator,
        folder: RunFolder,
        stop: Stop,
        progress: bool,
    ):
        self.recipe, self.data, self.accelerator, self.folder, self.stop = recipe, data, accelerator, folder, stop
        self.progress = Progress(data=data.fingerprint, blocks=data.blocks)
        self.bar = tqdm(disable=None if progress and not process_index() else True, unit=" steps", desc=recipe.name)
        self.says = progress and not process_index()
        self.saved = time.monotonic()
        self.checkpoint: Checkpoint | None = None

    def run(self) -> dict[str, Any]:
        """Goes on to the end."""
        self.checkpoint = from_first(self._found)
        if self.checkpoint is not None:
            self.progress = Progress(**self.checkpoint.progress["progress"])
            self._check_data()
            self._say(f"going on from step {self.progress.step} ({self.progress.phase})")
        from_first(lambda: self.folder.cut_history(self.progress.lines))
        if self.recipe.train.trackers:
            self.accelerator.init_trackers(self.recipe.name, config=_flat(self.recipe.resolved()))
        try:
            if self.progress.phase == "choose":
                self._choose()
            if self.progress.phase == "refit":
                self._refit()
        finally:
            self.bar.close()
            if self.recipe.train.trackers:
                self.accelerator.end_training()
        summary = self._summary()
        from_first(lambda: self.folder.finish(summary))
        return summary

    def _found(self) -> Checkpoint | None:
        return self.folder.load()

    def _check_data(self) -> None:
        """What was begun on one data set is not gone on with on another."""
        data, progress = self.data, self.progress
        if progress.data not in (None, data.fingerprint):
            raise ValueError(
                f"{self.folder.path} was trained on data of the fingerprint {progress.data}, and those of "
                f"{self.recipe.data.path} have {data.fingerprint}: bring the former back, or start anew by --overwrite."
            )
        if progress.blocks not in (None, data.blocks):
            place = "stream" if progress.blocks > data.blocks else "memory"
            raise ValueError(
                f"{self.folder.path} shuffled its clips in {progress.blocks} blocks, and would in {data.blocks} now, "
                f"since features are kept elsewhere: set train.features={place}."
            )

    # Choosing an epoch.

    def _choose(self) -> None:
        model = agreed(lambda: build_model(self.recipe, self.data))
        trainer = self._trainer(model, self.data)
        chooses = self.data.passes("validation") is not None and (model.uses_labels or not self.data.labelled)
        chooses = chooses and self.recipe.train.choose == "best"
        try:
            line = self._validate(trainer, chooses) if not model.config.turns else None
            for epoch_is_over in self._steps(trainer, None):
                last = trainer.step == trainer.total
                if epoch_is_over and (trainer.epoch % self.recipe.train.eval_every == 0 or last):
                    line = self._validate(trainer, chooses)
                    if chooses and self._is_stale():
                        break
                if not last:
                    self._save_or_stop(trainer)
        finally:
            trainer.close()
        if not chooses:
            self._keep(model, line or {"step": trainer.step, "epoch": trainer.epoch, "validation": None})
        self.progress.chose, self.progress.epochs = chooses, trainer.epochs if model.config.turns else 0
        refits = self.recipe.train.refit and "validation" in self.data.splits
        self._end_phase("refit" if refits else "done", trainer)

    def _is_stale(self) -> bool:
        patience = self.recipe.train.patience
        return patience is not None and self.progress.stale >= patience

    def _trainer(self, model: CrossModalModel, data: TrainingData) -> Trainer:
        """At the step where the run stands."""
        settings = self.recipe.train
        batches = data.steps(settings.batch_size, settings.seed)
        if model.config.turns and batches.smallest < model.smallest_batch:
            raise ValueError(
                f"A batch would have {batches.smallest} clips, and this model needs {model.smallest_batch} at least to "
                f"see what correlates, better hundreds: raise train.batch_size, or bring more clips ({batches.rows})."
            )
        trainer = Trainer(model, batches, settings, self.accelerator)
        if self.checkpoint is not None and self.progress.step:
            trainer.restore(self.checkpoint)
        self.checkpoint = None
        self.bar.reset(total=trainer.total)
        self.bar.update(trainer.step)
        return trainer

    def _steps(self, trainer: Trainer, epochs: int | None) -> Iterator[bool]:
        """Its steps, timed and shown."""
        kind = "refit" if self.progress.phase == "refit" else "steps"
        start = time.perf_counter()
        for epoch_is_over in trainer.steps(epochs):
            self.progress.step = trainer.step
            self.bar.update()
            now = time.perf_counter()
            self.progress.seconds[kind] += now - start
            yield epoch_is_over
            start = time.perf_counter()

    def _validate(self, trainer: Trainer, chooses: bool) -> dict[str, Any]:
        """Fits what is fitted in closed form, scores, keeps the model if it is the best so far; a line of history."""
        losses = trainer.losses()
        start = time.perf_counter()
        model, progress = trainer.model, self.progress
        model.eval()
        validation = self.data.passes("validation")
        found = None
        if validation is not None:
            self._finish(model)
            found = validate(model, validation)
        progress.seconds["validation"] += time.perf_counter() - start
        line = {
            "step": trainer.step,
            "epoch": trainer.epoch,
            "seconds": sum(progress.seconds.values()),
            "loss": losses.pop("loss", None),
            "terms": losses,
            "validation": found,
        }
        from_first(lambda: self.folder.add_history(line))
        progress.lines += 1
        self.accelerator.log(_flat(line), step=trainer.step)
        best = progress.best["validation"]["map"] if progress.best and progress.best["validation"] else None
        better = chooses and found is not None and (best is None or round(found["map"], 9) > round(best, 9))
        progress.stale = 0 if better else progress.stale + 1
        if better:
            self._keep(model, line)
        self._show(line, better, trainer.epochs)
        return line

    def _finish(self, model: CrossModalModel) -> None:
        train = self.data.passes("train")
        assert train is not None
        agreed(lambda: model.finish(train, self.data.passes("validation")))

    def _keep(self, model: CrossModalModel, line: dict[str, Any]) -> None:
        """The model is what came out so far: by this line of the history it is the best, or the last."""
        if not line["validation"]:
            self._finish(model)
        model.config.trained_on = self.data.record("train")
        from_first(lambda: self.folder.save_model(model))
        self.progress.best = line | {"choice": model.choice}

    # Refitting.

    def _refit(self) -> None:
        """Train and validation together, as long as was chosen."""
        best = self.progress.best
        assert best is not None
        from_first(self._set_aside)
        self.data.release()
        joined = self.data.joined()
        model = agreed(lambda: build_model(self.recipe, joined))
        trainer = self._trainer(model, joined)
        self.bar.reset(total=best["epoch"] * len(trainer.batches))
        self.bar.update(trainer.step)
        try:
            for _ in self._steps(trainer, best["epoch"]):
                self._save_or_stop(trainer)
        finally:
            trainer.close()
        start = time.perf_counter()
        chosen = from_first(lambda: load_model(str(self.folder.chosen / "model"))).to(self.data.device)
        everything = joined.passes("train")
        assert everything is not None
        agreed(lambda: model.finish_like(chosen, everything))
        model.config.trained_on = self.data.record(*self.data.splits)
        self.progress.seconds["refit"] += time.perf_counter() - start
        from_first(lambda: self.folder.save_model(model))
        self._end_phase("done", trainer)

    def _set_aside(self) -> None:
        """The chosen model becomes a run of its own, beside the refit one: both are shown."""
        aside = RunFolder(self.folder.chosen)
        if (aside.path / "recipe.yaml").is_file():
            return
        with swap_in(aside.model) as temporary:
            shutil.copytree(self.folder.model, temporary, dirs_exist_ok=True)
        shutil.copy(self.folder.path / "history.jsonl", aside.path / "history.jsonl")
        train = replace(self.recipe.train, refit=False)
        aside.write_recipe(replace(self.recipe, name=f"{self.recipe.name} before refit", train=train))

    # Saving, stopping, telling.

    def _save_or_stop(self, trainer: Trainer) -> None:
        """At the end of a step: saves if it is time, and ends if somebody asked for it."""
        settings = self.recipe.checkpoint
        asked = self.stop.signal is not None
        late = settings.every_minutes is not None and time.monotonic() - self.saved >= 60 * settings.every_minutes
        if world_size() > 1:
            # Clocks and signals differ between processes, steps do not.
            votes = trainer.step % VOTE == 0
            asked = votes and anywhere(asked, self.accelerator.device)
            late = votes and anywhere(late, self.accelerator.device)
        due = settings.every_steps is not None and trainer.step % settings.every_steps == 0
        if due or late or asked:
            self._save(trainer.checkpoint)
        if asked:
            where = f"step {trainer.step} in {self.folder.path}"
            raise StoppedError(self.stop.signal or 15, f"stopped and saved at {where}: go on with --resume")

    def _save(self, checkpoint: Any) -> None:
        content = checkpoint({"progress": asdict(self.progress)})
        content = content._replace(step=self.progress.steps_before + self.progress.step)
        from_first(lambda: self.folder.save(content, self.recipe.checkpoint.keep))
        self.saved = time.monotonic()

    def _end_phase(self, phase: str, trainer: Trainer) -> None:
        progress = self.progress
        progress.rows += trainer.step * trainer.batches.rows // max(len(trainer.batches), 1)
        progress.steps_before += progress.step
        progress.phase, progress.step = phase, 0
        self._save(lambda content: Checkpoint(0, {}, {}, dict(content)))
        self.checkpoint = None

    def _show(self, line: Mapping[str, Any], better: bool, epochs: int) -> None:
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in line["terms"].items()})
        found = line["validation"]
        terms = "  ".join(f"{name} {value:.4f}" for name, value in line["terms"].items())
        score = "" if found is None else f"  validation MAP {found['map']:.4f}{' *' if better else ''}"
        self._say(f"epoch {line['epoch']}/{epochs}  {terms}{score}")

    def _say(self, text: str) -> None:
        if self.says:
            tqdm.write(text, file=sys.stderr)

    def _summary(self) -> dict[str, Any]:
        progress, best = self.progress, self.progress.best or {}
        seconds = progress.seconds | {"total": sum(progress.seconds.values())}
        stepping = progress.seconds["steps"] + progress.seconds["refit"]
        device = self.accelerator.device
        return {
            "format": FORMAT,
            "name": self.recipe.name,
            "epoch": best.get("epoch"),
            "epochs": progress.epochs,
            "chosen_on": "validation" if progress.chose else None,
            "validation": best.get("validation"),
            "choice": best.get("choice"),
            "refit": self.recipe.train.refit and "validation" in self.data.splits,
            "data": {"id": self.recipe.data.path, **self.data.record(*self.data.splits)},
            "steps": progress.steps_before,
            "seconds": seconds,
            "clips_per_second": progress.rows / stepping if stepping else None,
            "peak_memory_mb": from_first(lambda: _peak_memory(device)),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processes": world_size(),
        }


def _peak_memory(device: torch.device) -> float | None:
    """Of this process; not known on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def _flat(content: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested numbers and words by their path, as trackers take them."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{path}{key}/")
        elif isinstance(value, (bool, int, float, str)):
            flat[f"{path}{key}"] = value
    return flat
