"""What lies beside the code is found in a checkout and in a wheel, and its absence is a sentence."""

import pytest

from modeling_dualspace import resources
from modeling_dualspace.resources import resource


@pytest.mark.parametrize("name", ["configs/tiny.yaml", "configs", "releases/everything.yaml", "model_card.md"])
def test_a_checkout_has_what_a_person_needs(name, root):
    assert resource(name).exists() and resource(name).is_relative_to(root)


def test_what_a_wheel_carries_goes_before_what_lies_around(tmp_path, monkeypatch):
    for place in ("resources", "beside"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.md").write_text(place)
    (tmp_path / "beside" / "b.md").write_text("b")
    monkeypatch.setattr(resources, "_PLACES", (tmp_path / "resources", tmp_path / "beside"))
    assert resource("a.md").read_text() == "resources" and resource("b.md").read_text() == "b"


def test_what_was_not_installed_is_said_with_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"without configs/absent.yaml: install it again, or work in a clone"):
        resource("configs/absent.yaml")
