"""The command line: its answers, exit codes and manners."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from modeling_dualspace import __version__
from modeling_dualspace.cli import build_parser, main
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.results import read_result, render

ROOT = Path(__file__).parent.parent
SCRIPT = str(Path(sys.executable).parent / "dualspace")


@pytest.mark.parametrize("command", [[SCRIPT], [sys.executable, "-m", "modeling_dualspace"]], ids=["script", "module"])
def test_both_ways_in_answer_with_the_version(command):
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"dualspace {__version__}")


def test_the_demo_goes_the_whole_way_and_can_be_shown_again(tmp_path, capsys):
    argv = ["demo", "--out", str(tmp_path), "--epochs", "1", "--clips-per-class", "5", "--json"]
    assert main(argv) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["synthetic"] and result["splits"] == {"train": 30, "validation": 10, "test": 10}
    assert set(result["scores"]) == {"random", "CCA of the raw features", "dual-subspace model"}
    assert all(0 < score["map"] < 1 for score in result["scores"].values()) and len(result["search"]["found"]) == 5
    assert "<svg" in Path(result["report"]).read_text() or "<img" in Path(result["report"]).read_text()
    assert {path.name for path in Path(result["model"]).iterdir()} > {"model.safetensors", "processor_config.json"}
    # Each step is the command that does it: `dualspace ...` parses, and the script exists.
    for number, command in enumerate(result["commands"], start=1):
        words = shlex.split(command)
        assert f"{number}. {command}" in printed.err
        assert (ROOT / words[1]).is_file() if words[0] == "python" else build_parser().parse_args(words[1:])


@pytest.mark.slow  # a minute
def test_the_demo_finds_more_than_its_rivals(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    scores = {name: score["map"] for name, score in json.loads(capsys.readouterr().out)["scores"].items()}
    assert scores["dual-subspace model"] > scores["CCA of the raw features"] > scores["random"]


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
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dualspace: {file} is a file, so nothing can lie below it: name another place than ")


# evaluate


@pytest.fixture
def here(tmp_path, monkeypatch, fitted, make_batch):
    """Where one stands: `model`, and `toy` with a test split of forty clips."""
    monkeypatch.chdir(tmp_path)
    fitted.save_pretrained("model")
    write("toy", columns_of(make_batch(40, 3)))
    return tmp_path


def columns_of(batch):
    """A batch as columns, each vector for itself, so that one can be taken away."""
    names = {"audio_features": "audio_features", "visual_features": "visual_features", "labels": "label"}
    return {column: list(batch[name].numpy()) for name, column in names.items()}


def write(folder, columns, audio_dim=6):
    features = feature_columns(audio_dim, 8, ["dog", "drum", "fireworks"])
    del features["clip_id"]
    Dataset.from_dict(columns, features=features).to_parquet(Path(folder, "test.parquet"))


def changed(folder, change):
    """A copy of the model with other weights."""
    shutil.copytree("model", folder)
    tensors = load_file(f"{folder}/model.safetensors")
    change(tensors)
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})


def test_an_evaluation_prints_the_table_and_writes_it_into_the_run(here, capsys):
    shutil.copytree("model", "run/model")
    assert main(["evaluate", "run", "toy", "--legacy-prefix-average"]) == 0
    file = here / "run" / "results" / "toy-test.json"
    result = read_result(file)
    written = Path("run", "results", "toy-test.json")
    assert capsys.readouterr().out == f"{render(result)}\nWritten: {written}\n"
    assert result["command"] == "dualspace evaluate run toy --legacy-prefix-average"
    assert result["options"]["legacy_prefix_average"] and result["metrics"]["gallery"] == 40
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_json_comes_alone_on_stdout_and_without_noise_on_stderr(here, capfd):
    capfd.readouterr()
    assert main(["evaluate", "model", "toy", "--split", "test[:10]", "--out", "deep/a.json", "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.out.count("\n") == 1 and json.loads(printed.out) == read_result("deep/a.json")
    assert printed.err == f"Written: {Path('deep', 'a.json')}\n"


def prepare_mistakes(make_model, make_batch):
    """Models and data that something is wrong with."""
    columns = columns_of(make_batch(40, 3))
    write("wide", columns | {"audio_features": [[*row, 0.0] for row in columns["audio_features"]]}, audio_dim=7)
    write("silent", columns | {"audio_features": [None] * 40})
    bad = [row * np.nan if number == 13 else row for number, row in enumerate(columns["visual_features"])]
    write("bad-row", columns | {"visual_features": bad})
    write("no-rows", {name: [] for name in columns})
    Dataset.from_dict({"text": ["a", "b"]}).to_parquet("texts/test.parquet")
    Path("empty").mkdir()
    Path("file").write_text("x")
    make_model().save_pretrained("unfitted")
    sizes = dict.fromkeys(("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"), 2)
    BertModel(BertConfig(vocab_size=5, **sizes)).save_pretrained("bert")
    weight = "audio_towers.explicit.0.weight"
    changed("nan", lambda tensors: tensors[weight].fill_(torch.nan))
    changed("lacking", lambda tensors: tensors.pop(weight))
    shutil.copytree("model", "cut")
    os.truncate("cut/model.safetensors", 500)
    for name, recipe in (("run-a", "a: ["), ("run-b", "train: 5"), ("run-c", "day: 2026-01-01"), ("run-d", "x: .nan")):
        shutil.copytree("model", f"{name}/model")
        Path(name, "recipe.yaml").write_text(recipe)


MISTAKES = [
    ("model wide", "model takes audio features of width 6, and those of wide are 7 wide"),
    ("model silent", "40"),
    ("model bad-row", "row 13 holds NaN"),
    ("model no-rows", "no-rows"),
    ("model texts", "Expected the columns audio_features and visual_features, got text"),
    ("model empty", "empty is empty"),
    ("model file", "file is a file"),
    ("model nowhere", "nowhere"),
    ("model ./no/where", "no/where"),
    ("model me/nothing", "me/nothing"),
    ("model ''", ""),
    ("model toy --split nope", "nope"),
    ("model toy --split test[:0]", "test[:0]"),
    ("model toy --split ''", ""),
    ("model toy --config nope", "nope"),
    ("model toy --out toy", "toy is a folder"),
    ("model toy --out file/a.json", "file"),
    ("nowhere toy", "nowhere holds no model"),
    ("me/nothing toy", "me/nothing"),
    ("toy model", "toy holds no model"),
    ("empty toy", "empty holds no model"),
    ("file toy", "file holds no model"),
    ("'' toy", "holds no model"),
    ("unfitted toy", "is not fitted"),
    ("bert toy", "bert is a BertModel without get_audio_embeds and get_visual_embeds"),
    ("nan toy", "NaN"),
    ("lacking toy", "lacking"),
    ("cut toy", "cut"),
    ("run-a toy", "recipe.yaml"),
    ("run-b toy", "recipe.yaml"),
    ("run-c toy", "recipe.yaml"),
    ("run-d toy", "recipe.yaml"),
]


def test_whatever_is_wrong_is_one_sentence_and_writes_nothing(here, make_model, make_batch, capfd, subtests):
    prepare_mistakes(make_model, make_batch)
    for line, sentence in MISTAKES:
        with subtests.test(line):
            before = set(here.rglob("*"))
            capfd.readouterr()
            assert main(["evaluate", *(word.strip("'") for word in line.split())]) == 1
            printed = capfd.readouterr()
            lines = [
                text for text in printed.err.splitlines() if text and "Generating" not in text
            ]  # another test is about it
            assert len(lines) == 1 and lines[0].startswith("dualspace: ") and sentence in lines[0], printed.err
            assert not printed.out and set(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["model"], "the following arguments are required: DATA"),
        (["model", "toy", "--batch-size", "1"], "expected a whole number of at least 2, got '1'"),
        (["model", "toy", "--batch-size", "abc"], "expected a whole number of at least"),
        (["model", "toy", "--splits", "test"], "unrecognized arguments: --splits"),
    ],
)
def test_wrong_use_of_evaluate_exits_with_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *argv])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_data_set_that_was_loaded_before_is_not_served_once_it_is_gone(here, capfd):
    assert main(["evaluate", "model", "toy"]) == 0
    Path("toy").rename("elsewhere")
    capfd.readouterr()
    assert main(["evaluate", "model", "toy"]) == 1
    assert capfd.readouterr().err.startswith("dualspace: ")
    os.chdir("elsewhere")
    assert main(["evaluate", "../model", "."]) == 0


def test_what_is_no_result_of_the_same_is_not_overwritten(here, capfd):
    config = Path("model/config.json").read_text()
    assert main(["evaluate", "model", "toy", "--out", "model/config.json"]) == 1
    assert "is there and no result, so it is not overwritten" in capfd.readouterr().err
    assert Path("model/config.json").read_text() == config
    for place in ("a/m", "b/m"):
        shutil.copytree("model", f"{place}/checkpoint-5")
    assert main(["evaluate", "a/m/checkpoint-5", "toy"]) == 0
    assert main(["evaluate", "a/m/checkpoint-5", "toy"]) == 0  # of the same it is
    capfd.readouterr()
    assert main(["evaluate", "b/m/checkpoint-5", "toy"]) == 1
    assert "holds the result of a/m/checkpoint-5, not of b/m/checkpoint-5" in capfd.readouterr().err


# evaluate, several processes

WORKER = """
import json, os, sys
from datetime import timedelta
import torch, torch.distributed as dist
from accelerate import PartialState
from modeling_dualspace import average_precision
from modeling_dualspace.cli import build_parser, main

torch.set_num_threads(1)
average_precision.CHUNK_SCORES = 7 * 40  # six chunks of queries, so that ranking is shared out too
assert len(list(average_precision.query_chunks(40, 40, average_precision.CHUNK_SCORES))) == 6
rank, children = 0, []
for other in (1, 2):  # three processes, and the imports of one
    children.append(os.fork())
    if not children[-1]:
        rank, children = other, []
        break
for name, world, *argv in json.load(open("cases.json")):
    if rank >= world:
        continue
    if world > 1:
        os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        group = {"rank": rank, "world_size": world, "timeout": timedelta(seconds=60)}
        dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/{name}.store", **group)
    PartialState._reset_state()
    for number, stream in enumerate(("out", "err"), start=1):
        os.dup2(os.open(f"{name}.{rank}.{stream}", os.O_CREAT | os.O_WRONLY), number)
    try:
        code = main(["evaluate", *argv])
    except SystemExit as stopped:
        code = stopped.code
    sys.stdout.flush()
    open(f"{name}.{rank}.code", "w").write(str(code))
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
TOGETHER = {
    "chunks": ["model", "toy", "--batch-size", "7"],
    "one-chunk": ["model", "toy", "--legacy-prefix-average"],
    "three-clips": ["model", "toy", "--split", "test[:3]"],
    "one-clip": ["model", "toy", "--split", "test[:1]"],
    "unpaired": ["model", "unpaired", "--batch-size", "7"],
}
TOGETHER_WRONG = {
    "no-model": (["nowhere", "toy"], "nowhere holds no model"),
    "no-split": (["model", "toy", "--split", "nope"], "nope"),
    "last-row": (["model", "broken", "--batch-size", "4"], "row 39 holds NaN"),
    "recipe": (["run", "toy"], "recipe.yaml is no YAML"),
    "silent": (["model", "silent"], "None of the 40 clips has both"),
}


@pytest.fixture
def together(here, make_batch):
    """All cases, each in one process, two and three; where what they wrote lies."""
    shutil.copytree("model", "run/model")
    Path("run/recipe.yaml").write_text("a: [")
    columns = columns_of(make_batch(40, 3))
    audio = columns["audio_features"]
    for name, rows in {
        "unpaired": [None, *audio[1:]],
        "silent": [None] * 40,
        "broken": [*audio[:39], audio[39] * np.nan],
    }.items():
        write(name, columns | {"audio_features": rows})
    cases = [
        [f"{name}-{n}", n, *argv, "--out", f"{name}-{n}.json"] for n in (1, 2, 3) for name, argv in TOGETHER.items()
    ]
    cases += [[f"{name}-2", 2, *argv, "--out", f"{name}-2.json"] for name, (argv, _) in TOGETHER_WRONG.items()]
    Path("cases.json").write_text(json.dumps(cases))
    process = subprocess.Popen([sys.executable, "-c", WORKER], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return here


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes of this test are forked")
def test_several_processes_write_what_one_writes_and_fail_in_one_sentence(together, subtests):
    def said(name, stream):
        return [file.read_text() for file in sorted(together.glob(f"{name}.?.{stream}"))]

    for name in TOGETHER:
        with subtests.test(name):
            results = [read_result(f"{name}-{number}.json") for number in (1, 2, 3)]
            for number, result in enumerate(results, start=1):
                assert result["environment"]["processes"] == number and result["metrics"] == results[0]["metrics"]
                assert said(f"{name}-{number}", "code") == ["0"] * number
                assert not any(said(f"{name}-{number}", "out")[1:] + said(f"{name}-{number}", "err")[1:])
    for name, (_, sentence) in TOGETHER_WRONG.items():
        with subtests.test(name):
            assert said(f"{name}-2", "code") == ["1", "1"] and not any(said(f"{name}-2", "out"))
            lines = [line for text in said(f"{name}-2", "err") for line in text.splitlines() if "dualspace: " in line]
            assert len(lines) == 1 and sentence in lines[0]
            assert not Path(f"{name}-2.json").exists()


# metric


def test_the_metric_is_written_as_a_folder_once(tmp_path, capsys):
    out = tmp_path / "deep" / "my_map"
    assert main(["metric", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Written: {out}\nLoad:    evaluate.load({str(out)!r})\n"
    assert {"my_map.py", "README.md", "app.py", "requirements.txt"} <= {path.name for path in out.iterdir()}
    assert main(["metric", "--out", str(out)]) == 1
    assert "my_map exists already and is not empty: choose another name, or pass --overwrite" in capsys.readouterr().err
    assert main(["metric", "--out", str(out), "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"metric": str(out)}


@pytest.mark.parametrize("name", ["app", "file", "file/deep", "a.b", 'x"y', ".."])
def test_a_metric_goes_nowhere_it_could_not_be_loaded_from(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("file").write_text("x")
    assert main(["metric", "--out", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith("dualspace: ") and error.count("\n") == 1 and "exists: " not in error
    assert [path.name for path in Path().iterdir()] == ["file"]
