"""A real Airflow on this machine: api-server, scheduler (LocalExecutor) and dag-processor on SQLite, loopback only.

For the demo and the tests. Every component gets a session of its own and is ended by its process group.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from demo.ports import Claim, claim_port

REPOSITORY = Path(__file__).resolve().parent.parent
USER = "admin"
DATABASE_WAIT = 120
"""Seconds for which a component waits for another one's write to the database."""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


class AirflowStack:
    """Airflow in `home`, which is kept: a second start skips the database migration.

    `prefix` is a path that Airflow lies under, as behind a proxy. `environment` is added to every component's, and so
    to every task's: storage settings, INPAINT_*.
    """

    components: tuple[tuple[str, ...], ...] = (("api-server",), ("scheduler",), ("dag-processor",))
    """What is started: Airflow's commands, each with its options."""

    def __init__(
        self,
        home: Path,
        environment: Mapping[str, str],
        *,
        port: int | None = None,
        gpu_slots: int = 1,
        prefix: str = "",
    ) -> None:
        self.home = home.resolve()
        self._claim: Claim | None = None
        if port is None:
            self._claim = claim_port()
            port = self._claim.port
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}{prefix}"
        self.gpu_slots = gpu_slots
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._extra = dict(environment)
        self._token = ""
        self._start_again: dict[str, Callable[[], None]] = {}

    @property
    def password(self) -> str:
        """The password of the user `admin`, made once for this home."""
        return str(json.loads((self.home / "passwords.json").read_text())[USER])

    def environment(self) -> dict[str, str]:
        """What every component runs with."""
        secret = (self.home / "secret").read_text()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "AWS_", "INPAINT_"))}
        return inherited | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",  # a busy machine takes its time; the default is 30
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
            # Components wait for each other's writes; by SQLite's default they give up after 5 s: the API answers 500.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}?timeout={DATABASE_WAIT}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secret,
            "AIRFLOW__API_AUTH__JWT_SECRET": secret,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **self._extra,
        }  # fmt: skip

    def start(self, *, timeout: float = 600) -> None:
        """Migrate the database, set the pool, start the components, and wait until they are healthy.

        Raises RuntimeError with the end of a component's log if one ends or the time is over.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write_once("secret", secrets.token_hex(32))
        self._write_once("passwords.json", json.dumps({USER: secrets.token_urlsafe(12)}))
        if not (self.home / "migrated").exists():
            self._migrate()
            (self.home / "migrated").touch()
        for component, *options in self.components:
            self._spawn(component, [component, *options], self.environment(), self.home)
        self._wait_healthy(time.monotonic() + timeout)

    def _migrate(self) -> None:
        """Fill the database of a new home."""
        self._airflow("db", "migrate")
        self._airflow("pools", "set", "gpu", str(self.gpu_slots), "one slot per GPU")

    def _spawn(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        """Start `airflow <command>` in a session of its own, with its log at `<name>.log`."""

        def in_child() -> None:
            if preexec is not None:
                preexec()
            _die_with_parent()

        def start() -> None:
            with (self.home / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "airflow", *command],
                    env=environment,
                    cwd=cwd,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=in_child,
                )

        self._start_again[name] = start
        start()

    def restart_ended(self) -> list[str]:
        """Start again the components that have ended, as compose's `restart: unless-stopped` does; returns their names.

        Call it from the main thread: what it starts dies with the thread.
        """
        ended = [name for name, process in list(self.processes.items()) if process.poll() is not None]
        for name in ended:
            self._start_again[name]()
        return ended

    def _write_once(self, name: str, text: str) -> None:
        path = self.home / name
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)

    def _airflow(self, *command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"airflow {' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _wait_healthy(self, deadline: float) -> None:
        while True:
            for component, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"airflow {component} ended:\n{self.log_tail(component)}")
            with contextlib.suppress(httpx.HTTPError):
                health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=30)
                if health.status_code == 200 and all(
                    health.json()[part]["status"] == "healthy"
                    for part in ("metadatabase", "scheduler", "dag_processor")
                ):
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"Airflow is not healthy in time:\n{self.log_tail('scheduler')}")
            time.sleep(0.5)

    def log_tail(self, component: str, size: int = 3000) -> str:
        """The end of a component's log."""
        path = self.home / f"{component}.log"
        return path.read_text(errors="replace")[-size:] if path.exists() else ""

    def api(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Call the REST API (`/api/v2` + path) as the user `admin`; returns the JSON.

        Raises httpx.HTTPStatusError; where Airflow itself failed, with the end of the api-server's log as its note.
        """
        if not self._token:
            reply = httpx.post(f"{self.url}/auth/token", json={"username": USER, "password": self.password}, timeout=30)
            reply.raise_for_status()
            self._token = reply.json()["access_token"]
        reply = httpx.request(
            method,
            f"{self.url}/api/v2{path}",
            json=body,
            params=query,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=DATABASE_WAIT + 60,
        )
        try:
            reply.raise_for_status()
        except httpx.HTTPStatusError as error:
            if reply.is_server_error:
                error.add_note(f"{reply.text[:500]}\n{self.log_tail('api-server')}")
            raise
        return reply.json() if reply.content else None

    def wait_for_dags(self, *dag_ids: str, timeout: float = 600) -> None:
        """Wait until the dag-processor has parsed these DAGs; raises RuntimeError with the import errors otherwise."""
        deadline = time.monotonic() + timeout
        while True:
            known = {dag["dag_id"] for dag in self.api("GET", "/dags", limit=100)["dags"]}
            if known >= set(dag_ids):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"DAGs missing: {set(dag_ids) - known}; {self.api('GET', '/importErrors')}")
            time.sleep(0.5)

    def unpause(self, dag_id: str) -> None:
        """Let the DAG run."""
        self.api("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Trigger a run, as the UI's form would; returns its id."""
        body = {"logical_date": None, "conf": dict(conf or {})} | ({"dag_run_id": run_id} if run_id else {})
        return str(self.api("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """queued, running, success or failed."""
        return str(self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout: float = 900) -> str:
        """Wait until a run has ended; returns its state. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while (state := self.run_state(dag_id, run_id)) not in ("success", "failed"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{dag_id} {run_id} is {state} after {timeout} s")
            time.sleep(0.5)
        return state

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The run's task instances."""
        return list(self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=1000)["task_instances"])

    def task_logs(self, dag_id: str, run_id: str) -> str:
        """Every task log of a run, as text."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*.log")))

    def stop(self) -> None:
        """End every component and all that it started."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 15
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()
        if self._claim is not None:
            self._claim.close()

    def forget(self) -> None:
        """Remove the home."""
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> AirflowStack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
