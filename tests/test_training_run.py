"""A run ends as it would have ended, whatever happens to it on the way."""

import errno
import importlib
import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import in_a_child
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_dualspace import trainer, training_data, training_run
from modeling_dualspace.console import StoppedError
from modeling_dualspace.evaluation import evaluate_model
from modeling_dualspace.run_folder import RunFolder
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"embed_dim": 4, "explicit_dim": 4, "audio_hidden": [16], "visual_hidden": [12, 16], "dropout": 0.3}


def outcome(folder):
    """Every byte of both models, and what the history says but for the time."""
    weights = {
        f"{place.parent.name}/{name}": tensor
        for place in folder.rglob("model/model.safetensors")
        for name, tensor in load_file(place).items()
    }
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return weights, lines


def assert_same(folder, expected):
    weights, lines = outcome(folder)
    assert lines == expected[1]
    assert weights.keys() == expected[0].keys() and len(weights) > 20
    for name, tensor in expected[0].items():
        assert torch.equal(weights[name], tensor), name


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_bits_of_one_that_was_not(recipe, data, tmp_path):
    start = time.perf_counter()
    child = in_a_child(lambda: train(recipe("whole"), data=data, progress=False))
    assert os.waitpid(child, 0)[1] == 0
    whole = time.perf_counter() - start
    expected = outcome(tmp_path / "whole")

    chance, kills, runs, finished = random.Random(0), 0, 0, 0
    while kills < 20 or finished < runs:
        if finished == runs:
            runs += 1
        name = f"run-{runs}"
        child = in_a_child(lambda name=name: train(recipe(name), data=data, resume=True, progress=False))
        if kills < 20:
            time.sleep(chance.uniform(0.02, 0.6 * whole))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            kills += 1
            continue
        assert status == 0
        assert_same(tmp_path / name, expected)
        finished += 1
    assert kills == 20 and not list(tmp_path.rglob(".tmp-*"))


def test_being_asked_to_stop_saves_and_says_so_and_the_run_goes_on_to_the_same_bits(recipe, data, tmp_path):
    train(recipe("whole"), data=data, progress=False)
    kept = recipe("asked", features="stream")

    def asked_in_the_middle():
        def ask(step):
            if step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

        watched = Watched(data, ask)
        with pytest.raises(StoppedError, match="saved at step 7 .*--resume") as stopped:
            train(recipe("asked"), data=watched, progress=False)
        assert stopped.value.signal == signal.SIGTERM

    asked_in_the_middle()
    assert (tmp_path / "asked" / "checkpoints" / "step-00000007").is_dir()
    train(kept, data=data, resume=True, progress=False)  # where features are kept is no matter
    assert_same(tmp_path / "asked", outcome(tmp_path / "whole"))


class Watched(TrainingData):
    """The same data; `seen(step)` is called as each batch is handed over."""

    def __init__(self, data, seen):
        self.__dict__ |= data.__dict__
        self.seen, self.count = seen, 0

    def steps(self, batch_size, seed):
        epochs = super().steps(batch_size, seed)
        walk = epochs.epoch

        def watched(number, skip=0):
            for batch in walk(number, skip):
                self.count += 1
                self.seen(self.count)
                yield batch

        epochs.epoch = watched
        return epochs


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(recipe, data, tmp_path, caplog):
    train(recipe("whole"), data=data, progress=False)
    stop_at(recipe("damaged"), data, 10)
    newest = tmp_path / "damaged" / "checkpoints" / "step-00000010" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    train(recipe("damaged"), data=data, resume=True, progress=False)
    assert "step-00000010 is damaged and passed over" in caplog.text
    assert_same(tmp_path / "damaged", outcome(tmp_path / "whole"))


def stop_at(recipe, data, step):
    """Trains until a step, saves, and stops as a preempted job does."""
    ask = lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == step else None  # noqa: E731
    with pytest.raises(StoppedError):
        train(recipe, data=Watched(data, ask), progress=False)


def test_a_full_disk_ends_with_a_sentence_and_the_last_good_checkpoint_intact(recipe, data, tmp_path, monkeypatch):
    train(recipe("whole"), data=data, progress=False)
    write = Path.write_bytes
    writes = []

    def full(path, content):
        writes.append(path)
        if len(writes) > 5:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(
            RuntimeError, match=r"step 4 could not be written \(No space left.*step 3 is whole.*--resume"
        ):
            train(recipe("full"), data=data, progress=False)
    assert not list((tmp_path / "full").rglob(".tmp-*"))
    train(recipe("full"), data=data, resume=True, progress=False)
    assert_same(tmp_path / "full", outcome(tmp_path / "whole"))


def test_a_loss_that_is_no_number_says_which_term_which_step_and_what_to_try(recipe, data, tmp_path):
    wild = recipe("wild", optimizer={"name": "sgd", "lr": 1e6})
    with pytest.raises(ValueError, match=r"step \d+ \(epoch \d+\): `\w+` is .*train.optimizer.lr.*train.clip=1"):
        train(wild, data=data, progress=False)
    assert not (tmp_path / "wild" / "summary.json").exists()


def test_a_batch_too_small_for_the_correlation_says_how_large_it_must_be(recipe, data):
    with pytest.raises(
        ValueError, match="smallest batch would have 5 clips, and this model needs 9 at least.*batch_size"
    ):
        train(recipe(batch_size=5), data=data, progress=False)


def test_the_chosen_epoch_is_the_best_on_validation_and_the_refit_takes_as_many(recipe, data, tmp_path):
    summary = train(recipe(), data=data, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["validation"]["map"])
    assert (summary["epoch"], summary["validation"]) == (best["epoch"], best["validation"])
    assert summary["steps"] == 18 + best["epoch"] * 5  # 135 clips by 30
    before, after = (AutoModel.from_pretrained(tmp_path / "run" / place) for place in ("before-refit/model", "model"))
    assert before.config.trained_on["rows"] == {"train": 90}
    assert after.config.trained_on["rows"] == {"train": 90, "validation": 45}
    assert after.config.fusion_choice["candidate"] == before.config.fusion_choice["candidate"]
    # What is said of the chosen model is what an evaluation from outside says of it.
    found = evaluate_model(before, data.splits["validation"])["metrics"]
    assert found["map"] == pytest.approx(summary["validation"]["map"], abs=1e-9)


def test_patience_ends_a_run_that_gets_no_better(recipe, data, tmp_path):
    train(recipe(epochs=200, patience=2, refit=False), data=data, progress=False)
    lines = [
        json.loads(line)["validation"]["map"] for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    ]
    assert len(lines) < 200 and max(lines[-2:]) <= max(lines) == lines[-3]


def test_a_finished_run_is_not_trained_again(recipe, data, tmp_path):
    summary = train(recipe(), data=data, progress=False)
    with pytest.raises(ValueError, match="holds a finished run: go on with it by --resume"):
        train(recipe(), data=data, progress=False)
    assert train(recipe(), data=data, resume=True, progress=False) == summary
    with pytest.raises(ValueError, match="of another recipe.*`train.epochs` was 6 there and is 7 now"):
        train(recipe(epochs=7), data=data, resume=True, progress=False)
    assert train(recipe(epochs=7), data=data, overwrite=True, progress=False)["epochs"] == 7


def test_films_nobody_annotated_train_too_and_are_scored_by_their_pairs(recipe, data):
    data = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    summary = train(recipe(), data=data, progress=False)
    assert summary["chosen_on"] == "validation" and summary["validation"]["relevance"] == "pair"


def test_a_system_that_reads_no_labels_is_not_chosen_by_them(recipe, data, tmp_path):
    blind = replace(recipe(refit=False), model=recipe().model | {"variant": "explicit"})
    summary = train(blind, data=data, progress=False)
    assert (summary["chosen_on"], summary["epoch"]) == (None, 6)
    history = (tmp_path / "run" / "history.jsonl").read_text()
    assert '"relevance": "class"' in history  # for the curves


def test_without_validation_all_epochs_are_taken_and_nothing_is_chosen(recipe, data, tmp_path):
    summary = train(recipe(), data=TrainingData({"train": data.splits["train"]}), progress=False)
    assert (summary["epoch"], summary["chosen_on"], summary["refit"]) == (6, None, False)
    assert AutoModel.from_pretrained(tmp_path / "run" / "model").fitted


@pytest.mark.parametrize("features", ["device", "memory", "stream"])
def test_wherever_features_are_kept_the_run_is_the_same(recipe, data, tmp_path, features):
    train(recipe("whole"), data=data, progress=False)
    train(recipe("other"), data=TrainingData(data.splits, features=features), progress=False)
    assert_same(tmp_path / "other", outcome(tmp_path / "whole"))


def test_bf16_trains_near_fp32_and_saves_fp32(recipe, data, tmp_path):
    one, other = (train(recipe(name, precision=name), data=data, progress=False) for name in ("fp32", "bf16"))
    # Three classes: a half of the distance from chance (.34) to what fp32 reaches would be a failure.
    assert other["validation"]["map"] > one["validation"]["map"] - 0.1
    weights, _ = outcome(tmp_path / "bf16")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_other_data_under_the_same_name_are_not_gone_on_with(recipe, data, make_batch, as_split, tmp_path):
    stop_at(recipe(), data, 5)
    other = TrainingData(data.splits | {"train": as_split(make_batch(90, seed=9))})
    with pytest.raises(ValueError, match="was trained on data of the fingerprint .* bring the former back"):
        train(recipe(), data=other, resume=True, progress=False)


def test_a_run_that_was_shuffled_in_blocks_is_not_gone_on_with_in_one(recipe, data, monkeypatch):
    monkeypatch.setattr(training_data, "BLOCK", 40)
    stop_at(recipe(), TrainingData(data.splits, features="stream"), 5)
    with pytest.raises(ValueError, match="shuffled its clips in 3 blocks, and would in 1 now.*train.features=stream"):
        train(recipe(), data=data, resume=True, progress=False)


def test_the_last_epoch_is_kept_where_the_recipe_says_so(recipe, data, tmp_path):
    summary = train(recipe(choose="last", eval_every=2, refit=False), data=data, progress=False)
    lines = outcome(tmp_path / "run")[1]
    assert [line["epoch"] for line in lines] == [2, 4, 6]
    assert (summary["epoch"], summary["chosen_on"]) == (6, None) and summary["validation"] == lines[-1]["validation"]


def test_few_clips_are_walked_through_until_there_were_enough_steps(recipe, data):
    summary = train(recipe(epochs=1, min_steps=10, refit=False), data=data, progress=False)
    assert (summary["epochs"], summary["steps"]) == (4, 12)  # three batches an epoch


def test_a_run_is_trained_by_one_process_at_a_time(recipe, data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(ValueError, match="Another process is training in"):
        train(recipe(), data=data, progress=False)


def test_trackers_see_every_validation(recipe, data, tmp_path):
    train(recipe(trackers=["tensorboard"], refit=False), data=data, progress=False)
    event_accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    (folder,) = {file.parent for file in (tmp_path / "run" / "trackers").rglob("events*") if file.parent.name == "run"}
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    lines = outcome(tmp_path / "run")[1]
    found = [(event.step, event.value) for event in events.Scalars("validation/map")]
    assert found == [(line["step"], pytest.approx(line["validation"]["map"])) for line in lines]


@pytest.mark.parametrize(
    ("name", "said"), [("tensorbord", "Accelerate knows .*tensorboard"), ("swanlab", "pip install swanlab")]
)
def test_a_tracker_that_is_not_there_is_a_sentence(recipe, data, name, said):
    with pytest.raises(ValueError, match=said):
        train(recipe(trackers=[name]), data=data, progress=False)


def test_fp16_without_a_gpu_is_a_sentence(recipe, data):
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU here, on which fp16 works")
    with pytest.raises(ValueError, match="fp16, which needs a GPU.*fp32 and bf16"):
        train(recipe(precision="fp16"), data=data, progress=False)


def test_a_refit_on_more_clips_follows_the_schedule_to_its_end_and_not_beyond(recipe, data, monkeypatch):
    seen = []
    monkeypatch.setattr(trainer, "rate", lambda schedule, progress, epoch: seen.append(progress) or 1.0)
    settings = {"epochs": 1, "min_steps": 9, "choose": "last", "schedule": {"name": "cosine"}}
    summary = train(recipe(**settings), data=data, progress=False)
    # Nine steps to choose by; as many epochs, three, over 135 clips in five batches each.
    assert summary["steps"] == 9 + 15 == len(seen)
    assert seen == [step / 9 for step in range(9)] + [step / 15 for step in range(15)]


def test_a_closed_form_without_validation_has_taken_its_time(recipe, data, monkeypatch):
    finish = training_run._Training._finish
    monkeypatch.setattr(training_run._Training, "_finish", lambda *a: time.sleep(0.1) or finish(*a))
    alone = TrainingData({"train": data.splits["train"]})
    summary = train(replace(recipe(refit=False), system="cca", model={"embed_dim": 2}), data=alone, progress=False)
    assert summary["seconds"]["steps"] >= 0.1 and summary["steps"] == 0


def test_two_processes_track_write_and_finish_as_one(recipe, data, together, tmp_path):
    def of(name, **settings):  # dropout falls otherwise in each process
        return replace(recipe(name, **settings), model=recipe().model | {"dropout": 0.0})

    def work():
        summary = train(of("two", trackers=["tensorboard"]), data=data, progress=False)
        return summary["processes"], summary["epoch"], torch.distributed.is_initialized()

    assert together(2, work) == [(2, train(of("one"), data=data, progress=False)["epoch"], True)] * 2
    assert len(list((tmp_path / "two" / "trackers").rglob("events*"))) == 2  # the recipe's, and those of validations


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"alhpa": 1}}, "no key `alhpa`"),
        ({"model": {"alpha": "much"}}, "`model.alpha` cannot be 'much': it must be a number"),
        ({"model": {"fusion": "ccca"}}, "`model.fusion` cannot be 'ccca': it must be one of weighted-cluster-cca, cca"),
        ({"model": {"dropout": 1.5}}, "`model`: `dropout` must be at least 0 and below 1"),
        ({"init": "nowhere"}, "`init` is nowhere, and cannot be started from"),
    ],
)
def test_what_is_wrong_with_settings_is_said_before_anything_is_removed_or_written(
    recipe, data, tmp_path, change, said
):
    wrong = replace(recipe(), **change)
    with pytest.raises(ValueError, match=said):
        train(wrong, data=data, progress=False)
    assert not (tmp_path / "run").exists()
    summary = train(recipe(), data=data, progress=False)
    for flags in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError):
            train(wrong, data=data, progress=False, **flags)
        assert train(recipe(), data=data, resume=True, progress=False) == summary


def test_a_run_does_not_remove_the_model_it_starts_from(recipe, data, tmp_path):
    train(recipe(), data=data, progress=False)
    again = replace(recipe(), init=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="would be removed: name another `output`"):
        train(again, data=data, overwrite=True, progress=False)
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_the_log_of_who_looked_at_test_outlives_the_run(recipe, data, tmp_path):
    train(recipe(), data=data, progress=False)
    (tmp_path / "run" / "final.jsonl").write_text("{}\n")
    train(recipe(epochs=2), data=data, overwrite=True, progress=False)
    assert (tmp_path / "run" / "final.jsonl").read_text() == "{}\n"
