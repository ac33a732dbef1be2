"""Submitting from the page, in a real Chromium and a real Airflow: a sample first, with one's own rights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from demo.airflow_stack import USER
from tests.support.airflow import DAG, JOBS, STORE, STRANGER, Site, put_manifest
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, patient, watching
from tests.support.people import inside, problems, session, token
from tests.support.waiting import PATIENCE

__all__ = ["chromium", "session"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(params=["light"])
def window(chromium: Browser, session: dict[str, Any], site: Site, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watching(chromium, site.stack.url, storage_state=session, **VIEWS[request.param]) as watched:
        yield watched


def opened(page: Page, site: Site) -> Page:
    page.goto(f"{site.pages}/submit")
    expect(page.locator("#check[data-ready]")).to_be_visible()
    return page


def dag_runs(site: Site, run: str) -> list[dict[str, Any]]:
    found = site.stack.api("GET", f"/dags/{DAG}/dagRuns", order_by="-run_after", limit=100)["dag_runs"]
    return [one for one in found if one["conf"].get("run") == run]


def test_a_job_is_checked_sampled_and_run_by_keyboard_alone(window: Watched, site: Site) -> None:
    manifest = put_manifest(site.workspace, "submit.jsonl")
    page = opened(window.page, site)
    page.locator("#manifest").focus()
    page.keyboard.type(manifest)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "option-quality":
            break
    page.keyboard.type("good")  # picks 'good' in the list
    expect(page.get_by_label("Quality", exact=True)).to_have_value("good")
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == "check":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#checked-title")).to_be_focused()
    findings = page.locator("#findings")
    expect(findings).to_contain_text("10 rows: 9 can be painted, 1 rejected")
    expect(findings).to_contain_text("row 9")
    expect(page.get_by_role("button", name="Trigger the whole run")).to_be_enabled()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Rows of the sample")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    sample = page.locator("#triggered").get_by_role("link", name=re.compile("^submit-.*-sample$"))
    expect(sample).to_be_focused()
    name = sample.inner_text()
    (asked,) = dag_runs(site, name)
    assert asked["conf"] == {"manifest": manifest, "run": name, "sample": 5, "quality": "good"}
    assert asked["triggering_user_name"] == USER, "it runs in the name of who is signed in"
    assert site.stack.wait_for_run(DAG, asked["dag_run_id"]) == "success"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.locator(".thumb")).to_have_count(5)


def test_a_double_click_and_a_second_window_make_one_run(
    chromium: Browser, session: dict[str, Any], site: Site, window: Watched
) -> None:
    manifest = put_manifest(site.workspace, "twice.jsonl")
    other = patient(chromium.new_context(storage_state=session))
    pages = [opened(one, site) for one in (window.page, other.new_page())]
    for page in pages:
        page.get_by_label("Manifest", exact=True).fill(manifest)
        page.get_by_label("Name of the run").fill("twice")
        page.get_by_role("button", name="Check").click()
        expect(page.locator("#checked-title")).to_be_focused()
    pages[0].get_by_role("button", name="Trigger the whole run").dblclick()
    expect(pages[0].locator("#triggered")).to_contain_text("Triggered as twice")
    pages[1].get_by_role("button", name="Trigger the whole run").click()
    expect(pages[1].locator("#triggered")).to_contain_text("Nothing was triggered: there is a DAG run of this name")
    other.close()
    (asked,) = dag_runs(site, "twice")
    assert site.stack.wait_for_run(DAG, asked["dag_run_id"]) == "success"
    page = opened(window.page, site)
    page.get_by_label("Manifest", exact=True).fill(manifest)
    page.get_by_label("Name of the run").fill("twice")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#check-status")).to_have_text("Something is in the way: see below.")
    expect(page.locator("#findings")).to_contain_text("There is a run twice")
    expect(page.get_by_role("button", name="Trigger the whole run")).to_be_disabled()


@pytest.mark.parametrize("window", ["phone"], indirect=True)
def test_two_prefixes_are_submitted_by_touch(window: Watched, site: Site) -> None:
    folder = f"{STORE}{JOBS}pair/"
    put_manifest(site.workspace, "pair.jsonl", folder=folder)
    page = opened(window.page, site)
    page.get_by_label("images and masks").tap()
    page.get_by_label("Images", exact=True).fill(f"{folder}photos/")
    page.get_by_label("Masks", exact=True).fill(f"{folder}masks/")
    page.get_by_label("Prompt", exact=True).fill("a red saucer")
    page.get_by_role("button", name="Check").tap()
    expect(page.locator("#checked-title")).to_be_focused()
    expect(page.locator("#findings")).to_contain_text(re.compile(r"[0-9]+ rows: [1-9][0-9]* can be painted"))
    page.get_by_label("Rows of the sample").fill("2")
    expect(page.locator("#check-status")).to_have_text("Changed: check again.")
    page.get_by_role("button", name="Check").tap()
    expect(page.locator("#check-status")).to_have_text("")
    page.get_by_role("button", name="Paint a sample first").tap()
    sample = page.locator("#triggered").get_by_role("link", name=re.compile("^photos-.*-sample$"))
    expect(sample).to_be_visible()
    (asked,) = dag_runs(site, sample.inner_text())
    assert asked["conf"]["manifest"] == f"{STORE}submitted/{sample.inner_text()}.jsonl"
    assert site.stack.wait_for_run(DAG, asked["dag_run_id"]) == "success"


def test_a_preset_is_saved_loaded_and_triggered_with(window: Watched, site: Site) -> None:
    page = opened(window.page, site)
    page.get_by_text("More options").click()
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_label("Blend").select_option("feather")
    page.get_by_label("Save these options as").fill("soft")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#preset-status")).to_have_text("Saved as soft.")
    page = opened(page, site)
    page.get_by_label("Preset", exact=True).select_option("soft")
    expect(page.locator("#preset-status")).to_contain_text(f"Loaded soft, saved by {USER}")
    page.get_by_text("More options").click()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("2")
    expect(page.get_by_label("Blend")).to_have_value("feather")


@pytest.mark.parametrize("window", VIEWS, indirect=True)
def test_the_page_is_accessible(window: Watched, site: Site) -> None:
    rows = [{"image": "a.png", "mask": "b.png", "promt": "x"}, {"image": "a.png", "mask": "b.png", "prompt": "y"}]
    manifest = put_manifest(site.workspace, "bad.jsonl", rows)
    page = opened(window.page, site)
    assert not problems(page)
    page.get_by_text("More options").click()
    page.get_by_label("Manifest", exact=True).fill(manifest)
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#findings")).to_contain_text("unknown field 'promt'")
    assert not problems(page)
    page.get_by_label("Manifest", exact=True).fill("s3://elsewhere/<script>alert(1)</script>.jsonl")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#findings")).to_contain_text("outside what may be read")
    expect(page.get_by_role("button", name="Trigger the whole run")).to_be_disabled()


def test_it_works_in_airflows_frame(window: Watched, site: Site) -> None:
    manifest = put_manifest(site.workspace, "framed.jsonl")
    page = window.page
    page.goto(f"{site.url}/plugin/inpainting")
    pages = inside(page)
    pages.get_by_role("link", name="Submit a job").click()
    expect(pages.locator("#check[data-ready]")).to_be_visible()
    pages.get_by_label("Manifest", exact=True).fill(manifest)
    pages.get_by_role("button", name="Check").click()
    expect(pages.get_by_role("button", name="Trigger the whole run")).to_be_enabled()
    pages.get_by_role("button", name="Trigger the whole run").click()
    link = pages.locator("#triggered").get_by_role("link").first
    expect(link).to_be_visible()
    (asked,) = dag_runs(site, link.inner_text())
    assert site.stack.wait_for_run(DAG, asked["dag_run_id"]) == "success"


def test_who_has_no_rights_gets_none_by_the_page(site: Site) -> None:
    for user, status in ((None, 401), (STRANGER, 403)):
        headers = {"Authorization": f"Bearer {token(site, user)}"} if user else {}
        for path in ("check", "prepare"):
            reply = httpx.post(f"{site.pages}/api/submit/{path}", json={}, headers=headers, timeout=PATIENCE)
            assert reply.status_code == status
