"""A row's variants on the pages: their pictures and files by number, and the list in the viewer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, expect

from inpaint_ops.layout import variant_name
from inpaint_ops.records import Record
from inpaint_ops.reviewing import Reviews
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, patient, watching
from tests.support.served_pages import ServedPages, served
from tests.support.variant_run import RUN, put_variants

__all__ = ["chromium", "served"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def row(served: ServedPages) -> Record:
    return put_variants(served.workspace)


def test_each_variant_has_its_picture_and_its_file(served: ServedPages, row: Record) -> None:
    layout = served.workspace.layout(RUN)
    with TestClient(served.app) as client:
        for variant in (0, 1):
            stored = served.workspace.storage.get(layout.image(variant_name(row.id, variant), ".png"))
            found = client.get(f"/api/runs/{RUN}/rows/1/files/result?variant={variant}")
            assert found.status_code == 200 and found.content == stored
            assert client.get(f"/api/runs/{RUN}/rows/1/pictures/result?variant={variant}").status_code == 200
            assert client.get(f"/api/runs/{RUN}/rows/1?variant={variant}").json()["record"]["seed"] == variant
        pictures = {
            client.get(f"/api/runs/{RUN}/rows/1/pictures/result{query}").content for query in ("", "?variant=1")
        }
        assert len(pictures) == 2
        for query, status in (("variant=2", 404), ("variant=3", 404), ("variant=16", 422), ("variant=-1", 422)):
            assert client.get(f"/api/runs/{RUN}/rows/1/files/result?{query}").status_code == status
        assert client.get(f"/api/runs/{RUN}/rows/2?variant=0").status_code == 404


@pytest.fixture
def window(chromium: Browser, served: ServedPages) -> Iterator[Watched]:
    with watching(chromium, served.url.partition("/airflow")[0], **VIEWS["light"]) as watched:
        yield watched


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_viewer_lists_them_and_marks_the_picked_one(window: Watched, served: ServedPages, row: Record) -> None:
    page = window.page
    page.goto(f"{served.url}/runs/{RUN}/?row=1")
    expect(page.get_by_role("heading", name="Variants")).to_be_visible()
    listed = page.locator(".variants figure")
    expect(listed).to_have_count(3)
    expect(listed.locator("img")).to_have_count(2)
    expect(page.locator(".variants .picked")).to_contain_text("Variant 0 (picked) seed 0")
    expect(listed.nth(2)).to_contain_text("FlatImageError: one flat colour")
    expect(listed.nth(1).locator("img")).to_have_js_property("naturalWidth", 60)
    expect(listed.nth(1).locator("a").first).to_have_attribute(
        "href", f"/airflow/inpaint/api/runs/{RUN}/rows/1/pictures/result?variant=1&size=1600"
    )
    page.goto(f"{served.url}/runs/{RUN}/?row=2")
    expect(page.get_by_role("dialog").get_by_role("heading", name="row-00002")).to_be_visible()
    expect(page.get_by_role("heading", name="Timings")).to_be_visible()
    expect(page.locator(".variants")).to_have_count(0)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_reviewer_accepts_one_of_them_and_a_viewer_cannot(
    chromium: Browser, window: Watched, served: ServedPages, row: Record
) -> None:
    host = served.url.partition("/airflow")[0]
    window.context.add_cookies(
        [{"name": "user", "value": "ann", "url": host}, {"name": "role", "value": "user", "url": host}]
    )
    page = window.page
    page.goto(f"{served.url}/runs/{RUN}/?row=1")
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    buttons = page.locator(".variants button")
    expect(buttons).to_have_count(2)
    page.get_by_label("Go on to the next row").uncheck()
    page.get_by_role("button", name="Accept variant 1").click()
    expect(page.locator("#review-left")).to_have_text("1 of 2 reviewed")
    expect(page.get_by_role("button", name="Accept variant 1")).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(page.get_by_role("button", name="Accept variant 1")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Accept variant 0")).to_have_attribute("aria-pressed", "false")
    reviews = Reviews(served.workspace.storage, served.workspace.layout(RUN))
    reviews.refresh()
    opinion = reviews.opinions["ann"][row.id]
    assert (opinion.verdict, opinion.variant, opinion.attempt) == ("accept", 1, row.attempt)
    other = Watched(patient(chromium.new_context(**VIEWS["light"])), host)
    other.page.goto(f"{served.url}/runs/{RUN}/?row=1")
    expect(other.page.get_by_text("Variant 1", exact=True)).to_be_visible()
    expect(other.page.locator("#review-others")).to_contain_text("ann")
    expect(other.page.locator(".variants button").first).to_be_hidden()
    other.context.close()
    with TestClient(served.app, cookies={"user": "ann", "role": "user"}) as client:
        marks = [{"id": row.id, "attempt": row.attempt, "mark": "accept", "variant": 2}]
        answer = client.post(
            f"/api/runs/{RUN}/reviews", json={"marks": marks}, headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert answer.json()["refused"] == {row.id: "the row has no image of variant 2"}
