"""What a reply of S3 holds: the description of an object, and its body."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from inpaint_ops.errors import StorageError
from inpaint_ops.locations import Location
from inpaint_ops.storage.checksums import Expected
from inpaint_ops.storage.interface import ObjectInfo, check_size

if TYPE_CHECKING:
    from botocore.response import StreamingBody

NOT_S3 = "the reply is not S3's; check AWS_ENDPOINT_URL"
_CHUNK = 2**18


class BrokenBodyError(Exception):
    """A reply's body ended early, late, or wrong. botocore retries requests, never this."""


def drain(
    body: StreamingBody,
    sink: BinaryIO,
    where: Location,
    size: int | None,
    max_bytes: int | None,
    expected: Expected | None,
    deadline: float,
) -> tuple[int, bytes | None]:
    """Copy a body of `size` bytes, or to its end; its size, and its digest by the hash that is expected.

    Raises BrokenBodyError if it is not all there, or not there in time; ObjectTooLargeError above `max_bytes`.
    """
    # `read` waits for all that it was asked for, so a trickle would outlive any deadline; `read1` returns what is
    # there. It also leaves out botocore's own checks, which are done here.
    read = getattr(getattr(body, "_raw_stream", None), "read1", None) or body.read
    received, of = 0, "" if size is None else f" of {size:,}"
    while size is None or received < size:
        if time.monotonic() > deadline:
            raise BrokenBodyError(f"the deadline passed at {received:,}{of} bytes")
        try:
            chunk = read(_CHUNK if size is None else min(_CHUNK, size - received))
        except (BotoCoreError, HTTPError, http.client.HTTPException, OSError) as error:
            raise BrokenBodyError(f"the body broke off at {received:,}{of} bytes ({type(error).__name__})") from error
        if not chunk:
            if size is None:
                break
            raise BrokenBodyError(f"the body ended at {received:,}{of} bytes")
        received += len(chunk)
        check_size(where, received, max_bytes)
        if expected is not None:
            expected.hash.update(chunk)
        sink.write(chunk)
    return received, None if expected is None else expected.hash.digest()


def is_partial(reply: Mapping[str, Any]) -> bool:
    """Whether only a part of the object was sent."""
    # rclone's server sends a part with the status of the whole, and with the whole's checksum.
    return reply["ResponseMetadata"]["HTTPStatusCode"] == 206 or bool(reply.get("ContentRange"))


def body_size(where: Location, reply: Mapping[str, Any]) -> int | None:
    """The body's bytes; None where it is sent in chunks, whose last one says that it is. Raises StorageError."""
    page = "html" in str(reply.get("ContentType")) and not reply.get("ETag")  # a web server has that for every path
    if "LastModified" not in reply or page:
        raise StorageError(f"cannot read {where}: {NOT_S3} (it has no ETag or no Last-Modified)")
    if "ContentLength" in reply:
        return int(reply["ContentLength"])
    if "chunked" in reply["ResponseMetadata"]["HTTPHeaders"].get("transfer-encoding", ""):
        return None
    raise StorageError(f"cannot read {where}: {NOT_S3} (it has no Content-Length)")


def described(where: Location, reply: Mapping[str, Any], size: int | None) -> ObjectInfo:
    """The object of `size` bytes that a reply describes. Raises StorageError."""
    if size is None:
        raise StorageError(f"cannot read {where}: {NOT_S3} (it has no Content-Length)")
    return ObjectInfo(where, size, plain_etag(reply.get("ETag")), reply["LastModified"].astimezone(UTC))


def plain_etag(etag: str | None) -> str:
    """The ETag without quotes, and without the mark of a weak one."""
    return (etag or "").removeprefix("W/").strip('"')  # a proxy that compresses makes it a weak one


def reply_date(metadata: Mapping[str, Any]) -> datetime:
    """When the store replied, by its own clock."""
    try:
        return parsedate_to_datetime(metadata["HTTPHeaders"]["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)
