"""The whole way, from films to a search by sound, on clips that are rendered on the spot: what `make demo` shows."""

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from torch import Tensor, nn

from .cca import CanonicalLayer, canonical_directions
from .console import quiet
from .extraction import extract
from .feature_dataset import to_tensors
from .files import check_file
from .index import open_index
from .indexing import index_clips, remove_index
from .pair_moments import PairMoments
from .ranking import mean_average_precision
from .recipe import load_recipe
from .report import write_report
from .sample_clips import write_clips
from .targets import label_targets
from .training_grid import train_recipe

Scores = Mapping[str, float]
SECONDS = 3.0
DEMO = Path("runs/demo")
"""Where it goes unless somebody says otherwise."""
NAMES = ("audio_to_visual", "visual_to_audio", "map")


def run_demo(out: Path, epochs: int = 30, clips_per_class: int = 40) -> dict[str, Any]:
    """Renders, extracts, trains, scores, reports, indexes and searches; returns what `render` prints.

    Each step is what a command does, and is shown as that command.
    """
    clips, features, run, page, place = (
        out / name for name in ("sample-clips-synthetic", "clips-features-synthetic", "run", "report.html", "index")
    )
    check_file(page)  # a place that cannot be written to is better known before any work
    commands: list[str] = []

    def step(*words: Any) -> str:
        commands.append(shlex.join(map(str, words)))
        print(f"{len(commands)}. {commands[-1]}", file=sys.stderr)
        return commands[-1]

    with quiet():
        step("python", "dataset_scripts/sample_clips.py", "--out", clips, "--clips-per-class", clips_per_class)
        write_clips(clips, clips_per_class, SECONDS, seed=0, overwrite=True)
        found = extract(clips, features, overwrite=True, command=step("dualspace", "extract", clips, "--out", features))
        overrides = [f"data.path={features}", f"output={run}", f"train.epochs={epochs}"]
        command = step("dualspace", "train", "tiny", *overrides, "--final")
        summary = train_recipe(load_recipe("tiny", overrides), overwrite=True, final=True, command=command)
        report = _report(run, page, step("dualspace", "report", run, "--out", page))
        scores = _rivals(features) | {"dual-subspace model": _figures(summary["final"]["model"])}
        remove_index(place)  # of a former model
        command = step("dualspace", "index", run, features, "--out", place, "--films", clips)
        index_clips(str(run), str(features), str(place), films=clips, command=command, progress=False)
        search = _search(place, clips, step)
    return {
        "synthetic": True,
        "splits": found["splits"],
        "commands": commands,
        "scores": scores,
        "search": search,
        "clips": str(clips),
        "features": str(features),
        "model": str(run / "model"),
        "report": report,
        "index": str(place),
    }


def _report(run: Path, page: Path, command: str) -> str | None:
    """The page, where what draws it is installed."""
    try:
        return str(write_report([run], page, command=command)["report"])
    except ModuleNotFoundError as error:
        print(f"   left out: {error}", file=sys.stderr)
        return None


@torch.no_grad()
def _rivals(features: Path) -> dict[str, Scores]:
    """Of test: a random ranking, and ridge CCA of the raw features, the rival that every paper starts from."""
    data = load_dataset(str(features.resolve()))
    learnt, test = to_tensors(data["train"]), to_tensors(data["test"])
    targets, _ = label_targets(test["labels"], data["test"].features["label"].num_classes)
    embeds = {"random": _random(len(test["labels"])), "CCA of the raw features": _cca(learnt, test)}
    return {name: _figures(mean_average_precision(*pair, targets)) for name, pair in embeds.items()}


def _figures(scores: Mapping[str, Any]) -> Scores:
    return {name: float(scores[name]) for name in NAMES}


def _random(rows: int, dim: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    audio, visual = (nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1) for _ in range(2))
    return audio, visual


def _cca(clips: Mapping[str, Tensor], test: Mapping[str, Tensor], dim: int = 10) -> tuple[Tensor, Tensor]:
    audio, visual = clips["audio_features"], clips["visual_features"]
    moments = PairMoments(audio.shape[1], visual.shape[1]).update(audio, visual)
    layer = CanonicalLayer(audio.shape[1], visual.shape[1], dim)
    layer.set(canonical_directions(moments.covariances(), dim, ridge=1e-4))
    return layer.audio(test["audio_features"]), layer.visual(test["visual_features"])


def _search(place: Path, clips: Path, step: Callable[..., str], answers: int = 5) -> dict[str, Any]:
    """The films of test nearest to the sound of one of them, as anybody would look for them."""
    with open_index(place, films=clips) as index:
        held = [hit for hit in index.sample(len(index))[0] if hit.metadata["split"] == "test"]
        query = next((hit for hit in held if "drum" in hit.labels), held[0])
        step("dualspace", "search", place, "--audio", clips / str(query.path), "--where", "split=test", "-k", answers)
        hits = index.search(audio=index.film(query), k=answers, where="split=test")
    shown = [{"clip": hit.path, "class": hit.labels[0], "cosine": hit.score} for hit in hits]
    return {"query": {"clip": query.path, "class": query.labels[0]}, "found": shown}


def render(result: Mapping[str, Any]) -> str:
    """The result as plain text."""
    width = max(map(len, result["scores"]))
    lines = [
        "",
        f"MAP on the {result['splits']['test']} test clips of SYNTHETIC films, ten classes (measured)",
        f"{'':{width}}  audio->visual  visual->audio    mean",
    ]
    for name, score in result["scores"].items():
        lines.append(f"{name:{width}}  {score[NAMES[0]]:13.3f}  {score[NAMES[1]]:13.3f}  {score['map']:6.3f}")
    lines += ["", f"The sound of {result['search']['query']['clip']} finds the pictures of:"]
    lines += [f"  {hit['cosine']:.3f}  {hit['clip']}" for hit in result["search"]["found"]]
    lines += [
        "",
        f"Films:    {result['clips']}",
        f"Features: {result['features']}     load_dataset({result['features']!r})",
        f"Model:    {result['model']}     AutoModel and AutoProcessor.from_pretrained({result['model']!r})",
        *([f"Report:   {result['report']}     open it in a browser"] if result["report"] else []),
        f"Index:    {result['index']}     dualspace app {result['index']} shows it in a browser",
        "Your own: dualspace extract my_videos --out my-features, and what it says then",
    ]
    return "\n".join(lines)
