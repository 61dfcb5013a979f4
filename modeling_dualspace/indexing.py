"""From a folder of films, or a data set, to an index: what `dualspace index` calls."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .data_release import is_data_set
from .extraction import extract
from .files import write_json
from .index import Index, create_index, is_uri, open_index
from .index_cache import CACHE
from .index_card import read_index_card
from .loading import find_processor, load_model, load_splits

REMEMBERED = "films.json"


def index_clips(
    model: str,
    data: str,
    out: str,
    *,
    config: str | None = None,
    splits: Sequence[str] = (),
    films: str | Path | None = None,
    window: float | None = None,
    hop: float | None = None,
    prune: bool = False,
    trust_remote_code: bool = False,
    command: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Makes an index, or adds to one, what it lacks of some clips; returns what was done and what it holds.

    Args:
        model: a folder, a run, an id of the Hub.
        data: a data set's folder or id; or films, a folder or a list of them, which are extracted first, into a data
            set beside the index, with the backbones that the model was trained on.
        out: where the index is, or will be: a folder, or a place in Milvus.
        config: of the data set.
        splits: some of its splits; all otherwise.
        films: the folder that the paths of clips start from; of films it is known.
        window: seconds of a clip, of films that are extracted here; None takes each film as one.
        hop: seconds from one window to the next.
        prune: take away what the index holds and the data has no more.
        trust_remote_code: run the code that comes with the model.
        command: what the card of extracted features says it was made by.
        progress: show bars on stderr.
    """
    extracted: dict[str, Any] = {}
    if is_there(out):  # what is wrong with it is better known before films are read
        open_index(out, model=model, trust_remote_code=trust_remote_code).model  # noqa: B018
    if _are_films(data):
        features = Path(out.partition("#")[0]).with_name(f"{Path(out.partition('#')[0]).name}-features")
        extracted = _extract(model, data, features, window, hop, trust_remote_code, command, progress)
        data, films = str(features), films or _root(data)
    elif window is not None or hop is not None:
        raise ValueError("`window` and `hop` cut films, and these features were made already: extract them anew so.")
    with _opened(out, model, films, trust_remote_code) as index:
        added, removed = index.add_data(data, config=config, splits=splits, progress=progress), 0
        if prune:
            there = load_splits(data, config)
            removed = index.keep_only(
                name for split in there if not splits or split in splits for name in there[split]["clip_id"]
            )
        if films is not None:
            remember_films(out, films)
        return {"added": added, "removed": removed, "extracted": extracted or None, **index.describe()}


def _opened(out: str, model: str, films: str | Path | None, trust_remote_code: bool) -> Index:
    if is_there(out):
        return open_index(out, model=model, films=films, trust_remote_code=trust_remote_code)
    return create_index(out, model, films=films, trust_remote_code=trust_remote_code)


def is_there(place: str) -> bool:
    """Whether an index is at a place already."""
    if not is_uri(place):
        return Path(place).is_dir() and any(Path(place).iterdir())
    from .index_milvus import MilvusStore

    return MilvusStore.exists(place)


def remove_index(folder: Path) -> None:
    """Removes an index, and nothing that is none."""
    if folder.exists():
        read_index_card(folder)
        shutil.rmtree(folder)


def _are_films(data: str) -> bool:
    path = Path(data)
    return path.suffix.lower() in (".csv", ".jsonl") or (path.is_dir() and not is_data_set(path))


def _root(data: str) -> Path:
    return Path(data) if Path(data).is_dir() else Path(data).parent


def _extract(
    model: str, data: str, features: Path, window: float | None, hop: float | None, trusted: bool, command: str,
    progress: bool,
) -> dict[str, Any]:  # fmt: skip
    loaded: Any = load_model(model, trust_remote_code=trusted)
    spec = loaded.config.feature_spec
    processor = find_processor(spec, (model, "model"))
    if processor is None:
        raise ValueError(
            f"{model} has no processor beside it that makes {spec or 'its features'}, so films cannot be turned into "
            "what it takes: give a data set of such features instead of films."
        )
    return extract(
        data, features, audio=processor.backbone("audio"), visual=processor.backbone("visual"), window=window, hop=hop,
        keep_unpaired=True, refresh=True, progress=progress, command=command,
    )  # fmt: skip


def remember_films(place: str, films: str | Path) -> None:
    """Notes where the films of an index are on this machine, beside what else is never pushed."""
    if not is_uri(place):
        with suppress(OSError):  # an index that may only be read
            write_json(Path(place) / CACHE / REMEMBERED, {"films": str(Path(films).resolve())})


def remembered_films(place: str) -> Path | None:
    """Where they were, if they still are."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        films = Path(json.loads((Path(place) / CACHE / REMEMBERED).read_text(encoding="utf-8"))["films"])
        return films if films.is_dir() else None
    return None


def open_there(
    place: str, *, model: str | None = None, films: str | None = None, trust_remote_code: bool = False
) -> Index:
    """An index, with its films where a person says they are, or where they were."""
    remembered = films or (None if is_uri(place) else remembered_films(place))
    return open_index(place, model=model, films=remembered, trust_remote_code=trust_remote_code)


def render(found: dict[str, Any]) -> str:
    """What an index holds, in words."""
    model, kinds = found["model"], found["with"]
    what = f"codes of {model['dim']} bits" if model["codes"] else f"{model['dim']} numbers"
    lines = []
    if "added" in found:
        lines.append(
            f"Added {found['added']:,} clips" + (f", removed {found['removed']:,}" if found["removed"] else "")
        )
    lines.append(
        f"{found['place']}: {found['clips']:,} clips of {found['films']:,} films, {kinds['audio']:,} with sound, "
        f"{kinds['visual']:,} with pictures; {found['bytes']:,} bytes, {found['engine']}"
    )
    lines.append(f"Model:  {model['id']} ({model['model_type']}, {what}, fingerprint {model['fingerprint']})")
    if found["labels"]:
        names = [f"{name} {count:,}" for name, count in list(found["labels"].items())[:20]]
        more = f", and {len(found['labels']) - 20} more" if len(found["labels"]) > 20 else ""
        lines.append(f"Labels: {', '.join(names)}{more}")
    return "\n".join(lines)
