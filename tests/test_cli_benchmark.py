"""`dualspace benchmark`: the paper's tables by one command, stopped and gone on with, and its manners."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny_release import write_data

from modeling_dualspace import comparison, report
from modeling_dualspace.cli import main

OWN = {
    "seeds": [0],
    "over": {"model": {"audio_hidden": [8], "visual_hidden": [8]}, "train": {"batch_size": 30}},
    "systems": {
        "CCA": {"recipe": "baselines/cca", "model": {"embed_dim": 3}, "drawn": False},
        "C-CCA": {"recipe": "baselines/cluster_cca", "model": {"embed_dim": 2}, "drawn": False},
        "dual": {"recipe": "vegas", "model": {"embed_dim": 3, "explicit_dim": 3}, "train": {"epochs": 2}},
        "endless": {"recipe": "baselines/dcca", "model": {"network_dim": 3}, "train": {"epochs": 10**6}},
    },
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a data set and a suite, to stand in."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "tiny-data")
    (tmp_path / "own.yaml").write_text(yaml.dump(OWN, sort_keys=False))
    return tmp_path


@pytest.fixture
def sketched(monkeypatch):
    """Figures are not drawn."""
    monkeypatch.setattr(report, "to_svg", lambda draw, prefix, label: "<svg></svg>")
    monkeypatch.setattr(report, "to_png", lambda draw: b"")
    monkeypatch.setattr(report, "_planes", lambda *a: iter(()))


ARGUMENTS = ["benchmark", "own.yaml", "--dataset", "tiny-data", "--out", "out", "--jobs", "1"]
SOME = ["--only", "CCA", "C-CCA", "dual"]


def test_the_command_writes_tables_and_a_page_and_prints_them(place, sketched, capsys):
    assert main([*ARGUMENTS, *SOME]) == 0
    printed = capsys.readouterr()
    assert "MAP on tiny-data" in printed.out and "Time cost on tiny-data" in printed.out
    assert "MAP by class" not in printed.out and printed.out.endswith("Written: out\n")
    assert [line.split(",")[0] for line in printed.err.splitlines()[:3]] == ["CCA", "C-CCA", "dual"]
    page, tables = (place / "out" / "report.html").read_text(), (place / "out" / "tables.md").read_text()
    table = json.loads((place / "out" / "table.json").read_text())
    for row in table["rows"]:
        shown = f"{row['map']['mean']:.4f}"
        assert shown in printed.out and shown in page and shown in tables
    assert page.count("DualSpace report: own<") == 2  # title and heading
    assert page.index("MAP on tiny-data") < page.index("Precision by scope") and "headed otherwise" in page
    assert "MAP by class on tiny-data, audio→visual, measured" in page and list(
        (place / "out" / "report-figures").iterdir()
    )
    assert main([*ARGUMENTS, *SOME, "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == table and again.err.startswith("3 of 3 cells are finished already")


def test_without_what_draws_the_tables_are_there_all_the_same(place, monkeypatch, capsys):
    def missing(*a, **settings):
        raise ModuleNotFoundError("This needs the package `matplotlib`: run `pip install 'dualspace[report]'`.")

    monkeypatch.setattr(comparison, "write_report", missing)
    assert main([*ARGUMENTS, "--only", "CCA"]) == 0
    (_, line) = capsys.readouterr().err.splitlines()
    assert line.startswith("out/report.html is not written: This needs the package") and "[report]" in line
    assert (place / "out" / "tables.md").is_file()


def test_a_failed_cell_is_shown_and_the_exit_code_says_so(place, sketched, capsys):
    wild = OWN["systems"]["dual"] | {"train": {"epochs": 2, "optimizer": {"name": "sgd", "lr": 1e6}}}
    (place / "own.yaml").write_text(yaml.dump(OWN | {"systems": {"CCA": OWN["systems"]["CCA"], "wild": wild}}))
    assert main(ARGUMENTS) == 3
    printed = capsys.readouterr()
    assert "wild, seed 0, failed and is in no mean: " in printed.out
    assert re.search(r"FAILED: .* \(out/cells/\w+\); 0 left", printed.err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["papers", "--dataset", "tiny-data"], r"There is no suite papers: .* Did you mean paper\?"),
        (["own.yaml", "--dataset", "tiny-data", "--only", "KCA"], "no system KCA. Did you mean C?CCA?"),
        (["--dataset", "tiny-data", "--only", "CCA", "own.yaml"], "own.yaml, which is a suite: name the suite before"),
        (["own.yaml", "--dataset", "gone"], "gone is no folder here"),
        (["own.yaml", "--dataset", "tiny-data", "--config", "other"], "tiny-data cannot be loaded"),
        (["own.yaml", "--dataset", "tiny-data", "--out", "tiny-data"], "tiny-data holds .*, which no comparison makes"),
    ],
)
def test_wrong_words_are_one_sentence_and_nothing_is_begun(place, capsys, words, message):
    before = sorted(place.rglob("*"))
    assert main(["benchmark", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dualspace: ") and re.search(message, line), line
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("words", [[], ["--dataset", "x", "--jobs", "0"], ["--dataset", "x", "--seeds", "-1"]])
def test_wrong_use_is_2(words):
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *words])
    assert ended.value.code == 2


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_all_processes_at_a_good_place(place, root, sketched, capsys):
    """A terminal sends it to every process there is."""
    command = [sys.executable, str(root / "training" / "benchmark.py"), "own.yaml", "--dataset", "tiny-data"]
    with (place / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, "--out", "out", "--jobs", "2"], stdout=said, stderr=said, start_new_session=True
        )
        until = time.monotonic() + 120
        while "1 left" not in (place / "said").read_text() and time.monotonic() < until:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    *lines, last = (place / "said").read_text().splitlines()
    assert len(lines) == 3 and last.startswith("dualspace: stopped: 3 of 4 cells are finished"), (lines, last)
    (begun,) = [cell for cell in (place / "out" / "cells").iterdir() if not (cell / "summary.json").exists()]
    assert list((begun / "checkpoints").iterdir()) and not list((place / "out").rglob(".tmp-*"))
    assert main([*ARGUMENTS, *SOME]) == 0 and "3 of 3 cells are finished already" in capsys.readouterr().err


@pytest.mark.slow
def test_the_tiny_suite_trains_every_system(place, script, sketched):
    assert script("synthetic_features").main(["--rows", "900", "--out", "made-up-synthetic"]) == 0
    assert main(["benchmark", "tiny", "--dataset", "made-up-synthetic", "--out", "out"]) == 0
    rows = {row["system"]: row for row in json.loads((place / "out" / "table.json").read_text())["rows"]}
    means = {name: row["map"]["mean"] for name, row in rows.items()}
    assert len(means) == 18 and all(mean > 1.3 * means["Random"] for name, mean in means.items() if name != "Random")
    assert "synthetic" in (place / "out" / "tables.md").read_text()
