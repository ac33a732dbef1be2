"""Processes that share pure work, so that what goes through a million rows keeps more than one processor busy.

Each is a new interpreter by exec: a fork would copy the locks of whatever threads its parent has. It has none of our
secrets and files (see `limited_process`), and ends when its standard input closes, or with its parent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from inpaint_ops.machine import limited_process
from inpaint_ops.machine.garbage import only_new_garbage
from inpaint_ops.machine.processors import processors

log = logging.getLogger(__name__)

_AHEAD = 2
"""Pieces of work per process that are being made, under way or done, and not asked for yet."""


MOST_PROCESSES = 4
"""More have little to do, since who adds what they make takes a fourth of their time; and each has some 80 MB."""


def processes_for(rows: int, fewest: int) -> int:
    """How many processes are worth starting to share so many rows; 0 where this one had better do it alone: with less
    than the `fewest` rows that make up for the starts, or with one processor.
    """
    count = min(MOST_PROCESSES, processors())
    return count if rows >= fewest and count > 1 else 0


class ProcessPool:
    """So many processes of `python -m MODULE`, which calls `serve`; each is told `setup` first. Leave it by `with`.

    Where some cannot be started, for lack of memory say, the others do the work, or nobody; that is logged. They are
    started by the thread that is to leave it: the kernel ends them with that thread.
    """

    def __init__(self, module: str, count: int, setup: object) -> None:
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(_AHEAD * count)
        self._lock = threading.Lock()
        self._is_over = False
        try:
            for started in range(count):
                try:
                    process = limited_process.start(module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=2)
                except OSError as error:
                    log.warning("of %d processes to share the work, %d could be started: %s", count, started, error)
                    break
                self._processes.append(process)
                self._idle.put(process)
                with contextlib.suppress(OSError):  # it is gone: its first work says so
                    _send(process, setup)
        except BaseException:
            self._end()
            raise
        self._left = len(self._processes)
        """Processes that have not ended."""

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def map(self, works: Iterable[Callable[[], object]]) -> Iterator[Any]:
        """What the processes made of each piece of work, in this order and some ahead.

        A piece is made in a thread, while the processes have others. None stands for a piece that is None, for each
        that was given to a process that ended, which is logged, and for all where no process was started: whoever asks
        then does it without.
        """
        waiting: deque[Future[Any]] = deque()
        for work in works:
            waiting.append(self._threads.submit(self._done, work))
            if len(waiting) > _AHEAD * len(self._processes):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _done(self, make: Callable[[], object]) -> Any:
        if (work := make()) is None or not self._processes:
            return None
        process = self._idle.get()
        is_usable = True
        try:
            if process.returncode is not None:  # all have ended
                return None
            try:
                _send(process, work)
                return pickle.load(process.stdout)  # type: ignore[arg-type]  # noqa: S301  # what our own code wrote
            except (OSError, EOFError, pickle.UnpicklingError):
                limited_process.kill(process)
                if not self._is_over:
                    how = limited_process.how_it_ended(process.wait())
                    log.warning(
                        "process %d, which had some of the rows, %s: they are done without it", process.pid, how
                    )
                with self._lock:
                    self._left -= 1
                    is_usable = self._left == 0  # the last stands for all: nobody waits for one that does not come
                return None
        finally:
            if is_usable:
                self._idle.put(process)

    def _end(self) -> None:
        self._is_over = True
        for process in self._processes:
            limited_process.kill(process)
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not sent any more
                    pipe.close()  # type: ignore[union-attr]


def _send(process: subprocess.Popen[bytes], value: object) -> None:
    assert process.stdin is not None
    pickle.dump(value, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()


def serve(work: Callable[[Any, Any], object]) -> None:
    """In such a process: call `work` with the setup and each piece, until there are no more.

    Nothing is logged, and what is printed goes to standard error: whoever started it reads standard output.
    """
    limited_process.die_with_parent()
    logging.disable()
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with only_new_garbage(), contextlib.suppress(EOFError, BrokenPipeError):
        setup = pickle.load(source)  # noqa: S301  # what our own code wrote
        while True:
            pickle.dump(work(setup, pickle.load(source)), sink, protocol=pickle.HIGHEST_PROTOCOL)  # noqa: S301
            sink.flush()
