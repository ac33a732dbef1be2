"""The viewer of one row in a real Chromium: zoom, pan and split by pointer, wheel, touch and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.served_pages import LARGE, ServedPages, served
from tests.support.waiting import wait_until

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(params=["light"])
def window(chromium: Browser, served: ServedPages, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watching(chromium, served.url.partition("/airflow")[0], **VIEWS[request.param]) as watched:
        yield watched


def opened(window: Watched, served: ServedPages, row: int = 1) -> Page:
    """The page with the viewer open at a row, its pictures loaded."""
    page = window.page
    page.goto(f"{served.url}/runs/night/?row={row}")
    settle(page)
    return page


def settle(page: Page) -> None:
    """Waits until the viewer has its row's pictures, or says why not."""
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")


def box(page: Page, selector: str) -> dict[str, float]:
    found = page.locator(selector).bounding_box()
    assert found is not None
    return dict(found)


def seen_at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Which point of the picture is under a point of the window, in shares of its width and height."""
    frame = box(page, "#frame")
    return (x - frame["x"]) / frame["width"], (y - frame["y"]) / frame["height"]


def is_covered(page: Page) -> bool:
    """Whether the picture reaches the stage's borders, or stands whole in its middle: no part is off on one side."""
    frame, stage = box(page, "#frame"), box(page, "#stage")
    return all(
        (frame[at] <= stage[at] + 1 and frame[at] + frame[side] >= stage[at] + stage[side] - 1)
        if frame[side] > stage[side] + 1
        else abs(frame[at] + frame[side] / 2 - stage[at] - stage[side] / 2) < 1
        for at, side in (("x", "width"), ("y", "height"))
    )


def split(page: Page) -> float:
    """Where the line between before and after is, as a share of the stage's width."""
    stage, line = box(page, "#stage"), box(page, ".split")
    return (line["x"] + line["width"] / 2 - stage["x"]) / stage["width"]


def test_the_wheel_zooms_at_the_pointer_to_one_to_one_and_beyond(window: Watched, served: ServedPages) -> None:
    page = opened(window, served)
    stage, fitted = box(page, "#stage"), box(page, "#frame")
    assert is_covered(page)
    x, y = stage["x"] + stage["width"] * 0.7, stage["y"] + stage["height"] * 0.3
    before = seen_at(page, x, y)
    page.mouse.move(x, y)
    for _ in range(4):
        width = box(page, "#frame")["width"]
        page.mouse.wheel(0, -300)
        wait_until(lambda width=width: box(page, "#frame")["width"] > width)
        assert seen_at(page, x, y) == pytest.approx(before, abs=0.003), "what is under the pointer stays there"
        assert is_covered(page)
    assert box(page, "#frame")["width"] > LARGE[0], "beyond 1:1"
    page.get_by_role("button", name="1:1").click()
    wait_until(lambda: box(page, "#frame")["width"] == pytest.approx(LARGE[0], abs=1))
    expect(page.locator("#zoom-label")).to_have_text("100%")
    page.get_by_label("Zoom").fill("100")
    wait_until(lambda: box(page, "#frame")["width"] == pytest.approx(8 * LARGE[0], abs=8))
    assert is_covered(page)
    page.get_by_role("button", name="Fit").click()
    wait_until(lambda: box(page, "#frame") == pytest.approx(fitted, abs=1))


def tiles(page: Page, of: str) -> dict[str, tuple[int, int]]:
    """The tiles that are shown over a picture: each with its own size in pixels."""
    found: dict[str, list[int]] = page.evaluate(
        """(of) => Object.fromEntries([...document.querySelectorAll(`.tile-layer[data-of=${of}] img:not([hidden])`)]
            .map((one) => [new URL(one.src).pathname.split("/tiles/")[1], [one.naturalWidth, one.naturalHeight]]))""",
        of,
    )
    return {name: (width, height) for name, (width, height) in found.items()}


def test_a_picture_that_is_zoomed_is_shown_in_all_its_pixels(window: Watched, served: ServedPages) -> None:
    page = opened(window, served)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/tiles/" in request.url else None)
    for view in ("#view-before", "#view-after"):
        expect(page.locator(view)).to_have_js_property("naturalWidth", 1600)
    assert not tiles(page, "view-after"), "a picture that is fitted needs none"
    page.get_by_label("Before ↔ after").fill("100")
    page.get_by_label("Zoom").fill("100")
    wait_until(lambda: "source/0/1/0" in tiles(page, "view-before") and "result/0/1/0" in tiles(page, "view-after"))
    assert len(asked) == 2, "what is not on the stage is not requested"
    page.locator("#stage").focus()
    page.keyboard.press("1")
    wait_until(lambda: box(page, "#frame")["width"] == pytest.approx(LARGE[0], abs=1))
    for _ in range(20):  # to the bottom right
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    for of, kind in (("view-before", "source"), ("view-after", "result")):
        last = f"{kind}/0/2/1"
        wait_until(lambda of=of, last=last: last in tiles(page, of))
        assert tiles(page, of)[last] == (LARGE[0] - 2048, LARGE[1] - 1024), "as many pixels as the file has there"
        shown = box(page, f".tile-layer[data-of={of}] img[src$='{last}']")
        frame = box(page, "#frame")
        assert shown["x"] - frame["x"] == pytest.approx(2048, abs=0.5), "each pixel lies where it belongs"
        assert shown["y"] - frame["y"] == pytest.approx(1024, abs=0.5)
        assert shown["width"] == pytest.approx(LARGE[0] - 2048, abs=0.5)
    page.get_by_role("button", name="Fit").click()
    wait_until(lambda: not tiles(page, "view-after") and not tiles(page, "view-before"))


def test_a_row_without_a_result_has_tiles_of_its_source(window: Watched, served: ServedPages) -> None:
    page = window.page
    failed = [{"error": {"type": "ImageError", "stage": "decode", "message": "no", "permanent": True}, "output": None}]
    page.route(
        "**/api/runs/night/rows/1",
        lambda route: route.fulfill(json=(body := route.fetch().json()) | {
            "record": body["record"] | failed[0] | {"status": "failed"}, "pictures": ["source"]
        }),
    )  # fmt: skip
    page.goto(f"{served.url}/runs/night/?row=1")
    settle(page)
    page.get_by_role("button", name="1:1").click()
    wait_until(lambda: box(page, "#frame")["width"] == pytest.approx(LARGE[0], abs=1))
    wait_until(lambda: tiles(page, "view-before"))
    expect(page.get_by_role("button", name="Difference")).to_be_disabled()


def test_a_tile_that_cannot_be_had_leaves_the_picture_under_it_and_is_requested_again(
    window: Watched, served: ServedPages
) -> None:
    page = window.page
    tries: list[str] = []

    def answer(route: Route) -> None:
        tries.append(route.request.url)
        if len(tries) > 1:
            route.continue_()
        else:
            route.fulfill(status=503)

    page.route(re.compile("/tiles/source/0/1/0"), answer)
    page.goto(f"{served.url}/runs/night/?row=1")
    settle(page)
    page.locator("#stage").focus()
    page.keyboard.press("1")
    wait_until(lambda: page.evaluate("true") and tries)  # a route is answered while the page is asked
    expect(page.locator("#view-before")).to_be_visible()
    wait_until(lambda: "source/0/1/0" in tiles(page, "view-before"))
    assert len(tries) == 2


def test_a_drag_pans_a_zoomed_picture_and_moves_the_split_of_a_fitted_one(window: Watched, served: ServedPages) -> None:
    page = opened(window, served)
    stage = box(page, "#stage")
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2

    def drag(dx: float, dy: float, start: float = x) -> None:
        page.mouse.move(start, y)
        page.mouse.down()
        page.mouse.move(start + dx, y + dy, steps=5)
        page.mouse.up()

    drag(120, 0)
    wait_until(lambda: split(page) == pytest.approx(0.5 + 120 / stage["width"], abs=0.01))
    expect(page.get_by_label("Before ↔ after")).not_to_have_value("50")
    page.get_by_label("Before ↔ after").fill("90")
    page.locator("#stage").focus()
    page.keyboard.press("1")
    wait_until(lambda: box(page, "#frame")["width"] == pytest.approx(LARGE[0], abs=1))
    before = box(page, "#frame")
    drag(-60, 40)
    after = box(page, "#frame")
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx((-60, 40), abs=1)
    assert split(page) == pytest.approx(0.9, abs=0.01), "a pan leaves the split where it is on the stage"
    drag(-200, 0, start=stage["x"] + 0.9 * stage["width"])
    wait_until(lambda: split(page) == pytest.approx(0.9 - 200 / stage["width"], abs=0.01))
    assert box(page, "#frame") == pytest.approx(after, abs=1), "a drag of the split moves the split alone"
    for _ in range(12):
        drag(-600, -300, start=x - 100)
    assert is_covered(page), "the stage is never empty, however far it is dragged"
    page.keyboard.press("Shift+ArrowLeft")
    assert is_covered(page)


@pytest.mark.parametrize("window", ["phone"], indirect=True)
def test_two_fingers_zoom_and_pan(window: Watched, served: ServedPages) -> None:
    page = opened(window, served)
    client = window.context.new_cdp_session(page)
    stage = box(page, "#stage")
    middle = (stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    fitted, before = box(page, "#frame"), seen_at(page, *middle)
    touch("touchStart", (middle[0] - 20, middle[1]), (middle[0] + 20, middle[1]))
    for spread in range(30, 130, 10):
        touch("touchMove", (middle[0] - spread, middle[1]), (middle[0] + spread, middle[1]))
    touch("touchEnd")
    wait_until(lambda: box(page, "#frame")["width"] == pytest.approx(6 * fitted["width"], rel=0.05))
    assert seen_at(page, *middle) == pytest.approx(before, abs=0.03)
    assert is_covered(page)
    x = box(page, "#frame")["x"]
    page.get_by_label("Before ↔ after").fill("0")
    touch("touchStart", middle)
    touch("touchMove", (middle[0] + 30, middle[1]))
    touch("touchEnd")
    wait_until(lambda: box(page, "#frame")["x"] == pytest.approx(x + 30, abs=1))


def test_a_row_without_a_source_or_a_result_says_so_and_shows_no_broken_picture(
    window: Watched, served: ServedPages
) -> None:
    page = opened(window, served, 8)
    expect(page.locator("#stage-note")).to_have_text(re.compile("There is no picture of this row"))
    expect(page.get_by_role("dialog").locator("img:visible")).to_have_count(0)
    page = opened(window, served, 7)
    expect(page.locator("#stage-note")).to_have_text(re.compile("There is no result"))
    expect(page.locator("#view-before")).to_have_js_property("naturalWidth", 240)  # "not in the store", as a picture
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog").get_by_role("heading", name="row-00009")).to_be_visible()
    expect(page.locator("#stage-note")).to_be_hidden()


def test_a_picture_that_cannot_be_loaded_is_not_shown_as_a_broken_one(window: Watched, served: ServedPages) -> None:
    page = window.page
    page.route("**/pictures/source?size=1600", lambda route: route.fulfill(status=401, json={"detail": "no"}))
    page.goto(f"{served.url}/runs/night/?row=2")
    expect(page.locator("#stage-note")).to_have_text("The source could not be loaded.")
    expect(page.locator("#view-before")).to_be_hidden()
    expect(page.locator("#view-after")).to_be_visible()


def test_a_row_that_is_not_there_is_named(window: Watched, served: ServedPages) -> None:
    page = window.page
    page.goto(f"{served.url}/runs/night/?row=9999")
    expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(re.compile("^Line 9999: .*no record"))
