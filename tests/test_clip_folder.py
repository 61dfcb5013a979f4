"""One's own films: how folders and lists are read, what is refused, and how a film is cut."""

import json
import math
import os
import random
import unicodedata
from pathlib import Path

import pytest

from modeling_dualspace import clip_folder
from modeling_dualspace.clip_folder import Clip, list_clips, windows
from modeling_dualspace.splits import FRACTIONS, split_of


@pytest.fixture
def films(tmp_path):
    """`films("dog/rex.mp4", ...)`: a folder that holds these files, all empty; none of them is ever opened."""

    def make(*names, folder=tmp_path / "films"):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder

    return make


@pytest.fixture
def listed(films):
    """`listed(text)`: a list beside the films a.mp4, b.mp4 and dog/c.mp4."""

    def make(text, name="list.csv"):
        path = films("a.mp4", "b.mp4", "dog/c.mp4") / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


@pytest.fixture
def json_lines(listed):
    """`json_lines({"path": "a.mp4"}, ...)`: the same as JSON lines."""
    return lambda *rows: listed("\n".join(map(json.dumps, rows)), "list.jsonl")


def ids(clips):
    return [clip.clip_id for clip in clips]


def labels(clip_list):
    return {clip.clip_id: clip.label for clip in clip_list.clips}


def splits(clip_list):
    return {clip.clip_id: clip.split for clip in clip_list.clips}


def make_clip(**settings):
    return Clip("dog/rex.mp4", Path("films/dog/rex.mp4"), "dog/rex.mp4", "train", label="dog", **settings)


# Folders.


def test_the_first_folder_is_the_class(films):
    found = list_clips(films("dog/rex.mp4", "dog/young/bello.MOV", "cat/tom.webm"))
    assert labels(found) == {"cat/tom.webm": "cat", "dog/rex.mp4": "dog", "dog/young/bello.MOV": "dog"}
    assert found.class_names == ["cat", "dog"] and not found.multi_label
    assert all(clip.film == clip.clip_id and clip.start is clip.end is clip.labels is None for clip in found.clips)
    assert splits(found) == {name: split_of(name) for name in splits(found)}


def test_a_clip_says_where_to_read_it(films, monkeypatch):
    folder = films("dog/rex.mp4")
    assert list_clips(str(folder)).clips[0].path == folder / "dog" / "rex.mp4"
    monkeypatch.chdir(folder)
    assert list_clips(".").clips[0].path == Path("dog/rex.mp4")


def test_films_side_by_side_have_no_class(films):
    found = list_clips(films("b.mp4", "a.mp4"))
    assert labels(found) == {"a.mp4": None, "b.mp4": None} and found.class_names == []
    assert "Clips without a label: 2 (a.mp4, b.mp4)." in found.notes


def test_films_beside_class_folders_are_unlabelled_and_named(films):
    found = list_clips(films("dog/rex.mp4", "loose.mp4"))
    assert labels(found) == {"dog/rex.mp4": "dog", "loose.mp4": None} and found.class_names == ["dog"]
    assert "Clips without a label: 1 (loose.mp4)." in found.notes


@pytest.mark.parametrize("validation", ["validation", "val", "Val"])
def test_folders_named_like_splits_are_splits(films, validation):
    expected = {
        "train/dog/a/b.mp4": ("train", "dog"),
        f"{validation}/cat/c.mp4": ("validation", "cat"),
        "test/d.mp4": ("test", None),
        "e.mp4": (split_of("e.mp4"), None),
    }
    found = list_clips(films(*expected))
    assert {clip.clip_id: (clip.split, clip.label) for clip in found.clips} == expected
    assert found.class_names == ["cat", "dog"]
    assert any(note.startswith("Folders read as splits: 3 (") for note in found.notes)


def test_a_folder_named_like_a_split_among_others_is_a_class_and_is_named(films):
    found = list_clips(films("train/a.mp4", "helicopter/b.mp4"))
    assert found.class_names == ["helicopter", "train"]
    assert "Names of splits read as classes: 1 (train)." in found.notes


def test_a_folder_without_films_makes_no_class_and_is_named(films):
    found = list_clips(films("dog/rex.mp4", "cat/readme.txt", "bird/deep/down.txt"))
    assert found.class_names == ["dog"]
    assert "Folders without a film, which make no class: 2 (bird, cat)." in found.notes
    # Beside splits, a folder of documents does not turn splits into classes.
    found = list_clips(films("train/dog/a.mp4", "test/.keep", "train/cat/b.txt", "docs/c.txt", folder=films() / "2"))
    assert found.class_names == ["dog"] and found.clips[0].split == "train"
    assert "Folders without a film, which make no class: 3 (docs, test, train/cat)." in found.notes


def test_what_is_no_film_is_passed_over_and_counted_by_extension(films):
    found = list_clips(films("dog/rex.mp4", "a.txt", "dog/b.TXT", "dog/c.srt", "LICENSE"))
    assert ids(found.clips) == ["dog/rex.mp4"]
    assert "Files that are no films: 1 .srt, 2 .txt, 1 without an extension." in found.notes


def test_hidden_files_and_those_of_macos_are_passed_over_in_silence(films):
    folder = films(
        "dog/rex.mp4", "dog/._rex.mp4", ".cache/a.mp4", "__MACOSX/dog/b.mp4", ".DS_Store", "dog/__MACOSX/c.mp4"
    )
    found = list_clips(folder)
    assert ids(found.clips) == ["dog/rex.mp4"] and not any("no film" in note for note in found.notes)


def test_every_extension_of_a_film_counts_in_any_case(films):
    names = [f"{number}{end.upper() if number % 2 else end}" for number, end in enumerate(clip_folder.VIDEO_EXTENSIONS)]
    assert len(list_clips(films(*names)).clips) == 15


def test_the_order_is_that_of_the_paths_whatever_the_file_system_says(films, tmp_path, monkeypatch):
    names = [f"{name}/{number}.mp4" for name in ("dog", "cat", "dog-2", "dog/a") for number in range(12)]
    expected = list_clips(films(*names))
    assert ids(expected.clips) == sorted(names)
    random.Random(0).shuffle(names)
    again = list_clips(films(*names, folder=tmp_path / "again"))
    assert splits(again) == splits(expected) and ids(again.clips) == ids(expected.clips)
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: listdir(place)[::-1])
    assert list_clips(films()) == expected


def test_a_missing_folder_or_another_kind_of_file_is_refused(films):
    folder = films("a.mp4")
    with pytest.raises(ValueError, match=r"Expected a folder of films, or a list .*nowhere does not exist"):
        list_clips(folder / "nowhere")
    with pytest.raises(ValueError, match=r"a\.mp4 is another kind of file"):
        list_clips(folder / "a.mp4")


def test_a_folder_without_any_film_says_what_was_looked_for(films):
    with pytest.raises(ValueError, match=r"No film below .*: looked for \.mp4 \.m4v .*, passed over 1 \.txt, 2 \.wav"):
        list_clips(films("a.txt", "dog/b.wav", "dog/c.wav"))
    (films() / "empty").mkdir()
    with pytest.raises(ValueError, match="passed over nothing"):
        list_clips(films() / "empty")


def test_a_folder_that_cannot_be_read_is_named(films, monkeypatch):
    folder = films("dog/rex.mp4")

    def refuse(place):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ValueError, match="Cannot read the folder .*films: Permission denied"):
        list_clips(folder)


def touch_bytes(folder, name):
    try:
        with open(os.path.join(os.fsencode(folder), name), "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes no name that is not UTF-8")


def test_a_name_that_is_not_utf8_is_shown_as_bytes(films):
    folder = films("dog/rex.mp4")
    touch_bytes(folder, b"caf\xe9.mp4")
    with pytest.raises(ValueError, match=r"the name b'caf\\xe9\.mp4' is not UTF-8 and cannot be an id: rename it"):
        list_clips(folder)


def test_a_name_that_is_not_utf8_but_no_film_is_only_counted(films):
    folder = films("dog/rex.mp4")
    touch_bytes(folder, b"caf.\xe9")
    (note,) = [note for note in list_clips(folder).notes if note.startswith("Files that are no films")]
    assert note.encode() and "\\udce9" in note


def test_names_that_differ_by_normalisation_alone_collide(films):
    composed, decomposed = (unicodedata.normalize(form, "café.mp4") for form in ("NFC", "NFD"))
    folder = films(composed)
    if (folder / decomposed).exists():
        pytest.skip("this file system takes composed and decomposed names as one")
    assert ids(list_clips(folder).clips) == [composed]
    films(decomposed)
    with pytest.raises(ValueError, match=r"'café\.mp4' is there twice: compare 'cafe\\u0301\.mp4' and 'caf\\xe9\.mp4'"):
        list_clips(folder)


def test_an_id_is_composed_and_the_path_is_the_one_on_disk(films):
    folder = films(unicodedata.normalize("NFD", "chœur-été/café.mp4"))
    (clip,) = list_clips(folder).clips
    assert clip.clip_id == clip.film == "chœur-été/café.mp4" and clip.label == "chœur-été"
    assert clip.path.is_file()


# Links.


def test_linked_folders_and_films_are_followed(films, tmp_path):
    films("rex.mp4", "young/bello.mp4", "blob", folder=tmp_path / "elsewhere")
    folder = films("cat/tom.mp4")
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "linked.mp4").symlink_to(tmp_path / "elsewhere" / "blob")
    found = list_clips(folder)
    # The blob has no film's extension under its own name, and one under that of the link.
    assert ids(found.clips) == ["cat/linked.mp4", "cat/tom.mp4", "dog/rex.mp4", "dog/young/bello.mp4"]


def test_circles_of_links_end_and_are_named(films):
    folder = films("dog/rex.mp4", "cat/tom.mp4")
    (folder / "dog" / "up").symlink_to("..")
    (folder / "dog" / "here").symlink_to(".")
    (folder / "dog" / "other").symlink_to("../cat")
    (folder / "cat" / "other").symlink_to("../dog")
    (folder / "outside").symlink_to(folder.parent)
    (folder / "self.mp4").symlink_to("self.mp4")
    found = list_clips(folder)
    assert ids(found.clips) == ["cat/tom.mp4", "dog/rex.mp4"]
    assert any(
        "Links that are broken, lead upwards or to what is listed" in note and ": 6 (" in note for note in found.notes
    )


def test_links_upwards_from_a_linked_folder_bring_in_nothing_else(films, tmp_path):
    films("shelf/rex.mp4", "other/tom.mp4", folder=tmp_path / "elsewhere")
    folder = films("library/mine/cat/tom.mp4", "library/yours/a.mp4", folder=tmp_path) / "library" / "mine"
    (folder / "dog").symlink_to(tmp_path / "elsewhere" / "shelf")
    (tmp_path / "elsewhere" / "shelf" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "shelf" / "back").symlink_to(tmp_path / "library")
    found = list_clips(folder)
    assert ids(found.clips) == ["cat/tom.mp4", "dog/rex.mp4"]
    assert any("lead upwards" in note and "(dog/back, dog/up)" in note for note in found.notes)


def test_a_film_under_two_names_is_listed_once_under_its_own(films):
    folder = films("dog/rex.mp4")
    (folder / "animal").mkdir()
    (folder / "animal" / "rex.mp4").symlink_to("../dog/rex.mp4")
    (folder / "animals").symlink_to("dog")
    found = list_clips(folder)
    assert ids(found.clips) == ["dog/rex.mp4"]
    assert any("listed under another name: 2 (animal/rex.mp4, animals)" in note for note in found.notes)


def test_a_broken_link_is_named(films):
    folder = films("dog/rex.mp4")
    (folder / "dog" / "gone.mp4").symlink_to("nowhere.mp4")
    assert any("Links that are broken" in note and "dog/gone.mp4" in note for note in list_clips(folder).notes)


# Splits.


def test_adding_films_moves_no_other(films):
    names = [f"dog/{number}.mp4" for number in range(200)]
    before = splits(list_clips(films(*names)))
    films(*(f"dog/new-{number}.mp4" for number in range(200)), "cat/tom.mp4", "loose.mp4")
    after = splits(list_clips(films()))
    assert len(after) == 402 and before.items() <= after.items()


def test_every_class_gets_its_fractions_up_to_chance(films):
    count, names = 2000, ("dog", "cat", "water flowing")
    counts = list_clips(films(*(f"{name}/{number}.mp4" for name in names for number in range(count)))).counts()
    for split, fraction in FRACTIONS.items():
        # Four deviations of a binomial: of nine such counts, one in 1,700 sets of names would have any beyond it, and
        # the names here are fixed.
        tolerance = 4 * math.sqrt(fraction * (1 - fraction) / count)
        for name in names:
            assert abs(counts[split][name] / count - fraction) < tolerance


def test_fractions_may_be_asked_for(films):
    folder = films(*(f"{number}.mp4" for number in range(20)))
    assert {*splits(list_clips(folder, fractions={"train": 0, "test": 1})).values()} == {"test"}
    with pytest.raises(ValueError, match="sum to 1"):
        list_clips(folder, fractions={"train": 0.5})
    # Also where there is nothing to draw.
    with pytest.raises(ValueError, match="sum to 1"):
        list_clips(films("train/dog/a.mp4", folder=folder / "2"), fractions={"train": 0.5})


def test_a_class_without_a_clip_in_some_split_is_named(films):
    found = list_clips(films("train/dog/a.mp4", "train/cat/b.mp4", "test/dog/c.mp4"))
    assert "Classes without a clip in test: 1 (cat)." in found.notes
    assert not any("validation" in note for note in found.notes)  # nobody asked for it here
    assert found.counts() == {"train": {"cat": 1, "dog": 1}, "test": {"dog": 1}}


def test_a_split_that_was_to_be_drawn_and_got_nothing_is_named(films):
    found = list_clips(films("dog/1.mp4"), fractions={"train": 1, "validation": 0, "test": 0})
    assert not any("No clip is in" in note for note in found.notes)
    found = list_clips(films("dog/1.mp4"), fractions={"train": 1 - 1e-9, "test": 1e-9})
    assert "No clip is in test." in found.notes and "Classes without a clip in test: 1 (dog)." in found.notes


def test_counts_tell_the_unlabelled_apart(listed):
    found = list_clips(listed("path,labels,split\na.mp4,x;y,test\nb.mp4,,train\ndog/c.mp4,x,train\n"))
    assert found.counts() == {"train": {"(none)": 1, "x": 1}, "test": {"x": 1, "y": 1}}
    assert list(found.counts()) == ["train", "test"]


# Lists.


def test_a_list_in_csv_says_what_a_clip_is(listed):
    path = listed("path,label,split,film,start,end,clip_id\na.mp4,dog,val,shoot,1.5,4,first\n dog/c.mp4 , cat,,,,,\n")
    first, second = list_clips(path).clips
    assert first == Clip("first", path.parent / "a.mp4", "shoot", "validation", label="dog", start=1.5, end=4.0)
    assert second == Clip("dog/c.mp4", path.parent / "dog/c.mp4", "dog/c.mp4", split_of("dog/c.mp4"), label="cat")


def test_a_list_in_json_lines_says_the_same(json_lines):
    path = json_lines(
        {"path": "a.mp4", "label": "dog", "split": "val", "film": "shoot", "start": 1.5, "end": 4, "clip_id": "first"},
        {"path": "dog/c.mp4", "label": "cat", "split": None, "start": None},
    )
    path.write_text(path.read_text() + "\n\n")
    first, second = list_clips(path).clips
    assert first == Clip("first", path.parent / "a.mp4", "shoot", "validation", label="dog", start=1.5, end=4.0)
    assert second.split == split_of("dog/c.mp4") and second.label == "cat"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_with_metadata_is_read_by_it_alone(listed, name):
    text = "file_name,label\na.mp4,dog\n" if name.endswith("csv") else '{"file_name": "a.mp4", "label": "dog"}'
    found = list_clips(listed(text, name).parent)
    assert labels(found) == {"a.mp4": "dog"}
    assert "Films that the list does not name: 2 (b.mp4, dog/c.mp4)." in found.notes


def test_a_folder_with_both_kinds_of_metadata_is_refused(listed):
    listed('{"file_name": "a.mp4"}', "metadata.jsonl")
    with pytest.raises(ValueError, match=r"both metadata\.csv and metadata\.jsonl: keep the one"):
        list_clips(listed("file_name\na.mp4\n", "metadata.csv").parent)


def test_several_classes_come_from_the_column_labels(listed, json_lines):
    rows = [{"path": "a.mp4", "labels": ["dog", "cat", "dog"]}, {"path": "b.mp4", "labels": []}, {"path": "dog/c.mp4"}]
    for path in (listed("path,labels\na.mp4,dog; cat;dog;\nb.mp4,\ndog/c.mp4,;\n"), json_lines(*rows)):
        found = list_clips(path)
        assert [clip.labels for clip in found.clips] == [("dog", "cat"), None, None]
        assert found.multi_label and found.class_names == ["cat", "dog"] and {*labels(found).values()} == {None}
        assert "Clips without a label: 2 (b.mp4, dog/c.mp4)." in found.notes


def test_an_empty_label_is_nobodys_annotation(listed):
    found = list_clips(listed("path,label\na.mp4,dog\nb.mp4, \ndog/c.mp4\n"))
    assert labels(found) == {"a.mp4": "dog", "b.mp4": None, "dog/c.mp4": None} and found.class_names == ["dog"]


def test_numbers_may_name_classes_and_clips(json_lines):
    found = list_clips(json_lines({"path": "a.mp4", "label": 3, "clip_id": 17}))
    assert labels(found) == {"17": "3"}


def test_names_in_a_list_are_composed_too(listed):
    path = listed(unicodedata.normalize("NFD", "path,label,film\na.mp4,été,é\nb.mp4,") + "été,é\ncafe\u0301.mp4,,\n")
    (path.parent / "cafe\u0301.mp4").touch()
    found = list_clips(path)
    assert found.class_names == ["été"] and [clip.film for clip in found.clips] == ["é", "é", "café.mp4"]
    assert found.clips[2].clip_id == "café.mp4" and found.clips[2].path.is_file()


def test_clips_of_a_list_are_ordered_by_path_and_time_whatever_the_order_of_rows(json_lines):
    rows = [{"path": "a.mp4", "start": start} for start in (0, 20, 100)] + [{"path": "b.mp4", "clip_id": "0"}]
    rows += [{"path": "a.mp4", "start": 20, "end": end} for end in (25, 100)]
    expected = ["a.mp4#t=0", "a.mp4#t=20,25", "a.mp4#t=20,100", "a.mp4#t=20", "a.mp4#t=100", "0"]
    assert ids(list_clips(json_lines(*rows)).clips) == ids(list_clips(json_lines(*rows[::-1])).clips) == expected


@pytest.mark.parametrize(
    ("start", "end", "clip_id"),
    [
        (None, None, "a.mp4"),
        (0, None, "a.mp4#t=0"),
        (2.5, None, "a.mp4#t=2.5"),
        (None, 7, "a.mp4#t=,7"),
        (0, "100", "a.mp4#t=0,100"),
        ("-0.0", 1.23456, "a.mp4#t=0,1.235"),
        (1e-4, 1e6, "a.mp4#t=0,1000000"),
    ],
)
def test_a_piece_adds_a_media_fragment(json_lines, start, end, clip_id):
    (clip,) = list_clips(json_lines({"path": "a.mp4", "start": start, "end": end})).clips
    assert clip.clip_id == clip_id
    # The seconds are those that the id prints.
    assert all(second is None or second == round(second, 3) for second in (clip.start, clip.end))


def test_unknown_columns_are_ignored_and_named(listed, json_lines):
    for path in (
        listed("path,fps,author,,\na.mp4,25,me,,\n"),
        json_lines({"path": "a.mp4", "fps": 25, "author": None}),
    ):
        assert f"Columns of {path.name} that are not read: 2 (author, fps)." in list_clips(path).notes


def test_a_byte_order_mark_and_rows_of_nothing_do_no_harm(listed):
    found = list_clips(listed(b"\xef\xbb\xbf" + b"path,label\r\n\r\na.mp4,dog\r\n,\r\nb.mp4,cat,,\r\n"))
    assert labels(found) == {"a.mp4": "dog", "b.mp4": "cat"}
    path = listed(b"\xef\xbb\xbf" + '{"path": "a.mp4", "label": "a\u2028b"}\r\n'.encode(), "list.jsonl")
    assert labels(list_clips(path)) == {"a.mp4": "a\u2028b"}


def test_rows_of_a_film_follow_the_one_that_names_a_split(json_lines):
    # By its hash this film trains: the row that names no split must not tear it apart.
    assert split_of("x") == "train"
    found = list_clips(json_lines({"path": "a.mp4", "film": "x"}, {"path": "b.mp4", "film": "x", "split": "test"}))
    assert splits(found) == {"a.mp4": "test", "b.mp4": "test"}


def test_films_that_several_files_make_up_stay_together(json_lines):
    for film in map(str, range(30)):
        found = list_clips(json_lines(*({"path": name, "film": film} for name in ("a.mp4", "b.mp4"))))
        assert {*splits(found).values()} == {split_of(film)}


def test_a_path_of_the_folder_may_be_absolute_or_untidy(films, json_lines):
    inside = json_lines({"path": "a.mp4"}).parent
    path = json_lines({"path": str(inside / "a.mp4")}, {"path": ".//dog/./c.mp4"})
    found = list_clips(path)
    assert ids(found.clips) == ["a.mp4", "dog/c.mp4"] and all(clip.path.is_file() for clip in found.clips)


@pytest.mark.parametrize("value", ["../films/a.mp4", "dog/../a.mp4", "/etc/passwd", "linked.mp4", "away/passwd"])
def test_a_path_that_leaves_the_folder_is_refused(json_lines, value):
    folder = json_lines({"path": "a.mp4"}).parent
    (folder / "linked.mp4").symlink_to("/etc/passwd")
    (folder / "away").symlink_to("/etc")
    with pytest.raises(ValueError, match=rf"list\.jsonl, line 2: '{value}' must lie in the folder of the list"):
        list_clips(json_lines({"path": "b.mp4"}, {"path": value}))


def test_a_link_that_stays_inside_is_fine(json_lines):
    folder = json_lines({"path": "a.mp4"}).parent
    (folder / "linked.mp4").symlink_to("dog/c.mp4")
    assert ids(list_clips(json_lines({"path": "linked.mp4"})).clips) == ["linked.mp4"]


def test_files_that_do_not_exist_are_counted_and_the_first_are_named(json_lines):
    rows = [{"path": f"gone/{number}.mp4"} for number in range(7)] + [{"path": "a.mp4"}, {"path": "dog"}]
    with pytest.raises(ValueError, match=r"8 of 9 rows name a file that does not .*gone/0.*line 1\).*gone/4.*, …\."):
        list_clips(json_lines(*rows))
    with pytest.raises(ValueError, match="1 of 1 rows name a file that does not exist"):
        list_clips(json_lines({"path": "long" * 100 + ".mp4"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list\.csv is empty: expected the column `path`, and a row for each film"),
        ("path,label\n\n,\n", r"list\.csv is empty"),
        ("name,label\na.mp4,dog\n", r"expected the column `path` among .* by commas, got name, label\."),
        ("path;label\na.mp4;dog\n", r"separated by commas, got path;label\."),
        ("path,file_name\na.mp4,a.mp4\n", "both columns `path` and `file_name`: keep one"),
        ("path,label,labels\na.mp4,dog,dog\n", "both columns `label` and `labels`: keep one"),
        ("path,label,label\na.mp4,dog,dog\n", r"two columns of one name: label\."),
        ("path,label\na.mp4,dog, and cat\n", r"line 2: 3 cells in 2 columns: quote what holds a comma"),
        ('path,label\na.mp4,"dog\nb.mp4,cat\n', r"list\.csv, line 3: broken CSV, unexpected end of data"),
        ("path,label\na.mp4,dog\n,cat\n", "line 3: expected the path of a film in column `path`, got nothing"),
        (
            "path,split\na.mp4,dev\n",
            r"line 2: `split` must be one of train, validation, test, val, or empty, got 'dev'",
        ),
        ("path,start\na.mp4,1:30\n", "line 2: `start` must be a number of seconds, 0 or more, got '1:30'"),
        ("path,start\na.mp4,nan\n", "`start` must be a number .* got 'nan'"),
        ("path,end\na.mp4,inf\n", "`end` must be a number .* got 'inf'"),
        ("path,start\na.mp4,-1\n", "`start` must be a number of seconds, 0 or more, got '-1'"),
        ("path,start,end\na.mp4,5,5\n", r"line 2: `end` must lie after `start`, got 5\.0 to 5\.0 seconds"),
        ("path,start,end\na.mp4,5,2\n", "`end` must lie after `start`"),
        ("path,end\na.mp4,0\n", "`end` must lie after `start`"),
        (
            "path,clip_id\na.mp4,x\nb.mp4,y\ndog/c.mp4,x\n",
            r"'x' is there twice: compare .*csv, line 2 and .*csv, line 4",
        ),
        ("path\na.mp4\na.mp4\n", "'a.mp4' is there twice: compare .*, line 2 and .*, line 3"),
        ("path,clip_id\na.mp4,\u00e9\nb.mp4,e\u0301\n", "once accents are composed, but 'é' is there twice"),
        ("path,film,split\na.mp4,x,train\nb.mp4,x,test\n", "The film 'x' must lie in one split: compare .*2 and .*3"),
        (
            "path,start,film\na.mp4,0,x\na.mp4,5,\n",
            r"must have one `film`, unlike those of .*a\.mp4': compare .*2 and .*3",
        ),
        ("path\na\0.mp4\n", "column `path` is no valid text"),
    ],
)
def test_a_bad_csv_is_refused_in_one_sentence(listed, text, message):
    with pytest.raises(ValueError, match=message):
        list_clips(listed(text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'path': 'a.mp4'}", r"list\.jsonl, line 2: broken JSON, Expecting property name"),
        ('{"path": "a.mp4"', "line 2: broken JSON"),
        ("[" * 100_000, "line 2: broken JSON"),
        ('{"path": ' + "1" * 5000 + "}", "line 2: broken JSON, Exceeds the limit"),
        ('["a.mp4"]', 'line 2: expected an object like .*, got ."a.mp4".'),
        ("null", "line 2: expected an object"),
        ('{"label": "dog"}', "line 2: expected the path of a film in column `path`, got nothing"),
        ('{"path": 1.5}', r"line 2: expected text in column `path`, got 1\.5"),
        ('{"path": "a.mp4", "label": true}', "line 2: expected text in column `label`, got True"),
        ('{"path": "a.mp4", "label": ["dog"]}', r"expected text in column `label`, got \['dog'\]"),
        ('{"path": "a.mp4", "labels": "dog;cat"}', "expected a list of classes in `labels`, got 'dog;cat'"),
        ('{"path": "a.mp4", "labels": [["dog"]]}', r"expected text in column `labels`, got \['dog'\]"),
        ('{"path": "a.mp4", "start": true}', "`start` must be a number of seconds, 0 or more, got True"),
        ('{"path": "a.mp4", "start": [1]}', r"`start` must be a number .* got \[1\]"),
        ('{"path": "a.mp4", "end": NaN}', "`end` must be a number .* got nan"),
        ('{"path": "a.mp4", "end": 1' + "0" * 400 + "}", "`end` must be a number"),
        (r'{"path": "a.mp4", "clip_id": "\ud800"}', r"column `clip_id` is no valid text, got '\\ud800'"),
    ],
)
def test_a_bad_json_line_is_refused_in_one_sentence(listed, line, message):
    with pytest.raises(ValueError, match=message):
        list_clips(listed('{"path": "b.mp4"}\n' + line, "list.jsonl"))


@pytest.mark.parametrize(("encoding", "line", "byte"), [("latin-1", 3, "0xe9"), ("utf-16", 1, "0xff")])
def test_a_list_that_is_not_utf8_is_refused_with_the_line(listed, encoding, line, byte):
    with pytest.raises(ValueError, match=rf"list\.csv, line {line}: byte {byte} is not UTF-8: save the list as UTF-8"):
        list_clips(listed("path,label\na.mp4,dog\nb.mp4,bébé\n".encode(encoding)))


# Windows.


def spans(clip, *cut):
    return [(piece.start, piece.end) for piece in windows(clip, *cut)]


def test_windows_are_pieces_of_the_film_in_its_split():
    clip = make_clip()
    first, second, third = windows(clip, 20, 10, 5)
    assert ids([first, second, third]) == ["dog/rex.mp4#t=0,10", "dog/rex.mp4#t=5,15", "dog/rex.mp4#t=10,20"]
    assert second == Clip("dog/rex.mp4#t=5,15", clip.path, clip.film, "train", label="dog", start=5.0, end=15.0)


@pytest.mark.parametrize("clip", [make_clip(), make_clip(start=2.0, end=9.0), make_clip(start=95.0)])
def test_what_is_shorter_than_a_window_stays_whole(clip):
    duration = 9.99 if clip.start is None else 100.0
    assert windows(clip, duration, 10, 5) == [clip]


@pytest.mark.parametrize(
    ("duration", "window", "hop", "expected"),
    [
        (10, 10, 10, [(0, 10)]),
        (14.9, 10, 10, [(0, 10)]),  # less than half a window is left: passed over
        (15, 10, 10, [(0, 10), (5, 15)]),
        (27.3, 10, 10, [(0, 10), (10, 20), (17.3, 27.3)]),
        (12.4, 10, 5, [(0, 10)]),  # each window adds 5 seconds: 2.5 are worth one more
        (12.5, 10, 5, [(0, 10), (2.5, 12.5)]),
        (34.9, 10, 30, [(0, 10)]),  # gaps were asked for, so what lies in one is not missed
        (35, 10, 30, [(0, 10), (25, 35)]),
        (40, 10, 30, [(0, 10), (30, 40)]),
        (2, 0.5, 0.75, [(0, 0.5), (0.75, 1.25), (1.5, 2)]),
    ],
)
def test_the_end_gets_a_window_of_its_own_where_enough_of_it_is_left(duration, window, hop, expected):
    assert spans(make_clip(), duration, window, hop) == expected


def test_a_piece_is_cut_within_itself_in_the_films_own_seconds():
    clip = Clip("rex.mp4#t=30,52", Path("rex.mp4"), "rex.mp4", "test", start=30.0, end=52.0)
    assert ids(windows(clip, 100, 10, 10)) == ["rex.mp4#t=30,40", "rex.mp4#t=40,50"]
    # The film may end before the list says.
    assert ids(windows(clip, 45.5, 10, 10)) == ["rex.mp4#t=30,40", "rex.mp4#t=35.5,45.5"]
    open_end = Clip("mine#t=30", Path("rex.mp4"), "rex.mp4", "test", start=30.0)
    assert ids(windows(open_end, 50, 10, 10)) == ["mine#t=30,40", "mine#t=40,50"]
    named = Clip("mine", Path("rex.mp4"), "rex.mp4", "test", start=30.0, end=52.0)
    assert ids(windows(named, 100, 20, 20)) == ["mine#t=30,50"]


def test_starts_do_not_drift():
    pieces = windows(make_clip(), 3600, 0.3, 0.1)
    assert [piece.start for piece in pieces] == [number / 10 for number in range(len(pieces))]
    assert pieces[-1].clip_id == "dog/rex.mp4#t=3599.7,3600" and len({*ids(pieces)}) == len(pieces)
    thirds = windows(make_clip(), 3000, 1, 1 / 3)
    assert ids(thirds)[1:4] == ["dog/rex.mp4#t=0.333,1.333", "dog/rex.mp4#t=0.667,1.667", "dog/rex.mp4#t=1,2"]
    assert thirds[-1].start == 2999.0


def test_windows_have_their_length_and_lie_within_the_film_whatever_the_numbers():
    draw = random.Random(0)
    for _ in range(300):
        duration, window, hop = draw.uniform(0.5, 60), draw.uniform(0.1, 20), draw.uniform(0.1, 30)
        clip = make_clip(start=draw.choice([None, 0.25]), end=draw.choice([None, 30.0]))
        pieces = windows(clip, duration, window, hop)
        end = min(duration, clip.end or math.inf)
        if pieces == [clip]:
            assert end - (clip.start or 0) < window + 2e-3
            continue
        assert all((clip.start or 0) <= piece.start and piece.end <= end for piece in pieces)
        assert all(abs(piece.end - piece.start - window) < 1e-3 for piece in pieces)
        starts = [piece.start for piece in pieces]
        assert starts == sorted({*starts})
        # What is left unseen is a gap that was asked for, and less than half of what one more window would show.
        assert end - pieces[-1].end <= max(hop - window, 0) + min(hop, window) / 2 + 2e-3


@pytest.mark.parametrize("duration", [1.001, 4.35, 9.2, 12.3, 1.005])
def test_a_film_of_whole_milliseconds_is_seen_to_its_last(duration):
    assert spans(make_clip(), duration, duration / 2, duration / 2)[-1][1] == pytest.approx(duration, abs=1e-3)
    assert spans(make_clip(), duration, 1, 1)[0] == (0, 1)
    assert spans(make_clip(), duration, duration, 1) == [(0, duration)]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ((0, 10, 5), r"Cutting dog/rex\.mp4: duration must be at least 0\.001 seconds, got 0"),
        ((-1, 10, 5), "duration must be"),
        ((math.nan, 10, 5), "duration must be .* got nan"),
        ((math.inf, 10, 5), "duration must be .* got inf"),
        ((20, 0, 5), "window must be at least .* got 0"),
        ((20, math.nan, 5), "window must be"),
        ((20, 10, 0), "hop must be at least .* got 0"),
        ((20, 10, -5), "hop must be"),
        ((20, 10, math.nan), "hop must be"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(cut, message):
    with pytest.raises(ValueError, match=message):
        windows(make_clip(), *cut)


def test_a_piece_beyond_the_end_of_its_film_is_refused():
    with pytest.raises(ValueError, match=r"starts at 30\.0 seconds, but its film lasts 12"):
        windows(make_clip(start=30.0, end=40.0), 12, 10, 5)


def test_a_link_to_a_film_in_a_list_is_that_film_again(tmp_path):
    (tmp_path / "rex.mp4").write_text("")
    (tmp_path / "again.mp4").symlink_to(tmp_path / "rex.mp4")
    (tmp_path / "metadata.csv").write_text("path\nrex.mp4\nagain.mp4\n")
    with pytest.raises(ValueError, match=r"must have one `film`, unlike .*rex\.mp4.*line 2 .*line 3"):
        list_clips(tmp_path)
    (tmp_path / "metadata.csv").write_text("path,film\nrex.mp4,rex\nagain.mp4,rex\n")
    assert len({clip.split for clip in list_clips(tmp_path).clips}) == 1
