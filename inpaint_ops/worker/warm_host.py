"""The warm host: a process that has imported the model stack, and forks a worker for each supervisor that asks.

Started by `inpaint-ops warm-host`, which execs `python -m inpaint_ops.worker.warm_host SOCKET` with a worker's clean
environment. It never paints, never touches a card and has one thread: a child forked from a process with more would
wait for locks that nobody holds any more, and the state of OpenMP and CUDA does not survive a fork. It counts its
threads and looks at its open devices before each fork, and refuses where there is one too many.

Each worker gets a parent of its own, the guard, which is forked in between:

    warm host ──fork──► guard ──fork──► worker
                          ▲ socket
                     supervisor

- The supervisor's end, however it comes, closes its end of the socket: the guard kills the worker's process group.
- The guard's end kills the worker by the kernel (PR_SET_PDEATHSIG, which fires when the guard's only thread ends).
- The warm host's end changes nothing for workers that run: it is no longer in the chain.

The guard waits for the worker and sends its exit code. The host keeps nothing of a worker: guards are reaped by the
kernel (SIGCHLD is ignored), and their descriptors are closed here as soon as they are forked.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from inpaint_ops.errors import ConfigError, one_line
from inpaint_ops.machine.limited_process import close_to_others
from inpaint_ops.machine.private_folder import open_file, private_folder
from inpaint_ops.protocol import dump
from inpaint_ops.records import Model
from inpaint_ops.worker import launch, work
from inpaint_ops.worker.fork_request import KILL, MAX_MESSAGE, Ended, ForkAnswer, ForkRequest, peer_user, socket_path
from inpaint_ops.worker.imports import import_model_stack, set_environment
from inpaint_ops.worker.installation import installation

Work = Callable[[int, float], NoReturn]
"""What a forked process does: events' descriptor, epoch seconds at which it was asked for."""

PATIENCE = 10.0
"""Seconds that a supervisor may take to send its request: one that is stopped must not keep the others waiting."""

_PR_SET_NAME, _PR_SET_DUMPABLE = 15, 4
_libc = launch._libc


def main(arguments: Sequence[str] | None = None) -> None:
    """Import, listen on the socket that the one argument names, and fork until SIGTERM. Exit code 2: it cannot."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    environment = dict(os.environ)
    found = installation()
    try:
        path = socket_path(text, make=True)
        with _alone(path):
            began = time.perf_counter()
            _import(path.parent)
            serve(path, environment, found, work, time.perf_counter() - began)
    except ImportError as error:
        print(f"warm host: the model stack cannot be imported: {one_line(str(error))}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except (ConfigError, OSError) as error:
        print(f"warm host: {one_line(str(error))}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _import(folder: Path) -> None:
    """Import the model stack. What it makes meanwhile lies in a folder of this user's own: torch makes its cache's."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(private_folder(folder / "tmp"))
    set_environment()
    import_model_stack()
    import inpaint_ops.worker.serving  # noqa: F401


def serve(path: Path, environment: dict[str, str], found: dict[str, str], work: Work, seconds: float = 0.0) -> None:
    """Fork a worker that does `work` for each who asks at the socket `path`, until SIGTERM, or until what is installed
    is no longer `found`. The imports were made in `environment` and took `seconds`. Raises ConfigError, OSError.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    close_to_others()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page that holds an object
    gc.disable()
    with _listening(path) as listener:
        _log(f"listens on {path}, imported in {seconds:.1f} s")
        if problem := why_not_fork():
            _log(f"it refuses every fork: {problem}")
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    up_to_date = _answer(connection, environment, found, work)
                except (OSError, ValueError) as error:  # a supervisor that is gone, or no supervisor
                    _log(f"a request was not answered: {one_line(str(error))[:300]}")
                    continue
            if not up_to_date:
                _log("what is installed has changed since it imported: it ends, to be started anew")
                return


def why_not_fork() -> str:
    """Why a child of this process would not work, as a line; "" if it would."""
    if more := _other_threads():
        names = ", ".join(sorted(set(more)))
        return f"it has {len(more) + 1} threads ({names}), and only a process with one can be forked safely"
    for name in _open_files():
        if name.startswith("/dev/nvidia"):
            return f"it has opened {name}, and a card cannot be used after a fork"
    return ""


def _other_threads() -> list[str]:
    """The kernel's names of this process's threads but the main one; libraries name theirs so that one knows them."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        if task.name != str(os.getpid()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                names.append(one_line((task / "comm").read_text(errors="replace").strip()))
    return names


def _answer(connection: socket.socket, environment: dict[str, str], found: dict[str, str], work: Work) -> bool:
    """Answer one supervisor; whether what is installed is still what was imported. Raises OSError, ValueError."""
    connection.settimeout(PATIENCE)
    if (user := peer_user(connection)) != os.geteuid():
        raise ValueError(f"it is uid {user}'s, and only uid {os.geteuid()} is served")
    data, descriptors, flags, _ = socket.recv_fds(connection, MAX_MESSAGE, 3)
    try:
        if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) != 3:
            raise ValueError(f"it has {len(data)} bytes and {len(descriptors)} descriptors")
        request = ForkRequest.model_validate_json(data)
        refused = request.refusal(found, environment) or why_not_fork()
        if not refused:
            try:
                guard = os.fork()
            except OSError as error:
                refused = f"it cannot fork: {error.strerror}"
            else:
                if guard == 0:
                    _be_guard(connection, descriptors, request, work)
        if refused:
            _log(f"refused: {refused}")
            _send(connection, ForkAnswer(refused=refused))
            return found == installation()
        return True
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


# -- the guard -----------------------------------------------------------------------------------------------------


def _be_guard(connection: socket.socket, descriptors: list[int], request: ForkRequest, work: Work) -> NoReturn:
    """Fork the worker, and see to it that it ends with its supervisor."""
    try:
        _call_it("inpaint-guard")
        os.setsid()  # what ends the host from a terminal does not end it
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_all_but({0, 1, 2, connection.fileno(), *descriptors})
        me = os.getpid()
        set_up, tells = os.pipe()
        worker = os.fork()
        if worker == 0:
            _be_worker(connection, descriptors, tells, request, me, work)
        for descriptor in (*descriptors, tells):
            os.close(descriptor)
        _watch(connection, worker, set_up)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)  # which kills the worker, if it still runs


def _watch(connection: socket.socket, worker: int, set_up: int) -> NoReturn:
    """Answer once the worker is confined and tied to this process (`set_up`), then wait for its end, or bring it."""
    ended = os.pidfd_open(worker)
    poll = select.poll()
    for descriptor in (ended, set_up, connection.fileno()):
        poll.register(descriptor, select.POLLIN)
    connection.settimeout(None)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if set_up in ready:  # or it has failed, which its exit code tells
            poll.unregister(set_up)
            with contextlib.suppress(OSError):
                _send(connection, ForkAnswer(pid=worker), [os.pidfd_open(os.getpid())])
        if connection.fileno() in ready:  # the supervisor asks for it, or is gone
            _kill_group(worker)
            message = b""
            with contextlib.suppress(OSError):
                message = connection.recv(len(KILL))
            if not message:
                poll.unregister(connection)
        if ended in ready:
            break
    _kill_group(worker)  # what it has started: its number is its own until it is waited for
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(OSError):
        _send(connection, Ended(code=code))
    os._exit(0)


def _kill_group(leader: int) -> None:
    """Kill the worker and what it has started; the worker alone where it has no group of its own yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(leader, signal.SIGKILL)


# -- the worker ----------------------------------------------------------------------------------------------------


def _be_worker(
    connection: socket.socket, descriptors: list[int], tells: int, request: ForkRequest, guard: int, work: Work
) -> NoReturn:
    """Become what a worker is that was started by exec, tell the guard by `tells`, and work."""
    try:
        launch.die_with_parent(guard)
        os.setsid()
        connection.detach()
        tells = _take_standard_files(descriptors, tells)
        _call_it("inpaint-worker")
        request.inherited.take_on()
        os.environ.clear()
        os.environ.update(request.environment)
        tempfile.tempdir = None
        time.tzset()
        os.chdir(request.folder)
        launch.give_up(request.user, request.groups)
        launch.die_with_parent(guard)  # again: the kernel forgets it where the user changes
        launch.prctl(_PR_SET_DUMPABLE, 1)  # as exec leaves it: else its own files in /proc are root's
        os.close(tells)
        gc.enable()
        work(3, request.started)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def _take_standard_files(descriptors: Sequence[int], tells: int) -> int:
    """Standard input, output and error, and the events as descriptor 3; every other one but `tells` is closed, whose
    new number is returned.
    """
    commands, printed, events, kept = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (*descriptors, tells))
    for source, target in ((commands, 0), (printed, 1), (printed, 2), (events, 3)):
        os.dup2(source, target)
    _close_all_but({0, 1, 2, 3, kept})
    return kept


def _close_all_but(kept: Collection[int]) -> None:
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)


# -- the host's own ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Within the block no other host serves `path`. Raises ConfigError."""
    lock = open_file(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another warm host serves {path}: end it first") from None
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    unready = path.with_name(("_" if path.name.startswith(".") else ".") + path.name[1:])  # no longer: 107 bytes is all
    for left in (path, unready):
        left.unlink(missing_ok=True)  # a killed host's: the lock says that none lives
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(unready))
        try:
            unready.chmod(0o600)
            listener.listen(128)
            unready.rename(path)  # so that whoever sees it is answered
            yield listener
        finally:
            for left in (path, unready):
                left.unlink(missing_ok=True)


def _send(connection: socket.socket, message: Model, descriptors: Sequence[int] = ()) -> None:
    socket.send_fds(connection, [dump(message).encode()], descriptors)


def _open_files() -> Iterator[str]:
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(path.readlink())


def _call_it(name: str) -> None:
    """What `ps` shows (PR_SET_NAME; 15 bytes)."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _end(number: int, frame: object) -> None:
    raise SystemExit(0)


def _log(text: str) -> None:
    print(f"warm host {os.getpid()}: {one_line(text)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
