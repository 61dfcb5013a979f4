"""The command line: its answers, exit codes and manners."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_dualspace import __version__
from modeling_dualspace.cli import main

SCRIPT = str(Path(sys.executable).parent / "dualspace")


@pytest.mark.parametrize("command", [[SCRIPT], [sys.executable, "-m", "modeling_dualspace"]], ids=["script", "module"])
def test_both_ways_in_answer_with_the_version(command):
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"dualspace {__version__}")


def test_demo_trains_and_answers_in_json_with_progress_apart(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path), "--epochs", "2", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["synthetic"] and (tmp_path / "model" / "model.safetensors").exists()
    scores = {name: score["map"] for name, score in result["scores"].items()}
    # Ten classes of uneven size: a random ranking scores about .113 on a thousand clips.
    assert scores["random"] < 0.12
    assert scores["dual, weighted cluster CCA"] > scores["CCA of the raw features"] > 0.2
    assert len(result["search"]["found"]) == 5
    assert "epoch 2/2" in printed.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dmo"], "invalid choice: 'dmo'"),
        (["demo", "--epochs", "none"], "expected a whole number of at least 1, got 'none'"),
    ],
)
def test_wrong_use_exits_with_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_failure_is_one_sentence_and_exit_code_1(tmp_path, capsys):
    file = tmp_path / "taken"
    file.write_text("")
    assert main(["demo", "--out", str(file)]) == 1
    assert capsys.readouterr().err == f"dualspace: Not a directory: {file}/model\n"
