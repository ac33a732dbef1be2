"""Files to save, passed on from the store piece by piece.

A slow client holds a piece of memory, and neither a file nor a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from fastapi import HTTPException
from fastapi.responses import Response, StreamingResponse

from inpaint_ops.storage import Storage
from inpaint_ops.storage.pieces import Pieces, in_pieces

AT_ONCE = 32
"""Downloads under way, at most, each with a piece of 1 MiB in memory."""

AS_IT_IS = {"Content-Encoding": "identity"}
"""For what is compressed already: else Airflow's own middleware compresses it once more, and drops its length."""

_readers = ThreadPoolExecutor(4, thread_name_prefix="downloads")
"""Their own: a slow store must not hold the threads that Airflow's routes run in."""
_under_way: set[Pieces] = set()


def download(storage: Storage, uri: str) -> Response:
    """An object as a file, always saved and never shown. Raises StorageError, and 503 while too many are under way."""
    if len(_under_way) >= AT_ONCE:
        raise HTTPException(503, "too many files are being downloaded: try again later", {"Retry-After": "10"})
    pieces = in_pieces(storage, uri)
    name = uri.rsplit("/", 1)[-1]
    quoted = quote(name)
    saved_as = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
    headers = {"Content-Disposition": f"attachment; {saved_as}", "Content-Length": str(pieces.size), **AS_IT_IS}
    return StreamingResponse(_passed_on(pieces), media_type="application/octet-stream", headers=headers)


async def _passed_on(pieces: Pieces) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    _under_way.add(pieces)
    try:
        source: Iterator[bytes] = iter(pieces)
        while piece := await loop.run_in_executor(_readers, next, source, b""):
            yield piece
    finally:
        _under_way.discard(pieces)
