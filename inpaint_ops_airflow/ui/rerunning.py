"""What the DAG is triggered with so that rows run again as their run did."""

from __future__ import annotations

from typing import Any, get_args

from inpaint_ops.browse import RunView
from inpaint_ops.tuning import Preset

_CHOSEN = ("model", "quality", "steps", "tuning", "failure_threshold", "shard_rows", "project")
_TUNINGS = get_args(Preset)


def rerun_conf(view: RunView, manifest: str) -> dict[str, Any]:
    """The DAG run's `conf` for a manifest of rows of this run, with the options of the run."""
    job = view.plan.job.model_dump(mode="json", include=set(_CHOSEN), exclude_none=True)
    if job.get("tuning") not in _TUNINGS:
        job.pop("tuning", None)
    return {"manifest": manifest, **job}
