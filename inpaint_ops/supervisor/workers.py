"""An attempt's workers, one after another: started, given rows, heeded, replaced when they die, and ended."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inpaint_ops.errors import (
    DeviceLostError,
    InpaintOpsError,
    WorkerDiedError,
    WorkerProtocolError,
    WorkerStalledError,
    error_class,
)
from inpaint_ops.model.cache import cache_home
from inpaint_ops.planning import JobOptions
from inpaint_ops.protocol import Begun, Bye, Done, Event, Failed, Fatal, Phase, Ready, Step, Warn
from inpaint_ops.records import ErrorInfo, LoraFile, WorkerReport
from inpaint_ops.supervisor.ahead import RowsAhead
from inpaint_ops.supervisor.attempt import Attempt
from inpaint_ops.supervisor.commands import item_command, job_command
from inpaint_ops.supervisor.confinement import Identity
from inpaint_ops.supervisor.loras import LORAS, local_loras
from inpaint_ops.supervisor.messages import Exited, FromWorker, Message, RecordsListed
from inpaint_ops.supervisor.received import receive_profile
from inpaint_ops.supervisor.row_ends import RowEnds
from inpaint_ops.supervisor.session import WorkerSession
from inpaint_ops.wording import counted

log = logging.getLogger(__name__)

EXIT_SECONDS = 60.0
"""How long a worker may take to exit once its work is done; then it is killed."""


@dataclass(slots=True)
class Workers:
    """The workers of one attempt: one runs at a time, as `session`."""

    attempt: Attempt
    ends: RowEnds
    ahead: RowsAhead
    job: JobOptions
    scratch: Path
    """The attempt's folder: each worker gets one of its own in it."""
    inbox: queue.Queue[Message]
    """Where the workers' events and exits are put."""
    identity: Identity | None = None
    """The user that workers run as; None: this process's own."""
    command: Sequence[str] | None = None
    """How a worker is started; None: as `worker_process` says."""
    session: WorkerSession | None = None
    started: int = 0
    """How many there have been."""
    loras: tuple[LoraFile, ...] | None = None
    """The job's LoRAs on this machine; None: not looked at yet."""

    def start(self) -> None:
        """Start the next one. It dies with the thread that this is called in."""
        attempt = self.attempt
        self.started += 1
        number, folder = self.started, self.scratch / f"worker-{self.started}"
        open_rows = [attempt.files[row] for row in attempt.book.open_rows()]
        self.session = WorkerSession.start(
            number,
            folder=folder,
            job=job_command(self.job, attempt.settings, open_rows, folder, self._local_loras()),
            on_event=lambda event: self.inbox.put(FromWorker(number, event)),
            on_exit=lambda code: self.inbox.put(Exited(number, code)),
            command=self.command,
            pending=self.inbox.qsize,
            identity=self.identity,
            settings=attempt.settings,
        )

    def _local_loras(self) -> tuple[LoraFile, ...]:
        """The job's LoRAs on this machine, fetched where they are in the store; once per attempt."""
        if self.loras is None:
            self.loras = local_loras(self.job.loras, self.attempt.recorder.storage, cache_home() / LORAS)
        return self.loras

    def feed(self) -> None:
        """Give the worker what it should get next, and have it paint a batch that no further row will fill."""
        session, book = self.session, self.attempt.book
        if session is None or not session.may_paint:
            return
        while (number := book.next_for_worker()) is not None:
            session.give(item_command(self.attempt.files[number]))
        if book.in_worker() and book.should_flush:
            session.flush()

    def flush(self) -> None:
        """Have the worker paint the rows that it holds, since no further one comes."""
        if self.session is not None and self.attempt.book.in_worker():
            self.session.flush()

    def handle(self, message: RecordsListed | FromWorker | Exited) -> None:
        """Act on what a worker did. What concerns one that is gone is ignored.

        Raises what its Fatal event reports, WorkerDiedError and its relatives after too many deaths in a row.
        """
        session = self.session
        if session is None or message.session != session.number:
            return
        match message:
            case RecordsListed():
                self.ends.skip(message.rows)
                session.may_paint = True
            case FromWorker():
                if session.heed(message.event, self.attempt.book.in_worker()):
                    self._on_event(session, message.event)
            case Exited():
                self._on_exit(session, message.returncode)

    def check_silence(self) -> None:
        """Kill the worker if it has sent nothing for too long; its exit comes through the inbox."""
        session, attempt = self.session, self.attempt
        silent = session.silence(attempt.settings, has_rows=bool(attempt.book.in_worker())) if session else None
        if session is not None and silent is not None:
            what = f"worker {session.process.pid} sent nothing for {silent:.0f} s at '{session.phase}'"
            attempt.reporter.fault("worker_stalled", what)
            session.process.stalled = True
            session.process.kill_now()

    def end(self) -> None:
        """Let the worker end by itself, so that its report holds what it measured."""
        session, attempt = self.session, self.attempt
        if session is None:
            return
        deadline, how = time.monotonic() + EXIT_SECONDS, "killed: it did not end when asked"
        is_loading = session.ready is None  # every row has ended without it
        if attempt.book.in_worker():  # drained, and its rows have outlasted the grace
            deadline, how = time.monotonic(), "killed: asked to stop"
        else:
            session.end()
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                match self.inbox.get(timeout=1):
                    case FromWorker(number, event) if number == session.number:
                        if session.heed(event, attempt.book.in_worker()) and isinstance(event, Bye):
                            session.bye = event
                    case Exited(number, returncode) if number == session.number:
                        how = "clean" if returncode == 0 else session.process.describe_exit(returncode)
                        break
        self.kill()
        if how != "clean" and not is_loading and not attempt.drain.is_asked:
            attempt.reporter.fault("worker_died", f"worker {session.process.pid} ended with its work done: {how}")
        self._store_report(session, how)

    def kill(self, why: str = "") -> None:
        """End the worker, if one runs, and wait until it is gone; with `why`, its report is stored."""
        session, self.session = self.session, None
        if session is not None:
            session.process.kill()
            if why:
                self._store_report(session, f"killed: {why}")

    def _on_event(self, session: WorkerSession, event: Event) -> None:
        attempt = self.attempt
        match event:
            case Phase():
                session.phase = f"{event.name}: {event.detail}" if event.detail else event.name
                log.info("worker %d: %s", session.process.pid, session.phase)
            case Ready():
                self._on_ready(session, event)
            case Begun():
                attempt.book.begun(event.rows, event.stage)
                if event.stage == "paint":
                    attempt.reporter.tally.begin()
            case Done():
                session.flushed = False
                self.ends.painted(session, event)
            case Failed():
                session.flushed = False
                self.ends.failed(event.row, event.error, session, event)
            case Warn():
                if event.fault is None:
                    attempt.reporter.warn(event.message)
                else:
                    attempt.reporter.fault(event.fault, event.message)
            case Fatal():
                error = _our_error(event.error)
                if session.ready is None:  # it has seen no row yet: the machine or the model is at fault
                    raise error
                if isinstance(error, DeviceLostError):
                    session.device_lost = event.error.message
                else:
                    session.distrust(f"it stopped: {event.error.type}: {event.error.message}")
            case Step() | Bye():
                pass  # `heed` has noted it; `end` waits for Bye

    def _on_ready(self, session: WorkerSession, event: Ready) -> None:
        session.set_ready(event)
        self.ahead.worker_ready(self.attempt.files, native_size=event.native_size, batch=event.batch_size)
        self.attempt.transfers.message(partial(self._list_records, session.number))
        session.look_at_device(self.attempt.transfers.background)
        name, device, seconds = event.model.name, event.device.name, event.cold_start.total
        log.info("worker %d: %s on %s, ready after %.1f s", session.process.pid, name, device, seconds)
        if event.model.random_weights:
            log.warning("%s has random weights: the images mean nothing", name)
        for entry in event.ledger:
            if not entry.matches:
                log.warning(
                    "%s: %s requested, %s in effect: %s", entry.name, entry.requested, entry.effective, entry.reason
                )

    def _list_records(self, session: int) -> RecordsListed:
        """What has a record by now: another attempt may have held the device until the worker got it."""
        with contextlib.suppress(InpaintOpsError):  # painting a row again wastes time and does no harm
            return RecordsListed(session, frozenset(self.attempt.recorder.recorded_units()))
        return RecordsListed(session, frozenset())

    def _on_exit(self, session: WorkerSession, returncode: int) -> None:
        """A worker is gone before its work is done: find out which row it was, and go on without that one."""
        attempt, self.session = self.attempt, None
        how = session.device_lost or session.process.describe_exit(returncode)
        kind = _death(session)
        end = attempt.book.worker_ended(session.device if session.device_lost else "")
        held = counted(len(end.suspects), "row")
        what = f"worker {session.process.pid} ended ({how}) while it held {held}"
        if not session.process.stalled:
            attempt.reporter.fault("worker_died", what)
        for number in end.suspects:
            attempt.say(number, what)
        self._store_report(session, how)
        if end.blamed is not None:
            error = kind(f"the worker ended ({how}) while it held only this row: the row is set aside")
            self.ends.blamed(end.blamed, error)
        for number in end.again:  # the worker could write to their files
            attempt.remove_files(number)
        ended = attempt.book.fruitless_workers
        if ended >= attempt.settings.worker_deaths:
            many = counted(ended, "worker")
            raise kind(
                f"{many} in a row ended without finishing a row, the limit (INPAINT_WORKER_DEATHS); the last: {how}"
            )
        if not attempt.drain.is_asked and attempt.book.has_work:
            self.start()

    def _store_report(self, session: WorkerSession, how: str) -> None:
        """Store the worker's report with the warnings about its GPU; in a thread, since both take a moment."""
        attempt = self.attempt

        def store() -> None:
            for text in session.device_warnings():
                attempt.reporter.warn(text)
            report = session.report(how, attempt=attempt.name, shard=attempt.shard, warnings=attempt.reporter.warnings)
            if report is not None:
                if self.job.profile:
                    report = self._with_profile(session, report)
                attempt.notes.store_worker(f"{attempt.name}-{session.number}", report)

        attempt.transfers.keep(store)

    def _with_profile(self, session: WorkerSession, report: WorkerReport) -> WorkerReport:
        """The report with the place of the trace that the worker left, or a warning: without one no row is lost."""
        attempt, name = self.attempt, f"{self.attempt.name}-{session.number}"
        try:
            data = receive_profile(self.scratch / f"worker-{session.number}", session.process.user)
            return report.model_copy(update={"profile": attempt.notes.store_profile(name, data)})
        except (InpaintOpsError, OSError) as error:
            attempt.reporter.warn(f"worker {session.process.pid} left no profile: {error}")
            return report.model_copy(update={"warnings": tuple(attempt.reporter.warnings)})


def _death(session: WorkerSession) -> Callable[[str], InpaintOpsError]:
    """The error that a worker's end is."""
    if session.process.stalled:
        return WorkerStalledError
    return WorkerProtocolError if session.process.fault else WorkerDiedError


def _our_error(error: ErrorInfo) -> InpaintOpsError:
    """The worker's fatal error as an exception of the same class, where it is one of ours."""
    kind = error_class(error.type)
    if kind is not None:
        return kind(error.message)
    return WorkerDiedError(f"the worker stopped: {error.type}: {error.message}")
