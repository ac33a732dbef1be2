"""What painting needs: a leased device, the model stack's modules, a loaded and tuned model."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint_ops import device, tuning
from inpaint_ops.device.lease_files import LeaseFolder
from inpaint_ops.errors import ConfigError
from inpaint_ops.machine.private_folder import private_folder
from inpaint_ops.machine.scratch import room_for
from inpaint_ops.model.cache import cache_home
from inpaint_ops.protocol import MAX_PROMPTS, Job, Phase, Ready, Step, Warn
from inpaint_ops.records import ColdStart, Model, WorkerInfo

if TYPE_CHECKING:
    from inpaint_ops.engine import Engine
    from inpaint_ops.model.loading import LoadedModel

PACKAGES = ("inpaint-ops", "torch", "diffusers", "transformers", "accelerate", "xformers", "safetensors", "pillow",
            "numpy", "opencv-python-headless")  # fmt: skip
"""Whose versions a report names."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "DIFFUSERS_VERBOSITY": "warning",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before the model stack is imported: it reads these once. The worker has no network."""

_DTYPE = {"cuda": "float16", "cpu": "float32"}
"""What the planner takes where nobody says otherwise: the dtype in which attention kernels are tried."""

PROMPTS_SAY_EVERY = 10.0
"""Seconds between signs of life while prompts are encoded."""

OMP_WAIT = ("OMP_WAIT_POLICY", "PASSIVE")
"""Idle OpenMP threads sleep, unless the environment says otherwise. Spinning, as is libgomp's default, they starve each
other on a machine that does anything else: 8.7 s against 0.14 s for a batch of the tiny model on two busy cores; on two
idle ones 0.08 against 0.13 s."""


@dataclass(frozen=True, slots=True)
class Studio:
    """What is ready once the model is loaded."""

    job: Job
    lease: device.Lease
    loaded: LoadedModel
    engine: Engine
    cold_start: ColdStart


def open_studio(job: Job, say: Callable[[Model], None], *, started: float, interpreter: float) -> Studio:
    """Lease a device, import, load and tune, and say Ready. Raises DeviceError, ModelError, ConfigError.

    The lease is never released by hand: it ends with the process, as its video memory does, and not a moment sooner.
    """

    def phase(name: str, detail: str = "") -> None:
        say(Phase(name=name, detail=detail))

    phase("lease")
    slots = device.host_slots(job.device, cpu_slots=int(os.environ.get("INPAINT_CPU_SLOTS") or 1))
    folder = LeaseFolder.of(job.leases)
    lease = device.Lease.acquire(slots, folder, job.lease_timeout, on_wait=lambda text: phase("lease", text))
    _keep_to(Path(job.scratch))
    os.environ.update(device.environment_for(lease.device) | ENVIRONMENT)
    os.environ.setdefault(*OMP_WAIT)

    phase("imports", "torch, diffusers, transformers")
    clock = time.perf_counter()
    users_own_cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    from inpaint_ops.engine import Engine
    from inpaint_ops.model import attention, compiled
    from inpaint_ops.model.loading import load
    from inpaint_ops.model.random_weights import RECIPES
    from inpaint_ops.model.sources import check_published, resolve, verify

    imported = time.perf_counter()
    phase("load", job.model)
    card = device.describe(job.device)
    source = resolve(job.model, job.revision)
    found = None if source.folder is None else verify(source.folder, strict=False)
    if found is not None:
        check_published(found)
    native = found.native_size if found else RECIPES[job.model].native_size
    choice = tuning.choose(
        card,
        preset=job.tuning,
        overrides=job.tuning_overrides,
        native_size=native,
        expected_rows=job.expected_rows,
        use_xformers=job.use_xformers,
        probe=attention.probe(card, job.tuning_overrides.get("dtype") or _DTYPE[card.kind], cache_home()),
    )
    if choice.tuning.compile != "off" and not users_own_cache:
        weights = found.digest if found else job.model
        graphs = compiled.cache_folder(cache_home(), card, weights, choice.tuning)
        if reason := compiled.keep_in(graphs):
            say(Warn(message=reason))
    loaded = load(job, card, choice, phase)
    engine = Engine(
        loaded,
        loaded.tuning,
        on_step=lambda step, steps: say(Step(step=step, steps=steps)),
        on_warning=lambda text: say(Warn(message=text)),
        on_out_of_memory=lambda text: say(Warn(message=text, fault="out_of_memory")),
        fixed_size=loaded.is_compiled,
        relieve=loaded.relieve,
        compile_seconds=compiled.seconds if loaded.is_compiled else lambda: 0.0,
        uncompile=loaded.uncompile,
        kernels=lambda: attention.preferring(loaded.tuning.attention),
    )
    ready = time.perf_counter()
    _prepare_prompts(job, loaded, engine, phase)
    cold_start = ColdStart(
        interpreter=max(0.0, interpreter),
        imports=imported - clock,
        load=ready - imported,
        prompts=time.perf_counter() - ready,
    )
    say(
        Ready(
            worker=WorkerInfo(
                pid=os.getpid(),
                host=socket.gethostname(),
                device=card.name,
                started_at=datetime.fromtimestamp(started, UTC),
            ),
            device=card,
            model=loaded.identity,
            tuning=loaded.tuning.model_dump(mode="json"),
            ledger=loaded.ledger,
            cold_start=cold_start,
            load=loaded.load_times,
            versions=versions(),
            native_size=loaded.native_size,
            batch_size=engine.batch_size,
        )
    )
    return Studio(job, lease, loaded, engine, cold_start)


def _keep_to(scratch: Path) -> None:
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


def _prepare_prompts(job: Job, loaded: LoadedModel, engine: Engine, phase: Callable[[str, str], None]) -> None:
    """Encode all texts of the job and drop the encoders, where the tuning says so; else tell the ledger why not."""
    if not loaded.tuning.release_text_encoders:
        return
    if job.prompts is None:
        loaded.why_not["release_text_encoders"] = f"the prompts were not known beforehand, or are over {MAX_PROMPTS:,}"
        return
    total, told = len(job.prompts), time.monotonic()
    phase("prompts", f"{total:,} texts")

    def one_done(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > PROMPTS_SAY_EVERY:
            told = time.monotonic()
            phase("prompts", f"{done:,} of {total:,} texts")

    engine.prepare_prompts(job.prompts, one_done)
    engine.release_text_encoders()


def versions() -> dict[str, str]:
    """The versions of Python and of those PACKAGES that are installed."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
