"""People of the shared Airflow: signed in by its form in a real Chromium, or with a token; what they see there."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FrameLocator, Page, expect

from demo.airflow_stack import USER
from tests.support.airflow import Site
from tests.support.browser import patient
from tests.support.waiting import PATIENCE


def token(site: Site, user: str) -> str:
    passwords = json.loads((site.stack.home / "passwords.json").read_text())
    reply = httpx.post(f"{site.url}/auth/token", json={"username": user, "password": passwords[user]}, timeout=PATIENCE)
    return str(reply.raise_for_status().json()["access_token"])


@pytest.fixture(scope="module")
def session(chromium: Browser, site: Site) -> dict[str, Any]:
    """Somebody logs in by the form, as people do; returns what their browser keeps."""
    context = patient(chromium.new_context())
    page = context.new_page()
    page.goto(f"{site.url}/")
    page.locator("input[name=username]").fill(USER)
    page.locator("input[name=password]").fill(site.stack.password)
    page.get_by_role("button", name=re.compile("sign in", re.IGNORECASE)).click()
    expect(page.get_by_role("link", name="Inpainting").first).to_be_visible()
    state: dict[str, Any] = context.storage_state()
    context.close()
    return state


def inside(page: Page) -> FrameLocator:
    """The pages inside Airflow's own."""
    return page.frame_locator("iframe")


def problems(page: Page) -> list[str]:
    """What axe finds that is serious, and whether the page is wider than its window."""
    found = [
        f"{one['id']}: {node['html'][:200]}"
        for one in Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found + ([f"{width} pixels too wide"] if width > 0 else [])
