"""A run delivered to a prefix from its page: a person asks in a browser, Airflow copies in their name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from demo.airflow_stack import USER
from inpaint_ops.config import Settings
from inpaint_ops.locations import parse
from inpaint_ops.runs import Workspace
from tests.support.airflow import DAG, DELIVERED, LOOKER, RENDERED, Site, put_manifest
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, patient
from tests.support.delivered import checked
from tests.support.people import problems, session, token
from tests.support.waiting import PATIENCE, wait_until

__all__ = ["chromium", "session"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

DELIVER = "inpaint_deliver"
RUN = "to-hand-on"


@pytest.fixture(scope="module")
def run(site: Site) -> str:
    """A finished run of two rows."""
    rows = [
        {"id": one, "image": f"photos/{name}", "mask": f"masks/{name[:-4]}.png", "prompt": "a cup"}
        for one, name in (("first", "coffee.jpg"), ("second", "portrait.png"))
    ]
    manifest = put_manifest(site.workspace, "to-hand-on.jsonl", rows)
    run_id = site.stack.trigger(DAG, {"manifest": manifest, "run": RUN})
    assert site.stack.wait_for_run(DAG, run_id) == "success", site.stack.task_logs(DAG, run_id)[-3000:]
    return RUN


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


def fetch(client: object, where: str, folder: Path) -> set[str]:
    """Everything below a prefix, on this disk."""
    prefix = parse(where)
    reading = Workspace.open(Settings(), store=where, s3_client=lambda: client).storage
    names = set()
    for info in reading.list(prefix):
        name = info.location.key[len(prefix.key) :]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        reading.download(info.location, folder / name)
        names.add(name)
    return names


def test_a_run_is_delivered_by_keyboard_and_its_page_tells_what_came_of_it(
    browsers: Open, site: Site, run: str, s3_client: object, tmp_path: Path
) -> None:
    page = browsers()
    page.goto(f"{site.pages}/runs/{run}/")
    form = page.get_by_role("form", name="Copy to a prefix")
    expect(form.get_by_label("Prefix")).to_have_value(DELIVERED)
    folder = form.get_by_label("Folder below it")
    expect(folder).to_have_value(f"{run}/")
    folder.focus()
    page.keyboard.press("End")
    page.keyboard.type("for the client")
    page.keyboard.press("Enter")
    expect(page.locator("#deliver-status")).to_have_text("Triggered: its DAG run.")
    link = page.locator("#deliver-status a").get_attribute("href")
    told = page.locator("#deliveries li").filter(has_text="for the client")
    expect(told).to_have_count(1)
    where = f"{DELIVERED}{run}/for the client/"
    expect(told).to_contain_text(where)
    expect(told).to_contain_text("success")
    expect(told).to_contain_text("2 of 2 rows, ")

    found = site.stack.api("GET", f"/dags/{DELIVER}/dagRuns", limit=50)["dag_runs"]
    (asked,) = [one for one in found if one["conf"]["to"] == where]
    assert asked["triggering_user_name"] == USER, "it has the rights, and the name, of who asked"
    assert asked["conf"] == {"run": run, "to": where, "only": "done", "sheet": "results"}
    assert unquote(link or "").endswith(f"/dags/{DELIVER}/runs/{asked['dag_run_id']}")
    names = fetch(s3_client, where, tmp_path)
    assert {"first.png", "second.png", "contents.jsonl", "SHA256SUMS", "contact-sheet/0001.html"} <= names
    assert checked(tmp_path) == names - {"SHA256SUMS"}
    said = "copied by the store itself: 2"  # what a task has printed may follow its success
    log = wait_until(lambda: said in (log := site.stack.task_logs(DELIVER, asked["dag_run_id"])) and log, pause=0.5)
    assert RENDERED not in log

    page.reload()
    expect(told).to_have_count(1)
    told.get_by_role("link", name="its DAG run").click()
    page.wait_for_url(lambda url: unquote(url) == f"{site.url}/dags/{DELIVER}/runs/{asked['dag_run_id']}")


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_a_place_that_is_not_allowed_is_said_at_once_and_nothing_is_triggered(
    browsers: Open, site: Site, run: str, view: str
) -> None:
    before = site.stack.api("GET", f"/dags/{DELIVER}/dagRuns", limit=50)["total_entries"]
    page = browsers(view)
    page.goto(f"{site.pages}/runs/{run}/")
    form = page.get_by_role("form", name="Copy to a prefix")
    form.get_by_label("Folder below it").fill("../../runs/")
    form.get_by_role("button", name="Copy there").click()
    expect(page.locator("#deliver-status")).to_contain_text("Not triggered: ")
    expect(page.locator("#deliver-status")).to_contain_text("'..'")
    expect(form.get_by_role("button", name="Copy there")).to_be_enabled()
    assert site.stack.api("GET", f"/dags/{DELIVER}/dagRuns", limit=50)["total_entries"] == before
    assert problems(page) == []


def test_a_task_that_is_asked_for_a_place_that_is_not_allowed_fails_and_the_page_says_why(
    browsers: Open, site: Site, run: str
) -> None:
    run_id = site.stack.trigger(DELIVER, {"run": run, "to": "s3://inpaint/elsewhere {{ 7**37 }}/"})
    assert site.stack.wait_for_run(DELIVER, run_id) == "failed"
    log = site.stack.task_logs(DELIVER, run_id)
    assert "INPAINT_DELIVERY_PREFIXES" in log
    assert RENDERED not in log
    page = browsers()
    page.goto(f"{site.pages}/runs/{run}/")
    told = page.locator("#deliveries li").filter(has_text="elsewhere")
    expect(told).to_contain_text("failed")
    expect(told).to_contain_text("is outside")


def test_who_may_only_look_sees_the_deliveries_and_no_form(site: Site, run: str) -> None:
    headers = {"Authorization": f"Bearer {token(site, LOOKER)}"}
    seen = httpx.get(f"{site.pages}/runs/{run}/", headers=headers, timeout=PATIENCE)
    assert seen.status_code == 200
    assert "deliver-form" not in seen.text
    list_ = httpx.get(f"{site.pages}/runs/{run}/fragments/deliveries", headers=headers, timeout=PATIENCE)
    assert list_.status_code == 200
    body = {"to": f"{DELIVERED}x/"}
    reply = httpx.post(f"{site.pages}/api/runs/{run}/deliveries", json=body, headers=headers, timeout=PATIENCE)
    assert reply.status_code == 403
    asked = {"logical_date": None, "conf": {"run": run, "to": f"{DELIVERED}x/"}}
    reply = httpx.post(f"{site.url}/api/v2/dags/{DELIVER}/dagRuns", json=asked, headers=headers, timeout=PATIENCE)
    assert reply.status_code == 403, "Airflow itself refuses it"
