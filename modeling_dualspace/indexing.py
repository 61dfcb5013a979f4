"""From a folder of films, or a data set, to an index: what `dualspace index` calls."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .data_release import is_data_set
from .extraction import extract
from .files import one_line, write_json
from .index import Index, open_index
from .index_cache import CACHE
from .index_card import is_index, read_index_card
from .index_places import create_store, identity_of, is_there, is_uri, open_store
from .loading import find_processor, load_model, load_splits
from .milvus_place import Place

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
    if films is not None and not Path(films).is_dir():
        raise ValueError(f"{films} is no folder: expected the one that the paths of clips start from.")
    loaded: Any = load_model(model, trust_remote_code=trust_remote_code)
    new = not is_there(out)
    if not new:  # what is wrong with it is better known before films are read
        with open_index(out, model=loaded) as there:
            _ = there.model
    if _are_films(data):
        extracted = _extract(model, loaded, data, features_beside(out), window, hop, command, progress)
        films = films or (Path(data) if Path(data).is_dir() else Path(data).parent)
        data = str(features_beside(out))
    elif window is not None or hop is not None:
        raise ValueError("`window` and `hop` cut films, and these features were made already: extract them anew so.")
    store = create_store(out, identity_of(loaded, model)) if new else open_store(out)
    with Index(store, out, model=loaded, films=films) as index:
        try:
            added, removed = index.add_data(data, config=config, splits=splits, progress=progress), 0
        except BaseException:
            if new and not len(index):
                store.remove()
            raise
        if prune:
            held = load_splits(data, config)
            removed = index.keep_only(
                name for split in held if not splits or split in splits for name in held[split]["clip_id"]
            )
        if films is not None:
            remember_films(out, films)
        return {"added": added, "removed": removed, "extracted": extracted or None, **index.describe()}


def features_beside(out: str) -> Path:
    """Where features are that are made for an index: beside its folder, or called as its collection is."""
    if not is_uri(out):
        return Path(out).with_name(f"{Path(out).name}-features")
    place = Place.parse(out)
    return (place.folder.parent if place.is_local else Path()) / f"{place.collection}-features"


def remove_index(folder: Path) -> None:
    """Removes an index, and nothing that is none."""
    if folder.exists():
        read_index_card(folder)
        shutil.rmtree(folder)


def _are_films(data: str) -> bool:
    path = Path(data)
    if (path / "app.py").is_file() or is_index(path):
        raise ValueError(
            f"{data} is {'an index' if is_index(path) else 'a page'}, and no films: give these, or features."
        )
    return path.suffix.lower() in (".csv", ".jsonl") or (path.is_dir() and not is_data_set(path))


def _extract(
    name: str, model: Any, data: str, features: Path, window: float | None, hop: float | None, command: str,
    progress: bool,
) -> dict[str, Any]:  # fmt: skip
    spec = model.config.feature_spec
    processor = find_processor(spec, (name, "model"))
    if processor is None:
        raise ValueError(
            f"{name} has no processor beside it that makes {spec or 'its features'}, so films cannot be turned into "
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
        removed = f", removed {found['removed']:,}" if found["removed"] else ""
        lines.append(f"Added {found['added']:,} clips{removed}")
    elif "removed" in found:
        missing = f"; not there: {', '.join(map(one_line, found['missing']))}" if found["missing"] else ""
        lines.append(f"Removed {found['removed']:,} clips{missing}")
    size = f"{found['bytes']:,} bytes, " if found.get("bytes") is not None else ""
    lines.append(
        f"{found['place']}: {found['clips']:,} clips of {found['films']:,} films, {kinds['audio']:,} with sound, "
        f"{kinds['visual']:,} with pictures; {size}{found['engine']}"
    )
    lines.append(f"Model:  {model['id']} ({model['model_type']}, {what}, fingerprint {model['fingerprint']})")
    if found["labels"]:
        names = [f"{name} {count:,}" for name, count in list(found["labels"].items())[:20]]
        more = f", and {len(found['labels']) - 20} more" if len(found["labels"]) > 20 else ""
        lines.append(f"Labels: {', '.join(names)}{more}")
    return "\n".join(lines)
