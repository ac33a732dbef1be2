"""`run.json`: the summary of one run, with what it was expected to take."""

from __future__ import annotations

import operator
from typing import Any, Literal

from pydantic import Field

from inpaint_ops.records.base import Amount, Bytes, Count, Expected, Model, Moment, Number, duration_in_words
from inpaint_ops.records.painted import Memory
from inpaint_ops.records.workers import ColdStart, DeviceInfo, Fault, LedgerEntry, LoadTimes, ModelIdentity
from inpaint_ops.wording import counted


class StageStats(Model):
    """The distribution of one stage's seconds over the rows that passed it."""

    count: Count
    mean: Amount
    p50: Amount
    p90: Amount
    p95: Amount
    p99: Amount
    max: Amount


class MeasureSpread(Model):
    """How one measure is spread over the done rows that have it, and beyond which values a row is flagged."""

    count: Count
    p5: Number
    median: Number
    p95: Number
    low: Number | None = Field(default=None, description="Rows below it are flagged; None: none is.")
    high: Number | None = Field(default=None, description="Rows above it are flagged; None: none is.")
    models: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        exclude_if=operator.not_,
        description="Of a score: by which models it was taken. Where these are several, no row is flagged.",
    )


class Counts(Model):
    """rows = done + failed + rejected, when every row has ended."""

    rows: Count
    done: Count
    failed: Count
    rejected: Count

    @property
    def missing(self) -> int:
        """Rows that have no record."""
        return self.rows - self.done - self.failed - self.rejected


class RetryCounts(Model):
    """What one retry of a run did: rows = done + failed, when all of its rows have ended."""

    number: Count
    asked: str
    rows: Count
    done: Count
    failed: Count
    created_at: Moment


class ChoiceCost(Model):
    """What a choice of the job cost."""

    choice: Literal["loras", "prompts", "guidance_cutoff", "fill", "side_products", "variants"]
    count: Count = Field(description="Of what `what` names.")
    seconds: Amount | None = Field(description="Of all workers together; None: not known.")
    what: str = Field(description="What was counted.")

    def in_words(self) -> str:
        """One line, for a log or a terminal."""
        took = "" if self.seconds is None else f": {duration_in_words(self.seconds)} of all workers"
        return f"{self.count:,} {self.what}{took}"


class Pace(Model):
    """What painting an image took in a run, cold starts left out: what later runs are forecast from."""

    images: Count = Field(description="Images that were painted; variants of a row count each.")
    steps: Amount = Field(
        description="Mean steps that ran, of the images; one without guidance counts as half, here and in what follows."
    )
    step_seconds: Amount = Field(
        description="Denoise seconds over the steps of all canvases of the images; a batch's seconds count once."
    )
    other_seconds: Amount = Field(description="Seconds per canvas of the other stages that a batch shares.")
    waiting_seconds: Amount = Field(description="Seconds per image of the workers' lifetimes that were not painting.")
    canvases: dict[Literal["regions", "tiles"], Amount] = Field(
        default_factory=dict,
        exclude_if=operator.not_,
        description="Mean canvases of the images of rows with that `crop`, which may take several each.",
    )


class Forecast(Model):
    """What a run was expected to take, and what that is based on; None is unknown."""

    seconds: Expected | None = Field(
        default=None, description="Until the last shard is done, without queues or retries."
    )
    gpu_seconds: Expected | None = Field(default=None, description="The workers' lifetimes together.")
    seconds_per_image: Expected | None = None
    cold_start: Expected | None = Field(default=None, description="Seconds of a worker.")
    peak_memory: Bytes | None = Field(default=None, description="Reserved bytes of the card.")
    cost: Expected | None = Field(
        default=None, description="`gpu_seconds` at INPAINT_GPU_HOUR_PRICE, in its currency; None without a price."
    )
    devices: Count = Field(default=1, description="Cards that would share the shards.")
    card: str = ""
    basis: str = Field(description="What it is made of.")

    def in_words(self) -> str:
        """One line, for a log or a terminal."""
        if self.seconds is None or self.gpu_seconds is None:
            return self.basis
        peak = f", {self.peak_memory / 1e9:.1f} GB at the peak" if self.peak_memory else ", peak memory unknown"
        many = counted(self.devices, "device")
        together = f", {duration_in_words(self.gpu_seconds)} together" if self.devices > 1 else ""
        cost = f", cost {self.cost:,.2f}" if self.cost is not None else ""
        return f"about {duration_in_words(self.seconds)} on {many}{together}{cost}{peak}; by {self.basis}"


class RunSummary(Model):
    """`run.json`: the summary of one run."""

    schema_version: Literal[1] = 1
    run: str
    verdict: Literal["VALID", "INVALID"]
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = Field(
        default=(), description="Faults that the run recovered from; `warnings` describes them."
    )
    manifest: str
    manifest_sha256: str
    job: dict[str, Any]
    model: ModelIdentity | None
    versions: dict[str, str]
    devices: tuple[DeviceInfo, ...]
    workers: Count
    counts: Counts
    cold_start: ColdStart | None = Field(description="The mean over the run's workers.")
    load: LoadTimes | None = Field(default=None, description="The mean over the run's workers.")
    images: Count = Field(default=0, description="Images of the done rows: each variant of a row is one.")
    seconds: Amount = Field(description="From the first worker's start to the last row's end.")
    images_per_second: Amount | None = Field(description="Images over `seconds`, cold start and waiting included.")
    images_per_second_warm: Amount | None = Field(description="Images over the seconds spent painting.")
    gpu_seconds_per_image: Amount | None = Field(description="Worker lifetime over images; CPU seconds on a CPU.")
    gpu_seconds: Amount | None = Field(default=None, description="The workers' lifetimes together.")
    cost: Amount | None = Field(
        default=None, description="`gpu_seconds` at INPAINT_GPU_HOUR_PRICE, in its currency; None without a price."
    )
    stages: dict[str, StageStats]
    stage_seconds: dict[str, Number] = Field(description="Seconds of work by stage, each batch counted once.")
    peak_memory: Memory | None
    ledger: tuple[LedgerEntry, ...]
    images_checked: int | None = Field(
        default=None, description="Images whose SHA-256 was compared with their records'; of the others the size was."
    )
    retries: tuple[RetryCounts, ...] = Field(default=(), description="The run's retries, in order.")
    failures: dict[str, int] = Field(default_factory=dict, description="Failed and rejected rows by error type.")
    measures: dict[str, MeasureSpread] = Field(
        default_factory=dict, description="How the done rows' measures are spread, by measure."
    )
    flags: dict[str, int] = Field(default_factory=dict, description="Done rows by what they are outliers in.")
    flagged: Count = Field(default=0, description="Done rows that are an outlier in anything.")
    pace: Pace | None = Field(default=None, description="What an image took; None where none was painted.")
    shard_basis: str = Field(default="", description="Why a shard has so many rows, by the plan.")
    profiles: tuple[str, ...] = Field(
        default=(), description="URIs of the traces that workers left of themselves, where the run was profiled."
    )
    choices: tuple[ChoiceCost, ...] = Field(
        default=(),
        description="What LoRAs, prompts, cutoffs of guidance, fills and variants cost, where the run has them.",
    )
    forecast: Forecast | None = Field(default=None, description="What the plan expected.")
    trace_rows: Count | None = Field(
        default=None, description="Rows that `trace.json` shows, where that is not all of them."
    )
    started_at: Moment | None
    finished_at: Moment | None
