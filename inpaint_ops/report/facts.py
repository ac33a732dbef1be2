"""What a person asks about a run beyond its summary: where the time went, what was slow, what failed and what to do.

Computed once, here; the pages only present it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from inpaint_ops.errors import error_class
from inpaint_ops.records import (
    BATCH_STAGES,
    STAGES,
    ColdStart,
    ErrorInfo,
    MeasureSpread,
    Record,
    RunSummary,
    WorkerReport,
)
from inpaint_ops.report.workers import WorkerTime, times_of
from inpaint_ops.tallies.spread import MEASURES, SIDES
from inpaint_ops.tallies.tally import SLOWEST, Tally, find_among

STAGE_LABELS: dict[str, str] = {
    "download": "Download",
    "decode": "Decode",
    "encode_prompt": "Encode prompt",
    "vae_encode": "VAE encode",
    "denoise": "Denoise",
    "vae_decode": "VAE decode",
    "composite": "Composite",
    "encode": "Encode image",
    "upload": "Upload",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A named part of a time."""

    key: str
    label: str
    seconds: float
    share: float


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Rows that ended for the same kind of reason: how many, and the first of them by line."""

    type: str
    cure: str
    stages: tuple[str, ...]
    count: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class SlowRow:
    """A row, the seconds it was worked on, and where most of them went."""

    record: Record
    seconds: float
    slowest_stage: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram: values from `low` to `high`, how many rows, and whether all of them are flagged."""

    low: float
    high: float
    count: int
    share: float
    """Of the highest bar."""
    is_outside: bool


@dataclass(frozen=True, slots=True)
class MeasureFacts:
    """How one measure of the finished images is spread."""

    label: str
    spread: MeasureSpread
    bars: tuple[Bar, ...]
    flagged: int


@dataclass(frozen=True, slots=True)
class FlaggedRow:
    """A row that is an outlier in its run, and in what: the measure, the side, and its value."""

    record: Record
    reasons: tuple[tuple[str, str, float | None], ...]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run's records and worker reports, digested for people."""

    stage_parts: tuple[Part, ...]
    worker_parts: tuple[Part, ...]
    slowest: tuple[SlowRow, ...]
    failures: tuple[FailureGroup, ...]
    conversions: dict[str, int]
    measures: tuple[MeasureFacts, ...] = ()
    flagged: tuple[FlaggedRow, ...] = ()
    """The rows that are farthest from the others."""


def facts(records: Sequence[Record], workers: Sequence[WorkerReport] = (), *, slowest: int = SLOWEST) -> RunFacts:
    """Digest a run. Without worker reports, `worker_parts` is empty."""
    return facts_of(Tally.of(records), workers, find=find_among(records), slowest=slowest)


def facts_of(
    tally: Tally, workers: Sequence[WorkerReport] = (), *, find: Callable[[int], Record], slowest: int = SLOWEST
) -> RunFacts:
    """The same of records that were added up one by one; `find` gives a row's record. At most `SLOWEST` are listed."""
    stages = tally.stage_seconds()
    return RunFacts(
        stage_parts=parts({stage: (STAGE_LABELS[stage], seconds) for stage, seconds in stages.items()}),
        worker_parts=_worker_parts(tally, workers) if workers else (),
        slowest=tuple(SlowRow(record, seconds, _slowest_stage(record)) for seconds, record in tally.slowest(slowest)),
        failures=_failure_groups(tally),
        conversions=dict(tally.conversions.most_common()),
        measures=tuple(_measure_facts(tally)),
        flagged=tuple(_flagged(find(row)) for row in tally.most_flagged()),
    )


def _flagged(record: Record) -> FlaggedRow:
    reasons = []
    for flag in record.flags:
        name, _, side = flag.rpartition("_")
        measure = next((one for one in MEASURES if one.name == name), None)
        reasons.append((measure.label, side, measure.of(record)) if measure else (flag, "", None))
    return FlaggedRow(record, tuple(reasons))


def _measure_facts(tally: Tally) -> Iterator[MeasureFacts]:
    for one in tally.spreads:
        spread = one.summary()
        if spread is None:
            continue
        low = -math.inf if spread.low is None else spread.low
        high = math.inf if spread.high is None else spread.high
        bars = one.bars()
        highest = max(count for _, _, count in bars)
        yield MeasureFacts(
            label=one.label,
            spread=spread,
            bars=tuple(
                Bar(start, end, count, count / highest, is_outside=end <= low or start >= high)
                for start, end, count in bars
            ),
            flagged=sum(tally.flags[one.measure.flag(side)] for side in SIDES),
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of the forecast beside its outcome; `ratio` is outcome over forecast."""

    label: str
    unit: str
    expected: float | None
    actual: float | None

    @property
    def ratio(self) -> float | None:
        """None where either is unknown."""
        return self.actual / self.expected if self.expected and self.actual is not None else None


def compared(summary: RunSummary) -> tuple[Compared, ...]:
    """Forecast and outcome; empty where the plan has no forecast."""
    expected = summary.forecast
    if expected is None:
        return ()
    lifetimes = summary.gpu_seconds_per_image
    on_card = any(device.kind == "cuda" for device in summary.devices)
    peak = summary.peak_memory.peak_reserved if summary.peak_memory and on_card else None
    return (
        Compared("Until the last row was done", "seconds", expected.seconds, summary.seconds or None),
        Compared(
            "Lifetimes of all workers together", "seconds", expected.gpu_seconds,
            lifetimes * summary.counts.done if lifetimes is not None else None,
        ),
        Compared("Peak memory of a card", "bytes", expected.peak_memory, peak),
    )  # fmt: skip


def _worker_parts(tally: Tally, workers: Sequence[WorkerReport]) -> tuple[Part, ...]:
    """The lifetimes of all workers together: cold start, painting, and the rest."""
    total = sum(times_of(tally.workers, workers).values(), WorkerTime())
    return lifetime_parts(total.cold_start, painting=total.painting, waiting=total.waiting)


def lifetime_parts(cold: ColdStart, *, painting: float, waiting: float) -> tuple[Part, ...]:
    """Seconds of workers' lifetimes as named parts, in the order in which a worker passes them."""
    return parts(
        {
            "interpreter": ("Start the interpreter", cold.interpreter),
            "imports": ("Import libraries", cold.imports),
            "load": ("Load the model", cold.load),
            "prompts": ("Encode the prompts", cold.prompts),
            "compile": ("Compile", cold.compile),
            "first_call": ("First batch's extra time", cold.first_call),
            "painting": ("Paint", painting),
            "waiting": ("Wait and other work", waiting),
        }
    )


def _failure_groups(tally: Tally) -> tuple[FailureGroup, ...]:
    """Failed and rejected rows by error type, the largest group first."""
    ordered = sorted(tally.failures.items(), key=lambda item: (-item[1].count, item[0]))
    return tuple(
        FailureGroup(
            type=name,
            cure=cure(group.error),
            stages=tuple(stage for stage, _ in group.stages.most_common()),
            count=group.count,
            records=tuple(group.first),
        )
        for name, group in ordered
    )


def cure(error: ErrorInfo | None) -> str:
    """What to do about rows that ended with `error`."""
    if error is None:
        return "The records hold no reason: look at the worker's log."
    if (known := error_class(error.type)) is not None:
        return known.cure
    if error.permanent:
        return "Not an error that inpaint_ops expects: look at the worker's log, and report it with the row."
    return "It may succeed on another attempt: run failed.jsonl."


def shares_a_batch(stage: str) -> bool:
    """Whether a row's seconds in `stage` are those of its whole batch."""
    return stage in BATCH_STAGES


def _slowest_stage(record: Record) -> str:
    return max(STAGES, key=lambda stage: getattr(record.timings, stage) or 0.0)


def parts(seconds: Mapping[str, tuple[str, float]]) -> tuple[Part, ...]:
    """Labelled seconds, by key, with each one's share of their sum; those of no length are left out."""
    total = sum(value for _, value in seconds.values())
    if total <= 0:
        return ()
    return tuple(Part(key, label, value, value / total) for key, (label, value) in seconds.items() if value > 0)
