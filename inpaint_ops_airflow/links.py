"""Links from a task to what it made, shown by Airflow beside the task's own log."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.sdk import BaseOperatorLink


def _path(*parts: object) -> str:
    """A path of this Airflow, behind a proxy's prefix or not."""
    base = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
    return "/".join([base, *(quote(str(part), safe="") for part in parts)])


class ResultsLink(BaseOperatorLink):
    """The images of the run, or of the shard that the task painted."""

    name = "Results"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The run's page, found through the DAG run, so that the link works before there is any result."""
        return _path("inpaint", "tasks", ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)


class ReportLink(BaseOperatorLink):
    """The run's report.html."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """As above; where there is no report yet, the page tells the reader."""
        return _path("inpaint", "dag-runs", ti_key.dag_id, ti_key.run_id) + "?to=report"


class WorkerLogLink(BaseOperatorLink):
    """The log of the task and of its worker process, which write into the same log."""

    name = "Worker log"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Airflow's own page of the task instance, which opens with the log of its last try."""
        mapped = ("mapped", ti_key.map_index) if ti_key.map_index >= 0 else ()
        return _path("dags", ti_key.dag_id, "runs", ti_key.run_id, "tasks", ti_key.task_id, *mapped)


class TriggeredRunLink(BaseOperatorLink):
    """The DAG run that the task triggered."""

    name = "Triggered DAG"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Airflow's own page of the run. Airflow asks when the task has ended, with the operator as it ran."""
        return _path("dags", operator.trigger_dag_id, "runs", operator.trigger_run_id)


LINKS = (ResultsLink(), ReportLink(), WorkerLogLink())
