"""What an evaluation leaves on disk: where it goes, how it is read again, and how it looks on a terminal."""

import copy
import json

import pytest

from modeling_dualspace.results import Run, model_folder, read_result, read_run, render, result_path, run_folder


def made(folder, *models):
    """A folder with a config.json in each of these places below it."""
    for model in models or ["."]:
        (folder / model).mkdir(parents=True, exist_ok=True)
        (folder / model / "config.json").write_text("{}")
    return folder


def run_of(folder, recipe=None, history=None):
    """A run with a model, and these files as text or bytes."""
    made(folder, "model")
    for name, content in (("recipe.yaml", recipe), ("history.jsonl", history)):
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Run(folder)


# Models and their runs


def test_a_model_lies_in_its_folder_or_in_that_of_its_run(tmp_path):
    made(tmp_path / "alone")
    made(tmp_path / "run", "model")
    assert model_folder(str(tmp_path / "alone")) == tmp_path / "alone"
    assert model_folder(str(tmp_path / "run")) == tmp_path / "run" / "model"
    assert model_folder(str(tmp_path)) is model_folder("me/no-such-model") is None


def test_a_model_of_a_run_is_known_by_either_folder_from_anywhere(tmp_path, monkeypatch):
    run = made(tmp_path / "run", "model")
    assert run_folder(str(run)) == run_folder(str(run / "model")) == run
    monkeypatch.chdir(run / "model")
    assert run_folder(".").resolve() == run
    monkeypatch.chdir(run)
    assert run_folder(".").resolve() == run_folder("model").resolve() == run


def test_a_model_beside_that_of_a_run_is_not_taken_for_it(tmp_path):
    run = made(tmp_path / "run", "model", "other")
    (run / "recipe.yaml").write_text("train: {seed: 7}")
    assert run_folder(str(run / "other")) is None
    assert read_run(str(run / "other")).training == {}
    assert read_run(str(run / "model")).training == {"seed": 7}


def test_what_has_no_run_has_nothing_to_say(tmp_path):
    for run in (Run(None), read_run("me/no-such-model"), run_of(tmp_path / "bare")):
        assert (run.recipe, run.training, run.history, run.seconds, run.results) == (None, {}, [], None, [])
        assert not run.validated


# Where results go


@pytest.mark.parametrize(
    ("data", "config", "split", "name"),
    [
        ("toy", None, "test", "toy-test"),
        ("toy", "fold-3", "validation", "toy-fold-3-validation"),
        ("me/vegas-features", None, "test", "me-vegas-features-test"),
        ("nowhere/../töne & bilder", None, "test", "nowhere-..-töne-bilder-test"),
    ],
)
def test_a_result_is_called_by_data_config_and_split(tmp_path, data, config, split, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path / "run", "model")
    assert result_path(str(run), data, config, split) == run / "results" / f"{name}.json"
    assert result_path(str(run / "model"), data, config, split) == run / "results" / f"{name}.json"
    assert str(result_path("me/dualspace-vegas", data, config, split)) == f"results/me-dualspace-vegas/{name}.json"


def test_data_that_are_here_are_called_by_the_name_of_their_folder(tmp_path, monkeypatch):
    (tmp_path / "here" / "my clips").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "my clips")
    for data in (".", "../my clips", str(tmp_path / "here" / "my clips")):
        assert result_path("me/model", data, None, "test").name == "my-clips-test.json"


def test_different_splits_never_share_a_file(tmp_path):
    splits = ["test", "test[:50%]", "test[50%:]", "test[:50]", "test[50:]", "test[-50:]", "train+test", "train-test"]
    assert len({result_path("me/model", "toy", None, split) for split in splits}) == len(splits)


def test_a_result_stays_below_the_folder_of_results_whatever_names_come(tmp_path, monkeypatch):
    made(tmp_path, "sub")
    made(tmp_path)
    monkeypatch.chdir(tmp_path / "sub")
    for model in ("..", ".", "../sub", "me/..", "me/dualspace"):
        path = result_path(model, "../..", "../../etc", "../test")
        assert len(path.parts) == 3 and ".." not in path.parts and path.suffix == ".json"


# Runs


def test_a_run_says_how_it_was_trained(tmp_path):
    lines = [{"step": 10, "seconds": 4.5}, {"step": 20, "seconds": 9.0, "validation": {"map": 0.5}}]
    recipe = "name: é\ntrain: {seed: 3, refit: true}\n"
    run = run_of(tmp_path, recipe, "".join(f"{json.dumps(line)}\n" for line in lines))
    assert run.recipe == {"name": "é", "train": {"seed": 3, "refit": True}}
    assert run.training == {"seed": 3, "refit": True}
    assert run.history == lines and run.seconds == 9.0 and run.validated


@pytest.mark.parametrize("history", ["", '{"step": 1}\n', '{"step": 1, "validation": null}\n{"validation": {}}\n'])
def test_a_run_that_never_validated_chose_nothing_there(tmp_path, history):
    assert not run_of(tmp_path, "train:\n", history).validated
    assert read_run(str(tmp_path)).training == {} and read_run(str(tmp_path)).seconds is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("a: [", r"recipe.yaml is no YAML"),
        (b"\xff\xfe\x00", r"recipe.yaml is no YAML"),
        ("just words", r"recipe.yaml must hold keys and values, got str"),
        ("- 1\n- 2", r"recipe.yaml must hold keys and values, got list"),
        ("a: !!python/object/apply:os.getcwd []", r"recipe.yaml is no YAML"),
        ("train: 5", r"train.*recipe.yaml.*got int"),
    ],
)
def test_a_broken_recipe_is_named(tmp_path, recipe, message):
    run = run_of(tmp_path, recipe)
    with pytest.raises(ValueError, match=message):
        _ = run.training


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ('{"step": 1}\n{"st', r"Line 2 of .*history\.jsonl is no JSON object: was it cut off\? Remove that line\."),
        ("[1]\n", r"Line 1 of .*history\.jsonl is no JSON object"),
        ('{"step": 1}\n7\n', r"Line 2 of .*history\.jsonl is no JSON object"),
        ('{"step": 1}\n{"step": 2} {"step": 3}\n', r"Line 2 of .*history\.jsonl is no JSON object"),
        (b'{"step": 1}\n\xff\xfe\n', r"history\.jsonl"),
    ],
)
def test_a_broken_line_of_a_history_is_named(tmp_path, history, message):
    with pytest.raises(ValueError, match=message):
        _ = run_of(tmp_path, history=history).seconds


def test_a_line_that_holds_what_json_may_hold_is_one_line(tmp_path):
    entry = {"step": 1, "seconds": 2.5, "note": "a\u2028b\x85c"}
    assert run_of(tmp_path, history=json.dumps(entry, ensure_ascii=False) + "\n").history == [entry]


def test_results_of_a_run_come_by_name_and_a_broken_one_is_named(tmp_path):
    run = made(tmp_path / "run", "model")
    (run / "results").mkdir()
    for name in ("b", "a"):
        (run / "results" / f"{name}.json").write_text(json.dumps(RESULT | {"seed": ord(name)}))
    (run / "results" / "notes.txt").write_text("mine")
    assert [result["seed"] for result in read_run(str(run)).results] == [97, 98]
    (run / "results" / "c.json").write_text("{")
    with pytest.raises(ValueError, match=r"c\.json is no JSON"):
        _ = read_run(str(run)).results


# Reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no JSON: expected a result, as `dualspace evaluate` writes it"),
        ('{"format": 1', "is no JSON"),
        (b"\xff", "is no JSON"),
        ("[]", "is no result"),
        ('{"format": 1, "model": {}, "data": {}}', "is no result, as .*: it lacks .*data.fingerprint.*metrics\\."),
        ('{"format": 2, "model": {}, "data": {}, "metrics": {}}', "has format 2, and this version reads 1"),
        ('{"model": {}, "data": {}, "metrics": {}}', "has format None"),
    ],
)
def test_what_is_no_result_is_named(tmp_path, content, message):
    file = tmp_path / "x.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"x\.json {message}"):
        read_result(file)


# On a terminal


def direction(first):
    at = {"1": first, "5": 0.55, "10": 0.5}
    per_class = {"dog": {"map": 0.75, "queries": 1200}, "drum": {"map": None, "queries": 0}}
    measures = {"map": first, "map_at": at, "precision_scope": at, "recall": at, "hit": at, "pair_recall": at}
    return measures | {"r_precision": 0.25, "per_class": per_class, "queries": 1200, "excluded_queries": 0}


RESULT = {
    "format": 1,
    "model": {"id": "me/dualspace", "model_type": "dualspace", "fingerprint": "0" * 16, "parameters": 7},
    "data": {
        "id": "toy",
        "config": "default",
        "split": "test",
        "fingerprint": "f" * 16,
        "queries": 1200,
        "classes": 2,
        "synthetic": False,
    },
    "metrics": {
        "map": 0.5,
        "audio_to_visual": direction(0.4),
        "visual_to_audio": direction(0.6),
        "gallery": 1200,
        "clipped_cutoffs": [],
        "unlabelled": 0,
        "unpaired": 0,
    },
    "seconds": {"training": None, "embedding": 1.25, "scoring": 200.0},
}


def changed(**parts):
    """The result with other values in these parts, `metrics={...}`."""
    result = copy.deepcopy(RESULT)
    for name, values in parts.items():
        result[name] |= values
    return result


def row(text, name):
    return next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-3:]


def test_a_table_has_both_directions_their_mean_and_every_class():
    text = render(RESULT)
    assert "me/dualspace on toy (test): 1,200 clips\n" in text
    assert row(text, "MAP") == ["0.4000", "0.6000", "0.5000"]
    assert row(text, "R-precision") == ["0.2500", "0.2500", "0.2500"]
    for name in ("MAP@10", "precision@10", "class recall@10", "hit@10", "own pair within 10"):
        assert row(text, name) == ["0.5000", "0.5000", "0.5000"]
    assert row(text, "dog") == ["0.7500", "0.7500", "1,200"] and row(text, "drum") == ["-", "-", "0"]
    assert text.endswith("\nTime: embedding 1.25 s, scoring 3.3 min.")
    assert not any(word in text for word in ("left out", "cut-off", "legacy", "SYNTHETIC", "training", "@5 "))


def test_what_is_made_up_or_of_another_configuration_says_so():
    text = render(changed(data={"synthetic": True, "config": "fold-3"}))
    assert "me/dualspace on toy (fold-3, test, SYNTHETIC features): 1,200 clips" in text


def test_a_table_without_labels_has_the_recall_of_the_own_pair_alone():
    pair = {"queries": 1200, "pair_recall": {"1": 0.125, "10": 0.5}}
    metrics = {"map": None, "audio_to_visual": pair, "visual_to_audio": pair, "unlabelled": 1200}
    text = render(changed(metrics=metrics))
    assert "Nobody annotated these clips, so there is no MAP" in text and "by class" not in text
    assert "left out" not in text  # all of them are in the table
    assert row(text, "own pair within 1") == ["0.1250"] * 3
    assert not [line for line in text.splitlines() if line.startswith(("MAP", "recall", "hit", "R-"))]


def test_whatever_was_left_out_or_cut_is_counted_below_the_table():
    result = changed(
        metrics={"gallery": 7, "clipped_cutoffs": [10, 50], "unlabelled": 1234, "unpaired": 5}, seconds={"training": 89}
    )
    result["metrics"]["visual_to_audio"] |= {"excluded_queries": 3, "legacy_prefix_average": 0.2}
    result["metrics"]["audio_to_visual"]["legacy_prefix_average"] = 0.4
    text = render(result)
    assert row(text, "legacy prefix average") == ["0.4000", "0.2000", "0.3000"]
    assert "\n3 queries visual to audio " in text and "audio to visual" not in text
    assert "\nLeft out: 1,234 clips of unknown class." in text
    assert "\nLeft out: 5 clips without a sound or a picture." in text
    assert "The gallery has 7 clips" in text and "10" in text.split("The gallery has 7 clips")[1]
    assert "Time: training 89.0 s, embedding" in text


def test_long_names_of_classes_keep_their_columns():
    result = changed()
    for name in ("audio_to_visual", "visual_to_audio"):
        result["metrics"][name]["per_class"] = {"x" * 60: {"map": 0.5, "queries": 3}, "犬": {"map": 1.0, "queries": 4}}
    lines = render(result).split("MAP by class")[1].splitlines()[1:3]
    assert [len(line) for line in lines] == [len(lines[0])] * 2 and lines[0].startswith("x" * 60 + " ")
