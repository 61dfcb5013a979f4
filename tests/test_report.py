"""A report: one page and its figures about toy runs, and what it says of all it cannot draw."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from PIL import Image

from modeling_dualspace import DualSubspaceConfig, DualSubspaceModel, report, report_samples
from modeling_dualspace.cli import main
from modeling_dualspace.comparison_tables import Table
from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_dataset import write_dataset
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import Description, feature_columns
from modeling_dualspace.report_samples import Sample, class_counts

CLASSES, NAME = ["dog", "drum $x$", '<b>fire</b> & "works"'], '<i>dual</i> & "co" </svg>'
SIZES = {"train": 30, "validation": 6, "test": 18}
NUMBERS = ["class-map", "loss", "precision-scope", "own-pair"]
COUNTED = [*NUMBERS, "clips-per-class"]
STRANGER = '{"model_type": "clip_text_model", "hidden_size": 8, "intermediate_size": 8}'


def clips(split, rows):
    """Clips that show their class in either modality."""
    generator, labels = np.random.default_rng([len(split), rows]), np.arange(rows) % 3
    latent = 2 * np.eye(3)[labels] + generator.standard_normal((rows, 3))
    audio, visual = (latent @ np.random.default_rng(width).standard_normal((3, width)) for width in (6, 8))
    ids = [f"{split}/<u>{row}" for row in range(rows)]
    return {"clip_id": ids, "audio_features": audio, "visual_features": visual, "label": labels}


def write_data(folder, change=dict, sizes=SIZES, **settings):
    """A data set of three classes, its rows changed."""
    settings = {"name": "default", "features": feature_columns(6, 8, CLASSES)} | settings
    parts = {split: [f"default/{split}"] for split in sizes}
    source = FeatureSource(**settings, splits=parts, rows=lambda part: [change(clips(part[8:], sizes[part[8:]]))])
    write_dataset(folder, [source], DataCard("Toy", "toy"), progress=False)
    return folder


def write_run(folder, data, name=None, variant="dual", alpha=0.1, beta=0.01):
    """A run with a tiny fitted model, the history of a training, and a result."""
    batch = {key: torch.from_numpy(column).float() for key, column in list(clips("train", 60).items())[1:3]}
    sizes = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "embed_dim": 4, "explicit_dim": 4}
    model = DualSubspaceModel(DualSubspaceConfig(**sizes, audio_hidden=[8], visual_hidden=[8], variant=variant)).eval()
    model.prepare([batch])
    model.finish([batch | {"labels": torch.arange(60) % 3}])
    model.save_pretrained(folder / "model")
    recipe = {"name": name or folder.name, "model": {"variant": variant, "alpha": alpha, "beta": beta}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # which is YAML
    lines = [{"epoch": t, "loss": 3 - t, "terms": {"correlation": -t}, "validation": {"map": 0.1 * t}} for t in (1, 2)]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["evaluate", str(folder), str(data), "--out", str(folder / "results" / "test.json")]) == 0
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A data set; runs of two variants and a grid on it, and a page about all of them."""
    root = tmp_path_factory.mktemp("toys")
    data = write_data(root / "toy<u>data")
    write_run(root / "dual", data, NAME)
    write_run(root / "explicit", data, variant="explicit")
    for alpha, beta in ((0.1, 0.01), (0.1, 1), (1, 0.01), (1, 1)):
        write_run(root / "grid" / "cells" / f"{alpha}-{beta}", data, alpha=alpha, beta=beta)
    report.write_report([root / "dual", root / "explicit", root / "grid"], root / "page.html")
    return root


@pytest.fixture
def run(toys, tmp_path):
    """A copy of the dual run, to be spoiled."""
    return Path(shutil.copytree(toys / "dual", tmp_path / "run"))


@pytest.fixture
def sketched(monkeypatch):
    """Figures and planes are not drawn: what is left out, and why, is known without."""
    monkeypatch.setattr(report, "to_svg", lambda draw, prefix, label: "<svg></svg>")
    monkeypatch.setattr(report, "to_png", lambda draw: b"")
    plane = report_samples._plane
    monkeypatch.setattr(report_samples, "_plane", lambda rows: plane(rows) if len(rows) < 5 else rows[:, :2])


def change(run, **parts):
    """Other values in parts of the result of a run."""
    result = json.loads((run / "results" / "test.json").read_text())
    result |= {name: result[name] | values for name, values in parts.items()}
    (run / "results" / "test.json").write_text(json.dumps(result))


def report_on(*runs, **options):
    """A page about runs: of what kinds its figures are, its words, and what it leaves out."""
    out = Path(runs[0]).parent / "out.html"
    left_out, (tags, text) = report.write_report(runs, out, **options)["left_out"], read(out)
    ids = [found["id"] for tag, found in tags if tag == "figure"]
    return [re.split(r"-(?:audio-to|visual-to|test|\d)", each)[0] for each in ids], text, left_out


def read(file):
    """The tags of a page, each closed that is to be, and its words."""
    tags, opened, closed, words, parser = [], [], [], [], HTMLParser()
    parser.handle_starttag = lambda tag, found: [opened.append(tag), tags.append((tag, dict(found)))]
    parser.handle_startendtag = lambda tag, found: tags.append((tag, dict(found)))
    parser.handle_endtag = lambda tag: closed.append((opened.pop(), tag))
    parser.handle_data = words.append
    parser.feed(re.sub("<(meta|link|br)\\b([^>]*)>", r"<\1\2/>", file.read_text()))
    assert opened == [] and all(start == end for start, end in closed)
    return tags, " ".join("".join(words).split())


def test_the_page_holds_every_figure_and_the_folder_beside_it_each_as_png(toys):
    tags, text = read(toys / "page.html")
    shown = [found["id"] for tag, found in tags if tag == "figure"]
    files = {file.stem: Image.open(file).convert("L") for file in (toys / "page-figures").glob("*.png")}
    assert sorted(files) == sorted(shown) and sum(tag == "svg" for tag, _ in tags) == len(shown) == 13
    kinds = [f"{kind}-{way}" for kind in ("precision-scope", "class-map") for way in ("audio-to-v", "visual-to-a")]
    kinds += [
        "own-pair-audio-to-v",
        "own-pair-visual-to-a",
        "clips-per-class",
        "alpha-beta",
        "loss",
        "similarity",
        "tsne-audio",
        "tsne-visual",
        "tsne-embeddings",
    ]
    assert all(any(name.startswith(kind) for name in shown) for kind in kinds), shown
    assert all(image.size[0] > 400 and np.asarray(image).std() > 5 for image in files.values())
    assert "Left out" not in text and "18 clips, 3 classes" in text
    for name, folder in ((NAME, "dual"), ("explicit", "explicit")):  # the table shows what was measured
        metrics = json.loads((toys / folder / "results" / "test.json").read_text())["metrics"]
        maps = (metrics["audio_to_visual"]["map"], metrics["visual_to_audio"]["map"], metrics["map"])
        assert re.search(r"\s*".join([re.escape(name), *(f"{value:.4f}" for value in maps)]), text)


def test_the_page_needs_nothing_but_itself_and_names_are_words_in_it(toys):
    tags, text = read(toys / "page.html")
    links = [value for _, found in tags for key, value in found.items() if key.split(":")[-1] in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links) and not re.search("@import|url\\((?!#)", text)
    assert [found for tag, found in tags if tag == "link"] == [{"rel": "icon", "href": "data:,"}]
    assert not {"script", "iframe", "img", "object", "b", "i", "u", "me"} & {tag for tag, _ in tags}
    said = (NAME, *CLASSES, "test/<u>0", "toy<u>data", f"Diamonds: the mean of {NAME}, explicit.")
    assert [name for name in said if name not in text] == []


MEASURE = """<meta charset="utf-8"><iframe src="page.html" style="width:400px;height:900px;border:0"></iframe>
<iframe src="page.html" style="width:1280px;height:900px;border:0"></iframe><pre></pre><script>
const size = svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height];
const measure = frame => ({width: frame.contentDocument.documentElement.scrollWidth,
  boxes: [...frame.contentDocument.querySelectorAll("figure svg")].map(size),
  loaded: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)});
const found = () => JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
onload = () => document.querySelector("pre").textContent = found();</script>"""


def test_a_browser_shows_every_figure_on_any_screen_and_has_nothing_to_complain_of(toys, tmp_path, needs_tool):
    (toys / "measure.html").write_text(MEASURE)
    flags = "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files --dump-dom"
    flags += f" --enable-logging=stderr --v=0 --window-size=1400,1000 --user-data-dir={tmp_path}"
    command = [needs_tool("chromium"), *flags.split(), f"file://{toys}/measure.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    for page, width in zip(json.loads(re.search("<pre>(.*?)</pre>", done.stdout)[1]), (400, 1280), strict=True):
        assert page["width"] <= width and page["loaded"] == [] and len(page["boxes"]) == 13
        assert all(across > 250 and down > 100 for across, down in page["boxes"]) and "CONSOLE" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "kinds", "why"),
    [
        (lambda run: change(run, data={"id": "gone/away/x"}), NUMBERS, "gone/away/x.*; --data says where it is"),
        (lambda run: change(run, data={"fingerprint": "0" * 16}), NUMBERS, "is not the one that was scored"),
        (lambda run: change(run, model={"fingerprint": "0" * 16}), COUNTED, "has changed since it was evaluated"),
        (lambda run: shutil.rmtree(run / "model"), COUNTED, "none of the models is where it was"),
        (lambda run: (run / "model" / "model.safetensors").write_bytes(b"0" * 99), COUNTED, "weights"),
        (lambda run: (run / "model" / "config.json").write_text(STRANGER), COUNTED, "without get_audio_embeds"),
        (lambda run: shutil.rmtree(run / "results"), ["loss"], "has no result: `dualspace evaluate` makes one"),
    ],
    ids="data gone,other data,other weights,no model,half a model,a stranger,no result".split(","),
)
def test_what_is_not_there_or_not_the_same_is_left_out_with_a_sentence(run, sketched, spoil, kinds, why):
    spoil(run)
    found, text, (line,) = report_on(run)
    assert set(found) == set(kinds) and re.search(why, line) and f"Left out {line}" in text


@pytest.mark.parametrize(
    ("change", "data", "kinds", "why"),
    [
        (lambda clips: dict(list(clips.items())[:3]), {"features": feature_columns(6, 8)},
         ["loss", "own-pair"], "one `label`"),
        (lambda clips: dict(list(clips.items())[:3]) | {"labels": np.eye(3)[clips["label"]]},
         {"features": feature_columns(6, 8, CLASSES, multi_label=True), "class_names": CLASSES}, COUNTED, "`label`"),
        (lambda clips: clips | {"label": clips["label"] - 9 * ("test" in clips["clip_id"][0])}, {},
         ["loss", "own-pair", "clips-per-class"], "class|label"),
        (dict, {"sizes": SIZES | {"test": 4}}, [*COUNTED, "similarity", "tsne-embeddings"],
         "t-SNE needs at least five clips"),
    ],
)  # fmt: skip
def test_what_the_clips_do_not_allow_is_left_out_with_a_sentence(tmp_path, sketched, change, data, kinds, why):
    found, text, (line,) = report_on(write_run(tmp_path / "run", write_data(tmp_path / "data", change, **data)))
    assert set(found) == set(kinds) and re.search(why, line)
    assert ("Best: sound finds video" in text) == ("similarity" in kinds)


def test_clips_that_were_not_scored_are_counted_on_the_page(tmp_path, sketched):
    def holes(clips):
        unknown = clips["label"] - 9 * (np.arange(len(clips["label"])) < 3)
        return clips | {"label": unknown, "audio_features": [*clips["audio_features"][:-1], None]}

    text = report_on(write_run(tmp_path / "run", write_data(tmp_path / "data", holes)))[1]
    assert "14 clips" in text and "3 clips of unknown class" in text and "1 clip without a sound" in text


def test_clips_that_are_all_alike_have_no_plane(monkeypatch):
    monkeypatch.setattr("sklearn.manifold.TSNE", None)  # it ends the whole process over them
    with pytest.raises(ValueError, match="alike|same|equal|differ"):
        report_samples._plane(np.ones((20, 6), np.float32))


@pytest.mark.parametrize(
    ("spoil", "out", "message"),
    [
        (lambda run: (run / "history.jsonl").write_text("{"), "o.html", r"Line 1 of .*history\.jsonl is no JSON"),
        (lambda run: change(run, metrics={"audio_to_visual": {}}), "o.html", "it lacks metrics.audio_to_visual"),
        (lambda run: change(run, environment={"versions": {}}), "o.html", "on test .* it lacks environment.versions"),
        (lambda run: [shutil.rmtree(run / "results"), (run / "history.jsonl").unlink()], "o.html", "nothing to show"),
        (lambda run: None, "o.pdf", r"o\.pdf does not end in \.html"),
        (lambda run: (run.parent / "o.html").mkdir(), "o.html", "is a folder"),
        (lambda run: (run.parent / "file").touch(), "file/o.html", "is a file"),
    ],
    ids="half a history,no directions,no versions,nothing,no page,a folder,below a file".split(","),
)
def test_what_makes_no_report_is_one_sentence_before_anything_is_done(run, sketched, capsys, spoil, out, message):
    spoil(run)
    before = sorted(run.parent.rglob("*"))
    assert main(["report", str(run), "--out", str(run.parent / out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dualspace: ") and re.search(message, line) and sorted(run.parent.rglob("*")) == before


def test_each_data_set_has_its_own_figures_and_is_found_wherever_it_is(toys, run, tmp_path, sketched):
    other = write_run(tmp_path / "other", write_data(tmp_path / "other-data", sizes=SIZES | {"test": 15}))
    kinds, _, left_out = report_on(run, other, toys / "grid")
    assert kinds.count("similarity") == 2 and left_out == []
    change(run, data={"id": "gone/away"})
    assert len(report_on(run, other)[2]) == 1
    assert report_on(run, other, data=str(toys / "toy<u>data"))[2] == []  # nor is the other lost
    assert kinds.count("alpha-beta") == 1  # with the data that the grid is of


def test_a_grid_alone_is_a_surface_and_no_cell_of_it_poses_as_the_grid(toys, tmp_path, sketched):
    grid = Path(shutil.copytree(toys / "grid", tmp_path / "grid"))
    kinds, text, _ = report_on(grid)
    assert "alpha-beta" in kinds and "MAP on test" in text and not re.search(r"grid ?0\.\d{4}", text)
    for cell in (grid / "cells").iterdir():
        shutil.rmtree(cell / "results")
    kinds, text, _ = report_on(grid)  # none of which has seen test
    assert "alpha-beta" in kinds and "best MAP on validation" in text


def test_the_best_of_the_rivals_is_the_plane_that_a_grid_is_held_against(toys, run, sketched):
    change(run, model={"model_type": "dualspace_tnn_c_cca", "id": "runs/tnn"}, metrics={"map": 0.25})
    text = report_on(run, toys / "grid")[1]
    assert "What beats" in text and "is framed" in text
    assert "What beats" not in report_on(toys / "dual", toys / "grid")[1]  # it is no rival of its own grid


def test_bars_are_the_dual_model_s_and_a_mean_is_one_of_variants(toys, sketched):
    text = report_on(toys / "explicit", toys / "dual")[1]
    assert f"Bars: {NAME}. Diamonds" in text and "Bars: explicit" not in text
    assert "Diamonds" in text and "Diamonds" not in report_on(toys / "explicit")[1]


def test_bars_and_marks_that_are_not_all_of_them_say_so(toys, sketched, monkeypatch):
    monkeypatch.setattr("modeling_dualspace.report_sources.Source.variant", None)
    cells = sorted((toys / "grid" / "cells").iterdir())
    runs = [toys / "dual", toys / "explicit", *cells]
    report.write_report(runs, toys / "six.html", names=list("abcdef"))
    assert "Bars: a. Marks: b, c, d, e, f. <" in (toys / "six.html").read_text().replace("</fig", " <")
    report.write_report([*runs, toys / "dual"], toys / "seven.html", names=list("abcdefg"))
    said = read(toys / "seven.html")[1]
    (first, marks) = re.search(r"Bars: (\w)\. Marks: ([\w, ]+)\. These are the best 6 of 7 by MAP", said).groups()
    sources = report.read_sources([*runs, toys / "dual"], list("abcdefg"))
    maps = {source.name: source.results[0]["metrics"]["map"] for source in sources}
    shown = [first, *marks.split(", ")]
    assert len(shown) == 6 and [maps[name] for name in shown] == sorted(maps.values(), reverse=True)[:6]


def test_a_mean_over_variants_has_each_of_them_once(toys, sketched):
    names = ["dual", "explicit", "dual again"]
    report.write_report([toys / "dual", toys / "explicit", toys / "dual"], toys / "once.html", names=names)
    assert "Bars: dual. Diamonds: the mean of dual, explicit." in read(toys / "once.html")[1]


def test_tables_stand_on_top_and_one_of_the_runs_is_looked_at_closely(toys, sketched):
    table = Table("On <top>", ["what", "the paper's"], [["a", "0.1"], ["b", "0.2"]], ["A note."], frozenset({(1, 1)}))
    settings = {"names": ["one", "two"], "tables": [table], "closely": "two", "title": "Toys & co", "note": "One seed."}
    report.write_report([toys / "dual", toys / "explicit"], toys / "top.html", **settings)
    tags, text = read(toys / "top.html")
    (place,) = re.finditer(r"On <top>\s*what\s*the paper's\s*a\s*0.1\s*b\s*0.2\s*A note.", text)
    parts = [text.index(words) for words in ("18 clips, 3 classes", "One seed.", "Precision by scope")]
    assert [place.start(), *parts] == sorted([place.start(), *parts])
    assert text.count("Toys & co") == 2 and "DualSpace report" not in text  # title and heading
    assert (
        "but for columns that are headed otherwise" in text
        and "<strong>0.2</strong>" in (toys / "top.html").read_text()
    )
    assert "Best and worst queries of two" in text
    report.write_report([toys / "dual", toys / "explicit"], toys / "top.html", names=["one", "two"])
    text = read(toys / "top.html")[1]
    assert "Best and worst queries of one" in text and "Every number below is measured." in text


def test_a_data_set_named_in_vain_is_said(toys, run, sketched, tmp_path):
    other = write_data(tmp_path / "other-data", sizes=SIZES | {"test": 15})
    (line,) = report_on(run, data=str(other))[2]
    assert "holds none of the data sets that were scored" in line
    with pytest.raises(ValueError, match="--data nowhere is no folder here"):
        report_on(run, data="nowhere")


def test_the_command_names_its_files_in_json_and_writes_over_a_former_report(run, tmp_path, capsys, sketched):
    out = tmp_path / "deep" / "page.html"
    for left_out in (0, 1):  # the second time its model is gone
        assert main(["report", str(run), "--out", str(out), "--json"]) == 0
        written = json.loads(capsys.readouterr().out)
        assert written["report"] == str(out) and len(written["left_out"]) == left_out
        assert all(Path(file).is_file() for file in written["figures"]) and f"--out {out}" in read(out)[1]
        assert not list(out.parent.rglob(".tmp*"))
        shutil.rmtree(run / "model", ignore_errors=True)


def test_a_choice_of_clips_keeps_the_shares_of_the_classes_and_is_the_same_every_time():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [600, 300, 100]))
    chosen, again = (Sample(None, {}, labels, CLASSES).rows(200) for _ in range(2))
    assert len(set(chosen)) == 200 and (chosen == again).all() and (np.diff(labels[chosen]) >= 0).all()
    assert np.abs(np.bincount(labels[chosen]) / 200 - [0.6, 0.3, 0.1]).max() < 0.06
    assert sorted(Sample(None, {}, labels, CLASSES).rows(5000)) == list(range(1000))  # no more than there are


def test_the_best_and_the_worst_queries_are_those_by_average_precision():
    rows = np.random.default_rng(0).standard_normal((2, 40, 3)).astype(np.float32)
    audio, visual = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    labels, split = np.arange(40) % 3, Dataset.from_dict({"clip_id": [str(row) for row in range(40)]})
    found = Sample(split, {"audio": audio, "visual": visual}, labels, CLASSES).extremes()["visual_to_audio"]
    ranked = np.argsort(-visual @ audio.T, axis=1)
    hits = labels[ranked] == labels[:, None]
    naive = np.array([np.mean((np.cumsum(row) / np.arange(1, 41))[row]) for row in hits])
    for which, order in (("worst", np.argsort(naive)), ("best", np.argsort(-naive))):
        firsts = sorted(next(place for place, row in enumerate(order) if row % 3 == label) for label in range(3))
        rows = [*order[firsts], *np.delete(order, firsts)][:5]  # one of every class, and then the others
        assert [(int(query["clip"]), query["class"]) for query in found[which]] == [(r, CLASSES[r % 3]) for r in rows]
        assert np.allclose([query["precision"] for query in found[which]], naive[rows])
        items = [[(int(i["clip"]), i["right"], i["own"]) for i in query["found"]] for query in found[which]]
        assert items == [[(i, i % 3 == row % 3, i == row) for i in ranked[row, :5]] for row in rows]


def test_clips_are_counted_by_class_whatever_they_are_labelled_with():
    one = Dataset.from_dict({"label": [0, 1, None, 1, -1]}, Features({"label": ClassLabel(names=["a", "b", "c"])}))
    assert class_counts({"train": one}) == {"train": {"a": 1, "b": 2, "c": 0}}
    several = Dataset.from_dict({"labels": [[1.0, 1.0], [0.0, 1.0], [float("nan")] * 2]})
    several.info.description = str(Description("0" * 16, "a", "v", False, ("a", "b")))
    assert class_counts({"test": several}) == {"test": {"a": 1, "b": 2}}
    assert class_counts({"test": Dataset.from_dict({"clip_id": ["a"]})}) == {}
