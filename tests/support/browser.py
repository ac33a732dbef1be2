"""Windows of a real Chromium, and what their pages complain of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.support.chromium import find
from tests.support.waiting import PATIENCE

CHROMIUM = find()
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True},
}

expect.set_options(timeout=1000 * PATIENCE)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=1000 * PATIENCE)
        yield browser
        browser.close()


def patient(context: BrowserContext) -> BrowserContext:
    """A busy machine is no failure."""
    context.set_default_timeout(1000 * PATIENCE)
    return context


class Watched:
    """A signed-in browser window; collects what its pages complain of and where they send requests."""

    def __init__(self, context: BrowserContext, host: str) -> None:
        self.context = context
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.on("request", lambda request: self._ask(request.url, host))

    def _listen(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def _ask(self, url: str, host: str) -> None:
        if not url.startswith((host, "data:", "blob:")):
            self.elsewhere.append(url)


@contextmanager
def watching(browser: Browser, address: str, **options: Any) -> Iterator[Watched]:
    """A window of its own for one test, which fails where its pages complain or ask for anything beyond `address`."""
    context = patient(browser.new_context(**options))
    watched = Watched(context, address)
    yield watched
    context.close()
    assert not watched.complaints
    assert not watched.elsewhere
