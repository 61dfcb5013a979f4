"""What several commands share: numbers as they are typed, and how a command runs under a launcher."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .console import StoppedError, sentence
from .files import one_line

if TYPE_CHECKING:
    from accelerate import PartialState


def add_command(
    commands: argparse._SubParsersAction, name: str, *, help: str, description: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """A command with examples below its help, and with `--json`, which all of them have.

    Args:
        commands: of the program.
        name: of the command.
        help: what it does, on one line.
        description: what a person should know before using it.
        examples: lines that work as they stand, the commonest first.
    """
    shown = "examples:\n" + "\n".join(f"  {line}" for line in examples)
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=shown, formatter_class=_Help
    )
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else on stdout")
    return command


class _Help(argparse.HelpFormatter):
    """Paragraphs are filled, and examples left as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows for a person at a terminal, in columns under a head; into a pipe parted by tabs, without one.

    Args:
        head: names of the columns.
        rows: texts.
        right: numbers of columns that are set to the right.
    """
    shown = [[one_line(text) for text in row] for row in rows]
    if sys.stdout is None or not sys.stdout.isatty():
        return "\n".join("\t".join(row) for row in shown)
    if not shown:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    lines = []
    for row in (head, *shown):
        cells = [
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def positive(text: str) -> int:
    """A whole number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def several(text: str, least: int = 2) -> int:
    """A whole number of at least two, or of `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return int(text)


def enough(text: str) -> int:
    """A whole number of clips; fewer than five are too few for a batch."""
    return several(text, 5)


def together(run: Callable[["PartialState"], int], *, alike: bool = True) -> int:
    """Runs a command in all processes of the launcher, on the device there is; the first speaks for all.

    Args:
        run: the command.
        alike: whether what is wrong with what was asked for goes wrong in all of them.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available())
    try:
        return run(state)
    except Exception as error:
        if state.is_main_process:
            raise
        # What is wrong with what was asked for is wrong in all of them; what went wrong here alone, nobody else knows.
        if not (getattr(error, "told", False) or (alike and isinstance(error, (ValueError, TypeError)))):
            print(f"dualspace: process {state.process_index}: {sentence(error)}", file=sys.stderr)
        return 1
    finally:
        state.destroy_process_group()


def stopped_code(stopped: StoppedError, state: "PartialState") -> int:
    """Says what was stopped; the exit code of a process that a signal ended."""
    if state.is_main_process:
        print(f"dualspace: {stopped}", file=sys.stderr)
    return 128 + stopped.signal
