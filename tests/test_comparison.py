"""Comparisons: every system once, gone on with after whatever happened, the same table however it was made."""

import copy
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from modeling_dualspace import comparison, comparison_workers
from modeling_dualspace.comparison import run_comparison
from modeling_dualspace.comparison_cells import Runner
from modeling_dualspace.console import StoppedError
from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_dataset import write_dataset
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.published import AVE_CLASSES, VEGAS_CLASSES
from modeling_dualspace.report_sources import read_sources
from modeling_dualspace.run_folder import RunFolder
from modeling_dualspace.suite import load_suite

SIZES = {"train": 60, "validation": 15, "test": 30}
SMALL = {
    "seeds": [0, 1],
    "over": {
        "model": {"audio_hidden": [8], "visual_hidden": [8], "network_dim": 4, "embed_dim": 4},
        "train": {"epochs": 2, "batch_size": 30, "eval_every": 1},
    },
    "systems": {
        "Random": {"recipe": "baselines/random"},
        "CCA": {"recipe": "baselines/cca", "drawn": False},
        "DCCA": {"recipe": "baselines/dcca"},
        "dual": {"recipe": "vegas", "model": {"explicit_dim": 4}},
    },
}


def clips(split, classes, labelled=True):
    """Clips that show their class in either modality."""
    rows = SIZES[split]
    generator, labels = np.random.default_rng(len(split)), np.arange(rows) % classes
    latent = 2 * np.eye(classes)[labels] + generator.standard_normal((rows, classes))
    audio, visual = (latent @ np.random.default_rng(width).standard_normal((classes, width)) for width in (6, 8))
    found = {"clip_id": [f"{split}/{row}" for row in range(rows)], "audio_features": audio, "visual_features": visual}
    return found | ({"label": labels} if labelled else {})


def write_data(folder, names=("dog", "drum", "train"), splits=tuple(SIZES), labelled=True, **settings):
    """A data set of those classes."""
    source = FeatureSource(
        name="default",
        features=feature_columns(6, 8, list(names) if labelled else None),
        splits={split: [f"default/{split}"] for split in splits},
        rows=lambda part: [clips(part.split("/")[1], len(names), labelled)],
        **settings,
    )
    write_dataset(folder, [source], DataCard("Toy", folder.name), progress=False)
    return str(folder)


@pytest.fixture
def suite(tmp_path):
    """`suite(name={...})`: the small suite with other or further systems."""

    def made(only=(), **systems):
        content = SMALL | {"systems": {**SMALL["systems"], **systems}}
        (tmp_path / "small.yaml").write_text(yaml.dump(content, sort_keys=False))
        return load_suite(tmp_path / "small.yaml").choose(only)

    return made


def timeless(table):
    """Without what no two runs have in common."""
    table = copy.deepcopy(table)
    for row in table["rows"]:
        row["seconds"] = None
        for cell in row["cells"]:
            cell.pop("seconds", None)
    return table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "toy", synthetic=True)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A comparison that nobody interrupted: its folder and its table."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(yaml.dump(SMALL, sort_keys=False))
    return folder / "out", run_comparison(
        load_suite(folder / "small.yaml"), [data], folder / "out", jobs=1, report=False
    )


@pytest.fixture
def trained(monkeypatch):
    """The cells that were trained or gone on with, as they are run in this process."""
    found, run = [], Runner.run
    monkeypatch.setattr(Runner, "run", lambda runner, cell: found.append((cell.system, cell.seed)) or run(runner, cell))
    return found


def test_every_system_is_trained_with_every_seed_and_a_closed_form_once(whole):
    out, table = whole
    assert [row["system"] for row in table["rows"]] == list(SMALL["systems"])
    assert [[cell["seed"] for cell in row["cells"]] for row in table["rows"]] == [[0, 1], [0], [0, 1], [0, 1]]
    assert json.loads((out / "table.json").read_text()) == table and (out / "tables.md").is_file()
    for row in table["rows"]:
        maps = [cell["map"] for cell in row["cells"]]
        assert row["map"] == {
            "mean": pytest.approx(np.mean(maps)),
            "deviation": pytest.approx(np.std(maps, ddof=len(maps) > 1)),
        }
        assert set(row["classes"]["audio_to_visual"]) == {"dog", "drum", "train"} and row["published"] is None
    updates = {row["system"]: {cell["updates"] for cell in row["cells"]} for row in table["rows"]}
    assert updates["CCA"] == {0} and min(updates["DCCA"]) > 0
    assert all(cell["threads"] == 1 and cell["device"] for row in table["rows"] for cell in row["cells"])


def test_cells_are_runs_that_a_report_takes_one_by_one(whole):
    out, table = whole
    named = {cell["cell"] for row in table["rows"] for cell in row["cells"]}
    assert {path.name for path in (out / "cells").iterdir()} == named
    found = {source.name: source for source in read_sources([out])}
    assert set(found) == {f"{row['system']}[seed={cell['seed']}]" for row in table["rows"] for cell in row["cells"]}
    assert all(len(source.results) == 1 for source in found.values())


def test_what_is_interrupted_half_way_is_gone_on_with_and_the_table_is_the_same(
    data, whole, suite, tmp_path, trained, monkeypatch
):
    add, out = RunFolder.add_history, tmp_path / "out"

    def interrupted(folder, line):
        add(folder, line)
        if len(trained) == 4:  # DCCA with seed 0, in the middle of its training
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "add_history", interrupted)
    with pytest.raises(StoppedError, match="3 of 7 cells are finished; the same command goes on") as stopped:
        run_comparison(suite(), [data], out, jobs=1, report=False)
    assert stopped.value.signal == signal.SIGTERM and trained == [("Random", 0), ("Random", 1), ("CCA", 0), ("DCCA", 0)]
    assert not (out / "table.json").exists() and not list(out.rglob(".tmp-*"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    (begun,) = [cell for cell in (out / "cells").iterdir() if not (cell / "summary.json").exists()]
    assert list((begun / "checkpoints").iterdir()) and len(before) == 3
    trained.clear()
    monkeypatch.setattr(RunFolder, "add_history", add)
    table = run_comparison(suite(), [data], out, jobs=1, report=False)
    assert trained == [("DCCA", 0), ("DCCA", 1), ("dual", 0), ("dual", 1)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert timeless(table) == timeless(whole[1])
    again = run_comparison(suite(), [data], out, jobs=1, report=False)
    assert len(trained) == 4 and again == table  # seconds too: all of it was read


def test_being_asked_in_a_closed_form_stops_before_the_next_cell(data, suite, tmp_path, monkeypatch):
    run, asked = Runner.run, []

    def stopping(runner, cell):
        asked.append(cell.system)
        os.kill(os.getpid(), signal.SIGINT)
        run(runner, cell)

    monkeypatch.setattr(Runner, "run", stopping)
    with pytest.raises(StoppedError, match="1 of 7 cells are finished"):
        run_comparison(suite(), [data], tmp_path / "out", jobs=1, report=False)
    assert asked == ["Random"]


@pytest.mark.slow
def test_two_processes_make_the_same_table_and_one_that_is_killed_costs_its_cell_alone(
    data, whole, suite, tmp_path, trained, monkeypatch, capfd
):
    begin, out = comparison_workers._Worker.begin, tmp_path / "out"

    def killed(worker, cell):
        begin(worker, cell)
        if (cell.system, cell.seed) == ("Random", 1):
            os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(comparison_workers._Worker, "begin", killed)
    table = run_comparison(suite(), [data], out, jobs=2, report=False)
    rows = {row["system"]: row for row in table["rows"]}
    (failed,) = [cell for row in table["rows"] for cell in row["cells"] if "failed" in cell]
    assert failed in rows["Random"]["cells"] and "ended by SIGKILL: was there too little memory?" in failed["failed"]
    for row in whole[1]["rows"][1:]:
        assert timeless({"rows": [row]}) == timeless({"rows": [rows[row["system"]]]})
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 7 and lines[-1].endswith("; 0 left") and sum("FAILED" in line for line in lines) == 1, lines
    assert trained == []  # here
    monkeypatch.setattr(comparison_workers._Worker, "begin", begin)
    again = run_comparison(suite(), [data], out, jobs=1, report=False)
    assert trained == [("Random", 1)] and timeless(again) == timeless(whole[1])


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda cell: (cell / "summary.json").write_text("{"), "its summary.json is broken"),
        (lambda cell: (cell / "summary.json").write_text('{"steps": 1}'), "its summary.json or result is broken"),
        (lambda cell: next((cell / "results").iterdir()).write_text(""), "its results are broken"),
        (lambda cell: shutil.rmtree(cell / "model"), "its model is gone"),
        (lambda cell: [shutil.rmtree(cell / name) for name in ("model", "results")], "its model is gone"),
    ],
    ids=["summary", "half a summary", "result", "model", "model, not scored"],
)
def test_a_damaged_cell_is_made_anew_and_its_log_stays(data, whole, suite, tmp_path, trained, capsys, spoil, what):
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    row = whole[1]["rows"][1]
    cell = out / "cells" / row["cells"][0]["cell"]
    log = (cell / "final.jsonl").read_text()
    spoil(cell)
    (again,) = run_comparison(suite(["CCA"]), [data], out, jobs=1, report=False)["rows"]
    assert timeless({"rows": [again]}) == timeless({"rows": [row]}) and trained == [("CCA", 0)]
    assert f"CCA, seed 0, toy: {what}, so it is made anew ({cell})" in capsys.readouterr().err.splitlines()
    assert (cell / "final.jsonl").read_text().startswith(log)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"recipe": "baselines/tnn_c_cca", "model": {"margin": -1}}, "by `systems.bad.model.margin`: .*margin"),
        ({"recipe": "baselines/agah", "model": {"codes": False}}, "by `systems.bad.model.codes`: .*codes"),
        (
            {"recipe": "baselines/dcca", "train": {"players": {"ghost": {}}}},
            "by `systems.bad.train.players`: .*'ghost', and the system's players are model",
        ),
    ],
    ids=["a value", "codes", "a player"],
)
def test_what_a_system_cannot_have_is_said_before_any_is_trained(data, suite, tmp_path, trained, system, message):
    with pytest.raises(ValueError, match=f"The system bad of the suite small, {message}"):
        run_comparison(suite(["CCA", "bad"], bad=system), [data], tmp_path / "out", jobs=1, report=False)
    assert trained == [] and not (tmp_path / "out").exists()


def test_what_a_system_cannot_have_on_one_data_set_is_a_failed_row(data, suite, tmp_path):
    wide = {"recipe": "baselines/cca", "model": {"audio_dim": 7}, "drawn": False}
    chosen = suite(["CCA", "wide"], wide=wide)
    one, other = run_comparison(chosen, [data], tmp_path / "out", jobs=1, report=False)["rows"]
    assert one["map"] and "7 in the recipe and 6 in the data" in other["cells"][0]["failed"]


def test_being_asked_in_the_last_cell_or_in_the_report_says_what_is_left(data, suite, tmp_path, monkeypatch):
    run, out = Runner.run, tmp_path / "out"
    monkeypatch.setattr(Runner, "run", lambda *a: os.kill(os.getpid(), signal.SIGTERM) or run(*a))
    with pytest.raises(StoppedError, match="1 of 1 cells are finished; the same command writes the tables"):
        run_comparison(suite(["CCA"]), [data], out, jobs=1)

    def interrupted(*a, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "write_report", interrupted)
    with pytest.raises(StoppedError, match="the tables are written, in .*, and the same command draws the page"):
        run_comparison(suite(["CCA"]), [data], out, jobs=1)
    assert (out / "tables.md").is_file()


def test_a_cell_that_fails_is_a_sentence_and_the_others_are_made(data, suite, tmp_path, trained):
    wild = SMALL["systems"]["dual"] | {"train": {"optimizer": {"name": "sgd", "lr": 1e6}}}
    table = run_comparison(suite(["CCA", "wild"], wild=wild), [data], tmp_path / "out", jobs=1, report=False)
    one, other = table["rows"]
    assert one["map"] and "map" not in other and other["seconds"] is None
    assert all("stopped being a number" in cell["failed"] for cell in other["cells"]) and len(other["cells"]) == 2
    assert "wild, seeds 0, 1, failed and is in no mean: " in (tmp_path / "out" / "tables.md").read_text()


def test_what_nobody_annotated_fails_those_that_read_labels_alone(suite, tmp_path):
    unlabelled = write_data(tmp_path / "unlabelled", labelled=False)
    chosen = suite(["CCA", "C-CCA"], **{"C-CCA": {"recipe": "baselines/cluster_cca", "drawn": False}})
    one, other = run_comparison(chosen, [unlabelled], tmp_path / "out", jobs=1, report=False)["rows"]
    assert (
        one["measure"] == "own pair among the first 10"
        and one["map"]["mean"] > 0
        and one["classes"]["audio_to_visual"] == {}
    )
    assert "label" in other["cells"][0]["failed"]
    assert "Nobody annotated these clips" in (tmp_path / "out" / "tables.md").read_text()


def test_a_fault_of_one_system_is_its_own(data, suite, tmp_path, monkeypatch):
    def faulty(runner, cell):
        raise KeyError("ours")

    monkeypatch.setattr(Runner, "run", faulty)
    table = run_comparison(suite(["CCA"]), [data], tmp_path / "out", jobs=1, report=False)
    assert table["rows"][0]["cells"][0]["failed"] == "KeyError: 'ours'"


def test_two_names_of_the_same_settings_are_trained_once(data, suite, tmp_path, trained):
    twin = suite(["CCA", "twin"], twin={"recipe": "baselines/cca", "drawn": False})
    one, other = run_comparison(twin, [data], tmp_path / "out", jobs=1, report=False)["rows"]
    assert len(trained) == 1 and one["cells"] == other["cells"]


def test_a_data_set_that_moved_is_gone_on_with(data, suite, tmp_path, trained, monkeypatch):
    add, out = RunFolder.add_history, tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    os.symlink(data, "here")
    monkeypatch.setattr(RunFolder, "add_history", lambda *a: add(*a) or os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError):
        run_comparison(suite(["DCCA"]), ["here/"], out, jobs=1, report=False)
    Path("here").rename("there")
    monkeypatch.setattr(RunFolder, "add_history", add)
    (row,) = run_comparison(suite(["DCCA"]), ["there"], out, jobs=1, report=False)["rows"]
    assert not any("failed" in cell for cell in row["cells"]) and trained == [("DCCA", 0), ("DCCA", 0), ("DCCA", 1)]


def test_threads_are_as_they_were(data, suite, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (row,) = run_comparison(suite(["CCA"]), [data], tmp_path / "out", jobs=1, report=False)["rows"]
        assert row["cells"][0]["threads"] == 1 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


PAPERS = {"audio": "vggish@x", "visual": "inception@y"}


@pytest.mark.parametrize(
    ("names", "settings", "paper"),
    [
        (VEGAS_CLASSES[::-1], PAPERS, "vegas"),
        (AVE_CLASSES["ave15"], PAPERS, "ave"),
        (AVE_CLASSES["ave15-as-printed"], PAPERS, "ave"),
        (VEGAS_CLASSES, PAPERS | {"synthetic": True}, None),
        (VEGAS_CLASSES, PAPERS | {"visual": "i3d@y"}, None),
        (VEGAS_CLASSES[1:], PAPERS, None),
        (VEGAS_CLASSES, {}, None),
    ],
    ids=["VEGAS", "AVE", "AVE as printed", "synthetic", "other features", "other classes", "unknown features"],
)
def test_the_paper_s_figures_stand_beside_its_own_data_alone(suite, tmp_path, names, settings, paper):
    data = write_data(tmp_path / "data", names, **settings)
    (row,) = run_comparison(suite(["CCA"]), [data], tmp_path / "out", jobs=1, report=False)["rows"]
    expected = {"vegas": (0.332, 0.327, 0.330), "ave": (0.190, 0.189, 0.190), None: None}[paper]
    assert (row["published"] and tuple(row["published"].values())) == expected
    assert row["published_minutes"] == (1.08 if paper == "vegas" else None)
    assert (", the paper's |" in (tmp_path / "out" / "tables.md").read_text()) == (paper is not None)
    assert ("legacy_prefix_average" in row) == (paper == "ave")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda place: (place / "out").mkdir() or (place / "out" / "mine.txt").touch(),
            "out holds mine.txt, which no comparison",
        ),
        (lambda place: (place / "out").touch(), "out is a file, and a comparison is a folder"),
        (lambda place: os.environ.__setitem__("WORLD_SIZE", "2"), "leave the launcher out"),
    ],
    ids=["somebody else's", "a file", "a launcher"],
)
def test_where_no_comparison_can_be_nothing_is_begun(data, suite, tmp_path, monkeypatch, spoil, message):
    monkeypatch.setenv("WORLD_SIZE", "1")
    spoil(tmp_path)
    chosen, before = suite(["CCA"]), None
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        run_comparison(chosen, [data], tmp_path / "out", report=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_data_that_cannot_be_compared_on_are_refused_before_anything_is_done(data, suite, tmp_path):
    untested = write_data(tmp_path / "untested", splits=("train", "validation"))
    for sets, message in (
        ([data, untested], "untested has no clips to test on, only train, validation"),
        ([data, data + "/"], "is named twice"),
        ([str(tmp_path / "gone")], "is no folder here"),
    ):
        with pytest.raises(ValueError, match=message):
            run_comparison(suite(["CCA"]), sets, tmp_path / "out", report=False)
    assert not (tmp_path / "out").exists()


def test_two_comparisons_do_not_work_in_one_folder(data, suite, tmp_path, monkeypatch):
    second = []

    def meanwhile(*arguments, **settings):
        with pytest.raises(ValueError, match="Another comparison is at work in"):
            run_comparison(suite(["CCA"]), [data], tmp_path / "out", report=False)
        second.append(1)
        return iter(())

    monkeypatch.setattr(comparison, "run_cells", meanwhile)
    with pytest.raises(IndexError):  # nothing was made
        run_comparison(suite(["CCA"]), [data], tmp_path / "out", report=False)
    assert second == [1]
