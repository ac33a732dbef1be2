"""What reaches the loop of a shard from its threads and its worker, one queue for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.planning import PlannedRow
from inpaint_ops.protocol import Event
from inpaint_ops.records import Status
from inpaint_ops.variants import Unit


@dataclass(slots=True)
class RowFiles:
    """What is painted at once, and its folder on this machine."""

    unit: Unit
    folder: Path
    size: tuple[int, int] | None = None
    """The source's width and height as its file's header says; None where that says nothing."""
    bytes: int = 0
    """Of its image and mask."""
    download: float | None = None
    """Seconds that its files took to arrive."""
    painted_by: int = 0
    """The session whose worker painted it last."""

    @property
    def row(self) -> PlannedRow:
        """The row; of a variant, with the variant's seed."""
        return self.unit.row

    @property
    def number(self) -> int:
        """By which the book and the worker know it."""
        return self.unit.number


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A row's files are here, or could not be had."""

    row: int
    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row's record is written, or could not be; or that of one of its variants."""

    row: int
    status: Status
    ends_row: bool = True
    """Whether its row has ended with it."""
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
