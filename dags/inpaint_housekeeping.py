"""Removes old runs, abandoned claims, unfinished uploads and unused models. By default it only lists them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context

from inpaint_ops_airflow.operators import plain_task
from inpaint_ops_airflow.tasks import airflow_errors
from inpaint_ops_airflow.workspace import open_workspace

DAYS = {
    "runs": (90, "A run is removed when none of its objects has changed for this many days."),
    "claims": (2, "A claim is removed when its run has not begun by then; its manifest can then be claimed again."),
    "uploads": (7, "A multipart upload that was not completed by then is aborted."),
    "models": (30, "A cached model that was not read for this many days is removed, except the one in the settings."),
}


@dag(
    schedule=os.environ.get("INPAINT_HOUSEKEEPING_SCHEDULE") or None,
    catchup=False,
    max_active_runs=1,
    params={
        "dry_run": Param(default=True, type="boolean", title="Dry run", description="Only list what would be removed."),
        **{
            name: Param(default=days, type="integer", minimum=1, title=f"Days for {name}", description=text)
            for name, (days, text) in DAYS.items()
        },
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["inpaint"],
    doc_md=__doc__,
)
def inpaint_housekeeping() -> None:
    @plain_task
    def store() -> dict[str, Any]:
        """Runs, claims and uploads of the store."""
        from inpaint_ops.housekeeping import in_the_store, retention, sweep

        params = get_current_context()["params"]
        with airflow_errors():
            workspace = open_workspace()
            found = in_the_store(workspace, retention(**{name: params[name] for name in DAYS}))
            return sweep(found, dry_run=params["dry_run"])

    @plain_task(queue="gpu")
    def model_cache() -> dict[str, Any]:
        """Models in the cache of whichever GPU machine runs this task."""
        from inpaint_ops.config import load_settings
        from inpaint_ops.housekeeping import in_the_model_cache, retention, sweep
        from inpaint_ops.model.cache import hub_cache

        params = get_current_context()["params"]
        with airflow_errors():
            limits = retention(**{name: params[name] for name in DAYS})
            found = in_the_model_cache(hub_cache(), limits, keep=[load_settings().model])
            return sweep(found, dry_run=params["dry_run"])

    store()
    model_cache()


inpaint_housekeeping()
