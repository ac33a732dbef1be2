"""JPEG XL: what its header says, before the plugin decodes the whole file, which it does as soon as it is opened.

Source: ISO/IEC 18181-1:2024, annexes D (image header) and B (fields), and ISO/IEC 18181-2 for the boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from inpaint_ops.errors import ImageError

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_HEADER_BYTES = 64
"""More than what is read here can take."""
_MOST_BOXES = 4096
"""Boxes of a container that are looked at."""
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height in pixels, before any orientation; bits per sample; and whether there are several frames."""

    width: int
    height: int
    bits: int
    is_animated: bool


class _Bits:
    """Fields of some bits, the least significant first. Raises ImageError behind the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ImageError("has a header that is cut off")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return value

    def u32(self, *choices: tuple[int, int]) -> int:
        """One of four (offset, bits), chosen by two bits."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)


def read_header(data: bytes | BinaryIO) -> Header:
    """The image header of a file, of which little is read. Raises ImageError where there is none, or it is cut off."""
    bits = _Bits(_codestream_start(BytesIO(data) if isinstance(data, bytes) else data))
    width, height = _size(bits)
    if bits.take(1):  # all of the metadata has its default
        return Header(width, height, 8, False)
    is_animated = False
    if bits.take(1):  # extra fields
        bits.take(3)  # orientation, which the decoder applies
        if bits.take(1):
            _size(bits)  # intrinsic size
        if bits.take(1):
            _preview(bits)
        if is_animated := bool(bits.take(1)):
            _animation(bits)
    if bits.take(1):  # float samples
        return Header(width, height, bits.u32((32, 0), (16, 0), (24, 0), (1, 6)), is_animated)
    return Header(width, height, bits.u32((8, 0), (10, 0), (12, 0), (1, 6)), is_animated)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.u32((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    if ratio == 0:
        return side(), height
    numerator, denominator = _RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _preview(bits: _Bits) -> None:
    div8 = bits.take(1)
    choices = ((16, 0), (32, 0), (1, 5), (33, 9)) if div8 else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.u32(*choices)
    if bits.take(3) == 0:
        bits.u32(*choices)


def _animation(bits: _Bits) -> None:
    bits.u32((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.u32((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.u32((0, 0), (0, 3), (0, 16), (0, 32))
    bits.take(1)


def read_xmp(data: bytes) -> bytes | None:
    """The XMP of a file in a container, which the plugin does not give; None where it has none, or a packed one."""
    file = BytesIO(data)
    try:
        for kind, begin, end in _boxes(file):
            if kind == b"xml ":
                return data[begin:end]
    except ImageError:
        pass  # whether the file is sound is for its decoder to say
    return None


def _codestream_start(file: BinaryIO) -> bytes:
    """The beginning of the codestream, behind its signature."""
    file.seek(0)
    start = file.read(_HEADER_BYTES)
    if not start.startswith(CODESTREAM):
        start = b"".join(_pieces(file))[:_HEADER_BYTES]
    if not start.startswith(CODESTREAM):
        raise ImageError("has no JPEG XL codestream")
    return start[2:]


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The beginning of each box of the codestream, until there is enough."""
    seen = 0
    for kind, begin, end in _boxes(file):
        if kind in (b"jxlc", b"jxlp"):
            begin += 4 if kind == b"jxlp" else 0
            file.seek(begin)
            piece = file.read(max(0, min(end - begin, _HEADER_BYTES)))
            seen += len(piece)
            yield piece
        if seen >= _HEADER_BYTES:
            return


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box of a container, and where its content begins and ends."""
    at, size = 0, file.seek(0, 2)
    for _ in range(_MOST_BOXES):
        if at + 8 > size:
            return
        file.seek(at)
        start = file.read(16)
        length, kind, head = int.from_bytes(start[:4], "big"), start[4:8], 8
        if length == 1:
            length, head = int.from_bytes(start[8:16], "big"), 16
        end = size if length == 0 else at + length
        if end < at + head:
            raise ImageError("has a box of no size")
        yield kind, at + head, min(end, size)
        at = end
    raise ImageError(f"has more than {_MOST_BOXES} boxes")
