"""Stages that took far longer than is usual in the same run: a sentence each, naming the row or batch to look at."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inpaint_ops.records import BATCH_STAGES, Record, StageStats
from inpaint_ops.report.stages import worker_key

SLOW_RATIO = 10.0
"""A stage that takes this many times its median is worth a look ..."""

SLOW_SECONDS = 1.0
"""... where that is this much longer at least: a difference of milliseconds does not matter ..."""

SLOW_MEMBERS = 5
"""... and where there are this many rows, or batches: the median of fewer is no guide to what is usual."""

TAIL_ROWS = 100
"""With fewer rows than this, a p99 means nothing."""


@dataclass(frozen=True, slots=True)
class _Taken:
    seconds: float
    record: Record
    work: int = 1
    """Rows of the batch, times the steps for denoising: what a longer time may be for."""

    @property
    def pace(self) -> float:
        return self.seconds / self.work


def slow_stages(records: Sequence[Record], stages: Mapping[str, StageStats]) -> list[str]:
    """What to look at, in the order of the stages; `stages` are the distributions over these records.

    A stage that a batch shares is compared by batches, without each worker's first one: what that one takes more is
    part of the cold start, and reported there. More rows or more steps do not count as slow.
    """
    found = []
    for stage, stats in stages.items():
        members = _members(records, stage)
        if len(members) < SLOW_MEMBERS:
            continue
        usual = statistics.median(member.seconds for member in members)
        pace = statistics.median(member.pace for member in members)
        slow = [one for one in members if one.seconds >= max(SLOW_RATIO * usual, usual + SLOW_SECONDS)]
        slow = [one for one in slow if one.pace >= SLOW_RATIO * pace]
        if not slow:
            continue
        worst = max(slow, key=lambda one: one.seconds)
        named = f"{_name(worst.record, stage)} took {worst.seconds:.3g} s, {_times(worst.seconds, usual)}"
        if stats.count >= TAIL_ROWS and stats.p99 >= SLOW_RATIO * stats.p50:
            tail = f"p99 is {stats.p99:.3g} s, {_times(stats.p99, stats.p50)} the p50 of {stats.p50:.3g} s"
            found.append(f"{stage} has a long tail: {tail}; {named} the median.")
        else:
            others = f"; {len(slow) - 1:,} more took ten times the median too" if len(slow) > 1 else ""
            found.append(f"{stage} was slow: {named} the median of {usual:.3g} s{others}.")
    return found


def _members(records: Sequence[Record], stage: str) -> list[_Taken]:
    taken = [(record, getattr(record.timings, stage)) for record in records]
    passed = [_Taken(seconds, record) for record, seconds in taken if seconds is not None]
    if stage not in BATCH_STAGES:
        return passed
    batches: dict[tuple[object, str], _Taken] = {}
    for one in passed:
        if one.record.batch is not None:
            work = one.record.batch.size * ((one.record.steps or 1) if stage == "denoise" else 1)
            key = worker_key(one.record.worker), one.record.batch.id
            batches.setdefault(key, _Taken(one.seconds, one.record, work))
    firsts: dict[object, str] = {}
    for worker, batch in batches:
        firsts[worker] = min(batch, firsts.get(worker, batch))
    return [one for (worker, batch), one in batches.items() if firsts[worker] != batch]


def _name(record: Record, stage: str) -> str:
    row = f"row {record.row} ({record.id})"
    if stage in BATCH_STAGES and record.batch is not None and record.batch.size > 1:
        return f"the batch of {record.batch.size} with {row}"
    return row


def _times(seconds: float, usual: float) -> str:
    return f"{seconds / usual:,.0f} times" if usual > 0 else "far more than"
