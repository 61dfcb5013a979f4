"""A model for the Hub: a toy run, its card's figures found anew by plain NumPy, and all that stops one."""

import json
import locale
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny_release import refusal
from transformers import AutoModel

from modeling_dualspace import model_release
from modeling_dualspace.data_card import DataCard
from modeling_dualspace.evaluation import evaluate
from modeling_dualspace.feature_dataset import write_dataset
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.figure_style import to_png
from modeling_dualspace.files import model_fingerprint
from modeling_dualspace.final_score import score_final
from modeling_dualspace.loading import load_model
from modeling_dualspace.model_release import stage_model
from modeling_dualspace.recipe import recipe_from
from modeling_dualspace.release_checks import check
from modeling_dualspace.release_plan import Item
from modeling_dualspace.staging import Staged
from modeling_dualspace.training_run import train

SIZES = {"train": 60, "validation": 15, "test": 24}
NAMES = ["dog", "drum", "rain | wind"]
MODEL = {"embed_dim": 4, "explicit_dim": 4, "audio_hidden": [16], "visual_hidden": [12, 16]}


def clips(split, rows, seed):
    generator, labels = np.random.default_rng([len(split), rows, seed]), np.arange(rows) % 3
    latent = 2 * np.eye(3)[labels] + generator.standard_normal((rows, 3))
    audio, visual = (latent @ np.random.default_rng(width).standard_normal((3, width)) for width in (6, 8))
    ids = [f"{split}/{row}" for row in range(rows)]
    return {"clip_id": ids, "audio_features": audio, "visual_features": visual, "label": labels}


def write_data(folder, seed=0, names=NAMES, multi_label=False, synthetic=False, configs=("default",)):
    """A data set of three classes, one configuration a seed."""

    def rows(part, offset):
        columns = clips(part.split("/")[1], SIZES[part.split("/")[1]], seed + offset)
        if multi_label:
            columns["labels"] = np.eye(3, dtype=np.float32)[columns.pop("label")]
        elif names is None:
            del columns["label"]
        return [columns]

    sources = [
        FeatureSource(
            name=config, features=feature_columns(6, 8, names, multi_label=multi_label), audio="a@1", visual="v@2",
            splits={split: [f"{config}/{split}"] for split in SIZES}, synthetic=synthetic,
            rows=lambda part, offset=offset: rows(part, offset), class_names=names if multi_label else None,
        )
        for offset, config in enumerate(configs)
    ]  # fmt: skip
    write_dataset(folder, sources, DataCard("Toy", folder.name, license="mit"), progress=False)
    return folder


def write_run(folder, data, **settings):
    """A finished run and its result on test."""
    recipe = recipe_from({"name": folder.name, "data": {"path": str(data)}, "output": str(folder)} | settings)
    train(recipe, progress=False)
    score_final(recipe, command=f"dualspace train {folder.name} --final")
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A data set, and a run on it that was refit."""
    root = tmp_path_factory.mktemp("toys")
    data = write_data(root / "toy")
    torch.manual_seed(0)
    write_run(root / "dual", data, model=MODEL, train={"epochs": 2, "batch_size": 30, "refit": True})
    return root


@pytest.fixture
def closed_form(toys, run):
    """A run as a closed form leaves it: no epochs, nothing chosen."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    gone = dict.fromkeys(("epoch", "epochs", "chosen_on", "validation", "choice"))
    (run / "summary.json").write_text(json.dumps(summary | gone))
    (run / "history.jsonl").unlink()
    change(results_of(run)[0], options={"chosen_on": None, "refit": None}, seed=None)
    return run


@pytest.fixture
def run(toys, tmp_path):
    """A copy of the run, to be spoiled."""
    return Path(shutil.copytree(toys / "dual", tmp_path / "dual"))


@pytest.fixture(autouse=True)
def _sketched(monkeypatch):
    monkeypatch.setattr(model_release, "to_png", lambda draw: b"\x89PNG")


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they are, which take a second."""
    monkeypatch.setattr(model_release, "to_png", to_png)


@pytest.fixture
def stage(tmp_path_factory):
    """`stage(path, ...)`: a model as the Hub gets it."""

    def of(path, repo_id="me/toy-model", others=(), private=False, **item):
        one = Staged("model", repo_id, "model", tmp_path_factory.mktemp("staged"), private=private)
        stage_model(Item(name=repo_id, path=str(path), **{"license": "mit"} | item), one, others)
        return one

    return of


def results_of(run):
    return sorted((run / "results").glob("*.json"))


def change(path, **parts):
    """Other values in parts of a result."""
    result = json.loads(path.read_text(encoding="utf-8"))
    for name, values in parts.items():
        result[name] = result[name] | values if isinstance(values, dict) else values
    path.write_text(json.dumps(result))
    return result


def add(run, data, split="test", name="extra", config=None, **changes):
    """One more result of a run."""
    result = evaluate(str(run), str(data), config, split, command=f"dualspace evaluate {run.name} {data.name}")
    (run / "results" / f"{name}.json").write_text(json.dumps(result | changes))
    return result


def body(one):
    return ModelCard(one.card).text


# What is staged


def naive_map(queries, gallery, relevant):
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
    precisions = []
    for row, cosines in enumerate(units[0] @ units[1].T):
        hits = relevant[row][np.argsort(-cosines)]
        found = [hits[: rank + 1].mean() for rank in range(len(hits)) if hits[rank]]
        precisions.append(np.mean(found))
    return np.mean(precisions)


def test_the_figures_for_machines_are_those_that_plain_numpy_finds_with_the_staged_weights(toys, stage):
    one = stage(toys / "dual")
    assert check(one) == []
    card = ModelCard.load(one.folder / "README.md")
    test = load_dataset(str(toys / "toy"), split="test").with_format("numpy")
    model = AutoModel.from_pretrained(one.folder).eval()
    with torch.no_grad():
        audio = model.get_audio_embeds(torch.tensor(test["audio_features"][:])).double().numpy()
        visual = model.get_visual_embeds(torch.tensor(test["visual_features"][:])).double().numpy()
    relevant = test["label"][:][:, None] == test["label"][:][None]
    expected = {
        "map_audio_to_visual": naive_map(audio, visual, relevant),
        "map_visual_to_audio": naive_map(visual, audio, relevant),
    }
    expected["map"] = sum(expected.values()) / 2
    found = {entry.metric_type: entry.metric_value for entry in card.data.eval_results}
    assert found.keys() == expected.keys()
    assert all(abs(found[name] - value) < 1e-6 for name, value in expected.items()), (found, expected)
    (entry, *_) = card.data.eval_results
    assert (entry.dataset_type, entry.dataset_name, entry.dataset_config, entry.dataset_split) == (
        "toy", "Toy", "default", "test",
    )  # fmt: skip
    for name, value in expected.items():
        assert f"{value:.4f}" in body(one), name


def test_the_numbers_to_check_a_download_by_are_those_of_the_staged_weights(toys, stage):
    one = stage(toys / "dual")
    record = ModelCard(one.card).data["dualspace"]
    model = AutoModel.from_pretrained(one.folder).eval()
    assert record["fingerprint"] == model_fingerprint(model)
    with torch.no_grad():
        found = model.get_audio_embeds(torch.linspace(-1, 1, 12).reshape(2, 6))
    np.testing.assert_allclose(found[:, :4], record["check"]["audio"], atol=1e-4)  # written with four digits
    assert ", ".join(map(str, record["check"]["audio"][0][:4])) in body(one)


def test_all_of_a_model_goes_and_nothing_else_does_and_that_is_said(run, stage):
    for name in ("trainer_state.pt", "notes.txt", ".hidden.json", "README.md", ".made-by-dualspace"):
        (run / "model" / name).write_text("x")
    (run / "model" / "folder").mkdir()
    (run / "model" / "gone.json").symlink_to("nothing")
    (run / "model" / "processor.json").symlink_to(run / "summary.json")
    one = stage(run)
    names = {name for name in one.files if not name.startswith("figures/")}
    assert names >= {"README.md", "config.json", "model.safetensors", "modeling_dualspace.py", "processor.json"}
    assert not names & {"trainer_state.pt", "notes.txt", ".hidden.json", "gone.json", ".made-by-dualspace"}
    assert not any("/" in name for name in names) and not (one.folder / "processor.json").is_symlink()
    for name in ("trainer_state.pt", "notes.txt", ".hidden.json", "folder", "gone.json"):
        assert sum(f"/{name} is no part of a model" in note for note in one.notes) == 1, name
    assert one.card != "x" and check(one) == []
    assert not any("README" in note or "made-by" in note for note in one.notes)


def test_originals_are_never_changed_though_nothing_is_copied(run, stage):
    (run / "model" / "README.md").write_text("mine")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    one = stage(run)
    check(one)
    assert (one.folder / "model.safetensors").samefile(run / "model" / "model.safetensors")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()} == before


def test_twice_staged_is_the_same_to_the_byte_wherever_and_by_whomever(toys, stage, drawn, tmp_path, monkeypatch):
    first = stage(toys / "dual")
    pictures = [name for name in first.files if name.endswith(".png")]
    assert len(pictures) == 7 and all((first.folder / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    assert all(name in first.card for name in pictures)
    run = Path(shutil.copytree(toys / "dual", tmp_path / "else where" / "dual"))
    data = Path(shutil.copytree(toys / "toy", tmp_path / "else where" / "toy"))
    for path in run.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.chdir(run)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    changed = {
        "figure.dpi": 33,
        "savefig.bbox": "tight",
        "font.size": 30,
        "axes.facecolor": "red",
        "lines.linewidth": 9,
    }
    mask, before, spoken = os.umask(0o077), dict(matplotlib.rcParams), locale.setlocale(locale.LC_ALL)
    matplotlib.rcParams.update(changed)
    try:
        locale.setlocale(locale.LC_ALL, "C")
        again = stage(".", data=str(data))
    finally:
        os.umask(mask)
        locale.setlocale(locale.LC_ALL, spoken)
        matplotlib.rcParams.update({name: before[name] for name in changed})
    assert again.files == first.files and again.digest == first.digest


# Whose figures, and of what


def test_a_result_of_other_weights_stops_it(run, stage):
    weights = load_file(run / "model" / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.dtype == torch.float32 and tensor.numel() > 10)
    weights[name] = weights[name] + 1e-3
    save_file(weights, run / "model" / "model.safetensors", metadata={"format": "pt"})
    text = refusal(lambda: stage(run))
    assert (
        "measured with other weights" in text and str(results_of(run)[0]) in text and "evaluate the model again" in text
    )
    assert model_fingerprint(load_model(str(run))) in text


@pytest.mark.parametrize("command", [None, ""])
def test_a_result_without_a_command_stops_it(run, stage, command):
    change(results_of(run)[0], command=command)
    text = refusal(lambda: stage(run))
    assert "by which command" in text and "dualspace evaluate" in text and str(results_of(run)[0]) in text


def test_a_run_without_a_result_is_told_how_to_get_one(run, stage):
    results_of(run)[0].unlink()
    text = refusal(lambda: stage(run))
    assert f"dualspace evaluate {run} DATA" in text


def test_a_result_that_is_none_stops_it(run, stage):
    results_of(run)[0].write_text("{}")
    assert "format" in refusal(lambda: stage(run))
    results_of(run)[0].write_text("{")
    assert "is no JSON" in refusal(lambda: stage(run))


def test_a_data_set_that_is_not_at_hand_or_was_changed_stops_it(run, stage, tmp_path):
    other = write_data(tmp_path / "other", seed=7)
    nowhere = str(tmp_path / "no" / "where")
    change(results_of(run)[0], data={"id": nowhere})
    text = refusal(lambda: stage(run))
    assert f"not at {nowhere}" in text and "--data" in text
    change(results_of(run)[0], data={"id": str(other)})
    text = refusal(lambda: stage(run))
    assert f"{other} is not the one that was scored" in text and "fingerprint" in text


def test_data_says_where_the_data_set_is(run, stage, tmp_path, toys):
    change(results_of(run)[0], data={"id": "/no/where"})
    moved = Path(shutil.copytree(toys / "toy", tmp_path / "renamed"))
    one = stage(run, data=str(moved))
    assert list(one.places.values()) == [str(moved)] and "split of `renamed`" in one.card
    assert str(tmp_path) not in one.card


@pytest.mark.parametrize(
    "parts",
    [{"metrics": {"seen": "trained"}}, {"metrics": {"seen": "chosen"}}, {"options": {"chosen_on": "test"}}],
    ids=["trained", "chosen", "chosen on"],
)
def test_a_figure_of_test_on_which_something_was_trained_or_chosen_stops_it(run, stage, parts):
    change(results_of(run)[0], **parts)
    text = refusal(lambda: stage(run))
    assert "has not seen" in text and str(results_of(run)[0]) in text and "Remove that file" in text


def test_a_run_that_was_chosen_on_test_stops_whatever_the_result_says(run, stage):
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    (run / "summary.json").write_text(json.dumps(summary | {"chosen_on": "test"}))
    assert "was chosen" in refusal(lambda: stage(run))


def test_a_model_whose_record_names_test_stops_whatever_the_result_says(run, stage):
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    config["trained_on"]["rows"]["test"] = 24
    (run / "model" / "config.json").write_text(json.dumps(config))
    text = refusal(lambda: stage(run))
    assert "was trained on test" in text and "no figure of those clips" in text


def test_results_on_what_was_learnt_from_are_left_out_and_that_is_said(run, stage, toys):
    for number, split in enumerate(["train", "validation", "train[:50%]"]):
        add(run, toys / "toy", split, f"more-{number}")
    one = stage(run)
    assert {entry.dataset_split for entry in ModelCard(one.card).data.eval_results} == {"test"}
    assert sum("is left out of the card" in note for note in one.notes) == 3
    assert "On the train" not in one.card and "On the validation" not in one.card
    results_of(run)[-1].unlink()
    for path in results_of(run):
        if "more" not in path.name:
            path.unlink()
    assert "no result on clips it has not seen" in refusal(lambda: stage(run))


@pytest.mark.parametrize("split", ["test+train", "all", "test[:50%]+train[:50%]"])
def test_a_split_that_joins_others_has_seen_what_they_have(run, stage, toys, split):
    add(run, toys / "toy", split)
    try:
        one = stage(run)
    except ValueError:
        return
    assert {entry.dataset_split for entry in ModelCard(one.card).data.eval_results} == {"test"}


def test_a_slice_of_what_was_chosen_on_stops_it_too(run, stage, toys):
    add(run, toys / "toy", "test[:12]", options={"chosen_on": "test", "refit": True, "legacy_prefix_average": False})
    assert "was chosen" in refusal(lambda: stage(run))


def test_the_pictures_of_a_slice_have_names_that_are_addresses(run, stage, toys):
    add(run, toys / "toy", "test[:50%]")
    assert not [name for name in stage(run).files if set(name) & set(':%[]" ')]


def test_a_result_without_a_date_is_shown_or_refused_in_words(run, stage):
    change(results_of(run)[0], date=None)
    try:
        stage(run)
    except ValueError as error:
        assert "date" in str(error)


@pytest.mark.parametrize("key", ["precision_scope", "per_class", "pair_recall"])
def test_a_result_that_lacks_what_is_drawn_is_refused_in_words(run, stage, key):
    result = json.loads(results_of(run)[0].read_text(encoding="utf-8"))
    for direction in ("audio_to_visual", "visual_to_audio"):
        del result["metrics"][direction][key]
    if key == "pair_recall":
        result["metrics"]["map"] = None
    results_of(run)[0].write_text(json.dumps(result))
    with pytest.raises(ValueError, match=key):
        stage(run)


@pytest.mark.parametrize(("newer", "older"), ["az", "za"])
def test_of_two_results_of_one_split_the_newest_is_shown(run, stage, toys, newer, older):
    add(run, toys / "toy", name=newer, date="2999-01-01T00:00:00+00:00", command="newest")
    add(run, toys / "toy", name=older, date="1999-01-01T00:00:00+00:00", command="oldest")
    one = stage(run)
    assert "Printed by `newest` on 2999-01-01." in one.card and "oldest" not in one.card
    assert len(ModelCard(one.card).data.eval_results) == 3


def test_every_data_set_split_and_configuration_has_figures_of_its_own(run, stage, toys, tmp_path):
    several = write_data(tmp_path / "several", seed=3, configs=("one", "two"))
    expected = [add(run, several, config=config, name=f"a-{config}") for config in ("one", "two")]
    one = stage(run)
    entries = ModelCard(one.card).data.eval_results
    assert [entry.dataset_type for entry in entries[::3]] == ["toy", "several", "several"]  # its own data come first
    assert [entry.dataset_config for entry in entries[::3]] == ["default", "one", "two"]
    for result, entry in zip(expected, entries[3::3], strict=True):
        assert entry.metric_value == pytest.approx(result["metrics"]["map"], abs=1e-6)
        assert entry.dataset_args == {"fingerprint": result["data"]["fingerprint"]}
    assert "configuration `two`" in one.card and len(one.places) == 3 and check(one) == []
    assert len([name for name in one.files if name.startswith("figures/class-map-audio")]) == 3


def test_two_data_sets_called_alike_keep_their_figures_apart(run, stage, tmp_path):
    other = add(run, write_data(tmp_path / "elsewhere" / "toy", seed=5))
    entries = ModelCard(stage(run).card).data.eval_results
    of_other = [entry for entry in entries if entry.dataset_args["fingerprint"] == other["data"]["fingerprint"]]
    assert len(entries) == 6 and len(of_other) == 3


def test_the_recipe_names_what_was_trained_on_whatever_was_measured(run, stage, tmp_path):
    results_of(run)[0].unlink()
    add(run, write_data(tmp_path / "foreign", seed=5))
    assert "path: foreign" not in stage(run).card


def test_unlabelled_data_show_how_own_pairs_are_found(run, stage, tmp_path):
    result = add(run, write_data(tmp_path / "bare", names=None))
    for path in results_of(run):
        if path.stem != "extra":
            path.unlink()
    one = stage(run)
    found = {entry.metric_type: entry.metric_value for entry in ModelCard(one.card).data.eval_results}
    expected = [result["metrics"][way]["pair_recall"]["10"] for way in ("audio_to_visual", "visual_to_audio")]
    assert found["pair_recall_at_10"] == pytest.approx(sum(expected) / 2, abs=1e-6) and "map" not in found
    assert "nobody annotated" in one.card and "MAP by class" not in one.card and check(one) == []
    assert all("own-pair" in name or "loss" in name for name in one.files if name.startswith("figures/"))


def test_clips_of_several_classes_have_a_map(run, stage, tmp_path):
    result = add(run, write_data(tmp_path / "several", multi_label=True, seed=2), name="a")
    one = stage(run)
    found = [entry.metric_value for entry in ModelCard(one.card).data.eval_results if entry.dataset_type == "several"]
    assert found[0] == pytest.approx(result["metrics"]["map"], abs=1e-6) and check(one) == []


def test_the_name_of_a_class_does_not_break_the_table(toys, stage):
    rows = [line for line in stage(toys / "dual").card.splitlines() if line.startswith("| rain")]
    assert len(rows) == 1 and rows[0].startswith("| rain \\| wind | 0.") and rows[0].endswith("| 8 |")


# Synthetic


def recorded(run, **changes):
    """What the model says of the data that it was trained on."""
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    config["trained_on"] = {key: value for key, value in (config["trained_on"] | changes).items() if value is not None}
    (run / "model" / "config.json").write_text(json.dumps(config))


def test_a_model_of_synthetic_features_says_so_first(run, stage):
    recorded(run, synthetic=True)
    one = stage(run, "me/toy-synthetic")
    assert one.synthetic and body(one).strip().startswith("**SYNTHETIC") and check(one) == []
    assert "synthetic" in ModelCard(one.card).data.tags
    assert "me/toy-model-synthetic" in " ".join(check(stage(run)))


def test_a_real_model_with_one_more_result_on_synthetic_features_is_no_synthetic_model(run, stage, tmp_path):
    add(run, write_data(tmp_path / "made-up", synthetic=True, seed=4))
    assert check(stage(run)) == []


def test_where_a_model_does_not_say_what_it_was_measured_on_does(run, stage, tmp_path):
    recorded(run, synthetic=None)
    assert not stage(run).synthetic
    recorded(run, fingerprint="0" * 16)
    results_of(run)[0].unlink()
    add(run, write_data(tmp_path / "made-up", synthetic=True, seed=4))
    assert stage(run).synthetic


# Where the model is


def test_a_model_without_a_run_and_its_results_below_here(toys, stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toys / "dual" / "model", tmp_path / "mine")
    assert "no result" in refusal(lambda: stage("mine"))
    (tmp_path / "results" / "mine").mkdir(parents=True)
    result = evaluate("mine", str(toys / "toy"), command="dualspace evaluate mine toy")
    (tmp_path / "results" / "mine" / "toy-test.json").write_text(json.dumps(result))
    one = stage("mine")
    assert "There is no recipe" in one.card and "60 clips of train and 15 clips of validation of toy" in one.card
    assert check(one) == [] and not any("figures/loss" in name for name in one.files)
    assert "before the refit" not in one.card and "Training took" not in one.card


def test_a_run_and_the_model_in_it_are_one_thing(toys, stage):
    assert stage(toys / "dual").digest == stage(toys / "dual" / "model").digest


def test_the_model_before_the_refit_can_be_released_too(toys, stage):
    one = stage(toys / "dual" / "before-refit")
    assert "60 clips of train of toy" in one.card and check(one) == []


def test_the_refit_is_told_from_what_was_chosen(toys, run, stage):
    text = stage(toys / "dual").card
    assert "**MAP**, refit on train and validation" in text and "MAP, before the refit" in text
    before = json.loads(next((run / "before-refit" / "results").glob("*.json")).read_text(encoding="utf-8"))
    assert f"| MAP, before the refit | {before['metrics']['audio_to_visual']['map']:.4f} |" in text
    change(next((run / "before-refit" / "results").glob("*.json")), model={"fingerprint": "0" * 16})
    assert "before the refit" not in stage(run).card  # of other weights: that figure has no source


def test_a_run_that_is_not_finished_is_told_how_to_go_on(run, stage):
    (run / "summary.json").unlink()
    text = refusal(lambda: stage(run))
    assert "not finished" in text and "--resume" in text


def test_a_model_that_is_not_fitted_is_told_what_to_do(make_model, stage, tmp_path):
    make_model().save_pretrained(tmp_path / "raw")
    text = refusal(lambda: stage(tmp_path / "raw"))
    assert "not fitted" in text and "finish" in text


def test_a_run_in_closed_form_says_so(closed_form, stage):
    one = stage(closed_form)
    assert "in closed form" in one.card and "None" not in one.card and check(one) == []
    assert not any("figures/loss" in name for name in one.files) and "epoch and fusion" not in one.card


def test_without_a_recipe_none_is_shown(run, stage):
    (run / "recipe.yaml").unlink()
    one = stage(run)
    assert "There is no recipe" in one.card and "```yaml" not in one.card and check(one) == []


def test_without_a_recipe_no_caption_speaks_of_one(run, stage):
    (run / "recipe.yaml").unlink()
    assert "recipe `" not in stage(run).card


def test_weights_without_their_code_are_said_to_need_the_package(run, stage):
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    del config["auto_map"], config["custom_pipelines"]
    (run / "model" / "config.json").write_text(json.dumps(config))
    for path in (run / "model").glob("*.py"):
        path.unlink()
    one = stage(run)
    assert "trust_remote_code" not in one.card and "it needs DualSpace" in one.card and check(one) == []


def test_weights_that_are_a_pickle_alone_are_refused(run, stage):
    torch.save(load_file(run / "model" / "model.safetensors"), run / "model" / "pytorch_model.bin")
    (run / "model" / "model.safetensors").unlink()
    try:
        one = stage(run)
    except ValueError as error:
        assert "safetensors" in str(error)
        return
    assert any("safetensors" in line for line in check(one))


# With others


def released(folder, repo_id="me/toy", private=False):
    fingerprint = load_dataset(str(folder), split="test").info.description.split()[0].removeprefix("fingerprint=")
    return Staged("data set", repo_id, "dataset", folder, private=private, fingerprints=[fingerprint])


def test_a_data_set_of_the_same_release_is_named_as_it_is_on_the_hub(toys, stage):
    one = stage(toys / "dual", others=[released(toys / "toy", "me/toys")])
    card = ModelCard(one.card)
    assert card.data.datasets == ["me/toys"] and card.data.eval_results[0].dataset_type == "me/toys"
    assert "https://huggingface.co/datasets/me/toys" in one.card and "path: me/toys" in one.card


def test_a_public_card_names_nothing_that_is_private(toys, stage):
    hidden = released(toys / "toy", "me/hidden-toys", private=True)
    assert "hidden-toys" not in stage(toys / "dual", others=[hidden]).card
    assert "me/hidden-toys" in stage(toys / "dual", others=[hidden], private=True).card


def test_a_public_card_does_not_show_the_name_of_a_private_data_set(toys, stage, tmp_path):
    folder = Path(shutil.copytree(toys / "toy", tmp_path / "me" / "hidden-toys"))  # as a release makes it
    assert "hidden-toys" not in stage(toys / "dual", others=[released(folder, "me/hidden-toys", private=True)]).card


def test_another_data_set_of_the_release_is_not_named(toys, stage, tmp_path):
    other = released(write_data(tmp_path / "other", seed=9), "me/other")
    assert "me/other" not in stage(toys / "dual", others=[other]).card


# The card


def test_every_look_at_test_is_counted(run, stage):
    assert "looked at" not in stage(run).card
    line = (run / "final.jsonl").read_text(encoding="utf-8")
    (run / "final.jsonl").write_text(line * 3 + line.replace('"split": "test"', '"split": "validation"') + "\n")
    assert "looked at 3 times" in stage(run).card


@pytest.mark.parametrize("line", ["{", "[]"])
def test_a_log_of_looks_that_cannot_be_read_is_named(run, stage, line):
    (run / "final.jsonl").write_text(line)
    with pytest.raises(ValueError, match="final.jsonl"):
        stage(run)


def test_carbon_is_said_for_people_and_machines_or_not_at_all(toys, stage):
    assert "CO2" not in stage(toys / "dual").card
    one = stage(toys / "dual", carbon=12.5)
    assert ModelCard(one.card).data.co2_eq_emissions["emissions"] == 12.5 and "12.5 g of CO2" in one.card


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{% extends 'model_card.md' %}{% block limits %}{{ x.y }}{% endblock %}", "'x'"),
    ],
)
def test_a_field_of_ones_own_template_without_a_value_stops_it(toys, stage, tmp_path, text, words):
    (tmp_path / "own.md").write_text(text)
    said = refusal(lambda: stage(toys / "dual", card=str(tmp_path / "own.md")))
    assert "own.md cannot be filled" in said and words in said


def test_ones_own_template_fills_blocks_and_braces_it_leaves_stop_the_release(toys, stage, tmp_path):
    own = tmp_path / "own.md"
    own.write_text("{% extends 'model_card.md' %}\n{% block limits %}\n- Barks only.\n{% endblock %}\n")
    one = stage(toys / "dual", card=str(own))
    assert "- Barks only." in one.card and "# toy-model" in one.card and check(one) == []
    own.write_text("{% extends 'model_card.md' %}{% block limits %}{{ '{{ later }}' }}{% endblock %}")
    (text,) = check(stage(toys / "dual", card=str(own)))
    assert "not filled" in text and "{{ later }}" in text


def test_ones_own_metadata_stay(toys, stage, tmp_path):
    (tmp_path / "own.md").write_text(
        "{% extends 'model_card.md' %}{% block metadata %}\nlicense: mit\ndatasets:\n- me/mine\n{% endblock %}"
    )
    assert ModelCard(stage(toys / "dual", card=str(tmp_path / "own.md")).card).data.datasets == ["me/mine"]


def test_a_licence_that_breaks_the_metadata_is_refused_in_words(toys, stage):
    refusal(lambda: stage(toys / "dual", license="mit: or not"))


def test_no_licence_stops_it(toys, stage):
    (text,) = check(stage(toys / "dual", license=""))
    assert text.startswith("No licence is given")


def test_code_that_is_not_this_version_s_is_run_only_for_whoever_trusts_it(run, stage):
    with (run / "model" / "towers.py").open("a") as file:
        file.write("# mine\n")
    assert "towers.py" in refusal(lambda: stage(run)) and "--trust-remote-code" in refusal(lambda: stage(run))
    assert "towers.py" in stage(run, trust_remote_code=True).files


def test_what_others_wrote_is_text_in_a_card_and_no_code(toys, run, stage, tmp_path):
    """A push runs the Python of a card: a data set's own words must not become some."""
    data = Path(shutil.copytree(toys / "toy", tmp_path / "toy"))
    text = (data / "README.md").read_text(encoding="utf-8")
    evil = 'Toy\n\n```python\nraise SystemExit("run")\n```\n'
    (data / "README.md").write_text(re.sub(r"pretty_name: .*", lambda _: f"pretty_name: {json.dumps(evil)}", text))
    one = stage(run, data=str(data))
    assert "raise SystemExit" in one.card
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", body(one), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2 and not any("SystemExit" in block for block in blocks)


def test_a_secret_in_a_command_in_code_and_in_configuration_stops_it(run, stage):
    token = "hf" + "_aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA4c"
    change(results_of(run)[0], command=f"dualspace evaluate dual toy --token {token}")
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    (run / "model" / "config.json").write_text(json.dumps(config).replace("drum", token))
    with (run / "model" / "towers.py").open("a") as file:
        file.write(f"# {token}\n")
    found = check(stage(run, trust_remote_code=True))
    assert [line.split(" holds ")[0] for line in found] == ["README.md", "config.json", "towers.py"]
    assert not any(token in line for line in found)


def test_a_public_card_names_no_repository_that_is_private(toys, run, stage, monkeypatch):
    """Neither its data set, nor what it was tuned from, wherever their names stand."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text()) | {"init": "lab/hidden-model"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    change(results_of(run)[0], command="dualspace train x init=lab/hidden-model data.path=lab/hidden-toys")
    result = json.loads(results_of(run)[0].read_text())
    result["data"]["id"] = "lab/hidden-toys"
    results_of(run)[0].write_text(json.dumps(result))
    split = load_dataset(str(toys / "toy"), split="test")
    monkeypatch.setattr(model_release, "find_split", lambda *_: ("lab/hidden-toys", split))
    monkeypatch.setattr(model_release, "_card_of", lambda _: {})
    for public in (False, True):
        monkeypatch.setattr(model_release, "is_public", lambda *_, public=public: public)
        assert [("lab/" in stage(run, private=private).card) for private in (False, True)] == [public, True]


STAGED = """
import sys
from pathlib import Path
from modeling_dualspace.model_release import stage_model
from modeling_dualspace.release_plan import Item
from modeling_dualspace.staging import Staged
one = Staged("model", "me/toy-model", "model", Path(sys.argv[2]))
stage_model(Item(name="me/toy-model", path=sys.argv[1], license="mit"), one, ())
print(one.digest)
"""


@pytest.mark.slow
def test_another_processor_makes_the_same_bytes(toys, tmp_path):
    digests = set()
    for capability in ("default", "avx2"):
        (tmp_path / capability).mkdir()
        command = [sys.executable, "-c", STAGED, str(toys / "dual"), str(tmp_path / capability)]
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=toys)
        assert done.returncode == 0, done.stderr[-2000:]
        digests.add(done.stdout)
    assert len(digests) == 1
