"""Records -> a Chrome trace, which https://ui.perfetto.dev and chrome://tracing open.

The format: "Trace Event Format", Google, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
Each worker is a process, each kind of work a lane of it, or several where rows were worked on at the same time.
Where in time a slice lies is reconstructed (see `timeline`); how long it is was measured.
"""

from __future__ import annotations

import heapq
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from inpaint_ops.records import Record, WorkerReport
from inpaint_ops.tallies.batches import (
    NO_WORKER,
    BatchKey,
    SeenBatch,
    WorkerKey,
    finishing_start,
    seconds_of,
    see,
    worker_key,
)
from inpaint_ops.tallies.timeline import spans_of
from inpaint_ops.wording import counted

LANES = ("cold start", "download", "decode", "batches", "encode", "upload")
"""From top to bottom."""

TRACE_ROWS = 20_000
"""Rows that a trace shows, at most: 30 MB, which Perfetto opens."""

_LANE_TIDS = 1000


@dataclass(slots=True)
class _Slice:
    """An interval of a lane, in POSIX seconds, with parts that follow each other inside it."""

    name: str
    start: float
    end: float
    args: Mapping[str, Any]
    parts: tuple[_Slice, ...] = ()


def trace_json(records: Sequence[Record], workers: Sequence[WorkerReport]) -> bytes:
    """`trace.json`: complete events in microseconds since the first of them; each batch once."""
    trace = Trace()
    for record in records:
        trace.add(record)
    trace.close()
    out = io.BytesIO()
    trace.write(out, workers)
    return out.getvalue()


class Trace:
    """The same of records that are added one by one; close each shard once all of its rows are added.

    Of a run of more than `TRACE_ROWS` rows whole shards are shown, spread evenly: `shards` are the rows of each, by
    its name; of a single shard with more rows than that the first ones. Without `shards`, all rows are shown.
    """

    def __init__(self, shards: Mapping[str, int] | None = None) -> None:
        self._shown = None if shards is None else sample_shards(shards)
        self._lanes: dict[WorkerKey, dict[str, list[_Slice]]] = defaultdict(lambda: {lane: [] for lane in LANES})
        self._open: dict[str, dict[BatchKey, SeenBatch]] = defaultdict(dict)
        self._rows = 0
        self._left_out = 0

    @property
    def shown_rows(self) -> int | None:
        """How many rows are shown; None where that is all of them."""
        return self._rows if self._left_out else None

    def add(self, record: Record, shard: str = "") -> None:
        """Draw one row; `shard` is the one whose attempt wrote the record."""
        if self._shown is not None and (shard not in self._shown or self._rows >= TRACE_ROWS):
            self._left_out += 1
            return
        self._rows += 1
        for painting in record.paintings():
            self._draw(painting, shard)

    def shows(self, shard: str) -> bool:
        """Whether rows of the shard are drawn, as far as there is room."""
        return self._shown is None or shard in self._shown

    def leave_out(self, rows: int) -> None:
        """So many rows of shards that are not shown were not added."""
        self._left_out += rows

    def _draw(self, record: Record, shard: str) -> None:
        """Draw what was painted at once: a row, or one of its variants."""
        see(self._open[shard], record)
        mine = self._lanes[worker_key(record.worker)]
        args: dict[str, Any] = {"row": record.row, "id": record.id, "status": record.status}
        if record.variant is not None:
            args["variant"] = record.variant
        if record.error:
            args |= {"error": record.error.type, "stage": record.error.stage}
        begun = record.started_at.timestamp()
        if record.timings.download is not None:
            mine["download"].append(_Slice("download", begun - record.timings.download, begun, args))
        if record.timings.decode is not None:
            mine["decode"].append(_Slice("decode", begun, begun + record.timings.decode, args))
        finishing = finishing_start(record)
        encoding = {stage: seconds_of(record, stage) for stage in ("composite", "encode")}
        if any(encoding.values()):
            mine["encode"] += _in_sequence(finishing, encoding, args)
        if record.timings.upload is not None:
            mine["upload"].append(
                _Slice("upload", finishing + sum(encoding.values()), record.finished_at.timestamp(), args)
            )

    def close(self, shard: str = "") -> None:
        """Every row of the shard is added: its batches are drawn."""
        batches = self._open.pop(shard, {}).values()
        for span in spans_of(batch for batch in batches if batch.stages):
            args = {"batch": span.id, "rows": list(span.rows), "size": span.size}
            parts = tuple(_in_sequence(span.start, span.stages, args))
            self._lanes[span.worker]["batches"].append(
                _Slice(f"batch {span.id} ({counted(span.size, 'row')})", span.start, span.end, args, parts)
            )

    def write(self, out: IO[bytes], workers: Sequence[WorkerReport]) -> None:
        """Write the file, with each worker's cold start."""
        for report in workers:
            self._lanes[worker_key(report.worker)]["cold start"] += _cold_start(report)
        other: dict[str, Any] = {}
        if self._left_out:
            other["limit"] = (
                f"A trace shows {TRACE_ROWS:,} rows at most: these are {self._rows:,} of "
                f"{self._rows + self._left_out:,}, of shards that are spread over the run."
            )
        _dump(out, self._lanes, {worker_key(report.worker): report for report in workers}, other)


def sample_shards(shards: Mapping[str, int]) -> frozenset[str]:
    """As many of the shards, spread evenly, as have `TRACE_ROWS` rows together; one, if the first has more."""
    names = list(shards)
    for count in range(len(names), 1, -1):
        chosen = [names[round(index * (len(names) - 1) / (count - 1))] for index in range(count)]
        if sum(shards[name] for name in chosen) <= TRACE_ROWS:
            return frozenset(chosen)
    return frozenset(names[:1])


def _cold_start(report: WorkerReport) -> list[_Slice]:
    cold = report.cold_start
    stages = {name: getattr(cold, name) for name in ("interpreter", "imports", "load", "prompts", "compile")}
    args = {"first_call_excess_seconds": cold.first_call, "model": report.model.name}
    return _in_sequence(report.worker.started_at.timestamp(), stages, args)


def _in_sequence(start: float, stages: Mapping[str, float], args: Mapping[str, Any]) -> list[_Slice]:
    slices = []
    for name, seconds in stages.items():
        if seconds > 0:
            slices.append(_Slice(name, start, start + seconds, args))
            start += seconds
    return slices


def _dump(
    out: IO[bytes],
    lanes: Mapping[WorkerKey, Mapping[str, list[_Slice]]],
    reports: Mapping[WorkerKey, WorkerReport],
    more: Mapping[str, Any],
) -> None:
    drawn = (one.start for by_lane in lanes.values() for slices in by_lane.values() for one in slices)
    origin = min(drawn, default=0.0)
    out.write(b'{"traceEvents":[')
    for number, event in enumerate(_all_events(lanes, reports, origin)):
        out.write((b"," if number else b"") + _json(event))
    other = {
        "note": "Durations are measured; where waiting was not recorded, positions are reconstructed.",
        "origin_posix_seconds": origin,
        **more,
    }
    out.write(b'],"displayTimeUnit":"ms","otherData":' + _json(other) + b"}")


def _json(value: Mapping[str, Any]) -> bytes:
    return _ENCODER.encode(value).encode()


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _all_events(
    lanes: Mapping[WorkerKey, Mapping[str, list[_Slice]]], reports: Mapping[WorkerKey, WorkerReport], origin: float
) -> Iterator[dict[str, Any]]:
    for pid, (key, by_lane) in enumerate(sorted(lanes.items(), key=lambda item: _order(item[0])), 1):
        if not any(by_lane.values()):
            continue
        yield _metadata("process_name", pid, 0, name=_process_name(key, reports.get(key)))
        yield _metadata("process_sort_index", pid, 0, sort_index=pid)
        for index, lane in enumerate(LANES):
            for copy, slices in enumerate(_side_by_side(by_lane[lane])):
                tid = index * _LANE_TIDS + copy + 1
                yield _metadata("thread_name", pid, tid, name=f"{lane} {copy + 1}" if copy else lane)
                yield _metadata("thread_sort_index", pid, tid, sort_index=tid)
                for one in slices:
                    yield from _events(one, lane, pid, tid, origin)


def _side_by_side(slices: Iterable[_Slice]) -> list[list[_Slice]]:
    """Part slices into as few lanes as it takes for none to overlap within one."""
    lanes: list[list[_Slice]] = []
    free: list[tuple[float, int]] = []
    for one in sorted(slices, key=lambda s: (s.start, s.end)):
        if free and free[0][0] <= one.start + 1e-7:
            lane = heapq.heappop(free)[1]
        else:
            lane = len(lanes)
            lanes.append([])
        lanes[lane].append(one)
        heapq.heappush(free, (one.end, lane))
    return lanes


def _events(one: _Slice, lane: str, pid: int, tid: int, origin: float) -> list[dict[str, Any]]:
    start, end = _microseconds(one.start, origin), _microseconds(one.end, origin)
    event = {
        "name": one.name,
        "cat": lane,
        "ph": "X",
        "ts": start,
        "dur": max(0, end - start),
        "pid": pid,
        "tid": tid,
        "args": dict(one.args),
    }
    return [event, *(inner for part in one.parts for inner in _events(part, lane, pid, tid, origin))]


def _microseconds(moment: float, origin: float) -> int:
    return max(0, round((moment - origin) * 1e6))


def _metadata(kind: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": args}


def _order(key: WorkerKey) -> tuple[bool, str, str, int]:
    host, pid, started = key
    return (key == NO_WORKER, started.isoformat() if started else "", host, pid)


def _process_name(key: WorkerKey, report: WorkerReport | None) -> str:
    if key == NO_WORKER:
        return "rows that no worker had"
    device = f", {report.device.name}" if report else ""
    return f"worker {key[0]}/{key[1]}{device}"
