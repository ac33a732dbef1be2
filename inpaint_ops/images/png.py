"""PNG, where Pillow is too kind, too narrow or too slow: is every row there, and pixels out.

Source of both formats: the PNG specification, third edition (https://www.w3.org/TR/png-3/).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from isal import igzip_lib, isal_zlib

from inpaint_ops.errors import ImageError

AGAIN = "it is damaged or cut off, export or upload it again"
"""The cure for a broken file."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Effort = Literal["fast", "small"]
"""How hard to compress: see `bench.png` for what each costs."""

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel, by colour type (table 11.1)."""
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
"""Colour type, by channels of an array."""
_ADAM7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
"""(x start, x step, y start, y step) of the seven interlace passes (section 8.1)."""
_SOME = np.ones(256, np.uint8)
_PIECE, _BLOCK = 1 << 16, 1 << 20
"""Bytes inflated at a time, and the most that they may become at once: a bomb costs time and no memory."""


@dataclass(frozen=True, slots=True)
class Header:
    """The IHDR chunk."""

    width: int
    height: int
    bit_depth: int
    colour_type: int
    interlaced: bool

    @property
    def raw_bytes(self) -> int:
        """Bytes of the filtered scanlines, each with its filter byte, that the IDAT chunks must inflate to."""
        bits = self.bit_depth * _SAMPLES[self.colour_type]
        if not self.interlaced:
            return self.height * (1 + (self.width * bits + 7) // 8)
        total = 0
        for x0, dx, y0, dy in _ADAM7:
            columns, rows = -(-(self.width - x0) // dx), -(-(self.height - y0) // dy)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * bits + 7) // 8)
        return total


def read_header(data: bytes) -> Header:
    """The header of a PNG file. Raises ImageError when there is none, or none that the specification knows."""
    if len(data) < 33 or not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        raise ImageError(f"has no PNG header: {AGAIN}")
    width, height, bit_depth, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if width == 0 or height == 0 or colour_type not in _SAMPLES or bit_depth not in (1, 2, 4, 8, 16):
        raise ImageError(f"has a PNG header that makes no sense: {AGAIN}")
    return Header(width, height, bit_depth, colour_type, interlace == 1)


def check_complete(data: bytes) -> None:
    """Raise ImageError unless the file is whole: every chunk with its checksum, every row of pixels, and an end.

    Pillow 13 loads a PNG whose IDAT stream ends early, or whose IEND is missing, and leaves the other rows black.
    Inflating once more costs no memory: one block is held at a time, and no more than the rows need.
    """
    try:
        _check_complete(data)
    finally:
        _clear_vector_registers()


def _check_complete(data: bytes) -> None:
    wanted = read_header(data).raw_bytes
    inflater = isal_zlib.decompressobj()
    seen, ended = 0, False
    try:
        for kind, body in _chunks(data):
            ended = kind == b"IEND"
            if ended:
                break
            if kind == b"IDAT":
                for at in range(0, len(body), _PIECE):
                    seen += _inflate(inflater, body[at : at + _PIECE], wanted - seen)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub has it as a value
        raise ImageError(f"has damaged pixel data ({error}): {AGAIN}") from error
    if seen < wanted:
        raise ImageError(f"holds only {seen * 100 // wanted} % of its pixels: {AGAIN}")
    if not ended:
        raise ImageError(f"ends before its IEND chunk: {AGAIN}")


def _clear_vector_registers() -> None:
    """Call after isal, in the same thread.

    Its assembly leaves the upper halves of the vector registers in use (isal 1.8). Other libraries' code for the lower
    halves is slower from then on (OpenCV's resize by 1.4 to 2.7 times, measured on an AMD EPYC), until some code clears
    them. numpy's additions do.
    """
    np.add(_SOME, _SOME)


def _inflate(inflater: isal_zlib.Decompress, piece: bytes | memoryview, wanted: int) -> int:
    """How many bytes this piece of the stream inflates to; stops early at the `wanted` ones."""
    seen = 0
    while seen < wanted and not inflater.eof:
        out = len(inflater.decompress(piece, _BLOCK))
        piece = inflater.unconsumed_tail
        seen += out
        if not piece and out < _BLOCK:
            break
    return seen


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The chunks after the signature, as (kind, body), each checked against its CRC. Raises ImageError at a cut."""
    view = memoryview(data)
    at = len(SIGNATURE)
    while at < len(data):
        if at + 12 > len(data):
            raise ImageError(f"ends inside a chunk: {AGAIN}")
        length, kind = struct.unpack(">I4s", view[at : at + 8])
        end = at + 8 + length
        if end + 4 > len(data):
            raise ImageError(f"ends inside a chunk: {AGAIN}")
        if isal_zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageError(f"has a damaged {kind.decode('latin-1')} chunk (its checksum is wrong): {AGAIN}")
        yield kind, view[at + 8 : end]
        at = end + 4


def ancillary(data: bytes, kinds: Collection[bytes]) -> list[tuple[bytes, bytes]]:
    """The chunks of these kinds, in order, as (kind, body), of a file that `check_complete` has passed."""
    found, at = [], len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IEND":
            break
        if kind in kinds:
            found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def with_chunks(data: bytes, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The file with these chunks behind its header."""
    end = len(SIGNATURE) + 25
    return b"".join((data[:end], *(part for kind, body in chunks for part in _chunk(kind, body)), data[end:]))


def write(pixels: np.ndarray, *, icc: bytes | None, effort: Effort = "fast") -> bytes:
    """Encode pixels.

    Args:
        pixels: (H, W) or (H, W, C) uint8 or uint16; C is 2 (gray, alpha), 3 or 4.
        icc: a profile to embed, or None. It is not looked into: a source may have one that libpng would refuse.
        effort: "fast" deflates with ISA-L at level 1, "small" with zlib at level 6, which takes fifteen times as long.

    Rows are filtered by the difference from the row above (filter 2), which one numpy expression does; memory beyond
    the result is a stripe of rows.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    row_bytes = width * channels * pixels.itemsize
    deflater = isal_zlib.compressobj(1) if effort == "fast" else zlib.compressobj(6)
    idat = list[bytes]()
    above = np.zeros((1, row_bytes), np.uint8)
    stripe = max(1, _BLOCK // row_bytes)
    big_endian = pixels.dtype.newbyteorder(">")
    for y in range(0, height, stripe):
        rows = np.ascontiguousarray(pixels[y : y + stripe], big_endian).view(np.uint8).reshape(-1, row_bytes)
        filtered = np.empty((len(rows), 1 + row_bytes), np.uint8)
        filtered[:, 0] = 2
        np.subtract(rows[:1], above, out=filtered[:1, 1:])
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        idat.append(deflater.compress(filtered.data))
        above = rows[-1:]
    idat.append(deflater.flush())
    depth = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPE[channels], 0, 0, 0)
    parts = [SIGNATURE, *_chunk(b"IHDR", header)]
    if icc:
        parts += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    for piece in filter(None, idat):  # a chunk per piece: the stream is copied once, into the file
        parts += _chunk(b"IDAT", piece)
    parts += _chunk(b"IEND", b"")
    _clear_vector_registers()
    return b"".join(parts)


def _chunk(kind: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    crc = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind, body, struct.pack(">I", crc)
