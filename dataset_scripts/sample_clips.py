"""Renders short synthetic clips of ten classes, so that everything runs from media to search without a download.

    python dataset_scripts/sample_clips.py --out sample-clips-synthetic [--clips-per-class 20] [--seconds 3] [--seed 0]
        [--overwrite]

writes `<out>/<class>/<class>-0000.mp4` and so on, `metadata.csv` (`file_name,label,split`) and a README.md that says
what they are: synthetic. Needs the extra `media`.

Clip k depends on the class, the seed and k alone, its split on k alone: more clips leave those there as they are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_dualspace.console import exit_code
from modeling_dualspace.sample_clips import write_clips
from modeling_dualspace.sample_scenes import CLASSES


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the folder, or says in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default="sample-clips-synthetic", help="the folder to make [%(default)s]")
    parser.add_argument("--clips-per-class", type=int, default=20, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each clip lasts [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="another number, other clips [%(default)s]")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder of clips that is there already")
    arguments = parser.parse_args(argv)

    def run() -> int:
        write_clips(**vars(arguments))
        print(f"{len(CLASSES) * arguments.clips_per_class} synthetic clips are in {arguments.out}")
        return 0

    return exit_code(parser.prog, run)


if __name__ == "__main__":
    sys.exit(main())
