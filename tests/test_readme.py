"""What README promises: its code runs, its paths and commands exist."""

import re
import shlex
import wave
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from modeling_dualspace import release
from modeling_dualspace.cli import build_parser, main
from modeling_dualspace.extraction_recipe import known_extractions, load_extraction
from modeling_dualspace.paper_networks import NETWORKS, own_settings
from modeling_dualspace.recipe import known_recipes, load_recipe
from modeling_dualspace.release_plan import known_releases
from modeling_dualspace.resources import resource
from modeling_dualspace.sample_clips import write_clips
from modeling_dualspace.suite import load_suite

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))]


# The commands of the readme's blocks that its test does not run, and why.
NOT_RUN = {
    "make demo": "makes the environment this runs in; CI does so",
    "make test": "is what runs this",
    "make app": "waits for visitors; tests/test_app_browser.py is one",
    "python dataset_scripts/vegas.py": "needs the authors' features; tests/test_vegas.py has small ones",
    "accelerate launch training/train.py": "needs VEGAS; tests/test_two_hosts.py launches another",
    "torchrun --nproc_per_node 2": "is run by tests/test_cli.py",
    "dualspace benchmark tiny": "trains eighteen systems; tests/test_cli_benchmark.py has fewer",
    "hf auth login": "asks a person for a token",
    "dualspace push everything": "needs recordings; tests/test_three_lines.py has it",
}
SMALLER = {
    "dataset_scripts/synthetic_features.py": ["--rows", "1500"],
    "dataset_scripts/sample_clips.py": ["--clips-per-class", "6", "--seconds", "0.5"],
    "train films": ["train.min_steps=20", "model.fusion_features=false"],
    "train tiny": ["train.epochs=1", "model.fusion_features=false"],
}
"""What the readme makes, at a fraction of the size."""


def smaller(words):
    """What makes a command smaller."""
    return next((more for start, more in SMALLER.items() if " ".join(words[1:]).startswith(start)), [])


def make_one_s_own_films():
    """`my_videos`, and a sound."""
    write_clips(Path("my_videos"), 6, 0.5, seed=1, progress=False)
    with wave.open("bark.wav", "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(16_000) ** 1.2)).astype("<i2").tobytes())


def commands_of(text):
    """The lines of its command blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_of_the_readme_is_run_or_is_in_the_list():
    lines = commands_of(README)
    left_out = {start: [line for line in lines if line.startswith(start)] for start in NOT_RUN}
    assert all(left_out.values()), "the list names what the readme has no more"
    rest = [line for line in lines if not line.startswith(tuple(NOT_RUN))]
    assert all(line.startswith(("dualspace ", "python dataset_scripts/")) for line in rest), rest


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, script, request):
    """In its own order; releases go to a Hub on this machine, once one is needed."""
    monkeypatch.chdir(tmp_path)
    make_one_s_own_films()
    monkeypatch.setattr(release, "verify", lambda staged, commits=None: {one.repo_id: [] for one in staged})
    names: dict = {"__name__": "readme"}
    hub = None
    for kind, block in re.findall(r"^```(bash|python)\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        if kind == "python":
            exec(compile(block, "README.md", "exec"), names)
            continue
        for line in [line for line in block.splitlines() if line.strip() and not line.startswith(tuple(NOT_RUN))]:
            words = shlex.split(line, comments=True)
            if words[0] == "python":
                name = re.match(r"dataset_scripts/(\w+)\.py", words[1])[1]
                assert script(name).main([*words[2:], *smaller(words)]) == 0, line
                continue
            if words[1] == "push" and "--dry-run" not in words and hub is None:
                hub = request.getfixturevalue("online")
            given = [name for word in words[1:] for name in (sorted(glob(word)) or [word])]
            assert main([*given, *smaller(words)]) == 0, line
    assert names["best"].shape == (300, 5)
    assert (tmp_path / "my-dualspace" / "model.safetensors").exists()
    assert names["scores"]["map"] > 0 and names["precisions"].shape == (300,)
    assert sum(names["sizes"]) == len(names["tensors"]["index"]) and len(names["found"]) == 3
    assert names["inputs"]["audio_frames"][0].shape == (1, 128)
    figures = {file.name.split("-")[0] for file in (tmp_path / "report-figures").glob("*.png")}
    assert {"clips", "precision", "own", "class", "similarity", "tsne"} <= figures
    assert (tmp_path / "report.html").exists() and (tmp_path / "retrieval_map" / "retrieval_map.py").exists()
    assert "model.safetensors" in hub.files("me/mine-synthetic") and "retrieval_map.py" in hub.files(
        "me/retrieval_map", "space"
    )


def test_the_example_of_writing_a_data_set_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "dataset_scripts" / "README.md").read_text(), re.DOTALL)
        if "write_dataset" in block
    ]
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert len(load_dataset("my-features", split="test")) == 100


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


def test_ci_calls_the_readme_s_test_command():
    assert "make test   #" in README
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_a_document_names_exists(document):
    text = document.read_text()
    paths = re.findall(
        r"\b(?:benchmarks|training|dataset_scripts|tests|modeling_dualspace)/[\w./-]+\.(?:py|yaml|md)", text
    )
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def test_every_command_about_films_in_the_manuals_and_recipes_names_what_exists():
    manuals = [ROOT / "training" / "README.md", ROOT / "dataset_scripts" / "README.md"]
    manuals += [resource(f"configs/{name}.yaml") for name in known_extractions()]
    lines = [line for file in manuals for line in file.read_text().splitlines()]
    commands = [line.lstrip("# ") for line in lines if re.match(r"(#\s+)?dualspace (convert|extract) ", line)]
    trained = [line.lstrip("# ") for line in lines if re.match(r"#\s+dualspace train ", line)]
    for words in (shlex.split(command, comments=True) for command in trained):
        load_recipe(words[2], [word for word in words[3:] if "=" in word])
    for words in (shlex.split(command, comments=True)[1:] for command in commands):
        arguments, rest = build_parser().parse_known_args(words)
        assert all("=" in word for word in rest) and words[0] in ("convert", "extract")
        if words[0] == "extract":
            load_extraction(arguments.recipe, [*arguments.overrides, *rest])
        else:
            own = own_settings(NETWORKS[arguments.network].config())
            assert {word.partition("=")[0] for word in [*arguments.overrides, *rest]} <= own.keys()
    assert len(commands) >= 9 and len(trained) == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_to_be_filled_in(document):
    assert re.findall(r"@@\w*|\bTODO\b|\bFIXME\b|\bXXX\b", document.read_text()) == []


def test_every_benchmark_is_in_the_readme():
    shared = ("harness.py", "networks.py", "systems.py")
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name not in shared}
    assert scripts == set(re.findall(r"benchmarks/(\w+\.py)", README))


def test_every_benchmark_command_of_the_manual_names_a_suite_and_systems_that_exist(tmp_path):
    text = README + (ROOT / "training" / "README.md").read_text()
    commands = [
        shlex.split(line, comments=True) for line in re.findall(r"^dualspace benchmark .*$", text, re.MULTILINE)
    ]
    for words in commands:
        arguments = build_parser().parse_args(words[1:])
        load_suite(arguments.suite).choose(arguments.only, arguments.seeds)
    assert len(commands) >= 4
    (own,) = re.findall(r"```yaml\n(extends: paper\n.*?)```", text, re.DOTALL)
    (tmp_path / "my_recipe.yaml").write_text("extends: vegas\n")
    (tmp_path / "own.yaml").write_text(own)
    assert len(load_suite(tmp_path / "own.yaml").systems) == len(load_suite("paper").systems) + 3


def test_every_training_command_of_the_manual_names_a_recipe_and_keys_that_exist():
    text = (ROOT / "training" / "README.md").read_text()
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^dualspace train .*$", text, re.MULTILINE)]
    for _, _, recipe, *rest in commands:
        load_recipe(recipe, [word for word in rest if "=" in word])
    assert len(commands) >= 7
    for line in re.findall(r"^dualspace (?:push|index|search|app) .*$", text, re.MULTILINE):
        build_parser().parse_args(shlex.split(line, comments=True)[1:])
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, "training/README.md", "exec")
    named = set(re.findall(r"`(\w+)`", text.split("| recipe | |")[1].split("\n\n")[0]))
    ours = {name for name in named if name in known_recipes()}
    families = {name for name in known_recipes() if name.startswith(("vegas_", "ave_", "baselines/"))}
    assert ours | families == set(known_recipes())
    assert set(known_extractions()) <= named
    releases = set(re.findall(r"`(\w+)`", text.split("| release | |")[1].split("\n\n")[0]))
    assert releases == set(known_releases())
