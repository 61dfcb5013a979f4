"""From features to a search in half a minute, on synthetic data: what `make demo` shows."""

import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from .cca import CanonicalLayer, canonical_directions
from .configuration_dualspace import DualSubspaceConfig
from .modeling_dualspace import DualSubspaceModel
from .pair_moments import PairMoments
from .ranking import mean_average_precision
from .synthetic import CLASSES, synthetic_clips
from .targets import label_targets

SPLITS = {"train": 4000, "validation": 500, "test": 1000}
FUSIONS: dict[str, Literal["cca", "weighted-cluster-cca"]] = {
    "dual, the paper's fusion": "cca",
    "dual, weighted cluster CCA": "weighted-cluster-cca",
}
Clips = dict[str, Tensor]


def batches(clips: Clips, size: int, generator: torch.Generator | None = None) -> list[Clips]:
    """All rows in batches, in order or shuffled."""
    rows = len(clips["labels"])
    order = torch.arange(rows) if generator is None else torch.randperm(rows, generator=generator)
    return [{name: column[part] for name, column in clips.items()} for part in order.split(size)]


def train(model: DualSubspaceModel, clips: Clips, epochs: int) -> None:
    """Statistics, then `epochs` passes of AdamW over batches of 200 clips."""
    model.prepare(batches(clips, 1000))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        for batch in batches(clips, 200, generator):
            optimizer.zero_grad(set_to_none=True)
            output = model(**batch)
            output.loss.backward()
            optimizer.step()
        terms = "  ".join(f"{name} {term.item():.3f}" for name, term in output.terms.items())
        print(f"epoch {epoch + 1}/{epochs}  loss {output.loss.item():.3f}  ({terms})", file=sys.stderr)
    model.eval()


def random_embeds(rows: int, dim: int = 10) -> tuple[Tensor, Tensor]:
    """The floor of every table."""
    generator = torch.Generator().manual_seed(0)
    audio, visual = (nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1) for _ in range(2))
    return audio, visual


def cca_embeds(clips: Clips, test: Clips, dim: int = 10) -> tuple[Tensor, Tensor]:
    """The rival that every paper starts from: ridge CCA of the raw features."""
    audio, visual = clips["audio_features"], clips["visual_features"]
    moments = PairMoments(audio.shape[1], visual.shape[1]).update(audio, visual)
    layer = CanonicalLayer(audio.shape[1], visual.shape[1], dim)
    layer.set(canonical_directions(moments.covariances(), dim, ridge=1e-4))
    return layer.audio(test["audio_features"]), layer.visual(test["visual_features"])


@torch.no_grad()
def run_demo(out: Path, epochs: int = 8) -> dict[str, Any]:
    """Trains, scores, saves, reloads and searches; returns what `render` prints."""
    folder = out / "model"
    folder.mkdir(parents=True, exist_ok=True)  # a place that cannot be written to is better known before training
    logging.disable_progress_bar()
    torch.manual_seed(0)
    data = {split: synthetic_clips(rows, seed) for seed, (split, rows) in enumerate(SPLITS.items())}
    test = data["test"]
    config = DualSubspaceConfig(
        audio_hidden=[256, 256], visual_hidden=[256, 256], alpha=1.0, dropout=0.2,
        id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    model = DualSubspaceModel(config)
    with torch.enable_grad():
        train(model, data["train"], epochs)

    embeds = {"random": random_embeds(SPLITS["test"]), "CCA of the raw features": cca_embeds(data["train"], test)}
    for name, fusion in FUSIONS.items():
        model.config.fusion = fusion
        model.finish(batches(data["train"], 1000), [data["validation"]])
        embeds[name] = _embed(model, test)

    targets, _ = label_targets(test["labels"], len(CLASSES))
    model.save_pretrained(folder)
    loaded = AutoModel.from_pretrained(folder)
    return {
        "synthetic": True,
        "splits": SPLITS,
        "scores": {name: mean_average_precision(*pair, targets) for name, pair in embeds.items()},
        "fusion": loaded.config.fusion_choice,
        "search": _search(loaded, test, query=0),
        "model": str(folder),
    }


def _embed(model: DualSubspaceModel, clips: Clips) -> tuple[Tensor, Tensor]:
    return model.get_audio_embeds(clips["audio_features"]), model.get_visual_embeds(clips["visual_features"])


def _search(model: DualSubspaceModel, clips: Clips, query: int, answers: int = 5) -> dict[str, Any]:
    """The videos nearest to one clip's sound."""
    audio, visual = _embed(model, clips)
    best = (visual @ audio[query]).topk(answers)
    names = [CLASSES[label] for label in clips["labels"].tolist()]
    found = [
        {"clip": clip, "class": names[clip], "cosine": cosine}
        for clip, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {"query": {"clip": query, "class": names[query]}, "found": found}


def render(result: dict[str, Any]) -> str:
    """The result as plain text."""
    width = max(map(len, result["scores"]))
    lines = [
        "",
        f"MAP on {result['splits']['test']} test clips of SYNTHETIC features, ten classes (measured)",
        f"{'':{width}}  audio->visual  visual->audio    mean",
    ]
    for name, score in result["scores"].items():
        figures = f"{score['audio_to_visual']:13.3f}  {score['visual_to_audio']:13.3f}  {score['map']:6.3f}"
        lines.append(f"{name:{width}}  {figures}")
    fusion = result["fusion"]
    chosen = ", ".join(f"{key.replace('_', ' ')} {fusion[key]}" for key in ("cluster_weight", "ridge") if key in fusion)
    query = result["search"]["query"]
    lines += [
        "",
        f"Fusion kept on validation: {fusion['candidate']} {chosen}".rstrip(),
        "",
        f"Sound of clip {query['clip']} ({query['class']}) finds:",
    ]
    lines += [f"  {hit['cosine']:.3f}  clip {hit['clip']:4}  {hit['class']}" for hit in result["search"]["found"]]
    lines += ["", f"Saved: {result['model']}", f"Load:  AutoModel.from_pretrained({result['model']!r})"]
    return "\n".join(lines)
