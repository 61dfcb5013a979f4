"""Embed a split, score it, and say so: on the terminal and, with all that could be asked later, on disk.

Under several processes (`accelerate launch`, `torchrun`) each embeds and ranks its share of whole chunks, on a grid
that depends on the number of clips alone: the table is that of one process to the last digit.
"""

import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib import import_module, metadata
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn

from .average_precision import query_chunks
from .distributed import agreed, all_gather, gather_named_rows, process_index, process_share, world_size
from .feature_dataset import paired_rows, to_tensors
from .feature_schema import MODALITIES, Description, class_names_of
from .files import model_fingerprint
from .loading import check_fit, check_model, data_fingerprint, load_model, load_split
from .module_state import evaluating
from .moments import check_finite
from .results import FORMAT, Run, read_run
from .retrieval_scores import CUTOFFS, grid, is_known, query_scores, retrieval_scores

BATCH = 1024
PACKAGES = ("torch", "transformers", "datasets", "numpy")


@torch.no_grad()
def embed(model: Any, split: Dataset, batch_size: int = BATCH, rows: Any = None) -> dict[str, Tensor]:
    """The embeddings of all clips, `audio` and `visual`, and `labels` where there are any, on the model's device.

    Args:
        model: with `get_audio_embeds` and `get_visual_embeds`; it embeds in eval mode, whatever its mode.
        split: whose clips have both tracks.
        batch_size: clips at a time.
        rows: by which number each clip is named when something is wrong with it.
    """
    if not len(split):
        raise ValueError("The split is empty, so there is nothing to embed: look at its name, or at how it was made.")
    if batch_size < 2:
        raise ValueError(f"At least two clips are embedded at a time, got a batch size of {batch_size}.")
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    device = next((tensor.device for tensor in state.values()), torch.device("cpu"))
    numbers = torch.arange(len(split)) if rows is None else torch.as_tensor(rows)

    def parts_of(chunks: Sequence[slice]) -> dict[str, Tensor]:
        parts = [_embed_chunk(model, split, chunk, numbers[chunk], device) for chunk in chunks]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    with evaluating(model) if isinstance(model, nn.Module) else nullcontext():
        return _shared(list(query_chunks(len(split), 1, batch_size)), parts_of)


def _embed_chunk(model: Any, split: Dataset, chunk: slice, numbers: Tensor, device: torch.device) -> dict[str, Tensor]:
    columns = to_tensors(split.select(range(chunk.start, chunk.stop)))
    result = {}
    for name, embeds in zip(MODALITIES, (model.get_audio_embeds, model.get_visual_embeds), strict=True):
        check_finite(columns[name], name.replace("_", " "), numbers)
        found, short = embeds(columns[name].to(device)), name.removesuffix("_features")
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(columns[name]):
            came = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(
                f"Expected `get_{short}_embeds` to give a tensor of one row a clip, ({len(numbers)}, d); got {came}."
            )
        check_finite(found, f"{short} embeddings", numbers)
        # mps has no float64, in which cosines are computed.
        result[short] = found.cpu() if device.type == "mps" else found
    if "labels" in columns:
        result["labels"] = columns["labels"].to(result["audio"].device)
    return result


def _shared(chunks: Sequence[slice], run: Callable[[Sequence[slice]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `run` makes of all chunks, of which every process takes its share of whole ones."""
    mine = process_share(chunks)
    # A process without a share brings no rows, but of the names and widths of the others.
    rows = agreed(lambda: run(mine or chunks[:1]))
    return gather_named_rows(rows if mine else {name: values[:0] for name, values in rows.items()})


def _scores_by_share(queries: Any, gallery: Any, labels: Any, **options: Any) -> dict[str, Any]:
    """`query_scores`, each process for its share of the grid."""

    def rows(chunks: Sequence[slice]) -> dict[str, Tensor]:
        found = query_scores(queries, gallery, labels, chunks=chunks, **options)
        return {name: torch.from_numpy(values).to(queries.device) for name, values in found.items()}

    found = _shared(grid(queries, gallery), rows)
    return {name: values.cpu().numpy() for name, values in found.items()}


def evaluate_model(
    model: Any,
    split: Dataset,
    *,
    class_names: Sequence[str] | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
    legacy_prefix_average: bool = False,
    batch_size: int = BATCH,
) -> dict[str, Any]:
    """The table of a model on a split, both directions, and what it took: `metrics` and `seconds`.

    Clips that lack a track are left out, and counted; so are those of unknown class.

    Args:
        model: with `get_audio_embeds` and `get_visual_embeds`.
        split: a split of any data set of our columns.
        class_names: of the labels; None takes those of the data set.
        cutoffs: ranks at which precision, recall and the like are taken.
        legacy_prefix_average: add what some published scripts print instead of average precision.
        batch_size: clips embedded at a time.
    """
    check_model(model, type(model).__name__)
    if isinstance(split, IterableDataset):
        raise ValueError("A streaming split is not all at hand, and a ranking needs all of it: load it whole.")
    start = time.perf_counter()
    rows = paired_rows(split)
    names = class_names_of(split.features, split.info.description) if class_names is None else class_names
    if len(split) and not len(rows):
        raise ValueError(f"None of the {len(split)} clips has both a sound and a picture.")
    paired = split if len(rows) == len(split) else split.select(rows)
    embeds = embed(model, paired, batch_size, rows)
    embedded = time.perf_counter()
    metrics = retrieval_scores(
        embeds["audio"],
        embeds["visual"],
        embeds["labels"] if "labels" in embeds and is_known(embeds["labels"]).any() else None,
        class_names=names,
        cutoffs=cutoffs,
        legacy_prefix_average=legacy_prefix_average,
        score=_scores_by_share,
    )
    seconds = torch.tensor([embedded - start, time.perf_counter() - embedded], device=embeds["audio"].device)
    longest = all_gather(seconds).amax(dim=0).tolist()
    metrics["unpaired"] = len(split) - len(rows)
    if metrics["map"] is None and "labels" in embeds:
        metrics["unlabelled"] = len(paired)
    return {"metrics": metrics, "seconds": {"embedding": longest[0], "scoring": longest[1]}}


def evaluate(
    model_id: str,
    data_id: str,
    config: str | None = None,
    split: str = "test",
    *,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    command: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The result of a model on a data set, both by name: what cards, tables and reports are made from.

    Args:
        model_id: see `load_model`.
        data_id: a folder, or an id of the Hub.
        config: of the data set.
        split: of the data set.
        device: where to embed and rank.
        trust_remote_code: run the code that comes with the model.
        command: what was typed.
        options: of `evaluate_model`.
    """
    run = agreed(lambda: _readable(read_run(model_id)))
    model = agreed(lambda: load_model(model_id, trust_remote_code=trust_remote_code).to(device))
    # One process makes the cache of the data set, and then the others read it.
    first = agreed(lambda: None if process_index() else load_split(data_id, config, split))
    data = agreed(lambda: load_split(data_id, config, split) if first is None else first)
    agreed(lambda: check_fit(model, model_id, data, data_id))
    found = evaluate_model(model, data, **options)
    seen = seen_by(model, data, split)
    if seen:
        found["metrics"]["seen"] = seen
    return {
        "format": FORMAT,
        "model": _about_model(model, model_id),
        "data": _about_data(data, data_id, split, found["metrics"]["gallery"]),
        "metrics": found["metrics"],
        "seconds": {"training": run.seconds, **found["seconds"]},
        "options": {
            "chosen_on": "validation" if run.validated else None,
            "refit": run.training.get("refit"),
            "legacy_prefix_average": bool(options.get("legacy_prefix_average")),
        },
        "seed": run.training.get("seed"),
        "recipe": run.recipe,
        "environment": {
            "versions": _versions(),
            "device": _device_name(torch.device(device)),
            "processes": world_size(),
        },
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _readable(run: Run) -> Run:
    """The run; what is wrong with its files is better known before than after."""
    _ = run.recipe, run.history, run.summary
    return run


def split_names(split: str) -> set[str]:
    """The splits that are in what `datasets` takes for one: slices, sums, `all`.

    Example:
        ```python
        >>> sorted(split_names("train[:50%]+test"))
        ['test', 'train']

        ```
    """
    return {part.split("[")[0].strip() for part in split.split("+")}


def seen_by(model: Any, data: Dataset, split: str) -> str | None:
    """Whether a split is one the model was `trained` on, or `chosen` on, as far as both say."""
    record = getattr(model.config, "trained_on", None)
    if not record or data_fingerprint(data, re.sub(r"\[[^\]]*\]", "", split)) != record.get("fingerprint"):
        return None
    names, learnt = split_names(split), record.get("rows", {})
    if "all" in names or names & learnt.keys():
        return "trained"
    return "chosen" if "validation" in names else None


def _about_model(model: Any, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "model_type": model.config.model_type,
        "fingerprint": model_fingerprint(model),
        "parameters": _numbers_of(model),
    }


def _numbers_of(model: Any) -> int:
    """How many were learnt; of a closed form, how many were fitted."""
    fitted = [buffer.numel() for buffer in model.buffers() if buffer.is_floating_point()]
    return sum(parameter.numel() for parameter in model.parameters()) or sum(fitted)


def _about_data(data: Dataset, name: str, split: str, queries: int) -> dict[str, Any]:
    names = class_names_of(data.features, data.info.description)
    description = Description.parse(data.info.description)
    return {
        "id": name,
        "config": data.info.config_name,
        "split": split,
        "fingerprint": data_fingerprint(data, split),
        "queries": queries,
        "classes": None if names is None else len(names),
        "synthetic": bool(description and description.synthetic),
    }


def _versions() -> dict[str, str]:
    ours = {"python": platform.python_version(), "dualspace": import_module(__package__ or "").__version__}
    return ours | {name: metadata.version(name) for name in PACKAGES}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
