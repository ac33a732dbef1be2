"""Scratch belongs to a process, and what may pass is waited for."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inpaint_ops.errors import ScratchFullError, StorageUnavailableError
from inpaint_ops.machine.scratch import patiently, room_for, scratch_folder, sweep

OWNER = """
import sys
from pathlib import Path
from inpaint_ops.machine.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "theirs") as folder:
    (folder / "image").write_bytes(b"pixels")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_the_scratch_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
        with scratch_folder(tmp_path, "mine") as mine:
            sweep(tmp_path)
            assert {path.name for path in tmp_path.iterdir()} == {"theirs", "mine"}
            assert mine.is_dir()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_transient_error_that_says_what_to_do(number: int, tmp_path: Path) -> None:
    with pytest.raises(ScratchFullError, match="INPAINT_SCRATCH") as caught, room_for(tmp_path):
        raise OSError(number, "no room")
    assert not caught.value.permanent
    with pytest.raises(PermissionError), room_for(tmp_path):
        raise PermissionError(errno.EACCES, "not yours")


def test_what_may_pass_is_tried_again_and_nothing_else_is() -> None:
    left = [StorageUnavailableError("down")]

    def call() -> str:
        if left:
            raise left.pop()
        return "up"

    assert patiently(call, (StorageUnavailableError,), 60, threading.Event()) == "up"
    left.append(StorageUnavailableError("down"))
    with pytest.raises(StorageUnavailableError):
        patiently(call, (ScratchFullError,), 60, threading.Event())


def test_nobody_waits_without_patience_or_once_told_to_stop() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise StorageUnavailableError("down")

    stopped = threading.Event()
    stopped.set()
    for seconds, stop in ((0.0, threading.Event()), (3600.0, stopped)):
        with pytest.raises(StorageUnavailableError):
            patiently(call, (StorageUnavailableError,), seconds, stop)
    assert len(calls) == 2
