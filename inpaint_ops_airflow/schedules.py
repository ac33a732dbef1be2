"""When the DAGs that look for what has come start: by a cron, and by arrivals where the store tells of them."""

from __future__ import annotations

import os
from typing import Any

QUEUE_VARIABLE = "INPAINT_ARRIVALS_QUEUE"
"""The URL of the SQS queue that the store's notifications go to; unset: DAGs start by their crons alone."""

QUIET_VARIABLE = "INPAINT_ARRIVALS_QUIET"
QUIET = 20.0
"""Seconds without a further message after which those that came count as one arrival."""

ASSET = "inpaint_arrivals"


def cron_and_arrivals(variable: str, default: str) -> Any:
    """The schedule of a DAG: the cron of the environment's `variable`, and arrivals where a queue is named.

    Raises ValueError, with the variable's name, for a quiet time that is none.
    """
    cron = os.environ.get(variable, default)
    queue = os.environ.get(QUEUE_VARIABLE, "").strip()
    if not queue:
        return cron
    from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

    from inpaint_ops_airflow.arrivals import ArrivalsTrigger

    store = os.environ.get("INPAINT_STORE", "").removeprefix("s3://").rstrip("/") + "/"
    inbox = os.environ.get("INPAINT_INBOX", "").removeprefix("s3://").rstrip("/") or f"{store}inbox"
    trigger = ArrivalsTrigger(queue=queue, quiet=_quiet(), own=store, inbox=f"{inbox}/")
    came = Asset(ASSET, watchers=[AssetWatcher(name=ASSET, trigger=trigger)])
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone="UTC"), assets=[came])


def _quiet() -> float:
    text = os.environ.get(QUIET_VARIABLE) or str(QUIET)
    try:
        quiet = float(text)
    except ValueError:
        quiet = -1.0
    if not 0 < quiet <= 3600:
        raise ValueError(f"{QUIET_VARIABLE} is {text!r}: write seconds, more than 0 and at most 3600")
    return quiet


def started_by_arrivals(context: Any) -> bool:
    """Whether a DAG run was started by an arrival, and not by its cron or by hand."""
    return str(getattr(context["dag_run"].run_type, "value", context["dag_run"].run_type)) == "asset_triggered"
