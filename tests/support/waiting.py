"""Waiting for what a test needs: until it holds, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds after which a test gives up: far more than an idle machine takes, for one that is busy."""


def wait_until(condition: Callable[[], T], patience: float = PATIENCE, *, pause: float = 0.02) -> T:
    """What `condition` returns as soon as that is true. Fails the test after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)
    return result
