"""How a row ends in the store: its image first, then its one record. Used by the supervisor's upload threads."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inpaint_ops.errors import InpaintOpsError, ObjectExistsError
from inpaint_ops.layout import RunLayout
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions, parameters
from inpaint_ops.protocol import Done, Failed
from inpaint_ops.records import (
    ErrorInfo,
    Fault,
    FaultKind,
    Output,
    Record,
    ShardProgress,
    Status,
    Timings,
    TryFaults,
    WorkerInfo,
    WorkerReport,
    now,
)
from inpaint_ops.storage import Storage

log = logging.getLogger(__name__)


class FaultTally:
    """What a try has got over so far. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[FaultKind, Fault] = {}

    def add(self, kind: FaultKind, what: str = "") -> None:
        """Count one more; `what` is it in words."""
        with self._lock:
            count = self._faults[kind].count if kind in self._faults else 0
            self._faults[kind] = Fault(kind=kind, count=count + 1, what=what[:500])

    def all(self) -> tuple[Fault, ...]:
        """Each kind that there was, once."""
        with self._lock:
            return tuple(self._faults.values())


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes what one try of one shard has to say. Safe to call from several threads."""

    storage: Storage
    layout: RunLayout
    shard: str
    job: JobOptions
    attempt: str
    faults: FaultTally = field(default_factory=FaultTally)
    repeated_before: int = 0
    """Requests that the storage had repeated before this try."""
    _told: list[tuple[Fault, ...]] = field(default_factory=lambda: [()])

    def recorded_rows(self) -> set[int]:
        """The rows of the shard that have ended, by whichever try."""
        prefix = self.layout.shard_records(self.shard)
        return {int(info.location.name.removesuffix(".json")) for info in self.storage.list(prefix)}

    def store_done(
        self, row: AcceptedRow, event: Done, worker: WorkerInfo, *, batch_id: str, download: float | None
    ) -> Record:
        """Upload the image, then commit its record.

        An image is written once: one that a dead try left behind is taken as it is, so that a record never names a
        digest that another try replaced. Raises StorageError.
        """
        started = time.monotonic()
        location = self.layout.image(row.id, event.extension)
        digest, size = event.sha256, event.bytes
        try:
            self.storage.put(location, Path(event.output), if_absent=True, content_type=event.media_type)
        except ObjectExistsError:
            self.faults.add("image_adopted", location.name)
            present = self.storage.get(location)
            digest, size = hashlib.sha256(present).hexdigest(), len(present)
        output = Output(
            uri=location.uri, sha256=digest, bytes=size, width=event.width, height=event.height, format=event.format
        )
        record = self._record(
            row,
            "done",
            event.started_at,
            output=output,
            steps=event.steps,
            working_size=event.working_size,
            conversions=event.conversions,
            change=event.change,
            batch=event.batch.model_copy(update={"id": batch_id}),
            timings=event.timings.model_copy(update={"download": download, "upload": time.monotonic() - started}),
            memory=event.memory,
            worker=worker,
        )
        self._commit(record)
        return record

    def store_failed(
        self,
        row: AcceptedRow,
        error: ErrorInfo,
        event: Failed | None,
        worker: WorkerInfo | None,
        *,
        download: float | None,
    ) -> Record:
        """Commit the record of a row that has no image. Raises StorageError."""
        timings = (event.timings if event else Timings()).model_copy(update={"download": download})
        started_at = event.started_at if event else now()
        change = event.change if event else None
        record = self._record(row, "failed", started_at, error=error, change=change, timings=timings, worker=worker)
        self._commit(record)
        return record

    def store_worker(self, name: str, report: WorkerReport) -> None:
        """Keep what a worker said of itself; best effort: it costs no row."""
        try:
            self.storage.put(
                self.layout.worker(name), report.model_dump_json().encode(), content_type="application/json"
            )
        except InpaintOpsError as error:
            log.warning("the report of worker %d could not be stored: %s", report.worker.pid, error)

    def store_progress(self, progress: ShardProgress) -> None:
        """Replace the shard's word on how far it is, and that on what went wrong, where there is news; best effort:
        they decide nothing.
        """
        with contextlib.suppress(InpaintOpsError):
            body = progress.model_dump_json().encode()
            self.storage.put(self.layout.shard_progress(self.shard), body, content_type="application/json")
        with contextlib.suppress(InpaintOpsError):
            self._store_faults()

    def _store_faults(self) -> None:
        faults = self.faults.all()
        if (repeated := self.storage.repeated - self.repeated_before) > 0:
            faults += (Fault(kind="storage_repeated", count=repeated),)
        if faults != self._told[0]:
            note = TryFaults(shard=self.shard, attempt=self.attempt, faults=faults).model_dump_json().encode()
            self.storage.put(self.layout.fault_note(self.attempt), note, content_type="application/json")
            self._told[0] = faults

    def note_killed_try(self) -> None:
        """Count the try before this one, where it was killed: nobody else can tell, for it left no word of its end."""
        with contextlib.suppress(InpaintOpsError, ValidationError):
            said = ShardProgress.model_validate_json(self.storage.get(self.layout.shard_progress(self.shard)))
            if not said.is_over:
                self.faults.add(
                    "try_killed", f"{said.attempt} at '{said.phase}', last heard of {said.updated_at:%H:%M:%S} UTC"
                )

    def leave_word(self, error: InpaintOpsError) -> None:
        """Say in the run's folder why this try stopped, for the report; best effort."""
        note = ErrorInfo.of(error, "worker").model_dump_json().encode()
        with contextlib.suppress(InpaintOpsError):
            self.storage.put(self.layout.stop_note(self.attempt), note, content_type="application/json")

    def _record(self, row: AcceptedRow, status: Status, started_at: datetime, **fields: Any) -> Record:
        chosen = parameters(row, self.job)
        return Record(
            id=row.id,
            row=row.row,
            status=status,
            attempt=self.attempt,
            prompt=row.prompt,
            seed=chosen.seed,
            steps_requested=chosen.steps,
            guidance_scale=chosen.guidance_scale,
            strength=chosen.strength,
            source=row.image,
            mask=row.mask,
            mask_channel=row.mask_channel,
            mask_threshold=row.mask_threshold,
            mask_invert=row.mask_invert,
            started_at=started_at,
            finished_at=now(),
            extra=row.extra,
            **fields,
        )

    def _commit(self, record: Record) -> None:
        """Put the record if absent: where another try has already ended the row, that record stands."""
        body = record.model_dump_json().encode()
        with contextlib.suppress(ObjectExistsError):
            self.storage.put(
                self.layout.record(self.shard, record.row), body, if_absent=True, content_type="application/json"
            )
