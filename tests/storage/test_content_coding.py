"""Objects stored with a Content-Encoding: unpacked when they are downloaded, and never beyond the limit."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.errors import DamagedObjectError, ObjectTooLargeError, StorageError
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from inpaint_ops.storage.content_coding import unpack
from tests.support.scripted_store import BUCKET, Reply, Request, ScriptedStore

BODY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4000
WHERE = f"s3://{BUCKET}/a.png"


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    with ScriptedStore() as running:
        yield running


def test_an_image_that_was_uploaded_with_gzip_comes_as_itself(
    aws_environment: ObjectStoreServer, s3_prefix: Location, tmp_path: Path
) -> None:
    """On a real server, as `aws s3 cp --content-encoding gzip` uploads it."""
    where = s3_prefix.join("a.png")
    aws_environment.client().put_object(
        Bucket=where.bucket or "", Key=where.key, Body=gzip.compress(BODY), ContentEncoding="gzip"
    )
    Storage(readable=[s3_prefix]).download(where, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("gzip,aws-chunked", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:999]) + gzip.compress(BODY[999:]) + b"\0" * 300_000),
        ("deflate", zlib.compress(BODY)),
        ("aws-chunked", BODY),
        ("identity", BODY),
        ("gzip", BODY),
        ("deflate", BODY),
        ("base64", BODY),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}",
)
def test_each_coding_is_unpacked_and_what_only_claims_one_is_left(
    store: ScriptedStore, encoding: str, stored: bytes, tmp_path: Path
) -> None:
    store.objects, store.headers = {"a.png": stored}, {"a.png": {"Content-Encoding": encoding}}
    store.storage().download(WHERE, tmp_path / "a.png", max_bytes=2 * len(BODY))
    assert (tmp_path / "a.png").read_bytes() == BODY


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br"])
def test_a_coding_that_is_not_unpacked_is_named(store: ScriptedStore, encoding: str, tmp_path: Path) -> None:
    store.objects, store.headers = {"a.png": b"packed"}, {"a.png": {"Content-Encoding": encoding}}
    with pytest.raises(StorageError, match=f"Content-Encoding '{encoding}'"):
        store.storage().download(WHERE, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_what_unpacks_beyond_the_limit_is_not_unpacked_to_its_end(store: ScriptedStore, tmp_path: Path) -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    store.objects, store.headers = {"a.png": packed}, {"a.png": {"Content-Encoding": "gzip"}}
    with pytest.raises(ObjectTooLargeError, match="unpacks to more bytes, and the limit is 1,000,000"):
        store.storage().download(WHERE, tmp_path / "a.png", max_bytes=1_000_000)
    written = io.BytesIO()
    with pytest.raises(ObjectTooLargeError):
        unpack(Location("b", "k"), "gzip", io.BytesIO(packed), written, 1_000_000)
    assert len(written.getvalue()) <= 1_000_000


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:5000] + b"\xff" * 200 + data[5200:]])
def test_a_coding_that_is_damaged_is_named(store: ScriptedStore, damage: object, tmp_path: Path) -> None:
    stored = damage(gzip.compress(BODY, 1))  # type: ignore[operator]
    store.objects, store.headers = {"a.png": stored}, {"a.png": {"Content-Encoding": "gzip"}}
    with pytest.raises(DamagedObjectError, match="Content-Encoding"):
        store.storage().download(WHERE, tmp_path / "a.png")


class TestChunked:
    """Stores, and proxies before them, that send a body whose length they do not know yet."""

    @pytest.fixture
    def chunked(self, store: ScriptedStore) -> ScriptedStore:
        store.objects = {"a.png": BODY}

        def script(request: Request) -> Reply | None:
            reply = store.described(request.key)
            return Reply(200, reply.body, reply.headers, chunked=True) if request.method == "GET" else None

        store.script = script
        return store

    def test_it_is_read_to_its_end(self, chunked: ScriptedStore, tmp_path: Path) -> None:
        assert chunked.storage().get(WHERE) == BODY
        assert chunked.storage().download(WHERE, tmp_path / "a.png").size == len(BODY)

    def test_the_limit_holds(self, chunked: ScriptedStore) -> None:
        with pytest.raises(ObjectTooLargeError):
            chunked.storage().get(WHERE, max_bytes=5000)

    def test_what_was_unpacked_on_the_way_is_not_compared_with_what_is_stored(self, chunked: ScriptedStore) -> None:
        """Google Cloud Storage unpacks gzip for clients that do not ask for it, and tells of the stored bytes."""
        chunked.headers = {
            "a.png": {
                "ETag": '"d41d8cd98f00b204e9800998ecf8427e"',
                "x-amz-checksum-crc32": "AAAAAA==",
                "x-goog-stored-content-encoding": "gzip",
            }
        }
        assert chunked.storage().get(WHERE) == BODY
        assert chunked.count("GET") == 1
