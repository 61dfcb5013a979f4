"""The command `dualspace`.

Exit codes: 0 done, 1 failed, 2 wrong use. A failure is one sentence on stderr, never a traceback; tables and JSON go to
stdout, progress to stderr.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .console import exit_code


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, each with its function as `run`."""
    parser = argparse.ArgumentParser(prog="dualspace", description="Find video by sound and sound by video.")
    parser.add_argument("--version", action="version", version=f"dualspace {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = build_parser().parse_args(argv)
    return exit_code("dualspace", lambda: arguments.run(arguments))


def _add_demo(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "demo",
        help="train, save, reload and search a small model on synthetic features",
        description="Trains the dual-subspace model on synthetic features of ten classes, prints its mean average "
        "precision beside rivals, saves it, loads it again and searches with it. Takes about half a minute.",
    )
    command.add_argument("--out", type=Path, default=Path("runs/demo"), help="where the model goes [%(default)s]")
    command.add_argument("--epochs", type=_positive, default=8, help="passes over the training split [%(default)s]")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    command.set_defaults(run=_demo)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import render, run_demo

    result = run_demo(arguments.out, arguments.epochs)
    print(json.dumps(result) if arguments.json else render(result))
    return 0
