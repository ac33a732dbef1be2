"""Starts the standing jobs that are due: each `jobs/<name>.yaml` of the store, one `inpaint_manifest` run for what is
new or changed since its last good run. Triggered by hand with a job's name, it starts that job now.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context

from inpaint_ops_airflow.operators import PlainTrigger, plain_task
from inpaint_ops_airflow.schedules import cron_and_arrivals, started_by_arrivals
from inpaint_ops_airflow.tasks import airflow_errors
from inpaint_ops_airflow.workspace import installation, open_workspace

PREFIX = "standing__"
"""Before a run's name: the id of its DAG run."""

PARAMS = {
    "job": Param(
        default=None,
        type=["null", "string"],
        title="Job",
        description="The name of an entry, jobs/<name>.yaml: it is started now. Empty: those that are due.",
    ),
    "everything": Param(
        default=False,
        type="boolean",
        title="Everything",
        description="With a job: take all of its rows, those too that were taken before.",
    ),
}


def note(context: Any) -> None:
    """Record that the run of a start exists, triggered now or before. If this fails, the next look triggers again."""
    from inpaint_ops.standing import note_triggered

    note_triggered(open_workspace(), context["task"].claim)


@dag(
    schedule=cron_and_arrivals("INPAINT_STANDING_SCHEDULE", "*/5 * * * *"),
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    tags=["inpaint"],
    doc_md=__doc__,
)
def inpaint_standing() -> None:
    @plain_task(retries=2, retry_delay=timedelta(seconds=10))
    def look() -> list[dict[str, Any]]:
        from inpaint_ops.errors import ConfigError
        from inpaint_ops.standing import look

        context = get_current_context()
        instance: Any = context["ti"]

        def is_active(run: str) -> bool:
            return bool(instance.get_dr_count("inpaint_manifest", run_ids=[PREFIX + run], states=["queued", "running"]))

        job, everything = context["params"]["job"], context["params"]["everything"]
        with airflow_errors():
            if everything and not job:
                raise ConfigError("`everything` is for one job: name it in `job`")
            found = look(
                open_workspace(), installation(), datetime.now(UTC), is_active, only=job or None,
                everything=everything, has_come=started_by_arrivals(context),
            )  # fmt: skip
        print("\n".join([*found.lines, *found.problems]) or "no job is due")
        instance.xcom_push("problems", found.problems)
        return [
            {"trigger_run_id": PREFIX + start.run, "conf": start.conf, "claim": start.mark} for start in found.starts
        ]

    @plain_task(trigger_rule="all_done")
    def problems() -> None:
        """Red where an entry cannot be used: nobody would look into the log of a green run."""
        from inpaint_ops.errors import ConfigError

        found = get_current_context()["ti"].xcom_pull(task_ids="look", key="problems")
        with airflow_errors():
            if found:
                raise ConfigError("; ".join(found))

    starts = look()
    starts >> problems()
    PlainTrigger.partial(
        task_id="trigger",
        trigger_dag_id="inpaint_manifest",
        on_success_callback=note,
        on_skipped_callback=note,  # a start found again: its run is there already
        retries=2,
        retry_delay=timedelta(seconds=10),
        map_index_template="{{ run_label }}",
    ).expand_kwargs(starts)


inpaint_standing()
