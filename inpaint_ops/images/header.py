"""What an image file says of itself in its first bytes: format, width, height. Nothing is decoded, little is read.

For files that a process we do not trust has written, so it is arithmetic on bytes alone: no decoder sees them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

from inpaint_ops.errors import ImageError
from inpaint_ops.images import jxl
from inpaint_ops.images.avif_header import avif_size
from inpaint_ops.images.png import SIGNATURE as PNG_SIGNATURE

HeaderFormat = Literal["png", "jpeg", "webp", "tiff", "bmp", "avif", "jxl"]

_MOST_SEGMENTS = 4096
"""Segments of a JPEG that are skipped on the way to its frame header; a colour profile of 16 MB takes 256."""
_MOST_TAGS = 1024
"""Tags of a TIFF's first folder."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers that begin a frame header (ITU-T T.81, table B.1)."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""JPEG's markers without a length (ITU-T T.81, table B.2)."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """Width and height are in pixels, as stored: an EXIF orientation is not applied."""

    format: HeaderFormat
    width: int
    height: int


def read_file_header(file: BinaryIO) -> FileHeader:
    """The header of the image that begins at `file`'s start; leaves the position anywhere.

    Reads a few kilobytes at most, whatever the file says of itself. Raises ImageError where it is no PNG, JPEG, WebP,
    TIFF, BMP, JPEG XL or AVIF of one picture, or its header is cut off or makes no sense.
    """
    file.seek(0)
    start = file.read(64)
    try:
        if start.startswith(PNG_SIGNATURE):
            found = _png(start)
        elif start.startswith(b"\xff\xd8\xff"):
            found = _jpeg(file)
        elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            found = _webp(start)
        elif start[:4] in (b"II*\0", b"MM\0*"):
            found = _tiff(file, start)
        elif start.startswith(b"BM"):
            found = _bmp(start)
        elif start[4:12] == b"ftypavif":
            found = FileHeader("avif", *avif_size(file))
        elif start.startswith((jxl.CODESTREAM, jxl.CONTAINER)):
            header = jxl.read_header(file)
            found = FileHeader("jxl", header.width, header.height)
        else:
            raise ImageError(f"is no PNG, JPEG, WebP, TIFF, BMP, AVIF or JPEG XL file: it begins with {start[:12]!r}")
    except (struct.error, IndexError) as error:
        raise ImageError("has a header that is cut off") from error
    if found.width < 1 or found.height < 1:
        raise ImageError(f"has a header that makes no sense: {found.width}x{found.height}")
    return found


def _png(start: bytes) -> FileHeader:
    """PNG, third edition, section 11.2.1."""
    length, kind, width, height = struct.unpack_from(">I4sII", start, 8)
    if (length, kind) != (13, b"IHDR"):
        raise ImageError("has no PNG header")
    return FileHeader("png", width, height)


def _jpeg(file: BinaryIO) -> FileHeader:
    """ITU-T T.81, annex B: segments up to the first frame header."""
    file.seek(2)
    for _ in range(_MOST_SEGMENTS):
        marker = _next_marker(file)
        if marker in _ALONE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _FRAMES:
            height, width = struct.unpack_from(">xHH", file.read(5))
            return FileHeader("jpeg", width, height)
        if length < 2 or marker in (0xD8, 0xD9, 0xDA):
            break
        file.seek(length - 2, 1)
    raise ImageError("has no JPEG frame header")


def _next_marker(file: BinaryIO) -> int:
    """The next marker's second byte; any number of fill bytes may precede it, of which we take a few."""
    if file.read(1) != b"\xff":
        raise ImageError("has no JPEG frame header")
    for _ in range(64):
        if (byte := file.read(1)[0]) != 0xFF:
            return byte
    raise ImageError("has no JPEG frame header")


def _webp(start: bytes) -> FileHeader:
    """RFC 9649: the first chunk is VP8X, VP8L or VP8."""
    kind = start[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(start[at : at + 3], "little") for at in (24, 27))
        if len(start) < 30:
            raise ImageError("has a header that is cut off")
    elif kind == b"VP8L" and start[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", start, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", start, 26))
    else:
        raise ImageError("has no WebP header")
    return FileHeader("webp", width, height)


def _tiff(file: BinaryIO, start: bytes) -> FileHeader:
    """TIFF 6.0, section 2: ImageWidth (256) and ImageLength (257) of the first folder."""
    order = "<" if start[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", start, 4)
    file.seek(offset)
    (count,) = struct.unpack(order + "H", file.read(2))
    folder = file.read(12 * min(count, _MOST_TAGS))
    sizes: dict[int, int] = {}
    for at in range(0, len(folder) - 11, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", folder, at)
        if tag in (256, 257) and values == 1 and kind in (3, 4):
            (sizes[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), folder, at + 8)
    if sizes.keys() != {256, 257}:
        raise ImageError("has no TIFF header that says its size")
    return FileHeader("tiff", sizes[256], sizes[257])


def _bmp(start: bytes) -> FileHeader:
    """The information header behind the file header; a negative height is stored from the top."""
    (size,) = struct.unpack_from("<I", start, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", start, 18)
    else:
        width, height = struct.unpack_from("<ii", start, 18)
    return FileHeader("bmp", width, abs(height))
