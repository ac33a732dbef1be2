"""Who may see the pages, and who may review: whom Airflow's auth manager lets read, and trigger, runs of the DAG."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, HTTPException, Request

from inpaint_ops_airflow.deliveries import DAG_ID as DELIVER_DAG_ID

DAG_ID = "inpaint_manifest"

may_read_runs = Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DAG_ID))
"""For every route: 401 for the anonymous, 403 for those who may not read the DAG's runs."""

may_read_this_dag = Depends(requires_access_dag("GET", DagAccessEntity.RUN))
"""For routes with a `dag_id` in their path, on top."""

_may_trigger = requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=DAG_ID)

may_trigger_runs = Depends(_may_trigger)
"""For routes that write, on top: 403 for those who may not trigger the DAG, as for the button that runs rows again."""

_may_deliver = requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=DELIVER_DAG_ID)

may_trigger_deliveries = Depends(_may_deliver)
"""For the route that prepares a delivery, on top: 403 for those who may not trigger the DAG that delivers."""

_may_read_deliveries = requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DELIVER_DAG_ID)

_FROM_HERE = ("same-origin", "none")
_JSON = "application/json"


def _reviewer(request: Request, user: GetUserDep) -> str:
    return str(user.get_name())


reviewer = Depends(_reviewer)
"""The name of the user who asks, by Airflow's auth manager."""


def _whether(right: Callable[[Request, Any], None]) -> Any:
    def may(request: Request, user: GetUserDep) -> bool:
        try:
            right(request, user)
        except HTTPException:
            return False
        return True

    return Depends(may)


may_review = _whether(_may_trigger)
"""Whether the user who asks may write marks."""

may_deliver = _whether(_may_deliver)
"""Whether the user who asks may trigger a delivery."""

may_read_deliveries = _whether(_may_read_deliveries)
"""Whether the user who asks may see the deliveries of a run."""


def _sent_by_these_pages(request: Request) -> None:
    """Raise 403 or 415 for a request that a page elsewhere may have had the browser send (CSRF).

    A form of another site can send a cookie along, but not JSON without asking first, which is refused; browsers say
    besides where a request comes from. Airflow's own cookie is not sent by other sites' forms either (SameSite).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        raise HTTPException(415, f"send {_JSON}")
    sent_from_here(request)


def sent_from_here(request: Request) -> None:
    """Raise 403 for a request that a page elsewhere had the browser send, as the browser says: also for costly reads.

    A link of another site, or in a mail that a web page shows, leads to the run's page instead.
    """
    if request.headers.get("sec-fetch-site", "none") not in _FROM_HERE:
        raise HTTPException(403, "another site had this sent: use the pages of this Airflow")


sent_by_these_pages = Depends(_sent_by_these_pages)
"""For routes that write: refuses what another site had the browser send."""
