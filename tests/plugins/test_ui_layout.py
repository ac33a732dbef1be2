"""Each section of a page holds what belongs to it, in a real Chromium: nothing of it is drawn over another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.served_pages import ServedPages, served
from tests.support.synthetic_run import make_plan, put_plan, put_progress, put_record, record

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

OUTSIDE = """() => [...document.querySelectorAll("main section")].flatMap((section) => {
  const around = section.getBoundingClientRect();
  return [...section.children].filter((one) => one.getClientRects().length).flatMap((one) => {
    const box = one.getBoundingClientRect();
    const inside = box.top >= around.top - 1 && box.bottom <= around.bottom + 1
      && box.left >= around.left - 1 && box.right <= around.right + 1;
    return inside ? [] : [`${section.getAttribute("aria-label") ?? section.querySelector("h2")?.textContent}: `
      + `<${one.tagName.toLowerCase()} class="${one.className}">`];
  });
})"""


@pytest.fixture(params=["light", "phone"])
def window(request: pytest.FixtureRequest, chromium: Browser, served: ServedPages) -> Iterator[Watched]:
    with watching(chromium, served.url.partition("/airflow")[0], **VIEWS[request.param]) as watched:
        yield watched


def test_what_a_section_says_stands_in_it(window: Watched, served: ServedPages) -> None:
    put_plan(served.workspace, make_plan("going-on", 8, shard_rows=4))
    put_progress(served.workspace, "going-on", 0, rows=4, done=1)
    put_record(served.workspace, "going-on", record(1))
    page = window.page
    for path, heading, least in (("/runs/night/", "night", 4), ("/runs/going-on/", "going-on", 1)):
        page.goto(f"{served.url}{path}")
        expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()
        expect(page.locator("dl.tiles").first).to_be_visible()
        assert page.locator("main section").count() >= least, path
        assert page.evaluate(OUTSIDE) == [], path
