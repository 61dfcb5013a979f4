"""A data set as the Hub gets it: the folder that a builder wrote, and its card, under the name it has there."""

import re
from collections.abc import Sequence
from pathlib import Path

from datasets import get_dataset_config_names, load_dataset_builder
from datasets.exceptions import DatasetsError
from yaml import YAMLError

from .card_template import parse
from .feature_schema import Description
from .files import CARD, MANIFEST
from .processor_release import released_processor
from .release_plan import Item
from .staging import Staged, place, write_text

LOADED = re.compile(r"""(load_dataset\(\s*(?:path\s*=\s*)?)(["'])([^"']+)\2""")


def is_data_set(path: Path) -> bool:
    """Whether a folder is a data set of ours, or of anybody who describes it to `datasets`."""
    card = path / CARD
    if not card.is_file() or not any(path.rglob("*.parquet")):
        return False
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    return head.startswith("---") and ("dataset_info:" in head or "configs:" in head)


def stage_data_set(item: Item, staged: Staged, others: Sequence[Staged]) -> None:
    """Fills the folder of a data set."""
    source = Path(item.path).resolve()
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if any(part.startswith(".") for part in name.parts):  # a clone's history, somebody's cache
            if len(name.parts) == 1 and path.name != MANIFEST:
                staged.notes.append(f"{path.name} in {source.name} is hidden, and is left out.")
        elif path.is_symlink() and not path.is_file():
            what = "a folder" if path.exists() else "nothing"
            raise ValueError(f"{path} is a link to {what}: put there what it should be, or build the data set again.")
        elif path.is_file() and str(name) != CARD:
            place(path, staged.folder / name)
    write_text(staged.folder / CARD, _card(source, staged.repo_id))
    for description in _descriptions(source):
        if description is None:
            raise ValueError(
                f"{source} has no fingerprint in its card: write it by `write_dataset`, as dataset_scripts do."
            )
        released_processor(source, description.feature_spec, private=staged.private)
        staged.fingerprints.append(description.fingerprint)
        staged.synthetic = staged.synthetic or description.synthetic


def _descriptions(source: Path) -> list[Description | None]:
    """What the card says of each configuration."""
    try:
        names = get_dataset_config_names(str(source))
        return [Description.parse(load_dataset_builder(str(source), name).info.description) for name in names]
    except (DatasetsError, YAMLError, OSError, ValueError, TypeError, LookupError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source} is no data set that `datasets` can load: {text}") from None


def _card(source: Path, repo_id: str) -> str:
    """The card, calling the data set as the Hub does; the metadata stay as they are, order and all."""
    text = (source / CARD).read_text(encoding="utf-8")
    body = parse(text, "dataset").text
    said = LOADED.search(body)  # the first example is of this data set, whatever its folder was called then
    names = {source.name, *([said[3]] if said and "/" not in said[3] else [])}
    ours = LOADED.sub(lambda found: f"{found[1]}{found[2]}{repo_id}{found[2]}" if found[3] in names else found[0], body)
    return text[: len(text) - len(body)] + ours.replace("  # this folder, or its name on the Hub", "")
