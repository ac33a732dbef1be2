"""What reaches the loop of a shard from its threads and its worker, one queue for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.planning import PlannedRow
from inpaint_ops.protocol import Event
from inpaint_ops.records import Status


@dataclass(slots=True)
class RowFiles:
    """A row and its folder on this machine."""

    row: PlannedRow
    folder: Path
    size: tuple[int, int] | None = None
    """The source's width and height as its file's header says; None where that says nothing."""
    bytes: int = 0
    """Of its image and mask."""
    download: float | None = None
    """Seconds that its files took to arrive."""
    painted_by: int = 0
    """The session whose worker painted it last."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A row's files are here, or could not be had."""

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
class RecordsListed:
    """The rows that have a record by now, whichever attempt wrote it; asked for when worker `session` was ready."""

    session: int
    rows: frozenset[int]


@dataclass(frozen=True, slots=True)
class FromWorker:
    """An event of a worker; `session` distinguishes the workers of one attempt."""

    session: int
    event: Event


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker's process is gone."""

    session: int
    returncode: int


Message = Downloaded | Recorded | RecordsListed | FromWorker | Exited
