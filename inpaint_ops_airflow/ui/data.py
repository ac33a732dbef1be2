"""Routes for programs, the page's own scripts among them: JSON, files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import Response

from inpaint_ops.browse import RowQuery, RunPage, RunQuery
from inpaint_ops.browse.catalogue import Order
from inpaint_ops.browse.pictures import Kind, uri_of
from inpaint_ops.browse.table import MarkFilter, RowOrder
from inpaint_ops.records import STAGES
from inpaint_ops.report.facts import STAGE_LABELS, cure
from inpaint_ops.tallies.timeline import row_seconds
from inpaint_ops_airflow.ui.dependencies import RecordDep, RunDep, ViewsDep
from inpaint_ops_airflow.ui.downloads import download
from inpaint_ops_airflow.ui.models import (
    Point,
    ReviewBody,
    RowBody,
    RowItem,
    RowsBody,
    StateBody,
    TallyBody,
    ThroughputBody,
)

router = APIRouter(prefix="/api")

PAGE = 48
_LAYOUT_FILES = {
    "failed.jsonl": "failed", "results.jsonl": "results", "run.json": "summary", "timings.parquet": "timings",
    "trace.json": "trace", "manifest.jsonl": "manifest", "rejected.jsonl": "rejected",
}  # fmt: skip


def run_query(
    text: Annotated[str, Query(max_length=200)] = "",
    state: Literal["", "going", "finished", "refused"] = "",
    verdict: Literal["", "VALID", "INVALID"] = "",
    order: Order = "created_at",
    descending: bool = True,
) -> RunQuery:
    """The query that a URL asks for."""
    return RunQuery(text=text, state=state, verdict=verdict, order=order, descending=descending)


QueryDep = Annotated[RunQuery, Depends(run_query)]


@router.get("/runs")
def list_runs(views: ViewsDep, query: QueryDep, page: Annotated[int, Query(ge=1)] = 1) -> RunPage:
    """A page of the runs."""
    return views.catalogue.page(query, page)


@router.get("/runs/{run}")
def run_state(view: RunDep) -> StateBody:
    """How far the run and its shards are."""
    return StateBody(run=view.run, state=view.state, shards=view.shards)


@router.get("/runs/{run}/throughput")
def throughput(view: RunDep) -> ThroughputBody:
    """Images per second over time."""
    points = view.records().table.throughput()
    return ThroughputBody(
        points=tuple(Point(start=p.start, width=p.width, images_per_second=p.images_per_second) for p in points)
    )


def row_query(
    view: RunDep,
    status: Literal["", "done", "failed", "rejected"] = "",
    text: Annotated[str, Query(max_length=200)] = "",
    mark: MarkFilter = "",
    flag: Annotated[str, Query(max_length=60)] = "",
    device: Annotated[str, Query(max_length=200)] = "",
    measure: Annotated[str, Query(max_length=60)] = "",
    least: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    most: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    order: RowOrder = "row",
    shard: Annotated[str, Query(max_length=30)] = "",
) -> RowQuery:
    """The rows that a URL asks for; 404 for a shard that the run has not."""
    bounds: dict[str, Any] = {}
    if shard:
        found = next((one for one in view.shards if one.name == shard), None)
        if found is None:
            raise HTTPException(404, "the run has no such shard")
        bounds = {"shard_rows": (found.first_row, found.last_row)}
    return RowQuery(
        status=status, text=text, mark=mark, flag=flag, device=device, measure=measure, least=least, most=most,
        order=order, **bounds,
    )  # fmt: skip


RowQueryDep = Annotated[RowQuery, Depends(row_query)]


@router.get("/runs/{run}/rows")
def rows(
    view: RunDep,
    query: RowQueryDep,
    page: Annotated[int, Query(ge=1)] = 1,
    at: Annotated[int | None, Query(ge=1)] = None,
) -> RowsBody:
    """A page of the run's rows; with `at`, the page that holds that line of the manifest, if these rows have it."""
    seen = view.page(query, page, PAGE, at=at)
    return RowsBody(
        items=tuple(RowItem.of(record, view.reviews.decision(record)) for record in seen.records),
        total=seen.total,
        page=seen.page,
        pages=seen.pages,
        unread=seen.unread,
        review=TallyBody.of(view.reviews.tally(view.records().table)),
    )


@router.get("/runs/{run}/rows/{row}")
def one_row(view: RunDep, record: RecordDep) -> RowBody:
    """One row in full."""
    view.reviews.refresh()
    taken = {STAGE_LABELS[stage]: getattr(record.timings, stage) for stage in STAGES}
    kinds: list[Kind] = ["source"] if record.source else []
    kinds += ["mask"] if record.mask else []
    kinds += ["result"] if record.output else []
    return RowBody(
        record=record,
        seconds=row_seconds(record),
        cure=cure(record.error) if record.status != "done" else "",
        stages={label: seconds for label, seconds in taken.items() if seconds is not None},
        pictures=tuple(kinds),
        review=ReviewBody.of(view.reviews.decision(record)),
    )


@router.get("/runs/{run}/rows/{row}/files/{kind}")
def row_file(kind: Kind, views: ViewsDep, record: RecordDep) -> Response:
    """The source, the mask or the result as it is, to save."""
    return download(views.workspace.storage, uri_of(record, kind))


@router.get("/runs/{run}/files/{name}")
def run_file(name: str, views: ViewsDep, view: RunDep) -> Response:
    """One of the run's files, to save."""
    if name not in _LAYOUT_FILES:
        raise HTTPException(404, "a run has no such file")
    return download(views.workspace.storage, getattr(views.workspace.layout(view.run), _LAYOUT_FILES[name]).uri)
