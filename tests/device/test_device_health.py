"""What the driver says of a card: told where it matters, silent where there is nothing or no telling."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.cli.doctor import _devices
from inpaint_ops.device import health as module
from inpaint_ops.device.health import DeviceHealth, device_health, health_warnings
from tests.support.nvidia_smi import BARE, pretend_health


def warned(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, str] | str | None,
    after: dict[str, str] | str | None,
) -> list[str]:
    pretend_health(folder, monkeypatch, before=before, after=after)
    first = device_health("GPU-aaaa1111")
    return health_warnings(first, device_health("GPU-aaaa1111"), 100.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dram_uncorrectable": "2"}, "uncorrected memory errors since its last reset"),
        ({"remapped": "3"}, "rows were remapped"),
        ({"retired": "1"}, "pages were retired"),
        ({"failure": "Yes"}, "could not be remapped: have it replaced"),
        ({"pending": "Yes"}, "the driver asks for a recovery: Reset"),
        ({"recovery": "Drain and Reset"}, "the driver asks for a recovery: Drain and Reset"),
        ({"hw_therm_slowdown": "5000000 us"}, "its clock was slowed down by heat"),
        ({"sw_therm_slowdown": "5000000 us"}, "its clock was slowed down by heat"),
        ({"hw_power_brake": "5000000 us"}, "its clock was slowed down by the power supply"),
    ],
)
def test_what_befell_a_card_is_told_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    [text] = warned(tmp_path, monkeypatch, {}, changed)
    assert text.startswith("NVIDIA L4 (GPU-aaaa1111): ")
    assert said in text


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"hw_therm_slowdown": "900000 us"},
        {"hot_now": "Active"},
        {"sw_therm_slowdown": "91403239 us"},
        {"dram_uncorrectable": "N/A", "remapped": "N/A", "retired": "[N/A]", "recovery": "N/A", "pending": "N/A"},
        BARE,
    ],
    ids=["nothing", "under-a-second", "counters-know-better", "the-power-caps-count", "not-said", "an-old-driver"],
)
def test_what_is_normal_or_not_said_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str] | str
) -> None:
    """A card at its power limit, rows remapped and errors counted long ago, fields that a driver does not have."""
    assert warned(tmp_path, monkeypatch, {}, changed) == []
    assert warned(tmp_path, monkeypatch, changed, changed) == []


def test_a_driver_without_counters_is_asked_what_holds_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = BARE.replace(
        "</gpu>",
        "<clocks_throttle_reasons><clocks_throttle_reason_hw_thermal_slowdown>Active"
        "</clocks_throttle_reason_hw_thermal_slowdown></clocks_throttle_reasons></gpu>",
    )
    [text] = warned(tmp_path, monkeypatch, BARE, hot)
    assert text == "NVIDIA T4 (GPU-aaaa1111): its clock was slowed down by heat: check it."


def test_a_card_that_is_gone_is_told_and_one_that_never_answered_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [text] = warned(tmp_path, monkeypatch, {}, None)
    assert "does not answer the driver's tool any more" in text
    monkeypatch.setenv("PATH", "/nowhere")
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
    pretend_health(tmp_path, monkeypatch, before={"failure": "Yes"}, after={"failure": "Yes"})
    (tmp_path / "list").write_text("GPU 0: NVIDIA L4 (UUID: GPU-aaaa1111)\n  MIG 1g.5gb Device 0: (UUID: MIG-0001)\n")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(tool.read_text().replace("-L) exit 0", f"-L) cat {tmp_path}/list; exit 0"))
    found = device_health("MIG-0001")
    assert isinstance(found, DeviceHealth)
    assert found.remapping_failed
    assert device_health("MIG-0009") is None


def test_doctor_tells_of_a_card_that_is_ill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_health(tmp_path, monkeypatch, before={"failure": "Yes"}, after={})
    [ill] = _devices()
    assert (ill.state, "have it replaced" in ill.detail) == ("warning", True)
    [well] = _devices()
    assert well.state == "ok"
