"""An index and a page for the Hub: what goes there, what does not, and that both work from there."""

import shutil
from pathlib import Path

import pytest
from tiny_page import write_tiny
from tiny_release import refusal, write_data, write_run

from modeling_dualspace import index_folder, release
from modeling_dualspace.index import create_index, open_index
from modeling_dualspace.page_space import requirements, write_page
from modeling_dualspace.release import push
from modeling_dualspace.release_kinds import kind_of


@pytest.fixture
def unverified(monkeypatch):
    """Nothing is tried in a fresh process."""
    monkeypatch.setattr(release, "verify", lambda staged, commits=None: {one.repo_id: [] for one in staged})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`films`, `model`, `index`, `page`; and `tiny-data`, `runs/tiny` and its `clips-index`."""
    root = write_tiny(tmp_path_factory.mktemp("root"))
    with open_index(root / "index", films=root / "films") as index:
        write_page(root / "page", index, clips=4, title='Find "films"')
    write_data(root / "tiny-data")
    write_run(root / "runs" / "tiny", str(root / "tiny-data"))
    with create_index(root / "clips-index", str(root / "runs" / "tiny")) as index:
        index.add_data(str(root / "tiny-data"), progress=False)
        index.delete(["train/0"])
    return root


def test_what_it_is_is_seen_before_it_is_taken_for_a_data_set(root):
    assert [kind_of(str(root / name)).name for name in ("index", "page", "tiny-data", "model")] == [
        "index", "page", "data set", "model",
    ]  # fmt: skip


def test_an_index_goes_as_a_data_set_without_what_was_deleted_and_is_searched_from_there(root, online, unverified):
    pushed = push(str(root / "clips-index"), "me/clips-index", license="cc-by-4.0", progress=False)
    assert set(online.files("me/clips-index", "dataset")) >= {"README.md", "data/00000000.parquet"}
    (one,) = pushed["repositories"]
    assert "license: cc-by-4.0" in one["card"] and str(root) not in one["card"]
    assert any("Its model, tiny, lies on this machine" in note for note in one["notes"])
    with open_index("me/clips-index", model=str(root / "runs" / "tiny")) as index:
        hits, audio, _ = index.sample(1)
        found = index.search_embeds(audio, among="audio", made_by=index.model, k=1)[0]
        assert len(index) == 104 and found[0].clip_id == hits[0].clip_id
    # The same again is the same to the byte, and not uploaded.
    again = push(str(root / "clips-index"), "me/clips-index", license="cc-by-4.0", progress=False)
    assert not again["repositories"][0]["changed"]


def test_an_index_that_is_released_with_its_model_names_it_by_its_id(root, online, unverified, tmp_path):
    (tmp_path / "both.yaml").write_text(
        f"items:\n- {{name: tiny, path: {root / 'runs' / 'tiny'}, license: apache-2.0}}\n"
        f"- {{name: clips-index, path: {root / 'clips-index'}, license: apache-2.0}}\n"
    )
    push(str(tmp_path / "both.yaml"), "me", data=str(root / "tiny-data"), progress=False)
    with open_index("me/clips-index") as index:
        assert index.identity.model_id == "me/tiny" and index.model.config.embed_dim == 4


def test_an_index_of_the_hub_cannot_be_changed_where_it_was_copied_to(root, online, unverified, tmp_path):
    push(str(root / "clips-index"), "me/clips-index", license="cc-by-4.0", progress=False)
    with open_index("me/clips-index", model=str(root / "runs" / "tiny")) as index:
        for change in (
            lambda: index.delete(["train/1"]),
            lambda: index.add_data(str(root / "tiny-data"), progress=False),
        ):
            assert "is a copy of what is on the Hub" in refusal(change)
        with index.save(tmp_path / "own") as own:
            assert own.delete(["train/1"]) == 1 and len(index) == len(own) + 1


def test_nothing_that_is_derived_goes_and_made_up_features_are_said_to_be(root, unverified, monkeypatch, tmp_path):
    monkeypatch.setattr(index_folder, "WORTH_KEEPING", 10)
    source = Path(shutil.copytree(root / "clips-index", tmp_path / "clips-index"))
    card = source / "README.md"
    card.write_text(card.read_text().replace("tags:\n", "tags:\n- synthetic\n"))
    with open_index(source) as index:
        index.search_embeds(index.sample(1)[1], among="visual", made_by=index.identity.fingerprint)
    assert list((source / ".cache").glob("rows-*"))
    settings = {"license": "mit", "dry_run": True, "progress": False}
    assert "-synthetic" in refusal(lambda: push(str(source), "me/clips-index", **settings))
    (one,) = push(str(source), "me/index-synthetic", **settings)["repositories"]
    assert not any(".cache" in file["path"] for file in one["files"]) and "**SYNTHETIC" in one["card"]


def test_an_index_goes_nowhere_public_while_its_licence_is_unknown(root, unverified):
    said = refusal(lambda: push(str(root / "clips-index"), "me/clips-index", dry_run=True, progress=False))
    assert "Nobody said under which licence" in said
    push(str(root / "clips-index"), "me/clips-index", dry_run=True, private=True, progress=False)


def test_a_page_goes_as_a_space_with_its_code_requirements_model_films_and_index(root, online, unverified):
    pushed = push(str(root / "page"), "me/films-page", license="apache-2.0", progress=False)
    files = set(online.files("me/films-page", "space"))
    assert files > {"app.py", "requirements.txt", "README.md", "index/README.md", "run/model/model.safetensors"}
    assert {"modeling_dualspace/app.py", "modeling_dualspace/app_page.css"} < files
    assert sum(name.startswith("films/") for name in files) == 4 and not any("__pycache__" in name for name in files)
    card = pushed["repositories"][0]["card"]
    assert "sdk: gradio" in card and "license: apache-2.0" in card and str(root) not in card
    assert 'title: "Find \\"films\\""' in card and "4 clips" in card


def test_what_a_page_needs_is_what_this_package_needs_and_its_extras():
    needs = {line.split(">")[0] for line in requirements()}
    assert {"torch", "transformers", "datasets", "av", "faiss-cpu", "matplotlib"} <= needs
    assert not needs & {"pytest", "gradio", "pymilvus", "h5py", "dualspace"}  # the Space brings gradio


def test_a_page_needs_a_model_with_its_processor_at_hand(root, tmp_path):
    with open_index(root / "clips-index") as index:
        assert "has no processor beside it" in refusal(lambda: write_page(tmp_path / "page", index))
    assert not (tmp_path / "page").exists()


def test_a_page_that_was_spoiled_is_refused(root, tmp_path, unverified):
    page = shutil.copytree(root / "page", tmp_path / "page")
    (page / "films" / "link.mp4").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refusal(lambda: push(str(page), "me/page", license="mit", dry_run=True, progress=False))
    (page / "films" / "link.mp4").unlink()
    shutil.rmtree(page / "run" / "model")
    (page / "index" / "README.md").write_text("spoiled")
    assert "nothing that can be released" in refusal(lambda: push(str(page), "me/page", dry_run=True, progress=False))


@pytest.mark.slow  # a page is started twice, from its folder and from the Hub, in fresh processes
def test_a_page_starts_from_what_was_pushed_and_an_index_opens(root, online):
    seen = push(str(root / "page"), "me/films-page", license="apache-2.0", progress=False)["repositories"][0]
    assert seen["verified"] == ["it starts, and has 4 clips to search"]
    seen = push(str(root / "clips-index"), "me/clips-index", license="apache-2.0", progress=False)["repositories"][0]
    assert seen["verified"] == ["load_dataset gives its 104 rows", "it opens, and finds among 104 clips"]


@pytest.mark.slow  # likewise
def test_a_page_that_does_not_start_is_not_pushed(root, tmp_path):
    page = shutil.copytree(root / "page", tmp_path / "page")
    app = page / "app.py"
    app.write_text(app.read_text().replace('HERE / "index"', 'HERE / "nothing"'))
    said = refusal(lambda: push(str(page), "me/page", license="mit", dry_run=True, progress=False))
    assert "it does not start" in said and "is no index" in said
