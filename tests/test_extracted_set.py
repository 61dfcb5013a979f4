"""What an extraction leaves: a data set, a table of what was skipped, and one sentence where nothing can be made."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, List, Value, load_dataset

from modeling_dualspace import film_reader
from modeling_dualspace.cli import main
from modeling_dualspace.extraction import extract
from modeling_dualspace.feature_dataset import dataset_fingerprint, keep_paired, to_tensors
from modeling_dualspace.feature_schema import Description
from modeling_dualspace.files import locked as locked_folder
from modeling_dualspace.optional import require
from modeling_dualspace.processing_dualspace import DualSubspaceProcessor

av = require("av", extra="media")
AUDIO, VISUAL = "logmel@2066f12f", "thumbnail@cdb600da"
RATE, FPS = 16_000, 10


@pytest.fixture(autouse=True)
def _in_time():
    """Whatever waits for a pipe or a thread is ended after a minute."""

    def late(number, frame):
        raise TimeoutError("this took a minute")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def coded(path, seed=0, picture=0.4, sound=0.4, **options):
    """A film of so many seconds of random picture and of noise, either of which may be None."""
    chance = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"file:{path}", "w", options={"fflags": "+bitexact"} | options) as container:
        streams = []
        if picture is not None:
            video = container.add_stream("mpeg4", rate=FPS)
            video.width, video.height = 64, 48
            streams.append(video)
        if sound is not None:
            audio = container.add_stream("aac", rate=RATE, layout="mono")
            streams.append(audio)
        if picture is not None:
            for _ in range(round(picture * FPS)):
                pixels = chance.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if sound is not None:
            samples = 0.1 * chance.standard_normal((1, round(sound * RATE))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
            container.mux(audio.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def tone(path, pitch, samples=8_000):
    """A film without a picture, uncoded: as many bytes whatever is heard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((9_000 * np.sin(np.arange(samples) * pitch)).astype(np.int16).tobytes())
    os.utime(path, (10**9, 10**9))
    return path


def make(source, out, **settings):
    return extract(source, out, progress=False, **settings)


def rows(out):
    """Every row by its id, whatever its split."""
    tables = [pq.read_table(file) for file in sorted(Path(out).rglob("*.parquet"))]
    return {row["clip_id"]: row for table in tables for row in table.to_pylist()}


def skipped(out):
    """The table's rows, by clip."""
    with open(out / "skipped.csv", newline="", encoding="utf-8") as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}


def state(folder):
    """Every file, with when it was written."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """`film(path, seed)`: one of a few films, under another name."""
    folder = tmp_path_factory.mktemp("clips")
    made = [coded(folder / f"{seed}.mp4", seed) for seed in range(6)]

    def copied(path, seed=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made[seed % len(made)], path)
        return path

    return copied


@pytest.fixture
def films(film, tmp_path):
    """Six, side by side."""
    for seed in range(6):
        film(tmp_path / "films" / f"{seed}.mp4", seed)
    return tmp_path / "films"


# Columns.


def test_a_folder_of_classes_becomes_the_columns_that_training_takes(film, tmp_path):
    for seed, name in enumerate(("dog/b", "dog/a", "cat/é", "cat/z", "cat/sub/y", "owl/k")):
        for split in ("train", "test"):
            film(tmp_path / "films" / split / f"{name}.mp4", seed)
    found = make(tmp_path / "films", tmp_path / "out", window=0.2)
    data = load_dataset(str(tmp_path / "out"))
    assert {split: len(rows) for split, rows in data.items()} == found["splits"] == {"train": 12, "test": 12}
    assert dict(data["train"].features) == {
        "clip_id": Value("string"),
        "audio_features": List(Value("float32"), length=128),
        "visual_features": List(Value("float32"), length=1024),
        "label": ClassLabel(names=["cat", "dog", "owl"]),
        "path": Value("string"),
        "start": Value("float64"),
        "end": Value("float64"),
    }
    for split, clips in data.items():
        assert clips["clip_id"] == [
            f"{path}#t={span}" for path in sorted(set(clips["path"])) for span in ("0,0.2", "0.2,0.4")
        ]
        assert clips["start"] == [0, 0.2] * 6 and clips["end"] == [0.2, 0.4] * 6
        assert [f"{split}/{clips.features['label'].int2str(label)}" for label in clips["label"]] == [
            "/".join(path.split("/")[:2]) for path in clips["path"]
        ]
        assert set(to_tensors(clips)) == {"index", "audio_features", "visual_features", "labels"}


def test_the_description_names_the_content_and_what_made_it(films, tmp_path):
    found = make(films, tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"))
    said = Description.parse(next(iter(data.values())).info.description)
    assert str(said) == found["description"]
    assert said == Description(dataset_fingerprint(data), AUDIO, VISUAL, synthetic=False)
    assert DualSubspaceProcessor.from_pretrained(tmp_path / "out").feature_spec == f"audio={AUDIO} visual={VISUAL}"


@pytest.mark.parametrize("how", ["name", "card"])
def test_films_that_were_made_up_make_features_that_say_so(films, tmp_path, how):
    if how == "name":
        films = films.rename(tmp_path / "my-synthetic-films")
    else:
        (films / "README.md").write_text("---\ntags:\n- synthetic\n---\n# Drawn\n")
    assert make(films, tmp_path / "out")["description"].endswith(" synthetic=true")


LISTS = {
    "metadata.csv": "file_name,label,split\n1.mp4,dog,test\n0.mp4,owl,train\n2.mp4,,train\n3.mp4,dog,val\n",
    "metadata.jsonl": '{"path": "1.mp4", "label": "dog", "split": "test"}\n'
    '{"path": "0.mp4", "label": "owl", "split": "train"}\n{"path": "2.mp4", "split": "train"}\n'
    '{"path": "3.mp4", "label": "dog", "split": "validation"}\n',
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("direct", [False, True])
def test_a_list_says_what_is_a_clip_and_what_it_shows(films, tmp_path, name, direct):
    (films / name).write_text(LISTS[name])
    make(films / name if direct else films, tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"))
    assert {split: clips["clip_id"] for split, clips in data.items()} == {
        "train": ["0.mp4", "2.mp4"], "validation": ["3.mp4"], "test": ["1.mp4"],
    }  # fmt: skip
    assert {split: clips["label"] for split, clips in data.items()} == {
        "train": [1, None], "validation": [0], "test": [0],
    }  # fmt: skip
    assert data["train"].features["label"].names == ["dog", "owl"]


def test_a_clip_of_several_classes_has_a_row_of_memberships(films, tmp_path):
    (films / "metadata.csv").write_text("path,labels,split\n0.mp4,dog;owl,train\n1.mp4,owl,train\n2.mp4,,train\n")
    make(films, tmp_path / "out")
    clips = load_dataset(str(tmp_path / "out"), split="train")
    assert "label" not in clips.features and Description.parse(clips.info.description).class_names == ("dog", "owl")
    np.testing.assert_array_equal(clips["labels"], [[1, 1], [0, 1], [np.nan, np.nan]])


def test_films_that_nobody_annotated_have_no_column_for_it(films, tmp_path):
    make(films, tmp_path / "out")
    for clips in load_dataset(str(tmp_path / "out")).values():
        assert not {"label", "labels"} & set(clips.features)


def test_a_class_whose_clips_are_all_bad_is_left_out_and_named(films, tmp_path):
    (films / "0.mp4").write_bytes(b"")
    (films / "metadata.csv").write_text("path,label,split\n0.mp4,ant,train\n1.mp4,owl,train\n")
    found = make(films, tmp_path / "out")
    assert found["classes"] == ["owl"]
    assert "Classes left without a clip, which are left out: ant." in found["notes"]
    assert load_dataset(str(tmp_path / "out"), split="train")["label"] == [0]


def test_pieces_of_a_film_are_listed_once_within_the_film_and_each_with_its_own_fault(films, tmp_path):
    lines = ["0.mp4,0,9", "0.mp4,0.1,0.3", "1.mp4,0,0.3", "1.mp4,0,0.4", "1.mp4,7,8"]
    (films / "metadata.csv").write_text("\n".join(["path,start,end", *lines]))
    make(films, tmp_path / "out", window=0.2, hop=0.1)
    assert sorted((row["path"], row["start"], row["end"]) for row in rows(tmp_path / "out").values()) == [
        ("0.mp4", 0, 0.2), ("0.mp4", 0.1, 0.3), ("0.mp4", 0.2, 0.4),
        ("1.mp4", 0, 0.2), ("1.mp4", 0.1, 0.3), ("1.mp4", 0.2, 0.4),
    ]  # fmt: skip
    with open(tmp_path / "out" / "skipped.csv", newline="") as file:
        assert sorted((row["clip_id"], row["reason"]) for row in csv.DictReader(file)) == [
            ("0.mp4#t=0.1,0.3", "is the same piece of its film as another clip"),
            ("1.mp4#t=0,0.2", "is the same piece of its film as another clip"),
            ("1.mp4#t=0.1,0.3", "is the same piece of its film as another clip"),
            ("1.mp4#t=7,8", "starts at 7 s, and its film lasts 0.4 s"),
        ]


def test_a_piece_that_starts_in_the_last_millisecond_spoils_no_other_of_its_film(tmp_path):
    tone(tmp_path / "films" / "a.wav", 0.1, samples=RATE + 1)
    (tmp_path / "films" / "metadata.csv").write_text("path,start,end\na.wav,0,0.5\na.wav,1,\n")
    found = make(tmp_path / "films", tmp_path / "out", window=0.5, keep_unpaired=True)
    assert (found["clips"], found["skipped"]) == (1, 1)


# Clips without sound, clips without a picture.


@pytest.fixture
def halves(film, tmp_path):
    """A whole film, one that is silent, one that is blind, and one of whose two windows either is either."""
    film(tmp_path / "halves" / "whole.mp4")
    coded(tmp_path / "halves" / "silent.mp4", 1, sound=None)
    coded(tmp_path / "halves" / "blind.mp4", 2, picture=None)
    return tmp_path / "halves"


def test_clips_that_lack_a_track_are_listed(halves, tmp_path):
    found = make(halves, tmp_path / "out")
    assert (found["clips"], found["skipped"], found["table"]) == (1, 2, str(tmp_path / "out" / "skipped.csv"))
    assert {name: row["reason"] for name, row in skipped(tmp_path / "out").items()} == {
        "blind.mp4": "has no picture there",
        "silent.mp4": "has no sound there",
    }


def test_they_are_kept_where_that_is_asked_and_what_trains_can_drop_them(halves, tmp_path):
    found = make(halves, tmp_path / "out", keep_unpaired=True)
    assert (found["clips"], found["skipped"], found["table"]) == (3, 0, None)
    kept = rows(tmp_path / "out")
    assert {name: [row[f"{kind}_features"] is None for kind in ("audio", "visual")] for name, row in kept.items()} == {
        "whole.mp4": [False, False], "silent.mp4": [True, False], "blind.mp4": [False, True],
    }  # fmt: skip
    make(halves, tmp_path / "paired")
    assert rows(tmp_path / "paired")["whole.mp4"] == kept["whole.mp4"]
    clips = [keep_paired(split)["clip_id"] for split in load_dataset(str(tmp_path / "out")).values()]
    assert [name for names in clips for name in names] == ["whole.mp4"]


def test_a_track_that_ends_early_is_missing_only_from_there_on(tmp_path):
    coded(tmp_path / "films" / "a.mkv", picture=0.4, sound=1.2)
    found = make(tmp_path / "films", tmp_path / "out", window=0.4)
    assert found["clips"] == 1
    # The last picture stays as long as it lasts: not into the second window.
    assert [row["reason"] for row in skipped(tmp_path / "out").values()] == ["has no picture there"] * 2


# Hostile folders.


@pytest.fixture
def locked(monkeypatch):
    """`locked(path)`: it cannot be read, by nobody; that is undone by `locked.undo()`."""
    with monkeypatch.context() as patched:

        def lock(path):
            os.chmod(path, 0)  # which does not keep root out
            opened, access = av.open, os.access

            def refuse(file, *arguments, **settings):
                if str(file).endswith(path.name):
                    raise PermissionError(13, "Permission denied", str(file))
                return opened(file, *arguments, **settings)

            patched.setattr(av, "open", refuse)
            patched.setattr(os, "access", lambda file, mode: Path(file) != path and access(file, mode))

        lock.undo = patched.undo
        yield lock


BAD = {
    "zero.mp4": "is empty",
    "text.mp4": "is no film that can be read (invalid data found when processing input)",
    "cut at the end.mp4": "is no film that can be read (invalid data found when processing input)",
    "cut at the beginning.mp4": "is cut off: it ends after a while, and says it lasts 3.0 s",
    "silent.mp4": "has no sound there",
    "blind.mp4": "has no picture there",
    "huge.mov": "",
    "locked.mp4": "cannot be read: Permission denied",
    'b"a\nd,\r.mp4': "is empty",
    "folder.mp4": "is a folder",
    "pipe.mp4": "is no regular file",
    "broken.mp4": "is a link that is broken, leads upwards or to what is listed already",
    "itself.mp4": "is a link that is broken, leads upwards or to what is listed already",
}
GOOD = [
    "-dash.mp4", "new\nline.mp4", "quo\"te's.mp4", "com,ma.mp4", "co:lon.mp4", "http:x.mp4", "pipe:1.mp4",
    "per%03dcent.mp4", " space .mp4", "日本.mp4", "`code`|<b>{{x}}.mp4", "=1+1.mp4", "one-frame.mp4",
    "fifth-of-a-second.mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(film, tmp_path_factory):
    """All that can lie in a folder."""
    folder = tmp_path_factory.mktemp("hostile") / "films"
    for seed, name in enumerate(GOOD):
        film(folder / name, seed)
    coded(folder / "one-frame.mp4", 7, picture=0.1, sound=0.2)
    coded(folder / "fifth-of-a-second.mp4", 8, picture=0.2, sound=0.2)
    for name in ("zero.mp4", 'b"a\nd,\r.mp4'):
        (folder / name).write_bytes(b"")
    (folder / "text.mp4").write_text("#EXTM3U\nhttp://localhost/x.ts\n")
    for name, options in (("cut at the end.mp4", {}), ("cut at the beginning.mp4", {"movflags": "faststart"})):
        os.truncate(coded(folder / name, 9, 3, 3, **options), (folder / name).stat().st_size // 2)
    coded(folder / "silent.mp4", 1, sound=None)
    coded(folder / "blind.mp4", 2, picture=None)
    with av.open(str(folder / "huge.mov"), "w") as container:
        video = container.add_stream("png", rate=1)
        video.width, video.height, video.pix_fmt = 10_000, 10_000, "monob"
        frame = av.VideoFrame(10_000, 10_000, "monob")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        for packet in [*video.encode(frame), *video.encode(None)]:
            container.mux(packet)
    film(folder / "locked.mp4", 3)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    os.symlink(".", folder / "loop")
    os.symlink("itself.mp4", folder / "itself.mp4")
    os.symlink("nowhere.mp4", folder / "broken.mp4")
    return folder


def test_a_hostile_folder_gives_what_can_be_had_and_lists_the_rest(hostile, tmp_path, monkeypatch, locked, capfd):
    monkeypatch.chdir(tmp_path)
    locked(hostile / "locked.mp4")
    assert main(["extract", str(hostile), "--out", "out", "--json"]) == 3
    printed = capfd.readouterr()
    assert not printed.err and printed.out.count("\n") == 1
    found = json.loads(printed.out)
    assert (found["clips"], found["skipped"]) == (len(GOOD), len(BAD))
    assert found["notes"][0] == "Files that are no films: 1 .mp4."
    assert re.match(r"Links that are broken.*: 3 \(broken.mp4, itself.mp4, loop\)", found["notes"][1])
    table = skipped(Path("out"))
    table["huge.mov"]["reason"] = ""  # the next test is about it
    cut = table["cut at the beginning.mp4"]
    cut["reason"] = re.sub(r"after [12]\.\d s", "after a while", cut["reason"])  # that is the encoder's
    assert table == {name: {"clip_id": name, "path": name, "reason": reason} for name, reason in BAD.items()}
    assert rows("out").keys() == set(GOOD)
    before = state(Path("out"))
    assert main(["extract", str(hostile), "--out", "out"]) == 3
    printed = capfd.readouterr()
    assert printed.out.startswith("Nothing to do") and not printed.err
    assert state(Path("out")) == before
    assert os.listdir() == ["out"]


def test_what_is_said_of_a_frame_that_is_too_large_is_the_limit(hostile, tmp_path):
    (tmp_path / "films").mkdir()
    os.link(hostile / "huge.mov", tmp_path / "films" / "huge.mov")
    with pytest.raises(ValueError, match="has frames of no size, or larger than the limit of 36,000,000 pixels in all"):
        make(tmp_path / "films", tmp_path / "out")


def test_a_bad_film_does_no_harm_to_its_neighbours(hostile, tmp_path, locked):
    locked(hostile / "locked.mp4")
    make(hostile, tmp_path / "all")
    for name in GOOD:
        (tmp_path / "good").mkdir(exist_ok=True)
        shutil.copyfile(hostile / name, tmp_path / "good" / name)
    make(tmp_path / "good", tmp_path / "out")
    assert rows(tmp_path / "out") == rows(tmp_path / "all")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_name_that_is_not_utf8_is_named_before_anything_is_read(films, tmp_path, capfd):
    shutil.copyfile(films / "0.mp4", os.fsdecode(bytes(films) + b"/\xff.mp4"))
    assert main(["extract", str(films), "--out", str(tmp_path / "out")]) == 1
    assert capfd.readouterr() == (
        "", f"dualspace: {films}: the name b'\\xff.mp4' is not UTF-8 and cannot be an id: rename it.\n",
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["films"]


def test_a_class_may_be_called_anything(film, tmp_path):
    names = ['we"ird', "new\nline", "a, b", "c: d", "- x", "null", "0", "é", "{{x}}", "`y`|z", "it's"]
    for number, name in enumerate(names):
        film(tmp_path / "films" / "train" / name / f"{number}.mp4", number)
    make(tmp_path / "films", tmp_path / "out")
    clips = load_dataset(str(tmp_path / "out"), split="train")
    assert {Path(row["path"]).parent.name: clips.features["label"].int2str(row["label"]) for row in clips} == {
        name: name for name in names
    }


def test_a_folder_of_nothing_good_is_one_sentence_and_leaves_no_data_set(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("films").mkdir()
    for number in range(5):
        Path("films", f"{number}.mp4").write_text("x" * number)
    for _ in range(2):
        assert main(["extract", "films", "--out", "out", "--json"]) == 1
        unreadable = "is no film that can be read (invalid data found when processing input)"
        assert capfd.readouterr() == (
            "",
            f"dualspace: None of 5 clips can be used: 0.mp4 is empty; 1.mp4 {unreadable}; 2.mp4 {unreadable}.\n",
        )
        assert not Path("out").exists()


def test_films_none_of_which_could_be_read_are_tried_again_where_all_is_to_be_overwritten(film, tmp_path, locked):
    path = film(tmp_path / "films" / "a.mp4")
    locked(path)
    with pytest.raises(ValueError, match="Permission denied"):
        make(tmp_path / "films", tmp_path / "out")
    locked.undo()
    assert make(tmp_path / "films", tmp_path / "out", overwrite=True)["clips"] == 1


def test_a_film_that_could_not_be_read_is_tried_again_once_it_can_be(films, tmp_path, locked):
    locked(films / "3.mp4")
    assert make(films, tmp_path / "out")["skipped"] == 1
    locked.undo()
    os.chmod(films / "3.mp4", 0o644)
    try:
        found = make(films, tmp_path / "out")
    except ValueError as error:  # that one has to overwrite is all right
        assert "--overwrite" in str(error)
    else:
        assert found["clips"] == 6


# Wrong use.

WRONG = {
    "empty": "No film below empty: looked for .mp4",
    "nowhere": "nowhere does not exist",
    "file": "file is another kind of file",
    "films/0.mp4": "films/0.mp4 is another kind of file",
    "pipes.csv": "1 of 1 rows name a file that does not exist: 'pipe.mp4'",
    "films --out there": "there exists already and is not empty: choose another name, or pass --overwrite",
    "films --out there --overwrite": "there was not made here, so it is not overwritten",
    "films --out file": "file is a file; a folder will be made",
    "films --out file/deep": "file is a file, so nothing can lie below it",
    "films --out .": "films lies in ., which would be replaced",
    "films --out films": "films lies in films, which would be replaced",
    "box/inside --out box --overwrite": "box/inside lies in box, which would be replaced",
    "films --out a*b": "takes a name with any of * ? [ ] for a pattern",
    "films --audio logmell": "The audio backbone 'logmell' cannot be loaded",
    "films --audio films": "The audio backbone 'films' cannot be loaded",
    "films --audio thumbnail": "`thumbnail` makes visual features, not audio ones",
    "films --visual logmel": "`logmel` makes audio features, not visual ones",
    "films --hop 1": "A hop is between windows: say how long they are, with --window",
    "films --window 0": "--window is in seconds, from 0.1 to 86,400, got 0",
    "films --window -1": "--window is in seconds, from 0.1 to 86,400, got -1",
    "films --window nan": "--window is in seconds, from 0.1 to 86,400, got nan",
    "films --window inf": "--window is in seconds, from 0.1 to 86,400, got inf",
    "films --window 1 --hop 0": "--hop is in seconds, from 0.1 to 86,400, got 0",
    "films --window 1 --hop nan": "--hop is in seconds, from 0.1 to 86,400, got nan",
    "films --fps 0": "Frames a second lie between 0.01 and 120, got 0.0",
    "films --fps nan": "Frames a second lie between 0.01 and 120, got nan",
    "films --fps 999": "Frames a second lie between 0.01 and 120, got 999.0",
}
WRONG_WORDS = {
    "": "the following arguments are required: FOLDER",
    "films --window": "argument --window: expected one argument",
    "films --window ten": "argument --window: invalid float value: 'ten'",
    "films --max-seconds x": "argument --max-seconds: invalid float value: 'x'",
    "films --max-bytes 0": "argument --max-bytes: expected a whole number of at least 1, got '0'",
    "films --max-bytes -1": "argument --max-bytes: expected a whole number of at least 1, got '-1'",
    "films --max-pixels 1.5": "argument --max-pixels: expected a whole number of at least 1, got '1.5'",
    "films --batch-size 0": "argument --batch-size: expected a whole number of at least 1, got '0'",
    "films --workers 0": "argument --workers: expected a whole number of at least 1, got '0'",
    "films --dtype float8": "argument --dtype: invalid choice: 'float8'",
    "films --windows 3": "unrecognized arguments: --windows 3",
}


@pytest.fixture
def here(film, tmp_path, monkeypatch):
    """Where one stands, with some things that are there already."""
    monkeypatch.chdir(tmp_path)
    film(Path("films/0.mp4"))
    film(Path("films/1.mp4"), 1)
    film(Path("box/inside/0.mp4"))
    Path("empty").mkdir()
    Path("file").write_text("x")
    Path("there").mkdir()
    Path("there/mine").write_text("x")
    os.mkfifo("pipe.mp4")
    Path("pipes.csv").write_text("path\npipe.mp4\n")
    return tmp_path


def argv(line):
    words = line.split()
    return ["extract", *words, *([] if "--out" in words else ["--out", "out"])]


def test_whatever_is_wrong_is_one_sentence_and_nothing_is_written(here, capfd, subtests):
    for line, sentence in WRONG.items():
        with subtests.test(line):
            before = set(here.rglob("*"))
            assert main(argv(line)) == 1
            printed = capfd.readouterr()
            assert printed.err.startswith("dualspace: ") and printed.err.count("\n") == 1 and sentence in printed.err
            assert not printed.out and set(here.rglob("*")) == before


def test_wrong_words_exit_with_2_and_nothing_is_written(here, capsys, subtests):
    for line, sentence in WRONG_WORDS.items():
        with subtests.test(line):
            before = set(here.rglob("*"))
            with pytest.raises(SystemExit) as stopped:
                main(argv(line))
            assert stopped.value.code == 2 and sentence in capsys.readouterr().err
            assert set(here.rglob("*")) == before


@pytest.mark.parametrize("limit", ["nan", "0", "-1"])
def test_a_limit_that_no_film_could_keep_is_refused_before_any_is_read(here, capfd, limit):
    before = set(here.rglob("*"))
    try:
        code = main(["extract", "films", "--out", "out", "--max-seconds", limit])
    except SystemExit as stopped:
        code = stopped.code
    assert code in (1, 2) and set(here.rglob("*")) == before


@pytest.mark.parametrize("out", [os.fsdecode(b"\xff"), "file/deep", "x" * 245], ids=["bytes", "below-a-file", "long"])
def test_a_place_where_nothing_can_be_written_is_refused_before_any_film_is_read(here, monkeypatch, capfd, out):
    read = []
    monkeypatch.setattr(film_reader, "Film", lambda path, *settings, **more: read.append(path))
    assert main(["extract", "films", "--out", out]) == 1
    assert capfd.readouterr().err.count("\n") == 1 and not read


def test_two_jobs_do_not_write_to_one_place_at_once(here, capfd):
    with locked_folder(Path(".out.extracting"), "taken"):
        assert main(["extract", "films", "--out", "out"]) == 1
    assert capfd.readouterr().err == (
        "dualspace: Another process is extracting to out: wait for it, or choose another --out.\n"
    )
    assert main(["extract", "films", "--out", "out"]) == 0


def test_a_data_set_among_its_films_is_no_film(here):
    found = make("films", "films/out")
    assert found["clips"] == 2
    assert make("films", "films/out")["notes"] == [
        "Nothing to do: it was extracted before, from the same films and by the same settings."
    ]


@pytest.mark.parametrize(("window", "code"), [("0.2", 1), (None, 0)])
def test_another_data_set_is_replaced_only_where_that_is_asked(here, capfd, window, code):
    settings = ["--window", window] if window else []
    assert main(["extract", "films", "--out", "out"]) == 0
    before = rows("out")
    assert main(["extract", "films", "--out", "out", *settings]) == code and rows("out") == before
    assert main(["extract", "films", "--out", "out", *settings, "--overwrite"]) == 0
    assert (rows("out") != before) == bool(window)
    assert not Path(".out.extracting").exists()


# What was made before.


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda out: (out / "README.md").unlink(), id="no-card"),
        pytest.param(lambda out: (out / "README.md").write_text("# Mine\n"), id="another-card"),
        pytest.param(lambda out: shutil.rmtree(out / "data"), id="no-data"),
    ],
)
def test_a_data_set_that_was_spoilt_is_not_called_finished(films, tmp_path, capfd, spoil):
    make(films, tmp_path / "out")
    spoil(tmp_path / "out")
    assert main(["extract", str(films), "--out", str(tmp_path / "out")]) == 1
    printed = capfd.readouterr()
    assert not printed.out and printed.err.count("\n") == 1


def test_a_film_of_another_name_is_found_in_the_data_set_by_that(films, tmp_path):
    (films / "metadata.csv").write_text("path,clip_id,split\n0.mp4,a,train\n1.mp4,b,train\n")
    make(films, tmp_path / "out")
    (films / "0.mp4").rename(films / "00.mp4")
    (films / "metadata.csv").write_text("path,clip_id,split\n00.mp4,a,train\n1.mp4,b,train\n")
    with pytest.raises(ValueError, match="--overwrite"):
        make(films, tmp_path / "out")


def test_another_film_under_the_same_id_is_read_whatever_its_size_and_time(tmp_path):
    for name, pitch in (("a", 0.05), ("b", 0.6)):
        tone(tmp_path / "films" / f"{name}.wav", pitch)
    found = {}
    for name in ("a", "b"):
        (tmp_path / "films" / "metadata.csv").write_text(f"path,clip_id,film,split\n{name}.wav,x,x,train\n")
        make(tmp_path / "films", tmp_path / name, keep_unpaired=True)
        found[name] = rows(tmp_path / name)["x"]["audio_features"]
    assert found["a"] != found["b"]
    (tmp_path / "films" / "metadata.csv").write_text("path,clip_id,film,split\na.wav,x,x,train\n")
    with pytest.raises(ValueError, match="--overwrite"):
        make(tmp_path / "films", tmp_path / "b", keep_unpaired=True)


# Two hours.


def peak_of(folder, *settings):
    """What the command says in a process of its own, and the most memory that this had, in kB."""
    command = [sys.executable, "-m", "modeling_dualspace", "extract", "films", "--out", "out", "--json", *settings]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        peak = 0  # since the program began: what wait4 tells was that of pytest, before
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *map(int, re.findall(r"VmHWM:\s*(\d+) kB", status))])
            time.sleep(0.02)
        found = json.loads(process.stdout.read())
    assert process.returncode == 0
    return found, peak


@pytest.fixture(scope="module")
def peak_of_two_seconds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    coded(folder / "films" / "short.mp4", picture=2, sound=2)
    return peak_of(folder)[1]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [["--window", "10"], []], ids=["windows", "whole"])
def test_a_film_of_two_hours_needs_hardly_more_memory_than_one_of_two_seconds(
    tmp_path, needs_tool, peak_of_two_seconds, settings
):
    signal.alarm(600)
    small = coded(tmp_path / "small.mp4", picture=2, sound=2)
    (tmp_path / "films").mkdir()
    command = f"-v error -nostdin -stream_loop -1 -i {small} -t 7200 -c copy {tmp_path}/films/long.mp4"
    subprocess.run([needs_tool("ffmpeg"), *command.split()], check=True, timeout=100)
    found, peak = peak_of(tmp_path, *settings)
    assert found["clips"] == (720 if settings else 1)
    # Units that wait (64 MiB at most), 720 sums of 1,152 float64 (7 MB), the table of their means: the decoded film,
    # 1.1 GB of pixels and sound, would not fit in.
    assert peak - peak_of_two_seconds < 150_000, f"{peak:,} kB, and {peak_of_two_seconds:,} kB for two seconds"


@pytest.mark.slow
def test_an_extraction_fits_into_600_megabytes(peak_of_two_seconds):
    assert peak_of_two_seconds < 600_000, f"{peak_of_two_seconds:,} kB"
