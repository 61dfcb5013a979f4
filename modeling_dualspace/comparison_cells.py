"""The cells of a comparison: a system, a seed and a data set each; a run folder each, trained, scored, read again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .feature_schema import in_order
from .final_score import score_final
from .loading import data_fingerprint, load_splits
from .model_setup import check_settings
from .published import features_of, whose_data
from .recipe import Recipe
from .report_sources import key_of
from .results import Run, headline
from .retrieval_scores import DIRECTIONS
from .run_folder import RunFolder
from .suite import Suite
from .training_data import TrainingData
from .training_run import train
from .training_setup import make_accelerator, open_data

SPLIT = "test"


@dataclass(frozen=True)
class ComparedData:
    """A data set, and what tables say of it.

    Args:
        id: its folder, or its id on the Hub.
        config: of it.
        fingerprint: of what it holds.
        scored: likewise, as results on its test split have it: of that alone where there is no card.
        clips: by split.
        class_names: of its classes, if anybody annotated it.
        features: the networks that made them, sound and pictures, where its card says so.
        synthetic: whether they are made up.
        paper: `vegas` or `ave`, where the clips are the paper's.
    """

    id: str
    config: str | None
    fingerprint: str
    scored: str
    clips: dict[str, int]
    class_names: list[str] | None = None
    features: list[str] | None = None
    synthetic: bool = False
    paper: str | None = None

    @property
    def comparable(self) -> str | None:
        """The data set of the paper that this is, features and all."""
        return self.paper if self.features == ["vggish", "inception"] else None

    def facts(self) -> dict[str, Any]:
        """As the table has it."""
        return asdict(self) | {"comparable": self.comparable}


def read_data(path: str, config: str | None) -> tuple[ComparedData, TrainingData]:
    """Opens a data set and looks at it; raises unless it can be trained and tested on."""
    path = path if not Path(path).exists() else Path(path).as_posix()  # without a slash at its end
    splits = load_splits(path, config)
    if SPLIT not in splits or not len(splits[SPLIT]):
        raise ValueError(f"{path} has no clips to test on, only {', '.join(splits)}: its split must be called {SPLIT}.")
    data = TrainingData(splits)
    features = features_of(data.description)
    compared = ComparedData(
        id=path,
        config=config,
        fingerprint=data.fingerprint,
        scored=data_fingerprint(splits[SPLIT], SPLIT),
        clips={name: len(splits[name]) for name in in_order(splits)},
        class_names=data.class_names,
        features=list(features) if features else None,
        synthetic=data.description is not None and data.description.synthetic,
        paper=whose_data(data.class_names, data.description),
    )
    return compared, data


@dataclass(frozen=True)
class Cell:
    """A system, a seed and a data set.

    Args:
        system: by its name in tables.
        data: what it is trained and tested on.
        recipe: what trains it, into a folder of its own.
    """

    system: str
    data: ComparedData
    recipe: Recipe

    @property
    def seed(self) -> int:
        """Of weights, order and dropout."""
        return self.recipe.train.seed

    @property
    def folder(self) -> Path:
        """Where its run is; two systems of the same settings share it."""
        return self.recipe.folder

    @property
    def title(self) -> str:
        """As a line of progress has it."""
        return f"{self.system}, seed {self.seed}, {Path(self.data.id).name}"

    @property
    def finished(self) -> bool:
        """Whether it was trained and scored."""
        if self.damage:
            return False
        run = Run(self.folder)
        return bool(run.summary) and bool(self._results(run))

    @property
    def damage(self) -> str | None:
        """What is broken of the run that lies there, so that it has to be made anew; None where nothing is."""
        run = Run(self.folder)
        parts: dict[str, Callable[[], Any]] = {"summary.json": lambda: run.summary, "results": lambda: run.results}
        if broken := _broken(parts):
            return broken
        if not run.summary:
            return None  # what is not finished goes on from the newest checkpoint that is whole
        model = self.folder / "model"
        if not (model / "config.json").is_file() or not list(model.glob("*.safetensors")):
            return "its model is gone"
        parts = {"recipe.yaml": lambda: run.recipe, "history.jsonl": lambda: run.history}
        if self._results(run):
            parts["summary.json or result"] = self.record
        return _broken(parts)

    def _results(self, run: Run) -> list[Mapping[str, Any]]:
        """On test, the newest last."""
        found = [result for result in run.results if key_of(result) == (self.data.scored, SPLIT)]
        return sorted(found, key=lambda result: result.get("date") or "")

    def record(self) -> dict[str, Any]:
        """What the table says of it, once it is finished."""
        run = Run(self.folder)
        result = self._results(run)[-1]
        summary, metrics = run.summary, result["metrics"]
        figures = headline(metrics)
        measure = next(iter(figures.values()))[0]
        names = ("map", *DIRECTIONS)
        found: dict[str, float | None] = {name: value for name, (_, value) in zip(names, figures.values(), strict=True)}
        if result["options"]["legacy_prefix_average"]:
            found["legacy_prefix_average"] = _mean([metrics[way].get("legacy_prefix_average") for way in DIRECTIONS])
        return {
            "seed": self.seed,
            "cell": self.folder.name,
            "measure": measure,
            **found,
            "classes": {way: _class_maps(metrics[way]) for way in DIRECTIONS},
            "updates": summary["steps"],
            "seconds": summary["seconds"]["total"],
            "device": summary["device"],
            "threads": summary.get("threads"),
        }


def _broken(parts: Mapping[str, Callable[[], Any]]) -> str | None:
    """The first part that cannot be read as what it is; a disk that fails is another matter."""
    for name, read in parts.items():
        try:
            read()
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"its {name} {'are' if name == 'results' else 'is'} broken"
    return None


def _class_maps(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: row["map"] for name, row in (metrics.get("per_class") or {}).items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def make_cells(suite: Suite, data: Sequence[ComparedData], out: Path) -> list[Cell]:
    """All of them: data set by data set, in the order of the systems, seed by seed."""
    cells = []
    for one in data:
        for name, system in suite.systems.items():
            for seed in suite.seeds if system.drawn else suite.seeds[:1]:
                recipe = suite.recipe(name, seed, {"path": one.id, "config": one.config}, one.paper)
                folder = out / "cells" / recipe.fingerprint(one.fingerprint)
                cells.append(Cell(name, one, replace(recipe, output=str(folder))))
    return cells


def check_cells(suite: Suite, cells: Sequence[Cell], data: Mapping[str, TrainingData]) -> None:
    """Raises, naming the key, where the suite sets of a system what it cannot have on whatever data.

    What cannot be done on one data set (no labels, features too narrow) is a sentence in the table, as it was.

    Args:
        suite: what is compared.
        cells: that are not finished.
        data: by fingerprint.
    """
    for cell in {(cell.system, cell.data.fingerprint): cell for cell in cells}.values():
        try:
            check_settings(cell.recipe, data[cell.data.fingerprint])
        except ValueError as error:
            place = suite.place_of(cell.system, str(error))
            where = f"The system {cell.system} of the suite {suite.name}{f', by {place}' if place else ''}"
            raise ValueError(f"{where}: {error}") from None


@dataclass
class Runner:
    """Trains and scores cells, one after another; the data set of the last stays open.

    Args:
        command: what was typed.
    """

    command: str | None = None
    _opened: dict[tuple[Any, ...], TrainingData] = field(default_factory=dict)

    def run(self, cell: Cell) -> None:
        """To its end, from wherever it stands."""
        recipe, folder = cell.recipe, RunFolder(cell.folder)
        if cell.damage:
            with folder.locked():
                folder.clear()
        if folder.path.is_dir() and not folder.summary:
            # Its name says that it is of the same settings and clips: where those lie may have changed.
            folder.write_recipe(recipe)
        accelerator = make_accelerator(recipe)
        key = (recipe.data, recipe.train.features, accelerator.device)
        if key not in self._opened:
            self._opened.clear()
            self._opened[key] = open_data(recipe, accelerator.device)
        train(recipe, data=self._opened[key], accelerator=accelerator, resume=True, progress=False)
        legacy = cell.data.comparable == "ave"  # beside figures that plausibly are such
        score_final(recipe, device=accelerator.device, command=self.command, legacy_prefix_average=legacy)
