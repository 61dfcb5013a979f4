"""The local Hub is one that the real clients use unmodified, and that fails the way it is told to."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from datasets import Dataset
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    RepoCard,
    constants,
    get_token,
    hf_hub_download,
    list_repo_files,
    snapshot_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from transformers import BertConfig, BertModel

KINDS = ("model", "dataset", "space")
CARD = "---\nlicense: apache-2.0\nsdk: static\ntags: [sound]\n---\n# Title\n"
WEIGHTS = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def _undone():
    """Whatever `online` changes is as before after each of these tests."""
    disable_progress_bars()
    before = dict(vars(constants)), dict(os.environ), HfApi().endpoint, get_token()
    yield
    assert (dict(vars(constants)), dict(os.environ) | _pytest_says(), HfApi().endpoint, get_token()) == before
    enable_progress_bars()


def _pytest_says() -> dict[str, str]:
    return {"PYTEST_CURRENT_TEST": os.environ["PYTEST_CURRENT_TEST"].replace("teardown", "setup")}


@pytest.fixture
def api(online) -> HfApi:
    """A client without arguments."""
    return HfApi()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A card, a nested text file, weights that are large in name, and a file without content."""
    made = tmp_path / "folder"
    (made / "nested" / "deeper").mkdir(parents=True)
    for path, content in _contents().items():
        (made / path).write_bytes(content)
    return made


def _contents() -> dict[str, bytes]:
    text = b"one\ntwo\n"
    return {
        "README.md": CARD.encode(), "model.safetensors": WEIGHTS, "nested/deeper/a note.txt": text, "empty.txt": b"",
        "nested/Zürich.txt": text,
    }  # fmt: skip


@pytest.fixture
def thing(api, folder) -> str:
    """A model that was pushed."""
    api.create_repo("me/thing")
    api.upload_folder(repo_id="me/thing", folder_path=folder, commit_message="First")
    return "me/thing"


def _read(folder) -> dict[str, bytes]:
    folder = Path(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _get(hub, path, method="GET", body=None, **headers) -> tuple[int, dict[str, str], bytes]:
    asked = urllib.request.Request(hub.url + path, method=method, data=body, headers=headers)
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


# ---- pushing and pulling


@pytest.mark.parametrize("kind", KINDS)
def test_a_pushed_folder_comes_back_and_a_second_push_changes_nothing(kind, api, online, folder):
    url = api.create_repo("me/thing", repo_type=kind, space_sdk="static" if kind == "space" else None)
    assert (url.repo_type, url.repo_id) == (kind, "me/thing")
    assert ".gitattributes" in online.files("me/thing", kind)
    first = api.upload_folder(repo_id="me/thing", folder_path=folder, repo_type=kind, commit_message="First")
    files = online.files("me/thing", kind)
    assert {path: files[path] for path in _contents()} == _contents()
    assert online.repository("me/thing", kind).at("main").tree["model.safetensors"].lfs

    online.clear()
    second = api.upload_folder(repo_id="me/thing", folder_path=folder, repo_type=kind)
    assert second.oid == first.oid
    assert not [one for one in online.requests if one.method == "PUT" or "/commit/" in one.path]
    assert [title for _, title in online.commits("me/thing", kind)] == ["First", "initial commit"]
    assert _read(snapshot_download("me/thing", repo_type=kind)) == files


def test_a_repository_exists_once(api):
    api.create_repo("me/thing")
    assert api.create_repo("me/thing", exist_ok=True).repo_id == "me/thing"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/thing")
    api.delete_repo("me/thing")
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("me/thing")


def test_files_are_deleted_and_copied_in_one_commit(api, online, thing):
    operations = [
        CommitOperationDelete("nested/"),
        CommitOperationDelete("empty.txt"),
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationCopy("README.md", "COPY.md"),
        CommitOperationAdd("new.txt", b"new"),
    ]
    api.create_commit(thing, operations, commit_message="All at once")
    files = online.files(thing)
    assert set(files) == {
        ".gitattributes", "README.md", "COPY.md", "new.txt", "model.safetensors", "copy.safetensors",
    }  # fmt: skip
    assert (files["copy.safetensors"], files["COPY.md"]) == (WEIGHTS, CARD.encode())


def test_a_commit_is_carried_out_wholly_or_not_at_all(api, online, thing):
    before = online.commits(thing)
    operations = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("nothing.txt")]
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.create_commit(thing, operations, commit_message="Half")
    assert online.commits(thing) == before


def _commit_by_hand(hub, key: str, **value) -> tuple[int, str]:
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": key, "value": value}]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    told = _get(hub, "/api/models/me/thing/commit/main", "POST", body, Authorization=f"Bearer {hub.token}")
    return told[0], told[1].get("X-Error-Message")


def test_a_commit_is_checked_whichever_client_sends_it(online, api):
    api.create_repo("me/thing")
    pointer = {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}
    status, message = _commit_by_hand(online, "lfsFile", **pointer)
    assert status == 400 and "does not exist" in message
    status, message = _commit_by_hand(online, "file", path="README.md", content="---\n- x\n---", encoding="utf-8")
    assert status == 400 and "mapping" in message
    for path in ("../x", "/x", "a/.git/x", "a//x"):
        assert _commit_by_hand(online, "file", path=path, content="", encoding="utf-8")[0] == 400
    assert _commit_by_hand(online, "file", path="x", content="y", encoding="utf-8")[0] == 200
    assert online.files("me/thing")["x"] == b"y"


def test_nothing_comes_of_a_commit_that_did_not_arrive_whole(online, api):
    api.create_repo("me/thing")
    lines = [{"key": "header", "value": {"summary": "x"}}]
    lines += [{"key": "file", "value": {"path": name, "content": ""}} for name in "ab"]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    head = f"POST /api/models/me/thing/commit/main HTTP/1.1\r\nAuthorization: Bearer {online.token}\r\n"
    for length in (f"Content-Length: {len(body) + 9}\r\n\r\n", f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"):
        with socket.create_connection(online.url.removeprefix("http://").split(":")) as connection:
            connection.sendall((head + length).encode() + body)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
    assert len(online.commits("me/thing")) == 1


def test_an_upload_must_have_the_sum_that_was_announced(online, api):
    api.create_repo("me/thing")
    asked = json.dumps({"objects": [{"oid": hashlib.sha256(b"right").hexdigest(), "size": 5}]}).encode()
    _, _, body = _get(
        online, "/me/thing.git/info/lfs/objects/batch", "POST", asked, Authorization=f"Bearer {online.token}"
    )
    address = json.loads(body)["objects"][0]["actions"]["upload"]["href"].removeprefix(online.url)
    assert _get(online, address, "PUT", b"wrong")[0] == 400
    assert _get(online, address, "PUT", b"right")[0] == 200
    assert _get(online, "/lfs/0123456789abcdef", "PUT", b"right")[0] == 403


def test_large_and_binary_files_go_to_lfs_whatever_their_name(api, online):
    api.create_repo("me/thing", repo_type="dataset")
    contents = {"large.txt": b"x" * (10 * 2**20 + 1), "odd": b"\0\1", "data.parquet": b"PAR1", "plain.csv": b"a,b\n"}
    operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
    api.create_commit("me/thing", operations, commit_message="Mixed", repo_type="dataset")
    tree = online.repository("me/thing", "dataset").at("main").tree
    assert {path: tree[path].lfs for path in contents} == {
        "large.txt": True, "odd": True, "data.parquet": True, "plain.csv": False,
    }  # fmt: skip
    ignored = [CommitOperationAdd(".gitignore", b"*.log\n")]
    api.create_commit("me/thing", ignored, commit_message="Ignore", repo_type="dataset")
    api.create_commit(
        "me/thing",
        [CommitOperationAdd("a/run.log", b"x"), CommitOperationAdd("b.txt", b"x")],
        commit_message="Log",
        repo_type="dataset",
    )
    files = online.files("me/thing", "dataset")
    assert "a/run.log" not in files and files["b.txt"] == b"x"


# ---- revisions


def test_every_revision_stays_readable_under_its_names(api, online, thing):
    first = online.commits(thing)[0][0]
    api.create_tag(thing, tag="v1.0")
    api.create_branch(thing, branch="try/out")
    api.upload_file(repo_id=thing, path_or_fileobj=b"two", path_in_repo="empty.txt", commit_message="Second")
    api.upload_file(repo_id=thing, path_or_fileobj=b"three", path_in_repo="empty.txt", revision="try/out")
    told = {name: Path(hf_hub_download(thing, "empty.txt", revision=name)).read_bytes() for name in
            ("main", "v1.0", "try/out", first)}  # fmt: skip
    assert told == {"main": b"two", "v1.0": b"", "try/out": b"three", first: b""}
    assert online.tags(thing) == {"v1.0": first}
    refs = api.list_repo_refs(thing)
    assert [one.name for one in refs.tags] == ["v1.0"]
    assert {one.name: one.target_commit for one in refs.branches} == online.branches(thing)
    assert [one.title for one in api.list_repo_commits(thing)] == ["Second", "First", "initial commit"]
    assert [one.title for one in api.list_repo_commits(thing, revision="v1.0")] == ["First", "initial commit"]
    assert api.repo_info(thing, revision=first[:8]).sha == first


@pytest.mark.parametrize("what", ["tag", "branch"])
def test_a_reference_exists_once_and_can_be_deleted(what, api, thing):
    create, delete = getattr(api, f"create_{what}"), getattr(api, f"delete_{what}")
    create(thing, **{what: "x"})
    with pytest.raises(HfHubHTTPError, match="409"):
        create(thing, **{what: "x"})
    create(thing, **{what: "x"}, exist_ok=True)
    assert api.repo_info(thing, revision="x").sha == api.repo_info(thing).sha
    delete(thing, **{what: "x"})
    with pytest.raises(RevisionNotFoundError):
        api.repo_info(thing, revision="x")
    with pytest.raises(RevisionNotFoundError):
        delete(thing, **{what: "x"})
    with pytest.raises(RevisionNotFoundError):
        create(thing, **{what: "y"}, revision="nothing")


def test_the_main_branch_stays(api, thing):
    with pytest.raises(HfHubHTTPError, match="403"):
        api.delete_branch(thing, branch="main")


def test_a_stale_parent_is_refused(api, online, thing):
    parent = online.commits(thing)[0][0]
    upload = {"repo_id": thing, "path_in_repo": "x.txt", "parent_commit": parent}
    api.upload_file(path_or_fileobj=b"1", **upload)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"2", **upload)
    assert online.files(thing)["x.txt"] == b"1"


# ---- who may what


def test_a_private_repository_is_not_there_for_others(api, online, folder):
    other = online.add_user("other")
    member = online.add_user("member", organisations=["lab"])
    online.add_user("me", token=online.token, organisations=["lab"])
    api.create_repo("lab/secret", private=True)
    api.upload_folder(repo_id="lab/secret", folder_path=folder)
    for token in (False, other):
        with pytest.raises(RepositoryNotFoundError, match="404"):
            api.repo_info("lab/secret", token=token)
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("lab/secret", "README.md", token=token)
        assert list(api.list_models(token=token)) == []
    assert api.repo_info("lab/secret", token=member).private
    assert Path(hf_hub_download("lab/secret", "README.md", token=member)).read_text() == CARD
    api.update_repo_settings("lab/secret", private=False)
    assert not api.repo_info("lab/secret", token=False).private
    assert [one.id for one in api.list_models(token=other)] == ["lab/secret"]


def test_writing_needs_a_token_for_writing_to_that_namespace(api, online, thing):
    upload = {"repo_id": thing, "path_or_fileobj": b"x", "path_in_repo": "x.txt"}
    reader, other = online.add_user("me", role="read"), online.add_user("other")
    for token, status in ((False, 401), (reader, 403), (other, 403), ("hf_" + "x" * 34, 401)):
        with pytest.raises(HfHubHTTPError, match=str(status)):
            api.upload_file(**upload, token=token)
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("other/thing")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_" + "x" * 34)
    assert api.whoami(token=reader)["auth"]["accessToken"]["role"] == "read"
    assert "x.txt" not in online.files(thing)


def test_a_moved_repository_is_found_under_its_old_name(api, online, thing):
    api.move_repo(thing, "me/other")
    assert api.repo_info(thing).id == "me/other"
    assert Path(hf_hub_download(thing, "README.md")).read_text() == CARD


def test_tokens_are_not_recorded(api, online, thing):
    assert len(re.fullmatch("hf_(.*)", online.token)[1]) == 34
    snapshot_download(thing)
    assert {one.status for one in online.requests} <= {200, 404}
    assert online.token not in repr(online.requests)


# ---- what there is


def test_a_listing_knows_folders_sizes_and_last_changes(api, online, thing):
    api.upload_file(repo_id=thing, path_or_fileobj=b"x", path_in_repo="nested/b.txt", commit_message="Second")
    top = {one.path: one for one in api.list_repo_tree(thing, expand=True)}
    assert set(top) == {".gitattributes", "README.md", "empty.txt", "model.safetensors", "nested"}
    assert top["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (top["nested"].last_commit.title, top["README.md"].last_commit.title) == ("Second", "First")
    inside = [one.path for one in api.list_repo_tree(thing, "nested", recursive=True)]
    assert inside == ["nested/Zürich.txt", "nested/b.txt", "nested/deeper", "nested/deeper/a note.txt"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(thing, "nothing"))
    found = api.get_paths_info(thing, ["nested", "README.md", "nothing"])
    assert [one.path for one in found] == ["nested", "README.md"]
    assert api.file_exists(thing, "README.md") and not api.file_exists(thing, "nothing")


def test_long_lists_come_in_pages(api, online, thing):
    changes = [("file", {"path": f"many/{number:04}.txt", "content": b""}) for number in range(1100)]
    online.repository(thing).commit("main", {"summary": "Many"}, changes, "me")
    online.clear()
    assert len(list(api.list_repo_tree(thing, "many"))) == 1100
    assert len(online.requests) == 2


def test_what_a_card_and_a_config_say_is_found_again(api, thing):
    card = "---\nlicense: mit\nlibrary_name: transformers\npipeline_tag: other\ndatasets: [me/data]\n---\n"
    api.upload_file(repo_id=thing, path_or_fileobj=card.encode(), path_in_repo="README.md")
    config = {"model_type": "dual", "architectures": ["Dual"], "hidden": 3}
    api.upload_file(repo_id=thing, path_or_fileobj=json.dumps(config).encode(), path_in_repo="config.json")
    info = api.model_info(thing, files_metadata=True)
    assert info.config == {"model_type": "dual", "architectures": ["Dual"]}
    assert info.card_data.license == "mit" and info.pipeline_tag == "other" and info.library_name == "transformers"
    assert {"license:mit", "dataset:me/data", "dual", "transformers", "safetensors"} <= set(info.tags)
    assert {one.rfilename: one.size for one in info.siblings}["model.safetensors"] == len(WEIGHTS)
    assert [one.id for one in api.list_models(author="me", filter=["license:mit", "dual"])] == [thing]
    assert list(api.list_models(filter="nothing")) == [] == list(api.list_models(author="other"))
    assert list(api.list_models(search="THI"))[0].id == thing


def test_collections(api, online, thing):
    with pytest.raises(HfHubHTTPError, match="404"):
        api.get_collection("me/nothing-0123456789ab")
    made = api.create_collection("My things", description="All")
    assert api.create_collection("My things", exists_ok=True).slug == made.slug
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_collection("My things")
    added = api.add_collection_item(made.slug, thing, "model", note="The first")
    assert [(one.item_id, one.item_type, one.note) for one in added.items] == [(thing, "model", "The first")]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.add_collection_item(made.slug, thing, "model")
    with pytest.raises(HfHubHTTPError, match="404"):
        api.add_collection_item(made.slug, "me/nothing", "model")
    api.update_collection_item(made.slug, added.items[0].item_object_id, note="Changed")
    renamed = api.update_collection_metadata(made.slug, title="Other things")
    assert api.get_collection(made.slug).slug == renamed.slug != made.slug
    assert [one.slug for one in api.list_collections(owner="me", item=f"models/{thing}")] == [renamed.slug]
    assert online.collections[renamed.slug].items[0].note == "Changed"
    api.delete_collection_item(made.slug, added.items[0].item_object_id)
    api.delete_collection(made.slug)
    assert online.collections == {}


@pytest.mark.parametrize(
    ("kind", "matter", "words"),
    [
        ("model", "license: mit", None),
        ("model", "- a list", "mapping"),
        ("model", "a: [", "YAML"),
        ("model", "tags: [x]", "license"),
        ("model", "license: apache2", "license"),
        ("model", "license: mit\nlanguage: en", "language"),
        ("model", "license: mit\ndatasets: [1]", "datasets"),
        ("model", "license: mit\nmodel-index:\n- name: x\n  results:\n  - task: {type: y}", "dataset"),
        ("model", "license: mit\nmodel-index:\n- results: []", "name"),
        (
            "model",
            "license: mit\nmodel-index:\n- name: x\n  results:\n  - task: {type: y}\n    dataset: {type: z, name: Z}\n"
            "    metrics: [{type: map, value: 0.5}]",
            None,
        ),
        ("space", "license: mit", "sdk"),
        ("dataset", "license: cc-by-4.0\ndataset_info: {features: []}", None),
    ],
)
def test_a_card_is_checked(kind, matter, words, api):
    card = RepoCard(f"---\n{matter}\n---\nText", ignore_metadata_errors=True) if words is None else None
    content = f"---\n{matter}\n---\nText"
    if words is None:
        return card.validate(repo_type=kind)
    with pytest.raises(ValueError, match=words):
        api._validate_yaml(content, repo_type=kind)


# ---- faults

RETRIED = [("POST", "/preupload/"), ("POST", "objects/batch"), ("PUT", "^/lfs/"), ("POST", "objects/verify")]
NOT_RETRIED = [("POST", "/validate-yaml"), ("POST", "/commit/")]
HOW = [{"status": 500}, {"status": 429, "retry_after": 3}, {"cut": True}, {"lost": True}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("place", RETRIED, ids=str)
def test_the_client_itself_repeats_what_comes_before_a_commit(place, how, api, online, folder, naps):
    api.create_repo("me/thing")
    fault = online.fail(*place, **how)
    api.upload_folder(repo_id="me/thing", folder_path=folder)
    assert fault.fired == 1 and naps == [4 if "retry_after" in how else 1]
    assert online.files("me/thing")["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("place", NOT_RETRIED, ids=str)
def test_the_client_does_not_repeat_a_commit(place, how, api, online, folder, naps):
    api.create_repo("me/thing")
    fault = online.fail(*place, **how)
    with pytest.raises(HfHubHTTPError if "status" in how else httpx2.TransportError):
        api.upload_folder(repo_id="me/thing", folder_path=folder, commit_message="First")
    assert fault.fired == 1 and naps == []
    carried_out = place[1] == "/commit/" and "lost" in how
    assert [title for _, title in online.commits("me/thing")] == ["First"] * carried_out + ["initial commit"]
    api.upload_folder(repo_id="me/thing", folder_path=folder, commit_message="First")
    assert [title for _, title in online.commits("me/thing")] == ["First", "initial commit"]


def test_the_client_gives_up_after_six_times(api, online, folder, naps):
    api.create_repo("me/thing")
    fault = online.fail("PUT", "^/lfs/", status=503, times=99)
    with pytest.raises(RuntimeError, match="model.safetensors"):
        api.upload_folder(repo_id="me/thing", folder_path=folder)
    assert fault.fired == 6 and naps == [1, 2, 4, 8, 8]
    assert len(online.commits("me/thing")) == 1


def test_a_fault_may_wait(api, online, folder, naps):
    api.create_repo("me/thing")
    fault = online.fail("POST", "/commit/", status=500, skip=1)
    api.upload_folder(repo_id="me/thing", folder_path=folder)
    with pytest.raises(HfHubHTTPError):
        api.upload_file(repo_id="me/thing", path_or_fileobj=b"x", path_in_repo="x.txt")
    assert fault.fired == 1 and len(online.commits("me/thing")) == 2


def test_a_foreign_commit_makes_a_parent_stale(api, online, thing):
    parent = online.commits(thing)[0][0]
    upload = {"repo_id": thing, "path_or_fileobj": b"x", "path_in_repo": "x.txt", "commit_message": "Mine"}
    fault = online.fail("POST", "/commit/", stale=True, times=2)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(**upload, parent_commit=parent)
    api.upload_file(**upload)
    foreign = "Someone else's commit"
    assert [title for _, title in online.commits(thing)][:3] == ["Mine", foreign, foreign]
    assert fault.fired == 2 and {"x.txt", "foreign.txt"} <= set(online.files(thing))


def test_a_download_that_is_cut_goes_on_where_it_was(online, thing, naps, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is less than a chunk, 10 MiB, begins anew
    online.clear()
    fault = online.fail("GET", "/resolve/.*safetensors", cut=True, times=2)
    assert Path(hf_hub_download(thing, "model.safetensors")).read_bytes() == WEIGHTS
    assert fault.fired == 2 and naps == [1, 1]
    assert [one.status for one in online.requests if one.method == "GET"] == [0, 0, 206]


@pytest.mark.parametrize("how", [{"cut": True}, {"status": 500}], ids=str)
def test_no_half_file_takes_the_place_of_a_whole_one(how, online, thing, naps, tmp_path):
    online.fail("GET", "/resolve/.*safetensors", times=99, **how)
    with pytest.raises((HfHubHTTPError, httpx2.TransportError)):
        snapshot_download(thing, cache_dir=tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not [path for path in left if path.name == "model.safetensors" or path.suffix == ".incomplete"]
    assert all(path.stat().st_size < 3000 for path in left)
    online.clear()
    assert _read(snapshot_download(thing, cache_dir=tmp_path / "cache")) == online.files(thing)


@pytest.mark.parametrize("how", [{"status": 500}, {"cut": True}, {"lost": True}], ids=str)
def test_without_the_first_answer_nothing_is_downloaded(how, online, thing, naps):
    fault = online.fail("HEAD", "/resolve/", times=99, **how)
    with pytest.raises((LocalEntryNotFoundError, httpx2.TransportError)):
        hf_hub_download(thing, "README.md")
    assert fault.fired == (7 if "status" in how else 1)


def test_a_failing_hub_is_silently_replaced_by_what_was_downloaded_before(api, online, thing):
    """What huggingface_hub does, and why a release must not be checked by downloading it into a used cache."""
    old = hf_hub_download(thing, "empty.txt"), snapshot_download(thing)
    api.upload_file(repo_id=thing, path_or_fileobj=b"new", path_in_repo="empty.txt")
    online.fail("HEAD", "/resolve/", status=500, times=1)
    online.fail("GET", "/revision/", status=500, times=1)
    assert (hf_hub_download(thing, "empty.txt"), snapshot_download(thing)) == old


def test_a_fault_must_be_of_one_kind(local_hub):
    for how in ({}, {"cut": True, "status": 500}):
        with pytest.raises(ValueError, match="expected one of"):
            local_hub.fail("GET", "x", **how)


def test_what_the_local_hub_does_wrong_is_told(local_hub):
    with pytest.raises(AssertionError, match="itself failed"), type(local_hub)() as broken:
        broken.store.repositories = None
        assert _get(broken, "/api/models")[0] == 500


# ---- without a client: what npm's needs


def test_the_default_revision_is_also_called_head(online, thing):
    _, _, body = _get(online, f"/api/models/{thing}/revision/HEAD?expand=sha&expand=private")
    told = json.loads(body)
    assert told.pop("_id") and told == {"id": thing, "sha": online.commits(thing)[0][0], "private": False}


def test_paths_may_be_asked_for_in_json(online, thing):
    body = json.dumps({"paths": ["model.safetensors", "nested"], "expand": True}).encode()
    asked = {"body": body, "Content-Type": "application/json"}
    told = json.loads(_get(online, f"/api/models/{thing}/paths-info/main", "POST", **asked)[2])
    assert [one["type"] for one in told] == ["file", "directory"]
    assert told[0]["lfs"]["oid"] == hashlib.sha256(WEIGHTS).hexdigest() and told[0]["lastCommit"]["id"]


@pytest.mark.parametrize(
    ("asked", "part"),
    [("0-0", WEIGHTS[:1]), ("5-9", WEIGHTS[5:10]), ("1000000-", WEIGHTS[1000000:]), ("-7", WEIGHTS[-7:])],
)
def test_parts_of_a_file(asked, part, online, thing):
    status, headers, body = _get(online, f"/{thing}/resolve/main/model.safetensors", Range=f"bytes={asked}")
    assert (status, body) == (206, part)
    assert headers["Content-Range"].endswith(f"/{len(WEIGHTS)}")
    assert headers["X-Linked-Etag"] == headers["ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'


def test_a_part_beyond_the_end(online, thing):
    status, headers, _ = _get(online, f"/{thing}/resolve/main/model.safetensors", Range="bytes=9999999-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(WEIGHTS)}")


def test_a_raw_file_is_what_git_holds(online, thing):
    status, headers, body = _get(online, f"/{thing}/raw/main/README.md", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CARD)))
    git = hashlib.sha1(b"blob %d\0" % len(CARD) + CARD.encode()).hexdigest()
    assert headers["ETag"] == f'"{git}"' and headers["X-Repo-Commit"] == online.commits(thing)[0][0]
    assert _get(online, f"/{thing}/raw/main/nothing", "HEAD")[0] == 404
    assert _get(online, f"/{thing}/raw/main/model.safetensors")[2].startswith(b"version https://git-lfs")


def test_what_is_missing_says_so_in_a_header(online, thing):
    for path, code in (
        (f"/{thing}/resolve/main/nothing", "EntryNotFound"),
        (f"/{thing}/resolve/nothing/README.md", "RevisionNotFound"),
        ("/me/nothing/resolve/main/README.md", "RepoNotFound"),
        (f"/api/models/{thing}/tree/main/nothing", "EntryNotFound"),
        (f"/api/datasets/{thing}", "RepoNotFound"),
    ):
        status, headers, _ = _get(online, path)
        assert (status, headers["X-Error-Code"]) == (404, code) and headers["X-Error-Message"]


# ---- other libraries, in a process of their own

LIBRARIES = """
import json
import datasets, evaluate
from transformers import AutoConfig, AutoModel

plain = datasets.load_dataset("me/data", split="train")
streamed = datasets.load_dataset("me/data", split="train", streaming=True)
model = AutoModel.from_pretrained("me/bert")
told = {
    "plain": plain["x"][:], "streamed": [row["x"] for row in streamed], "columns": plain.column_names,
    "config": AutoConfig.from_pretrained("me/bert").hidden_size, "model": type(model).__name__,
    "sum": float(model.embeddings.word_embeddings.weight.detach().sum()),
    "metric": evaluate.load("me/overlap").compute(predictions=[1, 2], references=[1, 3]),
}
print(json.dumps(told))
"""
METRIC = """
import datasets
import evaluate

class Overlap(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"overlap": sum(a == b for a, b in zip(predictions, references)) / len(references)}
"""
DATA_CARD = (
    "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: d/*.parquet}\n---\n"
)


@pytest.mark.slow
def test_the_other_libraries_load_from_it(api, online, hub_environment, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=10, max_position_embeddings=8, **sizes))
    model.save_pretrained(tmp_path / "bert")
    (tmp_path / "data" / "d").mkdir(parents=True)
    Dataset.from_dict({"x": [1, 2, 3]}).to_parquet(tmp_path / "data" / "d" / "train.parquet")
    (tmp_path / "data" / "README.md").write_text(DATA_CARD)
    (tmp_path / "overlap").mkdir()
    (tmp_path / "overlap" / "overlap.py").write_text(METRIC)
    for name, kind, private in (("bert", "model", False), ("data", "dataset", True), ("overlap", "space", False)):
        sdk = {"space_sdk": "static"} if kind == "space" else {}
        api.create_repo(f"me/{name}", repo_type=kind, private=private, **sdk)
        api.upload_folder(repo_id=f"me/{name}", repo_type=kind, folder_path=tmp_path / name)
    online.clear()
    environment = hub_environment(online, tmp_path / "home")
    told = subprocess.run([sys.executable, "-c", LIBRARIES], env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.splitlines()[-1]) == {
        "plain": [1, 2, 3], "streamed": [1, 2, 3], "columns": ["x"], "config": 8, "model": "BertModel",
        "sum": pytest.approx(float(model.embeddings.word_embeddings.weight.detach().sum())), "metric": {"overlap": 0.5},
    }  # fmt: skip
    assert online.requests and all(one.status in (200, 206, 404) for one in online.requests)


def test_a_person_can_start_one(root):
    command = [sys.executable, "tests/local_hub.py", "--port", "0", "--user", "ada", "--organisation", "lab"]
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # what runs us may have ignored it
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, **heard) as process:
        told = {}
        while len(told) < 3:
            if found := re.fullmatch(r"export (\w+)=(.*)\n", process.stdout.readline()):
                told[found[1]] = found[2]
        asked = {"Authorization": f"Bearer {told['HF_TOKEN']}"}
        _, _, body = _get(SimpleNamespace(url=told["HF_ENDPOINT"]), "/api/whoami-v2", **asked)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert (json.loads(body)["name"], json.loads(body)["orgs"][0]["name"]) == ("ada", "lab")
    assert told["HF_HUB_DISABLE_XET"] == "1"


# ---- npm


@pytest.mark.slow
def test_the_npm_client_reads_the_same_bytes(api, online, folder, npm_sees):
    (folder / "empty.txt").unlink()  # of which this client asks the first byte: no server can answer that
    (folder / "large.bin").write_bytes(WEIGHTS * 12)
    repos = [("model", "me/first"), ("dataset", "me/second"), ("space", "me/third")]
    for kind, name in repos:
        api.create_repo(
            name, repo_type=kind, private=kind == "dataset", space_sdk="static" if kind == "space" else None
        )
        api.upload_folder(repo_id=name, repo_type=kind, folder_path=folder)
    told = npm_sees(online, repos)
    for kind, name in repos:
        seen, files = told[f"{kind} {name}"], online.files(name, kind)
        sums = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        assert seen["files"] == seen["snapshot"] == sums
        assert seen["sizes"] == {path: len(content) for path, content in files.items()}
        assert (seen["name"], seen["sha"], seen["listed"]) == (name, online.commits(name, kind)[0][0], True)
        assert (seen["private"], "sound" in seen["tags"]) == (kind == "dataset", True)
        assert (seen["readme"], seen["nothing"], seen["missing"]) == (True, False, None)
    assert list_repo_files("me/first") == sorted(online.files("me/first"))
