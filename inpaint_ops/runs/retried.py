"""What a run's retries have done so far, for its report: counts, earlier attempts, and the time between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from inpaint_ops.layout import retry_of
from inpaint_ops.planning import Plan, PlannedRow, RetryPlan
from inpaint_ops.records import EarlierAttempt, Record, RetryCounts, WorkerReport
from inpaint_ops.run_files.retried import read_retries, read_retry_rows
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.storage.stored import Leftovers


def read_retried(
    workspace: Workspace, plan: Plan, rows: Mapping[int, PlannedRow], left: Leftovers
) -> tuple[list[RetryPlan], dict[str, Sequence[PlannedRow]]]:
    """The run's retries, and the rows of their shards by the shard's name. `rows` are the run's own by line.

    Raises StorageError.
    """
    layout, storage = workspace.layout(plan.run), workspace.storage
    retries, _ = read_retries(storage, layout, workspace.settings, left)
    ids: dict[int, str | None] = {number: row.id for number, row in rows.items()}
    ids |= dict.fromkeys(plan.rejected_rows)
    return retries, read_retry_rows(storage, layout, retries, ids, workspace.settings, left)


def with_earlier(record: Record, earlier: Sequence[Record]) -> Record:
    """The record with the row's earlier ones listed in it, whatever it holds of them itself."""
    listed = tuple(
        EarlierAttempt(
            retry=one.retry,
            attempt=one.attempt,
            status=one.status,
            error=one.error,
            output=one.output,
            finished_at=one.finished_at,
        )
        for one in earlier
    )
    return record if record.earlier == listed else record.model_copy(update={"earlier": listed})


def retry_counts(retries: Iterable[RetryPlan], records: Iterable[Record]) -> tuple[RetryCounts, ...]:
    """How the rows of each retry ended in it. `records` are all that count, the earlier ones too."""
    ended = Counter((record.retry, record.status) for record in records)
    return tuple(
        RetryCounts(
            number=retry.number,
            asked=retry.asked,
            rows=retry.rows,
            done=ended[retry.number, "done"],
            failed=ended[retry.number, "failed"],
            created_at=retry.created_at,
        )
        for retry in retries
    )


def unfinished_shards(retries: Iterable[RetryPlan], records: Iterable[Record]) -> dict[str, int]:
    """The shards of retries that have rows without a new record, and how many; a row is in one shard of a retry."""
    ended = {(record.retry, record.row) for record in records}
    counts: dict[str, int] = {}
    for retry in retries:
        numbers = sorted(row for number, row in ended if number == retry.number)
        for shard in retry.shards:
            missing = shard.rows - sum(shard.first_row <= row <= shard.last_row for row in numbers)
            if missing > 0:
                counts[shard.name] = missing
    return counts


def idle_seconds(records: Iterable[Record], workers: Iterable[WorkerReport]) -> float:
    """Seconds between the end of one retry, or of the run itself, and the first worker of the next."""
    spans: dict[int, list[datetime]] = {}
    for record in records:
        began = record.worker.started_at if record.worker else record.started_at
        spans.setdefault(record.retry, []).extend((began, record.finished_at))
    for report in workers:
        spans.setdefault(retry_of(report.shard), []).append(report.worker.started_at)
    idle, until = 0.0, None
    for number in sorted(spans):
        first, last = min(spans[number]), max(spans[number])
        if until is not None:
            idle += max(0.0, (first - until).total_seconds())
        until = last if until is None else max(until, last)
    return idle
