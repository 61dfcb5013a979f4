"""What a training came to, as a table on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from .recipe import Recipe
from .results import time_of
from .retrieval_scores import DIRECTIONS

NAMES = {"model": "test", "before_refit": "test, before refit"}


def render(outcome: Mapping[str, Any], recipe: Recipe) -> str:
    """A run's summary, or the table of a grid."""
    return _grid(outcome, recipe) if "rows" in outcome else _run(outcome, recipe)


def _run(summary: Mapping[str, Any], recipe: Recipe) -> str:
    rows = [(f"validation, epoch {summary['epoch']}", summary["validation"])] if summary["validation"] else []
    rows += [(NAMES[name], scores) for name, scores in summary.get("final", {}).items()]
    lines = ["", f"{summary['name']}: {_what(summary)}", ""]
    if rows:
        width = max(len(name) for name, _ in rows)
        lines.append(f"{'MAP (measured)':{width}}  audio->visual  visual->audio    mean")
        lines += [f"{name:{width}}  {_figures(scores)}" for name, scores in rows]
        lines.append("")
    if (summary["validation"] or {}).get("relevance") == "pair":
        lines.append("Nobody annotated the validation clips: only a query's own pair is relevant in its MAP.")
    if summary["choice"]:
        chosen = {key: value for key, value in summary["choice"].items() if key not in ("validation_map", "candidates")}
        how = "chosen on validation" if "validation_map" in summary["choice"] else "not chosen"
        lines.append(f"Fusion: {', '.join(_said(chosen))} ({how}).")
    lines += [_cost(summary), f"Model: {recipe.folder / 'model'}"]
    if not summary.get("final"):
        lines.append("Test was not looked at: --resume --final scores it, once you are done choosing.")
    return "\n".join(lines)


def _what(summary: Mapping[str, Any]) -> str:
    rows = summary["data"]["rows"]
    learnt = "train and validation" if summary["refit"] else "train"
    count = sum(rows.values()) if summary["refit"] else rows["train"]
    if not summary["epochs"] or not summary["steps"]:
        return f"fitted in closed form to {learnt}, {count:,} clips"
    chosen = "chosen on validation" if summary["chosen_on"] else "the last; nothing was chosen"
    refit = f", then refit on {learnt}" if summary["refit"] else ""
    return f"epoch {summary['epoch']} of {summary['epochs']} ({chosen}){refit}, {count:,} clips"


def _said(choice: Mapping[str, Any]) -> list[str]:
    return [str(value) if key == "candidate" else f"{key.replace('_', ' ')} {value}" for key, value in choice.items()]


def _figures(scores: Mapping[str, Any]) -> str:
    shown = ["-" if scores[name] is None else f"{scores[name]:.4f}" for name in (*DIRECTIONS, "map")]
    return f"{shown[0]:>13}  {shown[1]:>13}  {shown[2]:>6}"


def _cost(summary: Mapping[str, Any]) -> str:
    seconds = {what: value for what, value in summary["seconds"].items() if value}
    parts = ", ".join(f"{what} {time_of(value)}" for what, value in seconds.items())
    speed = f"; {summary['clips_per_second']:,.0f} clips a second" if summary["clips_per_second"] else ""
    memory = f", peak memory {summary['peak_memory_mb']:,.0f} MB" if summary["peak_memory_mb"] else ""
    where = f"{summary['device']}, {summary['processes']} process{'es' if summary['processes'] > 1 else ''}"
    return f"Time: {parts}{speed}{memory} ({where})."


def _grid(table: Mapping[str, Any], recipe: Recipe) -> str:
    keys: Sequence[str] = list(table["grid"])
    final = any("final" in row for row in table["rows"])
    head = [*keys, "validation MAP", *(["test MAP"] if final else []), "epoch", "seconds", "cell"]
    rows = []
    for row in table["rows"]:
        score = "diverged" if "failed" in row else "-" if row["map"] is None else f"{row['map']:.4f}"
        test = [f"{row['final']['model']['map']:.4f}" if "final" in row else "-"] if final else []
        last = [str(row["epoch"]), f"{row['seconds']:.1f}"] if "failed" not in row else ["-", "-"]
        rows.append([*(str(row[key]) for key in keys), score, *test, *last, row["cell"]])
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = ["", f"{table['name']}: {len(rows)} cells, the best on validation first (measured)", ""]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    lines += ["", f"Table: {recipe.folder / 'table.json'}"]
    if {"model.alpha", "model.beta"} <= set(keys):
        lines.append(f"The surface: dualspace report {recipe.folder} --out report.html")
    return "\n".join(lines)
