"""What a run's deadline counts from. Imported with the plugin by every process of Airflow, so it imports little."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.deadline import BaseDeadlineReference

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class RunQueued(BaseDeadlineReference):
    """When the DAG run was first queued.

    Airflow's own reference of that kind (`DAGRUN_QUEUED_AT`, 3.3.2) lets no DAG run that has not succeeded be
    cleared until its deadline is over: clearing moves the deadline, reads its interval as seconds, and it is a
    dictionary (`_recalculate_dagrun_queued_at_deadlines` in `airflow/models/taskinstance.py`; the API answers 500). A
    deadline by this reference stays where it is when its run is cleared.
    """

    required_kwargs = {"dag_id", "run_id"}  # noqa: RUF012  # what Airflow's evaluation reads

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str, **_: Any) -> datetime | None:
        from airflow.models import DagRun
        from sqlalchemy import select

        return session.scalar(select(DagRun.queued_at).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
