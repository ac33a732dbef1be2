"""Asks for small pictures: starts the host, sends it files piece by piece, and ends it when it takes too long."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from inpaint_ops.errors import PreviewBusyError, PreviewError
from inpaint_ops.images.tiles import SIDE
from inpaint_ops.machine import limited_process
from inpaint_ops.machine.limited_process import close_to_others
from inpaint_ops.previews.messages import PAIR_BYTES, Job, Limits, Reply, Request, split_parts

HOST = "inpaint_ops.previews.host"
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_MESSAGE_BYTES = 4000
_FIGURES_BYTES = 400


class File(Protocol):
    """A file that is sent: its size in bytes, and the bytes in pieces."""

    @property
    def size(self) -> int:
        """Bytes of all pieces together."""

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, in order."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A file that is in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    def __iter__(self) -> Iterator[bytes]:
        """All of it."""
        return iter((self.data,))


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture, the bytes of a JPEG or a PNG, with the seconds of the processor and the peak memory in bytes
    that it took.
    """

    data: bytes
    cpu: float
    peak: int


class Helper:
    """One host, and whoever asks it: for one thread at a time. The host is started when it is needed.

    After a picture that took too long, or broke off, another host is started for the next one. The asking process is
    closed to others of its user when it starts a host: it has the keys.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.started = 0
        """How many hosts were started so far."""
        self._host: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The host's process id, while there is one."""
        return self._host.pid if self._host is not None and self._host.poll() is None else None

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the host."""
        host, self._host = self._host, None
        if host is not None:
            limited_process.kill(host)
            for pipe in (host.stdin, host.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):  # what was not sent yet
                    pipe.close()

    def make(self, job: Job, files: Sequence[File]) -> Preview:
        """A small picture of the file (of two for an overlay).

        Raises PreviewError where there is none: the file cannot be decoded, or not within the limits; PreviewBusyError
        where no host can be started now; and whatever reading the files raises.
        """
        if self.pid is None:
            self.close()
            self._start()
        host = self._host
        assert host is not None and host.stdin is not None and host.stdout is not None
        too_long = threading.Event()

        def end() -> None:
            too_long.set()
            limited_process.kill(host)

        watch = threading.Timer(self.limits.wall_seconds, end)
        watch.daemon = True
        watch.start()
        done = False
        try:
            reply, body = self._exchange(host.stdin, host.stdout, job, files)
            done = reply is not None and not too_long.is_set()
        except (BrokenPipeError, ValueError):  # it ended, or says what no host says
            reply, body = None, b""
        finally:
            watch.cancel()
            if not done:
                self.close()
        return self._judged(job, reply, body, too_long.is_set())

    def _start(self) -> None:
        close_to_others()
        try:
            self._host = limited_process.start(
                HOST, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:  # no memory, or too many processes
            raise PreviewBusyError(f"no process for small pictures could be started: {error}") from error
        self.started += 1

    def _exchange(
        self, sink: IO[bytes], source: IO[bytes], job: Job, files: Sequence[File]
    ) -> tuple[Reply | None, bytes]:
        sink.write(Request(job, self.limits, tuple(file.size for file in files)).head())
        for file in files:
            for piece in file:
                sink.write(piece)
        sink.flush()
        reply = Reply.read(source)
        body = source.read(reply.size) if reply is not None else b""
        return (reply, body) if reply is not None and len(body) == reply.size else (None, b"")

    def _judged(self, job: Job, reply: Reply | None, body: bytes, too_long: bool) -> Preview:
        limits = self.limits
        if too_long:
            raise PreviewError(f"takes more than {limits.wall_seconds:g} s to preview", cpu=float(limits.cpu_seconds))
        if reply is None:
            raise PreviewError("cannot be previewed: the process that decoded it ended", cpu=float(limits.cpu_seconds))
        if reply.exit != 0 or not body:
            how = limited_process.how_it_ended(reply.exit)
            spent = reply.exit == -signal.SIGXCPU or reply.cpu > limits.cpu_seconds
            why = f"takes more than {limits.cpu_seconds} s to decode" if spent else f"broke its decoder, which {how}"
            raise PreviewError(why, cpu=reply.cpu)
        if body[:1] == b"+" and _answers(job, body[1:]):
            return Preview(body[1:], reply.cpu, reply.peak)
        why = body[1 : 1 + _MESSAGE_BYTES].decode(errors="replace")
        raise PreviewError(why, cpu=reply.cpu, is_of_file=body[:1] == b"-")


def _answers(job: Job, body: bytes) -> bool:
    """Whether this begins as what was asked for does, and is of as many parts: a decoder may have been taken over."""
    if not job.has_parts:
        return body.startswith(_SIGNATURES)
    try:
        parts = split_parts(body)
    except ValueError:
        return False
    if job.block is not None:
        return len(parts) == SIDE**2 and all(not part or part.startswith(_SIGNATURES) for part in parts)
    figures, *pictures = parts
    if job.kind == "pair":
        return not pictures and len(figures) <= PAIR_BYTES
    return len(figures) <= _FIGURES_BYTES and all(part.startswith(_SIGNATURES) for part in pictures)
