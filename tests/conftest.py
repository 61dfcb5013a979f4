"""What every test may ask for: a fixed seed, a small trained model, tools beyond Python."""

import os

# Nothing in the suite may wait for a network that is not there; huggingface_hub reads this when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import atexit
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

for cache in ("HF_DATASETS_CACHE", "HF_METRICS_CACHE"):  # nor may it fill the caches of whoever runs it
    if cache not in os.environ:
        os.environ[cache] = tempfile.mkdtemp(prefix="dualspace-cache-")
        atexit.register(shutil.rmtree, os.environ[cache], ignore_errors=True)

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers.utils import logging

from modeling_dualspace import DualSubspaceConfig, DualSubspaceModel, hub_faults
from modeling_dualspace.recipe import recipe_from
from modeling_dualspace.training_data import TrainingData

# On tiny matrices two thread pools, torch's and OpenBLAS', mostly wait for each other.
torch.set_num_threads(1)

RUN_MODEL = {"embed_dim": 4, "explicit_dim": 4, "audio_hidden": [16], "visual_hidden": [12, 16], "dropout": 0.3}
ROOT = Path(__file__).parent.parent
DEBIAN_PACKAGES = {"ffmpeg": "ffmpeg", "chromium": "chromium", "node": "nodejs", "npm": "npm"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def needs_tool():
    """`needs_tool("ffmpeg")`: its path; skips where it is absent, unless DUALSPACE_REQUIRE lists it: then it fails."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            message = f"`{name}` is not installed: on Debian, apt-get install {DEBIAN_PACKAGES[name]}"
            if name in os.environ.get("DUALSPACE_REQUIRE", "").split(","):
                pytest.fail(message)
            pytest.skip(message)
        return path

    return find


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data: `$DUALSPACE_DATA`, then `../shared/data`; skips where neither is."""
    for folder in (os.environ.get("DUALSPACE_DATA"), ROOT.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("real data is not here: set DUALSPACE_DATA to the folder that holds it")


def _script(name: str) -> ModuleType:
    qualified = f"dataset_script_{name}"
    if qualified not in sys.modules:  # one module a script: `datasets` looks classes up by module
        spec = importlib.util.spec_from_file_location(qualified, ROOT / "dataset_scripts" / f"{name}.py")
        sys.modules[qualified] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[qualified])
    return sys.modules[qualified]


@pytest.fixture(scope="session")
def script():
    """`script("vegas")`: the module of dataset_scripts/vegas.py."""
    return _script


@pytest.fixture
def builds(tmp_path):
    """`builds(main)(source, flags...)`: the folder that a builder's command made."""

    def of(main):
        def build(source, *flags):
            assert main(["--source", str(source), "--out", str(tmp_path / "out"), *map(str, flags)]) == 0
            return tmp_path / "out"

        return build

    return of


@pytest.fixture
def refuses(capfd, tmp_path):
    """`refuses(main)(source, flags...)`: the one line in which a builder's command ends, having made no folder."""

    def of(main):
        def refuse(source, *flags):
            before = set(tmp_path.rglob("*"))
            capfd.readouterr()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                code = main(["--source", str(source), "--out", str(tmp_path / "out"), *map(str, flags)])
            lines = capfd.readouterr().err.splitlines()
            lines += [str(one.message) for one in caught if one.category is not DeprecationWarning]
            assert code == 1 and len(lines) == 1, lines
            assert set(tmp_path.rglob("*")) == before
            return lines[0]

        return refuse

    return of


@pytest.fixture
def warnings_logged(caplog):
    """What transformers' logger, which is ours too, warned of: `.text`."""
    logging.enable_propagation()
    with caplog.at_level("WARNING"):
        yield caplog
    logging.disable_propagation()


def tiny_config(**settings) -> DualSubspaceConfig:
    """A dual model of a few hundred parameters."""
    sizes = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "embed_dim": 4, "explicit_dim": 4}
    sizes |= {"dropout": 0.0, "alpha": 0.01}
    return DualSubspaceConfig(**sizes | {"audio_hidden": [16], "visual_hidden": [12, 16]} | settings)


def tiny_batch(rows: int = 60, seed: int = 1) -> dict[str, torch.Tensor]:
    """Clips of three classes: both modalities see the class, and something of each other, through noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    latent = torch.randn(rows, 4, generator=generator) + 2 * torch.eye(4)[labels]
    mix = torch.Generator().manual_seed(0)
    audio, visual = (latent @ torch.randn(4, width, generator=mix) for width in (6, 8))
    return {
        "audio_features": 3 * (audio + 0.5 * torch.randn(audio.shape, generator=generator)) + 5,
        "visual_features": visual + 0.5 * torch.randn(visual.shape, generator=generator),
        "labels": labels,
    }


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Sixty clips; see `tiny_batch`."""
    return tiny_batch()


@pytest.fixture
def make_model():
    """`make_model(alpha=1, ...)`: an untrained tiny model."""
    return lambda **settings: DualSubspaceModel(tiny_config(**settings))


@pytest.fixture
def make_batch():
    """`make_batch(rows, seed)`; see `tiny_batch`."""
    return tiny_batch


@pytest.fixture
def as_split():
    """`as_split(batch)`: its clips as a split of a data set, `label` of three classes by name."""

    def of(batch, names=("dog", "drum", "train")):
        wide = ("audio_features", "visual_features")
        features = {name: List(Value("float32"), length=batch[name].shape[1]) for name in wide}
        columns = {name: batch[name].tolist() for name in wide}
        if "labels" in batch:
            features["label"], columns["label"] = ClassLabel(names=list(names)), batch["labels"].tolist()
        return Dataset.from_dict(columns, features=Features(features))

    return of


@pytest.fixture
def fitted(make_model, batch) -> DualSubspaceModel:
    """A tiny model with statistics and fusion, in eval mode."""
    model = make_model()
    model.prepare([batch])
    model.finish([batch], [batch])
    return model.eval()


@pytest.fixture
def data(make_batch, as_split):
    """135 clips of three classes to train on, a third of them for validation."""
    splits = {"train": as_split(make_batch(90)), "validation": as_split(make_batch(45, seed=2))}
    return TrainingData(splits)


@pytest.fixture
def recipe(tmp_path):
    """`recipe(output, **train)`: six epochs of three batches, refit."""

    def of(output="run", **settings):
        train_settings = {"epochs": 6, "batch_size": 30, "refit": True} | settings
        return recipe_from({
            "name": output, "data": {"path": "none"}, "model": dict(RUN_MODEL), "output": str(tmp_path / output),
            "train": train_settings, "checkpoint": {"every_steps": 2, "every_minutes": None, "keep": 2},
        })  # fmt: skip

    return of


@pytest.fixture
def together(tmp_path):
    """`together(n, work)`: what `work()` returns in each of n processes, forked here and joined by gloo."""

    def run(count, work):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(count):
            child = os.fork()
            if child:
                children.append(child)
                continue
            code = 1
            try:
                names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
                values = (rank, rank, count, count, "127.0.0.1", port)
                os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
                AcceleratorState._reset_state(True)
                torch.save(work(), tmp_path / f"{count}-{rank}.pt")
                dist.destroy_process_group()
                code = 0
            finally:
                os._exit(code)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * count
        return [torch.load(tmp_path / f"{count}-{rank}.pt") for rank in range(count)]

    return run


def _local_hub_module() -> ModuleType:
    if "local_hub" not in sys.modules:
        spec = importlib.util.spec_from_file_location("local_hub", Path(__file__).parent / "local_hub.py")
        sys.modules["local_hub"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["local_hub"])
    return sys.modules["local_hub"]


_local_hub_module()  # now, so that its parts find each other when pytest looks for doctests in them


@pytest.fixture
def local_hub():
    """A Hub of this test's own; see tests/local_hub.py."""
    with _local_hub_module().LocalHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def hub_environment():
    """`hub_environment(hub, home)`: the variables by which a fresh process talks to a local Hub, caches in `home`."""

    def of(hub, home) -> dict[str, str]:
        ours = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "PYTHONPATH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
        return kept | told | dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"), "1")

    return of


@pytest.fixture
def online(local_hub, monkeypatch, tmp_path):
    """The local Hub, to which huggingface_hub in this very process talks until the test is over."""
    import huggingface_hub
    from huggingface_hub import constants

    home = tmp_path / "hub-home"
    told = {
        "ENDPOINT": local_hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{local_hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
        "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False, "HF_HOME": str(home), "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"), "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"), "HF_ASSETS_CACHE": str(home / "assets"),
        "HUGGINGFACE_ASSETS_CACHE": str(home / "assets"), "HF_XET_CACHE": str(home / "xet"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
    }  # fmt: skip
    for name, value in told.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", local_hub.url)  # what was bound to its value already
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setenv("HF_TOKEN", local_hub.token)
    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for forget in (huggingface_hub.close_session, huggingface_hub.HfFileSystem.clear_instance_cache):
        forget()  # what was made before, for another endpoint
    yield local_hub
    for forget in (huggingface_hub.close_session, huggingface_hub.HfFileSystem.clear_instance_cache):
        forget()


@pytest.fixture
def npm_sees(tmp_path, needs_tool):
    """`npm_sees(hub, repositories)`: what npm's `@huggingface/hub` sees of pairs of a kind and a name."""
    needs_tool("npm")
    folder = tmp_path / "npm"

    def sees(hub, repositories) -> dict[str, dict]:
        folder.mkdir()
        install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "@huggingface/hub@2"]
        subprocess.run(install, cwd=folder, check=True, capture_output=True)
        shutil.copy(ROOT / "tests" / "npm_client.mjs", folder)
        named = [{"type": kind, "name": name} for kind, name in repositories]
        asked = json.dumps({"hubUrl": hub.url, "accessToken": hub.token, "repos": named})
        told = subprocess.run(["node", "npm_client.mjs"], input=asked, cwd=folder, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    return sees


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """How long the Hub's clients waited before they tried again, had they not been hurried."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, time=time.time, monotonic=time.monotonic)
    for module in (hub_faults, _http, file_download):
        monkeypatch.setattr(module, "time", clock)
    return slept
