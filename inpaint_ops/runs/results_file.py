"""`results.jsonl` while a report is made."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from inpaint_ops.records import Record
from inpaint_ops.tallies.tables import result_line


class ResultsFile:
    """`results.jsonl` on this machine's disk, and where each row's line begins: 12 bytes per row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._out = path.open("wb")
        self._rows, self._starts = array("i"), array("q")
        self._end = 0

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._out.close()

    def append(self, record: Record) -> None:
        """The next row, in the order of the manifest."""
        self.append_line(record.row, result_line(record))

    def append_line(self, row: int, line: bytes) -> None:
        """The next row, by its line."""
        self._rows.append(row)
        self._starts.append(self._end)
        self._end += self._out.write(line)

    def append_lines(self, rows: Iterable[int], lengths: Iterable[int], lines: bytes) -> None:
        """The next rows, by their lines, each with its length."""
        self._rows.extend(rows)
        for length in lengths:
            self._starts.append(self._end)
            self._end += length
        self._out.write(lines)

    def find(self, row: int) -> Record:
        """The record of a row, read again, once the file is closed; it must be there."""
        at = bisect_left(self._rows, row)
        with self.path.open("rb") as lines:
            lines.seek(self._starts[at])
            return Record.model_validate_json(lines.readline())
