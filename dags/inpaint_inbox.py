"""Lists the inbox, claims each manifest exactly once, and triggers one `inpaint_manifest` run for each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.configuration import conf
from airflow.sdk import dag

from inpaint_ops_airflow.operators import PlainTrigger, plain_task
from inpaint_ops_airflow.schedules import cron_and_arrivals
from inpaint_ops_airflow.tasks import airflow_errors
from inpaint_ops_airflow.workspace import installation, open_workspace


def note(context: Any) -> None:
    """Record that the run of a claim exists, triggered now or before. If this fails, the next run triggers it again."""
    from inpaint_ops.inbox import note_triggered

    note_triggered(open_workspace(), context["task"].claim)


@dag(
    schedule=cron_and_arrivals("INPAINT_INBOX_SCHEDULE", "*/5 * * * *"),
    catchup=False,
    max_active_runs=1,
    tags=["inpaint"],
    doc_md=__doc__,
)
def inpaint_inbox() -> None:
    @plain_task(retries=2, retry_delay=timedelta(seconds=10))
    def claim() -> list[dict[str, Any]]:
        from inpaint_ops.inbox import BATCH, claim_all

        with airflow_errors():
            claims = claim_all(open_workspace(), installation(), min(BATCH, conf.getint("core", "max_map_length")))
        return [
            {
                "trigger_run_id": f"inbox__{claim.run}",
                "conf": {"manifest": claim.manifest, "run": claim.run},
                "claim": claim.mark,
            }
            for claim in claims
        ]

    PlainTrigger.partial(
        task_id="trigger",
        trigger_dag_id="inpaint_manifest",
        on_success_callback=note,
        on_skipped_callback=note,  # a claim found again: its run is there already
        retries=2,
        retry_delay=timedelta(seconds=10),
        map_index_template="{{ run_label }}",
    ).expand_kwargs(claim())


inpaint_inbox()
