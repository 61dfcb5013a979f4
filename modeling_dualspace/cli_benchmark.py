"""The command `dualspace benchmark`."""

import argparse
import json
import sys
from pathlib import Path

from .cli_parts import add_command, positive
from .console import StoppedError


def add_benchmark(commands: argparse._SubParsersAction) -> None:
    """`dualspace benchmark`."""
    command = add_command(
        commands,
        "benchmark",
        help="train and score every system on the same data: the paper's tables, resumable, side by side",
        description="Trains every system of a suite on every data set with every seed, scores test, and writes tables "
        "as Markdown and JSON and a report. What is finished is not done again: the same command goes on with what was "
        "interrupted. A system that fails is a sentence in the table, and the exit code is then 3.",
        examples=(
            "dualspace benchmark tiny --dataset vegas-features-synthetic",
            "dualspace benchmark --dataset vegas-features --dataset ave-features --jobs 2",
            "dualspace benchmark --dataset vegas-features --only CCA C-CCA --seeds 0 1",
        ),
    )
    command.add_argument(
        "suite", metavar="SUITE", nargs="?", default="paper",
        help="a YAML file, or the name of one that comes with DualSpace: paper, tiny [%(default)s]",
    )  # fmt: skip
    command.add_argument(
        "--dataset", metavar="FOLDER", action="append", required=True,
        help="a data set's folder, or its id on the Hub; may be given several times",
    )  # fmt: skip
    command.add_argument("--config", help="of the data sets [their default]")
    command.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="the folder [%(default)s]")
    command.add_argument("--jobs", type=positive, metavar="N", help="cells at a time [one a core; one on a GPU]")
    command.add_argument(
        "--threads", type=positive, metavar="N",
        help="of each cell on a CPU; with another number figures differ by rounding [1]",
    )  # fmt: skip
    command.add_argument("--seeds", type=_seed, nargs="+", metavar="N", default=[], help="[those of the suite]")
    command.add_argument(
        "--only", nargs="+", metavar="NAME", default=[],
        help="some of its systems, the suite's name before them; quote one that has a space [all]",
    )  # fmt: skip
    command.set_defaults(run=_benchmark)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


def _benchmark(arguments: argparse.Namespace) -> int:
    from .comparison import run_comparison
    from .comparison_tables import make_tables, to_terminal
    from .suite import load_suite

    suite = load_suite(arguments.suite).choose(arguments.only, arguments.seeds)
    settings = {name: getattr(arguments, name) for name in ("config", "jobs", "threads", "command")}
    try:
        table = run_comparison(suite, arguments.dataset, arguments.out, **settings)
    except StoppedError as stopped:
        print(f"dualspace: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    print(json.dumps(table) if arguments.json else to_terminal(make_tables(table)))
    print(f"Written: {arguments.out}", file=sys.stderr if arguments.json else sys.stdout)
    return 3 if any("failed" in cell for row in table["rows"] for cell in row["cells"]) else 0
