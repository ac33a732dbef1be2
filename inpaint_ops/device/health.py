"""What the driver says of a card's condition: memory errors, rows and pages taken out of use, slowed clocks, Xids.

The supervisor asks, without torch, when a worker starts and after it exits, so that a card that killed its worker is
reported too. What a driver or a card does not tell is no warning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint_ops.device.nvml import ask, known

KERNEL_LOG = Path("/dev/kmsg")
"""Where the driver's Xid messages are; who may read it is the system's choice (`kernel.dmesg_restrict`)."""

SLOWED_SECONDS = 1.0
"""Time with a slowed clock, during one worker's life, that is worth a warning ..."""

SLOWED_SHARE = 0.01
"""... and its share of that life."""

_SLOWED = {
    "heat": (0x20 | 0x40, (269, 270, 75)),
    "the power supply": (0x80, (271,)),
}
"""By reason: the bits of it in NVML's mask of clock event reasons (software's and hardware's thermal slowdown, the
hardware's power brake), and the fields that count the time, in ns since the driver was loaded (the same, and the
thermal policy's, which older drivers have alone). The software's power cap is no reason to warn: a card at full load is
held at its power limit all the time."""

_POWER_CAP, _SOFTWARE_HEAT = 74, (269, 75)
_RETIRED, _RETIREMENT_DUE = 30, (31, 92, 93)
_REMAPPED, _REMAPPING_DUE, _REMAPPING_FAILED = 143, 144, 145
_RECOVERY = 230
_FIELDS = (_POWER_CAP, 269, 270, 271, 75, _RETIRED, *_RETIREMENT_DUE, _REMAPPED, _REMAPPING_DUE, _REMAPPING_FAILED,
           _RECOVERY)  # fmt: skip
"""NVML's numbers of them (nvml.h, NVML_FI_DEV_*)."""

_RECOVERIES = (
    "", "Reset", "Reboot", "Drain P2P", "Drain and Reset", "Recover IMEX Domain", "Bus Reset", "System Reboot"
)  # fmt: skip
"""What NVML_GPU_RECOVERY_ACTION_* ask for, by number."""

_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Where a field's value is, by its NVML_VALUE_TYPE."""

_DRAM, _SRAM = 2, 7

_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:]+)\): (\d+)")


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """One card at one moment; None where the driver does not say. Memory errors are those since the card's reset."""

    name: str
    uncorrected_errors: int | None = None
    rows_remapped: int | None = None
    pages_retired: int | None = None
    reset_due: str = ""
    remapping_failed: bool = False
    slowed_now: tuple[str, ...] = ()
    slowed_seconds: tuple[tuple[str, float], ...] = ()
    xids: tuple[str, ...] = ()


def device_health(uuid: str) -> DeviceHealth | None:
    """The condition of the card with this UUID (for a MIG instance: of its card); None where it does not answer."""
    return ask(lambda nvml: _read(nvml, uuid)) if uuid else None


def _read(nvml: Any, uuid: str) -> DeviceHealth:
    card = nvml.nvmlDeviceGetHandleByUUID(uuid)
    if uuid.startswith("MIG-"):
        card = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(card)
    fields = _fields(nvml, card)
    action = fields.get(_RECOVERY, 0)
    due = any(fields.get(field) for field in (_REMAPPING_DUE, *_RETIREMENT_DUE))
    asked = (_RECOVERIES[action] if action < len(_RECOVERIES) else f"action {action}") or ("Reset" if due else "")
    pci = known(nvml.nvmlDeviceGetPciInfo, card)
    return DeviceHealth(
        name=f"{known(nvml.nvmlDeviceGetName, card) or 'GPU'} ({nvml.nvmlDeviceGetUUID(card)})",
        uncorrected_errors=_uncorrected(nvml, card),
        rows_remapped=fields.get(_REMAPPED),
        pages_retired=fields.get(_RETIRED),
        reset_due=asked,
        remapping_failed=bool(fields.get(_REMAPPING_FAILED)),
        slowed_now=tuple(_slowed_now(nvml, card)),
        slowed_seconds=tuple(_slowed_seconds(fields)),
        xids=tuple(_xids(_text(pci.busId) if pci else "")),
    )


def _fields(nvml: Any, card: Any) -> dict[int, int]:
    """Those of the fields that this card and driver have."""
    values = known(nvml.nvmlDeviceGetFieldValues, card, list(_FIELDS)) or ()
    return {
        one.fieldId: int(getattr(one.value, _MEMBERS[one.valueType]))
        for one in values
        if one.nvmlReturn == nvml.NVML_SUCCESS and one.valueType < len(_MEMBERS)
    }


def _uncorrected(nvml: Any, card: Any) -> int | None:
    """Since the last reset: DRAM's and SRAM's, or the sum over all of them, where a card counts only one of these."""
    kind = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    parts = [known(nvml.nvmlDeviceGetMemoryErrorCounter, card, *kind, where) for where in (_DRAM, _SRAM)]
    total = known(nvml.nvmlDeviceGetTotalEccErrors, card, *kind)
    counted = [count for count in parts if count is not None]
    sums = [*([sum(counted)] if counted else []), *([total] if total is not None else [])]
    return max(sums, default=None)


def _slowed_now(nvml: Any, card: Any) -> Iterator[str]:
    reasons = known(nvml.nvmlDeviceGetCurrentClocksEventReasons, card)
    if reasons is None:  # drivers before 535
        reasons = known(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, card)
    yield from (why for why, (bits, _) in _SLOWED.items() if (reasons or 0) & bits)


def _slowed_seconds(fields: dict[int, int]) -> Iterator[tuple[str, float]]:
    """Seconds by reason, counted up since the driver was loaded."""
    capped = fields.get(_POWER_CAP)
    for why, (_, names) in _SLOWED.items():
        # Drivers have been seen to give the power cap's count here as well (575.51 on an RTX 4070).
        counts = [fields[name] for name in names
                  if name in fields and not (name in _SOFTWARE_HEAT and fields[name] == capped)]  # fmt: skip
        if counts:
            yield why, max(counts) / 1e9


def _text(value: bytes | str) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _xids(bus_id: str) -> Iterator[str]:
    """The card's Xid messages in the kernel's log, each with its place in it; none where it may not be read."""
    bus = _bus(bus_id)
    for line in _kernel_log():
        match = _XID.search(line)
        if match and bus and _bus(match[1]) == bus:
            sequence = line.partition(";")[0]
            yield f"{sequence} {match[2]}"


def _bus(text: str) -> str:
    """`00000000:3B:00.0` and `0000:3b:00` alike as `3b:00`, with the domain where it is not 0."""
    parts = text.lower().partition(".")[0].split(":")
    domain = parts[0].lstrip("0") if len(parts) == 3 else ""
    return ":".join([*([domain] if domain else []), *parts[-2:]])


def _kernel_log() -> Iterator[str]:
    try:
        descriptor = os.open(KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        while True:
            try:
                piece = os.read(descriptor, 2**16)  # of the device: one message
            except BrokenPipeError:
                continue  # the oldest were overwritten meanwhile
            if not piece:
                return
            yield from piece.decode(errors="replace").splitlines()
    except OSError:  # BlockingIOError: that was the last one
        return
    finally:
        os.close(descriptor)


def health_warnings(before: DeviceHealth | None, after: DeviceHealth | None, seconds: float) -> list[str]:
    """What became of the card between two looks `seconds` apart that whoever uses its images must know.

    Counts that only say what happened to a card long ago (rows remapped, pages retired) are reported where they grew.
    """
    if after is None:
        gone = "it answered when the worker began, and does not answer the driver any more"
        return [] if before is None else [f"{before.name}: {gone}: see the kernel's log."]
    found = []
    if after.uncorrected_errors:
        found.append("uncorrected memory errors since its last reset: its images may be wrong; reset it")
    if before is not None and _grew(before.rows_remapped, after.rows_remapped):
        found.append("memory rows were remapped after uncorrectable errors; reset it")
    if before is not None and _grew(before.pages_retired, after.pages_retired):
        found.append("memory pages were retired after uncorrectable errors; reset it")
    if after.remapping_failed:
        found.append("a row of its memory could not be remapped: have it replaced")
    if after.reset_due:
        found.append(f"the driver asks for a recovery: {after.reset_due}")
    found += [f"its clock was slowed down by {why}: check it" for why in _slowed(before, after, seconds)]
    known = set(before.xids) if before is not None else set(after.xids)
    fresh = dict.fromkeys(xid.rpartition(" ")[2] for xid in after.xids if xid not in known)
    if fresh:
        found.append(f"the driver reported Xid {', '.join(fresh)}: see the kernel's log")
    return [f"{after.name}: {text}." for text in found]


def _slowed(before: DeviceHealth | None, after: DeviceHealth, seconds: float) -> Iterator[str]:
    """Why the clock was held down, by the driver's counters where it has them, else by what is so at this moment."""
    then = dict(before.slowed_seconds) if before is not None else {}
    for why in _SLOWED:
        total = dict(after.slowed_seconds).get(why)
        if total is None:
            slowed = why in after.slowed_now
        else:
            slowed = why in then and total - then[why] >= max(SLOWED_SECONDS, SLOWED_SHARE * seconds)
        if slowed:
            yield why


def _grew(before: int | None, after: int | None) -> bool:
    return before is not None and after is not None and after > before
