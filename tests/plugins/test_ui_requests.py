"""All requests in one place: what waits, is cancelled and goes on, who is told of the end, and what it all took."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from demo.airflow_stack import USER
from tests.support.airflow import DAG, Site, put_manifest, records
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.fault_proxy import Fault
from tests.support.people import problems, session
from tests.support.waiting import PATIENCE, wait_until
from tests.support.webhook import SECRET

__all__ = ["chromium", "session"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(params=["light"])
def window(chromium: Browser, session: dict[str, Any], site: Site, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watching(chromium, site.stack.url, storage_state=session, **VIEWS[request.param]) as watched:
        yield watched


def press(page: Page, what: str, run: str) -> None:
    """By keyboard: the button of a request, then the dialog's."""
    page.get_by_role("button", name=f"{what} {run}").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#request-ask")).to_have_text(f"{what} {run}?")
    page.locator("#request-yes").focus()
    page.keyboard.press("Enter")


def asked_with_a_scheduler_between(page: Page) -> list[str]:
    """What is asked about single DAG runs from now on. The first look at one finds that a scheduler, which was looking
    at the run when it was set to failed, has set it to success.
    """
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.method)
        if asked == ["PATCH", "GET"]:
            route.fulfill(json={"state": "success"})
        else:
            route.continue_()

    page.route("**/api/v2/dags/*/dagRuns/*", answer)
    return asked


def test_what_waits_has_its_place_and_is_cancelled(window: Watched, site: Site) -> None:
    manifest = put_manifest(site.workspace, "waits.jsonl")
    site.stack.api("PATCH", f"/dags/{DAG}", {"is_paused": True})
    try:
        first, second = (site.stack.trigger(DAG, {"manifest": manifest, "run": f"waits-{n}"}) for n in (1, 2))
        page = window.page
        page.goto(f"{site.pages}/")
        rows = page.locator("#requests").get_by_role("row")
        expect(rows.filter(has_text="waits-1")).to_contain_text("queued place 1 in the queue")
        expect(rows.filter(has_text="waits-2")).to_contain_text("queued place 2 in the queue")
        expect(rows.filter(has_text="waits-1")).to_contain_text(USER)
        assert not problems(page)
        press(page, "Cancel", "waits-1")
        expect(page.locator("#requests-status")).to_contain_text("waits-1 is cancelled")
        expect(rows.filter(has_text="waits-2")).to_contain_text("queued place 1 in the queue")
        assert site.stack.run_state(DAG, first) == "failed"
        asked = asked_with_a_scheduler_between(page)
        press(page, "Cancel", "waits-2")
        expect(page.locator("#requests-status")).to_contain_text("waits-2 is cancelled")
        assert site.stack.run_state(DAG, second) == "failed"
        assert asked == ["PATCH", "GET"] * 2, "it was set again"
    finally:
        site.stack.unpause(DAG)


def test_a_run_is_cancelled_while_it_paints_and_goes_on_where_it_stopped(window: Watched, site: Site) -> None:
    gate = threading.Event()
    path = "/runs/stopped-halfway/records/0"
    wait = partial(gate.wait, PATIENCE)
    site.proxy.on(Fault.DELAY, method="PUT", path=path, nth=3, times=1000, seconds=0, before=wait)
    manifest = put_manifest(site.workspace, "halfway.jsonl")
    try:
        run_id = site.stack.trigger(DAG, {"manifest": manifest, "run": "stopped-halfway", "batch_size": 1})
        wait_until(lambda: len(records(site.workspace, "stopped-halfway")) >= 3, pause=0.5)  # one rejected, two done
        before = set(records(site.workspace, "stopped-halfway"))
        page = window.page
        page.goto(f"{site.pages}/")
        row = page.locator("#requests").get_by_role("row").filter(has_text="stopped-halfway")
        expect(row).to_contain_text("1 painting")
        press(page, "Cancel", "stopped-halfway")
        expect(page.locator("#requests-status")).to_contain_text("stopped-halfway is cancelled")
        assert site.stack.run_state(DAG, run_id) == "failed"
    finally:
        gate.set()
    assert site.workspace.storage.exists(site.workspace.layout("stopped-halfway").summary) is False
    press(page, "Resume", "stopped-halfway")
    expect(page.locator("#requests-status")).to_contain_text("stopped-halfway goes on.")
    runs = site.stack.api("GET", f"/dags/{DAG}/dagRuns", run_id_pattern="resume__stopped-halfway%")["dag_runs"]
    (again,) = runs
    assert (again["conf"]["run"], again["triggering_user_name"]) == ("stopped-halfway", USER)
    assert site.stack.wait_for_run(DAG, again["dag_run_id"]) == "success"
    assert before < set(records(site.workspace, "stopped-halfway"))
    page.goto(f"{site.pages}/runs/stopped-halfway/")
    expect(page.get_by_text("VALID", exact=True)).to_be_visible()


def test_the_end_is_told_once_and_a_webhook_that_fails_fails_no_run(window: Watched, site: Site) -> None:
    manifest = put_manifest(site.workspace, "told.jsonl")
    site.webhook.refused.append("told-badly")
    runs = {
        name: site.stack.trigger(DAG, {"manifest": manifest, "run": name, "project": "sofas"})
        for name in ("told-well", "told-badly")
    }
    refused = site.stack.trigger(DAG, {"manifest": manifest.replace("told", "nowhere"), "run": "told-no"})
    for run_id in runs.values():
        assert site.stack.wait_for_run(DAG, run_id) == "success"
    assert site.stack.wait_for_run(DAG, refused) == "failed"
    for name, verdict in (("told-well", "VALID"), ("told-badly", "VALID"), ("told-no", "REFUSED")):
        (sent,) = wait_until(lambda name=name: site.webhook.of(name), pause=0.5)
        assert sent["verdict"] == verdict
    assert "nowhere.jsonl" in site.webhook.of("told-no")[0]["text"]
    sent = site.webhook.of("told-well")[0]
    page = window.page
    picture = page.request.get(sent["pictures"][0]["url"])
    assert picture.headers["content-type"] == "image/webp"
    page.goto(sent["page"])
    expect(page.get_by_role("heading", name="told-well")).to_be_visible()
    logged = "notification by webhook:inpaint_hook failed: AirflowException 500"  # once the webhook has answered
    wait_until(lambda: logged in site.stack.task_logs(DAG, runs["told-badly"]), pause=0.5)
    everything = "".join(site.stack.task_logs(DAG, one) for one in (*runs.values(), refused))
    assert SECRET not in everything


@pytest.mark.parametrize("window", VIEWS, indirect=True)
def test_what_runs_took_is_added_up(window: Watched, site: Site) -> None:
    if not site.workspace.storage.exists(site.workspace.layout("counted").summary):
        manifest = put_manifest(site.workspace, "counted.jsonl")
        run_id = site.stack.trigger(DAG, {"manifest": manifest, "run": "counted", "project": "chairs"})
        assert site.stack.wait_for_run(DAG, run_id) == "success"
    page = window.page
    page.goto(f"{site.pages}/")
    expect(page.get_by_role("link", name="counted", exact=True)).to_be_visible()
    page.get_by_role("link", name="Cost and trends").click()
    expect(page.get_by_role("heading", name="Cost and trends")).to_be_visible()
    page.locator("select[name=by]").select_option("project")
    page.locator("select[name=project]").select_option("chairs")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("table.trends caption")).to_contain_text("By project")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="chairs", exact=True))
    expect(row.get_by_role("cell").nth(0)).to_have_text("1")
    expect(row.get_by_role("cell").nth(2)).to_have_text("10")
    expect(page.locator("svg.trend")).to_have_count(3)
    assert not problems(page)
