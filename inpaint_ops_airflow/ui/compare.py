"""Two results side by side: of the same row in two runs, or of two variants of a row."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from inpaint_ops.browse.pairs import By, differing_settings, pair_rows
from inpaint_ops.records import Model
from inpaint_ops_airflow.ui.dependencies import ViewsDep, get_run
from inpaint_ops_airflow.ui.rendering import render

router = APIRouter()

_NAMED = 20
"""Rows that only one of the runs has and that are named."""

_Run = Annotated[str, Query(max_length=200)]


class OnlyBody(Model):
    """Rows that only one of two runs has: how many, and the first of their lines."""

    rows: int
    first: tuple[int, ...]


class PairBody(Model):
    """A row that two runs both have, by its line in either manifest; None where there is no such row.

    `place` counts from 1. `previous` and `next` are lines, too.
    """

    by: By
    total: int
    place: int
    lines: tuple[int, int] | None
    previous: tuple[int, int] | None
    next: tuple[int, int] | None
    only_left: OnlyBody
    only_right: OnlyBody


@router.get("/compare", response_class=HTMLResponse)
def compare_page(
    request: Request,
    views: ViewsDep,
    left: _Run = "",
    right: _Run = "",
    by: Literal["", "id", "image"] = "",
    row: Annotated[int | None, Query(ge=1)] = None,
) -> str:
    """The page; without two runs, what asks for them. The rest of its address is for its script."""
    context: dict[str, Any] = {"left": left, "right": right, "by": by, "row": row, "chosen": None}
    if left and right:
        one, other = get_run(left, views), get_run(right, views)
        context["chosen"] = {"settings": differing_settings(one, other), "left": one, "right": other}
    return render(request, "compare.html.j2", **context)


@router.get("/api/compare")
def compared_row(
    views: ViewsDep,
    left: _Run,
    right: _Run,
    by: Literal["", "id", "image"] = "",
    row: Annotated[int, Query(ge=1)] = 1,
    right_row: Annotated[int | None, Query(ge=1)] = None,
) -> PairBody:
    """The row at a line of the left manifest, or the first one from there on that both have."""
    pairs = pair_rows(get_run(left, views), get_run(right, views), by)
    at, both = pairs.near(row, right_row), pairs.both
    return PairBody(
        by=pairs.by,
        total=len(both),
        place=at + 1 if both else 0,
        lines=both[at] if both else None,
        previous=both[at - 1] if at > 0 else None,
        next=both[at + 1] if at + 1 < len(both) else None,
        only_left=OnlyBody(rows=len(pairs.only_left), first=tuple(pairs.only_left[:_NAMED])),
        only_right=OnlyBody(rows=len(pairs.only_right), first=tuple(pairs.only_right[:_NAMED])),
    )
