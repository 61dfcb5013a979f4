"""Results: what an evaluation leaves on disk for cards, tables and reports, and the run it belongs to."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from .files import short_digest
from .retrieval_scores import DIRECTIONS

FORMAT = 1
MEASURES = {
    "map": "MAP",
    "chance": "MAP by chance",
    "r_precision": "R-precision",
    "legacy_prefix_average": "legacy prefix average",
}
MEASURES_AT = {
    "map_at": "MAP@",
    "precision_scope": "precision@",
    "hit": "hit@",
    "recall": "class recall@",
    "pair_recall": "own pair within ",
}
KNOWN_BY: dict[str, Any] = {
    "model": {"id": None}, "data": {"fingerprint": None, "split": None}, "metrics": {"map": None},
}  # fmt: skip
"""What tells which result it is, and of what."""
COMPLETE: dict[str, Any] = {
    "model": dict.fromkeys(("id", "model_type", "fingerprint", "parameters")),
    "data": dict.fromkeys(("id", "config", "split", "fingerprint", "queries", "classes", "synthetic")),
    "metrics": {"map": None, "gallery": None} | {direction: {"queries": None} for direction in DIRECTIONS},
    "seconds": dict.fromkeys(("training", "embedding", "scoring")),
    "options": dict.fromkeys(("chosen_on", "refit", "legacy_prefix_average")),
    "environment": {"versions": {"torch": None}, "device": None, "processes": None},
} | dict.fromkeys(("seed", "recipe", "command", "date"))
"""What every result has, whatever was asked for."""
SEEN = {
    "trained": "The model was trained on these clips: the figures say nothing about clips it has not seen.",
    "chosen": "The model's epoch or fusion was chosen on these clips: the figures are better than on others.",
}
SHOWN = ("1", "10", "100", "1000")
"""The cut-offs a table on a terminal has room for."""


def model_folder(path: str) -> Path | None:
    """Where under `path` a model lies: there or, of a run, in `model`."""
    return next((place for place in (Path(path), Path(path, "model")) if (place / "config.json").is_file()), None)


def is_hub_id(name: str) -> bool:
    """Whether it can be the id of a repository on the Hub, `me/name`, and is no path here."""
    return not Path(name).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def run_folder(model: str) -> Path | None:
    """The run that a model, given by its folder or by that of the run, belongs to."""
    path = Path(model)
    if (path / "model" / "config.json").is_file() and not (path / "config.json").exists():
        return path
    place = path.resolve()
    if place.name != "model" or not (place / "config.json").is_file():
        return None
    return path.parent if path.name == "model" else place.parent


@dataclass(frozen=True)
class Run:
    """What a training left behind: nothing where there was none."""

    folder: Path | None

    @cached_property
    def recipe(self) -> dict[str, Any] | None:
        """As it was resolved."""
        file = self.folder / "recipe.yaml" if self.folder else None
        if file is None or not file.is_file():
            return None
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}.") from None
        parts = {str(file): content}
        if isinstance(content, dict):
            parts |= {
                f"`{name}` of {file}": content[name] for name in ("train", "model") if content.get(name) is not None
            }
        for name, part in parts.items():
            if not isinstance(part, dict):
                raise ValueError(f"{name} must hold keys and values, got {type(part).__name__}.")
        try:
            json.dumps(content, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file} holds what a result cannot ({error}): write it as text or as a number.") from None
        return content

    @cached_property
    def training(self) -> dict[str, Any]:
        """The recipe's part about it."""
        return (self.recipe or {}).get("train") or {}

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One entry a validation."""
        file = self.folder / "history.jsonl" if self.folder else None
        if file is None or not file.is_file():
            return []
        entries = []
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line, parse_constant=_no_number)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise ValueError(f"Line {number} of {file} is no JSON object: was it cut off? Remove that line.")
            entries.append(entry)
        return entries

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What came out, of a run that is finished."""
        file = self.folder / "summary.json" if self.folder else None
        if file is None or not file.is_file():
            return {}
        try:
            content = json.loads(file.read_bytes())
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"{file} is no JSON object: remove it, and finish the run again by --resume.")
        return content

    @property
    def seconds(self) -> float | None:
        """Of training, validations and a refit included; of an unfinished run up to its last validation."""
        finished = (self.summary.get("seconds") or {}).get("total")
        return finished or (self.history[-1].get("seconds") if self.history else None)

    @property
    def validated(self) -> bool:
        """Whether its epoch was chosen on validation; of an unfinished run, whether it may be."""
        if self.summary:
            return self.summary.get("chosen_on") == "validation"
        return any(entry.get("validation") for entry in self.history)

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Of its evaluations, by name."""
        files = sorted((self.folder / "results").glob("*.json")) if self.folder else []
        return [read_result(file) for file in files]


def _no_number(name: str) -> None:
    """NaN or infinity in a history: what a diverged run writes. No figure can show it, and nothing is there instead."""
    return None


def read_run(model: str) -> Run:
    """The run that a model belongs to, if any."""
    return Run(run_folder(model))


def is_synthetic(model: str) -> bool:
    """Whether a model was measured on made-up features, as far as its run says."""
    return any(result["data"].get("synthetic") for result in read_run(model).results)


def result_path(model: str, data: str, config: str | None, split: str) -> Path:
    """Where a result goes unless somebody says otherwise: into the run of the model, or below `results`."""
    parts = [Path(data).resolve().name if Path(data).exists() else data, config, split]
    name = _plain("-".join(part for part in parts if part))
    if _plain(split) != split:  # two slices may look alike then
        name += "-" + short_digest([split.encode()])[:6]
    return results_folder(model) / f"{name}.json"


def results_folder(model: str) -> Path:
    """Where all results of a model go: into its run, or below `results`."""
    run = run_folder(model)
    local = Path(model).resolve().name if Path(model).exists() else model
    return run / "results" if run else Path("results", _plain(local))


def _plain(name: str) -> str:
    """A name as a file can have it."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:120]


def check_result_file(path: Path) -> None:
    """Raises where the file that a result is to replace is none."""
    if path.is_file():
        try:
            read_result(path)
        except ValueError:
            raise ValueError(f"{path} is there and no result, so it is not overwritten: name another file.") from None


def check_same(path: Path, model: str, data: str) -> None:
    """Raises where the file holds a result of another model, or on other data, that happen to be called alike."""
    if not path.is_file():
        return
    former = read_result(path)
    for what, name in (("model", model), ("data", data)):
        other = str(former[what].get("id"))
        if other != name and Path(other).resolve() != Path(name).resolve() and run_folder(name) is None:
            raise ValueError(f"{path} holds the result of {other}, not of {name}: name another file with --out.")


def read_result(path: str | Path) -> dict[str, Any]:
    """One result; raises, naming the file, unless it is one of a known format."""
    path = Path(path)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path} is no JSON: expected a result, as `dualspace evaluate` writes it.") from None
    if not isinstance(result, dict):
        raise ValueError(f"{path} is no result, as `dualspace evaluate` writes it: got {type(result).__name__}.")
    if result.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {result.get('format')}, and this version reads {FORMAT}: evaluate the model again."
        )
    check_result(result, path, KNOWN_BY)
    return result


def check_result(result: Mapping[str, Any], name: Any, needed: Mapping[str, Any] = COMPLETE) -> None:
    """Raises, naming what is missing, unless a result has all it needs."""
    lacking = _missing(result, needed)
    if lacking:
        raise ValueError(f"{name} is no result, as `dualspace evaluate` writes it: it lacks {', '.join(lacking)}.")


def _missing(result: Mapping[str, Any], needed: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What a result must have and has not, by its path."""
    missing = []
    for key, parts in needed.items():
        if key not in result or (parts and not isinstance(result[key], Mapping)):
            missing.append(prefix + key)
        elif parts:
            missing += _missing(result[key], parts, f"{prefix}{key}.")
    return missing


def headline(metrics: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """The figures a result is known by, with their names: MAP or, where nobody annotated, how the own pair is found."""
    kind, name, path = "map", "MAP", ["map"]
    if metrics["map"] is None:
        kind, name, path = "pair_recall_at_10", "own pair among the first 10", ["pair_recall", "10"]
    values = {}
    for direction in DIRECTIONS:
        value: Any = metrics[direction]
        for key in path:
            value = value[key]
        values[f"{kind}_{direction}"] = (f"{name}, {direction.replace('_', ' ')}", float(value))
    mean = sum(value for _, value in values.values()) / len(values)
    return {kind: (name, float(mean))} | values


def render(result: Mapping[str, Any]) -> str:
    """The result as plain text."""
    data, metrics = result["data"], result["metrics"]
    made_up = ", SYNTHETIC features" if data["synthetic"] else ""
    config = f" {data['config']}," if data["config"] not in (None, "default") else ""
    lines = [
        "",
        f"{result['model']['id']} on {data['id']} ({config.strip()}{' ' if config else ''}{data['split']}{made_up}): "
        f"{_count(metrics['gallery'], 'clip')}",
    ]
    if metrics["map"] is None:
        lines.append("Nobody annotated these clips, so there is no MAP: this is the recall of each query's own pair.")
    else:
        lines.append("Over the full ranking, cosine, own pair in the gallery, ties by expectation (measured)")
    lines += ["", f"{'':24}  audio->visual  visual->audio    mean"]
    lines += [f"{name:24}  {one:13.4f}  {other:13.4f}  {(one + other) / 2:6.4f}" for name, one, other in _rows(metrics)]
    lines += _class_lines(metrics)
    return "\n".join([*lines, "", *notes_of(metrics), _times(result["seconds"])])


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    one, other = (metrics[direction] for direction in DIRECTIONS)
    rows = [(name, one[key], other[key]) for key, name in MEASURES.items() if one.get(key) is not None]
    for key, name in MEASURES_AT.items():
        values = one.get(key) or {}
        rows += [(f"{name}{k}", values[k], other[key][k]) for k in values if k in SHOWN]
    return rows


def _class_lines(metrics: Mapping[str, Any]) -> list[str]:
    one, other = (metrics[direction].get("per_class") or {} for direction in DIRECTIONS)
    if not one:
        return []
    width = max(24, *map(len, one))
    lines = ["", f"{'MAP by class':{width}}  audio->visual  visual->audio  queries"]
    for name, row in one.items():
        figures = ["-" if value["map"] is None else f"{value['map']:.4f}" for value in (row, other[name])]
        lines.append(f"{name:{width}}  {figures[0]:>13}  {figures[1]:>13}  {row['queries']:7,}")
    return lines


def notes_of(metrics: Mapping[str, Any]) -> list[str]:
    """What one must know of the figures: who has seen these clips, what was left out; one sentence each."""
    notes = [SEEN[metrics["seen"]]] if metrics.get("seen") in SEEN else []
    for direction in DIRECTIONS:
        excluded = metrics[direction].get("excluded_queries")
        if excluded:
            notes.append(
                f"{excluded:,} {'query' if excluded == 1 else 'queries'} {direction.replace('_', ' ')} without a class "
                "that any item of the gallery has: left out of all means but that of the own pair."
            )
    if metrics.get("unlabelled") and metrics["map"] is not None:
        notes.append(f"Left out: {_count(metrics['unlabelled'], 'clip')} of unknown class.")
    if metrics.get("unpaired"):
        notes.append(f"Left out: {_count(metrics['unpaired'], 'clip')} without a sound or a picture.")
    if metrics.get("clipped_cutoffs"):
        size, first = metrics["gallery"], metrics["clipped_cutoffs"][0]
        notes.append(f"The gallery has {_count(size, 'clip')}: cut-offs from {first:,} on are {size:,} here.")
    return notes


def _times(seconds: Mapping[str, float | None]) -> str:
    known = {what: seconds[what] for what in ("training", "embedding", "scoring") if seconds[what] is not None}
    return f"Time: {', '.join(f'{what} {time_of(value)}' for what, value in known.items())}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def time_of(seconds: Any) -> str:
    """Seconds in words."""
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 9.95 else f"{seconds:.2f} s"
