"""What a worker had and did, and what the attempts at a shard report: setup, report, faults, progress."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from inpaint_ops.records.base import LONGEST_SECONDS, Amount, Bytes, Count, Model, Moment, Number, Seconds
from inpaint_ops.records.loras import LoraIdentity
from inpaint_ops.records.painted import Memory
from inpaint_ops.records.rows import WorkerInfo

StartedBy = Literal["exec", "fork"]
"""How a worker's process came to be."""


MASKED_LATENTS = "masked latents"
"""How the ledger names the way in which a UNet of 4 channels paints into a mask."""


class LedgerEntry(Model):
    """One optimisation: requested, in effect, why, and what was measured."""

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
    demo_model: bool = Field(default=False, description="True for `demo`: small, and prompts have no effect.")
    digest: str = Field(
        default="",
        description="SHA-256 over the names and sizes of the weight files; of a model in one file, of its bytes.",
    )
    loras: tuple[LoraIdentity, ...] = Field(default=(), description="The LoRAs that were loaded beside it.")
    vae: str | None = Field(default=None, description="The VAE that took the place of the model's own.")
    vae_digest: str = Field(default="", description="The SHA-256 of its file.")
    fill_model: str | None = Field(default=None, description="The network that rows of fill `lama` were filled by.")
    fill_model_digest: str = Field(default="", description="The SHA-256 of its file.")


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
    if cold.total > LONGEST_SECONDS:
        raise ValueError("a cold start takes less than 30 years")
    return cold


class LoadTimes(Model):
    """Where the load's seconds went. `resolve` to `scores` are parts of the cold start, `download` came before it."""

    download: Seconds | None = Field(
        default=None, description="What fetching the model into this cache took; None: not known, or nothing to fetch."
    )
    resolve: Seconds = Field(default=0.0, description="Finding the model and checking that it is whole.")
    disk: Seconds = Field(default=0.0, description="Reading the weight files once through, into host memory.")
    device: Seconds = Field(default=0.0, description="Making the modules and bringing the weights to the device.")
    loras: Seconds = Field(default=0.0, description="Reading LoRAs, and merging them into the weights.")
    tune: Seconds = Field(default=0.0, description="Applying the tuning.")
    scores: Seconds = Field(default=0.0, description="Loading and trying the models that images are scored by.")


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
    started_by: StartedBy = Field(default="exec", description="A new interpreter, or a fork of the warm host.")
    not_forked: str = Field(default="", description="Why it was started by exec although a warm host is named.")
    attempt: str = ""
    shard: str = ""
    profile: str = Field(default="", description="URI of the trace that it left, where the job is profiled.")
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
