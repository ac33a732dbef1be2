"""The fresh process: items in, events out.

Started as `python -m inpaint_ops.worker --events-fd N --parent PID --started EPOCH_SECONDS`: commands on standard
input, events on descriptor N, one JSON line each (see `protocol`). Standard output and error are for logs.

All its video memory and its lease on the device are given back when the process ends, so it makes sure to end: with its
supervisor (the kernel's parent-death signal, and end of file on standard input without an End command), on SIGTERM, and
when its events are no longer read. The parent-death signal fires when the *thread* that started the worker ends, so
start it from one that lives as long as the worker may.

Importing this package imports the standard library alone, so that the process is tied to its parent before it grows.
A process that the warm host forks (`warm_host`) becomes a worker by `work`.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from inpaint_ops.worker.launch import EXIT_ORPHANED, die_with_parent

__all__ = ["EXIT_FATAL", "EXIT_ORPHANED", "EXIT_TERMINATED", "die_with_parent", "main", "work"]

log = logging.getLogger(__name__)

EXIT_FATAL = 3
"""The model or the device is not available, or a command cannot be read."""
EXIT_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Be a worker on this process's standard input; never returns."""
    started = time.time()
    parser = argparse.ArgumentParser(prog="inpaint_ops.worker")
    parser.add_argument("--events-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--started", type=float, default=started, help="when the supervisor called exec, epoch seconds")
    given = parser.parse_args(arguments)
    die_with_parent(given.parent)
    work(given.events_fd, given.started)


def work(events_fd: int, started: float) -> NoReturn:
    """Carry out the commands on standard input, report on `events_fd`; `started` is in epoch seconds. Never returns."""
    from inpaint_ops.worker.serving import serve

    faulthandler.enable()
    signal.signal(signal.SIGTERM, _terminated)
    warnings.filterwarnings("ignore", module="PIL")  # one for each tag of a damaged file: thousands of lines per row
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    os.set_inheritable(events_fd, False)
    commands = open(0, "rb", closefd=False)  # noqa: SIM115 - closing it would wait for the thread that reads it
    with os.fdopen(events_fd, "w", encoding="utf-8") as events:
        try:
            code = serve(commands, events, started=started)
        except BaseException:
            log.exception("the worker ends: it cannot go on")
            code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the libraries' own teardown takes a second, can hang, and frees nothing that the kernel does not


def _terminated(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_TERMINATED)
