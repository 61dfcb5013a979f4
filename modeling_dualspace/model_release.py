"""A model as the Hub gets it: weights, configuration, code, a card with its own numbers, and its figures."""

import inspect
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import RepoCard
from huggingface_hub.errors import EntryNotFoundError

from .card_template import plain, renamed
from .evaluation import seen_by, split_names
from .figure_style import to_png
from .files import CARD, MANIFEST, model_fingerprint
from .loading import find_split, is_public, load_model
from .model_card import CHECKED, Measured, render
from .processor_release import check_features, released_processor
from .release_plan import Item
from .report_pictures import Picture, result_pictures, training_pictures
from .report_sources import Source, key_of
from .results import COMPLETE, Run, check_result, is_hub_id, model_folder, read_result, read_run, results_folder
from .staging import Staged, place, write_text

CARRIED = (".safetensors", ".json", ".py", ".jinja")
"""What may be part of a model, as `save_pretrained` writes it."""
LEARNT_FROM = {"train", "validation", "all"}


def is_model(path: Path) -> bool:
    """Whether a folder is a model, or a run with one."""
    return model_folder(str(path)) is not None


def stage_model(item: Item, staged: Staged, others: Sequence[Staged]) -> None:
    """Fills the folder of a model."""
    source, run = model_folder(item.path), read_run(item.path)
    assert source is not None
    if run.folder and not run.summary and (run.folder / "checkpoints").is_dir():
        raise ValueError(f"{item.path} is a run that is not finished: go on with `dualspace train ... --resume` first.")
    model = load_model(str(source))
    fingerprint = model_fingerprint(model)
    results = [_sound(path, result, fingerprint, run) for path, result in _results(item, run, staged)]
    if not results:
        raise ValueError(
            f"{item.path} has no result on clips it has not seen, so its card would have no figures: run `dualspace "
            f"evaluate {item.path} DATA`, or `dualspace train ... --resume --final`."
        )
    measured = [_measured(item, staged, result, model, run, others) for result in _best_first(results, model)]
    measured = list(_told_apart(measured))
    _carry(source, staged, trusted=item.trust_remote_code)
    staged.fingerprints.append(fingerprint)
    looks, staged.synthetic = _looks(run), _is_synthetic(model, measured)
    processor = released_processor(source, getattr(model.config, "feature_spec", None), private=staged.private)
    values: dict[str, Any] = {
        "repo_id": staged.repo_id,
        "license": item.license,
        "config": model.config,
        "system": plain(_said_of(model)),
        "check": _check_values(model) | ({"features": check_features(processor)} if processor else {}),
        "processor": None if processor is None else processor.to_dict(),
        "fingerprint": fingerprint,
        "remote_code": bool(getattr(model.config, "auto_map", None)),
        "synthetic": staged.synthetic,
        "carbon": item.carbon,
        "init": _init(run, staged),
    }
    try:
        values["pictures"] = list(_draw(staged, measured, run))
        card = render(values, measured, run, looks, item.card or None)
    except (LookupError, TypeError) as error:
        raise ValueError(f"A result of {item.path} is not complete ({error}): evaluate the model again.") from None
    write_text(staged.folder / CARD, card)


def _said_of(model: Any) -> str:
    """The first paragraph of what a system says of itself."""
    return " ".join((inspect.getdoc(type(model)) or type(model).__name__).split("\n\n")[0].split())


def _results(item: Item, run: Run, staged: Staged) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Of this model, on clips that it was not made from, the newest of each split."""
    folder = results_folder(item.path)
    found: dict[tuple[Any, ...], tuple[Path, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = read_result(path)
        check_result(result, path, COMPLETE)
        if split_names(result["data"]["split"]) & LEARNT_FROM:
            staged.notes.append(
                f"{path} is left out of the card: {result['data']['split']} is what a model is made from."
            )
            continue
        key = (*key_of(result), result["data"]["config"])
        if key not in found or (found[key][1]["date"] or "") < (result["date"] or ""):
            found[key] = (path, result)
    yield from found.values()


def _sound(path: Path, result: dict[str, Any], fingerprint: str, run: Run) -> dict[str, Any]:
    """The result; raises unless its figures have a source, and were not chosen on what they are measured on."""
    split = result["data"]["split"]
    if result["model"]["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} was measured with other weights ({result['model']['fingerprint']}, and these are {fingerprint}), "
            "so its figures have no source: evaluate the model again, or remove that file."
        )
    if not result["command"]:
        raise ValueError(
            f"{path} does not say by which command it was made, so its figures have no source: make it by `dualspace "
            "evaluate`."
        )
    seen = result["metrics"].get("seen")
    if seen or split_names(split) & {result["options"]["chosen_on"], run.summary.get("chosen_on")}:
        what = seen or "chosen"
        raise ValueError(
            f"{path} is of clips on which the model was {what}: a card shows none but those on clips it has not seen. "
            "Remove that file."
        )
    return result


def _best_first(results: Sequence[dict[str, Any]], model: Any) -> list[dict[str, Any]]:
    """Test of the data it was trained on comes first."""
    own = (getattr(model.config, "trained_on", None) or {}).get("fingerprint")
    return sorted(results, key=lambda result: (result["data"]["fingerprint"] != own, result["data"]["split"] != "test"))


def _measured(
    item: Item, staged: Staged, result: dict[str, Any], model: Any, run: Run, others: Sequence[Staged]
) -> Measured:
    """The result with its data set, which must be at hand: what cannot be measured again has no source."""
    data, released = result["data"], None
    for other in others:
        released = other if data["fingerprint"] in other.fingerprints else released
    places = [item.data] if item.data else []
    places += [str(released.folder)] if released else []
    found, split = find_split(data, data["split"], [*places, data["id"]])
    staged.places[data["fingerprint"]] = found
    repo_id = found if is_hub_id(found) and _may_name(staged, found, "dataset") else ""
    if released and (staged.private or not released.private):  # a public card names nothing that is private
        repo_id = released.repo_id
    if seen_by(model, split, data["split"]):
        raise ValueError(
            f"{item.path} was trained on {data['split']} of {data['id']}: a card shows no figure of those clips."
        )
    shown = repo_id or Path(data["id"] if released else found).resolve().name
    names = {data["id"]: shown, str((run.recipe or {}).get("init") or ""): _init(run, staged)}  # as the card calls them
    command = renamed(str(result["command"]), names)
    return Measured(
        plain(result | {"command": command, "data": data | {"id": shown}}),
        plain(shown),
        repo_id,
        plain(_card_of(found)),
        _before(run, result),
    )


def _may_name(staged: Staged, repo_id: str, repo_type: str) -> bool:
    return staged.private or is_public(repo_id, repo_type)


def _init(run: Run, staged: Staged) -> str:
    """What a run was tuned from, as far as the card may say."""
    init = str((run.recipe or {}).get("init") or "")
    return init if is_hub_id(init) and _may_name(staged, init, "model") else Path(init).name


def _told_apart(measured: Sequence[Measured]) -> Iterator[Measured]:
    """Two data sets of one name, as only their fingerprints tell."""
    for one in measured:
        same = [other for other in measured if _called(other) == _called(one)]
        prints = {other.result["data"]["fingerprint"] for other in same}
        shown = f"{one.shown}-{one.result['data']['fingerprint'][:8]}"
        yield one if len(prints) == 1 or one.repo_id else replace(one, shown=shown)


def _called(one: Measured) -> tuple[Any, ...]:
    return one.shown, one.result["data"]["config"], one.result["data"]["split"]


def _card_of(found: str) -> dict[str, Any]:
    """The metadata of a data set's card; none where it has none."""
    try:
        if Path(found).is_dir():
            return RepoCard.load(str(Path(found, CARD)), repo_type="dataset").data.to_dict()
        return RepoCard.load(found, repo_type="dataset").data.to_dict()
    except (OSError, ValueError, EntryNotFoundError):
        return {}


def _before(run: Run, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of the same split, by the weights before they were refit."""
    folder = run.folder / "before-refit" if run.folder else None
    if folder is None or not (folder / "results").is_dir():
        return None
    same = [one for one in Run(folder).results if key_of(one) == key_of(result) and one.get("command")]
    newest = max(same, key=lambda one: str(one.get("date")), default=None)
    if newest is None or model_fingerprint(load_model(str(folder))) != newest["model"]["fingerprint"]:
        return None
    return dict(newest)


def _is_synthetic(model: Any, measured: Sequence[Measured]) -> bool:
    """Whether it was trained on made-up features; where that cannot be known, whether it was measured on any."""
    record = getattr(model.config, "trained_on", None) or {}
    if record.get("synthetic") is not None:
        return bool(record["synthetic"])
    own = [one for one in measured if one.result["data"]["fingerprint"] == record.get("fingerprint")]
    made_up = any(one.result["data"]["synthetic"] for one in own or measured)
    return made_up or "synthetic" in str(getattr(model.config, "feature_spec", None))


def _carry(source: Path, staged: Staged, *, trusted: bool) -> None:
    """The files of the model; what is none is left where it is, and that is said.

    Raises where there is code that is not this package's: it is run to see whether it works.
    """
    strange = [path.name for path in sorted(source.glob("*.py")) if not _is_ours(path)]
    if strange and not trusted:
        raise ValueError(
            f"{source} holds code that is not this version's ({', '.join(strange)}), and a push runs it: look at it, "
            "and pass --trust-remote-code, or save the model again by `save_pretrained`."
        )
    for path in sorted(path for path in source.iterdir() if path.name not in (CARD, MANIFEST)):
        if path.is_file() and path.suffix in CARRIED and path.name[0] != ".":
            place(path, staged.folder / path.name)
        else:
            staged.notes.append(f"{path} is no part of a model, and is left out.")
    if not any(staged.folder.glob("*.safetensors")):
        raise ValueError(f"{source} holds no weights as safetensors: save the model again by `save_pretrained`.")


def _is_ours(path: Path) -> bool:
    ours = Path(__file__).with_name(path.name)
    return ours.is_file() and ours.read_bytes() == path.read_bytes()


def _looks(run: Run) -> int:
    """How often anybody scored the run on test."""
    file = run.folder / "final.jsonl" if run.folder else None
    count = 0
    for line in file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []:
        try:
            count += json.loads(line)["split"] == "test" if line.strip() else 0
        except (ValueError, TypeError, LookupError):
            raise ValueError(f"{file} has a line that is no log of a look at test: {line[:60]!r}. Remove it.") from None
    return count


def _probe(width: int) -> torch.Tensor:
    """Features that anybody can make, the same everywhere; the card says how."""
    return torch.linspace(-1, 1, 2 * width).reshape(2, width)


@torch.no_grad()
def _check_values(model: Any) -> dict[str, list[list[float]]]:
    """What the model makes of made-up features: whoever loads it gets the same, or has something else."""
    audio, visual = (_probe(width) for width in (model.config.audio_dim, model.config.visual_dim))
    embeds = {"audio": model.get_audio_embeds(audio), "visual": model.get_visual_embeds(visual)}
    return {
        name: [[round(value, 4) for value in row[:CHECKED]] for row in rows.double().tolist()]
        for name, rows in embeds.items()
    }


def _draw(staged: Staged, measured: Sequence[Measured], run: Run) -> Iterator[dict[str, Any]]:
    """The figures, as files, and what the card says of each row of them: both directions stand side by side."""
    name = staged.repo_id.split("/")[1]
    recipe = plain(run.recipe or {})
    source = Source(name, run, [one.result for one in measured])
    numbers = {name: 0}
    for one in measured:
        data, key = one.result["data"], key_of(one.result)
        tail = re.sub(r"[^\w-]+", "-", f"{data['split']}-{data['fingerprint'][:4]}").strip("-")
        said = f"Measured on {data['split']} of {one.shown}, by the command above."
        pictures = result_pictures([replace(source, results=[one.result])], key, numbers, tail)
        yield from _rows(staged, pictures, said)
    said = f"From the history of the run, recipe `{recipe.get('name', name)}` below." if recipe else ""
    yield from _rows(staged, training_pictures([source], numbers), said)


def _rows(staged: Staged, pictures: Iterable[Picture], source: str) -> Iterator[dict[str, Any]]:
    """Draws pictures; those that share a title up to its colon make a row."""
    folder = staged.folder / "figures"
    for title, row in itertools.groupby(pictures, key=lambda picture: picture.title.split(": ")[0]):
        images = []
        for picture in row:
            folder.mkdir(exist_ok=True)
            (folder / f"{picture.name}.png").write_bytes(to_png(picture.draw))
            images.append({"name": picture.name, "title": picture.title.partition(": ")[2] or picture.title})
            caption = picture.caption
        yield {"title": title, "caption": caption, "source": source, "images": images}
