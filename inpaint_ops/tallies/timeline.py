"""When things happened, reconstructed: records carry durations and two times of day, not the start of every stage.

What is assumed: `started_at` is when the worker took the row up, `finished_at` is when its image was uploaded, or the
row given up. Rows wait between stages, for a batch to fill, for a free lane, and that waiting is not recorded, so

- a download is drawn as ending at `started_at`, where it ended or had ended;
- a decode begins at `started_at`;
- composite, encode and upload end one after the other at `finished_at`;
- a batch ends no later than the composite of its first row begins, and no later than its worker's next batch begins;
  it is drawn as late as that allows: its true place is there, or earlier.

Durations are always the measured ones. Times are POSIX seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from inpaint_ops.records import STAGES, Record
from inpaint_ops.tallies.batches import SeenBatch, WorkerKey, batches_of, seconds_of

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class BatchSpan:
    """One batch on its worker's timeline. `stages` are its seconds, in order; they add up to `end - start`."""

    worker: WorkerKey
    id: str
    size: int
    rows: tuple[int, ...]
    start: float
    end: float
    stages: Mapping[str, float]


def row_seconds(record: Record) -> float:
    """The seconds that a row was worked on, from download to upload, its batch's in full and waiting left out."""
    return sum(seconds_of(record, stage) for stage in STAGES)


def batch_spans(records: Sequence[Record]) -> list[BatchSpan]:
    """Every batch once, by worker and time; the batches of one worker never overlap."""
    return spans_of(batches_of(records).values())


def spans_of(batches: Iterable[SeenBatch]) -> list[BatchSpan]:
    """The same of batches that are put together already."""
    by_worker: dict[WorkerKey, list[BatchSpan]] = defaultdict(list)
    for batch in batches:
        ordered = {stage: batch.stages[stage] for stage in STAGES if stage in batch.stages}
        by_worker[batch.worker].append(
            BatchSpan(
                worker=batch.worker,
                id=batch.id,
                size=batch.size,
                rows=tuple(sorted(batch.rows)),
                start=batch.end - sum(ordered.values()),
                end=batch.end,
                stages=ordered,
            )
        )
    return [span for spans in by_worker.values() for span in _one_at_a_time(spans)]


def _one_at_a_time(spans: list[BatchSpan]) -> list[BatchSpan]:
    placed: list[BatchSpan] = []
    limit = float("inf")
    for span in sorted(spans, key=lambda s: s.end, reverse=True):
        end = min(span.end, limit)
        limit = end - (span.end - span.start)
        placed.append(replace(span, start=limit, end=end))
    return placed[::-1]


def covered(intervals: Iterable[Interval]) -> float:
    """The length of the union of `intervals`."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def painting_at_once(spans: Iterable[BatchSpan]) -> float:
    """How many workers painted at the same time, on average over the time in which any did; at least 1.

    A worker paints from its first batch to its last: waiting for a device or loading a model is not painting.
    """
    windows: dict[WorkerKey, Interval] = {}
    widen(windows, spans)
    return workers_at_once(windows.values())


def widen(windows: dict[WorkerKey, Interval], spans: Iterable[BatchSpan]) -> None:
    """Have each worker's window, from its first batch to its last, hold these batches too."""
    for span in spans:
        start, end = windows.get(span.worker, (span.start, span.end))
        windows[span.worker] = (min(start, span.start), max(end, span.end))


def workers_at_once(windows: Collection[Interval]) -> float:
    """How many of the windows are open at the same time, on average over the time in which any is; at least 1."""
    union = covered(windows)
    return max(1.0, sum(end - start for start, end in windows) / union) if union > 0 else 1.0
