"""What the parts of one attempt at a shard share: its rows, what moves them, and whether it was asked to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from inpaint_ops.config import Settings
from inpaint_ops.machine.scratch import remove
from inpaint_ops.supervisor import row_log
from inpaint_ops.supervisor.attempt_notes import AttemptNotes
from inpaint_ops.supervisor.messages import RowFiles
from inpaint_ops.supervisor.progress import Reporter
from inpaint_ops.supervisor.recorder import Recorder
from inpaint_ops.supervisor.rows import RowBook
from inpaint_ops.supervisor.transfers import Transfers


@dataclass(slots=True)
class Drain:
    """Whether an attempt was asked to stop, and until when the rows in its worker may go on."""

    grace: float
    """Seconds that they get."""
    until: float | None = None
    """By the monotonic clock; None: not asked to stop."""

    def ask(self) -> None:
        """Ask the attempt to stop. The second call takes what is left of the grace."""
        self.until = time.monotonic() + (self.grace if self.until is None else 0.0)

    @property
    def is_asked(self) -> bool:
        """Whether the attempt was asked to stop."""
        return self.until is not None

    @property
    def is_over(self) -> bool:
        """Whether the grace has passed."""
        return self.until is not None and time.monotonic() >= self.until


@dataclass(slots=True)
class Attempt:
    """One attempt at one shard, as the loop, its workers and the ends of its rows see it."""

    name: str
    """Unique: no other attempt at any shard has it."""
    shard: str
    is_final: bool
    """No further attempt follows: what would wait for one is recorded as failed."""
    settings: Settings
    recorder: Recorder
    notes: AttemptNotes
    transfers: Transfers
    reporter: Reporter
    drain: Drain
    book: RowBook
    files: dict[int, RowFiles] = field(default_factory=dict)
    """The rows without a record, and where their files are on this machine."""
    left: dict[int, str] = field(default_factory=dict)
    """Rows that are left to another attempt, and why."""

    said: dict[int, list[str]] = field(default_factory=dict)
    """What the supervisor has to say of a row, for its record, as lines of log; most rows have none."""

    ended: set[int] = field(default_factory=set)
    """Rows that have got their record, by line."""

    def say(self, number: int, text: str) -> None:
        """Keep a warning about a row for its record."""
        self.said.setdefault(number, []).append(row_log.line(text))

    def remove_files(self, number: int) -> None:
        """Remove a row's files from this machine."""
        remove(self.files[number].folder)
