"""A repository in a folder: its files by name, size and hash, the same bytes every time, and originals left alone."""

import hashlib
import os

import pytest

from modeling_dualspace.release_kinds import KINDS, kind_of
from modeling_dualspace.staging import FileFacts, Staged, place, write_text


@pytest.fixture
def staged(tmp_path):
    """`staged(files)`: a repository of these, by name."""

    def of(files, name="repo"):
        folder = tmp_path / name
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        return Staged("model", f"me/{name}", "model", folder)

    return of


# Hashes


@pytest.mark.parametrize("size", [0, 1, 1023, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_file_has_the_sha256_and_the_name_in_git_that_anybody_computes(staged, size):
    content = (b"0123456789abcdef\r\n" * (size // 18 + 1))[:size]
    (facts,) = staged({"file": content}).files.values()
    assert facts.size == size and facts.sha256 == hashlib.sha256(content).hexdigest()
    assert facts.git == hashlib.sha1(b"blob %d\0" % size + content).hexdigest()


def test_a_large_file_is_known_by_its_sha256_alone(staged):
    content = bytes(10 * (1 << 20) + 1)
    (facts,) = staged({"large.safetensors": content}).files.values()
    assert facts == FileFacts(len(content), hashlib.sha256(content).hexdigest(), "")


def test_files_are_listed_by_their_names_in_the_repository_and_folders_are_not_files(staged):
    one = staged({"b/c.txt": b"1", "a.txt": b"22", "b/a/z.txt": b"333", ".made-by-dualspace": b"4444"})
    (one.folder / "empty").mkdir()
    assert {name: facts.size for name, facts in one.files.items()} == {
        ".made-by-dualspace": 4, "a.txt": 2, "b/a/z.txt": 3, "b/c.txt": 1,
    }  # fmt: skip


def test_the_digest_is_of_names_and_content_and_of_nothing_else(staged):
    files = {"a": b"1", "b/c": b"2"}
    first = staged(files, "first").digest
    again = staged(dict(reversed(files.items())), "again")
    os.utime(again.folder / "a", (1, 1))
    (again.folder / "a").chmod(0o600)
    assert again.digest == first and len(first) == 16
    others = [{"a": b"1"}, {"a": b"2", "b/c": b"1"}, {"a": b"1", "b-c": b"2"}, {"ab": b"1", "/c": b"2"}]
    others += [{"a": b"1", "b/c": b"2", "d": b""}, {"a": b"12", "b/c": b""}]
    digests = {staged({name.strip("/"): content for name, content in one.items()}, f"other-{number}").digest
               for number, one in enumerate(others)}  # fmt: skip
    assert len(digests | {first}) == len(others) + 1


def test_the_order_of_files_is_that_of_their_names_as_text(staged):
    names = list(staged({"a/b": b"", "a-b": b"", "a.txt": b"", "B": b""}).files)
    assert names == sorted(names)


# Files under another name


def test_a_placed_file_is_the_same_and_costs_no_copy(tmp_path):
    (tmp_path / "source").write_bytes(b"weights")
    place(tmp_path / "source", tmp_path / "deep" / "er" / "target")
    assert (tmp_path / "deep" / "er" / "target").samefile(tmp_path / "source")


def test_a_link_is_placed_as_the_file_it_leads_to(tmp_path):
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "link").symlink_to("blob")
    place(tmp_path / "link", tmp_path / "out" / "target")
    assert not (tmp_path / "out" / "target").is_symlink()
    assert (tmp_path / "out" / "target").read_bytes() == b"weights"


def test_where_no_link_can_be_there_is_a_copy(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_bytes(b"weights")
    place(tmp_path / "source", tmp_path / "out" / "target")
    assert (tmp_path / "out" / "target").read_bytes() == b"weights"
    assert not (tmp_path / "out" / "target").samefile(tmp_path / "source")


def test_a_second_file_under_the_same_name_never_writes_into_the_first_original(tmp_path):
    (tmp_path / "first").write_bytes(b"first")
    (tmp_path / "second").write_bytes(b"second")
    place(tmp_path / "first", tmp_path / "out" / "target")
    try:
        place(tmp_path / "second", tmp_path / "out" / "target")
    except (OSError, ValueError):
        pass
    assert (tmp_path / "first").read_bytes() == b"first"


def test_a_text_is_utf_8_with_plain_line_ends(tmp_path):
    write_text(tmp_path / "deep" / "README.md", "eins\nzwei ü\n")
    assert (tmp_path / "deep" / "README.md").read_bytes() == "eins\nzwei ü\n".encode()


def test_the_card_is_read_as_utf_8_whatever_the_machine_speaks(staged):
    assert staged({"README.md": "größe ✓".encode()}).card == "größe ✓"


# Kinds


def test_every_kind_has_a_name_of_its_own_and_says_why_it_refuses_what_it_does_not_take():
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.repo_type for kind in KINDS} <= {"model", "dataset", "space"}
    for kind in KINDS:
        assert kind.refuses or set(kind.takes) >= {"license", "data", "card", "carbon"}
        assert kind_of("", kind.name) is kind if not kind.needs_path else kind.needs_path


def test_data_sets_come_before_the_models_that_name_them():
    names = [kind.name for kind in KINDS]
    assert names.index("data set") < names.index("model")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["config.json"], "model"),
        (["model/config.json", "history.jsonl"], "model"),
        (["README.md", "data/x.parquet"], "data set"),
        (["README.md", "app.py", "average_precision.py", "cosines.py", "legacy_prefix_average.py",
          "retrieval_scores.py"], "metric"),
    ],
)  # fmt: skip
def test_a_folder_is_known_by_what_lies_in_it(tmp_path, files, kind):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("---\nconfigs: []\n---\n")
    assert kind_of(str(tmp_path)).name == kind and kind_of(str(tmp_path), kind).name == kind
    (tmp_path / files[0]).unlink()
    with pytest.raises(ValueError, match="that can be released: expected a page.*index.*data set.*metric.*a run"):
        kind_of(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "# prose\n", "---\nlicense: mit\n---\nconfigs: dataset_info:\n", "x\n---\nconfigs:\n"]
)
def test_parquet_beside_a_card_that_declares_nothing_is_no_data_set(tmp_path, text):
    (tmp_path / "x.parquet").write_bytes(b"")
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match="nothing that can be released"):
        kind_of(str(tmp_path))
