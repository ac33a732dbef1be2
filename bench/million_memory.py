"""The memory of a step and of the processes that it starts, together."""

from __future__ import annotations

import contextlib
import threading

import psutil

_SECONDS = 0.5


class PeakTogether:
    """The most that this process and its children have had at once, looked at twice per second.

    Counted is each one's proportional set size: what several share counts once. It is somewhat below what each has by
    itself, and a peak between two looks is missed.
    """

    def __init__(self) -> None:
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def bytes(self) -> int:
        """Stop looking; the most so far."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while True:
            self._look()
            if self._ended.wait(_SECONDS):
                return

    def _look(self) -> None:
        own, total = psutil.Process(), 0
        for one in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
                total += one.memory_full_info().pss
        self._most = max(self._most, total)
