"""What the driver says of a card: told where it matters, silent where there is nothing or no telling."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.cli.doctor import _devices
from inpaint_ops.device import health as module
from inpaint_ops.device.health import DeviceHealth, device_health, health_warnings
from tests.support.nvml import (
    BARE,
    BRAKE,
    CARD,
    DRAM,
    DUE,
    EVERYWHERE,
    FAILED,
    HEALTHY,
    HEAT,
    HEAT_OF_OLD,
    HOT,
    NAME,
    RECOVERY,
    REMAPPED,
    RETIRED,
    RETIREMENT_DUE,
    SECOND,
    SRAM,
    UUID,
    Facts,
    card,
    mig,
    no_driver,
    pretend,
    pretend_health,
)


def warned(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Facts | str,
    after: Facts | str | None,
) -> list[str]:
    pretend_health(folder, monkeypatch, before=before, after=after)
    first = device_health("GPU-aaaa1111")
    return health_warnings(first, device_health("GPU-aaaa1111"), 100.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({DRAM: 2}, "uncorrected memory errors since its last reset"),
        ({SRAM: 1}, "uncorrected memory errors since its last reset"),
        ({DRAM: None, SRAM: None, EVERYWHERE: 1}, "uncorrected memory errors since its last reset"),
        ({REMAPPED: 3}, "rows were remapped"),
        ({RETIRED: 1}, "pages were retired"),
        ({FAILED: 1}, "could not be remapped: have it replaced"),
        ({DUE: 1}, "the driver asks for a recovery: Reset"),
        ({RETIREMENT_DUE: 1}, "the driver asks for a recovery: Reset"),
        ({"field 92 1": 1}, "the driver asks for a recovery: Reset"),
        ({RECOVERY: 4}, "the driver asks for a recovery: Drain and Reset"),
        ({RECOVERY: 99}, "the driver asks for a recovery: action 99"),
        ({HOT: 5 * SECOND}, "its clock was slowed down by heat"),
        ({HEAT: 5 * SECOND}, "its clock was slowed down by heat"),
        ({HEAT: None, HOT: None, HEAT_OF_OLD: 5 * SECOND}, "its clock was slowed down by heat"),
        ({BRAKE: 5 * SECOND}, "its clock was slowed down by the power supply"),
    ],
)
def test_what_befell_a_card_is_told_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int | None], said: str
) -> None:
    before = {HEAT: None, HOT: None, HEAT_OF_OLD: 0} if HEAT_OF_OLD in changed else {}
    [text] = warned(tmp_path, monkeypatch, before, changed)
    assert text.startswith("NVIDIA L4 (GPU-aaaa1111): ")
    assert said in text


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {HOT: SECOND * 9 // 10},
        {"events": 0x40},
        {HEAT: 91 * SECOND},
        dict.fromkeys(HEALTHY) | {REMAPPED: None},
        BARE,
    ],
    ids=["nothing", "under-a-second", "counters-know-better", "the-power-caps-count", "not-said", "an-old-driver"],
)
def test_what_is_normal_or_not_said_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int | None] | str
) -> None:
    """A card at its power limit, rows remapped and errors counted long ago, fields that a driver does not have."""
    assert warned(tmp_path, monkeypatch, {}, changed) == []
    assert warned(tmp_path, monkeypatch, changed, changed) == []


@pytest.mark.parametrize("now", ["events 64", "events 32", "throttle 64"])
def test_a_driver_without_counters_is_asked_what_holds_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str
) -> None:
    [text] = warned(tmp_path, monkeypatch, BARE, f"{BARE}{now}\n")
    assert text == "NVIDIA T4 (GPU-aaaa1111): its clock was slowed down by heat: check it."


def test_a_card_that_is_gone_is_told_and_one_that_never_answered_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [text] = warned(tmp_path, monkeypatch, {}, None)
    assert "does not answer the driver any more" in text
    [text] = warned(tmp_path / "lost", monkeypatch, {}, CARD + "lost\n")
    assert "does not answer the driver any more" in text
    no_driver(tmp_path / "none", monkeypatch)
    assert device_health("GPU-aaaa1111") is None
    assert device_health("") is None
    assert health_warnings(None, None, 1.0) == []


def test_an_xid_of_this_card_that_came_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "kmsg"
    old = "4,101,5000,-;NVRM: Xid (PCI:0000:3b:00): 13, pid=7, Graphics Exception\n"
    log.write_text(old)
    monkeypatch.setattr(module, "KERNEL_LOG", log)
    pretend_health(tmp_path, monkeypatch, before={}, after={})
    before = device_health("GPU-aaaa1111")
    assert health_warnings(before, device_health("GPU-aaaa1111"), 1.0) == []
    others = "4,102,6000,-;NVRM: Xid (PCI:0000:af:00): 31, pid=8\n4,103,6001,-;usb 1-1: new device\n"
    log.write_text(old + others + "4,104,7000,-;NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n")
    [text] = health_warnings(before, device_health("GPU-aaaa1111"), 1.0)
    assert text == "NVIDIA L4 (GPU-aaaa1111): the driver reported Xid 79: see the kernel's log."
    monkeypatch.setattr(module, "KERNEL_LOG", tmp_path / "may-not-be-read")
    assert health_warnings(before, device_health("GPU-aaaa1111"), 1.0) == []


def test_a_part_of_a_card_is_as_well_as_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, card({FAILED: 1}) + mig("MIG-0001"))
    found = device_health("MIG-0001")
    assert isinstance(found, DeviceHealth)
    assert found.remapping_failed and found.name == f"{NAME} ({UUID})"
    assert device_health("MIG-0009") is None


def test_doctor_tells_of_a_card_that_is_ill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_health(tmp_path, monkeypatch, before={FAILED: 1}, after={})
    [ill] = _devices()
    assert (ill.state, "have it replaced" in ill.detail) == ("warning", True)
    [well] = _devices()
    assert well.state == "ok"
