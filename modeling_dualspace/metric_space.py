"""The metric as a folder of its own: `evaluate.load` takes it without this package, and it can be pushed as a Space."""

import re
import shutil
import sys
from pathlib import Path

from .files import CARD, atomic_folder
from .retrieval_map import DESCRIPTION

HERE = Path(__file__).parent
SCRIPT = "retrieval_map.py"
SIBLINGS = ("average_precision.py", "cosines.py", "legacy_prefix_average.py", "retrieval_scores.py")
REQUIREMENTS = ("datasets>=5.2", "evaluate>=0.4.6", "numpy>=2.0")


def write_metric_space(out: str | Path, *, overwrite: bool = False) -> Path:
    """Writes script, kernel, card, requirements and a small app; the script takes the name of the folder, as it must.

    Args:
        out: the folder.
        overwrite: replace one that was made this way.
    """
    out = Path(out).resolve()
    taken = {"app", "gradio", *(Path(name).stem for name in SIBLINGS), *(need.split(">")[0] for need in REQUIREMENTS)}
    if not re.fullmatch(r"[A-Za-z0-9_-]+", out.name) or out.name in taken | sys.stdlib_module_names:
        raise ValueError(
            f"The script is called as the folder is, and {out.name} cannot be, or hides, the name of a module: choose "
            "another name, of letters, digits, - and _."
        )
    with atomic_folder(out, overwrite=overwrite) as folder:
        script = folder / f"{out.name}.py"
        shutil.copyfile(HERE / SCRIPT, script)
        for sibling in SIBLINGS:
            shutil.copyfile(HERE / sibling, folder / sibling)
        (folder / "requirements.txt").write_text("\n".join([*REQUIREMENTS, ""]), encoding="utf-8", newline="\n")
        for template, name in (("metric_card.md", CARD), ("metric_app.txt", "app.py")):
            text = (HERE / template).read_text(encoding="utf-8")
            text = text.replace("@@NAME@@", out.name).replace("@@DESCRIPTION@@", DESCRIPTION.strip())
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return out
