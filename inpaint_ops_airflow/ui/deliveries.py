"""Routes of deliveries to a prefix: what the DAG `inpaint_deliver` is triggered with, and the deliveries of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from airflow.api_fastapi.common.db.common import SessionDep
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import Field, ValidationError
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from inpaint_ops.delivering import check_target, permitted_place
from inpaint_ops.errors import ConfigError, ForbiddenLocationError
from inpaint_ops.records import Model
from inpaint_ops_airflow.deliveries import DAG_ID, TASK_ID, XCOM_KEY, Told
from inpaint_ops_airflow.ui.access import may_read_deliveries, may_trigger_deliveries, sent_by_these_pages
from inpaint_ops_airflow.ui.dag_runs import DagRunState
from inpaint_ops_airflow.ui.dependencies import RunDep, ViewsDep, get_run
from inpaint_ops_airflow.ui.rendering import render
from inpaint_ops_airflow.ui.reviews import body_of

router = APIRouter()

_SHOWN = 20
_LOOKED_AT = 1000
"""DAG runs that are compared with a run, at most: the newest."""


class DeliverBody(Model):
    """A delivery as the page asks for it."""

    to: Annotated[str, Field(min_length=1, max_length=2000)]
    only: Literal["done", "accepted"] = "done"
    sheet: Literal["full", "results", "none"] = "results"


class DeliveryBody(Model):
    """What to trigger the DAG with; nothing is written for it."""

    conf: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery of a run: its DAG run, who asked for it, and what it came to, once it has told."""

    dag_run: DagRunState
    by: str
    told: Told | None

    @property
    def is_under_way(self) -> bool:
        """Whether its DAG run has not ended."""
        return self.dag_run.state in ("queued", "running")


@router.post("/api/runs/{run}/deliveries", dependencies=[sent_by_these_pages, may_trigger_deliveries])
async def prepare_delivery(request: Request, run: str, views: ViewsDep) -> DeliveryBody:
    """Check a delivery. The page triggers it by Airflow's own API, with the user's own rights."""
    try:
        asked = DeliverBody.model_validate_json(await body_of(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise HTTPException(422, f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}") from None
    return await run_in_threadpool(_prepare, views, run, asked)


def _prepare(views: ViewsDep, run: str, asked: DeliverBody) -> DeliveryBody:
    view = get_run(run, views)
    if not view.is_finished:
        raise HTTPException(422, f"{run} has no report yet: it can be delivered once it is over")
    try:
        place = permitted_place(views.workspace.settings, asked.to)
        check_target(place, views.workspace.places)
    except (ConfigError, ForbiddenLocationError) as error:
        raise HTTPException(422, str(error)) from None
    return DeliveryBody(conf={"run": view.run, "to": place.uri, "only": asked.only, "sheet": asked.sheet})


@router.get("/runs/{run}/fragments/deliveries", response_class=HTMLResponse)
def deliveries_fragment(
    request: Request, view: RunDep, session: SessionDep, may_read: Annotated[bool, may_read_deliveries]
) -> str:
    """The deliveries of a run, the newest first, for whoever may read the runs of the DAG that delivers."""
    found = deliveries_of(session, view.run) if may_read and session is not None else []
    waits = any(one.dag_run.state == "queued" for one in found)
    return render(request, "deliveries.html.j2", found=found, paused=waits and _is_paused(session), dag_id=DAG_ID)


def deliveries_of(session: Any, run: str) -> list[Delivered]:
    """What Airflow knows of deliveries of a run, the newest first, 20 at most."""
    from airflow.models.dagrun import DagRun as Table

    columns = Table.run_id, Table.state, Table.conf, Table.run_after, Table.triggering_user_name
    query = select(*columns).where(Table.dag_id == DAG_ID).order_by(Table.run_after.desc()).limit(_LOOKED_AT)
    asked = [
        (DagRunState(run_id, str(state), conf, at, DAG_ID), str(by or ""))
        for run_id, state, conf, at, by in session.execute(query)
        if isinstance(conf, dict) and conf.get("run") == run
    ][:_SHOWN]
    told = _told(session, [one.run_id for one, _ in asked])
    return [Delivered(one, by, told.get(one.run_id)) for one, by in asked]


def _told(session: Any, run_ids: list[str]) -> dict[str, Told]:
    from airflow.models.xcom import XComModel as Table

    wanted = Table.dag_id == DAG_ID, Table.run_id.in_(run_ids), Table.task_id == TASK_ID, Table.key == XCOM_KEY
    found = {}
    for run_id, value in session.execute(select(Table.run_id, Table.value).where(*wanted)) if run_ids else ():
        try:
            found[run_id] = Told.model_validate(value)
        except ValidationError:  # who may write XComs may write anything
            continue
    return found


def _is_paused(session: Any) -> bool:
    from airflow.models.dag import DagModel as Table

    return bool(session.scalar(select(Table.is_paused).where(Table.dag_id == DAG_ID)))
