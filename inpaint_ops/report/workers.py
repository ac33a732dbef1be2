"""What the worker processes cost: their lifetimes, their painting and their cold starts, as values that merge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from inpaint_ops.records import ColdStart, Record, WorkerReport
from inpaint_ops.tallies.batches import WorkerKey, worker_key
from inpaint_ops.tallies.tallied import SeenWorker
from inpaint_ops.tallies.tally import Tally


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
    return times_of(Tally.of(records).workers, workers)


def times_of(seen: Mapping[WorkerKey, SeenWorker], workers: Sequence[WorkerReport]) -> dict[WorkerKey, WorkerTime]:
    """The same of the workers that a tally has seen."""
    times: dict[WorkerKey, WorkerTime] = {}
    for report in workers:
        key = worker_key(report.worker)
        lifetime = (report.finished_at - report.worker.started_at).total_seconds()
        busy = report.busy or (seen[key].batch_seconds if key in seen else 0.0)
        times[key] = WorkerTime(1, max(0.0, lifetime), busy, report.cold_start)
    for key, worker in seen.items():
        started = key[2]
        if key not in times and started is not None:
            lifetime = (worker.last - started).total_seconds()
            times[key] = WorkerTime(1, max(0.0, lifetime), worker.batch_seconds)
    return times


def unreported(seen: Iterable[WorkerKey], workers: Sequence[WorkerReport]) -> list[WorkerKey]:
    """Workers that records name and that left no report."""
    return sorted(set(seen) - {worker_key(report.worker) for report in workers}, key=str)
