"""A viewer opens galleries of hostile files, to starve the pages of others and Airflow's own API."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import FastAPI

from inpaint_ops.browse.pictures import OF_A_RUN, WAITING, Pictures
from inpaint_ops.errors import ImageError, PreviewBusyError, PreviewError
from inpaint_ops.previews import Helper, Limits, Preview
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace
from inpaint_ops_airflow.ui import pictures as route
from tests.attacks.conftest import Scripted
from tests.attacks.costly_files import padded_bmp
from tests.support.synthetic_run import make_plan, put_plan, put_progress, put_record, record

STATIC = Path(route.__file__).parent / "static"


class Counting(Helper):
    """A real helper that counts its pictures, and says of each that it took `cost` seconds of the processor."""

    made: ClassVar[list[str]] = []
    cost = 0.0

    def __init__(self) -> None:
        super().__init__(Limits(wall_seconds=300))

    def make(self, job: object, files: object) -> Preview:
        type(self).made.append(files[0].location.name)  # type: ignore[index]
        try:
            return dataclasses.replace(super().make(job, files), cpu=self.cost)  # type: ignore[arg-type]
        except PreviewError as error:
            raise PreviewError(str(error), cpu=self.cost) from None


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def counting() -> type[Counting]:
    return type("Fresh", (Counting,), {"made": []})


def row_of(workspace: Workspace, name: str, body: bytes) -> Record:
    where = workspace.store.join(f"photos/{name}")
    workspace.storage.put(where, body)
    return record(1).model_copy(update={"source": where.uri})


def test_the_queue_has_a_bound_for_each_run_and_for_all(
    workspace: Workspace, scripted: Scripted, counting: type[Counting]
) -> None:
    """Pictures that take for ever fill the queue, so that nobody else sees any."""
    pictures = Pictures(workspace, helper=counting)

    def ask(run: str, number: int) -> Future[bytes]:
        body = f"wait {run} {number}".encode()
        return pictures.ask(row_of(workspace, f"{run}{number}", body), "source", 256, run=run)

    hostile = [ask("hostile", number) for number in range(OF_A_RUN)]
    with pytest.raises(PreviewBusyError):
        ask("hostile", OF_A_RUN)
    others = [ask("other", number) for number in range(WAITING - OF_A_RUN)]
    with pytest.raises(PreviewBusyError):
        ask("third", 0)
    assert not any(future.done() for future in hostile + others), "refused at once, while all others wait"
    assert ask("hostile", 0) is hostile[0], "who asks for the same picture waits for the same decoding"
    scripted.let_go(WAITING)
    assert all(future.result(timeout=300) for future in hostile + others)
    assert len(counting.made) == WAITING
    assert len(pictures._threads) == 2


def test_a_file_that_failed_is_not_decoded_for_each_view(
    workspace: Workspace, scripted: Scripted, counting: type[Counting]
) -> None:
    """A gallery is opened again and again, and its one hostile file is decoded each time."""
    clock = Clock()
    pictures = Pictures(workspace, helper=counting, clock=clock)
    row = row_of(workspace, "a.bmp", b"crash")
    for _ in range(5):
        with pytest.raises(ImageError, match="SIGSEGV"):
            pictures.picture(row, "source", 256, run="night")
    assert counting.made == ["a.bmp"]
    clock.now += 901
    workspace.storage.put(workspace.store.join("photos/a.bmp"), b"mended")
    assert pictures.picture(row, "source", 256, run="night").endswith(b"mended")


def test_a_run_has_a_share_of_the_processor(workspace: Workspace, scripted: Scripted, counting: type[Counting]) -> None:
    """Many files that each take as long as they may keep both helpers from everybody else."""
    clock, counting.cost = Clock(), 31.0
    pictures = Pictures(workspace, helper=counting, clock=clock)
    rows = [row_of(workspace, f"{number}.png", b"crash" if number % 2 else b"ok") for number in range(6)]
    pictures.picture(rows[0], "source", 256, run="hostile")
    with pytest.raises(ImageError):
        pictures.picture(rows[1], "source", 256, run="hostile")
    with pytest.raises(PreviewBusyError) as refused:
        pictures.picture(rows[2], "source", 256, run="hostile")
    assert refused.value.retry_after >= 1
    assert pictures.picture(rows[2], "source", 256, run="other")
    clock.now += refused.value.retry_after
    assert pictures.picture(rows[4], "source", 256, run="hostile")
    assert counting.made == ["0.png", "1.png", "2.png", "4.png"]


def test_what_waits_for_a_spent_share_is_not_decoded(
    workspace: Workspace, scripted: Scripted, counting: type[Counting]
) -> None:
    """A whole gallery is asked for before the first of its files has shown what it takes."""
    counting.cost = 61.0
    pictures = Pictures(workspace, helper=counting, clock=Clock())
    rows = [row_of(workspace, f"{number}.png", b"wait") for number in range(20)]
    going = [pictures.ask(row, "source", 256, run="hostile") for row in rows]
    for _ in range(2):
        scripted.began()  # else the first to be done could have spent the share before the other helper was up
    scripted.let_go(len(rows))
    busy = [future for future in going if isinstance(future.exception(timeout=300), PreviewBusyError)]
    assert len(counting.made) == 2, "one for each helper"
    assert len(busy) == len(rows) - 2


@pytest.fixture
def gallery(workspace: Workspace) -> Callable[..., None]:
    """Put a run that goes on, `night`, whose photos are these bytes."""

    def put(*bodies: bytes) -> None:
        put_plan(workspace, make_plan("night", len(bodies), shard_rows=len(bodies)))
        for number, body in enumerate(bodies, 1):
            where = workspace.store.join(f"photos/{number}")
            workspace.storage.put(where, body)
            put_record(workspace, "night", record(number).model_copy(update={"source": where.uri}))
        put_progress(workspace, "night", 0, rows=len(bodies), done=len(bodies))

    return put


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pages", timeout=300)


def shown(reply: httpx.Response) -> tuple[str, str, str]:
    """Width and height of a placeholder, and its words."""
    assert reply.headers["content-type"] == "image/svg+xml"
    root = ElementTree.fromstring(reply.text)
    return root.attrib["width"], root.attrib["height"], " ".join(root.itertext())


def test_pictures_that_wait_hold_no_thread_of_airflow(
    app: FastAPI, gallery: Callable[..., None], scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 pictures are asked for at once; the api-server has 40 threads for all of its routes."""
    monkeypatch.setattr(route, "WAIT_SECONDS", 600.0)
    gallery(*(f"wait {number}".encode() for number in range(OF_A_RUN)))

    async def look() -> None:
        async with client(app) as viewer:
            path = "/api/runs/night/rows/{}/pictures/source?size=256"
            waiting = [asyncio.create_task(viewer.get(path.format(row))) for row in range(1, OF_A_RUN + 1)]
            pictures = app.state.views.pictures
            while len(pictures._going) < OF_A_RUN:
                await asyncio.sleep(0)
            assert (await viewer.get("/api/runs/night")).status_code == 200, "a route that needs a thread"
            assert not any(task.done() for task in waiting)
            scripted.let_go(OF_A_RUN)
            replies = await asyncio.gather(*waiting)
            assert {reply.status_code for reply in replies} == {200}

    asyncio.run(look())


def test_a_placeholder_says_busy_and_when_to_come_back(
    app: FastAPI, gallery: Callable[..., None], scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request waits for a picture for as long as a file likes."""
    monkeypatch.setattr(route, "WAIT_SECONDS", 0.01)
    gallery(b"wait")

    async def look() -> None:
        async with client(app) as viewer:
            path = "/api/runs/night/rows/1/pictures/source"
            reply = await viewer.get(path)
            assert (reply.status_code, reply.headers["cache-control"]) == (503, "no-store")
            assert int(reply.headers["retry-after"]) >= 1
            assert shown(reply)[:2] == ("240", "241")
            going = next(iter(app.state.views.pictures._going.values())).made
            scripted.let_go()
            await asyncio.wrap_future(going)
            assert (await viewer.get(path)).content.endswith(b"wait"), "made meanwhile, for the next who asks"

    asyncio.run(look())


def test_a_placeholder_says_why_there_is_no_picture(
    app: FastAPI, gallery: Callable[..., None], workspace: Workspace
) -> None:
    """A file of 9 kB takes ten seconds to decode; and one that is none."""
    gallery(padded_bmp(), b"<svg onload='alert(1)'/>", b"BM" + bytes(99), b"")

    async def look() -> None:
        async with client(app) as viewer:
            for row in range(1, 5):
                reply = await viewer.get(f"/api/runs/night/rows/{row}/pictures/source")
                assert (reply.status_code, reply.headers["cache-control"]) == (415, "private, max-age=60")
                width, height, words = shown(reply)
                assert (width, height) == ("240", "240") and "no preview" in words
                assert "script-src 'self'" in reply.headers["content-security-policy"]
                assert "onload" not in re.sub(r">[^<]*<", "><", reply.text), "what the file says stays text"

    asyncio.run(look())


def test_the_gallery_asks_once_more_for_what_was_busy() -> None:
    """The page's script knows the placeholder of a busy picture by its size."""
    script = (STATIC / "gallery.js").read_text()
    assert f"naturalWidth !== {route.SIDE} ||" in script
    assert f"naturalHeight !== {route.BUSY_HEIGHT})" in script
    assert "{ once: true }" in script and "&again=1" in script
