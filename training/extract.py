"""Extracts the features of a folder of films; the same as `dualspace extract`, for launchers that want a file.

accelerate launch training/extract.py my_videos --out my-features [--window 10 --hop 5] [--audio B] [--visual B]
torchrun --nproc_per_node 2 training/extract.py my_videos --out my-features
"""

import sys

from modeling_dualspace.cli import main

if __name__ == "__main__":
    sys.exit(main(["extract", *sys.argv[1:]]))
