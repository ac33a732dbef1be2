"""The routes of the small pictures and the tiles, and what stands in for one that cannot be had.

They run in the event loop and hold no thread while a picture is made; a request that waits too long gets a
placeholder, and a later request finds the picture ready.
"""

from __future__ import annotations

import asyncio
import json
import math
from concurrent.futures import Future
from contextlib import suppress
from html import escape
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.responses import Response

from inpaint_ops.browse.pictures import SIZES, Changes, ShownKind, Size, changes_and_picture, size_of
from inpaint_ops.errors import InpaintOpsError, ObjectNotFoundError, ObjectTooLargeError, PreviewBusyError
from inpaint_ops.images.tiles import MAX_LEVEL, Block
from inpaint_ops.previews import split_parts
from inpaint_ops.records import Record
from inpaint_ops_airflow.ui.data import PAGE
from inpaint_ops_airflow.ui.dependencies import RecordDep, RunDep, ViewsDep
from inpaint_ops_airflow.ui.downloads import AS_IT_IS
from inpaint_ops_airflow.ui.errors import message_of, status_of

router = APIRouter(prefix="/api")

WAIT_SECONDS = 10.0
"""How long a request waits for its picture; a browser has six connections, all of them occupied by such requests."""
_TOGETHER_SECONDS = 2.0
"""How long a reply with all thumbnails of a page waits for them: those that come later are asked for one by one."""
_RETRY_SECONDS = 5.0

_Level = Annotated[int, Path(ge=0, le=MAX_LEVEL)]
_Place = Annotated[int, Path(ge=0, lt=2**16)]

_KEEP = {"Cache-Control": "private, max-age=3600"}
_KEEP_FAILURE = {"Cache-Control": "private, max-age=60"}

_TITLES: dict[type[InpaintOpsError], str] = {
    ObjectTooLargeError: "too large to preview",
    ObjectNotFoundError: "not in the store",
}

SIDE, BUSY_HEIGHT = 240, 241
"""Pixels of a placeholder. That of a picture worth another try is a pixel higher, by which gallery.js knows it."""


@router.get("/runs/{run}/rows/{row}/pictures/{kind}")
async def picture(run: str, kind: ShownKind, views: ViewsDep, record: RecordDep, size: int = SIZES[0]) -> Response:
    """A small picture: the file itself never reaches the browser, so it may be of any format and size."""
    if size not in SIZES:
        raise HTTPException(422, f"size is one of {', '.join(map(str, SIZES))}")
    try:
        if kind == "difference":
            body = changes_and_picture(await _soon(views.pictures.ask_difference(record, run=run)))[1]
        else:
            body = await _soon(views.pictures.ask(record, kind, size, run=run))
    except (TimeoutError, PreviewBusyError) as error:
        return _placeholder(503, "busy", "try again later", _retry_after(error), height=BUSY_HEIGHT)
    except InpaintOpsError as error:
        titles = (title for kind, title in _TITLES.items() if isinstance(error, kind))
        headers = _KEEP_FAILURE if error.permanent else {}
        return _placeholder(status_of(error), next(titles, "no preview"), message_of(error), headers)
    return Response(body, media_type=_media_type(body), headers=_KEEP)


def _records(
    view: RunDep, rows: Annotated[str, Query(pattern=rf"^[1-9][0-9]{{0,8}}(,[1-9][0-9]{{0,8}}){{0,{PAGE - 1}}}$")]
) -> tuple[Record, ...]:
    return view.records_of(dict.fromkeys(map(int, rows.split(","))))


@router.get("/runs/{run}/thumbnails")
async def thumbnails(run: str, views: ViewsDep, records: Annotated[tuple[Record, ...], Depends(_records)]) -> Response:
    """The thumbnails that painting wrote of these rows, in one reply: a request of its own costs more than its picture.

    The first line is JSON: for each picture its row, its type and its bytes, which follow in this order. Rows that have
    none, and those whose thumbnail did not come in time, are left out.
    """
    asked: dict[int, asyncio.Future[bytes]] = {}
    with suppress(PreviewBusyError):  # too many are being read: those that are left are asked for one by one
        for record in records:
            if (found := views.pictures.ask_thumbnail(record, run=run)) is not None:
                asked[record.row] = _shared(found)
    done = (await asyncio.wait(asked.values(), timeout=_TOGETHER_SECONDS))[0] if asked else set()
    made = {row: one.result() for row, one in asked.items() if one in done and one.exception() is None}
    index = [[row, _media_type(body), len(body)] for row, body in made.items()]
    whole = b"".join((json.dumps(index, separators=(",", ":")).encode(), b"\n", *made.values()))
    return Response(whole, media_type="application/octet-stream", headers=_KEEP | AS_IT_IS)


@router.get("/runs/{run}/rows/{row}/tiles/{kind}/{level}/{column}/{line}")
async def tile(
    run: str, kind: ShownKind, level: _Level, column: _Place, line: _Place, views: ViewsDep, record: RecordDep
) -> Response:
    """A tile of a picture: 1024 pixels on each side, or what is left, of the picture made 2^level times smaller.

    There is nothing in the place of one that cannot be had, so that a browser goes on showing what is under it.
    """
    block, place = Block.of_tile(level, column, line)
    try:
        body = split_parts(await _soon(views.pictures.ask_tiles(record, kind, block, run=run)))[place]
    except (TimeoutError, PreviewBusyError) as error:
        return Response(status_code=503, headers=_retry_after(error) | {"Cache-Control": "no-store"})
    if not body:
        raise HTTPException(404, "the picture has no such tile")
    return Response(body, media_type=_media_type(body), headers=_KEEP)


@router.get("/runs/{run}/rows/{row}/difference")
async def changes(run: str, views: ViewsDep, record: RecordDep) -> Changes:
    """How many pixels the result changed of its source, and how many of them where nothing was painted."""
    return changes_and_picture(await _in_time(views.pictures.ask_difference(record, run=run)))[0]


@router.get("/runs/{run}/rows/{row}/size")
async def size_of_source(run: str, views: ViewsDep, record: RecordDep) -> Size:
    """The source's own size, of a row that has no result to tell it."""
    return size_of(await _in_time(views.pictures.ask_size(record, run=run)))


async def _soon(asked: Future[bytes]) -> bytes:
    """What was asked for. Raises TimeoutError where it takes longer than a request may; it is made all the same."""
    return await asyncio.wait_for(asyncio.shield(_shared(asked)), WAIT_SECONDS)


def _shared(asked: Future[bytes]) -> asyncio.Future[bytes]:
    made = asyncio.wrap_future(asked)
    made.add_done_callback(lambda done: done.cancelled() or done.exception())  # even if the request gave up
    return made


async def _in_time(asked: Future[bytes]) -> bytes:
    try:
        return await _soon(asked)
    except TimeoutError:
        raise PreviewBusyError("it is still being made: try again", retry_after=_RETRY_SECONDS) from None


def _retry_after(error: TimeoutError | PreviewBusyError) -> dict[str, str]:
    after = error.retry_after if isinstance(error, PreviewBusyError) else _RETRY_SECONDS
    return {"Retry-After": str(math.ceil(after))}


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
