"""The store's own formats under fire: what is read back of a run makes a report and pages, or is one line."""

from __future__ import annotations

import faulthandler
import io
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel

from inpaint_ops.browse.state import run_state, shard_states
from inpaint_ops.browse.table import _SCHEMA, RecordTable, RowQuery, _check, worker_parts
from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.machine import parquet_columns
from inpaint_ops.manifest import parquet
from inpaint_ops.metrics import measure
from inpaint_ops.planning import JobOptions, Plan
from inpaint_ops.records import AttemptFaults, ErrorInfo, Forecast, Record, RunSummary, ShardProgress, WorkerReport, now
from inpaint_ops.report import render_page, results_jsonl, summarize, timings_parquet, trace_json
from inpaint_ops.run_files.counted import why_not
from inpaint_ops.runs.attempts import stopped, why_unfinished
from inpaint_ops.runs.forecasting import Experience, Work, forecast
from inpaint_ops.storage.stored import parse_model
from tests.fuzz.promises import check_line

TIMINGS_BYTES = 1 << 20
TIMINGS_ROWS = 1000
_RAISED = 86
_REFUSED = 87

M = TypeVar("M", bound=BaseModel)


def _read(data: bytes, kind: type[M]) -> M | None:
    """The model, or None and one line; and what was read is the same once it is written and read again."""
    try:
        found = parse_model(data, kind, "the object")
    except DamagedObjectError as error:
        check_line(str(error))
        return None
    assert parse_model(found.model_dump_json().encode(), kind, "it") == found, "what is read can be written"
    return found


def _report(
    records: Sequence[Record] = (),
    workers: Sequence[WorkerReport] = (),
    forecasted: Forecast | None = None,
    faults: AttemptFaults | None = None,
) -> None:
    """Everything that a report writes, of these."""
    summary = summarize(
        run="fuzz",
        manifest="s3://bucket/inbox/m.jsonl",
        manifest_sha256="0" * 64,
        job={},
        rows=len(records),
        failure_threshold=0.5,
        records=records,
        workers=workers,
        forecast=forecasted,
        faults=faults.faults * 2 if faults else (),
    )
    assert summary.counts.rows == len(records)
    assert RunSummary.model_validate_json(summary.model_dump_json()) == summary, "run.json can be read again"
    assert len(results_jsonl(records).splitlines()) >= len(records)
    assert timings_parquet(records)
    assert trace_json(records, workers)
    page = render_page(summary, records, workers=workers)
    assert "<script" not in page.lower()
    worker_parts(summary, {})


def plan(data: bytes) -> None:
    """`plan.json`."""
    found = _read(data, Plan)
    if found is None:
        return
    states = shard_states(found, {}, now())
    assert len(states) == len(found.shards) and run_state(found, states).rows == found.rows
    layout = RunLayout(Location("bucket", "store/"), "night")
    for shard in found.shards:
        place = layout.record(shard.name, shard.last_row)
        assert layout.shard_and_row(place) == (shard.name, shard.last_row)
        assert place.key.count("/") == 5 and ".." not in place.key
    if found.forecast is not None:
        _report(forecasted=found.forecast)


def record(data: bytes) -> None:
    """A record, and the report and pages of rows that all are like it."""
    found = _read(data, Record)
    if found is None:
        return
    layout = RunLayout(Location("bucket", "store/"), "night")
    why = why_not(found, shard="00000", number=1, row=None, layout=layout)
    assert why or (found.row == 1 and found.status != "rejected")
    rows = [found.model_copy(update={"row": number, "id": f"row-{number}"}) for number in range(1, 8)]
    _report(rows)
    measure(rows)
    _pages(RecordTable.of(rows), len(rows))


def _pages(table: RecordTable, rows: int) -> None:
    assert len(table) == rows
    for order in ("row", "slowest", "newest"):
        assert len(table.select(RowQuery(order=order), list)) == rows  # type: ignore[arg-type]
    assert sum(table.counts.values()) == rows
    assert sum(len(found) for _, found in table.failure_positions()) == rows - table.counts.get("done", 0)
    table.stage_stats()
    table.stage_parts()
    assert len(table.throughput()) <= 60
    assert table.positions.keys() == {int(row) for row in table.rows}


def progress(data: bytes) -> None:
    """A shard's word on how far it is."""
    found = _read(data, ShardProgress)
    if found is None:
        return
    given = Plan.model_validate_json(A_PLAN)
    states = shard_states(given, {"00000": (found, now() - timedelta(seconds=5))}, now())
    state = run_state(given, states)
    assert 0 <= state.ended <= state.rows, "a shard has no more rows than its plan says"
    for one in states:
        assert 0 <= one.ended <= one.rows
    assert "\n" not in why_unfinished("00000", {}, found)


A_PLAN = b"""{"run": "night", "manifest": "m", "manifest_sha256": "0", "job": {"model": "m"}, "rows": 3, "rejected": 1,
"rejected_rows": [2], "shards": [{"name": "00000", "rows": 2, "first_row": 1, "last_row": 3}],
"created_at": "2026-11-22T22:00:00Z"}"""


def notes(data: bytes) -> None:
    """What tries and earlier runs have left: a report of a worker, a stop, faults, experience, a summary."""
    worker = _read(data, WorkerReport)
    if worker is not None:
        _report(workers=[worker, worker])
    faults = _read(data, AttemptFaults)
    if faults is not None:
        _report(faults=faults)
    stop = _read(data, ErrorInfo)
    if stop is not None:
        for fault in stopped({"00000-x": stop}, ()):
            assert len(fault.what) <= 500
        assert "\n" not in why_unfinished("00000", {"00000-x": stop}, None)
    taught = _read(data, Experience)
    if taught is not None:
        expected = forecast(JobOptions(model="m"), [Work(200, 10_000)] * 1000, [taught], devices=2)
        assert expected.in_words()
        _report(forecasted=expected)
    summary = _read(data, RunSummary)
    if summary is not None:
        render_page(summary, ())
        worker_parts(summary, summary.stage_seconds)


def timings(data: bytes) -> None:
    """`timings.parquet`. Its reader is forked instead of started, which is a hundred times as fast."""
    table = _forked(data)
    if table is None:
        return
    try:
        _check(table)
    except DamagedObjectError as error:
        check_line(str(error))
        return
    assert len(table) <= TIMINGS_ROWS and table.nbytes <= 2 * TIMINGS_BYTES
    rows = RecordTable(table)
    if len(set(rows.rows.tolist())) == len(rows):
        _pages(rows, len(rows))


def _forked(data: bytes) -> Any:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            for deadly in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
                signal.signal(deadly, signal.SIG_DFL)  # its death is no finding: libFuzzer would take it for one
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            parquet.limit(TIMINGS_BYTES)
            with os.fdopen(writing, "wb") as out:
                try:
                    table = parquet_columns.select(data, _SCHEMA, max_bytes=TIMINGS_BYTES, max_rows=TIMINGS_ROWS)
                except Exception:
                    os._exit(_REFUSED)
                with pa.ipc.new_stream(out, _SCHEMA) as stream:
                    stream.write_table(table)
            os._exit(0)
        finally:
            os._exit(_RAISED)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        body = said.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != _RAISED, "what was selected can be said"
    return pa.ipc.open_stream(io.BytesIO(body)).read_all() if code == 0 else None
