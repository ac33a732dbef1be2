"""Which cards there are, how much memory they have, and which tier that is.

`visible_devices` and `host_slots` ask the driver's own tool, so they may be called anywhere; `describe` needs torch, so
only the worker calls it.

A *slot* names one device of this host: a GPU's or MIG instance's UUID as the driver prints it, or `cpu-0`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

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

    @property
    def is_mig(self) -> bool:
        """Whether this is a part of a GPU."""
        return self.uuid.startswith("MIG-")


def visible_devices(environment: Mapping[str, str] | None = None) -> list[VisibleDevice]:
    """The GPUs that CUDA would show this process, in CUDA's order; [] where there is none. Never imports torch.

    `CUDA_VISIBLE_DEVICES` is read as CUDA reads it: indices, UUIDs or their beginnings, MIG UUIDs; the list ends at the
    first entry that names nothing; empty means none. A GPU cut into MIG instances counts as its instances. Indices are
    in PCI order, as the driver's tool has them: on a machine of unlike cards set `CUDA_DEVICE_ORDER=PCI_BUS_ID` or use
    UUIDs. Needs `nvidia-smi` on the PATH (in containers: the driver capability `utility`).
    """
    environment = os.environ if environment is None else environment
    gpus = _query_gpus()
    if not gpus:
        return []
    instances = _query_mig(gpus)
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return [part for gpu in gpus for part in (instances.get(gpu.uuid) or [gpu])]
    found: list[VisibleDevice] = []
    everything = [*gpus, *(part for parts in instances.values() for part in parts)]
    for entry in (text.strip() for text in wanted.split(",")):
        matches = _named(entry, gpus, everything)
        if len(matches) != 1:
            break
        chosen = matches[0]
        found.extend(part for part in (instances.get(chosen.uuid) or [chosen]) if part not in found)
    return found


def _named(entry: str, gpus: list[VisibleDevice], everything: list[VisibleDevice]) -> list[VisibleDevice]:
    if entry.isdigit():
        return [gpu for gpu in gpus if gpu.index == int(entry)]
    return [one for one in everything if entry.startswith(("GPU-", "MIG-")) and one.uuid.startswith(entry)]


def host_slots(device: str = "auto", *, cpu_slots: int = 1) -> list[str]:
    """The slots of this host that work of kind `device` (auto, cpu, cuda) may lease, without torch.

    Raises ConfigError when cuda is asked for and no GPU is visible.
    """
    gpus = [] if device == "cpu" else [gpu.uuid for gpu in visible_devices()]
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


def nvidia_smi(*arguments: str) -> str:
    """What the driver's own tool prints; nothing where it is not there or fails."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _query_gpus() -> list[VisibleDevice]:
    fields = "index,uuid,name,memory.total,memory.free,compute_cap,driver_version"
    gpus = []
    for line in nvidia_smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits").splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 7 and parts[0].isdigit():
            total, free = (int(part) * 2**20 if part.isdigit() else 0 for part in parts[3:5])
            gpus.append(VisibleDevice(int(parts[0]), parts[1], parts[2], total, free, parts[5], parts[6]))
    return gpus


def _query_mig(gpus: list[VisibleDevice]) -> dict[str, list[VisibleDevice]]:
    """MIG instances by their GPU's UUID, from `nvidia-smi -L`. Their memory is read from the profile (`1g.10gb`)."""
    found: dict[str, list[VisibleDevice]] = {}
    parent: VisibleDevice | None = None
    for line in nvidia_smi("-L").splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)", line):
            parent = next((gpu for gpu in gpus if gpu.uuid == match[1]), None)
        elif parent and (match := re.match(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)", line)):
            size = re.search(r"(\d+)gb", match[1])
            memory = int(size[1]) * GB if size else 0
            name = f"{parent.name} MIG {match[1]}"
            part = VisibleDevice(parent.index, match[3], name, memory, memory, parent.capability, parent.driver)
            found.setdefault(parent.uuid, []).append(part)
    return found


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
