"""What Airflow knows of a run: the DAG runs that asked for it, why one was refused, where its tasks and logs are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError
from sqlalchemy import select

from inpaint_ops.records import Refusal
from inpaint_ops_airflow.refusals import XCOM_KEY
from inpaint_ops_airflow.ui.access import DAG_ID
from inpaint_ops_airflow.workspace import run_name

_LOOKED_AT = 5000
"""DAG runs that are compared with a run, at most: those from when it was planned on."""
_QUEUED_FOR = timedelta(days=2)
"""How long before its plan a DAG run may have been asked for."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class DagRunState:
    """A DAG run: what it was asked for (`conf`), and how it is doing."""

    run_id: str
    state: str
    conf: dict[str, Any]
    asked_at: datetime
    dag_id: str = DAG_ID

    @property
    def run(self) -> str | None:
        """The name of the run that it paints; None where it names no manifest."""
        return run_name(self.conf, self.run_id) if self.conf.get("run") or self.conf.get("manifest") else None

    @property
    def path(self) -> str:
        """Its page, below Airflow's own root."""
        return f"/dags/{self.dag_id}/runs/{quote(self.run_id, safe='')}"

    def task(self, task_id: str, map_index: int = -1) -> str:
        """A task's page, which opens with its log, below Airflow's own root."""
        return f"{self.path}/tasks/{task_id}" + (f"/mapped/{map_index}" if map_index >= 0 else "")


def dag_run(session: Any, run_id: str) -> DagRunState | None:
    """One DAG run of the DAG that paints."""
    found = _dag_runs(session, lambda table: table.run_id == run_id)
    return found[0] if found else None


def asked_for(session: Any, run: str, planned_at: datetime) -> list[DagRunState]:
    """The DAG runs that asked for a run, the oldest first: the one that planned it, and those that did rows again."""
    if session is None:
        return []
    since = planned_at - _QUEUED_FOR
    found = _dag_runs(session, lambda table: table.run_after >= since)
    return [one for one in found if one.run == run][:_SHOWN]


def planning_state(session: Any, run_id: str) -> str:
    """The state of the DAG run's task `plan`; empty where it has none yet."""
    from airflow.models.taskinstance import TaskInstance as Table

    wanted = Table.dag_id == DAG_ID, Table.run_id == run_id, Table.task_id == "plan"
    return str(session.scalar(select(Table.state).where(*wanted)) or "")


def refusal_of(session: Any, run_id: str) -> Refusal | None:
    """Why the DAG run's task `plan` refused its job; None where it did not, or ended without a reason."""
    try:
        return Refusal.model_validate(_of_plan(session, run_id, XCOM_KEY))
    except ValidationError:
        return None


def refusals_of(session: Any, run_ids: Sequence[str]) -> dict[str, Refusal]:
    """Of DAG runs whose task `plan` refused their job: why, by their ids."""
    from airflow.models.xcom import XComModel as Table

    if not run_ids:
        return {}
    wanted = Table.dag_id == DAG_ID, Table.run_id.in_(run_ids), Table.task_id == "plan", Table.key == XCOM_KEY
    found = {}
    for run_id, value in session.execute(select(Table.run_id, Table.value).where(*wanted)):
        with suppress(ValidationError):
            found[run_id] = Refusal.model_validate(value)
    return found


def task_of_shard(session: Any, run: str, planned_at: datetime, shard: str) -> str | None:
    """The page of the task that painted a shard, the newest of them, below Airflow's own root; None if unknown.

    Mapped tasks have the order of what `plan` returned, which Airflow keeps with the DAG run.
    """
    for one in reversed(asked_for(session, run, planned_at)):
        shards = _of_plan(session, one.run_id, "return_value")
        if isinstance(shards, list) and shard in shards:
            return one.task("inpaint", shards.index(shard))
    return None


def _of_plan(session: Any, run_id: str, key: str) -> Any:
    from airflow.models.xcom import XComModel as Table

    wanted = Table.dag_id == DAG_ID, Table.run_id == run_id, Table.task_id == "plan", Table.key == key
    return session.scalar(select(Table.value).where(*wanted))  # JSON, as the task has sent it


def _dag_runs(session: Any, which: Any) -> list[DagRunState]:
    from airflow.models.dagrun import DagRun as Table

    columns = Table.run_id, Table.state, Table.conf, Table.run_after
    query = select(*columns).where(Table.dag_id == DAG_ID, which(Table)).order_by(Table.run_after).limit(_LOOKED_AT)
    return [DagRunState(run_id, str(state), conf or {}, at) for run_id, state, conf, at in session.execute(query)]
