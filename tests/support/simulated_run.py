"""The records and worker reports of a simulated run, as the supervisor writes them."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from inpaint_ops.records import (
    Batch,
    ColdStart,
    DeviceInfo,
    ErrorInfo,
    LedgerEntry,
    LoadTimes,
    Memory,
    ModelIdentity,
    Output,
    Record,
    RunSummary,
    Timings,
    WorkerInfo,
    WorkerReport,
)
from inpaint_ops.report import (
    summarize,
)

START = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclasses.dataclass
class Run:
    """What the supervisor would have written, from a simulated timeline; `true_batches`: when each really began."""

    records: list[Record]
    workers: list[WorkerReport]
    true_batches: dict[tuple[int, str], float] = dataclasses.field(default_factory=dict)

    def summary(self, **options: Any) -> RunSummary:
        defaults: dict[str, Any] = {
            "run": "night-1",
            "manifest": "s3://photos/inbox/night.jsonl",
            "manifest_sha256": "ab" * 32,
            "job": {"model": "m", "batch_size": 4, "failure_threshold": 0.1},
            "rows": len(self.records),
            "failure_threshold": 0.1,
            "records": self.records,
            "workers": self.workers,
        }
        return summarize(**defaults | options)


def worker_info(number: int = 1, start: float = 0) -> WorkerInfo:
    return WorkerInfo(pid=4000 + number, host="gpu-1", device="cuda:0", started_at=after(start))


def worker_report(
    info: WorkerInfo, end: float, *, busy: float = 10.0, random_weights: bool = False, **options: Any
) -> WorkerReport:
    values: dict[str, Any] = {
        "worker": info,
        "device": DeviceInfo(kind="cuda", name="NVIDIA L4", total_memory=24 * 2**30, driver="570.1", uuid="GPU-1"),
        "model": ModelIdentity(
            name="sdxl", revision="abc", dtype="float16", random_weights=random_weights, digest="cd" * 32
        ),
        "tuning": {},
        "ledger": (
            LedgerEntry(
                name="attention", requested="xformers", effective="sdpa", matches=False, reason="not installed"
            ),
            LedgerEntry(name="dtype", requested="float16", effective="float16", matches=True),
        ),
        "cold_start": ColdStart(interpreter=0.2, imports=8, load=10, compile=0, first_call=1.8),
        "load": LoadTimes(download=90.0, resolve=1, disk=4, device=4, tune=1),
        "versions": {"torch": "2.13.0"},
        "finished_at": after(end),
        "busy": busy,
    }
    return WorkerReport(**values | options)


def record(row: int, status: str = "done", **options: Any) -> Record:
    values: dict[str, Any] = {
        "id": f"photo-{row}",
        "row": row,
        "status": status,
        "attempt": "a1",
        "prompt": "a vase of tulips",
        "seed": row,
        "started_at": after(row),
        "finished_at": after(row + 1),
    }
    if status == "done":
        values["output"] = Output(
            uri=f"s3://o/images/photo-{row}.png", sha256="0", bytes=1, width=8, height=8, format="png"
        )
    else:
        kind = "ImageError" if status == "failed" else "RowError"
        values["error"] = ErrorInfo(type=kind, stage="decode", message=f"row {row}: truncated", permanent=True)
    return Record(**values | options)


def a_run(rows: int = 40, *, workers: int = 1, batch: int = 4, seed: int = 0, cold: float = 20.0) -> Run:
    """Rows painted by workers side by side, batch by batch; each row is encoded and uploaded after its batch."""
    dice = random.Random(seed)
    run = Run([], [])
    for number in range(1, workers + 1):
        info = worker_info(number)
        mine = list(range(number, rows + 1, workers))
        clock, busy = cold, 0.0
        for index, first in enumerate(range(0, len(mine), batch)):
            members = mine[first : first + batch]
            stages = {"encode_prompt": 0.05, "vae_encode": 0.1, "denoise": dice.uniform(3, 5), "vae_decode": 0.3}
            decodes = {row: dice.uniform(0.02, 0.05) for row in members}
            taken_up = clock
            clock += sum(decodes.values())
            run.true_batches[(info.pid, f"{index:05d}")] = clock
            clock += sum(stages.values())
            busy += sum(stages.values())
            for row in members:
                own = {"composite": 0.02, "encode": dice.uniform(0.05, 0.2)}
                clock += sum(own.values())
                upload = dice.uniform(0.02, 0.3)
                timings = Timings(download=dice.uniform(0.05, 0.4), decode=decodes[row], upload=upload, **own, **stages)
                run.records.append(
                    record(
                        row,
                        steps=30,
                        steps_requested=30,
                        working_size=(1024, 1024),
                        batch=Batch(id=f"{index:05d}", size=len(members)),
                        timings=timings,
                        memory=Memory(peak_allocated=9 * 2**30, peak_reserved=11 * 2**30),
                        worker=info,
                        started_at=after(taken_up),
                        finished_at=after(clock + upload),
                    )
                )
        run.workers.append(worker_report(info, clock + 1, busy=busy + 1.8, painted=len(mine), shard=f"{number:05d}"))
    run.records.sort(key=lambda r: r.row)
    return run
