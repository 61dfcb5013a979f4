"""Commands that end in an exit code and, when they fail, in one sentence."""

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from huggingface_hub.errors import StrictDataclassError

FAILURES = (ValueError, TypeError, OSError, RuntimeError, ImportError, StrictDataclassError)


def exit_code(program: str, command: Callable[[], int]) -> int:
    """Runs `command`; a failure is one sentence on stderr and 1, an interruption 130, never a traceback.

    Example:
        ```python
        >>> exit_code("dualspace", lambda: 0)
        0

        ```
    """
    with suppress(AttributeError, ValueError):  # a console of another encoding still shows what it can
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with _ended_as_interrupted():
            code = command()
            if sys.stdout is not None:  # somebody closed it
                sys.stdout.flush()
            return code
    except BrokenPipeError as error:
        if not _nobody_reads():
            print(f"{program}: {sentence(error)}", file=sys.stderr)
            return 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the end of the process would complain
        return 0
    except FAILURES as error:
        print(f"{program}: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has seen enough."""
    with suppress(AttributeError, OSError, ValueError):  # Windows has no poll
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


@contextmanager
def quiet(*, all_warnings: bool = False) -> Iterator[None]:
    """Without the progress bars of the libraries and the reports of transformers, or with no warning at all."""
    from datasets.utils import logging as of_datasets
    from transformers.utils import logging as of_transformers

    before = of_transformers.get_verbosity(), logging.root.manager.disable
    bars = of_transformers.is_progress_bar_enabled(), of_datasets.is_progress_bar_enabled()
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    of_datasets.disable_progress_bar()
    if all_warnings:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        of_transformers.set_verbosity(before[0])
        logging.disable(before[1])
        for library, shown in zip((of_transformers, of_datasets), bars, strict=True):
            if shown:
                library.enable_progress_bar()


class StoppedError(Exception):
    """Somebody asked for it, and what was done is kept.

    Args:
        signal: by which they asked.
        message: where it stands.
    """

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = signal


class Stop:
    """Whether somebody asked this process to stop, and by which signal."""

    signal: int | None = None


_asked: list[Stop] = []
"""What the outermost `asked_to_stop` notes, while there is one."""


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """Being asked to stop (SIGTERM, SIGHUP, Ctrl-C) is only noted: whoever works here ends at a good place.

    Who asks a second time ends it at once. Inside another it is the same: a job of many parts that is asked to stop in
    one of them has been asked as a whole.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    if _asked:
        yield _asked[0]
        return

    def note(number: int, frame: object) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number

    before = _handled_by(note, "SIGTERM", "SIGHUP", "SIGINT")
    _asked.append(stop)
    try:
        yield stop
    finally:
        _asked.clear()
        _restore(before)


def _handled_by(handler: Callable[[int, object], None], *names: str) -> dict[int, Any]:
    """Puts a handler in the place of those there are, which are returned; what is ignored (nohup) stays so."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has not all of them
    taken = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in taken}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Being ended tidies up as well, in this process; those it forks end as they always did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    before = _handled_by(end, "SIGTERM", "SIGHUP")
    try:
        yield
    finally:
        _restore(before)


def sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
