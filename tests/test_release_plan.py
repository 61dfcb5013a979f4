"""What a person wants released: one thing, or a file of several; what cannot be is said before anything is made."""

import json

import pytest
from tiny_release import refusal

from modeling_dualspace.release import push
from modeling_dualspace.release_plan import find_release, known_releases, load_release, repo_id_of, single

ITEM = "{name: toy, path: toy}"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """`write(text)`: a release file, in the folder where we are."""
    monkeypatch.chdir(tmp_path)

    def to(text, name="mine.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return to


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder that looks like a model, in the folder where we are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text("{}")
    return tmp_path / "toy"


# Names of repositories


@pytest.mark.parametrize("name", ["me/x", "me/_x_", "Me-1/a.b_c-d", "me/" + "a" * 96, "123/456"])
def test_a_name_that_the_hub_takes_is_taken_as_it_is(name):
    assert repo_id_of(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x", "/x", "me/", "a/b/c", "me/x/", "me/x y", " me/x", "me/x ", "me/größe", "me/٣", "me/x\n", "me/-x", "me/x-",
     "me/.x", "me/x.", "me/a--b", "me/a..b", "me/x.git", "me/" + "a" * 97, "https://huggingface.co/me/x", "me\\x"],
)  # fmt: skip
def test_a_name_that_the_hub_refuses_is_refused_here_with_an_example(name):
    text = refusal(lambda: repo_id_of(name))
    assert "me/dualspace-vegas" in text and name.strip() in text


def test_the_name_is_told_as_it_came():
    assert refusal(lambda: repo_id_of("me/x-")).endswith("got me/x-.")


def test_a_name_of_a_release_is_checked_with_its_namespace(write):
    file = write("items: [{name: a/b, path: toy}]")
    assert "me/a/b" in refusal(lambda: load_release(file, "me"))
    assert "not me" not in refusal(lambda: load_release(write(f"items: [{ITEM}]"), "m e"))
    assert "me/dualspace-vegas" in refusal(lambda: load_release(write(f"items: [{ITEM}]"), ""))


# One thing


def test_one_thing_is_a_release_of_one_without_a_collection_or_a_tag(model):
    found = single("toy", "me/x")
    assert [(item.name, item.path) for item in found.items] == [("me/x", "toy")]
    assert (found.collection, found.description, found.tag, found.private) == ("", "", "", False)
    (item,) = found.items
    assert (item.kind, item.license, item.data, item.card, item.carbon, item.private) == ("", "", "", "", None, False)


def test_what_is_not_there_is_said_with_the_release_that_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Did you mean everything?" in refusal(lambda: single("everythin", "me"))
    unlike = refusal(lambda: single("qqqqqq", "me/x"))
    assert "nothing at qqqqqq" in unlike and all(name in unlike for name in known_releases())
    assert "an empty name" in refusal(lambda: single("", "me/x"))


# Files of releases


def test_every_release_of_ours_loads_names_each_thing_once_and_says_how_it_is_made():
    assert {"ave", "everything", "vegas"} <= set(known_releases())
    for name in known_releases():
        release = load_release(find_release(name), "somebody")
        assert release.items and release.collection and release.description
        for item in release.items:
            assert item.name.startswith("somebody/") and (item.made_by or item.kind == "metric")
            assert "synthetic" not in item.path or "synthetic" in item.name


def test_a_folder_called_like_a_release_of_ours_is_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_release("everything").name == "everything.yaml"
    (tmp_path / "everything").mkdir()
    assert find_release("everything") is None


def test_a_file_is_a_release_by_its_ending_and_nothing_else_is(write):
    assert find_release(str(write("items: []"))) is not None and find_release(str(write("", "x.yml"))) is not None
    assert find_release(str(write("", "x.txt"))) is None and find_release("nothing.yaml") is None
    assert find_release("") is None and find_release("../training/releases/everything") is None


def test_all_that_a_file_says_of_an_item_is_kept(write):
    text = """
    collection: C
    description: D
    tag: v1
    private: true
    items:
      - {name: a, path: p, kind: model, license: mit, data: d, card: c.md, carbon: 3, private: true, made_by: make it}
      - name: b
    """
    found = load_release(write(text), "me")
    one, other = found.items
    assert (found.collection, found.description, found.tag, found.private) == ("C", "D", "v1", True)
    assert (one.name, one.path, one.kind, one.license, one.data, one.card) == ("me/a", "p", "model", "mit", "d", "c.md")
    assert (one.carbon, one.private, one.made_by) == (3.0, True, "make it") and isinstance(one.carbon, float)
    assert (other.name, other.path, other.carbon) == ("me/b", "", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("items: [{name: a, pth: p}]", ["`items[0].pth`", "Did you mean `items[0].path`"]),
        (f"items: [{ITEM}]\ncolection: x", ["`colection`", "Did you mean `collection`"]),
        ("items: [{name: a}, {path: p}]", ["`items[1].name`", "lacks"]),
        ("items: []", ["names nothing to release", "items"]),
        ("collection: x", ["lacks the key `items`"]),
        ("items:", ["`items`", "a list", "None"]),
        ("items: {name: a}", ["`items`", "a list"]),
        ("items: [a, b]", ["`items[0]`", "keys and values", "'a'"]),
        ("items: [{name: 1}]", ["`items[0].name`", "text", "1"]),
        ("items: [{name: a, private: 'yes'}]", ["`items[0].private`", "true or false"]),
        ("items: [{name: a, carbon: much}]", ["`items[0].carbon`", "a number", "much"]),
        ("items: [{name: a, path: p, path: q}]", ["path stands twice"]),
        ("items: [{name: a}, {name: b}, {name: a}]", ["names a twice"]),
        ("- name: a", ["keys and values", "list"]),
        ("", ["keys and values", "NoneType"]),
        ("items: [", ["is no YAML"]),
        (f"extends: nowhere\nitems: [{ITEM}]", ["extends nowhere"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_its_key_and_with_the_file(write, text, words):
    said = refusal(lambda: load_release(write(text), "me"))
    assert "mine.yaml" in said and all(word in said for word in words), said


def test_a_release_goes_into_a_namespace_and_not_into_a_repository(write):
    text = refusal(lambda: load_release(write(f"items: [{ITEM}]"), "me/toy"))
    assert "name a namespace like me, not me/toy" in text


def test_a_file_that_is_no_text_is_said_to_be_no_yaml(write):
    file = write("")
    file.write_bytes(b"items: \xff\xfe")
    assert "mine.yaml is no YAML" in refusal(lambda: load_release(file, "me"))


def test_two_names_that_differ_in_case_alone_are_one_name(write):
    assert "twice" in refusal(lambda: load_release(write("items: [{name: Toy, path: a}, {name: toy, path: b}]"), "me"))


# What `push` refuses before it makes anything


def test_all_that_is_not_here_is_told_at_once_with_the_command_that_makes_each(write):
    file = write(
        "items:\n- {name: a, path: one, made_by: python make_one.py}\n- {name: b, path: two}\n"
        "- {name: c, path: three, made_by: dualspace train three}\n- {name: m, kind: metric}"
    )
    text = refusal(lambda: push(str(file), "me", dry_run=True, progress=False))
    assert (
        "one (by python make_one.py); two; three (by dualspace train three)" in text and "Nothing was uploaded" in text
    )


@pytest.mark.parametrize(("key", "value"), [("license", "mit"), ("data", "toy"), ("card", "c.md"), ("carbon", 0.0)])
def test_a_kind_that_takes_no_such_setting_says_why(write, key, value):
    file = write(json.dumps({"items": [{"name": "m", "kind": "metric", key: value}]}))
    text = refusal(lambda: push(str(file), "me", dry_run=True, progress=False))
    assert f"me/m: a metric takes no {key}" in text and "its own card and licence" in text


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"kind": "dataset"}, ["no kind 'dataset'", "data set, metric, model"]),
        ({"kind": "model"}, ["model needs a `path`"]),
        ({}, ["without `path`", "config.json"]),
        ({"path": "empty"}, ["empty is nothing that can be released"]),
        ({"path": "empty", "kind": "data set"}, ["empty is no data set"]),
        ({"path": "toy", "kind": "metric"}, ["toy is no metric"]),
    ],
)
def test_what_is_of_no_kind_is_said_with_the_kinds_there_are(write, model, item, words):
    (model.parent / "empty").mkdir()
    file = write(json.dumps({"items": [{"name": "m"} | item]}))
    text = refusal(lambda: push(str(file), "me", dry_run=True, progress=False))
    assert all(word in text for word in words), text
