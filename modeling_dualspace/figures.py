"""The pictures of reports and cards: figures of matplotlib from plain numbers, legible in light, in dark and in print.

Series differ in colour, in marker and in line, so that no figure is read by colour alone. On a page colours are names
(`var(--series-0)`), which its style sheet fills in for light and for dark; in a PNG they are those for white paper.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from .optional import require

LIGHT = ("#0072b2", "#d55e00", "#00805c", "#aa3377", "#8a6d00", "#3c3c3c", "#3f97cf", "#b8860b", "#c05a94", "#6f6f6f")
DARK = ("#56b4e9", "#ff9b57", "#2bd4a4", "#ee8fc4", "#e6c229", "#e0e0e0", "#1e90ff", "#ffd27a", "#ffb3dd", "#a8a8a8")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")
WIDTH = 4.2
"""Inches: 403 pixels, so that a page of 400 shows letters hardly smaller than they are."""


@dataclass(frozen=True)
class Style:
    """Colours: those of paper, or the names of a page's."""

    series: tuple[str, ...]
    text: str
    muted: str
    background: str

    def colour(self, number: int) -> str:
        """Of a series."""
        return self.series[number % len(self.series)]


PAPER = Style(LIGHT, "#1a1a1a", "#767676", "#ffffff")
PAGE = Style(tuple(f"#0001{number:02x}" for number in range(len(LIGHT))), "#000001", "#000002", "#000003")
"""Numbers nothing else is coloured with: `to_svg` puts the names of a page's colours in their places."""
_NAMES = {PAGE.text: "var(--text)", PAGE.muted: "var(--muted)", PAGE.background: "var(--page)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(PAGE.series)
}


def to_svg(draw: Callable[[Style], Any], prefix: str, label: str) -> str:
    """A figure as an element of a page: text is text, colours are the page's, names are its own.

    Args:
        draw: makes the figure.
        prefix: for the names within, so that figures of one page do not share any.
        label: what a person who cannot see it is told.
    """
    buffer = io.StringIO()
    with _settings({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        draw(PAGE).savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"#0001[0-9a-f]{2}|#00000[123]", lambda found: _NAMES.get(found[0], found[0]), text)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', re.sub(r"url\(#", f"url(#{prefix}-", text))
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', head)
    assert box is not None
    width = round(float(box[1]) * 4 / 3)  # points to pixels
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} {box[0]} width="{width}" role="img" aria-label={quoteattr(label)}>{rest}'


def to_png(draw: Callable[[Style], Any]) -> bytes:
    """A figure for a card: on white, so that it is read on any page."""
    buffer = io.BytesIO()
    with _settings({}):
        draw(PAPER).savefig(buffer, format="png", dpi=200, facecolor=PAPER.background, metadata={"Software": None})
    return buffer.getvalue()


def _settings(more: dict[str, Any]) -> Any:
    """Whatever a person's own matplotlib is set to; a `$` in the name of a class is a `$`."""
    matplotlib = require("matplotlib", extra="report")
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", "text.parse_math": False, **more})


def _axes(style: Style, height: float, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure of stacked axes, in the manner of the house."""
    figure = require("matplotlib.figure", extra="report").Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, sharex=rows > 1)[:, 0]
    for each in axes:
        each.tick_params(colors=style.text, labelsize=9)
        for name, spine in each.spines.items():
            spine.set_color(style.muted)
            spine.set_visible(name in ("left", "bottom"))
        for part in (each.xaxis.label, each.yaxis.label, each.title):
            part.set_color(style.text)
            part.set_size(10)
        each.grid(True, color=style.muted, alpha=0.25, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, list(axes)


def _legend(figure: Any, axes: Any, style: Style, columns: int = 2) -> None:
    """Below the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    figure.legend(
        handles, labels, loc="outside lower left", ncols=1 if longest > 24 else columns, frameon=False, fontsize=9,
        labelcolor=style.text, handlelength=3,
    )  # fmt: skip


def clips_per_class(style: Style, counts: Mapping[str, Mapping[str, int]]) -> Any:
    """Clips of each class, a bar made of its splits.

    Args:
        style: of the figure.
        counts: by split, then by class.
    """
    names = list(next(iter(counts.values())))
    figure, (axes,) = _axes(style, 1.1 + 0.26 * len(names))
    left = np.zeros(len(names))
    for number, (split, of_class) in enumerate(counts.items()):
        width = np.array([of_class.get(name, 0) for name in names])
        axes.barh(names, width, left=left, color=style.colour(number), label=split, height=0.7,
                  hatch=("", "///", "...")[number % 3], edgecolor=style.text, linewidth=0.4)  # fmt: skip
        left += width
    for row, total in enumerate(left):
        axes.annotate(f"{total:,.0f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=8,
                      color=style.text)  # fmt: skip
    axes.set_xlim(0, left.max() * 1.14)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("clips")
    _legend(figure, axes, style, columns=3)
    return figure


def loss_terms(style: Style, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Each loss term, the sum, and the MAP on validation by epoch: one band each, as they share no scale.

    Args:
        style: of the figure.
        histories: by run, the lines of its history.jsonl.
    """
    series = {
        run: {key: [(line["epoch"], value) for line in history if (value := _values(line).get(key)) is not None]
              for key in _keys_of(history)}
        for run, history in histories.items()
    }  # fmt: skip
    bands = list(dict.fromkeys(key for lines in series.values() for key in lines))
    figure, axes = _axes(style, 0.7 + 1.15 * len(bands), len(bands))
    for each, key in zip(axes, bands, strict=True):
        for number, (run, lines) in enumerate(series.items()):
            points = lines.get(key) or [(np.nan, np.nan)]
            each.plot(*zip(*points, strict=True), color=style.colour(number), linestyle=LINES[number % len(LINES)],
                      label=run, linewidth=1.6, marker="." if len(points) < 30 else None)  # fmt: skip
        each.set_ylabel(key)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    if len(histories) > 1:
        _legend(figure, axes[0], style)
    return figure


def _values(line: Mapping[str, Any]) -> dict[str, float | None]:
    """One line of a history, flat."""
    return {"sum": line.get("loss"), **line["terms"], "MAP, validation": (line.get("validation") or {}).get("map")}


def _keys_of(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What any line of a history has a number for."""
    return list(dict.fromkeys(key for line in history for key, value in _values(line).items() if value is not None))


def precision_scope(style: Style, curves: Mapping[str, Mapping[str, float]]) -> Any:
    """Precision among the first K, of several models.

    Args:
        style: of the figure.
        curves: by model, precision by K.
    """
    figure, (axes,) = _axes(style, 3.1 + 0.18 * len(curves))
    for number, (name, curve) in enumerate(curves.items()):
        points = sorted((int(k), value) for k, value in curve.items())
        points = [point for point in points if point[0] >= 10] or points  # the paper's scope begins there
        axes.plot(*zip(*points, strict=True), color=style.colour(number), linestyle=LINES[number % len(LINES)],
                  marker=MARKERS[number % len(MARKERS)], markersize=4.5, linewidth=1.6, label=name)  # fmt: skip
    axes.set_xlabel("scope K")
    axes.set_ylabel("precision among the first K")
    axes.set_ylim(bottom=0)
    _legend(figure, axes, style)
    return figure


def class_precision(
    style: Style, name: str, values: Mapping[str, float], others: str = "", means: Mapping[str, float] | None = None
) -> Any:
    """MAP of each class: bars for one model, diamonds for a mean over several.

    Args:
        style: of the figure.
        name: of the model.
        values: by class.
        others: what the mean is over.
        means: by class.
    """
    classes = list(values)
    figure, (axes,) = _axes(style, 1.2 + 0.26 * len(classes))
    axes.barh(classes, list(values.values()), color=style.colour(0), height=0.62, label=name)
    if means:
        axes.plot([means.get(each, np.nan) for each in classes], classes, linestyle="none", marker="D", markersize=6,
                  color=style.colour(1), markeredgecolor=style.text, label=others)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("mean average precision")
    _legend(figure, axes, style, columns=1)
    return figure


def alpha_beta(
    style: Style, values: Mapping[tuple[float, float], float], measure: str, plane: tuple[str, float] | None = None
) -> Any:
    """MAP over the weights of two loss terms: a map of numbers, in which what beats the plane of a rival is framed.

    Args:
        style: of the figure.
        values: by (alpha, beta).
        measure: what the numbers are.
        plane: a rival, and its MAP.
    """
    alphas, betas = (sorted({pair[place] for pair in values}) for place in (0, 1))
    table = np.array([[values.get((alpha, beta), np.nan) for beta in betas] for alpha in alphas])
    figure, (axes,) = _axes(style, 1.2 + 0.5 * len(alphas))
    image = axes.imshow(table, cmap="viridis", aspect="auto", origin="lower")
    low, high = np.nanmin(table), np.nanmax(table)
    for row, column in np.argwhere(~np.isnan(table)):
        value = table[row, column]
        bright = value > low + 0.6 * (high - low)
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", color="black" if bright else "white", size=9)
        if plane and value > plane[1]:
            rectangle = require("matplotlib.patches", extra="report").Rectangle
            axes.add_patch(rectangle((column - 0.44, row - 0.44), 0.88, 0.88, fill=False, lw=2, ec="#ff5a36"))
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_xlabel("beta")
    axes.set_ylabel("alpha")
    axes.grid(False)
    axes.set_title(measure + (f"; framed: above {plane[0]} ({plane[1]:.3f})" if plane else ""), size=9, loc="left")
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.ax.tick_params(colors=style.text, labelsize=8)
    return figure


def scatter(style: Style, groups: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> Any:
    """Points in a plane, coloured by class, each class named where its middle is; a marker for each group.

    Args:
        style: of the figure.
        groups: points `(n, 2)`; all groups in the same order of clips.
        labels: classes `(n,)`.
        names: of the classes.
    """
    figure, (axes,) = _axes(style, WIDTH)
    for number, (group, points) in enumerate(groups.items()):
        colours = [style.colour(label) for label in labels]
        axes.scatter(*points.T, s=11, c=colours, marker=("o", "^")[number % 2], linewidths=0, alpha=0.75)
        axes.plot([], [], linestyle="none", marker=("o", "^")[number % 2], color=style.text, label=group)
    middles = {
        label: np.median(np.concatenate([points[labels == label] for points in groups.values()]), axis=0)
        for label in np.unique(labels)
    }
    effects = require("matplotlib.patheffects", extra="report")
    for label, (x, y) in _apart(middles, axes.get_xlim(), axes.get_ylim()).items():
        text = axes.text(x, y, names[label], size=9, weight="bold", ha="center", va="center", color=style.text)
        text.set_path_effects([effects.withStroke(linewidth=2.5, foreground=style.background)])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE, first dimension")
    axes.set_ylabel("t-SNE, second dimension")
    if len(groups) > 1:
        _legend(figure, axes, style)
    return figure


def _apart(
    places: Mapping[int, np.ndarray], across: tuple[float, float], upward: tuple[float, float]
) -> dict[int, np.ndarray]:
    """Places for words, moved up and down until none lies on another, whose sizes are guessed."""
    moved = {label: np.array(place, dtype=float) for label, place in places.items()}
    width, height = 0.2 * (across[1] - across[0]), 0.05 * (upward[1] - upward[0])
    for _ in range(50):
        for label, place in moved.items():
            for other in (moved[key] for key in moved if key != label):
                gap = place - other
                if abs(gap[0]) < width and abs(gap[1]) < height:
                    push = (height - abs(gap[1])) / 2 * (1 if gap[1] >= 0 else -1)
                    place[1] += push
                    other[1] -= push
    return moved


def similarity(style: Style, cosines: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Any:
    """Cosines of sounds (rows) and videos (columns), both in the order of their classes.

    Args:
        style: of the figure.
        cosines: `(n, n)`.
        labels: classes `(n,)`, ascending.
        names: of the classes.
    """
    figure, (axes,) = _axes(style, 0.88 * WIDTH)
    image = axes.imshow(cosines, cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
    classes, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    middles, ticks = starts + counts / 2 - 0.5, [names[each] for each in classes]
    axes.set_yticks(middles, ticks, size=8)
    axes.set_xticks(middles, ticks, size=8, rotation=90)
    for edge in starts[1:] - 0.5:
        axes.axhline(edge, color="black", linewidth=0.5)
        axes.axvline(edge, color="black", linewidth=0.5)
    axes.grid(False)
    axes.set_xlabel("video")
    axes.set_ylabel("sound")
    bar = figure.colorbar(image, ax=axes, pad=0.02, shrink=0.7, label="cosine")
    bar.ax.tick_params(colors=style.text, labelsize=8)
    bar.ax.yaxis.label.set_color(style.text)
    return figure
