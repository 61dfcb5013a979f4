"""The page as a folder that starts where this package is not installed, and that can be pushed as a Space."""

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from .files import CARD, atomic_folder
from .index import Index
from .index_card import is_index
from .index_folder import FolderStore
from .index_rows import Hit
from .loading import find_processor
from .results import is_synthetic, model_folder, read_run

HERE = Path(__file__).parent
APP, REQUIREMENTS = "app.py", "requirements.txt"
LARGEST = 20_000_000
"""Bytes of a film that comes along."""


def write_page(
    out: str | Path, index: Index, *, clips: int = 100, title: str = "", overwrite: bool = False
) -> dict[str, Any]:
    """Writes app, card, requirements, this package, the model and some of the clips with their films.

    Args:
        out: the folder, made anew.
        index: whose clips these are.
        clips: how many, at most, of every class as many as there are; those whose films are here come first.
        title: of the page.
        overwrite: replace one that was made this way, and not touched since.

    Returns:
        The folder, and how many clips and films came along.
    """
    out = Path(out)
    folder = model_folder(index.model_place)
    if folder is None:
        raise ValueError(
            f"{index.model_place} is no folder here, and a page brings its model along: download that, and say where "
            "it is."
        )
    spec = index.model.config.feature_spec
    if find_processor(spec, (index.model_place, "model")) is None:
        raise ValueError(
            f"{index.model_place} has no processor beside it, so nobody could search by a film or a sound."
        )
    if out.is_dir() and any(out.iterdir()) and not is_page(out):
        raise ValueError(f"{out} holds something else, which a page does not replace: choose another --out.")
    chosen = _choose(index, clips)
    films = sorted({hit.path for hit in chosen if hit.path and _comes_along(index, hit)})
    with atomic_folder(out, overwrite=overwrite) as target:
        _copy_package(target)
        _copy_run(index.model_place, folder, target / "run")
        (target / "films").mkdir()
        for name in films:
            (target / "films" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_root(index) / name, target / "films" / name)
        names = [hit.clip_id for hit in chosen]
        FolderStore.save(target / "index", index.identity.named(folder.name), [index.store.fetch(names)]).close()
        (target / REQUIREMENTS).write_text("\n".join([*requirements(), ""]), encoding="utf-8", newline="\n")
        title = title or f"Find clips of {out.resolve().name} by sound and sight"
        words = _words(index, title, len(chosen))
        for template, name in (("page_card.md", CARD), ("page_app.txt", APP)):
            text = (HERE / template).read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(f"@@{word}@@", value)
            (target / name).write_text(text, encoding="utf-8", newline="\n")
    return {"out": str(out), "clips": len(chosen), "films": len(films)}


def is_page(path: Path) -> bool:
    """Whether a folder is a page, as `write_page` makes it."""
    return all((path / name).is_file() for name in (CARD, APP, REQUIREMENTS)) and is_index(path / "index")


def _words(index: Index, title: str, clips: int) -> dict[str, str]:
    synthetic = "**SYNTHETIC: a program made these clips up.**\n\n" if is_synthetic(index.model_place) else ""
    return {
        "TITLE_JSON": json.dumps(title, ensure_ascii=False),
        "TITLE": title,
        "GRADIO": metadata.version("gradio"),
        "LICENSE": "unknown",
        "SYNTHETIC": synthetic,
        "CLIPS": f"{clips:,}",
        "FINGERPRINT": index.identity.fingerprint,
    }


def _choose(index: Index, count: int) -> list[Hit]:
    """Some clips, of every class as many as there are, those with films first."""
    hits, _, _ = index.sample(max(2000, 4 * count))
    ranks: dict[str, int] = {}
    order = []
    for hit in sorted(hits, key=lambda hit: not _comes_along(index, hit)):
        label = hit.labels[0] if hit.labels else ""
        ranks[label] = ranks.get(label, 0) + 1
        order.append((not _comes_along(index, hit), ranks[label], hit))
    return [hit for *_, hit in sorted(order, key=lambda one: one[:2])[:count]]


def _comes_along(index: Index, hit: Hit) -> bool:
    film = index.film(hit)
    return film is not None and film.stat().st_size <= LARGEST


def _root(index: Index) -> Path:
    if index.films is None:
        raise ValueError("An index without films has none to bring along.")
    return index.films


def _copy_package(target: Path) -> None:
    """This package, but for what only a clone has."""
    shutil.copytree(HERE, target / HERE.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))


def _copy_run(place: str, model: Path, target: Path) -> None:
    """The model, and what was measured of it."""
    shutil.copytree(model, target / "model", ignore=shutil.ignore_patterns("__pycache__", ".*", "*.md"))
    run = read_run(place).folder
    for name in ("results", "history.jsonl", "recipe.yaml") if run is not None else ():
        source = Path(str(run)) / name
        if source.is_dir():
            shutil.copytree(source, target / name)
        elif source.is_file():
            shutil.copyfile(source, target / name)


def requirements() -> list[str]:
    """What the page needs of others, as a Space installs it: that of this package, and of its extras for pages."""
    wanted, found = {"app", "media", "report", "search"}, []
    for line in metadata.requires("dualspace") or ():
        need, _, marker = (part.strip() for part in line.partition(";"))
        extra = marker.partition("extra ==")[2].strip(" '\"")
        if (not marker or extra in wanted) and not need.startswith(("dualspace", "gradio", "pymilvus")):
            found.append(need)
    return sorted(dict.fromkeys(found))
