"""The metric as a folder of its own: `evaluate.load` takes it without this package, and it can be pushed as a Space."""

import shutil
from importlib import metadata
from pathlib import Path

from .files import CARD, atomic_folder
from .retrieval_map import DESCRIPTION

HERE = Path(__file__).parent
SCRIPT, SIBLINGS = "retrieval_map.py", ("average_precision.py", "retrieval_scores.py")
REQUIREMENTS = ("datasets", "evaluate", "numpy")


def write_metric_space(out: str | Path, *, overwrite: bool = False) -> Path:
    """Writes script, kernel, card, requirements and a small app; the script takes the name of the folder, as it must.

    Args:
        out: the folder.
        overwrite: replace one that was made this way.
    """
    out = Path(out).resolve()
    with atomic_folder(out, overwrite=overwrite) as folder:
        script = folder / f"{out.name}.py"
        if script.name in (*SIBLINGS, "app.py"):
            raise ValueError(
                f"The script takes the name of the folder, and {script.name} is taken: choose another name."
            )
        shutil.copyfile(HERE / SCRIPT, script)
        for sibling in SIBLINGS:
            shutil.copyfile(HERE / sibling, folder / sibling)
        versions = [f"{name}>={metadata.version(name)}\n" for name in REQUIREMENTS]
        (folder / "requirements.txt").write_text("".join(versions), encoding="utf-8", newline="\n")
        for template, name in (("metric_card.md", CARD), ("metric_app.txt", "app.py")):
            text = (HERE / template).read_text(encoding="utf-8")
            text = text.replace("@@NAME@@", out.name).replace("@@DESCRIPTION@@", DESCRIPTION.strip())
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return out
