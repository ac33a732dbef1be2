"""What one try of a shard knows: of its rows, of its messages to itself, and what it tells others."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.protocol import Event
from inpaint_ops.records import Status

MAX_DEATHS_ALONE = 2
"""Workers that may end, or devices that may fail, with one row alone in hand, before it is the row that is to blame."""


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
class Tally:
    """Rows by how they ended: in this try, and (`skipped`) before it."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    painted: int = 0
    _began: float | None = None

    def begin(self) -> None:
        """A batch is begun: the first one starts the clock."""
        if self._began is None:
            self._began = time.monotonic()

    def progress(self, shard: str, *, rows: int, left: int, phase: str) -> Progress:
        """How far it is, `left` rows before the end."""
        rate = None
        if self.painted and self._began is not None:
            rate = self.painted / max(time.monotonic() - self._began, 1e-6)
        seconds = left / rate if rate else None
        return Progress(shard, rows, self.done + self.skipped, self.failed, phase, rate, seconds)


@dataclass(slots=True)
class RowState:
    """A row that has no record yet."""

    row: AcceptedRow
    folder: Path
    size: tuple[int, int] | None = None
    """The source's width and height as its file's header says; None where that says nothing."""
    download: float | None = None
    begun: bool = False
    """Its worker has said that it works on it."""
    alone: bool = False
    """It was in the hands of a worker that died: it goes on by itself, so that the guilty one is found."""
    painted_by: int = 0
    """The session whose worker painted it last."""
    deaths: int = 0
    """Workers that ended with this row alone in their hands."""
    devices_lost: set[str] = field(default_factory=set)
    """Devices that failed with this row alone in their workers' hands."""

    def is_to_blame(self, lost_device: str) -> bool:
        """Count a worker that ended with this row alone in its hands, for its `lost_device` where that is why; whether
        it is the row's fault by now. One such end is no proof: the worker may have been killed by somebody else, and a
        device that is broken fails with any row.
        """
        if lost_device:
            self.devices_lost.add(lost_device)
        else:
            self.deaths += 1
        return max(self.deaths, len(self.devices_lost)) >= MAX_DEATHS_ALONE


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A row's files are here, or will not be."""

    row: int
    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row's record is written, or could not be."""

    row: int
    status: Status
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class FromWorker:
    """An event of a worker; `session` tells the workers of one try apart."""

    session: int
    event: Event


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker's process is gone."""

    session: int
    returncode: int


Message = Downloaded | Recorded | FromWorker | Exited
