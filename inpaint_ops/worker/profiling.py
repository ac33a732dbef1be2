"""`--profile`: what a worker's threads did when, and which operators and kernels a few batches were, for Perfetto.

The format is the one of the run's own trace ("Trace Event Format", Google). Times are microseconds since the worker was
ready, which is in the trace too. A profile that fails says so and costs no row.
"""

from __future__ import annotations

import gzip
import heapq
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inpaint_ops.protocol import PROFILE

if TYPE_CHECKING:
    from inpaint_ops.engine import PaintedBatch

PROFILED_BATCHES = 2
"""Batches whose operators are looked into: the first, which warms up, and one that does not."""

MOST_STEPS = 60
"""Of a batch that is looked into: a step has thousands of operators, which stay in memory until the batch ends."""

MAX_SPANS = 100_000
MAX_OPERATORS = 100_000
"""Of the processor's operators the longest, per batch; of the device's kernels, copies and fills, as many again."""

_SAME_CLOCK = 60.0
"""Seconds by which the first operator may seem to be away from the beginning of its batch."""

_DEVICE_PID = 100_000_000
"""Beyond every process's id: the devices' lanes."""


class _Span(NamedTuple):
    name: str
    thread: int
    start: float
    end: float
    args: dict[str, Any]


class _Operator(NamedTuple):
    """One operator or kernel; `start` is in seconds since the worker was ready. Its lane is a stream of the device
    `device`, or, where that is -1, of the processor.
    """

    seconds: float
    start: float
    name: str
    device: int
    lane: int


class Profile:
    """What one worker does, noted by its threads; nothing where it is off."""

    def __init__(self, on: bool, warn: Callable[[str], None]) -> None:
        """`warn` gets one line for the report where something could not be profiled."""
        self.on = on
        self._warn = warn
        self._zero, self._zero_ns = _now()
        self._spans: list[_Span] = []
        self._threads: dict[int, str] = {}
        self._operators: list[_Operator] = []
        self._left_out = {"spans": 0, "operators": 0}
        self._batches = 0
        self._looked_into: list[str] = []
        self._has_failed = False

    @contextmanager
    def span(self, name: str, **args: Any) -> Iterator[None]:
        """What this thread does within the block."""
        if not self.on:
            yield
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, start, time.perf_counter(), args)

    @contextmanager
    def batch(self, rows: Sequence[int], steps: int, painted: Callable[[], Sequence[PaintedBatch]]) -> Iterator[None]:
        """A batch that this thread paints within the block; `painted` gives all that were painted so far."""
        if not self.on:
            yield
            return
        before, start = len(painted()), time.perf_counter()
        self._batches += 1
        profiler = self._begin(steps) if self._batches <= PROFILED_BATCHES else None
        began = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            if profiler is not None:
                self._end(profiler, began)
            self._add("paint", start, end, {"rows": len(rows), "first": rows[0]})
            for one in painted()[before:]:
                at = one.began
                for stage in ("encode_prompt", "vae_encode", "denoise", "vae_decode"):
                    seconds = getattr(one.timings, stage) or 0.0
                    self._add(stage, at, at + seconds, {"rows": one.rows})
                    at += seconds

    def write(self, folder: Path) -> None:
        """Put what was noted into `folder`, where the supervisor looks for it. Never raises."""
        if not self.on:
            return
        try:
            with gzip.open(folder / PROFILE, "wt", encoding="utf-8", compresslevel=3) as out:
                out.write('{"displayTimeUnit":"ms","otherData":')
                json.dump(self._about(), out)
                out.write(',"traceEvents":[')
                for number, event in enumerate(self._events()):
                    out.write(("," if number else "") + "\n" + json.dumps(event, separators=(",", ":")))
                out.write("\n]}\n")
        except Exception as error:
            self._fail("the profile could not be written", error)

    def _add(self, name: str, start: float, end: float, args: dict[str, Any]) -> None:
        thread = threading.get_native_id()
        self._threads.setdefault(thread, threading.current_thread().name)
        if len(self._spans) >= MAX_SPANS:
            self._left_out["spans"] += 1
        else:
            self._spans.append(_Span(name, thread, start, end, args))

    def _begin(self, steps: int) -> Any:
        """A profiler of torch's that runs, or None."""
        if steps > MOST_STEPS:
            self._looked_into.append(f"batch {self._batches}: not looked into, since it has over {MOST_STEPS} steps")
            return None
        try:
            from inpaint_ops.engine import start_profiler

            return start_profiler()
        except Exception as error:
            self._fail("operators could not be profiled", error)
            return None

    def _end(self, profiler: Any, began: float) -> None:
        try:
            profiler.stop()
            events = profiler.profiler.kineto_results.events()
            self._keep(events, began)
        except Exception as error:
            self._fail("operators could not be profiled", error)

    def _keep(self, events: Any, began: float) -> None:
        """Keep the longest operators of a batch, whose first one was begun no sooner than `began`."""
        host: list[_Operator] = []
        device: list[_Operator] = []
        events = list(events)
        first_ns = min((event.start_ns() for event in events), default=self._zero_ns)
        # Its clock is the one of the day in today's torch; where it is another, the first operator says how far off.
        first, begun = (first_ns - self._zero_ns) / 1e9, began - self._zero
        base = first if abs(first - begun) < _SAME_CLOCK else begun
        for event in events:
            on_host = str(event.device_type()).endswith("CPU")
            start = base + (event.start_ns() - first_ns) / 1e9  # in whole ns first: floats are too coarse for dates
            kept = host if on_host else device
            lane, number = (0, -1) if on_host else (int(event.device_resource_id()), int(event.device_index()))
            kept.append(_Operator(event.duration_ns() / 1e9, start, event.name(), number, lane))
        for found in (host, device):
            longest = heapq.nlargest(MAX_OPERATORS, found)
            self._left_out["operators"] += len(found) - len(longest)
            self._operators += longest
        self._looked_into.append(f"batch {self._batches}: {len(host):,} operators, {len(device):,} on a device")

    def _fail(self, what: str, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._warn(f"profile: {what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def _about(self) -> dict[str, Any]:
        return {
            "worker": f"{os.getpid()} on {socket.gethostname()}",
            "ready_at": self._zero_ns / 1e9,
            "batches": self._batches,
            "looked_into": self._looked_into,
            "left_out": self._left_out,
        }

    def _events(self) -> Iterator[dict[str, Any]]:
        pid, painting = os.getpid(), threading.get_native_id()
        yield _named("process_name", pid, 0, f"worker {pid} on {socket.gethostname()}")
        for thread, name in sorted(self._threads.items()):
            yield _named("thread_name", pid, thread, "painting" if thread == painting else name)
        for device in sorted({one.device for one in self._operators if one.device >= 0}):
            yield _named("process_name", _DEVICE_PID + device, 0, f"GPU {device} of worker {pid}")
        for device, lane in sorted({(one.device, one.lane) for one in self._operators if one.device >= 0}):
            yield _named("thread_name", _DEVICE_PID + device, lane, f"stream {lane}")
        for span in self._spans:
            yield {
                "ph": "X", "cat": "host", "name": span.name, "pid": pid, "tid": span.thread, "args": span.args,
                "ts": round((span.start - self._zero) * 1e6, 1), "dur": round((span.end - span.start) * 1e6, 1),
            }  # fmt: skip
        for one in self._operators:
            on_host = one.device < 0
            yield {
                "ph": "X", "cat": "operator" if on_host else "kernel", "name": one.name[:200],
                "pid": pid if on_host else _DEVICE_PID + one.device, "tid": painting if on_host else one.lane,
                "ts": round(one.start * 1e6, 1), "dur": round(one.seconds * 1e6, 1),
            }  # fmt: skip


def _now() -> tuple[float, int]:
    """Now, by `time.perf_counter` and, in nanoseconds, by the clock of the day, which torch's profiler reads. Of some
    readings the one that took the least time: this thread may be held up between the two.
    """
    found = []
    for _ in range(5):
        before, day, after = time.perf_counter(), time.time_ns(), time.perf_counter()
        found.append((after - before, before, day))
    _, moment, day = min(found)
    return moment, day


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
