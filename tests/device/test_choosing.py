"""Which devices a command paints on, by a pretended driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.device import choose_devices
from inpaint_ops.errors import ConfigError
from inpaint_ops.machine.processors import processors
from tests.support.nvml import MIG, PLAIN, no_driver, pretend


@pytest.mark.parametrize(
    ("wanted", "count", "visible"),
    [
        ("auto", 3, None),
        ("1", 1, None),
        ("3", 3, None),
        ("0,2", 2, "GPU-aaaa1111,GPU-bbbb3333"),
        (" 2 , 0 ", 2, "GPU-bbbb3333,GPU-aaaa1111"),
        ("1,", 1, "GPU-bbbb2222"),
        ("1,1,GPU-bbbb2222", 1, "GPU-bbbb2222"),
        ("GPU-aaaa", 1, "GPU-aaaa1111"),
    ],
)
def test_gpus_are_counted_or_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str, count: int, visible: str | None
) -> None:
    pretend(tmp_path, monkeypatch, PLAIN)
    environment: dict[str, str] = {}
    assert choose_devices(wanted, "auto", environment) == count
    assert environment == ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("4", "--devices 4: visible here: GPU 0: "),
        ("0", "1 to 64"),
        ("65", "1 to 64"),
        ("0,3", "'3' names no device"),
        ("GPU-bbbb", "'GPU-bbbb' names no device, or not one alone"),
        ("0,-1", "'-1' names no device"),
        (",", "write auto, a number of devices, or which ones"),
        ("", "write auto"),
        ("all", "'all' names no device"),
        ("1.5", "'1.5' names no device"),
        ("²", "'²' names no device"),
    ],
)
def test_what_is_no_choice_is_one_line_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str, why: str
) -> None:
    pretend(tmp_path, monkeypatch, PLAIN)
    with pytest.raises(ConfigError) as caught:
        choose_devices(wanted, "auto", {})
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_visible_cannot_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(tmp_path, monkeypatch, PLAIN)
    environment = {"CUDA_VISIBLE_DEVICES": "1,2"}
    assert choose_devices("auto", "auto", environment) == 2
    with pytest.raises(ConfigError, match="'0' names no device"):
        choose_devices("0,1", "auto", environment)
    assert choose_devices("2,", "auto", environment) == 1
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb3333"


def test_instances_count_and_their_card_stands_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(tmp_path, monkeypatch, MIG)
    environment: dict[str, str] = {}
    assert choose_devices("auto", "auto", environment) == 4
    assert choose_devices("0,", "auto", environment) == 2
    assert environment["CUDA_VISIBLE_DEVICES"] == "MIG-0001,MIG-0002"


def test_without_a_gpu_it_is_a_number_of_workers_that_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_driver(tmp_path, monkeypatch)
    environment: dict[str, str] = {}
    assert choose_devices("auto", "auto", environment) == 1 and environment == {}
    assert choose_devices("1", "cpu", environment) == 1 and environment == {}
    assert choose_devices("3", "auto", environment) == 3
    threads = str(max(1, processors() // 3))
    assert environment == {"INPAINT_CPU_SLOTS": "3", "OMP_NUM_THREADS": threads}
    assert choose_devices("auto", "auto", environment) == 3
    own = {"INPAINT_CPU_SLOTS": "4", "OMP_NUM_THREADS": "7"}
    assert choose_devices("2", "auto", own) == 2 and own == {"INPAINT_CPU_SLOTS": "4", "OMP_NUM_THREADS": "7"}
    for wanted, device in (("0,1", "auto"), ("2", "cuda"), ("auto", "cuda")):
        with pytest.raises(ConfigError, match="no GPU is visible"):
            choose_devices(wanted, device, {})
    with pytest.raises(ConfigError, match="INPAINT_CPU_SLOTS is 'many'"):
        choose_devices("2", "auto", {"INPAINT_CPU_SLOTS": "many"})
