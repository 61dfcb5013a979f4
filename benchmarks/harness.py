"""What every benchmark shares: its flags, interleaved timing, and the last line of JSON."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch


def parse(
    description: str | None,
    argv: list[str] | None = None,
    *,
    data: bool | Literal["if there is any"] = False,
    only: bool = False,
) -> argparse.Namespace:
    """`--quick` takes less than a minute on two cores; `--check` makes a missed goal an exit code of 1.

    Args:
        description: the script's docstring.
        argv: what was typed.
        data: ask for real data (`--data`), of which test is scored with `--final` only; or offer to take some.
        only: offer to print some rows alone.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes: less than 50 s on two cores")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    if data:
        parser.add_argument("--data", required=data is True, help="the folder with the published files")
        parser.add_argument("--final", action="store_true", help="score test too: once, when nothing is left to choose")
    if only:
        parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows alone")
    return parser.parse_args(argv)


def interleaved(repeats: int, **runs: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each, run in turn, so that a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # what was only begun is not done
            if repeat:  # the first round warms caches and thread pools
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def report(name: str, figures: dict, goals: dict[str, bool], arguments: argparse.Namespace) -> int:
    """Prints goals and the line of JSON, and returns the exit code."""
    for goal, met in goals.items():
        print(f"{'met   ' if met else 'MISSED'}  {goal}")
    environment = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    line = {"benchmark": name, "quick": arguments.quick, "figures": figures, "goals": goals, "environment": environment}
    print(json.dumps(line))
    return int(arguments.check and not all(goals.values()))
