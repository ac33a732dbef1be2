"""Two runs and two variants side by side, in a real Chromium: in sync, by keyboard and by touch."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect

from inpaint_ops.records import MaskArea, Output, Record
from inpaint_ops.report import results_jsonl, timings_parquet
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.served_pages import ServedPages, photo, served
from tests.support.synthetic_run import EVIL, make_plan, put_finished_run, put_plan
from tests.support.variant_run import RUN as TRIES
from tests.support.variant_run import put_variants
from tests.support.waiting import wait_until

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
SIZE = (2400, 1600)


@pytest.fixture(scope="module")
def runs(served: ServedPages) -> ServedPages:
    """`parent` of five rows; `child` has rows 2 to 4 again and one of its own, with other steps and hostile prompts."""
    workspace = served.workspace
    put = workspace.storage.put
    source = put(workspace.store.join("compared/a.png"), photo(SIZE, 1)).location.uri
    for run, names in (("parent", "abcde"), ("child", "bcdz")):
        _, records = put_finished_run(workspace, run, len(names))
        layout = workspace.layout(run)
        found: list[Record] = []
        for record, name in zip(records, names, strict=True):
            size = SIZE if name == "b" else (60, 40)
            image = layout.image(name, ".png")
            put(image, photo(size, 5 if run == "parent" else 9))
            output = Output(uri=image.uri, sha256="0" * 64, bytes=1, width=size[0], height=size[1], format="png")
            update = {"id": name, "output": output, "source": source, "mask": None, "seed": 1 if run == "parent" else 2}
            area = MaskArea(box=(1800, 1000, 2000, 1200), share=0.01)
            other = {"prompt": "a cup"} if run == "parent" else {"prompt": EVIL, "unguided_steps": 4}
            found.append(record.model_copy(update=update | {"mask_area": area} | other))
        put(layout.results, results_jsonl(found))
        put(layout.timings, timings_parquet(found))
    plan = make_plan("child", 4, shard_rows=200)
    job = plan.job.model_copy(
        update={"steps": 12, "guidance_cutoff": 0.6, "prompt": EVIL.replace("{", "").replace("}", "")}
    )
    put_plan(workspace, plan.model_copy(update={"job": job}))
    put_variants(workspace)
    return served


@pytest.fixture(params=["light"])
def window(chromium: Browser, served: ServedPages, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watching(chromium, served.url.partition("/airflow")[0], **VIEWS[request.param]) as watched:
        yield watched


def opened(window: Watched, runs: ServedPages, query: str = "left=parent&right=child&row=1") -> Page:
    page = window.page
    page.goto(f"{runs.url}/compare?{query}")
    settle(page)
    return page


def settle(page: Page) -> None:
    expect(page.locator("#stages")).to_have_attribute("aria-busy", "false")


def frames(page: Page) -> list[dict[str, float]]:
    """Both frames, each from the corner of its own stage."""
    found = []
    for side in ("left", "right"):
        frame, stage = (page.locator(f"#{what}-{side}").bounding_box() for what in ("frame", "stage"))
        assert frame is not None and stage is not None
        found.append({"x": frame["x"] - stage["x"], "y": frame["y"] - stage["y"], "width": frame["width"]})
    return found


def in_sync(page: Page) -> bool:
    left, right = frames(page)
    return all(abs(left[name] - right[name]) < 1 for name in left)


def test_both_zoom_and_pan_together_from_either_side(window: Watched, runs: ServedPages) -> None:
    page = opened(window, runs)
    expect(page.locator("#compare-status")).to_have_text("Row 1 of 3 that both have, by id.")
    assert in_sync(page)
    fitted = frames(page)[0]["width"]
    for side in ("left", "right"):
        stage = page.locator(f"#stage-{side}").bounding_box()
        assert stage is not None
        before = frames(page)[0]["width"]
        page.mouse.move(stage["x"] + 50, stage["y"] + 60)
        page.mouse.wheel(0, -400)
        wait_until(lambda before=before: frames(page)[0]["width"] > before * 1.5)
        assert in_sync(page)
        at = frames(page)[0]["x"]
        page.mouse.move(stage["x"] + 200, stage["y"] + 200)
        page.mouse.down()
        page.mouse.move(stage["x"] + 140, stage["y"] + 170, steps=4)
        page.mouse.up()
        wait_until(lambda at=at: frames(page)[0]["x"] < at - 30)
        assert in_sync(page)
    page.keyboard.press("1")
    wait_until(lambda: frames(page)[1]["width"] == pytest.approx(SIZE[0], abs=1))
    page.keyboard.press("Shift+ArrowRight")
    assert in_sync(page)
    page.keyboard.press("j")
    left = frames(page)[1]
    stage = page.locator("#stage-right").bounding_box()
    assert stage is not None
    assert left["x"] + left["width"] / SIZE[0] * 1900 == pytest.approx(stage["width"] / 2, abs=2), "the mask's middle"
    for side in ("left", "right"):
        expect(page.locator(f".tile-layer[data-of=result-{side}] img").first).to_be_visible()
    page.keyboard.press("0")
    wait_until(lambda: frames(page)[1]["width"] == pytest.approx(fitted, abs=1))
    assert in_sync(page)


def test_previous_and_next_go_over_the_rows_that_both_have(window: Watched, runs: ServedPages) -> None:
    page = opened(window, runs)
    expect(page.locator("#compare-only")).to_have_text(
        "2 rows are only in parent (lines 1, 5). 1 row is only in child (line 4)."
    )
    expect(page.locator("#link-left")).to_have_text("b, line 2")
    expect(page.locator("#link-right")).to_have_text("b, line 1")
    expect(page.get_by_role("button", name=re.compile("Previous"))).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#link-left")).to_have_text("c, line 3")
    settle(page)
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#link-right")).to_have_text("d, line 3")
    settle(page)
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    page.reload()
    settle(page)
    expect(page.locator("#link-left")).to_have_text("d, line 4")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#link-left")).to_have_text("c, line 3")
    page.goto(f"{runs.url}/compare?left=parent&right=night")
    settle(page)
    expect(page.locator("#compare-status")).to_have_text(re.compile("no row in common"))


def test_what_differs_is_listed_as_text(window: Watched, runs: ServedPages) -> None:
    page = opened(window, runs)
    settings = page.get_by_role("region", name="Settings that differ")
    for name, left, right in (("steps", "none", "12"), ("guidance_cutoff", "1.0", "0.6"), ("prompt", "none", EVIL)):
        cells = settings.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))
        expect(cells.get_by_role("cell")).to_have_text([left, right])
    expect(settings.get_by_role("rowheader", name="model", exact=True)).to_have_count(0)
    row = page.locator("#row-differences tbody tr")
    expect(row.filter(has_text="seed").locator("td")).to_have_text(["1", "2"])
    expect(row.filter(has=page.locator("th", has_text=re.compile("^prompt$"))).locator("td")).to_have_text(
        ["a cup", EVIL]
    )
    expect(row.filter(has_text="source")).to_have_count(0)
    expect(row.filter(has_text="steps without guidance").locator("td")).to_have_text(["\u2013", "4"])
    assert page.locator("img[src=x], main script").count() == 0
    page.goto(f"{runs.url}/runs/child/?row=1")
    guidance = page.locator("#viewer-facts dl > div", has=page.locator("dt", has_text="Guidance"))
    expect(guidance.locator("dd")).to_have_text("7.5, off in the last 4 steps")


def test_flicker_shows_one_in_the_others_place(window: Watched, runs: ServedPages) -> None:
    page = opened(window, runs)
    page.clock.install(time=0)
    page.clock.pause_at(3_600_000)  # ahead, however long this takes
    page.keyboard.press("f")
    places = [page.locator(f"#stage-{side}").bounding_box() for side in ("left", "right")]
    assert places[0] == places[1]
    for hidden, shown in (("right", "left"), ("left", "right"), ("right", "left")):
        expect(page.locator(f"#result-{hidden}")).to_have_css("visibility", "hidden")
        expect(page.locator(f"#result-{shown}")).to_have_css("visibility", "visible")
        page.clock.run_for(700)
    page.keyboard.press("b")
    page.clock.run_for(5000)
    expect(page.locator("#result-left")).to_have_css("visibility", "visible")
    page.keyboard.press("o")
    expect(page.locator("#source-left")).to_be_visible()
    expect(page.locator("#result-left")).to_be_hidden()
    page.keyboard.press("s")
    expect(page.locator("#source-right")).to_be_visible()


def test_a_runs_page_and_a_row_lead_there(window: Watched, runs: ServedPages) -> None:
    page = window.page
    page.goto(f"{runs.url}/runs/parent/")
    field = page.get_by_label("Compare with the run")
    field.focus()
    expect(page.locator("#compare-runs option[value=child]")).to_have_count(1)
    field.fill("child")
    page.keyboard.press("Enter")
    settle(page)
    expect(page.locator("#link-right")).to_have_text("b, line 1")
    page.goto(f"{runs.url}/runs/parent/?row=4")
    page.get_by_role("link", name="Compare with another run").click()
    page.get_by_label("Right run").fill("child")
    page.get_by_role("button", name="Compare").click()
    settle(page)
    expect(page.locator("#link-left")).to_have_text("d, line 4")


def test_two_variants_of_a_row_are_compared(window: Watched, runs: ServedPages) -> None:
    page = window.page
    page.goto(f"{runs.url}/runs/{TRIES}/?row=1")
    page.get_by_role("link", name="Compare variant 1 with the picked one").click()
    settle(page)
    for side, variant in (("left", "0"), ("right", "1")):
        expect(page.locator(f"#variant-{side}")).to_have_value(variant)
        expect(page.locator(f"#result-{side}")).to_have_attribute("src", re.compile(f"variant={variant}$"))
        expect(page.locator(f"#result-{side}")).to_have_js_property("naturalWidth", 60)
    expect(page.locator("#row-differences tbody tr").filter(has_text="seed").locator("td")).to_have_text(["0", "1"])
    page.locator("#variant-right").select_option("2")
    settle(page)
    expect(page.locator("#state-right")).to_have_text(re.compile("failed: one flat colour"))
    expect(page.locator("#note-right")).to_have_text(re.compile("no picture of it after painting"))
    expect(page).to_have_url(re.compile("right_variant=2"))


@pytest.mark.parametrize("window", VIEWS, indirect=True)
def test_it_works_by_touch_and_axe_finds_nothing(window: Watched, runs: ServedPages) -> None:
    page = opened(window, runs)
    press = "tap" if page.evaluate("navigator.maxTouchPoints > 0") else "click"
    for name in ("Next", "Flicker", "Swap", "Side by side", "Before", "After", "1:1", "To the mask", "Fit"):
        button = page.get_by_role("button", name=name, exact=True)
        size = button.bounding_box()
        assert size is not None and size["height"] >= 44
        getattr(button, press)()
    settle(page)
    expect(page.locator("#link-left")).to_have_text("c, line 3")
    violations = Axe().run(page).response["violations"]
    serious = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert not serious, [(one["id"], one["nodes"][0]["html"]) for one in serious]
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0


def test_what_is_no_run_is_answered_as_text(runs: ServedPages) -> None:
    with TestClient(runs.app) as client:
        for left in ("no-such-run", "../parent", "a/../../b", EVIL, "%2e%2e"):
            page = client.get("/compare", params={"left": left, "right": "child"}, headers={"Accept": "text/html"})
            assert page.status_code == 404
            assert "<script>alert" not in page.text and "<img src=x" not in page.text
            assert client.get("/api/compare", params={"left": left, "right": "child"}).status_code == 404
        chooser = client.get("/compare", params={"left": EVIL})
        assert chooser.status_code == 200 and "<script>alert" not in chooser.text
        assert client.get("/api/compare", params={"left": "parent", "right": "child", "by": "size"}).status_code == 422
        assert client.get("/api/compare", params={"left": "parent", "right": "child", "row": 0}).status_code == 422
        found = client.get("/api/compare", params={"left": "parent", "right": "child", "row": 999}).json()
        assert found["lines"] == [4, 3] and found["place"] == found["total"] == 3
