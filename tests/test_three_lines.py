"""The three things a user does, against a Hub on this machine, in processes that know nothing else.

The fast path takes the environment of the tests; the slow ones make one that has only the wheel, one that has only
transformers and torch, and the npm client.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from local_hub import LocalHub

from modeling_dualspace import release, verification
from modeling_dualspace.cli import main

ROOT = Path(__file__).parent.parent
DATA, MODEL, METRIC = "lab/vegas-features-synthetic", "lab/dualspace-vegas-synthetic", "lab/retrieval_map"
EVERYTHING = [
    ("me/spoken-digits-features", "dataset"), ("me/vegas-features-synthetic", "dataset"), ("me/retrieval_map", "space"),
    ("me/dualspace-spoken-digits", "model"), ("me/dualspace-vegas-synthetic", "model"),
]  # fmt: skip
LINES = f"""
from datasets import load_dataset
from transformers import AutoModel
import modeling_dualspace
model = AutoModel.from_pretrained({MODEL!r})
clips = load_dataset({DATA!r})
first = next(iter(load_dataset({DATA!r}, streaming=True)["test"]))
assert first == clips["test"][0]
rows = clips["test"].with_format("torch")[:20]
print(model.get_audio_embeds(rows["audio_features"]).norm(dim=1).sum().round().item(), clips["train"].num_rows)
"""
REMOTE = f"""
import importlib.util
from transformers import AutoModel
import torch
assert importlib.util.find_spec("modeling_dualspace") is None
model = AutoModel.from_pretrained({MODEL!r}, trust_remote_code=True)
print(model.get_audio_embeds(torch.linspace(-1, 1, 256).reshape(2, 128)).norm(dim=1).sum().round().item())
"""
TRAIN = ["-m", "modeling_dualspace", "train", "finetune", f"init={MODEL}", f"data.path={DATA}", "train.epochs=1"]
TRAIN += ["train.min_steps=3", "output=tuned", "--json"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory, script):
    """A Hub with a model, its data set and the metric, released together."""
    place = tmp_path_factory.mktemp("releases")
    with LocalHub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.add_user("me", token=hub.token, organisations=["lab"])
        patch.chdir(place)
        assert script("synthetic_features").main(["--rows", "1500"]) == 0
        assert main(["train", "tiny", "train.epochs=1", "--final"]) == 0
        for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            patch.setattr(constants, name, value)
        patch.setenv("HF_TOKEN", hub.token)
        patch.setattr(release, "verify", lambda staged, commits=None: {one.repo_id: [] for one in staged})
        names = [name.split("/")[1] for name in (DATA, MODEL)]
        Path("two.yaml").write_text(
            f"items:\n- {{name: {names[0]}, path: vegas-features-synthetic}}\n- {{name: retrieval_map, kind: metric}}\n"
            f"- {{name: {names[1]}, path: runs/tiny, license: apache-2.0}}\ncollection: Both\n"
        )
        assert main(["push", "two.yaml", "lab"]) == 0
        yield hub


def run(command, place, environment):
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def three_lines(python, hub, hub_environment, place):
    """Runs them; the third goes on from the model that the first loads."""
    environment = hub_environment(hub, place / "home")
    assert run([python, "-c", LINES], place, environment).split() == ["20.0", "1079"]
    assert '"trained_on"' not in run([python, *TRAIN], place, environment)
    assert (place / "tuned" / "model" / "model.safetensors").is_file()


def test_the_three_lines_work_with_the_package(hub, hub_environment, tmp_path):
    three_lines(sys.executable, hub, hub_environment, tmp_path)


def environment_of(tmp_path, *packages):
    """A virtual environment with these packages and nothing else of ours; its Python."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("needs uv beside this Python, as `make` installs it")
    python = tmp_path / "environment" / "bin" / "python"
    settings = dict(os.environ)
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    links = settings.get("PIP_FIND_LINKS") or subprocess.run(asked, capture_output=True, text=True).stdout
    settings |= {"UV_FIND_LINKS": ",".join(links.split())} if links.strip() else {"UV_TORCH_BACKEND": "cpu"}
    run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "environment"], tmp_path, settings)
    install = [uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt"]
    run([*install, *packages], tmp_path, settings)
    return python


@pytest.mark.slow
def test_the_three_lines_work_where_there_is_only_the_wheel(hub, hub_environment, tmp_path):
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], ROOT, dict(os.environ))
    (wheel,) = tmp_path.glob("*.whl")
    three_lines(environment_of(tmp_path, wheel), hub, hub_environment, tmp_path)


@pytest.mark.slow
def test_remote_code_works_where_there_are_only_transformers_and_torch(hub, hub_environment, tmp_path):
    python = environment_of(tmp_path, "transformers", "torch")
    assert run([python, "-c", REMOTE], tmp_path, hub_environment(hub, tmp_path / "home")).strip() == "2.0"


@pytest.mark.slow
def test_the_npm_client_finds_the_same_bytes(hub, npm_sees):
    repositories = [("model", MODEL), ("dataset", DATA), ("space", METRIC)]
    told = npm_sees(hub, repositories)
    for kind, name in repositories:
        sums = {path: hashlib.sha256(content).hexdigest() for path, content in hub.files(name, kind).items()}
        assert told[f"{kind} {name}"]["files"] == told[f"{kind} {name}"]["snapshot"] == sums


@pytest.mark.slow
def test_everything_can_be_released_where_the_recordings_are(online, data_root, script, tmp_path, monkeypatch):
    """As README has it, but for the length of the training; with all that a release tries, before and after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(release, "verify", verification.verify)
    recordings = data_root / "fsdd" / "recordings"
    if not recordings.is_dir():
        pytest.skip("the recordings of spoken digits are not among the real data here")
    assert script("spoken_digits").main(["--source", str(recordings)]) == 0
    assert script("synthetic_features").main(["--rows", "1500"]) == 0
    for recipe in ("spoken_digits", "tiny"):
        assert main(["train", recipe, "train.epochs=2", "--final"]) == 0
    for changes in (True, False):
        before = [len(online.commits(*of)) for of in EVERYTHING] if not changes else None
        assert main(["push", "everything", "me"]) == 0
        after = [len(online.commits(*of)) for of in EVERYTHING]
        assert changes or before == after
