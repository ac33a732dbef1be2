"""What routes ask for: the run views of this installation, one run, one row."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import Depends, Query, Request

from inpaint_ops.browse import RunView, RunViews
from inpaint_ops.errors import ObjectNotFoundError
from inpaint_ops.records import MAX_VARIANTS, Record

_opening = threading.Lock()


def get_views(request: Request) -> RunViews:
    """The run views, opened once per process."""
    state = request.app.state
    with _opening:
        if state.views is None:
            from inpaint_ops_airflow.workspace import open_workspace

            state.views = RunViews(open_workspace())
        views: RunViews = state.views
    return views


ViewsDep = Annotated[RunViews, Depends(get_views)]


def get_run(run: str, views: ViewsDep) -> RunView:
    """The run of the path, as it stands now; 404 where there is none."""
    view = views.run(run)
    if view is None:
        raise ObjectNotFoundError(
            "there is no such run here, or it is not planned yet: it shows once its plan is written"
        )
    return view


RunDep = Annotated[RunView, Depends(get_run)]


def get_record(row: int, view: RunDep, variant: Annotated[int | None, Query(ge=0, lt=MAX_VARIANTS)] = None) -> Record:
    """The record of the path's row, or of one of its variants; 404 where it has none yet, or no such variant."""
    found = view.record(row)
    if found is None:
        raise ObjectNotFoundError("the row has no record yet")
    if variant is None:
        return found
    if variant >= len(found.variants):
        raise ObjectNotFoundError(f"the row has no variant {variant}")
    return found.paintings()[variant]


RecordDep = Annotated[Record, Depends(get_record)]
