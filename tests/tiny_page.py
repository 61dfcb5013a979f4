"""A tiny index with films, and its page at an address, for the tests of the page."""

import shutil
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from modeling_dualspace import DualSubspaceConfig, DualSubspaceModel
from modeling_dualspace.app import build_app
from modeling_dualspace.index import create_index, open_index
from modeling_dualspace.optional import require
from modeling_dualspace.processing_dualspace import DualSubspaceProcessor
from modeling_dualspace.sample_clips import write_clips

EVIL = """<img src=x onerror="window.hacked=1">${window.hacked=2}{{"""
QUOTED = """it's a "film" & more <b>.mp4"""


_written: list[Path] = []


def tiny_root(tmp_path_factory) -> Path:
    """A copy of what `write_tiny` writes, once for all tests."""
    if not _written:
        _written.append(write_tiny(tmp_path_factory.mktemp("written")))
    root = tmp_path_factory.mktemp("page")
    shutil.copytree(_written[0], root, dirs_exist_ok=True)
    return root


def write_tiny(root: Path) -> Path:
    """`films`, `model` (with a processor) and `index`: ten clips of half a second, each with a label and a year.

    The first has a label and the second a file name that would do harm if they were not escaped.
    """
    films = root / "films"
    write_clips(films, 1, 0.5, seed=0, progress=False)
    paths = sorted(films.glob("*/*.mp4"))
    paths[1] = paths[1].rename(paths[1].with_name(QUOTED))
    processor = DualSubspaceProcessor()
    made = processor(videos=paths)
    batch = {name: made[name] for name in ("audio_features", "visual_features")}
    batch["labels"] = torch.arange(len(paths)) % 3
    sizes = {"audio_hidden": [8], "visual_hidden": [8], "embed_dim": 4, "explicit_dim": 4, "num_labels": 3}
    torch.manual_seed(0)
    model = DualSubspaceModel(DualSubspaceConfig(**sizes, feature_spec=processor.feature_spec)).eval()
    model.prepare([batch])
    model.finish([batch])
    for saved in (model, processor):
        saved.save_pretrained(root / "model")
    with torch.no_grad():
        embeds = {
            track: getattr(model, f"get_{track}_embeds")(batch[f"{track}_features"]) for track in ("audio", "visual")
        }
    names = [str(path.relative_to(films)) for path in paths]
    labels = [[EVIL if row == 0 else name.split("/")[0]] for row, name in enumerate(names)]
    with create_index(root / "index", str(root / "model")) as index:
        facts = {"path": names, "labels": labels, "metadata": [{"year": 2001 + row} for row in range(len(names))]}
        facts |= {"start": [0.1] * len(names), "end": [0.4] * len(names)}
        index.add(names, embeds["audio"], embeds["visual"], made_by=index.model, **facts)
    return root


def open_tiny(root: Path, **settings):
    """Its index."""
    return open_index(root / "index", **{"films": root / "films", "model": str(root / "model")} | settings)


@contextmanager
def served(app):
    """The address of an app while it runs."""
    uvicorn = require("uvicorn", extra="app")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # or asyncio waits for the ACK
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def page_of(root: Path, **settings):
    """The page of the tiny index."""
    return build_app([open_tiny(root)], **settings)
