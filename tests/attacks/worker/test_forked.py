"""A worker that an image has taken over was forked from the warm host: it is held in as one that exec has started."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.supervisor.confinement import identity
from inpaint_ops.supervisor.worker_process import WorkerProcess
from tests.attacks.worker.looking import LOOK, REACH
from tests.support.warm import light_host


def looked(folder: Path, script: str, *arguments: str, **options: Any) -> dict[str, Any]:
    """What a forked process found that ran `script`: the JSON of its last line."""
    (folder / "work").mkdir()
    script = f"import sys; sys.argv = {['script', *arguments]!r}\n{script}"
    ended = threading.Event()
    with light_host(folder, script) as host:
        worker = WorkerProcess.start(
            cwd=folder / "work", on_event=print, on_exit=lambda _: ended.set(), warm_host=host.socket, **options
        )
        assert worker.process.started_by == "fork", worker.not_forked
        assert ended.wait(60)
    found: dict[str, Any] = json.loads(worker._tail[-1])
    return found


def test_it_can_look_into_neither_its_guard_nor_the_host(tmp_path: Path) -> None:
    """The attack: the memory of a process above it, whose other children are other shards' workers."""
    found = looked(tmp_path, LOOK, "2")
    assert len(found["above"]) == 2
    for above in found["above"]:
        assert {above[what] for what in ("environ", "mem", "maps", "fd")} == {"PermissionError"}, above
        assert above["traced"] is False
    assert found["no_new_privs"] == 1
    assert {found["caps"][name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    if os.geteuid() == 0:
        assert found["caps"]["CapBnd"] == 0


def test_it_has_no_tcp_and_no_signals_and_may_move_files(tmp_path: Path) -> None:
    """The attack: what it read goes out by TCP; its guard is stopped, so that nobody ends it with its supervisor."""
    import socket

    from inpaint_ops.worker import launch

    version = launch._libc.syscall(launch._SYS_CREATE_RULESET, None, 0, launch._CREATE_RULESET_VERSION)
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = looked(tmp_path, REACH, str(server.getsockname()[1]))
    assert (found["moved"], found["child"]) == (True, 7)
    assert found["tcp"] == ("PermissionError" if version >= 4 else "connected")
    assert found["signal"] == ("PermissionError" if version >= 6 else "sent")


WHO = """
import json, os, socket
try:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(sys.argv[1])
    reached = "connected"
except OSError as error:
    reached = type(error).__name__
try:
    os.listdir("/root")
    root = "listed"
except OSError as error:
    root = type(error).__name__
print(json.dumps({"users": os.getresuid(), "groups": [os.getresgid(), os.getgroups()], "home": os.environ["HOME"],
                  "host": reached, "root": root}), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_becomes_another_user_and_reaches_neither_roots_files_nor_the_host(tmp_path: Path) -> None:
    """The attack: it asks the host, which is root's, for another process."""
    found = looked(tmp_path, WHO, str(tmp_path / "warm" / "socket"), identity=identity("65534:12345"))
    assert found["users"] == [65534] * 3
    assert found["groups"][0] == [12345] * 3 and 0 not in found["groups"][1]
    assert (found["home"], found["host"], found["root"]) == (
        str(tmp_path / "work"),
        "PermissionError",
        "PermissionError",
    )


def test_it_is_asked_for_and_gets_a_confined_one(tmp_path: Path) -> None:
    """The attack: of the same user, it asks the host for another process, to leave its own confinement."""
    script = f"""
import json, os, sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from inpaint_ops.supervisor.starting import ForkedProcess
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
if os.environ.get("TMPDIR") == "/asked-for":
    print(json.dumps({{"no_new_privs": status["NoNewPrivs"].strip(), "caps": status["CapPrm"].strip()}}), flush=True)
else:
    environment = dict(os.environ) | {{"TMPDIR": "/asked-for"}}
    other = ForkedProcess(sys.argv[1], Path.cwd(), environment, None)
    other.wait()
    print(os.read(other.pipes.printed, 10000).decode().splitlines()[-1], flush=True)
"""
    found = looked(tmp_path, script, str(tmp_path / "warm" / "socket"))
    assert found == {"no_new_privs": "1", "caps": "0" * 16}
