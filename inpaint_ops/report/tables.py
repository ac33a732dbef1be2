"""Records -> files for programs: results.jsonl, failed.jsonl, timings.parquet. Rows come in manifest order."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inpaint_ops.errors import ManifestError
from inpaint_ops.manifest import to_jsonl
from inpaint_ops.records import BATCH_STAGES, STAGES, Record

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
}

TIMINGS_SCHEMA = pa.schema([pa.field(name, kind) for name, kind, _ in _COLUMNS], metadata=_METADATA)
"""The columns of `timings.parquet`; null where a row did not get that far."""


def results_jsonl(records: Iterable[Record]) -> bytes:
    """The records, compacted: one per line, by row."""
    return "".join(record.model_dump_json() + "\n" for record in _in_order(records)).encode()


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
    pq.write_table(timings_table(records), sink)
    return sink.getvalue()


def timings_table(records: Iterable[Record]) -> Any:
    """The same as a pyarrow.Table."""
    rows = _in_order(records)
    arrays = [pa.array([value(record) for record in rows], type=kind) for _, kind, value in _COLUMNS]
    return pa.Table.from_arrays(arrays, schema=TIMINGS_SCHEMA)


def _in_order(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.row, record.finished_at, record.attempt))
