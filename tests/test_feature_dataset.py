"""Data sets written, loaded with nothing but `datasets`, and read into tensors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Value, load_dataset
from torch.testing import assert_close

from modeling_dualspace.arrow_tensors import arrow_view, declared_widths
from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_dataset import (
    FeatureBatches,
    dataset_fingerprint,
    feature_statistics,
    keep_paired,
    to_tensors,
    write_dataset,
)
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import Description, feature_columns

NAMES = ["dog", "drum", "fireworks"]
SIZES = {"train": 50, "validation": 12, "test": 20}


def rows_of(split, rows, seed=0, audio=4, visual=6):
    """The rows of a split, as `to_table` takes them."""
    generator = np.random.default_rng([seed, len(split), rows])
    return {
        "clip_id": [f"{split}/{row:06d}" for row in range(rows)],
        "audio_features": generator.standard_normal((rows, audio)).astype(np.float32),
        "visual_features": generator.standard_normal((rows, visual)).astype(np.float32),
        "label": np.arange(rows) % 3,
    }


def source(content=None, name="default", chunk=7, **settings):
    """A configuration whose parts are read in chunks of `chunk` rows."""
    content = content or {split: rows_of(split, rows) for split, rows in SIZES.items()}

    def read(part):
        columns = content[part.split("/")[1]]
        for start in range(0, len(columns["clip_id"]), chunk):
            yield {key: column[start : start + chunk] for key, column in columns.items()}

    splits = {split: [f"{name}/{split}"] for split in content}
    settings = {"features": feature_columns(4, 6, NAMES), "audio": "a@1", "visual": "v@2"} | settings
    return FeatureSource(name=name, splits=splits, rows=read, **settings)


def write(folder, *sources, **settings):
    card = DataCard("Toy clips", Path(folder).name)
    return write_dataset(folder, sources or [source()], card, progress=False, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two configurations, several shards a split."""
    folder = tmp_path_factory.mktemp("parent") / "toy-features"
    other = {split: rows_of(split, rows, seed=1) for split, rows in SIZES.items()}
    write(folder, source(), source(other, name="other"), shard_bytes=2000)
    return folder


@pytest.fixture
def split(folder):
    return load_dataset(str(folder), split="train")


# Written and loaded


def test_a_process_that_knows_only_datasets_loads_it_by_its_bare_name_bit_for_bit(folder):
    code = """
import json, sys, datasets, torch
found = {}
for config in (None, "other"):
    for streaming in (False, True):
        clips = datasets.load_dataset("toy-features", config, streaming=streaming)
        for name, split in clips.items():
            split = split.with_format("torch")
            rows = list(split)
            found[f"{config}/{name}/{streaming}"] = {
                "clip_id": [row["clip_id"] for row in rows],
                "label": [int(row["label"]) for row in rows],
                "audio_features": [row["audio_features"].numpy().tobytes().hex() for row in rows],
                "visual_features": [row["visual_features"].numpy().tobytes().hex() for row in rows],
                "names": split.features["label"].names,
            }
part = datasets.load_dataset("toy-features", split="train[10:20]")
found["part"] = part["clip_id"][:]
assert not [name for name in sys.modules if "dualspace" in name]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder.parent, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("part") == [f"train/{row:06d}" for row in range(10, 20)]
    assert len(found) == 12
    for key, columns in found.items():
        config, split, _ = key.split("/")
        expected = rows_of(split, SIZES[split], seed=int(config == "other"))
        assert columns["names"] == NAMES
        assert columns["clip_id"] == expected["clip_id"] and columns["label"] == expected["label"].tolist()
        for name in ("audio_features", "visual_features"):
            assert columns[name] == [row.tobytes().hex() for row in expected[name]]


def test_shards_are_cut_by_size_and_named_as_the_hub_does(folder):
    names = sorted(path.name for path in (folder / "data" / "default").iterdir())
    rows = 2000 // (4 * 10 + 64)
    assert [name for name in names if name.startswith("train")] == [
        f"train-{number:05d}-of-00003.parquet" for number in range(-(-50 // rows))
    ]


def test_the_fingerprint_depends_on_content_alone(tmp_path):
    def found(name, *arguments, **settings):
        return write(tmp_path / name, *arguments, **settings)["default"].fingerprint

    whole = found("a")
    assert whole == found("b", shard_bytes=300) == found("c", source(chunk=1000))
    changed = {split: rows_of(split, rows) for split, rows in SIZES.items()}
    changed["test"]["audio_features"][3, 1] = np.nextafter(changed["test"]["audio_features"][3, 1], np.float32(9))
    assert found("d", source(changed)) != whole
    assert dataset_fingerprint(load_dataset(str(tmp_path / "b"))) == whole
    assert dataset_fingerprint(load_dataset(str(tmp_path / "b"), streaming=True)) == whole


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name / "toy", source(chunk=7 if name == "one" else 13))
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_rebuilt_folder_and_a_namesake_load_their_own_rows(tmp_path):
    first, second = tmp_path / "here" / "toy", tmp_path / "there" / "toy"
    contents = [{"train": rows_of("train", 30, seed)} for seed in range(3)]

    def loads(folder, expected):
        found = load_dataset(str(folder), split="train").with_format("numpy")[:]
        return np.array_equal(found["audio_features"], expected["train"]["audio_features"])

    write(first, source(contents[0]))
    assert loads(first, contents[0])
    write(second, source(contents[1]))
    assert loads(second, contents[1]) and loads(first, contents[0])
    write(first, source(contents[2]), overwrite=True)
    assert loads(first, contents[2]) and loads(second, contents[1])
    write(first, source(contents[0]), overwrite=True)
    assert loads(first, contents[0])


def test_what_the_card_says_of_the_data_reaches_the_loaded_data_set(folder, split):
    description = Description.parse(split.info.description)
    assert (description.audio, description.visual, description.synthetic) == ("a@1", "v@2", False)
    assert description.fingerprint in (folder / "README.md").read_text()
    assert description == Description.parse(load_dataset(str(folder), streaming=True)["train"].info.description)


def test_splits_of_several_configurations_may_share_their_parts(tmp_path):
    parts = {name: rows_of(name, 10, seed) for seed, name in enumerate("abc")}
    folds = []
    for number, test in enumerate("abc"):
        splits = {"train": [f"folds/{name}" for name in "abc" if name != test], "test": [f"folds/{test}"]}
        folds.append(
            FeatureSource(
                f"fold{number}", feature_columns(4, 6, NAMES), splits, lambda part: [parts[part[-1]]], shared=True
            )
        )
    write(tmp_path / "toy", *folds)
    assert len(list((tmp_path / "toy").rglob("*.parquet"))) == 3
    for number, test in enumerate("abc"):
        clips = load_dataset(str(tmp_path / "toy"), f"fold{number}")
        assert clips["test"]["clip_id"][:] == parts[test]["clip_id"]
        expected = sum((parts[name]["clip_id"] for name in "abc" if name != test), [])
        assert clips["train"]["clip_id"][:] == expected
    assert load_dataset(str(tmp_path / "toy"))["test"]["clip_id"][:] == parts["a"]["clip_id"]


@pytest.mark.parametrize(
    ("features", "columns"),
    [
        (feature_columns(4, 6), {"label": None}),
        (feature_columns(4, 6, NAMES, multi_label=True), {"label": None, "labels": np.eye(3)[[0, 1, 2, 0]]}),
        (feature_columns(4, 6, NAMES), {"label": np.array([0, 1, 2, -100])}),
        (feature_columns(4, 6, NAMES, extra={"path": Value("string")}), {"path": ["a", "ä", None, "ü b"]}),
    ],
    ids=["nobody annotated", "several labels", "some labels", "further columns"],
)
def test_every_schema_survives(tmp_path, features, columns):
    content = {name: column for name, column in (rows_of("train", 4) | columns).items() if column is not None}
    names = NAMES if "labels" in features else None
    write(tmp_path / "toy", source({"train": content}, features=features, class_names=names))
    split = load_dataset(str(tmp_path / "toy"), split="train")
    assert split.features == features
    tensors = to_tensors(split)
    assert_close(tensors["audio_features"], torch.from_numpy(content["audio_features"]), rtol=0, atol=0)
    if "label" in content:
        assert tensors["labels"].tolist() == content["label"].tolist()
    elif "labels" in content:
        assert tensors["labels"].tolist() == content["labels"].tolist()
        assert Description.parse(split.info.description).class_names == tuple(NAMES)
    else:
        assert "labels" not in tensors
    if "path" in content:
        assert split["path"][:] == content["path"]


# What is refused


def spoiled(**changes):
    content = {split: rows_of(split, rows) for split, rows in SIZES.items()}
    for key, value in changes.items():
        split, column = key.split("__")
        content[split][column] = value(content[split][column])
    return source(content)


def put(row, value):
    def change(column):
        column[row] = value
        return column

    return change


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (spoiled(train__audio_features=put(5, np.nan), test__visual_features=put((3, 2), np.inf)), "2 rows hold NaN"),
        (spoiled(train__audio_features=put(5, np.nan)), r"train/000005.*--drop-bad-rows"),
        (spoiled(test__clip_id=put(0, "train/000001")), r"1 clip ids.*more than once.*train/000001"),
        (spoiled(train__clip_id=put(0, None)), "1 rows of configuration default have no clip_id"),
        (source({"train": rows_of("train", 9), "test": rows_of("test", 0)}), "Split test .* is empty"),
        (source({"train": rows_of("train", 2)}), "no clip of 'fireworks'"),
        (
            source({"train": rows_of("train", 9, visual=5)}),
            r"default/train: expected `visual_features` rows of width 6",
        ),
    ],
)
def test_what_is_wrong_ends_in_a_sentence_and_no_folder(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "toy", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_one_split_lacks_is_a_note_in_the_card(tmp_path):
    write(tmp_path / "toy", spoiled(train__label=lambda column: column.clip(0, 1)))
    assert "The train split has no clip of fireworks." in (tmp_path / "toy" / "README.md").read_text()


def test_a_part_of_two_configurations_is_refused_unless_they_share_it(tmp_path):
    other = FeatureSource("other", feature_columns(4, 6, NAMES), {"train": ["default/train"]}, lambda part: [])
    with pytest.raises(ValueError, match="default and other both name the part default/train"):
        write(tmp_path / "toy", source(), other)


def test_a_split_takes_no_rows_of_another_whose_name_begins_alike(tmp_path):
    contents = {"train": rows_of("train", 9), "train-hard": rows_of("train-hard", 6)}
    splits = {"train": ["default/train"], "test": ["default/train-hard"]}
    parts = FeatureSource("default", feature_columns(4, 6, NAMES), splits, lambda part: [contents[part[8:]]])
    write(tmp_path / "toy", parts)
    assert load_dataset(str(tmp_path / "toy")).num_rows == {"train": 9, "test": 6}
    assert len(list(load_dataset(str(tmp_path / "toy"), streaming=True)["train"])) == 9


@pytest.mark.parametrize("name", ["../escaped", "a*", "a[1]", "/elsewhere", "", "a//b", ".hidden"])
def test_names_that_are_no_plain_paths_are_refused(name):
    with pytest.raises(ValueError, match="letters, digits"):
        source(name=name)
    with pytest.raises(ValueError, match="one word"):
        source(audio="my audio network")


def test_a_vector_of_two_splits_is_a_note_in_the_card(tmp_path):
    content = {split: rows_of(split, rows) for split, rows in SIZES.items()}
    content["test"]["visual_features"][4] = content["train"]["visual_features"][9]
    content["test"]["visual_features"][5] = content["train"]["visual_features"][9]
    content["validation"]["audio_features"][:2] = content["train"]["audio_features"][:2]
    write(tmp_path / "toy", source(content))
    card = (tmp_path / "toy" / "README.md").read_text()
    assert "- Vectors of visual features that occur, bit for bit, in train and test: 1." in card
    assert "- Vectors of audio features that occur, bit for bit, in train and validation: 2." in card
    assert card.count("bit for bit") == 2


def test_configurations_need_names_of_their_own_and_classes_theirs(tmp_path):
    with pytest.raises(ValueError, match=r"different names, got \['default', 'default'\]"):
        write(tmp_path / "toy", source(), source())
    with pytest.raises(ValueError, match="of width 3 needs as many class_names, got None"):
        source(features=feature_columns(4, 6, NAMES, multi_label=True))


def test_bad_rows_can_be_left_out_and_the_card_says_so(tmp_path, caplog):
    wrong = spoiled(train__audio_features=put([2, 40], np.nan))
    write(tmp_path / "toy", wrong, drop_bad_rows=True)
    ids = load_dataset(str(tmp_path / "toy"), split="train")["clip_id"][:]
    assert ids == [f"train/{row:06d}" for row in range(50) if row not in (2, 40)]
    assert "2 rows of the source held NaN or infinity" in (tmp_path / "toy" / "README.md").read_text()
    assert "train/000002, train/000040" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_interrupted_build_leaves_what_was_there(tmp_path, error):
    write(tmp_path / "toy")
    before = dataset_fingerprint(load_dataset(str(tmp_path / "toy")))

    def read(part):
        yield {name: column[:7] for name, column in rows_of("train", 50).items()}
        raise error

    broken = FeatureSource("default", feature_columns(4, 6, NAMES), {"train": ["default/train"]}, read)
    with pytest.raises((KeyboardInterrupt, OSError)):
        write(tmp_path / "toy", broken, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    assert dataset_fingerprint(load_dataset(str(tmp_path / "toy"))) == before


# Read


def slow_tensors(split):
    """The twin of `to_tensors`: row by row through Python."""
    split = split.with_format(None)
    rows = [split[row] for row in range(len(split))]
    columns = {name: torch.tensor([row[name] for row in rows]) for name in ("audio_features", "visual_features")}
    return {"index": torch.arange(len(rows))} | columns | {"labels": torch.tensor([row["label"] for row in rows])}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        assert_close(found[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "choose",
    [
        lambda split: split,
        lambda split: split.select(range(5, 23)),
        lambda split: split.select([40, 3, 3, 17]),
        lambda split: split.shuffle(seed=1),
        lambda split: split.with_format("torch"),
        lambda split: split.filter(lambda row: row["label"] == 1),
        lambda split: split.remove_columns("clip_id"),
    ],
    ids=["all", "slice", "rows", "shuffled", "formatted", "filtered", "fewer columns"],
)
def test_tensors_are_the_rows_of_any_selection(split, choose):
    chosen = choose(split)
    same(to_tensors(chosen), slow_tensors(chosen))
    same(to_tensors(chosen, copy=False), slow_tensors(chosen))


def test_tensors_are_one_s_own_unless_a_copy_is_declined(split):
    few = split.select(range(10))
    tensors = to_tensors(few)
    tensors["audio_features"].add_(1)
    same(to_tensors(few), slow_tensors(few))
    column = few.with_format("arrow")[:]["audio_features"]
    assert column.num_chunks == 1
    address = column.chunk(0).flatten().buffers()[1].address + 4 * 4 * column.chunk(0).offset
    assert to_tensors(few, copy=False)["audio_features"].data_ptr() == address


def test_lists_of_any_kind_become_float32():
    split = Dataset.from_dict(
        {"audio_features": [[1, 2], [3, 4]], "visual_features": [[0.5], [1.5]], "label": [3, None]}
    )
    tensors = to_tensors(split)
    assert tensors["audio_features"].dtype == tensors["visual_features"].dtype == torch.float32
    assert tensors["labels"].tolist() == [3, -100]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"audio": [[1.0]], "visual_features": [[1.0]]}, "Expected the columns"),
        (
            {"audio_features": [[1.0], None], "visual_features": [[1.0], [2.0]]},
            "1 of 2 .* no audio.*keep_paired",
        ),
        ({"audio_features": [[1.0], [1.0, 2.0]], "visual_features": [[1.0], [2.0]]}, "must be of one width"),
        ({"audio_features": [1.0], "visual_features": [[1.0]]}, "one list of numbers a clip"),
        ({"audio_features": [[1.0]], "visual_features": [[1.0]], "label": ["dog"]}, "class_encode_column"),
    ],
)
def test_columns_that_no_model_takes_are_refused_in_a_sentence(columns, message):
    with pytest.raises(ValueError, match=message):
        to_tensors(Dataset.from_dict(columns))


def test_a_stream_has_no_tensors_at_once(folder):
    with pytest.raises(ValueError, match="FeatureBatches"):
        to_tensors(load_dataset(str(folder), split="train", streaming=True))


def joined(batches):
    batches = list(batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_a_pass_is_every_row_once_in_order_as_often_as_wanted(folder, split, streaming, size):
    batches = FeatureBatches(load_dataset(str(folder), split="train", streaming=streaming), size)
    assert {len(batch["index"]) for batch in batches} <= {min(size, 50), 50 % size}
    for _ in range(2):
        same(joined(batches), slow_tensors(split))


def test_a_stream_may_be_left_early_without_hanging_the_process(tmp_path):
    # Several row groups, so that Arrow reads on behind the first batch; see _left_cleanly.
    rows = {name: np.tile(column, (400, 1)) for name, column in rows_of("train", 50).items() if "features" in name}
    content = {"clip_id": [str(row) for row in range(20_000)], **rows, "label": np.arange(20_000) % 3}
    write(tmp_path / "toy", source({"train": content}, chunk=20_000))
    code = (
        "from datasets import load_dataset\nfrom modeling_dualspace.feature_dataset import FeatureBatches\n"
        "for batch in FeatureBatches(load_dataset('toy', split='train', streaming=True), 64):\n    break\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("seed", [None, 3])
def test_processes_together_see_the_batches_that_one_sees(folder, streaming, seed):
    split = load_dataset(str(folder), split="train", streaming=streaming)
    alone = list(FeatureBatches(split, 8, seed=seed, block=24))
    shares = [
        list(FeatureBatches(split, 8, seed=seed, block=24, process_index=rank, num_processes=3)) for rank in range(3)
    ]
    assert {len(share) for share in shares} == {len(alone)}
    for batch, *parts in zip(alone, *shares, strict=True):
        same(joined(parts), batch)
    assert min(len(share[-1]["index"]) for share in shares) == 0  # two rows over three processes


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_slice_has_the_keys_and_widths_of_its_batch_whoever_is_annotated(rank, streaming):
    columns = {"audio_features": [[1.0, 2.0]] * 4, "visual_features": [[3.0]] * 4, "labels": [[0, 1], None, None, None]}
    split = Dataset.from_dict(columns)
    split = split.to_iterable_dataset() if streaming else split
    batches = list(FeatureBatches(split, 2, process_index=rank, num_processes=3))
    shapes = [{name: column.shape[1:] for name, column in batch.items()} for batch in batches]
    assert shapes[0] == {"index": (), "audio_features": (2,), "visual_features": (1,), "labels": (2,)}
    for batch in batches[:1]:
        assert batch["labels"][batch["index"] > 0].isnan().all()


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_another_name_are_refused_however_they_come(streaming):
    split = Dataset.from_dict({"audio": [[1.0]], "visual_features": [[1.0]]})
    with pytest.raises(ValueError, match="Expected the columns audio_features and visual_features, got audio"):
        list(FeatureBatches(split.to_iterable_dataset() if streaming else split))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_shuffled_pass_is_fixed_by_seed_and_epoch(folder, split, streaming):
    def order(seed, epoch):
        batches = FeatureBatches(load_dataset(str(folder), split="train", streaming=streaming), 8, seed=seed, block=24)
        batches.set_epoch(epoch)
        tensors = joined(batches)
        same({name: column[tensors["index"].argsort()] for name, column in tensors.items()}, slow_tensors(split))
        return tensors["index"].tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("settings", [{}, {"even": True}, {"seed": 3}, {"seed": 3, "even": True, "block": 25}])
def test_a_walk_from_the_middle_is_the_rest_of_the_whole_one_and_the_next_is_whole(folder, streaming, settings):
    split = load_dataset(str(folder), split="train", streaming=streaming)
    batches = FeatureBatches(split, 8, **settings)
    for epoch in (0, 2):
        batches.set_epoch(epoch)
        whole = list(batches)
        for skip in (0, 2, len(whole), 99):
            batches.set_epoch(epoch, skip)
            rest = list(batches)
            assert len(rest) == max(len(whole) - skip, 0) and len(list(batches)) == len(whole)
            for one, other in zip(rest, whole[skip:], strict=True):
                same(one, other)


def test_what_is_resident_is_shuffled_where_it_lies_and_changes_no_batch(split):
    resident, read = FeatureBatches(split, 16, device="cpu"), FeatureBatches(split, 16)
    for one, other in zip(resident, read, strict=True):
        same(one, other)
    shuffled = resident.shuffled(12, seed=3)
    assert shuffled._whole(split) is resident._whole(split)
    for one, other in zip(shuffled, read.shuffled(12, seed=3), strict=True):
        same(one, other)
    assert [len(batch["index"]) for batch in shuffled] == [10] * 5
    assert [len(batch["index"]) for batch in resident] == [16, 16, 16, 2]


def test_a_batch_has_at_least_one_row(split):
    with pytest.raises(ValueError, match="at least one row"):
        FeatureBatches(split, 0)
    assert len(FeatureBatches(split, 8)) == 7
    with pytest.raises(ValueError, match="process_index=2 is none of 2"):
        FeatureBatches(split, 8, process_index=2, num_processes=2)


def test_statistics_are_those_of_numpy(folder, split):
    expected = slow_tensors(split)
    for streaming in (False, True):
        found = feature_statistics(FeatureBatches(load_dataset(str(folder), split="train", streaming=streaming), 16))
        assert found["rows"] == 50 and found["labels"] == {0: 17, 1: 17, 2: 16}
        for name in ("audio_features", "visual_features"):
            column = expected[name].double().numpy()
            assert_close(found[name]["mean"].numpy(), column.mean(axis=0))
            assert_close(found[name]["std"].numpy(), column.std(axis=0))
            assert_close(found[name]["min"].double().numpy(), column.min(axis=0))
            assert_close(found[name]["max"].double().numpy(), column.max(axis=0))
            assert_close(found[name]["zeros"].numpy(), (column == 0).mean(axis=0))


def test_a_pass_over_a_selection_reads_a_batch_at_a_time(split):
    chosen = split.select([40, 3, 3, 17, 8])
    view = arrow_view(chosen)
    assert declared_widths(view) == {"audio_features": 4, "visual_features": 6}
    assert (
        declared_widths(arrow_view(Dataset.from_dict({"audio_features": [[1.0]], "visual_features": [[1.0]]}))) is None
    )
    same(joined(FeatureBatches(chosen, 2)), slow_tensors(chosen))


def test_all_splits_at_once_are_refused(folder):
    data = load_dataset(str(folder))
    for read in (to_tensors, lambda splits: list(FeatureBatches(splits))):
        with pytest.raises(ValueError, match=r"Expected one split, got train, validation, test.*data\['train'\]"):
            read(data)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="empty split"):
        feature_statistics([])


def test_unpaired_clips_are_kept_in_the_data_and_left_out_of_training(tmp_path, caplog):
    content = rows_of("train", 6)
    content["audio_features"] = [
        None if row in (1, 4) else value for row, value in enumerate(content["audio_features"])
    ]
    content["visual_features"] = [None if row == 2 else value for row, value in enumerate(content["visual_features"])]
    write(tmp_path / "toy", source({"train": content}))
    split = load_dataset(str(tmp_path / "toy"), split="train")
    assert len(split) == 6
    kept = keep_paired(split)
    assert kept["clip_id"][:] == [content["clip_id"][row] for row in (0, 3, 5)]
    assert "3 of 6 clips lack a sound or a picture" in caplog.text
    stream = keep_paired(load_dataset(str(tmp_path / "toy"), split="train", streaming=True))
    same(joined(FeatureBatches(stream, 2)), to_tensors(kept))
    assert "lack a sound or a picture" in (tmp_path / "toy" / "README.md").read_text()
