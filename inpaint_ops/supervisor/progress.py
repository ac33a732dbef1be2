"""What an attempt of a shard tells others: how far it is while it runs, and how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a shard is. `seconds_left` and `images_per_second` are None until a row was painted."""

    shard: str
    rows: int
    done: int
    failed: int
    phase: str
    images_per_second: float | None
    seconds_left: float | None

    def __str__(self) -> str:
        text = f"shard {self.shard}: {self.done + self.failed}/{self.rows} rows"
        if self.failed:
            text += f", {self.failed} failed"
        if self.images_per_second is None or self.seconds_left is None:
            return f"{text}, {self.phase}"
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return f"{text}, {self.images_per_second:.2f} images/s, {minutes} min {seconds:02d} s left"


@dataclass(frozen=True, slots=True)
class ShardResult:
    """How a shard ended. `skipped` rows had a record before this attempt."""

    shard: str
    done: int
    failed: int
    skipped: int
    workers: int
    seconds: float


@dataclass(slots=True)
class Tally:
    """Rows by how they ended: in this attempt, and (`skipped`) before it."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    painted: int = 0
    _began: float | None = None

    def begin(self) -> None:
        """A batch has begun: the first one starts the clock."""
        if self._began is None:
            self._began = time.monotonic()

    def progress(self, shard: str, *, rows: int, left: int, phase: str) -> Progress:
        """How far the shard is, with `left` rows to go."""
        rate = None
        if self.painted and self._began is not None:
            rate = self.painted / max(time.monotonic() - self._began, 1e-6)
        seconds = left / rate if rate else None
        return Progress(shard, rows, self.done + self.skipped, self.failed, phase, rate, seconds)
