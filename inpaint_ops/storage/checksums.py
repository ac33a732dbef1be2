"""What the bytes of a reply must come to: the checksum that the store gives, or its ETag where that is an MD5."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anycrc

from inpaint_ops.locations import Location, is_directory_bucket

log = logging.getLogger(__name__)

ETAG = "ETag"
_MD5 = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)


class Hash(Protocol):
    """What hashlib's objects do."""

    def update(self, data: bytes, /) -> None: ...  # noqa: D102
    def digest(self) -> bytes: ...  # noqa: D102


class _Crc:
    """A CRC of `size` bytes by a function of (data, value so far)."""

    def __init__(self, size: int, calculate: Callable[[bytes, int], int]) -> None:
        self._size = size
        self._calculate = calculate
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._calculate(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


# Of several, the first one counts: the quickest that finds most.
_CHECKSUMS: dict[str, Callable[[], Hash]] = {
    "ChecksumCRC64NVME": lambda: _Crc(8, anycrc.Model("CRC64-NVME").calc),
    "ChecksumCRC32C": lambda: _Crc(4, anycrc.Model("CRC32C").calc),
    "ChecksumCRC32": lambda: _Crc(4, zlib.crc32),
    "ChecksumSHA256": hashlib.sha256,
    "ChecksumSHA512": hashlib.sha512,
    "ChecksumSHA1": lambda: hashlib.sha1(usedforsecurity=False),
    "ChecksumMD5": lambda: hashlib.md5(usedforsecurity=False),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """A fresh hash, the digest that it must come to, and where that comes from: `ETag`, or a checksum's name."""

    source: str
    hash: Hash
    digest: bytes


def expected_digest(reply: Mapping[str, Any], *, etags: bool = True) -> Expected | None:
    """What GetObject's reply says of the body: the store's checksum, else with `etags` an ETag that looks like an MD5.

    A composite checksum is of the parts' checksums, and the ETag of a multipart or KMS-encrypted object is not an MD5
    (Amazon S3 User Guide, "Checking object integrity"). Of what was unpacked on the way (Google Cloud Storage does it
    for `Content-Encoding: gzip`), all of them are of other bytes.
    """
    headers = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if headers.get("x-goog-stored-content-encoding", "identity") != (reply.get("ContentEncoding") or "identity"):
        return None
    if reply.get("ChecksumType") != "COMPOSITE":
        for name, make in _CHECKSUMS.items():
            if digest := _decoded(str(reply.get(name) or ""), len(make().digest())):
                return Expected(name.removeprefix("Checksum"), make(), digest)
    etag = str(reply.get("ETag") or "")
    encrypted = reply.get("SSECustomerAlgorithm") or reply.get("ServerSideEncryption") not in (None, "AES256")
    if etags and not encrypted and not etag.startswith("W/") and _MD5.fullmatch(etag.strip('"')):
        return Expected(ETAG, hashlib.md5(usedforsecurity=False), bytes.fromhex(etag.strip('"')))
    return None


def _decoded(value: str, size: int) -> bytes | None:
    """The digest of `size` bytes that is written in base64; None for anything else, as `…-3` of three parts."""
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == size else None


class Etags:
    """What is known of a bucket's ETags: whether those of 32 hex digits are MD5s. Threads may share it.

    Amazon's directory buckets (S3 Express One Zone), and stores on top of file systems, have ETags that only look so.
    """

    def __init__(self, bucket: str, *, usable: bool = True) -> None:
        self.are_md5: bool | None = None if usable and not is_directory_bucket(bucket) else False
        """None until one was compared."""

    @property
    def usable(self) -> bool:
        """Whether an ETag may be compared with an MD5."""
        return self.are_md5 is not False

    def agree(self) -> None:
        """An ETag was the MD5 of its object."""
        if self.are_md5 is None:
            self.are_md5 = True

    def disagree(self, where: Location) -> bool:
        """Note that two equal readings of an object do not match its ETag; whether it is the ETags that are not MD5s.

        They are not if none of this bucket has matched before. That is logged once, and no ETag is compared again.
        """
        if self.are_md5 is None:
            self.are_md5 = False
            log.warning(
                "The ETags of s3://%s are not MD5s (two equal readings of %s disagree with its ETag): "
                "they are not used to check reads. Where the store gives no checksum, only the length is checked.",
                where.bucket,
                where,
            )
        return not self.are_md5
