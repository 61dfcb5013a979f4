"""What several commands share: numbers as they are typed, and how a command runs under a launcher."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .console import StoppedError, sentence

if TYPE_CHECKING:
    from accelerate import PartialState


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
