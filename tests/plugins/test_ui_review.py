"""A review in a real Chromium: by keyboard alone, by touch, by two browsers at once, undone, filtered, reloaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from inpaint_ops.reviewing import Mark, Opinion, Reviews
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, patient
from tests.support.served_pages import ServedPages, served

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

Windows = Callable[..., Page]


@pytest.fixture
def windows(chromium: Browser, served: ServedPages) -> Iterator[Windows]:
    """`windows("ann", view="phone", role="viewer")`: a browser of a user's own, and at the end no mark is left."""
    host = served.url.partition("/airflow")[0]
    opened: list[Watched] = []

    def open_one(user: str, *, view: str = "light", role: str = "user") -> Page:
        context = patient(chromium.new_context(**VIEWS[view]))
        context.add_cookies(
            [{"name": "user", "value": user, "url": host}, {"name": "role", "value": role, "url": host}]
        )
        opened.append(Watched(context, host))
        return opened[-1].page

    yield open_one
    for one in opened:
        one.context.close()
    storage, layout = served.workspace.storage, served.workspace.layout("night")
    for info in list(storage.list(layout.reviews)):
        storage.delete(info.location)
    served.app.state.views._runs.clear()  # the next test begins with pages that have seen none
    assert not [complaint for one in opened for complaint in one.complaints]
    assert not [place for one in opened for place in one.elsewhere]


def opinions(served: ServedPages) -> dict[str, dict[str, Opinion]]:
    reviews = Reviews(served.workspace.storage, served.workspace.layout("night"))
    reviews.refresh()
    assert reviews.left_out == ()
    return {name: dict(found) for name, found in reviews.opinions.items()}


def verdicts(served: ServedPages, reviewer: str) -> dict[int, Any]:
    return {int(row[-5:]): opinion.verdict for row, opinion in opinions(served).get(reviewer, {}).items()}


def put_marks(served: ServedPages, reviewer: str, rows: dict[int, Any]) -> None:
    marks = [Mark(id=f"row-{row:05d}", mark=what, attempt="00000-attempt") for row, what in rows.items()]
    Reviews(served.workspace.storage, served.workspace.layout("night")).append(reviewer, marks)
    served.app.state.views._runs.clear()


def at(page: Page, row: int) -> None:
    """Waits until the viewer shows the row, its pictures there."""
    expect(page.get_by_role("dialog").get_by_role("heading", name=f"row-{row:05d}")).to_be_visible()
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#review-bar")).to_be_visible()


def button(page: Page, name: str) -> Locator:
    return page.locator("#review-bar").get_by_role("button", name=name)


def saved(page: Page, count: int, of: int = 117) -> None:
    """Waits until the server has confirmed so many."""
    expect(page.locator("#review-left")).to_have_text(f"{count} of {of} reviewed")


def opened(page: Page, served: ServedPages, row: int = 1, query: str = "") -> Page:
    page.goto(f"{served.url}/runs/night/?{query}row={row}")
    at(page, row)
    return page


def test_a_review_by_keyboard_alone(windows: Windows, served: ServedPages) -> None:
    page = windows("ann")
    page.goto(f"{served.url}/runs/night/")
    expect(page.locator("#review-count")).to_have_text("0 of 117 reviewed")
    expect(page.locator(".thumb")).to_have_count(48)
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == "review-start":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    at(page, 1)
    page.keyboard.press("a")
    at(page, 2)
    page.keyboard.press("r")
    at(page, 3)
    page.keyboard.press("e")
    expect(page.get_by_label("Why again?")).to_be_focused()
    page.keyboard.type("a mere arm")  # letters are text here, and no keys of the viewer
    page.keyboard.press("Enter")
    at(page, 4)
    page.keyboard.press("Shift+Digit4")
    expect(button(page, "4 of 5")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("n")
    expect(page.get_by_label("Note")).to_be_focused()
    page.keyboard.type("dark 1 0 m u")
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    at(page, 5)
    saved(page, 4)
    found = opinions(served)["ann"]
    assert verdicts(served, "ann") == {1: "accept", 2: "reject", 3: "redo", 4: "accept"}
    assert found["row-00003"].reason == "a mere arm"
    assert (found["row-00004"].rating, found["row-00004"].note) == (4, "dark 1 0 m u")
    page.keyboard.press("ArrowLeft")
    at(page, 4)
    expect(button(page, "✓ Accept")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Note")).to_have_value("dark 1 0 m u")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#review-count")).to_have_text("4 of 117 reviewed")
    expect(page.locator("#review-parts")).to_contain_text("2 accepted, 1 rejected, 1 to be done again")


def test_the_viewers_own_keys_go_on_working(windows: Windows, served: ServedPages) -> None:
    page = opened(windows("ann"), served)
    page.keyboard.press("1")
    expect(page.locator("#zoom-label")).to_have_text("100%")
    page.keyboard.press("m")
    expect(page.get_by_label("Mask")).to_be_checked()
    page.keyboard.press("Escape")
    assert verdicts(served, "ann") == {}


def test_undo_takes_back_one_mark_after_another_and_shows_its_row(windows: Windows, served: ServedPages) -> None:
    put_marks(served, "ann", {2: "reject"})
    page = opened(windows("ann"), served)
    for row in (1, 2, 3):
        page.keyboard.press("a")
        at(page, row + 1)
    saved(page, 3)
    page.keyboard.press("u")
    at(page, 3)
    saved(page, 2)
    page.keyboard.press("u")
    at(page, 2)
    expect(button(page, "✗ Reject")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("u")
    at(page, 1)
    saved(page, 1)
    expect(button(page, "Undo")).to_be_disabled()
    assert verdicts(served, "ann") == {2: "reject"}
    page.keyboard.press("u")
    expect(page.locator("#review-status")).to_have_text("There is nothing to undo.")


def test_a_review_by_touch(windows: Windows, served: ServedPages) -> None:
    page = opened(windows("ann", view="phone"), served)
    for name in ("✓ Accept", "✗ Reject", "↻ Redo…", "Undo", "3 of 5"):
        found = button(page, name).bounding_box()
        assert found is not None
        assert min(found["width"], found["height"]) >= 44, name
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    button(page, "✓ Accept").tap()
    at(page, 2)
    button(page, "3 of 5").tap()
    button(page, "↻ Redo…").tap()
    page.get_by_label("Why again?").fill("hands or faces")
    page.get_by_role("button", name="Redo it").tap()
    at(page, 3)
    button(page, "✗ Reject").tap()
    at(page, 4)
    saved(page, 3)
    button(page, "Undo").tap()
    at(page, 3)
    saved(page, 2)
    assert verdicts(served, "ann") == {1: "accept", 2: "redo"}
    assert (opinions(served)["ann"]["row-00002"].rating, opinions(served)["ann"]["row-00002"].reason) == (
        3, "hands or faces",
    )  # fmt: skip


def test_two_browsers_of_one_reviewer_and_a_second_reviewer_lose_no_mark(windows: Windows, served: ServedPages) -> None:
    pages = {"one": opened(windows("ann"), served, 10), "other": opened(windows("ann"), served, 30)}
    pages["ben"] = opened(windows("ben"), served, 10)
    for step in range(6):  # all of them mark before any looks whether it was stored
        pages["one"].keyboard.press("a")
        pages["other"].keyboard.press("r")
        pages["ben"].keyboard.press("r")
        for page, row in zip(pages.values(), (10, 30, 10), strict=True):
            at(page, row + step + 1)
    for page in pages.values():
        page.keyboard.press("Escape")
        expect(page.locator("#review-count")).to_contain_text(" of 117 reviewed")
    for page in pages.values():
        page.reload()
        expect(page.locator("#review-count")).to_have_text("12 of 117 reviewed")
    assert verdicts(served, "ann") == dict.fromkeys(range(10, 16), "accept") | dict.fromkeys(range(30, 36), "reject")
    assert verdicts(served, "ben") == dict.fromkeys(range(10, 16), "reject")
    page = opened(pages["one"], served, 10)
    expect(page.locator("#review-others")).to_contain_text("ben: ✗ rejected")
    expect(page.locator("#review-others")).to_contain_text("Reviewers disagree: the latest mark counts")


def test_marks_that_could_not_be_sent_are_sent_again(windows: Windows, served: ServedPages) -> None:
    page = windows("ann")
    tries: list[str] = []

    def fail_twice(route: Any) -> None:
        if route.request.method != "POST":
            route.fallback()
            return
        tries.append(route.request.method)
        if len(tries) == 1:
            route.abort()
        elif len(tries) == 2:
            route.fulfill(status=503, content_type="application/json", body='{"detail": "the store did not answer"}')
        else:
            route.fallback()

    page.route("**/api/runs/night/reviews", fail_twice)
    opened(page, served)
    page.keyboard.press("a")
    at(page, 2)
    page.keyboard.press("r")
    at(page, 3)
    saved(page, 2)
    assert len(tries) == 3  # the second mark was sent along with the first
    assert verdicts(served, "ann") == {1: "accept", 2: "reject"}


def test_a_mark_that_is_refused_is_said_and_not_shown_as_given(windows: Windows, served: ServedPages) -> None:
    page = windows("ann")

    def refuse(route: Any) -> None:
        if route.request.method != "POST":
            route.fallback()
        else:
            route.fulfill(status=403, content_type="application/json", body='{"detail": "Forbidden"}')

    page.route("**/api/runs/night/reviews", refuse)
    opened(page, served)
    page.get_by_label("Go on to the next row").uncheck()
    page.keyboard.press("a")
    expect(page.locator("#review-status")).to_have_text("Not saved: you may not review here.")
    expect(button(page, "✓ Accept")).to_have_attribute("aria-pressed", "false")
    expect(button(page, "Undo")).to_be_disabled()
    expect(page.locator(".thumb[data-row='1'] .thumb-mark")).to_have_text("")
    assert verdicts(served, "ann") == {}


def test_no_picture_is_marked_before_it_is_there(windows: Windows, served: ServedPages) -> None:
    page = windows("ann")
    held: list[Any] = []
    page.route(re.compile("/rows/2/pictures/"), lambda route: held.append(route))
    opened(page, served)
    page.keyboard.press("a")
    expect(page.get_by_role("dialog").get_by_role("heading", name="row-00002")).to_be_visible()
    page.keyboard.press("r")
    expect(page.locator("#review-status")).to_have_text("The picture is not there yet.")
    saved(page, 1)
    assert verdicts(served, "ann") == {1: "accept"}
    page.unroute(re.compile("/rows/2/pictures/"))
    for route in held:
        route.fallback()
    at(page, 2)
    page.keyboard.press("r")
    at(page, 3)
    saved(page, 2)
    assert verdicts(served, "ann") == {1: "accept", 2: "reject"}


def test_the_pictures_of_the_next_rows_are_asked_for_ahead(windows: Windows, served: ServedPages) -> None:
    page = windows("ann")
    opened(page, served, 20)
    names = [
        f"/rows/{row}/pictures/{kind}?size=1600" for row in (21, 22) for kind in ("result", "source")
    ]  # fmt: skip
    page.wait_for_function(
        "(names) => { const there = performance.getEntriesByType('resource').map((one) => one.name);"
        " return names.every((name) => there.some((one) => one.endsWith(name))); }",
        arg=names,
    )


def test_the_list_of_what_is_not_reviewed_goes_on_over_the_edge_of_its_page(
    windows: Windows, served: ServedPages
) -> None:
    """Rows that are marked leave the list, so that others move up onto the page: none of them is passed over."""
    page = opened(windows("ann"), served, 47, "mark=none&")
    for following in range(48, 53):
        expect(page.locator(".thumb").first).to_be_attached()
        page.keyboard.press("a")
        at(page, following)
    saved(page, 5)
    assert verdicts(served, "ann") == dict.fromkeys(range(47, 52), "accept")


def test_filters_are_in_the_address_and_survive_a_reload(windows: Windows, served: ServedPages) -> None:
    put_marks(served, "ben", {1: "accept", 2: "reject", 3: "reject", 4: "redo"})
    page = windows("ann")
    page.goto(f"{served.url}/runs/night/")
    filters = page.locator("#gallery-filters")
    expect(page.locator(".thumb")).to_have_count(48)
    filters.get_by_label("Review").select_option("reject")
    expect(page.locator(".thumb")).to_have_count(2)
    expect(page).to_have_url(re.compile(r"\?mark=reject$"))
    expect(page.locator(".thumb[data-row='2'] .thumb-mark")).to_have_text("✗ rejected")
    page.reload()
    expect(page.locator(".thumb")).to_have_count(2)
    expect(filters.get_by_label("Review")).to_have_value("reject")
    filters.get_by_label("Review").select_option("")
    filters.get_by_label("Order").select_option("suspicious")
    expect(page.locator(".thumb").first).to_have_attribute("data-row", "50")
    filters.locator("summary").click()
    filters.get_by_label("Flag").select_option("any")
    expect(page.locator(".thumb")).to_have_count(2)
    page.reload()
    expect(page.locator(".thumb")).to_have_count(2)
    expect(page.locator(".thumb").first).to_have_attribute("data-row", "50")
    expect(filters.get_by_label("Flag")).to_have_value("any")
    expect(page).to_have_url(re.compile(r"\?order=suspicious&flag=any$|\?flag=any&order=suspicious$"))


def test_the_histogram_of_a_measure_is_a_slider_of_the_keyboard(windows: Windows, served: ServedPages) -> None:
    page = windows("ann")
    page.goto(f"{served.url}/runs/night/?measure=seam_contrast&order=highest")
    filters = page.locator("#gallery-filters")
    expect(page.locator("#measure-bars span").first).to_be_attached()
    expect(page.locator(".thumb").first).to_have_attribute("data-row", "50")
    least = filters.get_by_label("From")
    least.focus()
    while page.evaluate("Number(document.getElementById('measure-least').value)") < 3:
        page.keyboard.press("ArrowRight")
    expect(page.locator(".thumb")).to_have_count(2)
    expect(page).to_have_url(re.compile(r"least=[0-9.]+"))
    page.reload()
    expect(page.locator(".thumb")).to_have_count(2)
    expect(page.locator("#measure-words")).to_contain_text(" to ")
    expect(least).to_have_value("3")


def test_rows_that_were_sent_back_are_triggered_as_a_child_run(windows: Windows, served: ServedPages) -> None:
    put_marks(served, "ann", {2: "redo", 4: "redo"})
    page = windows("ann")
    sent: list[Any] = []

    def answer(route: Any, status: int, body: str) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(status=status, content_type="application/json", body=body)

    child = '{"run": "night-redo-1", "rows": 4, "conf": {"manifest": "m", "run": "night-redo-1"}, "asked_before": {}}'
    page.route("**/api/runs/night/redo", lambda route: answer(route, 200, child))
    page.route("**/api/v2/dags/inpaint_manifest/dagRuns", lambda route: answer(route, 403, '{"detail": "Forbidden"}'))
    page.goto(f"{served.url}/runs/night/")
    page.get_by_role("button", name="Paint 2 rows again…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Variants per row").fill("2")
    dialog.get_by_label("Steps").fill("40")
    page.keyboard.press("Enter")
    expect(page.locator("#redo-status")).to_have_text("Not triggered: You may not trigger this DAG.")
    page.unroute("**/api/v2/dags/inpaint_manifest/dagRuns")
    page.route(
        "**/api/v2/dags/inpaint_manifest/dagRuns", lambda route: answer(route, 200, '{"dag_run_id": "manual__1"}')
    )
    dialog.get_by_role("button", name="Trigger it").click()
    expect(page.locator("#redo-status")).to_have_text("4 rows, triggered as night-redo-1: its DAG run.")
    expect(page.locator("#redo-status a").first).to_have_attribute("href", "/airflow/inpaint/runs/night-redo-1/")
    assert sent[0] == {"variants": 2, "steps": 40}
    assert len(sent) == 3, "the manifest that was written for the first try is triggered by the second"
    assert sent[2] == {"logical_date": None, "conf": {"manifest": "m", "run": "night-redo-1"}}
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_who_may_not_review_sees_marks_and_no_buttons(windows: Windows, served: ServedPages) -> None:
    put_marks(served, "ben", {1: "reject"})
    page = opened(windows("vic", role="viewer"), served)
    expect(page.locator("#review-others")).to_contain_text("ben: ✗ rejected")
    expect(button(page, "✓ Accept")).to_be_hidden()
    page.keyboard.press("a")
    page.keyboard.press("ArrowRight")
    at(page, 2)
    expect(page.locator("#review-others")).to_have_text("Nobody has reviewed this row yet.")
    page.keyboard.press("Escape")
    expect(page.locator("#review-count")).to_have_text("1 of 117 reviewed")
    expect(page.get_by_role("button", name="Review", exact=True)).to_be_hidden()
    assert set(opinions(served)) == {"ben"}


def test_what_reviewers_wrote_stays_text(windows: Windows, served: ServedPages) -> None:
    evil = "<img src=x onerror=alert(1)>"
    marks = [Mark(id="row-00001", mark="reject", note=evil, reason=evil, attempt="00000-attempt")]
    Reviews(served.workspace.storage, served.workspace.layout("night")).append(
        f"{evil}\u00a0x".replace("\u00a0", " "), marks
    )
    served.app.state.views._runs.clear()
    page = opened(windows("ann"), served)
    expect(page.locator("#review-others")).to_contain_text(evil)
    assert page.locator("#review-others img").count() == 0


def test_a_row_without_an_image_has_nothing_to_review(windows: Windows, served: ServedPages) -> None:
    page = windows("ann")
    page.goto(f"{served.url}/runs/night/?row=7")
    expect(page.get_by_role("dialog").get_by_role("heading", name="row-00007")).to_be_visible()
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#review-bar")).to_be_hidden()
    page.keyboard.press("a")
    page.keyboard.press("ArrowLeft")
    at(page, 6)
    assert verdicts(served, "ann") == {}


@pytest.mark.parametrize("view", list(VIEWS))
def test_a_review_is_accessible(windows: Windows, served: ServedPages, view: str) -> None:
    put_marks(served, "ben", {1: "reject", 2: "accept", 3: "redo"})
    page = windows("ann", view=view)
    page.goto(f"{served.url}/runs/night/?measure=seam_contrast")
    expect(page.locator(".thumb")).to_have_count(48)
    expect(page.locator("#measure-bars span").first).to_be_attached()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    opened(page, served)
    page.keyboard.press("e")
    expect(page.get_by_label("Why again?")).to_be_focused()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
