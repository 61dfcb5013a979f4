"""What a report is about: the runs, grids and results under the paths a person names, and what they are called."""

import json
import re

import pytest

from modeling_dualspace.cli import main
from modeling_dualspace.report_sources import grid_values, key_of, read_sources

KEY = ("f" * 16, "test")


def result(map=0.5, date="2026-01-02T00:00:00+00:00", fingerprint=KEY[0], split=KEY[1], id="runs/dual"):
    """As much of a result as sources look at."""
    data = {"fingerprint": fingerprint, "split": split}
    return {"format": 1, "model": {"id": id}, "data": data, "metrics": {"map": map}, "date": date}


def run(folder, recipe=None, history=(), variant=None, model=False, **results):
    """A run folder by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe if isinstance(recipe, str) else json.dumps(recipe))
    if history:
        lines = [json.dumps({"epoch": epoch, "validation": {"map": map}}) for epoch, map in enumerate(history, start=1)]
        (folder / "history.jsonl").write_text("\n".join(lines))
    if model or variant:
        (folder / "model").mkdir()
        config = {"model_type": "dualspace", "variant": variant} if variant else {"model_type": "dualspace_cca"}
        (folder / "model" / "config.json").write_text(json.dumps(config))
    for name, content in results.items():
        (folder / "results").mkdir(exist_ok=True)
        (folder / "results" / f"{name}.json").write_text(json.dumps(content))
    return folder


def grid(folder, cells):
    """A grid of runs, each by its keywords for `run`."""
    for number, settings in enumerate(cells):
        run(folder / "cells" / f"{number:016x}", **settings)
    return folder


def names(*paths):
    return [source.name for source in read_sources(paths)]


# Runs, grids and results


def test_a_run_brings_its_history_its_results_and_its_model(tmp_path):
    folder = run(
        tmp_path / "dual", {"name": "d"}, [0.1, 0.2], "dual", test=result(), validation=result(split="validation")
    )
    (source,) = read_sources([folder])
    assert (source.run.folder, source.model, source.cells) == (folder, folder / "model", [])
    assert [line["epoch"] for line in source.run.history] == [1, 2]
    assert [key_of(each) for each in source.results] == [KEY, (KEY[0], "validation")]
    assert source.result(KEY)["metrics"]["map"] == 0.5 and source.result(("0" * 16, "test")) is None
    (again,) = read_sources([folder / "model"])
    assert (again.run.folder, again.name, len(again.results)) == (folder, "d", 2)


@pytest.mark.parametrize(
    "part", [{"history": [0.1]}, {"model": True}, {"test": result()}], ids=["history", "model", "result"]
)
def test_any_part_of_a_run_makes_one(tmp_path, part):
    (source,) = read_sources([run(tmp_path / "dual", **part)])
    assert source.name == "dual" and (source.model is not None) == ("model" in part)


def test_a_result_of_a_run_brings_the_run_from_wherever_it_is_named(tmp_path, monkeypatch):
    folder = run(tmp_path / "dual", {"name": "d"}, [0.1], "explicit", test=result(), train=result(split="train"))
    for place, path in (
        (tmp_path, "dual/results/test.json"),
        (folder, "results/test.json"),
        (folder / "results", "test.json"),
    ):
        monkeypatch.chdir(place)
        (source,) = read_sources([path])
        assert (source.name, source.variant, len(source.run.history)) == ("d", "explicit", 1), path
        assert [key_of(each) for each in source.results] == [KEY]  # that one alone


def test_a_result_without_a_run_stands_for_itself(tmp_path):
    alone = run(tmp_path / "elsewhere", test=result(id="me/dualspace-vegas")) / "results" / "test.json"
    alone = alone.rename(tmp_path / "alone.json")
    (source,) = read_sources([alone])
    assert (source.name, source.model, source.variant, source.run.folder) == ("dualspace-vegas", None, None, None)
    assert source.run.history == [] and source.result(KEY) is not None


def test_a_grid_brings_its_cells(tmp_path):
    folder = grid(
        tmp_path / "grid", [{"history": [0.1]}, {"model": True}, {"test": result()}, {"recipe": {"name": "no run yet"}}]
    )
    (source,) = read_sources([folder])
    assert (source.name, len(source.cells), source.model, source.results) == ("grid", 3, None, [])


# Names


def test_names_are_the_recipes_or_the_folders(tmp_path, monkeypatch):
    named, bare = run(tmp_path / "one", {"name": "Dual, α = 1"}, model=True), run(tmp_path / "two", model=True)
    assert names(named, bare, named / "model", bare / "model")[:2] == ["Dual, α = 1", "two"]
    monkeypatch.chdir(bare)
    for path in (".", "model", "../two/", "./model/"):
        assert names(path) == ["two"], path


def test_a_name_that_comes_again_is_numbered_and_no_two_are_alike(tmp_path):
    runs = [
        run(tmp_path / str(number), {"name": name}, [0.1]) for number, name in enumerate(["a", "a", "a (2)", "b", "a"])
    ]
    found = names(*runs)
    assert found == ["a", "a (1)", "a (2)", "b", "a (4)"]  # each by its folder
    same = [run(tmp_path / place / "x", {"name": "a"}, [0.1]) for place in ("one", "two", "three")]
    assert names(*same) == ["a", "a (x)", "a (2)"]


def test_what_is_named_twice_is_shown_once(tmp_path):
    folder = run(tmp_path / "dual", history=[0.1], model=True)
    assert names(folder, folder / "model", tmp_path / "dual" / ".." / "dual") == ["dual"]


# Variants


def test_the_variant_is_the_models_else_the_recipes_else_nobody_knows(tmp_path):
    recipe = {"model": {"variant": "shared"}}
    runs = [run(tmp_path / "a", recipe, variant="implicit"), run(tmp_path / "b", recipe, [0.1])]
    runs += [
        run(tmp_path / "c", recipe, model=True),
        run(tmp_path / "d", {}, [0.1]),
        run(tmp_path / "e", history=[0.1]),
    ]
    runs += [run(tmp_path / "f", "model:", [0.1])]
    assert [source.variant for source in read_sources(runs)] == ["implicit", "shared", None, None, None, None]


def test_a_result_knows_the_recipe_it_came_from(tmp_path):
    file = tmp_path / "explicit.json"
    file.write_text(json.dumps(result() | {"recipe": {"name": "Explicit", "model": {"variant": "explicit"}}}))
    (source,) = read_sources([file])
    assert (source.variant, source.name) == ("explicit", "Explicit")


# The newest result


def test_of_two_results_on_a_split_the_newer_wins(tmp_path):
    old, new = result(0.9, "2026-01-02T00:00:00+00:00"), result(0.1, "2026-02-01T00:00:00+00:00")
    undated = {key: value for key, value in result(0.7).items() if key != "date"}
    for order in ({"a": old, "b": new, "c": undated}, {"c": old, "b": undated, "a": new}):
        (source,) = read_sources([run(tmp_path / "-".join(order), **order)])
        assert source.result(KEY)["metrics"]["map"] == 0.1


# Grids


def cell(alpha, beta, *maps, history=(), **more):
    results = {f"r{number}": result(map, f"2026-01-0{number + 1}") for number, map in enumerate(maps)}
    return {"recipe": {"model": {"alpha": alpha, "beta": beta, **more}}, "history": history} | results


def values(folder, cells):
    """On the split, or else on validation."""
    found = read_sources([grid(folder, cells)])[0].cells
    on_split = grid_values(found, KEY)
    return (on_split, "MAP on test") if on_split else (grid_values(found, None), "best MAP on validation")


def test_a_grid_is_measured_on_the_split_where_every_cell_was(tmp_path):
    found = values(tmp_path, [cell(0.1, 0.01, 0.5, history=[0.9]), cell("1e-3", 1, 0.25, history=[0.8])])
    assert found == ({(0.1, 0.01): 0.5, (0.001, 1.0): 0.25}, "MAP on test")


def test_else_it_is_measured_on_validation_at_its_best(tmp_path):
    found = values(tmp_path, [cell(0.1, 0, 0.5, history=[0.9, 0.7]), cell(1, 0, history=[0.2, None, 0.4])])
    assert found == ({(0.1, 0.0): 0.9, (1.0, 0.0): 0.4}, "best MAP on validation")


def test_seeds_and_further_settings_are_averaged(tmp_path):
    cells = [cell(1, 0, 0.5, embed_dim=10), cell(1, 0, 0.25, embed_dim=20), cell(1, 1, 0.75)]
    assert values(tmp_path, cells)[0] == {(1.0, 0.0): 0.375, (1.0, 1.0): 0.75}


def test_a_cell_that_was_scored_again_counts_as_it_was_scored_last(tmp_path):
    assert values(tmp_path, [cell(1, 0, 0.9, 0.2), cell(1, 1, 0.5)])[0] == {(1.0, 0.0): 0.2, (1.0, 1.0): 0.5}


def test_cells_without_alpha_beta_or_a_number_are_no_part_of_the_surface(tmp_path):
    cells = [
        cell(1, 0, 0.5),
        cell(1, 1, None),
        {"recipe": {"model": {"alpha": 1}}, "test": result()},
        {"test": result()},
    ]
    assert values(tmp_path, cells) == ({(1.0, 0.0): 0.5}, "MAP on test")


# Refusals


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"There is nothing at .*x: expected a run, a grid, or a result"),
        ({"x/notes.txt": "mine"}, "x is no run"),
        ({"x/model/notes.txt": "mine"}, "x is no run"),
        ({"x/cells/a/notes.txt": "mine"}, "x is no run"),
        ({"x": "no JSON"}, "x is no JSON: expected a result"),
        ({"x": "[]"}, "x is no result"),
        ({"x": json.dumps(result() | {"format": 9})}, "x has format 9, and this version reads 1"),
        ({"x": json.dumps(result() | {"data": None})}, "x is no result"),
        ({"x": json.dumps(result() | {"data": {"id": "toy"}})}, "x is no result"),
        ({"x": json.dumps(result() | {"model": []})}, "x is no result"),
        ({"x/results/a.json": "{"}, r"a\.json is no JSON"),
        ({"x/cells/a/results/b.json": "{"}, r"b\.json is no JSON"),
        ({"x/history.jsonl": '{"epoch": 1}\n{"epo'}, r"Line 2 of .*history\.jsonl is no JSON object: was it cut off\?"),
        ({"x/history.jsonl": "{}", "x/recipe.yaml": "a: ["}, r"recipe\.yaml is no YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence_that_names_it(tmp_path, capsys, files, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert main(["report", str(tmp_path / "x"), "--out", str(tmp_path / "out" / "page.html")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dualspace: ") and re.search(message, line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("file", "content"), [("recipe.yaml", "model: 5"), ("model/config.json", "{")])
def test_a_recipe_or_a_model_that_makes_no_sense_is_named(tmp_path, file, content):
    folder = run(tmp_path / "x", history=[0.1], model="config" in file)
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=file):
        _ = read_sources([folder])[0].variant


# Folders of what a report takes


def test_folders_of_results_and_of_runs_stand_for_what_lies_in_them(tmp_path):
    folder = tmp_path / "results-of-mine"
    folder.mkdir()
    for name, split in (("a", "test"), ("b", "validation")):
        (folder / f"{name}.json").write_text(json.dumps(result(split=split, id="me/one")))
    (folder / "c.json").write_text(json.dumps(result(id="me/two")))
    assert {source.name: len(source.results) for source in read_sources([folder])} == {"one": 2, "two": 1}
    for name in ("x", "y"):
        run(tmp_path / "runs" / name, history=[0.1])
    assert [source.name for source in read_sources([tmp_path / "runs"])] == ["x", "y"]


def test_results_of_one_run_named_one_by_one_are_one_source(tmp_path):
    folder = run(tmp_path / "x", history=[0.1], a=result(), b=result(split="validation"))
    (source,) = read_sources([folder / "results" / "a.json", folder / "results" / "b.json", folder])
    assert source.name == "x" and len(source.results) == 2


def test_a_model_that_was_not_evaluated_says_how(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model and no result: `dualspace evaluate .*mine DATA`"):
        read_sources([tmp_path / "mine"])
