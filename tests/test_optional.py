"""Optional packages."""

import sys

import pytest

from modeling_dualspace.optional import require


def test_a_package_that_is_there_is_returned():
    assert require("json", extra="data") is sys.modules["json"]


def test_a_missing_package_names_its_extra():
    with pytest.raises(ModuleNotFoundError, match=r"package `no_such_package`.*pip install 'dualspace\[media\]'"):
        require("no_such_package", extra="media")


def test_a_package_that_is_there_but_broken_shows_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import what_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'what_it_needs'"):
        require("half_installed", extra="media")
