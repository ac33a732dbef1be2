"""What a command took: it, and all that it starts. `python -m bench.peers.usage FILE COMMAND...`.

The command's descendants become children of this process when their parents end (PR_SET_CHILD_SUBREAPER), so that
their processor time is counted too; those that are left when the command ends are ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_EVERY = 0.25


def main() -> None:
    """Run the command; write wall and CPU seconds, peak memory in bytes, and exit code as JSON."""
    _, to, *command = sys.argv
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    peak, over = [0], threading.Event()
    sampler = threading.Thread(target=sample, args=(psutil.Process(), peak, over))
    began = time.perf_counter()
    process = subprocess.Popen(command)
    sampler.start()
    code = process.wait()
    wall = time.perf_counter() - began
    over.set()
    sampler.join()
    for left in psutil.Process().children(recursive=True):
        left.send_signal(signal.SIGKILL)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(to).write_text(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak": peak[0], "code": code}))


def sample(parent: psutil.Process, peak: list[int], over: threading.Event) -> None:
    """Keep the largest sum of proportional set sizes of all descendants in `peak[0]`, until it is `over`."""
    while not over.wait(_EVERY):
        total = 0
        for child in parent.children(recursive=True):
            try:
                total += child.memory_full_info().pss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Processor seconds of these, of their descendants, and of those of them that have ended."""
    total = 0.0
    for one in processes:
        for process in (one, *one.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
