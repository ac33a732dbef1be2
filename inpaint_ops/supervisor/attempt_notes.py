"""What an attempt leaves in the store of itself: how far it is, its workers' reports, its faults, why it stopped.

None of it decides anything: a note that cannot be stored costs no row.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field

from inpaint_ops.errors import InpaintOpsError
from inpaint_ops.layout import RunLayout
from inpaint_ops.records import AttemptFaults, ErrorInfo, Fault, ShardProgress, WorkerReport
from inpaint_ops.storage import Storage
from inpaint_ops.storage.stored import NOTE_BYTES, read_model
from inpaint_ops.supervisor.fault_tally import FaultTally

log = logging.getLogger(__name__)


@dataclass(slots=True)
class AttemptNotes:
    """Writes the notes of one attempt at one shard. Safe to call from several threads."""

    storage: Storage
    layout: RunLayout
    shard: str
    attempt: str
    faults: FaultTally = field(default_factory=FaultTally)
    repeated_before: int = 0
    """Requests that the storage had repeated before this attempt."""
    _stored_faults: tuple[Fault, ...] = ()

    def store_worker(self, name: str, report: WorkerReport) -> None:
        """Store a worker's report; best effort: a failure costs no row."""
        try:
            self.storage.put(
                self.layout.worker(name), report.model_dump_json().encode(), content_type="application/json"
            )
        except InpaintOpsError as error:
            log.warning("the report of worker %d could not be stored: %s", report.worker.pid, error)

    def store_profile(self, name: str, data: bytes) -> str:
        """Store the trace that a worker left; its URI. Raises StorageError."""
        place = self.layout.worker_profile(name)
        self.storage.put(place, data, content_type="application/gzip")
        return place.uri

    def store_progress(self, progress: ShardProgress) -> None:
        """Replace the shard's progress and, where there are new ones, this attempt's faults; best effort: they decide
        nothing.
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
        if faults != self._stored_faults:
            note = AttemptFaults(shard=self.shard, attempt=self.attempt, faults=faults).model_dump_json().encode()
            self.storage.put(self.layout.fault_note(self.attempt), note, content_type="application/json")
            self._stored_faults = faults

    def note_killed_attempt(self) -> None:
        """Count the attempt before this one, where it was killed: it could not report its end itself."""
        with contextlib.suppress(InpaintOpsError):
            place = self.layout.shard_progress(self.shard)
            last = read_model(self.storage, place, ShardProgress, max_bytes=NOTE_BYTES)
            if not last.is_over:
                self.faults.add(
                    "try_killed", f"{last.attempt} at '{last.phase}', last heard of {last.updated_at:%H:%M:%S} UTC"
                )

    def record_stop_reason(self, error: InpaintOpsError) -> None:
        """Store why this attempt stopped, for the report; best effort."""
        note = ErrorInfo.of(error, "worker").model_dump_json().encode()
        with contextlib.suppress(InpaintOpsError):
            self.storage.put(self.layout.stop_note(self.attempt), note, content_type="application/json")
