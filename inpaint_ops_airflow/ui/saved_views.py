"""Routes of the views of the gallery that a person has named: kept in the store, for that person in every browser."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Request
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from inpaint_ops.errors import ConfigError
from inpaint_ops.records import Model
from inpaint_ops.reviewing import check_reviewer, read_views, remove_view, save_view
from inpaint_ops_airflow.ui.access import may_review, may_trigger_runs, reviewer, sent_by_these_pages
from inpaint_ops_airflow.ui.dependencies import ViewsDep
from inpaint_ops_airflow.ui.reviews import body_of

router = APIRouter(prefix="/api")


class SavedBody(Model):
    """The views of who asks, by name, and whether they may keep any: as reviews, for whoever may trigger the DAG."""

    views: dict[str, str]
    may_save: bool


class SaveBody(Model):
    """A view to keep, as the query of the gallery's address; None: it is removed."""

    name: Annotated[str, Field(max_length=200)]
    view: Annotated[str, Field(max_length=4000)] | None


@router.get("/views")
def saved_views(views: ViewsDep, name: Annotated[str, reviewer], may: Annotated[bool, may_review]) -> SavedBody:
    """The views that the user has named; none for who may not keep any."""
    try:
        check_reviewer(name)
    except ConfigError:  # a user whose name cannot be a reviewer's
        may = False
    return SavedBody(views=read_views(views.workspace, name) if may else {}, may_save=may)


@router.post("/views", dependencies=[sent_by_these_pages, may_trigger_runs])
async def save_or_remove(request: Request, views: ViewsDep, name: Annotated[str, reviewer]) -> SavedBody:
    """Keep or remove one of the user's views."""
    try:
        asked = SaveBody.model_validate_json(await body_of(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise HTTPException(422, f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}") from None
    return await run_in_threadpool(_change, views, name, asked)


def _change(views: ViewsDep, name: str, asked: SaveBody) -> SavedBody:
    try:
        if asked.view is None:
            kept = remove_view(views.workspace, name, asked.name)
        else:
            kept = save_view(views.workspace, name, asked.name, asked.view)
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None
    return SavedBody(views=kept, may_save=True)
