"""A run's records as columns: 50,000 rows are filtered, sorted and summed up without an object per row."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from inpaint_ops.browse.columns import read_columns
from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.records import BATCH_STAGES, STAGES, ColdStart, Model, Record, RunSummary, StageStats
from inpaint_ops.report import TIMINGS_SCHEMA, timings_table
from inpaint_ops.report.facts import STAGE_LABELS, Part, lifetime_parts, parts
from inpaint_ops.reviewing import VERDICTS
from inpaint_ops.tallies.spread import FLAGS, MEASURES, SCORED, Flagged, Measure, Spread, find_flags
from inpaint_ops.tallies.stages import StageTimes

Positions = npt.NDArray[np.int64]

_BATCH_KEY = ("worker_host", "worker_pid", "worker_started_at", "batch_id")
_SCORES = tuple(column for one in SCORED for column in (one.name, f"{one.name}_model"))
_ADDED = ("id", "attempt", "worker_device", "output_width", "output_height", *(one.name for one in MEASURES))
"""Columns that pages can do without: they are null where a file has not all of them, or only not the scores, or not
the masked share, which came last."""
_COLUMNS = (
    *dict.fromkeys((*_ADDED, *_SCORES)), "row", "status", "error_type", *(f"{stage}_seconds" for stage in STAGES),
    *_BATCH_KEY, "started_at", "finished_at",
)  # fmt: skip
_SCHEMA = pa.schema([TIMINGS_SCHEMA.field(name) for name in _COLUMNS])
_OLDER_SCHEMAS = tuple(
    pa.schema([field for field in _SCHEMA if field.name not in missing])
    for missing in (("mask_share",), ("mask_share", *_SCORES), (*_ADDED, *_SCORES))
)
"""Of files that were written before columns were added, the newest first."""
_BUCKETS = 60
_FILE_BYTES = 2**24
_BYTES_PER_ROW = 3 * 2**9
"""The most bytes of a row in `timings.parquet`: thirty numbers, and names of bounded length."""


RowOrder = Literal["row", "suspicious", "slowest", "newest", "largest", "rating", "lowest", "highest"]
MarkFilter = Literal["", "none", "any", "accept", "reject", "redo", "disputed", "outdated"]


class RowQuery(Model):
    """Which rows, and in which order."""

    status: Literal["", "done", "failed", "rejected"] = ""
    text: str = ""
    mark: MarkFilter = Field(default="", description="none: rows with an image that nobody has given a verdict on.")
    flag: str = Field(default="", description="any, or one of the flags of docs/measures.md.")
    device: str = ""
    measure: str = Field(default="", description="One of the measures, seconds or megapixels; `least`, `most`: of it.")
    least: float | None = None
    most: float | None = None
    order: RowOrder = Field(default="row", description="lowest, highest: by `measure`. What has no value comes last.")
    shard_rows: tuple[int, int] | None = None
    """The first and the last line of a shard; rejected lines between them are of no shard."""


@dataclass(frozen=True, slots=True)
class RowMarks:
    """What counts of what people say of the results, by position."""

    verdict: npt.NDArray[np.int8]
    """0: none; else 1 + the place in `reviewing.VERDICTS`."""
    rating: npt.NDArray[np.int8]
    disputed: npt.NDArray[np.bool_]
    outdated: npt.NDArray[np.bool_]

    @classmethod
    def none(cls, rows: int) -> RowMarks:
        """Nobody has said anything."""
        return cls(np.zeros(rows, np.int8), np.zeros(rows, np.int8), np.zeros(rows, bool), np.zeros(rows, bool))

    def matching(self, wanted: MarkFilter, done: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The rows that a filter wants; `done` are those that have an image."""
        match wanted:
            case "none":
                return np.asarray(done & (self.verdict == 0))
            case "any":
                return np.asarray(self.verdict > 0)
            case "disputed":
                return self.disputed
            case "outdated":
                return self.outdated
            case "accept" | "reject" | "redo":
                return np.asarray(self.verdict == 1 + VERDICTS.index(wanted))
            case _:
                return np.ones(len(self.verdict), bool)


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
        limits = {"max_bytes": timings_bytes(max_rows), "max_rows": max_rows}
        columns = _read(data, (_SCHEMA, *_OLDER_SCHEMAS), limits)
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

    @cached_property
    def ids(self) -> Sequence[str]:
        """Ids, by position; empty where the file has none."""
        return [one or "" for one in self.columns["id"].to_pylist()]

    @cached_property
    def attempts(self) -> Sequence[str]:
        """The attempts that ended the rows, by position."""
        return [one or "" for one in self.columns["attempt"].to_pylist()]

    @cached_property
    def done(self) -> npt.NDArray[np.bool_]:
        """The rows that have an image."""
        return self._has_status("done")

    @cached_property
    def spreads(self) -> Sequence[Spread]:
        """How each measure is spread over these rows."""
        found = [Spread(measure) for measure in MEASURES]
        for spread in found:
            spread.add_values(self._numbers(spread.measure.name))
            if spread.measure in SCORED:
                spread.add_models(pc.unique(self.columns[f"{spread.measure.name}_model"]).to_pylist())
        return found

    @cached_property
    def flagged(self) -> Flagged:
        """What the rows are outliers in among these: of a finished run, what `results.jsonl` has."""
        return find_flags(self.spreads, self._numbers, len(self))

    @cached_property
    def devices(self) -> Sequence[str]:
        """The devices that rows were painted on, by name."""
        return sorted(one for one in pc.unique(self.columns["worker_device"]).to_pylist() if one)

    @cached_property
    def flag_counts(self) -> Mapping[str, int]:
        """Rows by flag, those alone that some row has."""
        found = Counter(flag for flags in self.flagged.flags for flag in flags)
        return {flag: found[flag] for flag in FLAGS if found[flag]}

    @cached_property
    def figures(self) -> Sequence[Spread]:
        """How time and size of the rows with an image are spread: rows are found by them as by measures."""
        found = [Spread(measure) for measure in _FIGURES]
        for spread in found:
            spread.add_values(self._numbers(spread.measure.name))
        return found

    def _numbers(self, name: str) -> npt.NDArray[np.float64]:
        if name == "seconds":
            return np.where(self.done, self.seconds, np.nan)
        if name == "megapixels":
            return self._numbers("output_width") * self._numbers("output_height") / 1e6
        return np.asarray(self.columns[name].to_numpy(zero_copy_only=False), dtype=float)

    def _equal(self, name: str, value: str) -> npt.NDArray[np.bool_]:
        found = pc.fill_null(pc.equal(self.columns[name], value), False)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)

    def select(self, query: RowQuery, prompts: Callable[[], Sequence[str]], marks: RowMarks | None = None) -> Positions:
        """Positions of the rows that the query wants, in its order. `prompts` are lower-case texts, by position."""
        marks = marks or RowMarks.none(len(self))
        keep = np.ones(len(self), dtype=bool)
        if query.status:
            keep &= self._has_status(query.status)
        if query.shard_rows is not None:
            first, last = query.shard_rows
            keep &= (self.rows >= first) & (self.rows <= last) & ~self._has_status("rejected")
        if query.text.strip():
            wanted = query.text.strip().lower()
            keep &= np.fromiter((wanted in text for text in prompts()), dtype=bool, count=len(self))
        if query.mark:
            keep &= marks.matching(query.mark, self.done)
        if query.flag:
            hits = (bool(flags) if query.flag == "any" else query.flag in flags for flags in self.flagged.flags)
            keep &= np.fromiter(hits, dtype=bool, count=len(self))
        if query.device:
            keep &= self._equal("worker_device", query.device)
        measured = query.measure in _FOUND_BY
        if measured and (query.least is not None or query.most is not None):
            values = self._numbers(query.measure)  # NaN is in no range
            keep &= (values >= _or(query.least, -np.inf)) & (values <= _or(query.most, np.inf))
        found = np.flatnonzero(keep)
        return found[np.lexsort((self.rows[found], *self._keys(query, marks, found)))]

    def _keys(self, query: RowQuery, marks: RowMarks, found: Positions) -> tuple[Any, ...]:
        """What the rows are sorted by before their lines, the most important last, as `np.lexsort` wants it."""
        match query.order:
            case "slowest":
                return (-self.seconds[found],)
            case "newest":
                finished = np.asarray(self.columns["finished_at"].to_numpy(zero_copy_only=False))
                return (-finished[found].astype("datetime64[us]").astype(np.int64),)
            case "suspicious":
                counts = np.fromiter(map(len, self.flagged.flags), dtype=np.int64, count=len(self))
                return (-self.flagged.scores[found], -counts[found])
            case "largest":
                return (-np.nan_to_num(self._numbers("output_width") * self._numbers("output_height"))[found],)
            case "rating":
                return (-marks.rating[found],)
            case "lowest" | "highest" if query.measure in _FOUND_BY:
                values = self._numbers(query.measure)[found]
                return (values if query.order == "lowest" else -values,)  # NaN comes last, either way
            case _:
                return ()

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


_FIGURES = (
    Measure("seconds", "Seconds of the row", "ratio", low=False, high=False),
    Measure("megapixels", "Megapixels of the result", "ratio", low=False, high=False),
)
_FOUND_BY = frozenset(measure.name for measure in (*MEASURES, *_FIGURES))


def _read(data: bytes, schemas: Sequence[Any], limits: Mapping[str, int]) -> Any:
    """The columns of `_SCHEMA`, by the first of `schemas` that the file has; null where that has them not."""
    for schema in schemas[:-1]:
        with contextlib.suppress(DamagedObjectError):
            return _widened(read_columns(data, schema, **limits))
    return _widened(read_columns(data, schemas[-1], **limits))


def _widened(found: Any) -> Any:
    return pa.table(
        [found[one.name] if one.name in found.column_names else pa.nulls(len(found), one.type) for one in _SCHEMA],
        _SCHEMA,
    )


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


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
    bounds |= {measure.name: (-1.0 if measure.scale == "cosine" else 0.0, 1100.0) for measure in MEASURES}
    bounds |= dict.fromkeys(("output_width", "output_height"), (0, 2**31 - 1))
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
