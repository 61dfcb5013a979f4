"""Models as recipes ask for them: what the data decide, and what of a model to start from is taken over."""

import pytest
import torch
from datasets import Dataset, List, Value

from modeling_dualspace.feature_schema import Description
from modeling_dualspace.model_setup import build_model
from modeling_dualspace.recipe import recipe_from
from modeling_dualspace.training_data import TrainingData

MODEL = {"audio_hidden": [16], "visual_hidden": [12, 16], "embed_dim": 4, "explicit_dim": 4}
NAMES = ("dog", "drum", "train")


def recipe(model=MODEL, **settings):
    return recipe_from({"name": "mine", "data": {"path": "clips"}, "model": model} | settings)


@pytest.fixture
def made(make_batch, as_split):
    """`made(names, audio="vggish@1", ...)`: data to learn from."""

    def make(names=NAMES, rows=60, labelled=True, audio=None, visual="inception@1", seed=1, cut=None):
        batch = make_batch(rows, seed)
        if cut:
            batch["audio_features"] = batch["audio_features"][:, :cut]
        if not labelled:
            del batch["labels"]
        split = as_split(batch, names)
        if audio:
            split.info.description = str(Description("0123456789abcdef", audio, visual, True))
        return TrainingData({"train": split})

    return make


@pytest.fixture
def saved(made, tmp_path):
    """`saved(audio=..., model=...)`: a folder with a fitted model whose every tensor is unlike a fresh one."""

    def save(model=MODEL, **settings):
        data = made(**settings)
        source = build_model(recipe(model), data)
        with torch.no_grad():
            for tensor in (*source.parameters(), source.audio_statistics.mean, source.visual_statistics.scale):
                tensor.add_(0.1 + torch.rand(tensor.shape))
        source.finish(data.passes("train"))
        source.config.trained_on = data.record("train")
        source.save_pretrained(tmp_path / "source")
        return source, str(tmp_path / "source")

    return save


def compared(model, source):
    """Names of the tensors that are the source's, to the bit, and of those that are not; the fusion aside."""
    new, old = model.state_dict(), source.state_dict()
    names = [name for name in new if not name.startswith("fusion.")]
    kept = {name for name in names if name in old and torch.equal(new[name], old[name])}
    return kept, set(names) - kept


# From nothing


def test_the_data_decide_widths_and_classes(made):
    model = build_model(recipe(), made(audio="vggish@1"))
    assert (model.config.audio_dim, model.config.visual_dim) == (6, 8)
    assert model.config.id2label == dict(enumerate(NAMES)) and model.config.label2id["train"] == 2
    assert model.config.feature_spec == "audio=vggish@1 visual=inception@1"
    assert build_model(recipe(), made()).config.feature_spec is None


def test_a_model_is_prepared_on_the_training_split_and_fixed_by_its_seed(made, make_batch):
    first, second = (build_model(recipe(train={"seed": 5}), made()) for _ in range(2))
    assert not compared(first, second)[1]
    torch.testing.assert_close(first.audio_statistics.mean, make_batch(60)["audio_features"].mean(dim=0))
    other = build_model(recipe(train={"seed": 6}), made())
    assert not torch.equal(first.audio_towers.explicit[0].weight, other.audio_towers.explicit[0].weight)


def test_what_nobody_annotated_takes_the_number_of_classes_from_the_recipe(made):
    assert build_model(recipe(), made(labelled=False)).config.implicit_dim == 10
    assert build_model(recipe(MODEL | {"num_labels": 4}), made(labelled=False)).config.implicit_dim == 4


def test_memberships_make_as_many_classes_as_they_are_wide(make_batch):
    batch = make_batch(30)
    columns = {name: batch[name].tolist() for name in ("audio_features", "visual_features")}
    split = Dataset.from_dict(columns | {"labels": torch.eye(5)[batch["labels"]].tolist()})
    split = split.cast_column("labels", List(Value("float32"), length=5))
    model = build_model(recipe(), TrainingData({"train": split}))
    assert model.config.implicit_dim == 5
    model(**next(iter(TrainingData({"train": split}).passes("train")))).loss.backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": MODEL | {"audio_dim": 7}}, "`model.audio_dim` is 7 in the recipe and 6 in the data .clips"),
        ({"model": MODEL | {"num_labels": 5}}, "`model.num_labels` is 5 in the recipe and 3 in the data"),
        ({"model": MODEL | {"feature_spec": "audio=x"}}, "`model.feature_spec` is audio=x in the recipe and audio=vgg"),
        pytest.param(
            {"model": MODEL | {"id2label": {0: "a", 1: "b", 2: "c"}}},
            "id2label",
        ),
        ({"model": MODEL | {"alhpa": 1}}, "no key `alhpa`. Did you mean `alpha`"),
        ({"model": MODEL | {"dropout": 1.5}}, "`dropout` must be at least 0"),
        ({"system": "nope"}, "There is no system 'nope'. `system` is one of acmr, agah, c_dcca, cca"),
        ({"system": "bert"}, "There is no system 'bert'"),
        ({"init": "nowhere"}, "nowhere holds no model"),
    ],
)
def test_what_contradicts_the_data_or_does_not_exist_is_a_sentence(made, settings, message):
    with pytest.raises(Exception, match=message):
        build_model(recipe(**settings), made(audio="vggish@1"))


def test_what_the_recipe_says_as_the_data_do_is_no_contradiction(made):
    same = {"audio_dim": 6, "num_labels": 3, "id2label": dict(enumerate(NAMES))}
    assert build_model(recipe(MODEL | same), made()).config.num_labels == 3


# From a model


@pytest.mark.parametrize("spec", [None, "vggish@1"])
def test_on_data_like_those_it_was_made_for_a_model_is_taken_over_whole(saved, made, spec, warnings_logged):
    source, folder = saved(audio=spec)
    model = build_model(recipe({}, init=folder, train={"freeze": ["audio_towers"]}), made(audio=spec, rows=30, seed=4))
    kept, fresh = compared(model, source)
    assert not fresh and len(kept) > 20
    assert not model.fitted and model.config.fusion_choice is None and model.config.trained_on is None
    assert model.config.audio_hidden == [16] and model.config.id2label == source.config.id2label
    assert "anew" not in warnings_logged.text


def test_fields_of_the_recipe_go_over_those_of_the_model(saved, made):
    source, folder = saved(model=MODEL | {"alpha": 0.5, "dropout": 0.1})
    model = build_model(recipe({"alpha": 2.0, "dropout": 0.0}, init=folder), made())
    assert (model.config.alpha, model.config.dropout, model.config.explicit_dim) == (2.0, 0.0, 4)
    assert not compared(model, source)[1]


@pytest.mark.parametrize(
    "names", [("drum", "cow", "dog"), ("train", "dog", "drum"), ("a", "b", "c"), ("dog", "a", "b", "c")]
)
def test_of_classes_that_both_know_the_rows_are_carried_over_and_others_begin_anew(saved, made, names, warnings_logged):
    source, folder = saved()
    model, fresh = (build_model(recipe({} if init else MODEL, init=init), made(names)) for init in (folder, None))
    assert list(model.config.id2label.values()) == list(names)
    for towers, old in ((model.audio_towers, source.audio_towers), (model.visual_towers, source.visual_towers)):
        new, was = towers.implicit[-1], old.implicit[-1]
        for row, name in enumerate(names):
            carried = name in NAMES
            assert carried == (carried and torch.equal(new.weight[row], was.weight[NAMES.index(name)]))
            assert new.bias[row] == (was.bias[NAMES.index(name)] if carried else 0)
            if not carried:
                assert not (new.weight[row].unsqueeze(0) == was.weight).all(dim=1).any()
    assert "last layers start anew" in warnings_logged.text
    last = {f"{modality}_towers.implicit" for modality in ("audio", "visual")}
    assert all(any(name.startswith(one) for one in last) for name in compared(model, source)[1])


def test_features_of_another_width_begin_anew_in_their_first_layers_alone(saved, made, warnings_logged):
    source, folder = saved()
    model = build_model(recipe({}, init=folder), made(cut=5))
    expected = {"statistics.mean", "statistics.scale"} | {
        f"towers.{tower}.0.{part}" for tower in ("explicit", "implicit") for part in ("weight", "bias")
    }
    assert compared(model, source)[1] == {f"audio_{name}" for name in expected}
    assert "audio features are 5 wide, and were 6 wide: their first layer starts anew" in warnings_logged.text


def test_features_of_another_kind_but_the_same_width_begin_anew_too(saved, made, warnings_logged):
    source, folder = saved(audio="vggish@1")
    model = build_model(recipe({}, init=folder), made(audio="vggish@1", visual="clip@7"))
    fresh = compared(model, source)[1]
    assert fresh and all(name.startswith("visual_") for name in fresh)
    assert "visual_towers.explicit.0.weight" in fresh and "visual_statistics.scale" in fresh
    assert "visual_towers.explicit.4.weight" not in fresh
    assert model.config.feature_spec == "audio=vggish@1 visual=clip@7"
    assert "visual features are clip@7" in warnings_logged.text


def test_what_nobody_annotated_keeps_the_classes_of_the_model(saved, made):
    source, folder = saved()
    model = build_model(recipe({}, init=folder), made(labelled=False))
    assert model.config.id2label == source.config.id2label and not compared(model, source)[1]


DEEPER, SHALLOWER = {"audio_hidden": [16, 16]}, [{"audio_hidden": []}, {"visual_hidden": [12]}]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        *((model, NAMES) for model in (DEEPER, *SHALLOWER)),
        *((model, ("dog", "cow", "drum")) for model in (DEEPER, *SHALLOWER)),
    ],
)
def test_a_model_whose_towers_are_of_another_depth_can_be_started_from(saved, made, model, names):
    source, folder = saved()
    found = build_model(recipe(model, init=folder), made(names))
    untouched = "visual_towers" if "audio_hidden" in model else "audio_towers"
    assert f"{untouched}.explicit.0.weight" in compared(found, source)[0]


def test_no_hidden_layer_takes_rows_of_classes(saved, made):
    source, folder = saved()
    model = build_model(recipe(DEEPER, init=folder), made(("dog", "cow", "drum")))
    hidden, last = model.audio_towers.implicit[4].weight, source.audio_towers.implicit[4].weight
    assert (len(hidden), len(last)) == (16, 3)
    assert not (hidden.unsqueeze(1) == last).all(dim=2).any()


def test_a_linear_tower_of_other_features_takes_no_rows_of_classes(saved, made):
    source, folder = saved(model=MODEL | {"audio_hidden": []}, audio="vggish@1")
    model = build_model(recipe({}, init=folder), made(("dog", "cow", "drum"), audio="other@1"))
    assert not torch.equal(model.audio_towers.implicit[0].weight[0], source.audio_towers.implicit[0].weight[0])
    assert torch.equal(model.visual_towers.implicit[-1].weight[0], source.visual_towers.implicit[-1].weight[0])


@pytest.mark.parametrize(
    ("frozen", "data", "named"),
    [
        ("audio_towers", {"cut": 5}, r"audio_towers\.(ex|im)plicit\.0"),
        ("audio_towers.explicit.0.weight", {"cut": 5}, r"audio_towers\.explicit\.0\.weight"),
        ("visual_towers.implicit", {"names": ("a", "b", "c")}, r"visual_towers\.implicit\.8"),
    ],
)
def test_what_begins_anew_cannot_be_kept_as_it_is(saved, made, frozen, data, named):
    _, folder = saved()
    with pytest.raises(ValueError, match=f"`train.freeze` keeps {frozen} as it is, and {named}.* starts anew"):
        build_model(recipe({}, init=folder, train={"freeze": [frozen]}), made(**data))
    build_model(recipe({}, init=folder, train={"freeze": ["visual_towers.explicit"]}), made(**data))


def test_a_model_of_another_system_than_the_recipe_s_is_refused(saved, made):
    _, folder = saved()
    with pytest.raises(ValueError, match="`system` is dcca, and .* is a dualspace: leave it out"):
        build_model(recipe({}, init=folder, system="dcca"), made())
