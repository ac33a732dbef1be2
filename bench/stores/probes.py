"""What is asked of a server, each question by itself; an answer is `yes`, or `no` or what was seen instead."""

from __future__ import annotations

import base64
import gzip
import hashlib
import tempfile
import unicodedata
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import anycrc
from botocore.exceptions import ClientError, FlexibleChecksumError

from bench.stores.servers import BUCKET, Server
from inpaint_ops.errors import ObjectNotFoundError, StorageError
from inpaint_ops.storage import Storage
from inpaint_ops.storage.probe import probe_conditional_put

Probe = Callable[[Server], str]
YES = "yes"
_PART = 5 * 2**20
_KEYS = 2100


def _storage(server: Server) -> Storage:
    return Storage(writable=[f"s3://{BUCKET}/"], s3_client=server.client)


def _answer(holds: bool, otherwise: str = "no") -> str:
    return YES if holds else otherwise


def _refused(call: Callable[[], Any], status: int) -> str:
    """`yes` if the call is refused with this status."""
    try:
        call()
    except ClientError as error:
        seen = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return _answer(seen == status, f"no: {seen} {error.response['Error'].get('Code', '')}")
    return "no: done all the same"


def writes(server: Server) -> str:
    """A write with the SDK's default checksum headers."""
    server.client().put_object(Bucket=BUCKET, Key="plain", Body=b"pixels")
    return _answer(server.client().get_object(Bucket=BUCKET, Key="plain")["Body"].read() == b"pixels")


def put_if_absent(server: Server) -> str:
    """In turn, and of eight at once: what `inpaint-ops doctor` asks."""
    problem = probe_conditional_put(_storage(server), f"s3://{BUCKET}/probe/")
    return _answer(problem is None, f"no: {problem}")


def put_if_match(server: Server) -> str:
    """A PUT with If-Match of an ETag that is not there any more."""
    client = server.client()
    old = client.put_object(Bucket=BUCKET, Key="match", Body=b"old")["ETag"]
    client.put_object(Bucket=BUCKET, Key="match", Body=b"new")
    return _refused(lambda: client.put_object(Bucket=BUCKET, Key="match", Body=b"mine", IfMatch=old), 412)


def get_if_match(server: Server) -> str:
    """A GET with If-Match of an ETag that is not there any more, whole and of a range."""
    client = server.client()
    old = client.put_object(Bucket=BUCKET, Key="read", Body=b"old")["ETag"]
    client.put_object(Bucket=BUCKET, Key="read", Body=b"new")
    whole = _refused(lambda: client.get_object(Bucket=BUCKET, Key="read", IfMatch=old), 412)
    part = _refused(lambda: client.get_object(Bucket=BUCKET, Key="read", IfMatch=old, Range="bytes=0-0"), 412)
    return whole if whole == part else f"whole: {whole}; range: {part}"


def ranges(server: Server) -> str:
    """A GET of some bytes."""
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="digits", Body=b"0123456789")
    if _storage(server).get(f"s3://{BUCKET}/digits", byte_range=(2, 5)) != b"2345":
        return "no"
    reply = client.get_object(Bucket=BUCKET, Key="digits", Range="bytes=2-5")
    try:
        return _answer(reply["Body"].read() == b"2345", "no: the whole object comes")
    except FlexibleChecksumError:
        return "yes, with the checksum of the whole object"


def etag(server: Server) -> str:
    """The ETag of a plain object."""
    tag = server.client().put_object(Bucket=BUCKET, Key="tagged", Body=b"pixels")["ETag"].strip('"')
    return _answer(tag == hashlib.md5(b"pixels", usedforsecurity=False).hexdigest(), f"no: {tag[:12]}…")


def multipart(server: Server) -> str:
    """An upload in two parts, read back by the product; its ETag."""
    client, body = server.client(), bytes(range(256)) * (_PART // 256) + b"the end"
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=number, Body=piece)[
                "ETag"
            ],
        }
        for number, piece in ((1, body[:_PART]), (2, body[_PART:]))
    ]
    client.complete_multipart_upload(
        Bucket=BUCKET,
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
    )
    tag = client.head_object(Bucket=BUCKET, Key="parts")["ETag"].strip('"')
    whole = tag == hashlib.md5(body, usedforsecurity=False).hexdigest()
    form = (
        "ends with -2"
        if tag.endswith("-2")
        else "is the MD5 of the whole"
        if whole
        else "looks like an MD5 and is not one"
    )
    return _answer(_storage(server).get(f"s3://{BUCKET}/parts") == body) + f"; its ETag {form}"


def unfinished(server: Server) -> str:
    """Whether open uploads are listed, and can be given up."""
    server.client().create_multipart_upload(Bucket=BUCKET, Key="open/upload")
    storage = _storage(server)
    found = list(storage.unfinished(f"s3://{BUCKET}/open/"))
    for one in found:
        storage.discard(one)
    return _answer(len(found) == 1 and not list(storage.unfinished(f"s3://{BUCKET}/open/")))


def checksums(server: Server) -> str:
    """Which checksums that were sent with an object come back with it."""
    client, body = server.client(), b"pixels" * 100
    sums = {
        "CRC32": zlib.crc32(body).to_bytes(4, "big"),
        "CRC32C": anycrc.Model("CRC32C").calc(body).to_bytes(4, "big"),
        "CRC64NVME": anycrc.Model("CRC64-NVME").calc(body).to_bytes(8, "big"),
        "SHA256": hashlib.sha256(body).digest(),
    }
    given = []
    for name, digest in sums.items():
        value: dict[str, Any] = {f"Checksum{name}": base64.b64encode(digest).decode()}
        try:
            client.put_object(Bucket=BUCKET, Key=f"sum-{name}", Body=body, **value)
        except ClientError as error:
            given.append(f"{name} refused ({error.response['Error'].get('Code')})")
            continue
        reply: Any = client.get_object(Bucket=BUCKET, Key=f"sum-{name}", ChecksumMode="ENABLED")
        if reply.get(f"Checksum{name}") == value[f"Checksum{name}"]:
            given.append(name)
    return ", ".join(given) or "none"


def wrong_checksum(server: Server) -> str:
    """A write whose CRC32 is of other bytes."""
    client = server.client()
    crc = base64.b64encode(zlib.crc32(b"other").to_bytes(4, "big")).decode()
    return _refused(lambda: client.put_object(Bucket=BUCKET, Key="wrong", Body=b"pixels", ChecksumCRC32=crc), 400)


def _list_keys() -> list[str]:
    # `-` comes before `/`: a server on top of folders has it the other way round
    return [f"list/{number % 5}{'-' * (number % 2)}/{'aBé_'[number % 4]}{number:04}" for number in range(_KEYS)]


def listing(server: Server) -> str:
    """2,100 keys, over several pages; the order that Amazon S3 promises is that of the keys' bytes."""
    client = server.client()
    keys = _list_keys()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=b""), keys))
    try:
        found = [info.location.key for info in _storage(server).list(f"s3://{BUCKET}/list/")]
    except StorageError as error:
        return f"no: {error}"
    if sorted(found) != sorted(keys):
        return f"no: {len(found):,} of {len(keys):,}, {len(set(found)):,} different"
    return "yes, in the order of bytes" if found == sorted(keys, key=str.encode) else "yes, in another order"


def listing_in_parts(server: Server) -> str:
    """The keys of `listing` once more, by prefixes that end within a name, eight at once."""
    storage = _storage(server)
    parts = [f"{folder}{dash}/{letter}" for folder in range(5) for dash in ("", "-") for letter in "aBé_"]

    def keys(part: str) -> list[str]:
        found = [info.location.key for info in storage.list(f"s3://{BUCKET}/list/", starting=part)]
        return found if all(key.startswith(f"list/{part}") for key in found) else ["another part's"]

    with ThreadPoolExecutor(8) as pool:
        found = [key for some in pool.map(keys, parts) for key in some]
    return YES if sorted(found) == sorted(_list_keys()) else f"no: {len(found):,} of {_KEYS:,}"


def twins(server: Server) -> str:
    """Whether `é` in NFC and in NFD are two keys."""
    storage = _storage(server)
    for form in ("NFC", "NFD"):
        storage.put(f"s3://{BUCKET}/twins/{unicodedata.normalize(form, 'é')}", form.encode())
    return _answer(sorted(info.size for info in storage.list(f"s3://{BUCKET}/twins/")) == [3, 3], "no: one key")


def odd_keys(server: Server) -> str:
    """Spaces, signs and emoji in keys, read back and listed."""
    storage, names = _storage(server), ["a b+c&d=e%20f#g?.json", "ünïcode/日本語 🎨.png", "quote'\"<>.txt"]
    for name in names:
        storage.put(f"s3://{BUCKET}/odd/{name}", name.encode())
    listed = sorted(info.location.key.removeprefix("odd/") for info in storage.list(f"s3://{BUCKET}/odd/"))
    return _answer(
        listed == sorted(names) and all(storage.get(f"s3://{BUCKET}/odd/{name}") == name.encode() for name in names)
    )


def content_encoding(server: Server) -> str:
    """Whether an object that was uploaded with Content-Encoding gzip says so when it is read."""
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="zip.png", Body=gzip.compress(b"pixels"), ContentEncoding="gzip")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "zip.png"
        _storage(server).download(f"s3://{BUCKET}/zip.png", copy)
        kept = client.head_object(Bucket=BUCKET, Key="zip.png").get("ContentEncoding")
        return _answer(copy.read_bytes() == b"pixels", f"no: it comes as {kept or 'plain bytes'}")


def missing(server: Server) -> str:
    """Whether a missing object and a missing bucket are told apart."""
    client, seen = server.client(), []
    for bucket, code in ((BUCKET, "NoSuchKey"), ("no-such-bucket", "NoSuchBucket")):
        reader = Storage(readable=[f"s3://{bucket}/"], s3_client=lambda: client)
        try:
            reader.get(f"s3://{bucket}/nothing")
        except ObjectNotFoundError as error:
            if ("no bucket" in str(error)) == (code == "NoSuchBucket"):
                seen.append(code)
    return _answer(len(seen) == 2, f"no: {', '.join(seen) or 'neither'}")


def signatures(server: Server) -> str:
    """A request signed with another secret key."""
    return _refused(lambda: server.client(secret_key="wrong").list_objects_v2(Bucket=BUCKET), 403)


def links(server: Server) -> str:
    """A presigned link works, and with another signature it does not."""
    storage = _storage(server)
    storage.put(f"s3://{BUCKET}/linked", b"pixels")
    link = storage.presign(f"s3://{BUCKET}/linked", timedelta(minutes=1))
    with urllib.request.urlopen(link) as reply:  # noqa: S310 (of our own server)
        if reply.read() != b"pixels":
            return "no: it reads something else"
    forged = link[:-4] + ("0000" if link[-4:] != "0000" else "1111")
    try:
        urllib.request.urlopen(forged).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        return _answer(error.code == 403, f"no: {error.code}")
    return "no: a forged one reads too"


def requester_pays(server: Server) -> str:
    """Requests with x-amz-request-payer are taken."""
    client = server.client(requester_pays=True)
    client.put_object(Bucket=BUCKET, Key="paid", Body=b"pixels")
    return _answer(client.get_object(Bucket=BUCKET, Key="paid")["Body"].read() == b"pixels")


PROBES: dict[str, Probe] = {
    "write with the SDK's checksum headers": writes,
    "put-if-absent (`If-None-Match: *`), also of eight at once": put_if_absent,
    "PUT with an old `If-Match` refused": put_if_match,
    "GET with an old `If-Match` refused": get_if_match,
    "range": ranges,
    "ETag of a plain object is its MD5": etag,
    "multipart upload": multipart,
    "open uploads are listed and given up": unfinished,
    "checksums given back": checksums,
    "wrong CRC32 refused": wrong_checksum,
    "listing of 2,100 keys": listing,
    "the same in parts, eight at once": listing_in_parts,
    "NFC and NFD are two keys": twins,
    "odd characters in keys": odd_keys,
    "`Content-Encoding: gzip` kept": content_encoding,
    "missing object and missing bucket told apart": missing,
    "wrong secret key refused": signatures,
    "presigned link, forged one refused": links,
    "`x-amz-request-payer` taken": requester_pays,
}
