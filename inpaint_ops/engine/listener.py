"""What the engine reports while it works, to one listener."""

from __future__ import annotations

import logging
from typing import Protocol

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Called on progress and on changes of plan, in the thread that paints."""

    def step(self, step: int, steps: int) -> None:
        """Denoising step `step` of `steps` (from 1) of the batch at hand is done."""

    def prompt_encoded(self, done: int, total: int) -> None:
        """`done` of `total` texts went through the text encoders before the first batch."""

    def warning(self, message: str) -> None:
        """The engine continues, but not as configured; `message` is one line for the report."""

    def out_of_memory(self, message: str) -> None:
        """As `warning`, where the reason is that memory ran out and the rows are painted all the same."""


class LoggingListener:
    """The listener of an engine that has no other: warnings go to the log."""

    def step(self, step: int, steps: int) -> None:
        """Ignored."""

    def prompt_encoded(self, done: int, total: int) -> None:
        """Ignored."""

    def warning(self, message: str) -> None:
        """Logged."""
        log.warning(message)

    def out_of_memory(self, message: str) -> None:
        """Logged."""
        log.warning(message)
