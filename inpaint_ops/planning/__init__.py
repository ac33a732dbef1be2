"""Rows to shards, and what each row will be painted with: pure, so that a plan can be shown before a GPU is used."""

from inpaint_ops.planning.options import (
    FEW_STEPS,
    NO_FILL_MODEL,
    JobOptions,
    job_options,
)
from inpaint_ops.planning.plans import Plan, RetryPlan, Shard, every_shard, split_rows
from inpaint_ops.planning.rows import (
    PaintParameters,
    PlannedRow,
    parameters,
    planned,
    steps_of,
    steps_that_run,
    strength_of,
)

__all__ = [
    "FEW_STEPS",
    "NO_FILL_MODEL",
    "JobOptions",
    "PaintParameters",
    "Plan",
    "PlannedRow",
    "RetryPlan",
    "Shard",
    "every_shard",
    "job_options",
    "parameters",
    "planned",
    "split_rows",
    "steps_of",
    "steps_that_run",
    "strength_of",
]
