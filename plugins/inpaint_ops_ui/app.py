"""The application: every route guarded, every reply with a strict policy, every error a plain sentence."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inpaint_ops.browse import RunViews
from inpaint_ops.errors import (
    AccessDeniedError,
    ConfigError,
    DamagedObjectError,
    ForbiddenLocationError,
    ImageError,
    InpaintOpsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StorageUnavailableError,
)
from inpaint_ops_ui import data, pages, pictures
from inpaint_ops_ui.access import may_read_runs
from inpaint_ops_ui.rendering import render

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
"""No inline script or style, nothing from another host, framed by Airflow alone."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_STATUS: dict[type[InpaintOpsError], int] = {
    ConfigError: 404,
    ObjectNotFoundError: 404,
    ForbiddenLocationError: 403,
    AccessDeniedError: 502,
    DamagedObjectError: 502,
    ObjectTooLargeError: 413,
    ImageError: 415,
    StorageUnavailableError: 503,
}


class SecureHeaders:
    """Adds the headers that every reply carries, unless the route has set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def create_app(views: RunViews | None = None) -> FastAPI:
    """The pages; `views` default to those of this installation, opened by the first request that needs it."""
    app = FastAPI(title="Inpainting", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[may_read_runs])
    app.state.views = views
    app.include_router(data.router)
    app.include_router(pictures.router)
    app.include_router(pages.router)
    app.add_middleware(SecureHeaders)
    app.add_exception_handler(InpaintOpsError, _say)
    return app


def _say(request: Request, error: Any) -> Response:
    """One of our errors as a reply: a page for a browser, else JSON."""
    kinds = (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    status = next(kinds, 500)
    message = " ".join(str(error).split())[:500]
    if "text/html" in request.headers.get("accept", ""):
        page = render(request, "problem.html.j2", status=status, message=message)
        return HTMLResponse(page, status_code=status)
    return JSONResponse({"detail": message}, status_code=status)
