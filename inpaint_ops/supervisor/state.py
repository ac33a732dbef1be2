"""What one try of a shard knows: of its rows, of its messages to itself, and what it tells others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.protocol import Event
from inpaint_ops.records import Status


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
class RowState:
    """A row that has no record yet."""

    row: AcceptedRow
    folder: Path
    download: float | None = None
    begun: bool = False
    """Its worker has said that it works on it."""
    alone: bool = False
    """It was in the hands of a worker that died: it goes on by itself, so that the guilty one is found."""
    deaths: int = 0
    """Workers that ended with this row alone in their hands."""


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
