"""A data set for the Hub: every file as it was, its card under the name it has there, and what stops it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard
from tiny_release import refusal

from modeling_dualspace.data_card import DataCard
from modeling_dualspace.data_release import is_data_set, stage_data_set
from modeling_dualspace.feature_dataset import write_dataset
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import Description, feature_columns
from modeling_dualspace.release_checks import check
from modeling_dualspace.release_plan import Item
from modeling_dualspace.staging import Staged


def write_data(folder, configs=("default",), synthetic=False, license="mit", names=("dog", "a | b"), word="clip"):
    """A data set of three splits and some configurations."""

    def rows(part):
        generator = np.random.default_rng([len(part), configs.index(part.split("/")[0])])
        audio, visual = generator.standard_normal((6, 3)), generator.standard_normal((6, 4))
        ids = [f"{word} {part} {row}" for row in range(6)]
        return [{"clip_id": ids, "audio_features": audio, "visual_features": visual, "label": np.arange(6) % 2}]

    splits = ("train", "validation", "test")
    sources = [
        FeatureSource(
            name=config, features=feature_columns(3, 4, list(names)), synthetic=synthetic, rows=rows,
            splits={split: [f"{config}/{split}"] for split in splits},
        )
        for config in configs
    ]  # fmt: skip
    write_dataset(folder, sources, DataCard("Toy: features", folder.name, license=license), progress=False)
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """One configuration, and several."""
    root = tmp_path_factory.mktemp("toys")
    write_data(root / "toy")
    write_data(root / "folds", configs=("one", "two", "three"), synthetic=True)
    return root


@pytest.fixture
def toy(toys, tmp_path):
    """A copy, to be spoiled."""
    return Path(shutil.copytree(toys / "toy", tmp_path / "toy"))


@pytest.fixture
def stage(tmp_path_factory):
    """`stage(path, repo_id)`: a data set as the Hub gets it."""

    def of(path, repo_id="me/toys", **settings):
        one = Staged("data set", repo_id, "dataset", tmp_path_factory.mktemp("staged"), **settings)
        stage_data_set(Item(name=repo_id, path=str(path)), one, ())
        return one

    return of


def head(text):
    return text.split("\n---\n", 1)[0]


def edit(folder, old, new):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


def test_every_file_goes_as_it_is_but_for_the_card_and_the_list_of_what_was_made(toys, stage):
    one = stage(toys / "toy")
    assert check(one) == [] and one.notes == []
    sources = {path.relative_to(toys / "toy").as_posix(): path for path in (toys / "toy").rglob("*") if path.is_file()}
    assert set(one.files) == set(sources) - {".made-by-dualspace"}
    for name in set(one.files) - {"README.md"}:
        assert (one.folder / name).samefile(sources[name]), name
    assert not (one.folder / "README.md").samefile(sources["README.md"])


@pytest.mark.parametrize("name", ["toy", "folds"])
def test_the_metadata_stay_as_they_are_order_and_all(toys, stage, name):
    one = stage(toys / name, f"me/{name}-synthetic")
    text = (toys / name / "README.md").read_text(encoding="utf-8")
    assert head(one.card) == head(text) and len(head(text)) > 200
    assert DatasetCard(one.card).data.to_dict() == DatasetCard(text).data.to_dict()
    assert list(yaml.safe_load(head(one.card)[4:])) == list(yaml.safe_load(head(text)[4:]))


def test_only_the_name_in_the_examples_is_another(toys, stage):
    before, after = (
        (toys / "folds" / "README.md").read_text(encoding="utf-8").splitlines(),
        stage(toys / "folds").card.splitlines(),
    )
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed and all('load_dataset("folds"' in old and 'load_dataset("me/toys"' in new for old, new in changed)
    assert all(f'load_dataset("me/toys", "{name}")' in "\n".join(after) for name in ("two", "three"))
    assert "this folder" not in "\n".join(after)


def test_the_name_is_found_wherever_the_folder_was_moved_and_whatever_it_is_called_now(
    toys, stage, tmp_path, monkeypatch
):
    moved = Path(shutil.copytree(toys / "toy", tmp_path / "an other name"))
    first = stage(toys / "toy")
    assert stage(moved).digest == first.digest
    monkeypatch.chdir(moved)
    assert stage("../an other name/").digest == first.digest
    (tmp_path / "link").symlink_to(moved)
    assert stage(tmp_path / "link").digest == first.digest


def test_the_folder_where_one_is_can_be_pushed(toys, stage, monkeypatch):
    monkeypatch.chdir(toys / "toy")
    assert stage(".").digest == stage(toys / "toy").digest


def test_what_is_staged_loads_as_what_it_was_and_its_fingerprint_is_known(toys, stage):
    one = stage(toys / "toy")
    staged, before = load_dataset(str(one.folder)), load_dataset(str(toys / "toy"))
    assert {name: rows.to_dict() for name, rows in staged.items()} == {n: rows.to_dict() for n, rows in before.items()}
    description = Description.parse(staged["test"].info.description)
    assert one.fingerprints == [description.fingerprint] and not one.synthetic


def test_every_configuration_has_its_fingerprint_and_one_that_is_made_up_makes_all_synthetic(toys, stage):
    one = stage(toys / "folds", "me/folds-synthetic")
    assert len(set(one.fingerprints)) == 3 and one.synthetic and check(one) == []
    for fingerprint in one.fingerprints:
        assert f"`{fingerprint}`" in one.card
    (text,) = check(stage(toys / "folds", "me/folds"))
    assert "call it me/folds-synthetic" in text


def test_originals_are_never_changed(toy, stage):
    def state():
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in toy.rglob("*") if path.is_file()}

    before = state()
    check(stage(toy))
    assert state() == before


def test_a_data_set_that_nobody_licensed_goes_nowhere_public(tmp_path, stage):
    folder = write_data(tmp_path / "toy", license="unknown")
    (text,) = check(stage(folder))
    assert "DataCard(license=...)" in text and check(stage(folder, private=True)) == []


def test_a_link_to_nothing_stops_it_and_is_named(toy, stage):
    (toy / "data" / "default" / "more.parquet").symlink_to("nowhere.parquet")
    text = refusal(lambda: stage(toy))
    assert "more.parquet is a link to nothing" in text and "build the data set again" in text


def test_links_to_files_as_a_cache_has_them_go_as_files(toys, stage, tmp_path):
    for path in sorted((toys / "toy").rglob("*")):
        if path.is_file():
            target = tmp_path / "snapshot" / path.relative_to(toys / "toy")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    one = stage(tmp_path / "snapshot")
    assert one.digest == stage(toys / "toy").digest
    assert not any((one.folder / name).is_symlink() for name in one.files)


def test_a_linked_folder_goes_as_a_folder_or_is_refused_in_words(toy, stage, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("x")
    (toy / "extra").symlink_to(tmp_path / "elsewhere")
    try:
        assert "extra/notes.txt" in stage(toy).files
    except ValueError as error:
        assert "extra" in str(error)


def test_a_data_set_without_our_fingerprint_stops_it_and_is_told_what_to_do(toy, stage):
    text = (toy / "README.md").read_text(encoding="utf-8")
    (toy / "README.md").write_text(re.sub(r"\n +description: [^\n]*(\n +\S+=[^\n]*)*", "", text))
    said = refusal(lambda: stage(toy))
    assert "no fingerprint in its card" in said and "write_dataset" in said


@pytest.mark.parametrize("example", ['load_dataset("google/audioset")', 'load_dataset("parquet", data_files="x")'])
def test_an_example_that_loads_something_else_stays(toy, stage, example):
    edit(toy, "## Columns", f"It was made from `{example}`.\n\n## Columns")
    assert example in stage(toy).card


@pytest.mark.parametrize("example", ["load_dataset('toy')", 'load_dataset(\n    "toy",\n)', 'load_dataset(path="toy")'])
def test_the_name_is_another_however_the_example_is_written(toy, stage, example):
    edit(toy, "## Columns", f"```python\n{example}\n```\n\n## Columns")
    assert example.replace("toy", "me/toys") in stage(toy).card


def test_a_card_with_the_line_ends_of_windows_keeps_its_metadata(toy, stage):
    text = (toy / "README.md").read_text(encoding="utf-8")
    (toy / "README.md").write_bytes(text.replace("\n", "\r\n").encode())
    assert DatasetCard(stage(toy).card).data.to_dict() == DatasetCard(text).data.to_dict()


def test_secrets_in_ids_and_hidden_files_are_found(toy, stage, tmp_path):
    token = "hf" + "_aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA4c"
    (text, *more) = check(stage(write_data(tmp_path / "leaky", word=token)))
    assert "parquet holds a Hugging Face token" in text and len(more) == 2 and token not in text
    (toy / ".env").write_text("x")
    (toy / "old.pt").write_text("x")
    one = stage(toy)
    assert [line.split(" is ")[0] for line in check(one)] == ["old.pt"]
    assert ".env" not in one.files and any(line.startswith(".env in toy is hidden") for line in one.notes)


def test_a_folder_of_version_control_goes_nowhere(toy, stage):
    (toy / ".git").mkdir()
    (toy / ".git" / "config").write_text("[remote]\nurl = git@example.org:me/private.git\n")
    one = stage(toy)
    assert ".git/config" not in one.files and any(line.startswith(".git in toy is hidden") for line in one.notes)


def test_metadata_that_are_no_yaml_are_said_to_be(toy, stage):
    edit(toy, "license: mit", "license: mit: or not")
    assert "README.md" in refusal(lambda: stage(toy))


def test_a_missing_shard_stops_it(toy, stage):
    for path in toy.rglob("test-*.parquet"):
        path.unlink()
    with pytest.raises((ValueError, OSError), match="test"):
        stage(toy)


@pytest.mark.parametrize("name", ["toy", "folds"])
def test_what_write_dataset_wrote_is_a_data_set_and_what_it_is_made_of_is_none(toys, name):
    assert is_data_set(toys / name)
    assert not is_data_set(toys / name / "data") and not is_data_set(toys / name / "README.md")
    assert not is_data_set(toys / "nothing")


def test_a_class_with_a_bar_in_its_name_stays_one_cell(toys, stage):
    (row,) = [line for line in stage(toys / "toy").card.splitlines() if line.startswith("| a ")]
    assert row == "| a \\| b | 3 | 3 | 3 |"
