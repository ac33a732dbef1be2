"""One bucket of an S3-compatible store, over boto3."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from inpaint_ops.errors import (
    AccessDeniedError,
    ConfigError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location
from inpaint_ops.storage.files import temporary_beside
from inpaint_ops.storage.interface import DEFAULT_CONTENT_TYPE, ObjectInfo, Unfinished, check_expiry, check_size
from inpaint_ops.storage.s3_errors import GIVE_UP, UPLOADS, error_code, http_status, s3_error, s3_errors

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3.client import S3Client

_CHUNK = 2**18
_PAGE = 1000
_MAX_PAUSE = 10.0
_RANDOM = random.SystemRandom()  # forked processes must not pause in step
_MD5 = re.compile(r"[0-9a-f]{32}")


def make_s3_client(
    session: boto3.session.Session | None = None,
    *,
    endpoint_url: str | None = None,
    attempts: int = 5,
    connect_timeout: float = 5.0,
    read_timeout: float = 30.0,
    pool: int = 32,
) -> S3Client:
    """A client by the AWS SDK's own settings (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, …); threads may share it.

    With an endpoint of one's own, botocore addresses buckets by path unless told otherwise. Timeouts are in seconds, of
    one connect and one read; `attempts` counts the first. Making one takes some 0.2 s. Raises ConfigError or
    AccessDeniedError if the SDK's settings are unusable.
    """
    config = Config(
        signature_version="s3v4",  # without it, links to the default region are signed by a scheme that few stores take
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        max_pool_connections=pool,
        retries={"mode": "standard", "total_max_attempts": attempts},
        tcp_keepalive=True,
    )
    try:
        # A session of its own: boto3's default one is not safe to share between threads.
        return (session or boto3.session.Session()).client("s3", endpoint_url=endpoint_url, config=config)
    except ValueError:
        raise ConfigError("AWS_ENDPOINT_URL is not a URL: write http://host:port or https://host") from None
    except BotoCoreError as error:
        raise AccessDeniedError(f"the AWS settings are not usable: {error}") from error


class _BrokenBodyError(Exception):
    """A reply's body ended early, late, or wrong. botocore retries requests, never this."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Repeats:
    """How often something was asked for again and then answered. Threads may share it."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count `count` more."""
        if count:
            with self._lock:
                self.count += count

    def of(self, reply: Mapping[str, Any]) -> None:
        """Count what botocore says of its own tries for this reply."""
        self.add(reply.get("ResponseMetadata", {}).get("RetryAttempts", 0))


class S3Store:
    """One bucket. Safe to use from many threads at once, as its client is.

    botocore retries requests; broken bodies are retried here: `attempts` reads in all, within `deadline` seconds for
    one transfer, with jittered pauses that grow from `backoff` seconds. `repeats` counts both.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        attempts: int = 5,
        deadline: float = 600.0,
        backoff: float = 0.2,
        repeats: Repeats | None = None,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._attempts = attempts
        self._deadline = deadline
        self._backoff = backoff
        self._repeats = repeats or Repeats()

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        max_bytes: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """See ObjectStore."""
        request: dict[str, Any] = {}
        if byte_range is not None:
            request["Range"] = f"bytes={byte_range[0]}-{byte_range[1]}"
        if if_match is not None:
            request["IfMatch"] = f'"{if_match}"'
        sink = io.BytesIO()
        _, partial = self._fetch(key, sink, request, max_bytes)
        data = sink.getvalue()
        # A store may ignore the range and send everything.
        return data if byte_range is None or partial else data[byte_range[0] : byte_range[1] + 1]

    def download(self, key: str, path: Path, *, max_bytes: int | None = None) -> ObjectInfo:
        """See ObjectStore."""
        with temporary_beside(path) as (file, temporary):
            info, _ = self._fetch(key, file, {}, max_bytes)
            file.flush()
            os.replace(temporary, path)
        return info

    def put(
        self, key: str, data: bytes | Path, *, if_absent: bool = False, content_type: str = DEFAULT_CONTENT_TYPE
    ) -> ObjectInfo:
        """See ObjectStore."""
        where = self._at(key)
        request: dict[str, Any] = {"Bucket": self._bucket, "Key": key, "ContentType": content_type}
        if if_absent:
            request["IfNoneMatch"] = "*"
        for tried in self._tries(time.monotonic() + self._deadline):
            with _opened(data) as body:
                size = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
                try:
                    reply = self._client.put_object(Body=body, **request)
                    self._repeats.of(reply)
                    self._repeats.add(tried)
                    return ObjectInfo(where, size, _plain(reply.get("ETag")), _date(reply["ResponseMetadata"]))
                except ClientError as error:
                    if if_absent and http_status(error) == 412:
                        # botocore may have repeated a request that had won, and whose reply was lost.
                        self._repeats.of(error.response)
                        with suppress(ObjectNotFoundError):  # deleted meanwhile: the key is free again
                            return self._ours(key, data, size)
                    elif error_code(error) != "ConditionalRequestConflict":
                        raise s3_error(error, where, "write") from error
                except (BotoCoreError, ResponseParserError, HTTPError) as error:
                    raise s3_error(error, where, "write") from error
        raise StorageUnavailableError(f"cannot write {where}: other writes were in the way on every try")

    def list(self, prefix: str, *, direct: bool = False) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        for page in self._pages(prefix, **({"Delimiter": "/"} if direct else {})):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):  # what consoles put to show an empty folder
                    modified = item["LastModified"].astimezone(UTC)
                    yield ObjectInfo(self._at(item["Key"]), item["Size"], _plain(item.get("ETag")), modified)

    def folders(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        for page in self._pages(prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"].removeprefix(prefix).rstrip("/")

    def _pages(self, prefix: str, **more: Any) -> Iterator[Any]:
        """The pages of a listing, by continuation token: SeaweedFS skips keys after a `StartAfter`."""
        where = self._at(prefix)
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": _PAGE}, **more
            )
        )
        while True:
            with s3_errors(where, "list"):
                page = next(pages, None)
            if page is None:
                return
            self._repeats.of(page)
            if "IsTruncated" not in page:  # or any web page would pass for an empty listing
                raise StorageError(f"cannot list {where}: the reply is not S3's; check AWS_ENDPOINT_URL")
            yield page

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        where = self._at(key)
        with s3_errors(where, "read"):
            reply = self._client.head_object(Bucket=self._bucket, Key=key)
        self._repeats.of(reply)
        return _described(where, reply)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with s3_errors(self._at(key), "delete"):
            try:
                self._repeats.of(self._client.delete_object(Bucket=self._bucket, Key=key))
            except ClientError as error:
                if error_code(error) != "NoSuchKey":
                    raise

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """See ObjectStore: open multipart uploads, which cost like objects and show in no listing."""
        pages = iter(self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with s3_errors(self._at(prefix), UPLOADS):
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Uploads", ()):
                yield Unfinished(self._at(item["Key"]), item["UploadId"], item["Initiated"].astimezone(UTC))

    def discard(self, unfinished: Unfinished) -> None:
        """See ObjectStore."""
        with s3_errors(unfinished.location, GIVE_UP):
            try:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=unfinished.location.key, UploadId=unfinished.upload
                )
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise

    def presign(self, key: str, expires: timedelta) -> str:
        """See ObjectStore. The link is made here; whether the object exists is not asked."""
        seconds = check_expiry(expires)
        with s3_errors(self._at(key), "sign a link to"):
            return self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=seconds, HttpMethod="GET"
            )

    def _at(self, key: str) -> Location:
        return Location(self._bucket, key)

    def _tries(self, deadline: float) -> Iterator[int]:
        """One item a try, with a pause before each but the first, while the deadline allows."""
        for attempt in range(self._attempts):
            if attempt:
                pause = min(_MAX_PAUSE, self._backoff * 2 ** (attempt - 1)) * _RANDOM.uniform(0.5, 1.0)
                if time.monotonic() + pause >= deadline:
                    return
                time.sleep(pause)
            yield attempt

    def _ours(self, key: str, data: bytes | Path, size: int) -> ObjectInfo:
        """The object there, if it holds our very bytes. Raises ObjectExistsError if it does not."""
        info = self.stat(key)
        if info.size == size:
            ours = data if isinstance(data, bytes) else data.read_bytes()
            if self.get(key, max_bytes=size) == ours:
                return info
        raise ObjectExistsError(f"{info.location} exists already")

    def _fetch(
        self, key: str, sink: BinaryIO, request: dict[str, Any], max_bytes: int | None
    ) -> tuple[ObjectInfo, bool]:
        """Read an object into `sink`, anew on each try; its description, and whether only a part was sent."""
        where = self._at(key)
        deadline = time.monotonic() + self._deadline
        why, tries = "no time was left", 0
        for _ in self._tries(deadline):
            tries += 1
            sink.seek(0)
            sink.truncate()
            with s3_errors(where, "read"):
                reply = self._client.get_object(Bucket=self._bucket, Key=key, **request)
            self._repeats.of(reply)
            partial = reply["ResponseMetadata"]["HTTPStatusCode"] == 206
            try:
                info = _described(where, reply)
                check_size(where, info.size, max_bytes)
                _drain(reply["Body"], sink, info.size, None if partial else _expected_digest(reply), deadline)
            except _BrokenBodyError as error:
                why = str(error)
                continue
            finally:
                reply["Body"].close()
            self._repeats.add(tries - 1)
            return info, partial
        raise StorageUnavailableError(f"cannot read {where}: {why}, after {tries} tries")


def _drain(
    body: StreamingBody, sink: BinaryIO, size: int, expected: tuple[_Hash, bytes] | None, deadline: float
) -> None:
    """Copy a body of `size` bytes. Raises _BrokenBodyError if it is not all there, not right, or not there in time."""
    # `read` waits for as much as it was asked for, so a trickle would outlive any deadline; `read1` returns what came.
    # It also leaves out botocore's own checks, which are done here.
    read = getattr(getattr(body, "_raw_stream", None), "read1", None) or body.read
    received = 0
    while received < size:
        if time.monotonic() > deadline:
            raise _BrokenBodyError(f"the deadline passed at {received:,} of {size:,} bytes")
        try:
            chunk = read(min(_CHUNK, size - received))
        except (BotoCoreError, HTTPError, http.client.HTTPException, OSError) as error:
            raise _BrokenBodyError(
                f"the body broke off at {received:,} of {size:,} bytes ({type(error).__name__})"
            ) from error
        if not chunk:
            raise _BrokenBodyError(f"the body ended at {received:,} of {size:,} bytes")
        received += len(chunk)
        if expected is not None:
            expected[0].update(chunk)
        sink.write(chunk)
    if expected is not None and expected[0].digest() != expected[1]:
        raise _BrokenBodyError("the bytes do not match the store's checksum")


_CHECKSUMS: dict[str, Callable[[], _Hash]] = {
    "ChecksumCRC32": _Crc32,
    "ChecksumSHA256": hashlib.sha256,
    "ChecksumSHA1": lambda: hashlib.sha1(usedforsecurity=False),
}


def _expected_digest(reply: Mapping[str, Any]) -> tuple[_Hash, bytes] | None:
    """A fresh hash and what it must come to: the store's checksum, else its ETag where that is an MD5.

    A composite checksum is of the parts' checksums, and the ETag of a multipart or KMS-encrypted object is no MD5
    (Amazon S3 User Guide, "Checking object integrity").
    """
    if reply.get("ChecksumType") != "COMPOSITE":
        for name, make in _CHECKSUMS.items():
            value = str(reply.get(name) or "")
            if value and "-" not in value:
                return make(), base64.b64decode(value)
    etag = _plain(reply.get("ETag"))
    encrypted = reply.get("SSECustomerAlgorithm") or reply.get("ServerSideEncryption") not in (None, "AES256")
    if not encrypted and _MD5.fullmatch(etag):
        return hashlib.md5(usedforsecurity=False), bytes.fromhex(etag)
    return None


def _opened(data: bytes | Path) -> AbstractContextManager[bytes | BinaryIO]:
    return nullcontext(data) if isinstance(data, bytes) else data.open("rb")


def _described(where: Location, reply: Mapping[str, Any]) -> ObjectInfo:
    try:
        size, modified = int(reply["ContentLength"]), reply["LastModified"]
    except KeyError as error:
        raise StorageError(
            f"cannot read {where}: the reply has no {error}, so it is not S3's; check AWS_ENDPOINT_URL"
        ) from None
    return ObjectInfo(where, size, _plain(reply.get("ETag")), modified.astimezone(UTC))


def _plain(etag: str | None) -> str:
    return (etag or "").strip('"')


def _date(metadata: Mapping[str, Any]) -> datetime:
    """When the store replied, by its own clock."""
    try:
        return parsedate_to_datetime(metadata["HTTPHeaders"]["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)
