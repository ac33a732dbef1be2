"""The page on security tells the truth, and what no other test of it shows."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from huggingface_hub.file_download import HfFileMetadata

from inpaint_ops.errors import ModelError
from inpaint_ops.model import fetching

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/security.md"


def threats() -> list[list[str]]:
    """The rows of the tables of threats, by their cells."""
    text = PAGE.read_text().partition("\n## Threats\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| threat |")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def functions_of(path: str) -> set[str]:
    tree = ast.parse((REPOSITORY / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_threat_has_a_control_a_test_that_exists_and_a_cwe() -> None:
    rows = threats()
    assert len(rows) >= 75
    for threat, control, shown, cwe in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown)
        assert named, f"no test is named: {threat}"
        assert ", ".join(f"`{path}::{test}`" for path, test in named) == shown, shown
        for path, test in named:
            assert test in functions_of(path), f"{path}::{test} does not exist"
        assert control
        assert re.fullmatch(r"CWE-\d+(, CWE-\d+)*", cwe), f"{threat}: {cwe}"


def test_the_weaknesses_that_were_asked_about_are_all_there() -> None:
    named = {int(number) for row in threats() for number in re.findall(r"CWE-(\d+)", row[3])}
    asked = {22, 639, 918, 502, 94, 532, 214, 526, 79, 1236, 613, 862, 306, 732, 250, 409, 1395, 937, 494, 798}
    assert asked <= named, asked - named


def test_every_role_is_on_the_page() -> None:
    for path in (REPOSITORY / "deploy/iam").glob("*.json"):
        assert f"| `{path.name}` |" in PAGE.read_text()


CODE = [
    path
    for folder in ("inpaint_ops", "inpaint_ops_airflow", "plugins", "dags")
    for path in (REPOSITORY / folder).rglob("*.py")
]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_in_the_package_runs_data_as_code() -> None:
    forbidden = re.compile(
        r"(eval|exec|compile|os\.system|os\.popen|(\w+\.)?(pickle|dill|marshal|shelve)\.\w+|torch\.load)"
    )
    pickles = {"pickle.load", "pickle.dump"}
    for path in CODE:
        to_own_processes = path == REPOSITORY / "inpaint_ops/machine/process_pool.py"
        for name, call in calls(path):
            if not (to_own_processes and name in pickles):
                assert not forbidden.fullmatch(name), f"{path.name}:{call.lineno}: {name}"
            for option in call.keywords:
                told = (option.arg, ast.unparse(option.value))
                assert told[0] not in ("trust_remote_code", "custom_pipeline"), f"{path.name}:{call.lineno}"
                assert told != ("shell", "True"), f"{path.name}:{call.lineno}"
                assert told != ("use_safetensors", "False"), f"{path.name}:{call.lineno}"


def test_nothing_outside_of_the_storage_makes_a_link() -> None:
    """But `deliver --link`, which a setting must allow: tests/delivering/test_links.py."""
    for path in CODE:
        if path.parent.name != "storage" and path != REPOSITORY / "inpaint_ops/delivering/links.py":
            assert not [name for name, _ in calls(path) if "presign" in name], path


def test_a_models_name_is_never_an_option(tmp_path: Path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "inpaint_ops.cli", "models", "pull", "--revision=--help", "--", "--help"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Usage" not in done.stdout + done.stderr
    assert "--help" in done.stderr
    dag = (REPOSITORY / "dags/model_cache.py").read_text()
    assert '["--", params["model"]]' in dag
    assert "--revision={params['revision']}" in dag


STARTS_A_WORKER = """
import ctypes, os, sys, threading
from pathlib import Path
from inpaint_ops.supervisor.worker_process import WorkerProcess
LOOK = '''
import ctypes, os
try:
    said = "read" if b"canarySecret" in open(f"/proc/{os.getppid()}/environ", "rb").read() else "hidden"
except PermissionError:
    said = "refused"
print(said, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
'''
ended = threading.Event()
worker = WorkerProcess.start(
    cwd=Path.cwd(), on_event=print, on_exit=lambda _: ended.set(), command=[sys.executable, "-c", LOOK]
)
ended.wait()
print(*worker._tail, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_a_worker_cannot_read_the_keys_out_of_the_process_that_started_it() -> None:
    """By the kernel's flag `dumpable`, 0 in the supervisor and 1 in the worker, and by root's worker's lost rights."""
    done = subprocess.run(
        [sys.executable, "-c", STARTS_A_WORKER],
        env=os.environ | {"AWS_SECRET_ACCESS_KEY": "canarySecret"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    looked, worker, supervisor = done.stdout.split()
    assert (worker, supervisor) == ("1", "0")
    assert looked == "refused"


class Host(BaseHTTPRequestHandler):
    """Serves one file, and notes who asks for it with which token."""

    body: ClassVar[bytes] = b"weights"
    tokens: ClassVar[list[tuple[int, str | None]]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.tokens.append((self.server.server_port, self.headers["Authorization"]))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """The hub, and another host to which it sends for its large files; each a real server."""
    servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), Host) for name in ("hub", "elsewhere")}
    for server in servers.values():
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    ports = {name: server.server_address[1] for name, server in servers.items()}
    Host.tokens.clear()
    monkeypatch.setattr(fetching, "hf_hub_url", lambda *_, **__: f"http://127.0.0.1:{ports['hub']}/weights")
    monkeypatch.setattr(fetching, "build_hf_headers", lambda: {"authorization": "Bearer hf_canary"})
    yield ports
    for server in servers.values():
        server.shutdown()
        server.server_close()


def fetch(monkeypatch: pytest.MonkeyPatch, hub: Path, port: int, etag: str, size: int) -> None:
    about: Any = HfFileMetadata(
        commit_hash="1" * 40, etag=etag, size=size, location=f"http://127.0.0.1:{port}/weights", xet_file_data=None
    )
    monkeypatch.setattr(fetching, "get_hf_file_metadata", lambda *_, **__: about)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    fetching.fetch_blob("owner/model", "main", "unet/weights.safetensors", hub)


def test_the_hub_token_stays_with_the_hub(
    hosts: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(Host.body).hexdigest()
    fetch(monkeypatch, tmp_path / "a", hosts["hub"], digest, len(Host.body))
    fetch(monkeypatch, tmp_path / "b", hosts["elsewhere"], digest, len(Host.body))
    assert Host.tokens == [(hosts["hub"], "Bearer hf_canary"), (hosts["elsewhere"], None)]


def test_weights_that_came_damaged_or_changed_are_refused(
    hosts: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hashlib.sha256(b"what the hub has").hexdigest()
    with pytest.raises(ModelError, match="came damaged"):
        fetch(monkeypatch, tmp_path, hosts["elsewhere"], other, len(Host.body))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing of it is kept"
