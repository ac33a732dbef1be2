"""Reading what a process that is not trusted writes: bounded in memory, and over when the process is."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Iterator

MAX_EVENT_BYTES = 2**20
"""Bytes of one line of events. An honest one has a few kilobytes; the ledger in Ready and Bye is the longest."""

MAX_PRINTED_PIECE = 8 * 2**10
"""Bytes of printed output that become one line of the log; a longer line becomes several."""

_CHUNK = 64 * 2**10
_AFTER_EXIT = 4 * 2**20
"""Bytes that are still read once the process has ended: more than a pipe holds. A process that it left behind may
hold the pipe open, and write for ever."""
_LOOK_AGAIN = 200
"""Milliseconds between two looks at whether the process has ended."""


class LineTooLongError(Exception):
    """A line is longer than the limit; the rest of it was not read."""


def read_pipe(descriptor: int, has_ended: Callable[[], bool]) -> Iterator[bytes]:
    """What comes through a pipe, 64 KiB at most at a time, until its end; once `has_ended`, what is in it."""
    os.set_blocking(descriptor, False)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    left = _AFTER_EXIT
    while left > 0:
        ended = has_ended()  # asked before the pipe is: what was written before the end is in it by now
        if not poll.poll(0 if ended else _LOOK_AGAIN):
            if ended:
                return
            continue
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            continue
        if not chunk:
            return
        if ended:
            left -= len(chunk)
        yield chunk


def whole_lines(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Each line, without its end. A last one that was never ended is left out: its writer died amid it.

    Raises LineTooLongError once more than `limit` bytes have come without an end of line.
    """
    held = bytearray()
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if len(held) + len(end) > limit:
                raise LineTooLongError
            yield bytes(held + end)
            held.clear()
        held += rest
        if len(held) > limit:
            raise LineTooLongError


def printed_pieces(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Each line, in pieces of `limit` bytes at most, the last one too; empty ones are left out."""
    held = bytearray()
    for chunk in chunks:
        *ends, rest = chunk.replace(b"\r", b"\n").split(b"\n")
        for end in ends:
            held += end
            yield from _cut(held, limit)
            if held:
                yield bytes(held)
                held.clear()
        held += rest
        yield from _cut(held, limit)
    if held:
        yield bytes(held)


def _cut(held: bytearray, limit: int) -> Iterator[bytes]:
    """Take whole pieces from the front of `held`."""
    while len(held) > limit:
        yield bytes(held[:limit])
        del held[:limit]
