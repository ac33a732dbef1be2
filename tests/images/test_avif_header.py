"""The size of an AVIF, by its boxes: what a decoder finds, or one error, whatever the bytes say."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inpaint_ops.errors import ImageError
from inpaint_ops.images import encode
from inpaint_ops.images.header import FileHeader, read_file_header
from tests.support.pictures import exif, file_of, icc, noise


class Counted(BytesIO):
    """A file that knows how many bytes were read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.taken = 0

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.taken += len(piece)
        return piece


def box(kind: bytes, content: bytes, *, wide: bool = False) -> bytes:
    length = len(content) + (16 if wide else 8)
    head = struct.pack(">I4sQ", 1, kind, length) if wide else struct.pack(">I4s", length, kind)
    return head + content


def made(*sizes: tuple[int, int], item: int = 1, of: int = 1, long: bool = False, wide: bool = False) -> bytes:
    """An AVIF's boxes without pixels: item `item` is the picture, and has the size numbered `of`."""
    pitm = b"\1\0\0\0" + struct.pack(">I", item) if long else b"\0\0\0\0" + struct.pack(">H", item)
    ispe = b"".join(box(b"ispe", struct.pack(">III", 0, *size)) for size in sizes)
    other, number = item + 1, struct.pack(">H", of | 0x8000) if long else bytes([of | 0x80])
    form = ">I" if long else ">H"
    entries = struct.pack(form, other) + b"\0" + struct.pack(form, item) + b"\1" + number
    ipma = (b"\1\0\0\1" if long else bytes(4)) + struct.pack(">I", 2) + entries
    inner = box(b"pitm", pitm) + box(b"iprp", box(b"ipco", ispe, wide=wide) + box(b"ipma", ipma))
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"meta", bytes(4) + inner, wide=wide)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 300), (37, 53), (4097, 16), (9000, 3)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_size_is_what_a_decoder_finds(size: tuple[int, int], channels: int) -> None:
    data = encode(noise(size[1], size[0], channels), format="avif", icc=None)
    with Image.open(BytesIO(data)) as image:
        assert read_file_header(BytesIO(data)) == FileHeader("avif", *image.size) == FileHeader("avif", *size)


def test_metadata_and_a_box_before_change_nothing_and_little_is_read() -> None:
    data = file_of(noise(300, 200), "AVIF", icc_profile=icc(), exif=exif(6), xmp=b"x" * 100_000)
    start = int.from_bytes(data[:4], "big")
    with_box = data[:start] + box(b"uuid", bytes(500_000)) + data[start:]
    for one in (data, with_box):
        file = Counted(one)
        assert read_file_header(file) == FileHeader("avif", 200, 300), "as stored: it is not turned"
        assert file.taken < 2000


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_the_pictures_own_size_counts_and_not_that_of_another_item(long: bool, wide: bool) -> None:
    for of, size in enumerate([(640, 480), (80, 60)], 1):
        data = made((640, 480), (80, 60), of=of, item=7, long=long, wide=wide)
        assert read_file_header(BytesIO(data)) == FileHeader("avif", *size)


def test_what_makes_no_sense_is_one_error() -> None:
    whole = made((640, 480))
    nothing = {
        "no size of its own": made((640, 480), of=0),
        "a size that is not there": made((640, 480), of=2),
        "no area": made((0, 480)),
        "many boxes": whole[:24] + box(b"free", b"") * 300 + whole[24:],
        "a box without an end": whole[:24] + struct.pack(">I4s", 2**31, b"free") + whole[24:],
        "a box of no length": whole[:24] + struct.pack(">I4s", 3, b"free") + whole[24:],
        "no property of any item": whole.replace(b"ipma", b"free"),
        "frames": b"\0\0\0\x18ftypavis" + whole[12:],
    }
    for what, data in nothing.items():
        with pytest.raises(ImageError):
            pytest.fail(f"{what}: {read_file_header(BytesIO(data))}")
    for length in range(len(whole)):
        with pytest.raises(ImageError):
            read_file_header(BytesIO(whole[:length]))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_bytes_end_in_a_size_or_one_error_and_little_is_read(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(12, len(body) - 1))] = data.draw(st.integers(0, 255))
    file = Counted(bytes(body[: data.draw(st.integers(0, len(body)))]))
    try:
        found = read_file_header(file)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert found.width > 0 and found.height > 0
    assert file.taken < 200_000


WHOLE = [
    made((640, 480), (80, 60)),
    made((640, 480), long=True, wide=True),
    encode(noise(8, 9, 4), format="avif", icc=None),
    file_of(np.zeros((8, 9), np.uint8), "AVIF"),
]
