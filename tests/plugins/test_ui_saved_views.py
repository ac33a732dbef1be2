"""Views of the gallery by name, in a real Chromium: kept by the browser, for every run, and lost by no other window."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.served_pages import ServedPages, served
from tests.support.synthetic_run import EVIL, put_finished_run

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


@pytest.mark.parametrize("window", VIEWS, indirect=True)
def test_axe_finds_nothing(window: Watched, served: ServedPages) -> None:
    page = opened(window.page, f"{served.url}/runs/night/?status=failed", "2 rows")
    save(page, "failed rows")
    expect(page.locator("#saved-list li")).to_have_count(1)
    violations = Axe().run(page).response["violations"]
    serious = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert not serious, [(one["id"], one["nodes"][0]["html"]) for one in serious]
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
