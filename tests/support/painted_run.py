"""A run of any number of rows as its attempts would have left it, in a folder, without painting: odd rows and all."""

from __future__ import annotations

import json
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from inpaint_ops.config import Settings
from inpaint_ops.layout import variant_name
from inpaint_ops.planning import JobOptions, PlannedRow
from inpaint_ops.records import ErrorInfo, Measures, Output, Record, Timings, WorkerReport, row_record
from inpaint_ops.run_files.compacted import KeptRecord, compact
from inpaint_ops.runs import Workspace, prepare, prepare_retry
from tests.support.simulated_run import worker_report
from tests.support.synthetic_run import START, record, worker

JOB = JobOptions(model="tiny-random", shard_rows=40, failure_threshold=0.5)


ODD = {23: "seam_contrast_high", 91: "flatness_high", 205: "seam_contrast_high"}
"""Rows whose measures are far from the others'."""


def measures_of(row: int) -> Measures:
    odd = ODD.get(row, "")
    return Measures(
        seam_contrast=7.5 if odd.startswith("seam") else 1 + row % 9 / 50,
        flatness=0.9 if odd.startswith("flat") else 0.1,
        grain_ratio=None if row % 2 else 1.0,
    )


class Painted:
    """A run of `rows` rows, every 50th rejected and every 11th failed, as its attempts would have left it."""

    def __init__(self, folder: Path, rows: int, *, variants_every: int = 0) -> None:
        self.manifest = folder / "job.jsonl"
        lines: list[dict[str, object]] = [
            {"id": f"p{n}", "image": f"{n}.png", "mask": "m.png", "prompt": "x"} for n in range(1, rows + 1)
        ]
        for line in lines[6::50]:
            line["image"] = "../x.png"
        for line in lines[9::variants_every] if variants_every else ():
            line["variants"] = 3
        self.manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.workspace = Workspace.open(Settings(), store=str(folder / "out"), also_readable=[str(folder)])
        self.plan = prepare(self.workspace, str(self.manifest), "run", JOB)
        self.layout = self.workspace.layout("run")
        for row in self.plan.rejected_rows:  # planned when the run began, which was not today
            place = Path(self.layout.record("rejected", row).key)
            found = Record.model_validate_json(place.read_bytes())
            moments = {"started_at": START, "finished_at": START}
            place.write_text(found.model_copy(update=moments).model_dump_json())
        for shard in self.plan.shards:
            self.paint(shard.name, 0, fails=11)

    def retry(self, number: int, asked: str, fails: int) -> None:
        again = prepare_retry(self.workspace, str(self.manifest), "run", asked, JOB)
        assert again.retry is not None and again.retry.number == number
        for shard in again.retry.shards:
            self.paint(shard.name, number, fails=fails)

    def paint(self, shard: str, retry: int, *, fails: int) -> None:
        process = worker(int(sha256(shard.encode()).hexdigest()[:6], 16), START + timedelta(hours=retry))
        for at, row in enumerate(self.workspace.shard_rows(self.plan, shard)):
            found = self.record(row, at, retry, is_done=row.row % fails > 0).model_copy(
                update={"attempt": f"{shard}-a", "worker": process}
            )
            self.put(self.layout.record(shard, row.row).key, found.model_dump_json().encode())
        report = worker_report(process, 900).model_copy(update={"shard": shard, "attempt": f"{shard}-a"})
        self.put(self.layout.worker(f"{shard}-a-1").key, report.model_dump_json().encode())

    def record(self, row: PlannedRow, at: int, retry: int, *, is_done: bool) -> Record:
        whole = record(at + 1, start=START + timedelta(hours=retry))
        slow = 90.0 if row.row == 23 else 0.1
        values = {"id": row.id, "row": row.row, "retry": retry, "source": row.image, "mask": row.mask,
                  "timings": whole.timings.model_copy(update={"encode": slow + row.row % 7 / 10}),
                  "change": 30.0 + row.row % 5, "measures": measures_of(row.row)}  # fmt: skip
        if not is_done:
            error = ErrorInfo(type=f"Error{row.row % 3}", stage="decode", message="bad", permanent=True)
            values |= {"status": "failed", "error": error, "output": None, "batch": None, "memory": None,
                       "timings": Timings(download=0.1), "steps": None}  # fmt: skip
        tries = [
            whole.model_copy(update=values | {"variant": at if row.parameters.variants > 1 else None})
            for at in range(row.parameters.variants)
        ]
        if is_done:
            names = [variant_name(row.id, one.variant) for one in tries]
            tries = [
                one.model_copy(update={"output": self.image(name, retry)})
                for one, name in zip(tries, names, strict=True)
            ]
        return row_record(tries, "first") if len(tries) > 1 else tries[0]

    def image(self, name: str, retry: int) -> Output:
        place = self.layout.image(name, ".png")
        if Path(place.key).exists():
            place = self.layout.image(name, ".png", retry)
        body = f"{name} {retry}".encode()
        self.put(place.key, body)
        return Output(uri=place.uri, sha256=sha256(body).hexdigest(), bytes=len(body), width=8, height=8, format="png")

    def compact(self, shard: str) -> None:
        """Write the shard's compacted records, of those that are there."""
        found = {}
        for info in self.workspace.storage.list(self.layout.shard_records(shard)):
            body = Path(info.location.key).read_bytes()
            found[Record.model_validate_json(body).row] = KeptRecord(info.etag, body)
        self.put(self.layout.compacted_shard(shard).key, compact(found))

    def put(self, key: str, body: bytes) -> None:
        """Without the sync of a real put."""
        Path(key).parent.mkdir(parents=True, exist_ok=True)
        Path(key).write_bytes(body)

    def records(self) -> list[Record]:
        return [Record.model_validate_json(line) for line in self.read("results.jsonl").splitlines()]

    def workers(self) -> list[WorkerReport]:
        found = [self.workspace.storage.get(info.location) for info in self.workspace.storage.list(self.layout.workers)]
        return sorted(map(WorkerReport.model_validate_json, found), key=lambda report: report.worker.started_at)

    def read(self, name: str) -> bytes:
        return Path(self.layout.root.key, name).read_bytes()
