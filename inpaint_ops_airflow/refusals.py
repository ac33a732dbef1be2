"""Jobs that the task `plan` refuses: why, for the list of runs and for the tab of the DAG run.

The store may not be there, and the name of the run may be another's. So the reason goes to Airflow first (an XCom,
which stays when the task fails and goes when it is cleared), and to the store where no run of that name exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from inpaint_ops_airflow.workspace import open_workspace, run_name

XCOM_KEY = "refused"
"""Of the task `plan`: a `Refusal` as JSON."""


@contextlib.contextmanager
def refusals_kept(context: Mapping[str, Any]) -> Iterator[None]:
    """Around the planning of a job: one of our errors is kept as its refusal, and raised on."""
    from inpaint_ops.errors import InpaintOpsError
    from inpaint_ops.runs import keep_refusal, refusal

    try:
        yield
    except InpaintOpsError as error:
        params = context["params"]
        name, manifest, request = str(params.get("run") or ""), str(params["manifest"]), str(context["run_id"])
        with contextlib.suppress(InpaintOpsError):  # the name may be what is wrong
            name = run_name(params, request)
        refused = refusal(error, run=name, manifest=manifest, request=request)
        context["ti"].xcom_push(key=XCOM_KEY, value=refused.model_dump(mode="json"))
        with contextlib.suppress(InpaintOpsError):  # the settings may be what is wrong
            keep_refusal(open_workspace(), refused)
        raise
