"""What a first start under a real engine showed to be wrong, as far as a reader of the files can see it.

`make containers` starts them; these hold what it found on a machine without an engine too.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.support.compose_files import AIRFLOW_SERVICES, COMPOSE_FILES, REPOSITORY, compose, services

DOCS = (REPOSITORY / "docs/deploy.md").read_text()
GPU_MACHINE = "docker/gpu-machine.yaml"


@pytest.mark.parametrize("name", ["docker-compose.yaml", GPU_MACHINE])
def test_a_gpu_container_is_given_cuda_beside_nvml(name: str) -> None:
    """Without `compute` NVIDIA's toolkit mounts nvidia-smi and no libcuda.so.1: torch would see no GPU."""
    reservations = compose(name)["services"]["gpu-worker"]["deploy"]["resources"]["reservations"]
    (device,) = reservations["devices"]
    assert {"gpu", "compute", "utility"} <= set(device["capabilities"])
    assert "[gpu, utility]" not in DOCS


def test_a_gpu_worker_whose_gpu_is_not_usable_does_not_paint_on_its_processor() -> None:
    for service in (services()["gpu-worker"], compose(GPU_MACHINE)["services"]["gpu-worker"]):
        assert service["environment"]["INPAINT_DEVICE"] == "cuda"
    assert services()["cpu-painter"]["environment"]["INPAINT_DEVICE"] == "cpu"


def test_no_service_is_refused_by_a_machine_with_few_cores() -> None:
    """The engine refuses a limit of processors above what the machine has, and so the whole `up`."""
    for name in COMPOSE_FILES:
        for service, definition in compose(name)["services"].items():
            resources = definition.get("deploy", {}).get("resources", {})
            for part in (definition, *resources.values()):
                assert not {"cpus", "cpuset", "cpu_count", "cpu_quota"} & set(part), f"{name}: {service}"
    for painter in ("gpu-worker", "cpu-painter"):
        assert services()[painter]["cpu_shares"] < 1024, "it would starve the heartbeats"


def test_a_dropped_manifest_meets_no_paused_dag() -> None:
    from demo.__main__ import environment_of
    from demo.object_store import ObjectStoreServer

    variable = "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"
    for name in ("scheduler", "dag-processor", "api-server"):
        assert services()[name]["environment"][variable] == "False"
    values = yaml.safe_load((REPOSITORY / "deploy/helm-values.yaml").read_text())
    assert {"name": variable, "value": "False"} in values["env"]
    assert environment_of(ObjectStoreServer(Path("/nowhere")))[variable] == "False"


def test_all_that_a_gpu_machine_sends_to_is_published_for_it() -> None:
    machine = compose(GPU_MACHINE)["services"]["gpu-worker"]
    opened = compose("docker/cluster.yaml")["services"]
    hosts = {line.partition(":")[0] for line in machine["extra_hosts"]}
    assert hosts == opened.keys()
    ports = {name: {port.partition("}:")[2] for port in service["ports"]} for name, service in opened.items()}
    statsd = machine["environment"]["AIRFLOW__METRICS__STATSD_PORT"]
    assert ports["statsd-exporter"] == {f"{statsd}:{statsd}/udp"}
    assert ports["broker"] == {"6379:6379"}
    assert ports["api-server"] == {"8080:8080"}
    assert ports["seaweedfs"] == {"8333:8333"}


def test_who_opens_an_address_that_may_come_late_is_told_how(tmp_path: Path) -> None:
    """Docker binds once, at boot: where the VPN's address is not there yet, broker and store stay down."""
    for text in (DOCS, (REPOSITORY / "docker/cluster.yaml").read_text()):
        assert "net.ipv4.ip_nonlocal_bind=1" in text
    (tmp_path / ".env").write_text("BROKER_PASSWORD=x\n")
    setting = tmp_path / "ip_nonlocal_bind"
    for value, warned in (("0\n", True), ("1\n", False)):
        setting.write_text(value)
        (tmp_path / "machine.env").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, REPOSITORY / "docker/make-env", "--folder", tmp_path, "--machine", "10.0.0.1"],
            env=os.environ | {"NONLOCAL_BIND": str(setting)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ("net.ipv4.ip_nonlocal_bind=1" in done.stderr) == warned


# -- init

AIRFLOW = """#!/bin/sh
# Stands for Airflow's command: writes down how it was called, and what it was told on standard input.
echo "$*" >>"$CALLS"
case "$1 $2" in
"pools get") exit "$POOL" ;;
"users create") cat >>"$CALLS.stdin" ;;
esac
"""


def called_by_init(folder: Path, *, pool_is_there: bool) -> tuple[list[str], str]:
    """The commands that docker/init gives Airflow, and what it writes to their standard input."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name, text in (("airflow", AIRFLOW), ("python", "#!/bin/sh\ncat >/dev/null\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(folder / "calls"), "POOL": str(int(not pool_is_there)),
        "ADMIN_PASSWORD": "correct horse", "GPU_SLOTS": "2", "TMPDIR": str(folder),
    }  # fmt: skip
    subprocess.run([REPOSITORY / "docker/init"], env=environment, check=True, stdin=subprocess.DEVNULL)
    return (folder / "calls").read_text().splitlines(), (folder / "calls.stdin").read_text()


def test_a_second_start_keeps_the_pool_that_was_set_by_hand(tmp_path: Path) -> None:
    first, _ = called_by_init(tmp_path / "first", pool_is_there=False)
    assert [line for line in first if line.startswith("pools set gpu 2 ")]
    second, _ = called_by_init(tmp_path / "second", pool_is_there=True)
    assert not [line for line in second if line.startswith("pools set")]


def test_the_admins_password_is_on_no_command_line_of_init(tmp_path: Path) -> None:
    calls, told = called_by_init(tmp_path, pool_is_there=True)
    assert [line for line in calls if line.startswith("users create")]
    assert not [line for line in calls if "correct horse" in line]
    assert told == "correct horse\n" * 2, "the command asks twice"


# -- images


@pytest.mark.parametrize("profile", ["gpu", "cpu", "monitoring", None])
def test_an_image_is_built_by_one_service_and_so_exported_once(profile: str | None) -> None:
    active = [one for one in services().values() if {profile} >= set(one.get("profiles", ()))]
    builders = Counter(one["image"] for one in active if "build" in one)
    ours = {one["image"] for one in active if one["image"].startswith("inpaint-ops-")}
    assert builders == dict.fromkeys(ours, 1), "none twice, and none that nobody builds"


def stages() -> dict[str, list[str]]:
    """The lines of each stage of the Dockerfile that is a build's target."""
    text = re.sub(r"\\\n\s*", "", (REPOSITORY / "docker/Dockerfile").read_text())
    found = {
        part.split("\n")[0].split()[-1]: part.strip().split("\n") for part in re.split(r"^FROM ", text, flags=re.M)[1:]
    }
    return {name: [line for line in lines if not line.startswith("#")] for name, lines in found.items()}


def test_the_images_hold_bytecode() -> None:
    """The root is read-only: without it each start of Airflow compiles what it imports, and keeps nothing of it."""
    for name in ("airflow", "gpu"):
        assert "compileall" in stages()[name][-1], f"{name}: the last layer compiles what the others have installed"
    assert any("compileall" in line and "stdlib" in line for line in stages()["base"])


def test_the_gpu_image_has_the_compiler_that_torch_compile_runs() -> None:
    installed = [line for line in stages()["torch"] if "apt-get install" in line]
    assert any(re.search(r"\bg\+\+", line) for line in installed)
    assert stages()["torch"][-1].startswith("RUN pip"), "and what is installed is installed as the image's user"
    assert [line for line in stages()["torch"] if line.startswith("USER")] == ["USER 0", "USER 50000"]


def test_no_container_reads_a_file_of_the_clone() -> None:
    """A clone made with umask 077 is its owner's alone: the container's user cannot read a file of it that is mounted.

    compose mounts the files of `configs:` and `secrets:` too.
    """
    for name in COMPOSE_FILES:
        assert not {"configs", "secrets"} & compose(name).keys(), name
        for service, definition in compose(name)["services"].items():
            for volume in definition.get("volumes", ()):
                assert isinstance(volume, str)
                assert re.match(r"[a-z_]+:/", volume), f"{name}: {service} mounts {volume}"
    text = (REPOSITORY / "docker/Dockerfile.monitoring").read_text()
    copied = re.findall(r"^COPY (.+)$", text, re.MULTILINE)
    assert copied
    for line in copied:
        assert line.startswith("--chmod=0644 "), line
        assert all((REPOSITORY / source).is_file() for source in line.split()[1:-1]), f"{line}: a folder of mode 0644"


# -- at work


def test_no_health_check_starts_airflow() -> None:
    for name, service in services().items():
        check = " ".join(service.get("healthcheck", {}).get("test", ()))
        assert not re.search(r"\bairflow (?:jobs|db|celery|version|info)\b|celery --app|-m airflow", check), (
            f"{name}: {check}"
        )
    tree = ast.parse((REPOSITORY / "docker/ping-worker").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"celery"}


def test_the_health_checks_by_the_api_server_read_what_it_answers() -> None:
    from airflow.api_fastapi.core_api.datamodels.monitor import BaseInfoResponse, HealthInfoResponse

    for name, part in (("dag-processor", "dag_processor"), ("triggerer", "triggerer")):
        check = services()[name]["healthcheck"]["test"][1]
        (pattern,) = re.findall(r"grep -q '([^']+)'", check)
        for status, seen in (("healthy", True), ("unhealthy", False)):
            state = {"status": status, f"latest_{part}_heartbeat": None}
            others = {"status": "healthy", "latest_scheduler_heartbeat": None, "latest_triggerer_heartbeat": None}
            answer = {"metadatabase": BaseInfoResponse(status="healthy"), "scheduler": others, "triggerer": others} | {
                part: state
            }
            text = HealthInfoResponse.model_validate(answer).model_dump_json()
            found = subprocess.run(["grep", "-q", pattern], input=text, text=True, check=False)
            assert (found.returncode == 0) == seen, f"{name}: {text}"


def test_local_logs_do_not_grow_for_ever() -> None:
    for name in AIRFLOW_SERVICES:
        environment = services()[name]["environment"]
        assert environment["AIRFLOW__LOGGING__REMOTE_LOGGING"] == "True"
        assert environment["AIRFLOW__LOGGING__DELETE_LOCAL_LOGS"] == "True", name
    assert services()["dag-processor"]["environment"]["AIRFLOW__LOGGING__DAG_PROCESSOR_LOG_TARGET"] == "stdout"


def test_a_service_has_time_to_stop() -> None:
    """Docker's own ten seconds are followed by SIGKILL."""
    for name, service in services().items():
        grace = re.fullmatch(r"(\d+)m", service["stop_grace_period"])
        assert grace is not None, f"{name}: {service['stop_grace_period']}"
        assert int(grace[1]) >= (5 if name in ("gpu-worker", "cpu-painter") else 1)


def test_grafana_asks_nothing_outside() -> None:
    environment = services()["grafana"]["environment"]
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    off = {name for name, value in environment.items() if value == "false"}
    assert off >= {
        "GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
        "GF_NEWS_NEWS_FEED_ENABLED", "GF_PLUGINS_PREINSTALL_AUTO_UPDATE",
    }  # fmt: skip


def test_files_are_transferred_without_making_the_store_anew() -> None:
    """`compose run` makes dependencies anew where the files differ, and so without docker/cluster.yaml's ports."""
    assert "depends_on" not in services()["transfer"]


# -- the page


def test_each_compose_command_of_the_page_names_services_that_exist() -> None:
    commands = re.findall(r"docker compose (exec|run|stop)((?: --?\w+)*) ([a-z-]+)", DOCS)
    assert {service for _, _, service in commands} >= {"gpu-worker", "cpu-painter", "transfer", "postgres"}
    for _, _, service in commands:
        assert service in services(), service


def test_the_page_says_how_large_the_images_are_and_how_a_manifest_comes_in() -> None:
    assert re.search(r"inpaint-ops-gpu.*\d GB", DOCS)
    assert re.search(r"inpaint-ops-airflow.*\d GB", DOCS)
    assert "transfer put" in DOCS
    assert "transfer get runs/" in DOCS
