"""The faults that an attempt has recovered from, by kind."""

from __future__ import annotations

import threading

from inpaint_ops.errors import one_line
from inpaint_ops.records import Fault, FaultKind


class FaultTally:
    """The faults that an attempt has recovered from so far. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[FaultKind, Fault] = {}

    def add(self, kind: FaultKind, what: str = "") -> None:
        """Count one more; `what` describes it."""
        with self._lock:
            count = self._faults[kind].count if kind in self._faults else 0
            self._faults[kind] = Fault(kind=kind, count=count + 1, what=one_line(what)[:500])

    def all(self) -> tuple[Fault, ...]:
        """Each kind that occurred, once."""
        with self._lock:
            return tuple(self._faults.values())
