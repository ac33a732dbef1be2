"""How many processors this process may keep busy: those that it may run on, within what its control groups grant."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def processors(cgroup: Path = _CGROUP, mount: Path = _MOUNT) -> int:
    """At least 1. A quota of one and a half processors (`docker run --cpus 1.5`) counts as 2.

    `cgroup` and `mount` are where the kernel shows this process's control groups (cgroups(7)), of version 1 or 2.
    """
    allowed = len(os.sched_getaffinity(0))
    granted = min((quota for quota in _quotas(cgroup, mount)), default=math.inf)
    return max(1, min(allowed, math.ceil(granted) if granted < allowed else allowed))


def _quotas(cgroup: Path, mount: Path) -> Iterator[float]:
    """Processors that each control group above this process grants, where one says so."""
    try:
        lines = cgroup.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            for folder in _upwards(mount, path):
                yield from _ratio(_read(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                for folder in _upwards(mount / name, path):
                    yield from _ratio([_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")])


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it. In a container the path may be that of the machine outside: then the
    mount itself is the container's group.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _ratio(words: list[str]) -> Iterator[float]:
    """Microseconds granted in each period, as processors; nothing where there is no limit (`max`, -1)."""
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[0]) and int(words[1]):
        yield int(words[0]) / int(words[1])
