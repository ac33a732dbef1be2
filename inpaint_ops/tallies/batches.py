"""The batches of some rows, put together from the rows' records: a batch counts once, however many rows tell of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

from inpaint_ops.records import BATCH_STAGES, STAGES, Record, WorkerInfo

WorkerKey = tuple[str, int, datetime | None]
"""Host, pid and start of a worker process: pids are reused, so the start time is part of the key."""

BatchKey = tuple[WorkerKey, str]
"""A batch of a worker: batch ids need to be unique within their worker only."""

NO_WORKER: WorkerKey = ("", 0, None)
"""The key of rows that ended before any worker had them."""

stage_values = attrgetter(*STAGES)
"""Of a record's timings the seconds of each stage, in their order; None where the row did not get that far."""


def worker_key(worker: WorkerInfo | None) -> WorkerKey:
    """The key of this worker process, unique in the run."""
    return NO_WORKER if worker is None else (worker.host, worker.pid, worker.started_at)


def batch_key(record: Record) -> BatchKey | None:
    """The key of the row's batch, unique in the run; None for a row that reached none."""
    return None if record.batch is None else (worker_key(record.worker), record.batch.id)


def seconds_of(record: Record, stage: str) -> float:
    """The row's seconds in `stage`; 0 where it did not get that far."""
    value: float | None = getattr(record.timings, stage)
    return value or 0.0


def finishing_start(record: Record) -> float:
    """When composite, encode and upload began at the latest, as a POSIX time."""
    spent = record.timings
    return record.finished_at.timestamp() - ((spent.composite or 0.0) + (spent.encode or 0.0) + (spent.upload or 0.0))


class Taken(NamedTuple):
    """What the first row of a batch that tells of a stage says: its seconds, and what they were for."""

    seconds: float
    work: int
    """Rows of the batch, times the steps for denoising: what a longer time may be for."""
    row: int


@dataclass(slots=True)
class SeenBatch:
    """One batch, as its rows' records tell of it."""

    worker: WorkerKey
    id: str
    size: int
    rows: list[int] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds: all rows of a batch carry its full duration, and the longest is taken should they differ."""
    taken: dict[str, Taken] = field(default_factory=dict)
    end: float = float("inf")
    """When the first of its rows was composited, at the latest, as a POSIX time."""

    def extend(self, later: SeenBatch) -> None:
        """Add what later rows told of the same batch."""
        self.rows += later.rows
        for stage, seconds in later.stages.items():
            self.stages[stage] = max(seconds, self.stages.get(stage, 0.0))
        self.taken = later.taken | self.taken
        self.end = min(self.end, later.end)


def see(batches: dict[BatchKey, SeenBatch], record: Record) -> None:
    """Add what the record tells of its batch, if it has one."""
    key = batch_key(record)
    if key is None or record.batch is None:
        return
    batch = batches.get(key)
    if batch is None:
        batch = batches[key] = SeenBatch(key[0], key[1], record.batch.size)
    batch.rows.append(record.row)
    batch.end = min(batch.end, finishing_start(record))
    for stage, seconds in zip(STAGES, stage_values(record.timings), strict=True):
        if seconds is None or stage not in BATCH_STAGES:
            continue
        batch.stages[stage] = max(seconds, batch.stages.get(stage, 0.0))
        if stage not in batch.taken:
            steps = (record.steps or 1) if stage == "denoise" else 1
            batch.taken[stage] = Taken(seconds, record.batch.size * steps, record.row)


def add_batches(batches: dict[BatchKey, SeenBatch], later: Mapping[BatchKey, SeenBatch]) -> None:
    """Add what later rows told of their batches."""
    for key, batch in later.items():
        if key in batches:
            batches[key].extend(batch)
        else:
            batches[key] = batch


def batches_of(records: Iterable[Record]) -> dict[BatchKey, SeenBatch]:
    """The batches of these records that any stage was measured of."""
    found: dict[BatchKey, SeenBatch] = {}
    for record in records:
        see(found, record)
    return {key: batch for key, batch in found.items() if batch.stages}
