"""The pages as people meet them: real Chromium, a real Airflow behind a prefix, a finished run and one that goes on.

Screenshots of every page (light, dark, phone) land in the folder that UI_SCREENSHOTS names, or in pytest's own.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from demo.airflow_stack import USER
from inpaint_ops.reviewing import Reviews
from tests.support.airflow import DAG, JOBS, PREFIX, STORE, STRANGER, Site, put_manifest
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, patient, watching
from tests.support.fault_proxy import Fault
from tests.support.people import inside, session, token
from tests.support.waiting import PATIENCE, wait_until

__all__ = ["chromium", "session"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def finished(site: Site) -> str:
    """A DAG run that is over: 8 rows done, one failed, one rejected."""
    manifest = put_manifest(site.workspace, "finished.jsonl")
    run_id = site.stack.trigger(DAG, {"manifest": manifest, "run": "finished-night", "steps": 4})
    assert site.stack.wait_for_run(DAG, run_id) == "success", site.stack.task_logs(DAG, run_id)[-3000:]
    return run_id


@pytest.fixture(params=["light"])
def window(chromium: Browser, session: dict[str, Any], site: Site, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watching(
        chromium, site.stack.url, storage_state=session, accept_downloads=True, **VIEWS[request.param]
    ) as watched:
        yield watched


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("UI_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_tab(page: Page) -> None:
    """Click the tab of a DAG run or a task; Airflow draws the navigation's link of the same name before it."""
    page.locator("a[href*='/dags/'][href*='/plugin/']").click()


def test_the_navigation_leads_to_the_run(window: Watched, site: Site, finished: str, shots: Path) -> None:
    page = window.page
    page.goto(f"{site.url}/")
    page.get_by_role("link", name="Inpainting").first.click()
    runs = inside(page)
    expect(runs.get_by_role("heading", name="Inpainting")).to_be_visible()
    row = runs.get_by_role("row").filter(has=page.get_by_role("link", name="finished-night", exact=True))
    expect(row).to_contain_text("VALID")
    page.screenshot(path=shots / "airflow-runs.png")
    page.evaluate("document.documentElement.classList.replace('light', 'dark')")
    expect(runs.locator("html")).to_have_attribute("data-theme", "dark")
    page.screenshot(path=shots / "airflow-runs-dark.png")
    runs.get_by_label("Name or manifest").fill("no such run")
    expect(runs.get_by_text("No run matches")).to_be_visible()
    runs.get_by_label("Name or manifest").fill("finished")
    row.get_by_role("link", name="finished-night", exact=True).click()
    expect(runs.get_by_role("heading", name="finished-night")).to_be_visible()
    expect(runs.get_by_text("DEMO MODEL", exact=True)).to_be_visible()
    expect(runs.locator(".thumb img").first).to_be_visible()


def test_a_dag_run_and_a_task_have_their_tab(window: Watched, site: Site, finished: str, shots: Path) -> None:
    page = window.page
    page.goto(f"{site.url}/dags/{DAG}/runs/{finished}")
    open_tab(page)
    expect(inside(page).get_by_role("heading", name="finished-night")).to_be_visible()
    page.screenshot(path=shots / "airflow-dag-run.png")
    page.goto(f"{site.url}/dags/{DAG}/runs/{finished}/tasks/inpaint/mapped/1")
    open_tab(page)
    expect(inside(page).get_by_text("This is shard 00001")).to_be_visible()
    expect(inside(page).locator(".thumb")).to_have_count(4)


def test_a_task_links_to_its_results_and_report(window: Watched, site: Site, finished: str) -> None:
    links = site.stack.api("GET", f"/dags/{DAG}/dagRuns/{finished}/taskInstances/inpaint/links", map_index=0)
    assert set(links["extra_links"]) == {"Results", "Report", "Worker log"}
    page = window.page
    page.goto(f"{site.url.removesuffix(PREFIX)}{links['extra_links']['Results']}")
    expect(page.get_by_text("This is shard 00000")).to_be_visible()
    page.goto(f"{site.url.removesuffix(PREFIX)}{links['extra_links']['Report']}")
    expect(page.get_by_role("heading", name="Inpainting run finished-night")).to_be_visible()
    page.goto(f"{site.url.removesuffix(PREFIX)}{links['extra_links']['Worker log']}")
    expect(page.get_by_text(re.compile("worker [0-9]+: demo on")).first).to_be_visible()


def test_airflow_tells_of_the_summary_where_it_shows_assets(site: Site, finished: str) -> None:
    events = site.stack.api("GET", "/assets/events", source_dag_id=DAG)["asset_events"]
    (event,) = [event for event in events if event["source_run_id"] == finished]
    assert {name: event["extra"][name] for name in ("run", "verdict", "done", "failed", "rejected")} == {
        "run": "finished-night", "verdict": "VALID", "done": 8, "failed": 1, "rejected": 1
    }  # fmt: skip


def test_the_slider_the_mask_and_the_arrow_keys(window: Watched, site: Site, finished: str, shots: Path) -> None:
    page = window.page
    for kind in ("source", "result"):  # one that takes longer than its request waits is made all the same
        picture = f"{site.pages}/api/runs/finished-night/rows/1/pictures/{kind}?size=1600"
        wait_until(lambda picture=picture: page.request.get(picture).ok, pause=0.5)
    page.goto(f"{site.pages}/runs/finished-night/")
    page.locator(".thumb").first.click()
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_role("heading", name="coffee")).to_be_visible()
    for kind in ("before", "after"):
        expect(page.locator(f"#view-{kind}")).to_have_js_property("naturalWidth", 600)
    slider = viewer.get_by_label("Before ↔ after")
    expect(page.locator("#view-before")).to_have_css("clip-path", re.compile("50%"))
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("70")
    expect(page.locator("#view-before")).to_have_css("clip-path", re.compile("30%"))
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 2)
    expect(slider).to_have_value(re.compile("^[12]?[0-9]$"))
    slider.fill("50")
    viewer.get_by_label("Mask").check()
    expect(page.locator("#view-mask")).to_be_visible()
    expect(page.locator("#view-mask")).to_have_js_property("complete", True)
    page.screenshot(path=shots / "viewer-light.png")
    for words in ("a red saucer", "Denoise", "Seed"):
        expect(viewer.get_by_text(words, exact=True)).to_be_visible()
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", name="portrait")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(viewer.get_by_role("heading", name="coffee")).to_be_visible()
    with page.expect_download() as saved:
        viewer.get_by_role("link", name="Download the result").click()
    assert saved.value.suggested_filename == "coffee.png"
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(".thumb").first).to_be_focused()


def test_the_report_opens_beside_airflow_and_its_links_lead_to_the_images(
    window: Watched, site: Site, finished: str
) -> None:
    """Within Airflow's frame they would not: a page in a sandbox sends no cookie from there."""
    page = window.page
    page.goto(f"{site.url}/dags/{DAG}/runs/{finished}")
    open_tab(page)
    with window.context.expect_page() as opened:
        inside(page).get_by_role("link", name="report.html").click()
    report = opened.value
    with report.expect_download() as saved:
        report.get_by_role("link", name="coffee", exact=True).click()
    assert saved.value.suggested_filename == "coffee.png"


def test_a_run_leads_to_its_dag_run_its_tasks_and_their_logs(window: Watched, site: Site, finished: str) -> None:
    page = window.page
    page.goto(f"{site.pages}/runs/finished-night/")
    asked = page.get_by_role("link", name=f"DAG run {finished}")
    here = f"{PREFIX}/dags/{DAG}/runs/{quote(finished, safe='')}"
    expect(asked).to_have_attribute("href", here)
    # Other tests ask for this run again, and each DAG run that did has its links here.
    plan = page.get_by_role("link", name="plan", exact=True).and_(page.locator(f'a[href="{here}/tasks/plan"]'))
    expect(plan).to_be_visible()
    page.goto(f"{site.url}/dags/{DAG}/runs/{finished}")
    open_tab(page)
    inside(page).locator(".thumb[data-row='7']").click()
    inside(page).get_by_role("link", name="Task log").click()
    expect(page).to_have_url(re.compile(r"/tasks/inpaint/mapped/1(\?|$)"))
    page.goto(f"{site.pages}/runs/finished-night/shards/00000/log")
    expect(page).to_have_url(re.compile(r"/tasks/inpaint/mapped/0(\?|$)"))


REFUSED = {
    "wrong-bucket": ({"manifest": "s3://elsewhere/night.jsonl"}, "ForbiddenLocationError", "INPAINT_ALLOWED_PREFIXES"),
    "no-manifest": ({"manifest": f"{STORE}{JOBS}nowhere.jsonl"}, "ObjectNotFoundError", "Upload the manifest"),
    "wrong-columns": ({"manifest": f"{STORE}{JOBS}columns.csv"}, "ManifestError", "Correct the manifest"),
    "wrong-format": ({"manifest": f"{STORE}{JOBS}night.docx"}, "ObjectNotFoundError", "correct its name"),
    "relative": ({"manifest": "night.jsonl"}, "ConfigError", "write its URI"),
    "no-such-option": ({"manifest": f"{STORE}{JOBS}columns.csv", "tunning": "fast"}, "ConfigError", "'tuning'"),
}


def test_a_refused_job_is_listed_with_its_cure_and_its_tab_says_so(window: Watched, site: Site) -> None:
    site.workspace.storage.put(f"{STORE}{JOBS}columns.csv", b"foo,bar\n1,2\n")
    asked = {run: site.stack.trigger(DAG, conf | {"run": run}) for run, (conf, _, _) in REFUSED.items()}
    for run_id in asked.values():
        assert site.stack.wait_for_run(DAG, run_id) == "failed"
    page = window.page
    page.goto(f"{site.pages}/?state=refused")
    for run, (_, kind, cure) in REFUSED.items():
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=run, exact=True))
        expect(row).to_contain_text("refused")
        expect(row).to_contain_text(cure)
        page.goto(f"{site.url}/dags/{DAG}/runs/{asked[run]}")
        open_tab(page)
        expect(inside(page).get_by_text("This job was refused, and nothing was painted")).to_be_visible()
        expect(inside(page).get_by_text(kind)).to_be_visible()
        expect(inside(page).get_by_text(cure).first).to_be_visible()
        page.goto(f"{site.pages}/?state=refused")
    page.get_by_role("link", name="relative", exact=True).click()
    expect(page.get_by_text("is not a whole location")).to_be_visible()
    page.get_by_role("link", name="The DAG run").click()
    expect(page).to_have_url(re.compile(quote(asked["relative"], safe="")))


def test_a_name_that_is_taken_is_refused_on_its_tab_and_the_run_stays(
    window: Watched, site: Site, finished: str
) -> None:
    layout = site.workspace.layout("finished-night")
    before = {info.location: info.etag for info in site.workspace.storage.list(layout.root)}
    other = put_manifest(site.workspace, "other.jsonl", [{"image": "a.jpg", "mask": "a.png", "prompt": "a cup"}])
    taken = site.stack.trigger(DAG, {"manifest": other, "run": "finished-night"})
    nameless = site.stack.trigger(DAG, {"manifest": other, "run": "../finished-night"})
    for run_id in (taken, nameless):
        assert site.stack.wait_for_run(DAG, run_id) == "failed"
    page = window.page
    page.goto(f"{site.pages}/dag-runs/{DAG}/{taken}")
    expect(page.get_by_text("is of another manifest")).to_be_visible()
    expect(page.get_by_text("What to do: Choose another run name")).to_be_visible()
    expect(page.get_by_role("link", name="finished-night", exact=True)).to_be_visible()
    page.goto(f"{site.pages}/dag-runs/{DAG}/{nameless}")
    expect(page.get_by_text("run name '../finished-night'")).to_be_visible()
    page.goto(f"{site.pages}/")
    refused = page.get_by_role("region", name="Refused")
    expect(refused.get_by_role("listitem").filter(has_text="run name '../finished-night'")).to_contain_text(
        "What to do"
    )
    expect(refused).to_contain_text("is of another manifest")
    expect(page.get_by_role("button", name="Resume ../finished-night")).to_have_count(0)
    assert {info.location: info.etag for info in site.workspace.storage.list(layout.root)} == before


def test_failures_are_filtered_grouped_and_downloaded(window: Watched, site: Site, finished: str) -> None:
    page = window.page
    page.goto(f"{site.pages}/runs/finished-night/")
    expect(page.locator(".thumb")).to_have_count(10)
    page.locator("#gallery-filters").get_by_label("Status").select_option("failed")
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator(".thumb")).to_contain_text("nowhere")
    page.locator("#gallery-filters").get_by_label("Status").select_option("")
    page.get_by_label("Prompt or id").fill("TABBY")
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.get_by_role("heading", name=re.compile("ObjectNotFoundError"))).to_be_visible()
    expect(page.get_by_text("Upload the missing object")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download failed.jsonl").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["nowhere"]


def test_progress_moves_and_the_page_turns_into_the_verdict(window: Watched, site: Site, shots: Path) -> None:
    """The run waits for the page: it goes on when the page has shown how far it is, twice."""
    gates = [threading.Event(), threading.Event()]
    for gate, rows in zip(gates, ((3, 4), (5,)), strict=True):
        for row in rows:  # a request that waits is ended before its client gives it up, and the client sends it again
            path, wait = f"/runs/going-on/records/00000/{row:07d}.json", partial(gate.wait, 20)
            site.proxy.on(Fault.DELAY, method="PUT", path=path, times=10**6, seconds=0, before=wait)
    page = window.page
    try:
        manifest = put_manifest(site.workspace, "going.jsonl")
        site.stack.trigger(DAG, {"manifest": manifest, "run": "going-on", "batch_size": 1})
        wait_until(lambda: page.goto(f"{site.pages}/runs/going-on/").status == 200, pause=0.5)  # type: ignore[union-attr]
        done = page.locator("#live-done")
        expect(done).to_have_text(re.compile("[1-9]"))
        first = done.inner_text()
        gates[0].set()
        expect(done).not_to_have_text(re.compile(f"^(0|{first})?$"))
        second = done.inner_text()
        assert int(second) > int(first)
        page.screenshot(path=shots / "live-light.png")
    finally:
        for gate in gates:
            gate.set()
    expect(page.locator(".thumb").first).to_be_visible()
    expect(page.get_by_text("VALID", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="Run the failed rows again")).to_be_visible()


def test_the_failed_rows_run_again_at_a_click(window: Watched, site: Site, finished: str) -> None:
    page = window.page
    page.goto(f"{site.pages}/runs/finished-night/")
    expect(page.get_by_text("The failed row needs mending first")).to_be_visible()
    expect(page.get_by_role("button", name="Run 1 failed row again")).to_be_hidden()
    page.get_by_text("The causes are mended").click()
    page.get_by_role("button", name="Run 1 failed row again").click()
    page.get_by_role("button", name="Trigger it").click()
    expect(page.get_by_text("Triggered as finished-night-rerun-")).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("^finished-night-rerun-"))).to_be_visible()
    expect(page.get_by_role("link", name="its DAG run")).to_have_attribute(
        "href", re.compile(f"/dags/{DAG}/runs/manual")
    )
    runs = site.stack.api("GET", f"/dags/{DAG}/dagRuns", order_by="-run_after", limit=5)["dag_runs"]
    (again,) = [run for run in runs if str(run["conf"].get("run")).startswith("finished-night-rerun-")]
    assert again["conf"]["manifest"] == f"{STORE}runs/finished-night/failed.jsonl"
    assert again["conf"]["steps"] == 4
    site.stack.wait_for_run(DAG, again["dag_run_id"])


@pytest.mark.parametrize("window", VIEWS, indirect=True)
def test_every_page_is_accessible_and_looks_right(
    window: Watched, site: Site, finished: str, shots: Path, request: pytest.FixtureRequest
) -> None:
    page, view = window.page, request.node.callspec.params["window"]
    found: list[str] = []

    def check(name: str) -> None:
        for problem in Axe().run(page).response["violations"]:
            if problem["impact"] in ("serious", "critical"):
                found.extend(f"{name}: {problem['id']}: {node['html'][:200]}" for node in problem["nodes"])
        width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if width > 0:
            found.append(f"{name} is {width} pixels too wide")

    page.goto(f"{site.pages}/")
    runs = page.get_by_role("group", name="Runs")  # a job that was refused may stand above, by the same name
    expect(runs.get_by_role("link", name="finished-night", exact=True)).to_be_visible()
    page.screenshot(path=shots / f"runs-{view}.png")
    check("runs")
    page.goto(f"{site.pages}/runs/finished-night/")
    expect(page.get_by_role("heading", name="Where the time went")).to_be_visible()
    expect(page.get_by_text("on average from")).to_be_visible()
    page.screenshot(path=shots / f"run-{view}.png", full_page=True)
    check("run")
    page.locator(".thumb").first.click()
    expect(page.get_by_role("heading", name="coffee")).to_be_visible()
    check("viewer")
    page.screenshot(path=shots / f"viewer-{view}.png")
    assert not found


def test_the_anonymous_and_those_without_the_right_are_refused(chromium: Browser, site: Site, finished: str) -> None:
    context = patient(chromium.new_context())
    page = context.new_page()
    for path in ("/", "/runs/finished-night/", "/static/main.js", "/api/runs/finished-night/rows/1/pictures/result"):
        reply = page.goto(f"{site.pages}{path}")
        assert reply is not None
        assert reply.status == 401, path
        assert "finished-night" not in reply.text()
        headers = {"Authorization": f"Bearer {token(site, STRANGER)}"}
        assert httpx.get(f"{site.pages}{path}", headers=headers, timeout=PATIENCE).status_code == 403, path
    context.close()


def test_the_api_server_imports_no_torch(site: Site) -> None:
    server = site.stack.processes["api-server"].pid
    family = [server, *(int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split())]
    for pid in family:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_mark_given_in_airflows_frame_has_the_name_that_airflow_knows(
    window: Watched, site: Site, finished: str
) -> None:
    page = window.page
    page.goto(f"{site.url}/dags/{DAG}/runs/{finished}")
    open_tab(page)
    pages = inside(page)
    pages.get_by_role("button", name="Review", exact=True).click()
    expect(pages.locator("#stage")).to_have_attribute("aria-busy", "false")
    pages.get_by_role("button", name="✓ Accept").click()
    expect(pages.locator("#review-left")).to_have_text("1 of 8 reviewed")
    reviews = Reviews(site.workspace.storage, site.workspace.layout("finished-night"))
    reviews.refresh()
    assert set(reviews.opinions) == {USER}
    for user, status in ((None, 401), (STRANGER, 403)):
        headers = {"Authorization": f"Bearer {token(site, user)}"} if user else {}
        body = {"marks": [{"id": "a", "attempt": "b", "mark": "reject"}]}
        reply = httpx.post(
            f"{site.pages}/api/runs/finished-night/reviews", json=body, headers=headers, timeout=PATIENCE
        )
        assert reply.status_code == status
