"""Setting a worker up, in the one order that works: the model stack's modules, a leased device, a tuned model."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint_ops import device, tuning
from inpaint_ops.device.lease_files import LeaseFolder
from inpaint_ops.errors import ConfigError, DeviceLostError
from inpaint_ops.machine.private_folder import private_folder
from inpaint_ops.machine.processors import processors
from inpaint_ops.machine.scratch import room_for
from inpaint_ops.model.cache import cache_home
from inpaint_ops.protocol import MAX_PROMPTS, Job, Phase, Ready, Step, Warn
from inpaint_ops.records import ColdStart, DeviceInfo, LedgerEntry, Model, WorkerInfo
from inpaint_ops.worker.imports import import_model_stack, set_environment
from inpaint_ops.worker.installation import versions
from inpaint_ops.worker.painter import Painter, TunedModel

if TYPE_CHECKING:
    from inpaint_ops.engine import Engine
    from inpaint_ops.model.loading import LoadedModel
    from inpaint_ops.model.sources import FoundModel, Source

log = logging.getLogger(__name__)

_DTYPE = {"cuda": "float16", "cpu": "float32"}
"""What the planner takes where the job does not name one: the dtype in which attention kernels are tried."""

PROMPTS_REPORT_EVERY = 10.0
"""Seconds between signs of life while prompts are encoded."""


FEWEST_THREADS, MOST_THREADS = 2, 8
"""For decoding, and as many for compositing and encoding, each beside the painting: OpenCV and zlib leave the GIL."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What painting needs, ready for the work loop."""

    job: Job
    lease: device.Lease
    loaded: TunedModel
    engine: Painter
    cold_start: ColdStart
    threads: int = FEWEST_THREADS
    """For decoding, and as many for encoding."""
    about_device: tuple[LedgerEntry, ...] = ()
    """Of the ledger what the device says itself."""


def threads_for(cores: int, *, paints_on_them: bool) -> int:
    """Threads for decoding, and as many for encoding, of a worker that has so many processors for itself.

    One is left for the thread that feeds the card. Where the processors paint, they are busy with that.
    """
    if paints_on_them:
        return FEWEST_THREADS
    return max(FEWEST_THREADS, min(MOST_THREADS, (cores - 1) // 2))


def set_up(job: Job, send: Callable[[Model], None], *, started: float, interpreter: float) -> WorkerSetup:
    """Import, lease a device, load and tune, and send Ready. Raises DeviceError, ModelError, ConfigError.

    The lease is never released by hand: it ends with the process, as its video memory does, and not a moment sooner.
    `started` is in epoch seconds, `interpreter` the seconds until this package was imported.
    """
    report = _Reporter(send)
    # The leases are found before the temporary folder changes: a user's own lie below the machine's.
    leases = LeaseFolder.of(job.leases)
    _use_own_temporary_folder(Path(job.scratch))
    users_own_graphs = bool(os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
    # The environment comes before the imports: the libraries read it once, when they are imported.
    set_environment()
    clock = time.perf_counter()
    report.phase("imports", "torch, diffusers, transformers")
    import_model_stack()
    imported = time.perf_counter()
    # The lease comes after the imports, which need no device: the next task imports while this one's device paints.
    # What the process may see of the devices is settled before CUDA looks: nothing asks it during the imports.
    lease, sharing = _lease_device(job, leases, report)
    os.environ.update(device.environment_for(lease.device))
    _use_no_more_threads_than_granted()
    why_not = "" if lease.device.startswith("cpu-") else device.ask_to_wait(job.cuda_wait)
    leased = time.perf_counter()
    with _failures_noted(lease):
        # The device and the model's kind come before the tuning: it is chosen for both.
        report.phase("load", job.model)
        card = _describe_device(job, lease.device)
        source, resolving = _resolve(job)
        choice = _choose_tuning(job, card, source)
        # The weights are checked after the tuning is chosen, whose dtype says which files are read, and before any is
        # read: a damaged file costs no load.
        found = _check_weights(job, source, choice, resolving, report)
        # Where graphs are kept is settled before the load, whose last step may compile.
        if not users_own_graphs:
            _keep_graphs(found, choice, card, report)
        loaded = _load(job, found, card, choice, report)
        engine = _make_engine(job, loaded, report)
        ready = time.perf_counter()
        # Prompts come before Ready: rows may be painted from then on, and by then the text encoders' memory is free.
        _prepare_prompts(job, loaded, engine, report)
    cold_start = ColdStart(
        interpreter=max(0.0, interpreter),
        imports=imported - clock,
        load=ready - leased,
        prompts=time.perf_counter() - ready,
    )
    about_device = (device.inspect_waiting(job.cuda_wait, why_not),) if card.kind == "cuda" else ()
    threads = threads_for(processors() // max(1, sharing), paints_on_them=card.kind == "cpu")
    send(_ready(loaded, engine, card, cold_start, started, about_device))
    return WorkerSetup(job, lease, loaded, engine, cold_start, threads, about_device)


@contextmanager
def _failures_noted(lease: device.Lease) -> Iterator[None]:
    """Within the block a device that turns out to be broken is noted as lost, so that the next worker leases another.
    Raises DeviceLostError.
    """
    from inpaint_ops.model.torch_errors import is_device_lost

    try:
        yield
    except Exception as error:
        if not is_device_lost(error):
            raise
        reason = " ".join(str(error).split())[:300]
        lease.note_loss(reason)
        raise DeviceLostError(f"the device failed before the first row: {reason}") from error


def _describe_device(job: Job, slot: str) -> DeviceInfo:
    """What torch sees of the leased device. Raises ConfigError where it is a GPU and torch sees none (the worker would
    paint on the CPU, for days, and keep the GPU from others), or sees another one, which somebody else may use.
    """
    card = device.describe(job.device)
    if card.kind == "cpu" and not slot.startswith("cpu-"):
        raise ConfigError(
            f"GPU {slot} is leased, but torch {metadata.version('torch')} does not see it: install a driver that is "
            "new enough for this torch or a torch built for this driver's CUDA, give a container the driver "
            "capability compute, or set INPAINT_DEVICE=cpu to paint on the processor"
        )
    if slot.startswith("GPU-") and card.uuid and not card.uuid.lower().startswith(slot.lower()):
        raise ConfigError(
            f"GPU {slot} is leased, but torch uses {card.uuid}, since a library has asked CUDA before the lease: "
            "let each task see one GPU by CUDA_VISIBLE_DEVICES"
        )
    return card


class _Reporter:
    """Events of the setup and, as the engine's listener, of the painting."""

    def __init__(self, send: Callable[[Model], None]) -> None:
        self._send = send
        self._prompts_reported = time.monotonic()

    def phase(self, name: str, detail: str = "") -> None:
        self._send(Phase(name=name, detail=detail))

    def step(self, step: int, steps: int) -> None:
        self._send(Step(step=step, steps=steps))

    def prompt_encoded(self, done: int, total: int) -> None:
        if time.monotonic() - self._prompts_reported > PROMPTS_REPORT_EVERY:
            self._prompts_reported = time.monotonic()
            self.phase("prompts", f"{done:,} of {total:,} texts")

    def warning(self, message: str) -> None:
        self._send(Warn(message=message))

    def out_of_memory(self, message: str) -> None:
        log.warning("%s", message)  # which rows it is about, their records say
        self._send(Warn(message=message, fault="out_of_memory"))


def _use_no_more_threads_than_granted() -> None:
    """Have torch use no more threads than the control groups grant processors, unless a number is set."""
    if not os.environ.get("OMP_NUM_THREADS"):
        from inpaint_ops.model.loading import limit_threads

        limit_threads(processors())


def _lease_device(job: Job, folder: LeaseFolder, report: _Reporter) -> tuple[device.Lease, int]:
    """The lease, and how many devices this machine has for workers."""
    report.phase("lease")
    slots = device.host_slots(job.device, cpu_slots=int(os.environ.get("INPAINT_CPU_SLOTS") or 1))
    lease = device.Lease.acquire(slots, folder, job.lease_timeout, on_wait=lambda text: report.phase("lease", text))
    return lease, len(slots)


def _use_own_temporary_folder(scratch: Path) -> None:
    """Have every library's temporary files below the worker's own folder. In the machine's, names that can be guessed
    (`torchinductor_USER`, Inductor's `cache`, of pickles) belong to whoever makes them first. Raises ConfigError,
    ScratchFullError.
    """
    try:
        with room_for(scratch):
            folder = private_folder(scratch / "tmp")
    except OSError as error:
        raise ConfigError(f"the worker's scratch {scratch} cannot be used: {error.strerror}") from error
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _resolve(job: Job) -> tuple[Source, float]:
    """The model's place on this machine, and the seconds that it took to find."""
    from inpaint_ops.model.sources import resolve

    clock = time.perf_counter()
    source = resolve(job.model, job.revision, vae=job.vae, tokenizer=job.tokenizer)
    return source, time.perf_counter() - clock


def _choose_tuning(job: Job, card: DeviceInfo, source: Source) -> tuning.Choice:
    from inpaint_ops.model import attention
    from inpaint_ops.model.sources import workload

    return tuning.choose(
        card,
        preset=job.tuning,
        overrides=job.tuning_overrides,
        workload=workload(
            source,
            prompts_known=job.prompts is not None,
            loras=job.loras,
            fused=job.fuse_loras,
            clip_model=job.clip_model,
        ),
        expected_rows=job.expected_rows,
        use_xformers=job.use_xformers,
        probe=attention.probe(card, job.tuning_overrides.get("dtype") or _DTYPE[card.kind], cache_home()),
    )


def _check_weights(job: Job, source: Source, choice: tuning.Choice, resolving: float, report: _Reporter) -> FoundModel:
    from inpaint_ops.model.sources import find

    if job.fill_model is not None:
        report.phase("fill model", job.fill_model)
    if job.clip_model is not None or job.lpips_model is not None:
        report.phase("score models", ", ".join(filter(None, (job.clip_model, job.lpips_model))))
    return find(
        source, dtype=choice.tuning.dtype, published=True, seconds=resolving, loras=job.loras,
        fill_model=job.fill_model, clip_model=job.clip_model, lpips_model=job.lpips_model,
    )  # fmt: skip


def _keep_graphs(found: FoundModel, choice: tuning.Choice, card: DeviceInfo, report: _Reporter) -> None:
    """Have compiled graphs kept in the model cache for the next process; where that cannot be, the report says so."""
    from inpaint_ops.model import compiled

    if choice.tuning.compile != "off":
        digest = found.weights.digest if found.weights else found.source.name
        if reason := compiled.keep_in(compiled.cache_folder(cache_home(), card, digest, choice.tuning)):
            report.warning(reason)


def _load(job: Job, found: FoundModel, card: DeviceInfo, choice: tuning.Choice, report: _Reporter) -> LoadedModel:
    from inpaint_ops.model.loading import load

    return load(found, card, choice, report.phase, scheduler=job.scheduler, fuse_loras=job.fuse_loras)


def _make_engine(job: Job, loaded: LoadedModel, report: _Reporter) -> Engine:
    from inpaint_ops.engine import Engine
    from inpaint_ops.model.compiled import CompileWatch

    if loaded.is_compiled:
        CompileWatch(lambda seconds: report.phase("compile", f"{seconds:.0f} s so far"))
    return Engine(loaded, report, prompt_syntax=job.prompt_syntax)


def _prepare_prompts(job: Job, loaded: LoadedModel, engine: Engine, report: _Reporter) -> None:
    """Encode all texts of the job and drop the encoders, where the tuning says so; else note in the ledger why not."""
    if not loaded.tuning.release_text_encoders:
        return
    if loaded.adapters is not None and loaded.adapters.in_texts:
        loaded.why_not["release_text_encoders"] = "rows switch LoRAs that change the text encoders"
        return
    if job.prompts is None:
        loaded.why_not["release_text_encoders"] = f"the prompts were not known beforehand, or are over {MAX_PROMPTS:,}"
        return
    report.phase("prompts", f"{len(job.prompts):,} texts")
    engine.prepare_prompts(job.prompts)
    engine.release_text_encoders()


def _ready(
    loaded: LoadedModel,
    engine: Engine,
    card: DeviceInfo,
    cold_start: ColdStart,
    started: float,
    about_device: tuple[LedgerEntry, ...],
) -> Ready:
    return Ready(
        worker=WorkerInfo(
            pid=os.getpid(),
            host=socket.gethostname(),
            device=card.name,
            started_at=datetime.fromtimestamp(started, UTC),
        ),
        device=card,
        model=loaded.identity,
        tuning=loaded.tuning.model_dump(mode="json"),
        ledger=(*loaded.ledger, *about_device),
        cold_start=cold_start,
        load=loaded.load_times,
        versions=versions(),
        native_size=loaded.native_size,
        batch_size=engine.batch_size,
    )
