"""The Hub's client: one commit a push, the same content never twice, and no fault that leaves half of a release."""

import logging
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http, disable_progress_bars, enable_progress_bars

from modeling_dualspace import hub_faults as client
from modeling_dualspace import stranger
from modeling_dualspace.console import exit_code
from modeling_dualspace.files import MANIFEST, write_manifest
from modeling_dualspace.hub import Hub, Pushed
from modeling_dualspace.loading import is_public
from modeling_dualspace.release_plan import Release
from modeling_dualspace.staging import Staged

CARD = "---\nlicense: mit\nsdk: static\n---\n# Thing\n"
WEIGHTS = bytes(range(256)) * 40
FIRST = {"README.md": CARD, "config.json": "{}", "model.safetensors": WEIGHTS, "figures/a.png": b"\0picture"}
SECOND = FIRST | {"model.safetensors": WEIGHTS[::-1]}
SMALLER = {"README.md": CARD + "Smaller.\n", "config.json": "{}", "model.safetensors": WEIGHTS[::-1]}
FOREIGN = "Someone else's commit"
STEPS = {
    "create": ("POST", "/api/repos/create"),
    "look": ("GET", "^/api/models/me/thing$"),
    "tree": ("GET", "/tree/"),
    "manifest, asked": ("GET", "/resolve/"),
    "manifest, read": ("GET", "/resolve/"),
    "card": ("POST", "/validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "objects/batch"),
    "upload": ("PUT", "^/lfs/"),
    "verify": ("POST", "objects/verify"),
    "commit": ("POST", "/commit/"),
    "refs": ("GET", "/refs$"),
    "tag": ("POST", "/tag/"),
}
LASTING = [step for step in STEPS if step != "verify"]  # an object that is there needs no second look
HOW = {
    "500": {"status": 500},
    "429": {"status": 429, "retry_after": 3},
    "cut": {"cut": True},
    "lost": {"lost": True},
}


@pytest.fixture(autouse=True)
def _hurried(naps):
    disable_progress_bars()
    yield
    enable_progress_bars()


@pytest.fixture
def staged(tmp_path):
    """`staged(files, repo_id)`: a repository in a folder, always the same one for the same name."""

    def of(files=None, repo_id="me/thing", repo_type="model", private=False) -> Staged:
        folder = tmp_path / repo_type / repo_id
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in (FIRST if files is None else files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        write_manifest(folder)
        return Staged("a thing", repo_id, repo_type, folder, private=private)

    return of


@pytest.fixture
def commits_asked(monkeypatch):
    """What each call of `create_commit` was asked to do."""
    asked: list[list[str]] = []
    create = HfApi.create_commit

    def spy(self, repo_id, operations, **settings):
        asked.append(sorted(one.path_in_repo for one in operations))
        return create(self, repo_id, operations, **settings)

    monkeypatch.setattr(HfApi, "create_commit", spy)
    return asked


def contents(one: Staged) -> dict[str, bytes]:
    """What a repository has to hold, beside what it was made with."""
    return {name: (one.folder / name).read_bytes() for name in one.files}


def held(hub, repo_id="me/thing", repo_type="model", revision="main") -> dict[str, bytes]:
    """What it does hold."""
    files = hub.files(repo_id, repo_type, revision)
    return {name: content for name, content in files.items() if name not in (".gitattributes", "foreign.txt")}


def titles(hub, repo_id="me/thing", repo_type="model") -> list[str]:
    return [title for _, title in hub.commits(repo_id, repo_type)]


def written(hub) -> list[str]:
    """What was asked of the Hub that changes it, and was carried out."""
    asked = [one for one in hub.requests if one.method not in ("GET", "HEAD") and one.status == 200]
    return [f"{one.method} {one.path}" for one in asked if one.path != "/api/validate-yaml"]


def foreign_commit(hub, repo_id="me/thing", **files) -> None:
    changes = [("file", {"path": name.replace("_", "."), "content": content}) for name, content in files.items()]
    hub.repository(repo_id).commit("main", {"summary": FOREIGN}, changes, "someone-else")


# ---- what a push does


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_push_is_one_commit_and_a_tag(kind, online, staged):
    one = staged(repo_type=kind)
    pushed = Hub().push(one)
    commit = online.commits("me/thing", kind)[0][0]
    prefix = "" if kind == "model" else f"{kind}s/"
    tag = f"release-{one.digest[:8]}"
    assert pushed == Pushed(f"{online.url}/{prefix}me/thing", commit, tag, True, True, False)
    assert held(online, repo_type=kind) == contents(one)
    assert titles(online, repo_type=kind) == [f"Release {one.digest[:8]}", "initial commit"]
    assert online.tags("me/thing", kind) == {tag: commit}
    tree = online.repository("me/thing", kind).at("main").tree
    assert tree["model.safetensors"].lfs and not tree["config.json"].lfs and ".gitattributes" in tree
    assert online.repository("me/thing", kind).sdk == ("static" if kind == "space" else None)  # as its card says


@pytest.mark.parametrize("tag", ["", "v1"])
def test_a_second_push_changes_nothing(tag, online, staged):
    first = Hub().push(staged(), tag)
    online.clear()
    one, hub = staged(), Hub()
    for path in one.folder.rglob("*"):  # a day later, from a copy
        os.utime(path, (1, 1))
    hub.check([one], tag)
    assert hub.push(one, tag) == Pushed(first.url, first.commit, first.tag, False, False, False)
    assert written(online) == []
    assert len(online.commits("me/thing")) == 2 and len(online.tags("me/thing")) == 1


def test_a_changed_file_alone_is_committed(online, staged, commits_asked):
    Hub().push(staged())
    online.clear()
    one = staged(SECOND)
    pushed = Hub().push(one)
    assert pushed.changed and held(online) == contents(one)
    assert commits_asked[1:] == [["model.safetensors"]] and len(titles(online)) == 3
    assert len([path for path in written(online) if path.startswith("PUT")]) == 1
    assert set(online.tags("me/thing").values()) == {oid for oid, _ in online.commits("me/thing")[:2]}


def test_an_object_that_is_there_is_not_uploaded_again(online, staged):
    Hub().push(staged())
    online.clear()
    one = staged(FIRST | {"copy.safetensors": WEIGHTS})
    Hub().push(one)
    assert held(online) == contents(one) and not [path for path in written(online) if path.startswith("PUT")]


def test_what_a_release_has_no_more_goes_and_what_others_put_there_stays(online, staged, commits_asked):
    Hub().push(staged())
    foreign_commit(online, foreign_txt=b"theirs")
    one = staged({name: content for name, content in FIRST.items() if name != "figures/a.png"})
    Hub().push(one)
    files = online.files("me/thing")
    assert held(online) == contents(one)
    assert files["foreign.txt"] == b"theirs" and b"filter=lfs" in files[".gitattributes"]
    assert commits_asked[-1] == [MANIFEST, "figures/a.png"]


def test_a_file_that_moves_is_in_one_place(online, staged):
    Hub().push(staged())
    one = staged({name.replace("a.png", "b.png"): content for name, content in FIRST.items()})
    Hub().push(one)
    assert held(online) == contents(one) and len(titles(online)) == 3


def test_a_file_that_becomes_a_folder(online, staged):
    Hub().push(staged(FIRST | {"notes": "one"}))
    one = staged(FIRST | {"notes/one.txt": "one"})
    Hub().push(one)
    assert held(online) == contents(one)


def test_a_card_that_somebody_edited_on_the_hub_is_ours_again(online, staged):
    """Nobody is asked, but the edit stays in the history."""
    Hub().push(staged())
    foreign_commit(online, README_md=(CARD + "Edited on the Hub.\n").encode())
    assert Hub().push(staged()).changed
    assert held(online) == contents(staged()) and titles(online).count(FOREIGN) == 1


def test_a_list_of_files_that_cannot_be_read_deletes_nothing(online, staged):
    Hub().push(staged())
    for content in (b"\xff\xfe", b"no list\n", b""):
        changes = [("file", {"path": MANIFEST, "content": content})]
        online.repository("me/thing").commit("main", {"summary": FOREIGN}, changes, "someone-else")
        one = staged({name: content for name, content in FIRST.items() if name != "figures/a.png"})
        Hub().push(one)
        assert "figures/a.png" in online.files("me/thing")


def test_main_is_never_half(online, staged):
    wanted = []
    for files in (FIRST, SECOND, {"README.md": CARD}, FIRST):
        one = staged(files)
        Hub().push(one)
        wanted.append(contents(one))
    assert [held(online, revision=oid) for oid, _ in online.commits("me/thing")[:-1]] == wanted[::-1]


def test_a_foreign_gitignore_does_not_make_a_release_half(online, staged):
    Hub().push(staged({"README.md": CARD}))
    changes = [("file", {"path": ".gitignore", "content": b"*.safetensors\n"})]
    online.repository("me/thing").commit("main", {"summary": FOREIGN}, changes, "someone-else")
    try:
        Hub().push(staged())
    except (ValueError, RuntimeError):
        assert held(online) == {".gitignore": b"*.safetensors\n", **contents(staged({"README.md": CARD}))}
    else:
        assert "model.safetensors" in held(online)


# ---- tags


def test_every_content_has_a_tag_of_its_own(online, staged):
    first, second = Hub().push(staged()), Hub().push(staged(SECOND))
    assert online.tags("me/thing") == {first.tag: first.commit, second.tag: second.commit}
    again = Hub().push(staged())  # back to the first
    assert again.changed and again.tag == first.tag and held(online) == contents(staged())
    assert online.tags("me/thing") == {first.tag: first.commit, second.tag: second.commit}
    assert held(online, revision=first.tag) == held(online)


def test_a_given_tag_is_the_titles_too(online, staged):
    pushed = Hub().push(staged(), "v1.0")
    assert pushed.tag == "v1.0" and online.tags("me/thing") == {"v1.0": pushed.commit}
    assert titles(online)[0] == "Release v1.0"
    Hub().check([staged()], "v1.0")
    other = Hub().push(staged(), "v1.1")  # the same content under another name
    assert not other.changed and online.tags("me/thing") == {"v1.0": pushed.commit, "v1.1": pushed.commit}


def test_a_tag_is_not_taken_for_other_content(online, staged):
    Hub().push(staged(), "v1")
    online.clear()
    with pytest.raises(ValueError, match="has a release v1 already, of other content: choose another --tag") as caught:
        Hub().check([staged(SECOND)], "v1")
    assert written(online) == [] and "\n" not in str(caught.value)
    assert held(online) == contents(staged())


def test_an_older_release_stays_where_it_is(online, staged):
    for tag, files in (("v1", FIRST), ("v2", SECOND)):
        Hub().push(staged(files), tag)
    before = online.tags("me/thing"), online.commits("me/thing")
    with pytest.raises(ValueError, match="v1"):
        Hub().check([staged()], "v1")
    assert (online.tags("me/thing"), online.commits("me/thing")) == before


def test_a_tag_of_the_same_content_is_taken_whatever_others_did_since(online, staged):
    Hub().push(staged(), "v1")
    foreign_commit(online, foreign_txt=b"theirs")
    Hub().check([staged()], "v1")


def test_a_tag_without_its_commit_is_made_up_for(online, staged):
    online.fail("POST", "/tag/", status=400)
    with pytest.raises(RuntimeError):
        Hub().push(staged(), "v1")
    assert held(online) == contents(staged()) and online.tags("me/thing") == {}
    hub = Hub()
    hub.check([staged()], "v1")
    assert not hub.push(staged(), "v1").changed and len(online.tags("me/thing")) == 1


# ---- who may see it, and write it


def test_private_makes_private_and_never_public_again(online, staged):
    Hub().push(staged(private=True))
    assert online.repository("me/thing").private
    hub = Hub()
    for private in (True, False):
        hub.check([staged(SECOND, private=private)], "")
        hub.push(staged(SECOND, private=private))
        assert online.repository("me/thing").private


def test_what_is_public_does_not_become_private(online, staged):
    Hub().push(staged())
    online.clear()
    with pytest.raises(ValueError, match="is public already: make it private on the Hub first"):
        Hub().check([staged(SECOND, private=True)], "")
    assert written(online) == [] and not online.repository("me/thing").private


def test_an_organisation_of_mine_and_nobody_elses(online, staged):
    online.add_user("me", token=online.token, organisations=["lab"])
    hub = Hub()
    hub.check_names(["me/thing", "lab/thing"])
    hub.push(staged(repo_id="lab/thing"))
    assert held(online, "lab/thing") == contents(staged(repo_id="lab/thing"))
    with pytest.raises(ValueError, match="me may write to me, lab, not to other/thing: choose one of these, or log"):
        hub.check_names(["lab/thing", "other/thing"])


def _nobody(online, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")


def _unknown(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)


def _reader(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", online.add_user("me", role="read"))


def _offline(online, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _closed_port(online, monkeypatch):
    for place in (constants, "huggingface_hub.hf_api.api.endpoint"):
        value = "http://127.0.0.1:9"
        monkeypatch.setattr(*((place, "ENDPOINT", value) if place is constants else (place, value)))


def _no_address(online, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://[")


def _odd_token(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 17 + "\x01" + "x" * 17)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_nobody, "Nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN"),
        (_unknown, "the Hub does not know this token"),
        (_reader, "[Tt]he token may"),
        (_offline, "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it, or use --dry-run"),
        (_closed_port, "the connection to the Hub broke"),
        (_no_address, "the connection to the Hub broke"),
        (_odd_token, "the Hub does not know this token"),
    ],
)
def test_whoever_cannot_push_is_told_in_one_sentence(wrong, words, online, staged, monkeypatch, capsys):
    wrong(online, monkeypatch)
    assert exit_code("dualspace", lambda: Hub().push(staged()) and 0) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "x" * 8 not in said and online.token not in said
    assert re.search(words, said), said
    assert not online.store.repositories and written(online) == []


def test_a_login_is_as_good_as_a_variable(online, staged, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
    Path(constants.HF_TOKEN_PATH).write_text(online.token)
    assert Hub().push(staged()).changed


# ---- faults


@pytest.mark.parametrize("how", ["500", "lost", *(pytest.param(how, marks=pytest.mark.slow) for how in ("429", "cut"))])
@pytest.mark.parametrize("step", STEPS)
def test_a_fault_that_passes_does_not_matter(step, how, online, staged, naps):
    """A file goes, another changes, and the tag is new."""
    first = Hub().push(staged())
    one = staged(SMALLER)
    fault = online.fail(*STEPS[step], **HOW[how])
    pushed = Hub().push(one)
    assert fault.fired == 1 and held(online) == contents(one)
    assert naps and (how != "429" or any(3 <= nap <= 4 for nap in naps))  # it adds a second
    assert pushed.changed and online.commits("me/thing")[0][0] == pushed.commit
    assert len(online.commits("me/thing")) == 3
    assert online.tags("me/thing") == {first.tag: first.commit, pushed.tag: pushed.commit}


def _for_ever(step: str, how: str):
    marks = [pytest.mark.slow] if how != "500" else []
    return pytest.param(step, how, marks=marks, id=f"{step}-{how}")


@pytest.mark.parametrize(("step", "how"), [_for_ever(step, how) for step in LASTING for how in ("500", "429", "cut")])
def test_a_fault_that_stays_leaves_the_former_release(step, how, online, staged, naps):
    Hub().push(staged())
    one = staged(SMALLER)
    online.fail(*STEPS[step], times=999, **HOW[how])
    with pytest.raises((RuntimeError, ValueError)) as caught:
        Hub().push(one)
    assert online.token not in str(caught.value)
    after = step in ("refs", "tag")
    assert held(online) == (contents(one) if after else {name: _bytes(FIRST[name]) for name in FIRST} | _list(staged))
    one = staged(SMALLER)
    online.clear()
    Hub().push(one)
    assert held(online) == contents(one) and len(online.commits("me/thing")) == 3
    assert set(online.tags("me/thing").values()) == {oid for oid, _ in online.commits("me/thing")[:2]}


def _bytes(content) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _list(staged) -> dict[str, bytes]:
    return {MANIFEST: (staged().folder / MANIFEST).read_bytes()}


@pytest.mark.parametrize(
    ("step", "how", "words"),
    [
        ("tag", "500", "the Hub has a fault of its own, 500"),
        ("tag", "429", "the Hub asks for a pause"),
        ("tag", "cut", "the connection to the Hub broke"),
        ("commit", "500", "the Hub has a fault of its own, 500"),
        ("commit", "429", "the Hub asks for a pause"),
        ("commit", "cut", "the connection to the Hub broke"),
        ("upload", "500", "the Hub has a fault of its own, 500"),
        ("upload", "cut", "the connection to the Hub broke"),
    ],
)
def test_a_fault_that_stays_is_told_with_what_to_do(step, how, words, online, staged):
    online.fail(*STEPS[step], times=999, **HOW[how])
    with pytest.raises(RuntimeError, match=f"^(pushing|uploading to) me/thing: {words}") as caught:
        Hub().push(staged())
    assert "run the same command again" in str(caught.value) and "\n" not in str(caught.value)


def test_a_page_of_a_proxy_is_a_fault_of_the_hub(online, staged, monkeypatch):
    module = sys.modules["local_hub"]
    monkeypatch.setattr(module, "refusal", lambda error: module.Answer(error.status, b"<html>Bad gateway</html>"))
    online.fail("POST", "/validate-yaml", status=502, times=999)
    with pytest.raises(RuntimeError, match="what answered is not the Hub"):
        Hub().push(staged())


def test_a_card_that_the_hub_refuses_is_told_in_its_words(online, staged):
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        Hub().push(staged(FIRST | {"README.md": "---\nlicense: [\n---\n"}))
    assert held(online) == {}


def test_a_repository_that_is_gone_in_between_is_told_in_words(online, staged, monkeypatch, capsys):
    carry_out = online.carry_out

    def remove(call, fault):
        made = carry_out(call, fault)
        online.store.repositories.clear()
        return made

    monkeypatch.setattr(online, "carry_out", remove)
    assert exit_code("dualspace", lambda: Hub().push(staged()) and 0) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_commit_that_comes_first_stays(online, staged, naps):
    fault = online.fail("POST", "/commit/", stale=True, times=2)
    pushed = Hub().push(staged())
    assert fault.fired == 2 and titles(online) == [titles(online)[0], FOREIGN, FOREIGN, "initial commit"]
    assert titles(online)[0].startswith("Release") and pushed.commit == online.commits("me/thing")[0][0]
    assert held(online) == contents(staged()) and "foreign.txt" in online.files("me/thing")
    assert len([one for one in online.requests if one.method == "PUT"]) == 2  # once each


def test_somebody_who_never_stops_is_told_of(online, staged):
    fault = online.fail("POST", "/commit/", stale=True, times=999)
    with pytest.raises(RuntimeError, match="somebody else keeps changing it at the same time"):
        Hub().push(staged())
    assert fault.fired > 2 and held(online) == {}


def test_a_commit_whose_answer_is_lost_is_made_once(online, staged):
    online.fail("POST", "/commit/", lost=True)
    pushed = Hub().push(staged(), "v1")
    assert held(online) == contents(staged()) and len(titles(online)) == 2
    assert online.tags("me/thing") == {"v1": pushed.commit}


def test_after_a_lost_answer_the_next_push_finds_everything_there(online, staged):
    online.fail("POST", "/commit/", lost=True)
    try:
        Hub().push(staged(), "v1")
    except RuntimeError as error:
        assert "run the same command again" in str(error)
    Hub().check([staged()], "v1")
    Hub().push(staged(), "v1")
    assert held(online) == contents(staged()) and len(titles(online)) == 2 and set(online.tags("me/thing")) == {"v1"}


def collect(hub, title: str, staged: list[Staged], private: bool = False) -> str:
    return hub.collect("me", Release(items=[], collection=title, description="Every" * 50, private=private), staged)


@pytest.mark.parametrize("how", [*HOW])
@pytest.mark.parametrize("step", [("GET", "/api/collections$"), ("POST", "/api/collections$"), ("POST", "/items$")])
def test_a_fault_while_collecting(step, how, online, staged):
    hub, one = Hub(), staged()
    hub.push(one)
    fault = online.fail(*step, **HOW[how])
    collect(hub, "All", [one])
    assert fault.fired == 1
    assert [[item.id for item in made.items] for made in online.collections.values()] == [["me/thing"]]


def test_a_collection_is_made_once_and_holds_each_thing_once(online, staged):
    hub, all_of_them = Hub(), [staged(), staged(repo_id="me/data", repo_type="dataset")]
    for one in all_of_them:
        hub.push(one)
    address = collect(hub, "All", all_of_them)
    (made,) = online.collections.values()
    assert address == f"{online.url}/collections/{made.slug}"
    assert [(one.type, one.id) for one in made.items] == [("model", "me/thing"), ("dataset", "me/data")]
    assert (made.title, made.private, len(made.description)) == ("All", False, 150)
    changed = made.changed
    online.clear()
    assert collect(Hub(), "All", all_of_them) == address
    assert written(online) == [] and len(online.collections) == 1 and made.changed == changed and len(made.items) == 2
    assert collect(Hub(), "Other", all_of_them[:1], private=True) != address
    assert [one.private for one in online.collections.values()] == [False, True]


# ---- a push that ends in the middle


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_a_push_that_ends_amid_its_uploads_goes_on_where_it_was(number, online, staged, monkeypatch):
    Hub().push(staged())
    large = {f"part-{index}.safetensors": bytes([index]) * 5000 for index in range(4)}
    one, former, uploads = staged(FIRST | large), held(online), []
    carry_out, lock, started, told = online.carry_out, threading.Lock(), threading.Event(), threading.Event()

    def end_it(call, fault):
        if call.method == "PUT":
            with lock:
                uploads.append(call.path)
            if len(uploads) == 3:
                os.kill(child, number)
                told.set()
            if len(uploads) >= 3:
                started.wait(5)  # it is dead by then, or told
        return carry_out(call, fault) if call.method != "PUT" or len(uploads) < 3 else module.answer({}, 403)

    module = sys.modules["local_hub"]
    monkeypatch.setattr(online, "carry_out", end_it)
    child = os.fork()
    if not child:
        code = 99
        try:
            _http._GLOBAL_CLIENT = None  # the connections are the parent's
            code = exit_code("dualspace", lambda: Hub().push(one) and 0)
        finally:
            os._exit(code)
    if number == signal.SIGTERM:
        assert told.wait(60)
        started.set()
    _, status = os.waitpid(child, 0)
    started.set()
    assert status == signal.SIGKILL if number == signal.SIGKILL else os.waitstatus_to_exitcode(status) == 130
    monkeypatch.setattr(online, "carry_out", carry_out)
    assert held(online) == former  # by the push before
    done = set(online.repository("me/thing").objects)
    assert len(done) == 2 + 2  # those of the push before, and of this one

    online.clear()
    assert Hub().push(one).changed
    assert held(online) == contents(one) and len(titles(online)) == 3
    assert len([path for path in written(online) if path.startswith("PUT")]) == 2


# ---- tokens


@pytest.mark.parametrize(
    ("by", "others"),
    [
        ("variable", []),
        ("file", []),
        pytest.param("variable", ["httpx2"]),
    ],
)
def test_a_token_is_told_to_nobody(by, others, online, staged, monkeypatch, caplog, capfd):
    """Neither by what this package says, nor by what the libraries log of a request that failed."""
    secret = "X-Amz-Signature=" + "5ecre7" * 5
    put = sys.modules["local_hub"].dispatch

    def signed(call):
        made = put(call)
        if call.path.endswith("/objects/batch"):
            made.body = made.body.replace(b'"}, "verify"', f'?{secret}"}}, "verify"'.encode())
        return made

    monkeypatch.setattr(sys.modules["local_hub"], "dispatch", signed)
    if by == "file":
        monkeypatch.delenv("HF_TOKEN")
        Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
        Path(constants.HF_TOKEN_PATH).write_text(online.token + "\n")
    for name in ("huggingface_hub", "modeling_dualspace", *others):
        caplog.set_level(logging.DEBUG, logger=name)
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in ("create", "upload", "commit", "tag"):
            for how in ("500", "cut"):
                online.clear()
                online.fail(*STEPS[step], times=999, **HOW[how])
                with pytest.raises((RuntimeError, ValueError)) as error:
                    Hub().push(staged(FIRST | {"model.safetensors": f"{step} {how}".encode() * 9}))
                said += [str(error.value), repr(error.value)]
    out, err = capfd.readouterr()
    everything = "\n".join([out, err, *said, *(str(one.message) for one in caught)])
    assert "/lfs/" in caplog.text  # something was said of it
    for text in (everything, caplog.text):
        assert online.token not in text
        assert secret not in text
    assert online.token not in repr(online.requests) + repr(online.commits("me/thing")) + repr(online.files("me/thing"))


def test_a_secret_is_taken_out_of_what_a_hub_says(online):
    text = f"Bearer {online.token} at https://s3.example/x?X-Amz-Signature=abc&y=1 and http://h/p?q hf_{'y' * 30}."
    assert client.without_secrets(text) == "Bearer [token] at https://s3.example/x and http://h/p [token]."


def test_what_is_public_is_so_for_anybody(online, staged):
    Hub().push(staged())
    assert is_public("me/thing", "model") and not is_public("me/thing", "dataset")
    hidden = staged(repo_id="me/hidden")
    hidden.private = True
    assert Hub().push(hidden).private and not is_public("me/hidden", "model")


def test_what_is_looked_at_is_the_commit_that_was_pushed(online, staged):
    one = staged()
    commit = Hub().push(one).commit
    foreign_commit(online, README_md=b"---\nlicense: mit\n---\n# Somebody else\n")
    job = {"where": "me/thing", "repo_type": "model", "repo_id": "me/thing", "revision": commit}
    assert str(stranger._card(job)) == one.card and not stranger._is_latest(job)
    assert list(stranger.blocks_without_package(job)) == [
        "somebody has committed since: the Python in its card would load that, and is not run"
    ]
