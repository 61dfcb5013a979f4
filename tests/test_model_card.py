"""The card of a model, rendered from results by hand: every figure where it belongs, and none that was not measured."""

import copy
import re
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard

from modeling_dualspace.model_card import Measured, render
from modeling_dualspace.results import Run

CUTS = ("1", "10", "100")


def direction(base, names=("dog", "drum")):
    pairs = {k: base / 10 + number / 100 for number, k in enumerate(CUTS)}
    per_class = {name: {"map": base + number / 100, "queries": 1000 + number} for number, name in enumerate(names)}
    return {"map": base, "chance": 0.25, "r_precision": base - 0.05, "pair_recall": pairs, "per_class": per_class,
            "queries": 2001, "excluded_queries": 0}  # fmt: skip


def result(split="test", fingerprint="f" * 16, synthetic=False, config="default", ranked=True, **changes):
    ways = {"audio_to_visual": direction(0.612345678), "visual_to_audio": direction(0.512345678)}
    if not ranked:
        for way in ways.values():
            for name in ("map", "chance", "r_precision", "per_class"):
                del way[name]
    found = {
        "format": 1,
        "model": {"id": "runs/x", "model_type": "dualspace", "fingerprint": "a" * 16, "parameters": 12345},
        "data": {"id": "toy", "config": config, "split": split, "fingerprint": fingerprint, "queries": 2001,
                 "classes": 2, "synthetic": synthetic},
        "metrics": {"map": 0.562345678 if ranked else None, "gallery": 2001, **ways},
        "environment": {"versions": {"python": "3.11.7", "torch": "2.13.0"}, "device": "cpu", "processes": 1},
        "command": "dualspace evaluate /home/ann/runs/x toy",
        "date": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return found | changes


def config(**changes):
    """As much of one as the card looks at."""
    fields = {"model_type": "dualspace", "variant": "dual", "audio_dim": 6, "visual_dim": 8,
              "feature_spec": "audio=a@1 visual=v@2", "id2label": {0: "dog", 1: "drum"},
              "trained_on": {"fingerprint": "f" * 16, "rows": {"train": 60, "validation": 15}}}  # fmt: skip
    return SimpleNamespace(**fields | changes)


def card(*measured, run=None, looks=1, own=None, **changes):
    rows = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]
    values = {"repo_id": "me/toy", "license": "mit", "config": config(), "check": {"audio": rows, "visual": rows},
              "fingerprint": "a" * 16, "remote_code": True, "pictures": [], "carbon": None, "synthetic": False,
              "init": ""}  # fmt: skip
    measured = measured or (Measured(result(), "toy"),)
    return render(values | changes, measured, run or Run(None), looks, own)


def entries(text):
    return ModelCard(text).data.eval_results


def cells(text, start):
    """The row of a table that starts so."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_the_same_values_give_the_same_text():
    assert card() == card() == card(copy.deepcopy(Measured(result(), "toy")))


def test_the_figures_for_machines_are_the_measured_ones_to_six_digits():
    found = {entry.metric_type: entry.metric_value for entry in entries(card())}
    assert found == {"map": 0.562346, "map_audio_to_visual": 0.612346, "map_visual_to_audio": 0.512346}
    (index,) = yaml.safe_load(card().split("---")[1])["model-index"]
    assert index["name"] == "toy" and len(index["results"]) == 1
    data = index["results"][0]["dataset"]
    assert data["config"] == "default" and data["split"] == "test" and data["args"] == {"fingerprint": "f" * 16}


def test_the_figures_for_people_are_the_same_to_four_and_means_are_means_of_what_was_measured():
    text = card()
    assert cells(text, "**MAP**") == ["**MAP**", "0.6123", "0.5123", "0.5623"]
    assert cells(text, "MAP by chance") == ["MAP by chance", "0.2500", "0.2500", "0.2500"]
    assert cells(text, "R-precision")[1:] == ["0.5623", "0.4623", "0.5123"]
    assert cells(text, "own pair among the first 10 ")[1:] == ["0.0712", "0.0612", "0.0662"]
    assert cells(text, "dog") == ["dog", "0.6123", "0.5123", "1,000"]
    assert "2,001 clips" in text and "12,345 parameters" in text and "on 2026-01-02." in text


def test_what_was_not_measured_has_no_row():
    part = result()
    for way in ("audio_to_visual", "visual_to_audio"):
        del part["metrics"][way]["pair_recall"]["100"], part["metrics"][way]["r_precision"]
    text = card(Measured(part, "toy"))
    assert "first 100 " not in text and "R-precision" not in text and "first 10 " in text


def test_a_class_without_a_query_has_a_dash_and_bars_in_names_stay_in_their_cell():
    part = result()
    for way in ("audio_to_visual", "visual_to_audio"):
        part["metrics"][way]["per_class"] = {"a|b|c": {"map": None, "queries": 0}}
    text = card(Measured(part, "toy"))
    assert cells(text, r"a\|b\|c") == [r"a\|b\|c", "-", "-", "0"]


def test_unannotated_clips_are_known_by_their_own_pair():
    text = card(Measured(result(ranked=False), "toy"))
    found = {entry.metric_type: entry.metric_value for entry in entries(text)}
    assert found == {"pair_recall_at_10": 0.066235, "pair_recall_at_10_audio_to_visual": 0.071235,
                     "pair_recall_at_10_visual_to_audio": 0.061235}  # fmt: skip
    assert "**MAP**" not in text and "nobody annotated" in text and "None" not in text


def test_folders_of_the_machine_are_in_no_line():
    recipe = {"name": "x", "data": {"path": "/home/ann/toy"}, "output": "/home/ann/runs/x", "init": "/home/ann/old",
              "checkpoint": {"keep": 3}, "train": {"epochs": 2, "trackers": ["wandb"], "features": "auto"}}  # fmt: skip
    run = SimpleNamespace(recipe=recipe, summary={}, seconds=None)
    text = card(run=run, init="old")
    assert "ann" not in re.sub("annotated", "", text)
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert shown == {"name": "x", "data": {"path": "toy"}, "init": "old", "train": {"epochs": 2}}
    assert recipe["output"] == "/home/ann/runs/x" and recipe["train"]["trackers"] == ["wandb"]  # ours is untouched


def test_the_figure_before_the_refit_stands_beside_and_is_none_for_machines():
    before = copy.deepcopy(result())
    before["metrics"]["audio_to_visual"]["map"] = 0.111
    text = card(Measured(result(), "toy", before=before))
    assert cells(text, "MAP, before the refit")[1:] == ["0.1110", "0.5123", "0.3117"]
    assert cells(text, "**MAP**, refit")[1] == "0.6123" and len(entries(text)) == 3


def test_a_data_set_on_the_hub_is_linked_and_a_folder_is_not():
    text = card(Measured(result(), "me/toys", "me/toys", {"pretty_name": "Toys", "license": "cc-by-4.0"}))
    assert ModelCard(text).data.datasets == ["me/toys"] and entries(text)[0].dataset_name == "Toys"
    assert "(https://huggingface.co/datasets/me/toys)" in text and "licence cc-by-4.0" in text
    assert ModelCard(card()).data.datasets is None and "/datasets/" not in card()


def test_what_was_trained_on_is_told_by_its_name_only_if_it_is_what_was_measured_on():
    assert "60 clips of train and 15 clips of validation of toy" in card()
    other = config(trained_on={"fingerprint": "b" * 16, "rows": {"train": 60}})
    assert f"60 clips of train of the data with fingerprint {'b' * 16}" in card(config=other)
    assert "On data that nobody recorded" in card(config=config(trained_on=None))


def test_synthetic_comes_first_and_in_tags_and_in_limits_and_nowhere_else():
    text = card(Measured(result(synthetic=True), "toy"), synthetic=True)
    assert ModelCard(text).text.strip().startswith("**SYNTHETIC") and "synthetic" in ModelCard(text).data.tags
    assert "Trained on synthetic features" in text
    assert "synthetic" not in card().lower()


def test_many_classes_are_counted_and_nameless_ones_too():
    many = config(id2label={number: f"class{number}" for number in range(35)})
    assert "class29 and 5 more" in card(config=many) and "class30" not in card(config=many)
    assert "2, without names" in card(config=config(id2label={0: "LABEL_0", 1: "LABEL_1"}))


def test_without_remote_code_there_is_none_to_trust():
    assert "trust_remote_code" in card() and "trust_remote_code" not in card(remote_code=False)


def test_looks_few_clips_and_carbon_are_said_where_there_is_something_to_say():
    assert "looked at 2 times" in card(looks=2) and "looked at" not in card(looks=1)
    few = result()
    few["metrics"]["gallery"] = 24
    assert "measured on 24 clips" in card(Measured(few, "toy")) and "It was measured on" not in card()
    assert "CO2" not in card() and "emitted 0 g" in card(carbon=0)
    assert ModelCard(card(carbon=0)).data.co2_eq_emissions == {"emissions": 0, "source": "as its owner says"}


def test_blocks_of_python_name_the_repository_and_can_be_compiled():
    text = card(repo_id="some-body/a.b_c")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2 and all('from_pretrained("some-body/a.b_c"' in block for block in blocks)
    for block in blocks:
        compile(block, "card", "exec")


def test_no_field_is_left_and_no_line_is_empty_twice():
    for text in (card(), card(Measured(result(ranked=False, synthetic=True, config="two"), "toy")), card(carbon=1.5)):
        assert not re.search(r"\{\{|\}\}|\{%|%\}|\bNone\b|\bnan\b|Undefined", text)
        assert "\n\n\n" not in text and text.startswith("---\nlicense: mit\n")


@pytest.mark.parametrize("model_type", ["dualspace_other", "dualspace_cca"])
def test_another_system_is_called_what_it_is(model_type):
    part = result()
    part["model"]["model_type"] = model_type
    text = card(Measured(part, "toy"), config=config(model_type=model_type, variant=None), system="A random guess.")
    assert "\nA random guess.\n" in text
    assert f"`{model_type}`" in text and {"dualspace", model_type} <= set(ModelCard(text).data.tags)
