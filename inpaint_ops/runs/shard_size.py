"""How many rows a shard has: enough that starting takes less than a twentieth of its time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inpaint_ops.config import Settings
from inpaint_ops.planning import JobOptions
from inpaint_ops.row_work import RowWork
from inpaint_ops.runs.forecasting import BenchmarkTable, Experience, forecast, work_of
from inpaint_ops.wording import counted

START_SHARE = 0.05
"""What starting may take of a shard's time, at most."""

TASK_SECONDS = 5.0
"""Seconds that Airflow needs to start and end a task, beyond the worker's own start: about five on two cores."""

DEFAULT_SHARD_ROWS = 400
"""Where nothing is known of the seconds that an image takes."""

FEWEST, MOST = 10, 100_000
"""Rows: fewer would leave batches unfilled; more is what `Settings.shard_rows` allows."""

_TIMEOUT_SHARE = 0.5
"""What a shard may take of the time limit of its attempts, as far as is known: rows differ."""


@dataclass(frozen=True, slots=True)
class ShardSize:
    """Rows per shard, and why."""

    rows: int
    basis: str


def shard_size(
    job: JobOptions,
    work: RowWork,
    history: Sequence[Experience],
    settings: Settings,
    *,
    card: str | None = None,
    table: BenchmarkTable | None = None,
    devices: int = 1,
) -> ShardSize:
    """Rows per shard for a run whose rows have that `work` to do.

    What was asked for stands. Else the seconds come from what `forecast` knows: earlier runs in this store, then the
    benchmark's table; `DEFAULT_SHARD_ROWS` where it knows neither the image's nor the worker's start. Where several
    `devices` of one machine paint the run, each has a shard at least. A run of more rows than `settings.max_shards`
    such shards hold gets larger ones.
    """
    size = _asked(job) or _shared(_by_time(job, work, history, settings, card, table), len(work.steps), devices)
    least = math.ceil(len(work.steps) / settings.max_shards)
    if size.rows >= least:
        return size
    return ShardSize(
        least,
        f"{counted(least, 'row')} per shard: a run has at most {settings.max_shards:,} shards (INPAINT_MAX_SHARDS); "
        f"without that limit {size.basis}",
    )


def _asked(job: JobOptions) -> ShardSize | None:
    rows = job.shard_rows
    return None if rows is None else ShardSize(rows, f"{counted(rows, 'row')} per shard, as asked")


def _shared(size: ShardSize, rows: int, devices: int) -> ShardSize:
    """At most the share of one device: a shard is painted by one alone, and the others would have nothing to do."""
    share = max(1, math.ceil(rows / devices))
    if devices == 1 or size.rows <= share:
        return size
    return ShardSize(
        share, f"{counted(share, 'row')} per shard: a shard for each of {devices} devices; for one, {size.basis}"
    )


def _by_time(
    job: JobOptions,
    work: RowWork,
    history: Sequence[Experience],
    settings: Settings,
    card: str | None,
    table: BenchmarkTable | None,
) -> ShardSize:
    all_rows = work_of(work, texts=False)  # which of them a shard has is not known yet
    known = forecast(job, [all_rows], history, card=card, table=table)
    if not known.seconds_per_image or not known.cold_start:
        why = f"seconds per image or of a worker's start are not known ({known.basis})"
        return ShardSize(DEFAULT_SHARD_ROWS, f"{DEFAULT_SHARD_ROWS} rows per shard: {why}")
    start, image = known.cold_start + TASK_SECONDS, known.seconds_per_image * all_rows.rows / len(work.steps)
    wanted = start * (1 / START_SHARE - 1) / image
    in_time = settings.shard_timeout * _TIMEOUT_SHARE / image
    rows = max(1, math.floor(min(max(wanted + 1, FEWEST), in_time, MOST)))
    limit = ""
    if rows < wanted:
        held = "INPAINT_SHARD_TIMEOUT" if in_time < MOST else f"the limit of {MOST:,} rows"
        limit = f"; more rows would take less, and {held} allows no more"
    what = "an image" if all_rows.rows == len(work.steps) else "a row with its variants"
    return ShardSize(
        rows,
        f"{counted(rows, 'row')} per shard: starting takes {start:.3g} s and {what} {image:.3g} s, so that starting is "
        f"{start / (start + rows * image):.1%} of a shard's time{limit}; by {known.basis}",
    )
