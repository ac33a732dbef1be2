"""Rows to shards, and what each row will be painted with: pure, so that a plan can be shown before a GPU is used."""

from inpaint_ops.planning.options import (
    FEW_STEPS,
    NO_FILL_MODEL,
    JobOptions,
    job_options,
    no_guidance,
)
from inpaint_ops.planning.plans import Plan, RetryPlan, Shard, every_shard, split_rows
from inpaint_ops.planning.rows import (
    PaintParameters,
    PlannedRow,
    cutoff_of,
    guidance_of,
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
    "cutoff_of",
    "every_shard",
    "guidance_of",
    "job_options",
    "no_guidance",
    "parameters",
    "planned",
    "split_rows",
    "steps_of",
    "steps_that_run",
    "strength_of",
]
