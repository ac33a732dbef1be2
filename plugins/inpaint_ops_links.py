"""Links from a task to what it made, shown by Airflow beside the task's own log."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.sdk import BaseOperatorLink


def _pages() -> str:
    """Where the pages lie, behind a proxy's prefix or not."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + "/inpaint"


def _path(*parts: object) -> str:
    return "/".join([_pages(), *(quote(str(part), safe="") for part in parts)])


class ResultsLink(BaseOperatorLink):
    """The images of the run, or of the shard that the task painted."""

    name = "Results"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The run's page, by way of the DAG run, so that it holds before there is any result."""
        return _path("tasks", ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)


class ReportLink(BaseOperatorLink):
    """The run's report.html."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """As above; a run without a report yet says so."""
        return _path("dag-runs", ti_key.dag_id, ti_key.run_id) + "?to=report"


LINKS = (ResultsLink(), ReportLink())
