"""Rows painted again for real: a person asks in a browser, Airflow runs the child run, one result becomes final."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from demo.airflow_stack import USER
from demo.object_store import ObjectStoreServer
from inpaint_ops.config import Settings
from inpaint_ops.delivering import deliver
from inpaint_ops.locations import parse
from inpaint_ops.reviewing import RedoOptions, child_runs, finals, prepare_redo
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops.storage.stored import Leftovers
from tests.support.airflow import DAG, LOOKER, PREFIX, STORE, Site, put_manifest, records
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, patient
from tests.support.people import session, token
from tests.support.waiting import PATIENCE

__all__ = ["chromium", "session"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

PARENT = "sofas"


@pytest.fixture(scope="module")
def parent(site: Site) -> str:
    """A run of two rows whose images have names by a template that no two rows of one source may share."""
    rows = [
        {"id": one, "image": f"photos/{name}", "mask": f"masks/{name[:-4]}.png", "prompt": "a cup"}
        for one, name in (("first", "coffee.jpg"), ("second", "portrait.png"))
    ]
    manifest = put_manifest(site.workspace, "sofas.jsonl", rows)
    run_id = site.stack.trigger(DAG, {"manifest": manifest, "run": PARENT, "names": "{folder}/{stem}.{ext}"})
    assert site.stack.wait_for_run(DAG, run_id) == "success", site.stack.task_logs(DAG, run_id)[-3000:]
    return PARENT


Open = Callable[..., Page]


@pytest.fixture
def browsers(chromium: Browser, session: dict[str, Any], site: Site) -> Iterator[Open]:
    """`browsers()`: a browser of the signed-in user; `view="phone"` one that is touched."""
    opened: list[Watched] = []

    def open_one(view: str = "light") -> Page:
        opened.append(Watched(patient(chromium.new_context(storage_state=session, **VIEWS[view])), site.stack.url))
        return opened[-1].page

    yield open_one
    for one in opened:
        one.context.close()
    assert not [complaint for one in opened for complaint in one.complaints]
    assert not [place for one in opened for place in one.elsewhere]


def at(page: Page, site: Site, run: str, row: int, title: str) -> None:
    page.goto(f"{site.pages}/runs/{run}/?row={row}")
    expect(page.get_by_role("dialog").get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#review-bar")).to_be_visible()


def redone(page: Page, text: str) -> Locator:
    return page.locator("#review-redone li").filter(has_text=text)


def dag_run_of(site: Site, run: str) -> dict[str, Any]:
    found = site.stack.api("GET", f"/dags/{DAG}/dagRuns", order_by="-run_after", limit=20)["dag_runs"]
    (one,) = [asked for asked in found if asked["conf"].get("run") == run]
    return dict(one)


def put_child(site: Site, parent: str, row: str) -> str:
    """A child run of one row, painted."""
    child = prepare_redo(site.workspace, parent, RedoOptions(), ids={row})
    run_id = site.stack.trigger(DAG, {"manifest": child.manifest.uri, "run": child.run})
    assert site.stack.wait_for_run(DAG, run_id) == "success", site.stack.task_logs(DAG, run_id)[-3000:]
    return child.run


def tab_to(page: Page, wanted: str) -> None:
    for _ in range(150):
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", wanted):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never came to {wanted}")


def test_a_row_is_sent_back_painted_again_and_picked_by_keyboard_alone(
    browsers: Open, site: Site, parent: str, object_store: ObjectStoreServer, tmp_path: Path
) -> None:
    page = browsers()
    at(page, site, parent, 1, "first")
    page.keyboard.press("e")
    expect(page.get_by_label("Why again?")).to_be_focused()
    page.keyboard.type("a visible edge")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("heading", name="second", exact=True)).to_be_visible()
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    page.keyboard.press("a")
    expect(page.locator("#review-left")).to_have_text("2 of 2 reviewed")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    tab_to(page, "#redo-start")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Paint 1 row again")).to_be_visible()
    page.get_by_label("Variants per row").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#redo-status")).to_contain_text("2 rows, triggered as sofas-redo-")
    child = page.locator("#redo-status a").first.inner_text()

    asked = dag_run_of(site, child)
    assert asked["triggering_user_name"] == USER, "it has the rights, and the name, of who asked"
    assert asked["conf"]["names"] == "{id}.{ext}"
    assert site.stack.wait_for_run(DAG, asked["dag_run_id"]) == "success"
    made = records(site.workspace, child)
    assert {record.id: record.status for record in made.values()} == {"first": "done", "first-redo-2": "done"}
    assert {record.extra["redo_of"]["reason"] for record in made.values()} == {"a visible edge"}
    assert {record.extra["redo_of"]["by"] for record in made.values()} == {USER}

    page.keyboard.press("Escape")
    expect(page.locator("#redo-children")).to_contain_text(f"{child} · VALID, 2 of 2 rows done")
    at(page, site, parent, 1, "first")
    expect(page.locator("#review-redone li")).to_have_count(2)
    for picture in page.locator("#review-redone img").all():
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("(one) => [one.naturalWidth, one.naturalHeight]") not in ([240, 240], [240, 241])
    tab_to(page, f"[data-key='{child}/first-redo-2']")
    page.keyboard.press("Enter")
    expect(page.locator("#redone-status")).to_have_text(f"first-redo-2 of {child} is the final image.")
    chosen = redone(page, "first-redo-2")
    expect(chosen).to_contain_text("final image")
    expect(chosen.get_by_role("button")).to_be_focused()
    expect(chosen.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()

    final = {record.id: (one.run, one.record.id) for record, one in finals(site.workspace, parent, Leftovers())}
    assert final["first"] == (child, "first-redo-2")
    client = make_s3_client(object_store.session(), endpoint_url=object_store.endpoint)
    out = Workspace.open(
        Settings(), store=STORE, also_writable=[parse(str(tmp_path / "out"))], s3_client=lambda: client
    )
    delivered = deliver(out, parent, parse(str(tmp_path / "out")), only="accepted", contact_sheet=None)
    assert (delivered.delivered, delivered.is_whole) == (2, True)
    (painted,) = [record for record in made.values() if record.id == "first-redo-2"]
    assert painted.output is not None
    (line,) = [
        one for one in map(json.loads, (tmp_path / "out/contents.jsonl").read_text().splitlines()) if one["row"] == 1
    ]
    assert (line["file"], line["run"], line["sha256"]) == ("photos/coffee.png", child, painted.output.sha256)

    redone(page, "first-redo-2").get_by_role("link").click()
    expect(page.get_by_role("dialog").get_by_role("heading", name="first-redo-2")).to_be_visible()
    expect(page.locator("#redone-of")).to_have_text(f"Does first of sofas again, as {USER} asked: a visible edge.")
    page.keyboard.press("Escape")
    expect(page.locator("#redo-parent")).to_have_text("Does rows of sofas again.")
    expect(page.locator("#redo-parent a")).to_have_attribute("href", f"{PREFIX}/inpaint/runs/sofas/")


def test_a_result_is_sent_back_once_more_and_shown_under_the_first_row(browsers: Open, site: Site, parent: str) -> None:
    """A child of a child, asked for by touch: its result lies under the row of the run that began it all."""
    child = put_child(site, parent, "second")
    page = browsers("phone")
    at(page, site, child, 1, "second")
    page.get_by_role("button", name="Paint again…").tap()
    page.get_by_role("button", name="Trigger it").tap()
    expect(page.locator("#redo-status")).to_contain_text(f"1 row, triggered as {child}-redo-1")
    asked = dag_run_of(site, f"{child}-redo-1")
    assert site.stack.wait_for_run(DAG, asked["dag_run_id"]) == "success"
    at(page, site, parent, 2, "second")
    expect(page.locator("#review-redone li")).to_have_count(2)
    below = redone(page, f"second in {child}-redo-1")
    expect(below).to_contain_text(f"does second of {child} again")
    use = below.get_by_role("button")
    expect(use).to_be_enabled()
    box = use.bounding_box()
    assert box is not None
    assert box["height"] >= 44
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    use.tap()
    expect(page.locator("#redone-status")).to_contain_text("is the final image")
    final = {record.id: one.run for record, one in finals(site.workspace, parent, Leftovers())}
    assert final["second"] == f"{child}-redo-1"


def test_who_may_only_look_sees_results_and_can_trigger_nothing(chromium: Browser, site: Site, parent: str) -> None:
    headers = {"Authorization": f"Bearer {token(site, LOOKER)}"}
    before = [one.run for one in child_runs(site.workspace, site.workspace.layout(parent))]
    with httpx.Client(headers=headers, timeout=PATIENCE) as client:
        assert client.get(f"{site.pages}/api/runs/{parent}/rows/1/redone").status_code == 200
        assert client.get(f"{site.pages}/api/runs/{parent}/reviews").json()["may_review"] is False
        asked = client.post(f"{site.pages}/api/runs/{parent}/redo", json={"ids": ["first"]})
        conf = {"manifest": f"{STORE}manifest.jsonl", "run": "mine"}
        triggered = client.post(f"{site.url}/api/v2/dags/{DAG}/dagRuns", json={"logical_date": None, "conf": conf})
    assert (asked.status_code, triggered.status_code) == (403, 403)
    assert [one.run for one in child_runs(site.workspace, site.workspace.layout(parent))] == before
