"""Image files that are damaged, too large or of a kind that cannot be kept: all of them are refused in one line."""
# ruff: noqa: A001, A002 - `format` is the manifest's own name for it

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from inpaint_ops.errors import ImageError
from inpaint_ops.images import (
    decode_source,
    encode,
)
from tests.support.pictures import (
    H,
    W,
    chunk,
    decode,
    exif,
    file_of,
    noise,
    png,
    png_bomb,
    smooth,
    stored,
    tiff,
    weights,
)


@cache
def valid_files() -> dict[str, bytes]:
    picture = Image.fromarray(noise(90, 70))
    return {
        "png": file_of(picture),
        "png16": png(noise(90, 70, dtype=np.uint16), bits=16),
        "png-interlaced": png(noise(90, 70), interlaced=True),
        "jpeg": file_of(picture, "JPEG"),
        "jpeg-progressive": file_of(picture, "JPEG", progressive=True),
        "webp": file_of(picture, "WEBP"),
        "webp-lossless": file_of(picture, "WEBP", lossless=True),
        "tiff": file_of(picture, "TIFF"),
        "tiff-lzw": file_of(picture, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": file_of(picture, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": file_of(picture, "TIFF", compression="jpeg"),
        "tiff16": tiff(noise(90, 70, dtype=np.uint16)),
        "tiff16-ours": encode(noise(90, 70, dtype=np.uint16), format="tiff", icc=None),
        "bmp": file_of(picture, "BMP"),
    }


@pytest.mark.parametrize("kind", valid_files())
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_cut_off_files_are_refused(kind: str, keep: float) -> None:
    data = valid_files()[kind]
    assert decode(data).size == (70, 90)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * keep)])
    assert_one_line_with_a_cure(caught.value)


@pytest.mark.parametrize("kind", valid_files())
def test_a_file_without_its_last_byte_is_refused_or_has_every_pixel(kind: str) -> None:
    data = valid_files()[kind]
    if kind in ("bmp", "tiff16"):  # what is missing is padding
        assert np.array_equal(decode(data[:-1]).pixels, decode(data).pixels)
    else:
        with pytest.raises(ImageError):
            decode(data[:-1])


@pytest.mark.parametrize("kind", valid_files())
def test_any_cut_and_any_damage_is_an_image_or_an_image_error(kind: str) -> None:
    data, random = valid_files()[kind], np.random.default_rng(1)
    for at in random.integers(0, len(data), 15).tolist():
        for broken in (data[:at], data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]):
            try:
                decode(broken)
            except ImageError as error:
                assert_one_line_with_a_cure(error)


def test_a_png_without_its_end_is_refused() -> None:
    with pytest.raises(ImageError, match="ends before its IEND chunk"):
        decode(file_of(noise(H, W))[:-12])


def test_a_tiff_whose_strips_reach_beyond_the_file_is_refused() -> None:
    data = file_of(noise(90, 70), "TIFF")
    with pytest.raises(ImageError, match="ends before its pixels do"):
        decode(data[: len(data) * 9 // 10])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_png_without_all_its_rows_is_refused(bits: int, interlaced: bool, keep: float) -> None:
    pixels = noise(61, 47, 3, dtype=np.uint8 if bits == 8 else np.uint16)
    assert np.array_equal(decode(png(pixels, bits=bits, interlaced=interlaced, idats=5)).pixels, pixels)
    with pytest.raises(ImageError, match="of its pixels"):
        decode(png(pixels, bits=bits, interlaced=interlaced, keep=keep, idats=5))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 5), (5, 2), (9, 8), (4, 3)])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_small_interlaced_pngs_are_whole(size: tuple[int, int], bits: int) -> None:
    samples = noise(*size, 1) & (2**bits - 1)
    scale = 255 // (2**bits - 1)
    assert np.array_equal(decode(png(samples, bits=bits, interlaced=True)).pixels, samples * scale)


def test_a_long_run_of_one_colour_is_whole() -> None:
    flat = np.zeros((1500, 1500, 3), np.uint8)  # deflate packs it a thousandfold: output outruns input
    assert decode(file_of(flat)).size == (1500, 1500)
    with pytest.raises(ImageError, match=r"holds only 9. % of its pixels"):
        decode(png(flat, keep=0.995))


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(file_of(noise(H, W)))
    data[data.index(b"IDAT") + 40] ^= 1
    with pytest.raises(ImageError, match="damaged IDAT chunk"):
        decode(bytes(data))


@pytest.mark.parametrize("reader", ["source", "mask"])
def test_too_many_pixels_are_refused_by_the_header_alone(reader: str) -> None:
    bomb = png_bomb(50_000, 50_000)
    with pytest.raises(ImageError, match="50000x50000, more than the limit of 4000000 pixels"):
        decode(bomb) if reader == "source" else weights(bomb)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_the_limit_on_pixels_is_exact(format: str) -> None:
    data = file_of(smooth(20, 30), format)
    assert decode_source(data, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageError, match="more than the limit of 599"):
        decode_source(data, max_pixels=599)


@pytest.mark.parametrize(
    "size", [(2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (0, 7), (7, 0), (2**32 - 1, 1)]
)
def test_absurd_dimensions_are_refused_by_the_header_alone(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError) as caught:
        decode(png_bomb(*size))
    assert_one_line_with_a_cure(caught.value)


def test_a_profile_that_unpacks_to_a_bomb_is_refused() -> None:
    bomb = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**27), 9))
    assert len(bomb) < 2**18
    with pytest.raises(ImageError) as caught:
        decode(png(noise(H, W), extra=bomb))
    assert_one_line_with_a_cure(caught.value)


def test_text_that_unpacks_to_a_bomb_is_refused() -> None:
    bomb = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**27), 9))
    with pytest.raises(ImageError) as caught:
        decode(png(noise(H, W), extra=bomb))
    assert_one_line_with_a_cure(caught.value)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = file_of(smooth(64, 64), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    scans = data.count(b"\xff\xda")
    most = data[:-2] + last * (100 - scans) + data[-2:]
    assert decode(most).size == (64, 64)
    monkeypatch.setattr(JpegImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="more than 100 scans: save it again"):
        decode(most[:-2] + last + most[-2:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_that_lies_about_the_size_changes_nothing(kind: str) -> None:
    lie = Image.Exif()
    lie[256], lie[257], lie[274] = 9999, 1, 6  # ImageWidth, ImageLength, Orientation
    lie.get_ifd(0x8769)[40962], lie.get_ifd(0x8769)[40963] = 1, 9999  # PixelXDimension, PixelYDimension
    if kind == "TIFF":  # whose own size is what these tags say: Pillow writes the real one
        del lie[256], lie[257]
    upright = smooth(20, 30)
    source = decode(
        file_of(stored(upright, 6), kind, exif=lie.tobytes(), **({"lossless": True} if kind == "WEBP" else {}))
    )
    assert source.size == (30, 20)
    if kind != "JPEG":
        assert np.array_equal(source.pixels, upright)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_means_nothing_turns_nothing(value: int) -> None:
    pixels = noise(H, W)
    source = decode(file_of(pixels, exif=exif(value)))
    assert np.array_equal(source.pixels, pixels)


def test_huge_and_overlapping_exif_is_read_in_bounded_memory() -> None:
    region, count = 2**17, 5000
    tags = struct.pack("<HHII", 274, 3, 1, 1) + b"".join(
        struct.pack("<HHII", 40_000 + at, 7, region, 8) for at in range(count)
    )
    body = b"II" + struct.pack("<HI", 42, 8 + region) + bytes(region)
    data = png(noise(H, W), extra=chunk(b"eXIf", body + struct.pack("<H", count + 1) + tags + bytes(4)))
    tracemalloc.start()
    with warnings.catch_warnings(action="ignore"):
        assert decode(data).size == (W, H)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25, "5000 tags that share 128 kB are not 640 MB"


def test_a_tiff_whose_pages_run_in_a_circle_is_read_once() -> None:
    data = bytearray(tiff(noise(H, W)))
    data[-4:] = data[4:8]
    assert decode(bytes(data)).size == (W, H)


def test_several_frames_or_pages_are_refused() -> None:
    frames = [Image.fromarray(noise(H, W, seed=seed)) for seed in range(3)]
    for format in ("PNG", "WEBP", "TIFF", "GIF", "AVIF"):
        with pytest.raises(ImageError, match="several frames or pages: export"):
            decode(file_of(frames[0], format, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(file_of(Image.new("F", (W, H)), "TIFF"), id="float"),
        pytest.param(file_of(Image.new("I", (W, H)), "TIFF"), id="32-bit"),
        pytest.param(file_of(Image.new("LAB", (W, H)), "TIFF"), id="lab"),
        pytest.param(tiff(noise(H, W, 3, dtype=np.uint16), planar=2), id="16-bit planes"),
        pytest.param(tiff(noise(H, W, 4, dtype=np.uint16), extra_samples=1), id="16-bit premultiplied"),
        pytest.param(tiff(noise(H, W, 2, dtype=np.uint16), extra_samples=2), id="16-bit gray with alpha in a tiff"),
        pytest.param(tiff(noise(H, W, 4, dtype=np.uint16), photometric=5), id="16-bit cmyk"),
        pytest.param(b"", id="empty"),
        pytest.param(b"just some text, no image at all\n" * 9, id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="signature alone"),
        pytest.param(b"\xff\xd8\xff\xd9", id="jpeg without a picture"),
        pytest.param(file_of(Image.new("RGB", (W, H)), "PPM"), id="another format"),
    ],
)
def test_kinds_that_cannot_be_kept_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert_one_line_with_a_cure(caught.value)
    with pytest.raises(ImageError, match=r"^the mask"):
        weights(data)


def assert_one_line_with_a_cure(error: ImageError) -> None:
    message = str(error)
    assert "\n" not in message and ": " in message and len(message) < 400
    assert message.startswith(("the image ", "the mask "))
    assert " 0x" not in message
