"""What a tally keeps of stages, workers, failures and batches."""

from __future__ import annotations

import io
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from inpaint_ops.records import ErrorInfo, Record

Numbers = npt.NDArray[Any]

NO_NUMBER = float("nan")
_ROWS_IN_MEMORY = 2**16

FAILURES_PER_GROUP = 20
"""Failed rows of one error type that are kept whole, the first by line."""


@dataclass(slots=True)
class SeenWorker:
    """One worker process, as the records of its rows tell of it."""

    last: datetime
    batch_seconds: float = 0.0


@dataclass(slots=True)
class FailedRows:
    """The rows that ended for one type of error: how many, the stages at which they did, and the first of them."""

    error: ErrorInfo | None
    count: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    first: list[Record] = field(default_factory=list)

    def extend(self, later: FailedRows) -> None:
        """Add later rows of the same type."""
        self.count += later.count
        self.stages.update(later.stages)
        self.first += later.first[: max(0, FAILURES_PER_GROUP - len(self.first))]


@dataclass(slots=True)
class TakenTimes:
    """Seconds of rows or batches, what they were for, and the row to name: arrays of one length."""

    seconds: Numbers
    work: Numbers
    rows: Numbers


class BatchTimes:
    """The times of batches, added one by one."""

    def __init__(self) -> None:
        self.seconds, self.work, self.rows = array("d"), array("l"), array("i")

    def values(self) -> TakenTimes:
        """Those so far."""
        return TakenTimes(np.asarray(self.seconds), np.asarray(self.work), np.asarray(self.rows))


class Columns:
    """Numbers of each row by name, 8 bytes each: those of the last rows in memory, all others in temporary files."""

    def __init__(self, names: Iterable[str]) -> None:
        self._last = {name: array("d") for name in names}
        self._files: dict[str, IO[bytes]] = {}
        self._rows = 0

    def append(self, values: Iterable[float | None]) -> None:
        """Add a row: one number per name. None is kept as NaN."""
        for column, value in zip(self._last.values(), values, strict=True):
            column.append(NO_NUMBER if value is None else value)
        self._rows += 1
        if self._rows == _ROWS_IN_MEMORY:
            self._put_away()

    def extend(self, later: Columns) -> None:
        """Add the rows of another one."""
        for name, column in self._last.items():
            column.frombytes(later.values(name).tobytes())
        self._rows = len(next(iter(self._last.values()), ()))
        if self._rows >= _ROWS_IN_MEMORY:
            self._put_away()

    def values(self, name: str) -> npt.NDArray[np.float64]:
        """A column, of all rows."""
        last = np.asarray(self._last[name])
        if name not in self._files:
            return last
        self._files[name].seek(0)
        return np.concatenate([np.frombuffer(self._files[name].read()), last])

    def _put_away(self) -> None:
        for name, column in self._last.items():
            if name not in self._files:
                self._files[name] = tempfile.TemporaryFile(prefix="inpaint-ops-column-")  # noqa: SIM115  # closed with it
            self._files[name].seek(0, io.SEEK_END)
            self._files[name].write(column.tobytes())
            del column[:]
        self._rows = 0
