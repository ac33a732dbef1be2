"""One bucket of an S3-compatible store, over boto3."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from inpaint_ops.errors import (
    DamagedObjectError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location, is_directory_bucket
from inpaint_ops.storage.checksums import ETAG, Etags, expected_digest
from inpaint_ops.storage.content_coding import unpack
from inpaint_ops.storage.files import temporary_beside
from inpaint_ops.storage.interface import (
    DEFAULT_CONTENT_TYPE,
    MAX_PRESIGN,
    ObjectInfo,
    Unfinished,
    check_expiry,
    check_size,
)
from inpaint_ops.storage.s3_client import credentials_end, sends_checksums
from inpaint_ops.storage.s3_errors import (
    COPY,
    GIVE_UP,
    UPLOADS,
    error_code,
    http_status,
    put_error,
    s3_error,
    s3_errors,
)
from inpaint_ops.storage.s3_replies import (
    NOT_S3,
    BrokenBodyError,
    body_size,
    described,
    drain,
    is_partial,
    plain_etag,
    reply_date,
)
from inpaint_ops.storage.small_reads import read_small
from inpaint_ops.storage.tries import Repeats, tries_until

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

log = logging.getLogger(__name__)

_IN_THE_WAY = {"ConditionalRequestConflict", "OperationAborted"}
"""Refusals of a write because of another one at the same time."""
_DAMAGED = {"BadDigest", "XAmzContentSHA256Mismatch"}
"""Refusals of a write whose bytes were damaged in transit, unless the store refuses all of them so."""
_PAGE = 1000


class S3Store:
    """One bucket. Safe to use from many threads at once, as its client is.

    botocore retries requests; broken bodies are retried here: `attempts` reads in all, within `deadline` seconds for
    one transfer, with jittered pauses that grow from `backoff` seconds. `repeats` counts both. Without `etag_md5`, no
    ETag is taken for the MD5 of its object.
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
        etag_md5: bool = True,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._attempts = attempts
        self._deadline = deadline
        self._backoff = backoff
        self._repeats = repeats or Repeats()
        self._etags = Etags(bucket, usable=etag_md5)
        self._signature_taken = False
        """Whether the store has accepted a request with our signature."""
        self._takes_links = True
        """Whether `read_small` has not failed where `get` did not: there are stores that take no signed links."""

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
        if if_match:  # empty where the store gives no ETag
            request["IfMatch"] = f'"{if_match}"'
        sink = io.BytesIO()
        info, reply = self._fetch(key, sink, request, max_bytes)
        if if_match and info.etag and info.etag != if_match:  # a store may ignore the condition
            raise ObjectChangedError(f"cannot read {info.location}: it has changed since it was last looked at")
        data = sink.getvalue()
        # A store may ignore the range and send everything.
        return data if byte_range is None or is_partial(reply) else data[byte_range[0] : byte_range[1] + 1]

    def get_unchecked(self, key: str, *, max_bytes: int) -> bytes:
        """See ObjectStore."""
        data = read_small(self._client, self._bucket, key, max_bytes=max_bytes) if self._takes_links else None
        if data is None:
            data = self.get(key, max_bytes=max_bytes)
            self._takes_links = False  # it is there, and a link did not lead to it
        return data

    def download(self, key: str, path: Path, *, max_bytes: int | None = None) -> ObjectInfo:
        """See ObjectStore."""
        with temporary_beside(path) as (file, temporary), temporary_beside(path) as (plain, unpacked):
            info, reply = self._fetch(key, file, {}, max_bytes)
            if unpack(info.location, reply.get("ContentEncoding"), file, plain, max_bytes):
                plain.flush()
                os.replace(unpacked, path)
            else:
                file.flush()
                os.replace(temporary, path)
        return info

    def put(
        self,
        key: str,
        data: bytes | Path,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
    ) -> ObjectInfo:
        """See ObjectStore."""
        where = self._at(key)
        request: dict[str, Any] = {"Bucket": self._bucket, "Key": key, "ContentType": content_type}
        if if_absent:
            request["IfNoneMatch"] = "*"
        if if_match is not None:
            request["IfMatch"] = f'"{if_match}"'
        for tried in tries_until(time.monotonic() + self._deadline, self._attempts, self._backoff):
            with _opened(data) as body:
                size = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
                try:
                    reply = self._client.put_object(Body=body, **request)
                    self._accepted(reply)
                    self._repeats.add(tried)
                    if not reply.get("ETag"):
                        return self._really_there(where, size)
                    return ObjectInfo(where, size, plain_etag(reply.get("ETag")), reply_date(reply["ResponseMetadata"]))
                except ClientError as error:
                    if if_absent and http_status(error) == 412:
                        # botocore may have repeated a request that had won, and whose reply was lost.
                        self._repeats.of(error.response)
                        with suppress(ObjectNotFoundError):  # deleted meanwhile: the key is free again
                            return self._ours(key, data, size)
                    elif if_match is not None and (http_status(error) == 412 or error_code(error) == "NoSuchKey"):
                        self._repeats.of(error.response)
                        try:
                            return self._ours(key, data, size)
                        except (ObjectExistsError, ObjectNotFoundError):
                            raise ObjectChangedError(f"{where} has changed since it was last looked at") from None
                    elif error_code(error) in _DAMAGED and tried < self._attempts - 1:
                        continue
                    elif error_code(error) not in _IN_THE_WAY:
                        raise put_error(
                            error,
                            where,
                            conditional=if_absent,
                            checksums=sends_checksums(self._client),
                            signature_taken=self._signature_taken,
                        ) from error
                except (BotoCoreError, ResponseParserError, HTTPError) as error:
                    raise s3_error(error, where, "write") from error
        raise StorageUnavailableError(f"cannot write {where}: other writes were in the way on every try")

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo | None:
        """See ObjectStore. The content type goes with it."""
        where, place = self._at(key), source.location
        request: dict[str, Any] = {"CopySourceIfMatch": f'"{source.etag}"'} if source.etag else {}
        with s3_errors(place, COPY):
            try:
                reply = self._client.copy_object(
                    Bucket=self._bucket, Key=key, CopySource={"Bucket": place.bucket or "", "Key": place.key}, **request
                )
            except ClientError as error:
                if http_status(error) in (405, 501) or error_code(error) == "NotImplemented":
                    return None
                raise
        self._accepted(reply)
        info = self.stat(key)
        if info.size != source.size:
            raise StorageError(f"cannot copy {place} to {where}: the copy has {info.size:,} bytes, not {source.size:,}")
        return info

    def list(self, prefix: str, *, direct: bool = False, starting: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        asked, wanted = prefix + starting, ""
        if is_directory_bucket(self._bucket):
            asked, wanted = asked[: asked.rfind("/") + 1], asked
        for page in self._pages(asked, **({"Delimiter": "/"} if direct else {})):
            for item in page.get("Contents", ()):
                key = item["Key"]
                if key.startswith(wanted) and not key.endswith("/"):  # what consoles put to show an empty folder
                    try:
                        size, modified = item["Size"], item["LastModified"].astimezone(UTC)
                    except KeyError:
                        raise StorageError(f"cannot list {self._at(prefix)}: {NOT_S3}") from None
                    yield ObjectInfo(Location(self._bucket, key), size, plain_etag(item.get("ETag")), modified)

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
            self._accepted(page)
            if "IsTruncated" not in page:  # or any web page would pass for an empty listing
                raise StorageError(f"cannot list {where}: {NOT_S3}")
            yield page
            if page["IsTruncated"] and not page.get("NextContinuationToken"):  # botocore would take it for the end
                raise StorageError(
                    f"cannot list {where}: the store ends the listing after a page and gives no token for the next: "
                    "it has no ListObjectsV2"
                )

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        where = self._at(key)
        with s3_errors(where, "read"):
            try:
                reply = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if http_status(error) == 404 or not 400 <= http_status(error) < 500:
                    raise
                # A HEAD's reply has no body, and so no code or message: a GET tells why.
                self._client.get_object(Bucket=self._bucket, Key=key, Range="bytes=0-0")["Body"].close()
                raise
        self._accepted(reply)
        return described(where, reply, body_size(where, reply))

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with s3_errors(self._at(key), "delete"):
            try:
                self._accepted(self._client.delete_object(Bucket=self._bucket, Key=key))
            except ClientError as error:
                if error_code(error) != "NoSuchKey":
                    raise

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """See ObjectStore: open multipart uploads, which cost like objects and show in no listing."""
        pages = iter(self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with s3_errors(self._at(prefix), UPLOADS):
                try:
                    page = next(pages, None)
                except ClientError as error:
                    if http_status(error) not in (405, 501):
                        raise
                    log.warning("%s: the store cannot list open uploads, so none is looked at.", self._at(prefix))
                    return
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

    def presign(self, key: str, expires: timedelta, *, longest: timedelta = MAX_PRESIGN) -> str:
        """See ObjectStore. The link is made here; whether the object exists is not asked."""
        seconds = check_expiry(expires, longest)
        with s3_errors(self._at(key), "sign a link to"):
            return self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=seconds, HttpMethod="GET"
            )

    def credentials_end(self) -> datetime | None:
        """See ObjectStore."""
        return credentials_end(self._client)

    def _at(self, key: str) -> Location:
        return Location(self._bucket, key)

    def _ours(self, key: str, data: bytes | Path, size: int) -> ObjectInfo:
        """The object there, if it holds our very bytes. Raises ObjectExistsError if it does not."""
        info = self.stat(key)
        if info.size == size:
            ours = data if isinstance(data, bytes) else data.read_bytes()
            with suppress(ObjectChangedError, ObjectTooLargeError):  # replaced meanwhile: then it is not ours
                if self.get(key, max_bytes=size, if_match=info.etag) == ours:
                    return info
        raise ObjectExistsError(f"{info.location} exists already")

    def _accepted(self, reply: Mapping[str, Any]) -> None:
        """Note a reply that is no error."""
        self._signature_taken = True
        self._repeats.of(reply)

    def _really_there(self, where: Location, size: int) -> ObjectInfo:
        """The object that a reply without an ETag says was written. Raises StorageError: any web server says so."""
        try:
            info = self.stat(where.key)
        except (ObjectNotFoundError, StorageUnavailableError):
            raise
        except StorageError:
            info = None
        if info is None or info.size != size:
            raise StorageError(f"cannot write {where}: {NOT_S3} (it has no ETag)")
        return info

    def _fetch(
        self, key: str, sink: BinaryIO, request: dict[str, Any], max_bytes: int | None
    ) -> tuple[ObjectInfo, Mapping[str, Any]]:
        """Read an object into `sink`, anew on each try; its description, and the reply."""
        where = self._at(key)
        deadline = time.monotonic() + self._deadline
        why, tries, before = "no time was left", 0, None
        for _ in tries_until(deadline, self._attempts, self._backoff):
            tries += 1
            sink.seek(0)
            sink.truncate()
            with s3_errors(where, "read"):
                reply = self._client.get_object(Bucket=self._bucket, Key=key, **request)
            self._accepted(reply)
            expected = None if is_partial(reply) else expected_digest(reply, etags=self._etags.usable)
            try:
                size = body_size(where, reply)
                if size is not None:
                    check_size(where, size, max_bytes)
                received, digest = drain(reply["Body"], sink, where, size, max_bytes, expected, deadline)
                info = described(where, reply, received)
            except BrokenBodyError as error:
                why = str(error)
                continue
            finally:
                reply["Body"].close()
            if expected is not None and digest != expected.digest:
                if expected.source != ETAG or digest != before:
                    why, before = f"the bytes do not match the store's checksum ({expected.source})", digest
                    continue
                if not self._etags.disagree(where):
                    raise DamagedObjectError(
                        f"{where} is damaged: two equal readings do not match its ETag, which for other objects here "
                        "is their MD5; upload it again, or set INPAINT_ETAG_MD5=off if ETags here are not always that"
                    )
                tries -= 1  # the second reading was asked for to find this out
            elif expected is not None and expected.source == ETAG:
                self._etags.agree()
            self._repeats.add(tries - 1)
            return info, reply
        raise StorageUnavailableError(f"cannot read {where}: {why}, after {tries} tries")


def _opened(data: bytes | Path) -> AbstractContextManager[bytes | BinaryIO]:
    return nullcontext(data) if isinstance(data, bytes) else data.open("rb")
