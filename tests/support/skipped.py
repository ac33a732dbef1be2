"""What was skipped, why, and how the machine gets what it lacks: the last lines of a test run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

CURES = {
    "Chromium": "`apt-get install chromium`, or with internet `.venv/bin/playwright install --with-deps chromium`",
    "UTS namespaces": "run as root, or `sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000`",
    "mount a tmpfs": "run as root, in a container with `--cap-add SYS_ADMIN`",
    "memory cgroup": "boot with `systemd.unified_cgroup_hierarchy=0`, run as root",
    "libfaketime": "`apt-get install faketime`",
    "no unzip": "`apt-get install unzip`",
    "exiftool": "`apt-get install libimage-exiftool-perl`",
    "two processors": "run where two or more processors may be used",
    "pillow_jxl": "`.venv/bin/python -m pip install pillow-jxl-plugin`, whose licence is GPL-3.0-or-later",
    "atheris": "run on Linux on x86-64",
    "only root": "run as root",
    "user namespaces": "`sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000`",
    "Landlock": "run on Linux 5.19 or later, with `landlock` among the `lsm=` of the kernel's command line",
    "every user may run": "make the virtual environment with a Python outside of root's home folder",
    "C compiler": "`apt-get install gcc`",
    "C++ compiler": "`apt-get install g++`",
    "seconds were over": "`make test`",
    "containers take": "`make containers`",
    "tried with the whole job": "`make faults`",
    "asked for without the painter": "`make containers CONTAINERS=all`",
    "an engine is put together": "`apt-get install debootstrap slirp4netns`",
    "an engine needs": "run as root",
    "an engine's builds": "`modprobe tun`",
}
"""How to get it, by what the reason of a skip says is missing."""


def cure(reason: str) -> str:
    """What a person does so that the test runs; empty if nobody has written it down."""
    return next((text for lacking, text in CURES.items() if lacking in reason), "")


def lines(skipped: Sequence[pytest.TestReport | pytest.CollectReport]) -> Iterator[str]:
    """A line per reason: how many tests, why, and the cure."""
    reasons = Counter(_reason(report) for report in skipped)
    for reason, count in reasons.most_common():
        tests = "1 test was" if count == 1 else f"{count} tests were"
        way = cure(reason)
        yield f"{tests} skipped: {reason}" + (f"; to run {'it' if count == 1 else 'them'}: {way}" if way else "")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    where = report.longrepr
    text = str(where[2]) if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ")
