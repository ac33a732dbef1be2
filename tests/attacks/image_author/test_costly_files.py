"""An author of images has a file of some kilobytes hold a decoder for seconds to hours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import ImageFile, TiffImagePlugin

from inpaint_ops.errors import ImageError
from inpaint_ops.images import decode_mask, decode_source
from tests.attacks.costly_files import (
    black_png,
    jpeg_of_scans,
    jpeg_of_segments,
    padded_bmp,
    rle_bmp,
    tiff,
    tiff_of_tiny_tiles,
    tiff_with_tiles_outside,
)
from tests.support.pictures import chunk, file_of, noise, smooth

MOST = 100_000_000


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats whose pixels were asked for."""
    seen: list[str] = []
    for kind in (ImageFile.ImageFile, TiffImagePlugin.TiffImageFile):
        real = kind.load

        def load(self: ImageFile.ImageFile, real: Callable[..., object] = real) -> object:
            seen.append(str(self.format))
            return real(self)

        monkeypatch.setattr(kind, "load", load)
    return seen


COSTLY: dict[str, tuple[Callable[[], bytes], str]] = {
    "bmp of 8-bit runs": (padded_bmp, "run-length encoded BMP"),
    "bmp of 4-bit runs": (lambda: padded_bmp(4), "run-length encoded BMP"),
    "bmp of jumps": (lambda: rle_bmp(50_000, 2_000, b"\0\x02\xff\x01" * 1999), "run-length encoded BMP"),
    "bmp of endless ends of lines": (lambda: rle_bmp(8, 8, bytes(10_000_000)), "run-length encoded BMP"),
    "tiff of tiles outside": (tiff_with_tiles_outside, "tiles that lie outside"),
    "tiff of tiny tiles": (tiff_of_tiny_tiles, "more than 131072 strips or tiles"),
    "tiff of endless numbers": (
        lambda: tiff({256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 279: 256, 65_000: (1,) * 600_000}, bytes(256)),
        "list of 600000 numbers",
    ),
    "jpeg of scans": (lambda: jpeg_of_scans(10_000, 10_000, 100), "more than 20 scans"),
    "jpeg of exif": (lambda: jpeg_of_segments(40, b"Exif\0\0"), "more segments of metadata"),
    "jpeg of segments": (lambda: jpeg_of_segments(5_000, b"x"), "more segments of metadata"),
    "png of one column": (lambda: black_png(1, 100_000_000, 1, 0), "a side may have 1000000 pixels"),
    "png of chunks": (lambda: black_png(16, 16, 8, 0, chunk(b"teSt", b"") * 100_000), "more than 100000 chunks"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_file_is_refused_before_its_pixels_are_decoded(name: str, loads: list[str]) -> None:
    """A worker, a page and a report are held by files that decode for seconds to hours."""
    make, why = COSTLY[name]
    data = make()
    for read in (decode_source, lambda data, max_pixels: decode_mask(data, size=(16, 16), max_pixels=max_pixels)):
        with pytest.raises(ImageError, match=why):
            read(data, max_pixels=MOST)  # type: ignore[operator]
    assert loads == []


def test_a_jpeg_within_a_tiff_is_counted_too(loads: list[str]) -> None:
    """The scans of a JPEG are hidden in a TIFF."""
    jpeg = jpeg_of_scans(10_000, 10_000, 100)
    tags = {256: 10_000, 257: 10_000, 258: 8, 259: 7, 262: 1, 273: 8, 277: 1, 278: 10_000, 279: len(jpeg)}
    with pytest.raises(ImageError, match="more than 20 scans"):
        decode_source(tiff(tags, jpeg), max_pixels=MOST)
    assert loads == []


def test_what_programs_write_is_far_from_the_limits(loads: list[str]) -> None:
    """The limits above refuse nothing that is written in earnest."""
    runs = rle_bmp(4, 2, b"\x04\x01\0\0\x04\x02\0\x01")
    files = [
        runs,
        file_of(smooth(700, 900), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
        file_of(noise(300, 200), "TIFF", compression="jpeg"),
        file_of(noise(700, 200), "TIFF", compression="raw"),  # any two bytes occur by chance
        tiff_of_tiny_tiles(20),
        black_png(100, 9000, 1, 0),
    ]
    for data in files:
        decode_source(data, max_pixels=MOST)
    assert len(loads) >= len(files)
