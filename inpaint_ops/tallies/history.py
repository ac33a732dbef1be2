"""What a run's retries have done so far, for its report: counts, earlier attempts, and the time between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from inpaint_ops.layout import retry_of
from inpaint_ops.planning import RetryPlan
from inpaint_ops.records import EarlierAttempt, Record, RetryCounts, WorkerReport


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


@dataclass(slots=True)
class History:
    """What each retry of a run, and the run itself, has done: from all records that count, added one by one."""

    _ended: Counter[tuple[int, str]] = field(default_factory=Counter)
    _by_shard: Counter[str] = field(default_factory=Counter)
    _spans: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)

    def add(self, record: Record, shard: str) -> None:
        """One record, of that shard; the earlier ones of a row too."""
        self._ended[record.retry, record.status] += 1
        self._by_shard[shard] += 1
        self._widen(self._spans, record.retry, record.worker.started_at if record.worker else record.started_at)
        self._widen(self._spans, record.retry, record.finished_at)

    def extend(self, other: History) -> None:
        """Add the records of another one."""
        self._ended.update(other._ended)
        self._by_shard.update(other._by_shard)
        for retry, (first, last) in other._spans.items():
            self._widen(self._spans, retry, first)
            self._widen(self._spans, retry, last)

    def counts(self, retries: Iterable[RetryPlan]) -> tuple[RetryCounts, ...]:
        """How the rows of each retry ended in it."""
        return tuple(
            RetryCounts(
                number=retry.number,
                asked=retry.asked,
                rows=retry.rows,
                done=self._ended[retry.number, "done"],
                failed=self._ended[retry.number, "failed"],
                created_at=retry.created_at,
            )
            for retry in retries
        )

    def unfinished(self, retries: Iterable[RetryPlan]) -> dict[str, int]:
        """The shards of retries that have rows without a new record, and how many."""
        missing = {shard.name: shard.rows - self._by_shard[shard.name] for retry in retries for shard in retry.shards}
        return {name: count for name, count in missing.items() if count > 0}

    def idle_seconds(self, workers: Iterable[WorkerReport]) -> float:
        """Seconds between the end of one retry, or of the run itself, and the first worker of the next."""
        spans = dict(self._spans)
        for report in workers:
            self._widen(spans, retry_of(report.shard), report.worker.started_at)
        idle, until = 0.0, None
        for number in sorted(spans):
            first, last = spans[number]
            if until is not None:
                idle += max(0.0, (first - until).total_seconds())
            until = last if until is None else max(until, last)
        return idle

    @staticmethod
    def _widen(spans: dict[int, tuple[datetime, datetime]], retry: int, moment: datetime) -> None:
        first, last = spans.get(retry, (None, None))
        if first is None or last is None:
            spans[retry] = (moment, moment)
        elif moment < first:
            spans[retry] = (moment, last)
        elif moment > last:
            spans[retry] = (first, moment)
