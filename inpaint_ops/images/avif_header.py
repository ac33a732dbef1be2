"""The size of an AVIF of one picture, as its boxes say: arithmetic on a few of its bytes.

Sources: ISO/IEC 14496-12 (boxes, `meta`, `pitm`), ISO/IEC 23008-12 (`iprp`, `ipco`, `ispe`, `ipma`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from inpaint_ops.errors import ImageError

_MOST_BOXES = 256
"""Boxes that are looked at in one box, and properties of a file."""
_MOST_BYTES = 65_536
"""Of the box that says which item has which property."""


class _Box(NamedTuple):
    kind: bytes
    begin: int
    """Of its content."""
    end: int


def avif_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height in pixels of the primary item, as stored: before it is turned, mirrored or cut.

    Raises ImageError where the boxes make no sense; struct.error or IndexError where one is cut off.
    """
    end = file.seek(0, 2)
    meta = _one(file, b"meta", 0, end)
    begin = meta.begin + 4  # version and flags
    item = _primary(file, _one(file, b"pitm", begin, meta.end))
    properties = _one(file, b"iprp", begin, meta.end)
    container = _one(file, b"ipco", properties.begin, properties.end)
    numbered = list(_boxes(file, container.begin, container.end))
    associated = _one(file, b"ipma", properties.begin, properties.end)
    for number in _properties_of(_content(file, associated), item):
        box = numbered[number - 1]
        if number > 0 and box.kind == b"ispe":
            _, width, height = struct.unpack(">III", _content(file, box)[:12])
            return width, height
    raise ImageError("has no AVIF header that says its size")


def _primary(file: BinaryIO, box: _Box) -> int:
    """The number of the item that is the picture."""
    content = _content(file, box)
    (item,) = struct.unpack_from(">I" if content[0] else ">H", content, 4)
    return int(item)


def _properties_of(content: bytes, item: int) -> list[int]:
    """Numbers of an item's properties, counted from 1."""
    version, flags = content[0], content[3]
    (entries,) = struct.unpack_from(">I", content, 4)
    at = 8
    for _ in range(entries):  # ends with the content, at the latest
        (found,) = struct.unpack_from(">I" if version else ">H", content, at)
        at += 4 if version else 2
        count = content[at]
        form, size, mask = (">H", 2, 0x7FFF) if flags & 1 else (">B", 1, 0x7F)
        at += 1
        if found == item:
            return [struct.unpack_from(form, content, at + size * one)[0] & mask for one in range(count)]
        at += size * count
    return []


def _one(file: BinaryIO, kind: bytes, begin: int, end: int) -> _Box:
    for box in _boxes(file, begin, end):
        if box.kind == kind:
            return box
    raise ImageError("has no AVIF header that says its size")


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[_Box]:
    for _ in range(_MOST_BOXES):
        if begin + 8 > end:
            return
        file.seek(begin)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,), head = struct.unpack(">Q", file.read(8)), 16
        after = end if length == 0 else begin + length
        if not begin + head <= after <= end:
            raise ImageError("has a header that is cut off")
        yield _Box(kind, begin + head, after)
        begin = after
    raise ImageError(f"has more than {_MOST_BOXES} boxes beside each other")


def _content(file: BinaryIO, box: _Box) -> bytes:
    if box.end - box.begin > _MOST_BYTES:
        raise ImageError("has an AVIF header that is too long")
    file.seek(box.begin)
    return file.read(box.end - box.begin)
