"""A run's records, added one by one: what its summary, its page and its gallery are made of.

Of a row, numbers are kept, some 20 bytes in memory and 90 in temporary files; of a batch, what its rows' records say,
until its shard is closed. What names a row (the slowest batch, a card of the gallery) is looked up by its line at the
end.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt

from inpaint_ops.records import BATCH_STAGES, STAGES, Counts, Measures, Memory, Record, StageStats
from inpaint_ops.tallies.batches import (
    NO_WORKER,
    BatchKey,
    SeenBatch,
    WorkerKey,
    add_batches,
    see,
    stage_values,
    worker_key,
)
from inpaint_ops.tallies.spread import spreads
from inpaint_ops.tallies.stages import stats_of
from inpaint_ops.tallies.tallied import FAILURES_PER_GROUP, BatchTimes, Columns, FailedRows, SeenWorker, TakenTimes
from inpaint_ops.tallies.timeline import Interval, spans_of, widen

SLOWEST = 15
"""Rows that the page lists as the slowest."""

MOST_FLAGGED = 30
"""Flagged rows that the page lists: those farthest from the others."""

_NUMBERS = (
    "converted", "side_product_bytes", "images", "images_with_steps", "steps", "canvases", "canvas_steps",
    "cut_images", "cut_steps", "unguided_steps", "rows_with_variants", "further_images", "failed_variants",
    "rows_with_failed_variants", "flagged",
)  # fmt: skip
"""Attributes of a tally that add up."""


class Tally:
    """Add each row's one record, in the order of their lines; close each shard once all of its rows are added.

    Batches and workers are expected to belong to one shard: one that records of several shards name counts once in
    each.
    """

    def __init__(self) -> None:
        self.rows = array("i")
        self.row_seconds = array("d")
        """Seconds of work on each row, its batch's in full."""
        self.statuses: Counter[str] = Counter()
        self.failures: dict[str, FailedRows] = {}
        self.conversions: Counter[str] = Counter()
        self.converted = 0
        self.workers: dict[WorkerKey, SeenWorker] = {}
        self.windows: dict[WorkerKey, Interval] = {}
        """When each worker painted."""
        self.first_start: datetime | None = None
        """Of a row."""
        self.finished: datetime | None = None
        self.peak: Memory | None = None
        self.fills: Counter[str] = Counter()
        """Done rows whose masked area was filled, by what."""
        self.side_products: Counter[str] = Counter()
        """Files beside the images of done rows, by kind."""
        self.side_product_bytes = 0
        self.without_side_products: Counter[str] = Counter()
        """Images that miss files that were asked for beside them, by the reason."""
        self.without_scores: Counter[str] = Counter()
        """Images that miss a score that the job has a model for, by the reason."""
        self.images = 0
        """Of done rows: those of all variants."""
        self.images_with_steps = 0
        self.steps = 0.0
        """Of the images, that ran; one without guidance counts as half."""
        self.canvases = 0
        """Of the images with steps: what the model painted, one for most images."""
        self.canvas_steps = 0.0
        """Of the images' canvases, that ran; one without guidance counts as half."""
        self.cut_images = 0
        """Images whose guidance ended before their last step."""
        self.cut_steps = self.unguided_steps = 0
        """Their steps, and those of them without guidance."""
        self.cropped: dict[str, Counter[str]] = {"regions": Counter(), "tiles": Counter()}
        """Images of rows with that `crop`, and their canvases."""
        self.rows_with_variants = 0
        self.further_images = 0
        """Of them, beyond each row's first."""
        self.failed_variants = 0
        """Of done rows."""
        self.rows_with_failed_variants = 0
        self.spreads = spreads()
        """How each measure is spread over the rows."""
        self._spreads_of_any = [spread for spread in self.spreads if spread.measure.name not in Measures.model_fields]
        """Of what a row has without `measures` too."""
        self.flags: Counter[str] = Counter()
        self.flagged = 0
        """Rows with any flag."""
        self._most_flagged: list[tuple[float, int]] = []
        self._done = bytearray()
        self._ids = array("q")
        self._stages = Columns(STAGES)
        self._batch_seconds = dict.fromkeys(STAGES, 0.0)
        self._batch_times = {stage: BatchTimes() for stage in STAGES if stage in BATCH_STAGES}
        self._open: dict[str, dict[BatchKey, SeenBatch]] = defaultdict(dict)
        self._slowest: list[tuple[float, int, int, Record]] = []

    @classmethod
    def of(cls, records: Iterable[Record]) -> Tally:
        """The tally of these records, taken for those of one shard."""
        tally = cls()
        for record in sorted(records, key=lambda record: record.row):
            tally.add(record)
        tally.close()
        return tally

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def done(self) -> int:
        """Rows with an image."""
        return self.statuses["done"]

    def counts(self, rows: int) -> Counts:
        """The rows by how they ended, of so many."""
        counted = self.statuses
        return Counts(rows=rows, done=counted["done"], failed=counted["failed"], rejected=counted["rejected"])

    def add(self, record: Record, shard: str = "") -> None:
        """Count one row; `shard` is the one whose attempt wrote the record."""
        values = stage_values(record.timings)
        seconds = sum(value or 0.0 for value in values)
        self.rows.append(record.row)
        self.row_seconds.append(seconds)
        self._done.append(record.status == "done")
        self._ids.append(hash(record.id))
        self._stages.append(values)
        self.statuses[record.status] += 1
        if record.status != "done":
            self._add_failure(record)
        paintings = record.paintings()
        self._add_images(record, paintings)
        for spread in self._spreads_of_any if record.measures is None else self.spreads:
            spread.add(record)
        if record.flags:
            self.add_flags(record.row, record.flags)
        if record.conversions:
            self.converted += 1
            self.conversions.update(record.conversions)
        for painting in paintings:
            if painting.memory is not None:
                self.peak = higher(self.peak, painting.memory)
            self._add_times(painting)
            if painting.batch is not None:
                see(self._open[shard], painting)
        if seconds > 0:
            self._add_slow(seconds, record)

    def extend(self, later: Tally, ids: Iterable[str]) -> None:
        """Add the rows of another tally, which follow this one's, as if each were added here.

        None of its shards is closed yet. `ids` are those of its rows: what stands for an id is known to the process
        alone that added it.
        """
        before = len(self.rows)
        self.rows += later.rows
        self.row_seconds += later.row_seconds
        self._done += later._done
        self._ids.extend(map(hash, ids))
        self._stages.extend(later._stages)
        for name, group in later.failures.items():
            self.failures.setdefault(name, FailedRows(group.error)).extend(group)
        for key, worker in later.workers.items():
            seen = self.workers.setdefault(key, worker)
            if seen.last < worker.last:
                seen.last = worker.last
        if later.first_start is not None and (self.first_start is None or later.first_start < self.first_start):
            self.first_start = later.first_start
        if later.finished is not None and (self.finished is None or later.finished > self.finished):
            self.finished = later.finished
        self.peak = higher(self.peak, later.peak)
        for mine, theirs in zip(self._counters(), later._counters(), strict=True):
            mine.update(theirs)
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        for spread, more in zip(self.spreads, later.spreads, strict=True):
            spread.extend(more)
        for entry in later._most_flagged:
            self._push_flagged(entry)
        for shard, batches in later._open.items():
            add_batches(self._open[shard], batches)
        for seconds, row, place, record in later._slowest:
            self._push_slow((seconds, row, place - before, record))

    def _counters(self) -> tuple[Counter[str], ...]:
        return (
            self.statuses, self.conversions, self.fills, self.side_products, self.without_side_products,
            self.without_scores, self.flags, *self.cropped.values(),
        )  # fmt: skip

    def add_flags(self, row: int, flags: Iterable[str], score: float = 0.0) -> None:
        """A row that was added is an outlier; `score` says how far from the others it is."""
        self.flags.update(flags)
        self.flagged += 1
        self._push_flagged((score, -row))

    def _push_flagged(self, entry: tuple[float, int]) -> None:
        if len(self._most_flagged) < MOST_FLAGGED:
            heapq.heappush(self._most_flagged, entry)
        else:
            heapq.heappushpop(self._most_flagged, entry)

    def most_flagged(self) -> list[int]:
        """The lines of the rows that are farthest from the others, `MOST_FLAGGED` at most, the farthest first."""
        return [-row for _, row in sorted(self._most_flagged, reverse=True)]

    def close(self, shard: str = "") -> None:
        """Every row of the shard is added: its batches are put together."""
        batches = {key: batch for key, batch in self._open.pop(shard, {}).items() if batch.stages}
        for (key, _), batch in batches.items():
            for stage, seconds in batch.stages.items():
                self._batch_seconds[stage] += seconds
            if key in self.workers:
                self.workers[key].batch_seconds += sum(batch.stages.values())
        widen(self.windows, spans_of(batches.values()))
        for stage, times in self._batch_times.items():
            timed = {key: batch.taken[stage] for key, batch in batches.items() if stage in batch.taken}
            firsts: dict[WorkerKey, str] = {}
            for worker, name in timed:
                firsts[worker] = min(name, firsts.get(worker, name))
            for (worker, name), taken in timed.items():
                if firsts[worker] != name:  # what a worker's first batch takes more is part of the cold start
                    times.seconds.append(taken.seconds)
                    times.work.append(taken.work)
                    times.rows.append(taken.row)

    def stage_seconds(self) -> dict[str, float]:
        """Seconds of work by stage, in the order of the stages; a batch counts once, not once per row."""
        totals = {}
        for stage in STAGES:
            values = self._passed(stage)
            if len(values):
                totals[stage] = self._batch_seconds[stage] if stage in BATCH_STAGES else float(values.sum())
        return totals

    def stats(self) -> dict[str, StageStats]:
        """The distribution of each stage over the rows that passed it."""
        passed = ((stage, self._passed(stage)) for stage in STAGES)
        return {stage: stats_of(values) for stage, values in passed if len(values)}

    def taken(self, stage: str) -> TakenTimes:
        """The rows that passed a stage or, where batches share it, the batches but the first of each worker."""
        if stage in BATCH_STAGES:
            return self._batch_times[stage].values()
        values = self._stages.values(stage)
        there = ~np.isnan(values)
        return TakenTimes(values[there], np.ones(int(there.sum())), np.asarray(self.rows)[there])

    def slowest(self, limit: int = SLOWEST) -> list[tuple[float, Record]]:
        """The rows that were worked on longest, `SLOWEST` at most, waiting left out: seconds and record."""
        ordered = sorted(self._slowest, key=lambda one: (-one[0], one[3].row))
        return [(seconds, record) for seconds, _, _, record in ordered[:limit]]

    def repeated_ids(self, find: Callable[[int], Record]) -> tuple[str, ...]:
        """Ids that several rows have, in order; `find` gives a row's record."""
        marks = np.asarray(self._ids)
        _, inverse, counts = np.unique(marks, return_inverse=True, return_counts=True)
        rows = np.asarray(self.rows)[counts[inverse] > 1]
        named = Counter(find(int(row)).id for row in rows)
        return tuple(sorted(name for name, count in named.items() if count > 1))

    def gallery(self, limit: int = 24) -> list[int]:
        """The lines of at most `limit` finished rows to show: a quarter of them the slowest, the rest spread over the
        run.
        """
        done = np.flatnonzero(np.frombuffer(self._done, dtype=np.uint8)) if self._done else np.empty(0, np.int64)
        rows = np.asarray(self.rows)
        if limit <= 0 or len(done) <= limit:
            return [int(row) for row in rows[done][: max(limit, 0)]]
        slowest = done[np.lexsort((rows[done], -np.asarray(self.row_seconds)[done]))][: limit // 4]
        others = np.setdiff1d(done, slowest)
        places = limit - len(slowest)
        step = (len(others) - 1) / (places - 1) if places > 1 else 0.0
        spread = others[[round(index * step) for index in range(places)]]
        return sorted(int(row) for row in rows[np.concatenate([slowest, spread])])

    def _passed(self, stage: str) -> npt.NDArray[np.float64]:
        values = self._stages.values(stage)
        return np.asarray(values[~np.isnan(values)])

    def _add_images(self, record: Record, paintings: Sequence[Record]) -> None:
        done = [one for one in paintings if one.status == "done"]
        self.images += len(done)
        if done and record.fill != "original":
            self.fills[record.fill] += 1
        for painting in done:
            if painting.measures is not None and painting.measures.score_problem:
                self.without_scores[painting.measures.score_problem] += 1
            if painting.side_product_problem:
                self.without_side_products[painting.side_product_problem] += 1
            self.side_products.update(one.kind for one in painting.side_products)
            self.side_product_bytes += sum(one.bytes for one in painting.side_products)
            if painting.steps:
                self.images_with_steps += 1
                self.steps += painting.weighed_steps
                self.canvases += painting.canvases
                self.canvas_steps += painting.weighed_steps * painting.canvases
                if painting.unguided_steps:
                    self.cut_images += 1
                    self.cut_steps += painting.steps
                    self.unguided_steps += painting.unguided_steps
                if painting.crop in ("regions", "tiles"):
                    self.cropped[painting.crop].update(images=1, canvases=painting.canvases)
        if record.variants:
            self.rows_with_variants += 1
            self.further_images += max(0, len(done) - 1)
            failed = len(paintings) - len(done)
            if done and failed:
                self.failed_variants += failed
                self.rows_with_failed_variants += 1

    def _add_failure(self, record: Record) -> None:
        group = self.failures.setdefault(error_type(record), FailedRows(record.error))
        group.count += 1
        if record.error:
            group.stages[record.error.stage] += 1
        if len(group.first) < FAILURES_PER_GROUP:
            group.first.append(record)

    def _add_times(self, record: Record) -> None:
        if self.first_start is None or record.started_at < self.first_start:
            self.first_start = record.started_at
        if self.finished is None or record.finished_at > self.finished:
            self.finished = record.finished_at
        key = worker_key(record.worker)
        if key == NO_WORKER:
            return
        worker = self.workers.get(key)
        if worker is None:
            self.workers[key] = SeenWorker(record.finished_at)
        elif record.finished_at > worker.last:
            worker.last = record.finished_at

    def _add_slow(self, seconds: float, record: Record) -> None:
        self._push_slow((seconds, -record.row, -len(self.rows), record))

    def _push_slow(self, entry: tuple[float, int, int, Record]) -> None:
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, entry)
        elif entry > self._slowest[0]:
            heapq.heapreplace(self._slowest, entry)


def error_type(record: Record) -> str:
    """The class of the error that ended the row."""
    return record.error.type if record.error else "unknown"


def higher(one: Memory | None, other: Memory | None) -> Memory | None:
    """The higher peak of each kind."""
    if one is None or other is None:
        return one or other
    if other.peak_allocated <= one.peak_allocated and other.peak_reserved <= one.peak_reserved:
        return one
    return Memory(
        peak_allocated=max(one.peak_allocated, other.peak_allocated),
        peak_reserved=max(one.peak_reserved, other.peak_reserved),
    )


def find_among(records: Sequence[Record]) -> Callable[[int], Record]:
    """What finds a record by its row among these."""
    by_row = {record.row: record for record in records}
    return by_row.__getitem__
