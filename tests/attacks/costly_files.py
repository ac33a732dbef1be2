"""Small files that cost a decoder far more than their pixels need."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from tests.support.pictures import chunk


def rle_bmp(width: int, height: int, body: bytes, bits: int = 8) -> bytes:
    """A run-length encoded BMP of 8 or 4 bits."""
    palette = bytes(4 * 2**bits)
    offset = 54 + len(palette)
    kind = {8: 1, 4: 2}[bits]
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, kind, len(body), 2835, 2835, 2**bits, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + palette + body


def padded_bmp(bits: int = 8) -> bytes:
    """100 megapixels in 9 kB: one pixel per row, then "end of line", which Pillow pads byte by byte."""
    return rle_bmp(50_000, 2_000, b"\x01\x00\0\0" * 2000, bits)


def black_png(width: int, height: int, bits: int, colour_type: int, extra: bytes = b"") -> bytes:
    """A whole PNG of black pixels."""
    left = height * (1 + (width * bits * {0: 1, 2: 3, 6: 4}[colour_type] + 7) // 8)
    deflater, parts = zlib.compressobj(1), []
    while left:
        parts.append(deflater.compress(bytes(min(left, 1 << 24))))
        left -= min(left, 1 << 24)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IDAT", b"".join(parts) + deflater.flush())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, ...] | int], body: bytes) -> bytes:
    """A TIFF of these tags, all LONG, whose pixels begin at byte 8."""
    start = 8 + len(body) + len(body) % 2
    entries, lists, lists_at = b"", b"", start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        raw = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(raw) > 4:
            entries += struct.pack("<HHII", tag, 4, len(numbers), lists_at + len(lists))
            lists += raw
        else:
            entries += struct.pack("<HHI", tag, 4, 1) + raw
    head = b"II*\0" + struct.pack("<I", start) + body.ljust(start - 8, b"\0")
    return head + struct.pack("<H", len(tags)) + entries + bytes(4) + lists


def tiff_with_tiles_outside(tiles: int = 1000) -> bytes:
    """A picture 16 pixels high in tiles of 100 megapixels, all of them the same 97 kB."""
    body = zlib.compress(bytes(16 * 6_250_000), 9)
    return tiff(
        {
            256: 16 * tiles, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 16, 323: 6_250_000,
            324: (8,) * tiles, 325: (len(body),) * tiles,
        },
        body,
    )  # fmt: skip


def tiff_of_tiny_tiles(side: int = 400) -> bytes:
    """One tile of 16 x 16 pixels, `side` times `side`."""
    return tiff(
        {
            256: 16 * side, 257: 16 * side, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16,
            324: (8,) * side**2, 325: (256,) * side**2,
        },
        bytes(256),
    )  # fmt: skip


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A gray progressive JPEG whose scans each go over the whole picture in a few bytes."""
    sink = io.BytesIO()
    Image.new("L", (16, 16), 128).save(sink, "JPEG", progressive=True)
    small = bytearray(sink.getvalue())
    at = small.find(b"\xff\xc2")
    struct.pack_into(">HH", small, at + 5, height, width)
    blocks = -(-width // 8) * -(-height // 8)

    def table(kind: int, symbol: int) -> bytes:  # one code, of one bit
        return b"\xff\xc4" + struct.pack(">H", 20) + bytes([kind, 1, *[0] * 15, symbol])

    def scan(first: int, last: int, approximation: int, body: bytes) -> bytes:
        return b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, first, last, approximation) + body

    bits = ("0" + "1" * 14) * -(-blocks // 32_767)  # "the next 32 767 blocks hold nothing"
    bits += "1" * (-len(bits) % 8)
    run = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    head = bytes(small[: small.find(b"\xff\xda")]) + table(0x00, 0) + table(0x10, 0xE0)
    body = scan(0, 0, 0, bytes(-(-blocks // 8))) + scan(1, 63, 0x01, run) + scan(1, 63, 0x10, run) * (scans - 2)
    return head + body + b"\xff\xd9"


def jpeg_of_segments(segments: int, kind: bytes) -> bytes:
    """A JPEG that begins with so many segments of APP1."""
    sink = io.BytesIO()
    Image.new("L", (16, 16)).save(sink, "JPEG")
    one = b"\xff\xe1" + struct.pack(">H", 2 + len(kind)) + kind
    return sink.getvalue()[:2] + one * segments + sink.getvalue()[2:]
