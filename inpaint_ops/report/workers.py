"""What the worker processes cost: their lifetimes, their painting and their cold starts, as values that merge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from inpaint_ops.records import ColdStart, Record, WorkerReport
from inpaint_ops.report.stages import NO_WORKER, StageTimes, WorkerKey, worker_key


@dataclass(frozen=True, slots=True)
class WorkerTime:
    """Seconds of one or more workers; `a + b` is both together."""

    workers: int = 0
    lifetime: float = 0.0
    busy: float = 0.0
    cold_start: ColdStart = field(default_factory=ColdStart)

    def __add__(self, other: WorkerTime) -> WorkerTime:
        return WorkerTime(
            workers=self.workers + other.workers,
            lifetime=self.lifetime + other.lifetime,
            busy=self.busy + other.busy,
            cold_start=add_cold_starts((self.cold_start, other.cold_start)),
        )

    @property
    def painting(self) -> float:
        """Busy seconds without the excess of the first batch, which is a part of the cold start."""
        return max(0.0, self.busy - self.cold_start.first_call)

    @property
    def waiting(self) -> float:
        """The rest of the lifetime: waiting for rows or a device, decoding, encoding, and ending."""
        return max(0.0, self.lifetime - self.cold_start.total - self.painting)


def add_cold_starts(parts: Iterable[ColdStart]) -> ColdStart:
    """The sum, part by part."""
    starts = list(parts)
    return ColdStart(**{name: sum(getattr(start, name) for start in starts) for name in ColdStart.model_fields})


def worker_times(records: Iterable[Record], workers: Sequence[WorkerReport]) -> dict[WorkerKey, WorkerTime]:
    """Each worker's seconds.

    A worker that was killed before it could sum up counts with the batches that its records name. One that left no
    report at all lived, as far as is known, until its last record.
    """
    rows: dict[WorkerKey, list[Record]] = defaultdict(list)
    for record in records:
        if record.worker is not None:
            rows[worker_key(record.worker)].append(record)
    times: dict[WorkerKey, WorkerTime] = {}
    for report in workers:
        key = worker_key(report.worker)
        lifetime = (report.finished_at - report.worker.started_at).total_seconds()
        busy = report.busy or _batch_seconds(rows.get(key, ()))
        times[key] = WorkerTime(1, max(0.0, lifetime), busy, report.cold_start)
    for key, members in rows.items():
        started = key[2]
        if key not in times and started is not None:
            lifetime = (max(record.finished_at for record in members) - started).total_seconds()
            times[key] = WorkerTime(1, max(0.0, lifetime), _batch_seconds(members))
    return times


def unreported(records: Iterable[Record], workers: Sequence[WorkerReport]) -> list[WorkerKey]:
    """Workers that records name and that left no report."""
    named = {worker_key(record.worker) for record in records} - {NO_WORKER}
    return sorted(named - {worker_key(report.worker) for report in workers}, key=str)


def _batch_seconds(records: Iterable[Record]) -> float:
    return sum(sum(stages.values()) for stages in StageTimes.of(records).batches.values())
