"""Processors that a process may use: by its affinity and by the quotas of its control groups, of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inpaint_ops.machine.processors import processors


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of 16 processors; its control groups are files below the folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    return tmp_path


def groups(machine: Path, lines: str, **files: str) -> int:
    (machine / "cgroup").write_text(lines)
    for name, text in files.items():
        path = machine / "mount" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return processors(machine / "cgroup", machine / "mount")


@pytest.mark.parametrize(
    ("quota", "counts"),
    [
        ("max 100000", 16), ("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16),
        ("0 100000", 16), ("", 16), ("4", 16), ("words", 16), ("-1 100000", 16),
    ],
)  # fmt: skip
def test_a_quota_of_version_2_counts_rounded_up(machine: Path, quota: str, counts: int) -> None:
    assert groups(machine, "0::/\n", cpu_dot_max=quota + "\n") == counts


def test_the_least_of_all_groups_above_counts(machine: Path) -> None:
    found = groups(
        machine, "0::/system.slice/docker-1\n",
        **{"system.slice__docker-1__cpu_dot_max": "800000 100000", "system.slice__cpu_dot_max": "300000 100000",
           "cpu_dot_max": "max 100000"},
    )  # fmt: skip
    assert found == 3


def test_a_container_that_sees_the_path_of_outside_has_its_quota_at_the_mount(machine: Path) -> None:
    assert groups(machine, "0::/../../kubepods/pod1/x\n", cpu_dot_max="200000 100000") == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_version_1_has_two_files(machine: Path, folder: str) -> None:
    lines = "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n1:name=systemd:/\n"
    files = {
        f"{folder}__docker__1__cpu.cfs_quota_us": "250000\n",
        f"{folder}__docker__1__cpu.cfs_period_us": "100000\n",
    }
    assert groups(machine, lines, **files) == 3
    assert groups(machine, lines, **{f"{folder}__docker__1__cpu.cfs_quota_us": "-1"}) == 16


def test_without_control_groups_the_affinity_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processors(machine / "none", machine) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    assert groups(machine, "0::/\n", cpu_dot_max="400000 100000") == 1


def test_of_this_machine_it_is_no_more_than_it_may_run_on() -> None:
    assert 1 <= processors() <= len(os.sched_getaffinity(0))
