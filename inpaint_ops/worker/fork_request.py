"""What a supervisor asks of a warm host, and what it is answered: one message each way, then the worker's end.

The messages go over a Unix socket that keeps their bounds (SOCK_SEQPACKET). With the request go three descriptors: the
worker's standard input, what it prints to, and its events. With the answer goes a pidfd of the worker's guard.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from inpaint_ops.errors import ConfigError
from inpaint_ops.machine.private_folder import trusted_folder
from inpaint_ops.records import Model

MAX_MESSAGE = 256 * 2**10
"""Bytes. An environment of a worker has a few kilobytes."""

KILL = b"kill"
"""Sent by the supervisor: end the worker, and all that it has started, now."""

_LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}

READ_LATE = frozenset(
    "PATH USER LOGNAME VIRTUAL_ENV TMPDIR CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES INPAINT_CPU_SLOTS".split()
)
"""Variables that may differ between the warm host and a worker: nothing that is imported has read them by then. CUDA
reads its own when it is first used, which is in the worker."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Set in the warm host, whose libraries start threads while they are imported: OpenBLAS with NumPy; Arrow's jemalloc
with pyarrow, which transformers imports by way of scikit-learn and pandas where these are installed."""


class Inherited(Model):
    """What a process started by exec has from the one that starts it, and a forked one must be given."""

    umask: int
    nice: int
    processors: tuple[int, ...]
    limits: Mapping[str, tuple[int, int]]
    """Soft and hard, by name (RLIMIT_NOFILE, ...)."""

    @classmethod
    def of_this_process(cls) -> Inherited:
        """As this process has it."""
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        umask = next(line.split()[1] for line in status.splitlines() if line.startswith("Umask:"))
        return cls(
            umask=int(umask, 8),
            nice=os.getpriority(os.PRIO_PROCESS, 0),
            processors=tuple(sorted(os.sched_getaffinity(0))),
            limits={name: resource.getrlimit(number) for name, number in _LIMITS.items()},
        )

    def take_on(self) -> None:
        """Have this process have it. Only root may raise a hard limit or lower `nice`: what it may not is printed."""
        os.umask(self.umask)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        except PermissionError:
            _print(f"nice is {os.getpriority(os.PRIO_PROCESS, 0)} and not {self.nice}")
        for name, (soft, hard) in self.limits.items():
            number = _LIMITS[name]
            try:
                resource.setrlimit(number, (soft, hard))
            except (ValueError, PermissionError):
                most = resource.getrlimit(number)[1]
                resource.setrlimit(number, (min(soft, most) if soft >= 0 else most, most))
                _print(f"{name} is {most} at most, and not {hard}")


class ForkRequest(Model):
    """A worker that is asked for."""

    environment: dict[str, str]
    folder: str
    """Its working folder."""
    user: int | None
    """The user that it becomes; None: it stays who the host is."""
    groups: tuple[int, ...] = ()
    started: float
    """When it was asked for, epoch seconds."""
    installation: dict[str, str]
    inherited: Inherited

    def refusal(self, installation: Mapping[str, str], environment: Mapping[str, str]) -> str:
        """Why a host that has imported `installation` in `environment` must not fork it, as a line; "" if it may."""
        for name in sorted({*installation, *self.installation}):
            here, there = installation.get(name, "missing"), self.installation.get(name, "missing")
            if here != there:
                return f"it has imported {name} {here}, and {there} is wanted: start it anew"
        late = READ_LATE | {*ONE_THREAD} | ({"HOME"} if "HF_HOME" in self.environment else set())
        imported, wanted = _without_opencvs(environment), _without_opencvs(self.environment)
        for name in sorted({*imported, *wanted} - late):
            if imported.get(name) != wanted.get(name):
                return f"{name} is another than when it imported: start both with the same environment"
        if self.inherited.processors != tuple(sorted(os.sched_getaffinity(0))):
            return "it may use other processors: start both with the same"
        return ""


class ForkAnswer(Model):
    """A warm host's answer: the worker's process id, or why there is none."""

    pid: int = 0
    refused: str = ""


class Ended(Model):
    """The worker has ended: its exit code, or minus the number of the signal that ended it."""

    code: int


def _without_opencvs(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the folder that cv2 puts in front of LD_LIBRARY_PATH wherever it is imported."""
    name = "LD_LIBRARY_PATH"
    folders = [folder for folder in environment.get(name, "").split(":") if folder and "/cv2/../" not in folder]
    return {**environment, name: ":".join(folders)}


def _print(text: str) -> None:
    print(f"as the warm host has it: {text}", file=sys.stderr, flush=True)


def socket_path(text: str, *, make: bool) -> Path:
    """The socket that `text` (INPAINT_WARM_HOST) names, in a folder that only this user and root can enter.

    With `make` a missing folder is made. Raises ConfigError that says what is wrong with the folder; OSError.
    """
    path = Path(text)
    if not path.is_absolute():
        raise ConfigError(f"INPAINT_WARM_HOST: {text} is no absolute path")
    folder = trusted_folder(path.parent, make=make)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"INPAINT_WARM_HOST: {folder} has the owner {found.st_uid} and the mode {found.st_mode & 0o7777:04o}: "
            f"name a socket in a folder that uid {os.geteuid()} owns and nobody else can enter (mode 0700)"
        )
    return folder / path.name


def peer_user(connection: socket.socket) -> int:
    """The user id of the process at the other end, as the kernel knows it (SO_PEERCRED, unix(7))."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])  # process, user, group
