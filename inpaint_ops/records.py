"""What a run writes as JSON: records, notes, worker reports, run summaries. Read back, all of it is foreign data.

Units everywhere: seconds, bytes, pixels. Times of day are UTC.
"""

from __future__ import annotations

import operator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from inpaint_ops.errors import InpaintOpsError, one_line

Status = Literal["done", "failed", "rejected"]
Stage = Literal["validate", "download", "decode", "encode_prompt", "denoise", "encode", "upload", "worker", "device"]

STAGES: tuple[str, ...] = (
    "download", "decode", "encode_prompt", "vae_encode", "denoise", "vae_decode", "composite", "encode", "upload",
)  # fmt: skip
"""The stages of a row, in the order in which it passes them."""

BATCH_STAGES = frozenset({"encode_prompt", "vae_encode", "denoise", "vae_decode"})
"""Stages that a whole batch shares: each of its rows carries the batch's full duration, never a share of it."""


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def _plausible(moment: datetime) -> datetime:
    """A time of day that calendars, tables and sums can hold."""
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("a time is from 1970 to 2200")
    return moment


# What is read back may have been written by anybody: bounds keep sums finite, and numbers within a table's columns.
Moment = Annotated[AwareDatetime, AfterValidator(_plausible)]
"""A time of day with its offset from UTC."""
_LONGEST = 1e9
Seconds = Annotated[float, Field(ge=0, le=_LONGEST)]
"""One measured duration: up to 30 years."""
Amount = Annotated[float, Field(ge=0, le=1e15)]
"""A sum of durations, or a rate."""
Expected = Annotated[float, Field(ge=0, le=1e30)]
"""A forecast: made of amounts that others have left in the store."""
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]


class Model(BaseModel):
    """The base of all data that crosses a boundary: frozen, forbids unknown keys, rejects NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ErrorInfo(Model):
    """Why a row has no image."""

    type: str = Field(description="The error's class.")
    stage: Stage = Field(description="Where it happened.")
    message: str = Field(description="One line: what is wrong and what to do.")
    permanent: bool = Field(description="Whether trying again would end the same way.")
    field: str | None = Field(default=None, description="The manifest field at fault, for a rejected row.")

    @classmethod
    def of(cls, error: BaseException, stage: Stage, *, field: str | None = None) -> ErrorInfo:
        """Describe `error`. Of errors that are not ours, those of the system (a full disk, no memory) count as
        transient; the rest as permanent, since a retry would repeat a bug.
        """
        permanent = (
            error.permanent if isinstance(error, InpaintOpsError) else not isinstance(error, OSError | MemoryError)
        )
        message = one_line(" ".join(str(error).split()) or type(error).__name__)
        return cls(type=type(error).__name__, stage=stage, message=message, permanent=permanent, field=field)


class Output(Model):
    """The image that a row produced."""

    uri: str
    sha256: str
    bytes: Bytes
    width: Count
    height: Count
    format: str


class Batch(Model):
    """The batch that a row was painted in."""

    id: str
    size: int = Field(ge=1, le=2**31 - 1)


class Timings(Model):
    """Seconds by stage; None where the row did not get that far. Batch stages carry the batch's duration."""

    download: Seconds | None = None
    decode: Seconds | None = None
    encode_prompt: Seconds | None = None
    vae_encode: Seconds | None = None
    denoise: Seconds | None = None
    vae_decode: Seconds | None = None
    composite: Seconds | None = None
    encode: Seconds | None = None
    upload: Seconds | None = None


class Memory(Model):
    """Peak device memory while the row's batch was painted, in bytes; on a CPU the process's peak resident size."""

    peak_allocated: Bytes
    peak_reserved: Bytes


class WorkerInfo(Model):
    """The process that painted the row."""

    pid: Count
    host: str
    device: str
    started_at: Moment


Levels = Annotated[float, Field(ge=0, le=255)]
"""A difference of pixels, in 8-bit levels."""


class Measured(Model):
    """What a worker measures of every row: part of its event and of the row's record."""

    change: Levels | None = Field(
        default=None, description="How much the masked part changed, as it is seen, in 8-bit levels (0 to 255)."
    )
    timings: Timings = Timings()


class Painted(Measured):
    """What a worker measures of a row with an image. A new field is written here and where the worker measures it."""

    steps: Count | None = Field(default=None, description="Denoising steps that really ran.")
    working_size: tuple[Count, Count] | None = Field(
        default=None, description="Width and height that the model painted."
    )
    conversions: tuple[str, ...] = Field(
        default=(), description="What the source, the mask or the output format did not keep or was taken for."
    )
    batch: Batch | None = None
    memory: Memory | None = None


class MaskMeaning(Model):
    """How a row's mask was asked to be read."""

    mask_channel: str = "auto"
    mask_threshold: int | None = None
    mask_invert: bool = False


class EarlierAttempt(Model):
    """How a row ended before it was done again."""

    retry: Count = Field(default=0, description="0: in the run itself; n: in its nth retry.")
    attempt: str
    status: Status
    error: ErrorInfo | None = None
    output: Output | None = None
    finished_at: Moment


class Record(Painted, MaskMeaning):
    """How one row ended. One object per row and retry, put if absent: the only commit point. The newest counts."""

    schema_version: Literal[1] = 1
    id: str
    row: int = Field(
        ge=1, le=2**31 - 1, description="The row's line in the manifest (its index, from 1, in a Parquet one)."
    )
    status: Status
    attempt: str = Field(description="Unique to the attempt that wrote this record.")
    retry: Count = Field(
        default=0, exclude_if=operator.not_, description="n: written by the run's nth retry; absent: by the run itself."
    )
    earlier: tuple[EarlierAttempt, ...] = Field(
        default=(),
        exclude_if=operator.not_,
        description="The row's records before this one, the oldest first; in `results.jsonl`, where there are any.",
    )
    error: ErrorInfo | None = None
    output: Output | None = None
    prompt: str = ""
    seed: int | None = None
    steps_requested: Count | None = None
    guidance_scale: Number | None = None
    strength: Number | None = None
    source: str | None = Field(default=None, description="The image's URI.")
    mask: str | None = Field(default=None, description="The mask's URI.")
    worker: WorkerInfo | None = None
    started_at: Moment
    finished_at: Moment
    extra: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ends_in_an_image_or_a_reason(self) -> Record:
        if (self.status == "done") != (self.output is not None) or (self.status == "done") == (self.error is not None):
            raise ValueError("a done row has an output and no error; any other has an error and no output")
        return self


class LedgerEntry(Model):
    """One optimisation: asked for, in force, why, and what was measured."""

    name: str
    requested: str
    effective: str
    matches: bool
    reason: str = ""
    measured: dict[str, Number] = Field(default_factory=dict)


class ModelIdentity(Model):
    """The weights that painted."""

    name: str
    revision: str | None = None
    dtype: str = ""
    random_weights: bool = Field(description="True where the weights are random: the images mean nothing.")
    digest: str = Field(default="", description="SHA-256 over the names and sizes of the weight files.")


class ColdStart(Model):
    """Seconds from the worker's exec to its first painted batch."""

    interpreter: Amount = 0.0
    imports: Amount = 0.0
    load: Amount = 0.0
    prompts: Amount = Field(default=0.0, description="Encoding the shard's prompts before the first batch.")
    compile: Amount = Field(default=0.0, description="Compiling, or reading what an earlier process compiled.")
    first_call: Amount = Field(default=0.0, description="How much longer the first batch took than the median one.")

    @property
    def total(self) -> float:
        """All parts together."""
        return self.interpreter + self.imports + self.load + self.prompts + self.compile + self.first_call


def _of_one_worker(cold: ColdStart) -> ColdStart:
    if cold.total > _LONGEST:
        raise ValueError("a cold start takes less than 30 years")
    return cold


class LoadTimes(Model):
    """Where the load's seconds went. `resolve` to `tune` are parts of the cold start, `download` came before it."""

    download: Seconds | None = Field(
        default=None, description="What fetching the model into this cache took; None: not known, or nothing to fetch."
    )
    resolve: Seconds = Field(default=0.0, description="Finding the model and checking that it is whole.")
    disk: Seconds = Field(default=0.0, description="Reading the weight files once through, into host memory.")
    device: Seconds = Field(default=0.0, description="Making the modules and bringing the weights to the device.")
    tune: Seconds = Field(default=0.0, description="Applying the tuning.")


class DeviceInfo(Model):
    """The card (or the processor) that a worker had."""

    kind: Literal["cuda", "cpu"]
    name: str
    total_memory: Bytes = 0
    free_memory: Bytes = 0
    capability: str = ""
    driver: str = ""
    uuid: str = ""


FaultKind = Literal[
    "worker_died", "worker_stalled", "try_stopped", "try_killed", "storage_repeated", "out_of_memory", "image_adopted",
]  # fmt: skip


class Fault(Model):
    """A kind of fault that the run recovered from, or at least survived: how often, and a description of the last."""

    kind: FaultKind
    count: int = Field(ge=1, le=2**31 - 1)
    what: str = Field(default="", description="The last one.")


class AttemptFaults(Model):
    """The faults that one attempt at a shard has recovered from so far; written once there is one."""

    schema_version: Literal[1] = 1
    shard: str
    attempt: str
    faults: tuple[Fault, ...]


class WorkerSetup(Model):
    """What a worker has and has loaded: it sends this once it is ready, and its report repeats it."""

    worker: WorkerInfo
    device: DeviceInfo
    model: ModelIdentity
    tuning: dict[str, Any]
    ledger: tuple[LedgerEntry, ...]
    cold_start: Annotated[ColdStart, AfterValidator(_of_one_worker)]
    load: LoadTimes | None = None
    versions: dict[str, str]


class WorkerReport(WorkerSetup):
    """The report of one worker process: written once per worker, read when the run's report is made."""

    finished_at: Moment
    busy: Seconds = Field(default=0.0, description="Seconds spent painting batches.")
    painted: Count = 0
    peak_memory: Memory | None = None
    exit: str = Field(default="clean", description="How the process ended: clean, or the signal or error.")
    attempt: str = ""
    shard: str = ""
    warnings: tuple[str, ...] = ()


class ShardProgress(Model):
    """How far one attempt at a shard is: written anew every few seconds, for live views.

    It decides nothing: only records state how rows ended.
    """

    schema_version: Literal[1] = 1
    shard: str
    attempt: str
    rows: Count
    done: Count = Field(description="Rows with an image, those of earlier attempts included.")
    failed: Count = Field(description="Rows that this attempt recorded as failed.")
    phase: str = Field(description="What the worker does; `finished` or `stopped` when the attempt is over.")
    images_per_second: Amount | None = None
    seconds_left: Amount | None = None
    worker_silent: Amount | None = Field(
        default=None, description="Seconds since the painting worker's last event; None while none is due."
    )
    device: str = ""
    interval: Amount = Field(description="Seconds after which the next update is due.")
    updated_at: Moment

    @property
    def is_over(self) -> bool:
        """Whether the attempt has reported its end; one that was killed never does."""
        return self.phase in ("finished", "stopped")


class StageStats(Model):
    """The distribution of one stage's seconds over the rows that passed it."""

    count: Count
    mean: Amount
    p50: Amount
    p90: Amount
    p95: Amount
    p99: Amount
    max: Amount


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


class Pace(Model):
    """What painting an image took in a run, cold starts left out: what later runs are forecast from."""

    images: Count = Field(description="Done rows.")
    steps: Amount = Field(description="Mean steps that ran, of the done rows.")
    step_seconds: Amount = Field(description="Denoise seconds over the images' steps; a batch's seconds count once.")
    other_seconds: Amount = Field(description="Seconds per image of the other stages that a batch shares.")
    waiting_seconds: Amount = Field(description="Seconds per image of the workers' lifetimes that were not painting.")


class Forecast(Model):
    """What a run was expected to take, and what that is based on; None is unknown."""

    seconds: Expected | None = Field(
        default=None, description="Until the last shard is done, without queues or retries."
    )
    gpu_seconds: Expected | None = Field(default=None, description="The workers' lifetimes together.")
    seconds_per_image: Expected | None = None
    cold_start: Expected | None = Field(default=None, description="Seconds of a worker.")
    peak_memory: Bytes | None = Field(default=None, description="Reserved bytes of the card.")
    devices: Count = Field(default=1, description="Cards that would share the shards.")
    card: str = ""
    basis: str = Field(description="What it is made of.")

    def in_words(self) -> str:
        """One line, for a log or a terminal."""
        if self.seconds is None or self.gpu_seconds is None:
            return self.basis
        peak = f", {self.peak_memory / 1e9:.1f} GB at the peak" if self.peak_memory else ", peak memory unknown"
        many = "1 device" if self.devices == 1 else f"{self.devices} devices"
        return f"about {self.seconds:.0f} s on {many}, {self.gpu_seconds:.0f} device-seconds{peak}; by {self.basis}"


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
    seconds: Amount = Field(description="From the first worker's start to the last row's end.")
    images_per_second: Amount | None = Field(description="Done rows over `seconds`, cold start and waiting included.")
    images_per_second_warm: Amount | None = Field(description="Done rows over the seconds spent painting.")
    gpu_seconds_per_image: Amount | None = Field(description="Worker lifetime over done rows; CPU seconds on a CPU.")
    stages: dict[str, StageStats]
    stage_seconds: dict[str, Number] = Field(description="Seconds of work by stage, each batch counted once.")
    peak_memory: Memory | None
    ledger: tuple[LedgerEntry, ...]
    images_checked: int | None = Field(
        default=None, description="Images whose SHA-256 was compared with their records'; of the others the size was."
    )
    retries: tuple[RetryCounts, ...] = Field(default=(), description="The run's retries, in order.")
    failures: dict[str, int] = Field(default_factory=dict, description="Failed and rejected rows by error type.")
    pace: Pace | None = Field(default=None, description="What an image took; None where none was painted.")
    shard_basis: str = Field(default="", description="Why a shard has so many rows, by the plan.")
    forecast: Forecast | None = Field(default=None, description="What the plan expected.")
    started_at: Moment | None
    finished_at: Moment | None
