"""The card of a model: its own numbers in our template, and the same for machines in `model-index`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult

from .card_template import fill, parse, plain, plain_command
from .resources import resource
from .results import Run, headline, is_hub_id, notes_of, time_of
from .retrieval_scores import DIRECTIONS
from .yaml_files import Dumper

TEMPLATE = "model_card.md"
CHECKED = 4
"""How many numbers of an embedding a card has room for."""


@dataclass(frozen=True)
class Measured:
    """A result, and what its data set is called where the model goes.

    Args:
        result: of these weights.
        shown: the data set's name there: of a repository, or of a folder.
        repo_id: of the data set, if it is on the Hub.
        card: the metadata of its card.
        before: of the same split, by the weights before they were refit.
    """

    result: Mapping[str, Any]
    shown: str
    repo_id: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None


def render(
    values: Mapping[str, Any], measured: Sequence[Measured], run: Run, looks: int, own: str | Path | None
) -> str:
    """The card.

    Args:
        values: `repo_id`, `license`, `config`, `check`, `fingerprint`, `remote_code`, `pictures`, `carbon`,
            `synthetic`, `processor`, and `init`, what it was tuned from, as it may be named.
        measured: the first is the one that the card is about.
        run: that the model came out of.
        looks: how often anybody scored it on test.
        own: a template that extends ours.
    """
    first, config = measured[0], values["config"]
    everything = (
        {"processor": None}
        | dict(values)
        | {
            "result": first.result,
            "results": [one.result for one in measured],
            "measured": [_part(one) for one in measured],
            "recipe": _recipe(run, first, config, values["init"]),
            "feature_spec": plain(config.feature_spec),
            "data_card": first.card,
            "data_repo": first.repo_id,
            "command": plain_command(first.result["command"]),
            "validation": _validation(run),
            "trained_on": _trained_on(config, first),
            "summary": _summary(run),
            "compute": _compute(run),
            "environment": _environment(first.result["environment"]),
            "class_names": _class_names(config),
            "limits": _limits(measured, looks, values["init"]),
        }
    )
    text = fill(resource(TEMPLATE), own, everything)
    card = parse(re.sub(r"\n{3,}", "\n\n", text), "model")
    said = card.data.get("datasets") or []
    names = [*(said if isinstance(said, list) else [said]), *(one.repo_id for one in measured if one.repo_id)]
    card.data["datasets"] = list(dict.fromkeys(names)) or None
    if values["carbon"] is not None:
        card.data["co2_eq_emissions"] = {"emissions": values["carbon"], "source": "as its owner says"}
    if is_hub_id(values["init"]):
        card.data["base_model"] = values["init"]
    card.data["model_name"] = values["repo_id"].split("/")[1]
    card.data["eval_results"] = [entry for one in measured for entry in _entries(one)]
    card.data["dualspace"] = {"fingerprint": values["fingerprint"], "check": values["check"]}
    return str(card)


def _entries(one: Measured) -> list[EvalResult]:
    """For `model-index`."""
    data = one.result["data"]
    return [
        EvalResult(
            task_type="audio-visual-retrieval",
            task_name="Audio-visual cross-modal retrieval",
            dataset_type=one.repo_id or one.shown,
            dataset_name=str(one.card.get("pretty_name") or one.shown),
            dataset_config=data["config"],
            dataset_split=data["split"],
            dataset_args={"fingerprint": data["fingerprint"]},
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for kind, (name, value) in headline(one.result["metrics"]).items()
    ]


def _part(one: Measured) -> dict[str, Any]:
    """What the template says of one split."""
    data, metrics = one.result["data"], one.result["metrics"]
    ranked = metrics["map"] is not None
    names = ("map", "r_precision") if ranked else ()
    rows = [_row(_called(one, "refit"), metrics, names[:1])] if ranked else []
    if ranked and one.before:
        rows.append(_row(_called(one, "before"), one.before["metrics"], names[:1]))
    rows += [_row("MAP by chance", metrics, ("chance",))] if ranked else []
    rows += [_row("R-precision", metrics, ("r_precision",))] if ranked else []
    rows += [_row(f"own pair among the first {k}", metrics, ("pair_recall", k)) for k in ("1", "10", "100")]
    return {
        "shown": f"[{one.repo_id}](https://huggingface.co/datasets/{one.repo_id})" if one.repo_id else f"`{one.shown}`",
        "split": data["split"],
        "config": data["config"],
        "fingerprint": data["fingerprint"],
        "clips": metrics["gallery"],
        "synthetic": data["synthetic"],
        "has_map": ranked,
        "rows": [row for row in rows if row],
        "command": plain_command(one.result["command"]),
        "date": one.result["date"][:10],
        "notes": notes_of(metrics),
        "classes": _classes(metrics),
    }


def _called(one: Measured, which: str) -> str:
    if one.before is None:
        return "**MAP**"
    return "**MAP**, refit on train and validation" if which == "refit" else "MAP, before the refit"


def _row(name: str, metrics: Mapping[str, Any], path: Sequence[str]) -> dict[str, str] | None:
    """Both directions and their mean; nothing where it was not measured."""
    values = []
    for direction in DIRECTIONS:
        value: Any = metrics[direction]
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        values.append(value)
    if None in values:
        return None
    figures = [f"{value:.4f}" for value in (*values, sum(values) / 2)]
    return {"name": name} | dict(zip((*DIRECTIONS, "mean"), figures, strict=True))


def _classes(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    one, other = (metrics[direction].get("per_class") or {} for direction in DIRECTIONS)
    rows = []
    for name, row in one.items():
        figures = ["-" if each["map"] is None else f"{each['map']:.4f}" for each in (row, other[name])]
        cells = {"name": name.replace("|", "\\|"), "queries": row["queries"]}
        rows.append(cells | dict(zip(DIRECTIONS, figures, strict=True)))
    return rows


def _recipe(run: Run, first: Measured, config: Any, init: str) -> str:
    """As it was resolved, without the places of one machine."""
    recipe = dict(run.recipe or {})
    if not recipe:
        return ""
    for name in ("output", "checkpoint"):
        recipe.pop(name, None)
    recipe["init"] = init or None
    data = dict(recipe.get("data") or {})
    data["path"] = first.shown if _is_own(config, first) else plain_command(str(data.get("path")))
    recipe["data"] = data
    train = dict(recipe.get("train") or {})
    for name in ("trackers", "features"):
        train.pop(name, None)
    recipe["train"] = train
    return yaml.dump(recipe, Dumper=Dumper, sort_keys=False, allow_unicode=True).strip().replace("```", "'''")


def _validation(run: Run) -> str:
    found, summary = run.summary.get("validation") or {}, run.summary
    if not found.get("map"):
        return ""
    chosen = ["epoch"] if summary.get("chosen_on") else []
    chosen += ["fusion"] if "validation_map" in (summary.get("choice") or {}) else []
    if (run.recipe or {}).get("init"):
        return ""  # what it was tuned from may have learnt these clips
    if not chosen:
        return f"On validation{', before the refit' if summary.get('refit') else ''}, MAP was {found['map']:.4f}."
    were = f"{' and '.join(chosen)} {'were' if len(chosen) > 1 else 'was'}"
    return f"On validation, on which its {were} chosen, MAP was {found['map']:.4f}, which flatters it."


def _trained_on(config: Any, first: Measured) -> str:
    record = getattr(config, "trained_on", None) or {}
    rows = " and ".join(f"{count:,} clips of {name}" for name, count in (record.get("rows") or {}).items())
    if not rows:
        return "data that nobody recorded"
    shown = first.shown if _is_own(config, first) else f"the data with fingerprint {record.get('fingerprint')}"
    return f"{rows} of {shown}"


def _is_own(config: Any, first: Measured) -> bool:
    """Whether the card is about the data that were trained on, as far as is known."""
    record = getattr(config, "trained_on", None) or {}
    return record.get("fingerprint", first.result["data"]["fingerprint"]) == first.result["data"]["fingerprint"]


def _summary(run: Run) -> str:
    summary = run.summary
    if not summary:
        return ""
    parts = [f"{summary['epochs']} epochs" if summary.get("epochs") else "in closed form"]
    if summary.get("epochs") and summary.get("epoch"):
        parts.append(f"epoch {summary['epoch']} kept")
    choice = summary.get("choice") or {}
    if choice.get("candidate"):
        parts.append(f"fusion {choice['candidate']}")
    return ", ".join(parts)


def _compute(run: Run) -> str:
    summary = run.summary
    if not run.seconds:
        return ""
    count = summary.get("processes") or 1
    device = f" on {summary['device']}, {count} process{'es' if count != 1 else ''}" if summary.get("device") else ""
    return f"Training took {time_of(run.seconds)}{device}."


def _environment(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{versions} on {found['device']}"


def _class_names(config: Any) -> str:
    names = plain(list((getattr(config, "id2label", None) or {}).values()))
    if not names or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return f"{len(names)}, without names"
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def _limits(measured: Sequence[Measured], looks: int, init: str) -> list[str]:
    found = []
    if init:
        found.append(
            f"It was tuned from `{plain(init)}`: whether that one had learnt some of these clips before, its card has "
            "to say."
        )
    if looks > 1:
        found.append(
            f"Its test clips were looked at {looks} times while it was made: each look makes the figure a little "
            "better than it is."
        )
    if measured[0].result["metrics"]["gallery"] < 1000:
        clips = measured[0].result["metrics"]["gallery"]
        found.append(f"It was measured on {clips:,} clips: another draw of them would give other digits.")
    return found
