"""Which devices of this machine one command paints on: all, so many, or those that somebody names."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from inpaint_ops.device.cards import VisibleDevice, host_slots, visible_devices
from inpaint_ops.errors import ConfigError
from inpaint_ops.machine.processors import processors

AUTO = "auto"

MOST = 64
"""Devices that one command paints on: more have no machine that we know of."""


def choose_devices(wanted: str, device: str = "auto", environment: MutableMapping[str, str] = os.environ) -> int:
    """How many devices to paint on, and, in `environment`, the variables that confine workers to them.

    `wanted` is "auto" (every GPU that CUDA would show; without one the workers that INPAINT_CPU_SLOTS allows), a number
    of devices, or the ones to use, with commas between: GPU numbers as nvidia-smi has them, or UUIDs ("0,2"; "0," is
    the first alone; a GPU that is cut into MIG instances stands for all of them). `device` is the job's: auto, cpu,
    cuda. Where there is no GPU, a number is one of processes that share the processors, each with its part of the
    cores unless OMP_NUM_THREADS says otherwise.

    Raises ConfigError for what is no such choice, and for devices that this machine does not have.
    """
    text = wanted.strip()
    gpus = [] if device == "cpu" else visible_devices(environment)
    if text == AUTO:
        return len(host_slots(device, cpu_slots=_cpu_slots(environment), environment=environment))
    if text.isdecimal():
        return _so_many(int(text), device, gpus, environment)
    named = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not named:
        raise ConfigError(f"--devices {wanted!r}: write auto, a number of devices, or which ones, as 0,2")
    if not gpus:
        raise ConfigError(f"--devices {wanted}: no GPU is visible here that could be named; write a number of workers")
    chosen = list(dict.fromkeys(gpu.uuid for entry in named for gpu in _named(entry, gpus, wanted)))
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    return len(chosen)


def _so_many(count: int, device: str, gpus: list[VisibleDevice], environment: MutableMapping[str, str]) -> int:
    if not 1 <= count <= MOST:
        raise ConfigError(f"--devices {count}: 1 to {MOST}")
    if gpus or device == "cuda":
        if count > len(gpus):
            raise ConfigError(f"--devices {count}: {_shown(gpus)}; write auto for all that are visible")
        return count
    if count > _cpu_slots(environment):
        environment["INPAINT_CPU_SLOTS"] = str(count)
    if count > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, processors() // count)))
    return count


def _named(entry: str, gpus: list[VisibleDevice], wanted: str) -> list[VisibleDevice]:
    """The visible devices that `entry` names: one, or the instances of a GPU that is cut into such."""
    found = [gpu for gpu in visible_devices({"CUDA_VISIBLE_DEVICES": entry}) if gpu in gpus]
    if not found:
        raise ConfigError(f"--devices {wanted}: {entry!r} names no device, or not one alone; {_shown(gpus)}")
    return found


def _shown(gpus: list[VisibleDevice]) -> str:
    if not gpus:
        return "no GPU is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES)"
    return f"visible here: {'; '.join(map(str, gpus))}"


def _cpu_slots(environment: MutableMapping[str, str]) -> int:
    """Workers that may share the processors: INPAINT_CPU_SLOTS, else 1. Raises ConfigError."""
    text = environment.get("INPAINT_CPU_SLOTS") or "1"
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise ConfigError(f"INPAINT_CPU_SLOTS is {text!r}: write a number from 1 to {MOST}")
    return int(text)
