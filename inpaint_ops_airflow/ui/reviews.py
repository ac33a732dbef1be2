"""Routes of a review: how far it is, marks that a page sends, and exports."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from inpaint_ops.browse import RunView
from inpaint_ops.errors import ConfigError
from inpaint_ops.records import of_variant
from inpaint_ops.reviewing import (
    Export,
    Mark,
    Reviews,
    check_reviewer,
    child_runs,
    decide,
    export,
    final_lines,
    parent_of,
    reviewed_rows,
)
from inpaint_ops.reviewing.importing import explained
from inpaint_ops.storage.stored import Leftovers
from inpaint_ops_airflow.ui.access import may_review, may_trigger_runs, reviewer, sent_by_these_pages
from inpaint_ops_airflow.ui.dependencies import RunDep, ViewsDep, get_run
from inpaint_ops_airflow.ui.models import (
    MARKS_AT_ONCE,
    MarkedBody,
    MarksBody,
    MeasureBody,
    ReviewsBody,
    TallyBody,
)

router = APIRouter()

BODY_BYTES = 2**20
"""Of the marks that a page sends at once, at most."""

_EXPORTS: dict[str, tuple[Export, str]] = {
    "reviews.jsonl": ("jsonl", "application/jsonl"),
    "reviews.csv": ("csv", "text/csv; charset=utf-8"),
    "accepted.jsonl": ("accepted", "application/jsonl"),
    "redo.jsonl": ("redo", "application/jsonl"),
    "final.jsonl": ("final", "application/jsonl"),
}
exporting = threading.BoundedSemaphore(2)
"""What goes through all rows of a run: so many at once."""


@router.get("/api/runs/{run}/reviews")
def reviews(
    view: RunDep, views: ViewsDep, name: Annotated[str, reviewer], may: Annotated[bool, may_review]
) -> ReviewsBody:
    """How far the run's review is, whether the user may add to it, and what rows can be filtered by."""
    view.reviews.refresh()
    table = view.records().table
    try:
        name = check_reviewer(name)
    except ConfigError:  # a user whose name cannot be a reviewer's
        may = False
    return ReviewsBody(
        tally=TallyBody.of(view.reviews.tally(table)),
        may_review=may,
        reviewer=name,
        flags=dict(table.flag_counts),
        devices=tuple(table.devices[:100]),
        measures=tuple(
            MeasureBody(name=one.measure.name, label=one.label, bars=tuple(one.bars()))
            for one in (*table.spreads, *table.figures)
            if one.count
        ),
        children=tuple(one.run for one in child_runs(views.workspace, views.workspace.layout(view.run))),
        parent=parent_of(views.workspace, view.plan),
        left_out=view.left_out,
    )


@router.post("/api/runs/{run}/reviews", dependencies=[sent_by_these_pages, may_trigger_runs])
async def mark_rows(request: Request, run: str, views: ViewsDep, name: Annotated[str, reviewer]) -> MarkedBody:
    """Add marks under the user's own name. They are stored once this answers."""
    try:
        check_reviewer(name)
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None
    sent = _marks(await body_of(request))
    return await run_in_threadpool(_append, views, run, name, sent)


async def body_of(request: Request) -> bytes:
    """The request's body. Raises 413 before more than `BODY_BYTES` are in memory."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > BODY_BYTES:
            raise HTTPException(413, f"too much at once: send {MARKS_AT_ONCE} marks or fewer")
    return bytes(found)


def _marks(body: bytes) -> MarksBody:
    try:
        return MarksBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = first["loc"]
        if place[:1] == ("marks",) and len(place) > 2:
            field = str(place[-1])
            raise HTTPException(422, f"mark {int(place[1]) + 1}: {field}: {explained(first)}") from None
        raise HTTPException(
            422, f'this is no list of marks: send {{"marks": [...]}} with 1 to {MARKS_AT_ONCE} of them'
        ) from None


def _append(views: ViewsDep, run: str, name: str, sent: MarksBody) -> MarkedBody:
    view = get_run(run, views)
    records = view.records()
    table = records.table
    positions = {row: at for at, row in enumerate(table.ids)}
    marks, refused = [], {}
    for one in sent.marks:
        at = positions.get(one.id)
        if at is None or not table.done[at]:
            refused[one.id] = "the run has no image of this row"
        elif table.attempts[at] != one.attempt:
            refused[one.id] = "the row was painted again meanwhile: look at the new image"
        elif one.variant is not None and of_variant(records.record(at), one.variant, "review") is None:
            refused[one.id] = f"the row has no image of variant {one.variant}"
        else:
            marks.append(Mark(**dict(one)))
    view.reviews.append(name, marks)
    return MarkedBody(tally=TallyBody.of(view.reviews.tally(table)), refused=refused)


def _export(view: RunView, views: ViewsDep, name: str) -> Response:
    kind, media_type = _EXPORTS[name]
    if not exporting.acquire(blocking=False):
        raise HTTPException(503, "another export is being made: try again", {"Retry-After": "10"})
    left = Leftovers()
    kept = Reviews(views.workspace.storage, views.workspace.layout(view.run), left)
    try:
        kept.refresh()
        given = kept.opinions
        rows = reviewed_rows(views.workspace, view.plan, left)
        if kind == "final":
            return _Export(final_lines(views.workspace, view.run, left), media_type, name)
        lines = export(kind, view.run, ((row, decide(given, row.record.id, row.record.attempt)) for row in rows))
        return _Export(lines, media_type, name)
    except BaseException:
        exporting.release()
        raise


class _Export(StreamingResponse):
    """Lines as a file to save; another export may begin once it has been sent, or its reader has gone."""

    def __init__(self, lines: Iterator[bytes], media_type: str, name: str) -> None:
        super().__init__(
            lines, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    async def __call__(self, *args: object) -> None:
        try:
            await super().__call__(*args)  # type: ignore[arg-type]
        finally:
            exporting.release()


@router.get("/runs/{run}/reviews.jsonl")
def reviews_jsonl(view: RunDep, views: ViewsDep) -> Response:
    """The review of each row, one per line."""
    return _export(view, views, "reviews.jsonl")


@router.get("/runs/{run}/reviews.csv")
def reviews_csv(view: RunDep, views: ViewsDep) -> Response:
    """The same as a table."""
    return _export(view, views, "reviews.csv")


@router.get("/runs/{run}/accepted.jsonl")
def accepted(view: RunDep, views: ViewsDep) -> Response:
    """A manifest of the rows that were accepted."""
    return _export(view, views, "accepted.jsonl")


@router.get("/runs/{run}/redo.jsonl")
def redo(view: RunDep, views: ViewsDep) -> Response:
    """A manifest of the rows that are to be painted again, with other seeds."""
    return _export(view, views, "redo.jsonl")


@router.get("/runs/{run}/final.jsonl")
def final(view: RunDep, views: ViewsDep) -> Response:
    """The accepted image of each row, of this run or of a child run that did the row again."""
    return _export(view, views, "final.jsonl")
