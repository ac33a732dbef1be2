"""The route of the small pictures, and what stands in for one that cannot be had.

It runs in the event loop and holds no thread while a picture is made; a request that waits too long gets a
placeholder, and a later request finds the picture ready.
"""

from __future__ import annotations

import asyncio
import math
from html import escape

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from inpaint_ops.browse.pictures import SIZES, Kind
from inpaint_ops.errors import InpaintOpsError, ObjectNotFoundError, ObjectTooLargeError, PreviewBusyError
from inpaint_ops_airflow.ui.dependencies import RecordDep, ViewsDep
from inpaint_ops_airflow.ui.errors import message_of, status_of

router = APIRouter(prefix="/api")

WAIT_SECONDS = 10.0
"""How long a request waits for its picture; a browser has six connections, all of them occupied by such requests."""
_RETRY_SECONDS = 5.0

_KEEP = {"Cache-Control": "private, max-age=3600"}
_KEEP_FAILURE = {"Cache-Control": "private, max-age=60"}

_TITLES: dict[type[InpaintOpsError], str] = {
    ObjectTooLargeError: "too large to preview",
    ObjectNotFoundError: "not in the store",
}

SIDE, BUSY_HEIGHT = 240, 241
"""Pixels of a placeholder. That of a picture worth another try is a pixel higher, by which gallery.js knows it."""


@router.get("/runs/{run}/rows/{row}/pictures/{kind}")
async def picture(run: str, kind: Kind, views: ViewsDep, record: RecordDep, size: int = SIZES[0]) -> Response:
    """A small picture: the file itself never reaches the browser, so it may be of any format and size."""
    if size not in SIZES:
        raise HTTPException(422, f"size is one of {', '.join(map(str, SIZES))}")
    try:
        made = asyncio.wrap_future(views.pictures.ask(record, kind, size, run=run))
        made.add_done_callback(lambda done: done.cancelled() or done.exception())  # even if the request gave up
        body = await asyncio.wait_for(asyncio.shield(made), WAIT_SECONDS)
    except (TimeoutError, PreviewBusyError) as error:
        after = error.retry_after if isinstance(error, PreviewBusyError) else _RETRY_SECONDS
        return _placeholder(503, "busy", "try again later", {"Retry-After": str(math.ceil(after))}, height=BUSY_HEIGHT)
    except InpaintOpsError as error:
        titles = (title for kind, title in _TITLES.items() if isinstance(error, kind))
        headers = _KEEP_FAILURE if error.permanent else {}
        return _placeholder(status_of(error), next(titles, "no preview"), message_of(error), headers)
    return Response(body, media_type=_media_type(body), headers=_KEEP)


def _media_type(body: bytes) -> str:
    """What a picture of ours is: a WebP thumbnail, a mask's PNG, or a JPEG; browsers are told not to guess."""
    if body.startswith(b"RIFF"):
        return "image/webp"
    return "image/png" if body.startswith(b"\x89PNG") else "image/jpeg"


def _placeholder(status: int, title: str, why: str, headers: dict[str, str], *, height: int = SIDE) -> Response:
    """A picture with a short text and the matching status; not cached unless `headers` allows it."""
    lines = [why[at : at + 34] for at in range(0, min(len(why), 170), 34)]
    texts = "".join(f'<text x="120" y="{130 + 16 * row}">{escape(line)}</text>' for row, line in enumerate(lines))
    body = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{height}" viewBox="0 0 {SIDE} {height}">'
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="#8883"/>'
        '<g text-anchor="middle" font-family="sans-serif" fill="#777">'
        f'<text x="120" y="104" font-size="17">{escape(title)}</text><g font-size="11">{texts}</g></g></svg>'
    )
    return Response(body, status, media_type="image/svg+xml", headers={"Cache-Control": "no-store"} | headers)
