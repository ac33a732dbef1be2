"""The Chromium that the pages' tests drive: the machine's own, or the one that Playwright has fetched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.isolation import BROWSERS

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first draws pages alone, without a browser's own windows: four fifths of the processor time."""


def find() -> str | None:
    """Its program; None if there is none."""
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    if installed is not None:
        return installed
    fetched = Path(os.environ.get(BROWSERS, ""))
    for programs in ("chromium_headless_shell-*/*/*headless?shell", "chromium-*/chrome-linux*/chrome"):
        if found := sorted(fetched.glob(programs)):
            return str(found[-1])
    return None
