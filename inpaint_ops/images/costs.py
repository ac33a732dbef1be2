"""What a small file may cost: refused by its header where decoding would take far longer than its pixels need.

Each limit is for one way in which a hostile file of some kilobytes holds a decoder for seconds to hours. Files that
programs really write stay far below.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile

from inpaint_ops.errors import ImageError

_LONGEST_SIDE = 1_000_000
"""Pixels of a side: each row costs by itself, however short. A PNG 1 pixel wide and 100 million high takes 5 s. libpng
has the same limit."""

_MOST_SCANS, _SOME_SCANS, _SCANNED_PIXELS = 100, 20, 2_000_000_000
"""Passes over the picture that a progressive JPEG may make: at most, in any case, and by the pixels of all passes
together. Encoders make about ten. A pass costs as much as the whole picture, and a hostile one takes 30 bytes: 100 of
them over 100 megapixels, in 210 kB, took 7 s."""

_RLE_PIXELS = 4_000_000
"""Pixels of a run-length encoded BMP: Pillow decodes it in Python, at about 9 megapixels per second."""

_MOST_SEGMENTS, _MOST_EXIF = 4_000, 32
"""Segments before the pixels of a JPEG, and those of EXIF among them, which Pillow copies together one by one."""

_MOST_CHUNKS = 100_000
"""Chunks of a PNG: each is read in Python. Encoders write them of 8 kB and more."""

_MOST_BLOCKS = 131_072
"""Strips or tiles of a TIFF: each is set up in Python."""

_BYTES, _JPEG = (1, 2, 6, 7), (6, 7)
"""Types of tags that stay bytes, and the compressions that are JPEG (TIFF 6.0)."""

_TILE_SLACK = 1 << 22
"""Pixels that tiles may cover in any case; beyond it no more than four times those of the picture. Tiles that lie
outside of the picture are decoded all the same, and may all be the same bytes of the file: 20 tiles, in 98 kB, of
which 256 pixels each are seen, took 4 s."""


def check_cost(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raise ImageError where decoding would cost out of all proportion. `image` is opened, and not yet loaded."""
    width, height = image.size
    if max(width, height) > _LONGEST_SIDE:
        raise ImageError(f"is {width}x{height}, and a side may have {_LONGEST_SIDE} pixels at most: cut it up")
    if isinstance(image, BmpImageFile):
        _check_bmp(image, data)
    if isinstance(image, JpegImageFile):
        check_scans(data, width * height)


def check_scans(data: bytes, pixels: int, begin: int = 0, end: int | None = None) -> None:
    """Raise ImageError for a JPEG of too many scans for its pixels; it lies in `data` from `begin` to `end`."""
    most = min(_MOST_SCANS, max(_SOME_SCANS, _SCANNED_PIXELS // max(1, pixels)))
    if data.count(b"\xff\xda", begin, end) > most:
        raise ImageError(f"has more than {most} scans: save it again")


def _check_bmp(image: BmpImageFile, data: bytes) -> None:
    runs = any(tile.codec_name == "bmp_rle" for tile in image.tile)
    pixels = image.size[0] * image.size[1]
    if runs and (pixels > _RLE_PIXELS or len(data) > 2 * _RLE_PIXELS):
        raise ImageError(
            f"is a run-length encoded BMP of more than {_RLE_PIXELS} pixels, which takes too long to decode: "
            "save it as PNG"
        )


def check_segments(data: bytes) -> None:
    """Raise ImageError for a JPEG with more segments than anybody writes, by a walk over them, before it is opened."""
    at, segments, exif = 2, 0, 0
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFFFF:  # fill bytes
            at += 1
            continue
        if marker == 0xFFDA or marker < 0xFF00 or length < 2:
            return  # the pixels, or what the decoder itself refuses
        segments += 1
        exif += marker == 0xFFE1 and data[at + 4 : at + 8] == b"Exif"
        if segments > _MOST_SEGMENTS or exif > _MOST_EXIF:
            raise ImageError("has more segments of metadata than any program writes: save it again, without metadata")
        at += 2 + length


def check_chunks(data: bytes) -> None:
    """Raise ImageError for a PNG of more chunks than anybody writes, by a walk over them, before it is opened."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise ImageError(f"has more than {_MOST_CHUNKS} chunks: save it again")


def check_directory(data: bytes) -> None:
    """Raise ImageError for a TIFF whose first directory has a list of more numbers than anybody writes, before it is
    opened: each number becomes an object of 36 bytes.
    """
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):  # BigTIFF, which has other directories, and is refused by `tiff.check_kind`
        return
    if len(data) < 8 or (at := struct.unpack_from(order + "I", data, 4)[0]) + 2 > len(data):
        return
    (entries,) = struct.unpack_from(order + "H", data, at)
    for entry in range(at + 2, min(at + 2 + 12 * entries, len(data) - 11), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
        if kind not in _BYTES and count > 4 * _MOST_BLOCKS:
            raise ImageError(f"has a list of {count} numbers in its tag {tag}: save it with larger strips or tiles")


def check_blocks(tags: Mapping[int, Any], size: tuple[int, int], data: bytes) -> None:
    """Raise ImageError for a TIFF of too many strips or tiles, of tiles that lie outside of it for the most part, or of
    JPEGs within that have too many scans.

    Args:
        tags: the first directory, as Pillow reads it (`tag_v2`).
        size: (width, height) in pixels.
        data: the whole file.
    """
    for offsets, counts in ((273, 279), (324, 325)):
        begins, lengths = (value if isinstance(value, tuple) else () for value in (tags.get(offsets), tags.get(counts)))
        if len(begins) > _MOST_BLOCKS:
            raise ImageError(f"has more than {_MOST_BLOCKS} strips or tiles: save it with larger ones")
        if tags.get(259) in _JPEG:
            blocks = set(zip(begins, lengths, strict=False))
            if sum(length for _, length in blocks) > 4 * len(data):
                raise ImageError("has strips or tiles that overlap: save it again")
            for begin, length in blocks:
                check_scans(data, size[0] * size[1], begin, begin + length)
    tile_width, tile_height = tags.get(322), tags.get(323)
    if isinstance(tile_width, int) and isinstance(tile_height, int) and tile_width > 0 and tile_height > 0:
        across, down = -(-size[0] // tile_width), -(-size[1] // tile_height)
        if across * down > _MOST_BLOCKS:
            raise ImageError(f"has more than {_MOST_BLOCKS} strips or tiles: save it with larger ones")
        if across * down * tile_width * tile_height > max(4 * size[0] * size[1], _TILE_SLACK):
            raise ImageError("has tiles that lie outside of it for the most part: save it without tiles")
