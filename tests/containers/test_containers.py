"""The compose file as a user starts it, under a real Docker engine: `make containers`.

The images that it names are stand-ins; docs/deploy.md says in what they differ. Every step is a fixture that gathers
what was seen, so the tests may come in any order.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo.photos import make_demo
from inpaint_ops.records import Record, RunSummary
from tests.containers import stand_ins
from tests.containers.deployment import REPOSITORY, Deployment, wait
from tests.containers.engine import CommandError, Engine, why_not

ASKED = os.environ.get("CONTAINERS", "")
"""`all`, or `light`: without the painter's image, which holds torch for CUDA."""

REASON = why_not() if ASKED else "containers take a quarter of an hour, and are asked for by a target of their own"
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
paints = pytest.mark.skipif(ASKED == "light", reason="containers were asked for without the painter")

HOME = REPOSITORY / ".containers"
ADDRESS = "10.77.0.1"
"""Of a VPN, which comes after the engine at a reboot."""

ROWS = 24


@pytest.fixture(scope="module")
def engine(say: Callable[[str], None]) -> Iterator[Engine]:
    one = Engine(HOME)
    began = time.monotonic()
    one.prepare()
    say(f"containers: Debian and Docker's packages there after {time.monotonic() - began:.0f} s")
    try:
        one.start()
        yield one
    finally:
        one.stop()
        if not os.environ.get("KEEP"):
            one.remove_data()


@dataclass
class Started:
    """The services, all healthy, without a way out."""

    deployment: Deployment
    log: str
    """What the builds and the start printed."""


@pytest.fixture(scope="module")
def started(engine: Engine, say: Callable[[str], None]) -> Iterator[Started]:
    began = time.monotonic()
    stand_ins.build(engine)
    say(f"containers: stand-ins built in {time.monotonic() - began:.0f} s")
    deployment = Deployment(engine, "cpu" if ASKED == "all" else None, {"INPAINT_MODEL": "tiny-random"})
    began = time.monotonic()
    log = deployment.compose("build")
    say(f"containers: the project's images built in {time.monotonic() - began:.0f} s: {sizes(deployment)}")
    engine.offline()
    began = time.monotonic()
    log += deployment.compose("up", "--detach")
    healthy = deployment.wait_until_healthy()
    say(f"containers: `up` and all healthy in {time.monotonic() - began:.0f} s; after `up`: {healthy}")
    yield Started(deployment, log)
    deployment.compose("down", "--volumes", "--timeout", "30")


def sizes(deployment: Deployment) -> str:
    listed = deployment.engine.run("docker", "images", "--format", "{{.Repository}} {{.Size}}", "inpaint-ops-*")
    return ", ".join(sorted(listed.split("\n"))).strip(", ")


def test_each_image_is_built_and_exported_once(started: Started) -> None:
    assert started.log.count("naming to docker.io/library/inpaint-ops-airflow") == 1
    assert started.log.count("naming to docker.io/library/inpaint-ops-gpu") == (ASKED == "all")


def test_every_service_runs_as_nobody_who_could_do_harm(started: Started) -> None:
    """Of every process, as the kernel tells it: its user, its capabilities, its root and what it may become."""
    seen = 0
    for service, container in started.deployment.containers().items():
        if not container["State"]["Running"]:
            continue
        user, group = container["Config"]["User"].split(":")
        for folder in started.deployment.engine.processes(container["Id"]):
            try:
                status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
                mounts = (folder / "mountinfo").read_text().splitlines()
                limits = (folder / "limits").read_text()
            except OSError:
                continue  # a health check that has ended meanwhile
            assert set(status["Uid"].split()) == {user} != {"0"}, f"{service}: {status['Name']}"
            assert set(status["Gid"].split()) == {group}, f"{service}: {status['Name']}"
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(status[kind], 16) == 0, f"{service}: {status['Name']} has {kind} {status[kind]}"
            assert status["NoNewPrivs"] == "1", f"{service}: {status['Name']}"
            assert status["Seccomp"] == "2", f"{service}: {status['Name']}"
            (root,) = [line for line in mounts if line.split()[4] == "/"]
            assert "ro" in root.split()[5].split(","), f"{service}: {root}"
            (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
            assert core.split()[4:6] == ["0", "0"], f"{service}: {core}"
            seen += 1
    assert seen >= 8


def test_nothing_but_the_ui_is_published(started: Started) -> None:
    published = {
        service: container["NetworkSettings"]["Ports"]
        for service, container in started.deployment.containers().items()
        if any((container["NetworkSettings"]["Ports"] or {}).values())
    }
    assert published.keys() == {"api-server"}
    assert published["api-server"]["8080/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8080"}]


LOADED = """
import sys, importlib.util
import airflow.cli.cli_parser, airflow.jobs.scheduler_job_runner, inpaint_ops.supervisor
print([m.__spec__.origin for m in list(sys.modules.values())
       if getattr(m, "__spec__", None) and m.__spec__.cached and str(m.__spec__.origin).endswith(".py")
       and not __import__("os").path.exists(m.__spec__.cached)])
"""


def test_what_airflow_imports_is_compiled_in_the_image(started: Started) -> None:
    lines = started.deployment.inside("worker", "python", "-c", LOADED).splitlines()
    assert lines[-1] == "[]"


def test_the_admins_password_is_on_no_command_line(started: Started) -> None:
    password = started.deployment.secrets["ADMIN_PASSWORD"].encode()
    lines: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    lines.add((folder / "cmdline").read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        started.deployment.compose("run", "--rm", "--no-deps", "init")
    finally:
        done.set()
        watcher.join()
    assert any(b"users\0create" in line for line in lines), "the watcher saw init at work"
    assert not [line for line in lines if password in line]
    assert started.deployment.api("GET", "/version")["version"], "and the password is the one in .env"


@paints
def test_a_gpu_container_is_given_cuda_and_nvml(started: Started) -> None:
    """By what the engine tells NVIDIA's container toolkit, whose place a hook that does nothing takes."""
    variables = started.deployment.compose(
        "run", "--rm", "-T", "--no-deps", "--entrypoint", "env", "gpu-worker", profile="gpu"
    )
    (line,) = [line for line in variables.splitlines() if line.startswith("NVIDIA_DRIVER_CAPABILITIES=")]
    assert {"compute", "utility"} <= set(line.partition("=")[2].split(","))


@paints
def test_torch_compiles_in_the_painters_image(started: Started) -> None:
    program = "import torch; print(torch.compile(lambda x: 2 * x + 1)(torch.ones(3)).tolist())"
    assert started.deployment.inside("cpu-painter", "python", "-c", program).splitlines()[-1] == "[3.0, 3.0, 3.0]"
    headers = "import sysconfig, pathlib; print((pathlib.Path(sysconfig.get_paths()['include']) / 'Python.h').exists())"
    assert started.deployment.inside("cpu-painter", "python", "-c", headers).strip() == "True"


def test_prometheus_starts_from_a_clone_that_its_user_may_not_read(started: Started) -> None:
    deployment = started.deployment
    assert (deployment.copy / "deploy/monitoring/prometheus.yaml").stat().st_mode & 0o077 == 0
    deployment.compose("up", "--detach", "--build", "--no-deps", "prometheus", profile="monitoring")
    ask = ("wget", "-q", "-O", "-", "http://127.0.0.1:9090/api/v1/rules")

    def rules() -> Any:
        with contextlib.suppress(CommandError, json.JSONDecodeError):
            return json.loads(deployment.compose("exec", "-T", "prometheus", *ask, profile="monitoring"))
        return None

    wait(rules, "Prometheus")
    (group,) = rules()["data"]["groups"]
    assert len(group["rules"]) == 5
    deployment.compose("rm", "--stop", "--force", "prometheus", profile="monitoring")


# -- a manifest by the inbox


@dataclass
class Taken:
    """A manifest that was dropped into the inbox, and the run that its schedule made of it."""

    deployment: Deployment
    run: str
    dag_run: str


@pytest.fixture(scope="module")
def taken(started: Started, say: Callable[[str], None]) -> Taken:
    files: dict[str, bytes] = {}
    make_demo(lambda name, body: files.setdefault(name, body))
    wanted = {name: files[name] for name in ("photos/coffee.jpg", "masks/coffee.png")}
    rows = [
        {
            "image": "photos/coffee.jpg",
            "mask": "masks/coffee.png",
            "prompt": "a cup",
            "id": f"cup-{number}",
            "steps": 50,
        }
        for number in range(ROWS)
    ]
    manifest = "".join(json.dumps(row) + "\n" for row in rows).encode()
    began = time.monotonic()
    told = started.deployment.put({"night.jsonl": manifest} | wanted)
    assert "put 2 files, then night.jsonl" in told
    runs: list[dict[str, Any]] = []

    def triggered() -> bool:
        runs[:] = started.deployment.api("GET", "/dags/inpaint_manifest/dagRuns")["dag_runs"]
        return bool(runs)

    wait(triggered, "the inbox's schedule to take the manifest")
    say(f"containers: the inbox took the manifest {time.monotonic() - began:.0f} s after it was put")
    return Taken(started.deployment, runs[0]["conf"]["run"], runs[0]["dag_run_id"])


def test_a_dropped_manifest_becomes_a_run_with_no_hand_on_airflow(taken: Taken) -> None:
    wait(lambda: taken.deployment.get(f"runs/{taken.run}").keys() & {"manifest.jsonl"}, "the plan", pause=3)


@dataclass
class Night:
    """The run whose painter was killed."""

    deployment: Deployment
    taken: Taken
    state: str
    before: dict[str, bytes]
    """The run's files at the kill."""
    files: dict[str, bytes] = field(repr=False)


def record_names(files: dict[str, bytes]) -> set[str]:
    return {name for name in files if name.startswith("records/")}


@pytest.fixture(scope="module")
def night(taken: Taken, say: Callable[[str], None]) -> Night:
    deployment, began = taken.deployment, time.monotonic()
    before: dict[str, bytes] = {}

    def at_work() -> bool:
        before.clear()
        before.update(deployment.get(f"runs/{taken.run}"))
        return bool(record_names(before))

    wait(at_work, "the painter's first record")
    painter = deployment.containers()["cpu-painter"]
    first = deployment.engine.processes(painter["Id"])[0]
    os.kill(int(first.name), signal.SIGKILL)
    killed = time.monotonic()
    say(
        f"containers: painter killed {killed - began:.0f} s after the run was there, "
        f"with {len(record_names(before))} of {ROWS} records"
    )
    state = ""

    def over() -> bool:
        nonlocal state
        state = deployment.api("GET", f"/dags/inpaint_manifest/dagRuns/{taken.dag_run}")["state"]
        return state in ("success", "failed")

    wait(over, "the run to end")
    say(f"containers: the run ended as {state} {time.monotonic() - killed:.0f} s after its painter was killed")
    return Night(deployment, taken, state, before, deployment.get(f"runs/{taken.run}"))


@paints
def test_every_row_ends_once_though_the_painter_is_killed(night: Night) -> None:
    assert night.state == "success"
    records = [Record.model_validate_json(night.files[name]) for name in record_names(night.files)]
    assert sorted(record.row for record in records) == list(range(1, ROWS + 1))
    assert {record.status for record in records} == {"done"}
    assert 0 < len(record_names(night.before)) < ROWS, "it was killed at work"
    for name in record_names(night.before):
        assert night.files[name] == night.before[name]
    summary = RunSummary.model_validate_json(night.files["run.json"])
    assert (summary.verdict, summary.counts.done) == ("VALID", ROWS)
    assert len({record.attempt for record in records}) == 2


@paints
def test_the_killed_painter_came_back_by_its_restart_policy(night: Night) -> None:
    night.deployment.wait_until_healthy()
    assert night.deployment.containers()["cpu-painter"]["RestartCount"] >= 1


@paints
def test_task_logs_are_in_the_store_and_not_left_in_the_volume(night: Night) -> None:

    def left() -> list[str]:
        """But for the task that was killed, which nobody was left to upload for."""
        listed = night.deployment.inside("worker", "find", "/opt/airflow/logs", "-type", "f", "-size", "+0")
        return [name for name in listed.split() if "/run_id=" in name and "task_id=inpaint/" not in name]

    wait(lambda: not left(), "the worker to remove the logs of tasks that have ended; others may be at work meanwhile")
    path = f"/dags/inpaint_manifest/dagRuns/{night.taken.dag_run}/taskInstances/report/logs/1?full_content=true"
    assert night.deployment.api("GET", path)["content"]


# -- a reboot, and down and up


@dataclass
class Again:
    """The cluster after `docker/cluster.yaml`, a reboot, and `down` and `up`."""

    deployment: Deployment
    exit_codes: dict[str, int]
    """Of each service's first process, at the stop."""
    answers: str
    """Of the store by the private address, which came after the reboot."""
    before: dict[str, Any]
    after: dict[str, Any]


def kept(deployment: Deployment) -> dict[str, Any]:
    runs = deployment.api("GET", "/dags/inpaint_manifest/dagRuns")["dag_runs"]
    pool = deployment.api("GET", "/pools/gpu")
    files = {name: deployment.get(f"runs/{run['conf']['run']}").keys() for run in runs for name in [run["dag_run_id"]]}
    return {"runs": {run["dag_run_id"] for run in runs}, "slots": pool["slots"], "files": files}


@pytest.fixture(scope="module")
def again(request: pytest.FixtureRequest, taken: Taken, say: Callable[[str], None]) -> Again:
    if ASKED == "all":
        request.getfixturevalue("night")
    deployment = taken.deployment
    engine = deployment.engine
    deployment.inside("scheduler", "airflow", "pools", "set", "gpu", "3", "set by hand")
    engine.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    open_up = {"CONTROL_ADDRESS": ADDRESS}
    deployment.compose("up", "--detach", files=("docker/cluster.yaml",), environment=open_up)
    deployment.wait_until_healthy()
    before = kept(deployment)

    began = time.monotonic()
    engine.stop()
    engine.start(way_out=False, late_addresses=True)
    deployment.wait_until_healthy()
    engine.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    answers = engine.run(
        "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", f"http://{ADDRESS}:8333/healthz"
    )
    say(f"containers: the engine was stopped and started, and all healthy, in {time.monotonic() - began:.0f} s")

    began = time.monotonic()
    deployment.compose("stop")
    exit_codes = {name: one["State"]["ExitCode"] for name, one in deployment.containers().items()}
    say(f"containers: stopped in {time.monotonic() - began:.0f} s with exit codes {exit_codes}")
    began = time.monotonic()
    deployment.compose("down")
    deployment.compose("up", "--detach")
    deployment.wait_until_healthy()
    say(f"containers: `down`, `up` and all healthy in {time.monotonic() - began:.0f} s")
    return Again(deployment, exit_codes, answers, before, kept(deployment))


def test_down_and_up_keep_runs_files_and_the_pool_that_was_set_by_hand(again: Again) -> None:
    assert again.before == again.after
    assert again.after["slots"] == 3
    assert again.after["runs"]
    assert all(again.after["files"].values())


def test_the_store_is_back_at_an_address_that_came_after_the_reboot(again: Again) -> None:
    assert again.answers == "200"


def test_no_service_has_to_be_killed_to_stop(again: Again) -> None:
    assert {name: code for name, code in again.exit_codes.items() if code == 128 + signal.SIGKILL} == {}
