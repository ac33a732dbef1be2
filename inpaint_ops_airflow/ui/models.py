"""The bodies of the replies to programs."""

from __future__ import annotations

from typing import Literal

from inpaint_ops.browse import RunState, ShardState
from inpaint_ops.records import Model, Record
from inpaint_ops.report.timeline import row_seconds


class StateBody(Model):
    """How far a run is."""

    run: str
    state: RunState
    shards: tuple[ShardState, ...]


class Point(Model):
    """Images per second in `width` seconds from `start` (POSIX)."""

    start: float
    width: float
    images_per_second: float


class ThroughputBody(Model):
    """Images per second over time."""

    points: tuple[Point, ...]


class RowItem(Model):
    """A row as the gallery shows it."""

    row: int
    id: str
    status: Literal["done", "failed", "rejected"]
    prompt: str
    seconds: float
    reason: str
    picture: Literal["", "source", "result"]

    @classmethod
    def of(cls, record: Record) -> RowItem:
        """The row of `record`."""
        return cls(
            row=record.row,
            id=record.id,
            status=record.status,
            prompt=record.prompt[:300],
            seconds=row_seconds(record),
            reason=record.error.message[:300] if record.error else "",
            picture="result" if record.output else "source" if record.source else "",
        )


class RowsBody(Model):
    """A page of rows; `unread` records are there and were not read yet."""

    items: tuple[RowItem, ...]
    total: int
    page: int
    pages: int
    unread: int


class RowBody(Model):
    """One row in full, and what its time went into."""

    record: Record
    seconds: float
    cure: str
    stages: dict[str, float]
    pictures: tuple[Literal["source", "mask", "result"], ...]
