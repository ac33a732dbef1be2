"""What was asked of Airflow and is not over: queued and running DAG runs, and those that ended without a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from airflow.api_fastapi.common.db.common import SessionDep
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import func, select

from inpaint_ops.records import Refusal
from inpaint_ops_airflow.ui.access import DAG_ID, may_review
from inpaint_ops_airflow.ui.dag_runs import DagRunState, refusals_of
from inpaint_ops_airflow.ui.dependencies import ViewsDep
from inpaint_ops_airflow.ui.rendering import render

router = APIRouter(default_response_class=HTMLResponse)

SHOWN = 100
"""DAG runs that are listed, at most, queued and running ones together; further ones are counted."""
STOPPED_SHOWN = 20
STOPPED_FOR = timedelta(days=7)
"""How long a DAG run that was cancelled, or broke, is listed as one that may go on."""

_ACTIVE = ("running", "queued")
_WAITING = ("none", "scheduled", "queued", "up_for_retry", "deferred")


@dataclass(frozen=True, slots=True)
class Asked:
    """A DAG run: who asked for it, its place among those that wait, and its painting tasks by state."""

    dag_run: DagRunState
    by: str
    place: int = 0
    """From 1, the next one to start; 0: it does not wait."""
    shards: Mapping[str, int] = field(default_factory=dict)
    refused: Refusal | None = None
    """Why its job was refused, where another try of it as it is would be refused, too."""

    @property
    def again(self) -> dict[str, Any]:
        """What a DAG run is triggered with that goes on with this one's run: once, however often it is asked for.

        Airflow 3.3.2 cannot clear a DAG run whose DAG has a deadline by the time of queueing: its API answers
        500 (`_recalculate_dagrun_queued_at_deadlines`). A run of the same name and manifest is resumed all the same.
        """
        stamp = f"{self.dag_run.asked_at:%Y%m%dT%H%M%S%f}"
        return {"id": f"resume__{self.dag_run.run}__{stamp}", "conf": self.dag_run.conf | {"run": self.dag_run.run}}

    @property
    def doing(self) -> str:
        """How far it is, in words."""
        if self.place:
            return f"place {self.place} in the queue"
        if not self.shards:
            return "is being planned"
        waiting = sum(count for state, count in self.shards.items() if state in _WAITING)
        parts = [(self.shards.get("success", 0), "done"), (self.shards.get("running", 0), "painting"),
                 (self.shards.get("failed", 0), "failed"), (waiting, "waiting for a slot of the pool gpu")]  # fmt: skip
        return (
            ", ".join(f"{count:,} {what}" for count, what in parts if count)
            + f" of {sum(self.shards.values()):,} tasks"
        )


@dataclass(frozen=True, slots=True)
class Requests:
    """What Airflow has to do for this DAG."""

    active: tuple[Asked, ...] = ()
    more: int = 0
    stopped: tuple[Asked, ...] = ()
    refused: tuple[Asked, ...] = ()
    """Jobs that were refused: there is nothing of theirs to go on with."""


@router.get("/fragments/requests")
def requests_fragment(request: Request, views: ViewsDep, session: SessionDep, may: Annotated[bool, may_review]) -> str:
    """Queued, running and stopped DAG runs, with buttons for whoever may trigger."""
    found = requests_of(session)
    over = [one for one in found.stopped if views.catalogue.may_go_on(one.dag_run.run or "")]
    unlisted = [one for one in found.refused if one.refused and not views.catalogue.tells_of(one.refused)]
    return render(
        request, "requests.html.j2", active=found.active, more=found.more, stopped=over, refused=unlisted, may=may,
        dag_id=DAG_ID,
    )  # fmt: skip


def requests_of(session: Any) -> Requests:
    """What Airflow's database says now, in four queries whatever there is."""
    if session is None:
        return Requests()
    active = _dag_runs(session, states=_ACTIVE, limit=SHOWN + 1)
    counted = _counted(session) if len(active) > SHOWN else len(active)
    shards = _shards(session, [one.run_id for one, _ in active if one.state == "running"])
    asked, place = [], 0
    for one, by in sorted(active[:SHOWN], key=lambda both: (both[0].state != "running", both[0].asked_at)):
        place += one.state == "queued"
        asked.append(Asked(one, by, place if one.state == "queued" else 0, shards.get(one.run_id, {})))
    named = {one.run for one, _ in active}
    told = set(named)
    stopped, refused = [], []
    failed = _dag_runs(session, states=("failed",), limit=STOPPED_SHOWN, newest=True)
    why = refusals_of(session, [one.run_id for one, _ in failed])
    for one, by in failed:
        reason = why.get(one.run_id)
        if one.run is None:
            continue
        if reason is not None and reason.permanent:  # a run of this name is another job's: it may still go on
            if one.run not in told:
                refused.append(Asked(one, by, refused=reason))
                told.add(one.run)
        elif one.run not in named:
            stopped.append(Asked(one, by))
            named.add(one.run)
    return Requests(tuple(asked), max(0, counted - SHOWN), tuple(stopped), tuple(refused))


def _dag_runs(
    session: Any, *, states: tuple[str, ...], limit: int, newest: bool = False
) -> list[tuple[DagRunState, str]]:
    from airflow.models.dagrun import DagRun as Table

    columns = Table.run_id, Table.state, Table.conf, Table.run_after, Table.triggering_user_name
    query = select(*columns).where(Table.dag_id == DAG_ID, Table.state.in_(states)).limit(limit)
    if newest:
        query = query.where(Table.run_after >= datetime.now(UTC) - STOPPED_FOR).order_by(Table.run_after.desc())
    else:
        query = query.order_by(Table.run_after)
    return [
        (DagRunState(run_id, str(state), conf or {}, at), str(by or ""))
        for run_id, state, conf, at, by in session.execute(query)
    ]


def _counted(session: Any) -> int:
    from airflow.models.dagrun import DagRun as Table

    wanted = Table.dag_id == DAG_ID, Table.state.in_(_ACTIVE)
    return int(session.scalar(select(func.count()).select_from(Table).where(*wanted)) or 0)


def _shards(session: Any, run_ids: list[str]) -> dict[str, Counter[str]]:
    """Of each DAG run its painting tasks by state. What is not mapped yet is one task of index -1: it is left out."""
    from airflow.models.taskinstance import TaskInstance as Table

    found: dict[str, Counter[str]] = {}
    if run_ids:
        wanted = Table.dag_id == DAG_ID, Table.run_id.in_(run_ids), Table.task_id == "inpaint", Table.map_index >= 0
        query = select(Table.run_id, Table.state, func.count()).where(*wanted).group_by(Table.run_id, Table.state)
        for run_id, state, count in session.execute(query):
            found.setdefault(run_id, Counter())[str(state or "none")] += count
    return found
