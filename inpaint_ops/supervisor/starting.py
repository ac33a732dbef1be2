"""Starting a worker's process: a new interpreter by exec, or a fork of the warm host. Either way it is used alike."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from inpaint_ops.errors import ConfigError, one_line
from inpaint_ops.records import StartedBy
from inpaint_ops.supervisor.confinement import Identity
from inpaint_ops.worker import launch
from inpaint_ops.worker.fork_request import (
    KILL,
    MAX_MESSAGE,
    Ended,
    ForkAnswer,
    ForkRequest,
    Inherited,
    peer_user,
    socket_path,
)
from inpaint_ops.worker.installation import installation

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "inpaint_ops.worker")
"""How a worker is started by exec."""

_LAUNCHER = Path(launch.__file__)
_ANSWER_SECONDS = 15.0
"""How long a warm host may take to answer, which takes it milliseconds; then the worker is started by exec."""
_KILL_SECONDS = 10.0
"""How long a guard may take to end its worker; then it is killed itself, which ends the worker too."""


class NotForkedError(Exception):
    """The warm host has forked no worker; the text says why."""


@dataclass(frozen=True, slots=True)
class Pipes:
    """The supervisor's ends of a worker's pipes."""

    commands: int
    printed: int
    events: int


class Process(Protocol):
    """A started worker's process, whoever its parent is."""

    pid: int
    pipes: Pipes
    started_by: StartedBy

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""

    def wait(self) -> int:
        """The same, once it has ended."""

    def kill(self) -> None:
        """Kill it and every process in its group, without waiting. Safe in any thread."""


class ExecProcess:
    """A worker started by exec: this process's own child, which the kernel kills with the thread that started it."""

    started_by: StartedBy = "exec"

    def __init__(self, folder: Path, environment: Mapping[str, str], who: Identity | None, command: Sequence[str]):
        """Start `command` in `folder`, with the options that a worker takes. Raises OSError."""
        user, groups = ("-", "-") if who is None else (str(who.user), ",".join(map(str, who.groups)))
        with _pipes() as (self.pipes, (commands, printed, events)):
            argv = [
                sys.executable, "-I", "-S", str(_LAUNCHER), user, groups, str(os.getpid()), "--",
                *command,
                "--events-fd", str(events),
                "--parent", str(os.getpid()),
                "--started", repr(time.time()),
            ]  # fmt: skip
            self._process = subprocess.Popen(
                argv,
                stdin=commands,
                stdout=printed,
                stderr=subprocess.STDOUT,
                pass_fds=(events,),
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """See `Process`."""
        return self._process.poll()

    def wait(self) -> int:
        """See `Process`."""
        return self._process.wait()

    def kill(self) -> None:
        """See `Process`."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class ForkedProcess:
    """A worker forked from the warm host. Its parent is its guard, which ends it when this process is gone, and tells
    how it ended over the socket (see `inpaint_ops.worker.warm_host`).
    """

    started_by: StartedBy = "fork"

    def __init__(self, host: str, folder: Path, environment: Mapping[str, str], who: Identity | None):
        """Ask the warm host at the socket `host` for a worker in `folder`. Raises NotForkedError."""
        self._code: int | None = None
        self._has_ended = threading.Event()
        self._killed_at: float | None = None
        self._lock = threading.Lock()
        request = ForkRequest(
            environment=dict(environment),
            folder=str(folder),
            user=None if who is None else who.user,
            groups=() if who is None else who.groups,
            started=time.time(),
            installation=installation(),
            inherited=Inherited.of_this_process(),
        )
        self._connection = _connect(host)
        try:
            with _pipes() as (self.pipes, descriptors):
                self.pid, self._guard = _ask(self._connection, host, request, descriptors)
        except BaseException:
            self._connection.close()
            raise
        threading.Thread(target=self._wait_for_end, name="worker-end", daemon=True).start()

    def poll(self) -> int | None:
        """See `Process`."""
        return self._code if self._has_ended.is_set() else None

    def wait(self) -> int:
        """See `Process`."""
        while not self._has_ended.wait(1.0):
            if self._killed_at is not None and time.monotonic() - self._killed_at > _KILL_SECONDS:
                with self._lock, contextlib.suppress(OSError):  # the guard is stopped: its end ends the worker
                    if not self._has_ended.is_set():
                        signal.pidfd_send_signal(self._guard, signal.SIGKILL)
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        """See `Process`."""
        with contextlib.suppress(OSError):
            self._connection.send(KILL, socket.MSG_DONTWAIT)
        if self._killed_at is None:
            self._killed_at = time.monotonic()

    def _wait_for_end(self) -> None:
        code = int(-signal.SIGKILL)  # without a message the guard was killed, and the kernel kills the worker with it
        with contextlib.suppress(OSError, ValidationError):
            code = Ended.model_validate_json(self._connection.recv(MAX_MESSAGE)).code
        with self._lock:
            self._code = code
            self._has_ended.set()
            self._connection.close()
            os.close(self._guard)


def start(
    folder: Path,
    environment: Mapping[str, str],
    who: Identity | None,
    command: Sequence[str] | None = None,
    warm_host: str = "",
) -> tuple[Process, str]:
    """Start a worker in `folder`, forked from the host at the socket `warm_host` where one is named and serves, else by
    exec; and why it was not forked. A `command` of its own is started by exec. Raises OSError.
    """
    why = ""
    if warm_host and command is None:
        try:
            return ForkedProcess(warm_host, folder, environment, who), ""
        except NotForkedError as error:
            why = one_line(str(error))
    return ExecProcess(folder, environment, who, command or WORKER_COMMAND), why


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[Pipes, tuple[int, int, int]]]:
    """Three pipes: the supervisor's ends, closed where the block raises, and the worker's, closed after the block."""
    commands_read, commands_write = os.pipe()
    printed_read, printed_write = os.pipe()
    events_read, events_write = os.pipe()
    try:
        yield Pipes(commands_write, printed_read, events_read), (commands_read, printed_write, events_write)
    except BaseException:
        for descriptor in (commands_write, printed_read, events_read):
            os.close(descriptor)
        raise
    finally:
        for descriptor in (commands_read, printed_write, events_write):
            os.close(descriptor)


def _connect(host: str) -> socket.socket:
    """A connection to the warm host, which runs as this user. Raises NotForkedError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        path = socket_path(host, make=False)
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(str(path))
        if (user := peer_user(connection)) != os.geteuid():
            raise ConfigError(f"it is uid {user}'s, and this is uid {os.geteuid()}")
    except (OSError, ConfigError) as error:
        connection.close()
        raise NotForkedError(f"no warm host at {host}: {error}") from error
    return connection


def _ask(connection: socket.socket, host: str, request: ForkRequest, descriptors: Sequence[int]) -> tuple[int, int]:
    """The worker's process id and its guard's pidfd. Raises NotForkedError."""
    try:
        socket.send_fds(connection, [request.model_dump_json().encode()], descriptors)
        data, received, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 1)
        answer = ForkAnswer.model_validate_json(data)
    except TimeoutError:
        raise NotForkedError(f"the warm host at {host} did not answer within {_ANSWER_SECONDS:.0f} s") from None
    except (OSError, ValidationError) as error:
        raise NotForkedError(f"the warm host at {host} did not answer: {error}") from error
    if answer.refused or len(received) != 1:
        for descriptor in received:
            os.close(descriptor)
        raise NotForkedError(f"the warm host at {host} refused: {answer.refused or 'it sent no guard'}")
    connection.settimeout(None)
    return answer.pid, received[0]
