"""Runs written as the real program writes them, of any size, without painting: for the pages' tests and benchmark."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from inpaint_ops.layout import shard_name
from inpaint_ops.planning import JobOptions, Plan, Shard
from inpaint_ops.records import (
    Batch,
    ColdStart,
    DeviceInfo,
    ErrorInfo,
    LedgerEntry,
    Memory,
    ModelIdentity,
    Output,
    Record,
    RunSummary,
    ShardProgress,
    Timings,
    WorkerInfo,
    WorkerReport,
)
from inpaint_ops.report import failed_jsonl, results_jsonl, summarize, timings_parquet
from inpaint_ops.runs import Workspace

START = datetime(2026, 11, 22, 22, 0, tzinfo=UTC)
BATCH = 4
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> \"'&"


def worker(number: int, start: datetime = START) -> WorkerInfo:
    """The process that painted a shard."""
    return WorkerInfo(pid=1000 + number, host="gpu-1", device="NVIDIA H200", started_at=start)


def record(row: int, *, shard: int = 0, status: str = "done", prompt: str = "", start: datetime = START) -> Record:
    """The record of a row: each batch of four takes two seconds, and every hundredth row four more."""
    batch = (row - 1) // BATCH
    finished = start + timedelta(seconds=20 + 2 * batch)
    slow = 4.0 if row % 100 == 0 else 0.0
    common = {
        "id": f"row-{row:05d}",
        "row": row,
        "attempt": f"{shard_name(shard)}-attempt",
        "prompt": prompt or f"a {'red' if row % 2 else 'blue'} cup number {row}",
        "started_at": finished - timedelta(seconds=2),
        "finished_at": finished,
    }
    if status != "done":
        kind, stage = ("RowError", "validate") if status == "rejected" else ("ImageError", "decode")
        error = ErrorInfo(type=kind, stage=stage, message=f"row {row} cannot be read", permanent=True)
        return Record(status=status, error=error, **common)
    return Record(
        status="done",
        output=Output(uri=f"/out/{row}.png", sha256="0" * 64, bytes=10, width=64, height=64, format="png"),
        source=f"/in/{row}.png",
        mask=f"/in/{row}.mask.png",
        seed=row,
        steps=29,
        steps_requested=30,
        guidance_scale=7.5,
        strength=0.9999,
        working_size=(1024, 1024),
        batch=Batch(id=f"{shard_name(shard)}-1-{batch:05d}", size=BATCH),
        timings=Timings(download=0.05, decode=0.02, denoise=1.5 + slow, vae_decode=0.2, encode=0.1, upload=0.05),
        memory=Memory(peak_allocated=9 * 2**30, peak_reserved=10 * 2**30),
        worker=worker(shard, start),
        **common,
    )


def make_plan(run: str, rows: int, *, shard_rows: int, rejected: int = 0, created: datetime = START) -> Plan:
    """A plan of `rows` rows, the last `rejected` of them rejected."""
    accepted = rows - rejected
    shards = tuple(
        Shard(name=shard_name(i), rows=min(shard_rows, accepted - first), first_row=first + 1,
              last_row=min(first + shard_rows, accepted))
        for i, first in enumerate(range(0, accepted, shard_rows))
    )  # fmt: skip
    return Plan(
        run=run,
        manifest=f"s3://inpaint/inbox/{run}.jsonl",
        manifest_sha256="1" * 64,
        job=JobOptions(model="tiny-random", shard_rows=shard_rows, failure_threshold=0.1),
        rows=rows,
        rejected=rejected,
        rejected_rows=tuple(range(accepted + 1, rows + 1)),
        shards=shards,
        created_at=created,
    )


def put_plan(workspace: Workspace, plan: Plan) -> None:
    """Write the plan."""
    workspace.storage.put(workspace.layout(plan.run).plan, plan.model_dump_json().encode())


def put_progress(
    workspace: Workspace, run: str, shard: int, *, rows: int, done: int, **fields: object
) -> ShardProgress:
    """Store a shard's progress."""
    values = {"phase": "painting", "failed": 0, "images_per_second": 2.0, "worker_silent": 0.5} | fields
    progress = ShardProgress(
        shard=shard_name(shard), attempt="t", rows=rows, done=done, device="NVIDIA H200", interval=15.0,
        updated_at=START, **values,
    )  # fmt: skip
    workspace.storage.put(workspace.layout(run).shard_progress(progress.shard), progress.model_dump_json().encode())
    return progress


def put_record(workspace: Workspace, run: str, found: Record, shard: int = 0) -> None:
    """Commit a record."""
    location = workspace.layout(run).record(shard_name(shard), found.row)
    workspace.storage.put(location, found.model_dump_json().encode())


def put_finished_run(
    workspace: Workspace,
    run: str,
    rows: int = 40,
    *,
    shard_rows: int = 200,
    failed: frozenset[int] | set[int] = frozenset(),
    rejected: int = 0,
    prompts: dict[int, str] | None = None,
    created: datetime = START,
) -> tuple[RunSummary, list[Record]]:
    """Write a finished run: plan, summary, results, table and rerun manifest."""
    plan = make_plan(run, rows, shard_rows=shard_rows, rejected=rejected, created=created)
    records = []
    for row in range(1, rows + 1):
        status = "rejected" if row > rows - rejected else "failed" if row in failed else "done"
        prompt = (prompts or {}).get(row, "")
        records.append(record(row, shard=(row - 1) // shard_rows, status=status, prompt=prompt, start=created))
    report = WorkerReport(
        worker=worker(0, created),
        device=DeviceInfo(kind="cuda", name="NVIDIA H200", total_memory=140 * 2**30, capability="9.0"),
        model=ModelIdentity(name="tiny-random", dtype="bf16", random_weights=True),
        tuning={},
        ledger=(
            LedgerEntry(name="attention", requested="sdpa", effective="sdpa", matches=True, reason="PyTorch's own"),
            LedgerEntry(name="compile", requested="on", effective="off", matches=False, reason=EVIL),
        ),
        cold_start=ColdStart(interpreter=0.5, imports=6.0, load=9.0, compile=0.0, first_call=0.4),
        versions={"torch": "2.13.0"},
        finished_at=records[-1].finished_at,
        busy=float(rows) / 2,
    )
    summary = summarize(
        run=run,
        manifest=plan.manifest,
        manifest_sha256=plan.manifest_sha256,
        job=plan.job.model_dump(mode="json"),
        rows=rows,
        failure_threshold=plan.job.failure_threshold,
        records=records,
        workers=[report],
    )
    layout, put = workspace.layout(run), workspace.storage.put
    put_plan(workspace, plan)
    wanted = {row: {"image": f"/in/{row}.png", "mask": f"/in/{row}.mask.png", "prompt": "again"} for row in failed}
    put(layout.results, results_jsonl(records))
    put(layout.timings, timings_parquet(records))
    put(layout.failed, failed_jsonl(records, wanted))
    put(layout.report, b"<!DOCTYPE html><title>the report</title>")
    put(layout.summary, summary.model_dump_json().encode())
    return summary, records
