"""The route that delivers a run's images as a ZIP, sent while it is made.

A thread of its own makes the archive, and waits while the client has not taken what was made before. This process holds
a few pieces of 1 MiB, and at most four images in temporary files. Who leaves, or takes nothing for ten minutes, ends
it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as Waited
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from inpaint_ops.delivering import Delivery, zip_stream
from inpaint_ops.errors import InpaintOpsError
from inpaint_ops_airflow.ui.access import reviewer, sent_from_here
from inpaint_ops_airflow.ui.dependencies import RunDep, ViewsDep
from inpaint_ops_airflow.ui.downloads import AS_IT_IS

log = logging.getLogger(__name__)
router = APIRouter()

AT_ONCE = 2
"""ZIPs that one process makes at once: each takes a thread, and more of the processor than anything else here."""
PATIENCE_SECONDS = 600.0
"""How long a client may take nothing before its ZIP is given up."""
_PIECES = 4
"""Made and not taken yet, at most: of 1 MiB each."""

_under_way: dict[str, str] = {}
"""By user: the run whose ZIP is being sent by this process."""
_lock = threading.Lock()


@router.get("/runs/{run}/delivery.zip", dependencies=[Depends(sent_from_here)])
def delivery(
    request: Request,
    view: RunDep,
    views: ViewsDep,
    name: Annotated[str, reviewer],
    only: Literal["done", "accepted"] = "done",
    sheet: bool = True,
) -> Response:
    """The run's images as a ZIP, for whoever may read the run: all done rows, or the accepted ones."""
    make = zip_stream(views.workspace, view.run, only=only, contact_sheet="results" if sheet else None)
    _begin(name, view.run)
    headers = {"Content-Disposition": f'attachment; filename="{view.run}.zip"', **AS_IT_IS}
    return _Sent(_Pieces(make, view.run), name, headers)


def _begin(name: str, run: str) -> None:
    """Take the user's place. Raises 429 where the user has one already, 503 where all are taken."""
    with _lock:
        if (other := _under_way.get(name)) is not None:
            raise HTTPException(
                429, f"the ZIP of {other} is still being sent to you: wait for its end, or cancel it",
                {"Retry-After": "30"},
            )  # fmt: skip
        if len(_under_way) >= AT_ONCE:
            raise HTTPException(
                503, "other people's ZIPs are being sent: try again in some minutes, or use inpaint-ops deliver",
                {"Retry-After": "60"},
            )  # fmt: skip
        _under_way[name] = run


class _GoneError(Exception):
    """Nobody takes the ZIP any more."""


class _Pieces:
    """The ZIP as the event loop gets it, piece by piece, while a thread makes it."""

    def __init__(self, make: Callable[[Callable[[bytes], None]], Delivery], run: str) -> None:
        self._make, self._run = make, run
        self._gone = False

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "a reply is sent by a task"
        made: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(_PIECES)

        def put(piece: bytes | BaseException | None) -> None:
            if self._gone:
                raise _GoneError
            waiting = asyncio.run_coroutine_threadsafe(made.put(piece), loop)
            try:
                waiting.result(PATIENCE_SECONDS)
            except (Waited, CancelledError):
                waiting.cancel()
                if not self._gone:  # it waits for a client that takes nothing, and would do so for ever
                    loop.call_soon_threadsafe(task.cancel)
                raise _GoneError from None

        thread = threading.Thread(target=self._work, args=(put,), name="delivery", daemon=True)
        thread.start()
        try:
            while (piece := await made.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece  # the reply breaks off: what was sent is no archive
                yield piece
        finally:
            self._gone = True
            while not made.empty():  # the thread may wait for room
                made.get_nowait()

    def _work(self, put: Callable[[bytes | BaseException | None], None]) -> None:
        end: BaseException | None = None
        try:
            found = self._make(put)
            log.info("the ZIP of %s was sent: %d images, %d left out", self._run, found.delivered, len(found.left_out))
        except _GoneError:
            log.info("the ZIP of %s was given up: nobody took it", self._run)
            return
        except InpaintOpsError as error:
            log.warning("the ZIP of %s broke off: %s", self._run, error)
            end = error
        except BaseException as error:
            log.exception("the ZIP of %s broke off", self._run)
            end = error
        try:
            put(end)
        except (_GoneError, RuntimeError):  # the loop has ended
            return


class _Sent(StreamingResponse):
    """The reply; its user may ask for another ZIP once it has been sent, or its reader has gone."""

    def __init__(self, pieces: _Pieces, user: str, headers: dict[str, str]) -> None:
        self._pieces = pieces.__aiter__()
        super().__init__(self._pieces, media_type="application/zip", headers=headers)
        self._user = user

    async def __call__(self, *args: object) -> None:
        try:
            await super().__call__(*args)  # type: ignore[arg-type]
        finally:
            await self._pieces.aclose()  # the thread hears of it now, not when memory is tidied
            with _lock:
                _under_way.pop(self._user, None)
