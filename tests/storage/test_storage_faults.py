"""The S3 store behind a proxy that breaks things: what is recovered, what is reported, and that it ends."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from demo.object_store import ObjectStoreServer
from demo.ports import claim_port
from inpaint_ops.errors import (
    AccessDeniedError,
    CredentialsExpiredError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from inpaint_ops.storage.probe import probe_conditional_put
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops.storage.s3_errors import s3_error
from tests.support.fault_proxy import Fault, FaultProxy

Flaky = Callable[..., Storage]
BODY = os.urandom(300_000)


@pytest.fixture
def stored(object_store: ObjectStoreServer, s3_prefix: Location) -> Location:
    """An object that is already there."""
    where = s3_prefix.join("input.png")
    object_store.client().put_object(Bucket=where.bucket or "", Key=where.key, Body=BODY)
    return where


def patient(flaky_storage: Flaky, fault: Fault, **options: Any) -> Storage:
    """A stalled body is given up after seconds in which the reply of a busy machine begins; all else is waited for."""
    return flaky_storage(read_timeout=5.0 if fault is Fault.STALL else 30.0, **options)


class TestReading:
    def test_without_faults_a_connection_is_reused(
        self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location
    ) -> None:
        storage = flaky_storage()
        for _ in range(10):
            assert storage.get(stored) == BODY
        assert proxy.connections == 1
        assert storage.repeated == 0

    @pytest.mark.parametrize("fault", [Fault.TRUNCATE, Fault.RESET, Fault.STALL, Fault.FLIP])
    def test_a_broken_body_is_read_again(
        self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location, fault: Fault, tmp_path: Path
    ) -> None:
        storage = patient(flaky_storage, fault)
        proxy.on(fault, path="input.png")
        assert storage.get(stored) == BODY
        proxy.on(fault, path="input.png", times=2)
        storage.download(stored, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == BODY
        assert proxy.count("GET", "input.png") == 2 + 3
        assert storage.repeated == 1 + 2

    @pytest.mark.parametrize("fault", [Fault.TRUNCATE, Fault.RESET])
    def test_a_broken_range_is_read_again(
        self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location, fault: Fault
    ) -> None:
        proxy.on(fault, path="input.png")
        assert flaky_storage().get(stored, byte_range=(100, 200_000)) == BODY[100:200_001]

    @pytest.mark.parametrize("fault", [Fault.TRUNCATE, Fault.RESET, Fault.STALL, Fault.FLIP])
    def test_a_body_that_stays_broken_is_reported(
        self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location, fault: Fault, tmp_path: Path
    ) -> None:
        storage = patient(flaky_storage, fault, attempts=2)
        proxy.on(fault, path="input.png", times=1000)
        with pytest.raises(StorageUnavailableError, match="after 2 tries") as caught:
            storage.download(stored, tmp_path / "copy")
        assert stored.uri in str(caught.value)
        assert not caught.value.permanent
        assert list(tmp_path.iterdir()) == []

    def test_a_trickle_ends_with_the_deadline(self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location) -> None:
        # Each byte comes well within the read timeout, and all of them would take two hours.
        storage = flaky_storage(read_timeout=5.0, deadline=0.5)
        proxy.on(Fault.TRICKLE, path="input.png", seconds=0.025, times=1000)
        with pytest.raises(StorageUnavailableError, match="deadline"):
            storage.get(stored)

    @pytest.mark.parametrize(
        "fault", [Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.INTERNAL, Fault.DROP, Fault.LOST_REPLY]
    )
    def test_a_request_without_an_answer_is_repeated(
        self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location, fault: Fault
    ) -> None:
        storage = flaky_storage()
        proxy.on(fault, path="input.png")
        assert storage.get(stored) == BODY
        assert proxy.count("GET", "input.png") == 2
        assert storage.repeated == 1

    @pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.SLOW_DOWN, Fault.DROP])
    def test_a_store_that_stays_away_is_reported(
        self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location, fault: Fault
    ) -> None:
        storage = flaky_storage(client_attempts=2)
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            proxy.on(fault, method=method, times=1000)
        for call in (
            lambda: storage.get(stored),
            lambda: storage.stat(stored),
            lambda: storage.put(stored, b"x"),
            lambda: storage.delete(stored),
            lambda: list(storage.list(stored.parent)),
        ):
            with pytest.raises(StorageUnavailableError):
                call()

    def test_a_slow_store_is_waited_for(self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location) -> None:
        proxy.on(Fault.DELAY, path="input.png", seconds=0.2)
        assert flaky_storage().get(stored) == BODY
        assert proxy.count("GET", "input.png") == 1

    def test_a_black_hole_is_left(self, flaky_storage: Flaky, proxy: FaultProxy, stored: Location) -> None:
        proxy.on(Fault.DELAY, path="input.png", seconds=60, times=1000)
        with pytest.raises(StorageUnavailableError):
            flaky_storage(read_timeout=0.1, client_attempts=2).get(stored)

    def test_a_listing_survives_a_fault_between_its_pages(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("inpaint_ops.storage.s3._PAGE", 10)
        storage = flaky_storage()
        places = {s3_prefix.join(f"{number:03}") for number in range(25)}
        for place in places:
            storage.put(place, b"")
        proxy.on(Fault.TRUNCATE, path="list-type=2", nth=2)
        proxy.on(Fault.UNAVAILABLE, path="list-type=2", nth=4)
        listed = [info.location for info in storage.list(s3_prefix)]
        assert len(listed) == 25
        assert set(listed) == places
        assert storage.repeated == 2


class TestWriting:
    def test_a_lost_reply_to_a_conditional_put_counts_as_won(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location, tmp_path: Path
    ) -> None:
        storage = flaky_storage()
        (tmp_path / "file").write_bytes(BODY)
        for name, data in (("bytes", BODY), ("file", tmp_path / "file")):
            rule = proxy.on(Fault.LOST_REPLY, method="PUT", path=name)
            assert storage.put(s3_prefix.join(name), data, if_absent=True).size == len(BODY)
            assert rule.matched == 2  # the one that won, and the one that was told 412
            assert storage.get(s3_prefix.join(name)) == BODY
        assert storage.repeated == 2

    def test_a_lost_reply_to_a_lost_race_counts_as_lost(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location
    ) -> None:
        storage = flaky_storage()
        storage.put(s3_prefix.join("claim"), b"theirs", if_absent=True)
        proxy.on(Fault.LOST_REPLY, method="PUT", path="claim")
        with pytest.raises(ObjectExistsError):
            storage.put(s3_prefix.join("claim"), b"ours!!", if_absent=True)
        assert storage.get(s3_prefix.join("claim")) == b"theirs"

    def test_a_lost_reply_to_a_replacement_counts_as_won(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location
    ) -> None:
        storage = flaky_storage()
        etag = storage.put(s3_prefix.join("marks"), b"one").etag
        rule = proxy.on(Fault.LOST_REPLY, method="PUT", path="marks")
        assert storage.put(s3_prefix.join("marks"), b"one, two", if_match=etag).size == 8
        assert rule.matched == 2
        assert storage.get(s3_prefix.join("marks")) == b"one, two"

    @pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.DROP, Fault.LOST_REPLY])
    def test_a_put_is_repeated(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location, fault: Fault, tmp_path: Path
    ) -> None:
        storage = flaky_storage()
        (tmp_path / "file").write_bytes(BODY)
        proxy.on(fault, method="PUT", path="output")
        storage.put(s3_prefix.join("output"), tmp_path / "file")
        assert storage.get(s3_prefix.join("output")) == BODY
        assert storage.repeated == 1

    def test_the_probe_does_not_blame_a_store_that_is_away(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location
    ) -> None:
        proxy.on(Fault.UNAVAILABLE, method="PUT", times=1000)
        with pytest.raises(StorageUnavailableError):
            probe_conditional_put(flaky_storage(client_attempts=1), s3_prefix)


class TestCredentials:
    @pytest.mark.parametrize(
        ("setting", "cure"), [("AWS_SECRET_ACCESS_KEY", "secret key is wrong"), ("AWS_ACCESS_KEY_ID", "key is unknown")]
    )
    def test_wrong_credentials_are_told_apart_and_not_told(
        self, aws_environment: ObjectStoreServer, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch,
        setting: str, cure: str,
    ) -> None:  # fmt: skip
        monkeypatch.setenv(setting, "canary-0123456789")
        storage = Storage(writable=[s3_prefix])
        with pytest.raises(AccessDeniedError, match=cure) as caught:
            storage.put(s3_prefix.join("a"), b"x")
        assert "canary" not in str(caught.value)
        assert aws_environment.access_key not in str(caught.value)
        for call in (storage.stat, storage.get, storage.delete, lambda where: list(storage.list(where))):
            with pytest.raises(AccessDeniedError):
                call(s3_prefix.join("a"))

    def test_missing_credentials_come_with_a_cure(
        self, aws_environment: ObjectStoreServer, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        storage = Storage(writable=[s3_prefix])
        with pytest.raises(AccessDeniedError, match="AWS_ACCESS_KEY_ID"):
            storage.get(s3_prefix.join("a"))

    def test_an_unknown_profile_comes_with_a_cure(
        self, aws_environment: ObjectStoreServer, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
        with pytest.raises(AccessDeniedError, match="no-such-profile"):
            Storage(writable=[s3_prefix]).get(s3_prefix.join("a"))

    def test_an_endpoint_where_nobody_listens_is_named(
        self, object_store: ObjectStoreServer, s3_prefix: Location
    ) -> None:
        with closing(claim_port()) as nobodys:
            endpoint = f"http://127.0.0.1:{nobodys.port}"
            client = make_s3_client(object_store.session(), endpoint_url=endpoint, attempts=1)
            with pytest.raises(StorageUnavailableError, match="AWS_ENDPOINT_URL"):
                Storage(writable=[s3_prefix], s3_client=lambda: client).get(s3_prefix.join("a"))

    def test_an_endpoint_that_is_not_s3_is_no_crash(self, object_store: ObjectStoreServer, s3_prefix: Location) -> None:
        class Web(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>hello</html>")

            do_HEAD = do_GET  # noqa: N815 (http.server's names)

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            client = make_s3_client(object_store.session(), endpoint_url=url, attempts=1)
            storage = Storage(writable=[s3_prefix], s3_client=lambda: client)
            for call in (storage.get, storage.stat, lambda where: list(storage.list(where))):
                with pytest.raises(StorageError, match="not S3's"):
                    call(s3_prefix.join("a"))
            server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "kind", "cure"),
    [
        (404, "NoSuchKey", ObjectNotFoundError, "no object s3://b/k"),
        (404, "404", ObjectNotFoundError, "no object s3://b/k"),
        (404, "NoSuchBucket", ObjectNotFoundError, "no bucket 'b'"),
        (403, "403", AccessDeniedError, "s3:GetObject"),
        (403, "AccessDenied", AccessDeniedError, "s3:GetObject"),
        (403, "RequestTimeTooSkewed", StorageUnavailableError, "clock"),
        (400, "ExpiredToken", CredentialsExpiredError, "renew"),
        (401, "Unauthorized", AccessDeniedError, "AWS_ACCESS_KEY_ID"),
        (301, "PermanentRedirect", StorageError, "AWS_REGION"),
        (412, "PreconditionFailed", ObjectChangedError, "changed"),
        (416, "InvalidRange", StorageError, "beyond its end"),
        (501, "NotImplemented", StorageError, "cannot do"),
        (400, "KeyTooLongError", StorageError, "KeyTooLongError"),
        (400, "RequestTimeout", StorageUnavailableError, "RequestTimeout"),
        (429, "TooManyRequests", StorageUnavailableError, "429"),
        (503, "SlowDown", StorageUnavailableError, "SlowDown"),
        (500, "500", StorageUnavailableError, "500"),
    ],
)
def test_each_reply_has_its_error(status: int, code: str, kind: type[StorageError], cure: str) -> None:
    error = s3_error(
        ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"),  # type: ignore[typeddict-item]
        Location("b", "k"),
        "read",
    )
    assert type(error) is kind
    assert cure in str(error)
    assert "\n" not in str(error)


def test_without_a_checksum_the_md5_in_the_etag_tells(
    flaky_storage: Flaky, object_store: ObjectStoreServer, proxy: FaultProxy, s3_prefix: Location
) -> None:
    where = s3_prefix.join("plain.png")
    config = Config(request_checksum_calculation="when_required")
    old_client = object_store.session().client("s3", endpoint_url=object_store.endpoint, config=config)
    old_client.put_object(Bucket=where.bucket or "", Key=where.key, Body=BODY)
    assert "ChecksumCRC32" not in old_client.head_object(
        Bucket=where.bucket or "", Key=where.key, ChecksumMode="ENABLED"
    )
    proxy.on(Fault.FLIP, path="plain.png")
    assert flaky_storage().get(where) == BODY
    assert proxy.count("GET", "plain.png") == 2


def test_a_missing_object_is_not_retried(flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location) -> None:
    with pytest.raises(ObjectNotFoundError):
        flaky_storage().get(s3_prefix.join("missing"))
    assert proxy.count("GET", "missing") == 1
