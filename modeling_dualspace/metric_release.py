"""The metric as the Hub gets it: a Space that `evaluate.load` takes, called as the script in it is."""

from collections.abc import Sequence
from pathlib import Path

from .files import CARD, MANIFEST
from .metric_space import SIBLINGS, write_metric_space
from .release_plan import Item
from .staging import Staged, place, write_text


def is_metric(path: Path) -> bool:
    """Whether a folder is the metric, as `dualspace metric` writes it."""
    return all((path / name).is_file() for name in (CARD, "app.py", *SIBLINGS))


def stage_metric(item: Item, staged: Staged, others: Sequence[Staged]) -> None:
    """Fills the folder of the metric."""
    name = staged.repo_id.split("/")[1]
    source = Path(item.path) if item.path else None
    if source is None:
        staged.folder.rmdir()
        write_metric_space(staged.folder)
        (staged.folder / MANIFEST).unlink()
    elif not (source / f"{name}.py").is_file():
        raise ValueError(
            f"`evaluate` calls the script as the repository is called, and {source} has no {name}.py: write it by "
            f"`dualspace metric --out {name}`, or push it under its own name."
        )
    else:
        for path in sorted(path for path in source.rglob("*") if path.is_file() or path.is_symlink()):
            if not path.is_file():
                raise ValueError(f"{path} is a link to nothing, or to a folder: write the metric anew.")
            if path.name != MANIFEST and "__pycache__" not in path.parts:
                place(path, staged.folder / path.relative_to(source))
    text = (staged.folder / CARD).read_text(encoding="utf-8")
    (staged.folder / CARD).unlink()
    text = text.replace(
        f'evaluate.load("{name}")  # this folder; or "me/{name}" once it is pushed',
        f'evaluate.load("{staged.repo_id}")',
    )
    write_text(staged.folder / CARD, text)
