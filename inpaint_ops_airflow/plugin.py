"""The plugin: "Inpainting" in Airflow's navigation, a tab on each DAG run and one on each task instance; and what runs'
deadlines count from.

Every process of Airflow imports this file, so it imports next to nothing: the pages are built by the first request.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from inpaint_ops_airflow.deadlines import RunQueued

PREFIX = "/inpaint"

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='{}' "
    "stroke-width='2'%3E%3Crect x='3' y='3' width='18' height='18' rx='3'/%3E%3Cpath d='M3 16l5-5 5 5 3-3 5 5'/%3E"
    "%3Ccircle cx='16' cy='8' r='1.6'/%3E%3C/svg%3E"
)


def base_path() -> str:
    """The path of `[api] base_url`, without a closing slash: where Airflow lies behind a proxy."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


class Pages:
    """The pages as an ASGI application that is built when it is first called."""

    def __init__(self) -> None:
        self._app: Any = None
        self._building = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request; the first one waits in a thread, so that Airflow's own do not wait with it."""
        async with self._building:
            if self._app is None:
                self._app = await asyncio.to_thread(_build)
        await self._app(scope, receive, send)


def _build() -> Any:
    from inpaint_ops_airflow.ui.app import create_app

    return create_app()


def _view(name: str, destination: str, path: str, route: str) -> dict[str, Any]:
    return {
        "name": name,
        "href": f"{base_path()}{PREFIX}{path}",
        "destination": destination,
        "url_route": route,
        "nav_top_level": True,
        "icon": _ICON.format("black"),
        "icon_dark_mode": _ICON.format("white"),
    }


class InpaintPlugin(AirflowPlugin):
    """The plugin that Airflow registers."""

    name = "inpaint_ops"
    fastapi_apps = [{"app": Pages(), "url_prefix": PREFIX, "name": "Inpainting"}]  # noqa: RUF012
    deadline_references = [RunQueued]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        _view("Inpainting", "nav", "/", "inpainting"),
        _view("Inpainting", "dag_run", "/dag-runs/{DAG_ID}/{RUN_ID}", "inpainting-run"),
        _view("Inpainting", "task_instance", "/tasks/{DAG_ID}/{RUN_ID}/{TASK_ID}/{MAP_INDEX}", "inpainting-shard"),
    ]
