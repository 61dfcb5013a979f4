"""`dualspace push` as a whole: a tiny run, its data set and the metric, onto a Hub on this machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import pytest
import torch
from datasets import load_dataset
from huggingface_hub import HfFileSystem, constants, snapshot_download
from tiny_release import ITEMS, THINGS, clips, write_data, write_run
from transformers import AutoModel

from modeling_dualspace import release, verification
from modeling_dualspace.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a data set, two runs on it, and a release of everything."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_data(Path("tiny-data"))
        for name, seed in (("tiny", 0), ("other", 1)):
            write_run(Path("runs", name), "tiny-data", seed)
        Path("all.yaml").write_text(ITEMS)
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, to stand in."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def unseen(monkeypatch):
    """Whether each verification was of the Hub; none of them really happens."""
    looks: list[bool] = []

    def look(staged, *, commits=None):
        looks.append(commits is not None)
        return {one.repo_id: ["looked at"] for one in staged}

    monkeypatch.setattr(release, "verify", look)
    return looks


def written(hub) -> list[str]:
    """What was asked of the Hub that changes it, and was carried out."""
    asked = [one for one in hub.requests if one.method not in ("GET", "HEAD") and one.status == 200]
    return [f"{one.method} {one.path}" for one in asked if one.path != "/api/validate-yaml"]


def state(hub) -> dict:
    """Everything that is on the Hub."""
    names = [(one.kind, one.name) for one in hub.store.repositories.values()]
    return {
        name: (hub.commits(name, kind), hub.tags(name, kind), hub.files(name, kind)) for kind, name in sorted(names)
    } | {slug: [item.id for item in one.items] for slug, one in hub.collections.items()}


def tree(hub, name: str, revision: str = "main") -> dict[str, bytes]:
    return hub.files(name, THINGS[name.split("/")[1]], revision)


def a_day_later(place: Path) -> None:
    """The same in another folder, every file of it another day's."""
    shutil.copytree(place, place.with_name("later"), copy_function=shutil.copyfile)
    os.chdir(place.with_name("later"))
    for path in Path.cwd().rglob("*"):
        os.utime(path, (86400, 86400))


def fails(capsys, *words: str) -> str:
    """The one sentence on stderr, beside what is said of the progress, in which a push ends."""
    capsys.readouterr()
    code = main(["push", *words])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not re.match("(making|trying|pushing) ", line)]
    assert code == 1 and len(lines) == 1 and lines[0].startswith("dualspace: ") and not out, err
    return lines[0].removeprefix("dualspace: ")


# ---- really, with its verification


@pytest.mark.slow
def test_everything_goes_to_an_organisation_and_is_looked_at(place, online, monkeypatch, capfd):
    """By a token in a login file, which is told to nobody: by no argument, text, file, commit or message."""
    token, seen = online.add_user("me", organisations=["lab"]), []
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
    Path(constants.HF_TOKEN_PATH).write_text(token)
    run = subprocess.run

    def watched(command, **settings):
        with subprocess.Popen(["sleep", "60"]) as witness:  # that what is read below is read of a child
            children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
            timer = threading.Timer(1.0, lambda: seen.extend(_arguments(children)))
            timer.start()
            done = run(command, **settings)
            timer.join()
            witness.kill()
        return done

    monkeypatch.setattr(verification.subprocess, "run", watched)
    assert main(["push", "all.yaml", "lab", "--json"]) == 0
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert [one["repo_id"] for one in told["repositories"]] == [f"lab/{name}" for name in THINGS]
    assert all(one["changed"] and len(one["verified"]) >= 2 for one in told["repositories"])
    assert [item.id for one in online.collections.values() for item in one.items] == [f"lab/{name}" for name in THINGS]
    assert {Path(one).name for arguments in seen for one in arguments.split("\0")} >= {"stranger.py", "sleep"}
    for text in (out, err, repr(seen), repr(state(online)), repr(online.requests)):
        assert token not in text


def _arguments(children: Path) -> list[str]:
    return [Path(f"/proc/{number}/cmdline").read_text() for number in children.read_text().split()]


# ---- the same again


def test_the_same_a_day_later_from_a_copy_changes_nothing(place, online, unseen, capsys):
    assert main(["push", "all.yaml", "me"]) == 0
    before = state(online)
    online.clear()
    a_day_later(place)
    capsys.readouterr()
    assert main(["push", "all.yaml", "me"]) == 0
    assert state(online) == before and written(online) == []
    assert capsys.readouterr().out.count("is there already, nothing changed") == 3
    assert unseen == [False, True] * 2


def test_another_run_under_the_same_name_changes_only_what_is_new(place, online, unseen):
    assert main(["push", "all.yaml", "me"]) == 0
    before, figures = state(online), set(tree(online, "me/tiny-model"))
    online.clear()
    shutil.rmtree("runs/tiny")
    shutil.move("runs/other", "runs/tiny")
    assert main(["push", "all.yaml", "me"]) == 0
    after = state(online)
    for name in ("me/tiny-data", "me/tiny_map"):
        assert after[name] == before[name]
    commits, tags, files = after["me/tiny-model"]
    assert len(commits) == 3 and len(tags) == 2
    changed = {name for name, content in files.items() if before["me/tiny-model"][2].get(name) != content}
    assert {"README.md", "model.safetensors"} <= changed <= {*figures, ".made-by-dualspace"}
    assert not [name for name in changed if name.endswith((".py", ".json"))]


def test_a_tag_is_of_every_repository_or_of_none(place, online, unseen, naps, capsys):
    assert main(["push", "all.yaml", "me", "--tag", "v1"]) == 0
    assert [set(online.tags(f"me/{name}", kind)) for name, kind in THINGS.items()] == [{"v1"}] * 3
    before = state(online)
    online.clear()
    shutil.rmtree("runs/tiny")
    shutil.move("runs/other", "runs/tiny")
    said = fails(capsys, "all.yaml", "me", "--tag", "v1")
    assert said == "me/tiny-model has a release v1 already, of other content: choose another --tag."
    assert state(online) == before and written(online) == [] and unseen == [False, True]
    online.fail("POST", "/api/models/me/tiny-model/commit", status=500, times=99)
    assert "500" in fails(capsys, "all.yaml", "me", "--tag", "v2")
    online.clear()
    assert main(["push", "all.yaml", "me", "--tag", "v2"]) == 0
    assert [set(online.tags(f"me/{name}", kind)) for name, kind in THINGS.items()] == [{"v1", "v2"}] * 3


@pytest.mark.parametrize(
    "tag",
    [
        *("v 1", "-x"),
        *(pytest.param(tag) for tag in
          ("a..b", "main", "v1.lock")),
    ],
)  # fmt: skip
def test_a_tag_that_git_cannot_have_is_refused_before_anything_is_uploaded(tag, place, online, unseen, capsys):
    fails(capsys, "tiny-data", "me/tiny-data", f"--tag={tag}")
    assert written(online) == []


# ---- what is refused, before anything is uploaded


def _nobody(online, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")


def _unknown(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)


def _offline(online, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _closed(online, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def _other(online, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", online.add_user("other"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_nobody, "Nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN; --dry-run needs neither."),
        (_unknown, "asking who is logged in: the Hub does not know this token"),
        (_offline, "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it, or use --dry-run."),
        (_closed, "asking who is logged in: the connection to the Hub broke"),
        (_other, "other may write to other, not to me/tiny-data: choose one of these, or log in as somebody else"),
    ],
)
def test_whoever_cannot_push_learns_it_before_anything_is_tried(
    wrong, words, place, online, unseen, naps, monkeypatch, capsys
):
    wrong(online, monkeypatch)
    said = fails(capsys, "tiny-data", "me/tiny-data")
    assert words in said and online.token not in said and "x" * 20 not in said
    assert unseen == [] and written(online) == [] and not online.store.repositories
    assert main(["push", "tiny-data", "me/tiny-data", "--dry-run"]) == 0  # for which none of it matters
    assert unseen == [False] and not online.store.repositories


def test_a_token_for_reading_alone_is_refused_before_anything_is_tried(place, online, unseen, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", online.add_user("me", role="read"))
    assert "token may" in fails(capsys, "tiny-data", "me/tiny-data")
    assert unseen == [] and not online.store.repositories


def test_one_repository_that_cannot_take_it_stops_all_of_them(place, online, unseen, capsys):
    assert main(["push", "runs/tiny", "me/tiny-model", "--license", "mit"]) == 0
    before = state(online)
    said = fails(capsys, "all.yaml", "me", "--private")
    assert said.startswith("me/tiny-model is public already")
    assert state(online) == before and unseen == [False, True]


def test_a_secret_in_a_file_stays_here_and_is_not_repeated(place, online, unseen, capsys):
    with Path("runs/tiny/model/losses.py").open("a") as code:
        code.write(f"TOKEN = '{online.token}'\n")
    said = fails(capsys, "runs/tiny", "me/tiny-model", "--license", "mit")
    assert said.startswith("Nothing was uploaded.") and "losses.py" in said and online.token not in said
    assert written(online) == [] and unseen == []


def test_nothing_is_uploaded_that_did_not_stand_the_trial(place, online, monkeypatch, capsys):
    def find_it_wrong(staged, *, commits=None):
        raise ValueError("me/tiny-data: its rows are others.")

    monkeypatch.setattr(release, "verify", find_it_wrong)
    said = fails(capsys, "tiny-data", "me/tiny-data")
    assert said == "Nothing was uploaded. me/tiny-data: its rows are others."
    assert written(online) == [] and not online.store.repositories


def test_what_is_wrong_on_the_hub_is_told_though_it_is_there(place, online, monkeypatch, capsys):
    def find_it_wrong(staged, *, commits=None):
        if commits is not None:
            raise ValueError("me/tiny-data: its rows are others.")
        return {one.repo_id: [] for one in staged}

    monkeypatch.setattr(release, "verify", find_it_wrong)
    said = fails(capsys, "tiny-data", "me/tiny-data", "--collection", "All")
    assert said.startswith("What was pushed is complete, but loading it from the Hub did not go well: ")
    assert "me/tiny-data: its rows are others." in said
    assert set(state(online)) == {"me/tiny-data"}


def test_a_trial_without_end_is_told_in_words(place, online, monkeypatch, capsys):
    def never(command, **settings):
        raise subprocess.TimeoutExpired(command, settings["timeout"])

    monkeypatch.setattr(verification.subprocess, "run", never)
    fails(capsys, "tiny-data", "me/tiny-data")


# ---- faults


@pytest.mark.parametrize(
    ("path", "how"),
    [
        pytest.param("/datasets/me/tiny-data/commit", {"cut": True}, marks=pytest.mark.slow),
        ("/spaces/me/tiny_map/preupload", {"status": 500}),
        pytest.param("^/lfs/", {"status": 429, "retry_after": 5}, marks=pytest.mark.slow),
        pytest.param("/items", {"status": 500}, marks=pytest.mark.slow),
    ],
)
def test_a_fault_that_stays_leaves_every_repository_whole(path, how, place, online, unseen, naps, capsys):
    online.fail(None, path, times=999, **how)
    said = fails(capsys, "all.yaml", "me")
    assert "run the same command again" in said and online.token not in said
    for name, kind in THINGS.items():
        if (kind, f"me/{name}") in online.store.repositories:
            assert len(online.commits(f"me/{name}", kind)) <= 2
            assert len(tree(online, f"me/{name}")) in (1, 2) or "README.md" in tree(online, f"me/{name}")
    done = {one: commits for one, (commits, _, _) in _repositories(online).items() if len(commits) == 2}
    online.clear()
    assert main(["push", "all.yaml", "me"]) == 0
    assert all(len(commits) == 2 for commits, _, _ in _repositories(online).values())
    assert all(_repositories(online)[one][0] == commits for one, commits in done.items())
    assert [item.id for one in online.collections.values() for item in one.items] == [f"me/{name}" for name in THINGS]


def _repositories(hub) -> dict:
    return {name: told for name, told in state(hub).items() if isinstance(told, tuple)}


def test_two_who_push_at_once_leave_one_release_whole(place, online, unseen):
    assert main(["push", "tiny-data", "me/tiny-data"]) == 0
    write_data(place / "more" / "tiny-data", start=1)
    codes = []
    threads = [
        threading.Thread(target=lambda path=path: codes.append(main(["push", path, "me/tiny-data"])))
        for path in ("tiny-data", "more/tiny-data")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    whole = [
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}
        for folder in (place / "tiny-data", place / "more" / "tiny-data")
    ]
    for oid, _ in online.commits("me/tiny-data", "dataset")[:-1]:
        files = tree(online, "me/tiny-data", oid)
        assert {name: content for name, content in files.items() if name.endswith(".parquet")} in whole


# ---- who sees it


def test_what_is_private_is_so_from_the_first_moment(place, online, unseen):
    assert main(["push", "all.yaml", "me", "--private"]) == 0
    assert all(online.repository(f"me/{name}", kind).private for name, kind in THINGS.items())
    assert [one.private for one in online.collections.values()] == [True]
    assert main(["push", "all.yaml", "me"]) == 0  # it never becomes public by accident
    assert all(online.repository(f"me/{name}", kind).private for name, kind in THINGS.items())


def test_a_collection_is_made_once(place, online, unseen):
    for _ in range(2):
        assert main(["push", "tiny-data", "me/tiny-data", "--collection", "Mine"]) == 0
    assert main(["push", "runs/tiny", "me/tiny-model", "--license", "mit", "--collection", "Mine"]) == 0
    assert [item.id for one in online.collections.values() for item in one.items] == ["me/tiny-data", "me/tiny-model"]


# ---- a process that ends in the middle


UNSEEN = """
import sys
from modeling_dualspace import release
from modeling_dualspace.cli import main
release.verify = lambda staged, commits=None: {one.repo_id: [] for one in staged}
sys.exit(main(["push", "all.yaml", "me"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "at"), [(signal.SIGKILL, 5), (signal.SIGINT, 2), (signal.SIGTERM, 7)], ids=str)
def test_a_release_that_ends_amid_its_uploads_goes_on_where_it_was(
    number, at, place, online, unseen, hub_environment, tmp_path, monkeypatch, capsys
):
    carry_out, lock, over, puts = online.carry_out, threading.Lock(), threading.Event(), []
    module = sys.modules["local_hub"]

    def end_it(call, fault):
        if call.method != "PUT":
            return carry_out(call, fault)
        with lock:
            puts.append(call.path)
            mine = len(puts)
        if mine == at:
            process.send_signal(number)
            over.set()
        return carry_out(call, fault) if mine < at else module.answer({}, 403)

    monkeypatch.setattr(online, "carry_out", end_it)
    command = [sys.executable, "-c", UNSEEN]
    environment = hub_environment(online, tmp_path / "other-home") | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs us may have ignored it
    ) as process:
        assert over.wait(90)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err and not out
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert number == signal.SIGKILL or err.endswith("dualspace: interrupted\n")
    for commits, tags, files in _repositories(online).values():  # the whole of it, or nothing yet
        assert (len(commits), len(tags)) == (2, 1) or len(commits) == 1
        assert (".made-by-dualspace" in files) == (len(commits) == 2)

    there = {oid for one in online.store.repositories.values() for oid in one.objects}
    assert len(there) >= at - 2
    online.clear()
    online.store.uploads.clear()
    monkeypatch.setattr(online, "carry_out", carry_out)
    assert main(["push", "all.yaml", "me"]) == 0, capsys.readouterr().err
    assert all(len(commits) == 2 for commits, _, _ in _repositories(online).values())
    assert online.store.uploads and there.isdisjoint(oid for _, oid in online.store.uploads.values())


# ---- pulling


@pytest.fixture
def pulled(place, online, unseen, naps, monkeypatch, tmp_path):
    """The Hub, everything on it, from which this very process can load."""
    assert main(["push", "all.yaml", "me"]) == 0
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", online.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.chdir(tmp_path)
    online.clear()
    return online


def _load_model(cache):
    return AutoModel.from_pretrained("me/tiny-model", cache_dir=cache).state_dict()


def _load_data(cache):
    HfFileSystem.clear_instance_cache()
    return load_dataset("me/tiny-data", cache_dir=str(cache), split="test")[:]


def _load_snapshot(cache):
    folder = Path(snapshot_download("me/tiny-model", cache_dir=cache))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LOADS = {"model": (_load_model, "safetensors"), "data": (_load_data, "parquet"), "snapshot": (_load_snapshot, ".py")}


def _equal(one, other) -> bool:
    return set(one) == set(other) and all(
        torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
        for name, value in one.items()
    )


@pytest.mark.parametrize("what", ["model", "data", pytest.param("snapshot", marks=pytest.mark.slow)])
def test_a_pull_gets_all_of_it_or_nothing(what, pulled, tmp_path):
    """First a fault that stays, then one that passes, then none: what is loaded is whole, or nothing is."""
    load, ending = LOADS[what]
    expected = load(tmp_path / "whole")
    for number, how in enumerate(({"cut": True}, {"status": 500}, {"status": 429, "retry_after": 5})):
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)  # where `datasets` keeps what it downloads
        cache = tmp_path / f"cut-{number}"
        for times in (10_000, 1):
            pulled.clear()
            fault = pulled.fail(None, f"/resolve/.*{ending}", times=times, **how)
            try:
                found = load(cache)
            except Exception:
                continue
            finally:
                assert fault.fired >= 1
            assert times == 1 and _equal(found, expected)
        pulled.clear()
        assert _equal(load(cache), expected)


def test_the_tag_of_a_release_loads_what_it_was(pulled, place, unseen, tmp_path, monkeypatch):
    (first,) = pulled.tags("me/tiny-data", "dataset")
    monkeypatch.chdir(place)
    write_data(place / "more" / "tiny-data", start=1)
    assert main(["push", "more/tiny-data", "me/tiny-data"]) == 0
    HfFileSystem.clear_instance_cache()
    rows = {
        revision: load_dataset("me/tiny-data", split="test", revision=revision, cache_dir=str(tmp_path / "c"))[0]
        for revision in (first, "main")
    }
    assert rows[first]["audio_features"] == pytest.approx(clips("test")["audio_features"][0])
    assert rows["main"]["audio_features"] == pytest.approx(clips("test", 1)["audio_features"][0])
