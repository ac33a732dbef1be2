"""Delivers a finished run: its images, a contact sheet and a list of digests, to a prefix that
INPAINT_DELIVERY_PREFIXES allows. The same delivery goes on where one was interrupted. One runs at a time, since two to
one prefix would each write their lists over the other's.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context

from inpaint_ops_airflow.deliveries import XCOM_KEY, deliver_run
from inpaint_ops_airflow.operators import plain_task
from inpaint_ops_airflow.tasks import airflow_errors, die_with_parent

LONGEST = timedelta(hours=12)
"""After which Airflow ends a delivery. It goes on where it was when it is triggered again."""

PARAMS = {
    "run": Param(
        default="", type="string", minLength=1, title="Run", description="The run's name, as the pages show it."
    ),
    "to": Param(
        default="",
        type="string",
        minLength=1,
        title="To",
        description="s3://bucket/prefix/, below one of INPAINT_DELIVERY_PREFIXES.",
    ),
    "only": Param(
        default="done",
        enum=["done", "accepted"],
        title="Images",
        description="done: of all rows that are done; accepted: those that were accepted in a review.",
    ),
    "sheet": Param(
        default="full",
        enum=["full", "results", "none"],
        title="Contact sheet",
        description="full: source, mask and result, a quarter of a second of the processor per row; results: the "
        "results' thumbnails as they are; none.",
    ),
    "also": Param(
        default=None,
        type=["null", "array"],
        items={"type": "string", "enum": ["patch", "mask", "preview"]},
        examples=["patch", "mask", "preview"],
        title="Side products",
        description="Files beside the images, too, as far as the run has any.",
    ),
    "replace": Param(
        default=False, type="boolean", title="Replace", description="Put our files over what is there with other bytes."
    ),
}


@dag(schedule=None, catchup=False, max_active_runs=1, params=PARAMS, tags=["inpaint"], doc_md=__doc__)
def inpaint_deliver() -> None:
    @plain_task(retries=3, retry_delay=timedelta(minutes=1), execution_timeout=LONGEST)
    def deliver() -> None:
        die_with_parent()
        context = get_current_context()
        instance = context["ti"]
        with airflow_errors():
            deliver_run(context["params"], lambda told: instance.xcom_push(XCOM_KEY, told))

    deliver()


inpaint_deliver()
