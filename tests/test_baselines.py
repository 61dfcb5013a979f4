"""The compared systems as a person meets them: by recipe, by the Auto classes, in a release."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny_release import SIZES, clips, write_data
from transformers import AutoConfig, AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from modeling_dualspace import DualSubspaceModel, baselines, release
from modeling_dualspace.baselines import SYSTEMS
from modeling_dualspace.cli import main
from modeling_dualspace.evaluation import evaluate_model
from modeling_dualspace.loading import load_split
from modeling_dualspace.model_setup import check_config
from modeling_dualspace.modeling_crossmodal import CrossModalModel
from modeling_dualspace.recipe import known_recipes, load_recipe, recipe_from
from modeling_dualspace.release_plan import load_release
from modeling_dualspace.resources import resource
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_grid import train_recipe

RECIPES = [name for name in known_recipes() if name.startswith("baselines/")]
OWN = [f"baselines/{system.config_class.model_type.removeprefix('dualspace_')}" for system in SYSTEMS]
"""One a system, of its name; the others are settings of these."""
NARROW = {"audio_hidden": "[8]", "visual_hidden": "[8]", "network_dim": "4", "hidden": "[8]", "components": "40"}
NARROW |= {"encoder_dim": "8", "critic_hidden": "[8]", "adversary_hidden": "[4]"}


def tiny(name: str) -> list[str]:
    """What makes a recipe one of seconds: narrow layers, few steps."""
    fields = AutoConfig.for_model(f"dualspace_{load_recipe(name).system}").to_dict()
    said = [f"model.{key}={value}" for key, value in NARROW.items() if key in fields]
    return [*said, "train.epochs=2", "train.min_steps=0", "train.batch_size=30", "data.path=tiny-data"]


def run(name: str) -> Path:
    """Where its recipe trains to."""
    return Path("runs") / Path(name).name


def repository(name: str) -> str:
    """Where it is pushed to."""
    return f"me/tiny-{Path(name).name.replace('_', '-')}"


def release_of(names: list[str]) -> str:
    """The file of a release of the data set and of these."""
    items = [{"name": "tiny-data", "path": "tiny-data"}]
    items += [{"name": repository(name)[3:], "path": str(run(name)), "license": "apache-2.0"} for name in names]
    Path("all.yaml").write_text(yaml.dump({"collection": "Rivals", "items": items}))
    return "all.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a data set and a run of every system."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_data(Path("tiny-data"))
        for name in OWN:
            train_recipe(load_recipe(name, tiny(name)), final=True, progress=False, command=f"dualspace train {name}")
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, to stand in."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_every_file_is_a_system_the_auto_classes_know_by_its_name():
    files = {path.stem for path in Path(baselines.__file__).parent.glob("*.py")} - {"__init__"}
    assert {system.config_class.model_type for system in SYSTEMS} == {f"dualspace_{name}" for name in files}
    for system in SYSTEMS:
        assert issubclass(system, CrossModalModel) and not issubclass(system, DualSubspaceModel)
        assert CONFIG_MAPPING[system.config_class.model_type] is system.config_class
        assert type(AutoModel.from_config(system.config_class())) is system


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_model(name):
    recipe = load_recipe(name)
    config = CONFIG_MAPPING[f"dualspace_{recipe.system}"](**recipe.model)
    assert type(AutoModel.from_config(config)).config_class is type(config) and recipe.train.refit


def test_every_system_has_a_recipe_of_its_name():
    assert set(OWN) <= set(RECIPES)


def test_every_recipe_is_in_the_manual_and_in_the_release(root):
    manual = (root / "training" / "README.md").read_text()
    named = {name for name in RECIPES if f"`{name}`" in manual or f"`{Path(name).name}`" in manual}
    assert named == set(RECIPES)
    assert set(re.findall(r"`(baselines/\w+)`", manual)) <= set(RECIPES)
    items = load_release(resource("releases/baselines.yaml"), "me").items
    assert {item.made_by.split()[2] for item in items if item.path.startswith("runs/")} == set(RECIPES)
    assert all(Path(item.path).name == Path(item.made_by.split()[2]).name for item in items if "train" in item.made_by)


@pytest.mark.parametrize("name", OWN)
def test_a_trained_system_comes_back_to_the_bit_and_is_scored_like_any_model(name, made):
    folder = made / run(name) / "model"
    model = AutoModel.from_pretrained(folder)
    assert model.config.model_type == f"dualspace_{load_recipe(name).system}" and model.fitted
    batch = {key: torch.from_numpy(column).float() for key, column in list(clips("test").items())[1:3]}
    model.save_pretrained(made / "again" / Path(name).name)
    again = AutoModel.from_pretrained(made / "again" / Path(name).name)
    for embed, other, features in (
        (model.get_audio_embeds, again.get_audio_embeds, batch["audio_features"]),
        (model.get_visual_embeds, again.get_visual_embeds, batch["visual_features"]),
    ):
        embeds = embed(features)
        assert embeds.shape == (SIZES["test"], model.config.output_dim)
        # Unit rows to float32's rounding of a sum of a dozen squares.
        torch.testing.assert_close(embeds.norm(dim=1), torch.ones(len(embeds)), rtol=0, atol=1e-5)
        assert torch.equal(embeds, other(features))
    metrics = evaluate_model(model, load_split(str(made / "tiny-data"), None, "test"))["metrics"]
    assert 0 < metrics["map"] <= 1


@pytest.mark.parametrize("names", [OWN[::3], pytest.param(OWN, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_collection_of_them_goes_to_the_hub_and_comes_back(names, place, online, monkeypatch):
    monkeypatch.setattr(release, "verify", lambda staged, commits=None: {one.repo_id: ["seen"] for one in staged})
    assert main(["push", release_of(names), "me"]) == 0
    (collection,) = online.collections.values()
    assert len(collection.items) == 1 + len(names)
    rows = torch.from_numpy(clips("test")["audio_features"]).float()
    for name in names:
        pulled, local = AutoModel.from_pretrained(repository(name)), AutoModel.from_pretrained(run(name) / "model")
        assert torch.equal(pulled.get_audio_embeds(rows), local.get_audio_embeds(rows))
        files = online.files(repository(name))
        card = files["README.md"].decode()
        assert "needs DualSpace" in card and f"`dualspace_{load_recipe(name).system}`" in card
        assert not any(path.endswith(".py") for path in files)


@pytest.mark.slow
def test_a_stranger_with_the_package_repeats_what_their_cards_say(place, online, capsys):
    assert main(["push", release_of(OWN), "me"]) == 0
    said = capsys.readouterr().out
    assert said.count("its embeddings are those in its card") == len(OWN)  # as loaded from the Hub


def test_the_manual_s_system_of_one_s_own_is_trained_and_loads(tmp_path, monkeypatch, script, root):
    monkeypatch.chdir(tmp_path)
    assert script("synthetic_features").main(["--rows", "700"]) == 0
    blocks = re.findall(
        r"^```python\n(.*?)^```", (root / "training" / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (block,) = [block for block in blocks if "class NearModel" in block]
    names = {"__name__": "manual"}
    exec(compile(block, "training/README.md", "exec"), names)
    assert type(AutoModel.from_pretrained("runs/near/model")) is names["NearModel"]
    kind = names["NearConfig"]
    with pytest.raises(ValueError, match=r"has parameters to learn, and no batch would teach it"):
        names["train"](names["recipe_from"]({
            "name": "idle", "system": "near", "data": {"path": "vegas-features-synthetic"}, "model": {"turns": []},
        }))  # fmt: skip
    assert kind().turns == ["model"]


def test_a_system_that_is_none_is_told_which_there_are(made):
    data = TrainingData({"train": load_split(str(made / "tiny-data"), None, "train")})
    ours = "`system` is one of acmr, agah, c_dcca, cca, "
    for typed, meant in (("cluster_ca", r"Did you mean cluster_cca\?"), ("wav", ours)):
        with pytest.raises(ValueError, match=f"There is no system '{typed}'. {meant}"):
            check_config(recipe_from({"name": "x", "system": typed, "data": {"path": "tiny-data"}}), data)
