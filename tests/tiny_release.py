"""A tiny run, its data set and a release of both, and how a refusal reads, for the tests of releases."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_dualspace import DualSubspaceConfig, DualSubspaceModel
from modeling_dualspace.cli import main
from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_dataset import write_dataset
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns

CLASSES = ["dog", "drum", "train"]
SIZES = {"train": 60, "validation": 15, "test": 30}
ITEMS = """
collection: Tiny things
description: For tests
items:
- {name: tiny-data, path: tiny-data}
- {name: tiny_map, kind: metric}
- {name: tiny-model, path: runs/tiny, license: apache-2.0}
"""
THINGS = {"tiny-data": "dataset", "tiny_map": "space", "tiny-model": "model"}


def clips(split: str, start: int = 0) -> dict:
    """Clips that show their class in either modality."""
    rows = SIZES[split]
    generator, labels = np.random.default_rng([len(split), start]), np.arange(rows) % 3
    latent = 2 * np.eye(3)[labels] + generator.standard_normal((rows, 3))
    audio, visual = (latent @ np.random.default_rng(width).standard_normal((3, width)) for width in (6, 8))
    ids = [f"{split}/{row}" for row in range(rows)]
    return {"clip_id": ids, "audio_features": audio, "visual_features": visual, "label": labels}


def write_data(folder: Path, start: int = 0, **settings) -> Path:
    """A data set of three classes."""
    source = FeatureSource(
        name="default",
        features=feature_columns(6, 8, CLASSES),
        splits={split: [f"default/{split}"] for split in SIZES},
        rows=lambda part: [clips(part.split("/")[1], start)],
        **settings,
    )
    write_dataset(folder, [source], DataCard("Tiny", folder.name, license="cc-by-4.0"), progress=False)
    return folder


def write_run(folder: Path, data: str, seed: int = 0) -> Path:
    """A run with a tiny model that was fitted, not trained, and a result on test."""
    torch.manual_seed(seed)
    batch = {key: torch.from_numpy(column).float() for key, column in list(clips("train").items())[1:3]}
    sizes = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "embed_dim": 4, "explicit_dim": 4}
    model = DualSubspaceModel(DualSubspaceConfig(**sizes, audio_hidden=[8], visual_hidden=[8])).eval()
    model.prepare([batch])
    model.finish([batch | {"labels": torch.arange(60) % 3}])
    model.register_for_auto_class("AutoModel")
    model.config.register_for_auto_class()
    model.save_pretrained(folder / "model")
    assert main(["evaluate", str(folder), data]) == 0
    return folder


def refusal(call) -> str:
    """The one line in which something is refused."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert text.endswith((".", "?")) and "\n" not in text and "Error" not in text
    return text
