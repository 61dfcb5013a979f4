"""Figures: drawn for the page and for paper from plain numbers, legible for every eye, whatever the names in them."""

import io
import itertools
import re
import xml.etree.ElementTree as ET
from functools import partial

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from modeling_dualspace import figures
from modeling_dualspace.figure_style import DARK, LIGHT, PAPER, to_png, to_svg

PLAIN = ["dog", "drum", "baby cry or infant cry"]
MARKED = ["a $x^2$ and $", '<b>bold</b> & "quoted"', "it's <!-- not --> &amp;"]
FOREIGN = ["日本語の犬", "صوت المطر", "Ünïcödé ☂"]
AVE = [
    "Church bell", "Male speech, man speaking", "Bark", "Fixed-wing aircraft, airplane", "Race car, auto racing",
    "Female speech, woman speaking", "Helicopter", "Violin, fiddle", "Flute", "Ukulele", "Frying (food)", "Truck",
    "Shofar", "Motorcycle", "Acoustic guitar", "Train horn", "Clock", "Banjo", "Goat", "Baby cry, infant cry", "Bus",
    "Chainsaw", "Cat", "Horse", "Toilet flush", "Rodents, rats, mice", "Accordion", "Mandolin",
]  # fmt: skip
MODELS = [f"dual-subspace-vegas-weighted-cluster-cca-lambda-0.5-seed-{seed}" for seed in range(9)]
FIGURES = ("clips", "loss", "scope", "classes", "grid", "scatter", "similarity")
AXES = {
    "clips": {"clips"}, "loss": {"epoch", "sum", "correlation", "MAP, validation"},
    "scope": {"scope K", "precision among the first K"}, "classes": {"mean average precision"},
    "grid": {"alpha", "beta"}, "scatter": {"t-SNE, first dimension", "t-SNE, second dimension"},
    "similarity": {"sound", "video", "cosine"},
}  # fmt: skip
TAGS = {"svg", "defs", "style", "g", "path", "use", "text", "tspan", "image", "clipPath", "rect", "pattern"}
SVG = "{http://www.w3.org/2000/svg}"


def history(run, epochs=3):
    lines = [
        {"epoch": epoch, "loss": 3 / epoch + run, "terms": {"correlation": -0.1 * epoch}}
        for epoch in range(1, epochs + 1)
    ]
    return [line | {"validation": {"map": 0.1 * line["epoch"]}} for line in lines]


def curve(shift=0.0):
    return {str(k): 0.9 - k / 2000 - shift for k in (1, 10, 100, 693)}


def drawing(figure, names=PLAIN, models=("dual",)):
    """Toy numbers in one of the figures, with these classes and these models, splits or groups."""
    generator = np.random.default_rng(0)
    labels = np.sort(np.arange(4 * len(names)) % len(names))
    values = dict(zip(names, np.linspace(0.1, 1, len(names)), strict=True))
    points = [generator.standard_normal((len(labels), 2)) + labels[:, None] for _ in models]
    return {
        "clips": partial(figures.clips_per_class, counts={each: dict.fromkeys(names, 70) for each in models}),
        "loss": partial(figures.loss_terms, histories={each: history(run) for run, each in enumerate(models)}),
        "scope": partial(figures.precision_scope, curves={each: curve(run / 99) for run, each in enumerate(models)}),
        "classes": partial(figures.class_precision, name=models[0], values=values,
                           dots={models[-1]: values} if len(models) > 1 else None),
        "grid": partial(figures.alpha_beta, values={(a, b): a + b for a in (0.0, 0.01, 1.0) for b in (0.0, 0.1)},
                        measure="MAP on test", plane=(models[-1], 0.5) if len(models) > 1 else None),
        "scatter": partial(figures.scatter, groups=dict(zip(models, points[:2])), labels=labels, names=names),  # noqa: B905
        "similarity": partial(figures.similarity, cosines=np.tanh(points[0] @ points[0].T), labels=labels, names=names),
    }[figure]  # fmt: skip


def parsed(draw, prefix="one"):
    text = to_svg(draw, prefix, "a label")
    return text, ET.fromstring(text)


def texts(root):
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def laid_out(draw):
    """The figure, as it was drawn on paper."""
    kept = []
    to_png(lambda style: kept.append(draw(style)) or kept[0])
    return kept[0]


def words(figure):
    """Every word that can be seen, with its box, of a figure that was drawn; those of ticks beyond the axes cannot."""
    figure.set_dpi(200)  # as it was laid out
    renderer = FigureCanvasAgg(figure).get_renderer()
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-6 * (high - low)
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low - slack <= tick.get_loc() <= high + slack}
    seen = [text for text in figure.findobj(Text) if text not in beyond and text.get_visible()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in seen if text.get_text().strip()]


@pytest.mark.parametrize("models", [["dual"], ["dual", "C-CCA", "DCCA"]], ids=["one", "many"])
@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_draws_on_a_page_and_on_paper(figure, models):
    draw = drawing(figure, models=models)
    text, root = parsed(draw)
    width, height = map(float, root.get("viewBox").split()[2:])
    assert root.tag == f"{SVG}svg" and width > 100 and height > 50 and root.get("aria-label") == "a label"
    assert AXES[figure] <= set(texts(root))
    if len(models) > 1 and figure not in ("grid", "similarity"):  # a legend
        assert {models[0], models[-1] if figure == "classes" else models[1]} <= set(texts(root))
    image = Image.open(io.BytesIO(to_png(draw)))
    image.load()
    assert image.format == "PNG" and abs(image.size[0] / image.size[1] / (width / height) - 1) < 0.02
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255) and np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize("figure", FIGURES)
def test_a_page_colours_its_figures_and_every_word_in_them(figure):
    text, root = parsed(drawing(figure, models=["dual", "C-CCA"]))
    assert not re.search("#0001[0-9a-f]{2}|#00000[123]", text, re.IGNORECASE)
    assert {"var(--text)", "var(--muted)"} <= set(re.findall(r"var\(--[\w-]+\)", text))
    on_a_colour = re.compile(r"\d\.\d{3}") if figure == "grid" else re.compile("(?!)")  # numbers on the map itself
    black = [
        "".join(each.itertext()) for each in root.iter(f"{SVG}text") if "fill: var(--" not in each.get("style", "")
    ]
    assert [word for word in black if not on_a_colour.fullmatch(word)] == []  # else it is black, on dark as well


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_of_one_page_share_no_name_and_need_nothing_else(figure):
    draw = drawing(figure, models=["dual", "C-CCA"])
    pages = [to_svg(draw, prefix, "") for prefix in ("one", "two")]
    for prefix, page in zip(("one", "two"), pages, strict=True):
        names = re.findall(r'\sid="([^"]*)"', page)
        assert len(set(names)) == len(names) and all(name.startswith(f"{prefix}-") for name in names)
        links = re.findall(r'href="([^"]*)"', page)
        inner = {link[1:] for link in links if link[0] == "#"} | set(re.findall(r"url\(#([^)]*)\)", page))
        assert inner <= set(names)
        assert all(link.startswith("data:image/png;base64,") for link in links if link[0] != "#")
        assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page) and "<script" not in page


@pytest.mark.parametrize("figure", FIGURES)
def test_the_same_numbers_give_the_same_bytes_whatever_a_person_has_set(figure):
    draw = drawing(figure, models=["dual", "C-CCA"])
    before = to_svg(draw, "one", "label")
    with matplotlib.rc_context(
        {"font.size": 20, "axes.facecolor": "red", "lines.linewidth": 9, "svg.fonttype": "path"}
    ):
        assert to_svg(draw, "one", "label") == before


@pytest.mark.parametrize("names", [MARKED, FOREIGN], ids=["markup", "other letters"])
@pytest.mark.parametrize("figure", FIGURES)
def test_names_are_text_and_shown_as_they_are(figure, names):
    draw = drawing(figure, names, models=names if figure in ("loss", "scope", "grid") else ["dual"])
    _, root = parsed(draw)
    shown = names[-1:] if figure == "grid" else names
    assert [name for name in shown if not any(name in each for each in texts(root))] == []
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= TAGS
    to_png(draw)  # nor does a letter that a font lacks end in a warning


def test_a_name_that_looks_like_our_own_marks_is_left_alone():
    names = ["#000001 and #000102", 'id="x" href="#y"', "url(#z)"]
    assert set(names) <= set(texts(parsed(drawing("clips", names))[1]))
    assert 'aria-label="&lt;b&gt; &amp; it\'s"' in to_svg(drawing("clips"), "one", "<b> & it's")


def test_what_is_missing_is_left_out():
    lines = [{"epoch": 1, "loss": None, "terms": {}}, {"epoch": 2, "loss": 1.5, "terms": {"kl": float("nan")}}]
    root = parsed(partial(figures.loss_terms, histories={"one": lines, "two": history(0), "three": []}))[1]
    assert {"sum", "kl", "correlation", "MAP, validation", "one", "two", "three"} <= set(texts(root))
    grid = {(0.1, 0.1): 0.25, (1.0, 0.01): 0.5}
    root = parsed(partial(figures.alpha_beta, values=grid, measure="MAP"))[1]
    assert [word for word in texts(root) if re.fullmatch(r"0\.\d{3}", word)][:2] == ["0.250", "0.500"]
    for draw in (
        partial(figures.clips_per_class, counts={"train": {"a": 3, "b": 0}, "test": {"a": 1}}),
        partial(figures.class_precision, name="m", values={"a": 0.5, "b": 0.25}, dots={"n": {"b": 0.5}}),
        partial(figures.precision_scope, curves={"m": {"1": 0.5, "3": 0.25}, "n": {"1": 0.5}}),
        partial(figures.scatter, groups={"m": np.zeros((3, 2))}, labels=np.array([0, 2, 2]), names=PLAIN),
        partial(figures.similarity, cosines=np.ones((1, 1)), labels=np.array([2]), names=PLAIN),
    ):
        assert parsed(draw)[1].tag == f"{SVG}svg" and to_png(draw)


def test_figures_show_the_numbers_they_were_given():
    scope = laid_out(partial(figures.precision_scope, curves={"m": {"693": 0.1, "1": 0.9, "10": 0.5, "100": 0.3}}))
    assert scope.axes[0].lines[0].get_xydata().tolist() == [[10, 0.5], [100, 0.3], [693, 0.1]]  # as the paper, from 10
    bars = laid_out(
        partial(figures.class_precision, name="m", values={"a": 0.5, "b": 0.2}, dots={"n": {"b": 0.3}})
    ).axes[0]
    assert [bar.get_width() for bar in bars.patches] == [0.5, 0.2]
    assert bars.lines[0].get_xdata()[1] == 0.3 and bars.yaxis_inverted()
    values = {(0.1, 0.0): 0.2, (0.1, 1.0): 0.4, (10.0, 0.0): 0.6, (10.0, 1.0): 0.3}
    grid = laid_out(partial(figures.alpha_beta, values=values, measure="MAP", plane=("rival", 0.3))).axes[0]
    alphas, betas = ([float(tick.get_text()) for tick in axis.get_ticklabels()] for axis in (grid.yaxis, grid.xaxis))

    def cell(x, y):
        return alphas[round(y)], betas[round(x)]

    assert {cell(*word.get_position()): float(word.get_text()) for word in grid.texts} == values
    framed = {
        cell(patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2) for patch in grid.patches
    }
    assert framed == {pair for pair, value in values.items() if value > 0.3}


def test_ranks_and_epochs_are_whole_numbers():
    few = {str(k): 1 / k for k in (1, 5, 10, 12)}
    for draw in (partial(figures.precision_scope, curves={"m": few}), drawing("loss")):
        ticks = [label.get_text() for label in laid_out(draw).axes[-1].get_xticklabels()]
        assert ticks and all(float(tick.replace("\N{MINUS SIGN}", "-")).is_integer() for tick in ticks), ticks


LONG = [f"{name}, {'or something like it ' * 3}".strip() for name in PLAIN]


@pytest.mark.parametrize(
    ("figure", "names", "models"),
    [(figure, PLAIN, MODELS) for figure in ("loss", "scope", "classes", "grid")]
    + [(figure, AVE, ["dual", "mean"]) for figure in ("clips", "classes", "scatter", "similarity")]
    + [(figure, LONG, ["dual"]) for figure in ("clips", "classes", "scatter", "similarity")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_word_is_cut_off_or_lies_on_another(figure, names, models):
    drawn = laid_out(drawing(figure, names, models=models))
    found = [(word, box.padded(-2)) for word, box in words(drawn)]
    assert [word for word, box in found if (box.max > drawn.bbox.max).any() or (box.min < drawn.bbox.min).any()] == []
    assert [(one, other) for (one, a), (other, b) in itertools.combinations(found, 2) if a.overlaps(b)] == []


VEGAS = (
    "chainsaw,rail transport,helicopter,baby cry or infant cry,drum,snoring,printer,fireworks,water flowing,dog"
).split(",")


@pytest.mark.parametrize("seed", range(8))
def test_the_classes_of_vegas_have_places_for_their_words_wherever_their_clips_lie(seed):
    generator, labels = np.random.default_rng(seed), np.arange(200) % 10
    points = generator.normal(size=(10, 2))[labels] * (seed % 3) + generator.normal(size=(200, 2))
    drawn = laid_out(partial(figures.scatter, groups={"a": points}, labels=labels, names=VEGAS))
    found = [(word, box.padded(-2)) for word, box in words(drawn) if word in VEGAS]
    assert len(found) == 10
    assert [(one, other) for (one, a), (other, b) in itertools.combinations(found, 2) if a.overlaps(b)] == []
    assert all((box.max <= drawn.bbox.max).all() and (box.min >= drawn.bbox.min).all() for _, box in found)


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
EYES = {
    "any": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def linear(colour):
    value = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear sRGB under D65."""
    xyz = XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one, other):
    low, high = sorted(np.dot(XYZ[1], linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_no_two_of_eighteen_systems_look_alike():
    lines = [PAPER.line(number) for number in range(18)]
    by_mark = {(line["color"], line["marker"]) for line in lines}
    by_line = {(line["color"], line["linestyle"]) for line in lines}
    assert len(by_mark) == len(by_line) == 18  # in two ways, since a small picture hides one
    hollow = [line["markerfacecolor"] == PAPER.background for line in lines]
    assert hollow == [False] * 10 + [True] * 8
    names = [f"system {number}" for number in range(18)]
    image = Image.open(io.BytesIO(to_png(drawing("scope", models=names))))
    assert image.size[1] < 1.8 * image.size[0]


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("colours", [LIGHT[:4], DARK[:4], LIGHT, DARK], ids=["light, 4", "dark, 4", "light", "dark"])
def test_series_stay_apart_for_every_eye(colours, eye):
    seen = {colour: lab(EYES[eye] @ linear(colour)) for colour in colours}
    apart = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(colours, 2)}
    assert {pair: round(value, 1) for pair, value in apart.items() if value < 10} == {}


def test_series_and_words_stand_out_from_what_is_behind_them():
    for colours, background in ((LIGHT, "#ffffff"), (DARK, "#14171c")):
        assert {each: contrast(each, background) for each in colours if contrast(each, background) < 3} == {}
    assert contrast(PAPER.text, "#ffffff") > 7 and contrast(PAPER.muted, "#ffffff") > 4.5
    values = {(float(a), float(b)): a * 5 + b for a in range(5) for b in range(5)}
    axes = laid_out(partial(figures.alpha_beta, values=values, measure="MAP")).axes[0]
    image = axes.images[0]
    cells = [(text, to_hex(image.cmap(image.norm(float(text.get_text()))))) for text in axes.texts]
    assert [(text.get_text(), cell) for text, cell in cells if contrast(to_hex(text.get_color()), cell) < 4.5] == []
