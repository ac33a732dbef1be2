"""What fuzzing the store's own formats starts from: objects as the program writes them, and some gone wrong."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inpaint_ops.records import (
    AttemptFaults,
    ColdStart,
    DeviceInfo,
    ErrorInfo,
    Fault,
    Forecast,
    LedgerEntry,
    ModelIdentity,
    Pace,
    ShardProgress,
    WorkerReport,
)
from inpaint_ops.report import summarize, timings_table
from inpaint_ops.runs.forecasting import Experience
from tests.support.synthetic_run import make_plan, record, worker

MOMENT = datetime(2026, 11, 22, 23, 0, tzinfo=UTC)


def _wrong(whole: bytes, **fields: Any) -> dict[str, bytes]:
    """The object with each field in turn said as given, and some that are cut off, nested or no JSON."""
    made = {
        f"{name}-{number}": json.dumps(json.loads(whole) | {name: value}).encode()
        for name, values in fields.items()
        for number, value in enumerate(values)
    }
    return made | {
        "cut": whole[: len(whole) // 2],
        "nan": whole.replace(b"1", b"NaN", 1),
        "deep": b"[" * 300,
        "empty": b"",
        "list": b"[]",
        "extra": json.dumps(json.loads(whole) | {"more": 1}).encode(),
    }


def plan() -> dict[str, bytes]:
    """A plan, and plans that do not add up."""
    given = make_plan("night", 10, shard_rows=4, rejected=2)
    expected = Forecast(seconds=10, gpu_seconds=20, seconds_per_image=1, cold_start=3, peak_memory=5, basis="a run")
    whole = given.model_copy(update={"forecast": expected}).model_dump_json().encode()
    shard = {"name": "00000", "rows": 1, "first_row": 1, "last_row": 1}
    return {"whole": whole, "bare": given.model_dump_json().encode()} | _wrong(
        whole,
        created_at=["2026-11-22T22:00:00", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"],
        rows=[-1, 10**30, 9],
        rejected_rows=[[9, 9], [], [-1, 10]],
        shards=[[], [shard], [shard | {"name": "../../x"}], [shard, shard]],
        schema_version=[2],
    )


def records() -> dict[str, bytes]:
    """A record of each status, and what a forger would try."""
    done, failed = (record(1, status=status).model_dump_json().encode() for status in ("done", "failed"))
    rejected = record(1, status="rejected").model_dump_json().encode()
    return {"done": done, "failed": failed, "rejected": rejected} | _wrong(
        done,
        row=[-1, 10**30],
        id=["../x", "\u202e", "<script>"],
        finished_at=["2026-11-22T22:00:00", "2199-12-31T23:59:59-12:00", "1970-01-01T00:00:00+12:00"],
        timings=[{"denoise": -1}, {"denoise": 1e300}, {"denoise": 1e9, "upload": 1e9}, {"decode": 5e-324}],
        memory=[{"peak_allocated": 10**19, "peak_reserved": 0}],
        batch=[{"id": "", "size": 2**31}],
        steps=[2**31, 0],
        extra=[{"a": [[[]]]}, {"n": 10**400}],
    )


def progress() -> dict[str, bytes]:
    """A word, and words that boast."""
    whole = (
        ShardProgress(
            shard="00000",
            attempt="00000-0123456789ab",
            rows=2,
            done=1,
            failed=0,
            phase="painting",
            images_per_second=0.5,
            seconds_left=2,
            device="NVIDIA H200",
            interval=15,
            updated_at=MOMENT,
        )
        .model_dump_json()
        .encode()
    )
    return {"whole": whole} | _wrong(
        whole,
        done=[-1, 10**9, 10**30],
        updated_at=["2026-11-22T22:00:00", "2026-11-22T22:00:00+23:59"],
        interval=[-1, 1e15],
        images_per_second=[0, 5e-324, 1e15],
        phase=["finished", "stopped", "a\nb\u2028"],
    )


def notes() -> dict[str, bytes]:
    """One of each kind, and a worker that lies."""
    report = WorkerReport(
        worker=worker(0),
        device=DeviceInfo(kind="cuda", name="NVIDIA H200", total_memory=140 * 2**30),
        model=ModelIdentity(name="m", random_weights=False),
        tuning={"dtype": "bf16"},
        ledger=(LedgerEntry(name="a", requested="on", effective="off", matches=False, measured={"x_seconds": 1.5}),),
        cold_start=ColdStart(interpreter=0.5, load=9.0),
        versions={"torch": "2"},
        finished_at=MOMENT,
        busy=5.0,
        warnings=("hot",),
    )
    whole = report.model_dump_json().encode()
    ledger = json.loads(whole)["ledger"][0]
    faults = AttemptFaults(shard="00000", attempt="a", faults=(Fault(kind="worker_died", count=2, what="x"),))
    error = ErrorInfo(type="DeviceError", stage="worker", message="no card", permanent=False)
    pace = Pace(images=9, steps=29, step_seconds=0.1, other_seconds=0.2, waiting_seconds=0.3)
    taught = Experience(run="r", card="c", pace=pace, cold_start=9, peak_reserved=5, finished_at=MOMENT)
    rows = [record(number) for number in range(1, 4)]
    summary = summarize(
        run="night", manifest="m", manifest_sha256="0", job={}, rows=3, failure_threshold=0, records=rows,
        workers=[report],
    )  # fmt: skip
    return {
        "worker": whole,
        "faults": faults.model_dump_json().encode(),
        "stop": error.model_dump_json().encode(),
        "stop-lines": error.model_copy(update={"message": "a\nb\u202e", "type": "x\ny"}).model_dump_json().encode(),
        "taught": taught.model_dump_json().encode(),
        "summary": summary.model_dump_json().encode(),
        "many": json.dumps(
            json.loads(faults.model_dump_json()) | {"faults": [{"kind": "worker_died", "count": 2**31 - 1}] * 3}
        ).encode(),
    } | _wrong(
        whole,
        ledger=[[ledger | {"measured": {"x": value}}] for value in (1e15, 1e300, -1e15)],
        busy=[1e9, 1e10],
        cold_start=[{"load": 1e9}, {"load": 1e300}],
        finished_at=["2026-11-22T22:00:00", "1970-01-01T00:00:00Z"],
    )


def timings() -> dict[str, bytes]:
    """The table of three rows, plain and packed, and tables that lie."""
    whole = timings_table([record(1), record(2, status="failed"), record(3, status="rejected")])
    least = whole.select([field.name for field in whole.schema if not field.name.startswith("output")])

    def changed(name: str, values: list[Any], kind: Any = None) -> Any:
        at = least.schema.get_field_index(name)
        return least.set_column(at, name, pa.array(values, kind or least.schema.field(name).type))

    tables = {
        "whole": least,
        "none": least.slice(0, 0),
        "no-status": least.drop_columns(["status"]),
        "text-rows": changed("row", ["1", "2", "3"], pa.string()),
        "null-row": changed("row", [None, 2, 3]),
        "negative": changed("row", [-1, 2, 3]),
        "twice": changed("row", [2, 2, 2]),
        "nan": changed("denoise_seconds", [float("nan"), 1.0, None]),
        "huge": changed("denoise_seconds", [1e308, 1e308, None]),
        "late": changed("finished_at", [2**62, 0, 0], pa.int64()).cast(least.schema),
        "status": changed("status", ["done", "x", "<script>"]),
    }
    files = {name: _file(table) for name, table in tables.items()}
    return files | {"half": files["whole"][: len(files["whole"]) // 2], "empty": b""}


def _file(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), buffer, store_schema=False, write_statistics=False)
    return buffer.getvalue()
