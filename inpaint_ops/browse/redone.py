"""A run's child runs, and the rows of them that do one of its rows again: how far they are, and which one is final."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from inpaint_ops.browse.run import RunView
from inpaint_ops.browse.state import RunPhase
from inpaint_ops.browse.views import RunViews
from inpaint_ops.errors import ConfigError, DamagedObjectError, ObjectTooLargeError
from inpaint_ops.records import Record, now, of_variant
from inpaint_ops.reviewing import Child, Decision, child_runs
from inpaint_ops.reviewing.finals import MAX_DEPTH
from inpaint_ops.reviewing.lineage import BEGINS_WITHIN

MAX_SHOWN = 24
"""Rows that do a row again, at most, which are shown: the newest."""

ChildPhase = RunPhase | Literal["asked", "gone"]
"""`asked`: its manifest was written a short while ago, and nothing is planned yet. `gone`: there is no such run: it was
never triggered, or it was removed."""


@dataclass(frozen=True, slots=True)
class ChildState:
    """How far a child run is; `view` is None while nothing is planned. `problem` says why none was, or is left."""

    child: Child
    state: ChildPhase
    problem: str = ""
    view: RunView | None = None


@dataclass(frozen=True, slots=True)
class RedoneRow:
    """One row of a child run that does a row again, or of a child of that run. `record` is None while it has none."""

    of: ChildState
    id: str
    parent: tuple[str, str]
    """The run and the id of the row that it does again: another child run's, where `depth` is above 1."""
    depth: int
    record: Record | None = None
    decision: Decision | None = None

    @property
    def accepted(self) -> tuple[datetime, str] | None:
        """When it was accepted, and its run: of several images the last accepted is final. None where it is not."""
        if self.decision is None or self.record is None or self.decision.verdict != "accept":
            return None
        opinion = self.decision.of_reviewer
        if opinion.decided_at is None or of_variant(self.record, opinion.variant, "review") is None:
            return None
        return opinion.decided_at, self.of.child.run


def child_states(views: RunViews, run: str, *, newest: int) -> list[ChildState]:
    """The newest child runs of a run, the newest first, and how far each is. Raises StorageError."""
    children = child_runs(views.workspace, views.workspace.layout(run))
    return [_state(views, child) for child in reversed(children[-newest:])]


def _state(views: RunViews, child: Child) -> ChildState:
    try:
        view = views.run(child.run)
        if view is not None:
            return ChildState(child, view.state.state, view=view)
        refused = views.refusal(child.run)
    except (ConfigError, DamagedObjectError, ObjectTooLargeError) as error:
        return ChildState(child, "unreadable", str(error))
    if refused is not None:
        return ChildState(child, "refused", refused.message)
    if now() - child.prepared < BEGINS_WITHIN:
        return ChildState(child, "asked")
    return ChildState(child, "gone", "it was never triggered, or it was removed")


def redone_rows(views: RunViews, run: str, row: str) -> tuple[list[RedoneRow], int]:
    """The rows of child runs that do this row again, the newest first, each followed by those that do it again in turn.

    The second value counts those that are not shown: beyond `MAX_SHOWN`. Raises StorageError.
    """
    found: list[RedoneRow] = []
    more = 0
    for one in _below(views, run, row, 1, {run}):
        if len(found) < MAX_SHOWN:
            found.append(_filled(one))
        else:
            more += 1
    return found, more


def _below(views: RunViews, run: str, row: str, depth: int, above: set[str]) -> Iterator[RedoneRow]:
    if depth > MAX_DEPTH:
        return
    for child in reversed(child_runs(views.workspace, views.workspace.layout(run))):
        if child.run in above:  # a circle, by whoever else writes to the store
            continue
        again = views.lineage.rows(run, child).get(row, ())
        if not again:
            continue
        state = _state(views, child)
        for one in again:
            yield RedoneRow(state, one.id, (run, row), depth)
            yield from _below(views, child.run, one.id, depth + 1, above | {child.run})


def _filled(row: RedoneRow) -> RedoneRow:
    """The same with its record and what reviewers say of it, where it has one yet."""
    view = row.of.view
    if view is None:
        return row
    view.reviews.refresh()
    records = view.records()
    try:
        record = records.record(records.table.ids.index(row.id))
    except (ValueError, DamagedObjectError):
        return row
    return RedoneRow(row.of, row.id, row.parent, row.depth, record, view.reviews.decision(record))


def final_of(own: Decision, run: str, rows: list[RedoneRow]) -> RedoneRow | None:
    """The row whose image is final in place of the run's own; None where the run's own is, or none was accepted."""
    accepted = [(at, row) for row in rows if (at := row.accepted) is not None]
    if not accepted:
        return None
    at, row = max(accepted, key=lambda one: one[0])
    decided_at = own.of_reviewer.decided_at if own.verdict == "accept" else None
    return None if decided_at is not None and (decided_at, run) > at else row
