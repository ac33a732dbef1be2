"""The application: every route guarded, every reply with a strict policy, every error as errors.py answers it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inpaint_ops.browse import RunViews
from inpaint_ops_airflow.ui import (
    compare,
    data,
    deliveries,
    delivering,
    pages,
    pictures,
    redoing,
    requests,
    reviews,
    saved_views,
    submitting,
    trends,
)
from inpaint_ops_airflow.ui.access import may_read_runs
from inpaint_ops_airflow.ui.errors import add_error_handlers

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
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
    app.include_router(deliveries.router)
    app.include_router(delivering.router)
    app.include_router(redoing.router)
    app.include_router(reviews.router)
    app.include_router(saved_views.router)
    app.include_router(submitting.router)
    app.include_router(requests.router)
    app.include_router(trends.router)
    app.include_router(compare.router)
    app.include_router(pages.router)
    app.add_middleware(SecureHeaders)
    add_error_handlers(app)
    return app
