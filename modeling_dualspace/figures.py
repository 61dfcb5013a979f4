"""The pictures of reports and cards: figures of matplotlib from plain numbers."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .figure_style import (
    MARKERS,
    PAPER,
    WIDTH,
    Style,
    add_legend,
    legend_rows,
    new_axes,
    short_names,
    tallest,
    wrapped,
)  # fmt: skip
from .optional import require


def clips_per_class(style: Style, counts: Mapping[str, Mapping[str, int]]) -> Any:
    """Clips of each class, a bar made of its splits.

    Args:
        style: of the figure.
        counts: by split, then by class.
    """
    names = list(next(iter(counts.values())))
    rows = [wrapped(name, 30) for name in names]
    figure, (axes,) = new_axes(style, 1.1 + (0.1 + 0.16 * tallest(rows)) * len(names))
    left = np.zeros(len(names))
    for number, (split, of_class) in enumerate(counts.items()):
        width = np.array([of_class.get(name, 0) for name in names])
        axes.barh(range(len(names)), width, left=left, color=style.colour(number), label=split, height=0.7,
                  hatch=("", "///", "...")[number % 3], edgecolor=style.text, linewidth=0.4)  # fmt: skip
        left += width
    for row, total in enumerate(left):
        axes.annotate(f"{total:,.0f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=8,
                      color=style.text)  # fmt: skip
    axes.set_yticks(range(len(names)), rows)
    axes.set_xlim(0, (left.max() or 1) * 1.18)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel("clips")
    add_legend(figure, axes, style, columns=3)
    return figure


def loss_terms(
    style: Style, histories: Mapping[str, Sequence[Mapping[str, Any]]], numbers: Mapping[str, int] | None = None
) -> Any:
    """Each loss term, the sum, and the MAP on validation by epoch: one band each, as they share no scale.

    Args:
        style: of the figure.
        histories: by run, the lines of its history.jsonl.
        numbers: which of the series each is, where other figures have more of them.
    """
    series = {
        run: {key: [(line["epoch"], value) for line in history if (value := _values(line).get(key)) is not None]
              for key in _keys_of(history)}
        for run, history in histories.items()
    }  # fmt: skip
    bands = list(dict.fromkeys(key for lines in series.values() for key in lines))
    figure, axes = new_axes(style, 0.7 + 1.15 * len(bands) + 0.16 * legend_rows(histories), len(bands))
    for each, key in zip(axes, bands, strict=True):
        for place, (run, lines) in enumerate(series.items()):
            number = (numbers or {}).get(run, place)
            points = lines.get(key) or [(np.nan, np.nan)]
            each.plot(*zip(*points, strict=True), **style.line(number, marked=False), label=run,
                      marker="." if len(points) < 30 else None)  # fmt: skip
        each.set_ylabel(key)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    if len(histories) > 1:
        add_legend(figure, axes[0], style)
    return figure


def _values(line: Mapping[str, Any]) -> dict[str, float | None]:
    """One line of a history, flat."""
    return {"sum": line.get("loss"), **line["terms"], "MAP, validation": (line.get("validation") or {}).get("map")}


def _keys_of(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What any line of a history has a number for."""
    return list(dict.fromkeys(key for line in history for key, value in _values(line).items() if value is not None))


def precision_scope(
    style: Style,
    curves: Mapping[str, Mapping[str, float]],
    numbers: Mapping[str, int] | None = None,
    measure: str = "precision among the first K",
) -> Any:
    """Precision among the first K, or another measure there, of several models.

    Args:
        style: of the figure.
        curves: by model, precision by K.
        numbers: which of the series each is, where other figures have more of them.
        measure: what is measured.
    """
    figure, (axes,) = new_axes(style, 3.1 + 0.17 * legend_rows(curves))
    for place, (name, curve) in enumerate(curves.items()):
        number = (numbers or {}).get(name, place)
        points = sorted((int(k), value) for k, value in curve.items())
        points = [point for point in points if point[0] >= 10] or points  # the paper's scope begins there
        axes.plot(*zip(*points, strict=True), **style.line(number), markersize=4.5, label=name)
    axes.set_xlabel("scope K")
    axes.set_ylabel(measure)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-9) * 1.04)
    axes.xaxis.get_major_locator().set_params(integer=True)
    add_legend(figure, axes, style)
    return figure


def class_precision(
    style: Style, name: str, values: Mapping[str, float], dots: Mapping[str, Mapping[str, float]] | None = None
) -> Any:
    """MAP of each class: bars for one model, marks for others, or for a mean over several.

    Args:
        style: of the figure.
        name: of the model.
        values: by class.
        dots: by what they are, then by class.
    """
    dots, classes = dots or {}, list(values)
    rows = [wrapped(each, 30) for each in classes]
    height = 1.0 + (0.1 + 0.16 * tallest(rows)) * len(classes) + 0.17 * legend_rows([name, *dots])
    figure, (axes,) = new_axes(style, height)
    axes.barh(range(len(classes)), list(values.values()), color=style.colour(0), height=0.62, label=name)
    for number, (other, of_class) in enumerate(dots.items(), start=1):
        places = [of_class.get(each, np.nan) for each in classes]
        mark = MARKERS[(number + 2) % len(MARKERS)]
        axes.plot(places, range(len(classes)), linestyle="none", marker=mark, markersize=6, color=style.colour(number),
                  markeredgecolor=style.text, label=other)  # fmt: skip
    axes.set_yticks(range(len(classes)), rows)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel("mean average precision")
    add_legend(figure, axes, style, columns=1)
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
    figure, (axes,) = new_axes(style, 1.2 + 0.5 * len(alphas))
    image = axes.imshow(table, cmap="viridis", aspect="auto", origin="lower")
    digits = 3 if np.nanmax(table) - np.nanmin(table) > 0.01 else 4
    for row, column in np.argwhere(~np.isnan(table)):
        value = table[row, column]
        colour = "black" if _luminance(image.cmap(image.norm(value))) > 0.179 else "white"
        axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=colour, size=9)
        if plane and value > plane[1]:
            rectangle = require("matplotlib.patches", extra="report").Rectangle
            axes.add_patch(rectangle((column - 0.44, row - 0.44), 0.88, 0.88, fill=False, lw=2, ec="#ff5a36"))
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_xlabel("beta")
    axes.set_ylabel("alpha")
    axes.grid(False)
    title = measure + (f"\n{wrapped(f'framed: above {plane[0]} ({plane[1]:.3f})', 50)}" if plane else "")
    axes.set_title(title, size=9, loc="left", color=style.text)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.ax.tick_params(colors=style.text, labelsize=8)
    return figure


def _luminance(colour: Sequence[float]) -> float:
    """Relative, as the guidelines for contrast have it: above .179 black is read better than white."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def scatter(style: Style, groups: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> Any:
    """Points in a plane, coloured by class, each class named where its middle is; a marker for each group.

    Args:
        style: of the figure.
        groups: points `(n, 2)`; all groups in the same order of clips.
        labels: classes `(n,)`.
        names: of the classes.
    """
    shown, key = short_names(names, labels)
    figure, (axes,) = new_axes(style, WIDTH + 0.14 * (key.count("\n") + 2) * bool(key))
    for number, (group, points) in enumerate(groups.items()):
        colours = [style.colour(label) for label in labels]
        axes.scatter(*points.T, s=11, c=colours, marker=("o", "^")[number % 2], linewidths=0, alpha=0.75)
        axes.plot([], [], linestyle="none", marker=("o", "^")[number % 2], color=style.text, label=group)
    middles = {
        label: _middle(np.concatenate([points[labels == label] for points in groups.values()]))
        for label in np.unique(labels)
    }
    effects = require("matplotlib.patheffects", extra="report")
    for label, (x, y) in _apart(middles, shown, axes.get_xlim(), axes.get_ylim()).items():
        text = axes.text(x, y, shown[label], size=9, weight="bold", ha="center", va="center", color=style.text)
        if style is PAPER:
            text.set_path_effects([effects.withStroke(linewidth=2.5, foreground=style.background)])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE, first dimension")
    if key:
        figure.supxlabel(key, x=0.02, ha="left", size=8, color=style.text)
    axes.set_ylabel("t-SNE, second dimension")
    if len(groups) > 1:
        add_legend(figure, axes, style, place="upper")
    return figure


def _middle(points: np.ndarray) -> np.ndarray:
    """The point with the nearest neighbours: of two clusters it stands in one, where a median would lie between."""
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    return points[np.quantile(distances, 0.3, axis=1).argmin()]


def _apart(
    places: Mapping[int, np.ndarray], words: Mapping[int, str], across: tuple[float, float], upward: tuple[float, float]
) -> dict[int, np.ndarray]:
    """Places for words, moved inside and then up and down until none lies on another; their sizes are guessed."""
    letter, height = 0.0125 * (across[1] - across[0]), 0.05 * (upward[1] - upward[0])
    half = {label: letter * (len(words[label]) + 1) for label in places}
    moved = {}
    for label, (x, y) in places.items():
        inside = np.clip(x, across[0] + half[label], max(across[1] - half[label], across[0] + half[label]))
        moved[label] = np.array([inside, y], dtype=float)
    for _ in range(200):
        for one, other in itertools.combinations(moved, 2):
            gap = moved[one] - moved[other]
            if abs(gap[0]) < half[one] + half[other] and abs(gap[1]) < height:
                push = (height - abs(gap[1])) / 2 * (1 if gap[1] >= 0 else -1)
                moved[one][1] += push
                moved[other][1] -= push
    return moved


def similarity(style: Style, cosines: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Any:
    """Cosines of sounds (rows) and videos (columns), both in the order of their classes.

    Args:
        style: of the figure.
        cosines: `(n, n)`.
        labels: classes `(n,)`, ascending.
        names: of the classes.
    """
    shown, key = short_names(names, labels)
    figure, (axes,) = new_axes(style, 0.88 * WIDTH + 0.14 * (key.count("\n") + 2) * bool(key))
    image = axes.imshow(cosines, cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
    classes, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    middles, ticks = starts + counts / 2 - 0.5, [shown[each] for each in classes]
    size = 8 if len(classes) < 20 else 5.5
    axes.set_yticks(middles, ticks, size=size)
    axes.set_xticks(middles, ticks, size=size, rotation=90)
    for edge in starts[1:] - 0.5:
        axes.axhline(edge, color="black", linewidth=0.5)
        axes.axvline(edge, color="black", linewidth=0.5)
    axes.grid(False)
    axes.set_xlabel("video")
    if key:
        figure.supxlabel(key, x=0.02, ha="left", size=8, color=style.text)
    axes.set_ylabel("sound")
    bar = figure.colorbar(image, ax=axes, pad=0.02, shrink=0.7, label="cosine")
    bar.ax.tick_params(colors=style.text, labelsize=8)
    bar.ax.yaxis.label.set_color(style.text)
    return figure
