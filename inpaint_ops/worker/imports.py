"""Importing the model stack, without touching a card.

A worker imports before it has a device. A library that asks CUDA while it is imported (xFormers does, for Triton) would
make a context on a card that another process has leased, and fix what this process may see of the cards for good.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

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
"""Idle OpenMP threads sleep, unless the environment sets another policy. Spinning, libgomp's default, they starve each
other on a machine that does anything else: 8.7 s against 0.14 s for a batch of the tiny model on two busy cores; on two
idle ones 0.08 against 0.13 s."""

NO_CARDS = {"CUDA_VISIBLE_DEVICES": "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Set while the model stack is imported, and no longer: torch then answers that there is no card without asking CUDA.

xFormers takes that as "no Triton". It changes no kernel here: its Triton kernels are for single queries with shared
keys (xformers/ops/fmha/dispatch.py), which SDXL's attention never has."""


def set_environment() -> None:
    """Set what the libraries read once, when they are imported."""
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault(*OMP_WAIT)


def import_model_stack() -> None:
    """Import what a worker uses of the model stack. Call `set_environment` first."""
    with _no_cards(), _no_garbage_collection():
        import inpaint_ops.engine
        import inpaint_ops.model.attention
        import inpaint_ops.model.compiled
        import inpaint_ops.model.loading  # noqa: F401


@contextmanager
def _no_cards() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in NO_CARDS}
    os.environ.update(NO_CARDS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Within the block no cycles are looked for: modules live on, and looking at them again and again while they are
    imported is a sixth of what the import costs (5.1 against 6.1 CPU seconds on two busy cores).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
