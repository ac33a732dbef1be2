"""Objects that were stored compressed, with a Content-Encoding: unpacked when they are downloaded."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from inpaint_ops.errors import DamagedObjectError, ObjectTooLargeError, StorageError
from inpaint_ops.locations import Location

_CHUNK = 2**18
_NONE = {"", "identity", "aws-chunked"}
"""aws-chunked describes a request's body; some stores keep the header with the object, whose bytes are plain."""
_GZIP = {"gzip", "x-gzip"}
_OTHERS = {"br", "zstd", "compress", "x-compress"}


def unpack(where: Location, encoding: str | None, packed: BinaryIO, sink: BinaryIO, max_bytes: int | None) -> bool:
    """Write what `packed` holds to `sink`, uncompressed; False, and nothing written, if it is not compressed.

    Bytes that only claim to be gzip or deflate are left as they are: tools set the header by mistake. Raises
    DamagedObjectError, ObjectTooLargeError above `max_bytes`, StorageError for an encoding that is not unpacked here.
    """
    encodings = [name for part in (encoding or "").split(",") if (name := part.strip().lower()) not in _NONE]
    if not encodings:
        return False
    packed.seek(0)
    start = packed.read(2)
    packed.seek(0)
    if len(encodings) > 1 or encodings[0] in _OTHERS:
        raise StorageError(
            f"cannot read {where}: it is stored with the Content-Encoding {', '.join(encodings)!r}, which is not "
            "unpacked here: store it without (gzip and deflate are unpacked)"
        )
    if encodings[0] in _GZIP and start == b"\x1f\x8b":
        _inflate(where, packed, sink, 31, max_bytes)
        return True
    # zlib's header: method 8, and a checksum of 5 bits (RFC 1950)
    if encodings[0] == "deflate" and len(start) == 2 and start[0] & 0x0F == 8 and int.from_bytes(start) % 31 == 0:
        _inflate(where, packed, sink, 15, max_bytes)
        return True
    return False


def _inflate(where: Location, packed: BinaryIO, sink: BinaryIO, wbits: int, max_bytes: int | None) -> None:
    """Unpack one stream after the other, never more than `max_bytes`."""
    total, rest = 0, packed.read(_CHUNK)
    try:
        while rest.strip(b"\0"):  # zeros at the end are padding
            stream = zlib.decompressobj(wbits)
            while not stream.eof:
                piece = stream.decompress(rest, _CHUNK)
                if not (rest or piece or stream.eof):
                    raise DamagedObjectError(
                        f"{where} is damaged: its compressed data (Content-Encoding) ends early: upload it again"
                    )
                total += len(piece)
                if max_bytes is not None and total > max_bytes:
                    raise ObjectTooLargeError(
                        f"{where} is too large: it unpacks to more bytes, and the limit is {max_bytes:,}"
                    )
                sink.write(piece)
                rest = (stream.unused_data if stream.eof else stream.unconsumed_tail) or packed.read(_CHUNK)
    except zlib.error as error:
        raise DamagedObjectError(
            f"{where} is damaged: its compressed data (Content-Encoding) cannot be unpacked ({error}): upload it again"
        ) from None
