"""How figures of reports and cards look: legible in light, in dark and in print, for every eye.

Series differ in colour, in marker and in line, so that no figure is read by colour alone. On a page colours are names
(`var(--series-0)`), which its style sheet fills in for light and for dark; in a PNG they are those for white paper.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from .optional import require

LIGHT = ("#0072b2", "#d55e00", "#00805c", "#aa3377", "#785a00", "#3c3c3c", "#3f97cf", "#b4873c", "#c05a94", "#968787")
DARK = ("#56b4e9", "#ff9b57", "#2bd4a4", "#ee8fc4", "#e6c229", "#e0e0e0", "#1e90ff", "#ffd27a", "#ffb4e1", "#969696")
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

    def line(self, number: int, marked: bool = True) -> dict[str, Any]:
        """How a series is drawn: once colours come again, with other marks, which are hollow, on other lines.

        Args:
            number: of the series.
            marked: whether its points are.
        """
        turn = number // len(self.series)
        found = {"color": self.colour(number), "linestyle": LINES[(number + turn) % len(LINES)], "linewidth": 1.6}
        if marked:
            found["marker"] = MARKERS[(number + turn) % len(MARKERS)]
            found["markerfacecolor"] = self.background if turn % 2 else found["color"]
        return found


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
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", text)  # which no XML can have
    text = re.sub(r"<[^>]*>", lambda tag: _ours(tag[0], prefix), text)  # in tags alone: what people write stays
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', head)
    assert box is not None
    width = round(float(box[1]) * 4 / 3)  # points to pixels
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} {box[0]} width="{width}" role="img" aria-label={quoteattr(label)}>{rest}'


def _ours(tag: str, prefix: str) -> str:
    tag = re.sub(r"#0001[0-9a-f]{2}|#00000[123]", lambda found: _NAMES.get(found[0], found[0]), tag)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", tag)


def to_png(draw: Callable[[Style], Any]) -> bytes:
    """A figure for a card: on white, so that it is read on any page."""
    buffer = io.BytesIO()
    with _settings({}):
        draw(PAPER).savefig(buffer, format="png", dpi=200, facecolor=PAPER.background, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _settings(more: dict[str, Any]) -> Iterator[None]:
    """Whatever a person's own matplotlib is set to; a `$` in the name of a class is a `$`."""
    matplotlib = require("matplotlib", extra="report")
    ours = {**matplotlib.rcParamsDefault, "backend": "agg", "text.parse_math": False, **more}
    with matplotlib.rc_context(ours), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # on a page the reader's own fonts have it
        yield


def new_axes(style: Style, height: float, rows: int = 1) -> tuple[Any, list[Any]]:
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


def add_legend(figure: Any, axes: Any, style: Style, columns: int = 2, place: str = "lower") -> None:
    """Outside the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [wrapped(label) for label in labels]
    longest = max(map(len, labels), default=0)
    figure.legend(
        handles, labels, loc=f"outside {place} left", ncols=1 if longest > 24 else columns, frameon=False, fontsize=9,
        labelcolor=style.text, handlelength=3,
    )  # fmt: skip


def wrapped(name: str, width: int = 42) -> str:
    """A long name on several lines."""
    return textwrap.fill(name, width)


def legend_rows(names: Iterable[str]) -> int:
    """Lines that the names of a legend take, the long ones wrapped."""
    return sum(wrapped(name).count("\n") + 1 for name in names)


def tallest(words: Sequence[str]) -> int:
    """Lines of the tallest of some words."""
    return max(word.count("\n") + 1 for word in words)


def short_names(names: Sequence[str], labels: Any) -> tuple[dict[int, str], str]:
    """Names that can stand in a picture, of the classes that occur; else numbers, and the key to them."""
    classes = [int(label) for label in np.unique(labels)]
    if len(classes) <= 12 and max(len(names[each]) for each in classes) <= 24:
        return {each: names[each] for each in classes}, ""
    key = ",  ".join(f"{each + 1}\u00a0{names[each]}" for each in classes)
    return {each: str(each + 1) for each in classes}, textwrap.fill(key, 60)
