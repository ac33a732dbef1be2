"""Records -> files for programs: results.jsonl, failed.jsonl, timings.parquet. Rows come in manifest order."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from inpaint_ops.errors import ManifestError
from inpaint_ops.manifest import to_jsonl
from inpaint_ops.records import BATCH_STAGES, STAGES, Record
from inpaint_ops.report.spread import MEASURES, SCORED

_TIME = pa.timestamp("us", tz="UTC")

_COLUMNS: tuple[tuple[str, Any, Callable[[Record], Any]], ...] = (
    ("row", pa.int64(), lambda r: r.row),
    ("id", pa.string(), lambda r: r.id),
    ("status", pa.string(), lambda r: r.status),
    ("attempt", pa.string(), lambda r: r.attempt),
    ("error_type", pa.string(), lambda r: r.error and r.error.type),
    ("error_stage", pa.string(), lambda r: r.error and r.error.stage),
    ("error_permanent", pa.bool_(), lambda r: r.error and r.error.permanent),
    *((f"{stage}_seconds", pa.float64(), lambda r, s=stage: getattr(r.timings, s)) for stage in STAGES),
    ("batch_id", pa.string(), lambda r: r.batch and r.batch.id),
    ("batch_size", pa.int32(), lambda r: r.batch and r.batch.size),
    ("peak_allocated_bytes", pa.int64(), lambda r: r.memory and r.memory.peak_allocated),
    ("peak_reserved_bytes", pa.int64(), lambda r: r.memory and r.memory.peak_reserved),
    ("worker_pid", pa.int64(), lambda r: r.worker and r.worker.pid),
    ("worker_host", pa.string(), lambda r: r.worker and r.worker.host),
    ("worker_device", pa.string(), lambda r: r.worker and r.worker.device),
    ("worker_started_at", _TIME, lambda r: r.worker and r.worker.started_at),
    ("working_width", pa.int32(), lambda r: r.working_size and r.working_size[0]),
    ("working_height", pa.int32(), lambda r: r.working_size and r.working_size[1]),
    ("steps", pa.int32(), lambda r: r.steps),
    ("steps_requested", pa.int32(), lambda r: r.steps_requested),
    *((measure.name, pa.float64(), measure.of) for measure in MEASURES),
    *((f"{measure.name}_model", pa.string(), measure.model_of) for measure in SCORED),
    ("flags", pa.list_(pa.string()), lambda r: list(r.flags)),
    ("output_bytes", pa.int64(), lambda r: r.output and r.output.bytes),
    ("output_width", pa.int32(), lambda r: r.output and r.output.width),
    ("output_height", pa.int32(), lambda r: r.output and r.output.height),
    ("started_at", _TIME, lambda r: r.started_at),
    ("finished_at", _TIME, lambda r: r.finished_at),
)

_METADATA = {
    "units": "seconds, bytes, pixels; times of day are UTC",
    "batch_stages": ", ".join(f"{stage}_seconds" for stage in STAGES if stage in BATCH_STAGES)
    + ": the whole batch's duration on each of its rows; take one row per (worker, batch_id) before you sum",
    "measures": ", ".join(measure.name for measure in MEASURES) + ": of the finished image, see docs/measures.md",
}

TIMINGS_SCHEMA = pa.schema([pa.field(name, kind) for name, kind, _ in _COLUMNS], metadata=_METADATA)
"""The columns of `timings.parquet`; null where a row did not get that far."""


def results_jsonl(records: Iterable[Record]) -> bytes:
    """The records, compacted: one per line, by row."""
    return b"".join(map(result_line, _in_order(records)))


def failed_jsonl(records: Iterable[Record], rows_by_number: Mapping[int, dict[str, Any]]) -> bytes:
    """A manifest of the rows that failed, which runs as it is; empty bytes when none did.

    `rows_by_number` holds, by line, what `AcceptedRow.as_manifest_row` gave. Rejected rows are left out: they were no
    valid rows. Raises ManifestError for a failed row that `rows_by_number` does not know.
    """
    failed = dict.fromkeys(record.row for record in _in_order(records) if record.status == "failed")
    unknown = [row for row in failed if row not in rows_by_number]
    if unknown:
        raise ManifestError(
            f"row {unknown[0]} has failed and is not in the frozen manifest: the run's files do not belong together"
        )
    return to_jsonl([rows_by_number[row] for row in failed])


def timings_parquet(records: Iterable[Record]) -> bytes:
    """`timings.parquet`: a row per record, with the columns of `TIMINGS_SCHEMA`."""
    sink = io.BytesIO()
    with TimingsWriter(sink) as writer:
        for record in _in_order(records):
            writer.add(record)
    return sink.getvalue()


def timings_table(records: Iterable[Record]) -> Any:
    """The same as a pyarrow.Table."""
    return pa.Table.from_batches([_batch([*map(_values, _in_order(records))])])


class TimingsWriter:
    """Writes `timings.parquet` into an open file, row by row in the order of the manifest; close it at the end."""

    def __init__(self, out: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(out, TIMINGS_SCHEMA)
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[Any] = []
        self._is_empty = True

    def __enter__(self) -> TimingsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write_group()
        self._writer.close()

    def add(self, record: Record) -> None:
        """The next row."""
        self._rows.append(_values(record))
        if len(self._rows) == _BATCH_ROWS:
            self._batches.append(_batch(self._rows))
            self._rows = []
            if len(self._batches) == _BATCHES_PER_GROUP:
                self._write_group()

    def _write_group(self) -> None:
        rest = [_batch(self._rows)] if self._rows or self._is_empty else []
        if rest or self._batches:
            self._writer.write_table(pa.Table.from_batches([*self._batches, *rest]).combine_chunks())
        self._rows, self._batches, self._is_empty = [], [], False


_BATCH_ROWS = 512
"""Rows whose values are kept as Python's objects."""
_BATCHES_PER_GROUP = 32
"""A row group has so many times as many rows: 16,384."""


def _values(record: Record) -> tuple[Any, ...]:
    """What the table has of a row."""
    return tuple([value(record) for _, _, value in _COLUMNS])


def _batch(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Some rows' values as a pyarrow.RecordBatch."""
    columns = zip(*rows, strict=True) if rows else iter([()] * len(_COLUMNS))
    arrays = [pa.array(values, type=kind) for values, (_, kind, _) in zip(columns, _COLUMNS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=TIMINGS_SCHEMA)


def result_line(record: Record) -> bytes:
    """A line of `results.jsonl`."""
    return record.model_dump_json().encode() + b"\n"


def _in_order(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.row, record.finished_at, record.attempt))
