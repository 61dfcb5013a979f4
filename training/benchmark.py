"""Trains and scores every system on the same data; the same as `dualspace benchmark`, for people with a clone.

python training/benchmark.py --dataset vegas-features
python training/benchmark.py tiny --dataset vegas-features-synthetic --jobs 2
python training/benchmark.py own.yaml --dataset vegas-features --dataset ave-features --seeds 0 1 2
"""

import sys

from modeling_dualspace.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
