"""Recipes of extraction: ours are read as meant, what is misspelt is named, and each says which command it is for."""

import inspect

import pytest
import yaml

from modeling_dualspace.extraction import extract
from modeling_dualspace.extraction_recipe import BackboneSettings, ExtractionRecipe, known_extractions, load_extraction
from modeling_dualspace.media import Limits
from modeling_dualspace.recipe import known_recipes, load_recipe

CONFIGS = {"extract_vegas": "vegas", "extract_ave": "ave"}


@pytest.fixture
def written(tmp_path):
    """`written(text, name)`: the path of a recipe file."""

    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


# What comes with DualSpace


@pytest.mark.parametrize("name", CONFIGS)
def test_ours_take_the_networks_of_the_paper_and_fit_the_components_that_nobody_publishes(name):
    recipe = load_extraction(name)
    assert (recipe.name, recipe.fps, recipe.window) == (name, 1.0, None)
    assert recipe.audio == BackboneSettings("vggish", settings={"post": "dequantised"})
    whole = {"size": {"height": 299, "width": 299}, "do_center_crop": False}
    assert recipe.visual == BackboneSettings("inception", settings=whole, components=1024)


def test_every_recipe_of_ours_extracts_or_trains_and_is_refused_by_the_other_command(root):
    folder = root / "training" / "configs"
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.yaml")}
    assert sorted([*known_extractions(), *known_recipes()]) == sorted(files)
    for name, file in files.items():
        extracts = name in known_extractions()
        right, wrong = (load_extraction, load_recipe) if extracts else (load_recipe, load_extraction)
        assert right(file) == right(name)
        other = "`dualspace extract --recipe`" if extracts else "`dualspace train`"
        with pytest.raises(ValueError, match=f"^There is no recipe {name}: .* {name} is one for {other}.$"):
            wrong(name)
        with pytest.raises(ValueError, match=f"^{file} is a recipe for {other}: it has the key `"):
            wrong(file)


def test_what_no_recipe_says_is_what_extract_does_by_itself():
    assert load_extraction() == ExtractionRecipe()
    alone = inspect.signature(extract).parameters
    for name, value in load_extraction().arguments().items():
        default = alone[name].default
        same = {"audio": BackboneSettings(), "visual": BackboneSettings(), "limits": Limits()}
        assert value == same.get(name, default)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("extract_vegs", "Did you mean extract_vegas?"), ("qqq", "Ours are extract_ave, extract_vegas."),
        ("", "Ours are extract_ave, extract_vegas."), ("nowhere/extract_ave.yaml", "Did you mean extract_ave?"),
        ("nowhere/extract_ave", "Did you mean extract_ave?"),
        ("nowhere/vegas.yaml", "vegas is one for `dualspace train`."),
    ],
)  # fmt: skip
def test_a_recipe_that_does_not_exist_is_said_with_those_that_do(name, hint):
    with pytest.raises(ValueError) as error:
        load_extraction(name)
    assert str(error.value) == (f"There is no recipe {name}: expected a YAML file, or the name of one of ours. {hint}")


def test_a_name_of_the_wrong_folder_is_not_taken_for_a_recipe_of_the_other_command():
    with pytest.raises(ValueError, match=r"Did you mean vegas\?"):
        load_recipe("nowhere/vegas.yaml")


# Keys and values


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("windw=1", "an unknown key `windw`. Did you mean `window`?"),
        ("audio.sorce=x", "an unknown key `audio.sorce`. Did you mean `audio.source`?"),
        ("visual.component=4", "an unknown key `visual.component`. Did you mean `visual.components`?"),
        ("components=4", "an unknown key `components`. Did you mean `visual.components`?"),
        ("post=pca", "an unknown key `post`. It may have audio, batch_size, "),
        ("visual.zzzqq=1", "an unknown key `visual.zzzqq`. It may have component_clips, components, "),
        ("train.epochs=3", "an unknown key `train`. It may have audio, "),
    ],
)
def test_an_unknown_key_is_named_with_the_one_that_was_meant(override, said):
    with pytest.raises(ValueError) as error:
        load_extraction(None, [override])
    assert str(error.value).startswith(f"The extraction with {override} has {said}")


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("audio=vggish", "audio", "hold keys and values, got 'vggish'"),
        ("visual=null", "visual", "hold keys and values, got None"),
        ("audio.settings=3", "audio.settings", "be keys and values, got 3"),
        ("audio.settings={1: 2}", "audio.settings", "be keys and values, got {1: 2}"),
        ("audio.source=5", "audio.source", "be text or null, got 5"),
        ("visual.components=1.5", "visual.components", "be a whole number, got 1.5"),
        ("visual.components=true", "visual.components", "be a whole number, got True"),
        ("fps=fast", "fps", "be a number or null, got 'fast'"),
        ("window=[1]", "window", "be a number or null, got [1]"),
        ("batch_size=2.0", "batch_size", "be a whole number or null, got 2.0"),
        ("keep_unpaired=1", "keep_unpaired", "be true or false, got 1"),
        ("license=[mit]", "license", "be text or null, got ['mit']"), ("name=5", "name", "be text, got 5"),
        ("max_bytes=1e3", "max_bytes", "be a whole number or null, got 1000.0"),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_said_with_what_was_expected(override, key, expected):
    with pytest.raises(ValueError) as error:
        load_extraction(None, [override])
    assert str(error.value) == f"The extraction with {override}: `{key}` must {expected}."


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("visual.components=-1", "`components` is 0 or more, .* got -1 and 4000"),
        ("audio.component_clips=0", "`component_clips` 1 or more: got 0 and 0"),
        ("max_seconds=0", "A limit of seconds is a positive number, got 0"),
        ("max_bytes=-5", "A limit of bytes is a positive number, got -5"),
        ("max_pixels=0", "A limit of pixels is a positive number, got 0"),
    ],
)
def test_a_number_out_of_bounds_is_a_sentence(override, said):
    with pytest.raises(ValueError, match=said):
        load_extraction(None, [override]).arguments()


@pytest.mark.parametrize("typed", ["films", "--fps=3", "=3", "visual components=4"])
def test_what_is_no_override_is_a_sentence_with_one_of_an_extraction(typed):
    with pytest.raises(ValueError, match="^An override is KEY=VALUE, like visual.components=512, got "):
        load_extraction("extract_vegas", [typed])


def test_a_file_is_named_with_what_was_typed_over_it(written):
    file = written("audio: {source: vggish, sourc: x}")
    with pytest.raises(ValueError, match=f"^{file} has an unknown key `audio.sourc`. Did you mean `audio.source`"):
        load_extraction(file)
    with pytest.raises(ValueError, match=f"^{file} with fps=2 hop=x: `hop` must be a number"):
        load_extraction(written("window: 3"), ["fps=2", "hop=x"])


# What stands over what


def test_an_override_sets_its_key_and_leaves_the_others():
    recipe = load_extraction("extract_vegas", ["audio.settings.front_end=librosa", "visual.components=0"])
    assert recipe.audio.settings == {"post": "dequantised", "front_end": "librosa"}
    assert recipe.visual == BackboneSettings("inception", settings=load_extraction("extract_ave").visual.settings)
    assert recipe.fps == 1


def test_settings_of_a_network_are_what_anybody_types_and_are_looked_at_by_the_network():
    found = load_extraction(None, ["audio.settings.post=pca", "visual.settings.size={height: 75, width: 75}"])
    assert found.audio == BackboneSettings(settings={"post": "pca"})
    assert found.visual.settings == {"size": {"height": 75, "width": 75}}


def test_flags_come_after_overrides_and_those_after_the_recipe(written):
    file = written("window: 4\nhop: 1\nfps: 5\nvisual: {source: inception, revision: r}\nlicense: mit")
    given = {"window": 10.0, "visual.source": "thumbnail", "keep_unpaired": True, "max_pixels": 9}
    found = load_extraction(file, ["window=7", "hop=2", "max_pixels=3"], given)
    assert (found.window, found.hop, found.fps, found.license, found.keep_unpaired) == (10, 2, None, "mit", True)
    assert found.visual == BackboneSettings("thumbnail") and found.max_pixels == 9


def test_what_a_recipe_sets_for_its_network_is_not_set_for_another(written):
    ours = load_extraction("extract_vegas", given={"visual.source": "i3d"})
    assert ours.visual == BackboneSettings("i3d") and ours.fps is None  # no frame a second, no 299 x 299
    assert ours.audio == load_extraction("extract_vegas").audio
    kept = load_extraction("extract_vegas", ["visual.settings.num_frames=16", "fps=8"], {"visual.source": "i3d"})
    assert kept.visual == BackboneSettings("i3d", settings={"num_frames": 16}) and kept.fps == 8
    same = load_extraction("extract_vegas", given={"visual.source": "inception"})
    assert same == load_extraction("extract_vegas")


def test_one_recipe_extends_another_and_changes_only_what_it_says(written):
    written("name: base\naudio: {source: vggish, settings: {post: pca, hidden: 4}}\nfps: 2", "base.yaml")
    mine = load_extraction(written("extends: base.yaml\naudio: {settings: {post: 8bit}}\nvisual: {components: 3}"))
    assert (mine.name, mine.fps) == ("mine", 2)
    assert mine.audio == BackboneSettings("vggish", settings={"post": "8bit", "hidden": 4})
    assert mine.visual == BackboneSettings(components=3)
    ours = load_extraction(written("extends: extract_vegas\nvisual: {components: 0}", "other.yaml"))
    assert ours.visual.components == 0 and ours.audio == load_extraction("extract_vegas").audio


def test_what_a_recipe_extends_decides_what_it_is_for(written):
    with pytest.raises(ValueError, match="mine.yaml is a recipe for `dualspace train`: it has the key `data`"):
        load_extraction(written("extends: vegas"))
    with pytest.raises(ValueError, match="is a recipe for `dualspace extract --recipe`: it has the key `audio`"):
        load_recipe(written("extends: extract_vegas"))


def test_every_setting_reaches_extract_under_the_name_it_has_there(written):
    settings = {
        "fps": 3.0, "window": 4.0, "hop": 2.0, "batch_size": 5, "dtype": "bfloat16", "keep_unpaired": True,
        "license": "mit",
    }  # fmt: skip
    bounds = {"max_seconds": 60.0, "max_bytes": 1000, "max_pixels": 99}
    recipe = load_extraction(written(yaml.safe_dump(settings | bounds)))
    limits = Limits(seconds=60.0, bytes=1000, pixels=99)
    expected = {"audio": BackboneSettings(), "visual": BackboneSettings(), "limits": limits} | settings
    assert recipe.arguments() == expected
    inspect.signature(extract).bind("films", "out", **recipe.arguments())
