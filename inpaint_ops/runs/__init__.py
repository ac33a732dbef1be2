"""The whole job in three calls: `prepare` a run, `paint` each of its shards, `finish` it with a report.

`prepare_retry` takes the place of `prepare` where rows of a finished run are done again.

The command line and the DAGs go through these, so what Airflow runs is what a shell runs.
"""

from inpaint_ops.runs.finishing import (
    check_good,
    finish,
    summary_lines,
)
from inpaint_ops.runs.painting import (
    ShardQueue,
    paint,
)
from inpaint_ops.runs.preparing import (
    make_plan,
    plan_of,
    prepare,
    why_rejected,
)
from inpaint_ops.runs.refusing import (
    keep_refusal,
    read_refusal,
    refusal,
)
from inpaint_ops.runs.resuming import (
    unfinished_shards,
)
from inpaint_ops.runs.retrying import (
    prepare_retry,
)
from inpaint_ops.runs.workspace import (
    Workspace,
)

__all__ = [
    "ShardQueue",
    "Workspace",
    "check_good",
    "finish",
    "keep_refusal",
    "make_plan",
    "paint",
    "plan_of",
    "prepare",
    "prepare_retry",
    "read_refusal",
    "refusal",
    "summary_lines",
    "unfinished_shards",
    "why_rejected",
]
