"""Which events a worker may send when: a worker that an image has taken over may send anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inpaint_ops.errors import WorkerProtocolError
from inpaint_ops.protocol import Begun, Bye, Done, Event, Failed, Ready, Step, Warn
from inpaint_ops.supervisor.rows import BookedRow

MAX_EVENTS_BETWEEN = 10_000
"""Events, signs of life above all, without one that brings the work on. A batch of one row has at most 500 steps, and
is begun anew a few times at most where memory runs out."""

MAX_WARNINGS = 500
"""Warnings of one worker."""


@dataclass(slots=True)
class Conduct:
    """One worker's place in the protocol: loading, painting, asked to end, gone."""

    is_ready: bool = False
    is_asked_to_end: bool = False
    has_said_bye: bool = False
    _since: int = 0
    _warnings: int = 0

    def check(self, event: Event, rows: Mapping[int, BookedRow]) -> None:
        """Take note of `event`; `rows` are those in the worker. Raises WorkerProtocolError where it is out of
        turn, of a row that the worker does not have, or one too many without any work done.
        """
        kind = event.kind
        self._since += 1
        if self._since > MAX_EVENTS_BETWEEN:
            raise WorkerProtocolError(f"it sent {MAX_EVENTS_BETWEEN:,} events without a row ended")
        if self.has_said_bye:
            raise WorkerProtocolError(f"it sent {kind!r} after its final report")
        match event:
            case Ready():
                if self.is_ready:
                    raise WorkerProtocolError("it reported twice that it was ready")
                self.is_ready, self._since = True, 0
            case Begun() | Step() | Done() | Failed() | Bye() if not self.is_ready:
                raise WorkerProtocolError(f"it sent {kind!r} before it was ready")
            case Begun():
                if unknown := [row for row in event.rows if row not in rows]:
                    raise WorkerProtocolError(f"it began row {unknown[0]}, which it does not have")
            case Done() | Failed():
                state = rows.get(event.row)
                if state is None:
                    raise WorkerProtocolError(f"it ended row {event.row}, which it does not have")
                if isinstance(event, Done) and not state.begun:
                    raise WorkerProtocolError(f"it ended row {event.row}, which it had not begun")
                self._since = 0
            case Warn():
                self._warnings += 1
                if self._warnings > MAX_WARNINGS:
                    raise WorkerProtocolError(f"it sent more than {MAX_WARNINGS} warnings")
            case Bye():
                if not self.is_asked_to_end:
                    raise WorkerProtocolError("it sent its final report before it was asked to end")
                self.has_said_bye = True
