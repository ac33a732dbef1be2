"""The warm host and the processes forked from it: real ones, really killed."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from inpaint_ops.device import Lease
from inpaint_ops.device.lease_files import own_folder
from inpaint_ops.protocol import Bye, Done, End, Flush, Phase, Ready
from inpaint_ops.supervisor import starting
from inpaint_ops.supervisor.confinement import worker_environment
from inpaint_ops.supervisor.starting import ForkedProcess
from inpaint_ops.worker import EXIT_ORPHANED
from tests.support.waiting import wait_until
from tests.support.warm import SLEEPS, Host, Started, light_host
from tests.support.warm import warm_host as real_host
from tests.support.worker_talk import job, picture

REPOSITORY = Path(__file__).resolve().parents[2]


# -- as in the exec way --------------------------------------------------------------------------------------------


def test_a_forked_worker_paints_and_ends_as_one_that_was_started_by_exec(
    shared_warm_host: Host, tmp_path: Path
) -> None:
    worker = Started(tmp_path, shared_warm_host)
    assert (worker.process.process.started_by, worker.process.not_forked) == ("fork", "")
    worker.process.send(job(tmp_path))
    for row in (1, 2):
        worker.process.send(picture(tmp_path, row, (64, 64)))
    worker.process.send(Flush())
    worker.process.send(End())
    assert worker.code == 0, worker.printed
    (ready,) = worker.all(Ready)
    assert ready.worker.pid == worker.process.pid
    assert [phase.name for phase in worker.all(Phase)][:3] == ["imports", "lease", "load"]
    assert sorted(done.row for done in worker.all(Done)) == [1, 2] and len(worker.all(Bye)) == 1
    assert not psutil.pid_exists(worker.process.pid)


TELLS = """
import json, os, resource, signal, tempfile
status = {name: value.strip() for name, value in (line.split(":", 1) for line in open("/proc/self/status"))}
print(json.dumps({
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "fds": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "events": events,
    "umask": status["Umask"],
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "session": os.getsid(0) == os.getpid(),
    "tmp": tempfile.gettempdir(),
    "threads": status["Threads"],
    "no_new_privs": status["NoNewPrivs"],
    "caps": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh")],
    "signals": [signal.getsignal(one) == signal.SIG_DFL for one in (signal.SIGCHLD, signal.SIGTERM)],
    "may see itself": os.access("/proc/self/environ", os.R_OK),
}), flush=True)
"""


def test_a_forked_process_has_what_exec_would_have_given_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, folder, umask, limits, priority, session, open files, signals; and nothing of the host's."""
    (tmp_path / "mine").mkdir()
    with light_host(tmp_path, TELLS) as host:
        # what is read late may differ from the host's
        monkeypatch.setenv("TMPDIR", str(tmp_path / "mine"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
        limits, mask = resource.getrlimit(resource.RLIMIT_NOFILE), os.umask(0o027)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 7, limits[1]))
            worker = Started(tmp_path / "work", host)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            os.umask(mask)
        found = json.loads(worker.printed[-1])
        nice = os.getpriority(os.PRIO_PROCESS, 0)
    assert worker.code == 0
    assert found["environment"] == worker_environment(os.environ)
    assert "canary" not in json.dumps(found)
    assert (found["folder"], found["tmp"]) == (str(tmp_path / "work"), str(tmp_path / "mine"))
    assert (found["umask"], found["nice"], found["files"]) == ("0027", nice, [limits[0] - 7, limits[1]])
    assert found["fds"] == [0, 1, 2, 3] and found["events"] == 3
    assert found["session"] and found["threads"] == "1" and all(found["signals"])
    assert (found["no_new_privs"], found["caps"], found["may see itself"]) == ("1", [0, 0, 0], True)


def test_its_exit_code_and_its_last_lines_arrive(tmp_path: Path) -> None:
    script = "import os, sys; print('out of luck', flush=True); sys.exit(7)"
    with light_host(tmp_path, script) as host:
        worker = Started(tmp_path / "work", host)
        assert worker.code == 7
        assert worker.process.describe_exit(worker.code) == "exit code 7; its last output: out of luck"
    with light_host(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)") as host:
        worker = Started(tmp_path / "work", host)
        assert worker.process.describe_exit(worker.code) == "killed by SIGSEGV"


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    script = "import os, time; child = os.fork(); time.sleep(3600) if child == 0 else print(child, flush=True)"
    with light_host(tmp_path, script) as host:
        worker = Started(tmp_path / "work", host)
        child = int(worker.printed[-1])
        wait_until(lambda: is_gone(child))


def test_it_is_killed_when_its_supervisor_wants_that(tmp_path: Path) -> None:
    with light_host(tmp_path, SLEEPS) as host:
        worker = Started(tmp_path / "work", host)
        os.kill(worker.process.pid, signal.SIGSTOP)
        worker.process.kill()
        assert worker.code == -signal.SIGKILL
        assert is_gone(worker.process.pid)


def test_it_is_killed_though_its_guard_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard is of the same user, so that a worker might stop it where the kernel has no Landlock for signals."""
    monkeypatch.setattr(starting, "_KILL_SECONDS", 0.0)
    with light_host(tmp_path, SLEEPS) as host:
        worker = Started(tmp_path / "work", host)
        psutil.Process(worker.process.pid).parent().suspend()
        worker.process.kill()
        assert worker.code == -signal.SIGKILL
        wait_until(lambda: is_gone(worker.process.pid))


# -- who ends with whom --------------------------------------------------------------------------------------------

SUPERVISOR = """
import sys, time
from pathlib import Path
from inpaint_ops.supervisor.worker_process import WorkerProcess
worker = WorkerProcess.start(cwd=Path(sys.argv[1]), on_event=print, on_exit=print, warm_host=sys.argv[2])
print(worker.pid, worker.process.started_by, flush=True)
time.sleep(3600)
"""


def test_a_killed_supervisor_takes_its_worker_with_it(tmp_path: Path) -> None:
    """Even one that is stopped and could not see the end of its standard input."""
    with light_host(tmp_path, SLEEPS) as host:
        with subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(tmp_path), host.socket], stdout=subprocess.PIPE, cwd=REPOSITORY
        ) as supervisor:
            assert supervisor.stdout is not None
            pid, how = supervisor.stdout.readline().split()
            assert how == b"fork"
            guard = psutil.Process(int(pid)).parent()
            os.kill(int(pid), signal.SIGSTOP)
            supervisor.kill()
        wait_until(lambda: is_gone(int(pid)) and is_gone(guard.pid))
        assert host.process.poll() is None, "the host goes on"


def test_the_guards_end_takes_its_worker_with_it_and_the_supervisor_is_told(tmp_path: Path) -> None:
    with light_host(tmp_path, SLEEPS) as host:
        worker = Started(tmp_path / "work", host)
        pid = worker.process.pid
        os.kill(pid, signal.SIGSTOP)
        psutil.Process(pid).parent().kill()
        assert worker.code == -signal.SIGKILL
        wait_until(lambda: is_gone(pid))


def test_a_worker_paints_on_when_its_host_is_killed(tmp_path: Path) -> None:
    with real_host(tmp_path) as host:
        worker = Started(tmp_path / "work", host)
        worker.process.send(job(tmp_path / "work"))
        wait_until(lambda: worker.all(Ready))
        with pytest.raises(Exception, match=str(worker.process.pid)):
            Lease.acquire(["cpu-0"], own_folder(), 0)
        host.process.kill()
        host.process.wait()
        worker.process.send(picture(tmp_path / "work", 1, (64, 64)))
        worker.process.send(Flush())
        worker.process.send(End())
        assert worker.code == 0, worker.printed
        assert len(worker.all(Done)) == len(worker.all(Bye)) == 1
        Lease.acquire(["cpu-0"], own_folder(), 0).release()
        # and the next one is started by exec
        worker = Started(tmp_path / "next", host)
        assert worker.process.process.started_by == "exec"
        assert worker.process.not_forked.startswith(f"no warm host at {host.socket}: ")
        worker.process.kill()


def test_a_worker_ends_with_its_standard_input(shared_warm_host: Host, tmp_path: Path) -> None:
    worker = Started(tmp_path, shared_warm_host)
    worker.process.send(job(tmp_path))
    wait_until(lambda: worker.all(Phase))
    worker.process._commands.put(None)  # as when its supervisor is gone
    assert worker.code == EXIT_ORPHANED


# -- nothing is left -----------------------------------------------------------------------------------------------

FORKS = 500


def test_five_hundred_forks_leave_nothing_behind(tmp_path: Path) -> None:
    with light_host(tmp_path, "pass") as host:
        process = psutil.Process(host.process.pid)
        environment = worker_environment(os.environ)

        def fork(times: int) -> None:
            for _ in range(times):
                worker = ForkedProcess(host.socket, tmp_path, environment, None)
                assert worker.wait() == 0
                for pipe in (worker.pipes.commands, worker.pipes.printed, worker.pipes.events):
                    os.close(pipe)

        def here() -> tuple[int, int]:
            return psutil.Process().num_fds(), threading.active_count()

        def wait_until_all_is_closed() -> None:
            wait_until(lambda: not process.children())  # zombies count as children
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.connect(host.socket)
                connection.send(b"no request")
                assert connection.recv(1) == b"", "it answers one after the other: it is done with the forks"

        fork(5)
        wait_until_all_is_closed()
        gc.collect()
        before, mine, memory = process.num_fds(), here(), process.memory_full_info().uss
        fork(FORKS)
        wait_until_all_is_closed()
        # What tests before this one left in this process may go meanwhile: no more than before, then.
        wait_until(lambda: all(now <= then for now, then in zip(here(), mine, strict=True)))
        assert process.num_fds() == before and process.num_threads() == 1
        assert process.memory_full_info().uss - memory < 4 * 2**20, "8 kB per fork would be a leak"


def is_gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
