"""One shard: prefetch -> worker -> upload -> records; heartbeat, kill, resume.

The supervisor holds the storage and no torch; its worker, a fresh interpreter, holds the model and no storage. Rows
that have a record are not touched again, so a second try of a shard does only what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    InpaintOpsError,
    ShardIncompleteError,
    WorkerDiedError,
    WorkerStalledError,
)
from inpaint_ops.layout import RunLayout
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions, parameters
from inpaint_ops.process import WorkerProcess
from inpaint_ops.protocol import (
    Begun,
    Bye,
    Done,
    End,
    Event,
    Failed,
    Fatal,
    Flush,
    Item,
    Job,
    Phase,
    Ready,
    Step,
    Warn,
)
from inpaint_ops.recorder import Recorder
from inpaint_ops.records import ErrorInfo, Record, Stage, Status, WorkerReport, now
from inpaint_ops.storage import Storage

log = logging.getLogger(__name__)

MAX_WORKER_STARTS_WITHOUT_PROGRESS = 3
"""Workers that may die in a row without a single row ended, before the shard is given back to the scheduler."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a shard is. `seconds_left` and `images_per_second` are None until a row was painted."""

    shard: str
    rows: int
    done: int
    failed: int
    phase: str
    images_per_second: float | None
    seconds_left: float | None

    def __str__(self) -> str:
        text = f"shard {self.shard}: {self.done + self.failed}/{self.rows} rows"
        if self.failed:
            text += f", {self.failed} failed"
        if self.images_per_second is None or self.seconds_left is None:
            return f"{text}, {self.phase}"
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return f"{text}, {self.images_per_second:.2f} images/s, {minutes} min {seconds:02d} s left"


@dataclass(frozen=True, slots=True)
class ShardResult:
    """How a shard ended. `skipped` rows had a record before this try."""

    shard: str
    done: int
    failed: int
    skipped: int
    workers: int
    seconds: float


@dataclass(slots=True)
class _RowState:
    """What this try knows of one row."""

    row: AcceptedRow
    folder: Path
    download: float | None = None
    begun: bool = False
    alone: bool = False
    """It was in the worker's hands when a worker died: it goes on by itself, so that the guilty one is found."""


@dataclass(slots=True)
class _Downloaded:
    row: int
    seconds: float
    error: BaseException | None = None


@dataclass(slots=True)
class _Recorded:
    row: int
    status: Status
    error: BaseException | None = None


@dataclass(slots=True)
class _Exited:
    generation: int
    returncode: int


@dataclass(slots=True)
class _FromWorker:
    generation: int
    event: Event


_Message = _Downloaded | _Recorded | _Exited | _FromWorker


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
    _inbox: queue.Queue[_Message] = field(init=False, default_factory=queue.Queue)
    _states: dict[int, _RowState] = field(init=False, default_factory=dict)
    _todo: deque[int] = field(init=False, default_factory=deque)
    _ready: deque[int] = field(init=False, default_factory=deque)
    _downloading: set[int] = field(init=False, default_factory=set)
    _in_worker: set[int] = field(init=False, default_factory=set)
    _recording: set[int] = field(init=False, default_factory=set)
    _leftover: dict[int, BaseException] = field(init=False, default_factory=dict)
    _worker: WorkerProcess | None = field(init=False, default=None)
    _generation: int = field(init=False, default=0)
    _hello: Ready | None = field(init=False, default=None)
    _bye: Bye | None = field(init=False, default=None)
    _warnings: list[str] = field(init=False, default_factory=list)
    _phase: str = field(init=False, default="starting")
    _flushed: bool = field(init=False, default=False)
    _ended: bool = field(init=False, default=False)
    _last_sign: float = field(init=False, default=0.0)
    _died_in_a_row: int = field(init=False, default=0)
    _done: int = field(init=False, default=0)
    _failed: int = field(init=False, default=0)
    _skipped: int = field(init=False, default=0)
    _first_paint: float | None = field(init=False, default=None)
    _painted: int = field(init=False, default=0)
    _downloads: ThreadPoolExecutor = field(init=False)
    _uploads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.attempt = f"{self.shard}-{uuid.uuid4().hex[:12]}"
        self._recorder = Recorder(self.storage, self.layout, self.shard, self.job, self.attempt)

    def run(self) -> ShardResult:
        """Bring every row of the shard to a record.

        Raises ShardIncompleteError where transient errors left rows without one (the final attempt records them as
        failed, unless not even that can be stored), and whatever keeps the worker from working at all: ModelError,
        DeviceBusyError, WorkerDiedError, StorageError.
        """
        started = time.monotonic()
        recorded = self._recorder.recorded_rows()
        self._skipped = len(recorded & {row.row for row in self.rows})
        missing = [row for row in self.rows if row.row not in recorded]
        if missing:
            scratch = self.settings.scratch / f"{self.layout.run}-{self.attempt}"
            scratch.mkdir(parents=True, mode=0o700)
            try:
                self._work(missing, scratch)
            except InpaintOpsError as error:
                self._recorder.leave_word(error)
                raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        if self._leftover:
            row, error = next(iter(self._leftover.items()))
            left = ShardIncompleteError(
                f"shard {self.shard}: {len(self._leftover)} rows wait for another try; row {row}: {error}"
            )
            self._recorder.leave_word(left)
            raise left
        return ShardResult(
            self.shard, self._done, self._failed, self._skipped, self._generation, time.monotonic() - started
        )

    # -- the loop -------------------------------------------------------------------------------------------------

    def _work(self, missing: Iterable[AcceptedRow], scratch: Path) -> None:
        for row in missing:
            name = f"{row.row:07d}"
            self._states[row.row] = _RowState(row, scratch / name)
            self._todo.append(row.row)
        threads = self.settings.transfer_threads
        last_report = time.monotonic()
        self._downloads = ThreadPoolExecutor(threads, thread_name_prefix="download")
        self._uploads = ThreadPoolExecutor(threads, thread_name_prefix="upload")
        try:
            self._start_worker(scratch)
            while self._states:
                self._start_downloads()
                self._feed_worker()
                with contextlib.suppress(queue.Empty):
                    self._handle(self._inbox.get(timeout=self._patience(last_report)), scratch)
                if time.monotonic() - last_report >= self.settings.progress_interval:
                    last_report = time.monotonic()
                    self.on_progress(self._progress())
                self._check_worker_lives()
            self._finish_worker(scratch)
            self.on_progress(self._progress())
        finally:
            if self._worker is not None:
                self._worker.kill()
            self._downloads.shutdown(wait=True, cancel_futures=True)
            self._uploads.shutdown(wait=True, cancel_futures=True)

    def _patience(self, last_report: float) -> float:
        due = last_report + self.settings.progress_interval - time.monotonic()
        return min(max(due, 0.05), 5.0)

    def _handle(self, message: _Message, scratch: Path) -> None:
        match message:
            case _Downloaded():
                self._on_downloaded(message)
            case _Recorded():
                self._on_recorded(message)
            case _FromWorker(generation, event) if generation == self._generation:
                self._last_sign = time.monotonic()
                self._on_event(event)
            case _Exited(generation, returncode) if generation == self._generation:
                self._on_exit(returncode, scratch)
            case _:
                pass  # an event of a worker that is gone

    # -- downloads ------------------------------------------------------------------------------------------------

    def _held(self) -> int:
        return len(self._downloading) + len(self._ready) + len(self._in_worker) + len(self._recording)

    def _start_downloads(self) -> None:
        while self._todo and self._held() < self.settings.prefetch:
            number = self._todo.popleft()
            self._downloading.add(number)
            self._downloads.submit(self._download, self._states[number])

    def _download(self, state: _RowState) -> None:
        started = time.monotonic()
        error: BaseException | None = None
        try:
            state.folder.mkdir(exist_ok=True)
            for name, uri in (("image", state.row.image), ("mask", state.row.mask)):
                try:
                    self.storage.download(uri, state.folder / name, max_bytes=self.settings.max_image_bytes)
                except InpaintOpsError as failure:
                    raise type(failure)(f"{name}: {failure}") from failure
        except BaseException as failure:  # it must reach the main thread, whatever it is
            error = failure
        self._inbox.put(_Downloaded(state.row.row, time.monotonic() - started, error))

    def _on_downloaded(self, message: _Downloaded) -> None:
        self._downloading.discard(message.row)
        state = self._states[message.row]
        state.download = message.seconds
        if message.error is None:
            self._ready.append(message.row)
        else:
            self._row_failed(state, message.error, "download")

    # -- the worker -----------------------------------------------------------------------------------------------

    def _start_worker(self, scratch: Path) -> None:
        self._generation += 1
        self._hello = self._bye = None
        self._flushed = self._ended = False
        self._phase = "starting a worker"
        self._last_sign = time.monotonic()
        generation = self._generation
        folder = scratch / f"worker-{generation}"
        folder.mkdir()
        self._worker = WorkerProcess.start(
            cwd=folder,
            command=self.worker_command,
            on_event=lambda event: self._inbox.put(_FromWorker(generation, event)),
            on_exit=lambda code: self._inbox.put(_Exited(generation, code)),
        )
        self._worker.send(
            Job(
                model=self.job.model,
                revision=self.job.model_revision,
                device=self.job.device,
                tuning=self.job.tuning,
                tuning_overrides=self.job.tuning_overrides,
                expected_rows=len(self._states),
                max_pixels=self.settings.max_pixels,
                scratch=str(folder),
                lease_timeout=self.settings.lease_timeout,
            )
        )

    def _feed_worker(self) -> None:
        if self._worker is None or self._hello is None or self._ended:
            return
        while self._ready and self._may_send(self._states[self._ready[0]]):
            number = self._ready.popleft()
            self._in_worker.add(number)
            self._flushed = False
            self._worker.send(self._item(self._states[number]))
        if not self._in_worker or self._flushed:
            return
        no_more_now = not self._ready and not self._downloading and not self._todo
        if no_more_now or self._held() >= self.settings.prefetch or any(self._states[n].alone for n in self._in_worker):
            self._flushed = True
            self._worker.send(Flush())

    def _may_send(self, state: _RowState) -> bool:
        """A suspect goes in alone; others only while no suspect is inside."""
        if state.alone:
            return not self._in_worker
        return not any(self._states[number].alone for number in self._in_worker)

    def _item(self, state: _RowState) -> Item:
        row = state.row
        chosen = parameters(row, self.job)
        return Item(
            row=row.row,
            id=row.id,
            image=str(state.folder / "image"),
            mask=str(state.folder / "mask"),
            output=str(state.folder / "output"),
            prompt=row.prompt,
            negative_prompt=row.negative_prompt,
            **chosen.model_dump(),
            mask_invert=row.mask_invert,
            mask_dilate=row.mask_dilate,
            mask_blur=row.mask_blur,
            crop=row.crop,
            format=row.format,
        )

    def _on_event(self, event: Event) -> None:
        match event:
            case Phase():
                self._phase = f"{event.name}: {event.detail}" if event.detail else event.name
                log.info("worker %s: %s", self._worker_name, self._phase)
            case Ready():
                self._hello = event
                self._phase = "painting"
                log.info(
                    "worker %s: %s on %s, ready after %.1f s",
                    self._worker_name, event.model.name, event.device.name, event.cold_start.total,
                )  # fmt: skip
                for entry in event.ledger:
                    if not entry.matches:
                        self._warn(
                            f"{entry.name}: asked for {entry.requested}, in force is {entry.effective}: {entry.reason}"
                        )
                if event.model.random_weights:
                    self._warn(f"{event.model.name} has random weights: the images mean nothing")
            case Begun():
                for number in event.rows:
                    if number in self._states:
                        self._states[number].begun = True
                if event.stage == "paint" and self._first_paint is None:
                    self._first_paint = time.monotonic()
            case Done():
                self._died_in_a_row = 0
                self._on_done(event)
            case Failed():
                self._died_in_a_row = 0
                state = self._take_back(event.row)
                if state is not None:
                    self._record_failure(state, event.error, event)
            case Warn():
                self._warn(event.message)
            case Bye():
                self._bye = event
            case Fatal():
                self._on_fatal(event)
            case Step():
                pass

    @property
    def _worker_name(self) -> str:
        return f"{self._worker.pid}" if self._worker else "-"

    def _warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.append(message)
            log.warning("shard %s: %s", self.shard, message)

    def _take_back(self, number: int) -> _RowState | None:
        """The state of a row that the worker has finished with; None if it was never in its hands."""
        if number not in self._in_worker:
            return None
        self._in_worker.discard(number)
        self._flushed = False
        return self._states[number]

    def _on_fatal(self, event: Fatal) -> None:
        kinds = {cls.__name__: cls for cls in _subclasses(InpaintOpsError)}
        kind = kinds.get(event.error.type)
        if kind is not None:
            raise kind(event.error.message)
        raise WorkerDiedError(f"the worker gave up: {event.error.type}: {event.error.message}")

    def _check_worker_lives(self) -> None:
        if self._worker is None or not (self._in_worker or self._hello is None):
            self._last_sign = time.monotonic()
            return
        limit = (
            self.settings.stall_timeout if self._hello else self.settings.start_timeout + self.settings.lease_timeout
        )
        silent = time.monotonic() - self._last_sign
        if silent > limit and not self._worker.stalled:
            doing = "painting" if self._hello else self._phase
            self._warn(f"worker {self._worker_name} made no progress for {silent:.0f} s while {doing}: killed")
            self._worker.stalled = True
            self._worker.kill()  # its exit arrives in the inbox

    def _on_exit(self, returncode: int, scratch: Path) -> None:
        """A worker is gone before its work is done: find out which row it was, and go on without it."""
        assert self._worker is not None
        worker, self._worker = self._worker, None
        cause = WorkerStalledError if worker.stalled else WorkerDiedError
        how = worker.describe_exit(returncode)
        self._report_worker(worker, how)
        suspects = sorted(number for number in self._in_worker if self._states[number].begun)
        for number in sorted(self._in_worker):
            state = self._states[number]
            state.alone = state.alone or state.begun
            state.begun = False
        bystanders = sorted(self._in_worker - set(suspects))
        self._in_worker.clear()
        if len(suspects) == 1:
            error = cause(f"the worker ended ({how}) with this row alone in its hands: the row is set aside")
            info = ErrorInfo.of(error, "worker").model_copy(update={"permanent": True})
            self._record_failure(self._states[suspects[0]], info, None)
            self._died_in_a_row = 0
        else:
            self._died_in_a_row += 1
            self._ready.extendleft(reversed(suspects))
        self._ready.extend(bystanders)
        self._warn(f"worker {worker.pid} ended ({how}); {len(suspects)} rows were in its hands")
        if self._died_in_a_row >= MAX_WORKER_STARTS_WITHOUT_PROGRESS:
            raise cause(f"{self._died_in_a_row} workers in a row ended without finishing a row; the last: {how}")
        if self._todo or self._ready or self._downloading:
            self._start_worker(scratch)

    def _finish_worker(self, scratch: Path) -> None:
        """Let the worker say goodbye, so that its report holds what it measured."""
        worker = self._worker
        if worker is None:
            return
        if self._hello is None:
            worker.kill()
        else:
            self._ended = True
            worker.send(End())
        deadline = time.monotonic() + 60
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                message = self._inbox.get(timeout=left)
                if isinstance(message, _FromWorker) and isinstance(message.event, Bye):
                    self._bye = message.event
                if isinstance(message, _Exited) and message.generation == self._generation:
                    self._worker = None
                    self._report_worker(
                        worker, "clean" if message.returncode == 0 else worker.describe_exit(message.returncode)
                    )
                    return
        self._warn(f"worker {worker.pid} did not end when asked: killed")
        worker.kill()
        self._worker = None
        self._report_worker(worker, "killed: it did not end when asked")

    # -- records --------------------------------------------------------------------------------------------------

    def _on_done(self, event: Done) -> None:
        state = self._take_back(event.row)
        if state is None or self._hello is None:
            return
        self._painted += 1
        self._store(
            event.row,
            partial(
                self._recorder.store_done,
                state.row,
                event,
                self._hello.worker,
                batch_id=f"{self.attempt}-{self._generation}-{event.batch.id}",
                download=state.download,
            ),
        )

    def _store(self, number: int, write: Callable[[], Record]) -> None:
        """Write a row's end in an upload thread; how that went comes back through the inbox."""

        def work() -> None:
            try:
                message = _Recorded(number, write().status)
            except BaseException as failure:  # it must reach the main thread, whatever it is
                message = _Recorded(number, "failed", failure)
            self._inbox.put(message)

        self._recording.add(number)
        self._uploads.submit(work)

    def _row_failed(self, state: _RowState, error: BaseException, stage: Stage) -> None:
        """A transient error leaves the row to another try, unless there is none."""
        info = ErrorInfo.of(error, stage)
        if not info.permanent and not self.final_attempt:
            log.warning("row %d (%s): %s; it waits for another try", state.row.row, state.row.id, info.message)
            self._leftover[state.row.row] = error
            self._forget(state.row.row)
            return
        self._record_failure(state, info, None)

    def _record_failure(self, state: _RowState, error: ErrorInfo, event: Failed | None) -> None:
        log.warning("row %d (%s) failed at %s: %s", state.row.row, state.row.id, error.stage, error.message)
        worker = self._hello.worker if self._hello and event else None
        self._store(
            state.row.row,
            partial(self._recorder.store_failed, state.row, error, event, worker, download=state.download),
        )

    def _on_recorded(self, message: _Recorded) -> None:
        self._recording.discard(message.row)
        if message.error is not None:
            # Neither image nor record could be written: nothing can be said of this row but by another try.
            info = ErrorInfo.of(message.error, "upload")
            log.warning("row %d: its result could not be stored: %s", message.row, info.message)
            if info.permanent:
                raise message.error
            self._leftover[message.row] = message.error
        elif message.status == "done":
            self._done += 1
        else:
            self._failed += 1
        self._forget(message.row)

    def _forget(self, number: int) -> None:
        state = self._states.pop(number)
        shutil.rmtree(state.folder, ignore_errors=True)

    # -- words ----------------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        ended = self._done + self._failed + self._skipped
        rate = left = None
        if self._painted and self._first_paint is not None:
            rate = self._painted / max(time.monotonic() - self._first_paint, 1e-6)
            left = (len(self.rows) - ended) / rate
        return Progress(self.shard, len(self.rows), self._done + self._skipped, self._failed, self._phase, rate, left)

    def _report_worker(self, worker: WorkerProcess, how: str) -> None:
        """Keep what the worker said of itself; a report that cannot be stored costs no row."""
        if self._hello is None:
            return
        hello, bye = self._hello, self._bye
        report = WorkerReport(
            worker=hello.worker,
            device=hello.device,
            model=hello.model,
            tuning=hello.tuning,
            ledger=bye.ledger if bye else hello.ledger,
            cold_start=bye.cold_start if bye else hello.cold_start,
            versions=hello.versions,
            finished_at=now(),
            busy=bye.busy if bye else 0.0,
            painted=bye.painted if bye else self._painted,
            peak_memory=bye.peak_memory if bye else None,
            exit=how,
            attempt=self.attempt,
            shard=self.shard,
            warnings=tuple(self._warnings),
        )
        self._recorder.store_worker(f"{self.attempt}-{self._generation}", report)


def _subclasses(cls: type[InpaintOpsError]) -> Iterable[type[InpaintOpsError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)
