"""Warm hosts for tests: the real one, and one that imports no model stack and forks processes that run a script."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.protocol import Event
from inpaint_ops.supervisor.confinement import worker_environment
from inpaint_ops.supervisor.worker_process import WorkerProcess
from inpaint_ops.worker.fork_request import ONE_THREAD
from tests.support.waiting import wait_until

_LIGHT = """
import json, os, sys
from pathlib import Path
from inpaint_ops.worker.installation import installation
environment, found = dict(os.environ), installation()
path, script, changes = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
import inpaint_ops.worker.warm_host as warm_host
exec(changes.get("before", ""))
def work(events, started):
    names = {"events": events, "started": started}
    try:
        exec(compile(script, "script", "exec"), names)
    except SystemExit as end:
        os._exit(end.code or 0)
    os._exit(0)
with warm_host._alone(path):
    warm_host.serve(path, environment, found | changes.get("found", {}), work)
"""


class Host:
    """A running warm host."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.path, self.process, self._log = path, process, log

    @property
    def socket(self) -> str:
        """What INPAINT_WARM_HOST names."""
        return str(self.path)

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()


@contextlib.contextmanager
def warm_host(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Host]:
    """The real one, as `inpaint-ops warm-host` starts it."""
    path = folder / "warm" / "socket"
    command = [sys.executable, "-m", "inpaint_ops.cli", "warm-host", "--socket", str(path)]
    with _running(command, path, dict(os.environ if environment is None else environment), folder / "host.log") as host:
        yield host


@contextlib.contextmanager
def light_host(
    folder: Path, script: str, *, before: str = "", found: Mapping[str, str] | None = None
) -> Iterator[Host]:
    """One whose forks run `script`, with `events` and `started`. `before` is run in it; `found` is what it says that it
    has imported, beyond what is true.
    """
    path = folder / "warm" / "socket"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    changes = json.dumps({"before": before, "found": dict(found or {})})
    command = [sys.executable, "-c", _LIGHT, str(path), script, changes]
    with _running(command, path, worker_environment(os.environ) | ONE_THREAD, folder / "host.log") as host:
        yield host


@pytest.fixture(scope="session")
def shared_warm_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One per process of the session."""
    with warm_host(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
def forked_workers(shared_warm_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from the shared warm host, in a tenth of a second: for tests of what is done with a worker, in
    which its start, six seconds of imports, plays no part.
    """
    monkeypatch.setenv("INPAINT_WARM_HOST", shared_warm_host.socket)


@contextlib.contextmanager
def _running(command: list[str], path: Path, environment: dict[str, str], log: Path) -> Iterator[Host]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=Path.cwd(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: path.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Host(path, process, log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


SLEEPS = "import time; print('up', flush=True); time.sleep(3600)"


class Started:
    """A worker of a supervisor's, and what it sends."""

    def __init__(self, folder: Path, host: Host, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.events: list[Event] = []
        self.codes: list[int] = []
        self.process = WorkerProcess.start(
            cwd=folder, on_event=self.events.append, on_exit=self.codes.append, warm_host=host.socket, **options
        )

    @property
    def code(self) -> int:
        """Its exit code, once it has one."""
        wait_until(lambda: self.codes)
        return self.codes[0]

    @property
    def printed(self) -> list[str]:
        """The last lines that it printed, once it has ended."""
        assert isinstance(self.code, int)
        return list(self.process._tail)

    def all(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
