"""Routes for people: the list of runs, a run, and the tabs that Airflow shows beside its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from airflow.api_fastapi.common.db.common import SessionDep
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from inpaint_ops.browse import RunQuery, RunView, RunViews
from inpaint_ops.browse.table import worker_parts
from inpaint_ops.delivering import permitted_prefixes
from inpaint_ops.errors import ConfigError, InpaintOpsError
from inpaint_ops.layout import shard_name
from inpaint_ops.records import Refusal
from inpaint_ops.report.page import FAILURE_GROUPS, FailuresShown, ShownGroup, TimesShown, summary_context
from inpaint_ops_airflow.deliveries import DAG_ID as DELIVER_DAG_ID
from inpaint_ops_airflow.ui.access import DAG_ID, may_deliver, may_read_this_dag
from inpaint_ops_airflow.ui.dag_runs import (
    DagRunState,
    asked_for,
    dag_run,
    planning_state,
    refusal_of,
    task_of_shard,
)
from inpaint_ops_airflow.ui.data import QueryDep, run_file
from inpaint_ops_airflow.ui.dependencies import RecordDep, RunDep, ViewsDep, get_run
from inpaint_ops_airflow.ui.downloads import download
from inpaint_ops_airflow.ui.rendering import airflow_root, asset, render, root_of
from inpaint_ops_airflow.ui.rerunning import rerun_conf

router = APIRouter(default_response_class=HTMLResponse)

_REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox allow-downloads"
)
_REPORT_BYTES = 32 * 2**20
"""Of a report, at most: ours have two million."""

_SHARDS = 200

PageNumber = Annotated[int, Query(ge=1)]


@router.get("/")
def runs_page(request: Request, views: ViewsDep, query: QueryDep, page: PageNumber = 1) -> str:
    """All runs."""
    return render(request, "runs.html.j2", **_runs(views, query, page))


@router.get("/fragments/runs")
def runs_table(request: Request, views: ViewsDep, query: QueryDep, page: PageNumber = 1) -> str:
    """The table of runs, as the page has it."""
    return render(request, "runs_table.html.j2", **_runs(views, query, page))


def _runs(views: ViewsDep, query: RunQuery, page: int) -> dict[str, Any]:
    found = views.catalogue.page(query, page)

    def link(**changes: Any) -> str:
        merged = query.model_dump() | {"page": 1} | changes
        defaults = RunQuery().model_dump() | {"page": 1}
        return "?" + urlencode({name: value for name, value in merged.items() if value != defaults[name]})

    return {"found": found, "query": query, "link": link, "store": views.workspace.store.uri}


@router.get("/runs/{run}/")
def run_page(
    request: Request,
    run: str,
    views: ViewsDep,
    may: Annotated[bool, may_deliver],
    shard: str = "",
    embedded: bool = False,
) -> str:
    """One run, or why a job of this name was refused. What costs more than its summary comes by the fragments below."""
    found = views.run(run)
    if found is None and (refused := views.refusal(run)) is not None:
        return _refused_page(request, refused, embedded=embedded)
    view = get_run(run, views) if found is None else found
    context: dict[str, Any] = _base(view) | {
        "shard": next((one for one in view.shards if one.name == shard), None),
        "embedded": embedded,
        "dag_id": DAG_ID,
        "deliver_dag_id": DELIVER_DAG_ID,
        **_deliveries(views, may=may),
        "unclean": [],
        "conversions": [],
    }
    if view.is_finished and view.summary is not None:
        context |= summary_context(view.summary)
    return render(request, "run.html.j2", **context)


def _deliveries(views: RunViews, *, may: bool) -> dict[str, Any]:
    """The prefixes that the user may deliver to, or what is wrong with the setting that lists them."""
    try:
        prefixes = permitted_prefixes(views.workspace.settings) if may else ()
    except ConfigError as error:
        return {"delivery_prefixes": [], "delivery_problem": str(error)}
    return {"delivery_prefixes": [one.uri for one in prefixes], "delivery_problem": ""}


@router.get("/runs/{run}/fragments/airflow")
def airflow_fragment(request: Request, view: RunDep, session: SessionDep) -> str:
    """The DAG runs that asked for the run, with links to them and to their tasks."""
    return render(request, "airflow.html.j2", asked=asked_for(session, view.run, view.plan.created_at))


@router.get("/runs/{run}/rows/{row}/log")
def row_log(request: Request, view: RunDep, record: RecordDep, session: SessionDep) -> Response:
    """To Airflow's page of the task that ended the row, which opens with its log."""
    return _to_task(request, session, view, record.attempt.rpartition("-")[0])


@router.get("/runs/{run}/shards/{shard}/log")
def shard_log(request: Request, view: RunDep, shard: str, session: SessionDep) -> Response:
    """To Airflow's page of the task that painted the shard, which opens with its log."""
    return _to_task(request, session, view, shard)


def _to_task(request: Request, session: Any, view: RunView, shard: str) -> Response:
    path = task_of_shard(session, view.run, view.plan.created_at, shard)
    if path is None:
        raise HTTPException(
            404,
            "This Airflow knows no task that painted this: the command line did, or its DAG run was deleted, or "
            "another Airflow made it.",
        )
    return RedirectResponse(f"{airflow_root(request)}{path}", status_code=307)


@router.get("/runs/{run}/fragments/progress")
def progress(request: Request, view: RunDep) -> str:
    """How far the run and its shards are."""
    return render(request, "progress.html.j2", **_base(view))


@router.get("/runs/{run}/fragments/failures")
def failures(request: Request, view: RunDep, views: ViewsDep) -> str:
    """The failures by reason, and the failed rows to run again once that can help."""
    groups = view.failures()
    shown = FailuresShown(
        groups=groups[:FAILURE_GROUPS],
        more_groups=len(groups[FAILURE_GROUPS:]),
        rerun_rows=view.state.failed if view.is_finished else 0,  # failed.jsonl is written at the end
    )
    return render(
        request, "failures.html.j2", failures=shown, unread=view.records().unread, view=view, dag_id=DAG_ID,
        may_pass=sum(group.count for group in groups if _may_pass(group)),
        rerun=rerun_conf(view, views.workspace.layout(view.run).failed.uri),
        here=f"{root_of(request)}/runs/{quote(view.run, safe='')}",
    )  # fmt: skip


def _may_pass(group: ShownGroup) -> bool:
    """Whether rows that failed in this way may pass as they are: their error is no permanent one."""
    return any(record.error is None or not record.error.permanent for record in group.shown)


@router.get("/runs/{run}/fragments/time")
def time_fragment(request: Request, view: RunDep) -> str:
    """Where the time went, and the distribution of each stage."""
    table = view.records().table
    seconds = table.stage_seconds()
    summary = view.summary if view.is_finished else None
    shown = TimesShown(
        stage_parts=table.stage_parts(),
        worker_parts=worker_parts(summary, seconds) if summary else (),
        stage_seconds=seconds,
        stages=summary.stages if summary else table.stage_stats() if len(table) else {},
    )
    return render(request, "time.html.j2", times=shown)


@router.get("/runs/{run}/report.html")
def report(view: RunDep, views: ViewsDep) -> Response:
    """The run's own report, which holds all that it needs; its images are inside, so its policy allows no request."""
    body = views.workspace.storage.get(views.workspace.layout(view.run).report, max_bytes=_REPORT_BYTES)
    return HTMLResponse(body, headers={"Content-Security-Policy": _REPORT_POLICY})


@router.get("/runs/{run}/images/{name:path}")
def image_beside_the_page(name: str, views: ViewsDep, view: RunDep) -> Response:
    """A finished image, to save: the links in report.html lead here."""
    return download(views.workspace.storage, views.workspace.layout(view.run).images.join(name).uri)


@router.get("/runs/{run}/{name}")
def file_beside_the_page(name: str, views: ViewsDep, view: RunDep) -> Response:
    """The run's files lie beside its page, as they lie beside its report: the same links work in both."""
    return run_file(name, views, view)


@router.get("/dag-runs/{dag_id}/{run_id:path}", dependencies=[may_read_this_dag])
def dag_run_tab(
    request: Request, dag_id: str, run_id: str, session: SessionDep, views: ViewsDep, to: Literal["", "report"] = ""
) -> Response:
    """The tab of a DAG run, and its tasks' link to the report: the run that it made, or why it made none."""
    return _tab(request, session, views, dag_id, run_id, "this DAG run", to=f"{to}.html" if to else "")


@router.get("/tasks/{dag_id}/{run_id}/{task_id}/{map_index}", dependencies=[may_read_this_dag])
def task_tab(
    request: Request, dag_id: str, run_id: str, task_id: str, map_index: str, session: SessionDep, views: ViewsDep
) -> Response:
    """The tab of a task instance: the shard that it painted, or the whole run."""
    shard = shard_name(int(map_index)) if task_id == "inpaint" and map_index.isdecimal() else ""
    return _tab(request, session, views, dag_id, run_id, "this task", shard=shard)


def _tab(
    request: Request,
    session: Any,
    views: RunViews,
    dag_id: str,
    run_id: str,
    what: str,
    *,
    shard: str = "",
    to: str = "",
) -> Response:
    asked = dag_run(session, run_id) if dag_id == DAG_ID else None
    run = asked.run if asked is not None else None
    if asked is None or run is None:
        return HTMLResponse(render(request, "problem.html.j2", status=404, message=f"{what} paints no images"))
    state = planning_state(session, run_id)
    if state != "success":
        if (refused := refusal_of(session, run_id)) is not None:
            existing = _existing(views, run) if refused.type == "RunConflictError" or asked.conf.get("retry") else None
            again = state == "up_for_retry"
            return HTMLResponse(
                _refused_page(request, refused, embedded=True, existing=existing, asked=asked, again=again)
            )
        if _existing(views, run) is None:
            return HTMLResponse(render(request, "planning.html.j2", asked=asked, task=state))
    query = "" if to else "?" + urlencode({"embedded": "true"} | ({"shard": shard} if shard else {}))
    return RedirectResponse(f"{root_of(request)}/runs/{quote(run, safe='')}/{to}{query}", status_code=307)


def _refused_page(
    request: Request,
    refused: Refusal,
    *,
    embedded: bool,
    existing: str | None = None,
    asked: DagRunState | None = None,
    again: bool = False,
) -> str:
    """Why a job was refused: `existing` is a run of its name, `again` whether Airflow tries it again by itself."""
    context = {"refused": refused, "embedded": embedded, "existing": existing, "asked": asked, "again": again}
    return render(request, "refused.html.j2", **context)


def _existing(views: RunViews, run: str) -> str | None:
    """The name, where there is a run of it."""
    try:
        return run if views.run(run) is not None else None
    except InpaintOpsError:  # no run can have such a name, or the store does not answer
        return None


@router.get("/static/{name}")
def static(request: Request, name: str) -> Response:
    """A style sheet or a script; the browser asks each time whether it has changed."""
    found = asset(name)
    if found is None:
        raise HTTPException(404, "there is no such file")
    body, kind, etag = found
    headers = {"Cache-Control": "private, no-cache", "ETag": etag}
    if request.headers.get("if-none-match", "").removeprefix("W/") == etag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=kind, headers=headers)


def _base(view: RunView) -> dict[str, Any]:
    """What every part of a run's page needs; a run of a thousand shards shows those that matter."""
    eventful = ("working", "stalled", "stopped")
    shown = [one for one in view.shards if one.state in eventful or one.index < _SHARDS]
    return {
        "view": view,
        "state": view.state,
        "shards": view.shards,
        "shown_shards": shown,
        "plan": view.plan,
        "summary": view.summary if view.is_finished else None,
    }
