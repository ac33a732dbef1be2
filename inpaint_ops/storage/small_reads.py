"""Small objects of a bucket, read by a link that this process makes for itself, for half of the processor's time.

botocore spends more on what it makes of a `GetObject` and its reply than the request costs: 1.3 ms of 2 (48 objects of
9 kB: 70 to 95 ms, and 33 to 40 in this way; two cores of an AMD EPYC under other load, 2026-11-27).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

LINK_SECONDS = 60
"""The life of such a link, which no one else sees."""


def read_small(client: S3Client, bucket: str, key: str, *, max_bytes: int) -> bytes | None:
    """The object's bytes, checked for length alone; None for any answer but all of them at once, whatever the reason.

    Goes through the client's own connections, and so by its proxies, its certificates and its timeouts. Nothing is
    tried again.
    """
    try:
        link = client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=LINK_SECONDS, HttpMethod="GET"
        )
        connections: Any = client._endpoint.http_session  # type: ignore[attr-defined]
        reply = connections.send(AWSRequest("GET", link, stream_output=True).prepare())
        try:
            length = reply.headers.get("Content-Length", "")
            coded = reply.headers.get("Content-Encoding", "identity") != "identity"
            if reply.status_code != 200 or coded or not length.isdecimal() or int(length) > max_bytes:
                return None
            data: bytes = reply.raw.read(int(length) + 1, decode_content=False)
            return data if len(data) == int(length) else None
        finally:
            reply.raw.close()  # its connection is kept where all has been read
    except (BotoCoreError, HTTPError, OSError, ValueError):
        return None
