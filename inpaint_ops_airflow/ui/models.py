"""The bodies of the replies to programs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from inpaint_ops.browse import RunState, ShardState
from inpaint_ops.browse.redone import ChildPhase
from inpaint_ops.records import Model, Moment, Record
from inpaint_ops.reviewing import Change, Decision, Opinion, RedoOptions, Tally, Verdict
from inpaint_ops.reviewing.marks import RowId
from inpaint_ops.tallies.timeline import row_seconds


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


class OpinionBody(Model):
    """What one reviewer says of a result."""

    reviewer: str
    mark: Verdict | None = None
    rating: int | None = None
    reason: str = ""
    note: str = ""
    variant: int | None = None
    at: Moment | None = None

    @classmethod
    def of(cls, reviewer: str, opinion: Opinion) -> OpinionBody:
        """The reviewer's opinion."""
        return cls(
            reviewer=reviewer, mark=opinion.verdict, rating=opinion.rating, reason=opinion.reason, note=opinion.note,
            variant=opinion.variant, at=opinion.decided_at or opinion.rated_at,
        )  # fmt: skip


class ReviewBody(Model):
    """What counts for a result, and what each reviewer says of it."""

    mark: Verdict | None
    reviewer: str
    rating: int | None
    disputed: bool
    opinions: tuple[OpinionBody, ...]
    outdated: tuple[str, ...]

    @classmethod
    def of(cls, decision: Decision) -> ReviewBody:
        """The decision."""
        return cls(
            mark=decision.verdict, reviewer=decision.reviewer, rating=decision.rating, disputed=decision.is_disputed,
            opinions=tuple(OpinionBody.of(name, one) for name, one in sorted(decision.opinions.items())),
            outdated=decision.outdated,
        )  # fmt: skip


class TallyBody(Model):
    """How far a review is: `rows` have an image."""

    rows: int
    reviewed: int
    accept: int
    reject: int
    redo: int
    disputed: int
    outdated: int

    @classmethod
    def of(cls, found: Tally) -> TallyBody:
        """The tally."""
        counts = found.verdicts
        return cls(
            rows=found.rows, reviewed=found.reviewed, disputed=found.disputed, outdated=found.outdated,
            accept=counts["accept"], reject=counts["reject"], redo=counts["redo"],
        )  # fmt: skip


class MeasureBody(Model):
    """A measure, and how many rows lie between which values: from, to, rows."""

    name: str
    label: str
    bars: tuple[tuple[float, float, int], ...]


class ReviewsBody(Model):
    """The review of a run, and what its rows can be filtered by."""

    tally: TallyBody
    may_review: bool
    reviewer: str
    flags: dict[str, int]
    devices: tuple[str, ...]
    measures: tuple[MeasureBody, ...]
    children: tuple[str, ...] = Field(description="Runs that do rows of this one again; some may not have begun.")
    parent: str | None = Field(default=None, description="The run whose rows this one does again; it may be gone.")
    left_out: tuple[str, ...]


MARKS_AT_ONCE = 500


class MarkBody(Change):
    """One mark that a page sends: of the result that `attempt` made, which is what its reviewer has seen."""

    attempt: Annotated[str, Field(min_length=1, max_length=200)]


class MarksBody(Model):
    """Marks that a page sends."""

    marks: Annotated[tuple[MarkBody, ...], Field(min_length=1, max_length=MARKS_AT_ONCE)]


class MarkedBody(Model):
    """What came of marks that were sent: they are stored, but for those that `refused` names, by id with the reason."""

    tally: TallyBody
    refused: dict[str, str]


class RedoBody(RedoOptions):
    """Which rows to do again, and how; without ids those that reviewers sent back."""

    ids: Annotated[tuple[RowId, ...], Field(min_length=1, max_length=MARKS_AT_ONCE)] | None = None


class ChildBody(Model):
    """A child run whose manifest is in the store: what to trigger the DAG with."""

    run: str
    rows: int
    conf: dict[str, Any]
    asked_before: dict[str, int] = Field(description="By child run: rows left out, since it was triggered for them.")


class ChildStateBody(Model):
    """How far a child run is."""

    run: str
    state: ChildPhase
    problem: str
    prepared: Moment
    rows: int
    done: int
    failed: int = Field(description="Rows that failed or were rejected.")
    verdict: str = Field(description="VALID or INVALID once it is over, else empty.")


class RedoneBody(Model):
    """A row of a child run that does a row again; `row` is None while it has no record."""

    run: str
    id: str
    depth: int = Field(description="1: it does the row itself again; 2: a row of a child run that does; and so on.")
    parent_run: str
    parent_id: str
    run_state: ChildPhase
    problem: str = Field(description="Why the row failed, or why its run was not planned.")
    is_final: bool = Field(description="Whether its image is the final one of the row that was asked for.")
    row: int | None = None
    status: str = ""
    attempt: str = ""
    seed: int | None = None
    steps: int | None = None
    prompt: str = ""
    mark: Verdict | None = None
    rating: int | None = None


class RedoneRowsBody(Model):
    """The rows that do a row again; `more` further ones are not listed."""

    rows: tuple[RedoneBody, ...]
    more: int


class RowItem(Model):
    """A row as the gallery shows it."""

    row: int
    id: str
    status: Literal["done", "failed", "rejected"]
    prompt: str
    seconds: float
    reason: str
    picture: Literal["", "source", "result"]
    thumbnail: str = Field(description="Tells the thumbnail that painting wrote from any other; empty: it wrote none.")
    mark: Verdict | None = None
    rating: int | None = None
    disputed: bool = False
    flags: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Record, decision: Decision) -> RowItem:
        """The row of `record`."""
        return cls(
            row=record.row,
            id=record.id,
            status=record.status,
            prompt=record.prompt[:300],
            seconds=row_seconds(record),
            reason=record.error.message[:300] if record.error else "",
            picture="result" if record.output else "source" if record.source else "",
            thumbnail=record.thumbnails[0].sha256[:16] if record.thumbnails else "",
            mark=decision.verdict,
            rating=decision.rating,
            disputed=decision.is_disputed,
            flags=record.flags,
        )


class RowsBody(Model):
    """A page of rows; `unread` records are there and were not read yet."""

    items: tuple[RowItem, ...]
    total: int
    page: int
    pages: int
    unread: int
    review: TallyBody


class RowBody(Model):
    """One row in full, and what its time went into."""

    record: Record
    seconds: float
    cure: str
    stages: dict[str, float]
    pictures: tuple[Literal["source", "mask", "result"], ...]
    review: ReviewBody
