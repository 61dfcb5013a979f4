"""The page as the Hub gets it: a Space with an index, its model, some films, and this package."""

from collections.abc import Sequence
from pathlib import Path

from .files import CARD, MANIFEST
from .index_card import read_index_card
from .processor_release import released_processor
from .release_plan import Item
from .staging import Staged, place, write_text


def stage_page(item: Item, staged: Staged, others: Sequence[Staged]) -> None:
    """Fills the folder of a page."""
    source = Path(item.path).resolve()
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_symlink():
            raise ValueError(f"{path} is a link: put there what it should be, or write the page anew.")
        if "__pycache__" in name.parts or not path.is_file():
            continue
        if any(part.startswith(".") for part in name.parts):
            if name.as_posix() != MANIFEST:
                staged.notes.append(f"{name} in {source.name} is hidden, and is left out.")
        elif name.as_posix() != CARD:
            place(path, staged.folder / name)
    text = (source / CARD).read_text(encoding="utf-8")
    if item.license:
        text = text.replace("\nlicense: unknown\n", f"\nlicense: {item.license}\n", 1)
    write_text(staged.folder / CARD, text)
    identity = read_index_card(source / "index")
    released_processor(source / "run" / "model", identity.feature_spec, private=staged.private)
    staged.synthetic = "SYNTHETIC" in text
    staged.fingerprints.append(identity.fingerprint)
    films = sum(path.is_file() for path in (source / "films").rglob("*"))
    if films:
        staged.notes.append(f"{films} films go along: whoever sees the page can have them.")
