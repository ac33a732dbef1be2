"""Records -> results.jsonl, failed.jsonl, timings.parquet and trace.json: files that other programs read."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import parse
from inpaint_ops.manifest import MAX_SEED, AcceptedRow, read_manifest, to_jsonl
from inpaint_ops.records import STAGES, Batch, ColdStart, Record, Timings
from inpaint_ops.report import failed_jsonl, results_jsonl, timings_parquet, trace_json
from tests.support.simulated_run import START, a_run, record, worker_info, worker_report


def accepted(rows: list[dict[str, Any]]) -> dict[int, AcceptedRow]:
    manifest = read_manifest(
        to_jsonl(rows), location=parse("s3://photos/inbox/night.jsonl"), is_allowed=lambda place: True
    )
    assert not manifest.rejected
    return {row.row: row for row in manifest.accepted}


def test_results_are_the_records_by_row() -> None:
    records = a_run(9, workers=2).records
    lines = results_jsonl(reversed(records)).decode().splitlines()
    assert [Record.model_validate_json(line) for line in lines] == records


def test_results_keep_line_separators_inside_their_line() -> None:
    strange = record(1, prompt="one\u2028two\nthree\r", extra={"note": "ü\u0085"})
    data = results_jsonl([strange])
    assert data.count(b"\n") == 1
    assert Record.model_validate_json(data) == strange


def test_failed_rows_are_a_manifest_that_asks_for_the_same_work() -> None:
    rows = accepted(
        [
            {"image": "a.png", "mask": "a.m.png", "prompt": 'a "cup"\nof tea ☕', "seed": MAX_SEED, "quality": "best"},
            {"image": "b.png", "mask": "b.m.png", "prompt": ""},
            {"image": "s3://photos/other/ü c.png", "mask": "c.m.png", "prompt": "=1+1", "id": "see me", "crop": 64,
             "steps": 7, "strength": 0.5, "guidance_scale": 3.0, "guidance_cutoff": 0.6, "mask_invert": True,
             "mask_dilate": 3, "mask_blur": 1.5, "format": "webp", "negative_prompt": "blur",
             "extra": {"k": [1, {"x": None}]}},
            {"image": "d.png", "mask": "d.m.png", "prompt": "d"},
        ]
    )  # fmt: skip
    records = [record(3, "failed"), record(1, "failed"), record(2), record(4, "rejected")]
    data = failed_jsonl(records, {number: row.as_manifest_row() for number, row in rows.items()})
    again = read_manifest(data, location=parse("s3://elsewhere/runs/r/failed.jsonl"), is_allowed=lambda place: True)
    assert not again.rejected
    assert [row.model_copy(update={"row": 0}) for row in again.accepted] == [
        rows[number].model_copy(update={"row": 0}) for number in (1, 3)
    ]


def test_without_failures_the_failed_manifest_is_empty() -> None:
    assert failed_jsonl([record(1), record(2, "rejected")], {}) == b""


def test_a_failed_row_that_the_manifest_does_not_know_is_refused() -> None:
    with pytest.raises(ManifestError, match="row 1 has failed and is not in the frozen manifest"):
        failed_jsonl([record(1, "failed")], {2: {}})


def test_timings_come_back_with_their_types() -> None:
    records = [*a_run(6).records, record(7, "failed"), record(8, "rejected")]
    table = pq.read_table(io.BytesIO(timings_parquet(reversed(records))))
    kinds = dict(zip(table.schema.names, table.schema.types, strict=True))
    assert kinds["row"] == pa.int64()
    assert kinds["id"] == kinds["status"] == kinds["error_type"] == kinds["batch_id"] == pa.string()
    assert all(kinds[f"{stage}_seconds"] == pa.float64() for stage in STAGES)
    assert kinds["batch_size"] == kinds["working_width"] == kinds["steps"] == pa.int32()
    assert kinds["peak_reserved_bytes"] == pa.int64()
    assert kinds["started_at"] == kinds["finished_at"] == kinds["worker_started_at"] == pa.timestamp("us", tz="UTC")
    for row, original in zip(table.to_pylist(), records, strict=True):
        assert (row["row"], row["id"], row["status"]) == (original.row, original.id, original.status)
        assert row["started_at"] == original.started_at
        assert row["finished_at"].utcoffset() == timedelta(0)
        assert [row[f"{stage}_seconds"] for stage in STAGES] == [getattr(original.timings, stage) for stage in STAGES]
        assert row["error_type"] == (original.error.type if original.error else None)
        assert row["worker_pid"] == (original.worker.pid if original.worker else None)
        assert (row["working_width"], row["steps"]) == ((1024, 30) if original.status == "done" else (None, None))
    assert b"one row per (worker, batch_id)" in table.schema.metadata[b"batch_stages"]


def test_an_empty_run_has_a_table_of_the_same_columns() -> None:
    empty, full = (pq.read_schema(io.BytesIO(timings_parquet(records))) for records in ([], a_run(2).records))
    assert empty.equals(full)


# -- the trace ----------------------------------------------------------------------------------------------------


def check_trace(data: bytes) -> list[dict[str, Any]]:
    """Every event has what the format asks for, and the slices of a lane nest or follow each other."""
    trace = json.loads(data)
    assert trace["displayTimeUnit"] == "ms"
    lanes: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    named, processes = set(), set()
    for event in trace["traceEvents"]:
        assert {"name", "ph", "ts", "pid", "tid"} <= event.keys()
        assert all(isinstance(event[key], int) for key in ("ts", "pid", "tid"))
        if event["ph"] == "M":
            assert event["args"]
            if event["name"] == "thread_name":
                named.add((event["pid"], event["tid"]))
            if event["name"] == "process_name":
                processes.add(event["pid"])
            continue
        assert event["ph"] == "X"
        assert isinstance(event["dur"], int) and event["dur"] >= 0 and event["ts"] >= 0
        assert isinstance(event["args"], dict)
        lanes[event["pid"], event["tid"]].append(event)
    assert lanes.keys() == named
    assert {pid for pid, _ in lanes} == processes
    for events in lanes.values():
        around: list[int] = []
        for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
            while around and event["ts"] >= around[-1]:
                around.pop()
            assert not around or event["ts"] + event["dur"] <= around[-1], event
            if event["dur"]:
                around.append(event["ts"] + event["dur"])
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def test_a_trace_has_a_process_a_worker_and_each_batch_once() -> None:
    run = a_run(40, workers=2, batch=4)
    slices = check_trace(trace_json(run.records, run.workers))
    batches = [one for one in slices if one["name"].startswith("batch ")]
    assert len(batches) == 10
    assert sorted(row for one in batches for row in one["args"]["rows"]) == list(range(1, 41))
    assert {one["pid"] for one in slices} == {1, 2}
    assert sum(one["name"] == "denoise" for one in slices) == 10
    for name in ("download", "decode", "composite", "encode", "upload"):
        assert sum(one["name"] == name for one in slices) == 40, name
    assert {"interpreter", "imports", "load"} <= {one["name"] for one in slices if one["cat"] == "cold start"}
    assert min(one["ts"] for one in slices) == 0


def test_slices_are_as_long_as_what_was_measured() -> None:
    run = a_run(12)
    slices = check_trace(trace_json(run.records, run.workers))
    for stage in ("download", "decode", "composite", "encode", "upload"):
        measured = sum(getattr(r.timings, stage) for r in run.records)
        assert sum(one["dur"] for one in slices if one["name"] == stage) == pytest.approx(measured * 1e6, abs=50)


def test_rows_that_no_worker_had_and_workers_without_a_report_are_drawn() -> None:
    run = a_run(8)
    lost = record(9, "failed", timings=Timings(download=0.4), started_at=START, finished_at=START)
    slices = check_trace(trace_json([*run.records, lost, record(10, "rejected")], []))
    [download] = [one for one in slices if one["args"].get("row") == 9]
    assert download["args"]["error"] == "ImageError"
    assert download["dur"] == 400_000


def test_uploads_at_once_lie_in_lanes_of_their_own() -> None:
    records = [record(row, timings=Timings(upload=5.0), finished_at=START, worker=worker_info()) for row in (1, 2, 3)]
    slices = check_trace(trace_json(records, []))
    assert len({one["tid"] for one in slices}) == 3


def test_contradicting_clocks_still_make_a_valid_trace() -> None:
    info = worker_info(start=1000)
    records = [
        record(row, worker=info, batch=Batch(id=str(row // 2), size=2), finished_at=START,
               timings=Timings(download=50, decode=70, denoise=500, vae_decode=0.0, composite=9, encode=1, upload=30))
        for row in range(1, 8)
    ]  # fmt: skip
    check_trace(trace_json(records, [worker_report(info, end=0, cold_start=ColdStart(load=5))]))


def test_an_empty_run_has_an_empty_trace() -> None:
    assert check_trace(trace_json([], [])) == []
