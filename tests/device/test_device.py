"""Devices: what is visible, which tier, and a lease that the kernel takes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inpaint_ops.device import Lease, Tier, describe, environment_for, host_slots, nvml, tier, visible_devices
from inpaint_ops.device.lease_files import LOSS_SECONDS
from inpaint_ops.errors import ConfigError, DeviceBusyError, DeviceLostError
from inpaint_ops.records import DeviceInfo
from tests.support.nvml import A100, DRIVER, FIRST, GIB, MIG, OTHERS, PLAIN, install, mig, no_driver, pretend
from tests.support.waiting import PATIENCE


def test_without_a_driver_no_device_is_visible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_driver(tmp_path, monkeypatch)
    assert visible_devices() == []
    assert host_slots() == ["cpu-0"]
    assert host_slots("cpu", cpu_slots=2) == ["cpu-0", "cpu-1"]
    with pytest.raises(ConfigError, match="no GPU is visible"):
        host_slots("cuda")


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(tmp_path, monkeypatch, PLAIN)
    found = visible_devices()
    assert [gpu.uuid for gpu in found] == ["GPU-aaaa1111", "GPU-bbbb2222", "GPU-bbbb3333"]
    assert found[0].total_memory == 81920 * 2**20
    assert found[0].free_memory == 81000 * 2**20
    assert found[2].free_memory == 0
    assert [(gpu.name, gpu.capability, gpu.driver) for gpu in found[1:]] == [
        (A100, "8.0", "580.1"), ("NVIDIA A10", "8.6", "580.1")
    ]  # fmt: skip
    assert host_slots("auto") == [gpu.uuid for gpu in found]
    assert host_slots("cpu") == ["cpu-0"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("-1", []),
        ("1", ["GPU-bbbb2222"]),
        ("2,0", ["GPU-bbbb3333", "GPU-aaaa1111"]),
        ("0,7,1", ["GPU-aaaa1111"]),
        ("GPU-aaaa", ["GPU-aaaa1111"]),
        ("GPU-bbbb", []),  # ambiguous
        ("nonsense", []),
        ("²", []),
        ("bbbb2222", []),
        ("0,0,GPU-aaaa1111", ["GPU-aaaa1111"]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, expected: list[str]
) -> None:
    pretend(tmp_path, monkeypatch, PLAIN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert [gpu.uuid for gpu in visible_devices()] == expected


def test_a_gpu_cut_into_instances_counts_as_its_instances(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(tmp_path, monkeypatch, MIG)
    found = visible_devices()
    assert [gpu.uuid for gpu in found] == ["MIG-0001", "MIG-0002", "GPU-bbbb2222", "GPU-bbbb3333"]
    assert (found[0].index, found[0].name, found[0].capability) == (0, f"{A100} MIG 3g.40gb", "8.0")
    assert (found[0].total_memory, found[0].free_memory) == (40 * GIB, 39 * GIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0002,1")
    assert [gpu.uuid for gpu in visible_devices()] == ["MIG-0002", "GPU-bbbb2222"]


def test_an_instance_is_named_by_the_beginning_of_its_uuid_and_its_card_stands_for_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(tmp_path, monkeypatch, MIG)
    for value, expected in {
        "MIG-0001": ["MIG-0001"],
        "MIG-000": [],
        "GPU-aaaa": ["MIG-0001", "MIG-0002"],
        "MIG-0002,0": ["MIG-0002", "MIG-0001"],
    }.items():
        assert [gpu.uuid for gpu in visible_devices({"CUDA_VISIBLE_DEVICES": value})] == expected


def test_a_gpu_that_is_to_be_cut_and_has_no_instance_yet_is_nothing_to_work_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(tmp_path, monkeypatch, DRIVER + FIRST + "cut\n" + OTHERS)
    assert [gpu.uuid for gpu in visible_devices()] == ["GPU-bbbb2222", "GPU-bbbb3333"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "0"}) == []


@pytest.mark.parametrize("fault", ["denied", "lost"])
def test_a_card_that_is_lost_or_not_ours_leaves_the_others_their_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    pretend(tmp_path, monkeypatch, DRIVER + FIRST + f"{fault}\n" + OTHERS)
    assert [(gpu.index, gpu.uuid) for gpu in visible_devices()] == [(1, "GPU-bbbb2222"), (2, "GPU-bbbb3333")]
    assert [gpu.uuid for gpu in visible_devices({"CUDA_VISIBLE_DEVICES": "2"})] == ["GPU-bbbb3333"]


def test_an_instance_that_may_not_be_opened_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that was given one instance of several."""
    pretend(tmp_path, monkeypatch, DRIVER + FIRST + mig("MIG-0001") + "denied\n" + mig("MIG-0002"))
    assert [gpu.uuid for gpu in visible_devices()] == ["MIG-0002"]


ALONE = (
    "import sys; from inpaint_ops.device import visible_devices; print(visible_devices({}), 'pynvml' in sys.modules)"
)


def test_a_process_without_the_drivers_library_sees_no_card_and_one_with_it_does(tmp_path: Path) -> None:
    """By the loader's own search, as in a container without and with the driver capability `utility`."""
    for cards, expected in ((None, "[] True"), (PLAIN, "GPU-bbbb3333")):
        folder = tmp_path / str(cards is not None)
        environment = dict(os.environ) | {"LD_LIBRARY_PATH": str(folder)}
        if cards is not None:
            environment = install(folder, cards, environment)
        elif _loads("libnvidia-ml.so.1"):
            continue  # this machine has a driver
        done = subprocess.run(
            [sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout


def _loads(library: str) -> bool:
    code = f"import ctypes; ctypes.CDLL({library!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_importing_the_package_loads_no_driver_binding() -> None:
    code = "import sys, inpaint_ops.device.health, inpaint_ops.cli; print('pynvml' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_driver_that_never_answers_counts_as_absent_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(tmp_path, monkeypatch, PLAIN)
    monkeypatch.setattr(nvml, "TIMEOUT", 0.01)
    never, ended = threading.Event(), threading.Event()

    def hang(module: object) -> str:
        never.wait()
        ended.set()
        return "too late"

    try:
        assert nvml.ask(hang) is None
        assert "has not answered" in caplog.text
    finally:
        never.set()
        ended.wait()  # before the library is taken away


def test_a_slot_confines_its_process() -> None:
    assert environment_for("MIG-0002") == {"CUDA_VISIBLE_DEVICES": "MIG-0002"}
    assert environment_for("cpu-0") == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    ("size", "expected"),
    [(8, "10 GB"), (10.7, "10 GB"), (16, "10 GB"), (23.6, "24 GB"), (25.8, "24 GB"), (42.3, "40 GB"),
     (79, "80+ GB"), (85, "80+ GB"), (150, "80+ GB")],
)  # fmt: skip
def test_cards_fall_into_the_notes_tiers(size: float, expected: str) -> None:
    assert tier(DeviceInfo(kind="cuda", name="card", total_memory=int(size * 1e9))) == expected
    assert tier(DeviceInfo(kind="cpu", name="processor", total_memory=int(size * 1e9))) is Tier.CPU


def test_a_cpu_is_described() -> None:
    info = describe("cpu")
    assert info.kind == "cpu"
    assert "cores" in info.name
    assert info.total_memory >= info.free_memory > 0


HOLDER = """
import sys, time
from pathlib import Path
from inpaint_ops.device import Lease
lease = Lease.acquire(sys.argv[3:], Path(sys.argv[1]), float(sys.argv[2]))
print(lease.device, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def hold(holders: list[subprocess.Popen[str]], folder: Path, timeout: float, *devices: str) -> subprocess.Popen[str]:
    """Start a process that leases one of `devices` and sleeps."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(timeout), *devices]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    holders.append(process)
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_never_share_a_device_and_a_killed_one_gives_it_back(
    tmp_path: Path, holders: list[subprocess.Popen[str]]
) -> None:
    first = hold(holders, tmp_path, 5, "cpu-0")
    assert said(first) == "cpu-0"
    words: list[str] = []
    with pytest.raises(DeviceBusyError, match=f"pid {first.pid} on "):
        Lease.acquire(["cpu-0"], tmp_path, 0.5, words.append)
    assert str(first.pid) in words[0]

    second = hold(holders, tmp_path, 30, "cpu-0")
    first.send_signal(signal.SIGKILL)
    assert said(second) == "cpu-0"
    with pytest.raises(DeviceBusyError, match=f"pid {second.pid} on "):
        Lease.acquire(["cpu-0"], tmp_path, 0)


def test_each_process_gets_a_device_of_its_own(tmp_path: Path, holders: list[subprocess.Popen[str]]) -> None:
    started = [hold(holders, tmp_path, 5, "GPU-a", "GPU-b/1") for _ in range(2)]
    assert sorted(said(process) for process in started) == ["GPU-a", "GPU-b/1"]
    with pytest.raises(DeviceBusyError):
        Lease.acquire(["GPU-a", "GPU-b/1"], tmp_path, 0)


def test_a_released_lease_is_free_at_once(tmp_path: Path) -> None:
    with Lease.acquire(["cpu-0"], tmp_path, 0) as lease:
        assert lease.path.read_text().startswith(f"pid {os.getpid()} on ")
        with pytest.raises(DeviceBusyError):
            Lease.acquire(["cpu-0"], tmp_path, 0)
    lease.release()
    Lease.acquire(["cpu-0"], tmp_path, 0).release()


def test_children_do_not_inherit_a_lease(tmp_path: Path) -> None:
    lease = Lease.acquire(["cpu-0"], tmp_path, 0)
    executed = subprocess.Popen(["sleep", "3600"], close_fds=False)
    forked = os.fork()
    if forked == 0:
        signal.pause()
        os._exit(0)
    try:
        lease.release()
        Lease.acquire(["cpu-0"], tmp_path, PATIENCE).release()
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)
        executed.kill()
        executed.wait()


def test_a_lease_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        Lease.acquire(["cpu-0"], tmp_path / "file", 0)
    with pytest.raises(ConfigError, match="no device"):
        Lease.acquire([], tmp_path, 0)


def test_importing_devices_and_tuning_imports_no_torch() -> None:
    code = "import sys, inpaint_ops.device, inpaint_ops.tuning, inpaint_ops.model; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_device_that_failed_comes_last_and_one_that_failed_twice_is_left_out(tmp_path: Path) -> None:
    cards = ["GPU-a", "GPU-b"]
    at = 1_764_000_000.75

    def acquire(*names: str) -> Lease:
        return Lease.acquire(names or cards, tmp_path, 0, clock=lambda: at)

    with acquire() as lease:
        assert lease.device == "GPU-a"
        lease.note_loss("CUDA error: uncorrectable ECC error\nencountered")
    with acquire() as lease:
        assert lease.device == "GPU-b"
        with acquire() as other:
            assert other.device == "GPU-a", "once is no proof"
            other.note_loss("CUDA error: uncorrectable ECC error encountered")
        with pytest.raises(DeviceBusyError, match=r"failed 2 times \(CUDA error: uncorrectable.*GPU-b by pid \d+ "):
            acquire()
    with pytest.raises(DeviceLostError, match=r"GPU-a by nobody: it has failed 2 times .* remove .*GPU-a\.losses"):
        acquire("GPU-a")
    noted = at
    at = noted + LOSS_SECONDS - 0.001
    with pytest.raises(DeviceLostError):
        acquire("GPU-a")
    at = noted + LOSS_SECONDS
    with acquire() as lease:
        assert lease.device == "GPU-a", "an hour later it may show that it is well again"
