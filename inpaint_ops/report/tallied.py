"""What a tally keeps of workers, failures and batches."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from inpaint_ops.records import ErrorInfo, Record

Numbers = npt.NDArray[Any]

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
