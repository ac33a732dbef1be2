"""Fixtures: a real S3 server for the session, and a fresh prefix on each kind of store."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.locations import Location, parse
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

BUCKET = "inpaint"


def names(storage: Storage, prefix: Location) -> set[str]:
    """The keys below `prefix`, without it."""
    return {info.location.key.removeprefix(prefix.key) for info in storage.list(prefix)}


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """A real S3 server, with one bucket; started once, when the first test asks."""
    with ObjectStoreServer(tmp_path_factory.mktemp("object-store"), BUCKET) as server:
        yield server


@pytest.fixture(scope="session")
def s3_client(object_store: ObjectStoreServer) -> S3Client:
    """The product's own client of that server."""
    return make_s3_client(object_store.session(), endpoint_url=object_store.endpoint)


@pytest.fixture
def s3_prefix(object_store: ObjectStoreServer) -> Location:
    """A prefix of the bucket that no other test has."""
    return parse(f"s3://{object_store.bucket}/test-{secrets.token_hex(6)}/runs/")


@pytest.fixture
def aws_environment(object_store: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStoreServer:
    """The server's settings in the environment, as a user would have them."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in object_store.env.items():
        monkeypatch.setenv(name, value)
    return object_store


@pytest.fixture(params=["folder", "s3"])
def prefix(request: pytest.FixtureRequest) -> Location:
    """A fresh prefix, once in a folder and once on S3: what a test asks of one it asks of both."""
    if request.param == "s3":
        location: Location = request.getfixturevalue("s3_prefix")
        return location
    folder = request.getfixturevalue("tmp_path") / "store" / "runs"
    return parse(f"{folder}/")


@pytest.fixture
def storage(prefix: Location, request: pytest.FixtureRequest) -> Storage:
    """Storage that may write below `prefix`, and nowhere else."""
    return Storage(writable=[prefix], s3_client=lambda: request.getfixturevalue("s3_client"))


@pytest.fixture
def proxy(object_store: ObjectStoreServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server that breaks what the test scripts."""
    with FaultProxy(object_store.endpoint) as running:
        yield running


@pytest.fixture
def flaky_storage(object_store: ObjectStoreServer, proxy: FaultProxy, s3_prefix: Location) -> Callable[..., Storage]:
    """Storage below `s3_prefix` by way of the proxy, with short timeouts: `flaky_storage(read_timeout=…, …)`."""

    def make(*, read_timeout: float = 30.0, client_attempts: int = 3, **options: float) -> Storage:
        return Storage(
            writable=[s3_prefix],
            s3_client=lambda: make_s3_client(
                object_store.session(),
                endpoint_url=proxy.url,
                attempts=client_attempts,
                connect_timeout=30.0,
                read_timeout=read_timeout,
            ),
            **{"backoff": 0.01, **options},  # type: ignore[arg-type]
        )

    return make
