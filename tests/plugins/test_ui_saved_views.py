"""Views of the gallery by name, in a real Chromium: kept by the store for who may review, else by the browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.served_pages import ServedPages, served
from tests.support.synthetic_run import EVIL, put_finished_run
from tests.support.waiting import PATIENCE

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(params=["light"])
def window(chromium: Browser, served: ServedPages, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watching(chromium, served.url.partition("/airflow")[0], **VIEWS[request.param]) as watched:
        yield watched


def opened(page: Page, url: str, total: str) -> Page:
    page.goto(url)
    expect(page.locator("#gallery-status")).to_have_text(total)
    page.locator("#saved-views summary").click()
    return page


def save(page: Page, name: str) -> None:
    page.get_by_label("Name of this view").fill(name)
    page.keyboard.press("Enter")


def test_a_view_is_saved_by_name_and_taken_in_another_run(window: Watched, served: ServedPages) -> None:
    put_finished_run(served.workspace, "other", 10, failed={3, 4})
    page = opened(window.page, f"{served.url}/runs/night/?status=failed&order=slowest&page=1&row=", "2 rows")
    save(page, EVIL[:60])
    expect(page.locator("#saved-status")).to_contain_text("was saved: status=failed&order=slowest.")
    opened(page, f"{served.url}/runs/other/?mark=none", "8 rows")
    expect(page.locator("#saved-views summary")).to_have_text("Saved views (1)")
    view = page.locator("#saved-list button").first
    expect(view).to_have_text(EVIL[:60])
    view.click()
    expect(page.locator("#gallery-status")).to_have_text("2 rows")
    expect(page).to_have_url(f"{served.url}/runs/other/?status=failed&order=slowest")
    expect(page.locator("#gallery-filters").get_by_label("Order")).to_have_value("slowest")
    expect(page.locator("#gallery-filters").get_by_label("Review")).to_have_value("")
    page.go_back()
    expect(page.locator("#gallery-status")).to_have_text("8 rows")
    page.get_by_role("button", name="Remove the view").click()
    expect(page.locator("#saved-list li")).to_have_count(0)


def test_two_windows_that_save_lose_no_view(window: Watched, served: ServedPages) -> None:
    first = opened(window.page, f"{served.url}/runs/night/?status=failed", "2 rows")
    second = opened(window.context.new_page(), f"{served.url}/runs/night/?status=rejected", "1 row")
    save(first, "failed")
    expect(second.locator("#saved-list li")).to_have_count(1)
    save(second, "rejected")
    expect(first.locator("#saved-list li")).to_have_count(2)
    save(second, "failed")
    expect(second.locator("#saved-status")).to_have_text("failed was replaced: status=rejected.")
    expect(first.locator("#saved-list li")).to_have_count(2)
    first.get_by_role("button", name="failed", exact=True).click()
    expect(first.locator("#gallery-status")).to_have_text("1 row")


@contextmanager
def browser_of(chromium: Browser, served: ServedPages, name: str, role: str = "user") -> Iterator[Page]:
    """A browser of its own, signed in by this name."""
    host = served.url.partition("/airflow")[0]
    with watching(chromium, host, **VIEWS["light"]) as watched:
        cookies = {"user": name, "role": role}
        watched.context.add_cookies([{"name": key, "value": value, "url": host} for key, value in cookies.items()])
        yield watched.page


def test_a_view_follows_who_saved_it_to_another_browser_and_nobody_else_sees_it(
    chromium: Browser, served: ServedPages
) -> None:
    with browser_of(chromium, served, "ann") as page:
        opened(page, f"{served.url}/runs/night/?status=failed&order=slowest", "2 rows")
        save(page, "failed")
        expect(page.locator("#saved-status")).to_have_text("failed was saved: status=failed&order=slowest.")
        assert page.evaluate("window.localStorage.length") == 0
    with browser_of(chromium, served, "ann") as page:
        opened(page, f"{served.url}/runs/night/", "120 rows")
        page.get_by_role("button", name="failed", exact=True).click()
        expect(page.locator("#gallery-status")).to_have_text("2 rows")
        expect(page).to_have_url(f"{served.url}/runs/night/?status=failed&order=slowest")
        page.get_by_role("button", name="Remove the view failed").click()
        expect(page.locator("#saved-status")).to_have_text("failed was removed.")
        expect(page.locator("#saved-list li")).to_have_count(0)
    with browser_of(chromium, served, "ann") as page:
        opened(page, f"{served.url}/runs/night/?status=rejected", "1 row")
        expect(page.locator("#saved-list li")).to_have_count(0)
        save(page, "rejected")
        expect(page.locator("#saved-list li")).to_have_count(1)
    with browser_of(chromium, served, "ben") as page:
        with page.expect_response("**/api/views") as reply:
            opened(page, f"{served.url}/runs/night/", "120 rows")
        assert reply.value.json() == {"views": {}, "may_save": True}
        expect(page.locator("#saved-list li")).to_have_count(0)


def test_what_this_browser_had_kept_stays_and_is_moved_when_it_is_saved_again(
    chromium: Browser, served: ServedPages
) -> None:
    with browser_of(chromium, served, "eve") as page:
        page.goto(f"{served.url}/runs/night/?status=failed")
        page.evaluate("window.localStorage.setItem('inpaint:view:mine', 'status=rejected')")
        opened(page, f"{served.url}/runs/night/?status=failed", "2 rows")
        item = page.locator("#saved-list li")
        expect(item).to_contain_text("in this browser")
        save(page, "mine")
        expect(page.locator("#saved-status")).to_have_text("mine was replaced: status=failed.")
        expect(item).not_to_contain_text("in this browser")
        assert page.evaluate("window.localStorage.length") == 0


def test_the_routes_refuse_what_is_no_view_and_who_may_not_write(served: ServedPages) -> None:
    def post(body: object, role: str = "user", **headers: str) -> httpx.Response:
        cookies = {"user": "cid", "role": role}
        return httpx.post(f"{served.url}/api/views", json=body, cookies=cookies, headers=headers, timeout=PATIENCE)

    good = {"name": "failed", "view": "status=failed"}
    for change, words in (
        ({"name": " "}, "1 to 60 characters"),
        ({"view": "run=other"}, "'run' is no filter"),
        ({"view": "status"}, "the query of an address"),
        ({"view": 3}, "view: "),
        ({"more": 1}, "more: "),
    ):
        reply = post(good | change)
        assert (reply.status_code, words in reply.json()["detail"]) == (422, True), reply.text
    assert post(good, role="viewer").status_code == 403
    assert post(good, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert post(good).json() == {"views": {"failed": "status=failed"}, "may_save": True}


@pytest.mark.parametrize("window", VIEWS, indirect=True)
def test_axe_finds_nothing(window: Watched, served: ServedPages) -> None:
    page = opened(window.page, f"{served.url}/runs/night/?status=failed", "2 rows")
    save(page, "failed rows")
    expect(page.locator("#saved-list li")).to_have_count(1)
    violations = Axe().run(page).response["violations"]
    serious = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert not serious, [(one["id"], one["nodes"][0]["html"]) for one in serious]
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
