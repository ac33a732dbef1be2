"""Processes that share work end with whoever started them, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from inpaint_ops.machine.process_pool import ProcessPool, processes_for
from inpaint_ops.planning import JobOptions
from tests.support.child_processes import KillsOne, children
from tests.support.waiting import wait_until

MODULE = "inpaint_ops.planning.shard_text_process"
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


@pytest.mark.parametrize(
    "module",
    [MODULE, "inpaint_ops.tallies.summing_process", "inpaint_ops.manifest.reading_process"],
)
def test_they_import_no_store_no_pictures_and_no_pages(module: str) -> None:
    """Each of some processes has its own copy of what it imports, beside a program that may have half a gigabyte."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"inpaint_ops", "pydantic"} <= imported
    assert not imported & {"boto3", "botocore", "cv2", "PIL", "jinja2", "torch", "cryptography"}


def test_few_rows_start_none() -> None:
    assert processes_for(9, 10) == 0


def test_they_end_where_they_are_busy_and_further_pieces_wait_for_them() -> None:
    with ProcessPool(MODULE, 2, (JobOptions(model="m"), None)) as pool:
        for process in pool._processes:
            process.send_signal(signal.SIGSTOP)  # busy for as long as the test needs
        pieces: list[object] = [None, *[([], [])] * 20]
        assert next(pool.map(lambda piece=piece: piece for piece in pieces)) is None
        wait_until(lambda: pool._idle.empty() and pool._threads._work_queue.empty())
    assert not children(MODULE)


def test_what_one_that_was_killed_had_is_left_and_the_others_do_the_rest() -> None:
    with ProcessPool(MODULE, 2, (JobOptions(model="m"), None)) as pool:
        kill = KillsOne(MODULE)

        def pieces() -> Iterator[Callable[[], object]]:
            for number in range(12):
                if number == 2:
                    kill()
                yield lambda: ([], [])

        made = [*pool.map(pieces()), *pool.map(pieces())]
    assert [one is None for one in made].count(True) == 1 and len(made) == 24


SHORT_OF_FILES = f"""
import os, resource, sys
from inpaint_ops.machine.process_pool import ProcessPool
from inpaint_ops.planning import JobOptions
held = len(os.listdir("/proc/self/fd")) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (held + int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with ProcessPool({MODULE!r}, 3, (JobOptions(model="m"), None)) as pool:
    made = [*pool.map(lambda: ([], []) for _ in range(9))]
    print(len(pool._processes), made.count(None), len(made))
"""


@pytest.mark.parametrize(("files", "started"), [(1, 0), (6, 1), (8, 2)])
def test_with_fewer_processes_than_wanted_the_work_is_done_all_the_same(files: int, started: int) -> None:
    """Starting one takes six files at a time, of which two stay open."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_FILES, str(files)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(started), "0" if started else "9", "9"]
    assert f"of 3 processes to share the work, {started} could be started: [Errno 24]" in done.stderr


def test_where_all_were_killed_nothing_is_waited_for() -> None:
    with ProcessPool(MODULE, 2, (JobOptions(model="m"), None)) as pool:
        for one in children(MODULE):
            one.kill()
        assert list(pool.map(lambda: ([], []) for _ in range(9))) == [None] * 9
