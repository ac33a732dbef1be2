"""The Chromium that the pages' tests drive: the machine's own, or the one that Playwright has fetched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.isolation import BROWSERS

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Its program; None if there is none."""
    fetched = sorted(Path(os.environ.get(BROWSERS, "")).glob("chromium-*/chrome-linux*/chrome"))
    installed = filter(None, map(shutil.which, NAMES))
    return next(installed, None) or (str(fetched[-1]) if fetched else None)
