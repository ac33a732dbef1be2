"""A run's records as columns: 50,000 rows are filtered, sorted and summed up without an object per row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from inpaint_ops.browse.columns import read_columns
from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.records import BATCH_STAGES, STAGES, ColdStart, Model, Record, RunSummary, StageStats
from inpaint_ops.report import TIMINGS_SCHEMA, timings_table
from inpaint_ops.report.facts import STAGE_LABELS, Part, lifetime_parts, parts
from inpaint_ops.report.stages import StageTimes

Positions = npt.NDArray[np.int64]

_BATCH_KEY = ("worker_host", "worker_pid", "worker_started_at", "batch_id")
_COLUMNS = (
    "row", "status", "error_type", *(f"{stage}_seconds" for stage in STAGES), *_BATCH_KEY, "started_at", "finished_at",
)  # fmt: skip
_SCHEMA = pa.schema([TIMINGS_SCHEMA.field(name) for name in _COLUMNS])
_BUCKETS = 60
_FILE_BYTES = 2**24
_BYTES_PER_ROW = 2**10
"""The most bytes of a row in `timings.parquet`: thirty numbers, and names of bounded length."""


class RowQuery(Model):
    """Which rows, and in which order."""

    status: Literal["", "done", "failed", "rejected"] = ""
    text: str = ""
    order: Literal["row", "slowest", "newest"] = "row"
    shard_rows: tuple[int, int] | None = None
    """The first and the last line of a shard; rejected lines between them are of no shard."""


@dataclass(frozen=True, slots=True)
class ThroughputPoint:
    """Images per second in the `width` seconds from `start`, a POSIX time."""

    start: float
    width: float
    images_per_second: float


@dataclass(frozen=True)
class RecordTable:
    """The columns of `timings.parquet` that pages need, of a whole run or of the rows recorded so far."""

    columns: Any = field(default_factory=lambda: _SCHEMA.empty_table())

    @classmethod
    def from_parquet(cls, data: bytes, *, max_rows: int) -> RecordTable:
        """Read `timings.parquet`, in a process of its own. Raises DamagedObjectError."""
        columns = read_columns(data, _SCHEMA, max_bytes=timings_bytes(max_rows), max_rows=max_rows)
        _check(columns)
        return cls(columns)

    @classmethod
    def of(cls, records: Iterable[Record]) -> RecordTable:
        """The columns of these records, by row."""
        return cls(timings_table(records).select(_COLUMNS).replace_schema_metadata())

    def __add__(self, other: RecordTable) -> RecordTable:
        return RecordTable(pa.concat_tables([self.columns, other.columns]))

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @cached_property
    def rows(self) -> Positions:
        """Line numbers, by position."""
        return np.asarray(self.columns["row"].to_numpy())

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Seconds of work on each row: its batch's time in full, without waiting."""
        return np.asarray(np.nansum([self._stage(stage) for stage in STAGES], axis=0))

    @cached_property
    def positions(self) -> Mapping[int, int]:
        """Line number -> position."""
        return {int(row): position for position, row in enumerate(self.rows)}

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Number of rows by status."""
        found = pc.value_counts(self.columns["status"]).to_pylist()
        return {item["values"]: item["counts"] for item in found}

    def _stage(self, stage: str) -> npt.NDArray[np.float64]:
        return np.asarray(self.columns[f"{stage}_seconds"].to_numpy(zero_copy_only=False), dtype=float)

    def _has_status(self, status: str) -> npt.NDArray[np.bool_]:
        return np.asarray(pc.equal(self.columns["status"], status).to_numpy(zero_copy_only=False), dtype=bool)

    def select(self, query: RowQuery, prompts: Callable[[], Sequence[str]]) -> Positions:
        """Positions of the rows that the query wants, in its order. `prompts` are lower-case texts, by position."""
        keep = np.ones(len(self), dtype=bool)
        if query.status:
            keep &= self._has_status(query.status)
        if query.shard_rows is not None:
            first, last = query.shard_rows
            keep &= (self.rows >= first) & (self.rows <= last) & ~self._has_status("rejected")
        if query.text.strip():
            wanted = query.text.strip().lower()
            keep &= np.fromiter((wanted in text for text in prompts()), dtype=bool, count=len(self))
        found = np.flatnonzero(keep)
        match query.order:
            case "slowest":
                keys: tuple[Any, ...] = (self.rows[found], -self.seconds[found])
            case "newest":
                finished = np.asarray(self.columns["finished_at"].to_numpy(zero_copy_only=False))
                keys = (self.rows[found], -finished[found].astype("datetime64[us]").astype(np.int64))
            case _:
                keys = (self.rows[found],)
        return found[np.lexsort(keys)]

    def stage_stats(self) -> dict[str, StageStats]:
        """The distribution of each stage over the rows that passed it."""
        by_stage = {stage: values[~np.isnan(values)] for stage in STAGES for values in (self._stage(stage),)}
        return StageTimes({stage: values for stage, values in by_stage.items() if len(values)}).stats()

    def stage_seconds(self) -> dict[str, float]:
        """Seconds of work by stage; a batch counts once, not once per row."""
        totals = {stage: float(np.nansum(self._stage(stage))) for stage in STAGES if stage not in BATCH_STAGES}
        names = [f"{stage}_seconds" for stage in STAGES if stage in BATCH_STAGES]
        batches = self.columns.filter(pc.is_valid(self.columns["batch_id"])).group_by(list(_BATCH_KEY))
        longest = batches.aggregate([(name, "max") for name in names])
        totals |= {name.removesuffix("_seconds"): pc.sum(longest[f"{name}_max"]).as_py() or 0.0 for name in names}
        return {stage: totals[stage] for stage in STAGES if totals[stage] > 0}

    def stage_parts(self) -> tuple[Part, ...]:
        """`stage_seconds` with labels and shares."""
        return parts({stage: (STAGE_LABELS[stage], seconds) for stage, seconds in self.stage_seconds().items()})

    def failure_positions(self) -> list[tuple[str, Positions]]:
        """Failed and rejected rows by error type, by line; the largest group first."""
        bad = np.flatnonzero(~self._has_status("done"))
        bad = bad[np.argsort(self.rows[bad], kind="stable")]
        types = self.columns["error_type"].take(pa.array(bad)).to_pylist()
        groups: dict[str, list[int]] = {}
        for position, kind in zip(bad, types, strict=True):
            groups.setdefault(kind or "unknown", []).append(int(position))
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        return [(kind, np.asarray(members)) for kind, members in ordered]

    def throughput(self) -> list[ThroughputPoint]:
        """Images per second over time, from the first row's start to the last row's end, in at most 60 steps."""
        done = self._has_status("done")
        if not done.any():
            return []
        ends = _posix(self.columns["finished_at"])
        start, end = float(_posix(self.columns["started_at"]).min()), float(ends.max())
        buckets = int(np.clip((end - start) // 5, 1, _BUCKETS))
        counted, edges = np.histogram(ends[done], bins=buckets, range=(start, max(end, start + 1e-3)))
        width = float(edges[1] - edges[0])
        return [
            ThroughputPoint(float(edge), width, float(n) / width) for edge, n in zip(edges[:-1], counted, strict=True)
        ]


def timings_bytes(rows: int) -> int:
    """The largest `timings.parquet` of that many rows that is read, in bytes, packed and unpacked."""
    return _FILE_BYTES + rows * _BYTES_PER_ROW


def _check(columns: Any) -> None:
    """Raise DamagedObjectError for values that no record written by this program can have."""
    for name in ("row", "status", "started_at", "finished_at"):
        if columns[name].null_count:
            raise DamagedObjectError(f"a row has no {name}")
    bounds = {"row": (1, 2**31 - 1)} | {f"{stage}_seconds": (0.0, 1e9) for stage in STAGES}
    bounds |= dict.fromkeys(("started_at", "finished_at"), (0, _LATEST))
    for name, (least, most) in bounds.items():
        values = columns[name].cast(pa.int64()) if name in ("started_at", "finished_at") else columns[name]
        fits = pc.and_(pc.greater_equal(values, least), pc.less_equal(values, most))
        if not pc.all(fits, min_count=0).as_py():  # NaN is in no range
            raise DamagedObjectError(f"{name} is out of its bounds")
    if not pc.all(pc.is_in(columns["status"], pa.array(["done", "failed", "rejected"])), min_count=0).as_py():
        raise DamagedObjectError("a row has an unknown status")


_LATEST = 7_258_118_400 * 10**6
"""Microseconds until the year 2200."""


def worker_parts(summary: RunSummary, stage_seconds: Mapping[str, float]) -> tuple[Part, ...]:
    """The workers' lifetimes, cold start split, from a run's summary alone.

    As `report.facts.worker_parts`, up to workers that were killed before they could report: the mean cold start is
    taken for each of them, and what their batches took for their painting.
    """
    if summary.cold_start is None or not summary.gpu_seconds_per_image:
        return ()
    summed = {name: value * summary.workers for name, value in summary.cold_start.model_dump().items()}
    cold = ColdStart.model_construct(**summed)  # unchecked: of a summary that somebody made up, it may be beyond bounds
    painting = max(0.0, sum(stage_seconds.get(stage, 0.0) for stage in BATCH_STAGES) - cold.first_call)
    lifetime = summary.gpu_seconds_per_image * summary.counts.done
    return lifetime_parts(cold, painting=painting, waiting=max(0.0, lifetime - cold.total - painting))


def _posix(column: Any) -> npt.NDArray[np.float64]:
    return np.asarray(pc.cast(column, pa.int64()).to_numpy(zero_copy_only=False), dtype=float) / 1e6
