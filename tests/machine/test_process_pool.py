"""Processes that share work end with whoever started them, however that ends."""

from __future__ import annotations

import subprocess
import sys

import psutil

from inpaint_ops.machine.process_pool import ProcessPool, processes_for
from tests.support.child_processes import children
from tests.support.waiting import wait_until

MODULE = "inpaint_ops.runs.shard_text_process"
PARENT = f"""
import sys
from inpaint_ops.machine.process_pool import ProcessPool
from inpaint_ops.planning import JobOptions
with ProcessPool({MODULE!r}, 2, (JobOptions(model="m"), None)) as pool:
    print(*pool.map(lambda: ([], []) for _ in range(6)), flush=True)
    print(*(one.pid for one in pool._processes), flush=True)
    sys.stdin.read()
"""


def test_they_end_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().count(b"ShardText") == 6
        started = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(started) == 2 and all(MODULE in one.cmdline() for one in started)
        parent.kill()
    wait_until(lambda: not any(map(_runs, started)))


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_they_end_where_who_started_them_fails() -> None:
    try:
        with ProcessPool(MODULE, 2, None) as pool:
            assert list(pool.map(lambda: None for _ in range(5))) == [None] * 5, "nothing to do"
            assert len(children(MODULE)) == 2
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert not children(MODULE)


def test_few_rows_start_none() -> None:
    assert processes_for(9, 10) == 0
