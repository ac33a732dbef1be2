"""Finished runs added up by day, project or card: pure, over the lines that the list of runs has read already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from inpaint_ops.browse.catalogue import RunEntry

By = Literal["day", "project", "card"]
MAX_DAYS = 366
MAX_GROUPS = 400
"""Lines of a table, at most; what is left is in the last of them."""
OTHERS = "all others"


@dataclass(slots=True)
class Group:
    """Runs of one day, one project or one card, added up. Days are UTC, by a run's end."""

    name: str
    runs: int = 0
    invalid: int = 0
    rows: int = 0
    done: int = 0
    failed: int = 0
    rejected: int = 0
    flagged: int = 0
    images: int = 0
    gpu_seconds: float = 0.0
    cost: float = 0.0
    unpriced: int = 0
    """Runs that were reported without a price per GPU-hour."""
    unmeasured: int = 0
    """Runs whose report says no GPU-seconds: they painted nothing, or an older version reported them."""

    def add(self, entry: RunEntry) -> None:
        """Count a run."""
        self.runs += 1
        self.invalid += entry.verdict == "INVALID"
        self.rows += entry.rows
        self.done += entry.done
        self.failed += entry.failed
        self.rejected += entry.rejected
        self.flagged += entry.flagged
        self.unpriced += entry.cost is None
        self.cost += entry.cost or 0.0
        if entry.gpu_seconds:
            self.gpu_seconds += entry.gpu_seconds
            self.images += entry.images
        else:
            self.unmeasured += 1

    @property
    def gpu_hours(self) -> float:
        """The workers' lifetimes together."""
        return self.gpu_seconds / 3600

    @property
    def images_per_gpu_hour(self) -> float | None:
        """Throughput, cold starts and waiting included; None where no GPU time was measured."""
        return self.images / self.gpu_hours if self.gpu_seconds else None

    @property
    def failed_share(self) -> float:
        """Failed rows of all rows."""
        return self.failed / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Trends:
    """The groups in their order, all of them together, and what can be chosen between."""

    groups: tuple[Group, ...]
    total: Group
    projects: tuple[str, ...]
    cards: tuple[str, ...]


def trends(
    entries: Iterable[RunEntry], *, by: By, until: datetime, days: int = 30, project: str = "", card: str = ""
) -> Trends:
    """Finished runs of the last `days` days, in groups: days newest first, others by their GPU time.

    `project` and `card` keep those runs alone.
    """
    last = until.astimezone(UTC).date()
    first = last - timedelta(days=max(1, min(days, MAX_DAYS)) - 1)
    groups: dict[str, Group] = {}
    total = Group("in all")
    projects, cards = set[str](), set[str]()
    for entry in entries:
        ended = _day(entry)
        if entry.state != "finished" or ended is None or not first <= ended <= last:
            continue
        projects.add(entry.project)
        cards.add(entry.card)
        if (project and entry.project != project) or (card and entry.card != card):
            continue
        name = {"day": ended.isoformat(), "project": entry.project or "no project", "card": entry.card or "unknown"}[by]
        if name not in groups and len(groups) >= MAX_GROUPS:
            name = OTHERS
        groups.setdefault(name, Group(name)).add(entry)
        total.add(entry)
    ordered = sorted(groups.values(), key=lambda one: (one.gpu_seconds, one.rows), reverse=True)
    if by == "day":
        ordered.sort(key=lambda one: one.name, reverse=True)
    ordered.sort(key=lambda one: one.name == OTHERS)
    return Trends(tuple(ordered), total, _named(projects), _named(cards))


def _day(entry: RunEntry) -> date | None:
    moment = entry.finished_at or entry.created_at
    return moment.astimezone(UTC).date() if moment is not None else None


def _named(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if name)[:MAX_GROUPS])
