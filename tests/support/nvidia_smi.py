"""An nvidia-smi on the PATH that lists chosen GPUs, or reports a chosen condition of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

QUERY = """\
0, GPU-aaaa1111, NVIDIA A100-SXM4-80GB, 81920, 81000, 8.0, 580.1
1, GPU-bbbb2222, NVIDIA A100-SXM4-80GB, 81920, 40000, 8.0, 580.1
2, GPU-bbbb3333, NVIDIA A10, 23028, [N/A], 8.6, 580.1
"""
PLAIN = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa1111)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb2222)
GPU 2: NVIDIA A10 (UUID: GPU-bbbb3333)
"""
MIG = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa1111)
  MIG 3g.40gb     Device  0: (UUID: MIG-0001)
  MIG 3g.40gb     Device  1: (UUID: MIG-0002)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb2222)
GPU 2: NVIDIA A10 (UUID: GPU-bbbb3333)
"""


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    """Put an nvidia-smi on the PATH that answers as the real one's two calls would."""
    (folder / "query").write_text(QUERY)
    (folder / "list").write_text(listing)
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\ncase "$1" in -L) cat {folder}/list;; *) cat {folder}/query;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


CARD = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log><gpu id="00000000:3B:00.0">
  <product_name>NVIDIA L4</product_name><uuid>GPU-aaaa1111</uuid>
  <gpu_recovery_action>{recovery}</gpu_recovery_action>
  <clocks_event_reasons>
    <clocks_event_reason_sw_power_cap>Active</clocks_event_reason_sw_power_cap>
    <clocks_event_reason_hw_thermal_slowdown>{hot_now}</clocks_event_reason_hw_thermal_slowdown>
  </clocks_event_reasons>
  <clocks_event_reasons_counters>
    <clocks_event_reasons_counters_sw_power_cap>91403239 us</clocks_event_reasons_counters_sw_power_cap>
    <clocks_event_reasons_counters_sw_therm_slowdown>{sw_therm_slowdown}</clocks_event_reasons_counters_sw_therm_slowdown>
    <clocks_event_reasons_counters_hw_therm_slowdown>{hw_therm_slowdown}</clocks_event_reasons_counters_hw_therm_slowdown>
    <clocks_event_reasons_counters_hw_power_brake>{hw_power_brake}</clocks_event_reasons_counters_hw_power_brake>
  </clocks_event_reasons_counters>
  <ecc_errors><volatile>
    <sram_uncorrectable_parity>0</sram_uncorrectable_parity><dram_uncorrectable>{dram_uncorrectable}</dram_uncorrectable>
  </volatile><aggregate><dram_uncorrectable>71</dram_uncorrectable></aggregate></ecc_errors>
  <retired_pages><double_bit_retirement><retired_count>{retired}</retired_count></double_bit_retirement>
    <pending_retirement>N/A</pending_retirement></retired_pages>
  <remapped_rows><remapped_row_corr>3</remapped_row_corr><remapped_row_unc>{remapped}</remapped_row_unc>
    <remapped_row_pending>{pending}</remapped_row_pending><remapped_row_failure>{failure}</remapped_row_failure>
  </remapped_rows>
</gpu></nvidia_smi_log>
"""
HEALTHY = {
    "recovery": "None", "hot_now": "Not Active", "sw_therm_slowdown": "0 us", "hw_therm_slowdown": "0 us",
    "hw_power_brake": "0 us", "dram_uncorrectable": "0", "retired": "0", "remapped": "2", "pending": "No",
    "failure": "No",
}  # fmt: skip
BARE = "<nvidia_smi_log><gpu><product_name>NVIDIA T4</product_name><uuid>GPU-aaaa1111</uuid></gpu></nvidia_smi_log>"


def pretend_health(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: dict[str, str] | str | None,
    after: dict[str, str] | str | None,
) -> None:
    """Put an nvidia-smi on the PATH that says `before` when it is first asked for the card, and then `after`.

    Each is what differs from a healthy card, or the tool's own words, or None for a card that does not answer.
    """
    for name, said in (("before", before), ("after", after)):
        if said is not None:
            (folder / name).write_text(CARD.format(**HEALTHY | said) if isinstance(said, dict) else said)
    (folder / "query").write_text("0, GPU-aaaa1111, NVIDIA L4, 23034, 22000, 8.9, 580.1\n")
    tool = folder / "nvidia-smi"
    tool.write_text(
        f'#!/bin/sh\ncase "$1" in -L) exit 0 ;; --query-gpu=*) cat {folder}/query; exit 0 ;; esac\n'
        f"if [ -e {folder}/asked ]; then exec cat {folder}/after; fi\ntouch {folder}/asked; exec cat {folder}/before\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
