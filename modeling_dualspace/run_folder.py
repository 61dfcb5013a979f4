"""A run on disk: its recipe, its history, its checkpoints, the model that came out, and who is at work on it."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoints import Checkpoint, checkpoints_in, load_checkpoint, save_checkpoint
from .files import locked, recover, swap_in, write_file, write_json
from .recipe import NO_MATTER, Recipe
from .results import Run

OUTCOME = ("history.jsonl", "summary.json", "checkpoints", "model", "before-refit", "results", "trackers")
MADE = (*OUTCOME, "final.jsonl", ".lock", "recipe.yaml")
"""All that is ever in a run's folder."""


class RunFolder:
    """Reads and writes what is below `runs/<name>`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.model, self.chosen = path / "model", path / "before-refit"
        self.checkpoints = path / "checkpoints"
        self._history, self._summary = path / "history.jsonl", path / "summary.json"

    def open(self, recipe: Recipe, *, resume: bool) -> None:
        """Makes the folder, or finds in it a run of the same recipe to go on with; raises where neither can be."""
        self.check(recipe, resume=resume)
        for folder in (self.path, self.checkpoints, self.chosen):
            recover(folder)
        if not self.begun:
            self.write_recipe(recipe)

    @property
    def begun(self) -> bool:
        """Whether anything has come of a run here."""
        return any((self.path / name).exists() for name in OUTCOME)

    def check(self, recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raises where `open` would, or `clear` before it; changes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file, and a run is a folder: choose another `output`.")
        self._check_ours()
        if overwrite or not self.begun:
            return
        if not resume:
            at = "a finished run" if self.summary else f"a run at step {self.latest_step or 0}"
            raise ValueError(
                f"{self.path} holds {at}: go on with it by --resume, start it anew by --overwrite, or name another "
                "folder by output=FOLDER."
            )
        difference = _difference(Run(self.path).recipe, recipe.resolved())
        if difference:
            raise ValueError(
                f"{self.path} is a run of another recipe, and cannot be gone on with: {difference}. Start it anew by "
                "--overwrite, or name another folder by output=FOLDER."
            )

    def clear(self) -> None:
        """Removes a former run, but for the log of who looked at test: that was looked at all the same."""
        self._check_ours()
        for name in MADE:
            place = self.path / name
            if place.is_dir():
                shutil.rmtree(place)
            elif name not in (".lock", "final.jsonl"):
                place.unlink(missing_ok=True)

    def _check_ours(self) -> None:
        found = [one.name for one in self.path.iterdir()] if self.path.is_dir() else []
        foreign = [name for name in found if name not in MADE and not name.startswith(".tmp-")]
        if foreign:
            raise ValueError(
                f"{self.path} holds {foreign[0]}, which no run makes, so it is not trained in: name another folder by "
                "output=FOLDER."
            )

    def write_recipe(self, recipe: Recipe) -> None:
        """As it was resolved."""
        write_file(self.path / "recipe.yaml", recipe.to_yaml().encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains here meanwhile; the system lets go when the process ends, however it ends."""
        with locked(self.path, f"Another process is training in {self.path}: name another folder by output=."):
            yield

    @property
    def latest_step(self) -> int | None:
        """Of the newest checkpoint."""
        found = checkpoints_in(self.checkpoints)
        return int(found[0].name.removeprefix("step-")) if found else None

    def save(self, checkpoint: Checkpoint, keep: int) -> None:
        """A checkpoint; where that fails, the former ones stay as they are."""
        try:
            save_checkpoint(self.checkpoints, checkpoint, keep)
        except OSError as error:
            what = f"{error.strerror}: {error.filename or self.checkpoints}" if error.strerror else str(error)
            last = self.latest_step
            rest = f"the one of step {last} is whole" if last is not None else "there is none yet"
            raise RuntimeError(
                f"The checkpoint of step {checkpoint.step} could not be written ({what}), and {rest}. Make room, or "
                "mend the folder, and go on with --resume."
            ) from None

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole."""
        return load_checkpoint(self.checkpoints)

    def add_history(self, line: Mapping[str, Any]) -> None:
        """One line more."""
        text = json.dumps({key: _plain(value) for key, value in line.items()})
        with self._history.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def cut_history(self, lines: int) -> None:
        """Back to what there was when a checkpoint was saved: what followed will be seen again."""
        kept = self._history.read_bytes().splitlines()[:lines] if self._history.is_file() else []
        if kept or self._history.exists():
            write_file(self._history, b"".join(line + b"\n" for line in kept))

    def save_model(self, model: Any, processor: Any = None, *, to: Path | None = None) -> None:
        """The model as `from_pretrained` takes it, with its processor if it has one, in place of the one before."""
        with swap_in(to or self.model) as temporary:
            model.save_pretrained(temporary)
            if processor is not None:
                processor.save_pretrained(temporary)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What came out, of a run that is finished."""
        return Run(self.path).summary or None

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is over."""
        write_json(self._summary, summary)


def _plain(value: Any) -> Any:
    """A number that is none is written as none."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _difference(former: Any, now: Any, path: str = "") -> str | None:
    """The first key in which two recipes differ, in words."""
    if path in NO_MATTER:
        return None
    if isinstance(former, Mapping) and isinstance(now, Mapping):
        keys = [*former, *(key for key in now if key not in former)]
        found = (_difference(former.get(key), now.get(key), f"{path}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, found), None)
    return None if former == now else f"`{path}` was {former} there and is {now} now"
