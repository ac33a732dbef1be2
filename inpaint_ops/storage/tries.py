"""Trying again: with what pauses, and how often it was needed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

_MAX_PAUSE = 10.0
"""Seconds."""
_RANDOM = random.SystemRandom()  # forked processes must not pause in step


class Repeats:
    """How often something was asked for again and then answered. Threads may share it."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count `count` more."""
        if count:
            with self._lock:
                self.count += count

    def of(self, reply: Mapping[str, Any]) -> None:
        """Count what botocore says of its own tries for this reply."""
        self.add(reply.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def tries_until(deadline: float, attempts: int, backoff: float) -> Iterator[int]:
    """The number of each try, from 0, as long as `time.monotonic` is before `deadline`: `attempts` at most.

    Before each but the first a jittered pause, which grows from `backoff` seconds.
    """
    for attempt in range(attempts):
        if attempt:
            pause = min(_MAX_PAUSE, backoff * 2 ** (attempt - 1)) * _RANDOM.uniform(0.5, 1.0)
            if time.monotonic() + pause >= deadline:
                return
            time.sleep(pause)
        yield attempt
