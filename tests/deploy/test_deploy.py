"""The files of the deployment, as far as no Docker engine and no Kubernetes is needed: each name in them exists."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inpaint_ops.cli.main import main as cli
from inpaint_ops.config import Settings
from inpaint_ops.supervisor.confinement import worker_environment
from tests.support.compose_files import AIRFLOW_SERVICES, COMPOSE_FILES, REPOSITORY, compose, services

BIN = Path(sys.executable).parent
DOCKERFILES = ("docker/Dockerfile", "docker/Dockerfile.monitoring")
COMMANDS = [name for name in AIRFLOW_SERVICES if name != "init"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def schema_check(path: Path | str) -> subprocess.CompletedProcess[str]:
    return run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_files_fit_the_compose_specification(name: str) -> None:
    done = schema_check(name)
    assert done.returncode == 0, done.stdout


def test_the_schema_would_see_a_mistake(tmp_path: Path) -> None:
    text = (REPOSITORY / "docker-compose.yaml").read_text()
    broken = tmp_path / "docker-compose.yaml"
    broken.write_text(text.replace("restart: unless-stopped", "restarts: unless-stopped", 1))
    assert schema_check(broken).returncode != 0


def test_the_dockerfiles_are_clean(tmp_path: Path) -> None:
    done = run(BIN / "hadolint", *DOCKERFILES)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text("FROM debian\nRUN cd /tmp\n")
    assert run(BIN / "hadolint", broken).returncode != 0


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    allowed = set(re.findall(r"^!(\S+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE))
    stages = set()
    for name in DOCKERFILES:
        text = (REPOSITORY / name).read_text()
        copied = re.findall(r"^COPY --ch(?:own|mod)=\S+ (.+)$", text, re.MULTILINE)
        assert copied
        for source in (source for line in copied for source in line.split()[:-1]):
            assert (REPOSITORY / source).exists(), source
            through = {source, *(str(parent) for parent in Path(source).parents)}
            assert through & allowed, f"{source} is not let through by .dockerignore"
        stages |= {(name, stage) for stage in re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)}
    builds = [service["build"] for service in services().values() if "build" in service]
    assert {(build["dockerfile"], build["target"]) for build in builds} <= stages
    assert {"airflow", "gpu", "prometheus", "grafana", "statsd-exporter"} == {build["target"] for build in builds}
    assert os.access(REPOSITORY / "docker/init", os.X_OK)


def pins(name: str) -> set[str]:
    """The pins of a file of requirements, without their hashes."""
    lines = (REPOSITORY / name).read_text().splitlines()
    return {line.removesuffix(" \\") for line in lines if not line.startswith((" ", "#"))}


def test_the_airflow_image_is_light_and_agrees_with_the_other() -> None:
    light = pins("requirements-airflow.txt")
    full = pins("requirements.txt")
    assert not [
        line for line in light if re.match(r"(torch|diffusers|transformers|xformers|accelerate|nvidia-(?!ml-py))", line)
    ]
    assert light <= full, "else a task would run with other versions than the plan"
    version = next(line for line in light if line.startswith("apache-airflow==")).partition("==")[2]
    assert f"-{version}-python" in (REPOSITORY / "docker/Dockerfile").read_text()


def airflow_options() -> set[str]:
    """Every option of Airflow's configuration, as a variable."""
    from airflow.configuration import conf
    from airflow.providers_manager import ProvidersManager

    ProvidersManager().initialize_providers_configuration()
    return {
        f"AIRFLOW__{section.upper()}__{option.upper()}"
        for section, options in conf.configuration_description.items()
        for option in options["options"]
    }


UNDOCUMENTED = {"AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "num_stuck_in_queued_retries"}
"""Options that Airflow reads and does not describe: with what to look for in the scheduler's source."""

OTHERS = {
    "AIRFLOW_CONFIG": "airflow", "DUMB_INIT_SETSID": "dumb-init, in Airflow's image", "TMPDIR": "POSIX",
    "HF_HOME": "huggingface_hub", "TRITON_CACHE_DIR": "triton",
    "ADMIN_PASSWORD": "docker/init", "GPU_SLOTS": "docker/init", "AWS_ENDPOINT_URL": "the AWS SDK",
    "AWS_ACCESS_KEY_ID": "the AWS SDK", "AWS_SECRET_ACCESS_KEY": "the AWS SDK", "AWS_REGION": "the AWS SDK",
}  # fmt: skip
"""Variables of others, and whose."""


def our_variables() -> set[str]:
    ours = {str(field.validation_alias or f"INPAINT_{name.upper()}") for name, field in Settings.model_fields.items()}
    places = [*REPOSITORY.glob("dags/*.py"), *REPOSITORY.glob("inpaint_ops_airflow/**/*.py")]
    code = "".join(path.read_text() for path in places)
    return ours | set(re.findall(r'"(INPAINT_[A-Z0-9_]+)"', code))


def test_every_variable_exists_in_the_code_or_in_airflows_configuration() -> None:
    known = airflow_options() | our_variables() | set(OTHERS)
    import airflow.jobs.scheduler_job_runner

    source = Path(airflow.jobs.scheduler_job_runner.__file__).read_text()
    for variable, option in UNDOCUMENTED.items():
        assert f'"{option}"' in source
        known.add(variable)
    for name in AIRFLOW_SERVICES:
        for variable in services()[name]["environment"]:
            assert variable in known, f"{name}: nobody reads {variable}"
    init = (REPOSITORY / "docker/init").read_text()
    for variable in set(re.findall(r'\$\{?([A-Z_]{4,})|environ\["([A-Z_]+)"\]', init)):
        assert (variable[0] or variable[1]) in services()["init"]["environment"]


@pytest.mark.parametrize("name", COMMANDS)
def test_airflow_has_the_commands(name: str) -> None:
    from airflow.cli.cli_parser import get_parser

    get_parser().parse_args([re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in services()[name]["command"]])


def test_airflow_has_the_commands_of_init() -> None:
    from airflow.cli.cli_parser import get_parser

    text = (REPOSITORY / "docker/init").read_text().replace("\\\n", " ")
    found = re.findall(r"^(?:if ! | +|printf .* \| setsid --wait )?airflow ([^>\n]+)", text, re.MULTILINE)
    assert len(found) == 5
    for line in found:
        get_parser().parse_args(re.sub(r"\"[^\"]*\"", "1", line).split())


def test_queues_and_pools_are_those_of_the_dags() -> None:
    code = "".join(path.read_text() for path in REPOSITORY.glob("dags/*.py"))
    queues = set(re.findall(r'queue="(\w+)"', code)) | {"default"}
    served = {
        command[command.index("--queues") + 1]
        for service in services().values()
        if "--queues" in (command := service.get("command", []))
    }
    assert served == queues
    pools = set(re.findall(r'pool="(\w+)"', code))
    assert pools == set(re.findall(r"airflow pools set (\w+)", (REPOSITORY / "docker/init").read_text()))


PATHS = (
    "HF_HOME", "TMPDIR", "INPAINT_SCRATCH", "AIRFLOW_CONFIG", "TRITON_CACHE_DIR",
)  # fmt: skip


def test_paths_in_containers_are_in_volumes_or_in_memory() -> None:
    image = (REPOSITORY / "docker/Dockerfile").read_text()
    for name in AIRFLOW_SERVICES:
        service = services()[name]
        places = [volume.split(":")[1] for volume in service["volumes"]]
        places += [place.partition(":")[0] for place in service["tmpfs"]]
        environment = service["environment"]
        paths = [environment[name] for name in PATHS if name in environment]
        assert service["read_only"] is True
        for path in paths:
            assert any(path.startswith(place) for place in places), f"{name}: {path} cannot be written"
        for place in places:
            assert place == "/tmp" or place in image, f"{place} is not made in the image, so root would own it"
    mounted = [v.partition(":")[0] for service in services().values() for v in service.get("volumes", [])]
    for source in mounted:
        if source.startswith("./"):
            assert (REPOSITORY / source).exists(), source
        else:
            assert source in compose()["volumes"]


def test_only_the_uis_port_is_published() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["api-server"]


def test_every_service_is_locked_in() -> None:
    """Neither root nor a capability, and nothing to write but volumes and memory: CWE-250."""
    for name, service in services().items():
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), f"{name} runs as its image likes, or as root"
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["ulimits"] == {"core": 0}, f"{name}: a core file may hold secrets"
        assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "userns_mode"} & service.keys(), name
        assert "docker.sock" not in json.dumps(service), name
        for place in service.get("tmpfs", []):
            assert "size=" in place, f"{name}: {place} may fill the machine's memory"


WRITTEN = {
    "postgres": {"/var/lib/postgresql", "/var/run/postgresql", "/tmp"}, "broker": {"/data", "/tmp"},
    "seaweedfs": {"/data", "/tmp"}, "prometheus": {"/prometheus"}, "grafana": {"/var/lib/grafana", "/tmp"},
}  # fmt: skip
"""Where the servers of others write, by their images' own files."""


def test_servers_of_others_can_write_where_they_must_on_a_read_only_root() -> None:
    for name, places in WRITTEN.items():
        service = services()[name]
        writable = {volume.split(":")[1] for volume in service["volumes"] if not volume.endswith(":ro")}
        writable |= {place.partition(":")[0] for place in service.get("tmpfs", [])}
        assert writable == places, name


def test_the_broker_and_the_database_ask_for_a_password_and_are_not_published() -> None:
    """Whoever writes to the broker runs code on the workers (CVE-2026-68982): CWE-306."""
    broker, database = services()["broker"], services()["postgres"]
    assert "requirepass %s" in "".join(broker["command"])
    assert "BROKER_PASSWORD" not in "".join(broker["command"][:2]), "a command line can be read from outside"
    assert database["environment"]["POSTGRES_INITDB_ARGS"] == "--auth-host=scram-sha-256"
    for name in ("broker", "postgres", "seaweedfs"):
        assert "ports" not in services()[name], name
    opened = compose("docker/cluster.yaml")["services"]
    assert "postgres" not in opened
    for name, service in opened.items():
        for port in service["ports"]:
            assert port.startswith("${CONTROL_ADDRESS:?"), f"{name}: {port} has a default, and may be every address"


def test_example_dags_are_off_everywhere() -> None:
    """CVE-2026-101031."""
    for name in AIRFLOW_SERVICES:
        assert services()[name]["environment"]["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert compose("docker/gpu-machine.yaml")["services"]["gpu-worker"]["environment"][
        "AIRFLOW__CORE__LOAD_EXAMPLES"
    ] == "False"  # fmt: skip
    values = yaml.safe_load((REPOSITORY / "deploy/helm-values.yaml").read_text())
    assert {"name": "AIRFLOW__CORE__LOAD_EXAMPLES", "value": "False"} in values["env"]


def test_every_service_is_bounded_pinned_and_restarted() -> None:
    for name, service in services().items():
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: {service['image']} is not pinned"
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}
        assert service["restart"] == {"init": "on-failure:5", "transfer": "no"}.get(name, "unless-stopped")
    for name in ("postgres", "broker", "seaweedfs", *COMMANDS):
        assert services()[name]["healthcheck"]["test"], name


def test_profiles_and_devices() -> None:
    profiles = {name: service.get("profiles") for name, service in services().items() if "profiles" in service}
    assert profiles["gpu-worker"] == ["gpu"]
    assert profiles["cpu-painter"] == ["cpu"]
    assert {name for name, of in profiles.items() if of == ["monitoring"]} == {
        "statsd-exporter",
        "prometheus",
        "grafana",
    }
    assert services()["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert [name for name, service in services().items() if "reservations" in service["deploy"]["resources"]] == [
        "gpu-worker"
    ], "the profile cpu works without the NVIDIA runtime"


def test_dependencies_are_services_and_conditions_can_come_true() -> None:
    for name, service in services().items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services()[other], f"{name} waits for the health of {other} for ever"


def test_no_secret_has_a_default_and_one_command_makes_them_all(tmp_path: Path) -> None:
    done = run(sys.executable, "docker/make-env", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    env = tmp_path / ".env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    made = dict(line.split("=", 1) for line in env.read_text().splitlines())
    assert min(len(value) for value in made.values()) >= 16
    assert len(set(made.values())) == len(made)
    text = (REPOSITORY / "docker-compose.yaml").read_text()
    used = dict(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)(:?[-?]?)", text))
    for name, rest in used.items():
        if re.search(r"PASSWORD|SECRET|KEY", name):
            assert rest == ":?", f"{name} must be required"
            assert name in made, f"docker/make-env does not make {name}"
        else:
            assert rest == ":-", name
    assert set(made) <= set(used)
    first = env.read_text()
    assert run(sys.executable, "docker/make-env", "--folder", tmp_path).returncode == 1
    assert env.read_text() == first, "a second call changes nothing"
    for name in subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).split():
        assert not name.endswith(".env")


def test_a_gpu_machine_gets_what_it_needs_and_no_more(tmp_path: Path) -> None:
    assert run(sys.executable, "docker/make-env", "--folder", tmp_path, "--machine", "10.0.0.1").returncode == 2
    run(sys.executable, "docker/make-env", "--folder", tmp_path)
    assert run(sys.executable, "docker/make-env", "--folder", tmp_path, "--machine", "10.0.0.1").returncode == 0
    given = dict(line.split("=", 1) for line in (tmp_path / "machine.env").read_text().splitlines())
    assert given.keys() == {"CONTROL_ADDRESS", "BROKER_PASSWORD"}
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", (REPOSITORY / "docker/gpu-machine.yaml").read_text()))
    assert required == given.keys()
    here, there = services()["gpu-worker"], compose("docker/gpu-machine.yaml")["services"]["gpu-worker"]
    assert there["environment"] == here["environment"]
    different = {"extra_hosts", "profiles", "depends_on", "build"}
    for key in (here.keys() | there.keys()) - different:
        assert there.get(key) == here.get(key), key
    hosts = {line.partition(":")[0] for line in there["extra_hosts"]}
    for url in there["environment"].values():
        for host in re.findall(r"//(?:[^@/]*@)?([a-z-]+):\d+", str(url)):
            assert host in hosts, f"{host} cannot be found from a GPU machine"


def test_the_warm_host_has_what_a_painter_has_and_no_secret() -> None:
    """What its workers need, in the environment that the painters' tasks have: else it forks none of them."""
    overlay = compose("docker/warm-host.yaml")["services"]
    painter, host = services()["gpu-worker"], overlay["warm-host"]
    for key in ("image", "user", "read_only", "cap_drop", "security_opt", "ulimits", "tmpfs", "cpu_shares", "deploy"):
        assert host[key] == painter[key], key
    assert host["logging"] == painter["logging"]
    assert {volume for volume in painter["volumes"] if "logs" not in volume} == {*host["volumes"]}
    assert overlay["gpu-worker"]["environment"] == {"INPAINT_WARM_HOST": host["environment"]["INPAINT_WARM_HOST"]}
    theirs = worker_environment(painter["environment"])
    assert worker_environment(host["environment"]) == theirs
    assert "$" not in json.dumps(host["environment"]), "it has no secret"
    assert (host["network_mode"], host["restart"]) == ("none", "always")
    socket = host["environment"]["INPAINT_WARM_HOST"]
    assert any(socket.startswith(volume.partition(":")[2] + "/") for volume in host["volumes"])
    assert host["healthcheck"]["test"] == ["CMD", "test", "-S", socket]
    assert host["entrypoint"][-1] == "inpaint-ops" and host["command"][0] in cli.commands


def test_a_dead_machines_shard_starts_elsewhere_within_two_minutes_by_the_settings() -> None:
    """What the settings allow at worst; tests/dags/test_cluster.py measures it."""
    cluster = compose()["x-cluster"]
    noticed = int(cluster["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"])
    noticed += int(cluster["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL"])
    first_retry = 2 * int(cluster["INPAINT_RETRY_SECONDS"])  # Airflow takes once to twice the delay
    assert noticed + first_retry <= 90, "30 s are left for the scheduler, the broker and the new worker's start"
    lost_in_the_queue = int(cluster["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"])
    lost_in_the_queue += int(cluster["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL"])
    assert lost_in_the_queue <= 90
    longest = 6 * 3600  # execution_timeout of a painting task
    assert int(cluster["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"]) > 2 * longest
    assert json.loads(cluster["AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"]) == {"worker_max_tasks_per_child": 1}
    assert (cluster["AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER"], cluster["AIRFLOW__CELERY__TASK_ACKS_LATE"]) == (
        "1",
        "True",
    )


def test_the_helm_values_agree_with_the_compose_file() -> None:
    text = (REPOSITORY / "deploy/helm-values.yaml").read_text()
    values = yaml.safe_load(text)
    environment = {one["name"]: one["value"] for one in values["env"]}
    cluster = {name: value for name, value in compose()["x-cluster"].items() if name != "AIRFLOW__CORE__EXECUTOR"}
    assert cluster.items() <= environment.items()
    assert values["executor"] == compose()["x-cluster"]["AIRFLOW__CORE__EXECUTOR"]
    assert set(environment) <= airflow_options() | our_variables() | set(OTHERS) | set(UNDOCUMENTED)
    (gpu,) = values["workers"]["celery"]["sets"]
    assert {gpu["queue"], values["workers"]["celery"]["queue"]} == {"gpu", "default"}
    assert f"--queues {gpu['queue']} " in gpu["args"][-1]
    mounts = {mount["mountPath"] for mount in gpu["extraVolumeMounts"]}
    assert environment["HF_HOME"] in mounts
    image = (REPOSITORY / "docker/Dockerfile").read_text()
    assert re.search(r"install -d -o airflow -g 0 -m 0775 [^\n]*/scratch ", image), "the image has it, of its own user"
    for variable in ("TMPDIR", "INPAINT_SCRATCH"):
        assert environment[variable].startswith("/scratch")
    assert "emptyDir:" not in text, "everybody may write to one: scratch in it is refused"
    assert not re.search(r"(?i)(password|secret|key):\s*\S*[0-9a-f]{16}", text)
