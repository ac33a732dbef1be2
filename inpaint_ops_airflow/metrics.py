"""Our measurements through Airflow's own metrics: sent to StatsD if `[metrics] statsd_on` is set, else dropped.

Airflow's processes import this file, so it stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inpaint_ops.metrics import Measurement


def emit(measurement: Measurement) -> None:
    """Hand one measurement to Airflow. StatsD's timers are in milliseconds; its exporter converts them to seconds."""
    from airflow.sdk.observability import stats

    match measurement.kind:
        case "counter":
            stats.incr(measurement.name, int(measurement.value), tags=measurement.labels)
        case "duration":
            stats.timing(measurement.name, measurement.value * 1000, tags=measurement.labels)
        case "gauge":
            stats.gauge(measurement.name, measurement.value, tags=measurement.labels)


def count_rejected(rows: int) -> None:
    """Count rows that a plan rejected."""
    from inpaint_ops.metrics import IMAGES, Measurement

    if rows:
        emit(Measurement("counter", IMAGES, rows, {"status": "rejected"}))


async def deadline_missed(**kwargs: object) -> None:
    """Log, in the triggerer, a run that has not ended by its deadline. Airflow itself counts it in its metric
    `deadline_alerts.deadline_missed`, which the alert rules read.
    """
    import logging

    from inpaint_ops.errors import one_line

    context = kwargs.get("context")
    late = one_line(repr(context.get("dag_run", context) if isinstance(context, dict) else context))
    logging.getLogger(__name__).error("a run of inpaint_manifest has missed its deadline: %s", late)
