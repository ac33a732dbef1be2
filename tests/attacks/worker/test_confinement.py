"""A worker that an image has taken over looks around: at its environment, at the processes above it, at other users."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.config import load_settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.supervisor import confinement
from inpaint_ops.supervisor import worker_process as process
from inpaint_ops.supervisor.confinement import PASSED_ON, identity
from inpaint_ops.supervisor.worker_process import worker_environment
from tests.attacks.worker.looking import LOOK, REACH

REPOSITORY = Path(__file__).resolve().parents[3]
KNOWN = {name for names in PASSED_ON.values() for name in names}
SECRETS = (
    "NVIDIA_API_KEY NGC_API_KEY TORCH_HUB_TOKEN PYTORCH_X_PASSWORD TRITON_SECRET XFORMERS_TOKEN NCCL_AUTH MKL_KEY "
    "OMP_PASSWORD TORCHINDUCTOR_REMOTE_CACHE_PASSWORD HF_TOKEN HUGGING_FACE_HUB_TOKEN HUGGINGFACE_TOKEN "
    "AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AIRFLOW__CELERY__BROKER_URL AIRFLOW_CONN_INPAINT_S3 "
    "AIRFLOW__CORE__FERNET_KEY GOOGLE_APPLICATION_CREDENTIALS CUDA_VISIBLE_DEVICES_KEY INPAINT_STORE http_proxy"
).split()


@pytest.mark.parametrize("name", SECRETS)
def test_no_variable_passes_because_of_how_it_begins(name: str) -> None:
    """The attack: a credential whose name begins as those of NVIDIA, PyTorch or another do."""
    assert name not in worker_environment({name: "canary"})


@given(st.sampled_from(sorted(KNOWN)), st.text(string.ascii_uppercase + "_", min_size=1, max_size=8))
def test_a_name_passes_as_it_stands_or_not_at_all(known: str, more: str) -> None:
    """The attack: a name that is longer, or shorter, or in other letters than one that passes."""
    for name in (known + more, more + known, known[:-1], known.lower()):
        if name not in KNOWN:
            assert "canary" not in worker_environment({name: "canary"}).values()
    assert worker_environment({known: "kept"})[known] == "kept"


def test_no_name_that_passes_looks_like_a_credentials() -> None:
    """The attack: somebody adds one to the list."""
    for name in KNOWN:
        assert not re.search(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_KEY|_KEY$|AUTH|REMOTE_CACHE|PROXY|AWS|AIRFLOW", name)


def test_the_documentation_names_each_one() -> None:
    page = (REPOSITORY / "docs/settings.md").read_text().partition("## What a worker is given")[2]
    rows = dict(re.findall(r"^\| ([^|`]+) \| (`.+`) \|$", page.partition("\n## ")[0], re.MULTILINE))
    assert {whose: tuple(re.findall(r"`(\w+)`", names)) for whose, names in rows.items()} == dict(PASSED_ON)


def test_further_names_are_the_operators_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPAINT_WORKER_ENV", "MY_LIBRARY_HOME, OTHER")
    names = load_settings().worker_env
    assert names == ("MY_LIBRARY_HOME", "OTHER")
    assert worker_environment({"MY_LIBRARY_HOME": "/x", "MY_LIBRARY_TOKEN": "t"}, names)["MY_LIBRARY_HOME"] == "/x"
    assert "MY_LIBRARY_TOKEN" not in worker_environment({"MY_LIBRARY_TOKEN": "t"}, names)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AIRFLOW__CELERY__BROKER_URL", "_AIRFLOW_X", "A B", "A=B"])
def test_a_credential_is_no_further_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The attack: none; a setting that would undo the protection."""
    monkeypatch.setenv("INPAINT_WORKER_ENV", name)
    with pytest.raises(ConfigError, match="INPAINT_WORKER_ENV"):
        load_settings()


# -- the processes above ------------------------------------------------------------------------------------------

TREE = r"""
import json, os, subprocess, sys, threading
depth, rights, program = int(sys.argv[1]), sys.argv[2], sys.argv[3]
from inpaint_ops.worker import launch
if rights == "none":
    launch._drop_bounding_set()
    launch._drop_capabilities()
if depth:  # one more process, with a canary in its environment
    done = subprocess.run([sys.executable, "-c", sys.argv[4], str(depth - 1), *sys.argv[2:]], check=True)
    sys.exit(done.returncode)
from pathlib import Path
from inpaint_ops.supervisor.worker_process import WorkerProcess
ended = threading.Event()
worker = WorkerProcess.start(cwd=Path.cwd(), on_event=print, on_exit=lambda _: ended.set(),
                             command=[sys.executable, "-I", program, "3"])
ended.wait(60)
print(*worker._tail)
"""


def look(tmp_path: Path, rights: str) -> dict[str, Any]:
    program = tmp_path / "look.py"
    program.write_text(LOOK)
    done = subprocess.run(
        [sys.executable, "-c", TREE, "2", rights, str(program), TREE],
        env=os.environ | {"AIRFLOW__CELERY__BROKER_URL": "redis://:canary@broker", "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert len(seen["above"]) == 3
    return seen


def has_landlock() -> bool:
    from inpaint_ops.worker import launch

    version: int = launch._libc.syscall(launch._SYS_CREATE_RULESET, None, 0, launch._CREATE_RULESET_VERSION)
    return version >= 2


@pytest.mark.parametrize("rights", ["as we are", "none"])
def test_a_worker_can_look_into_no_process_above_it(tmp_path: Path, rights: str) -> None:
    """The attack: the broker's password out of the environment or the memory of the process above the worker's parent.

    Once with the rights that the tests have (root's, mostly), once without a capability, as in a container.
    """
    if not has_landlock() and (rights == "none" or os.geteuid() != 0):
        pytest.skip("the kernel has no Landlock: among processes of one user only the parent is closed then")
    seen = look(tmp_path, rights)
    for found in seen["above"]:
        assert found["environ"] in ("PermissionError",), found
        assert found["mem"] == "PermissionError", found
        assert found["maps"] == "PermissionError", found
        assert found["fd"] == "PermissionError", found
        assert found["traced"] is False


def test_a_worker_has_no_capability_and_gets_none(tmp_path: Path) -> None:
    """The attack: root's rights over other users' files and processes; a set-user-id program."""
    seen = look(tmp_path, "as we are")
    assert seen["no_new_privs"] == 1
    caps = seen["caps"]
    assert {caps[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    if os.geteuid() == 0:
        assert caps["CapBnd"] == 0


def test_a_worker_has_no_tcp_and_no_signals_and_may_move_files(tmp_path: Path) -> None:
    """The attack: what it read goes out by TCP; its supervisor is stopped. Caches may move files, though."""
    import socket
    import threading

    from inpaint_ops.supervisor.worker_process import WorkerProcess
    from inpaint_ops.worker import launch

    version = launch._libc.syscall(launch._SYS_CREATE_RULESET, None, 0, launch._CREATE_RULESET_VERSION)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-I", "-c", REACH, str(server.getsockname()[1])]
        worker = WorkerProcess.start(cwd=tmp_path, on_event=print, on_exit=lambda _: ended.set(), command=command)
        assert ended.wait(60)
    said = json.loads(worker._tail[-1])
    assert (said["moved"], said["child"]) == (True, 7)
    assert said["tcp"] == ("PermissionError" if version >= 4 else "connected")
    assert said["signal"] == ("PermissionError" if version >= 6 else "sent")


def test_the_device_file_that_a_confined_worker_cannot_make_is_made_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No attack: a set-user-id program gives the worker nothing any more, and CUDA counted on one."""
    tool = tmp_path / "nvidia-modprobe"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(process, "NVIDIA_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(process, "UNIFIED_MEMORY", tmp_path / "uvm")
    process.make_device_files()
    assert not (tmp_path / "called").exists(), "no driver, no call"
    (tmp_path / "driver").mkdir()
    process.make_device_files()
    assert (tmp_path / "called").read_text() == "-u -c 0\n"
    (tmp_path / "uvm").touch()
    process.make_device_files()
    assert (tmp_path / "called").read_text() == "-u -c 0\n", "it is there"


# -- another user -------------------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.mark.parametrize(
    ("text", "said"),
    [("nobody-of-that-name", "there is no user"), ("0", "must not be root"), ("root", "must not be root"),
     ("65534:no-such-group", "there is no group"), ("99999999999:1", "there is no user")],
)  # fmt: skip
def test_who_cannot_be_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"INPAINT_WORKER_USER: .*{said}"):
        identity(text)


@as_root
def test_a_user_is_found_by_name_and_by_number() -> None:
    assert identity("") is None
    named, numbered = identity("nobody"), identity("65534:12345")
    assert named is not None and (named.user, named.name) == (65534, "nobody")
    assert numbered is not None and numbered.groups[0] == 12345
    environment = numbered.environment(Path("/w"), {"HF_HOME": "/cache"})
    assert (environment["HOME"], environment["HF_HOME"]) == ("/w", "/cache")


SYSTEM_PYTHON = Path("/usr/bin/python3")


@as_root
@pytest.mark.skipif(not SYSTEM_PYTHON.exists(), reason="needs a Python that every user may run")
def test_a_worker_of_another_user_paints_and_sees_no_file_of_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: it reads what root alone may read, and other rows' loot; its own rows are painted all the same."""
    import shutil
    import tempfile

    from tests.attacks.worker.bench import SCRIPT, Attacked

    base = Path(tempfile.mkdtemp(prefix="inpaint-ops-user-"))
    try:
        base.chmod(0o755)
        script = Path(shutil.copy(SCRIPT, base / "hostile.py"))
        script.chmod(0o644)
        bench = Attacked(base, worker_user="65534:65534")
        bench.loot.chmod(0o777)
        (base / "in").chmod(0o700)
        run = bench.attack("hard_link")
        run.worker_command = [str(SYSTEM_PYTHON), str(script), "look_at_root", str(bench.loot)]
        run.run()
        assert bench.statuses() == ["done", "failed", "done"]
        looked = json.loads((bench.loot / "looked").read_text().splitlines()[0])
        assert looked == {"uid": 65534, "in": "PermissionError", "root": "PermissionError", "home": "own"}
        bench.assert_nothing_left()
    finally:
        shutil.rmtree(base)


def test_the_list_has_no_pattern() -> None:
    """The attack: none; a prefix in the code would bring it all back."""
    text = Path(confinement.__file__).read_text()
    body: Mapping[str, str] = {"worker_environment": text.partition("def worker_environment")[2].partition("\n@")[0]}
    assert "startswith" not in body["worker_environment"]
