"""One try of one shard: the loop that keeps downloads ahead, the worker fed, and every row on its way to a record."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from inpaint_ops.config import Settings
from inpaint_ops.confinement import Identity, identity
from inpaint_ops.errors import (
    DeviceLostError,
    DrainedError,
    InpaintOpsError,
    ShardIncompleteError,
    ShardTimeoutError,
    WorkerDiedError,
    WorkerProtocolError,
    WorkerStalledError,
)
from inpaint_ops.frozen import row_bytes
from inpaint_ops.layout import RunLayout
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions
from inpaint_ops.protocol import Begun, Bye, Done, Event, Failed, Fatal, Phase, Ready, Step, Warn
from inpaint_ops.recorder import Recorder
from inpaint_ops.records import ErrorInfo, FaultKind, Record, ShardProgress, now
from inpaint_ops.scratch import remove, scratch_folder, sweep
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor.commands import expected_output, item_command, job_command
from inpaint_ops.supervisor.session import WorkerSession
from inpaint_ops.supervisor.state import (
    Downloaded,
    Exited,
    FromWorker,
    Message,
    Progress,
    Recorded,
    RowState,
    ShardResult,
    Tally,
)
from inpaint_ops.supervisor.transfers import Transfers

log = logging.getLogger(__name__)

GOODBYE_SECONDS = 60.0
"""What a worker has to end once its work is done; then it is killed."""


@dataclass(slots=True)
class ShardRun:
    """One try of one shard. Call `run` once, from the main thread: the worker dies with the thread that starts it."""

    storage: Storage
    layout: RunLayout
    shard: str
    rows: Sequence[AcceptedRow]
    job: JobOptions
    settings: Settings
    final_attempt: bool = False
    on_progress: Callable[[Progress], None] = lambda progress: log.info("%s", progress)
    worker_command: Sequence[str] | None = None

    attempt: str = field(init=False)
    _recorder: Recorder = field(init=False)
    _scratch: Path = field(init=False)
    _inbox: queue.Queue[Message] = field(init=False, default_factory=queue.Queue)
    _states: dict[int, RowState] = field(init=False, default_factory=dict)
    _todo: deque[int] = field(init=False, default_factory=deque)
    _downloading: set[int] = field(init=False, default_factory=set)
    _ready: deque[int] = field(init=False, default_factory=deque)
    _recording: set[int] = field(init=False, default_factory=set)
    _leftover: dict[int, str] = field(init=False, default_factory=dict)
    _session: WorkerSession | None = field(init=False, default=None)
    _sessions: int = field(init=False, default=0)
    _deaths: int = field(init=False, default=0)
    _warnings: list[str] = field(init=False, default_factory=list)
    _tally: Tally = field(init=False, default_factory=Tally)
    _drained_by: float | None = field(init=False, default=None)
    _transfers: Transfers = field(init=False)
    _identity: Identity | None = field(init=False)

    def __post_init__(self) -> None:
        self.attempt = f"{self.shard}-{uuid.uuid4().hex[:12]}"
        self._recorder = Recorder(
            self.storage, self.layout, self.shard, self.job, self.attempt, repeated_before=self.storage.repeated,
            rows={row.row: row for row in self.rows}, record_bytes=row_bytes(self.settings),
        )  # fmt: skip
        self._identity = identity(self.settings.worker_user)
        self._transfers = Transfers(self.storage, self.settings, self._inbox.put, self._identity)

    def run(self) -> ShardResult:
        """Bring every row of the shard to a record.

        Raises ShardIncompleteError where transient errors left rows without one (the final attempt records them as
        failed, unless not even that can be stored), DrainedError after `drain`, and whatever keeps the worker from
        working at all: ModelError, DeviceError, WorkerDiedError, StorageError.
        """
        started = time.monotonic()
        sweep(self.settings.scratch)
        recorded = self._transfers.patiently(self._recorder.recorded_rows)
        self._recorder.note_killed_try()
        missing = [row for row in self.rows if row.row not in recorded]
        self._tally.skipped = len(self.rows) - len(missing)
        if missing:
            try:
                self._work(missing)
            except InpaintOpsError as error:
                self._recorder.leave_word(error)
                self._recorder.store_progress(self._word("stopped"))
                raise
        self._recorder.store_progress(self._word("finished"))
        return ShardResult(
            self.shard,
            self._tally.done,
            self._tally.failed,
            self._tally.skipped,
            self._sessions,
            time.monotonic() - started,
        )

    def drain(self) -> None:
        """Have `run` come to an end: no row is begun any more, and those in the worker's hands get the grace time.

        Safe to call from a signal handler. The second call takes what is left of the grace.
        """
        first = self._drained_by is None
        self._drained_by = time.monotonic() + (self.settings.grace if first else 0.0)
        self._transfers.stop.set()

    # -- the loop -------------------------------------------------------------------------------------------------

    def _work(self, missing: Iterable[AcceptedRow]) -> None:
        with scratch_folder(self.settings.scratch, f"{self.layout.run}-{self.attempt}") as self._scratch:
            for row in missing:
                self._states[row.row] = RowState(row, self._scratch / f"{row.row:07d}")
                self._todo.append(row.row)
            try:
                self._start_worker()
                self._loop()
                self._say_goodbye()
                self.on_progress(self._progress())
            finally:
                if self._session is not None:
                    self._session.process.kill()
                self._transfers.close()
        waiting = len(self._states) + len(self._leftover)
        if self._drained_by is not None and waiting:
            raise DrainedError(f"shard {self.shard}: told to stop; {waiting} rows are handed back to another try")
        if self._leftover:
            number, error = next(iter(self._leftover.items()))
            raise ShardIncompleteError(
                f"shard {self.shard}: {len(self._leftover)} rows wait for another try; row {number}: {error}"
            )

    def _loop(self) -> None:
        """Until every row has ended, or the worker's hands are empty after `drain`."""
        told = started = time.monotonic()
        self._tell()
        while self._states and not self._is_drained():
            if self._drained_by is None:
                self._start_downloads()
                self._feed_worker()
            due = told + self.settings.progress_interval - time.monotonic()
            with contextlib.suppress(queue.Empty):
                self._handle(self._inbox.get(timeout=min(max(due, 0.05), 1.0)))
            self._check_worker_moves()
            self._check_time(started)
            if time.monotonic() >= told + self.settings.progress_interval:
                told = time.monotonic()
                self.on_progress(self._progress())
                self._tell()

    def _is_drained(self) -> bool:
        """Whether all is done that `drain` leaves to do, or its time is up."""
        if self._drained_by is None:
            return False
        session = self._session
        in_hands = session.rows if session is not None and session.hello is not None else ()
        if session is not None and in_hands:
            session.flush()
        return not (in_hands or self._recording) or time.monotonic() >= self._drained_by

    def _handle(self, message: Message) -> None:
        current = self._session.number if self._session else None
        match message:
            case Downloaded():
                self._on_downloaded(message)
            case Recorded():
                self._on_recorded(message)
            case FromWorker(number, event) if number == current and self._session is not None:
                if self._session.heed(event):
                    self._on_event(self._session, event)
            case Exited(number, returncode) if number == current and self._session is not None:
                self._on_death(self._session, returncode)
            case _:
                pass  # the last words of a worker that is gone

    def _progress(self) -> Progress:
        phase = self._session.phase if self._session else "finishing"
        return self._tally.progress(self.shard, rows=len(self.rows), left=len(self._states), phase=phase)

    def _tell(self) -> None:
        """Store how far the shard is."""
        self._transfers.say(partial(self._recorder.store_progress, self._word()))

    def _word(self, phase: str | None = None) -> ShardProgress:
        progress, session = self._progress(), self._session
        painting = session is not None and session.hello is not None and bool(session.rows)
        return ShardProgress(
            shard=self.shard,
            attempt=self.attempt,
            rows=progress.rows,
            done=progress.done,
            failed=progress.failed,
            phase=phase or progress.phase,
            images_per_second=progress.images_per_second,
            seconds_left=None if phase else progress.seconds_left,
            worker_silent=time.monotonic() - session.last_sign if session and painting and not phase else None,
            device=session.hello.device.name if session and session.hello else "",
            interval=self.settings.progress_interval,
            updated_at=now(),
        )

    def _warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.append(message)
            log.warning("shard %s: %s", self.shard, message)

    def _fault(self, kind: FaultKind, what: str) -> None:
        self._recorder.faults.add(kind, what)
        log.warning("shard %s: %s", self.shard, what)

    # -- downloads ------------------------------------------------------------------------------------------------

    def _held(self) -> int:
        """Rows whose files are here or on their way: what bounds the scratch folder."""
        in_worker = len(self._session.rows) if self._session else 0
        return len(self._downloading) + len(self._ready) + in_worker + len(self._recording)

    def _start_downloads(self) -> None:
        while self._todo and self._held() < self.settings.prefetch:
            number = self._todo.popleft()
            self._downloading.add(number)
            self._transfers.download(self._states[number])

    def _fetch_again(self, numbers: Sequence[int]) -> None:
        """Bring rows anew whose files a worker that is gone may have changed: they lay where it could write."""
        self._ready = deque(number for number in self._ready if number not in numbers)
        for number in reversed(numbers):
            remove(self._states[number].folder)
            self._todo.appendleft(number)

    def _on_downloaded(self, message: Downloaded) -> None:
        self._downloading.discard(message.row)
        state = self._states.get(message.row)
        if state is None:
            return
        state.download = message.seconds
        if message.error is None:
            self._ready.append(message.row)
        else:
            self._fail(state, ErrorInfo.of(message.error, "download"))

    # -- the worker -----------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._sessions += 1
        number = self._sessions
        folder = self._scratch / f"worker-{number}"
        self._session = WorkerSession.start(
            number,
            folder=folder,
            job=job_command(self.job, self.settings, self._states.values(), folder),
            on_event=lambda event: self._inbox.put(FromWorker(number, event)),
            on_exit=lambda code: self._inbox.put(Exited(number, code)),
            command=self.worker_command,
            pending=self._inbox.qsize,
            identity=self._identity,
            settings=self.settings,
        )

    def _feed_worker(self) -> None:
        session = self._session
        if session is None or any(self._states[number].alone for number in self._recording):
            return  # a suspect is alone until it is known that its output was no lie
        while self._ready and session.may_take(self._states[self._ready[0]]):
            state = self._states[self._ready.popleft()]
            session.give(state, item_command(state, self.job))
        head_must_wait = bool(self._ready)  # a suspect for empty hands, or others for the suspect's end
        nothing_on_its_way = not self._downloading and not self._todo
        window_full = self._held() >= self.settings.prefetch
        suspect_inside = any(state.alone for state in session.rows.values())
        if head_must_wait or nothing_on_its_way or window_full or suspect_inside:
            session.flush()

    def _on_event(self, session: WorkerSession, event: Event) -> None:
        match event:
            case Phase():
                session.phase = f"{event.name}: {event.detail}" if event.detail else event.name
                log.info("worker %d: %s", session.process.pid, session.phase)
            case Ready():
                self._on_ready(session, event)
            case Begun():
                for number in event.rows:
                    if number in session.rows:
                        session.rows[number].begun = True
                if event.stage == "paint":
                    self._tally.begin()
            case Done():
                self._on_done(session, event)
            case Failed():
                state = session.take_back(event.row)
                if state is not None:
                    self._deaths = 0
                    self._fail(state, event.error, event)
            case Warn():
                if event.fault is None:
                    self._warn(event.message)
                else:
                    self._fault(event.fault, event.message)
            case Fatal():
                error = _our_error(event.error)
                if session.hello is None:  # it has seen no row yet: this is the machine's or the model's trouble
                    raise error
                if isinstance(error, DeviceLostError):
                    session.device_lost = event.error.message
                else:
                    session.distrust(f"it gave up: {event.error.type}: {event.error.message}")
            case Step() | Bye():
                pass  # a sign of life, noted already; a goodbye is waited for elsewhere

    def _on_ready(self, session: WorkerSession, event: Ready) -> None:
        self._skip_recorded()
        session.greet(event)
        session.look_at_device(self._transfers.background)
        name, device, seconds = event.model.name, event.device.name, event.cold_start.total
        log.info("worker %d: %s on %s, ready after %.1f s", session.process.pid, name, device, seconds)
        if event.model.random_weights:
            log.warning("%s has random weights: the images mean nothing", name)
        for entry in event.ledger:
            if not entry.matches:
                log.warning("%s: %s asked, %s in force: %s", entry.name, entry.requested, entry.effective, entry.reason)

    def _skip_recorded(self) -> None:
        """Drop rows that another try, which held the device until now, has ended meanwhile."""
        with contextlib.suppress(InpaintOpsError):  # painting them again is a waste, and no harm
            for number in self._recorder.recorded_rows() & (set(self._states) - self._recording):
                for waiting in (self._todo, self._ready):
                    with contextlib.suppress(ValueError):
                        waiting.remove(number)
                self._tally.skipped += 1
                self._forget(number)

    def _check_worker_moves(self) -> None:
        session = self._session
        silent = session.silence(self.settings) if session else None
        if session is not None and silent is not None:
            what = f"worker {session.process.pid} gave no sign for {silent:.0f} s at '{session.phase}'"
            self._fault("worker_stalled", what)
            session.process.stalled = True
            session.process.kill()  # its exit comes through the inbox

    def _check_time(self, started: float) -> None:
        """Stop at the time limit, whatever the worker does: rows without a record wait, on the last try as well, for
        they have not failed.
        """
        limit = self.settings.shard_timeout
        if time.monotonic() < started + limit or not self._states:
            return
        if self._session is not None:
            self._session.process.kill()
            self._keep_report(self._session, "killed: the try was out of time")
            self._session = None
        raise ShardTimeoutError(
            f"shard {self.shard}: {len(self._states)} rows were not done within {limit:g} s, the limit "
            "(INPAINT_SHARD_TIMEOUT); another try does only them"
        )

    def _on_death(self, session: WorkerSession, returncode: int) -> None:
        """A worker is gone before its work is done: find out which row it was, and go on without that one."""
        self._session = None
        how = session.device_lost or session.process.describe_exit(returncode)
        kind = (
            WorkerStalledError if session.process.stalled
            else WorkerProtocolError if session.process.fault
            else WorkerDiedError
        )  # fmt: skip
        suspects = [state for state in session.rows.values() if state.begun]
        bystanders = [state for state in session.rows.values() if not state.begun]
        if not session.process.stalled:
            what = f"worker {session.process.pid} ended ({how}) with {len(suspects)} rows in its hands"
            self._fault("worker_died", what)
        self._keep_report(session, how)
        if len(suspects) == 1 and suspects[0].is_to_blame(session.device_lost and session.device):
            error = kind(f"the worker ended ({how}) with this row alone in its hands: the row is set aside")
            info = ErrorInfo.of(error, "worker").model_copy(update={"permanent": True})
            self._record_failure(suspects[0], info, None)
            self._deaths = 0
        else:
            self._deaths += 1
            for state in suspects:
                state.alone, state.begun = True, False
            bystanders = suspects + bystanders
        self._fetch_again([*(state.row.row for state in bystanders), *self._ready])
        if self._deaths >= self.settings.worker_deaths:
            many = "1 worker" if self._deaths == 1 else f"{self._deaths} workers"
            raise kind(
                f"{many} in a row ended without finishing a row, the limit (INPAINT_WORKER_DEATHS); the last: {how}"
            )
        if self._drained_by is None and (self._todo or self._ready or self._downloading):
            self._start_worker()

    def _say_goodbye(self) -> None:
        """Let the worker end by itself, so that its report holds what it measured."""
        session = self._session
        if session is None:
            return
        deadline, how = time.monotonic() + GOODBYE_SECONDS, "killed: it did not end when asked"
        if session.rows:  # drained, and its rows have outlasted the grace
            deadline, how = time.monotonic(), "killed: told to stop"
        else:
            session.end()
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                match self._inbox.get(timeout=1):
                    case FromWorker(number, event) if number == session.number and session.heed(event):
                        session.bye = event if isinstance(event, Bye) else session.bye
                    case Exited(number, returncode) if number == session.number:
                        how = "clean" if returncode == 0 else session.process.describe_exit(returncode)
                        break
        session.process.kill()
        self._session = None
        if how != "clean" and self._drained_by is None:
            self._fault("worker_died", f"worker {session.process.pid} ended with its work done: {how}")
        self._keep_report(session, how)

    def _keep_report(self, session: WorkerSession, how: str) -> None:
        for text in session.device_warnings():
            self._warn(text)
        report = session.report(how, attempt=self.attempt, shard=self.shard, warnings=self._warnings)
        if report is not None:
            self._recorder.store_worker(f"{self.attempt}-{session.number}", report)

    # -- how rows end ---------------------------------------------------------------------------------------------

    def _on_done(self, session: WorkerSession, event: Done) -> None:
        state = session.take_back(event.row)
        if state is None or session.hello is None:
            return
        state.painted_by = session.number
        self._tally.painted += 1
        session.painted += 1
        write = partial(
            self._recorder.store_done,
            state.row,
            event,
            session.hello.worker,
            expected_output(state, self.settings, session.process.user),
            batch_id=f"{self.attempt}-{session.number}-{event.batch.id}",
            download=state.download,
        )
        self._record(event.row, write)

    def _fail(self, state: RowState, error: ErrorInfo, event: Failed | None = None) -> None:
        """A transient error leaves the row to another try of the shard, unless this is the last."""
        if error.permanent or (self.final_attempt and self._drained_by is None):
            self._record_failure(state, error, event)
        else:
            log.warning("row %d (%s): %s; it waits for another try", state.row.row, state.row.id, error.message)
            self._leftover[state.row.row] = error.message
            self._forget(state.row.row)

    def _record_failure(self, state: RowState, error: ErrorInfo, event: Failed | None) -> None:
        log.warning("row %d (%s) failed at %s: %s", state.row.row, state.row.id, error.stage, error.message)
        worker = self._session.hello.worker if event and self._session and self._session.hello else None
        write = partial(self._recorder.store_failed, state.row, error, event, worker, download=state.download)
        self._record(state.row.row, write)

    def _record(self, number: int, write: Callable[[], Record]) -> None:
        """Write a row's end; how that went comes back through the inbox."""
        self._recording.add(number)
        self._transfers.record(number, write)

    def _on_recorded(self, message: Recorded) -> None:
        self._recording.discard(message.row)
        if isinstance(message.error, WorkerProtocolError):
            self._on_refused(self._states[message.row], str(message.error))
            return
        if message.error is not None:
            # Nothing could be stored of this row: only another try can end it.
            info = ErrorInfo.of(message.error, "upload")
            log.warning("row %d: its result could not be stored: %s", message.row, info.message)
            if info.permanent:
                raise message.error
            self._leftover[message.row] = info.message
        elif message.status == "done":
            self._deaths = 0
            self._tally.done += 1
        else:
            self._tally.failed += 1
        self._forget(message.row)

    def _on_refused(self, state: RowState, why: str) -> None:
        """A worker's output is not what it was asked for: the worker is killed, with this row still in its hands."""
        session = self._session
        if session is not None and session.number == state.painted_by:
            session.rows[state.row.row] = state
            session.distrust(why)  # its exit comes through the inbox
            return
        self._fault("worker_died", f"a worker that is gone: {why}")
        if state.is_to_blame(""):
            info = ErrorInfo.of(WorkerProtocolError(f"{why}: the row is set aside"), "worker")
            self._record_failure(state, info.model_copy(update={"permanent": True}), None)
        else:
            state.alone, state.begun = True, False
            self._fetch_again([state.row.row])

    def _forget(self, number: int) -> None:
        state = self._states.pop(number)
        remove(state.folder)


def _our_error(error: ErrorInfo) -> InpaintOpsError:
    """The worker's fatal error as an exception of the same class, where it is one of ours."""
    found: list[type[InpaintOpsError]] = [InpaintOpsError]
    for kind in found:
        if kind.__name__ == error.type:
            return kind(error.message)
        found.extend(kind.__subclasses__())
    return WorkerDiedError(f"the worker gave up: {error.type}: {error.message}")
