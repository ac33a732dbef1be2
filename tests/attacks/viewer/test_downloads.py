"""A viewer asks for large files and takes them slowly, to fill the api-server's temporary folder or its memory."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from inpaint_ops.runs import Workspace
from inpaint_ops.storage import Storage
from inpaint_ops.storage.pieces import PIECE_BYTES
from inpaint_ops_airflow.ui import downloads
from tests.support.synthetic_run import make_plan, put_plan, put_progress, put_record, record

SIZE = 3 * PIECE_BYTES + 5
PATH = "/api/runs/night/rows/1/files/source"


@pytest.fixture
def large(workspace: Workspace) -> bytes:
    """The photo of the only row."""
    body = bytes(range(256)) * (SIZE // 256) + b"12345"
    where = workspace.store.join("photos/large ä.bin")
    workspace.storage.put(where, body)
    put_plan(workspace, make_plan("night", 1, shard_rows=1))
    put_record(workspace, "night", record(1).model_copy(update={"source": where.uri}))
    put_progress(workspace, "night", 0, rows=1, done=1)
    return body


def test_a_file_is_passed_on_piece_by_piece_and_only_as_it_is_taken(
    app: FastAPI, large: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A client that reads slowly has a whole file of 200 MB lie on the disk, or in memory."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    asked: list[Any] = []
    get = Storage.get

    def counted(self: Storage, where: Any, **options: Any) -> bytes:
        if str(where).endswith(".bin"):
            asked.append(options["byte_range"])
        return get(self, where, **options)

    monkeypatch.setattr(Storage, "get", counted)
    sent: list[dict[str, Any]] = []
    may_go_on = asyncio.Semaphore(0)

    async def look() -> None:
        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message.get("body"):
                await may_go_on.acquire()

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "path": PATH, "raw_path": PATH.encode(),
            "query_string": b"", "headers": [], "scheme": "http", "server": ("pages", 80), "client": ("viewer", 1),
            "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.4"},
        }  # fmt: skip
        reply = asyncio.create_task(app(scope, receive, send))
        for taken in range(1, 5):
            while sum(bool(message.get("body")) for message in sent) < taken:
                assert not reply.done()
                await asyncio.sleep(0)
            assert len(asked) == taken, "no further than the client has read"
            assert list(temporary.iterdir()) == []
            may_go_on.release()
        await reply

    asyncio.run(look())
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert headers["content-length"] == str(len(large))
    assert headers["content-disposition"] == "attachment; filename*=utf-8''large%20%C3%A4.bin"
    assert b"".join(message.get("body", b"") for message in sent) == large
    assert max(last - first + 1 for first, last in asked) == PIECE_BYTES


def test_downloads_under_way_are_counted(app: FastAPI, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand slow clients hold a piece of memory each."""

    async def look() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pages") as viewer:
            assert (await viewer.get(PATH)).content == large
            assert not downloads._under_way
            monkeypatch.setattr(downloads, "AT_ONCE", 0)
            refused = await viewer.get(PATH)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")

    asyncio.run(look())
