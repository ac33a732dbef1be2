"""What people say of a run's results, by the rows of a table."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from inpaint_ops.browse.sources import Throttle
from inpaint_ops.browse.table import RecordTable, RowMarks
from inpaint_ops.records import Record
from inpaint_ops.reviewing import VERDICTS, Decision, Mark, Opinion, Reviews, Tally, decide, decisions, tally

REFRESH_SECONDS = 2.0
"""The shortest time between two looks at the reviews of a run, however many people view it."""


class RunReviews:
    """The reviews of one run, as its pages show them. Safe to share between threads."""

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews
        self._throttle = Throttle(REFRESH_SECONDS)
        self._lock = threading.Lock()
        self._seen: tuple[int, RecordTable] | None = None
        self._marks = RowMarks.none(0)
        self._tally = tally(0, {})

    def refresh(self) -> None:
        """Read what has changed. Raises StorageError."""
        with self._lock:
            due = self._throttle.due()
        if due:
            self._reviews.refresh()

    def append(self, reviewer: str, marks: Sequence[Mark]) -> None:
        """Add these marks to the reviewer's; see `Reviews.append`."""
        self._reviews.append(reviewer, marks)

    def decision(self, record: Record) -> Decision:
        """What counts for a row."""
        return decide(self._reviews.opinions, record.id, record.attempt)

    def marks(self, table: RecordTable) -> RowMarks:
        """What counts for each row of the table."""
        return self._counted(table)[0]

    def tally(self, table: RecordTable) -> Tally:
        """How far the review of the table's rows is."""
        return self._counted(table)[1]

    def _counted(self, table: RecordTable) -> tuple[RowMarks, Tally]:
        version = self._reviews.version
        with self._lock:
            if self._seen is None or self._seen[0] != version or self._seen[1] is not table:
                self._marks, self._tally = _of_rows(table, self._reviews.opinions)
                self._seen = version, table
            return self._marks, self._tally


def _of_rows(table: RecordTable, given: Mapping[str, Mapping[str, Opinion]]) -> tuple[RowMarks, Tally]:
    positions = {row: at for at, row in enumerate(table.ids) if table.done[at]}
    attempts = {row: table.attempts[at] for row, at in positions.items()}
    found: dict[str, Decision] = dict(decisions(given, attempts))
    marks = RowMarks.none(len(table))
    for row, decision in found.items():
        at = positions[row]
        marks.verdict[at] = 0 if decision.verdict is None else 1 + VERDICTS.index(decision.verdict)
        marks.rating[at] = decision.rating or 0
        marks.disputed[at] = decision.is_disputed
        marks.outdated[at] = bool(decision.outdated) and decision.verdict is None
    return marks, tally(len(positions), found)
