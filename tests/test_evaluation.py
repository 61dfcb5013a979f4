"""Evaluation: the same table as plain NumPy, whoever the model and whatever the batches."""

import hashlib
import json
from datetime import datetime

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from torch import nn

from modeling_dualspace.data_card import DataCard
from modeling_dualspace.evaluation import embed, evaluate, evaluate_model
from modeling_dualspace.feature_dataset import dataset_fingerprint, keep_paired, write_dataset
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.loading import check_fit, load_model, load_split

NAMES = ["dog", "drum", "fireworks"]
DIRECTIONS = {"audio_to_visual": ("audio", "visual"), "visual_to_audio": ("visual", "audio")}


@pytest.fixture
def clips(make_batch):
    """`clips(rows, seed, label=...)`: the columns of a split; a column that is None is not there."""

    def of(rows=40, seed=3, **changes):
        batch = make_batch(rows, seed)
        columns = {name: batch[name].numpy() for name in ("audio_features", "visual_features")}
        columns |= {"clip_id": [f"{seed}/{row:06d}" for row in range(rows)], "label": batch["labels"].numpy()}
        return {name: column for name, column in (columns | changes).items() if column is not None}

    return of


@pytest.fixture
def write(tmp_path):
    """`write(test=columns, ...)`: the folder of a data set with these splits."""

    def to(name="toy", features=None, class_names=None, synthetic=False, **splits):
        source = FeatureSource(
            name="default",
            features=features or feature_columns(6, 8, NAMES),
            splits={split: [f"default/{split}"] for split in splits},
            rows=lambda part: [{column: splits[part.split("/")[1]][column] for column in source.features}],
            audio="a@1",
            visual="v@2",
            class_names=class_names,
            synthetic=synthetic,
        )
        write_dataset(tmp_path / name, [source], DataCard("Toy", name), progress=False)
        return str(tmp_path / name)

    return to


class Plain(nn.Module):
    """No model of ours: each modality's first four features, through dropout."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def get_audio_embeds(self, audio_features):
        return self.dropout(audio_features)[:, :4]

    def get_visual_embeds(self, visual_features):
        return self.dropout(visual_features)[:, :4]


def naive_direction(queries, gallery, members, cuts):
    """The table of one direction by plain sorting; `members` is `(n, C)`."""
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
    order = np.argsort(-(units[0] @ units[1].T), axis=1)
    own = (order == np.arange(len(order))[:, None]).argmax(axis=1)
    relevant = np.take_along_axis(members @ members.T > 0, order, axis=1)
    counts, ranks = relevant.sum(axis=1), np.arange(1, len(order) + 1)
    scored = counts > 0
    precision = relevant.cumsum(axis=1) / ranks

    def mean(values):
        return values[scored].mean()

    with np.errstate(invalid="ignore"):
        whole = (precision * relevant).sum(axis=1) / counts
        return {
            "map": mean(whole),
            "map_at": {str(k): mean((precision * relevant)[:, :k].sum(1) / np.minimum(counts, k)) for k in cuts},
            "precision_scope": {str(k): mean(precision[:, k - 1]) for k in cuts},
            "recall": {str(k): mean(relevant[:, :k].sum(1) / counts) for k in cuts},
            "hit": {str(k): mean(relevant[:, :k].any(1)) for k in cuts},
            "pair_recall": {str(k): (own < k).mean() for k in cuts},
            "chance": mean(((1 + (ranks - 1) * (counts - 1)[:, None] / (len(order) - 1)) / ranks).mean(axis=1)),
            "r_precision": mean(precision[np.arange(len(order)), counts - 1]),
            "per_class": {
                name: {"map": whole[of_class & scored].mean(), "queries": (of_class & scored).sum()}
                for name, of_class in zip(NAMES, members.T > 0, strict=True)
            },
            "queries": scored.sum(),
            "excluded_queries": (~scored).sum(),
        }


def naive(model, columns, members, cuts):
    """Both directions of `naive_direction`."""
    rows = {name: torch.as_tensor(columns[f"{name}_features"]) for name in ("audio", "visual")}
    with torch.no_grad():
        embeds = {name: getattr(model, f"get_{name}_embeds")(rows[name]).double().numpy() for name in rows}
    return {name: naive_direction(embeds[q], embeds[g], members, cuts) for name, (q, g) in DIRECTIONS.items()}


def flat(table, path=()):
    """Every number of a table by its path."""
    if isinstance(table, dict):
        return {key: value for name, part in table.items() for key, value in flat(part, (*path, name)).items()}
    return {path: table}


def assert_same(found, expected, **settings):
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path] == (value if value is None else pytest.approx(value, **settings)), path


# The table


def test_the_table_is_that_of_plain_numpy(fitted, clips, write):
    columns = clips()
    split = load_split(write(test=columns), None, "test")
    metrics = evaluate_model(fitted, split)["metrics"]
    expected = naive(fitted, columns, np.eye(3)[columns["label"]], (1, 5, 10, 20, 40))
    assert_same({name: metrics.pop(name) for name in DIRECTIONS}, expected, rel=1e-9)
    mean = np.mean([table["map"] for table in expected.values()])
    clipped = [50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    assert metrics == {
        "map": pytest.approx(mean), "gallery": 40, "clipped_cutoffs": clipped, "unlabelled": 0, "unpaired": 0
    }  # fmt: skip


def test_a_clip_of_several_classes_shares_one_with_whoever_has_any_of_them(fitted, clips, write):
    members = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    members[::4, 1], members[7] = 1, 0
    columns = clips(label=None, labels=members)
    features = feature_columns(6, 8, NAMES, multi_label=True)
    split = load_split(write(features=features, class_names=NAMES, test=columns), None, "test")
    metrics = evaluate_model(fitted, split, cutoffs=(3,))["metrics"]
    assert_same({name: metrics[name] for name in DIRECTIONS}, naive(fitted, columns, members, (3,)), rel=1e-9)
    assert metrics["audio_to_visual"]["excluded_queries"] == 1


def test_clips_of_unknown_class_are_left_out_and_counted(fitted, clips, write):
    columns = clips()
    columns["label"][::4] = -1
    split = load_split(write(test=columns), None, "test")
    metrics = evaluate_model(fitted, split)["metrics"]
    known = evaluate_model(fitted, split.select(np.flatnonzero(columns["label"] >= 0)))["metrics"]
    assert metrics.pop("unlabelled") == 10 and known.pop("unlabelled") == 0
    assert_same(metrics, known, rel=1e-12)


@pytest.mark.parametrize("how", ["no column", "all unknown"])
def test_where_nobody_annotated_the_recall_of_the_own_pair_is_all_there_is(fitted, clips, write, how):
    if how == "no column":
        folder = write(features=feature_columns(6, 8), test=clips())
    else:  # the classes are known from training, not one clip of the test is
        folder = write(train=clips(30, 5), test=clips(label=np.full(40, -1)))
    metrics = evaluate_model(fitted, load_split(folder, None, "test"))["metrics"]
    expected = naive(fitted, clips(), np.eye(3)[clips()["label"]], (1, 5, 10, 20, 40))
    assert metrics["map"] is None and metrics["gallery"] == 40
    for name in DIRECTIONS:
        assert metrics[name] == {"queries": 40, "pair_recall": pytest.approx(expected[name]["pair_recall"])}


def test_unpaired_clips_are_left_out_and_counted(fitted, clips, write):
    columns = clips()
    for name, missing in (("audio_features", (0, 5)), ("visual_features", (5, 39))):
        columns[name] = [None if row in missing else vector for row, vector in enumerate(columns[name])]
    split = load_split(write(test=columns), None, "test")
    metrics = evaluate_model(fitted, split)["metrics"]
    assert (metrics["gallery"], metrics["unpaired"]) == (37, 3)
    paired = evaluate_model(fitted, keep_paired(split))["metrics"]
    assert metrics | {"unpaired": 0} == paired


@pytest.mark.parametrize("batch_size", [2, 3, 39, 40, 10**9])
def test_the_size_of_batches_changes_nothing(fitted, clips, write, batch_size):
    split = load_split(write(test=clips()), None, "test")
    expected, found = (evaluate_model(fitted, split, batch_size=size)["metrics"] for size in (1024, batch_size))
    assert_same(found, expected, abs=1e-6)


# Any model, any data


def test_any_module_with_the_two_methods_is_evaluated_without_dropout_and_left_as_it_was(clips, write):
    model, columns = Plain().train(), clips()
    found = evaluate_model(model, load_split(write(test=columns), None, "test"), cutoffs=(5,))["metrics"]
    assert model.training and model.dropout.training
    expected = naive(model.eval(), columns, np.eye(3)[columns["label"]], (5,))
    assert_same({name: found[name] for name in DIRECTIONS}, expected, rel=1e-9)


def test_embeddings_come_row_by_row_with_the_labels(fitted, clips, write):
    columns = clips()
    embeds = embed(fitted, load_split(write(test=columns), None, "test"), batch_size=7)
    assert list(embeds) == ["audio", "visual", "labels"] and embeds["labels"].tolist() == columns["label"].tolist()
    torch.testing.assert_close(embeds["audio"], fitted.get_audio_embeds(torch.as_tensor(columns["audio_features"])))


def test_data_that_no_card_describes_are_evaluated(fitted, clips, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    columns = {name: column for name, column in clips().items() if name != "label"}
    Dataset.from_dict(columns | {"label": np.arange(40) % 3}).to_parquet(tmp_path / "raw" / "test.parquet")
    result = evaluate(str(tmp_path / "model"), str(tmp_path / "raw"))
    assert list(result["metrics"]["audio_to_visual"]["per_class"]) == ["0", "1", "2"]
    assert len(result["data"]["fingerprint"]) == 16 and result["data"]["synthetic"] is False


class Halved(Plain):
    """One embedding is narrower."""

    def get_visual_embeds(self, visual_features):
        return visual_features[:, :2]


@pytest.mark.parametrize("labels", [True, False])
def test_embeddings_of_two_widths_are_refused(clips, labels):
    split = Dataset.from_dict({name: column for name, column in clips().items() if name.endswith("features")})
    split = split.add_column("labels", [[1.0]] * 40) if labels else split
    with pytest.raises(ValueError, match=r"must pair up.* got shapes \(40, 4\) and \(40, 2\)"):
        evaluate_model(Halved(), split)


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"),
    [(0, 8, "split is empty"), (3, 1, "two clips are embedded at a time"), (3, 0, "two clips are embedded")],
)
def test_nothing_and_single_clips_are_not_embedded(clips, rows, batch_size, message):
    split = Dataset.from_dict({name: column for name, column in clips().items() if name.endswith("features")})
    with pytest.raises(ValueError, match=message):
        embed(Plain(), split.select(range(rows)), batch_size)


def test_a_bad_row_is_named_by_its_number_in_the_split(clips):
    columns = {name: list(column) for name, column in clips().items() if name.endswith("features")}
    columns["visual_features"][13] = columns["visual_features"][13] * np.nan
    for batch_size in (4, 1024):
        with pytest.raises(ValueError, match="Visual features must be finite numbers, but row 13 holds NaN"):
            evaluate_model(Plain(), Dataset.from_dict(columns), batch_size=batch_size)
    columns["audio_features"][2] = None
    with pytest.raises(ValueError, match="row 13 holds NaN"):
        evaluate_model(Plain(), Dataset.from_dict(columns))


# By name


def fingerprint(model):
    """As contracts.md has it."""
    parts = [model.config.model_type.encode(), str(model.config.feature_spec).encode()]
    for name, tensor in sorted(model.state_dict().items()):
        parts += [
            name.encode(),
            str(tensor.dtype).encode(),
            str(tuple(tensor.shape)).encode(),
            tensor.numpy().tobytes(),
        ]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()[:16]


def test_a_result_holds_all_that_the_contract_lists(fitted, clips, write, tmp_path):
    fitted.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "recipe.yaml").write_text("name: toy\ntrain: {seed: 3, refit: true, epochs: 2}\n")
    (tmp_path / "run" / "history.jsonl").write_text('{"seconds": 1.5, "validation": {"map": 0.4}}\n{"seconds": 3.5}\n')
    folder = write(synthetic=True, train=clips(30, 5), test=clips())
    result = evaluate(str(tmp_path / "run"), folder, legacy_prefix_average=True, command="dualspace evaluate")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert datetime.fromisoformat(result.pop("date")).tzinfo is not None
    versions = result["environment"].pop("versions")
    assert versions["torch"] == torch.__version__ and {"python", "dualspace", "transformers"} <= versions.keys()
    assert min(result["seconds"].pop("embedding"), result["seconds"].pop("scoring")) > 0
    card = load_dataset(folder, split="test").info.description
    expected = evaluate_model(fitted, load_split(folder, None, "test"), legacy_prefix_average=True)["metrics"]
    assert result.pop("metrics") == expected
    assert result == {
        "format": 1,
        "model": {
            "id": str(tmp_path / "run"),
            "model_type": "dualspace",
            "fingerprint": fingerprint(fitted),
            "parameters": sum(parameter.numel() for parameter in fitted.parameters()),
        },
        "data": {
            "id": folder,
            "config": "default",
            "split": "test",
            "fingerprint": card.split("fingerprint=")[1].split()[0],
            "queries": 40,
            "classes": 3,
            "synthetic": True,
        },
        "seconds": {"training": 3.5},
        "options": {"chosen_on": "validation", "refit": True, "legacy_prefix_average": True},
        "seed": 3,
        "recipe": {"name": "toy", "train": {"seed": 3, "refit": True, "epochs": 2}},
        "environment": {"device": "cpu", "processes": 1},
        "command": "dualspace evaluate",
    }


def test_a_part_of_a_split_has_a_fingerprint_of_its_own(fitted, clips, write, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    folder = write(test=clips())
    result = evaluate(str(tmp_path / "model"), folder, split="test[:50%]")
    part = load_split(folder, None, "test[:50%]")
    assert result["data"] | {"id": ""} == {
        "id": "", "config": "default", "split": "test[:50%]", "queries": 20, "classes": 3, "synthetic": False,
        "fingerprint": dataset_fingerprint({"test[:50%]": part}),
    }  # fmt: skip
    assert result["metrics"] == evaluate_model(fitted, load_split(folder, None, "test").select(range(20)))["metrics"]
    assert (result["seconds"]["training"], result["seed"], result["recipe"]) == (None, None, None)
    assert result["options"] == {"chosen_on": None, "refit": None, "legacy_prefix_average": False}


def test_a_model_is_found_in_its_folder_and_in_its_run_and_is_ready(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    for path in (tmp_path / "model", tmp_path):
        model = load_model(str(path))
        assert not model.training and torch.equal(model.fusion.correlations, fitted.fusion.correlations)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audio_dim": 7}, "m takes audio features of width 7, and those of d are 6 wide: "),
        ({"visual_dim": 9}, "m takes visual features of width 9, and those of d are 8 wide: "),
        ({"feature_spec": "audio=x@1 visual=y@2"}, "m was trained on features of audio=x@1 visual=y@2, and d holds "),
        ({"feature_spec": "audio=a@1 visual=v@2"}, None),
        ({"feature_spec": None}, None),
    ],
)
def test_a_model_and_data_that_do_not_fit_together_are_refused(make_model, clips, write, settings, message):
    model, data = make_model(**settings), load_split(write(test=clips()), None, "test")
    if message is None:
        return check_fit(model, "m", data, "d")
    with pytest.raises(ValueError, match=message):
        check_fit(model, "m", data, "d")


def test_what_has_the_two_methods_need_be_no_module(fitted, clips, write):
    class Plain:
        get_audio_embeds, get_visual_embeds = fitted.get_audio_embeds, fitted.get_visual_embeds

    split = load_split(write(test=clips()), None, "test")
    assert evaluate_model(Plain(), split)["metrics"] == evaluate_model(fitted, split)["metrics"]


def test_a_stream_is_refused_in_words(fitted, clips, write):
    split = load_split(write(test=clips()), None, "test")
    with pytest.raises(ValueError, match="streaming split is not all at hand"):
        evaluate_model(fitted, split.to_iterable_dataset())
