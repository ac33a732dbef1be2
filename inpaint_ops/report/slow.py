"""Stages that took far longer than is usual in the same run: a sentence each, naming the row or batch to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from inpaint_ops.records import BATCH_STAGES, Record, StageStats
from inpaint_ops.tallies.tally import Tally

SLOW_RATIO = 10.0
"""A stage that takes this many times its median is worth a look ..."""

SLOW_SECONDS = 1.0
"""... where that is this much longer at least: a difference of milliseconds does not matter ..."""

SLOW_MEMBERS = 5
"""... and where there are this many rows, or batches: the median of fewer is no guide to what is usual."""

TAIL_ROWS = 100
"""With fewer rows than this, a p99 means nothing."""


def slow_stages(tally: Tally, stages: Mapping[str, StageStats], find: Callable[[int], Record]) -> list[str]:
    """What to look at, in the order of the stages; `stages` are the distributions, and `find` gives a row's record.

    A stage that a batch shares is compared by batches, without each worker's first one: what that one takes more is
    part of the cold start, and reported there. More rows or more steps do not count as slow.
    """
    found = []
    for stage, stats in stages.items():
        taken = tally.taken(stage)
        if len(taken.seconds) < SLOW_MEMBERS:
            continue
        usual = float(np.median(taken.seconds))
        pace = taken.seconds / taken.work
        slow = taken.seconds >= max(SLOW_RATIO * usual, usual + SLOW_SECONDS)
        slow &= pace >= SLOW_RATIO * float(np.median(pace))
        if not slow.any():
            continue
        worst = int(np.argmax(np.where(slow, taken.seconds, -1.0)))
        seconds, count = float(taken.seconds[worst]), int(slow.sum())
        named = f"{_name(find(int(taken.rows[worst])), stage)} took {seconds:.3g} s, {_times(seconds, usual)}"
        if stats.count >= TAIL_ROWS and stats.p99 >= SLOW_RATIO * stats.p50:
            tail = f"p99 is {stats.p99:.3g} s, {_times(stats.p99, stats.p50)} the p50 of {stats.p50:.3g} s"
            found.append(f"{stage} has a long tail: {tail}; {named} the median.")
        else:
            others = f"; {count - 1:,} more took ten times the median too" if count > 1 else ""
            found.append(f"{stage} was slow: {named} the median of {usual:.3g} s{others}.")
    return found


def _name(record: Record, stage: str) -> str:
    row = f"row {record.row} ({record.id})"
    if stage in BATCH_STAGES and record.batch is not None and record.batch.size > 1:
        return f"the batch of {record.batch.size} with {row}"
    return row


def _times(seconds: float, usual: float) -> str:
    return f"{seconds / usual:,.0f} times" if usual > 0 else "far more than"
