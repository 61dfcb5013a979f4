"""Grids: every combination a run of its own, gone on with, and shown."""

import json
from dataclasses import replace

import pytest

from modeling_dualspace import training_grid, training_run
from modeling_dualspace.model_setup import build_model
from modeling_dualspace.report_sources import read_sources
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_grid import train_grid
from modeling_dualspace.training_report import render
from modeling_dualspace.training_run import train


def test_a_grid_is_trained_cell_by_cell_and_gone_on_with(recipe, data, tmp_path, monkeypatch):
    grid = replace(
        recipe("grid", epochs=1, refit=False), grid={"model.alpha": [0, 0.1], "train.precision": ["fp32", "bf16"]}
    )
    table = train_grid(grid, data=data, progress=False)
    rows = table["rows"]
    assert [row["map"] for row in rows] == sorted((row["map"] for row in rows), reverse=True)
    assert {(row["model.alpha"], row["train.precision"]) for row in rows} == {
        (alpha, precision) for alpha in (0, 0.1) for precision in ("fp32", "bf16")
    }
    assert json.loads((tmp_path / "grid" / "table.json").read_text())["rows"] == rows
    for row in rows:  # a cell is the run of its own recipe
        alone = replace(
            recipe(row["cell"], epochs=1, refit=False, precision=row["train.precision"]),
            model=grid.model | {"alpha": row["model.alpha"]},
        )
        assert train(alone, data=data, progress=False)["validation"]["map"] == row["map"]
    with pytest.raises(ValueError, match="holds a finished run"):
        train_grid(grid, data=data, progress=False)
    larger = replace(grid, grid=grid.grid | {"model.alpha": [0, 0.1, 1]})
    trained = []
    monkeypatch.setattr(training_run, "build_model", lambda *a: trained.append(1) or build_model(*a))
    again = train_grid(larger, data=data, resume=True, progress=False)
    assert len(again["rows"]) == 6 and len(trained) == 2 and all(row in again["rows"] for row in rows)


def test_a_grid_over_data_sets_reads_each_of_them(recipe, data, make_batch, as_split, monkeypatch):
    other = TrainingData(data.splits | {"train": as_split(make_batch(60, seed=9))})
    opened = {"one": data, "two": other}
    monkeypatch.setattr(training_grid, "open_data", lambda cell, device: opened[cell.data.path])
    rows = train_grid(replace(recipe(epochs=1), grid={"data.path": ["one", "two"]}), progress=False)["rows"]
    assert rows[0]["map"] != rows[1]["map"] and rows[0]["cell"] != rows[1]["cell"]


def test_a_cell_that_diverges_is_said_and_the_others_are_trained(recipe, data):
    rates = replace(recipe("rates", epochs=2, optimizer={"name": "sgd"}), grid={"train.optimizer.lr": [1e6, 1e-3]})
    table = train_grid(rates, data=data, progress=False)
    assert table["rows"][0]["map"] > 0 and "failed" not in table["rows"][0]
    assert "stopped being a number" in table["rows"][1]["failed"]
    assert "diverged" in render(table, rates)


def test_a_cell_that_could_not_be_made_is_known_before_any_is_trained(recipe, data, tmp_path, monkeypatch):
    monkeypatch.setattr(training_grid, "open_data", lambda cell, device: data)
    with pytest.raises(ValueError, match="`model.alpha` cannot be 'much'"):
        train_grid(replace(recipe("bad", epochs=1), grid={"model.alpha": [1, "much"]}), progress=False)
    assert not list((tmp_path / "bad").glob("cells/*"))


def test_a_grid_and_a_run_do_not_share_a_folder(recipe, data):
    one, grid = recipe("same", epochs=1), replace(recipe("same", epochs=1), grid={"model.alpha": [1, 2]})
    train(one, data=data, progress=False)
    with pytest.raises(ValueError, match="holds a run, and a grid is none"):
        train_grid(grid, data=data, progress=False)
    other = replace(grid, name="other", output=grid.output + "2")
    train_grid(other, data=data, progress=False)
    with pytest.raises(ValueError, match="holds (cells|table.json), which no run makes"):
        train(replace(one, output=other.output), data=data, progress=False)


def test_a_report_shows_the_cells_of_the_newest_table_alone(recipe, data, tmp_path):
    grid = replace(recipe("seeds", epochs=1, refit=False), grid={"train.seed": [0, 1]})
    train_grid(grid, data=data, progress=False)
    longer = replace(grid, train=replace(grid.train, epochs=2))
    rows = train_grid(longer, data=data, progress=False)["rows"]
    assert len(list((tmp_path / "seeds" / "cells").iterdir())) == 4
    found = read_sources([tmp_path / "seeds"])  # of seeds there is no surface: each cell for itself
    assert sorted(source.name for source in found) == ["seeds[seed=0]", "seeds[seed=1]"]
    assert {source.run.folder.name for source in found} == {row["cell"] for row in rows}
    surface = replace(recipe("surface", epochs=1, refit=False), grid={"model.alpha": [0, 1], "model.beta": [0]})
    train_grid(surface, data=data, progress=False)
    (source,) = read_sources([tmp_path / "surface"])
    assert len(source.cells) == 2
