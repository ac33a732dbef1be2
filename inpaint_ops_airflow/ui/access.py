"""Who may see the pages: users whom Airflow's auth manager lets read the runs of the DAG that made them."""

from __future__ import annotations

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends

DAG_ID = "inpaint_manifest"

may_read_runs = Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DAG_ID))
"""For every route: 401 for the anonymous, 403 for those who may not read the DAG's runs."""

may_read_this_dag = Depends(requires_access_dag("GET", DagAccessEntity.RUN))
"""For routes with a `dag_id` in their path, on top."""
