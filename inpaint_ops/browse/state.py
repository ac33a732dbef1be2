"""How far a run is, from its plan and from the last progress of its shards: pure functions over values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from inpaint_ops.planning import Plan, Shard
from inpaint_ops.records import Model, ShardProgress

STALLED_AFTER = 45.0
"""Seconds without progress from a shard, or without an event from its worker, until it counts as stalled.
A shard stores its progress at least every 15 s, so that with the page's own polling a stall shows within a minute."""

_LONGEST = 1e9
"""The most seconds left that are shown for a run: a shard may report any rate."""

ShardPhase = Literal["waiting", "working", "stalled", "stopped", "finished"]
RunPhase = Literal["waiting", "running", "stalled", "stopped", "reporting", "finished", "unreadable", "refused"]


class ShardState(Model):
    """One shard: its rows, how far it is, and how it is doing."""

    name: str
    index: int
    first_row: int
    last_row: int
    rows: int
    done: int = 0
    failed: int = 0
    state: ShardPhase = "waiting"
    detail: str = ""
    images_per_second: float | None = None
    seconds_left: float | None = None
    silent: float | None = None
    device: str = ""

    @property
    def ended(self) -> int:
        """Rows that have a record."""
        return self.done + self.failed


class RunState(Model):
    """All shards together."""

    state: RunPhase
    rows: int
    done: int
    failed: int
    rejected: int
    images_per_second: float | None = None
    seconds_left: float | None = None
    device: str = ""
    stalled: tuple[str, ...] = ()

    @property
    def ended(self) -> int:
        """Rows that have a record."""
        return self.done + self.failed + self.rejected


StoredProgress = tuple[ShardProgress, datetime]
"""A shard's last progress, and when it was stored, by the store's clock."""


def shard_state(shard: Shard, index: int, stored: StoredProgress | None, now: datetime) -> ShardState:
    """One shard, by its last stored progress."""
    base: dict[str, Any] = {
        "name": shard.name,
        "index": index,
        "first_row": shard.first_row,
        "last_row": shard.last_row,
    }
    if stored is None:
        return ShardState(**base, rows=shard.rows, detail="no task has started it yet")
    progress, at = stored
    age = max(0.0, (now - at).total_seconds())
    state, detail = _phase(progress, age)
    working = state == "working"
    return ShardState(
        **base,
        rows=shard.rows,
        done=min(progress.done, shard.rows),
        failed=min(progress.failed, shard.rows - min(progress.done, shard.rows)),
        state=state,
        detail=detail,
        images_per_second=progress.images_per_second if working else None,
        seconds_left=progress.seconds_left if working else None,
        silent=age if state in ("working", "stalled") else None,
        device=progress.device,
    )


def _phase(progress: ShardProgress, age: float) -> tuple[ShardPhase, str]:
    if progress.phase == "finished":
        return "finished", ""
    if progress.phase == "stopped":
        return "stopped", "its task gave up; the next attempt continues where it stopped"
    if age > max(STALLED_AFTER, 2 * min(progress.interval, STALLED_AFTER)):
        return "stalled", f"no progress for {age:.0f} s: its task was killed, or its machine is gone"
    silent = progress.worker_silent
    if silent is not None and silent + age > STALLED_AFTER:
        return "stalled", f"its worker sent nothing for {silent + age:.0f} s"
    return "working", progress.phase


def shard_states(plan: Plan, stored: Mapping[str, StoredProgress], now: datetime) -> tuple[ShardState, ...]:
    """Every shard of the plan, in order."""
    return tuple(shard_state(shard, index, stored.get(shard.name), now) for index, shard in enumerate(plan.shards))


def run_state(plan: Plan, shards: Sequence[ShardState]) -> RunState:
    """The run, from its shards; the summary, once there is one, replaces it."""
    rates = [shard.images_per_second for shard in shards if shard.images_per_second]
    rate = sum(rates) or None
    left = sum(shard.rows - shard.ended for shard in shards)
    return RunState(
        state=_run_phase(shards),
        rows=plan.rows,
        done=sum(shard.done for shard in shards),
        failed=sum(shard.failed for shard in shards),
        rejected=plan.rejected,
        images_per_second=rate,
        seconds_left=min(left / rate, _LONGEST) if rate and left else None,
        device=", ".join(dict.fromkeys(shard.device for shard in shards if shard.device)),
        stalled=tuple(shard.name for shard in shards if shard.state == "stalled"),
    )


def _run_phase(shards: Sequence[ShardState]) -> RunPhase:
    states = {shard.state for shard in shards}
    if "working" in states:
        return "running"
    if "stalled" in states:
        return "stalled"
    if "stopped" in states:
        return "stopped"
    if states <= {"finished"}:
        return "reporting"
    return "waiting" if states == {"waiting"} else "running"
