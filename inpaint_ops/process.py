"""The worker process seen from outside: start it by exec with a clean environment, talk to it, end it for certain."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from inpaint_ops.protocol import Event, dump, parse_event
from inpaint_ops.records import Model

log = logging.getLogger(__name__)

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "inpaint_ops.worker")
"""How a worker is started: a new interpreter, by exec."""

_PASSED_ON = frozenset(
    "PATH HOME LANG LC_ALL LC_CTYPE TZ TMPDIR USER LOGNAME LD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV "
    "HF_HOME HF_HUB_CACHE XDG_CACHE_HOME CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER INPAINT_CPU_SLOTS".split()
)
_PASSED_ON_PREFIXES = (
    "NVIDIA_",
    "OMP_",
    "MKL_",
    "TORCH_",
    "TORCHINDUCTOR_",
    "PYTORCH_",
    "TRITON_",
    "XFORMERS_",
    "NCCL_",
)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: what the model stack needs, by name; no storage settings, no credentials."""
    kept = {
        name: value for name, value in environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return kept | {
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def close_to_others() -> None:
    """Have the kernel refuse other processes of this user, the worker among them, this one's environment and memory,
    and write no core file of it: here are the store's keys. Root may look all the same.

    prctl(2), PR_SET_DUMPABLE; a program started by exec is open again. Airflow does the same for its tasks.
    """
    pr_set_dumpable = 4
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_dumpable, 0, 0, 0, 0)


@dataclass(slots=True)
class WorkerProcess:
    """A running worker. It dies with the thread that started it (PDEATHSIG) and with its standard input."""

    process: subprocess.Popen[bytes]
    stalled: bool = False
    """Set by whoever kills it for want of progress."""

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
    ) -> WorkerProcess:
        """Start a worker. `on_event` and `on_exit` are called from other threads, `on_exit` last and once, with the
        return code (negative: the signal that ended it).
        """
        close_to_others()
        events_read, events_write = os.pipe()
        argv = [
            *(command or WORKER_COMMAND),
            "--events-fd", str(events_write),
            "--parent", str(os.getpid()),
            "--started", repr(time.time()),
        ]  # fmt: skip
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(events_write,),
                cwd=cwd,
                env=worker_environment(os.environ),
                start_new_session=True,
            )
        except BaseException:
            os.close(events_read)
            raise
        finally:
            os.close(events_write)
        worker = cls(process)
        printed = threading.Thread(target=worker._relay_output, name="worker-log", daemon=True)
        events = threading.Thread(
            target=worker._relay_events,
            args=(events_read, printed, on_event, on_exit),
            name="worker-events",
            daemon=True,
        )
        worker._threads += [printed, events]
        printed.start()
        events.start()
        return worker

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self.process.pid

    def send(self, message: Model) -> None:
        """Send a command. A worker that is gone is not an error here: its exit is told by `on_exit`."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(dump(message).encode())
            self.process.stdin.flush()

    def kill(self) -> None:
        """End the worker and every process that it started, now, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for thread in self._threads:
            thread.join(timeout=10)
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def describe_exit(self, returncode: int) -> str:
        """How the worker ended, in words, with the last line that it printed."""
        if returncode < 0:
            try:
                how = f"killed by {signal.Signals(-returncode).name}"
            except ValueError:
                how = f"killed by signal {-returncode}"
        else:
            how = f"exit code {returncode}"
        last = next((line for line in reversed(self._tail) if line.strip()), "")
        return f"{how}; last words: {last[:300]}" if last and returncode > 0 else how

    def _relay_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._tail.append(text)
                log.info("worker %d| %s", self.pid, text)

    def _relay_events(
        self, fd: int, printed: threading.Thread, on_event: Callable[[Event], None], on_exit: Callable[[int], None]
    ) -> None:
        with os.fdopen(fd, "rb") as events:
            for line in events:
                try:
                    on_event(parse_event(line))
                except ValidationError:
                    log.error("worker %d sent a line that is no event: %r", self.pid, line[:200])
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self.pid, signal.SIGKILL)
                    break
        code = self.process.wait()
        printed.join(timeout=5)
        on_exit(code)
