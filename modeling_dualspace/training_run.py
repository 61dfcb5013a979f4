"""A whole training: choose an epoch on validation, refit on everything, say what came out; and never lose an epoch.

`train(recipe)` is what `dualspace train` and `training/train.py` call. What it writes is a run folder, which `evaluate`
and `report` read; what it returns is the content of its `summary.json`.
"""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from .checkpoints import Checkpoint
from .console import Stop, StoppedError, asked_to_stop, quiet
from .distributed import agreed, anywhere, from_first, process_index, world_size
from .files import swap_in
from .loading import find_processor, load_model
from .model_setup import build_model, check_config
from .modeling_crossmodal import CrossModalModel
from .recipe import Recipe
from .run_folder import RunFolder
from .trainer import Trainer
from .training_data import TrainingData
from .training_progress import Progress, flat, summarise
from .training_setup import make_accelerator, open_data
from .validation import validate

VOTE = 10
"""Steps after which several processes ask each other whether to save or to stop."""


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
        stack.enter_context(quiet())
        from_first(lambda: stack.enter_context(folder.locked()))
        from_first(lambda: _check(folder, recipe, resume, overwrite))
        summary = None if overwrite else from_first(lambda: folder.summary)
        if summary is not None:
            return summary
        # What is wrong with data and settings is said before anything former is removed, or anything is written.
        data = data or open_data(recipe, accelerator.device)
        check_config(recipe, data)
        from_first(lambda: _open(folder, recipe, resume, overwrite))
        with asked_to_stop() as stop:
            return _Training(recipe, data, accelerator, folder, stop, progress).run()


def _check(folder: RunFolder, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    folder.check(recipe, resume=resume, overwrite=overwrite)
    if overwrite and recipe.init and Path(recipe.init).resolve().is_relative_to(folder.path.resolve()):
        raise ValueError(f"{recipe.init} lies in {folder.path}, which would be removed: name another `output`.")


def _open(folder: RunFolder, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    if overwrite:
        folder.clear()
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
        self.processor = agreed(lambda: None if process_index() else self._find_processor())

    def _find_processor(self) -> Any:
        """What made the features of the data, where that is known: it is saved beside the model."""
        made = self.data.description
        spec = None if made is None else made.feature_spec
        places = [(self.recipe.data.path, "dataset"), *([(self.recipe.init, "model")] if self.recipe.init else [])]
        return find_processor(spec, *places)

    def run(self) -> dict[str, Any]:
        """Goes on to the end."""
        self.checkpoint = from_first(self.folder.load)
        if self.checkpoint is not None:
            known = {entry.name for entry in fields(Progress)}
            found = self.checkpoint.progress["progress"]
            self.progress = Progress(**{key: value for key, value in found.items() if key in known})
            self._check_data()
            self._say(f"going on from step {self.progress.step} ({self.progress.phase})")
        from_first(lambda: self.folder.cut_history(self.progress.lines))
        if self.recipe.train.trackers:
            self.accelerator.init_trackers(self.recipe.name, config=flat(self.recipe.resolved()))
        try:
            if self.progress.phase == "choose":
                self._choose()
            if self.progress.phase == "refit":
                self._refit()
        finally:
            self.bar.close()
            for tracker in self.accelerator.trackers:  # `end_training` would end the group of processes too
                tracker.finish()
            self.accelerator.trackers = []
        summary = summarise(self.recipe, self.progress, self.data, self.accelerator.device)
        from_first(lambda: self.folder.finish(summary))
        return summary

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
        settings, model = self.recipe.train, build_model(self.recipe, self.data)
        trainer = self._trainer(model, self.data)
        chooses = self.data.passes("validation") is not None and (model.uses_labels or not self.data.labelled)
        chooses = chooses and settings.choose == "best" and bool(model.config.turns)  # a closed form has no epochs
        if trainer.epochs > settings.epochs:
            self._say(f"{trainer.epochs} epochs, since train.min_steps asks for {settings.min_steps} steps")
        try:
            line = None if model.config.turns else self._validate(trainer, chooses)
            for epoch_is_over in self._steps(trainer, None):
                last, before = trainer.step == trainer.total, self.progress.best
                if epoch_is_over and (trainer.epoch % settings.eval_every == 0 or last):
                    line = self._validate(trainer, chooses)
                    if chooses and self._is_stale():
                        break
                if not last:
                    self._save_or_stop(trainer, due=self.progress.best is not before)
        finally:
            trainer.close()
        if not chooses:
            self._keep(model, line or {"step": trainer.step, "epoch": trainer.epoch, "validation": None})
        refits = settings.refit and "validation" in self.data.splits
        self.progress.chose, self.progress.epochs = chooses, trainer.epochs if model.config.turns else 0
        if refits:
            from_first(self._set_aside)
        self._end_phase("refit" if refits else "done", trainer)

    def _is_stale(self) -> bool:
        patience = self.recipe.train.patience
        return patience is not None and self.progress.stale >= patience

    def _trainer(self, model: CrossModalModel, data: TrainingData) -> Trainer:
        """At the step where the run stands."""
        settings = self.recipe.train
        if self.progress.phase == "refit":  # the schedule is that of the run that chose
            settings = replace(settings, epochs=max(self.progress.epochs, 1), min_steps=0)
        batches = data.steps(settings.batch_size, settings.seed)
        trainer = Trainer(model, batches, settings, self.accelerator)
        if self.checkpoint is not None and self.progress.step:
            trainer.restore(self.checkpoint)
        self.checkpoint = None
        self.bar.reset(total=trainer.total)
        self.bar.update(trainer.step)
        return trainer

    def _steps(self, trainer: Trainer, epochs: int | None) -> Iterator[bool]:
        """Its steps, timed and shown."""
        start = time.perf_counter()
        for epoch_is_over in trainer.steps(epochs):
            self.progress.step = trainer.step
            self.bar.update()
            self._count(start)
            yield epoch_is_over
            start = time.perf_counter()

    def _count(self, start: float, kind: str | None = None) -> None:
        """The time since then was spent on this."""
        kind = kind or ("refit" if self.progress.phase == "refit" else "steps")
        self.progress.seconds[kind] += time.perf_counter() - start

    def _validate(self, trainer: Trainer, chooses: bool) -> dict[str, Any]:
        """Fits what is fitted in closed form, scores, keeps the model if it is the best so far; a line of history."""
        start = time.perf_counter()
        losses = trainer.losses()  # waits for the device: the time of its steps
        self._count(start)
        start = time.perf_counter()
        model, progress = trainer.model, self.progress
        model.eval()
        validation = self.data.passes("validation")
        found = None
        if validation is not None:
            self._finish(model)
            found = validate(model, validation)
        self._count(start, "validation")
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
        self.accelerator.log(flat(line), step=trainer.step)
        best = progress.best["validation"]["map"] if progress.best and progress.best["validation"] else None
        better = chooses and found is not None and (best is None or round(found["map"], 9) > round(best, 9))
        progress.stale = 0 if better else progress.stale + 1
        if better:
            self._keep(model, line)
        self._show(line, better, trainer.epochs if model.config.turns else 0)
        return line

    def _finish(self, model: CrossModalModel) -> None:
        train = self.data.passes("train")
        assert train is not None
        model.finish(train, self.data.passes("validation"))

    def _keep(self, model: CrossModalModel, line: dict[str, Any]) -> None:
        """The model is what came out so far: by this line of the history it is the best, or the last."""
        if not line["validation"]:
            start = time.perf_counter()
            self._finish(model)
            self._count(start)  # of a closed form without validation that is all there is
        model.config.trained_on = self.data.record("train")
        from_first(lambda: self.folder.save_model(model, self.processor))
        self.progress.best = line | {"choice": model.choice}

    # Refitting.

    def _refit(self) -> None:
        """Train and validation together, as long as was chosen."""
        best = self.progress.best
        assert best is not None
        self.data.release()
        joined = self.data.joined()
        model = build_model(self.recipe, joined, say=False)
        trainer = self._trainer(model, joined)
        self.bar.reset(total=best["epoch"] * len(trainer.batches))
        self.bar.update(trainer.step)
        try:
            for epoch_is_over in self._steps(trainer, best["epoch"]):
                if epoch_is_over and trainer.epoch % self.recipe.train.eval_every == 0:
                    losses = trainer.losses()
                    said = {f"refit/{name}": value for name, value in losses.items()}
                    self.accelerator.log(
                        said, step=self.progress.steps_before + trainer.step
                    )  # trackers go forward only
                    self.bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
                    terms = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
                    self._say(f"refit, epoch {trainer.epoch}/{best['epoch']}  {terms}")
                self._save_or_stop(trainer)
            start = time.perf_counter()
            trainer.losses()
        finally:
            trainer.close()
        chosen = from_first(lambda: load_model(str(self.folder.chosen / "model"))).to(self.data.device)
        everything = joined.passes("train")
        assert everything is not None
        model.finish_like(chosen, everything)
        model.config.trained_on = self.data.record(*self.data.splits)
        self._count(start)
        from_first(lambda: self.folder.save_model(model, self.processor))
        self._end_phase("done", trainer)

    def _set_aside(self) -> None:
        """The chosen model becomes a run of its own, beside the refit one: both are shown."""
        aside = RunFolder(self.folder.chosen)
        with swap_in(aside.model) as temporary:
            shutil.copytree(self.folder.model, temporary, dirs_exist_ok=True)
        shutil.copy(self.folder.path / "history.jsonl", aside.path / "history.jsonl")
        train = replace(self.recipe.train, refit=False)
        aside.write_recipe(replace(self.recipe, name=f"{self.recipe.name} before refit", train=train))

    # Saving, stopping, telling.

    def _save_or_stop(self, trainer: Trainer, due: bool = False) -> None:
        """At the end of a step: saves if it is due or time, and ends if somebody asked for it."""
        settings = self.recipe.checkpoint
        asked = self.stop.signal is not None
        late = settings.every_minutes is not None and time.monotonic() - self.saved >= 60 * settings.every_minutes
        if world_size() > 1:
            # Clocks and signals differ between processes, steps do not.
            votes = trainer.step % VOTE == 0
            asked, late = anywhere(asked, late, device=self.accelerator.device) if votes else (False, False)
        due = due or (settings.every_steps is not None and trainer.step % settings.every_steps == 0)
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
        found = line["validation"]
        shown = line["terms"] | ({} if found is None else {"MAP": found["map"]})
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()})
        terms = "  ".join(f"{name} {value:.4f}" for name, value in line["terms"].items())
        score = "" if found is None else f"  validation MAP {found['map']:.4f}{' *' if better else ''}"
        self._say(f"epoch {line['epoch']}/{epochs}  {terms}{score}" if epochs else f"fitted in closed form{score}")

    def _say(self, text: str) -> None:
        if self.says:
            tqdm.write(text, file=sys.stderr)
