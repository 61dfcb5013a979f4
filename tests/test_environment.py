"""`.ci/environment`, which both commands begin with: once, without surprises, and in one sentence when it cannot."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path):
    """A folder with what the script reads, and a package index that cannot be reached."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "environment", tmp_path / ".ci")
    for name in ("pyproject.toml", "constraints.txt", ".ci/peers.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


OFFLINE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


def run(checkout, **environment):
    environment = os.environ | OFFLINE | {"PYTHON": sys.executable} | environment
    command = ["sh", ".ci/environment"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()


def test_without_a_python_it_says_so(checkout):
    code, (sentence,) = run(checkout, PYTHON="no-such-python")
    assert code == 1 and sentence.startswith("DualSpace needs Python 3.11 or newer, and found none")


@pytest.mark.slow
def test_without_an_index_it_says_so_and_leaves_no_stamp(checkout):
    code, sentences = run(checkout)
    assert code == 1 and len(sentences) == 2
    assert sentences[1].startswith("Could not install DualSpace into .venv: is a package index within reach?")
    assert (checkout / ".venv" / "install.log").read_text() and not (checkout / ".venv" / "stamp").exists()


def test_an_environment_it_did_not_make_is_left_alone(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").write_text("mine")
    code, (sentence,) = run(checkout)
    assert code == 1 and "There is a .venv here that `make` did not make" in sentence
    assert (checkout / ".venv" / "precious").read_text() == "mine"


def test_a_matching_stamp_is_all_it_asks_for_and_a_changed_project_needs_another(checkout):
    digest = hashlib.sha256(str(checkout).encode())
    for name in ("pyproject.toml", "constraints.txt", ".ci/peers.txt"):
        digest.update((checkout / name).read_bytes())
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (checkout / ".venv" / "stamp").write_text(digest.hexdigest() + "\n")
    assert run(checkout) == (0, [])
    with (checkout / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    # It would make the environment anew now, if this one were its own.
    assert run(checkout)[0] == 1
