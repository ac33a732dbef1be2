"""Routes of what runs took and cost, by day, project and card."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from inpaint_ops.browse.trends import MAX_DAYS, By, Group, trends
from inpaint_ops_airflow.ui.dependencies import ViewsDep
from inpaint_ops_airflow.ui.rendering import render

router = APIRouter(default_response_class=HTMLResponse)

_BARS = 60
"""Groups that are drawn, at most: the first of the table."""


@router.get("/trends")
def trends_page(
    request: Request,
    views: ViewsDep,
    by: By = "day",
    days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 30,
    project: Annotated[str, Query(max_length=80)] = "",
    card: Annotated[str, Query(max_length=200)] = "",
) -> str:
    """Finished runs added up. Nothing is read for it that the list of runs has read before."""
    entries, unread = views.catalogue.finished()
    found = trends(entries, by=by, until=datetime.now(UTC), days=days, project=project, card=card)
    asked = {"by": by, "days": days, "project": project, "card": card}

    def link(**changes: Any) -> str:
        return "?" + urlencode({name: value for name, value in (asked | changes).items() if value})

    return render(
        request, "trends.html.j2", found=found, unread=unread, asked=asked, link=link, charts=_charts(found.groups, by),
        price=views.workspace.settings.gpu_hour_price, store=views.workspace.store.uri,
    )  # fmt: skip


def _charts(groups: tuple[Group, ...], by: By) -> list[dict[str, Any]]:
    """Bars of the groups: of days in the order of time. Heights are of 100."""
    drawn = groups[:_BARS][::-1] if by == "day" else groups[:_BARS]
    kinds = (
        ("Images", [one.done for one in drawn], "{:,.0f}"),
        ("GPU-hours", [one.gpu_hours for one in drawn], "{:,.3g}"),
        ("Failed rows", [one.failed for one in drawn], "{:,.0f}"),
    )
    charts = []
    for label, values, form in kinds:
        most = max(values, default=0)
        bars = [
            {"x": at, "height": 100 * value / most if most else 0, "title": f"{one.name}: {form.format(value)}"}
            for at, (one, value) in enumerate(zip(drawn, values, strict=True))
        ]
        charts.append({"label": label, "bars": bars, "most": form.format(most)})
    return charts
