"""Suites: found, read, closed against what is misspelt, and ours whole."""

from pathlib import Path

import pytest

from modeling_dualspace.published import MAPS
from modeling_dualspace.recipe import known_recipes
from modeling_dualspace.suite import config_fields, known_suites, load_suite


def written(folder, text):
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


@pytest.mark.parametrize("name", known_suites())
def test_ours_name_every_system_of_the_paper_and_recipes_of_ours(name):
    suite = load_suite(name)
    assert set(MAPS["vegas"]) | {"CM-GAN", "dual, default fusion"} == set(suite.systems)
    for system in suite.systems.values():
        assert {system.recipe, *system.instead.values()} <= set(known_recipes())
    drawn = {name for name, system in suite.systems.items() if not system.drawn}
    assert drawn == {"CCA", "C-CCA"}


def test_the_dual_model_of_the_paper_has_its_fusion_and_ours_has_not():
    suite = load_suite("paper")
    fusions = {name: suite.recipe(name, 0, {"path": "x"}).model.get("fusion") for name in suite.systems}
    assert fusions["dual"] == fusions["shared"] == "cca" and fusions["dual, default fusion"] is None


def test_a_system_has_another_recipe_on_data_that_are_the_paper_s():
    suite = load_suite("paper")
    sizes = {paper: suite.recipe("dual", 3, {"path": "x"}, paper).train.batch_size for paper in (None, "vegas", "ave")}
    assert sizes == {None: 512, "vegas": 512, "ave": 256}


def test_settings_of_all_go_where_they_fit_and_a_system_s_own_win(tmp_path):
    text = (
        "over: {model: {hidden: [8], ridge: 0.5}, train: {epochs: 2}, checkpoint: {keep: 1}}\n"
        "systems:\n  A: {recipe: baselines/cca}\n"
        "  B: {recipe: baselines/tnn_c_cca, model: {ridge: 0.1}, train: {epochs: 3}}\n"
    )
    suite = load_suite(written(tmp_path, text))
    one, other = (suite.recipe(name, 4, {"path": "data"}) for name in "AB")
    assert suite.name == "mine" and (one.model["ridge"], other.model["ridge"]) == (0.5, 0.1)
    assert "hidden" not in one.model and other.model["hidden"] == [8]
    assert (one.train.epochs, other.train.epochs, one.train.seed, one.checkpoint.keep) == (2, 3, 4, 1)
    assert (one.name, one.data.path, one.output) == ("A[seed=4]", "data", None)


def test_a_suite_extends_one_of_ours_and_finds_recipes_beside_itself(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: baselines/cca\nmodel: {embed_dim: 3}\n")
    suite = load_suite(written(tmp_path, "extends: paper\nsystems:\n  mine: {recipe: own.yaml}\n"))
    assert suite.name == "mine" and list(suite.systems)[-1] == "mine" and len(suite.systems) == 19
    assert suite.recipe("mine", 0, {"path": "x"}).model["embed_dim"] == 3
    assert Path(suite.systems["mine"].recipe).is_absolute()


def test_some_systems_and_other_seeds_can_be_chosen():
    suite = load_suite("paper").choose(["dual", "CCA"], [7, 3])
    assert list(suite.systems) == ["CCA", "dual"] and suite.seeds == [7, 3]
    with pytest.raises(ValueError, match=r"has no system tnn-c-cca\. Did you mean TNN-C-CCA\?"):
        load_suite("paper").choose(["tnn-c-cca"])
    assert list(load_suite("paper").choose(["CCA", "CCA"]).systems) == ["CCA"]
    with pytest.raises(ValueError, match="--seeds must be .* none twice"):
        load_suite("paper").choose(seeds=[1, 1])
    with pytest.raises(ValueError, match="no system tiny, which is a suite: name the suite before --only"):
        load_suite("paper").choose(["CCA", "tiny"])
    with pytest.raises(ValueError, match='no system xyz. There are .*CCA.*, "dual, default fusion", '):
        load_suite("paper").choose(["xyz"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("systems: {A: {recipe: baselines/cca}}\nseed: [1]", "unknown key `seed`.*seeds"),
        ("systems: {A: {recipe: baselines/cca, modle: {}}}", "unknown key `systems.A.modle`.*model"),
        ("systems: {A: {model: {}}}", "lacks the key `systems.A.recipe`"),
        ("systems: {A: {recipe: baselines/kca}}", r"There is no recipe baselines/kca.*Did you mean baselines/k?cca\?"),
        ("systems: {A: {recipe: baselines/cca, model: {powr: 1}}}", "unknown key `model.powr`. Did you mean power"),
        ("systems: {A: {recipe: baselines/cca, train: {epoch: 1}}}", "The system A .* unknown key `train.epoch`"),
        ("systems: {A: {recipe: baselines/cca}}\nover: {model: {hiden: [1]}}", "`over.model.hiden` is a setting of no"),
        ("systems: {A: {recipe: baselines/cca, instead: {vgas: vegas}}}", "vegas or ave, got vgas"),
        ("systems: {}", "names nothing to compare"),
        ("systems: {A: {recipe: baselines/cca}}\nseeds: []", "at least one"),
        ("systems: {A: {recipe: baselines/cca}}\nseeds: [-1]", "from 0 on"),
        ("extends: papers", r"neither .* nor one of ours of that name\. Did you mean paper\?"),
        ("systems: {A: {recipe: nosuch.yaml}}", "system A of the suite mine: There is no recipe .* beside the suite"),
        ("systems: {A: {recipe: grid.yaml}}", "The system A .* has a `grid`.* list a system for each .*`model.power`"),
        ("- A", "must hold keys and values"),
    ],
)
def test_what_is_wrong_with_a_suite_is_one_sentence(tmp_path, text, message):
    (tmp_path / "grid.yaml").write_text("extends: baselines/cca\ngrid: {model.power: [0, 1]}\n")
    with pytest.raises(ValueError, match=message) as caught:
        load_suite(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_suite_that_is_not_there_is_guessed():
    with pytest.raises(ValueError, match=r"There is no suite papr: .* Did you mean paper\?"):
        load_suite("papr")
    with pytest.raises(ValueError, match="There is no system 'nothing'"):
        config_fields("nothing")
