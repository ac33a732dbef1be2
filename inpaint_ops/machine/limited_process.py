"""A process for foreign bytes: a new interpreter by exec that has none of our secrets and files, and limits.

Decoders crash, hang and take any amount of memory on hostile files, and some can be taken over. So they run here, where
that hurts nobody: `start` gives the process a clean environment and no open file but its standard three; the process
itself calls `withdraw` and `limit` before it looks at the first foreign byte.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""One thread per core, each with its own memory, would exceed the limit on a large machine before anything is read."""

_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x10000000, 0x40000000, 1
_libc = ctypes.CDLL(None, use_errno=True)


def environment() -> dict[str, str]:
    """The environment of a limited process: where programs and libraries are, and nothing else of ours."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _ONE_THREAD


def start(
    module: str,
    *arguments: str,
    stdin: IO[bytes] | int,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE ARGUMENTS` in a session of its own, so that it can be ended with all its children.

    It has no open file but its standard three and `pass_fds`.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(),
        close_fds=True,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started, now, and wait until it is gone."""
    if process.poll() is None:  # else its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def how_it_ended(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    names = {int(known): known.name for known in signal.Signals}  # real-time signals have none
    return f"was ended by {names.get(-code, f'signal {-code}')}"


def close_to_others() -> None:
    """Have the kernel refuse other processes of this user, the worker among them, this one's environment and memory,
    and write no core file of it: here are the store's keys. Root may look all the same.

    prctl(2), PR_SET_DUMPABLE; a program started by exec is open again. Airflow does the same for its tasks.
    """
    pr_set_dumpable = 4
    _libc.prctl(pr_set_dumpable, 0, 0, 0, 0)


def withdraw() -> bool:
    """Move this process into a user and a network namespace of its own, where the machine allows it.

    There it has no network, and may not look into the environment or the memory of any process outside, its ancestors
    included, although they run as the same user (ptrace_access_check in user_namespaces(7)). Whether it was allowed.
    Files stay readable as before. Call it while there is one thread, and after the imports: capabilities are lost.
    """
    return bool(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends (PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit(*, data_bytes: int | None = None, address_bytes: int | None = None, cpu_seconds: int) -> None:
    """Let the kernel end this process before it takes more memory or processor time than this. No core file is left.

    A lower limit, which whoever started the process has set, stays: only root may raise one.

    Args:
        data_bytes: heap and private mappings, at most (RLIMIT_DATA).
        address_bytes: all that is mapped, at most (RLIMIT_AS); `mapped_bytes` tells what is mapped already.
        cpu_seconds: from the start of the process.
    """
    if data_bytes is not None:
        _lower(resource.RLIMIT_DATA, data_bytes, data_bytes)
    if address_bytes is not None:
        _lower(resource.RLIMIT_AS, address_bytes, address_bytes)
    _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _lower(kind: int, soft: int, hard: int) -> None:
    standing = resource.getrlimit(kind)[1]
    if standing != resource.RLIM_INFINITY:
        soft, hard = min(soft, standing), min(hard, standing)
    resource.setrlimit(kind, (soft, hard))


def lock_in() -> None:
    """Let this process open no further file or socket, start no process and write no file, ever again.

    Open descriptors go on working. Call it after every import: modules are files.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def mapped_bytes() -> int:
    """What this process has mapped, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def yield_to_others() -> None:
    """Give way to every other process: a low priority, and the first to go when memory runs out."""
    os.nice(10)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
