"""A data set as the Hub gets it: the folder that a builder wrote, and its card, under the name it has there."""

from collections.abc import Sequence
from pathlib import Path

from datasets import get_dataset_config_names, load_dataset_builder
from huggingface_hub import DatasetCard

from .feature_schema import Description
from .files import CARD, MANIFEST
from .release_plan import Item
from .staging import Staged, place, write_text


def is_data_set(path: Path) -> bool:
    """Whether a folder is a data set of ours, or of anybody who describes it to `datasets`."""
    card = path / CARD
    if not card.is_file() or not any(path.rglob("*.parquet")):
        return False
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    return head.startswith("---") and ("dataset_info:" in head or "configs:" in head)


def stage_data_set(item: Item, staged: Staged, others: Sequence[Staged]) -> None:
    """Fills the folder of a data set."""
    source = Path(item.path)
    for path in sorted(path for path in source.rglob("*") if path.is_file() or path.is_symlink()):
        name = path.relative_to(source)
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a link to nothing: build the data set again.")
        if str(name) not in (CARD, MANIFEST):
            place(path, staged.folder / name)
    write_text(staged.folder / CARD, _card(source, staged.repo_id))
    descriptions = [Description.parse(_info(source, name)) for name in get_dataset_config_names(str(source))]
    for description in descriptions:
        if description is None:
            raise ValueError(
                f"{source} has no fingerprint in its card: write it by `write_dataset`, as dataset_scripts do."
            )
        staged.fingerprints.append(description.fingerprint)
        staged.synthetic = staged.synthetic or description.synthetic


def _info(source: Path, config: str) -> str:
    return load_dataset_builder(str(source), config).info.description


def _card(source: Path, repo_id: str) -> str:
    """The card, calling the data set as the Hub does; the metadata stay as they are, order and all."""
    text = (source / CARD).read_text(encoding="utf-8")
    body = DatasetCard(text).text
    for name in {source.resolve().name, *_names(body)}:
        body = body.replace(f'load_dataset("{name}"', f'load_dataset("{repo_id}"')
    return text[: len(text) - len(DatasetCard(text).text)] + body.replace("  # this folder, or its name on the Hub", "")


def _names(body: str) -> list[str]:
    """What its examples call it."""
    return [part.split('"', 1)[0] for part in body.split('load_dataset("')[1:]]
