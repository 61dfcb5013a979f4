"""Checkpoints: all that a run needs to go on to the bit, written whole or not at all, and checked when read.

`step-00000400/` holds `weights.safetensors`, `optimizers.safetensors` and `progress.json`, which names the digests of
both. Random state is not among it: every step draws from generators seeded by its number. Nothing is pickled.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from .files import swap_in

logger = logging.getLogger(__name__)

_PARTS = ("weights", "optimizers")
_NAME = re.compile(r"step-([0-9]{8,})")


class Checkpoint(NamedTuple):
    """What was saved after a step."""

    step: int
    weights: dict[str, Tensor]
    optimizers: dict[str, Tensor]
    progress: dict[str, Any]


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders of all checkpoints, the newest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step_of, reverse=True)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes one, in place of a former one of the same step, then removes all but the newest `keep`."""
    target = folder / f"step-{checkpoint.step:08}"
    with swap_in(target) as temporary:
        digests: dict[str, str] = {}
        for part in _PARTS:
            # Each in memory of its own: parameters that are tied may share it, and safetensors refuses that.
            tensors = {name: one.detach().cpu().contiguous().clone() for name, one in getattr(checkpoint, part).items()}
            content = safetensors.torch.save(tensors)
            digests[part] = hashlib.sha256(content).hexdigest()
            (temporary / f"{part}.safetensors").write_bytes(content)
        progress = {"step": checkpoint.step, "digests": digests, "progress": checkpoint.progress}
        digests["progress"] = _digest_of(progress)
        (temporary / "progress.json").write_text(json.dumps(progress, indent=1), encoding="utf-8")
        for file in temporary.iterdir():  # on the disk before the former ones go, should the power fail
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    # Of a former try there may be later ones, whose steps were taken from a state that is no more.
    newer = [path for path in checkpoints_in(folder) if _step_of(path) > checkpoint.step]
    for path in [*newer, *checkpoints_in(folder)[len(newer) :][keep:]]:
        shutil.rmtree(path, ignore_errors=True)
    return target


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest that is whole; a damaged one is passed over with a warning. None where there is none at all."""
    damaged = None
    for path in checkpoints_in(folder):
        try:
            found = _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            damaged = path
            logger.warning("The checkpoint %s is damaged and passed over (%s).", path, error)
            continue
        return found
    if damaged is not None:
        logger.warning("No checkpoint in %s is whole: the run begins anew.", folder)
    return None


def _read(path: Path) -> Checkpoint:
    content = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    if content["digests"].pop("progress") != _digest_of(content):
        raise ValueError("progress.json is not what was written")
    parts: dict[str, Mapping[str, Tensor]] = {}
    for part in _PARTS:
        raw = (path / f"{part}.safetensors").read_bytes()
        if hashlib.sha256(raw).hexdigest() != content["digests"][part]:
            raise ValueError(f"{part}.safetensors is not what was written")
        parts[part] = safetensors.torch.load(raw)
    return Checkpoint(int(content["step"]), dict(parts["weights"]), dict(parts["optimizers"]), content["progress"])


def _digest_of(progress: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(progress, sort_keys=True).encode()).hexdigest()


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
