"""One attempt at one shard: the loop that keeps downloads ahead, the worker fed, and every row on its way to a record.

The row book (`rows.py`) decides which row is where and which one goes next, and does nothing else. What takes time is
done in threads (`transfers.py`) and comes back as a message (`messages.py`): the loop waits for messages alone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    DeviceLostError,
    DrainedError,
    InpaintOpsError,
    ShardIncompleteError,
    ShardTimeoutError,
    WorkerDiedError,
    WorkerProtocolError,
    WorkerStalledError,
    error_class,
)
from inpaint_ops.layout import RunLayout
from inpaint_ops.machine.scratch import remove, scratch_folder, sweep
from inpaint_ops.planning import JobOptions, PlannedRow
from inpaint_ops.protocol import Begun, Bye, Done, Event, Failed, Fatal, Phase, Ready, Step, Warn
from inpaint_ops.records import ErrorInfo, ShardProgress
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor.ahead import group_of, in_order, limits
from inpaint_ops.supervisor.commands import expected_output, item_command, job_command
from inpaint_ops.supervisor.confinement import Identity, identity
from inpaint_ops.supervisor.messages import Downloaded, Exited, FromWorker, Message, Recorded, RecordsListed, RowFiles
from inpaint_ops.supervisor.progress import Progress, Reporter, ShardResult
from inpaint_ops.supervisor.recorder import Recorder
from inpaint_ops.supervisor.rows import RowBook, RowPhase
from inpaint_ops.supervisor.session import WorkerSession
from inpaint_ops.supervisor.transfers import Transfers

log = logging.getLogger(__name__)

EXIT_SECONDS = 60.0
"""How long a worker may take to exit once its work is done; then it is killed."""


@dataclass(slots=True)
class ShardRun:
    """One attempt at one shard. Call `run` once, from the main thread: a worker dies with the thread that starts it."""

    storage: Storage
    layout: RunLayout
    shard: str
    rows: Sequence[PlannedRow]
    job: JobOptions
    settings: Settings
    final_attempt: bool = False
    on_progress: Callable[[Progress], None] = lambda progress: log.info("%s", progress)
    worker_command: Sequence[str] | None = None

    attempt: str = field(init=False)
    _recorder: Recorder = field(init=False)
    _transfers: Transfers = field(init=False)
    _inbox: queue.Queue[Message] = field(init=False, default_factory=queue.Queue)
    _scratch: Path = field(init=False)
    _book: RowBook = field(init=False)
    _files: dict[int, RowFiles] = field(init=False, default_factory=dict)
    _left: dict[int, str] = field(init=False, default_factory=dict)
    """Rows that are left to another attempt, and why."""
    _native_size: int | None = field(init=False, default=None)
    """The model's, once a worker has reported it."""
    _groups: set[Hashable] = field(init=False, default_factory=set)
    """The groups of rows that were downloaded so far."""
    _session: WorkerSession | None = field(init=False, default=None)
    _sessions: int = field(init=False, default=0)
    _reporter: Reporter = field(init=False)
    _drained_by: float | None = field(init=False, default=None)
    _identity: Identity | None = field(init=False)

    def __post_init__(self) -> None:
        self.attempt = f"{self.shard}-{uuid.uuid4().hex[:12]}"
        self._recorder = Recorder(
            self.storage, self.layout, self.shard, self.attempt, repeated_before=self.storage.repeated,
            rows={row.row: row for row in self.rows}, record_bytes=row_bytes(self.settings),
        )  # fmt: skip
        self._reporter = Reporter(self._recorder, len(self.rows), self.settings.progress_interval)
        self._identity = identity(self.settings.worker_user)
        self._transfers = Transfers(self.storage, self.settings, self._inbox.put, self._identity)
        self._book = RowBook((), limits(self.settings))

    def run(self) -> ShardResult:
        """Bring every row of the shard to a record.

        Raises ShardIncompleteError where transient errors left rows without one (the final attempt records them as
        failed, unless not even that can be stored), DrainedError after `drain`, and whatever keeps the worker from
        working at all: ModelError, DeviceError, WorkerDiedError, StorageError.
        """
        started = time.monotonic()
        sweep(self.settings.scratch)
        recorded = self._transfers.patiently(self._recorder.recorded_rows)
        self._recorder.note_killed_attempt()
        missing = [row for row in self.rows if row.row not in recorded]
        self._reporter.tally.skipped = len(self.rows) - len(missing)
        if missing:
            try:
                self._work(missing)
            except InpaintOpsError as error:
                self._recorder.record_stop_reason(error)
                self._recorder.store_progress(self._snapshot("stopped"))
                raise
        self._recorder.store_progress(self._snapshot("finished"))
        tally, seconds = self._reporter.tally, time.monotonic() - started
        return ShardResult(self.shard, tally.done, tally.failed, tally.skipped, self._sessions, seconds)

    def drain(self) -> None:
        """Have `run` come to an end: no further row is begun, and those in the worker get the grace time.

        Safe to call from a signal handler. The second call takes what is left of the grace.
        """
        first = self._drained_by is None
        self._drained_by = time.monotonic() + (self.settings.grace if first else 0.0)
        self._transfers.stop.set()

    # -- the loop -------------------------------------------------------------------------------------------------

    def _work(self, missing: Sequence[PlannedRow]) -> None:
        with scratch_folder(self.settings.scratch, f"{self.layout.run}-{self.attempt}") as self._scratch:
            self._files = {row.row: RowFiles(row, self._scratch / f"{row.row:07d}") for row in in_order(missing)}
            self._book = RowBook(self._files, limits(self.settings))
            try:
                self._start_worker()
                self._loop()
                self._end_worker()
                self.on_progress(self._progress())
            finally:
                if self._session is not None:
                    self._session.process.kill()
                self._transfers.close()
        waiting = self._book.open_count + len(self._left)
        if self._drained_by is not None and waiting:
            raise DrainedError(f"shard {self.shard} was asked to stop; {waiting} rows are left to another attempt")
        if self._left:
            number, error = next(iter(self._left.items()))
            raise ShardIncompleteError(
                f"shard {self.shard}: {len(self._left)} rows wait for another attempt; row {number}: {error}"
            )

    def _loop(self) -> None:
        """Until every row has ended, or, after `drain`, the worker is empty."""
        published = started = time.monotonic()
        self._publish()
        while self._book.open_count and not self._is_drained():
            if self._drained_by is None:
                self._start_downloads()
                self._feed_worker()
            due = published + self.settings.progress_interval - time.monotonic()
            with contextlib.suppress(queue.Empty):
                self._handle(self._inbox.get(timeout=min(max(due, 0.05), 1.0)))
            self._check_worker_moves()
            self._check_time(started)
            if time.monotonic() >= published + self.settings.progress_interval:
                published = time.monotonic()
                self.on_progress(self._progress())
                self._publish()

    def _is_drained(self) -> bool:
        """Whether all is done that `drain` leaves to do, or its time is up."""
        if self._drained_by is None:
            return False
        session = self._session
        has_rows = session is not None and session.ready is not None and self._worker_has_rows()
        if session is not None and has_rows:
            session.flush()
        return not (has_rows or self._book.in_phase(RowPhase.RECORDING)) or time.monotonic() >= self._drained_by

    def _handle(self, message: Message) -> None:
        session = self._session
        current = session.number if session else None
        match message:
            case Downloaded():
                self._on_downloaded(message)
            case Recorded():
                self._on_recorded(message)
            case RecordsListed(number, rows) if number == current and session is not None:
                self._on_records_listed(session, rows)
            case FromWorker(number, event) if number == current and session is not None:
                if session.heed(event, self._book.in_worker()):
                    self._on_event(session, event)
            case Exited(number, returncode) if number == current and session is not None:
                self._on_worker_exit(session, returncode)
            case _:
                pass  # from a worker that is gone

    # -- progress -----------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        return self._reporter.progress(self._session, self._book.open_count)

    def _snapshot(self, phase: str | None = None) -> ShardProgress:
        session = self._session
        painting = session is not None and session.ready is not None and self._worker_has_rows()
        return self._reporter.snapshot(session, self._book.open_count, painting=painting, phase=phase)

    def _publish(self) -> None:
        """Store how far the shard is."""
        self._transfers.publish(partial(self._recorder.store_progress, self._snapshot()))

    # -- downloads ------------------------------------------------------------------------------------------------

    def _start_downloads(self) -> None:
        while (number := self._book.next_download()) is not None:
            self._transfers.download(self._files[number])

    def _on_downloaded(self, message: Downloaded) -> None:
        number = message.row
        if number not in self._book.in_phase(RowPhase.DOWNLOADING):
            self._remove_files(number)  # another attempt has recorded it meanwhile
            return
        files = self._files[number]
        files.download = message.seconds
        if message.error is None:
            group = group_of(files, self._native_size)
            width, height = files.size or (0, 0)
            self._book.downloaded(number, size=files.bytes, pixels=width * height, group=group)
            self._note_group(group)
        else:
            self._fail(number, ErrorInfo.of(message.error, "download"))

    # -- the worker -----------------------------------------------------------------------------------------------

    def _worker_has_rows(self) -> bool:
        return bool(self._book.in_phase(RowPhase.IN_WORKER))

    def _start_worker(self) -> None:
        self._sessions += 1
        number = self._sessions
        folder = self._scratch / f"worker-{number}"
        self._session = WorkerSession.start(
            number,
            folder=folder,
            job=job_command(self.job, self.settings, [self._files[row] for row in self._book.open_rows()], folder),
            on_event=lambda event: self._inbox.put(FromWorker(number, event)),
            on_exit=lambda code: self._inbox.put(Exited(number, code)),
            command=self.worker_command,
            pending=self._inbox.qsize,
            identity=self._identity,
            settings=self.settings,
        )

    def _feed_worker(self) -> None:
        session = self._session
        if session is None or not session.may_paint:
            return
        while (number := self._book.next_for_worker()) is not None:
            session.give(item_command(self._files[number]))
        if self._worker_has_rows() and self._book.should_flush:
            session.flush()

    def _on_event(self, session: WorkerSession, event: Event) -> None:
        match event:
            case Phase():
                session.phase = f"{event.name}: {event.detail}" if event.detail else event.name
                log.info("worker %d: %s", session.process.pid, session.phase)
            case Ready():
                self._on_ready(session, event)
            case Begun():
                self._book.begun(event.rows, event.stage)
                if event.stage == "paint":
                    self._reporter.tally.begin()
            case Done():
                self._on_done(session, event)
            case Failed():
                session.flushed = False
                self._fail(event.row, event.error, event)
            case Warn():
                if event.fault is None:
                    self._reporter.warn(event.message)
                else:
                    self._reporter.fault(event.fault, event.message)
            case Fatal():
                error = _our_error(event.error)
                if session.ready is None:  # it has seen no row yet: this is the machine's or the model's trouble
                    raise error
                if isinstance(error, DeviceLostError):
                    session.device_lost = event.error.message
                else:
                    session.distrust(f"it stopped: {event.error.type}: {event.error.message}")
            case Step() | Bye():
                pass  # `heed` has noted it; `_end_worker` waits for Bye

    def _note_group(self, group: Hashable) -> None:
        """Hold more rows where they fall into more groups, so that one of these has a whole batch."""
        if group not in self._groups:
            self._groups.add(group)
            self._book.limits = limits(self.settings, batch=self._book.limits.batch, groups=len(self._groups))

    def _on_ready(self, session: WorkerSession, event: Ready) -> None:
        session.set_ready(event)
        self._native_size = event.native_size
        self._groups.clear()
        for number in self._book.in_phase(RowPhase.READY):
            group = group_of(self._files[number], self._native_size)
            self._book.set_group(number, group)
            self._groups.add(group)
        self._book.limits = limits(self.settings, batch=event.batch_size, groups=len(self._groups))
        self._transfers.message(partial(self._list_records, session.number))
        session.look_at_device(self._transfers.background)
        name, device, seconds = event.model.name, event.device.name, event.cold_start.total
        log.info("worker %d: %s on %s, ready after %.1f s", session.process.pid, name, device, seconds)
        if event.model.random_weights:
            log.warning("%s has random weights: the images mean nothing", name)
        for entry in event.ledger:
            if not entry.matches:
                log.warning("%s: %s asked, %s in force: %s", entry.name, entry.requested, entry.effective, entry.reason)

    def _list_records(self, session: int) -> RecordsListed:
        """What has a record by now: another attempt may have held the device until the worker got it."""
        with contextlib.suppress(InpaintOpsError):  # painting a row again wastes time and does no harm
            return RecordsListed(session, frozenset(self._recorder.recorded_rows()))
        return RecordsListed(session, frozenset())

    def _on_records_listed(self, session: WorkerSession, rows: frozenset[int]) -> None:
        for number in self._book.skip(rows):
            self._reporter.tally.skipped += 1
            self._remove_files(number)
        session.may_paint = True

    def _check_worker_moves(self) -> None:
        session = self._session
        silent = session.silence(self.settings, has_rows=self._worker_has_rows()) if session else None
        if session is not None and silent is not None:
            what = f"worker {session.process.pid} sent nothing for {silent:.0f} s at '{session.phase}'"
            self._reporter.fault("worker_stalled", what)
            session.process.stalled = True
            session.process.kill()  # its exit comes through the inbox

    def _check_time(self, started: float) -> None:
        """Stop at the time limit, whatever the worker does: rows without a record wait, on the last attempt as well,
        for they have not failed.
        """
        limit, left = self.settings.shard_timeout, self._book.open_count
        if time.monotonic() < started + limit or not left:
            return
        if self._session is not None:
            self._session.process.kill()
            self._store_report(self._session, "killed: the attempt was out of time")
            self._session = None
        raise ShardTimeoutError(
            f"shard {self.shard}: {left} rows were not done within {limit:g} s, the limit "
            "(INPAINT_SHARD_TIMEOUT); another attempt does only them"
        )

    def _on_worker_exit(self, session: WorkerSession, returncode: int) -> None:
        """A worker is gone before its work is done: find out which row it was, and go on without that one."""
        self._session = None
        how = session.device_lost or session.process.describe_exit(returncode)
        kind = (
            WorkerStalledError if session.process.stalled
            else WorkerProtocolError if session.process.fault
            else WorkerDiedError
        )  # fmt: skip
        end = self._book.worker_ended(session.device if session.device_lost else "")
        if not session.process.stalled:
            what = f"worker {session.process.pid} ended ({how}) while it held {len(end.suspects)} rows"
            self._reporter.fault("worker_died", what)
        self._store_report(session, how)
        if end.blamed is not None:
            error = kind(f"the worker ended ({how}) while it held only this row: the row is set aside")
            self._write_failure(end.blamed, _permanent(error), None)
        for number in end.again:  # the worker could write to their files
            self._remove_files(number)
        ended = self._book.fruitless_workers
        if ended >= self.settings.worker_deaths:
            many = "1 worker" if ended == 1 else f"{ended} workers"
            raise kind(
                f"{many} in a row ended without finishing a row, the limit (INPAINT_WORKER_DEATHS); the last: {how}"
            )
        if self._drained_by is None and self._book.has_work:
            self._start_worker()

    def _end_worker(self) -> None:
        """Let the worker end by itself, so that its report holds what it measured."""
        session = self._session
        if session is None:
            return
        deadline, how = time.monotonic() + EXIT_SECONDS, "killed: it did not end when asked"
        if self._worker_has_rows():  # drained, and its rows have outlasted the grace
            deadline, how = time.monotonic(), "killed: asked to stop"
        else:
            session.end()
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                match self._inbox.get(timeout=1):
                    case FromWorker(number, event) if number == session.number:
                        if session.heed(event, self._book.in_worker()) and isinstance(event, Bye):
                            session.bye = event
                    case Exited(number, returncode) if number == session.number:
                        how = "clean" if returncode == 0 else session.process.describe_exit(returncode)
                        break
        session.process.kill()
        self._session = None
        if how != "clean" and self._drained_by is None:
            self._reporter.fault("worker_died", f"worker {session.process.pid} ended with its work done: {how}")
        self._store_report(session, how)

    def _store_report(self, session: WorkerSession, how: str) -> None:
        """Store the worker's report with the warnings about its GPU; in a thread, since both take a moment."""

        def store() -> None:
            for text in session.device_warnings():
                self._reporter.warn(text)
            report = session.report(how, attempt=self.attempt, shard=self.shard, warnings=self._reporter.warnings)
            if report is not None:
                self._recorder.store_worker(f"{self.attempt}-{session.number}", report)

        self._transfers.keep(store)

    # -- how rows end ---------------------------------------------------------------------------------------------

    def _on_done(self, session: WorkerSession, event: Done) -> None:
        assert session.ready is not None  # conduct saw to it
        session.flushed = False
        self._book.painted(event.row)
        self._reporter.tally.painted += 1
        session.painted += 1
        files = self._files[event.row]
        files.painted_by = session.number
        write = partial(
            self._recorder.store_done,
            files.row,
            event,
            session.ready.worker,
            expected_output(files, self.settings, session.process.user),
            batch_id=f"{self.attempt}-{session.number}-{event.batch.id}",
            download=files.download,
        )
        self._transfers.record(event.row, write)

    def _fail(self, number: int, error: ErrorInfo, event: Failed | None = None) -> None:
        """A transient error leaves the row to another attempt at the shard, unless this is the last."""
        if error.permanent or (self.final_attempt and self._drained_by is None):
            self._book.failed(number)
            self._write_failure(number, error, event)
        else:
            log.warning(
                "row %d (%s): %s; it waits for another attempt", number, self._files[number].row.id, error.message
            )
            self._leave(number, error.message)

    def _leave(self, number: int, why: str) -> None:
        self._book.leave(number)
        self._left[number] = why
        self._remove_files(number)

    def _write_failure(self, number: int, error: ErrorInfo, event: Failed | None) -> None:
        files = self._files[number]
        log.warning("row %d (%s) failed at %s: %s", number, files.row.id, error.stage, error.message)
        worker = self._session.ready.worker if event and self._session and self._session.ready else None
        write = partial(self._recorder.store_failed, files.row, error, event, worker, download=files.download)
        self._transfers.record(number, write)

    def _on_recorded(self, message: Recorded) -> None:
        if isinstance(message.error, WorkerProtocolError):
            self._on_refused(message.row, str(message.error))
            return
        if message.error is not None:
            # Nothing could be stored of this row: only another attempt can end it.
            info = ErrorInfo.of(message.error, "upload")
            log.warning("row %d: its result could not be stored: %s", message.row, info.message)
            if info.permanent:
                raise message.error
            self._leave(message.row, info.message)
            return
        done = message.status == "done"
        self._book.recorded(message.row, done=done)
        if done:
            self._reporter.tally.done += 1
        else:
            self._reporter.tally.failed += 1
        self._remove_files(message.row)

    def _on_refused(self, number: int, why: str) -> None:
        """A worker's output is not what it was asked for: the worker is killed, with this row still in it."""
        session = self._session
        if session is not None and session.number == self._files[number].painted_by:
            self._book.refused(number)
            session.distrust(why)  # its exit comes through the inbox
            return
        self._reporter.fault("worker_died", f"a worker that is gone: {why}")
        if self._book.refused_later(number):
            self._write_failure(number, _permanent(WorkerProtocolError(f"{why}: the row is set aside")), None)
        else:
            self._remove_files(number)

    def _remove_files(self, number: int) -> None:
        remove(self._files[number].folder)


def _permanent(error: InpaintOpsError) -> ErrorInfo:
    return ErrorInfo.of(error, "worker").model_copy(update={"permanent": True})


def _our_error(error: ErrorInfo) -> InpaintOpsError:
    """The worker's fatal error as an exception of the same class, where it is one of ours."""
    kind = error_class(error.type)
    if kind is not None:
        return kind(error.message)
    return WorkerDiedError(f"the worker stopped: {error.type}: {error.message}")
