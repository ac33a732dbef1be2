"""Errors as replies: a page for a person's browser, JSON for a program, and the status of each of our errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from inpaint_ops.errors import (
    AccessDeniedError,
    ConfigError,
    DamagedObjectError,
    ForbiddenLocationError,
    ImageError,
    InpaintOpsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PreviewBusyError,
    StorageUnavailableError,
)
from inpaint_ops_airflow.ui.access import DAG_ID
from inpaint_ops_airflow.ui.rendering import render

_STATUS: dict[type[InpaintOpsError], int] = {
    ConfigError: 404,
    ObjectNotFoundError: 404,
    ForbiddenLocationError: 403,
    AccessDeniedError: 502,
    DamagedObjectError: 502,
    ObjectTooLargeError: 413,
    ImageError: 415,
    PreviewBusyError: 503,
    StorageUnavailableError: 503,
}

_CURES = {
    401: "You are not signed in to Airflow, or your session has ended: sign in, then open this link again.",
    403: f"You may not read the runs of the DAG {DAG_ID}: ask an administrator of this Airflow for the right.",
}
"""What a person can do where Airflow itself refuses."""


def status_of(error: InpaintOpsError) -> int:
    """The HTTP status of one of our errors: that of the nearest class which has one, else 500."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def message_of(error: InpaintOpsError) -> str:
    """The error's text on one line, at most 500 characters."""
    return " ".join(str(error).split())[:500]


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the application's routes."""
    app.add_exception_handler(InpaintOpsError, _ours)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)


def _ours(request: Request, error: Any) -> Response:
    status, message = status_of(error), message_of(error)
    if _wants_page(request):
        return _page(request, status, message)
    return JSONResponse({"detail": message}, status_code=status)


async def _refused(request: Request, error: Any) -> Response:
    if _wants_page(request):
        return _page(request, error.status_code, _CURES.get(error.status_code, str(error.detail)), error.headers)
    return await http_exception_handler(request, error)


async def _invalid(request: Request, error: Any) -> Response:
    """Names each field that was wrong, never its value."""
    if _wants_page(request):
        faults = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return _page(request, 422, f"This address is not valid: {faults}")
    return await request_validation_exception_handler(request, error)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _page(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    page = render(request, "problem.html.j2", status=status, message=message[:500])
    return HTMLResponse(page, status_code=status, headers=headers)
