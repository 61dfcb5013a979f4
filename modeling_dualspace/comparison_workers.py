"""Cells run here, or side by side in processes of their own; what becomes of one is no matter to the others."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import Any

import torch
from tqdm import tqdm

from .comparison_cells import Cell, Runner
from .console import FAILURES, Stop, StoppedError, asked_to_stop, quiet, sentence

DONE = ""
"""What is said of a cell that is finished; anything else is why it is not."""
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LOOK = 0.2
"""Seconds after which somebody who asked to stop is heard."""


def run_cells(
    cells: Sequence[Cell], *, jobs: int, threads: int | None, command: str | None, stop: Stop
) -> Iterator[tuple[Cell, str]]:
    """Yields each cell as it ends, with `DONE` or the sentence in which it failed; raises once asked to stop.

    Args:
        cells: that are not finished.
        jobs: at a time; one runs in this process.
        threads: of each, however many run side by side: sums in another order round otherwise. None is as torch has it.
        command: what was typed.
        stop: whether somebody asked.
    """
    if jobs == 1:
        yield from _one_by_one(cells, threads, command, stop)
    else:
        yield from _side_by_side(cells, min(jobs, len(cells)), threads, command, stop)
    if stop.signal is not None:
        raise StoppedError(stop.signal, "stopped")


def _one_by_one(
    cells: Sequence[Cell], threads: int | None, command: str | None, stop: Stop
) -> Iterator[tuple[Cell, str]]:
    runner, before = Runner(command), torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        for cell in cells:
            if stop.signal is None and (ended := _outcome(runner, cell)) is not None:
                yield cell, ended
    finally:
        torch.set_num_threads(before)


def _outcome(runner: Runner, cell: Cell) -> str | None:
    """How a cell ended; None where it was stopped."""
    try:
        with quiet(all_warnings=True):  # said again and again by every seed; `dualspace train` shows them
            runner.run(cell)
        return DONE
    except StoppedError:
        return None
    except FAILURES as error:
        return sentence(error)
    except Exception as error:  # a fault of one system, which shall not cost hours of the others
        return f"{type(error).__name__}: {sentence(error)}"


class _Worker:
    """A process that runs one cell at a time."""

    def __init__(self, threads: int | None, command: str | None):
        context = multiprocessing.get_context("spawn")  # what is forked with threads and a GPU hangs
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, threads, command), daemon=True)
        with _as_children_begin(threads):
            self.process.start()
        theirs.close()
        self.cell: Cell | None = None

    def begin(self, cell: Cell) -> None:
        self.cell = cell
        with suppress(OSError):  # it is gone, which `ended` says
            self.pipe.send(cell)

    def ended(self) -> str | None:
        """How its cell did; None where it was stopped."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.pipe.close()
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            return f"Its process was ended by {name}{': was there too little memory?' if name == 'SIGKILL' else '.'}"
        return f"Its process ended with the exit code {code}."

    def close(self) -> None:
        """Once there is nothing left to do, or in a hurry."""
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _side_by_side(
    cells: Sequence[Cell], jobs: int, threads: int | None, command: str | None, stop: Stop
) -> Iterator[tuple[Cell, str]]:
    queue, busy, told = deque(cells), list[_Worker](), False
    try:
        while queue or busy:
            while queue and len(busy) < jobs and stop.signal is None:
                busy.append(_Worker(threads, command))
                busy[-1].begin(queue.popleft())
            if stop.signal is not None:
                queue.clear()
                for worker in () if told else busy:
                    worker.process.terminate()
                told = True
            for pipe in connection.wait([worker.pipe for worker in busy], LOOK):
                worker = next(one for one in busy if one.pipe is pipe)
                cell, ended = worker.cell, worker.ended()
                if worker.pipe.closed:
                    busy.remove(worker)
                elif queue:
                    worker.begin(queue.popleft())
                else:
                    busy.remove(worker)
                    worker.close()
                if cell is not None and (ended == DONE or not told) and ended is not None:
                    yield cell, ended  # what was told to stop has not failed
    finally:
        for worker in busy:
            worker.process.kill()
            worker.close()


@contextmanager
def _as_children_begin(threads: int | None) -> Iterator[None]:
    """Ctrl-C, which a terminal sends to all processes, is for the first alone: it tells the others."""
    before = {name: os.environ.get(name) for name in POOLS}
    here = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (_CTRL_C if here else ())}
    try:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        os.environ.update(dict.fromkeys(POOLS, str(threads)) if threads is not None else {})
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


_CTRL_C = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]


def _work(pipe: Any, threads: int | None, command: str | None) -> None:
    """What a process does until its pipe is closed, or it is asked to stop."""
    for number in _CTRL_C:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and outlives one that is killed
    if threads is not None:
        torch.set_num_threads(threads)
    runner = Runner(command)
    with suppress(EOFError, OSError), asked_to_stop() as stop:
        while stop.signal is None:
            if pipe.poll(LOOK):
                pipe.send(_outcome(runner, pipe.recv()))


def _end_with_the_first() -> None:
    """A process whose first was killed has nobody to work for: it saves, and ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
