"""What an attempt at a shard reports: how far it is while it runs, and how it ended."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from inpaint_ops.records import FaultKind, ShardProgress, duration_in_words, now
from inpaint_ops.supervisor.attempt_notes import AttemptNotes
from inpaint_ops.supervisor.session import WorkerSession

log = logging.getLogger(__name__)


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
    device: str = ""
    """What names the device that it is painted on, once there is one."""

    def __str__(self) -> str:
        text = f"shard {self.shard}: {self.done + self.failed}/{self.rows} rows"
        if self.failed:
            text += f", {self.failed} failed"
        if self.images_per_second is None or self.seconds_left is None:
            return f"{text}, {self.phase}"
        left = duration_in_words(round(self.seconds_left))
        return f"{text}, {self.images_per_second:.2f} images/s, {left} left"


@dataclass(frozen=True, slots=True)
class ShardResult:
    """How a shard ended. `skipped` rows had a record before this attempt."""

    shard: str
    done: int
    failed: int
    skipped: int
    workers: int
    seconds: float


@dataclass(slots=True)
class Tally:
    """Rows by how they ended: in this attempt, and (`skipped`) before it."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    painted: int = 0
    _began: float | None = None

    def begin(self) -> None:
        """A batch has begun: the first one starts the clock."""
        if self._began is None:
            self._began = time.monotonic()

    def progress(self, shard: str, *, rows: int, left: int, phase: str, device: str = "") -> Progress:
        """How far the shard is, with `left` rows to go."""
        rate = None
        if self.painted and self._began is not None:
            rate = self.painted / max(time.monotonic() - self._began, 1e-6)
        seconds = left / rate if rate else None
        return Progress(shard, rows, self.done + self.skipped, self.failed, phase, rate, seconds, device)


@dataclass(slots=True)
class Reporter:
    """The state of one attempt, for others: how far it is, its warnings, and the faults that it recovered from."""

    notes: AttemptNotes
    rows: int
    interval: float
    """Seconds between two snapshots."""
    tally: Tally = field(default_factory=Tally)
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Keep a warning for the run's report, once."""
        if message not in self.warnings:
            self.warnings.append(message)
            log.warning("shard %s: %s", self.notes.shard, message)

    def fault(self, kind: FaultKind, what: str) -> None:
        """Count a fault that the attempt goes on after."""
        self.notes.faults.add(kind, what)
        log.warning("shard %s: %s", self.notes.shard, what)

    def progress(self, session: WorkerSession | None, left: int) -> Progress:
        """How far the shard is, with `left` rows to go."""
        phase, device = (session.phase, session.device) if session else ("finishing", "")
        return self.tally.progress(self.notes.shard, rows=self.rows, left=left, phase=phase, device=device)

    def snapshot(
        self, session: WorkerSession | None, left: int, *, painting: bool, phase: str | None = None
    ) -> ShardProgress:
        """What is stored for the pages; `phase` is given where the attempt is over, `painting` where rows are in a
        worker that is ready.
        """
        progress = self.progress(session, left)
        silent = time.monotonic() - session.last_sign if session and painting and not phase else None
        return ShardProgress(
            shard=self.notes.shard,
            attempt=self.notes.attempt,
            rows=progress.rows,
            done=progress.done,
            failed=progress.failed,
            phase=phase or progress.phase,
            images_per_second=progress.images_per_second,
            seconds_left=None if phase else progress.seconds_left,
            worker_silent=silent,
            device=session.ready.device.name if session and session.ready else "",
            interval=self.interval,
            updated_at=now(),
        )
