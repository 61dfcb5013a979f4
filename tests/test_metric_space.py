"""The folder of the metric loads, runs and reads well where this package is not."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

from modeling_dualspace.metric_space import write_metric_space
from modeling_dualspace.retrieval_scores import retrieval_scores

NAMES = ("retrieval_map", "my-metric")
# One process does all that a stranger does with the folders, in a Hugging Face home of its own.
STRANGER = """
import contextlib, io, json, runpy, sys, types
sys.modules["modeling_dualspace"] = sys.modules["transformers"] = None
import evaluate
import numpy as np
del sys.modules["transformers"]  # needed by nothing here, and slow to import: `evaluate` takes it where it is

names, uploads = map(json.loads, sys.argv[1:])
clips = dict(np.load("clips.npz"))
tables = {name: evaluate.load(name).compute(**clips, detailed=True) for name in names}
printed = {}
for name in names:
    code = open(f"{name}/README.md", encoding="utf-8").read().split("```python\\n")[1].split("```")[0]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    printed[name] = output.getvalue()

class Part:
    made = []
    def __init__(self, *arguments, **settings):
        self.arguments, self.settings = arguments, settings
        self.made.append(self)

gradio = sys.modules["gradio"] = types.ModuleType("gradio")
gradio.Error = type("Error", (Exception,), {})
gradio.Interface = gradio.File = gradio.Checkbox = gradio.JSON = Part
app = runpy.run_path(f"{names[1]}/app.py")
scored = []
for upload, legacy in uploads:
    try:
        scored.append(app["score"](upload, legacy))
    except gradio.Error as error:
        scored.append(str(error))
title = [part.settings["title"] for part in Part.made if "title" in part.settings]
json.dump({"tables": tables, "printed": printed, "scored": scored, "title": title}, open("answers.json", "w"))
"""


def make_clips(clips=20):
    generator = np.random.default_rng(0)
    audio = generator.normal(size=(clips, 4)).astype(np.float32)
    visual = audio + generator.normal(size=(clips, 4)).astype(np.float32)
    return {"audio_embeds": audio, "visual_embeds": visual, "labels": np.arange(clips) % 3}


def expected_of(clips, **settings):
    table = retrieval_scores(clips["audio_embeds"], clips["visual_embeds"], clips["labels"], **settings)
    return json.loads(json.dumps(table))


MEMBERS = np.eye(3)[np.arange(20) % 3]
NAN = np.full((20, 4), np.nan, np.float32)
# What is uploaded, one after the other, and what is answered: None is the table.
UPLOADS = {
    "nothing": (None, "Choose a .npz file first"),
    "a text": (b"hello", "no .npz file"),
    "no bytes": (b"", "no .npz file"),
    "the first half": (lambda whole: whole[: len(whole) // 2], "no .npz file"),
    "a wrong byte": (lambda whole: whole.replace(b"\x93NUMPY", b"\x94NUMPY"), "cannot be read"),
    "no labels": ({"labels": None}, "no labels"),
    "no embeddings": ({"audio_embeds": None, "visual_embeds": None}, "no audio_embeds and no visual_embeds"),
    "objects": ({"labels": np.array(["dog", 1], dtype=object)}, "Object arrays cannot be loaded"),
    "words": ({"labels": np.array(["dog", "drum"] * 10)}, "labels .* whole numbers"),
    "fractions": ({"labels": np.arange(20) / 2}, "labels .* whole numbers"),
    "one number": ({"labels": np.int64(3)}, r"labels .* got int64 \(\)"),
    "flat embeddings": ({"audio_embeds": np.ones(20)}, r"audio_embeds .* numbers \(n, d\); got float64 \(20,\)"),
    "no clips": ({"visual_embeds": np.ones((0, 4))}, "visual_embeds of at least one clip"),
    "NaN": ({"audio_embeds": NAN}, "Audio embeddings must be finite"),
    "fewer memberships": ({"labels": MEMBERS[:7]}, "'audio_embeds': 20, .*'labels': 7"),
    "clips": ({}, None),  # though the one before failed
    "memberships": ({"labels": MEMBERS}, None),
}


def upload(folder, number, content):
    """The path of one upload."""
    if content is None:
        return None
    path = folder / f"upload-{number}.npz"
    columns = make_clips() | (content if isinstance(content, dict) else {})
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})
    if not isinstance(content, dict):
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    return str(path)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """The folders, by name, and what a process without this package makes of them."""
    place = tmp_path_factory.mktemp("stranger")
    folders = {name: write_metric_space(place / name) for name in NAMES}
    np.savez(place / "clips.npz", **make_clips())
    uploads = [(upload(place, *numbered), True) for numbered in enumerate(content for content, _ in UPLOADS.values())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", STRANGER, json.dumps(NAMES), json.dumps(uploads)]
    process = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    answers = json.loads((place / "answers.json").read_text())
    return SimpleNamespace(folders=folders, home=place / "home", **answers)


# Loading it.


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_loads_without_the_package_and_gives_the_same_table(stranger, name):
    assert stranger.tables[name] == expected_of(make_clips())
    assert list(stranger.home.rglob(f"{name}.py"))  # it was copied into that home, not taken from another


def test_loading_and_running_leave_the_folder_as_it_was(stranger):
    for folder in stranger.folders.values():
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        write_metric_space(folder, overwrite=True)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_requirements_are_what_the_files_import(stranger):
    for name, folder in stranger.folders.items():
        imported = set()
        for path in folder.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0 or (folder / f"{node.module}.py").is_file()
                    imported |= set() if node.level else {node.module.split(".")[0]}
        required = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
        # gradio comes with the kind of Space.
        assert {each.name for each in required} == imported - set(sys.stdlib_module_names) - {"gradio"}, name
        assert all(metadata.version(each.name) in each.specifier for each in required)


# Its card.


@pytest.mark.parametrize("name", ["my-metric", "123", "true"])
def test_the_card_says_what_the_space_is(tmp_path, name):
    folder = write_metric_space(tmp_path / name)
    card = SpaceCard.load(folder / "README.md")
    assert (card.data.title, card.data.sdk, card.data.app_file) == (name, "gradio", "app.py")
    assert {"evaluate", "metric"} <= set(card.data.tags)
    assert card.data.license == "apache-2.0" and re.fullmatch(r"6\.\d+\.\d+", card.data.sdk_version)
    # A Space without it runs 3.10, for which there is no such NumPy.
    assert card.data.python_version in Requirement("python>=3.11").specifier
    assert "@@" not in "".join(path.read_text(encoding="utf-8") for path in folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_the_card_prints_what_its_comment_says(stranger, name):
    card = (stranger.folders[name] / "README.md").read_text(encoding="utf-8")
    expected = re.search(r"print\(metric\.compute\(\)\)  # (\{.*\}), rounded", card)[1]
    assert ast.literal_eval(stranger.printed[name]) == pytest.approx(ast.literal_eval(expected), abs=5e-4)


# Its app.


@pytest.mark.parametrize("case", UPLOADS)
def test_the_app_answers_an_upload_with_the_table_or_in_words(stranger, case):
    content, words = UPLOADS[case]
    answer = stranger.scored[list(UPLOADS).index(case)]
    if words is None:
        assert answer == expected_of(make_clips() | content, legacy_prefix_average=True)
    else:
        assert isinstance(answer, str) and re.search(words, answer) and len(answer) < 300, answer


def test_the_app_has_the_name_of_the_folder(stranger):
    assert stranger.title == ["my-metric"]


# Writing it.


@pytest.mark.parametrize(
    "name", ["app", "average_precision", "retrieval_scores", "numpy", "evaluate", "datasets", "gradio", "json"]
)
def test_a_name_that_another_file_has_or_that_hides_what_the_app_imports_is_refused(tmp_path, name):
    # Beside app.py, numpy.py is what `import numpy` finds.
    with pytest.raises(ValueError, match=f"{name} cannot be, or hides.*choose another name"):
        write_metric_space(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["map-1.0", 'quo"te', "two words"])
def test_a_name_that_is_none_for_a_module_or_a_space_is_refused(tmp_path, name):
    # `evaluate.load` imports the script by its name, in which a dot parts packages.
    with pytest.raises(ValueError, match="choose another name"):
        write_metric_space(tmp_path / name)


def test_a_folder_is_replaced_only_when_asked_to_and_untouched(tmp_path):
    folder = write_metric_space(tmp_path / "deep" / "my-metric")
    with pytest.raises(ValueError, match="exists already and is not empty"):
        write_metric_space(folder)
    assert write_metric_space(folder, overwrite=True) == folder
    (folder / "app.py").write_text("mine")
    with pytest.raises(ValueError, match="app.py was put there or changed"):
        write_metric_space(folder, overwrite=True)
    assert (folder / "app.py").read_text() == "mine"


def test_a_folder_of_somebody_else_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="was not made here"):
        write_metric_space(tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
