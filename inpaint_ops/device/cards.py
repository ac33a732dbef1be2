"""Which cards there are, how much memory they have, and which tier that is.

`visible_devices` and `host_slots` ask the driver's library, so they may be called anywhere; `describe` needs torch, so
only the worker calls it.

A *slot* names one device of this host: a GPU's or MIG instance's UUID as the driver has it, or `cpu-0`.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from inpaint_ops.device.nvml import ask, known
from inpaint_ops.errors import ConfigError
from inpaint_ops.records import DeviceInfo

GB = 10**9


class Tier(StrEnum):
    """Classes of memory: the cards that the optimisation notes' table names."""

    CPU = "cpu"
    GB10 = "10 GB"
    GB24 = "24 GB"
    GB40 = "40 GB"
    GB80 = "80+ GB"


def tier(device: DeviceInfo) -> Tier:
    """The largest tier whose size `device` reaches within 10 % (a "24 GB" A10 has 24.1e9 bytes, some boards less).

    A card below 10 GB counts as the 10 GB tier; a 16 GB card too: what matters below is its free memory.
    """
    if device.kind == "cpu":
        return Tier.CPU
    for size, name in ((80, Tier.GB80), (40, Tier.GB40), (24, Tier.GB24)):
        if device.total_memory >= 0.9 * size * GB:
            return name
    return Tier.GB10


@dataclass(frozen=True, slots=True)
class VisibleDevice:
    """A GPU or a MIG instance that this process may use. Memory in bytes; 0 where the driver does not say."""

    index: int
    uuid: str
    name: str
    total_memory: int = 0
    free_memory: int = 0
    capability: str = ""
    driver: str = ""

    def __str__(self) -> str:
        return f"GPU {self.index}: {self.name}, {self.total_memory / GB:.0f} GB, {self.uuid}"


def visible_devices(environment: Mapping[str, str] | None = None) -> list[VisibleDevice]:
    """The GPUs that CUDA would show this process, in CUDA's order; [] where there is none. Never imports torch.

    `CUDA_VISIBLE_DEVICES` is read as CUDA reads it: indices, UUIDs or their beginnings, MIG UUIDs; the list ends at the
    first entry that names nothing; empty means none. A GPU cut into MIG instances counts as its instances: as none,
    where there are none yet. Indices are in PCI order, as the driver has them: on a machine of unlike cards set
    `CUDA_DEVICE_ORDER=PCI_BUS_ID` or use UUIDs. Needs the driver's `libnvidia-ml.so.1` (in containers: the driver
    capability `utility`). A card that may not be opened, or has fallen off the bus, is left out.
    """
    environment = os.environ if environment is None else environment
    cards = ask(_cards) or []
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return [part for _, parts in cards for part in parts]
    found: list[VisibleDevice] = []
    for entry in (text.strip() for text in wanted.split(",")):
        matches = _named(entry, cards)
        if len(matches) != 1:
            break
        found.extend(part for part in matches[0] if part not in found)
    return found


_Card = tuple[VisibleDevice, list[VisibleDevice]]
"""A GPU, and what of it can be used: itself, or its MIG instances."""


def _named(entry: str, cards: list[_Card]) -> list[list[VisibleDevice]]:
    """What an entry of CUDA_VISIBLE_DEVICES can mean."""
    if entry.isdecimal():
        return [parts for gpu, parts in cards if gpu.index == int(entry)]
    if not entry.startswith(("GPU-", "MIG-")):
        return []
    whole = [parts for gpu, parts in cards if gpu.uuid.startswith(entry)]
    return whole + [[part] for gpu, parts in cards for part in parts if part != gpu and part.uuid.startswith(entry)]


def _cards(nvml: Any) -> list[_Card]:
    driver = known(nvml.nvmlSystemGetDriverVersion) or ""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu = _card(nvml, handle, index, driver)
            found.append((gpu, list(_parts(nvml, handle, gpu))))
        except nvml.NVMLError:  # one card that is lost or not ours leaves the others as they are
            continue
    return found


def _card(nvml: Any, handle: Any, index: int, driver: str) -> VisibleDevice:
    memory = known(nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = known(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    return VisibleDevice(
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=known(nvml.nvmlDeviceGetName, handle) or "GPU",
        total_memory=memory.total if memory else 0,
        free_memory=memory.free if memory else 0,
        capability="{}.{}".format(*capability) if capability else "",
        driver=driver,
    )


def _parts(nvml: Any, handle: Any, gpu: VisibleDevice) -> Iterator[VisibleDevice]:
    """The MIG instances of a GPU that is cut into such, or the GPU. The numbers of instances have gaps."""
    mode = known(nvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        yield gpu
        return
    for number in range(known(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = known(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is not None:
            yield replace(_card(nvml, part, gpu.index, gpu.driver), capability=gpu.capability)


def host_slots(device: str = "auto", *, cpu_slots: int = 1, environment: Mapping[str, str] | None = None) -> list[str]:
    """The slots of this host that work of kind `device` (auto, cpu, cuda) may lease, without torch.

    Raises ConfigError when cuda is asked for and no GPU is visible.
    """
    gpus = [] if device == "cpu" else [gpu.uuid for gpu in visible_devices(environment)]
    if device == "cuda" and not gpus:
        raise ConfigError("device cuda: no GPU is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES); use auto or cpu")
    return gpus or [f"cpu-{index}" for index in range(cpu_slots)]


def environment_for(slot: str) -> dict[str, str]:
    """The variables that confine a process to `slot`; to be set before it imports torch."""
    return {"CUDA_VISIBLE_DEVICES": "" if slot.startswith("cpu-") else slot}


def describe(device: str = "auto") -> DeviceInfo:
    """What torch sees: the first visible GPU, or the processor. Only the worker calls this: it imports torch.

    `device` is auto, cpu, cuda or cuda:N. Memory in bytes: the card's total and free now, or the machine's from
    /proc/meminfo. Raises ConfigError when cuda is asked for and torch has none.
    """
    import torch  # only the worker pays for it

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        total, free = _host_memory()
        return DeviceInfo(kind="cpu", name=_processor(), total_memory=total, free_memory=free)
    if not torch.cuda.is_available():
        raise ConfigError(f"device {device}: torch {torch.__version__} sees no CUDA GPU here; use auto or cpu")
    index = int(device.partition(":")[2] or 0) if device != "auto" else 0
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    uuid = str(getattr(properties, "uuid", ""))
    uuid = uuid if not uuid or uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    driver = next((gpu.driver for gpu in visible_devices() if gpu.driver), "")
    return DeviceInfo(
        kind="cuda",
        name=properties.name,
        total_memory=total,
        free_memory=free,
        capability=f"{properties.major}.{properties.minor}",
        driver=driver,
        uuid=uuid,
    )


def local_card(device: str = "auto") -> str:
    """The name of what this machine would paint on, as `describe` has it, without torch."""
    gpus = [] if device == "cpu" else visible_devices()
    return gpus[0].name if gpus else _processor()


def _host_memory() -> tuple[int, int]:
    """Total and available memory of the machine, bytes; zeros where /proc does not exist."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    kib = {match[1]: int(match[2]) for match in re.finditer(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", 0) * 1024


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return f"{match[1].strip() if match else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
