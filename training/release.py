"""Brings models, data sets and the metric to the Hub; the same as `dualspace push`, for people with a clone.

python training/release.py runs/tiny me/dualspace-vegas-synthetic --license apache-2.0 --dry-run
python training/release.py training/releases/everything.yaml me
"""

import sys

from modeling_dualspace.cli import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
