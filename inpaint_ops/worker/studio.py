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
from inpaint_ops.protocol import Job, Phase, Ready, Step, Warn
from inpaint_ops.records import ColdStart, Model, WorkerInfo

if TYPE_CHECKING:
    from inpaint_ops.engine import Engine
    from inpaint_ops.model.loading import LoadedModel

LEASES = "inpaint_ops-leases"
"""The folder, below the temporary one, where all workers of this host look for free devices."""

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
    folder = Path(tempfile.gettempdir()) / LEASES
    lease = device.Lease.acquire(slots, folder, job.lease_timeout, on_wait=lambda text: phase("lease", text))
    os.environ.update(device.environment_for(lease.device) | ENVIRONMENT)
    os.environ.setdefault(*OMP_WAIT)

    phase("imports", "torch, diffusers, transformers")
    clock = time.perf_counter()
    from inpaint_ops.engine import Engine
    from inpaint_ops.model.loading import load
    from inpaint_ops.model.random_weights import RECIPES
    from inpaint_ops.model.sources import resolve, verify

    imported = time.perf_counter()
    phase("load", job.model)
    card = device.describe(job.device)
    source = resolve(job.model, job.revision)
    native = (
        RECIPES[job.model].native_size if source.folder is None else verify(source.folder, strict=False).native_size
    )
    choice = tuning.choose(
        card,
        preset=job.tuning,
        overrides=job.tuning_overrides,
        native_size=native,
        expected_rows=job.expected_rows,
        use_xformers=job.use_xformers,
    )
    loaded = load(job, card, choice, phase)
    engine = Engine(
        loaded,
        loaded.tuning,
        on_step=lambda step, steps: say(Step(step=step, steps=steps)),
        on_warning=lambda text: say(Warn(message=text)),
    )
    cold_start = ColdStart(
        interpreter=max(0.0, interpreter), imports=imported - clock, load=time.perf_counter() - imported
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
            versions=versions(),
            native_size=loaded.native_size,
            batch_size=engine.batch_size,
        )
    )
    return Studio(job, lease, loaded, engine, cold_start)


def versions() -> dict[str, str]:
    """The versions of Python and of those PACKAGES that are installed."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
