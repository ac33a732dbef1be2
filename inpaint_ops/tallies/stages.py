"""Stage seconds as a value that merges: exact percentiles over rows, and sums that count a batch once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inpaint_ops.records import BATCH_STAGES, STAGES, Record, StageStats
from inpaint_ops.tallies.batches import BatchKey, SeenBatch, see, stage_values

Seconds = npt.NDArray[np.float64]


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
        batches: dict[BatchKey, SeenBatch] = {}
        for record in records:
            see(batches, record)
            for stage, seconds in zip(STAGES, stage_values(record.timings), strict=True):
                if seconds is not None:
                    rows[stage].append(seconds)
        return cls(
            {stage: np.asarray(values) for stage, values in rows.items() if values},
            {key: batch.stages for key, batch in batches.items() if batch.stages},
        )

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
        return {stage: stats_of(values) for stage, values in self.rows.items()}


def stats_of(values: Seconds) -> StageStats:
    """The distribution of some rows' seconds; percentiles by linear interpolation."""
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
    return StageStats(
        count=len(values), mean=float(values.mean()), p50=p50, p90=p90, p95=p95, p99=p99, max=float(values.max())
    )


def stage_seconds(records: Iterable[Record]) -> dict[str, float]:
    """Seconds of work by stage; a batch counts once, not once per row."""
    return StageTimes.of(records).seconds()
