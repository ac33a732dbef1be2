"""One run = one manifest: plan -> inpaint (one mapped task per shard, in the pool `gpu`) -> report."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import (  # type: ignore[attr-defined]  # the stub of 3.3.2 lacks the names for deadlines
    Asset,
    AsyncCallback,
    DeadlineAlert,
    dag,
    get_current_context,
)

from inpaint_ops_airflow.deadlines import RunQueued
from inpaint_ops_airflow.form import PARAMS
from inpaint_ops_airflow.metrics import count_rejected, deadline_missed, emit
from inpaint_ops_airflow.notifying import notify
from inpaint_ops_airflow.operators import painting_task
from inpaint_ops_airflow.refusals import refusals_kept
from inpaint_ops_airflow.tasks import airflow_errors, die_with_parent
from inpaint_ops_airflow.workspace import open_workspace, run_name

RETRY_DELAY = timedelta(seconds=float(os.environ.get("INPAINT_RETRY_SECONDS", "20")))
"""Before the first retry of a task; doubled before each further one."""

TRIES = int(os.environ.get("INPAINT_TRIES") or "4")
"""Attempts of a task, the first included: Settings.tries, read here so that parsing this file stays light."""

SHARD_TIMEOUT = timedelta(seconds=float(os.environ.get("INPAINT_SHARD_TIMEOUT") or "21600"))
"""Settings.shard_timeout. The supervisor of a shard enforces it, and records which rows are left."""

LEEWAY = timedelta(minutes=10)
"""After SHARD_TIMEOUT and this, Airflow ends a painting task that its supervisor did not end."""

DEADLINE = timedelta(hours=float(os.environ.get("INPAINT_DEADLINE_HOURS", "12")))
"""Counted from when a run is queued: the triggerer reports a run that has not ended by then."""

RESULTS = Asset("inpaint_results")
"""Gets one event per run that passes its checks, with its summary; other DAGs can be scheduled on it."""


@dag(
    schedule=None,
    catchup=False,
    max_active_tasks=1024,  # the pool `gpu` is the limit, not Airflow's default of 16
    params=PARAMS,
    default_args={
        "retries": TRIES - 1,
        "retry_delay": RETRY_DELAY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
    },
    deadline=DeadlineAlert(RunQueued(), DEADLINE, AsyncCallback(deadline_missed)),
    tags=["inpaint"],
    doc_md=__doc__,
)
def inpaint_manifest() -> None:
    @painting_task
    def plan() -> list[str]:
        from inpaint_ops.config import misspelt_variables
        from inpaint_ops.errors import ConfigError
        from inpaint_ops.locations import check_whole
        from inpaint_ops.planning import job_options
        from inpaint_ops.runs import prepare, prepare_retry

        context = get_current_context()
        not_of_the_job = ("manifest", "run", "retry")
        chosen = {name: value for name, value in context["params"].items() if name not in not_of_the_job}
        for line in misspelt_variables(os.environ):
            print(f"note: {line}")
        with airflow_errors(), refusals_kept(context):
            workspace = open_workspace()
            check_whole(context["params"]["manifest"])
            job = job_options(workspace.settings, **chosen)
            name = run_name(context["params"], context["run_id"])
            if (retry := context["params"].get("retry")) is not None:
                if not context["params"]["run"]:
                    raise ConfigError("`retry` does rows of a run again: name it in `run`, as the pages show it")
                named = {field for field, value in chosen.items() if value is not None} - {"quality"}
                if "batch_size" in named:
                    named = named - {"batch_size"} | {"tuning_overrides"}
                manifest, request = context["params"]["manifest"], context["run_id"]
                again = prepare_retry(
                    workspace, manifest, name, retry, job, chosen=named, request=request, find_model="anywhere"
                )
                for note in again.notes:
                    print(f"note: {note}")
                if again.retry is None:
                    return []
                print(f"retry {again.retry.number}: {again.retry.rows} rows, with quality {again.retry.job.quality}")
                return [shard.name for shard in again.retry.shards]
            is_new = workspace.plan(name) is None
            made = prepare(workspace, context["params"]["manifest"], name, job, find_model="anywhere")
            if is_new:
                count_rejected(made.rejected)
        print(f"{made.rows} rows, {made.rejected} rejected, {len(made.shards)} shards")
        if made.shard_basis:  # a run that an older version planned has none
            print(made.shard_basis)
        for note in made.warnings:
            print(f"note: {note}")
        if made.forecast is not None:
            print(f"forecast: {made.forecast.in_words()}")
        return [shard.name for shard in made.shards]

    @painting_task(
        pool="gpu",
        queue="gpu",
        execution_timeout=SHARD_TIMEOUT + LEEWAY,
        map_index_template="{{ shard_label }}",
    )
    def inpaint(shard: str) -> dict[str, Any]:
        from dataclasses import asdict

        from inpaint_ops.metrics import measured_shard
        from inpaint_ops.runs import paint

        die_with_parent()
        context = get_current_context()
        context["shard_label"] = f"shard {shard}"  # type: ignore[typeddict-unknown-key]  # for map_index_template
        instance = context["ti"]
        with airflow_errors():
            workspace, name = open_workspace(), run_name(context["params"], context["run_id"])
            last = instance.try_number > instance.max_tries
            with measured_shard(workspace, name, shard, emit):
                result = paint(workspace, name, shard, final_attempt=last)
        return asdict(result)

    @painting_task(trigger_rule="all_done", outlets=[RESULTS], on_success_callback=notify, on_failure_callback=notify)
    def report() -> dict[str, Any]:
        from inpaint_ops.errors import ConfigError
        from inpaint_ops.runs import check_good, finish, summary_lines

        context = get_current_context()
        name = run_name(context["params"], context["run_id"])
        with airflow_errors():
            if context["ti"].xcom_pull(task_ids="plan") is None:
                # The plan was refused: the run of this name belongs to another DAG run, and may be under way.
                raise ConfigError("nothing was planned here, so there is nothing to report: see the task `plan`")
            workspace = open_workspace()
            summary = finish(workspace, name)
            print("\n".join(summary_lines(workspace, summary)))
            result = {"run": name, "verdict": summary.verdict, **summary.counts.model_dump()}
            check_good(summary)
        context["outlet_events"][RESULTS].extra = result | {"images_per_second": summary.images_per_second}
        return result

    shards = plan()
    [shards, inpaint.expand(shard=shards)] >> report()


inpaint_manifest()
