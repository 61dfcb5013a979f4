"""Recipes: what is misspelt, of a wrong type or out of bounds is said by its key; what is right is read as meant."""

import itertools

import pytest
import yaml
from transformers import AutoConfig

from modeling_dualspace import recipe_files, yaml_files
from modeling_dualspace.recipe import (
    DataSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    TrainSettings,
    known_recipes,
    load_recipe,
    recipe_from,
)

BASE = {"name": "mine", "data": {"path": "clips"}}


@pytest.fixture
def written(tmp_path):
    """`written(text, name)`: the path of a recipe file."""

    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def with_key(key, value):
    """`BASE` and one more key, by its path."""
    content = {name: dict(part) if isinstance(part, dict) else part for name, part in BASE.items()}
    *parents, last = key.split(".")
    below = content
    for parent in parents:
        below = below.setdefault(parent, {})
    return (below.__setitem__(last, value), content)[1]


# What comes with DualSpace


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_of_ours_is_read_and_its_model_fields_are_those_of_its_system(name):
    recipe = load_recipe(name)
    assert recipe.folder.parent.name == "runs"
    for cell in recipe.cells():
        model_type = "dualspace" if cell.system == "dualspace" else f"dualspace_{cell.system}"
        AutoConfig.for_model(model_type, **cell.model).validate()


def test_what_a_run_folder_keeps_is_the_recipe_again(written):
    recipe = load_recipe("tiny", ["train.optimizer.lr=1e-5", "train.players.critic.lr=3", "grid={model.alpha: [1, 2]}"])
    text = yaml.safe_dump(recipe.resolved(), sort_keys=False)
    assert load_recipe(written(text)) == recipe_from(yaml.safe_load(text)) == recipe


# Keys


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("traim", "`train`"), ("data.pth", "`data.path`"), ("train.epoch", "`train.epochs`"),
        ("train.lr", "`train.optimizer.lr`"), ("epochs", "`train.epochs`"),
        ("train.optimizer.momentun", "`train.optimizer.momentum`"),
        ("train.players.critic.weight_decy", "weight_decay`"),
        ("train.schedule.warmupp", "`train.schedule.warmup`"),
        ("checkpoint.every_minute", "`checkpoint.every_minutes`"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_the_one_that_was_meant(key, hint):
    with pytest.raises(ValueError, match=f"unknown key `{key}`.*Did you mean .*{hint}"):
        recipe_from(with_key(key, 1))


@pytest.mark.parametrize("key", ["train.zzzqq", "train.players.critic.zzzqq", "checkpoint.zzzqq"])
def test_where_nothing_is_like_an_unknown_key_those_there_are_stand_in_the_message(key):
    with pytest.raises(ValueError, match=r"It may have [a-z_]+, [a-z_]+") as error:
        recipe_from(with_key(key, 1))
    assert "have ," not in str(error.value)


@pytest.mark.parametrize(("content", "key"), [({"name": "x"}, "data"), ({"name": "x", "data": {}}, "data.path")])
def test_a_key_that_is_needed_and_absent_is_named(content, key):
    with pytest.raises(ValueError, match=f"lacks the key `{key}`"):
        recipe_from(content)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.epochs", True, "a whole number"), ("train.epochs", 3.0, "a whole number"),
        ("train.epochs", "3", "a whole number"), ("train.optimizer.lr", "fast", "a number"),
        ("train.optimizer.lr", False, "a number"), ("train.refit", 1, "true or false"),
        ("train.schedule.every", 2.5, "a whole number or null"), ("train.schedule.name", "x", "one of .*cosine, step"),
        ("train.clip", "none", "a number or null"), ("train.precision", "fp64", "one of fp32, bf16, fp16"),
        ("train.features", ["device"], "one of auto, device, memory, stream"),
        ("train.freeze", "audio_towers", "a list"), ("train.players", ["critic"], "keys and values"),
        ("train.players.critic", 0.1, "keys and values"), ("train", None, "keys and values"),
        ("data", "clips", "keys and values"), ("data.path", 5, "text"), ("init", 5, "text or null"),
        ("model", [1], "keys and values"), ("name", None, "text"),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_said_with_what_was_expected(key, value, expected):
    with pytest.raises(ValueError, match=f"`{key}` must (be|hold) {expected}, got "):
        recipe_from(with_key(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", -1), ("train.batch_size", 0), ("train.seed", -1), ("train.eval_every", 0),
        ("train.patience", 0), ("train.clip", 0.0), ("train.schedule.warmup", 1.1), ("checkpoint.keep", 0),
        ("train.schedule.every", 0), ("train.schedule.factor", 0), ("train.schedule.factor", 1.01),
        ("checkpoint.every_minutes", 0), ("checkpoint.every_steps", 0), ("train.optimizer.lr", float("nan")),
        ("train.optimizer.lr", float("inf")), ("train.optimizer.weight_decay", -1), ("train.optimizer.momentum", 1),
        ("train.players.critic.lr", -1), ("train.players.critic.momentum", -0.1), ("train.clip", float("nan")),
        ("train.optimizer.smoothing", 1),
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_refused_by_its_key(key, value):
    with pytest.raises(ValueError, match=f"`{key}` must be at least"):
        recipe_from(with_key(key, value))


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\\b", ""])
def test_a_name_that_is_no_folder_s_is_refused(name):
    with pytest.raises(ValueError, match="`name` becomes a folder's name"):
        recipe_from(BASE | {"name": name})


# Files


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1E3", 1e3), ("+.5e-2", 5e-3), ("-1.e+1", -10), ("2", 2)])
def test_numbers_are_numbers_however_they_are_written(written, text, value):
    found = load_recipe(written(f"data: {{path: d}}\nmodel: {{alpha: {text}, activation: 1e}}")).model
    assert found == {"alpha": value, "activation": "1e"} and not isinstance(found["alpha"], str)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"), ("a: 1\nb: 2\na: 3", "the key a stands twice"),
        ("data: {path: d, path: e}", "the key path stands twice"), ("- 1", "must hold keys and values, got list"),
        ("", "must hold keys and values, got NoneType"), ("data: !!python/name:os.system d", "is no YAML"),
        ("\0", "is no YAML"), ("extends: absent.yaml", "extends absent.yaml, and there is neither"),
        ("extends: mine.yaml", "extends itself"), ("extends: other.yaml", "extends itself"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_a_sentence(written, text, message):
    written("extends: mine.yaml", "other.yaml")
    with pytest.raises(ValueError, match=message) as error:
        load_recipe(written(text))
    assert "\n" not in str(error.value)


def test_a_recipe_over_another_changes_only_what_it_says(written):
    written("name: base\ndata: {path: d, config: c}\ntrain: {seed: 3, optimizer: {lr: 0.1}}\nmodel: {x: [1, 2]}", "a")
    written("extends: a\ntrain: {seed: 4, optimizer: {name: sgd}}", "b")
    recipe = load_recipe(written("name: last\nextends: b\ndata: {config: null}\nmodel: {x: [3]}"))
    train = TrainSettings(seed=4, optimizer=OptimizerSettings(name="sgd", lr=0.1))
    assert recipe == Recipe("last", DataSettings("d"), model={"x": [3]}, train=train)


def test_a_recipe_is_called_by_its_file_where_it_says_no_name(written):
    assert load_recipe(written("data: {path: d}", "a b.yaml")).name == "a b"


@pytest.mark.parametrize(("name", "hint"), [("tinny", "Did you mean tiny"), ("qqq", "Ours are .*tiny"), ("", "Ours")])
def test_a_recipe_that_does_not_exist_is_said_with_those_that_do(name, hint):
    with pytest.raises(ValueError, match=f"There is no recipe {name}.*{hint}"):
        load_recipe(name)


def test_a_folder_of_the_same_name_does_not_hide_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("tiny").name == "tiny"


# Folders


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """`ours(names...)`: recipes that come with DualSpace, and no others."""

    def find(name):
        if not (tmp_path / "training" / name).exists():
            raise FileNotFoundError(name)
        return tmp_path / "training" / name

    def make(*names):
        for name in names:
            file = tmp_path / "training" / "configs" / f"{name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("audio: {name: logmel}" if "extract_" in name else "data: {path: d}\ntrain: {seed: 7}\n")
        for module in (recipe_files, yaml_files):
            monkeypatch.setattr(module, "resource", find)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")

    return make


def test_a_recipe_in_a_folder_is_found_by_its_path_and_called_by_its_file(ours):
    ours("tiny", "baselines/dcca", "baselines/hashing/agah", "extract_ave")
    assert known_recipes() == ["baselines/dcca", "baselines/hashing/agah", "tiny"]
    for name in known_recipes():
        recipe = load_recipe(name, ["train.epochs=3"])
        assert recipe.name == name.rsplit("/")[-1] and recipe.folder.name == recipe.name
        assert recipe.train == TrainSettings(epochs=3, seed=7)
    assert recipe_files.EXTRACTING.names() == ["extract_ave"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("dcca", "baselines/dcca"), ("dcca.yaml", "baselines/dcca"), ("dca", "baselines/dcca"),
        ("baselines/dca", "baselines/dcca"), ("baseline/dcca", "baselines/dcca"), ("randm", "baselines/random"),
        ("configs/baselines/random", "baselines/random"), ("tinny", "tiny"), ("vegas_cc", "vegas_cca"),
        ("cca", "baselines/cca"),
    ],
)  # fmt: skip
def test_a_recipe_in_a_folder_is_suggested_to_whoever_types_its_name_alone(ours, typed, meant):
    ours("tiny", "vegas", "ave_cca", "vegas_cca", "baselines/cca", "baselines/dcca", "baselines/random", "extract_ave")
    with pytest.raises(ValueError, match=rf"There is no recipe {typed}: .* Did you mean {meant}\?$"):
        load_recipe(typed)


def test_of_two_recipes_of_one_name_that_beside_is_suggested_before_that_in_a_folder(ours):
    ours("tinny", "baselines/tinny", "other/tiny")
    with pytest.raises(ValueError, match=r"Did you mean tinny\?$"):
        load_recipe("tiny_")
    assert load_recipe("baselines/tinny").name == "tinny"


def test_a_folder_of_recipes_is_no_recipe(ours):
    ours("tiny", "baselines/dcca")
    for typed in ("baselines", "baselines/", "../training/configs/baselines"):
        with pytest.raises(ValueError, match=f"There is no recipe {typed}: expected a YAML file"):
            load_recipe(typed)


def test_a_recipe_extends_one_of_ours_in_a_folder(ours, tmp_path):
    ours("baselines/dcca")
    (tmp_path / "mine.yaml").write_text("extends: baselines/dcca\ntrain: {epochs: 2}")
    assert load_recipe(tmp_path / "mine.yaml").train == TrainSettings(epochs=2, seed=7)


@pytest.mark.parametrize("base", ["dcca", "baselines/dcca", "dcca.yaml"])
def test_a_recipe_in_a_folder_extends_the_one_beside_it(ours, tmp_path, base):
    ours("baselines/dcca")
    (tmp_path / "training" / "configs" / "baselines" / "small.yaml").write_text(
        f"extends: {base}\ntrain: {{epochs: 2}}"
    )
    small = load_recipe("baselines/small")
    assert (small.name, small.train) == ("small", TrainSettings(epochs=2, seed=7))


def test_a_name_that_leaves_the_folder_finds_nothing(ours, tmp_path):
    ours("tiny", "baselines/dcca")
    (tmp_path / "training" / "secret.yaml").write_text("data: {path: d}")
    for typed in ("../secret", "baselines/../tiny"):
        with pytest.raises(ValueError, match="There is no recipe"):
            load_recipe(typed)


# Overrides


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("name=a=b c", "name", "a=b c"), ("train.optimizer.lr=1e-4", "train.optimizer.lr", 1e-4),
        ("train.players.critic.lr=2", "train.players.critic.lr", 2.0),
        ("train.freeze=[a, b.c]", "train.freeze", ["a", "b.c"]), ("train.clip=null", "train.clip", None),
        ("model.new={a: 1}", "model.new", {"a": 1}), ("data.path=/with space/ü", "data.path", "/with space/ü"),
        ("data.path='5'", "data.path", "5"),
    ],
)  # fmt: skip
def test_an_override_sets_its_key_and_no_other(override, key, value):
    before, found = load_recipe("tiny").resolved(), load_recipe("tiny", [override]).resolved()
    *parents, last = key.split(".")
    below = before
    for parent in parents:
        below = below.setdefault(parent, {"name": "adamw", "momentum": 0.9, "smoothing": None, "weight_decay": 0.0})
    below[last] = value
    assert found == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "KEY=VALUE, like train.epochs=3, got 'train.epochs'"), ("=3", "KEY=VALUE"),
        ("--train.epochs=3", "KEY=VALUE"), ("train.optimizer.lr=[", "is no YAML: quote it"),
        ("train.epochs.more=3", "`train.epochs` must be a whole number, got {'more': 3}"),
        ("train.epochs=", "`train.epochs` must be a whole number, got None"), ("train..epochs=3", "unknown key"),
        ("train.epoch=3", "Did you mean `train.epochs`"),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_meant_is_a_sentence(override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("tiny", [override])


def test_the_last_of_two_overrides_holds():
    assert load_recipe("tiny", ["train.seed=1", "train={epochs: 2}", "train.seed=2"]).train == TrainSettings(
        epochs=2, seed=2
    )


# Grids


def test_a_grid_is_every_combination_and_each_cell_is_named_by_what_it_sets():
    grid = {"model.alpha": [0.1, 1], "train.optimizer.lr": [0.01, 0.02, 0.03]}
    cells = recipe_from(BASE | {"model": {"alpha": 5, "beta": 2}, "grid": grid}).cells()
    points = list(itertools.product(*grid.values()))
    assert [(cell.model["alpha"], cell.train.optimizer.lr) for cell in cells] == points
    assert [cell.name for cell in cells] == [f"mine[alpha={alpha},lr={lr}]" for alpha, lr in points]
    assert all(cell.model["beta"] == 2 and not cell.grid for cell in cells)
    assert len({cell.fingerprint("f") for cell in cells}) == 6


def test_a_recipe_without_a_grid_is_its_only_cell():
    recipe = recipe_from(BASE)
    assert recipe.cells() == [recipe]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"model.alpha": []}, "at least one value"),
        ({"train.epoch": [1]}, "unknown key `train.epoch`"),
        ({"train.epochs": ["many"]}, "`train.epochs` must be a whole number"),
    ],
)
def test_a_grid_that_cannot_be_run_is_a_sentence(grid, message):
    with pytest.raises(ValueError, match=message):
        recipe_from(BASE | {"grid": grid}).cells()


def test_cells_may_start_from_models_and_read_data_whose_names_have_slashes():
    cells = recipe_from(BASE | {"grid": {"init": ["me/one", "me/other"]}}).cells()
    assert [cell.init for cell in cells] == ["me/one", "me/other"]


# Fingerprints

MATTERS = {
    "system": "other", "init": "m", "model.alpha": 2, "data.config": "c", "train.epochs": 3, "train.batch_size": 7,
    "train.seed": 1, "train.refit": True, "train.precision": "bf16", "train.compile": True, "train.clip": 1.0,
    "train.eval_every": 2, "train.patience": 3, "train.optimizer.lr": 0.5, "train.optimizer.name": "sgd",
    "train.players": {"critic": {}}, "train.schedule.name": "cosine", "train.schedule.warmup": 0.1,
    "train.freeze": ["a"],
}  # fmt: skip
DOES_NOT = {"output": "o", "checkpoint.every_steps": 3, "checkpoint.keep": 9, "data.path": "elsewhere", "grid": {}}


def test_a_fingerprint_is_another_with_all_that_matters_and_with_nothing_else():
    expected = recipe_from(BASE).fingerprint("f")
    assert len({recipe_from(with_key(*item)).fingerprint("f") for item in MATTERS.items()} | {expected}) == 20
    assert {recipe_from(with_key(*item)).fingerprint("f") for item in DOES_NOT.items()} == {expected}
    assert recipe_from(BASE).fingerprint("g") != expected
    assert len(expected) == 16 and int(expected, 16) >= 0


@pytest.mark.parametrize(("key", "value"), [("train.trackers", ["tensorboard"]), ("train.features", "stream")])
def test_what_may_change_when_a_run_goes_on_leaves_a_cell_where_it_is(key, value):
    assert recipe_from(with_key(key, value)).fingerprint("f") == recipe_from(BASE).fingerprint("f")


def test_a_whole_number_is_the_same_setting_as_that_number_with_a_point():
    one, other = (recipe_from(BASE | {"model": {"alpha": value}}) for value in (1, 1.0))
    assert one == other and one.fingerprint("f") == other.fingerprint("f")


def test_defaults_are_those_of_the_design():
    assert recipe_from(BASE).train.schedule == ScheduleSettings("constant", 0.0)
    assert recipe_from(BASE).checkpoint.keep == 3 and recipe_from(BASE).system == "dualspace"


def test_a_recipe_may_extend_one_of_ours_by_its_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: finetune\ndata: {path: films}\n")
    mine = load_recipe(tmp_path / "mine.yaml")
    assert (mine.name, mine.data.path, mine.train.min_steps) == ("mine", "films", 600)


def test_a_recipe_named_like_one_of_ours_may_extend_it(tmp_path):
    (tmp_path / "tiny.yaml").write_text("extends: tiny\ntrain: {epochs: 3}")
    mine, ours = load_recipe(tmp_path / "tiny.yaml"), load_recipe("tiny")
    assert mine.train.epochs == 3 and mine.model == ours.model
