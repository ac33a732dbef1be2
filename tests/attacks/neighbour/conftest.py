"""A second user of the machine, with real processes of theirs, and a folder that everybody may write to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NOBODY = 65534
Neighbour = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder like /tmp, where the neighbour can get to: tmp_path is closed to them."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="inpaint_ops-test-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def neighbour(shared: Path) -> Neighbour:
    """Run a shell script as another user, in `shared`; its arguments are $1, $2, ..."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as a second user")

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", script, "sh", *map(str, arguments)], cwd=shared, text=True, capture_output=True,
            user=NOBODY, group=NOBODY, extra_groups=[], umask=0o022, timeout=60,
        )  # fmt: skip

    return run


def plant(neighbour: Neighbour, script: str, *arguments: object) -> None:
    """Have the neighbour do something that must work, or the test would show nothing."""
    done = neighbour(script, *arguments)
    assert done.returncode == 0, done.stderr
