"""The three things a user does, against a Hub on this machine, in processes that know nothing else.

The fast path takes the environment of the tests; the slow ones make one that has only the wheel, one that has only
transformers and torch, and the npm client.
"""

import hashlib
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from huggingface_hub import constants
from local_hub import LocalHub

from modeling_dualspace import release, verification
from modeling_dualspace.cli import main

GRADIO = version("gradio")
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


FILMS = [str(ROOT / "dataset_scripts" / "sample_clips.py"), "--out", "my_videos", "--clips-per-class", "8"]
FILMS += ["--seconds", "0.5"]
SEARCHABLE = [
    ["extract", "my_videos", "--out", "my-features"],
    ["train", "films", "data.path=my-features", "train.min_steps=5", "output=runs/films"],
    ["index", "runs/films", "my-features", "--out", "my-index", "--films", "my_videos"],
]


@pytest.mark.slow
def test_films_become_searchable_by_three_commands_where_there_is_only_the_wheel(hub_environment, hub, tmp_path):
    """And the page that is written of them starts where there is only what it says it needs."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], ROOT, dict(os.environ))
    (wheel,) = tmp_path.glob("*.whl")
    python, environment = environment_of(tmp_path, f"{wheel}[app]"), hub_environment(hub, tmp_path / "home")
    command = [python, "-m", "modeling_dualspace"]
    run([python, *FILMS], tmp_path, environment)
    for words in SEARCHABLE:
        run([*command, *words], tmp_path, environment)
    film = next((tmp_path / "my_videos" / "drum").glob("*.mp4"))
    found = run(
        [python, "-m", "modeling_dualspace", "search", "my-index", "--audio", film, "-k", "3"], tmp_path, environment
    )
    assert len(found.splitlines()) == 3
    run([python, "-m", "modeling_dualspace", "app", "my-index", "--out", "page", "--clips", "5"], tmp_path, environment)
    (tmp_path / "other").mkdir()
    other = environment_of(tmp_path / "other", "-r", tmp_path / "page" / "requirements.txt", f"gradio=={GRADIO}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = subprocess.Popen(
        [other, "app.py"], cwd=tmp_path / "page", env=environment | {"GRADIO_SERVER_PORT": str(port)}
    )
    try:
        for _ in range(240):
            with suppress(Exception):
                client = Client(f"http://127.0.0.1:{port}/", verbose=False)
                break
            assert page.poll() is None
            time.sleep(0.5)
        hits = client.predict(handle_file(film), k=2, api_name="/search_by_sound")
        assert len(hits) == 2 and client.predict(api_name="/describe")["clips"] == 5
    finally:
        page.terminate()
        page.wait(30)


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
