"""Run folders: who goes on with what, who is at work, and what is written when something goes wrong."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel

from modeling_dualspace.checkpoints import Checkpoint
from modeling_dualspace.recipe import load_recipe, recipe_from
from modeling_dualspace.run_folder import RunFolder

CONTENT = {"name": "mine", "data": {"path": "clips"}, "model": {"alpha": 1e-5, "audio_hidden": [4]}}


@pytest.fixture
def recipe():
    return recipe_from(CONTENT)


@pytest.fixture
def run(tmp_path, recipe):
    """The folder of a run of which something has come."""
    run = RunFolder(tmp_path / "run")
    run.open(recipe, resume=False)
    run.add_history({"step": 0})
    return run


def checkpoint(step):
    return Checkpoint(step, {"w": torch.zeros(3)}, {}, {})


# Opened


def test_a_new_folder_holds_the_recipe_and_goes_on_with_the_same(run, recipe):
    assert recipe_from(yaml.safe_load((run.path / "recipe.yaml").read_text())) == recipe
    run.open(recipe, resume=True)
    assert {path.name for path in run.path.iterdir()} == {"recipe.yaml", "history.jsonl"}


def test_a_run_of_which_nothing_has_come_is_begun_again_whatever_its_recipe_was(tmp_path):
    run = RunFolder(tmp_path / "run")
    for alpha in (1, 2):  # a misspelt key, say, or data that were not there
        run.open(recipe_from(CONTENT | {"model": {"alpha": alpha}}), resume=False)
    assert yaml.safe_load((run.path / "recipe.yaml").read_text())["model"] == {"alpha": 2}


def test_clearing_a_run_leaves_the_log_of_who_looked_at_test_and_no_run(run, recipe):
    (run.path / "final.jsonl").write_text("{}\n")
    run.save(checkpoint(3), keep=1)
    run.clear()
    assert [path.name for path in run.path.iterdir()] == ["final.jsonl"]
    run.open(recipe, resume=False)
    run.add_history({"step": 1})
    (run.path / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="holds thesis.txt, which no run makes"):
        run.clear()
    assert (run.path / "history.jsonl").exists()


def test_a_folder_that_does_not_exist_can_be_gone_on_with(tmp_path, recipe):
    RunFolder(tmp_path / "a" / "b").open(recipe, resume=True)
    assert (tmp_path / "a" / "b" / "recipe.yaml").is_file()


def test_a_run_is_not_begun_over_another_and_what_there_is_is_said(run, recipe):
    for state, prepare in (
        ("a run at step 0", lambda: None),
        ("a run at step 7", lambda: run.save(checkpoint(7), keep=1)),
        ("a finished run", lambda: run.finish({"epoch": 1})),
    ):
        prepare()
        with pytest.raises(ValueError, match=f"holds {state}: go on with it by --resume, start it anew by --overwrite"):
            run.open(recipe, resume=False)


def test_what_is_no_run_is_left_alone(tmp_path, recipe):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("")
    (tmp_path / "file").write_text("")
    for resume in (False, True):
        with pytest.raises(ValueError, match="photos holds one.jpg, which no run makes, so it is not trained in"):
            RunFolder(tmp_path / "photos").open(recipe, resume=resume)
        with pytest.raises(ValueError, match="file is a file"):
            RunFolder(tmp_path / "file").open(recipe, resume=resume)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"optimizer": {"lr": 0.5}}}, "`train.optimizer.lr` was 0.001 there and is 0.5 now"),
        ({"model": {"alpha": 1e-5}}, r"`model.audio_hidden` was \[4\] there and is None now"),
        ({"model": CONTENT["model"] | {"beta": 2}}, "`model.beta` was None there and is 2 now"),
        ({"data": {"path": "films"}}, "`data.path` was clips there and is films now"),
        ({"train": {"players": {"critic": {}}}}, "`train.players.critic` was None there"),
    ],
)
def test_another_recipe_is_refused_by_the_key_that_differs(run, change, said):
    with pytest.raises(ValueError, match=f"a run of another recipe.*{said}.*--overwrite"):
        run.open(recipe_from(CONTENT | change), resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"output": "elsewhere"},
        {"name": "other"},
        {"checkpoint": {"keep": 9, "every_steps": 4}},
        {"train": {"trackers": ["tensorboard"]}},
        {"model": CONTENT["model"] | {"ridge": None}},
    ],
)
def test_what_does_not_decide_the_outcome_may_be_another(run, change):
    run.open(recipe_from(CONTENT | change), resume=True)


@pytest.mark.parametrize("content", ["a: [", "", "- 1", "\0"])
def test_a_recipe_that_was_damaged_is_a_sentence_that_names_the_file(run, recipe, content):
    (run.path / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"recipe\.yaml") as error:
        run.open(recipe, resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "leftover",
    [
        ".lock",
        pytest.param(
            ".tmp-0123456789abcdef0123456789abcdef",
        ),
    ],
)
def test_who_was_killed_before_anything_was_written_begins_again(tmp_path, recipe, leftover):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / leftover).write_text("")
    RunFolder(tmp_path / "run").open(recipe, resume=False)


def test_going_on_brings_back_what_was_being_replaced_and_removes_leftovers(run, recipe, fitted):
    run.save_model(fitted)
    run.save(checkpoint(5), keep=1)
    run.model.rename(run.path / ".tmp-former-model")
    (run.checkpoints / "step-00000005").rename(run.checkpoints / ".tmp-former-step-00000005")
    (run.path / ".tmp-new-model").mkdir()
    run.open(recipe, resume=True)
    assert run.latest_step == 5 and AutoModel.from_pretrained(run.model).fitted
    assert not [path for path in run.path.rglob(".tmp-*")]


# At work


def test_a_folder_in_which_another_process_trains_is_refused_until_it_ends(run):
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        with run.locked():
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(ValueError, match="Another process is training in .*run: name another folder"), run.locked():
            pass
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
    with run.locked():
        pass


def test_the_lock_is_let_go_when_training_fails(run):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="diverged"), run.locked():
            raise RuntimeError("diverged")


# Written


def test_a_checkpoint_that_cannot_be_written_says_why_and_what_there_is(run, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RuntimeError, match=r"step 3 could not be written \(No space left.*there is none yet"):
            run.save(checkpoint(3), keep=2)
    run.save(checkpoint(3), keep=2)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RuntimeError, match=r"step 4 could.*the one of step 3 is whole.*--resume") as error:
        run.save(checkpoint(4), keep=2)
    assert run.load().step == run.latest_step == 3
    assert "None" not in str(error.value)


def test_history_is_cut_where_the_checkpoint_was_and_a_torn_line_is_gone(run):
    run.cut_history(0)
    for step in range(4):
        run.add_history({"step": step, "validation": None})
    file = run.path / "history.jsonl"
    file.write_bytes(file.read_bytes() + b'{"step": 4, "val')
    run.cut_history(4)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [0, 1, 2, 3]
    run.cut_history(2)
    run.add_history({"step": 9})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [0, 1, 9]


def test_a_history_that_is_shorter_than_it_should_be_is_left_as_it_is(run):
    run.add_history({"step": 1})
    before = (run.path / "history.jsonl").read_bytes()
    run.cut_history(5)
    assert (run.path / "history.jsonl").read_bytes() == before


def test_a_number_that_is_none_is_written_as_null(run):
    nan, inf = float("nan"), float("inf")
    run.add_history({"loss": nan, "terms": {"a": inf, "b": -inf, "c": 0.5}, "list": [nan, {"d": nan}], "e": None})
    text = (run.path / "history.jsonl").read_text().splitlines()[-1]
    refused = lambda name: pytest.fail(f"{name} is no JSON")  # noqa: E731
    found = json.loads(text, parse_constant=refused)
    assert found == {"loss": None, "terms": {"a": None, "b": None, "c": 0.5}, "list": [None, {"d": None}], "e": None}


def test_a_summary_is_there_once_the_run_is_over(run):
    assert run.summary is None
    run.finish({"epoch": 3, "validation": {"map": 0.5}})
    assert run.summary == {"epoch": 3, "validation": {"map": 0.5}}


def test_a_model_is_replaced_whole_or_stays_as_it_was(run, fitted):
    run.save_model(fitted)

    class Broken:
        def save_pretrained(self, folder):
            (folder / "config.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save_model(Broken())
    assert AutoModel.from_pretrained(run.model).fitted
    assert not list(run.path.glob(".tmp-*"))


def test_the_recipe_of_a_run_can_be_trained_from_again(run, recipe):
    named = replace(recipe, name="1e3", data=replace(recipe.data, config="1e-2"))
    for one in (recipe, named):
        run.write_recipe(one)
        assert load_recipe(run.path / "recipe.yaml") == one
