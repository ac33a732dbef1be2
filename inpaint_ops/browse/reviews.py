"""What people say of a run's results, by the rows of a table."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

from inpaint_ops.browse.sources import Throttle
from inpaint_ops.browse.table import RecordTable, RowMarks
from inpaint_ops.records import Record
from inpaint_ops.reviewing import NOTHING, VERDICTS, Decision, Mark, Opinion, Reviews, Tally, decide, decisions, tally

REFRESH_SECONDS = 2.0
"""The shortest time between two looks at the reviews of a run, however many people view it."""


class RunReviews:
    """The reviews of one run, as its pages show them. Safe to share between threads."""

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews
        self._throttle = Throttle(REFRESH_SECONDS)
        self._lock = threading.Lock()
        self._counted_of = _Counted(RecordTable())

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
        return self.decision_of(record.id, record.attempt)

    def decision_of(self, row: str, attempt: str) -> Decision:
        """What counts for the row of this id, whose image `attempt` made."""
        return decide(self._reviews.opinions, row, attempt)

    def marks(self, table: RecordTable) -> RowMarks:
        """What counts for each row of the table."""
        return self._counted(table).marks

    def tally(self, table: RecordTable) -> Tally:
        """How far the review of the table's rows is."""
        return self._counted(table).tally

    def _counted(self, table: RecordTable) -> _Counted:
        with self._lock:
            if self._counted_of.table is not table:
                self._counted_of = _Counted(table)
            self._counted_of.take(self._reviews.version, self._reviews.opinions)
            return self._counted_of


class _Counted:
    """What counts for the rows of one table, brought up to date by what has changed."""

    def __init__(self, table: RecordTable) -> None:
        self.table = table
        self.marks = RowMarks.none(len(table))
        self._positions = {row: at for at, row in enumerate(table.ids) if table.done[at]}
        self.tally = tally(len(self._positions), {})
        self._version = -1
        self._given: Mapping[str, Mapping[str, Opinion]] = {}
        self._found: dict[str, Decision] = {}

    def take(self, version: int, given: Mapping[str, Mapping[str, Opinion]]) -> None:
        """Look at the rows of which somebody says something else than before."""
        if version == self._version:
            return
        changed = _changed(self._given, given)
        attempts = {row: self.table.attempts[at] for row in changed if (at := self._positions.get(row)) is not None}
        found = dict(decisions({name: _only(of, changed) for name, of in given.items()}, attempts))
        marks = RowMarks(*(getattr(self.marks, name).copy() for name in RowMarks.__slots__))
        for row in attempts:
            at, decision = self._positions[row], found.get(row, NOTHING)
            marks.verdict[at] = 0 if decision.verdict is None else 1 + VERDICTS.index(decision.verdict)
            marks.rating[at] = decision.rating or 0
            marks.disputed[at] = decision.is_disputed
            marks.outdated[at] = bool(decision.outdated) and decision.verdict is None
            self._found.pop(row, None)
        self._found |= found
        self.marks, self.tally = marks, tally(len(self._positions), self._found)
        self._version, self._given = version, dict(given)


def _only(opinions: Mapping[str, Opinion], rows: Collection[str]) -> Mapping[str, Opinion]:
    return {row: opinions[row] for row in rows if row in opinions} if len(rows) < len(opinions) else opinions


def _changed(before: Mapping[str, Mapping[str, Opinion]], now: Mapping[str, Mapping[str, Opinion]]) -> set[str]:
    """The rows of which some reviewer says something else; an opinion that stays is the same object."""
    found = set[str]()
    for name in before.keys() | now.keys():
        old, new = before.get(name, {}), now.get(name, {})
        if old is not new:
            found.update(row for row, one in new.items() if old.get(row) is not one)
            found.update(row for row in old if row not in new)
    return found
