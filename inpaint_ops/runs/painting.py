"""The second call: paint what is missing of a run's shards, one shard or several at once."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType

from inpaint_ops.errors import ConfigError, DeviceBusyError, DeviceLostError, DrainedError, InpaintOpsError
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.supervisor import Progress, ShardResult, ShardRun

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 600.0
"""Seconds between two tries of a shard, at most."""


def paint(
    workspace: Workspace,
    run: str,
    shard: str,
    *,
    final_attempt: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ShardResult:
    """Paint what is missing of one shard, of the run itself or of a retry.

    Call it from the main thread: SIGTERM drains the shard, and a second one cuts its grace short. See ShardRun.run for
    what it raises.
    """
    work = _shard_run(workspace, run, shard, final_attempt, on_progress)
    before = signal.signal(signal.SIGTERM, lambda *_: work.drain())
    try:
        return work.run()
    finally:
        signal.signal(signal.SIGTERM, before)


def _shard_run(
    workspace: Workspace,
    run: str,
    shard: str,
    final_attempt: bool,
    on_progress: Callable[[Progress], None] | None,
) -> ShardRun:
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(f"there is no run {run!r} in {workspace.store}: plan it first")
    layout = workspace.layout(run)
    job, rows = workspace.shard(plan, shard)
    work = ShardRun(workspace.storage, layout, shard, rows, job, workspace.settings, final_attempt=final_attempt)
    if on_progress is not None:
        work.on_progress = on_progress
    return work


@dataclass(slots=True)
class ShardQueue:
    """Shards of one run, painted on several devices of this machine: a thread per device takes the next shard.

    Each shard has a worker process of its own, which leases whichever device is free; so a device that fails costs one
    thread, whose shard goes back to the queue, while another goes on. A shard is tried `settings.tries` times. One
    that is given up does not stop the others, unless its error is permanent: then nothing further is begun.
    """

    workspace: Workspace
    run: str
    shards: Sequence[str]
    devices: int = 1
    on_progress: Callable[[int, Progress], None] = lambda device, progress: None
    """Gets the thread's number, from 0, and how far its shard is; in that thread."""
    on_note: Callable[[str], None] = log.warning
    """Gets a line for people: a try that failed, a device that is given up. In any thread."""
    worker_command: Sequence[str] | None = None
    """How a worker is started; None: the product's own."""

    _waiting: deque[str] = field(init=False)
    _at_work: dict[int, ShardRun] = field(init=False, default_factory=dict)
    _errors: list[InpaintOpsError] = field(init=False, default_factory=list)
    _crashes: list[BaseException] = field(init=False, default_factory=list)
    _threads: int = field(init=False, default=0)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _interrupted: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._waiting = deque(self.shards)

    def paint(self) -> None:
        """Paint all shards. Call it once, from the main thread.

        SIGTERM or Ctrl-C drains: nothing further is begun, rows in the workers get the grace time; the second one cuts
        that short. Raises DrainedError or KeyboardInterrupt where rows are left then, else an error that stopped a
        shard, a permanent one first.
        """
        count = max(1, min(self.devices, len(self._waiting)))
        threads = [
            threading.Thread(target=self._work, args=(number,), name=f"device-{number}") for number in range(count)
        ]
        self._threads = count
        with self._drained_by_signals():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._crashes:
            raise self._crashes[0]
        if self._interrupted and (self._errors or self._waiting):
            raise KeyboardInterrupt
        errors = sorted(self._errors, key=lambda error: (isinstance(error, DrainedError), not error.permanent))
        if errors:
            raise errors[0]
        if self._waiting:
            raise DrainedError(f"asked to stop; {len(self._waiting)} shards of {self.run} were not begun")

    def drain(self) -> None:
        """Begin nothing further, and have what is painted come to an end. Safe in a signal handler."""
        self._stop.set()
        for work in list(self._at_work.values()):
            work.drain()

    @contextlib.contextmanager
    def _drained_by_signals(self) -> Iterator[None]:
        def handle(number: int, _: FrameType | None) -> None:
            self._interrupted |= number == signal.SIGINT
            if not self._stop.is_set():
                grace = f"{self.workspace.settings.grace:g} s (INPAINT_GRACE)"
                self.on_note(f"asked to stop: what is being painted gets {grace}; once more ends it at once")
            self.drain()

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _work(self, number: int) -> None:
        """Until the queue is empty, or this thread is left without a device."""
        workspace = replace(self.workspace, storage=self.workspace.storage.for_another())
        try:
            while (shard := self._next()) is not None:
                try:
                    if not self._paint_with_tries(workspace, number, shard):
                        return
                except InpaintOpsError as error:
                    self._give_up(shard, error)
        except BaseException as error:
            self._crashes.append(error)
            self.drain()

    def _next(self) -> str | None:
        """The next shard; None if there is none, and then this thread counts no more."""
        with self._lock:
            if self._waiting and not self._stop.is_set():
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _leave_to_others(self, shard: str) -> bool:
        """Put the shard back for another thread, if there is one; then this thread counts no more."""
        with self._lock:
            if self._threads < 2:
                return False
            self._threads -= 1
            self._waiting.appendleft(shard)
            return True

    def _give_up(self, shard: str, error: InpaintOpsError) -> None:
        self._errors.append(error)
        if error.permanent:
            self.drain()
        elif self._waiting and not isinstance(error, DrainedError):
            self.on_note(f"shard {shard} is given up, the others go on: {error}")

    def _paint_with_tries(self, workspace: Workspace, number: int, shard: str) -> bool:
        """Whether this thread may take another shard: not where it found no device, and another paints this one."""
        tries, pause = workspace.settings.tries, workspace.settings.retry_seconds
        for attempt in range(1, tries + 1):
            try:
                self._paint_once(workspace, number, shard, final=attempt == tries)
                return True
            except InpaintOpsError as error:
                if isinstance(error, (DeviceBusyError, DeviceLostError)) and self._leave_to_others(shard):
                    self.on_note(f"shard {shard} goes back to the queue, one device fewer paints: {error}")
                    return False
                if error.permanent or attempt == tries or self._stop.is_set():
                    raise
                self.on_note(f"{error} (try {attempt} of {tries}, INPAINT_TRIES)")
                if self._is_stopped_within(min(pause * 2 ** (attempt - 1), _LONGEST_PAUSE)):
                    raise
        return True

    def _is_stopped_within(self, seconds: float) -> bool:
        """Wait before the next try: a store or a card that is away has time to come back."""
        return self._stop.wait(seconds)

    def _paint_once(self, workspace: Workspace, number: int, shard: str, *, final: bool) -> None:
        work = _shard_run(workspace, self.run, shard, final, lambda progress: self.on_progress(number, progress))
        work.worker_command = self.worker_command
        self._at_work[number] = work
        try:
            if self._stop.is_set():  # asked before the signal's handler could see this one
                work.drain()
            work.run()
        finally:
            del self._at_work[number]
