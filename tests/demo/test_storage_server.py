"""The local S3 server: closed to the network and to its neighbours, and gone when it should be."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from demo.object_store import ObjectStoreServer
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]


def listeners(pid: int) -> set[tuple[str, int]]:
    """The (address, port) pairs that a process listens on, by /proc: IPv4 and IPv6."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if match := re.fullmatch(r"socket:\[(\d+)\]", target):
            inodes.add(match[1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def test_two_started_at_once_share_nothing_and_listen_on_loopback_alone(tmp_path: Path) -> None:
    servers = [ObjectStoreServer(tmp_path / name) for name in ("one", "two")]
    # The server dies with the thread that started it, so the pool outlives the checks.
    with ThreadPoolExecutor(2) as pool:
        try:
            list(pool.map(ObjectStoreServer.start, servers))
            ports = []
            pids = [server._process.pid for server in servers if server._process]
            for server, pid in zip(servers, pids, strict=True):
                wait_until(partial(lambda pid: len(listeners(pid)) >= 10, pid))  # its admin part comes after S3
                heard = listeners(pid)
                assert {address for address, _ in heard} == {"0100007F"}
                ports.append({port for _, port in heard})
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
                assert server.secret_key not in command
            assert len(ports[0]) == len(ports[1]) == 10
            assert not ports[0] & ports[1]
            one, two = servers
            one.client().put_object(Bucket="inpaint", Key="k", Body=b"one")
            with pytest.raises(ClientError, match="NoSuchKey"):
                two.client().get_object(Bucket="inpaint", Key="k")
            stranger = boto3.session.Session(one.access_key, "wrong", region_name="us-east-1")
            with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
                stranger.client("s3", endpoint_url=one.endpoint).get_object(Bucket="inpaint", Key="k")
        finally:
            for server in servers:
                server.stop()
    assert not [path for path in (tmp_path / "one").rglob("*") if path.is_socket()]


def test_objects_outlive_the_server(tmp_path: Path) -> None:
    with ObjectStoreServer(tmp_path) as server:
        server.client().put_object(Bucket="inpaint", Key="k", Body=b"kept")
        assert server._process is not None
        os.killpg(server._process.pid, signal.SIGKILL)
        wait_until(lambda: not server.alive)
    with ObjectStoreServer(tmp_path) as server:
        assert server.client().get_object(Bucket="inpaint", Key="k")["Body"].read() == b"kept"


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_runs_until_it_is_ended_and_takes_the_server_along(tmp_path: Path, ending: signal.Signals) -> None:
    env_file = tmp_path / "store.env"
    command = [sys.executable, "-m", "demo.object_store", "--data", str(tmp_path / "data"), "--bucket", "demo"]
    process = subprocess.Popen([*command, "--env-file", str(env_file)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(env_file.exists)
        assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
        env = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
        session = boto3.session.Session(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
        client = session.client("s3", endpoint_url=env["AWS_ENDPOINT_URL"], region_name=env["AWS_REGION"])
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["demo"]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.send_signal(ending)
        assert process.wait(PATIENCE) == (0 if ending is signal.SIGTERM else -signal.SIGKILL)
        wait_until(lambda: not _runs(int(children[0])))
        assert env_file.exists() == (ending is signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
