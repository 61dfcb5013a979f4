"""Trains a recipe; the same as `dualspace train`, for launchers that want a file.

accelerate launch training/train.py training/configs/vegas.yaml [train.epochs=3 ...] [--resume] [--final]
accelerate launch --config_file training/accelerate_configs/several_gpus.yaml training/train.py ...
torchrun --nproc_per_node 2 training/train.py training/configs/tiny.yaml
"""

import sys

from modeling_dualspace.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
