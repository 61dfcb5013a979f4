"""The commands `index`, `search`, `app` and `completion`, and what all commands share."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from tiny_page import write_tiny
from tiny_release import write_data, write_run

from modeling_dualspace import index_folder
from modeling_dualspace.cli import build_parser, main
from modeling_dualspace.index import open_index
from modeling_dualspace.indexing import features_beside, open_there, render
from modeling_dualspace.recipe import known_recipes
from modeling_dualspace.sample_clips import write_clips

COMMANDS = next(action.choices for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """`films`, `model` and `index`, ten clips."""
    return write_tiny(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`tiny-data` and `runs/tiny`."""
    root = tmp_path_factory.mktemp("run")
    write_data(root / "tiny-data")
    write_run(root / "runs" / "tiny", str(root / "tiny-data"))
    return root


@pytest.fixture
def said(capsys):
    """`said(words...)`: exit code, stdout, stderr."""

    def run(*words):
        capsys.readouterr()
        code = main(list(map(str, words)))
        return code, *capsys.readouterr()

    return run


def drum(films):
    return next((films / "films" / "drum").glob("*.mp4"))


def test_every_command_shows_examples_that_it_takes():
    for name, parser in COMMANDS.items():
        examples = [line.strip() for line in parser.format_help().split("examples:")[1].splitlines() if line.strip()]
        assert examples, name
        for line in examples:
            words = shlex.split(line.partition(" > ")[0])
            words = words[words.index("modeling_dualspace") :] if "-m" in words else words
            arguments, rest = build_parser().parse_known_args(words[1:])
            assert words[1] == name
            assert all("=" in word and hasattr(arguments, "overrides") for word in rest), line


def test_a_data_set_becomes_searchable_and_says_what_it_holds(run, said, tmp_path):
    place, words = tmp_path / "index", (run / "runs" / "tiny", run / "tiny-data")
    code, out, err = said("index", *words, "--out", place)
    assert code == 0 and out.startswith("Added 105 clips\n") and "dog 35, drum 35, train 35" in out
    assert said("index", *words, "--out", place)[1].startswith("Added 0 clips\n")
    found = json.loads(said("index", "--out", place, "--json")[1])
    assert found["clips"] == 105 and found["model"]["id"] == str((run / "runs" / "tiny").resolve())
    removed = said("index", "--out", place, "--delete", "test/0", "test/1", "typo")[1]
    assert removed.startswith("Removed 2 clips; not there: typo\n")
    code, out, _ = said("index", *words, "--out", place, "--split", "test", "--prune", "--json")
    assert json.loads(out)["added"] == 2 and json.loads(out)["removed"] == 75 and json.loads(out)["clips"] == 30


def test_a_folder_of_films_becomes_searchable_by_one_command_and_follows_the_folder(films, said, tmp_path):
    shutil.copytree(films / "films", tmp_path / "films", ignore=shutil.ignore_patterns("*.csv"))
    (tmp_path / "films" / "drum" / "broken.mp4").write_bytes(b"no film")
    place = tmp_path / "index"
    words = ("index", films / "model", tmp_path / "films", "--out", place, "--window", "0.25", "--hop", "0.25")
    code, out, err = said(*words, "--json")
    found = json.loads(out)
    assert code == 3 and "Skipped 1 clips, listed in" in err and found["clips"] == found["added"] == 20
    assert found["films"] == 10 and (tmp_path / "index-features" / "skipped.csv").is_file()
    code, out, _ = said("search", place, "--audio", drum(films), "-k", 3, "--per-film", "--json")
    hits = json.loads(out)
    assert len({hit["path"] for hit in hits}) == 3 and all(hit["end"] - hit["start"] == 0.25 for hit in hits)
    with open_there(str(place)) as index:  # where its films are was noted
        assert index.film(index.get([hits[0]["clip_id"]])[0]).is_file()
    # A film goes, another is mended: the same command follows.
    shutil.copyfile(drum(films), tmp_path / "films" / "drum" / "broken.mp4")
    next((tmp_path / "films" / "rain").glob("*.mp4")).unlink()
    code, out, _ = said(*words, "--prune")
    assert code == 0 and ", removed 2\n" in out and "20 clips of 10 films" in out


def test_what_was_found_is_a_line_a_clip_in_a_pipe(films, said):
    code, out, err = said("search", films / "index", "--audio", drum(films), "-k", 4)
    rows = [line.split("\t") for line in out.splitlines()]
    with open_index(films / "index") as index:
        hits = index.search(audio=str(drum(films)), k=4)
    assert code == 0 and [row[-1] for row in rows] == [hit.clip_id for hit in hits]
    assert [float(row[0]) for row in rows] == [round(hit.score, 4) for hit in hits]
    assert rows[0][2:4] == ["0.1", "0.4"]
    found = json.loads(said("search", films / "index", "--audio", drum(films), "-k", 4, "--json")[1])
    assert found == [hit.to_dict() for hit in hits]


def test_a_terminal_sees_a_table(films, said, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = said("search", films / "index", "--video", drum(films), "-k", 2)
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["score", "film", "start", "end", "labels", "clip"]
    assert len(lines) == 3 and len({line.index("0.1  ") for line in lines[1:]}) == 1
    assert said("search", films / "index", "--video", drum(films), "--where", "year<0")[1] == ""


def test_filters_choose_among_clips_and_nothing_found_is_said(films, said):
    words = ("search", films / "index", "--video", drum(films))
    year = {row.split("\t")[-1] for row in said(*words, "--where", "year<2004")[1].splitlines()}
    assert len(year) == 3
    code, out, err = said(*words, "--label", "drum", "--label", "rain", "--json")
    assert {hit["labels"][0] for hit in json.loads(out)} == {"drum", "rain"}
    code, out, err = said(*words, "--label", "no such")
    assert (code, out) == (1, "") and "No clip is labelled no such: there are " in err and "drum" in err
    code, out, err = said(*words, "--where", "yaer=2004", "--json")
    assert (code, out) == (1, "") and "No clip says anything about yaer: there are year." in err
    assert said(*words, "--where", "year>3000", "--json") == (0, "[]\n", "No clip passes this filter.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("index", "runs/tiny", "--out", "i"), "MODEL comes first, then DATA, and runs/tiny is only one of them."),
        (("index", "--out", "nowhere"), "nowhere is no index: expected a folder that `dualspace index` wrote"),
        (("index", "--out", "{films}/index", "--prune"), "--prune says how clips are added: give MODEL and DATA too."),
        (("index", "{films}/nothing", "{films}/films", "--out", "i"), "nothing holds no model: expected a folder"),
        (("index", "{films}/model", "{films}/nothing", "--out", "i"), "nothing is no folder here"),
        (("index", "{films}/model", "{films}/films", "--out", "{films}/model"), "is no index: expected a folder"),
        (("index", "{films}/model", "{run}/tiny-data", "--out", "i"), "of width 128"),
        (("index", "{run}/runs/tiny", "{films}/films", "--out", "i"), "has no processor beside it"),
        (("index", "{run}/runs/tiny", "{run}/tiny-data", "--out", "{films}/index"), "have nothing to do with"),
        (("index", "{run}/runs/tiny", "{run}/tiny-data", "--out", "i", "--window", "3"), "were made already"),
        (("index", "--out", "{films}/index", "--delete", "a", "--films", "x"), "--films says how clips are added"),
        (("search", "{films}/index", "--audio", "nowhere.wav"), "nowhere.wav"),
        (("search", "{films}/index", "--video", "{sound}"), "has no pictures: search by its sound, with `audio`"),
        (("search", "{films}/index", "--audio", "{films}/index/README.md"), "README.md"),
        (("search", "{films}/index", "--audio", "{drum}", "--where", "year>>3"), "> compares numbers, and '>3'"),
        (("search", "{films}/index", "--audio", "{drum}", "-k", "99999"), "1 to 16,384, got 99999"),
        (("search", "{films}/films", "--audio", "{drum}"), "is no index"),
        (("search", "{films}/index", "--audio", "{drum}", "--model", "{run}/runs/tiny"), "have nothing to do with"),
        (("search", "me/nothing", "--audio", "{drum}"), "could not be had from the Hub as an index"),
        (("app", "{films}/nothing"), "is no index"),
        (("app", "{films}/index", "--clips", "3"), "--clips goes with --out."),
        (("app", "{films}/index", "--out", "page", "--port", "80"), "--port goes not with --out."),
        (("index", "--out", "{films}/index", "--trust-remote-code"), "--trust-remote-code says how clips are added"),
        (("app", "{films}/index", "{films}/index", "--out", "{films}/page"), "--out is for one index, got 2."),
        (("app", "{films}/index", "--films", "{films}/nothing"), "is no folder: expected the one that the paths"),
        (("app", "{films}/index", "--host", "192.0.2.1"), "Nothing can listen at 192.0.2.1"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_sentence_and_leaves_nothing(words, message, films, run, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    places = {"films": films, "run": run, "drum": drum(films), "sound": tmp_path / "sound.wav"}
    code, out, err = said(*(str(word).format(**places) for word in words))
    lines = [line for line in err.splitlines() if "it/s]" not in line]
    assert code == 1 and out == "" and len(lines) == 1 and message in lines[0], err
    assert not (tmp_path / "i").exists()


def test_what_a_server_does_not_say_is_left_out(films):
    with open_index(films / "index") as index:
        found = index.describe()
    del found["bytes"]
    assert "bytes" not in render(found) and "10 clips of 10 films" in render(found)


def test_features_of_films_lie_beside_the_index_they_are_made_for(tmp_path):
    places = {
        "a/index": "a/index-features",
        "a/films.db#x": "a/x-features",
        "http://host:19530#films": "films-features",
    }
    assert {place: str(features_beside(place)) for place in places} == places


def test_an_approximate_search_says_what_it_misses(said, tmp_path, monkeypatch):
    monkeypatch.setattr(index_folder, "LEAST", 5)
    root = write_tiny(tmp_path)
    code, out, err = said("search", root / "index", "--audio", drum(root), "--approximate")
    assert code == 0 and len(out.splitlines()) == 10 and "100.0% among visual of the exact first ten" in err


def test_what_another_command_made_is_not_overwritten(films, said, tmp_path):
    shutil.copytree(films / "films", tmp_path / "films", ignore=shutil.ignore_patterns("*.csv"))
    places = {name: tmp_path / name for name in ("features", "page")}
    assert said("extract", tmp_path / "films", "--out", places["features"])[0] == 0
    assert said("app", films / "index", "--films", films / "films", "--out", places["page"], "--clips", 2)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        ("app", films / "index", "--out", places["features"], "--overwrite"),
        ("extract", tmp_path / "films", "--out", places["page"], "--overwrite"),
        ("index", films / "model", places["page"], "--out", tmp_path / "i"),
        ("index", films / "model", films / "index", "--out", tmp_path / "i"),
        ("index", films / "model", tmp_path / "films", "--out", tmp_path / "i", "--films", tmp_path / "none"),
    ):
        code, out, err = said(*words)
        assert (code, out) == (1, "") and len(err.splitlines()) == 1, words
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_nobody_need_listen(films):
    code = "import sys; from modeling_dualspace.cli import main; sys.stdout = None; sys.exit(main(sys.argv[1:]))"
    words = ["search", str(films / "index"), "--audio", str(drum(films))]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_one_thing_is_searched_with(films, capsys):
    for words in (["search", str(films)], ["search", str(films), "--audio", "a", "--video", "b"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2


def complete(line: str, script: Path, folder: Path) -> set[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    code = (
        f"source {script}; COMP_WORDS=({' '.join(shlex.quote(word) for word in words)}); COMP_CWORD={len(words) - 1}; "
        '_dualspace; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_options_values_names_and_files(said, tmp_path):
    script = tmp_path / "completion"
    script.write_text(said("completion", "bash")[1])
    (tmp_path / "bark.wav").touch()
    assert complete("dualspace se", script, tmp_path) == {"search"}
    assert complete("dualspace ", script, tmp_path) >= set(COMMANDS)
    assert complete("dualspace search --a", script, tmp_path) == {"--audio", "--among", "--approximate"}
    assert complete("dualspace search index --among ", script, tmp_path) == {"audio", "visual"}
    assert complete("dualspace search index --audio ba", script, tmp_path) == {"bark.wav"}
    assert complete("dualspace train base", script, tmp_path) == {
        name for name in known_recipes() if name.startswith("base")
    }
    assert complete("dualspace completion f", script, tmp_path) == {"fish"}


def test_scripts_for_other_shells_name_every_command_and_option(said):
    fish, zsh = said("completion", "fish")[1], said("completion", "zsh")[1]
    for name, parser in COMMANDS.items():
        for action in parser._actions:
            for word in action.option_strings:
                assert f"{'-l ' + word[2:] if word.startswith('--') else '-s ' + word[1:]} " in fish and word in zsh
        assert name in fish and f" {name}) words=" in zsh
    assert json.loads(said("completion", "bash", "--json")[1])["shell"] == "bash"


def test_a_page_can_be_written_and_has_the_clips_whose_films_are_here(films, said, tmp_path):
    code, out, _ = said("app", films / "index", "--films", films / "films", "--out", tmp_path / "page", "--clips", 6)
    assert code == 0 and "6 clips and 6 films" in out
    with open_index(tmp_path / "page" / "index", model=str(tmp_path / "page" / "run")) as index:
        assert len(index) == 6 and len(index.labels()) == 6
        index.films = tmp_path / "page" / "films"
        assert all(index.film(hit) is not None for hit in index.sample()[0])
    written = "".join(
        file.read_text() for file in (tmp_path / "page").rglob("*") if file.suffix in (".md", ".txt", ".py", ".yaml")
    )
    assert str(films) not in written and str(tmp_path) not in written
    assert "gradio" not in (tmp_path / "page" / "requirements.txt").read_text()  # the Space brings its own
    again = ("app", films / "index", "--films", films / "films", "--out", tmp_path / "page")
    assert said(*again)[0] == 1 and said(*again, "--overwrite", "--clips", 3)[0] == 0


def test_films_that_are_no_more_than_listed_are_indexed_from_a_list(films, said, tmp_path):
    write_clips(tmp_path / "films", 1, 0.5, seed=1, progress=False)
    (tmp_path / "films" / "list.csv").write_text(
        "path,label,split\n" + "".join(f"{name}/{name}-0000.mp4,{name},test\n" for name in ("drum", "rain"))
    )
    code, out, _ = said("index", films / "model", tmp_path / "films" / "list.csv", "--out", tmp_path / "index")
    assert code == 0 and "2 clips of 2 films" in out and "drum 1, rain 1" in out
