"""What is logged while a row is worked on, kept for its record: the last few lines, and most rows have none."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from inpaint_ops.errors import one_line
from inpaint_ops.records import LOG_LINE_CHARS, LOG_LINES

_FRAMES = 6
"""Of a traceback, the innermost."""


class RowLines(logging.Handler):
    """Keeps warnings and errors for the rows that the thread which logs them is at work on. Threads share it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._here = threading.local()
        self._kept: dict[int, deque[str]] = {}

    @contextmanager
    def about(self, *rows: int) -> Iterator[None]:
        """What this thread logs in here is said of these rows, and of no others."""
        before = getattr(self._here, "rows", ())
        self._here.rows = rows
        try:
            yield
        finally:
            self._here.rows = before

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler, which calls this under its lock."""
        rows = getattr(self._here, "rows", ())
        if not rows:
            return
        try:
            lines = _lines_of(record)
        except Exception:
            self.handleError(record)
            return
        for row in rows:
            self._kept.setdefault(row, deque(maxlen=LOG_LINES)).extend(lines)

    def take(self, row: int) -> tuple[str, ...]:
        """The row's lines, the oldest first; it has none afterwards."""
        self.acquire()
        try:
            return tuple(self._kept.pop(row, ()))
        finally:
            self.release()


def _lines_of(record: logging.LogRecord) -> list[str]:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
    lines = [f"{at} {record.levelname} {record.name}: {record.getMessage()}"]
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        lines.append(f"{type(error).__name__}: {error}")
        frames = traceback.extract_tb(error.__traceback__)
        lines += [
            f"  in {frame.name}, {'/'.join(PurePath(frame.filename).parts[-3:])}:{frame.lineno}"
            for frame in frames[-_FRAMES:]
        ]
    return [one_line(line[:LOG_LINE_CHARS])[:LOG_LINE_CHARS] for line in lines]
