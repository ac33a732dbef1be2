"""A pytest plugin: by chance, threads and what thread pools are given begin late, as on a machine that is busy.

`python -m tests.shake` loads it. Processes that spin seldom keep a thread waiting for so long that a test looks at what
the thread has not done yet.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import thread as pools
from random import SystemRandom
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SHARE = 0.15
"""Of all threads and calls."""
SECONDS = (0.02, 0.5)
"""By which they are late."""

_chance = SystemRandom()  # tests have `random` as they like


def late(call: Callable[P, T]) -> Callable[P, T]:
    """`call`, which is late by chance."""

    @functools.wraps(call)
    def begun(*arguments: P.args, **options: P.kwargs) -> T:
        if _chance.random() < SHARE:
            time.sleep(_chance.uniform(*SECONDS))
        return call(*arguments, **options)

    return begun


_start, _late_call = threading.Thread.start, late(pools._WorkItem.run)


def _start_late(thread: threading.Thread) -> None:
    thread.run = late(thread.run)  # type: ignore[method-assign]
    _start(thread)


def pytest_configure() -> None:
    """Have threads begin late from now on, in this process."""
    threading.Thread.start = _start_late  # type: ignore[method-assign]
    pools._WorkItem.run = _late_call  # type: ignore[method-assign]
