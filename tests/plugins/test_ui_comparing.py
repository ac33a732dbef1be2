"""Before and after, compared in a real Chromium: in each other's place in turn, and by what differs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from inpaint_ops.records import MaskArea, Output
from inpaint_ops.report import results_jsonl
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.served_pages import ServedPages, photo, served
from tests.support.synthetic_run import put_finished_run

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
RUN, SIZE, BOX = "changed", (3000, 1800), (1500, 600, 1800, 900)


@pytest.fixture(scope="module")
def changed(served: ServedPages) -> str:
    """A run of four rows: of the second a pixel changed outside of the box; the third is not known to have been painted
    anywhere, and its result has another size; the fourth changed nowhere."""
    workspace = served.workspace
    _, records = put_finished_run(workspace, RUN, 4)
    source = photo(SIZE, 3)
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    found = []
    for record in records:
        pixels = np.array(Image.open(io.BytesIO(source)))
        if record.row != 4:
            pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] ^= 7
        if record.row == 2:
            pixels[100, 200] ^= 1
        pixels = pixels[:-1] if record.row == 3 else pixels
        layout, put = workspace.layout(RUN), workspace.storage.put
        image = layout.image(record.id, ".png")
        bodies = {workspace.store.join("changed/a.png"): source, image: _png(pixels)}
        bodies[workspace.store.join("changed/m.png")] = _png(mask)
        for place, body in bodies.items():
            put(place, body)
        area = MaskArea(box=BOX, share=0.01) if record.row != 3 else None
        output = Output(
            uri=image.uri, sha256="0" * 64, bytes=1, width=pixels.shape[1], height=pixels.shape[0], format="png"
        )
        places = {
            "source": workspace.store.join("changed/a.png").uri,
            "mask": workspace.store.join("changed/m.png").uri,
        }
        found.append(record.model_copy(update={"output": output, "mask_area": area, **places}))
    workspace.storage.put(layout.results, results_jsonl(found))
    return f"{served.url}/runs/{RUN}/"


def _png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


@pytest.fixture(params=["light"])
def window(chromium: Browser, served: ServedPages, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watching(chromium, served.url.partition("/airflow")[0], **VIEWS[request.param]) as watched:
        yield watched


def opened(window: Watched, url: str, row: int = 1, **media: str) -> Page:
    page = window.page
    page.emulate_media(**media)  # type: ignore[arg-type]
    page.goto(f"{url}?row={row}")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    page.locator("#stage").focus()
    return page


def stop_the_clock(page: Page) -> None:
    """From here on time passes when the test says so."""
    page.clock.install(time=0)
    page.clock.pause_at(3_600_000)  # ahead, however long this takes


def side(page: Page) -> str:
    return page.locator("#stage-side").inner_text()


def test_they_take_turns_in_place_and_a_key_stops_them(window: Watched, changed: str) -> None:
    page = opened(window, changed)
    stop_the_clock(page)
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Flicker")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".split")).to_be_hidden()
    assert side(page) == "Before"
    assert page.locator("#view-before").evaluate("(one) => getComputedStyle(one).clipPath") == "none"
    place = page.locator("#view-after").bounding_box()
    for shown in ("After", "Before", "After"):
        page.clock.run_for(700)
        assert side(page) == shown
        visible = page.locator("#view-before").evaluate("(one) => getComputedStyle(one).visibility")
        assert visible == ("visible" if shown == "Before" else "hidden")
        assert page.locator("#view-after").bounding_box() == place, "in the same place"
    expect(page.locator("#stage-side")).to_have_attribute("aria-live", "off")
    page.keyboard.press("b")
    assert side(page) == "Before"
    page.clock.run_for(5000)
    assert side(page) == "Before", "swapped by hand, they take no turns"
    page.get_by_role("button", name="Swap").click()
    assert side(page) == "After"
    page.keyboard.press("f")
    expect(page.locator("#stage-side")).to_be_hidden()
    expect(page.locator(".split")).to_be_visible()


def test_where_less_motion_is_asked_for_they_change_by_hand_alone(window: Watched, changed: str) -> None:
    page = opened(window, changed, reduced_motion="reduce")
    stop_the_clock(page)
    page.get_by_role("button", name="Flicker").click()
    page.clock.run_for(10_000)
    assert side(page) == "Before"
    expect(page.locator("#stage-changes")).to_have_text(re.compile("asks for less motion"))
    page.locator("#stage").focus()
    page.keyboard.press("b")
    assert side(page) == "After"
    page.emulate_media(reduced_motion="no-preference")
    page.wait_for_function("document.getElementById('stage-side').getAttribute('aria-live') === 'off'")
    page.clock.run_for(750)
    assert side(page) == "After", "begins with before again, and takes turns"


def seen(page: Page) -> np.ndarray:
    """The pixels of the difference that is shown, as the browser has them: (H, W, 3)."""
    url = page.evaluate(
        """() => { const image = document.getElementById("view-difference"), canvas = document.createElement("canvas");
        Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL("image/png"); }"""
    )
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def test_the_difference_is_what_was_painted_and_outside_of_it_is_black(window: Watched, changed: str) -> None:
    page = opened(window, changed)
    page.keyboard.press("d")
    expect(page.locator("#stage-changes")).to_have_text(
        "90,000 pixels changed (1.67 %), by up to 7 of 255 levels. None of them lies outside of the painted part."
    )
    expect(page.locator("#view-difference")).to_be_visible()
    for view in ("before", "after"):
        assert page.locator(f"#view-{view}").evaluate("(one) => getComputedStyle(one).visibility") == "hidden"
    pixels = seen(page)
    step = SIZE[0] // pixels.shape[1] + (SIZE[0] % pixels.shape[1] > 0)
    x0, y0, x1, y1 = (at // step for at in BOX)
    assert pixels[y0:y1, x0:x1].min() >= 32, "amplified: 1 of 255 levels is seen"
    pixels[y0 : y1 + 1, x0 : x1 + 1] = 0
    assert not pixels.any()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#stage-changes")).to_have_text(re.compile("^90,001 .* 1 of them lie outside .* shown red"))
    expect(page.locator("#view-difference")).to_be_visible()
    red = seen(page)[100 // step, 200 // step]
    assert red[0] >= 32 and not red[1:].any(), "the one pixel outside is not lost, though the picture is smaller"
    page.keyboard.press("ArrowRight")
    expect(page.locator("#stage-changes")).to_have_text(
        re.compile("cannot be shown: the source is 3000x1800 and the result 3000x1799, so no pixel has its match")
    )
    page.keyboard.press("ArrowRight")
    expect(page.locator("#stage-changes")).to_have_text("No pixel differs.")
    page.keyboard.press("s")
    expect(page.locator("#view-difference")).to_be_hidden()
    expect(page.locator("#stage-changes")).to_be_empty()


def test_the_difference_is_zoomed_in_all_its_pixels(window: Watched, changed: str) -> None:
    page = opened(window, changed)
    page.keyboard.press("d")
    expect(page.locator("#view-difference")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("1")
    tile = page.locator(".tile-layer[data-of=view-difference] img[src$='/tiles/difference/0/1/0']")
    expect(tile).to_be_visible()
    expect(tile).to_have_js_property("naturalWidth", 1024)


def test_jumping_to_the_mask_brings_it_into_the_middle(window: Watched, changed: str) -> None:
    page = opened(window, changed)
    for row in (1, 3):  # by the record, and by the mask's own picture
        if row == 3:
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
            expect(page.get_by_role("heading", name="row-00003")).to_be_visible()
            expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
            expect(page.locator("#view-mask")).to_have_js_property("complete", True)
        page.keyboard.press("0")
        page.get_by_role("button", name="To the mask").click()
        frame, stage = (page.locator(f"#{name}").bounding_box() for name in ("frame", "stage"))
        assert frame is not None and stage is not None
        scale = frame["width"] / SIZE[0]
        middle = frame["x"] + scale * (BOX[0] + BOX[2]) / 2, frame["y"] + scale * (BOX[1] + BOX[3]) / 2
        assert middle == pytest.approx((stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2), abs=3)
        assert scale * (BOX[3] - BOX[1]) == pytest.approx(stage["height"] / 2, rel=0.02)
        page.locator("#stage").focus()


@pytest.mark.parametrize("window", VIEWS, indirect=True)
def test_the_buttons_work_by_touch_and_axe_finds_nothing(window: Watched, changed: str, served: ServedPages) -> None:
    page = opened(window, changed)
    press = "tap" if page.evaluate("navigator.maxTouchPoints > 0") else "click"
    for name in ("Flicker", "Swap", "Difference", "Split", "To the mask"):
        button = page.get_by_role("button", name=name, exact=True)
        getattr(button, press)()
        size = button.bounding_box()
        assert name in ("Split", "Difference") or size is None or size["height"] >= 43 or name == "To the mask"
        if name != "Difference":
            violations = Axe().run(page).response["violations"]
            serious = [one for one in violations if one["impact"] in ("serious", "critical")]
            assert not serious, [(one["id"], one["nodes"][0]["html"]) for one in serious]
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0


def test_a_row_with_one_picture_has_nothing_to_compare(window: Watched, served: ServedPages) -> None:
    page = opened(window, f"{served.url}/runs/night/", 7)
    for name in ("Split", "Flicker", "Difference"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    page.keyboard.press("d")
    page.keyboard.press("b")
    expect(page.locator("#stage-changes")).to_be_empty()
    expect(page.locator("#stage-side")).to_be_hidden()


def test_the_routes_answer_for_what_is_not_there(served: ServedPages, changed: str) -> None:
    with TestClient(served.app) as client:
        api = f"/api/runs/{RUN}/rows"
        assert client.get(f"{api}/1/size").json() == {"width": SIZE[0], "height": SIZE[1]}
        assert client.get(f"{api}/1/difference").json() == {"changed": 90000, "outside": 0, "highest": 7}
        for path, status in (
            ("/1/tiles/result/0/3/0", 404), ("/1/tiles/result/0/4/0", 415),
            ("/1/tiles/result/17/0/0", 422), ("/1/tiles/result/0/-1/0", 422),
            ("/1/tiles/secret/0/0/0", 422), ("/9/tiles/result/0/0/0", 404), ("/3/difference", 415),
            ("/1/files/difference", 422),
        ):  # fmt: skip
            assert client.get(f"{api}{path}").status_code == status, path
        assert client.get("/api/runs/night/rows/7/difference").status_code == 404, "it has no result"
        assert client.get("/api/runs/night/rows/8/size").status_code == 404, "it has no source"
        tile = client.get(f"{api}/1/tiles/mask/0/1/0")
        assert (tile.status_code, tile.headers["content-type"]) == (200, "image/png")
