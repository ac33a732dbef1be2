"""How rows end: recorded as done or failed, left to another attempt, or refused and painted again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from inpaint_ops.errors import InpaintOpsError, SigningError, WorkerProtocolError
from inpaint_ops.protocol import Done, Failed, unit_name
from inpaint_ops.records import ErrorInfo, Record, WorkerInfo
from inpaint_ops.supervisor import row_log
from inpaint_ops.supervisor.attempt import Attempt
from inpaint_ops.supervisor.commands import expected_output
from inpaint_ops.supervisor.messages import Recorded, RowFiles
from inpaint_ops.supervisor.received import Expected
from inpaint_ops.supervisor.session import WorkerSession

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowEnds:
    """The ends of an attempt's rows. Records are written in threads; how that went comes back as a Recorded."""

    attempt: Attempt

    def painted(self, session: WorkerSession, event: Done) -> None:
        """The worker of `session` has painted a row: its image and its record are stored in a thread."""
        assert session.ready is not None  # conduct saw to it
        attempt = self.attempt
        attempt.book.painted(event.row)
        attempt.reporter.tally.painted += 1
        session.painted += 1
        files = attempt.files[event.row]
        files.painted_by = session.number
        expected = expected_output(files, attempt.settings, session.process.user)
        batch_id = f"{attempt.name}-{session.number}-{event.batch.id}"
        event = event.model_copy(update={"log": row_log.kept((*attempt.said.get(event.row, ()), *event.log))})
        write = partial(self._store_done, files, event, session.ready.worker, expected, batch_id)
        attempt.transfers.record(files, write)

    def _store_done(
        self, files: RowFiles, event: Done, worker: WorkerInfo, expected: Expected, batch_id: str
    ) -> Record:
        """The row's record: done, or failed where its image cannot be signed, now or on the last attempt."""
        recorder, row = self.attempt.recorder, files.row
        try:
            return recorder.store_done(
                row, event, worker, expected, batch_id=batch_id, download=files.download, variant=files.unit.variant
            )
        except SigningError as error:
            if not error.permanent and not self.attempt.is_final:
                raise
            log.warning("row %d (%s) failed at encode: %s", row.row, row.id, error)
            info = ErrorInfo.of(error, "encode")
            return recorder.store_failed(
                row, info, None, worker, download=files.download, variant=files.unit.variant, said=event.log
            )

    def failed(self, number: int, error: ErrorInfo, session: WorkerSession | None, event: Failed | None = None) -> None:
        """The row has no image; `event` is what the worker of `session` reported, where it was the worker's failure.

        A transient error leaves the row to another attempt at the shard, unless this is the last.
        """
        attempt = self.attempt
        if error.permanent or (attempt.is_final and not attempt.drain.is_asked):
            attempt.book.failed(number)
            self._write_failure(number, error, session, event)
        else:
            row = attempt.files[number].row
            log.warning("row %s (%s): %s; it waits for another attempt", unit_name(number), row.id, error.message)
            self._leave(number, error.message)

    def blamed(self, number: int, error: InpaintOpsError) -> None:
        """The row ended workers while it was alone in them: its failure is final.

        So is that of its variants that have not reached the worker: they have the same files.
        """
        attempt = self.attempt
        row = attempt.files[number].row.row
        same = [other for other, files in attempt.files.items() if files.row.row == row and other != number]
        others = attempt.book.skip(same) if same else []
        for other in others:
            attempt.remove_files(other)
        final = ErrorInfo.of(error, "worker").model_copy(update={"permanent": True})
        self._write_failure(number, final, others=others)

    def skip(self, units: frozenset[int]) -> None:
        """Other attempts have recorded these: those that have not reached the worker end here."""
        attempt = self.attempt
        skipped = set()
        for number in attempt.book.skip(units):
            skipped.add(attempt.files[number].row.row)
            attempt.remove_files(number)
        left = {files.row.row for number, files in attempt.files.items() if number not in units} if skipped else set()
        attempt.reporter.tally.skipped += len(skipped - left)

    def on_recorded(self, message: Recorded, session: WorkerSession | None) -> None:
        """A row's record is stored, or could not be; `session` is the worker that runs now.

        Raises what kept a record from being stored and would do so in another attempt too.
        """
        attempt = self.attempt
        if isinstance(message.error, WorkerProtocolError):
            self._on_refused(message.row, str(message.error), session)
        elif message.error is not None:
            # Nothing could be stored of this row: only another attempt can end it.
            info = ErrorInfo.of(message.error, "upload")
            log.warning("row %s: its result could not be stored: %s", unit_name(message.row), info.message)
            if info.permanent:
                raise message.error
            self._leave(message.row, info.message)
        else:
            is_done = message.status == "done"
            attempt.book.recorded(message.row, done=is_done)
            row = attempt.files[message.row].row.row
            if message.ends_row and row not in attempt.ended:  # two of its variants may end at once
                attempt.ended.add(row)
                attempt.reporter.tally.done += is_done
                attempt.reporter.tally.failed += not is_done

    def _on_refused(self, number: int, why: str, session: WorkerSession | None) -> None:
        """A worker's output is not what it was asked for: the worker is killed, with this row still in it."""
        attempt = self.attempt
        if session is not None and session.number == attempt.files[number].painted_by:
            attempt.book.refused(number)
            attempt.say(number, f"its image was refused: {why}")
            session.distrust(why)  # its exit comes through the inbox
            return
        attempt.reporter.fault("worker_died", f"a worker that is gone: {why}")
        if attempt.book.refused_later(number):
            self.blamed(number, WorkerProtocolError(f"{why}: the row is set aside"))
        else:
            attempt.remove_files(number)

    def _leave(self, number: int, why: str) -> None:
        self.attempt.book.leave(number)
        self.attempt.left[number] = why
        self.attempt.remove_files(number)

    def _write_failure(
        self,
        number: int,
        error: ErrorInfo,
        session: WorkerSession | None = None,
        event: Failed | None = None,
        others: Sequence[int] = (),
    ) -> None:
        """Have the failure recorded; `others` are variants of the same row that end with it."""
        attempt, files = self.attempt, self.attempt.files[number]
        log.warning("row %s (%s) failed at %s: %s", unit_name(number), files.row.id, error.stage, error.message)
        worker = session.ready.worker if event and session and session.ready else None
        said = row_log.kept((*attempt.said.get(number, ()), *(event.log if event else ())))

        def write() -> Record:
            store = attempt.recorder.store_failed
            for other in others:
                store(
                    attempt.files[other].row,
                    error,
                    None,
                    None,
                    download=None,
                    variant=attempt.files[other].unit.variant,
                )
            return store(
                files.row, error, event, worker, download=files.download, variant=files.unit.variant, said=said
            )

        attempt.transfers.record(files, write)
