"""Records -> files for programs: results.jsonl, failed.jsonl, timings.parquet. Rows come in manifest order."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from inpaint_ops.errors import ManifestError
from inpaint_ops.manifest import to_jsonl
from inpaint_ops.records import BATCH_STAGES, STAGES, Record
from inpaint_ops.tallies.spread import MEASURES, SCORED

_TIME = pa.timestamp("us", tz="UTC")


def _of(name: str, *names: str) -> Callable[[Record], tuple[Any, ...]]:
    """The values of some fields of a part of a record; None for each where the record has no such part."""
    part_of, fields, nothing = attrgetter(name), attrgetter(*names), (None,) * len(names)
    return lambda record: fields(part) if (part := part_of(record)) is not None else nothing


_Columns = tuple[tuple[str, Any], ...]

_GROUPS: tuple[tuple[_Columns, Callable[[Record], tuple[Any, ...]]], ...] = (
    (
        (("row", pa.int64()), ("id", pa.string()), ("status", pa.string()), ("attempt", pa.string())),
        attrgetter("row", "id", "status", "attempt"),
    ),
    (
        (("error_type", pa.string()), ("error_stage", pa.string()), ("error_permanent", pa.bool_())),
        _of("error", "type", "stage", "permanent"),
    ),
    (tuple((f"{stage}_seconds", pa.float64()) for stage in STAGES), _of("timings", *STAGES)),
    ((("batch_id", pa.string()), ("batch_size", pa.int32())), _of("batch", "id", "size")),
    (
        (("peak_allocated_bytes", pa.int64()), ("peak_reserved_bytes", pa.int64())),
        _of("memory", "peak_allocated", "peak_reserved"),
    ),
    (
        (
            ("worker_pid", pa.int64()), ("worker_host", pa.string()), ("worker_device", pa.string()),
            ("worker_started_at", _TIME),
        ),
        _of("worker", "pid", "host", "device", "started_at"),
    ),
    ((("working_width", pa.int32()), ("working_height", pa.int32())), lambda r: r.working_size or (None, None)),
    (
        (("steps", pa.int32()), ("steps_requested", pa.int32()), ("unguided_steps", pa.int32())),
        attrgetter("steps", "steps_requested", "unguided_steps"),
    ),
    (
        tuple((measure.name, pa.float64()) for measure in MEASURES),
        lambda r: tuple([measure.of(r) for measure in MEASURES]),
    ),
    (
        tuple((f"{measure.name}_model", pa.string()) for measure in SCORED),
        lambda r: tuple([measure.model_of(r) for measure in SCORED]),
    ),
    ((("flags", pa.list_(pa.string())),), lambda r: (list(r.flags),)),
    (
        (("output_bytes", pa.int64()), ("output_width", pa.int32()), ("output_height", pa.int32())),
        _of("output", "bytes", "width", "height"),
    ),
    ((("started_at", _TIME), ("finished_at", _TIME)), attrgetter("started_at", "finished_at")),
)  # fmt: skip
"""Columns that are filled together, and what fills them."""

_METADATA = {
    "units": "seconds, bytes, pixels; times of day are UTC",
    "batch_stages": ", ".join(f"{stage}_seconds" for stage in STAGES if stage in BATCH_STAGES)
    + ": the whole batch's duration on each of its rows; take one row per (worker, batch_id) before you sum",
    "measures": ", ".join(measure.name for measure in MEASURES) + ": of the finished image, see docs/measures.md",
}

TIMINGS_SCHEMA = pa.schema([pa.field(*column) for columns, _ in _GROUPS for column in columns], metadata=_METADATA)
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
    return pa.Table.from_batches([timings_batch([*map(timings_values, _in_order(records))])])


class TimingsWriter:
    """Writes `timings.parquet` into an open file, row by row in the order of the manifest; close it at the end."""

    def __init__(self, out: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(out, TIMINGS_SCHEMA)
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[Any] = []
        self._waiting, self._is_empty = 0, True

    def __enter__(self) -> TimingsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            if self._batches or self._is_empty:
                self._write_group()
        self._writer.close()

    def add(self, record: Record) -> None:
        """The next row."""
        self._rows.append(timings_values(record))
        if len(self._rows) == _BATCH_ROWS:
            self._flush()

    def add_batch(self, batch: Any) -> None:
        """The next rows, as `timings_batch` gives them."""
        self._flush()
        self._add(batch)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._add(timings_batch(rows))

    def _add(self, batch: Any) -> None:
        """A row group has as many rows as another, however many came at once."""
        while batch.num_rows:
            some = batch.slice(0, _GROUP_ROWS - self._waiting)
            batch = batch.slice(some.num_rows)
            self._batches.append(some)
            self._waiting += some.num_rows
            if self._waiting == _GROUP_ROWS:
                self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._batches, schema=TIMINGS_SCHEMA).combine_chunks())
        self._batches, self._waiting, self._is_empty = [], 0, False


_BATCH_ROWS = 512
"""Rows whose values are kept as Python's objects."""
_GROUP_ROWS = 32 * _BATCH_ROWS
"""Rows of a row group: 16,384."""


def timings_values(record: Record) -> tuple[Any, ...]:
    """What the table has of a row."""
    return tuple([value for _, values in _GROUPS for value in values(record)])


def timings_batch(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Some rows' values, by `timings_values`, as a pyarrow.RecordBatch."""
    columns = zip(*rows, strict=True) if rows else iter([()] * len(TIMINGS_SCHEMA))
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, TIMINGS_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=TIMINGS_SCHEMA)


def read_timings_batch(data: bytes) -> Any:
    """Read a batch of `timings_batch` from what its `serialize` returned."""
    return pa.ipc.read_record_batch(pa.py_buffer(data), TIMINGS_SCHEMA)


def result_line(record: Record) -> bytes:
    """A line of `results.jsonl`."""
    return record.model_dump_json().encode() + b"\n"


def _in_order(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.row, record.finished_at, record.attempt))
