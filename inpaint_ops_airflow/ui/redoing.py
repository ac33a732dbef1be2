"""Routes of rows that are painted again: the manifest of a child run, the child runs, and what they made of a row."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from inpaint_ops.browse import RunView
from inpaint_ops.browse.redone import RedoneRow, child_states, final_of, redone_rows
from inpaint_ops.errors import ConfigError
from inpaint_ops.reviewing import RedoOptions, prepare_redo
from inpaint_ops_airflow.ui.access import may_trigger_runs, reviewer, sent_by_these_pages
from inpaint_ops_airflow.ui.dependencies import RecordDep, RunDep, ViewsDep, get_run
from inpaint_ops_airflow.ui.models import ChildBody, ChildStateBody, RedoBody, RedoneBody, RedoneRowsBody
from inpaint_ops_airflow.ui.rerunning import rerun_conf
from inpaint_ops_airflow.ui.reviews import body_of, exporting

router = APIRouter()

_CHILDREN_SHOWN = 20
"""Child runs whose state a page shows, at most: each is opened."""

_BY_ID = "{id}.{ext}"


@router.post("/api/runs/{run}/redo", dependencies=[sent_by_these_pages, may_trigger_runs])
async def prepare_child(request: Request, run: str, views: ViewsDep, name: Annotated[str, reviewer]) -> ChildBody:
    """Write the manifest of a child run. The page triggers it by Airflow's own API, with the user's own rights."""
    try:
        asked = RedoBody.model_validate_json(await body_of(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise HTTPException(
            422, f"{field or 'the request'}: {str(first['msg']).removeprefix('Value error, ')}"
        ) from None
    return await run_in_threadpool(_prepare_child, views, run, asked, name)


def _prepare_child(views: ViewsDep, run: str, asked: RedoBody, name: str) -> ChildBody:
    view = get_run(run, views)
    options = RedoOptions(**asked.model_dump(exclude={"ids"}))
    ids = set(asked.ids) if asked.ids is not None else None
    if not exporting.acquire(blocking=False):
        raise HTTPException(503, "another export is being made: try again", {"Retry-After": "10"})
    try:
        found = prepare_redo(views.workspace, run, options, ids, by=name, lineage=views.lineage)
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None
    finally:
        exporting.release()
    conf = child_conf(view, found.manifest.uri, names=views.workspace.settings.names) | {"run": found.run}
    return ChildBody(run=found.run, rows=found.rows, conf=conf, asked_before=dict(found.asked_before))


def child_conf(view: RunView, manifest: str, *, names: str | None) -> dict[str, Any]:
    """What the DAG is triggered with for a child run: the options of its parent, but for what names images.

    Several rows of a child run have one source, so that no template need keep them apart: its images are called by
    their ids, and a delivery gives them the parent's names. `names` is what the settings say.
    """
    named = {"names": _BY_ID} if names is not None or view.plan.job.names is not None else {}
    return rerun_conf(view, manifest) | named


@router.get("/api/runs/{run}/children")
def children(view: RunDep, views: ViewsDep) -> tuple[ChildStateBody, ...]:
    """The newest runs that do rows of this one again, the newest first, and how far each is."""
    return tuple(
        ChildStateBody(
            run=one.child.run, state=one.state, problem=one.problem, prepared=one.child.prepared,
            rows=one.view.state.rows if one.view else 0, done=one.view.state.done if one.view else 0,
            failed=one.view.state.failed + one.view.state.rejected if one.view else 0,
            verdict=one.view.summary.verdict if one.view and one.view.is_finished and one.view.summary else "",
        )
        for one in child_states(views, view.run, newest=_CHILDREN_SHOWN)
    )  # fmt: skip


@router.get("/api/runs/{run}/rows/{row}/redone")
def redone(view: RunDep, views: ViewsDep, record: RecordDep) -> RedoneRowsBody:
    """The rows of child runs that do this row again, and of their own child runs; which one of them is final."""
    rows, more = redone_rows(views, view.run, record.id)
    view.reviews.refresh()
    final = final_of(view.reviews.decision(record), view.run, rows)
    return RedoneRowsBody(rows=tuple(_body(one, is_final=one is final) for one in rows), more=more)


def _body(row: RedoneRow, *, is_final: bool) -> RedoneBody:
    record, decision = row.record, row.decision
    body = RedoneBody(
        run=row.of.child.run, id=row.id, depth=row.depth, parent_run=row.parent[0], parent_id=row.parent[1],
        run_state=row.of.state, problem=row.of.problem, is_final=is_final,
        mark=decision.verdict if decision else None, rating=decision.rating if decision else None,
    )  # fmt: skip
    if record is None:
        return body
    found = {
        "row": record.row, "status": record.status, "attempt": record.attempt, "seed": record.seed,
        "steps": record.steps or record.steps_requested, "prompt": record.prompt[:300],
        "problem": record.error.message[:300] if record.error else "",
    }  # fmt: skip
    return body.model_copy(update=found)
