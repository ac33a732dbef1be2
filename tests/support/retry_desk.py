"""A run whose rows' ends are said, not painted, and retries of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint_ops.config import Settings
from inpaint_ops.errors import ObjectExistsError
from inpaint_ops.layout import retry_of
from inpaint_ops.planning import JobOptions, PlannedRow, RetryPlan
from inpaint_ops.records import ErrorInfo, Output, Record, RunSummary, Status, now
from inpaint_ops.runs import Workspace, finish, prepare, prepare_retry
from inpaint_ops.runs.retrying import Again
from inpaint_ops.storage import Storage

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

JOB = JobOptions(model="tiny-random", shard_rows=2)
DONE, FAILED, UNCHANGED = "done", "ImageError", "UnchangedError"


class Desk:
    """A run of five rows, a to e, and of a sixth that is rejected; how its rows end is said, not painted."""

    def __init__(
        self,
        folder: Path,
        storage: type[Storage] = Storage,
        *,
        store: str = "",
        s3_client: Callable[[], S3Client] | None = None,
    ) -> None:
        self.folder = folder
        (folder / "in").mkdir(exist_ok=True)
        for name in "abcdefm":
            (folder / "in" / f"{name}.png").touch()
        self.manifest = folder / "in" / "job.jsonl"
        if not self.manifest.exists():
            self.write(self.manifest, [*({"id": name} for name in "abcde"), {"id": "f", "seed": -1}])
        self.workspace = Workspace.open(
            Settings(scratch=folder / "scratch"),
            store=store or str(folder / "out"),
            also_readable=[str(folder / "in")],
            s3_client=s3_client,
        )
        if storage is not Storage:
            root = self.workspace.store
            self.workspace = Workspace(
                self.workspace.settings, root, storage(readable=[str(folder / "in")], writable=[root])
            )

    def write(self, path: Path, rows: Iterable[dict[str, Any]]) -> Path:
        base = [{"image": f"{row['id']}.png", "mask": "m.png", "prompt": f"a {row['id']}"} | row for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in base))
        return path

    def run(self, **ends: str) -> None:
        """The whole run, with how each row ends."""
        plan = prepare(self.workspace, str(self.manifest), "job", JOB)
        for shard in plan.shards:
            for row in self.workspace.shard_rows(plan, shard.name):
                if row.id in ends:
                    self.end(shard.name, row, ends[row.id])

    def end(self, shard: str, row: PlannedRow, how: str) -> Record:
        """End a row of a shard as a supervisor does."""
        layout, storage = self.workspace.layout("job"), self.workspace.storage
        moment, output, error = now(), None, None
        status: Status = "done" if how == DONE else "failed"
        if how == DONE:
            body = f"{shard} {row.id}".encode()
            place = layout.image(row.id, ".png")
            try:
                storage.put(place, body, if_absent=True)
            except ObjectExistsError:
                place = layout.image(row.id, ".png", retry_of(shard))
                storage.put(place, body, if_absent=True)
            digest = hashlib.sha256(body).hexdigest()
            output = Output(uri=place.uri, sha256=digest, bytes=len(body), width=1, height=1, format="png")
        else:
            error = ErrorInfo(type=how, stage="decode", message=f"{row.id} is bad", permanent=True)
        record = Record(
            id=row.id, row=row.row, status=status, attempt=f"{shard}-0123456789ab", retry=retry_of(shard), error=error,
            output=output, prompt=row.prompt, source=row.image, mask=row.mask, seed=row.parameters.seed,
            started_at=moment, finished_at=moment,
        )  # fmt: skip
        storage.put(layout.record(shard, row.row), record.model_dump_json().encode(), if_absent=True)
        return record

    def ask(self, rows: str, manifest: Path | None = None, **options: Any) -> Again:
        return prepare_retry(self.workspace, str(manifest or self.manifest), "job", rows, JOB, **options)

    def rows(self, retry: RetryPlan) -> dict[str, list[PlannedRow]]:
        plan = self.workspace.plan("job")
        assert plan is not None
        return {shard.name: self.workspace.shard_rows(plan, shard.name) for shard in retry.shards}

    def finish_retry(self, again: Again, how: str = DONE, most: int = 99) -> None:
        assert again.retry is not None
        todo = [(shard, row) for shard, rows in self.rows(again.retry).items() for row in rows]
        for shard, row in todo[:most]:
            self.end(shard, row, how)

    def report(self) -> tuple[RunSummary, dict[str, Record]]:
        summary = finish(self.workspace, "job")
        body = self.workspace.storage.get(self.workspace.layout("job").results)
        records = [Record.model_validate_json(line) for line in body.splitlines()]
        return summary, {record.id: record for record in records}

    def objects(self) -> dict[str, bytes]:
        root = self.workspace.layout("job").root
        storage = self.workspace.storage
        return {info.location.key.removeprefix(root.key): storage.get(info.location) for info in storage.list(root)}


def ids(desk: Desk, again: Again) -> list[str]:
    """The rows that a retry does again."""
    return [] if again.retry is None else [row.id for rows in desk.rows(again.retry).values() for row in rows]
