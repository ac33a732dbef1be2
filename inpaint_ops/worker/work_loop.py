"""From Ready to Bye: rows decoded, painted, composited, encoded, the end of each reported once."""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from inpaint_ops.errors import InpaintOpsError, UnchangedError
from inpaint_ops.protocol import Begun, Bye, Command, End, Failed, Flush, Item, Job, Warn, unit_name
from inpaint_ops.records import ErrorInfo, Model, Stage, Timings, now
from inpaint_ops.worker.decoding import DecodedRow, RowDecoder
from inpaint_ops.worker.encoding import RowEncoder, joined_timings
from inpaint_ops.worker.parts import paint_parts, summed
from inpaint_ops.worker.profiling import Profile
from inpaint_ops.worker.row_lines import RowLines
from inpaint_ops.worker.setup import WorkerSetup

if TYPE_CHECKING:
    from inpaint_ops.engine import Batcher, PaintResult

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A command that cannot be read."""

    error: ValidationError


class GarbageError(Exception):
    """Raised from the error of a `Garbage` that came during the work."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A row has had its Done or its Failed."""

    row: int


_Message = Command | Garbage | DecodedRow | _Ended
Inbox = queue.SimpleQueue[_Message]


class WorkLoop:
    """From Ready to Bye: rows are decoded in one pool, painted in the calling thread, finished in another pool.

    Painting thus overlaps with decoding the next rows and finishing the last ones. How many rows are inside at a
    time is the supervisor's choice.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        send: Callable[[Model], None],
        inbox: Inbox,
        incoming: ThreadPoolExecutor,
        outgoing: ThreadPoolExecutor,
        lines: RowLines,
    ) -> None:
        from inpaint_ops.engine import Batcher

        self._job, self._loaded, self._engine = setup.job, setup.loaded, setup.engine
        self._cold_start = setup.cold_start
        self._about_device = setup.about_device
        self._profile = Profile(setup.job.profile, self._warn_once)
        self._send, self._inbox = send, inbox
        self._incoming, self._outgoing, self._lines = incoming, outgoing, lines
        self._waiting: Batcher[DecodedRow] = Batcher()
        self._alone: deque[DecodedRow] = deque()
        """Rows that are painted by themselves."""
        self._decoding: set[int] = set()
        self._finishing: set[int] = set()
        self._flush = self._end = False
        self._last_size = (self._loaded.native_size, self._loaded.native_size)
        ledger = self._loaded.ledger  # looks at the whole pipeline: once, and not for each row
        self._warned: dict[str, object] = {}
        self._decoder = RowDecoder(setup, ledger, self._profile, self._warn_once)
        self._encoder = RowEncoder(setup, ledger, lines)

    def run(self) -> None:
        """Work until End has come and every row has ended."""
        while True:
            while not self._inbox.empty():
                self._take(self._inbox.get())
            if batch := self._next_batch():
                self._paint(batch)
            elif self._end and not (self._decoding or self._finishing):
                return
            else:
                self._take(self._inbox.get())

    def bye(self) -> Bye:
        """The last event, with what was measured."""
        engine, measured = self._engine, self._engine.measurements
        ledger = self._loaded.inspect(
            self._last_size, batch_size=measured.largest_batch, batch_limit=engine.batch_size, prompts_done=True
        )
        return Bye(
            ledger=engine.with_measured((*ledger, *self._about_device)),
            cold_start=self._cold_start.model_copy(
                update={"first_call": measured.first_call, "compile": measured.compiling}
            ),
            busy=measured.busy,
            painted=measured.painted,
            peak_memory=measured.peak_memory,
        )

    def leave_profile(self) -> None:
        """Write what was profiled, where that was asked for, once all rows have ended."""
        self._profile.write(Path(self._job.scratch))

    def _take(self, message: _Message) -> None:
        match message:
            case Item():
                self._flush = False
                self._decoding.add(message.row)
                self._incoming.submit(self._decode, message)
            case Flush():
                self._flush = True
            case End():
                self._end = True
            case DecodedRow():
                self._decoding.discard(message.item.row)
                if message.is_alone:
                    self._alone.append(message)
                else:
                    self._waiting.add(message.key, message)
            case _Ended():
                self._decoding.discard(message.row)
                self._finishing.discard(message.row)
            case Garbage():
                raise GarbageError from message.error
            case Job():
                raise GarbageError("a worker has one job")

    def _next_batch(self) -> list[DecodedRow]:
        """A full bucket; when no more rows come for now, the largest; else none, to wait for more rows of one shape."""
        if self._alone:
            return [self._alone.popleft()]
        batch = self._waiting.take_full(self._engine.batch_size)
        if not batch and (self._flush or self._end) and not self._decoding:
            batch = self._waiting.take_largest(self._engine.batch_size)
        return batch

    def _paint(self, batch: list[DecodedRow]) -> None:
        rows = tuple(row.item.row for row in batch)
        self._send(Begun(rows=rows, stage="paint"))
        with (
            self._lines.about(*rows),
            self._profile.batch(rows, batch[0].key.steps, lambda: self._engine.measurements.batches),
        ):
            self._paint_begun(batch)

    def _paint_begun(self, batch: list[DecodedRow]) -> None:
        self._last_size = batch[0].key.width, batch[0].key.height
        if (first := batch[0]).is_alone:
            results = first.tiles.paint(self._engine) if first.tiles else paint_parts(self._engine, first.parts)
            self._painted(first, summed(results), results)
            return
        by_row = {row.item.row: row for row in batch}
        for result in self._engine.paint([row.parts[0].paint for row in batch]):
            self._painted(by_row[result.row], result, [result])

    def _painted(self, row: DecodedRow, result: PaintResult, canvases: Sequence[PaintResult]) -> None:
        if result.error is not None:
            self._fail(row.item, result.error, "denoise", row.started_at, joined_timings(row.timings, result.timings))
            return
        self._finishing.add(row.item.row)
        self._outgoing.submit(self._finish, row, result, canvases)

    def _decode(self, item: Item) -> None:
        """In the incoming pool: files to a row on its working size."""
        with self._lines.about(item.row), self._profile.span("decode", row=item.row):
            self._decode_row(item)

    def _decode_row(self, item: Item) -> None:
        started_at, began = now(), time.perf_counter()
        try:
            self._send(Begun(rows=(item.row,), stage="decode"))
            self._inbox.put(self._decoder.decode(item, started_at, began))
        except Exception as error:
            self._fail(item, error, "decode", started_at, Timings(decode=time.perf_counter() - began))
            self._inbox.put(_Ended(item.row))

    def _finish(self, row: DecodedRow, result: PaintResult, canvases: Sequence[PaintResult]) -> None:
        """In the outgoing pool: painted pixels to a file."""
        with self._lines.about(row.item.row), self._profile.span("encode", row=row.item.row):
            self._finish_row(row, result, canvases)

    def _finish_row(self, row: DecodedRow, result: PaintResult, canvases: Sequence[PaintResult]) -> None:
        try:
            self._send(Begun(rows=(row.item.row,), stage="encode"))
            self._send(self._encoder.encode(row, result, canvases))
        except Exception as error:
            self._fail(row.item, error, "encode", row.started_at, joined_timings(row.timings, result.timings))
        self._inbox.put(_Ended(row.item.row))

    def _warn_once(self, message: str) -> None:
        """Safe in any thread."""
        mine = object()
        if self._warned.setdefault(message, mine) is mine:  # atomic: several rows are decoded at once
            self._send(Warn(message=message))

    def _fail(self, item: Item, error: Exception, stage: Stage, started_at: datetime, timings: Timings) -> None:
        if not isinstance(error, InpaintOpsError):
            with self._lines.about(item.row):
                log.error("row %s: %s failed", unit_name(item.row), stage, exc_info=error)
        info = ErrorInfo.of(error, stage)
        self._send(
            Failed(
                row=item.row,
                error=info,
                change=error.change if isinstance(error, UnchangedError) else None,
                timings=timings,
                log=self._lines.take(item.row),
                started_at=started_at,
                finished_at=now(),
            )
        )
