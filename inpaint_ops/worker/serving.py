"""Commands from one pipe, events to another, and the end of the process where either breaks."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO

from pydantic import ValidationError

from inpaint_ops.errors import DeviceError, DeviceLostError, InpaintOpsError
from inpaint_ops.protocol import End, Fatal, Job, dump, parse_command
from inpaint_ops.records import ErrorInfo, Model
from inpaint_ops.worker import EXIT_FATAL, EXIT_ORPHANED
from inpaint_ops.worker.row_lines import RowLines
from inpaint_ops.worker.setup import set_up
from inpaint_ops.worker.work_loop import Garbage, GarbageError, Inbox, WorkLoop

log = logging.getLogger(__name__)


def serve(commands: Iterable[bytes], events: TextIO, *, started: float | None = None) -> int:
    """Carry out `commands`, report in `events`, and return the process's exit code.

    Commands are lines of bytes: UTF-8 whatever the locale, which would otherwise change prompts silently.
    `started` is when the process was asked for, in epoch seconds. Ends the process at once when the commands stop
    without an End, or when the events are no longer read.
    """
    began = time.time()
    started = began if started is None else started
    sender = EventSender(events)
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(commands, inbox), name="commands", daemon=True).start()
    try:
        job = inbox.get()
        if isinstance(job, Garbage):
            raise job.error
        if not isinstance(job, Job):
            raise ValueError(f"the first command must be a job, it is {job!r}"[:200])
        setup = set_up(job, sender.send, started=started, interpreter=began - started)
    except Exception as error:
        return _fatal(error, sender)
    failed: DeviceError | None = None
    threads = setup.threads
    with ThreadPoolExecutor(threads, "decode") as incoming, ThreadPoolExecutor(threads, "encode") as outgoing:
        lines = RowLines()
        logging.getLogger().addHandler(lines)
        loop = WorkLoop(setup, sender.send, inbox, incoming, outgoing, lines)
        try:
            loop.run()
        except GarbageError as error:
            for pool in (incoming, outgoing):
                pool.shutdown(wait=False, cancel_futures=True)
            return _fatal(error.__cause__ or error, sender)
        except DeviceError as error:
            incoming.shutdown(wait=False, cancel_futures=True)
            failed = error
    if failed is not None:  # what was painted before is finished and reported by now
        if isinstance(failed, DeviceLostError):
            setup.lease.note_loss(str(failed))
        return _fatal(failed, sender)
    loop.leave_profile()
    sender.send(loop.bye())
    return 0


def _fatal(error: BaseException, sender: EventSender) -> int:
    if not isinstance(error, InpaintOpsError):
        log.error("the worker cannot work", exc_info=error)
    sender.send(Fatal(error=ErrorInfo.of(error, "device" if isinstance(error, DeviceError) else "worker")))
    return EXIT_FATAL


class EventSender:
    """The events' pipe, one whole line at a time, from any thread."""

    def __init__(self, events: TextIO) -> None:
        self._events = events
        self._lock = threading.Lock()

    def send(self, event: Model) -> None:
        """Send `event`; end the process when the pipe has no reader."""
        with self._lock:
            try:
                self._events.write(dump(event))
                self._events.flush()
            except OSError:
                os._exit(EXIT_ORPHANED)


def _read(commands: Iterable[bytes], inbox: Inbox) -> None:
    """Read commands until End, garbage, or the end of the file, which without End means that the supervisor is gone."""
    try:
        for line in commands:
            command = parse_command(line)
            inbox.put(command)
            if isinstance(command, End):
                return
    except ValidationError as error:
        inbox.put(Garbage(error))
        return
    except (OSError, ValueError):  # the pipe broke
        log.exception("commands cannot be read")
    os._exit(EXIT_ORPHANED)
