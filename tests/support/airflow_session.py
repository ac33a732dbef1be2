"""Somebody who is signed in to the session's Airflow: by its form, as people do, or by a token, as programs do."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

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
