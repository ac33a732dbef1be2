"""A page of thumbnails in one reply: what is in it, and a gallery in a real Chromium that shows it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from inpaint_ops.images import thumbnails
from inpaint_ops.records import Output, Thumbnail
from inpaint_ops.report import results_jsonl
from tests.support.browser import CHROMIUM, VIEWS, chromium, watching
from tests.support.served_pages import ServedPages, served
from tests.support.synthetic_run import put_finished_run
from tests.support.waiting import PATIENCE, wait_until

__all__ = ["chromium", "served"]

RUN, ROWS, FAILED = "small", 60, {5}
WITHOUT, DAMAGED = {2}, {3}
"""A row that painting wrote no thumbnail of, and one whose thumbnail is not the one that its record states."""


@pytest.fixture(scope="module")
def painted(served: ServedPages) -> ServedPages:
    """A finished run whose rows have thumbnails, each of a colour of its own."""
    workspace, layout = served.workspace, served.workspace.layout(RUN)
    _, records = put_finished_run(workspace, RUN, ROWS, failed=FAILED)
    found = []
    for record in records:
        if record.output is None:
            found.append(record)
            continue
        pixels = np.full((400, 600, 3), record.row * 4, np.uint8)
        image, sink, named = layout.image(record.id, ".png"), io.BytesIO(), []
        Image.fromarray(pixels).save(sink, "PNG")
        workspace.storage.put(image, sink.getvalue())
        for longest, data in thumbnails(pixels) if record.row not in WITHOUT else ():
            place = layout.thumbnail(image, longest)
            workspace.storage.put(place, data if record.row not in DAMAGED else data + b"\0")
            digest = hashlib.sha256(data).hexdigest()
            named.append(Thumbnail(size=longest, uri=place.uri, sha256=digest, bytes=len(data)))
        output = Output(uri=image.uri, sha256="0" * 64, bytes=len(sink.getvalue()), width=600, height=400, format="png")
        found.append(record.model_copy(update={"output": output, "thumbnails": tuple(named)}))
    workspace.storage.put(layout.results, results_jsonl(found))
    return served


def asked(pages: ServedPages, rows: str, *, role: str = "viewer") -> httpx.Response:
    url = f"{pages.url}/api/runs/{RUN}/thumbnails"
    return httpx.get(url, params={"rows": rows}, cookies={"user": "ann", "role": role}, timeout=PATIENCE)


def taken_apart(body: bytes) -> dict[int, tuple[str, bytes]]:
    first, _, rest = body.partition(b"\n")
    found, at = {}, 0
    for row, kind, size in json.loads(first):
        found[row] = kind, rest[at : at + size]
        at += size
    assert at == len(rest)
    return found


def test_the_thumbnails_of_the_rows_come_in_one_reply_in_their_order(painted: ServedPages) -> None:
    reply = asked(painted, "9,1,60,9")
    assert reply.status_code == 200
    assert reply.headers["content-encoding"] == "identity", "it is not compressed once more"
    assert reply.headers["cache-control"] == "private, max-age=3600"
    found = taken_apart(reply.content)
    assert list(found) == [9, 1, 60]
    for row, (kind, data) in found.items():
        assert kind == "image/webp"
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == ("WEBP", (256, 171))
            assert abs(int(np.asarray(image.convert("L")).mean()) - row * 4) <= 2


def test_rows_that_have_none_are_left_out_and_nothing_is_decoded_for_them(painted: ServedPages) -> None:
    assert list(taken_apart(asked(painted, "1,2,5,4,999").content)) == [1, 4]
    assert taken_apart(asked(painted, "5").content) == {}


@pytest.mark.parametrize("rows", ["", "0", "1,", "a", "1;2", "-1", ",".join(map(str, range(1, 50))), "1234567890"])
def test_other_lists_of_rows_are_refused(painted: ServedPages, rows: str) -> None:
    assert asked(painted, rows).status_code == 422


def test_who_may_not_read_runs_gets_none(painted: ServedPages) -> None:
    assert asked(painted, "1", role="").status_code == 403


@pytest.fixture
def page(chromium: Browser, painted: ServedPages) -> Iterator[Page]:
    with watching(chromium, painted.url.partition("/airflow")[0], **VIEWS["light"]) as watched:
        yield watched.page


def in_chromium(test: Callable[..., None]) -> Callable[..., None]:
    skipped = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
    return pytest.mark.slow(skipped(test))


def requests_of(page: Page) -> list[str]:
    """The pictures that the page asks for from now on, by the end of their address."""
    found: list[str] = []

    def listen(address: str) -> None:
        if "/thumbnails?" in address or "/pictures/" in address:
            found.append(urlsplit(address).path.rpartition(f"/api/runs/{RUN}/")[2])

    page.on("request", lambda request: listen(request.url) if not request.url.startswith("blob:") else None)
    return found


def all_shown(page: Page, count: int) -> None:
    """Wait until each picture of the gallery has been loaded, also those further down."""
    expect(page.locator(".thumb")).to_have_count(count)
    for picture in page.locator(".thumb img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", True)
        wait_until(lambda one=picture: one.evaluate("(one) => one.naturalWidth") > 0)


@in_chromium
def test_a_page_of_the_gallery_asks_once_and_who_turns_back_does_not_ask_again(
    page: Page, painted: ServedPages
) -> None:
    found = requests_of(page)
    page.goto(f"{painted.url}/runs/{RUN}/")
    all_shown(page, 48)
    by_themselves = {f"rows/{row}/pictures/result" for row in WITHOUT | DAMAGED}
    assert found.count("thumbnails") == 1
    assert {*found} - {"thumbnails"} <= by_themselves
    shown = page.locator(".thumb[data-row='9'] img")
    assert str(shown.get_attribute("src")).startswith("blob:")
    colour = """(one) => {
      const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
      pen.drawImage(one, 0, 0);
      return pen.getImageData(80, 80, 1, 1).data[0];
    }"""
    assert abs(shown.evaluate(colour) - 36) <= 2, "each row has its own"
    page.get_by_role("button", name="Next").click()
    all_shown(page, ROWS - 48)
    assert found.count("thumbnails") == 2
    page.go_back()
    all_shown(page, 48)
    assert found.count("thumbnails") == 2


@in_chromium
def test_pictures_come_one_by_one_where_the_reply_does_not(page: Page, painted: ServedPages) -> None:
    page.route("**/thumbnails?*", lambda route: route.fulfill(status=503))
    found = requests_of(page)
    page.goto(f"{painted.url}/runs/{RUN}/")
    all_shown(page, 48)
    assert {f"rows/{row}/pictures/result" for row in range(1, 49) if row not in FAILED} <= {*found}
