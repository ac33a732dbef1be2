"""The rows of a run as a review needs them: what each was painted from, and the result that it has now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from inpaint_ops.errors import ConfigError
from inpaint_ops.planning import Plan, PlannedRow
from inpaint_ops.records import Record
from inpaint_ops.run_files.retried import read_retries
from inpaint_ops.run_files.rows import CountedRows
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.stored import Leftovers


@dataclass(frozen=True, slots=True)
class ReviewedRow:
    """A row with a record. `row` is None for a rejected one that was never tried again."""

    row: PlannedRow | None
    record: Record


def plan_of(workspace: Workspace, run: str) -> Plan:
    """The run's plan. Raises ConfigError where there is no such run, StorageError."""
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(
            f"there is no run {run!r} in {workspace.store}: give the name of a run, or its store by --out"
        )
    return plan


def reviewed_rows(workspace: Workspace, plan: Plan, left: Leftovers) -> Iterator[ReviewedRow]:
    """The run's rows that have a record, each with its newest, in the order of the manifest. Raises StorageError."""
    layout, storage, settings = workspace.layout(plan.run), workspace.storage, workspace.settings
    retries, _ = read_retries(storage, layout, settings, left)
    for row in CountedRows(storage, layout, plan, retries, settings, left):
        if row.records:
            yield ReviewedRow(row.row, row.records[-1][1])
