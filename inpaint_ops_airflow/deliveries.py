"""A delivery as a task of the DAG `inpaint_deliver`: to a prefix that the settings allow, told to the run's page.

The file of the DAG is parsed often, so nothing of `inpaint_ops` is imported before a task runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

DAG_ID = "inpaint_deliver"
TASK_ID = "deliver"
XCOM_KEY = "told"
"""Of the task: a `Told` as JSON, also where the task fails."""

_NAMED = 20
"""Images that were left out and are named in the log, at most; `contents.jsonl` has all."""


class Told(BaseModel):
    """What a delivery came to: counts of rows and images, or why there is none."""

    model_config = ConfigDict(frozen=True)

    rows: int = 0
    chosen: int = 0
    """Rows that were to be delivered."""
    delivered: int = 0
    bytes: int = 0
    left_out: int = 0
    """Images, and files beside them, that could not be delivered."""
    problem: str = ""


def deliver_run(params: Mapping[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Deliver as the DAG's parameters say, and `tell` what came of it, whatever that is.

    Raises InpaintOpsError where the place is not allowed or not fit, there is no such run or no report of it, or the
    store does not answer; DamagedObjectError once all is delivered but for what had to be left out.
    """
    from inpaint_ops.config import load_settings
    from inpaint_ops.delivering import deliver, permitted_place
    from inpaint_ops.errors import DamagedObjectError, InpaintOpsError
    from inpaint_ops_airflow.workspace import open_workspace

    try:
        place = permitted_place(load_settings(), params["to"])
        made = deliver(
            open_workspace(also_writable=[place]), params["run"], place,
            only=params["only"], replace=params["replace"], also=params["also"] or (),
            contact_sheet=None if params["sheet"] == "none" else params["sheet"],
        )  # fmt: skip
    except InpaintOpsError as error:
        tell(Told(problem=" ".join(str(error).split())).model_dump())
        raise
    tell(
        Told(
            rows=made.rows, chosen=made.chosen, delivered=made.delivered, bytes=made.bytes, left_out=len(made.left_out)
        ).model_dump()
    )  # fmt: skip
    print(
        f"{made.delivered:,} of {made.rows:,} rows have their image in {place}: {made.bytes:,} bytes, list SHA256SUMS"
    )
    print(f"there already: {made.there:,}; copied by the store itself: {made.delivered - made.read:,}")
    print(f"of child runs: {made.redone:,}; failed: {made.failed:,}; rejected: {made.rejected:,}")
    for line in made.left_out[:_NAMED]:
        print(f"left out: {line}")
    if made.left_out:
        many = len(made.left_out) > 1
        raise DamagedObjectError(
            f"{len(made.left_out):,} file{'s' if many else ''} could not be delivered: contents.jsonl in {place} names "
            f"{'them' if many else 'it'}"
        )
