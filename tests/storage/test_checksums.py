"""What is read is compared with what the store says of it: by its checksum, or by an ETag that is an MD5."""

from __future__ import annotations

import base64
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import anycrc
import pytest

from inpaint_ops.config import load_settings
from inpaint_ops.errors import DamagedObjectError, StorageError, StorageUnavailableError
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import Storage
from inpaint_ops.storage.checksums import ETAG, expected_digest
from tests.support.scripted_store import BUCKET, Reply, Request, ScriptedStore, md5_etag

BODY = bytes(range(256)) * 1200
DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "CRC64NVME": lambda data: anycrc.Model("CRC64-NVME").calc(data).to_bytes(8, "big"),
    "CRC32C": lambda data: anycrc.Model("CRC32C").calc(data).to_bytes(4, "big"),
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
    "SHA512": lambda data: hashlib.sha512(data).digest(),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "MD5": lambda data: hashlib.md5(data).digest(),
}


def opaque(data: bytes) -> str:
    """32 hex digits that change with the content and are not its MD5."""
    return f'"{hashlib.md5(b"salt" + data).hexdigest()}"'


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    with ScriptedStore(objects={"a.png": BODY, "b.png": BODY[::-1]}) as running:
        yield running


def test_the_sums_are_those_of_the_catalogue_of_crcs() -> None:
    """The check values of reveng's catalogue, over `123456789`; Amazon's documentation names the same two."""
    check = b"123456789"
    for name, value in (("CRC64NVME", "ae8b14860a799888"), ("CRC32C", "e3069283"), ("CRC32", "cbf43926")):
        expected = expected_digest({f"Checksum{name}": b64(bytes.fromhex(value)), "ETag": md5_etag(b"other")})
        assert expected is not None and expected.source == name
        for piece in (check[:4], check[4:]):
            expected.hash.update(piece)
        assert expected.hash.digest() == expected.digest == bytes.fromhex(value)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_checksum_that_the_store_gives_is_compared(store: ScriptedStore, name: str, tmp_path: Path) -> None:
    header, digest = f"x-amz-checksum-{name.lower()}", DIGESTS[name]
    store.etag = opaque  # so that nothing else could tell
    store.headers = {"a.png": {header: b64(digest(BODY))}, "b.png": {header: b64(digest(b"what it was once"))}}
    storage = store.storage()
    assert storage.get(f"s3://{BUCKET}/a.png") == BODY
    assert store.count("GET") == 1
    with pytest.raises(StorageUnavailableError, match=rf"do not match the store's checksum \({name}\)"):
        storage.download(f"s3://{BUCKET}/b.png", tmp_path / "b")
    assert store.count("GET", "b.png") == 3
    assert list(tmp_path.iterdir()) == []


def test_the_first_reading_may_be_damaged_and_the_second_right(store: ScriptedStore) -> None:
    def once(request: Request) -> Reply | None:
        if store.count("GET") > 1:
            return None
        reply = store.described(request.key)
        return Reply(200, reply.body[:-1] + b"!", reply.headers)

    store.headers = {"a.png": {"x-amz-checksum-crc64nvme": b64(DIGESTS["CRC64NVME"](BODY))}}
    store.script = once
    storage = store.storage()
    assert storage.get(f"s3://{BUCKET}/a.png") == BODY
    assert storage.repeated == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-crc32": b64(zlib.crc32(b"parts").to_bytes(4, "big")), "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-sha256": b64(hashlib.sha256(b"parts").digest()) + "-3"},
        {"x-amz-checksum-crc64nvme": "not base64!"},
        {"x-amz-server-side-encryption": "aws:kms"},
        {"x-amz-server-side-encryption": "aws:kms:dsse"},
        {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
        {"ETag": '"d41d8cd98f00b204e9800998ecf8427e-3"'},
        {"ETag": 'W/"d41d8cd98f00b204e9800998ecf8427e"'},
        {"ETag": '"1a2b3c-5f"'},
    ],
    ids=str,
)
def test_what_is_known_to_say_nothing_of_the_bytes_is_not_compared(
    store: ScriptedStore, headers: dict[str, str]
) -> None:
    store.headers = {"a.png": {"ETag": opaque(b"") if "SHA256" in str(headers) else '"no-md5-1"', **headers}}
    if any("encryption" in name for name in headers):
        store.headers["a.png"]["ETag"] = opaque(BODY)
    storage = store.storage()
    assert storage.get(f"s3://{BUCKET}/a.png") == BODY
    assert store.count("GET") == 1


@pytest.mark.parametrize("status", [200, 206])
def test_a_part_is_not_compared_with_the_checksum_of_the_whole(store: ScriptedStore, status: int) -> None:
    """rclone's server sends it with the status 200."""

    def script(request: Request) -> Reply | None:
        assert request.headers["range"] == "bytes=100-299"
        headers = store.described(request.key).headers | {"Content-Range": f"bytes 100-299/{len(BODY)}"}
        return Reply(status, BODY[100:300], headers)

    store.headers = {"a.png": {"x-amz-checksum-crc32": b64(DIGESTS["CRC32"](BODY))}}
    store.script = script
    assert store.storage().get(f"s3://{BUCKET}/a.png", byte_range=(100, 299)) == BODY[100:300]


def test_a_store_that_ignores_the_range_sends_everything(store: ScriptedStore) -> None:
    assert store.storage().get(f"s3://{BUCKET}/a.png", byte_range=(100, 299)) == BODY[100:300]


class TestEtags:
    def test_one_that_is_no_md5_is_found_out_once_and_logged(
        self, store: ScriptedStore, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        store.etag = opaque
        storage = store.storage()
        with caplog.at_level(logging.WARNING):
            assert storage.get(f"s3://{BUCKET}/a.png") == BODY
            assert store.count("GET") == 2, "two equal readings"
            assert storage.download(f"s3://{BUCKET}/b.png", tmp_path / "b").size == len(BODY)
            assert storage.get(f"s3://{BUCKET}/a.png") == BODY
        assert store.count("GET") == 4, "and no second reading after that"
        assert sum("are not MD5s" in record.message for record in caplog.records) == 1
        assert storage.repeated == 0, "nothing went wrong"

    def test_a_reading_that_was_damaged_once_proves_nothing(self, store: ScriptedStore) -> None:
        damaged = iter([BODY[:-1] + b"1", BODY[:-1] + b"2", BODY])

        def script(request: Request) -> Reply | None:
            return Reply(200, next(damaged), store.described(request.key).headers)

        store.script = script
        assert store.storage().get(f"s3://{BUCKET}/a.png") == BODY

    def test_an_object_that_disagrees_where_others_agree_is_damaged(self, store: ScriptedStore) -> None:
        storage = store.storage()
        assert storage.get(f"s3://{BUCKET}/a.png") == BODY
        store.headers = {"b.png": {"ETag": md5_etag(b"what it was once")}}
        with pytest.raises(DamagedObjectError, match="INPAINT_ETAG_MD5=off") as caught:
            storage.get(f"s3://{BUCKET}/b.png")
        assert caught.value.permanent and caught.value.exit_code == 2
        assert store.count("GET", "b.png") == 2

    def test_the_setting_turns_the_comparison_off(self, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {**store.env, "INPAINT_ETAG_MD5": "off"}.items():
            monkeypatch.setenv(name, value)
        store.etag = opaque
        workspace = Workspace.open(load_settings(), store=f"s3://{BUCKET}/")
        assert workspace.storage.get(f"s3://{BUCKET}/a.png") == BODY
        assert store.count("GET") == 1

    def test_those_of_a_directory_bucket_are_never_compared(self, store: ScriptedStore) -> None:
        """By its name: S3 Express One Zone."""
        reply = {"ETag": opaque(BODY)}
        assert expected_digest(reply, etags=True).source == ETAG  # type: ignore[union-attr]
        storage = Storage(readable=["s3://photos--use1-az4--x-s3/"], s3_client=_Client)  # type: ignore[arg-type]
        where = storage.check_readable("s3://photos--use1-az4--x-s3/a.png")
        assert not storage._store(where)._etags.usable  # type: ignore[attr-defined]

    def test_upper_case_digits_are_digits(self, store: ScriptedStore) -> None:
        store.etag = lambda data: md5_etag(data).upper()
        storage = store.storage()
        assert storage.get(f"s3://{BUCKET}/a.png") == BODY
        assert store.count("GET") == 1

    def test_a_store_that_gives_none_is_read(self, store: ScriptedStore) -> None:
        store.etag = lambda _: ""
        storage = store.storage()
        info = storage.stat(f"s3://{BUCKET}/a.png")
        assert info.etag == ""
        assert storage.get(f"s3://{BUCKET}/a.png", byte_range=(0, 9), if_match=info.etag) == BODY[:10]

    def test_a_store_that_ignores_if_match_is_seen_through(self, store: ScriptedStore) -> None:
        storage = store.storage()
        etag = storage.stat(f"s3://{BUCKET}/a.png").etag
        store.objects["a.png"] = b"another"
        with pytest.raises(StorageError, match="has changed"):
            storage.get(f"s3://{BUCKET}/a.png", if_match=etag)


class _Client:
    """No request is made."""
