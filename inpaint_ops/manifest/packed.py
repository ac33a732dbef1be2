"""Many rows in little memory: their lines are kept compressed, and a row is made anew each time that it is looked at.

A row of a manifest takes 40 bytes in its file and 2,000 as an object, and what a hostile one's `extra` unpacks to is 30
times its text. So what is kept is text, in blocks; only the rows that somebody holds are objects.
"""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

_BLOCK_BYTES = 64 * 2**10
"""Of text, before it is compressed: this much, and one line, is unpacked at a time."""

T = TypeVar("T")


class PackedLines:
    """Lines that are only added to. None holds a line feed."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._starts: list[int] = []
        """The number of each block's first line."""
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._packed = 0
        self._unpacked: tuple[int, list[bytes]] = (-1, [])
        """The block that was looked into last, so that going through the lines by index unpacks each block once."""

    def __len__(self) -> int:
        return self._packed + len(self._tail)

    def append(self, line: bytes) -> None:
        """Add a line at the end."""
        self._tail.append(line)
        self._tail_bytes += len(line) + 1
        if self._tail_bytes >= _BLOCK_BYTES:
            self._blocks.append(zlib.compress(b"\n".join(self._tail), level=1))
            self._starts.append(self._packed)
            self._packed += len(self._tail)
            self._tail, self._tail_bytes = [], 0

    def __getitem__(self, at: int) -> bytes:
        if not 0 <= at < len(self):
            raise IndexError(at)
        if at >= self._packed:
            return self._tail[at - self._packed]
        block = bisect.bisect_right(self._starts, at) - 1
        if self._unpacked[0] != block:
            self._unpacked = (block, self._lines_of(block))
        return self._unpacked[1][at - self._starts[block]]

    def lines(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The lines from `start` up to `stop` in order, a block in memory at a time."""
        stop = len(self) if stop is None else stop
        at = start
        while at < min(stop, self._packed):
            block = bisect.bisect_right(self._starts, at) - 1
            first = self._starts[block]
            found = self._lines_of(block)[at - first : stop - first]
            yield from found
            at += len(found)
        yield from self._tail[max(0, at - self._packed) : max(0, stop - self._packed)]

    def _lines_of(self, block: int) -> list[bytes]:
        return zlib.decompress(self._blocks[block]).split(b"\n")


class PackedRows(Sequence[T], Generic[T]):
    """Rows that `load` makes from a line and an id. Two looks at one row give equal objects, not the same one."""

    def __init__(
        self, load: Callable[[bytes, str], T], lines: PackedLines, ids: PackedLines, span: range | None = None
    ) -> None:
        self._load, self._lines, self._ids = load, lines, ids
        self._span = range(len(lines)) if span is None else span

    def __len__(self) -> int:
        return len(self._span)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> PackedRows[T]: ...
    def __getitem__(self, at: int | slice) -> T | PackedRows[T]:
        """The row at an index; a slice is a view, of which no row is made."""
        if isinstance(at, slice):
            return PackedRows(self._load, self._lines, self._ids, self._span[at])
        place = self._span[at]
        return self._load(self._lines[place], self._ids[place].decode())

    def __iter__(self) -> Iterator[T]:
        if self._span.step != 1:
            yield from (self[at] for at in range(len(self)))
            return
        start, stop = self._span.start, self._span.stop
        for line, name in zip(self._lines.lines(start, stop), self._ids.lines(start, stop), strict=True):
            yield self._load(line, name.decode())

    def ids(self) -> Iterator[str]:
        """The rows' ids; no row is made."""
        if self._span.step == 1:
            return (name.decode() for name in self._ids.lines(self._span.start, self._span.stop))
        return (self._ids[at].decode() for at in self._span)

    def as_text(self) -> tuple[list[bytes], list[bytes]]:
        """The rows as they are kept, to be unpacked elsewhere: the line of each, and its id. Threads may share it."""
        if not self._span:
            return [], []
        first, stop = min(self._span), max(self._span) + 1
        lines, ids = list(self._lines.lines(first, stop)), list(self._ids.lines(first, stop))
        return [lines[at - first] for at in self._span], [ids[at - first] for at in self._span]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} rows, packed>"
