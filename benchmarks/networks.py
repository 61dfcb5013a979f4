"""The paper's networks with random weights, and the packages they are compared with in `extraction.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved
from pytorchcv.models.inceptionv3 import inceptionv3
from torchvggish.torchvggish import _vgg
from torchvggish.vggish_input import waveform_to_examples

from modeling_dualspace.backbones import Backbone
from modeling_dualspace.conversion import PICTURES, VIDEO
from modeling_dualspace.known_backbones import load_backbone
from modeling_dualspace.paper_networks import NETWORKS

SIZE = {"size": {"height": 299, "width": 299}, "do_center_crop": False}


def random_networks(folder: Path, small: bool) -> dict[str, Backbone]:
    """All four, loaded as a person's are: from folders. Time does not depend on what the weights are."""
    found = {}
    for name, network in NETWORKS.items():
        config = network.config(**({"num_frames": 16} if small and name == "i3d" else {}))
        network.model(config).save_pretrained(folder / name)
        if network.extractor is not None:
            network.extractor().save_pretrained(folder / name)
        else:
            pictures = PICTURES | VIDEO | (SIZE if name == "inception" else {})
            (folder / name / "preprocessor_config.json").write_text(json.dumps(pictures))
        found[name] = load_backbone(network.modality, str(folder / name))
    return found


def speeds(networks: dict[str, Backbone], repeats: int) -> dict[str, dict[str, float]]:
    """Units a second, from samples or frames to vectors: one at a time, and in batches; ours and the peers'."""
    return {
        "vggish": _compared(networks["vggish"], 8, repeats, _torchvggish()),
        "inception": _compared(networks["inception"], 8, repeats, _pytorchcv(networks["inception"])),
        "soundnet": _compared(networks["soundnet"], 2, repeats, None),
        "i3d": _compared(networks["i3d"], 1, 1, None),
    }


def _compared(
    backbone: Backbone, count: int, repeats: int, peer: Callable[[list[Any]], Any] | None
) -> dict[str, float]:
    draw = np.random.default_rng(0)
    length = backbone.steps.length
    if backbone.modality == "audio":
        units = [[draw.uniform(-1, 1, length).astype(np.float32)] for _ in range(count)]
    else:
        units = [[draw.integers(0, 256, (360, 480, 3), np.uint8)] * length for _ in range(count)]

    def ours(some: list[Any]) -> Any:
        return backbone.embed([[backbone.prepare(piece) for piece in unit] for unit in some])

    runs = {"alone": lambda: [ours([unit]) for unit in units], "batched": lambda: ours(units)}
    if peer is not None:
        runs |= {"peer_alone": lambda: [peer([unit]) for unit in units], "peer_batched": lambda: peer(units)}
    return {name: count / seconds for name, seconds in interleaved(repeats, **runs).items()}


def _torchvggish() -> Callable[[list[Any]], Any]:
    """Its own front end and network, before its post-processing."""
    network = _vgg(postprocess=False).eval()

    @torch.inference_mode()
    def embed(units: list[Any]) -> torch.Tensor:
        examples = [waveform_to_examples(samples, 16_000).detach() for (samples,) in units]
        return network(torch.cat(examples))

    return embed


def _pytorchcv(ours: Backbone) -> Callable[[list[Any]], Any]:
    """Its network on frames that ours prepares: it prepares none itself."""
    network = inceptionv3(pretrained=False).eval()

    @torch.inference_mode()
    def embed(units: list[Any]) -> torch.Tensor:
        frames = np.stack([ours.prepare(frame)["pixel_values"] for (frame,) in units])
        return network.features(torch.from_numpy(frames))

    return embed
