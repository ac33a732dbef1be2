"""The worker process seen from outside: start it with a clean environment, talk to it, end it for certain."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from inpaint_ops.errors import escaped, one_line
from inpaint_ops.machine.limited_process import close_to_others
from inpaint_ops.protocol import Event, dump, parse_event
from inpaint_ops.records import Model, now
from inpaint_ops.supervisor import starting
from inpaint_ops.supervisor.confinement import Identity, worker_environment
from inpaint_ops.supervisor.pipes import (
    MAX_EVENT_BYTES,
    MAX_PRINTED_PIECE,
    LineTooLongError,
    printed_pieces,
    read_pipe,
    whole_lines,
)

log = logging.getLogger(__name__)

MAX_PENDING = 1000
"""Messages that may wait to be handled before a worker's events wait in their pipe."""
MAX_PRINTED_BYTES = 4 * 2**20
"""Bytes that one worker may print into the log; what comes after is counted and dropped."""
MAX_PRINTED_LINES = 20_000
"""Lines likewise."""


NVIDIA_DRIVER, UNIFIED_MEMORY = Path("/proc/driver/nvidia"), Path("/dev/nvidia-uvm")


def make_device_files() -> None:
    """Have the driver's own tool make the file of CUDA's unified memory, where there is a driver and none yet.

    On a machine that has just started, CUDA does that by a set-user-id program (nvidia-modprobe), which a worker cannot
    run with effect. Best effort: without the file, CUDA in the worker says so.
    """
    tool = shutil.which("nvidia-modprobe")
    if tool and NVIDIA_DRIVER.exists() and not UNIFIED_MEMORY.exists():
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([tool, "-u", "-c", "0"], check=False, timeout=30, stdin=subprocess.DEVNULL)


@dataclass(slots=True)
class WorkerProcess:
    """A running worker. It dies with this process: with the thread that started it, where that was by exec (PDEATHSIG).

    Nothing that it writes is believed or kept whole before it was measured: see `pipes`.
    """

    process: starting.Process
    user: int
    """The user id that it runs as."""
    not_forked: str = ""
    """Why it was started by exec although a warm host is named."""
    started_at: datetime = field(default_factory=now)
    stalled: bool = False
    """Set when it is killed because it made no progress."""
    fault: str = ""
    """Why `distrust` killed it. What it sent before may still be on its way to `on_event`."""

    _commands: queue.SimpleQueue[bytes | None] = field(default_factory=queue.SimpleQueue)
    _gone: threading.Event = field(default_factory=threading.Event)
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    _threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        *,
        cwd: Path,
        on_event: Callable[[Event], None],
        on_exit: Callable[[int], None],
        command: Sequence[str] | None = None,
        pending: Callable[[], int] = lambda: 0,
        identity: Identity | None = None,
        also_passed: Collection[str] = (),
        warm_host: str = "",
    ) -> WorkerProcess:
        """Start a worker. `on_event` and `on_exit` are called from other threads, `on_exit` last and once, with the
        return code (negative: the signal that ended it).

        No further event is read while `pending()`, the events and whatever else is waiting to be handled, is above
        MAX_PENDING: a worker that sends more than anyone can handle waits, and fills no memory here. It runs as
        `identity`, or as this process's own user, and its environment has the variables `also_passed` too. It is forked
        from the host at the socket `warm_host`, where one is named and serves; a `command` is always started by exec.
        """
        close_to_others()
        make_device_files()
        environment = worker_environment(os.environ, also_passed)
        if identity is not None:
            environment |= identity.environment(cwd, os.environ)
        process, not_forked = starting.start(cwd, environment, identity, command, warm_host)
        if not_forked:
            log.warning("worker %d was started by exec, not forked: %s", process.pid, not_forked)
        elif process.started_by == "fork":
            log.info("worker %d was forked from the warm host", process.pid)
        worker = cls(process, os.geteuid() if identity is None else identity.user, not_forked)
        printed = threading.Thread(target=worker._relay_output, name="worker-log", daemon=True)
        events = threading.Thread(
            target=worker._relay_events,
            args=(printed, on_event, on_exit, pending),
            name="worker-events",
            daemon=True,
        )
        commands = threading.Thread(target=worker._send_commands, name="worker-commands", daemon=True)
        worker._threads += [printed, events]  # not the third: a process that the worker detached may hold it up
        for thread in (printed, events, commands):
            thread.start()
        return worker

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self.process.pid

    def send(self, message: Model) -> None:
        """Send a command, without waiting for the worker to read it: one that does not read is found by its silence.

        A worker that is gone is not an error here: `on_exit` reports its exit.
        """
        self._commands.put(dump(message).encode())

    def distrust(self, why: str) -> None:
        """End a worker that broke the protocol, without waiting for its end; `why` is one line. Safe in any thread."""
        if not self.fault:
            self.fault = one_line(why)
            log.error("worker %d is killed: %s", self.pid, self.fault)
        self.kill_now()

    def kill_now(self) -> None:
        """End the worker and every process that it started, without waiting: `on_exit` follows. Safe in any thread."""
        self.process.kill()

    def kill(self) -> None:
        """End the worker and every process that it started, now, and wait until it is gone."""
        self._gone.set()
        self.kill_now()
        self.process.wait()
        for thread in self._threads:
            thread.join(timeout=10)

    def describe_exit(self, returncode: int) -> str:
        """How the worker ended, in words, with the last line that it printed."""
        if self.fault:
            return f"killed: {self.fault}"
        if returncode < 0:
            try:
                how = f"killed by {signal.Signals(-returncode).name}"
            except ValueError:
                how = f"killed by signal {-returncode}"
        else:
            how = f"exit code {returncode}"
        last = next((line for line in reversed(self._tail) if line.strip()), "")
        return f"{how}; its last output: {last[:300]}" if last and returncode > 0 else how

    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def _send_commands(self) -> None:
        """Write commands until the worker is gone; then close the pipe."""
        with os.fdopen(self.process.pipes.commands, "wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            while (command := self._commands.get()) is not None:
                while command:
                    command = command[os.write(pipe.fileno(), command) :]

    def _relay_output(self) -> None:
        """What it prints, into the log, in bounded pieces without control characters; beyond MAX_PRINTED_BYTES or
        MAX_PRINTED_LINES it is read on, so that the worker does not wait, and counted.
        """
        with os.fdopen(self.process.pipes.printed, "rb") as pipe:
            self._relay_pieces(read_pipe(pipe.fileno(), self._has_ended))

    def _relay_pieces(self, chunks: Iterator[bytes]) -> None:
        printed = lines = 0
        for piece in printed_pieces(chunks, MAX_PRINTED_PIECE):
            text = escaped(piece.decode(errors="replace")).rstrip()
            if text:
                self._tail.append(text)
                log.info("worker %d| %s", self.pid, text)
            printed, lines = printed + len(piece), lines + 1
            if printed > MAX_PRINTED_BYTES or lines >= MAX_PRINTED_LINES:
                log.warning("worker %d has printed %d lines, %d bytes: the rest is left out", self.pid, lines, printed)
                break
        dropped = 0
        for chunk in chunks:
            dropped += len(chunk)
            self._tail.append(escaped(chunk.rstrip().rpartition(b"\n")[2][-300:].decode(errors="replace")))
        if dropped:
            log.warning("worker %d: %d bytes that it printed were left out of the log", self.pid, dropped)

    def _relay_events(
        self,
        printed: threading.Thread,
        on_event: Callable[[Event], None],
        on_exit: Callable[[int], None],
        pending: Callable[[], int],
    ) -> None:
        with os.fdopen(self.process.pipes.events, "rb") as pipe:
            try:
                for line in whole_lines(read_pipe(pipe.fileno(), self._has_ended), MAX_EVENT_BYTES):
                    on_event(parse_event(line))
                    while pending() > MAX_PENDING and not self._gone.wait(0.01):
                        pass
            except ValidationError:
                self.distrust(f"it sent a line that is no event: {line[:200]!r}")
            except LineTooLongError:
                self.distrust(f"it sent more than {MAX_EVENT_BYTES:,} bytes without an end of line")
        code = self.process.wait()
        self._commands.put(None)
        printed.join(timeout=5)
        on_exit(code)
