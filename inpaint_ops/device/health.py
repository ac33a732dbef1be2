"""What the driver says of a card's condition: memory errors, rows and pages taken out of use, slowed clocks, Xids.

Asked without torch, by whoever starts and buries a worker, so that a worker that its card has killed is told of as
well. What a driver or a card does not say is no warning.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.device.cards import nvidia_smi, visible_devices

KERNEL_LOG = Path("/dev/kmsg")
"""Where the driver's Xid messages are; who may read it is the system's choice (`kernel.dmesg_restrict`)."""

SLOWED_SECONDS = 1.0
"""Time with a slowed clock, during one worker's life, that is worth a warning ..."""

SLOWED_SHARE = 0.01
"""... and its share of that life."""

_SLOWED = {
    "heat": ("hw_therm_slowdown", "sw_therm_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown"),
    "the power supply": ("hw_power_brake", "hw_power_brake_slowdown"),
}
"""The driver's names, first those of its counters, for reasons that are no card's normal state. The software's power
cap is: a card at full load is held at its power limit all the time."""

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
    """The condition of the card with this UUID (for a MIG instance: of its card); None where there is no telling."""
    if uuid.startswith("MIG-"):
        index = next((one.index for one in visible_devices({}) if one.uuid == uuid), None)
        uuid = "" if index is None else str(index)
    if not uuid:
        return None
    try:
        root = Xml.fromstring(nvidia_smi("-q", "-x", "-i", uuid))  # noqa: S314  # the driver's own tool wrote it
    except Xml.ParseError:
        return None
    card = root.find("gpu")
    return None if card is None else _read(card)


def _read(card: Xml.Element) -> DeviceHealth:
    def said(path: str) -> str:
        return (card.findtext(path) or "").strip()

    pending = said("remapped_rows/remapped_row_pending"), said("retired_pages/pending_retirement")
    action = said("gpu_recovery_action")
    asked = action if action not in ("", "None", "N/A") else "Reset" if "Yes" in pending else ""
    return DeviceHealth(
        name=f"{said('product_name') or 'GPU'} ({said('uuid')})",
        uncorrected_errors=_sum(_uncorrected(card)),
        rows_remapped=_number(said("remapped_rows/remapped_row_unc")),
        pages_retired=_number(said("retired_pages/double_bit_retirement/retired_count")),
        reset_due=asked,
        remapping_failed=said("remapped_rows/remapped_row_failure") == "Yes",
        slowed_now=tuple(_slowed_now(card)),
        slowed_seconds=tuple(_slowed_seconds(card)),
        xids=tuple(_xids(card.get("id") or "")),
    )


def _uncorrected(card: Xml.Element) -> Iterator[int | None]:
    """The volatile counts: DRAM's and SRAM's since Ampere, those of double bits before."""
    for name in ("dram_uncorrectable", "sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded"):
        yield _number(card.findtext(f"ecc_errors/volatile/{name}") or "")
    yield _number(card.findtext("ecc_errors/volatile/double_bit/total") or "")


def _slowed_now(card: Xml.Element) -> Iterator[str]:
    for why, names in _SLOWED.items():
        for kind in ("event", "throttle"):  # drivers before 535 say throttle
            found = (card.findtext(f"clocks_{kind}_reasons/clocks_{kind}_reason_{name}") for name in names)
            if "Active" in {(text or "").strip() for text in found}:
                yield why


def _slowed_seconds(card: Xml.Element) -> Iterator[tuple[str, float]]:
    """Seconds by reason, counted up since the driver was loaded."""
    prefix = "clocks_event_reasons_counters/clocks_event_reasons_counters_"
    capped = _number(card.findtext(f"{prefix}sw_power_cap") or "")
    for why, names in _SLOWED.items():
        counts = []
        for name in names:
            count = _number(card.findtext(prefix + name) or "")
            # Drivers have been seen to say the power cap's count here as well (575.51 on an RTX 4070).
            if count is not None and not (name.startswith("sw_") and count == capped):
                counts.append(count)
        if counts:
            yield why, max(counts) / 1e6


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
    """What became of the card between two looks `seconds` apart that whoever trusts its images must know.

    Counts that only say what happened to a card long ago (rows remapped, pages retired) are told where they grew.
    """
    if after is None:
        gone = "it answered when the worker began, and does not answer the driver's tool any more"
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


def _number(text: str) -> int | None:
    digits = re.match(r"\s*(\d+)", text)
    return int(digits[1]) if digits else None


def _sum(counts: Iterator[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
