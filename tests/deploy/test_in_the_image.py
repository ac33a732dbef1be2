"""The programs of ours that the containers run, each with the real server that it asks."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from demo.object_store import ObjectStoreServer
from demo.ports import claim_port
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.compose_files import REPOSITORY
from tests.support.machines import Broker
from tests.support.waiting import wait_until


def ping(broker: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPOSITORY / "docker/ping-worker", str(seconds)],
        env=os.environ | {"AIRFLOW__CELERY__BROKER_URL": broker}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_workers_health_check_tells_a_worker_that_answers_from_one_that_is_gone() -> None:
    with Broker() as broker:
        url = broker.url(0)
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "--broker", url, "worker", "--pool", "solo", "-n",
             f"celery@{socket.gethostname()}", "--queues", "gpu"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(lambda: ping(url, 5).returncode == 0)
        finally:
            worker.kill()
            worker.wait()
        gone = ping(url, 1)
        assert gone.returncode == 1
        assert gone.stderr == f"celery@{socket.gethostname()} does not answer\n"


# -- transfer


def transfer(
    store: ObjectStoreServer, root: str, *command: str, data: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    environment = (
        os.environ | store.env | {"INPAINT_STORE": f"s3://{store.bucket}/{root}", "PYTHONPATH": str(REPOSITORY)}
    )
    return subprocess.run(
        [sys.executable, REPOSITORY / "docker/transfer", *command],
        env=environment,
        input=data,
        capture_output=True,
        check=False,
    )


def archive(*files: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, body in files:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return file.getvalue()


def test_a_job_goes_into_the_inbox_with_its_manifest_last_and_comes_out_as_it_was(
    object_store: ObjectStoreServer, tmp_path: Path
) -> None:
    files = {
        "job.jsonl": b"{}\n",
        "photos/bär.jpg": os.urandom(3 << 20),
        "photos/old.csv": b"no manifest\n",
    }
    job = tmp_path / "job"
    for name, body in files.items():
        (job / name).parent.mkdir(parents=True, exist_ok=True)
        (job / name).write_bytes(body)
    body = subprocess.run(["tar", "-C", job, "-c", "."], capture_output=True, check=True).stdout  # as the page says
    done = transfer(object_store, "put", "put", data=body)
    assert (done.returncode, done.stderr) == (0, b"put 2 files, then job.jsonl\n")

    client = make_s3_client(object_store.session(), endpoint_url=object_store.endpoint)
    found = client.list_objects_v2(Bucket=object_store.bucket, Prefix="put/")["Contents"]
    assert {item["Key"] for item in found} == {f"put/inbox/{name}" for name in files}

    out = transfer(object_store, "put", "get", "inbox")
    assert (out.returncode, out.stderr) == (0, b"got 3 files\n")
    with tarfile.open(fileobj=io.BytesIO(out.stdout)) as tar:
        assert {one.name: tar.extractfile(one).read() for one in tar} == files  # type: ignore[union-attr]


def test_a_manifest_is_put_after_what_it_names_wherever_it_stands_in_the_archive(
    object_store: ObjectStoreServer,
) -> None:
    """The second photo is refused, so no manifest may be there that names it."""
    body = archive(("a.jsonl", b"{}\n"), ("one.jpg", b"1"), ("../two.jpg", b"2"))
    done = transfer(object_store, "order", "put", data=body)
    assert done.returncode == 1
    assert b"leads out of the inbox" in done.stderr
    client = make_s3_client(object_store.session(), endpoint_url=object_store.endpoint)
    found = client.list_objects_v2(Bucket=object_store.bucket, Prefix="order/")["Contents"]
    assert [item["Key"] for item in found] == ["order/inbox/one.jpg"]


@pytest.mark.parametrize("name", ["../secret.jsonl", "/etc/passwd", "a/../../b.jpg"])
def test_an_archive_writes_nowhere_but_into_the_inbox(object_store: ObjectStoreServer, name: str) -> None:
    done = transfer(object_store, "names", "put", data=archive((name, b"x")))
    assert done.returncode == 1
    assert name.encode() in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_link_in_an_archive_is_refused_and_named(object_store: ObjectStoreServer) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        link = tarfile.TarInfo("photo.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    done = transfer(object_store, "links", "put", data=file.getvalue())
    assert (done.returncode, b"photo.jpg: is a link" in done.stderr) == (1, True)


def test_a_store_that_does_not_answer_costs_one_line() -> None:
    with contextlib.closing(claim_port()) as claim:  # nothing listens there
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{claim.port}",
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1", "INPAINT_STORE": "s3://inpaint/",
            "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, REPOSITORY / "docker/transfer", "get", "runs/x"],
            env=os.environ | environment, capture_output=True, check=False,
        )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert b"docker compose ps seaweedfs" in done.stderr


def test_nothing_found_and_no_manifest_are_failures_that_say_so(object_store: ObjectStoreServer) -> None:
    done = transfer(object_store, "none", "get", "runs/none")
    assert (done.returncode, done.stderr) == (1, b"there is nothing below runs/none in the store\n")
    done = transfer(object_store, "none", "put", data=archive(("photo.jpg", b"x")))
    assert (done.returncode, b"no manifest among them" in done.stderr) == (1, True)
