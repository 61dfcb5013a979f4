"""The metric for the Hub: its script is called as the repository, and its card says the name it has there."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import RepoCard

from modeling_dualspace.metric_release import is_metric, stage_metric
from modeling_dualspace.metric_space import SIBLINGS, write_metric_space
from modeling_dualspace.release_checks import check
from modeling_dualspace.release_plan import Item
from modeling_dualspace.staging import Staged


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """As `dualspace metric` writes it."""
    return write_metric_space(tmp_path_factory.mktemp("metrics") / "retrieval_map")


@pytest.fixture
def copy(metric, tmp_path):
    """A copy, to be spoiled."""
    return Path(shutil.copytree(metric, tmp_path / "retrieval_map"))


@pytest.fixture
def stage(tmp_path_factory):
    """`stage(path, repo_id)`: the metric as the Hub gets it."""

    def of(path="", repo_id="me/retrieval_map"):
        folder = tmp_path_factory.mktemp("staged") / "spaces" / repo_id
        folder.mkdir(parents=True)
        one = Staged("metric", repo_id, "space", folder)
        stage_metric(Item(name=repo_id, path=str(path)), one, ())
        return one

    return of


def test_from_a_folder_and_on_the_spot_it_is_the_same_to_the_byte(metric, stage):
    one, other = stage(metric), stage()
    assert one.files == other.files and one.digest == other.digest
    assert set(one.files) == {"README.md", "app.py", "requirements.txt", "retrieval_map.py", *SIBLINGS}
    assert check(one) == check(other) == []


def test_made_on_the_spot_the_script_is_called_as_the_repository(stage):
    one = stage(repo_id="me/my-map")
    assert "my-map.py" in one.files and "retrieval_map.py" not in one.files
    assert 'evaluate.load("me/my-map")' in one.card and '"my-map"' in one.card.split("---")[1]
    assert check(one) == []


def test_the_card_loads_it_by_the_name_it_has_on_the_hub_and_says_what_a_space_must(metric, stage):
    one = stage(metric, "you/retrieval_map")
    data = RepoCard(one.card).data.to_dict()
    assert data["sdk"] == "gradio" and (one.folder / data["app_file"]).is_file() and data["license"] == "apache-2.0"
    assert 'evaluate.load("you/retrieval_map")' in one.card and "this folder" not in one.card
    before = (metric / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(old != new for old, new in zip(before, one.card.splitlines(), strict=True)) == 1


def test_another_name_than_that_of_the_script_stops_it(metric, stage):
    with pytest.raises(ValueError, match=r"has no other\.py: write it by `dualspace metric --out other`, or push it"):
        stage(metric, "me/other")


def test_a_folder_that_was_renamed_goes_under_the_name_of_its_script_and_no_other(copy, stage):
    renamed = copy.rename(copy.with_name("renamed"))
    assert stage(renamed).digest == stage(copy.parent / "renamed", "me/retrieval_map").digest == stage().digest
    with pytest.raises(ValueError, match=r"renamed\.py"):
        stage(renamed, "me/renamed")


@pytest.mark.parametrize("name", ["numpy", "evaluate", "app", "json", "cosines", "my.map"])
def test_a_name_that_hides_a_module_is_refused(stage, name):
    with pytest.raises(ValueError, match="choose another name"):
        stage(repo_id=f"me/{name}")


def test_originals_are_never_changed_and_what_python_left_there_stays(copy, stage):
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "cosines.cpython-311.pyc").write_bytes(b"x")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    one = stage(copy)
    assert one.digest == stage().digest
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert (one.folder / "app.py").samefile(copy / "app.py")
    assert not (one.folder / "README.md").samefile(copy / "README.md")


def test_a_secret_that_somebody_wrote_into_the_app_stops_it(copy, stage):
    with (copy / "app.py").open("a") as file:
        file.write("TOKEN = 'hf" + "_aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA4c'\n")
    (text,) = check(stage(copy))
    assert text.startswith("app.py holds a Hugging Face token")


def test_a_hidden_file_stops_it(copy, stage):
    (copy / ".env").write_text("x")
    assert [line.split(" is ")[0] for line in check(stage(copy))] == [".env"]


def test_a_link_to_nothing_stops_it(copy, stage):
    (copy / "requirements.txt").unlink()
    (copy / "requirements.txt").symlink_to("nowhere")
    with pytest.raises(ValueError, match="requirements.txt"):
        stage(copy)


@pytest.mark.parametrize("missing", ["README.md", "app.py", *SIBLINGS])
def test_what_lacks_a_part_is_no_metric(copy, missing):
    assert is_metric(copy)
    (copy / missing).unlink()
    assert not is_metric(copy) and not is_metric(copy / "nothing")
