"""Helpers beside each other: so many threads, each with a helper of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from inpaint_ops.previews.helper import Helper

_AHEAD = 4
"""Things per helper that are under way or done, and not asked for yet."""

Given = TypeVar("Given")
Made = TypeVar("Made")


class HelperPool:
    """`count` helpers, each made by `helper` when its thread has something to do. Leave it by `with`."""

    def __init__(self, count: int, helper: Callable[[], Helper] = Helper) -> None:
        self._count, self._local, self._helpers = count, threading.local(), list[Helper]()

        def get_ready() -> None:
            self._local.helper = helper()
            self._helpers.append(self._local.helper)

        self._threads = ThreadPoolExecutor(count, thread_name_prefix="helper", initializer=get_ready)

    def __enter__(self) -> HelperPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the helpers, once each has done what it is at; what waits is left."""
        self._threads.shutdown(cancel_futures=True)
        for started in self._helpers:
            started.close()

    def map(self, make: Callable[[Helper, Given], Made], things: Iterable[Given]) -> Iterator[Made]:
        """What `make` makes of each thing with a helper, in their order and a few ahead."""
        waiting: deque[Future[Made]] = deque()
        for thing in things:
            waiting.append(self._threads.submit(lambda one: make(self._local.helper, one), thing))
            if len(waiting) > _AHEAD * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
