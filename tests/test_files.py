"""Folders that are whole or not there."""

import os
import signal
import subprocess
import sys
import time

import pytest

from modeling_dualspace.files import atomic_folder, short_digest

CARD = "---\ntags:\n- dualspace\n---\n"


def made(out, text="new", **settings):
    with atomic_folder(out, **settings) as folder:
        (folder / "README.md").write_text(CARD + text)


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
    assert (tmp_path / "out" / "README.md").read_text() == CARD + "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_former_folder_is_replaced_whole_and_only_on_demand(tmp_path):
    made(tmp_path / "out", "old")
    (tmp_path / "out" / "stale.parquet").write_text("")
    with pytest.raises(ValueError, match="exists already and is not empty"):
        made(tmp_path / "out")
    made(tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]


def test_what_is_not_ours_is_never_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("")
    with pytest.raises(ValueError, match="not one of ours"):
        made(tmp_path / "photos", overwrite=True)
    for text in ("# Another project, with a readme", "---\ntags:\n- other\n---\n- dualspace\n"):
        (tmp_path / "photos" / "README.md").write_text(text)
        with pytest.raises(ValueError, match="not one of ours"):
            made(tmp_path / "photos", overwrite=True)
    made(tmp_path / "cloned")
    (tmp_path / "cloned" / ".git").mkdir()
    with pytest.raises(ValueError, match="not one of ours"):
        made(tmp_path / "cloned", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        made(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    made(tmp_path / "empty")


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    made(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "README.md").read_text() == CARD + "new"


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
