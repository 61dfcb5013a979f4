"""Cards out of templates: a field without a value is an error that names it; commands are shown without places."""

import shlex

import pytest

from modeling_dualspace.card_template import fill, plain_command

BASE = """{% block metadata %}
license: {{ license }}
{% endblock %}
# {{ name }}
  {% block limits %}
none
  {% endblock %}
"""
VALUES = {"license": "mit", "name": "toy"}


@pytest.fixture
def base(tmp_path):
    """Our template."""
    (tmp_path / "base.md").write_text(BASE, encoding="utf-8")
    return tmp_path / "base.md"


@pytest.fixture
def own(tmp_path):
    """`own(text)`: a person's own template."""

    def write(text):
        (tmp_path / "own.md").write_text(text, encoding="utf-8")
        return tmp_path / "own.md"

    return write


def refusal(base, template, values=VALUES):
    with pytest.raises(ValueError) as caught:
        fill(base, template, values)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    assert type(caught.value) is ValueError and caught.value.__suppress_context__
    return text


def test_ours_is_filled_and_tags_leave_no_lines(base):
    assert fill(base, None, VALUES) == fill(base, "", VALUES) == "license: mit\n# toy\nnone\n"


def test_own_blocks_take_the_place_of_ours_and_may_keep_them(base, own):
    text = '{% extends "base.md" %}\n{% block limits %}\n{{ super() }}It barks. Größe ✓\n{% endblock %}\n'
    assert fill(base, own(text), VALUES) == "license: mit\n# toy\nnone\nIt barks. Größe ✓\n"


def test_a_template_that_extends_nothing_stands_alone(base, own):
    assert fill(base, own("# {{ name }}!"), VALUES) == "# toy!"


def test_values_are_text_and_neither_escaped_nor_filled_again(base):
    assert "# <b>&{{ license }}</b>" in fill(base, None, VALUES | {"name": "<b>&{{ license }}</b>"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ nmae }}", "'nmae' is undefined"),
        ("{{ license.spdx }}", "spdx"),
        ("{{ license | upper | bogus }}", "bogus"),
        ("{% for x in classes %}{% endfor %}", "'classes' is undefined"),
        ("{% if carbn %}x{% endif %}", "'carbn' is undefined"),
        ("{{ 'x' if y else 'z' }}", "'y' is undefined"),
        ("{{ name", "end of"),
        ("{% block x %}", "endblock"),
        ("{{ 1 / 0 }}", "zero"),
        ("{{ '%d' | format(name) }}", "number"),
        ("{{ name + 1 }}", "str"),
        ('{% extends "bse.md" %}', "bse.md"),
        ('{% include "/etc/hostname" %}', "/etc/hostname"),
    ],
)
def test_what_cannot_be_filled_is_said_with_the_template_and_the_field(base, own, text, words):
    said = refusal(base, own(text))
    assert "own.md cannot be filled" in said and words in said, said


def test_a_field_of_ours_that_has_no_value_is_said_too(base):
    said = refusal(base, None, {"license": "mit"})
    assert "base.md cannot be filled" in said and "'name'" in said


def test_a_template_that_is_not_there_a_folder_or_no_text_cannot_be_read(base, tmp_path):
    assert "nowhere.md cannot be read" in refusal(base, tmp_path / "nowhere.md")
    assert "cannot be read" in refusal(base, tmp_path)
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe\x00")
    assert "bytes.md cannot be read" in refusal(base, tmp_path / "bytes.md")


@pytest.mark.parametrize("text", ["emitted {{ carbon }} g", "| CO2 | {{ carbon }} g |", "{{ result.map }}"])
def test_a_field_that_is_nothing_is_not_filled(base, own, text):
    refusal(base, own(text), VALUES | {"carbon": None, "result": {"map": None}})


@pytest.mark.parametrize("text", ['{% extends "card" %}', "{{ name.encode('bogus') }}", "{{ '%(x)s' | format(y=1) }}"])
def test_other_ways_to_go_wrong_are_said_too(base, own, text):
    assert "own.md" in refusal(base, own(text))


# Commands


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("dualspace train tiny --final", "dualspace train tiny --final"),
        ("dualspace evaluate runs/tiny vegas --split test", "dualspace evaluate runs/tiny vegas --split test"),
        ("dualspace evaluate /home/ann/runs/tiny/ ../vegas", "dualspace evaluate tiny vegas"),
        ("dualspace evaluate ~/runs/tiny ../../data/vegas/", "dualspace evaluate tiny vegas"),
        ("dualspace train output=/scratch/ann/x data.path=~/vegas", "dualspace train output=x data.path=vegas"),
        ("dualspace evaluate a b --out=/home/ann/r.json", "dualspace evaluate a b --out=r.json"),
        (r"dualspace train 'output=C:\Users\ann\x' data.path=D:/vegas", "dualspace train output=x data.path=vegas"),
        ("/usr/bin/python /work/ann/train.py --lr 1e-3", "python train.py --lr 1e-3"),
        ("dualspace evaluate me/a me/b --split 'test[:50%]'", "dualspace evaluate me/a me/b --split 'test[:50%]'"),
        ("dualspace evaluate '/home/ann/my runs/it is' b", "dualspace evaluate 'it is' b"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_command_is_shown_without_the_folders_of_the_machine(typed, shown):
    assert plain_command(typed) == shown and plain_command(shown) == shown


def test_what_is_shown_is_split_as_what_was_typed():
    words = ["dualspace", "train", "a b", "x=it's", 'y="', "$HOME", "a;b", "größe"]
    assert shlex.split(plain_command(shlex.join(words))) == words


@pytest.mark.parametrize(
    "word",
    [
        r"'C:\Users\ann\x'",
        "C:/Users/ann/x",
        "file:///home/ann/x",
        "-o/home/ann/x",
        "--data=file:/home/ann/x",
        "x=[/home/ann/x]",
    ],
)
def test_no_folder_of_a_person_is_left_however_it_is_attached(word):
    assert "ann" not in plain_command(f"dualspace evaluate {word}")


def test_a_command_that_no_shell_takes_is_shown_or_said_to_be_none():
    try:
        assert "it's" in plain_command("evaluate(it's)")
    except ValueError as error:
        assert "evaluate(it's)" in str(error)
