"""The gallery in a real Chromium: its state is in the address, and the keyboard goes from row to row."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.support.browser import CHROMIUM, VIEWS, chromium, watching
from tests.support.served_pages import ROWS, ServedPages, served
from tests.support.waiting import wait_until

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture
def page(chromium: Browser, served: ServedPages) -> Iterator[Page]:
    with watching(chromium, served.url.partition("/airflow")[0], accept_downloads=True, **VIEWS["light"]) as watched:
        yield watched.page


def thumb(page: Page, row: int) -> Locator:
    return page.locator(f".thumb[data-row='{row}']")


def test_filters_and_page_survive_a_reload_and_back(page: Page, served: ServedPages) -> None:
    run = f"{served.url}/runs/night/"
    page.goto(run)
    page.get_by_role("button", name="Next").click()
    expect(thumb(page, 49)).to_be_visible()
    expect(page).to_have_url(f"{run}?page=2")
    page.reload()
    expect(thumb(page, 49)).to_be_visible()
    page.go_back()
    expect(thumb(page, 1)).to_be_visible()
    filters = page.locator("#gallery-filters")
    filters.get_by_label("Status").select_option("failed")
    expect(page.locator(".thumb")).to_have_count(2)
    filters.get_by_label("Order").select_option("newest")
    filters.get_by_label("Prompt or id").fill("row-00008")
    expect(page).to_have_url(re.compile(r"\?status=failed&order=newest&text=row-00008$"))
    expect(page.locator(".thumb")).to_have_count(1)
    page.reload()
    expect(page.locator(".thumb")).to_have_count(1)
    expect(filters.get_by_label("Status")).to_have_value("failed")
    expect(filters.get_by_label("Prompt or id")).to_have_value("row-00008")


def test_a_reload_of_the_page_around_the_frame_keeps_the_gallery_once(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url.removesuffix('/inpaint')}/frame")
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Next").click()
    frame.locator(".thumb[data-row='60']").click()
    expect(frame.get_by_role("heading", name="row-00060")).to_be_visible()
    page.reload()
    expect(frame.get_by_role("heading", name="row-00060")).to_be_visible()
    page.keyboard.press("Escape")
    page.goto(f"{served.url.removesuffix('/inpaint')}/frame?again")
    expect(frame.locator(".thumb[data-row='1']")).to_be_visible()
    expect(frame.get_by_role("dialog")).to_be_hidden()


def test_a_link_out_of_the_frame_opens_before_the_pages_scripts_are_there(page: Page, served: ServedPages) -> None:
    page.route("**/static/main.js", lambda route: route.abort())
    page.goto(f"{served.url.removesuffix('/inpaint')}/frame")
    with page.context.expect_page() as opened:
        page.frame_locator("iframe").get_by_role("link", name="report.html").click()
    expect(opened.value).to_have_url(f"{served.url}/runs/night/report.html")


def test_a_filter_that_is_set_before_the_pages_scripts_are_there_is_applied(page: Page, served: ServedPages) -> None:
    held: list[Route] = []
    page.route("**/static/main.js", lambda route: held.append(route))
    page.goto(f"{served.url}/", wait_until="commit")
    page.get_by_label("Name or manifest").fill("no such run")
    expect(page.get_by_role("link", name="night", exact=True)).to_be_visible()
    wait_until(lambda: page.title() and held)  # a route is answered while the page is asked
    held[0].continue_()
    expect(page.get_by_text("No run matches")).to_be_visible()
    expect(page).to_have_url(f"{served.url}/?text=no+such+run")


def test_an_address_with_nonsense_shows_the_first_page(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url}/runs/night/?status=nonsense&order=<script>&page=-1&row=0x10")
    expect(page.locator(".thumb")).to_have_count(48)
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_link_to_a_row_opens_it_and_its_page(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url}/runs/night/?row=60")
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_role("heading", name="row-00060")).to_be_visible()
    expect(thumb(page, 60)).to_be_attached()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("row=61"))
    link = viewer.get_by_role("link", name="Link to this row").get_attribute("href")
    assert link == "/airflow/inpaint/runs/night/?row=61"
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("row="))
    expect(thumb(page, 61)).to_be_focused()


def test_back_closes_the_viewer_and_forward_opens_it(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url}/runs/night/")
    thumb(page, 3).click()
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_role("heading", name="row-00003")).to_be_visible()
    page.go_back()
    expect(viewer).to_be_hidden()
    expect(page).to_have_url(f"{served.url}/runs/night/")
    page.go_forward()
    expect(viewer.get_by_role("heading", name="row-00003")).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page).to_have_url(f"{served.url}/runs/night/")


def test_a_viewer_that_went_over_the_edge_of_a_page_leaves_the_gallery_there(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url}/runs/night/")
    thumb(page, 48).click()
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_role("heading", name="row-00048")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", name="row-00049")).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page).to_have_url(f"{served.url}/runs/night/?page=2")
    expect(thumb(page, 49)).to_be_focused()


def test_the_grid_is_one_stop_of_tab_and_arrow_keys_move_in_it(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url}/runs/night/")
    expect(page.locator(".thumb")).to_have_count(48)
    page.get_by_label("Prompt or id").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Saved views")).to_be_focused()
    page.keyboard.press("Tab")
    expect(thumb(page, 1)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Next")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(thumb(page, 2)).to_be_focused()
    columns = page.evaluate(
        "() => { const all = [...document.querySelectorAll('.thumb')].map((one) => one.getBoundingClientRect().top);"
        " return all.filter((top) => top === all[0]).length; }"
    )
    assert 1 < columns < 48
    page.keyboard.press("ArrowDown")
    expect(thumb(page, 2 + columns)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(thumb(page, 2)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(thumb(page, 2)).to_be_focused()
    page.keyboard.press("End")
    expect(thumb(page, 48)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(thumb(page, 49)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(thumb(page, 48)).to_be_focused()
    page.keyboard.press("PageDown")
    expect(thumb(page, 49)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("heading", name="row-00049")).to_be_visible()


def test_a_jump_leads_to_a_page_or_a_line(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url}/runs/night/")
    jump = page.get_by_role("form", name="Jump in the gallery")
    jump.get_by_label("Page").fill("3")
    jump.get_by_label("Page").press("Enter")
    expect(thumb(page, 97)).to_be_focused()
    jump.get_by_label("Line").fill("50")
    jump.get_by_role("button", name="Go").click()
    expect(thumb(page, 50)).to_be_focused()
    expect(page).to_have_url(re.compile("page=2$"))
    jump.get_by_label("Line").fill(str(ROWS + 1))
    jump.get_by_role("button", name="Go").click()
    expect(page.locator("#gallery-status")).to_have_text(f"Line {ROWS + 1} is not among these rows.")


def test_a_row_without_a_picture_says_so(page: Page, served: ServedPages) -> None:
    page.goto(f"{served.url}/runs/night/?status=failed")
    expect(thumb(page, 8).locator(".no-picture")).to_have_text("no picture")
    expect(thumb(page, 8).locator("img")).to_have_count(0)
    expect(thumb(page, 7).locator("img")).to_have_js_property("naturalWidth", 240)
