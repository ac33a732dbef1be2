"""Stage seconds as a value that merges: exact percentiles over rows, and sums that count a batch once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from inpaint_ops.records import BATCH_STAGES, STAGES, Record, StageStats, WorkerInfo

WorkerKey = tuple[str, int, datetime | None]
"""Host, pid and start of a worker process: pids are reused, so the start time is part of the key."""

BatchKey = tuple[WorkerKey, str]
"""A batch of a worker: batch ids need to be unique within their worker only."""

NO_WORKER: WorkerKey = ("", 0, None)
"""The key of rows that ended before any worker had them."""

Seconds = npt.NDArray[np.float64]


def worker_key(worker: WorkerInfo | None) -> WorkerKey:
    """The key of this worker process, unique in the run."""
    return NO_WORKER if worker is None else (worker.host, worker.pid, worker.started_at)


def batch_key(record: Record) -> BatchKey | None:
    """The key of the row's batch, unique in the run; None for a row that reached none."""
    return None if record.batch is None else (worker_key(record.worker), record.batch.id)


@dataclass(frozen=True)
class StageTimes:
    """The seconds of any number of rows by stage. `a + b` is the same as one made of both's rows, in any order.

    `rows` holds a value for each row that passed the stage. `batches` holds each batch's stages once: all rows of a
    batch carry its full duration, and the longest is taken should they differ.
    """

    rows: Mapping[str, Seconds] = field(default_factory=dict)
    batches: Mapping[BatchKey, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> StageTimes:
        """Take the timings of `records`, whatever their status."""
        rows: dict[str, list[float]] = {stage: [] for stage in STAGES}
        batches: dict[BatchKey, dict[str, float]] = {}
        for record in records:
            key = batch_key(record)
            for stage in STAGES:
                seconds: float | None = getattr(record.timings, stage)
                if seconds is None:
                    continue
                rows[stage].append(seconds)
                if stage in BATCH_STAGES and key is not None:
                    stages = batches.setdefault(key, {})
                    stages[stage] = max(seconds, stages.get(stage, 0.0))
        return cls({stage: np.asarray(values) for stage, values in rows.items() if values}, batches)

    def __add__(self, other: StageTimes) -> StageTimes:
        rows = {
            stage: np.concatenate([part.rows[stage] for part in (self, other) if stage in part.rows])
            for stage in STAGES
            if stage in self.rows or stage in other.rows
        }
        batches = {key: dict(stages) for key, stages in self.batches.items()}
        for key, stages in other.batches.items():
            mine = batches.setdefault(key, {})
            for stage, seconds in stages.items():
                mine[stage] = max(seconds, mine.get(stage, 0.0))
        return StageTimes(rows, batches)

    def seconds(self) -> dict[str, float]:
        """Seconds of work by stage, in the order of the stages; a batch counts once, not once per row."""
        totals = {}
        for stage in self.rows:
            if stage in BATCH_STAGES:
                totals[stage] = float(sum(stages.get(stage, 0.0) for stages in self.batches.values()))
            else:
                totals[stage] = float(self.rows[stage].sum())
        return totals

    def stats(self) -> dict[str, StageStats]:
        """The distribution of each stage over the rows that passed it; percentiles by linear interpolation."""
        return {stage: _stats(values) for stage, values in self.rows.items()}


def _stats(values: Seconds) -> StageStats:
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
    return StageStats(
        count=len(values), mean=float(values.mean()), p50=p50, p90=p90, p95=p95, p99=p99, max=float(values.max())
    )


def stage_seconds(records: Iterable[Record]) -> dict[str, float]:
    """Seconds of work by stage; a batch counts once, not once per row."""
    return StageTimes.of(records).seconds()
