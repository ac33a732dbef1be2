"""Whom the warm host forks nothing for, and what may reach it: another installation, another user, garbage."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from inpaint_ops.config import load_settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.supervisor.confinement import worker_environment
from inpaint_ops.supervisor.starting import ForkedProcess, NotForkedError
from inpaint_ops.worker import warm_host
from inpaint_ops.worker.fork_request import ForkRequest, Inherited, socket_path
from inpaint_ops.worker.installation import installation
from tests.support.waiting import PATIENCE
from tests.support.warm import SLEEPS, Host, Started, light_host
from tests.support.warm import warm_host as real_host

REPOSITORY = Path(__file__).resolve().parents[2]


def refusal(folder: Path, host: Host) -> str:
    """Why the host forks nothing for this process as it is."""
    (folder / "refused").mkdir(exist_ok=True)
    with pytest.raises(NotForkedError) as caught:
        ForkedProcess(host.socket, folder / "refused", worker_environment(os.environ), None)
    return str(caught.value)


def test_another_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with light_host(tmp_path, SLEEPS) as host:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        assert "HF_HOME is another than when it imported" in refusal(tmp_path, host)
        assert host.process.poll() is None
        assert "refused: HF_HOME" in host.log


def test_other_processors_are_refused(tmp_path: Path) -> None:
    """OpenMP has counted them when it was imported."""
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("needs two processors")
    with light_host(tmp_path, SLEEPS) as host:
        try:
            os.sched_setaffinity(0, {min(mine)})
            assert "other processors" in refusal(tmp_path, host)
        finally:
            os.sched_setaffinity(0, mine)


def test_another_version_is_refused_and_the_host_ends_to_be_started_anew(tmp_path: Path) -> None:
    with light_host(tmp_path, SLEEPS, found={"torch": "0.1"}) as host:
        assert "it has imported torch 0.1, and 2." in refusal(tmp_path, host)
        assert host.process.wait(PATIENCE) == 0
        assert "ends, to be started anew" in host.log
        assert not host.path.exists()


def test_an_edited_file_of_this_package_is_another_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "inpaint_ops"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("inpaint_ops.__file__", str(package / "__init__.py"))
    before = installation()
    assert installation() == before
    (package / "__init__.py").write_text("edited = True\n")
    assert {name for name, value in installation().items() if value != before[name]} == {"code"}


def test_a_host_with_two_threads_forks_nothing(tmp_path: Path) -> None:
    before = "import threading, time; threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()"
    with light_host(tmp_path, SLEEPS, before=before) as host:
        assert "it has 2 threads (python" in refusal(tmp_path, host), "by its name, so that one finds who started it"
        assert "it refuses every fork: it has 2 threads" in host.log


def test_a_library_that_brings_pyarrow_starts_no_thread_in_the_host(tmp_path: Path) -> None:
    """pandas does where it is installed, and transformers imports it: Arrow's jemalloc would start a thread."""
    with light_host(tmp_path, "import sys; sys.exit(7)", before="import pyarrow") as host:
        assert Started(tmp_path / "work", host).code == 7, host.log


def test_a_host_that_has_opened_a_card_forks_nothing(tmp_path: Path) -> None:
    before = "warm_host._open_files = lambda: ['/dev/null', '/dev/nvidia-uvm']"
    with light_host(tmp_path, SLEEPS, before=before) as host:
        assert "it has opened /dev/nvidia-uvm" in refusal(tmp_path, host)


def test_open_devices_are_seen() -> None:
    with open("/dev/zero") as zero:
        assert "/dev/zero" in list(warm_host._open_files()) and zero
    assert "/dev/zero" not in list(warm_host._open_files())


def test_the_real_host_has_one_thread_no_secret_and_no_card(tmp_path: Path) -> None:
    with real_host(tmp_path, {**os.environ, "AWS_SECRET_ACCESS_KEY": "canary", "AIRFLOW_CONN_X": "canary"}) as host:
        process = psutil.Process(host.process.pid)
        assert process.num_threads() == 1
        assert "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
        assert "canary" not in json.dumps(process.environ())
        assert not [name for name in open_files(process.pid) if "nvidia" in name]
        assert (host.path.parent / "tmp").stat().st_mode & 0o077 == 0, (
            "what torch makes while it is imported is private"
        )
        again = subprocess.run(
            [sys.executable, "-m", "inpaint_ops.cli", "warm-host", "--socket", host.socket],
            capture_output=True, text=True, check=False, cwd=REPOSITORY,
        )  # fmt: skip
        assert again.returncode == 2 and "another warm host serves" in again.stderr
        process.terminate()
        assert host.process.wait(PATIENCE) == 0
        assert not host.path.exists()


def open_files(pid: int) -> Iterator[str]:
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield str(file.readlink())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_does_not_reach_the_socket(tmp_path: Path) -> None:
    with light_host(tmp_path, SLEEPS) as host:
        host.path.chmod(0o666)
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                os.setresuid(65534, 65534, 65534)
                try:
                    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                        connection.connect(host.socket)
                except PermissionError:
                    code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("user", "served"), [(os.geteuid(), True), (os.geteuid() + 1, False)], ids=["own", "another's"]
)
def test_the_kernel_says_which_user_asks(tmp_path: Path, user: int, served: bool) -> None:
    before = f"warm_host.peer_user = lambda connection: {user}"
    with light_host(tmp_path, "pass", before=before) as host:
        if served:
            assert Started(tmp_path / "work", host).code == 0
        else:
            assert "did not answer" in refusal(tmp_path, host)
            assert f"it is uid {user}'s" in host.log


SHORT_WITH_THE_FIFTH = """
answer, patience = warm_host._answer, iter([60, 60, 60, 60, 0.1, 60])
def answer_with_patience(*arguments):
    warm_host.PATIENCE = next(patience)
    return answer(*arguments)
warm_host._answer = answer_with_patience
"""


def test_garbage_and_silence_stop_no_host(tmp_path: Path) -> None:
    with light_host(tmp_path, "pass", before=SHORT_WITH_THE_FIFTH) as host:
        for message in (b"", b"{", b'{"pid": 1}', b"x" * 2**17):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.connect(host.socket)
                if message:
                    connection.send(message)
        silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        silent.connect(host.socket)
        with silent:
            assert Started(tmp_path / "work", host).code == 0


def test_a_request_without_its_descriptors_is_not_answered(tmp_path: Path) -> None:
    request = ForkRequest(
        environment=worker_environment(os.environ), folder=str(tmp_path), user=None, started=0.0,
        installation=installation(), inherited=Inherited.of_this_process(),
    )  # fmt: skip
    with light_host(tmp_path, "pass") as host:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(host.socket)
            socket.send_fds(connection, [request.model_dump_json().encode()], [0])
            assert connection.recv(100) == b""
        assert "1 descriptors" in host.log
        assert Started(tmp_path / "work", host).code == 0


def test_the_sockets_folder_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match=r"mode 0755: name a socket in a folder that uid \d+ owns"):
        socket_path(str(folder / "socket"), make=True)
    assert folder.stat().st_mode & 0o777 == 0o755, "a folder of others' is not changed"
    with pytest.raises(ConfigError, match="no absolute path"):
        socket_path("socket", make=True)
    assert socket_path(str(tmp_path / "new" / "socket"), make=True).parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("INPAINT_WARM_HOST", str(folder / "socket"))
    assert load_settings().warm_host == str(folder / "socket")
    with pytest.raises(NotForkedError, match="mode 0755"):
        ForkedProcess(str(folder / "socket"), tmp_path, {}, None)
