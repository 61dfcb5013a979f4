"""A saved folder works where the package is not installed."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel

# What travels: the closure of flat relative imports of each entry of `auto_map`, and of the pipeline.
TRAVELS = {
    "average_precision.py",
    "backbones.py",
    "cca.py",
    "clip_gallery.py",
    "clip_queries.py",
    "closed_config.py",
    "configuration_dualspace.py",
    "cosines.py",
    "distributed.py",
    "fusion.py",
    "keeps_float32.py",
    "losses.py",
    "media.py",
    "media_inputs.py",
    "media_tracks.py",
    "modeling_crossmodal.py",
    "module_state.py",
    "modeling_dualspace.py",
    "moments.py",
    "nearest.py",
    "optional.py",
    "pair_moments.py",
    "pipeline_dualspace.py",
    "ranking.py",
    "targets.py",
    "towers.py",
}

STRANGER = """
import importlib.util, sys
root, folder, features, answer, again = sys.argv[1:]
sys.path = [entry for entry in sys.path if entry not in ("", root)]
spec = importlib.util.find_spec("modeling_dualspace")
assert spec is None or spec.origin is None  # an editable install leaves a folder with recipes there, and no code
import torch
from transformers import AutoConfig, AutoModel
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
assert config.model_type == "dualspace"
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
embeds = model.get_audio_embeds(torch.load(features))
torch.save(embeds, answer)
model.save_pretrained(again)
twin = AutoModel.from_pretrained(again, trust_remote_code=True)
assert torch.equal(twin.get_audio_embeds(torch.load(features)), embeds)
"""


def run_stranger(root, tmp_path, *arguments):
    """A fresh interpreter, with a cache of its own and without the checkout on its path."""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [sys.executable, "-c", STRANGER, str(root), *map(str, arguments)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_saved_folder_holds_exactly_the_code_it_needs(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.glob("*.py")} == TRAVELS


def test_a_stranger_loads_the_folder_and_gets_the_same_embeddings(fitted, batch, root, tmp_path):
    folder, again = tmp_path / "model", tmp_path / "again"
    fitted.save_pretrained(folder)
    torch.save(batch["audio_features"], tmp_path / "features.pt")
    done = run_stranger(root, tmp_path, folder, tmp_path / "features.pt", tmp_path / "answer.pt", again)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "answer.pt"), fitted.get_audio_embeds(batch["audio_features"]))
    # What the stranger saves is whole too.
    assert {file.name for file in again.glob("*.py")} == TRAVELS


@pytest.mark.parametrize("trust", [None, True])
def test_with_the_package_imported_no_flag_is_needed(fitted, tmp_path, trust, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    fitted.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=trust)
    for name, tensor in fitted.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
