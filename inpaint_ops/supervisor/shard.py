"""One attempt at one shard: the loop that keeps downloads ahead, the worker fed, and every row on its way to a record.

The row book (`rows.py`) decides which row is where and which one goes next, and does nothing else. `workers.py` has the
worker, `row_ends.py` the ends of rows. What takes time is done in threads (`transfers.py`) and comes back as a message
(`messages.py`): the loop waits for messages alone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from inpaint_ops.config import Settings
from inpaint_ops.errors import DrainedError, InpaintOpsError, ShardIncompleteError, ShardTimeoutError
from inpaint_ops.layout import RunLayout
from inpaint_ops.machine.scratch import scratch_folder, sweep
from inpaint_ops.planning import JobOptions, PlannedRow
from inpaint_ops.protocol import unit_name
from inpaint_ops.records import ErrorInfo, ShardProgress
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.signing import signing_of
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor.ahead import RowsAhead, in_order, limits
from inpaint_ops.supervisor.attempt import Attempt, Drain
from inpaint_ops.supervisor.attempt_notes import AttemptNotes
from inpaint_ops.supervisor.confinement import Identity, identity
from inpaint_ops.supervisor.messages import Downloaded, Message, Recorded, RowFiles
from inpaint_ops.supervisor.progress import Progress, Reporter, ShardResult
from inpaint_ops.supervisor.recorder import Recorder
from inpaint_ops.supervisor.row_ends import RowEnds
from inpaint_ops.supervisor.rows import RowBook, RowPhase
from inpaint_ops.supervisor.transfers import Transfers
from inpaint_ops.supervisor.workers import Workers
from inpaint_ops.variants import Unit, units_of
from inpaint_ops.wording import counted

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ShardRun:
    """One attempt at one shard. Call `run` once, in a thread that lives at least as long: a worker dies with it."""

    storage: Storage
    layout: RunLayout
    shard: str
    rows: Sequence[PlannedRow]
    job: JobOptions
    settings: Settings
    final_attempt: bool = False
    on_progress: Callable[[Progress], None] = lambda progress: log.info("%s", progress)
    worker_command: Sequence[str] | None = None

    _attempt: Attempt = field(init=False)
    _inbox: queue.Queue[Message] = field(init=False, default_factory=queue.Queue)
    _identity: Identity | None = field(init=False)
    _ends: RowEnds = field(init=False)
    _ahead: RowsAhead = field(init=False)
    _workers: Workers | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        name = f"{self.shard}-{uuid.uuid4().hex[:12]}"
        notes = AttemptNotes(self.storage, self.layout, self.shard, name, repeated_before=self.storage.repeated)
        recorder = Recorder(
            self.storage, self.layout, self.shard, name, notes.faults,
            rows={row.row: row for row in self.rows}, record_bytes=row_bytes(self.settings),
            signing=signing_of(self.settings), provenance=self.settings.provenance,
            pick=self.job.pick,
        )  # fmt: skip
        self._identity = identity(self.settings.worker_user)
        self._attempt = Attempt(
            name,
            self.shard,
            self.final_attempt,
            self.settings,
            recorder,
            notes,
            Transfers(self.storage, self.settings, self._inbox.put, self._identity),
            Reporter(notes, len(self.rows), self.settings.progress_interval),
            Drain(self.settings.grace),
            RowBook((), limits(self.settings)),
        )
        self._ends = RowEnds(self._attempt)

    def run(self) -> ShardResult:
        """Bring every row of the shard to a record.

        Raises ShardIncompleteError where transient errors left rows without one (the final attempt records them as
        failed, unless not even that can be stored), DrainedError after `drain`, and whatever keeps the worker from
        working at all: ModelError, DeviceError, WorkerDiedError, StorageError.
        """
        attempt, started = self._attempt, time.monotonic()
        recorder, notes, tally = attempt.recorder, attempt.notes, attempt.reporter.tally
        sweep(self.settings.scratch)
        recorded = attempt.transfers.patiently(recorder.recorded_units)
        notes.note_killed_attempt()
        units = chain.from_iterable(map(units_of, self.rows))
        missing = [unit for unit in units if unit.number not in recorded]
        tally.skipped = len(self.rows) - len({unit.row.row for unit in missing})
        if missing:
            try:
                self._paint(missing)
            except InpaintOpsError as error:
                notes.record_stop_reason(error)
                notes.store_progress(self._snapshot("stopped"))
                raise
        notes.store_progress(self._snapshot("finished"))
        recorder.store_compacted()
        workers = self._workers.started if self._workers else 0
        return ShardResult(
            self.shard, tally.done, tally.failed, tally.skipped, workers, seconds=time.monotonic() - started
        )

    def drain(self) -> None:
        """Have `run` come to an end: no further row is begun, and those in the worker get the grace time.

        Safe to call from a signal handler. The second call takes what is left of the grace.
        """
        self._attempt.drain.ask()
        self._attempt.transfers.stop.set()

    def _paint(self, missing: Sequence[Unit]) -> None:
        attempt = self._attempt
        if attempt.recorder.signing is not None:
            attempt.recorder.signing.check()
        with scratch_folder(self.settings.scratch, f"{self.layout.run}-{attempt.name}") as scratch:
            workers = self._set_up(missing, scratch)
            try:
                workers.start()
                self._loop(workers)
                workers.end()
                self.on_progress(self._progress())
            finally:
                workers.kill()
                attempt.transfers.close()
        waiting = len({attempt.files[number].row.row for number in (*attempt.book.open_rows(), *attempt.left)})
        if attempt.drain.is_asked and waiting:
            left = counted(waiting, "row is", "rows are")
            raise DrainedError(f"shard {self.shard} was asked to stop; {left} left to another attempt")
        if attempt.left:
            number, error = next(iter(attempt.left.items()))
            wait = counted(waiting, "row waits", "rows wait")
            raise ShardIncompleteError(
                f"shard {self.shard}: {wait} for another attempt; row {unit_name(number)}: {error}"
            )

    def _set_up(self, missing: Sequence[Unit], scratch: Path) -> Workers:
        """Give each row, or each of its variants, a folder below `scratch`, and put all in the book."""
        attempt = self._attempt
        attempt.files = {unit.number: RowFiles(unit, scratch / _folder(unit)) for unit in in_order(missing)}
        attempt.book = RowBook(attempt.files, limits(self.settings))
        self._ahead = RowsAhead(attempt.book, self.settings)
        self._workers = Workers(
            attempt, self._ends, self._ahead, self.job, scratch, self._inbox, self._identity, self.worker_command
        )
        return self._workers

    def _loop(self, workers: Workers) -> None:
        """Until every row has ended, or, after `drain`, the worker is empty."""
        attempt, book = self._attempt, self._attempt.book
        published = started = time.monotonic()
        self._publish()
        while book.open_count and not self._is_drained():
            if attempt.drain.is_asked:
                workers.flush()
            else:
                self._start_downloads()
                workers.feed()
            due = published + self.settings.progress_interval - time.monotonic()
            with contextlib.suppress(queue.Empty):
                self._handle(self._inbox.get(timeout=min(max(due, 0.05), 1.0)), workers)
            workers.check_silence()
            self._check_time(started, workers)
            if time.monotonic() >= published + self.settings.progress_interval:
                published = time.monotonic()
                self.on_progress(self._progress())
                self._publish()

    def _is_drained(self) -> bool:
        """Whether all is done that `drain` leaves to do, or its time is up."""
        drain, book = self._attempt.drain, self._attempt.book
        is_busy = book.in_phase(RowPhase.IN_WORKER) or book.in_phase(RowPhase.RECORDING)
        return drain.is_asked and (not is_busy or drain.is_over)

    def _start_downloads(self) -> None:
        while (number := self._attempt.book.next_download()) is not None:
            self._attempt.transfers.download(self._attempt.files[number])

    def _handle(self, message: Message, workers: Workers) -> None:
        match message:
            case Downloaded():
                self._on_downloaded(message)
            case Recorded():
                self._ends.on_recorded(message, workers.session)
            case _:
                workers.handle(message)

    def _on_downloaded(self, message: Downloaded) -> None:
        attempt, number = self._attempt, message.row
        if number not in attempt.book.in_phase(RowPhase.DOWNLOADING):
            attempt.remove_files(number)  # another attempt has recorded it meanwhile
            return
        files = attempt.files[number]
        files.download = message.seconds
        if message.error is None:
            self._ahead.downloaded(files)
        else:
            self._ends.failed(number, ErrorInfo.of(message.error, "download"), None)

    def _check_time(self, started: float, workers: Workers) -> None:
        """Stop at the time limit, whatever the worker does: rows without a record wait, on the last attempt as well,
        for they have not failed.
        """
        limit, left = self.settings.shard_timeout, self._attempt.book.open_count
        if time.monotonic() < started + limit or not left:
            return
        workers.kill("the attempt was out of time")
        raise ShardTimeoutError(
            f"shard {self.shard}: {counted(left, 'row was', 'rows were')} not done within {limit:g} s, the limit "
            "(INPAINT_SHARD_TIMEOUT); another attempt does only these"
        )

    def _progress(self) -> Progress:
        session = self._workers.session if self._workers else None
        return self._attempt.reporter.progress(session, self._attempt.book.open_count)

    def _snapshot(self, phase: str | None = None) -> ShardProgress:
        session, book = self._workers.session if self._workers else None, self._attempt.book
        painting = bool(book.in_phase(RowPhase.IN_WORKER))
        return self._attempt.reporter.snapshot(session, book.open_count, painting=painting, phase=phase)

    def _publish(self) -> None:
        """Store how far the shard is, in a thread."""
        self._attempt.transfers.publish(partial(self._attempt.notes.store_progress, self._snapshot()))


def _folder(unit: Unit) -> str:
    return f"{unit.row.row:07d}" + ("" if unit.variant is None else f".{unit.variant}")
