"""A worker with the product's own loop, decoding and encoding, whose device sleeps as long as a card would paint.

`python bench/sleeping_worker.py --batch N --seconds S [--padded] --journal FILE` and a worker's own options. Each batch
is a line of the journal: when it began and ended (monotonic seconds), its rows, and the rows that it was filled up to.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from inpaint_ops import worker
from inpaint_ops.engine import PaintItem, PaintResult
from inpaint_ops.engine.measuring import Measurements
from inpaint_ops.machine.processors import processors
from inpaint_ops.model.scorers import Scorers
from inpaint_ops.protocol import Job, Ready, Text
from inpaint_ops.records import (
    Batch,
    ColdStart,
    DeviceInfo,
    LedgerEntry,
    Memory,
    Model,
    ModelIdentity,
    Timings,
    WorkerInfo,
)
from inpaint_ops.worker import serving
from inpaint_ops.worker.setup import WorkerSetup, threads_for

DEVICE = DeviceInfo(kind="cpu", name="a device that sleeps", uuid="sleeping")


class _OneChunk:
    def shape(self, prompt: Text, negative_prompt: Text | None, *, guided: bool) -> tuple[int, tuple[str, ...]]:
        return 1, ()


class SleepingEngine:
    """Gives each row's source back as a negative, after `seconds` per row of the batch."""

    def __init__(self, batch_size: int, seconds: float, padded: bool, journal: Path) -> None:
        self.batch_size, self._seconds, self._padded, self._journal = batch_size, seconds, padded, journal
        self.measurements = Measurements()
        self.prompts = _OneChunk()
        self._count = 0

    def paint(self, batch: Sequence[PaintItem]) -> Iterator[PaintResult]:
        """Sleep, write the journal, and yield one result per row."""
        rows = len(batch)
        filled = min(1 << (rows - 1).bit_length(), self.batch_size) if self._padded else rows
        began = time.monotonic()
        time.sleep(filled * self._seconds)
        ended = time.monotonic()
        with self._journal.open("a") as journal:
            journal.write(json.dumps({"began": began, "ended": ended, "rows": rows, "filled": filled}) + "\n")
        self._count += 1
        for item in batch:
            yield PaintResult(
                row=item.row,
                image=255 - item.rgb,
                error=None,
                steps=item.key.steps,
                batch=Batch(id=f"{self._count:05d}", size=rows),
                timings=Timings(denoise=ended - began),
                memory=Memory(peak_allocated=1, peak_reserved=1),
            )

    def with_measured(self, ledger: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
        """The ledger, as it is."""
        return tuple(ledger)


class _Sleeping:
    identity = ModelIdentity(name="sleeping", random_weights=True)
    native_size = 1024
    lama = None
    scorers = Scorers()
    ledger: tuple[LedgerEntry, ...] = ()

    def inspect(
        self,
        working_size: tuple[int, int],
        *,
        batch_size: int | None = None,
        batch_limit: int | None = None,
        prompts_done: bool = False,
    ) -> tuple[LedgerEntry, ...]:
        return ()


def main() -> NoReturn:
    """Be a worker on this process's standard input."""
    parser = argparse.ArgumentParser(prog="bench.sleeping_worker")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="per row")
    parser.add_argument("--padded", action="store_true", help="as a compiled model: batches are filled up")
    parser.add_argument("--journal", type=Path, required=True)
    given, rest = parser.parse_known_args()

    def set_up(job: Job, send: Callable[[Model], None], *, started: float, interpreter: float) -> WorkerSetup:
        model = _Sleeping()
        engine = SleepingEngine(given.batch, given.seconds, given.padded, given.journal)
        who = WorkerInfo(
            pid=os.getpid(),
            host=socket.gethostname(),
            device=DEVICE.name,
            started_at=datetime.fromtimestamp(started, UTC),
        )
        send(
            Ready(
                worker=who,
                device=DEVICE,
                model=model.identity,
                tuning={},
                ledger=(),
                cold_start=ColdStart(interpreter=interpreter),
                versions={},
                native_size=model.native_size,
                batch_size=given.batch,
            )
        )
        lease: Any = None
        return WorkerSetup(job, lease, model, engine, ColdStart(), threads_for(processors(), paints_on_them=False))

    serving.set_up = set_up  # type: ignore[attr-defined]
    worker.main(rest)


if __name__ == "__main__":
    main()
