"""Folders that are whole or not there."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from modeling_dualspace.files import MANIFEST, atomic_folder, short_digest


def made(out, text="new", **settings):
    with atomic_folder(out, **settings) as folder:
        (folder / "README.md").write_text(text)


def test_a_folder_appears_when_the_block_has_ended_and_not_before(tmp_path):
    with atomic_folder(tmp_path / "deep" / "out") as folder:
        (folder / "README.md").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "README.md").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_folder(tmp_path / "out") as folder:
        (folder / "data").mkdir()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_former_folder_stays_as_it_was_when_its_replacement_fails(tmp_path):
    made(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "README.md").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_former_folder_is_replaced_whole_and_only_on_demand(tmp_path):
    made(tmp_path / "out", "old")
    with pytest.raises(ValueError, match="exists already and is not empty"):
        made(tmp_path / "out")
    made(tmp_path / "out", overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", MANIFEST}


def test_what_is_not_ours_is_never_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "README.md").write_text("# A project")
    with pytest.raises(ValueError, match="was not made here"):
        made(tmp_path / "photos", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        made(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    made(tmp_path / "empty")


@pytest.mark.parametrize("change", ["one.mp4", "deep/one.mp4", "README.md"])
def test_what_was_put_into_a_folder_or_changed_there_is_not_lost(tmp_path, change):
    made(tmp_path / "out")
    (tmp_path / "out" / change).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / change).write_text("mine, and precious")
    with pytest.raises(ValueError, match=rf"{change} was put there or changed .*1 files"):
        made(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / change).read_text() == "mine, and precious"


def test_the_place_one_stands_in_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for out in (".", "..", tmp_path / "here"):
        with pytest.raises(ValueError, match="is where you are"):
            made(out)


def test_a_folder_killed_between_two_renames_comes_back(tmp_path):
    made(tmp_path / "a[1]", "old")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    start = f".tmp-a[1]-{socket.gethostname()}-{dead.stdout.strip()}-0123"
    (tmp_path / "a[1]").rename(tmp_path / f"{start}-former")
    (tmp_path / start).mkdir()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a[1]"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a[1]"]
    assert (tmp_path / "a[1]" / "README.md").read_text() == "old"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    made(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "README.md").read_text() == "new"


def test_what_is_made_has_the_rights_of_any_new_folder(tmp_path):
    made(tmp_path / "out")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process lives, which only POSIX can without harm")
def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path):
    code = (
        "import sys, time\nfrom modeling_dualspace.files import atomic_folder\n"
        "with atomic_folder(sys.argv[1]):\n    print('in', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"in\n"
    running = [path.name for path in tmp_path.iterdir()]
    made(tmp_path / "other")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out"):
        raise RuntimeError  # a living process's folder is not touched
    assert [path.name for path in tmp_path.iterdir() if path.name != "other"] == running
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    made(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_digest_keeps_its_parts_apart():
    assert short_digest([b"ab", b""]) != short_digest([b"a", b"b"]) != short_digest([b"ab"])
    assert len(short_digest([])) == 16
