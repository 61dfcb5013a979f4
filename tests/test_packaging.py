"""What is shipped, and whether the tree keeps its own rules."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built by hatchling as installed, so that no network is asked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_s_only_top_level_name_is_the_package(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"modeling_dualspace"}


def test_the_wheel_has_every_module_the_command_and_the_licence(wheel):
    names = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "modeling_dualspace").rglob("*.py")}
    assert modules | {"modeling_dualspace/data_card.md"} <= names
    folders = ("configs", "releases", "benchmarks", "accelerate_configs")
    files = [path for folder in folders for path in (ROOT / "training" / folder).rglob("*.yaml")]
    recipes = {f"modeling_dualspace/resources/{path.relative_to(ROOT / 'training')}" for path in files}
    assert recipes | {"modeling_dualspace/resources/model_card.md"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "dualspace = modeling_dualspace.cli:main" in wheel.read(entry_points).decode()


def test_every_extra_that_the_code_names_exists():
    named = {
        extra
        for path in (ROOT / "modeling_dualspace").rglob("*.py")
        for extra in re.findall(r'require\([^)]*extra="(\w+)"', path.read_text())
    }
    assert named <= set(PROJECT["optional-dependencies"])


def test_constraints_cover_what_the_project_asks_for_and_pin_it():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    extras = PROJECT["optional-dependencies"]
    named = [name for need in extras["dev"] if need.startswith("dualspace[") for name in need[10:-1].split(",")]
    asked = PROJECT["dependencies"] + extras["dev"] + [need for name in named for need in extras[name]]
    assert {re.split(r"[<>=\[]", need)[0] for need in asked} - {"dualspace"} <= pinned


def test_the_tree_passes_its_linter():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
